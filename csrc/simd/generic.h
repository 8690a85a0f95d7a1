// Vec<float> and Vec<double> on any CPU, by the compiler's vector extension and, for what it lacks, a loop over lanes.
// Also the base of the arm64 build: neon.h takes Vec<float> from here with the compiler's NEON code generation.
#pragma once
#include <math.h>

namespace fastnn::FASTNN_ISA {
namespace {

struct Full {};  // "all lanes", as a type

template <class T>
struct Native;
template <>
struct Native<float> {
  typedef float type __attribute__((vector_size(32)));
  typedef int32_t mask __attribute__((vector_size(32)));
};
template <>
struct Native<double> {
  typedef double type __attribute__((vector_size(32)));
  typedef int64_t mask __attribute__((vector_size(32)));
};

template <class T>
struct LaneMask {
  typename Native<T>::mask m;
  FASTNN_INLINE LaneMask operator&(LaneMask o) const { return {m & o.m}; }
  FASTNN_INLINE LaneMask operator|(LaneMask o) const { return {m | o.m}; }
  FASTNN_INLINE LaneMask operator!() const { return {~m}; }
};
using Mask = LaneMask<float>;

union Word {
  float f;
  uint32_t u;
};

FASTNN_INLINE float widen(float v) { return v; }
FASTNN_INLINE double widen(double v) { return v; }
FASTNN_INLINE float widen(bf16 v) {
  Word w;
  w.u = uint32_t(v.bits) << 16;
  return w.f;
}
FASTNN_INLINE float widen(f16 v) {
  uint32_t exponent = v.bits >> 10 & 31, mantissa = v.bits & 0x3ff;
  Word w;
  if (exponent == 0)
    w.f = float(mantissa) * 0x1p-24f;
  else
    w.u = (exponent == 31 ? 0x7f800000u : (exponent + 112) << 23) | mantissa << 13;
  w.u |= uint32_t(v.bits & 0x8000) << 16;
  return w.f;
}
FASTNN_INLINE void narrow(float v, float* p) { *p = v; }
FASTNN_INLINE void narrow(double v, double* p) { *p = v; }
FASTNN_INLINE void narrow(float v, bf16* p) {
  Word w;
  w.f = v;
  p->bits = v != v ? uint16_t(w.u >> 16 | 0x40) : uint16_t((w.u + 0x7fff + (w.u >> 16 & 1)) >> 16);
}
FASTNN_INLINE void narrow(float v, f16* p) {
  Word w;
  w.f = v;
  uint16_t sign = uint16_t(w.u >> 16 & 0x8000);
  w.u &= 0x7fffffff;
  uint16_t r;
  if (w.u > 0x7f800000)
    r = uint16_t(0x7e00 | (w.u >> 13 & 0x3ff));
  else if (w.u >= 0x47800000)
    r = 0x7c00;
  else if (w.u < 0x38800000) {  // subnormal: adding 0.5 aligns the mantissa and rounds to nearest even
    w.f += 0.5f;
    r = uint16_t(w.u - 0x3f000000);
  } else
    r = uint16_t((w.u + 0xfff + (w.u >> 13 & 1) - 0x38000000) >> 13);
  p->bits = sign | r;
}

template <class T>
struct Vec {
  static constexpr int kLanes = 32 / sizeof(T);
  typename Native<T>::type v;

  Vec() = default;
  FASTNN_INLINE Vec(typename Native<T>::type x) : v(x) {}
  FASTNN_INLINE Vec(T x) {
    for (int i = 0; i < kLanes; ++i) v[i] = x;
  }

  template <class S>
  static FASTNN_INLINE Vec load(const S* p) {
    Vec r;
    for (int i = 0; i < kLanes; ++i) r.v[i] = widen(p[i]);
    return r;
  }
  template <class S>
  static FASTNN_INLINE Vec load(const S* p, int n) {
    Vec r;
    for (int i = 0; i < kLanes; ++i) r.v[i] = i < n ? T(widen(p[i])) : T(0);
    return r;
  }
  template <class S>
  FASTNN_INLINE void store(S* p) const {
    for (int i = 0; i < kLanes; ++i) narrow(v[i], p + i);
  }
  template <class S>
  FASTNN_INLINE void store(S* p, int n) const {
    for (int i = 0; i < n; ++i) narrow(v[i], p + i);
  }

