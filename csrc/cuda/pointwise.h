// What elementwise kernels share: dtypes as template arguments, loops over packs of 16 bytes, grids.
#pragma once
#include <type_traits>

#include "gpu.h"

namespace fastnn::gpu {

constexpr int kPointwiseBlock = 256;

// Storage to the type that values are computed in, and back (rounded to nearest even).
GPU_FN float widen(float x) { return x; }
GPU_FN float widen(bf16 x) { return to_float(x); }
GPU_FN float widen(f16 x) { return to_float(x); }
GPU_FN double widen(double x) { return x; }
template <class T>
GPU_FN T narrow(float x) {
  return from_float<T>(x);
}
template <class T>
GPU_FN T narrow(double x) {
  return x;
}

template <int N>
struct Count {
  static constexpr int value = N;
};

// Calls f(i, Count<N>()) so that the pieces of N elements from i on cover [0, n): packs of 16 bytes and a tail of
// single elements if `wide`, which needs aligned arrays, else single elements.
template <class T, class F>
GPU_FN void pointwise(int64_t n, bool wide, F&& f) {
  const int64_t thread = int64_t(blockIdx.x) * blockDim.x + threadIdx.x, threads = int64_t(gridDim.x) * blockDim.x;
  const int64_t packs = wide ? n / kPack<T> : 0;
  for (int64_t i = thread; i < packs; i += threads) f(i * kPack<T>, Count<kPack<T>>());
  for (int64_t i = packs * kPack<T> + thread; i < n; i += threads) f(i, Count<1>());
}

// A grid for pointwise<T>(n): a thread has one pack, but more where the grid would grow past what any GPU holds.
template <class T>
dim3 pointwise_grid(int64_t n) {
  const int64_t per_block = int64_t(kPointwiseBlock) * kPack<T>, blocks = ceil_div(n, per_block);
  return dim3(unsigned(blocks < 65536 ? blocks : 65536));
}

// Whether all pointers are aligned to 16 bytes.
template <class... P>
bool aligned(const P*... p) {
  return ((reinterpret_cast<uintptr_t>(p) | ...) & 15) == 0;
}

// Calls f with a null pointer of the element type; for launchers. Not at all for types of another kind.
template <class F>
void visit_float(DType t, F&& f) {
  if (t == DType::f32) f(static_cast<float*>(nullptr));
  if (t == DType::bf16) f(static_cast<bf16*>(nullptr));
  if (t == DType::f16) f(static_cast<f16*>(nullptr));
  if (t == DType::f64) f(static_cast<double*>(nullptr));
}
template <class F>
void visit_integer(DType t, F&& f) {
  if (t == DType::i8) f(static_cast<int8_t*>(nullptr));
  if (t == DType::u8) f(static_cast<uint8_t*>(nullptr));
  if (t == DType::i32) f(static_cast<int32_t*>(nullptr));
  if (t == DType::i64) f(static_cast<int64_t*>(nullptr));
  if (t == DType::b8) f(static_cast<bool*>(nullptr));
}
template <class F>
void visit_any(DType t, F&& f) {
  visit_float(t, f);
  visit_integer(t, f);
}

}  // namespace fastnn::gpu
