#include "../dispatch.h"
#include "../simd/simd.h"

namespace fastnn::FASTNN_ISA {
namespace {

// Every multiply-add is an explicit fma, so that full vectors and tails are rounded alike and the result does not
// depend on where a thread's piece begins.

template <class T>
void sgd(const SgdStep& s, void* param, const void* grad, void* buffer, bool fresh, int64_t n) {
  using V = Compute<T>;
  using S = Scalar<T>;
  auto* p = static_cast<T*>(param);
  auto* g = static_cast<const T*>(grad);
  auto* b = static_cast<S*>(buffer);
  const V descent = V(S(-s.lr)), sign = V(S(s.maximize ? -1 : 1)), decay = V(S(s.weight_decay));
  const V momentum = V(S(s.momentum)), kept = V(S(1 - s.dampening));
  const bool decays = s.weight_decay != 0, nesterov = s.nesterov;
  for_lanes<V>(n, [&](int64_t i, auto lanes) {
    V x = load<V>(p + i, lanes), d = load<V>(g + i, lanes) * sign;
    if (decays) d = fma(x, decay, d);
    if (b) {
      V m = fresh ? d : fma(load<V>(b + i, lanes), momentum, kept * d);
      store(m, b + i, lanes);
      d = nesterov ? fma(m, momentum, d) : m;
    }
    store(fma(d, descent, x), p + i, lanes);
  });
}

template <class T>
void adam(const AdamStep& s, void* param, const void* grad, void* mean, void* square, void* max_square, int64_t n) {
  using V = Compute<T>;
  using S = Scalar<T>;
  auto* p = static_cast<T*>(param);
  auto* g = static_cast<const T*>(grad);
  auto *m = static_cast<S*>(mean), *v = static_cast<S*>(square), *u = static_cast<S*>(max_square);
  const V descent = V(S(-s.step_size)), root_scale = V(S(s.root_scale)), eps = V(S(s.eps)), shrink = V(S(s.shrink));
  const V sign = V(S(s.maximize ? -1 : 1)), decay = V(S(s.weight_decay));
  const V beta2 = V(S(s.beta2)), rest1 = V(S(1 - s.beta1)), rest2 = V(S(1 - s.beta2));
  const bool decays = s.weight_decay != 0;
  for_lanes<V>(n, [&](int64_t i, auto lanes) {
    V x = load<V>(p + i, lanes) * shrink, d = load<V>(g + i, lanes) * sign;
    if (decays) d = fma(x, decay, d);
    V m0 = load<V>(m + i, lanes), m1 = fma(d - m0, rest1, m0);
    V v1 = fma(rest2 * d, d, beta2 * load<V>(v + i, lanes));
    store(m1, m + i, lanes);
    store(v1, v + i, lanes);
    if (u) {
      V u0 = load<V>(u + i, lanes);
      v1 = select(u0 > v1, u0, v1);  // a NaN of this step stays
      store(v1, u + i, lanes);
    }
    V root = fma(sqrt(v1), root_scale, eps);
    store(fma(m1 / root, descent, x), p + i, lanes);
  });
}

template <class T>
void rmsprop(const RmspropStep& s, void* param, const void* grad, void* square, void* mean, void* buffer, int64_t n) {
  using V = Compute<T>;
  using S = Scalar<T>;
  auto* p = static_cast<T*>(param);
  auto* g = static_cast<const T*>(grad);
  auto *v = static_cast<S*>(square), *m = static_cast<S*>(mean), *b = static_cast<S*>(buffer);
  const V descent = V(S(-s.lr)), sign = V(S(s.maximize ? -1 : 1)), decay = V(S(s.weight_decay)), eps = V(S(s.eps));
  const V alpha = V(S(s.alpha)), rest = V(S(1 - s.alpha)), momentum = V(S(s.momentum));
  const bool decays = s.weight_decay != 0;
  for_lanes<V>(n, [&](int64_t i, auto lanes) {
    V x = load<V>(p + i, lanes), d = load<V>(g + i, lanes) * sign;
    if (decays) d = fma(x, decay, d);
    V v1 = fma(rest * d, d, alpha * load<V>(v + i, lanes));
    store(v1, v + i, lanes);
    if (m) {
      V m0 = load<V>(m + i, lanes), m1 = fma(d - m0, rest, m0);
      store(m1, m + i, lanes);
      v1 = max(V(S(0)), fma(-m1, m1, v1));  // rounding must not make it negative; a NaN stays
    }
    d = d / (sqrt(v1) + eps);
    if (b) {
      d = fma(load<V>(b + i, lanes), momentum, d);
      store(d, b + i, lanes);
    }
    store(fma(d, descent, x), p + i, lanes);
  });
}

template <class T>
void adagrad(const AdagradStep& s, void* param, const void* grad, void* sum, int64_t n) {
  using V = Compute<T>;
  using S = Scalar<T>;
  auto* p = static_cast<T*>(param);
  auto* g = static_cast<const T*>(grad);
  auto* v = static_cast<S*>(sum);
  const V descent = V(S(-s.step_size)), sign = V(S(s.maximize ? -1 : 1)), decay = V(S(s.weight_decay));
  const V eps = V(S(s.eps));
  const bool decays = s.weight_decay != 0;
  for_lanes<V>(n, [&](int64_t i, auto lanes) {
    V x = load<V>(p + i, lanes), d = load<V>(g + i, lanes) * sign;
    if (decays) d = fma(x, decay, d);
    V v1 = fma(d, d, load<V>(v + i, lanes));
    store(v1, v + i, lanes);
    store(fma(d / (sqrt(v1) + eps), descent, x), p + i, lanes);
  });
}

template <class T>
void lion(const LionStep& s, void* param, const void* grad, void* mean, int64_t n) {
  using V = Compute<T>;
  using S = Scalar<T>;
  auto* p = static_cast<T*>(param);
  auto* g = static_cast<const T*>(grad);
  auto* m = static_cast<S*>(mean);
  const V lr = V(S(s.lr)), sign = V(S(s.maximize ? -1 : 1)), shrink = V(S(s.shrink)), zero = V(S(0));
  const V beta1 = V(S(s.beta1)), rest1 = V(S(1 - s.beta1)), beta2 = V(S(s.beta2)), rest2 = V(S(1 - s.beta2));
  for_lanes<V>(n, [&](int64_t i, auto lanes) {
    V x = load<V>(p + i, lanes) * shrink, d = load<V>(g + i, lanes) * sign, m0 = load<V>(m + i, lanes);
    V u = fma(rest1, d, beta1 * m0);
    store(fma(rest2, d, beta2 * m0), m + i, lanes);
    store(x - select(u > zero, lr, select(u < zero, -lr, u)), p + i, lanes);  // 0 for 0, NaN for NaN
  });
}

// f(x) summed over n values in four chains, added up in a fixed order.
template <class T, class Fn>
FASTNN_INLINE double sum_of(const T* x, int64_t n, Fn&& f) {
  using V = Compute<T>;
  constexpr int64_t kLanes = V::kLanes;
  V s[4] = {V(0), V(0), V(0), V(0)};
  int64_t i = 0;
  for (; i + 4 * kLanes <= n; i += 4 * kLanes)
    for (int k = 0; k < 4; ++k) s[k] = f(load<V>(x + i + k * kLanes, Full()), s[k]);
  // The lanes that a partial load does not fill are 0, for which f adds nothing.
  for (int k = 0; i < n; ++k, i += kLanes) s[k] = f(load<V>(x + i, int(lesser(kLanes, n - i))), s[k]);
  return double(sum((s[0] + s[1]) + (s[2] + s[3])));
}

template <class T>
double power_sum(double p, const void* data, int64_t n) {
  using V = Compute<T>;
  using S = Scalar<T>;
  auto* x = static_cast<const T*>(data);
  if (p == 2) return sum_of(x, n, [](V a, V s) { return fma(a, a, s); });
  if (p == 1) return sum_of(x, n, [](V a, V s) { return s + abs(a); });
  if (p == 0) return sum_of(x, n, [](V a, V s) { return s + select(a != V(0), V(1), V(0)); });
  S lane[V::kLanes];
  double total = 0;
  if (p == __builtin_inf()) {
    V m = V(0);
    for_lanes<V>(n, [&](int64_t i, auto lanes) {
      V a = abs(load<V>(x + i, lanes));
      m = select((a > m) | (a != a), a, m);  // a NaN comes in, and nothing is greater than it
    });
    m.store(lane);
    for (S a : lane)
      if (a > total || a != a) total = double(a);
    return total;
  }
  for_lanes<V>(n, [&](int64_t i, auto lanes) {
    abs(load<V>(x + i, lanes)).store(lane);
    for (int64_t k = 0; k < lesser(V::kLanes, n - i); ++k) total += __builtin_pow(double(lane[k]), p);
  });
  return total;
}

template <class T>
void scale(double factor, void* data, int64_t n) {
  using V = Compute<T>;
  auto* x = static_cast<T*>(data);
  const V f = V(Scalar<T>(factor));
  for_lanes<V>(n, [&](int64_t i, auto lanes) { store(load<V>(x + i, lanes) * f, x + i, lanes); });
}

template <class T>
void clip(double limit, void* data, int64_t n) {
  using V = Compute<T>;
  auto* x = static_cast<T*>(data);
  const V high = V(Scalar<T>(limit)), low = -high;
  // min and max give their second argument where one is NaN.
  for_lanes<V>(n, [&](int64_t i, auto lanes) { store(min(high, max(low, load<V>(x + i, lanes))), x + i, lanes); });
}

template <class T>
void power_backward(double p, double factor, const void* data, void* grad, int64_t n) {
  using V = Compute<T>;
  auto* x = static_cast<const T*>(data);
  auto* dx = static_cast<T*>(grad);
  const V f = V(Scalar<T>(p == 1 ? factor : 2 * factor));
  if (p == 1) {
    for_lanes<V>(n, [&](int64_t i, auto lanes) {
      V a = load<V>(x + i, lanes);
      store(select(a > V(0), f, select(a < V(0), -f, a * f)), dx + i, lanes);  // 0 for 0, NaN for NaN
    });
  } else {
    for_lanes<V>(n, [&](int64_t i, auto lanes) { store(load<V>(x + i, lanes) * f, dx + i, lanes); });
  }
}

}  // namespace

#define FASTNN_FAMILY_INC "optimizer.inc"
#define FASTNN_FAMILY_TABLE                        \
  extern const OptimizerKernels optimizer_kernels; \
  const OptimizerKernels optimizer_kernels
#include "../kernels/fill.h"

}  // namespace fastnn::FASTNN_ISA