  template <class S>
  FASTNN_INLINE void stream(S* p) const {
    store(p);
  }

  FASTNN_INLINE Vec operator+(Vec o) const { return v + o.v; }
  FASTNN_INLINE Vec operator-(Vec o) const { return v - o.v; }
  FASTNN_INLINE Vec operator*(Vec o) const { return v * o.v; }
  FASTNN_INLINE Vec operator/(Vec o) const { return v / o.v; }
  FASTNN_INLINE Vec operator-() const { return -v; }
  FASTNN_INLINE LaneMask<T> operator<(Vec o) const { return {v < o.v}; }
  FASTNN_INLINE LaneMask<T> operator<=(Vec o) const { return {v <= o.v}; }
  FASTNN_INLINE LaneMask<T> operator>(Vec o) const { return {v > o.v}; }
  FASTNN_INLINE LaneMask<T> operator>=(Vec o) const { return {v >= o.v}; }
  FASTNN_INLINE LaneMask<T> operator==(Vec o) const { return {v == o.v}; }
  FASTNN_INLINE LaneMask<T> operator!=(Vec o) const { return {v != o.v}; }
};

template <class T, class Fn>
FASTNN_INLINE Vec<T> map(Vec<T> a, Fn fn) {
  for (int i = 0; i < Vec<T>::kLanes; ++i) a.v[i] = fn(a.v[i]);
  return a;
}

template <class T>
FASTNN_INLINE Vec<T> select(LaneMask<T> m, Vec<T> a, Vec<T> b) {
  return m.m ? a.v : b.v;
}
// Not a fused operation here: generic CPUs may lack one, and libm's is a hundred times slower.
template <class T>
FASTNN_INLINE Vec<T> fma(Vec<T> a, Vec<T> b, Vec<T> c) {
  return a.v * b.v + c.v;
}
template <class T>
FASTNN_INLINE Vec<T> max(Vec<T> a, Vec<T> b) {
  return select(a > b, a, b);
}
template <class T>
FASTNN_INLINE Vec<T> min(Vec<T> a, Vec<T> b) {
  return select(a < b, a, b);
}
template <class T>
FASTNN_INLINE Vec<T> abs(Vec<T> a) {
  return map(a, [](T x) { return T(__builtin_fabs(x)); });
}
template <class T>
FASTNN_INLINE Vec<T> sqrt(Vec<T> a) {
  return map(a, [](T x) { return sizeof(T) == 4 ? T(::sqrtf(float(x))) : T(::sqrt(double(x))); });
}
template <class T>
FASTNN_INLINE Vec<T> round(Vec<T> a) {
  return map(a, [](T x) { return T(::nearbyint(double(x))); });
}
template <class T>
FASTNN_INLINE Vec<T> floor(Vec<T> a) {
  return map(a, [](T x) { return T(::floor(double(x))); });
}
template <class T>
FASTNN_INLINE bool any(LaneMask<T> m) {
  for (int i = 0; i < Vec<T>::kLanes; ++i)
    if (m.m[i]) return true;
  return false;
}
template <class T>
FASTNN_INLINE T sum(Vec<T> a) {
  for (int half = Vec<T>::kLanes / 2; half; half /= 2)
    for (int i = 0; i < half; ++i) a.v[i] += a.v[i + half];
  return a.v[0];
}
template <class T>
FASTNN_INLINE T max_of(Vec<T> a) {
  T r = a.v[0];
  for (int i = 1; i < Vec<T>::kLanes; ++i) r = a.v[i] > r ? a.v[i] : r;
  return r;
}
template <class T>
FASTNN_INLINE T min_of(Vec<T> a) {
  return -max_of(-a);
}
template <class T>
FASTNN_INLINE Vec<T> scale2(Vec<T> a, Vec<T> n) {
  for (int i = 0; i < Vec<T>::kLanes; ++i) a.v[i] = T(::ldexp(double(a.v[i]), int(n.v[i])));
  return a;
}
template <class T>
FASTNN_INLINE Vec<T> split2(Vec<T> a, Vec<T>* e) {
  for (int i = 0; i < Vec<T>::kLanes; ++i) {
    int n;
    a.v[i] = T(::frexp(double(a.v[i]), &n));
    e->v[i] = T(n);
  }
  return a;
}

using Vec8 = Vec<float>;

FASTNN_INLINE int append_nonzero(Vec<float> a, int n, int32_t base, float* values, int32_t* positions) {
  int count = 0;
  for (int i = 0; i < n; ++i) {
    values[count] = a.v[i];
    positions[count] = base + i;
    count += a.v[i] != 0.0f;
  }
  return count;
}

FASTNN_INLINE void fence(bool) {}

template <class T>
FASTNN_INLINE void deinterleave(Vec<T> a, Vec<T> b, Vec<T>* even, Vec<T>* odd) {
  constexpr int half = Vec<T>::kLanes / 2;
  for (int i = 0; i < half; ++i) {
    even->v[i] = a.v[2 * i], even->v[half + i] = b.v[2 * i];
    odd->v[i] = a.v[2 * i + 1], odd->v[half + i] = b.v[2 * i + 1];
  }
}
template <class T>
FASTNN_INLINE void interleave(Vec<T> even, Vec<T> odd, Vec<T>* a, Vec<T>* b) {
  constexpr int half = Vec<T>::kLanes / 2;
  for (int i = 0; i < half; ++i) {
    a->v[2 * i] = even.v[i], a->v[2 * i + 1] = odd.v[i];
    b->v[2 * i] = even.v[half + i], b->v[2 * i + 1] = odd.v[half + i];
  }
}
template <class I, class T>
FASTNN_INLINE void load_integers(const I* p, int n, Vec<T>* v) {
  for (int i = 0; i < Vec<T>::kLanes; ++i) v->v[i] = i < n ? T(p[i]) : T(0);
}
template <class I, class T>
FASTNN_INLINE void load_integers(const I* p, Full, Vec<T>* v) {
  load_integers(p, Vec<T>::kLanes, v);
}
template <class I, class T>
FASTNN_INLINE void store_integers(Vec<T> v, I* p, int n) {
  for (int i = 0; i < n; ++i) p[i] = I(v.v[i]);
}
template <class I, class T>
FASTNN_INLINE void store_integers(Vec<T> v, I* p, Full) {
  store_integers(v, p, Vec<T>::kLanes);
}

template <class T>
FASTNN_INLINE Vec<T> head(Vec<T> v, int n, Vec<T> rest) {
  for (int i = n; i < Vec<T>::kLanes; ++i) v.v[i] = rest.v[i];
  return v;
}

struct Words {
  static constexpr int kLanes = 4;
  typedef uint64_t Native __attribute__((vector_size(32)));
  Native v;
  FASTNN_INLINE Words(Native x) : v(x) {}
  FASTNN_INLINE Words(uint64_t x) : v(x - Native{}) {}
  static FASTNN_INLINE Words from(uint64_t first) { return first + Native{0, 1, 2, 3}; }
  FASTNN_INLINE Words operator*(Words o) const { return (v & 0xffffffff) * (o.v & 0xffffffff); }
  FASTNN_INLINE Words operator^(Words o) const { return v ^ o.v; }
  FASTNN_INLINE Words high() const { return v >> 32; }
  FASTNN_INLINE void store(uint32_t* p) const {
    for (int i = 0; i < kLanes; ++i) p[i] = uint32_t(v[i]);
  }
};
}  // namespace
}  // namespace fastnn::FASTNN_ISA
