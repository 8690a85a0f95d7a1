// The vector layer of the ISA that this file is compiled for. Kernels include this header alone, inside no namespace.
// Everything has internal linkage (anonymous namespace inside a namespace per ISA) and no std:: template is used:
// the linker may otherwise keep the AVX-512 copy of an inline function and crash an older CPU.
//
// Vec<float> and, on generic, Vec<double> have:
//   kLanes, Vec(scalar), Vec::load(p), Vec::load(p, n) (first n lanes, zeros above), store(p), store(p, n), and the
//   same for bf16 and f16 pointers (rounded to nearest even), stream(p): a store past the caches, p on a boundary of
//   what is stored; + - * / unary -, comparisons < <= > >= == != giving a Mask, select(mask, a, b), fma(a, b, c) = a *
//   b + c, max(a, b) and min(a, b) (b where either is NaN), abs, sqrt, round, floor, any(mask), sum(v), max_of(v),
//   min_of(v), scale2(v, n) = v * 2^n for integral n in [-300, 300], split2(v, &e): v = m * 2^e with m in [0.5, 1) for
//   normal positive v, head(v, n, rest): the first n lanes of v, then those of rest.
// Words are 64-bit lanes that hold 32-bit words in their lower halves: * gives the 64-bit products of the lower halves,
// high() the upper ones, store(p) the lower ones; from(n) is n, n + 1, ...
// Vec8 is eight floats on every ISA (load, store, +, fma); append_nonzero(v, n, base, values, positions) compacts
// lanes.
//   deinterleave(a, b, &even, &odd): the even and odd elements of the 2 * kLanes in a, b; interleave(even, odd, &a, &b)
//   puts them back. load_integers(p, lanes, &v) and store_integers(v, p, lanes) convert from and to uint8_t and
//   int32_t.
#pragma once
#include <cstddef>
#include <cstdint>

#include "../dtype.h"

// FASTNN_OUTLINE: one copy per file, never inlined.
#if FASTNN_ISA_ID == 5
#define FASTNN_INLINE __host__ __device__ __forceinline__
#define FASTNN_OUTLINE __host__ __device__ __attribute__((noinline))
#else
#define FASTNN_INLINE __attribute__((always_inline)) inline
#define FASTNN_OUTLINE __attribute__((noinline))
#endif

// clang-format off
#if FASTNN_ISA_ID == 1
#include <immintrin.h>
#include "avx2.h"
#elif FASTNN_ISA_ID == 2 || FASTNN_ISA_ID == 3
#include <immintrin.h>
#include "avx512.h"
#elif FASTNN_ISA_ID == 4
#include <arm_neon.h>
#include "neon.h"
#elif FASTNN_ISA_ID == 5
#include "simt.h"
#else
#include "generic.h"
#endif
// clang-format on

namespace fastnn::FASTNN_ISA {
namespace {

// The vector type in which values of storage type T are computed.
template <class T>
struct ComputeOf {
  using type = Vec<float>;
  using scalar = float;
};
template <>
struct ComputeOf<double> {
  using type = Vec<double>;
  using scalar = double;
};
template <class T>
using Compute = typename ComputeOf<T>::type;
template <class T>
using Scalar = typename ComputeOf<T>::scalar;

FASTNN_INLINE int64_t lesser(int64_t a, int64_t b) { return a < b ? a : b; }
FASTNN_INLINE int64_t greater(int64_t a, int64_t b) { return a > b ? a : b; }

// for_lanes<V>(n, f): f(i, lanes) for full vectors, then once for the tail; f gets lanes == V::kLanes as a constant in
// the main loop, so that the compiler drops the masks there.
template <class V, class F>
FASTNN_INLINE void for_lanes(int64_t n, F&& f) {
  int64_t i = 0;
  for (; i + V::kLanes <= n; i += V::kLanes) f(i, Full());
  if (i < n) f(i, int(n - i));
}

// Calls fn with a number known at run time as a constant.
template <int N>
struct Constant {
  static constexpr int value = N;
};
template <int Most, class Fn>
FASTNN_INLINE void with_constant(int n, Fn&& fn) {
  if constexpr (Most > 0) {
    if (n == Most) return fn(Constant<Most>());
    with_constant<Most - 1>(n, fn);
  }
}

// The larger of a and b; NaN where either is.
template <class V>
FASTNN_INLINE V larger_or_nan(V a, V b) {
  return select(a != a, a, max(a, b));
}

// The larger of *best and v, and where it came from; on a tie *best stays, a NaN in v wins.
template <class V>
FASTNN_INLINE void take_larger(V v, V at, V* best, V* best_at) {
  auto larger = (v > *best) | (v != v);
  *best = select(larger, v, *best);
  *best_at = select(larger, at, *best_at);
}

template <class V, class T>
FASTNN_INLINE V load(const T* p, Full) {
  return V::load(p);
}
template <class V, class T>
FASTNN_INLINE V load(const T* p, int n) {
  return V::load(p, n);
}
template <class V, class T>
FASTNN_INLINE void store(V v, T* p, Full) {
  v.store(p);
}
template <class V, class T>
FASTNN_INLINE void store(V v, T* p, int n) {
  v.store(p, n);
}
// Past the caches if `streams`: an output larger than they are would be read before it is written, and push out what is
// still needed. Kernels end with fence(streams), after which other threads see what was stored.
template <class V, class T>
FASTNN_INLINE void store(V v, T* p, Full, bool streams) {
  if (streams)
    v.stream(p);
  else
    v.store(p);
}
template <class V, class T>
FASTNN_INLINE void store(V v, T* p, int n, bool) {
  v.store(p, n);
}
// Rows of n elements one after the other may be stored as full vectors, later rows over the surplus of earlier ones, as
// long as the vector ends before `room` does.
template <class V, class T>
FASTNN_INLINE void store_row(V v, T* p, int n, int64_t room) {
  if (room >= V::kLanes)
    v.store(p);
  else
    v.store(p, n);
}
template <class V>
FASTNN_INLINE V head(V v, Full, V) {
  return v;
}

}  // namespace
}  // namespace fastnn::FASTNN_ISA
