// What a kernel file includes: nvcc compiles it for a GPU, a host compiler against the emulation.
//
//   template <class T>
//   __global__ void __launch_bounds__(256) add_kernel(const T* __restrict__ x, T* __restrict__ y, int n);
//   gpu::launch(add_kernel<bf16>, grid, block, shared_bytes, stream, x, y, n);
//
// Shared memory is declared by GPU_SHARED(float, tile, [32][33]) or GPU_DYNAMIC_SHARED(bytes). The CUDA names that
// kernels may use are those of emulate/emulate.h; PTX instructions stand in ptx.h. A kernel never waits for another
// block of its launch, other than by being the last to count itself with gpu::count_block().
#pragma once
#include "../dtype.h"
#include "runtime.h"

#if defined(__CUDACC__)
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#define GPU_FN __device__ __forceinline__
#define GPU_SHARED(T, name, dims) __shared__ __align__(16) T name dims
#define GPU_DYNAMIC_SHARED(name) extern __shared__ __align__(1024) unsigned char name[]
#else
#include "emulate/emulate.h"
#define GPU_FN inline
#endif

namespace fastnn::gpu {

// N elements that move in one access of up to 16 bytes.
template <class T, int N = int(16 / sizeof(T))>
struct alignas(N * sizeof(T)) Pack {
  T v[N];
  GPU_FN T& operator[](int i) { return v[i]; }
  GPU_FN const T& operator[](int i) const { return v[i]; }
};

// The elements in one access of 16 bytes.
template <class T>
constexpr int kPack = int(16 / sizeof(T));

#if defined(__CUDACC__)

constexpr bool kEmulated = false;

// Runs `kernel` on `stream` with `shared` bytes of dynamic shared memory. An empty grid is no work, not an error.
template <class... P, class... A>
Status launch(void (*kernel)(P...), dim3 grid, dim3 block, size_t shared, Stream stream, A... args) {
  if (!grid.x || !grid.y || !grid.z) return cudaSuccess;
  if (shared > 48 * 1024) {
    if (cudaError_t e = cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                                             cudaFuncAttributeMaxDynamicSharedMemorySize, int(shared)))
      return e;
  }
  kernel<<<grid, block, shared, static_cast<cudaStream_t>(stream)>>>(static_cast<P>(args)...);
  return cudaGetLastError();
}

// Blocks of `kernel` that fit one multiprocessor: for grids of resident blocks.
template <class... P>
int blocks_per_multiprocessor(void (*kernel)(P...), int block, size_t shared) {
  int n = 0;
  if (shared > 48 * 1024)
    cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize,
                         int(shared));
  return cudaOccupancyMaxActiveBlocksPerMultiprocessor(&n, kernel, block, shared) == cudaSuccess ? n : 0;
}

template <int BYTES>
struct Word;
template <>
struct Word<16> {
  using type = uint4;
};
template <>
struct Word<8> {
  using type = uint2;
};
template <>
struct Word<4> {
  using type = unsigned;
};
template <>
struct Word<2> {
  using type = unsigned short;
};
template <>
struct Word<1> {
  using type = unsigned char;
};

// One access each. "once": data that nobody reads again soon, which should not push other data out of the caches.
template <int N, class T>
GPU_FN Pack<T, N> load(const T* p) {
  using W = typename Word<N * sizeof(T)>::type;
  union {
    W word;
    Pack<T, N> pack;
  } u{*reinterpret_cast<const W*>(p)};
  return u.pack;
}
template <int N, class T>
GPU_FN Pack<T, N> load_once(const T* p) {
  using W = typename Word<N * sizeof(T)>::type;
  union {
    W word;
    Pack<T, N> pack;
  } u{__ldcs(reinterpret_cast<const W*>(p))};
  return u.pack;
}
template <int N, class T>
GPU_FN void store(T* p, const Pack<T, N>& x) {
  using W = typename Word<N * sizeof(T)>::type;
  *reinterpret_cast<W*>(p) = *reinterpret_cast<const W*>(&x);
}
template <int N, class T>
GPU_FN void store_once(T* p, const Pack<T, N>& x) {
  using W = typename Word<N * sizeof(T)>::type;
  __stcs(reinterpret_cast<W*>(p), *reinterpret_cast<const W*>(&x));
}

GPU_FN float to_float(float x) { return x; }
GPU_FN float to_float(bf16 x) { return __uint_as_float(uint32_t(x.bits) << 16); }
GPU_FN float to_float(f16 x) { return __half2float(__ushort_as_half(x.bits)); }

