// Vec<float> and Vec<double> of one lane for the threads of a GPU, so that functors on Vec serve GPU kernels as well.
// Those include cuda/functions.h.
#pragma once
#include "../cuda/gpu.h"

namespace fastnn::FASTNN_ISA {
namespace {

struct Full {};  // "all lanes", as a type

struct Mask {
  bool m;
  FASTNN_INLINE Mask(bool m) : m(m) {}
  FASTNN_INLINE Mask operator&(Mask o) const { return m && o.m; }
  FASTNN_INLINE Mask operator|(Mask o) const { return m || o.m; }
  FASTNN_INLINE Mask operator!() const { return !m; }
};

template <class T>
struct Vec {
  static constexpr int kLanes = 1;
  T v;

  Vec() = default;
  FASTNN_INLINE Vec(T x) : v(x) {}

  FASTNN_INLINE Vec operator+(Vec o) const { return v + o.v; }
  FASTNN_INLINE Vec operator-(Vec o) const { return v - o.v; }
  FASTNN_INLINE Vec operator*(Vec o) const { return v * o.v; }
  FASTNN_INLINE Vec operator/(Vec o) const { return v / o.v; }
  FASTNN_INLINE Vec operator-() const { return -v; }
  FASTNN_INLINE Mask operator<(Vec o) const { return v < o.v; }
  FASTNN_INLINE Mask operator<=(Vec o) const { return v <= o.v; }
  FASTNN_INLINE Mask operator>(Vec o) const { return v > o.v; }
  FASTNN_INLINE Mask operator>=(Vec o) const { return v >= o.v; }
  FASTNN_INLINE Mask operator==(Vec o) const { return v == o.v; }
  FASTNN_INLINE Mask operator!=(Vec o) const { return v != o.v; }
};

using F = Vec<float>;

template <class T, class Fn>
FASTNN_INLINE Vec<T> map(Vec<T> a, Fn fn) {
  return fn(a.v);
}
template <class T>
FASTNN_INLINE Vec<T> select(Mask m, Vec<T> a, Vec<T> b) {
  return m.m ? a.v : b.v;
}
FASTNN_INLINE Vec<float> fma(Vec<float> a, Vec<float> b, Vec<float> c) { return ::fmaf(a.v, b.v, c.v); }
FASTNN_INLINE Vec<double> fma(Vec<double> a, Vec<double> b, Vec<double> c) { return ::fma(a.v, b.v, c.v); }
template <class T>
FASTNN_INLINE Vec<T> max(Vec<T> a, Vec<T> b) {
  return select(a > b, a, b);
}
template <class T>
FASTNN_INLINE Vec<T> min(Vec<T> a, Vec<T> b) {
  return select(a < b, a, b);
}
FASTNN_INLINE Vec<float> abs(Vec<float> a) { return ::fabsf(a.v); }
FASTNN_INLINE Vec<double> abs(Vec<double> a) { return ::fabs(a.v); }
FASTNN_INLINE Vec<float> sqrt(Vec<float> a) { return ::sqrtf(a.v); }
FASTNN_INLINE Vec<double> sqrt(Vec<double> a) { return ::sqrt(a.v); }
FASTNN_INLINE Vec<float> pow(Vec<float> a, Vec<float> b) { return ::powf(a.v, b.v); }
FASTNN_INLINE Vec<double> pow(Vec<double> a, Vec<double> b) { return ::pow(a.v, b.v); }

}  // namespace
}  // namespace fastnn::FASTNN_ISA
