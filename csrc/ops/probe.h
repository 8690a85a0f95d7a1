// Limits of the machine with the current number of threads, for benchmarks: what a kernel could reach at best.
#pragma once
#include <cstdint>
#include <string_view>

namespace fastnn::ops {

// Multiply-adds in GFLOP/s (int8: GOP/s) for "float32", "bfloat16" or "int8"; NotImplementedError where the ISA in use
// has no instruction for the dtype.
double probe_fma(std::string_view dtype, double seconds);
// Reading a buffer of `bytes` over and over, in GB/s.
double probe_read(int64_t bytes, double seconds);
// Copying `bytes` with streaming stores, in GB/s of bytes read plus bytes written.
double probe_copy(int64_t bytes, double seconds);

}  // namespace fastnn::ops
