// The elementwise functions, one struct each, for every kernel that applies one: y = f(x, a, b) and its derivative
// dx = df(saved, dy, a, b). `saved` is the input x, or the output y where df names its first parameter so; which of
// the two it is stands in python/fastnn/ops/activation.py and unary.py. a and b are the parameters of the function
// (negative_slope; alpha; min_val, max_val; beta, threshold). Equations stand in those Python files.
// At kinks, NaN and infinity f and df do what torch does in float64; large finite x never give NaN.
#pragma once
#include "../kernels/types.h"
#include "math.h"

namespace fastnn::FASTNN_ISA {
namespace {

// clang-format off
struct Relu {
  template <class V> static FASTNN_INLINE V f(V x, V, V) { return max(V(0.0f), x); }
  template <class V> static FASTNN_INLINE V df(V y, V dy, V, V) { return select(y <= V(0.0f), V(0.0f), dy); }
};

struct Hardtanh {
  template <class V> static FASTNN_INLINE V f(V x, V a, V b) { return min(b, max(a, x)); }
  template <class V> static FASTNN_INLINE V df(V x, V dy, V a, V b) { return select((x > a) & (x < b), dy, V(0.0f)); }
};

struct Relu6 {
  template <class V> static FASTNN_INLINE V f(V x, V, V) { return Hardtanh::f(x, V(0.0f), V(6.0f)); }
  template <class V> static FASTNN_INLINE V df(V x, V dy, V, V) { return Hardtanh::df(x, dy, V(0.0f), V(6.0f)); }
};

struct LeakyRelu {
  template <class V> static FASTNN_INLINE V f(V x, V a, V) { return select(x > V(0.0f), x, a * x); }
  template <class V> static FASTNN_INLINE V df(V x, V dy, V a, V) { return select(x > V(0.0f), dy, a * dy); }
};

struct Elu {
  template <class V> static FASTNN_INLINE V f(V x, V a, V) { return select(x > V(0.0f), x, a * expm1(x)); }
  template <class V> static FASTNN_INLINE V df(V x, V dy, V a, V) { return select(x > V(0.0f), dy, dy * (a * exp(x))); }
};

struct Gelu {
  template <class V> static FASTNN_INLINE V f(V x, V, V) { return x * normal(x).cdf; }
  template <class V> static FASTNN_INLINE V df(V x, V dy, V, V) {
    Normal<V> n = normal(x);
    return dy * fma(x, n.pdf, n.cdf);
  }
};

// x / 2 (1 + tanh(u)) = x sigmoid(2 u), u = sqrt(2 / pi) (x + 0.044715 x^3); the second form does not cancel for x < 0.
struct GeluTanh {
  static constexpr double kLinear = 1.5957691216057308, kCubic = 0.044715 * kLinear;  // of 2 u
  template <class V> static FASTNN_INLINE V f(V x, V, V) { return x * sigmoid(x * fma(V(kCubic), x * x, V(kLinear))); }
  template <class V> static FASTNN_INLINE V df(V x, V dy, V, V) {
    V c = min(V(40.0f), max(V(-40.0f), x)), square = c * c;  // beyond: 0 and 1, but powers of x would overflow
    Logistic<V> l = logistic(c * fma(V(kCubic), square, V(kLinear)));
    V slope = fma(V(3 * kCubic), square, V(kLinear));
    return dy * fma(c * slope, l.s * (V(1.0f) - l.s), l.s);
  }
};

struct Silu {
  template <class V> static FASTNN_INLINE V f(V x, V, V) { return x * sigmoid(x); }
  template <class V> static FASTNN_INLINE V df(V x, V dy, V, V) {
    Logistic<V> l = logistic(x);
    return dy * (l.s * fma(x, V(1.0f) - l.s, V(1.0f)));
  }
};

// With e = exp(x) and n = e (e + 2): tanh(log(1 + e)) = n / (n + 2).
struct Mish {
  template <class V> static FASTNN_INLINE V f(V x, V, V) {
    V e = exp(min(V(20.0f), x)), n = e * (e + V(2.0f));  // from 20 on the quotient is 1, also in float64
    return x * (n / (n + V(2.0f)));
  }
  template <class V> static FASTNN_INLINE V df(V x, V dy, V, V) {
    V c = min(V(20.0f), x), e = exp(c), n = e * (e + V(2.0f)), d = n + V(2.0f);
    return dy * ((n + V(4.0f) * (c * e) * ((V(1.0f) + e) / d)) / d);
  }
};

struct Sigmoid {
  template <class V> static FASTNN_INLINE V f(V x, V, V) { return sigmoid(x); }
  template <class V> static FASTNN_INLINE V df(V y, V dy, V, V) { return dy * (y * (V(1.0f) - y)); }
};

struct Tanh {
  template <class V> static FASTNN_INLINE V f(V x, V, V) { return tanh(x); }
  template <class V> static FASTNN_INLINE V df(V y, V dy, V, V) { return dy * (V(1.0f) - y * y); }
};

struct Hardsigmoid {
  template <class V> static FASTNN_INLINE V f(V x, V, V) { return Relu6::f(x + V(3.0f), x, x) / V(6.0f); }
  template <class V> static FASTNN_INLINE V df(V x, V dy, V, V) {
    return select((x > V(-3.0f)) & (x < V(3.0f)), dy / V(6.0f), V(0.0f));
  }
};

struct Hardswish {
  template <class V> static FASTNN_INLINE V f(V x, V, V) { return x * Hardsigmoid::f(x, x, x); }
  template <class V> static FASTNN_INLINE V df(V x, V dy, V, V) {
    V inner = dy * (x / V(3.0f) + V(0.5f));
    return select(x <= V(-3.0f), V(0.0f), select(x >= V(3.0f), dy, inner));
  }
};

struct Softplus {
  template <class V> static FASTNN_INLINE V f(V x, V beta, V threshold) {
    V z = beta * x;
    return select(z > threshold, x, (max(V(0.0f), z) + log1p(exp(-abs(z)))) / beta);
  }
  template <class V> static FASTNN_INLINE V df(V x, V dy, V beta, V threshold) {
    V z = beta * x;
    return select(z > threshold, dy, dy * sigmoid(z));
  }
};

struct Softsign {
  template <class V> static FASTNN_INLINE V f(V x, V, V) { return x / (V(1.0f) + abs(x)); }
  template <class V> static FASTNN_INLINE V df(V x, V dy, V, V) {
    V r = V(1.0f) / (V(1.0f) + abs(x));
    return dy * (r * r);
  }
};

// Klambauer et al. 2017, arXiv:1706.02515.
struct Selu {
  static constexpr double kScale = 1.0507009873554804934, kAlpha = kScale * 1.6732632423543772848;
  template <class V> static FASTNN_INLINE V f(V x, V, V) {
    return select(x > V(0.0f), V(kScale) * x, V(kAlpha) * expm1(x));
  }
  template <class V> static FASTNN_INLINE V df(V x, V dy, V, V) {
    return select(x > V(0.0f), V(kScale) * dy, dy * (V(kAlpha) * exp(x)));
  }
};

struct Celu {
  template <class V> static FASTNN_INLINE V f(V x, V a, V) { return select(x > V(0.0f), x, a * expm1(x / a)); }
  template <class V> static FASTNN_INLINE V df(V x, V dy, V a, V) { return select(x > V(0.0f), dy, dy * exp(x / a)); }
};

struct LogSigmoid {
  template <class V> static FASTNN_INLINE V f(V x, V, V) { return min(V(0.0f), x) - log1p(exp(-abs(x))); }
  template <class V> static FASTNN_INLINE V df(V x, V dy, V, V) { return dy * sigmoid(-x); }
};

struct Hardshrink {
  template <class V> static FASTNN_INLINE V f(V x, V a, V) { return select((x >= -a) & (x <= a), V(0.0f), x); }
  template <class V> static FASTNN_INLINE V df(V x, V dy, V a, V) { return select((x > a) | (x < -a), dy, V(0.0f)); }
};

struct Softshrink {
  template <class V> static FASTNN_INLINE V f(V x, V a, V) {
    return select(x > a, x - a, select(x < -a, x + a, x * V(0.0f)));  // NaN stays
  }
  template <class V> static FASTNN_INLINE V df(V x, V dy, V a, V) { return Hardshrink::df(x, dy, a, a); }
};

struct Threshold {
  template <class V> static FASTNN_INLINE V f(V x, V a, V b) { return select(x <= a, b, x); }
  template <class V> static FASTNN_INLINE V df(V x, V dy, V a, V) { return select(x <= a, V(0.0f), dy); }
};

struct Exp {
  template <class V> static FASTNN_INLINE V f(V x, V, V) { return exp(x); }
  template <class V> static FASTNN_INLINE V df(V y, V dy, V, V) { return dy * y; }
};

struct Expm1 {
  template <class V> static FASTNN_INLINE V f(V x, V, V) { return expm1(x); }
  template <class V> static FASTNN_INLINE V df(V y, V dy, V, V) { return dy * (y + V(1.0f)); }
};

struct Log {
  template <class V> static FASTNN_INLINE V f(V x, V, V) { return log(x); }
  template <class V> static FASTNN_INLINE V df(V x, V dy, V, V) { return dy / x; }
};

struct Log1p {
  template <class V> static FASTNN_INLINE V f(V x, V, V) { return log1p(x); }
  template <class V> static FASTNN_INLINE V df(V x, V dy, V, V) { return dy / (V(1.0f) + x); }
};

struct Sqrt {
  template <class V> static FASTNN_INLINE V f(V x, V, V) { return sqrt(x); }
  template <class V> static FASTNN_INLINE V df(V y, V dy, V, V) { return dy / (y + y); }
};

struct Abs {
  template <class V> static FASTNN_INLINE V f(V x, V, V) { return abs(x); }
  template <class V> static FASTNN_INLINE V df(V x, V dy, V, V) {
    return select(x > V(0.0f), dy, select(x < V(0.0f), -dy, V(0.0f)));
  }
};

struct Neg {
  template <class V> static FASTNN_INLINE V f(V x, V, V) { return -x; }
  template <class V> static FASTNN_INLINE V df(V, V dy, V, V) { return -dy; }
};

// Calls body(functor) for the function that `kind` names; not at all for none.
template <class Body>
FASTNN_INLINE void visit_activation(Activation kind, Body&& body) {
  switch (kind) {
    case Activation::none: return;
    case Activation::relu: return body(Relu());
    case Activation::relu6: return body(Relu6());
    case Activation::leaky_relu: return body(LeakyRelu());
    case Activation::elu: return body(Elu());
    case Activation::gelu: return body(Gelu());
    case Activation::gelu_tanh: return body(GeluTanh());
    case Activation::silu: return body(Silu());
    case Activation::mish: return body(Mish());
    case Activation::sigmoid: return body(Sigmoid());
    case Activation::tanh: return body(Tanh());
    case Activation::hardswish: return body(Hardswish());
    case Activation::hardsigmoid: return body(Hardsigmoid());
    case Activation::hardtanh: return body(Hardtanh());
    case Activation::softplus: return body(Softplus());
    case Activation::softsign: return body(Softsign());
    case Activation::selu: return body(Selu());
    case Activation::celu: return body(Celu());
    case Activation::logsigmoid: return body(LogSigmoid());
    case Activation::hardshrink: return body(Hardshrink());
    case Activation::softshrink: return body(Softshrink());
    case Activation::threshold: return body(Threshold());
    case Activation::exp: return body(Exp());
    case Activation::expm1: return body(Expm1());
    case Activation::log: return body(Log());
    case Activation::log1p: return body(Log1p());
    case Activation::sqrt: return body(Sqrt());
    case Activation::abs: return body(Abs());
    case Activation::neg: return body(Neg());
  }
}

// clang-format on

// Out of line: one copy of all functions per kernel file.
template <class V>
FASTNN_OUTLINE V apply_any_activation(Activation kind, V x, V a, V b) {
  V y = x;
  visit_activation(kind, [&](auto fn) { y = fn.f(x, a, b); });
  return y;
}

// For epilogues: one vector while it is in registers. The common cases are inline and cost a predicted branch.
template <class V>
FASTNN_INLINE V apply_activation(Activation kind, V x, V a, V b) {
  if (kind == Activation::none) return x;
  if (kind == Activation::relu) return Relu::f(x, a, b);
  return apply_any_activation(kind, x, a, b);
}

// Whether activate<false> does it. The call that the others need would cost the loops their registers.
FASTNN_INLINE bool is_simple(Activation f) { return f <= Activation::relu6; }

template <bool Any, class V>
FASTNN_INLINE V activate(Activation f, V x) {
  if constexpr (Any) return apply_activation(f, x, V(0.0f), V(0.0f));
  if (f == Activation::none) return x;
  const V y = max(V(0.0f), x);
  return f == Activation::relu ? y : min(V(6.0f), y);
}

}  // namespace
}  // namespace fastnn::FASTNN_ISA
