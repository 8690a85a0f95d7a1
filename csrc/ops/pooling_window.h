// What the pooling kernels share: which input coordinates a window reads, which windows read an input coordinate, and
// how a maximum is taken. Part of pooling_kernel.cpp, compiled once per ISA.
#pragma once
#include "../kernels/types.h"
#include "../simd/simd.h"

namespace fastnn::FASTNN_ISA {
namespace {

// Taps [begin, end) of a window lie inside of the input, tap i at origin + i * dilation.
struct Span {
  int64_t origin, begin, end;
};

FASTNN_INLINE Span span(const PoolAxis& a, int64_t o) {
  if (a.stride == 0) {
    if (a.output == 1) return {0, 0, a.input};
    int64_t origin = o * a.input / a.output;
    return {origin, 0, ((o + 1) * a.input + a.output - 1) / a.output - origin};
  }
  int64_t origin = o * a.stride - a.padding, begin = 0, end = a.taps;
  if (origin < 0) begin = (a.dilation - 1 - origin) / a.dilation;
  if (origin + (a.taps - 1) * a.dilation >= a.input) end = (a.input - 1 - origin) / a.dilation + 1;
  return {origin, begin, end};
}

// Windows [begin, end) of a regular axis have all of their taps inside.
FASTNN_INLINE void whole_windows(const PoolAxis& a, int64_t* begin, int64_t* end) {
  int64_t room = a.input - 1 - (a.taps - 1) * a.dilation + a.padding;
  *begin = lesser((a.padding + a.stride - 1) / a.stride, a.output);
  *end = room < 0 ? *begin : greater(*begin, lesser(room / a.stride + 1, a.output));
}

FASTNN_INLINE PoolCover cover(const PoolAxis& a, int64_t k) {
  if (a.stride == 0) return {k * a.output / a.input, ((k + 1) * a.output - 1) / a.input, 1};
  int64_t at = k + a.padding, before = at - (a.taps - 1) * a.dilation;
  PoolCover c = {before <= 0 ? 0 : (before + a.stride - 1) / a.stride, lesser(at / a.stride, a.output - 1), 1};
  if (a.dilation == 1) return c;
  int64_t x = a.stride, y = a.dilation;
  while (y) {
    int64_t rest = x % y;
    x = y, y = rest;
  }
  c.step = a.dilation / x;
  while (c.first <= c.last && (at - c.first * a.stride) % a.dilation) ++c.first;
  return c;
}

// Whether the windows lie side by side from the start on, none of them cut off.
FASTNN_INLINE bool are_tiles(const PoolAxis& a) {
  bool regular = a.stride ? a.stride == a.taps && a.padding == 0 && a.dilation == 1 : a.input == a.taps * a.output;
  return regular && a.taps * a.output <= a.input;
}

FASTNN_INLINE PoolCover* all_covers(const PoolAxis& a, void* memory) {
  auto* covers = static_cast<PoolCover*>(memory);
  for (int64_t k = 0; k < a.input; ++k) covers[k] = cover(a, k);
  return covers;
}

FASTNN_INLINE int64_t tap_of(const PoolAxis& a, int64_t k, int64_t o) {
  if (a.stride == 0) return k - o * a.input / a.output;
  int64_t distance = k - o * a.stride + a.padding;
  return a.dilation == 1 ? distance : distance / a.dilation;
}

FASTNN_INLINE int64_t counted(const Pool& g, const PoolAxis& a, Span s) {
  return g.count_include_pad ? lesser(s.origin + a.taps, a.input + a.padding) - s.origin : s.end - s.begin;
}
FASTNN_INLINE double scale(const Pool& g, Span r, Span c) {
  return 1.0 / (g.divisor != 0 ? g.divisor : double(counted(g, g.h, r) * counted(g, g.w, c)));
}

struct Nowhere {};  // position type of a forward that keeps none
template <class P>
constexpr bool kPosition = true;
template <>
constexpr bool kPosition<Nowhere> = false;
template <class P>
constexpr double kNone = P(-1);  // position in a window without taps
template <>
constexpr double kNone<Nowhere> = 0;
template <class T>
constexpr bool kHalf = sizeof(T) == 2;

// The first maximum stays, and so does a NaN; max() returns its second argument where either is NaN.
template <class V>
FASTNN_INLINE V larger(V value, V best) {
  return select(value != value, value, max(value, best));
}
template <class V>
FASTNN_INLINE void take(V value, V tap, V* best, V* where) {
  auto better = (value > *best) | (value != value);
  *best = select(better, value, *best);
  *where = select(better, tap, *where);
}

}  // namespace
}  // namespace fastnn::FASTNN_ISA
