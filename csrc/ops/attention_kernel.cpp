#include "../dispatch.h"
#include "../simd/math.h"

namespace fastnn::FASTNN_ISA {
namespace {

constexpr float kInfinity = __builtin_inff();

FASTNN_INLINE int64_t clamp(int64_t v, int64_t low, int64_t high) { return greater(low, lesser(v, high)); }

template <class T>
void attention_softmax(const AttentionSoftmax& b) {
  using S = Scalar<T>;
  using V = Compute<T>;
  const V scale = V(S(b.scale));
  for (int r = 0; r < b.rows; ++r) {
    const int64_t n = clamp(b.seen + r * b.seen_step, 0, b.cols);
    S* s = static_cast<S*>(b.scores) + r * b.step;
    const S* bias = b.bias ? static_cast<const S*>(b.bias) + r * b.step : nullptr;
    const S* factor = b.factor ? static_cast<const S*>(b.factor) + r * b.step : nullptr;
    S *top = static_cast<S*>(b.top) + r, *total = static_cast<S*>(b.total) + r;

    V largest = V(S(-kInfinity));
    for_lanes<V>(n, [&](int64_t c, auto lanes) {
      V x = load<V>(s + c, lanes) * scale;
      if (bias) x = x + load<V>(bias + c, lanes);
      store(x, s + c, lanes);
      largest = max(largest, head(x, lanes, V(S(-kInfinity))));
    });
    S before = *top, now = max_of(largest);
    now = now > before ? now : before;
    // Where no key was visible yet, anything finite will do: exp(-inf - 0) is the 0 that is wanted.
    V shift = V(now == S(-kInfinity) ? S(0) : now), sums = V(S(0));
    for_lanes<V>(n, [&](int64_t c, auto lanes) {
      V p = exp(load<V>(s + c, lanes) - shift);
      sums = sums + head(p, lanes, V(S(0)));
      if (factor) p = p * load<V>(factor + c, lanes);
      store(p, s + c, lanes);
    });
    for_lanes<V>(b.cols - n, [&](int64_t c, auto lanes) { store(V(S(0)), s + n + c, lanes); });
    *top = now;
    if (!b.out) {
      *total = sum(sums);
      continue;
    }
    V shrink = exp(V(before) - shift);
    S lanes_of[V::kLanes];
    shrink.store(lanes_of);
    *total = *total * lanes_of[0] + sum(sums);
    if (before == now) continue;
    S* out = static_cast<S*>(b.out) + r * b.out_step;
    for_lanes<V>(b.out_cols, [&](int64_t c, auto lanes) { store(load<V>(out + c, lanes) * shrink, out + c, lanes); });
  }
}

template <class T>
void attention_gradient(const AttentionGradient& b) {
  using S = Scalar<T>;
  using V = Compute<T>;
  const V scale = V(S(b.scale));
  const S *log_sum = static_cast<const S*>(b.log_sum), *delta = static_cast<const S*>(b.delta);
  for (int r = 0; r < b.rows; ++r) {
    S* s = static_cast<S*>(b.scores) + r * b.step;
    S* g = static_cast<S*>(b.gradients) + r * b.step;
    const S* bias = b.bias ? static_cast<const S*>(b.bias) + r * b.step : nullptr;
    const S* factor = b.factor ? static_cast<const S*>(b.factor) + r * b.step : nullptr;
    V shift = V(S(0)), d = V(S(0));
    if (!b.by_keys) {
      shift = V(log_sum[r]);
      d = V(delta[r]);
    }
    for_lanes<V>(b.cols, [&](int64_t c, auto lanes) {
      if (b.by_keys) {
        shift = load<V>(log_sum + c, lanes);
        d = load<V>(delta + c, lanes);
      }
      V x = load<V>(s + c, lanes) * scale;
      if (bias) x = x + load<V>(bias + c, lanes);
      V p = exp(x - shift), dp = load<V>(g + c, lanes), dropped = p;
      if (factor) {
        V f = load<V>(factor + c, lanes);
        dp = dp * f;
        dropped = p * f;
      }
      store(p * (dp - d), g + c, lanes);
      store(dropped, s + c, lanes);
    });
    const int64_t edge = clamp(b.seen + r * b.seen_step, 0, b.cols);
    for (int64_t c = b.by_keys ? 0 : edge; c < (b.by_keys ? edge : b.cols); ++c) s[c] = g[c] = 0;
  }
}

template <class T>
void attention_store(const void* x, int64_t x_step, double factor, const void* totals, int rows, int64_t cols, void* y,
                     int64_t y_step) {
  using S = Scalar<T>;
  using V = Compute<T>;
  for (int r = 0; r < rows; ++r) {
    const S* from = static_cast<const S*>(x) + r * x_step;
    T* to = static_cast<T*>(y) + r * y_step;
    S total = totals ? static_cast<const S*>(totals)[r] : S(1);
    V f = totals ? V(S(1)) / V(total) : V(S(factor));
    for_lanes<V>(cols, [&](int64_t c, auto lanes) {
      store(total == S(0) ? V(S(0)) : load<V>(from + c, lanes) * f, to + c, lanes);
    });
  }
}

template <class T>
void attention_log_sum(const void* ptop, const void* ptotal, int64_t rows, void* log_sum) {
  using S = Scalar<T>;
  using V = Compute<T>;
  const S *top = static_cast<const S*>(ptop), *total = static_cast<const S*>(ptotal);
  for_lanes<V>(rows, [&](int64_t r, auto lanes) {
    V t = load<V>(total + r, lanes);
    store(select(t == V(S(0)), V(S(kInfinity)), load<V>(top + r, lanes) + log(t)), static_cast<S*>(log_sum) + r, lanes);
  });
}

template <class T>
void attention_dots(const void* px, int64_t x_step, const void* py, int64_t y_step, int64_t rows, int64_t n,
                    void* out) {
  using S = Scalar<T>;
  using V = Compute<T>;
  for (int64_t r = 0; r < rows; ++r) {
    const T *x = static_cast<const T*>(px) + r * x_step, *y = static_cast<const T*>(py) + r * y_step;
    V total = V(S(0));
    for_lanes<V>(n, [&](int64_t c, auto lanes) { total = fma(load<V>(x + c, lanes), load<V>(y + c, lanes), total); });
    static_cast<S*>(out)[r] = sum(total);
  }
}

}  // namespace

#define FASTNN_FAMILY_INC "attention.inc"
#define FASTNN_FAMILY_TABLE                        \
  extern const AttentionKernels attention_kernels; \
  const AttentionKernels attention_kernels
#include "../kernels/fill.h"

}  // namespace fastnn::FASTNN_ISA
