#include "probe.h"

#include <algorithm>
#include <atomic>
#include <chrono>

#include "../array.h"
#include "../dispatch.h"
#include "../parallel.h"

namespace fastnn::ops {
namespace {

// Repeats `work` for about `seconds` and returns the most units per second that a repetition reached.
template <class Work>
double best_rate(double seconds, double units, Work work) {
  using Clock = std::chrono::steady_clock;
  auto elapsed = [](Clock::time_point t) { return std::chrono::duration<double>(Clock::now() - t).count(); };
  auto start = Clock::now();
  double best = 0;
  do {
    auto t = Clock::now();
    work();
    best = std::max(best, units / elapsed(t));
  } while (elapsed(start) < seconds);
  return best;
}

constexpr int64_t kBlock = 16384;  // floats of a chunk: 64 KB

Array filled(int64_t bytes) {
  require<ValueError>(bytes >= 4096, "probe: bytes is ", bytes, "; expected at least 4096");
  Array a = Array::empty({bytes / 4 / 64 * 64}, DType::f32);
  float* p = a.as<float>();
  for (int64_t i = 0; i < a.numel(); ++i) p[i] = float(i & 1023) * 0.25f + 1.0f;
  return a;
}

}  // namespace

double probe_fma(std::string_view dtype, double seconds) {
  const ProbeKernels& k = kernels().probe;
  auto chains = dtype == "float32" ? k.fma_chains : dtype == "bfloat16" ? k.pair_chains : k.byte_chains;
  require<ValueError>(dtype == "float32" || dtype == "bfloat16" || dtype == "int8", "probe_fma: dtype is '", dtype,
                      "'; expected float32, bfloat16 or int8");
  require<NotImplementedError>(chains != nullptr, "probe_fma: ", kIsaNames[current_isa()], " has no dot product for ",
                               dtype);
  const int64_t steps = 20000, chunks = int64_t(num_threads()) * 8;
  double operations = 2.0 * k.lanes() * (dtype == "float32" ? 1 : dtype == "bfloat16" ? 2 : 4);
  std::atomic<float> sink{0};
  return best_rate(seconds, operations * double(steps * chunks) * 1e-9, [&] {
    parallel_for(chunks, 1, [&](int64_t b, int64_t e) {
      for (int64_t i = b; i < e; ++i) sink.store(chains(steps), std::memory_order_relaxed);
    });
  });
}

double probe_read(int64_t bytes, double seconds) {
  Array a = filled(bytes);
  auto read = kernels().probe.read_all;
  std::atomic<float> sink{0};
  const int64_t n = a.numel(), repeat = std::max<int64_t>(1, (int64_t(8) << 20) / bytes);
  return best_rate(seconds, double(n * 4 * repeat) * 1e-9, [&] {
    for (int64_t r = 0; r < repeat; ++r)
      parallel_for(n, kBlock, [&](int64_t b, int64_t e) {
        sink.store(read(a.as<float>() + b, e - b), std::memory_order_relaxed);
      });
  });
}

double probe_copy(int64_t bytes, double seconds) {
  Array a = filled(bytes), out = filled(bytes);
  auto copy = kernels().probe.copy_stream;
  const int64_t blocks = a.numel() / 64, repeat = std::max<int64_t>(1, (int64_t(8) << 20) / bytes);
  return best_rate(seconds, double(blocks * 64 * 8 * repeat) * 1e-9, [&] {
    for (int64_t r = 0; r < repeat; ++r)
      parallel_for(blocks, kBlock / 64,
                   [&](int64_t b, int64_t e) { copy(a.as<float>() + b * 64, out.as<float>() + b * 64, (e - b) * 64); });
  });
}

}  // namespace fastnn::ops
