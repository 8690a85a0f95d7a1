// Pointwise losses: value(x, t, p, a), and its derivatives by x and t, where p is the weight of positives and a the
// parameter of the loss. Equations stand in python/fastnn/ops/loss.py.
#pragma once
#include "../kernels/types.h"
#include "math.h"

namespace fastnn::FASTNN_ISA {
namespace {

template <class V>
FASTNN_INLINE V sign(V d) {
  return select(d > V(0), V(1), select(d < V(0), V(-1), V(0)));
}
// As torch has it: NaN stays NaN here, and has sign 0 in l1.
template <class V>
FASTNN_INLINE V sign_or_nan(V d) {
  return select(d > V(0), V(1), select(d < V(0), V(-1), d));
}
template <class V>
FASTNN_INLINE V half(V v) {
  return v * V(0.5f);
}

struct Mse {
  template <class V>
  static FASTNN_INLINE V value(V x, V t, V, V) {
    return (x - t) * (x - t);
  }
  template <class V>
  static FASTNN_INLINE V dx(V x, V t, V, V) {
    return V(2) * (x - t);
  }
  template <class V>
  static FASTNN_INLINE V dt(V x, V t, V, V) {
    return V(2) * (t - x);
  }
};

struct L1 {
  template <class V>
  static FASTNN_INLINE V value(V x, V t, V, V) {
    return abs(x - t);
  }
  template <class V>
  static FASTNN_INLINE V dx(V x, V t, V, V) {
    return sign(x - t);
  }
  template <class V>
  static FASTNN_INLINE V dt(V x, V t, V, V) {
    return sign(t - x);
  }
};

struct SmoothL1 {
  template <class V>
  static FASTNN_INLINE V value(V x, V t, V, V beta) {
    V d = abs(x - t);
    return select(d < beta, half(d * d) / beta, d - half(beta));
  }
  template <class V>
  static FASTNN_INLINE V dx(V x, V t, V, V beta) {
    V d = x - t;
    return select(abs(d) < beta, d / beta, sign_or_nan(d));
  }
  template <class V>
  static FASTNN_INLINE V dt(V x, V t, V p, V beta) {
    return -dx(x, t, p, beta);
  }
};

struct Huber {
  template <class V>
  static FASTNN_INLINE V value(V x, V t, V, V delta) {
    V d = abs(x - t);
    return select(d <= delta, half(d * d), delta * (d - half(delta)));
  }
  template <class V>
  static FASTNN_INLINE V dx(V x, V t, V, V delta) {
    V d = x - t;
    return select(abs(d) <= delta, d, delta * sign_or_nan(d));
  }
  template <class V>
  static FASTNN_INLINE V dt(V x, V t, V p, V delta) {
    return -dx(x, t, p, delta);
  }
};

struct Bce {
  template <class V>
  static FASTNN_INLINE V value(V x, V t, V, V) {
    V lowest = V(-100);
    return (t - V(1)) * max(lowest, log1p(-x)) - t * max(lowest, log(x));
  }
  template <class V>
  static FASTNN_INLINE V dx(V x, V t, V, V) {
    return (x - t) / max(V(1e-12), (V(1) - x) * x);
  }
  template <class V>
  static FASTNN_INLINE V dt(V x, V, V, V) {
    return log1p(-x) - log(x);
  }
};

// With s = 1 + (p - 1) t and l = log(1 + exp(-|x|)): L = s l + (1 - t) x for x >= 0, and s l - p t x below, which
// does not cancel for confident negatives as the textbook's (1 - t) x + s softplus(-x) does.
struct BceLogits {
  template <class V>
  static FASTNN_INLINE V value(V x, V t, V p, V) {
    V s = fma(p - V(1), t, V(1));
    return fma(s, log1p(exp(-abs(x))), select(x < V(0), -(p * t), V(1) - t) * x);
  }
  template <class V>
  static FASTNN_INLINE V dx(V x, V t, V p, V) {
    return fma(p - V(1), t, V(1)) * sigmoid(x) - p * t;
  }
  template <class V>
  static FASTNN_INLINE V dt(V x, V, V p, V) {
    V softplus = log1p(exp(-abs(x))) + max(V(0), -x);
    return select(p == V(1), -x, (p - V(1)) * softplus - x);  // 0 * inf where x is -inf
  }
};

struct KlDiv {
  template <class V>
  static FASTNN_INLINE V value(V x, V t, V, V) {
    return select(t == V(0), V(0), t * log(t)) - t * x;
  }
  template <class V>
  static FASTNN_INLINE V dx(V, V t, V, V) {
    return -t;
  }
  template <class V>
  static FASTNN_INLINE V dt(V x, V t, V, V) {
    return log(t) + V(1) - x;
  }
};

struct KlDivLog {
  template <class V>
  static FASTNN_INLINE V value(V x, V t, V, V) {
    return exp(t) * (t - x);
  }
  template <class V>
  static FASTNN_INLINE V dx(V, V t, V, V) {
    return -exp(t);
  }
  template <class V>
  static FASTNN_INLINE V dt(V x, V t, V, V) {
    return exp(t) * (t - x + V(1));
  }
};

template <class F>
auto visit_loss(PointwiseLoss f, F&& call) {
  switch (f) {
    case PointwiseLoss::mse:
      return call(Mse());
    case PointwiseLoss::l1:
      return call(L1());
    case PointwiseLoss::smooth_l1:
      return call(SmoothL1());
    case PointwiseLoss::huber:
      return call(Huber());
    case PointwiseLoss::bce:
      return call(Bce());
    case PointwiseLoss::bce_logits:
      return call(BceLogits());
    case PointwiseLoss::kl_div:
      return call(KlDiv());
    default:
      return call(KlDivLog());
  }
}

}  // namespace
}  // namespace fastnn::FASTNN_ISA
