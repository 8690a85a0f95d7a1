// The step of each optimizer on one value: x' = update(x, gradient, state...), which changes the state. Equations stand
// in python/fastnn/optim. S is the scalar type of V. set() takes what differs between parameters.
//
// Every multiply-add is an explicit fma, so that full vectors and tails are rounded alike and the result does not
// depend on where a thread's piece begins.
#pragma once
#include "../kernels/types.h"
#include "simd.h"

namespace fastnn::FASTNN_ISA {
namespace {

// What all have in common: the sign of the gradient, and weight decay that is added to it.
template <class V, class S>
struct Gradient {
  V sign, decay;
  bool decays;
  FASTNN_INLINE Gradient(bool maximize, double weight_decay)
      : sign(S(maximize ? -1 : 1)), decay(S(weight_decay)), decays(weight_decay != 0) {}
  FASTNN_INLINE V operator()(V x, V g) const {
    V d = g * sign;
    return decays ? fma(x, decay, d) : d;
  }
};

// m: momentum, or null.
template <class V, class S>
struct SgdUpdate {
  Gradient<V, S> gradient;
  V descent, momentum, kept;
  bool nesterov, fresh = false;
  FASTNN_INLINE explicit SgdUpdate(const SgdStep& s)
      : gradient(s.maximize, s.weight_decay),
        descent(S(-s.lr)),
        momentum(S(s.momentum)),
        kept(S(1 - s.dampening)),
        nesterov(s.nesterov) {}
  FASTNN_INLINE void set(double, double, bool is_fresh) { fresh = is_fresh; }
  FASTNN_INLINE V operator()(V x, V g, V* m, V*, V*) const {
    V d = gradient(x, g);
    if (m) {
      *m = fresh ? d : fma(*m, momentum, kept * d);
      d = nesterov ? fma(*m, momentum, d) : *m;
    }
    return fma(d, descent, x);
  }
};

// m: mean, v: mean of squares, u: its maximum, or null.
template <class V, class S>
struct AdamUpdate {
  Gradient<V, S> gradient;
  V descent, root_scale, eps, shrink, beta2, rest1, rest2;
  FASTNN_INLINE explicit AdamUpdate(const AdamStep& s)
      : gradient(s.maximize, s.weight_decay),
        descent(S(-s.step_size)),
        root_scale(S(s.root_scale)),
        eps(S(s.eps)),
        shrink(S(s.shrink)),
        beta2(S(s.beta2)),
        rest1(S(1 - s.beta1)),
        rest2(S(1 - s.beta2)) {}
  FASTNN_INLINE void set(double step_size, double scale, bool) {
    descent = V(S(-step_size));
    root_scale = V(S(scale));
  }
  FASTNN_INLINE V operator()(V x, V g, V* m, V* v, V* u) const {
    x = x * shrink;
    V d = gradient(x, g);
    *m = fma(d - *m, rest1, *m);
    *v = fma(rest2 * d, d, beta2 * *v);
    V most = *v;
    if (u) *u = most = select(*u > most, *u, most);  // a NaN of this step stays
    return fma(*m / fma(sqrt(most), root_scale, eps), descent, x);
  }
};

// v: mean of squares, m: mean, or null unless centered, b: momentum, or null.
template <class V, class S>
struct RmspropUpdate {
  Gradient<V, S> gradient;
  V descent, eps, alpha, rest, momentum;
  FASTNN_INLINE explicit RmspropUpdate(const RmspropStep& s)
      : gradient(s.maximize, s.weight_decay),
        descent(S(-s.lr)),
        eps(S(s.eps)),
        alpha(S(s.alpha)),
        rest(S(1 - s.alpha)),
        momentum(S(s.momentum)) {}
  FASTNN_INLINE void set(double, double, bool) {}
  FASTNN_INLINE V operator()(V x, V g, V* v, V* m, V* b) const {
    V d = gradient(x, g);
    V square = *v = fma(rest * d, d, alpha * *v);
    if (m) {
      *m = fma(d - *m, rest, *m);
      square = max(V(S(0)), fma(-*m, *m, square));  // rounding must not make it negative; a NaN stays
    }
    d = d / (sqrt(square) + eps);
    if (b) d = *b = fma(*b, momentum, d);
    return fma(d, descent, x);
  }
};

// v: sum of squares.
template <class V, class S>
struct AdagradUpdate {
  Gradient<V, S> gradient;
  V descent, eps;
  FASTNN_INLINE explicit AdagradUpdate(const AdagradStep& s)
      : gradient(s.maximize, s.weight_decay), descent(S(-s.step_size)), eps(S(s.eps)) {}
  FASTNN_INLINE void set(double step_size, double, bool) { descent = V(S(-step_size)); }
  FASTNN_INLINE V operator()(V x, V g, V* v, V*, V*) const {
    V d = gradient(x, g);
    *v = fma(d, d, *v);
    return fma(d / (sqrt(*v) + eps), descent, x);
  }
};

// m: mean.
template <class V, class S>
struct LionUpdate {
  V sign, lr, shrink, beta1, rest1, beta2, rest2;
  FASTNN_INLINE explicit LionUpdate(const LionStep& s)
      : sign(S(s.maximize ? -1 : 1)),
        lr(S(s.lr)),
        shrink(S(s.shrink)),
        beta1(S(s.beta1)),
        rest1(S(1 - s.beta1)),
        beta2(S(s.beta2)),
        rest2(S(1 - s.beta2)) {}
  FASTNN_INLINE void set(double, double, bool) {}
  FASTNN_INLINE V operator()(V x, V g, V* m, V*, V*) const {
    const V zero = V(S(0));
    x = x * shrink;
    V d = g * sign, u = fma(rest1, d, beta1 * *m);
    *m = fma(rest2, d, beta2 * *m);
    return x - select(u > zero, lr, select(u < zero, -lr, u));  // 0 for 0, NaN for NaN
  }
};

}  // namespace
}  // namespace fastnn::FASTNN_ISA
