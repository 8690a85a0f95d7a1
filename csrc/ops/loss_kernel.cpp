// Pointwise losses: value(x, t, p, a), and its derivatives by x and t, where p is the weight of positives and a the
// parameter of the loss. Equations stand in python/fastnn/ops/loss.py.
#include "../dispatch.h"
#include "../simd/math.h"
#include "../simd/simd.h"

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

template <class V, class T, class L>
FASTNN_INLINE V load_or_one(const T* p, int64_t i, L lanes) {
  return p ? load<V>(p + i, lanes) : V(1);
}

template <class Fn, class T>
double forward(const PointwiseOperands& in, T* y, int64_t begin, int64_t n) {
  using V = Compute<T>;
  const T *x = static_cast<const T*>(in.x) + begin, *t = static_cast<const T*>(in.t) + begin;
  const T* w = in.weight ? static_cast<const T*>(in.weight) + begin : nullptr;
  const T* p = in.pos_weight ? static_cast<const T*>(in.pos_weight) + begin : nullptr;
  V a = V(Scalar<T>(in.a)), total = V(0);
  for_lanes<V>(n, [&](int64_t i, auto lanes) {
    V l = Fn::value(load<V>(x + i, lanes), load<V>(t + i, lanes), load_or_one<V>(p, i, lanes), a);
    if (w) l = l * load<V>(w + i, lanes);
    if (y)
      store(l, y + begin + i, lanes);
    else
      total = total + head(l, lanes, V(0));
  });
  return double(sum(total));
}

template <class Fn, class T>
void backward(const PointwiseOperands& in, const T* grad, double scale, T* dx, T* dt, int64_t begin, int64_t n) {
  using V = Compute<T>;
  const T *x = static_cast<const T*>(in.x) + begin, *t = static_cast<const T*>(in.t) + begin;
  const T* w = in.weight ? static_cast<const T*>(in.weight) + begin : nullptr;
  const T* p = in.pos_weight ? static_cast<const T*>(in.pos_weight) + begin : nullptr;
  V a = V(Scalar<T>(in.a)), factor = V(Scalar<T>(scale));
  for_lanes<V>(n, [&](int64_t i, auto lanes) {
    V vx = load<V>(x + i, lanes), vt = load<V>(t + i, lanes), vp = load_or_one<V>(p, i, lanes), g = factor;
    if (grad) g = g * load<V>(grad + begin + i, lanes);
    if (w) g = g * load<V>(w + i, lanes);
    if (dx) store(g * Fn::dx(vx, vt, vp, a), dx + begin + i, lanes);
    if (dt) store(g * Fn::dt(vx, vt, vp, a), dt + begin + i, lanes);
  });
}

template <class F>
FASTNN_INLINE auto with_loss(PointwiseLoss f, F&& call) {
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

template <class T>
double pointwise_loss(PointwiseLoss f, const PointwiseOperands& in, void* y, int64_t begin, int64_t end) {
  return with_loss(f, [&](auto fn) { return forward<decltype(fn)>(in, static_cast<T*>(y), begin, end - begin); });
}

template <class T>
void pointwise_loss_backward(PointwiseLoss f, const PointwiseOperands& in, const void* grad, double scale, void* dx,
                             void* dt, int64_t begin, int64_t end) {
  with_loss(f, [&](auto fn) {
    backward<decltype(fn)>(in, static_cast<const T*>(grad), scale, static_cast<T*>(dx), static_cast<T*>(dt), begin,
                           end - begin);
  });
}

template <class T>
bool all_probabilities(const void* x, int64_t n) {
  using V = Compute<T>;
  const T* p = static_cast<const T*>(x);
  bool outside = false;
  for_lanes<V>(n, [&](int64_t i, auto lanes) {
    V v = load<V>(p + i, lanes);
    outside |= any(!((v >= V(0)) & (v <= V(1))));
  });
  return !outside;
}

}  // namespace

#define FASTNN_FAMILY_INC "loss.inc"
#define FASTNN_FAMILY_TABLE              \
  extern const LossKernels loss_kernels; \
  const LossKernels loss_kernels
#include "../kernels/fill.h"

}  // namespace fastnn::FASTNN_ISA
