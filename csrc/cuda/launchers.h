// What `_cuda`, the library of GPU kernels, offers: plain functions on pointers, sizes and a stream, in one table.
// No header of CUDA is needed to call them, and no type of the C++ library crosses.
#pragma once
#include "../dtype.h"
#include "../kernels/types.h"
#include "runtime.h"

namespace fastnn::gpu {

constexpr int kMaxAxes = 8;

// The loops of an elementwise kernel over K operands of one shape, with strides in elements; operand 0 is written. Axes
// are merged where all operands allow it, the innermost is last. n is at least 1.
template <int K>
struct Loop {
  int n;
  int64_t size[kMaxAxes];
  int64_t stride[K][kMaxAxes];
};

// An operand: an array, or, where data is null, a number, given as what a floating and as what an integer dtype takes.
struct Source {
  const void* data;
  double number;
  int64_t integer;
};

// A parameter that an optimizer changes: n neighbours, with gradient and state in the same order. What a state holds
// stands in simd/optimizer.h; those that a parameter does not have are null. step_size and root_scale are its own, for
// the optimizers that have them in their struct of kernels/types.h.
struct OptimizerTensor {
  void* param;
  const void* grad;
  void* state[3];  // float32, for float64 parameters float64
  int64_t n;
  double step_size, root_scale;
  bool fresh;  // SGD: the momentum holds nothing yet
};

constexpr int64_t kPowerPiece = 8192;

// products.h
struct Product;
struct Convolution;
struct WeightGradient;

// Every launcher returns 0 or an error for error_string(). None waits for the GPU unless it says so.
#define LAUNCHER(name, args) Status name args;
#include "launchers.inc"
#undef LAUNCHER

struct Launchers {
  uint64_t interface;  // kInterface of the library: a table made from other rows is refused
  bool emulated;       // a CPU runs the kernels, for tests
  const char* (*error_string)(Status status);
#define LAUNCHER(name, args) Status(*name) args;
#include "launchers.inc"
#undef LAUNCHER
};

constexpr uint64_t hash_text(const char* text) {
  uint64_t h = 14695981039346656037u;
  for (; *text; ++text) h = (h ^ uint64_t(static_cast<unsigned char>(*text))) * 1099511628211u;
  return h;
}

#define LAUNCHER(name, args) #name #args ";"
constexpr uint64_t kInterface = hash_text(
#include "launchers.inc"
);
#undef LAUNCHER

}  // namespace fastnn::gpu
