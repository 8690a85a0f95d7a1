// exp, expm1, log, log1p, tanh, sigmoid and the normal distribution on Vec. Include after simd.h.
//
// Vec<float> on AVX2 and AVX-512 has polynomials, below 1.5 ulp (sigmoid 2.3) over the whole float32 range as measured
// by tests/test_activation.py; the other vectors call libm lane by lane. NaN, infinities, signed zeros and subnormals
// come out as from libm on both paths.
#pragma once
#include <math.h>

#include "simd.h"

namespace fastnn::FASTNN_ISA {
namespace {

// Phi(x), the normal distribution function, and its density phi(x) = exp(-x^2 / 2) / sqrt(2 pi).
template <class V>
struct Normal {
  V cdf, pdf;
};
constexpr double kSqrtHalf = 0.70710678118654752440, kInvSqrt2Pi = 0.39894228040143267794;

#if FASTNN_ISA_ID == 1 || FASTNN_ISA_ID == 2 || FASTNN_ISA_ID == 3 || FASTNN_ISA_ID == 5

// c[0] + c[1] x + ... by Horner's rule.
template <int n>
FASTNN_INLINE F polynomial(F x, const float (&c)[n]) {
  F y = F(c[n - 1]);
  for (int i = n - 2; i >= 0; --i) y = fma(y, x, F(c[i]));
  return y;
}

#endif

#if FASTNN_ISA_ID == 1 || FASTNN_ISA_ID == 2 || FASTNN_ISA_ID == 3

// ln 2 = kLn2High + kLn2Low; n kLn2High is exact for |n| < 512.
constexpr float kLog2e = 1.44269504f, kLn2High = 0x1.62e4p-1f, kLn2Low = 0x1.7f7d1cp-20f;

// x = n ln 2 + r with |r| <= ln(2) / 2, and exp(r) = 1 + r + r^2 P(r).
struct Reduced {
  F n, r, tail;
};
FASTNN_INLINE Reduced reduce_exp(F x) {
  constexpr float p[] = {0.5f, 0.166666672f, 0.0416664891f, 0.00833320804f, 0.00139327231f, 0.000199442715f};
  F n = round(x * F(kLog2e));
  F r = fma(n, F(-kLn2Low), fma(n, F(-kLn2High), x));
  return {n, r, r * r * polynomial(r, p)};
}

FASTNN_INLINE F exp(F x) {
  x = min(F(89.0f), max(F(-104.0f), x));  // beyond: infinity and zero
  Reduced e = reduce_exp(x);
  return scale2(F(1.0f) + (e.r + e.tail), e.n);
}

FASTNN_INLINE F expm1(F x) {
  F c = min(F(89.0f), max(F(-18.0f), x));  // below: -1
  Reduced e = reduce_exp(c);
  // 2^n ((1 - 2^-n) + r + tail), with the rounding error of the first sum kept: 1 - 2^-n is 0 or larger than r.
  F base = F(1.0f) - scale2(F(1.0f), -e.n), u = base + e.r;
  F y = scale2(u + (e.tail + (e.r - (u - base))), e.n);
  return select(x == F(0.0f), x, y);
}

// log(2^e (1 + f)) for 1 + f in [sqrt(1/2), sqrt(2)).
FASTNN_INLINE F log_reduced(F f, F e) {
  constexpr float p[] = {-0.499999881f, 0.333333224f,  -0.250016034f, 0.200022027f,  -0.166088641f,
                         0.141775027f,  -0.132400796f, 0.129291028f,  -0.0765836313f};
  return fma(e, F(kLn2High), f + fma(e, F(kLn2Low), f * f * polynomial(f, p)));
}

FASTNN_INLINE F log(F x) {
  Mask subnormal = x < F(0x1p-126f);
  F e, m = split2(select(subnormal, x * F(0x1p24f), x), &e);
  Mask low = m < F(float(kSqrtHalf));
  F y = log_reduced(select(low, m + m, m) - F(1.0f),
                    e - select(low, F(1.0f), F(0.0f)) - select(subnormal, F(24.0f), F(0.0f)));
  y = select(x == F(__builtin_inff()), x, y);
  return select(x > F(0.0f), y, select(x == F(0.0f), F(-__builtin_inff()), F(__builtin_nanf(""))));
}

FASTNN_INLINE F log1p(F x) {
  F u = F(1.0f) + x, b = u - x;
  F lost = (x - (u - b)) + (F(1.0f) - b);  // 1 + x - u, exactly
  F e, m = split2(u, &e);
  Mask low = m < F(float(kSqrtHalf));
  e = e - select(low, F(1.0f), F(0.0f));
  F y = log_reduced((select(low, m + m, m) - F(1.0f)) + scale2(lost, -e), e);
  y = select(x == F(__builtin_inff()), x, y);
  y = select(x > F(-1.0f), y, select(x == F(-1.0f), F(-__builtin_inff()), F(__builtin_nanf(""))));
  return select(abs(x) < F(0x1p-30f), x, y);
}

FASTNN_INLINE F tanh(F x) {
  constexpr float p[] = {-0.333332777f, 0.133313134f, -0.0537280515f, 0.0205985103f, -0.005657217f};
  F a = abs(x), s = x * x;
  F near_zero = fma(x * s, polynomial(s, p), x);
  F far = F(1.0f) - F(2.0f) / (exp(a + a) + F(1.0f));
  F y = select(a < F(0.625f), near_zero, select(x < F(0.0f), -far, far));
  return select(x == F(0.0f), x, y);
}

#else

// clang-format off
template <class T> FASTNN_INLINE Vec<T> exp(Vec<T> a) {
  return map(a, [](T x) { return sizeof(T) == 4 ? T(::expf(float(x))) : T(::exp(double(x))); });
}
template <class T> FASTNN_INLINE Vec<T> expm1(Vec<T> a) {
  return map(a, [](T x) { return sizeof(T) == 4 ? T(::expm1f(float(x))) : T(::expm1(double(x))); });
}
template <class T> FASTNN_INLINE Vec<T> log(Vec<T> a) {
  return map(a, [](T x) { return sizeof(T) == 4 ? T(::logf(float(x))) : T(::log(double(x))); });
}
template <class T> FASTNN_INLINE Vec<T> log1p(Vec<T> a) {
  return map(a, [](T x) { return sizeof(T) == 4 ? T(::log1pf(float(x))) : T(::log1p(double(x))); });
}
template <class T> FASTNN_INLINE Vec<T> tanh(Vec<T> a) {
  return map(a, [](T x) { return sizeof(T) == 4 ? T(::tanhf(float(x))) : T(::tanh(double(x))); });
}
// In double also for float: the argument of erfc is rounded, and erfc amplifies that by x^2.
template <class T> FASTNN_INLINE Normal<Vec<T>> normal(Vec<T> a) {
  return {map(a, [](T x) { return T(0.5 * ::erfc(-kSqrtHalf * double(x))); }),
          map(a, [](T x) { return T(kInvSqrt2Pi * ::exp(-0.5 * double(x) * double(x))); })};
}
// clang-format on

#endif

#if FASTNN_ISA_ID == 1 || FASTNN_ISA_ID == 2 || FASTNN_ISA_ID == 3 || FASTNN_ISA_ID == 5

FASTNN_INLINE Normal<F> normal(F x) {
  // exp(x^2 / 2) Phi(-x) = p / q for x in [0, 15]: all coefficients are positive, so that nothing cancels.
  constexpr float p[] = {0.5f, 0.438496292f, 0.183384433f, 0.0406836197f, 0.0041238023f};
  constexpr float q[] = {1.0f, 1.67487752f, 1.20312297f, 0.469864875f, 0.101985075f, 0.0103367222f};
  F a = min(F(15.0f), abs(x));
  F square = a * a, rest = fma(a, a, -square);  // x^2 in two parts: exp would amplify the rounding by x^2
  F e = exp(F(-0.5f) * square);
  e = fma(e, F(-0.5f) * rest, e);
  F tail = e * (polynomial(a, p) / polynomial(a, q));
  return {select(x > F(0.0f), F(1.0f) - tail, tail), e * F(float(kInvSqrt2Pi))};
}

#endif

// 1 / (1 + exp(-x)) = s / (1 + small), where `small` never overflows and both tails keep their relative accuracy.
template <class V>
struct Logistic {
  V small, s;  // exp(-|x|); the sigmoid of x
};
template <class V>
FASTNN_INLINE Logistic<V> logistic(V x) {
  V small = exp(-abs(x));
  return {small, select(x < V(0.0f), small, V(1.0f)) / (V(1.0f) + small)};
}
template <class V>
FASTNN_INLINE V sigmoid(V x) {
  return logistic(x).s;
}

}  // namespace
}  // namespace fastnn::FASTNN_ISA
