// What elementwise kernels share: dtypes as template arguments, loops over packs of 16 bytes, grids.
#pragma once
#include <type_traits>

#include "gpu.h"

namespace fastnn::gpu {

constexpr int kPointwiseBlock = 256;

// The type that values of storage type T are computed in.
template <class T>
using Scalar = std::conditional_t<std::is_same_v<T, double>, double, float>;

// Storage to that type, and back (rounded to nearest even).
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

// N neighbours by accesses of up to 16 bytes, for which they are aligned.
template <int N, class T>
GPU_FN void load_scalars(T (&v)[N], const T* p) {
  constexpr int W = N < kPack<T> ? N : kPack<T>;
#pragma unroll
  for (int i = 0; i < N; i += W) {
    const Pack<T, W> x = load<W>(p + i);
#pragma unroll
    for (int k = 0; k < W; ++k) v[i + k] = x[k];
  }
}
template <int N, class T>
GPU_FN void store_scalars(T* p, const T (&v)[N]) {
  constexpr int W = N < kPack<T> ? N : kPack<T>;
#pragma unroll
  for (int i = 0; i < N; i += W) {
    Pack<T, W> x;
#pragma unroll
    for (int k = 0; k < W; ++k) x[k] = v[i + k];
    store(p + i, x);
  }
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
  return dim3(unsigned(blocks < kMostBlocks ? blocks : kMostBlocks));
}

// A grid of one thread for each of n units, at least one block.
inline dim3 pointwise_units(uint32_t n) {
  const uint32_t blocks = ceil_div(n, uint32_t(kPointwiseBlock));
  return dim3(blocks ? blocks : 1);
}

// Whether all pointers are aligned to 16 bytes.
template <class... P>
bool aligned(const P*... p) {
  return ((reinterpret_cast<uintptr_t>(p) | ...) & 15) == 0;
}

// The same function over a block of kPointwiseBlock threads, in one order; every thread gets the result. Once per
// kernel.
template <class T, class F>
GPU_FN T block_reduce(T v, F f) {
  GPU_SHARED(T, parts, [kPointwiseBlock / 32]);
  v = warp_reduce(v, f);
  if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = v;
  __syncthreads();
  T total = parts[0];
#pragma unroll
  for (int w = 1; w < kPointwiseBlock / 32; ++w) total = f(total, parts[w]);
  return total;
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

// Calls f with a null pointer of an unsigned type of that size.
template <class F>
Status visit_size(size_t bytes, F&& f) {
  switch (bytes) {
    case 1:
      return f(static_cast<uint8_t*>(nullptr));
    case 2:
      return f(static_cast<uint16_t*>(nullptr));
    case 4:
      return f(static_cast<uint32_t*>(nullptr));
    default:
      return f(static_cast<uint64_t*>(nullptr));
  }
}

}  // namespace fastnn::gpu