// Rounds to nearest even.
template <class T>
GPU_FN T from_float(float x);
template <>
GPU_FN float from_float<float>(float x) {
  return x;
}
template <>
GPU_FN bf16 from_float<bf16>(float x) {
  return bf16{__bfloat16_as_ushort(__float2bfloat16_rn(x))};
}
template <>
GPU_FN f16 from_float<f16>(float x) {
  return f16{__half_as_ushort(__float2half_rn(x))};
}

// Two values in a register, the first in the low half.
template <class T>
GPU_FN uint32_t pack2(float lo, float hi);
template <>
GPU_FN uint32_t pack2<bf16>(float lo, float hi) {
  const __nv_bfloat162 v = __floats2bfloat162_rn(lo, hi);
  return *reinterpret_cast<const uint32_t*>(&v);
}
template <>
GPU_FN uint32_t pack2<f16>(float lo, float hi) {
  const __half2 v = __floats2half2_rn(lo, hi);
  return *reinterpret_cast<const uint32_t*>(&v);
}

// Counts the calling block at *counter (zeroed before the launch) after all that its thread 0 knows of was written, and
// says how many came before: the block that gets gridDim - 1 sees what all others wrote. One thread calls it, between
// two __syncthreads().
GPU_FN unsigned count_block(unsigned* counter) {
  unsigned before;
  asm volatile("atom.acq_rel.gpu.global.add.u32 %0, [%1], 1;" : "=r"(before) : "l"(counter) : "memory");
  return before;
}

#else

constexpr bool kEmulated = true;

using emulate::blocks_per_multiprocessor;
using emulate::count_block;
using emulate::launch;

template <int N, class T>
Pack<T, N> load(const T* p) {
  Pack<T, N> x;
  emulate::load(&x, p, sizeof x);
  return x;
}
template <int N, class T>
Pack<T, N> load_once(const T* p) {
  return load<N>(p);
}
template <int N, class T>
void store(T* p, const Pack<T, N>& x) {
  emulate::store(p, &x, sizeof x);
}
template <int N, class T>
void store_once(T* p, const Pack<T, N>& x) {
  store(p, x);
}

inline float to_float(float x) { return x; }
inline float to_float(bf16 x) { return emulate::bf16_to_float(x.bits); }
inline float to_float(f16 x) { return emulate::f16_to_float(x.bits); }

template <class T>
T from_float(float x);
template <>
inline float from_float<float>(float x) {
  return x;
}
template <>
inline bf16 from_float<bf16>(float x) {
  return {emulate::float_to_bf16(x)};
}
template <>
inline f16 from_float<f16>(float x) {
  return {emulate::float_to_f16(x)};
}

template <class T>
uint32_t pack2(float lo, float hi) {
  return from_float<T>(lo).bits | uint32_t(from_float<T>(hi).bits) << 16;
}

#endif

// Blocks of a kernel whose blocks take pieces in turns; few where it is emulated, so that tests reach the second turn.
constexpr int64_t kMostBlocks = kEmulated ? 3 : 1 << 16;

// N elements at p, aligned to min(16, N * sizeof(T)) bytes, as float, by accesses of up to 16 bytes.
template <int N, class T>
GPU_FN void load_float(float (&v)[N], const T* p) {
  constexpr int W = N < kPack<T> ? N : kPack<T>;
#pragma unroll
  for (int i = 0; i < N; i += W) {
    const Pack<T, W> x = load<W>(p + i);
#pragma unroll
    for (int j = 0; j < W; ++j) v[i + j] = to_float(x[j]);
  }
}
template <int N, class T>
GPU_FN void store_float(T* p, const float (&v)[N]) {
  constexpr int W = N < kPack<T> ? N : kPack<T>;
#pragma unroll
  for (int i = 0; i < N; i += W) {
    Pack<T, W> x;
    if constexpr (sizeof(T) == 2 && W % 2 == 0) {
#pragma unroll
      for (int j = 0; j < W; j += 2) {
        const uint32_t two = pack2<T>(v[i + j], v[i + j + 1]);
        x[j].bits = uint16_t(two);
        x[j + 1].bits = uint16_t(two >> 16);
      }
    } else {
#pragma unroll
      for (int j = 0; j < W; ++j) x[j] = from_float<T>(v[i + j]);
    }
    store(p + i, x);
  }
}

// The same function over the lanes of a warp; every lane gets the result. f is associative and commutative.
template <int LANES = 32, class T, class F>
GPU_FN T warp_reduce(T v, F f) {
#pragma unroll
  for (int o = LANES / 2; o; o >>= 1) v = f(v, __shfl_xor_sync(~0u, v, o));
  return v;
}

// ceil(a / b) for a >= 0.
template <class T>
constexpr __host__ __device__ T ceil_div(T a, T b) {
  return (a + b - 1) / b;
}

}  // namespace fastnn::gpu
