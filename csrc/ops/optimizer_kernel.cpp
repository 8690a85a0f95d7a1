#include "../dispatch.h"
#include "../simd/optimizer.h"

namespace fastnn::FASTNN_ISA {
namespace {

// One step on n neighbours; the states may be null.
template <class Update, class T>
FASTNN_INLINE void run(const Update update, void* param, const void* grad, void* first, void* second, void* third,
                       int64_t n) {
  using V = Compute<T>;
  using S = Scalar<T>;
  auto* p = static_cast<T*>(param);
  auto* g = static_cast<const T*>(grad);
  auto *a = static_cast<S*>(first), *b = static_cast<S*>(second), *c = static_cast<S*>(third);
  for_lanes<V>(n, [&](int64_t i, auto lanes) {
    V sa = V(S(0)), sb = sa, sc = sa;
    if (a) sa = load<V>(a + i, lanes);
    if (b) sb = load<V>(b + i, lanes);
    if (c) sc = load<V>(c + i, lanes);
    V x = update(load<V>(p + i, lanes), load<V>(g + i, lanes), a ? &sa : nullptr, b ? &sb : nullptr, c ? &sc : nullptr);
    if (a) store(sa, a + i, lanes);
    if (b) store(sb, b + i, lanes);
    if (c) store(sc, c + i, lanes);
    store(x, p + i, lanes);
  });
}

template <class T>
void sgd(const SgdStep& s, void* param, const void* grad, void* buffer, bool fresh, int64_t n) {
  SgdUpdate<Compute<T>, Scalar<T>> update(s);
  update.set(0, 0, fresh);
  run<decltype(update), T>(update, param, grad, buffer, nullptr, nullptr, n);
}

template <class T>
void adam(const AdamStep& s, void* param, const void* grad, void* mean, void* square, void* max_square, int64_t n) {
  using Update = AdamUpdate<Compute<T>, Scalar<T>>;
  run<Update, T>(Update(s), param, grad, mean, square, max_square, n);
}

template <class T>
void rmsprop(const RmspropStep& s, void* param, const void* grad, void* square, void* mean, void* buffer, int64_t n) {
  using Update = RmspropUpdate<Compute<T>, Scalar<T>>;
  run<Update, T>(Update(s), param, grad, square, mean, buffer, n);
}

template <class T>
void adagrad(const AdagradStep& s, void* param, const void* grad, void* sum, int64_t n) {
  using Update = AdagradUpdate<Compute<T>, Scalar<T>>;
  run<Update, T>(Update(s), param, grad, sum, nullptr, nullptr, n);
}

template <class T>
void lion(const LionStep& s, void* param, const void* grad, void* mean, int64_t n) {
  using Update = LionUpdate<Compute<T>, Scalar<T>>;
  run<Update, T>(Update(s), param, grad, mean, nullptr, nullptr, n);
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
