#include "../dispatch.h"
#include "../simd/math.h"

namespace fastnn::FASTNN_ISA {
namespace {

constexpr float kInfinity = __builtin_inff();

FASTNN_INLINE int64_t clamp(int64_t v, int64_t low, int64_t high) { return greater(low, lesser(v, high)); }

// softcap * tanh(x / softcap): Gemma 2, arXiv:2408.00118.
template <class V, class S>
struct Softcap {
  V cap, inverse;
  explicit Softcap(S softcap) : cap(V(softcap)), inverse(V(S(1) / softcap)) {}
  FASTNN_INLINE V bounded(V x) const { return tanh(x * inverse); }
};

template <class T>
void attention_softmax(const AttentionSoftmax& b) {
  using S = Scalar<T>;
  using V = Compute<T>;
  const V scale = V(S(b.scale));
  const Softcap<V, S> cap(S(b.softcap));
  for (int r = 0; r < b.rows; ++r) {
    const int64_t end = clamp(b.last + r * b.last_step, 0, b.cols), first = clamp(b.first + r * b.first_step, 0, end);
    const int64_t n = end - first;
    S* row = static_cast<S*>(b.scores) + r * b.step;
    S* s = row + first;
    const S* bias = b.bias ? static_cast<const S*>(b.bias) + r * b.step + first : nullptr;
    const S* factor = b.factor ? static_cast<const S*>(b.factor) + r * b.step + first : nullptr;
    S *top = static_cast<S*>(b.top) + r, *total = static_cast<S*>(b.total) + r;

    V largest = V(S(-kInfinity));
    for_lanes<V>(n, [&](int64_t c, auto lanes) {
      V x = load<V>(s + c, lanes) * scale;
      if (b.softcap != 0) x = cap.cap * cap.bounded(x);
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
    for_lanes<V>(first, [&](int64_t c, auto lanes) { store(V(S(0)), row + c, lanes); });
    for_lanes<V>(b.cols - end, [&](int64_t c, auto lanes) { store(V(S(0)), row + end + c, lanes); });
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
  const Softcap<V, S> cap(S(b.softcap));
  const S *log_sum = static_cast<const S*>(b.log_sum), *delta = static_cast<const S*>(b.delta);
  for (int r = 0; r < b.rows; ++r) {
    S* s = static_cast<S*>(b.scores) + r * b.step;
    S* g = static_cast<S*>(b.gradients) + r * b.step;
    const S* bias = b.bias ? static_cast<const S*>(b.bias) + r * b.step : nullptr;
    const S* factor = b.factor ? static_cast<const S*>(b.factor) + r * b.step : nullptr;
    S* bias_gradient = b.bias_gradient ? static_cast<S*>(b.bias_gradient) + r * b.bias_gradient_step : nullptr;
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
      V x = load<V>(s + c, lanes) * scale, slope = V(S(1));
      if (b.softcap != 0) {
        V bounded = cap.bounded(x);
        x = cap.cap * bounded;
        slope = V(S(1)) - bounded * bounded;
      }
      if (bias) x = x + load<V>(bias + c, lanes);
      V p = exp(x - shift), dp = load<V>(g + c, lanes), dropped = p;
      if (factor) {
        V f = load<V>(factor + c, lanes);
        dp = dp * f;
        dropped = p * f;
      }
      V gradient = p * (dp - d);
      if (bias_gradient) store(gradient, bias_gradient + c, lanes);
      store(gradient * slope, g + c, lanes);
      store(dropped, s + c, lanes);
    });
    const int64_t end = clamp(b.last + r * b.last_step, 0, b.cols), first = clamp(b.first + r * b.first_step, 0, end);
    auto clear = [&](int64_t from, int64_t to) {
      for (int64_t c = from; c < to; ++c) {
        s[c] = g[c] = 0;
        if (bias_gradient) bias_gradient[c] = 0;
      }
    };
    clear(0, first);
    clear(end, b.cols);
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

template <class T>
void attention_scores(const void* pq, int rows, const void* pk, int64_t k_step, int64_t cols, int64_t depth,
                      void* scores, int64_t step) {
  using S = Scalar<T>;
  using V = Compute<T>;
  constexpr int kKeys = 4;  // at a time: independent sums
  for (int r = 0; r < rows; ++r) {
    const S* q = static_cast<const S*>(pq) + r * depth;
    S* to = static_cast<S*>(scores) + r * step;
    int64_t j = 0;
    for (; j + kKeys <= cols; j += kKeys) {
      const T* k = static_cast<const T*>(pk) + j * k_step;
      V total[kKeys] = {V(S(0)), V(S(0)), V(S(0)), V(S(0))};
      for_lanes<V>(depth, [&](int64_t c, auto lanes) {
        V x = load<V>(q + c, lanes);
        for (int i = 0; i < kKeys; ++i) total[i] = fma(x, load<V>(k + i * k_step + c, lanes), total[i]);
      });
      for (int i = 0; i < kKeys; ++i) to[j + i] = sum(total[i]);
    }
    for (; j < cols; ++j) {
      const T* k = static_cast<const T*>(pk) + j * k_step;
      V total = V(S(0));
      for_lanes<V>(depth,
                   [&](int64_t c, auto lanes) { total = fma(load<V>(q + c, lanes), load<V>(k + c, lanes), total); });
      to[j] = sum(total);
    }
  }
}

template <class T>
void attention_values(const void* pp, int64_t step, int rows, const void* pv, int64_t v_step, int64_t cols,
                      int64_t width, void* pout, bool accumulate) {
  using S = Scalar<T>;
  using V = Compute<T>;
  constexpr int kVectors = 4;
  for (int r = 0; r < rows; ++r) {
    const S* p = static_cast<const S*>(pp) + r * step;
    S* out = static_cast<S*>(pout) + r * width;
    int64_t c = 0;
    for (; c + kVectors * V::kLanes <= width; c += kVectors * V::kLanes) {
      V total[kVectors];
      for (int i = 0; i < kVectors; ++i) total[i] = accumulate ? V::load(out + c + i * V::kLanes) : V(S(0));
      const T* v = static_cast<const T*>(pv) + c;
      for (int64_t j = 0; j < cols; ++j, v += v_step) {
        V weight = V(p[j]);
        for (int i = 0; i < kVectors; ++i) total[i] = fma(weight, V::load(v + i * V::kLanes), total[i]);
      }
      for (int i = 0; i < kVectors; ++i) total[i].store(out + c + i * V::kLanes);
    }
    for_lanes<V>(width - c, [&](int64_t at, auto lanes) {
      V total = accumulate ? load<V>(out + c + at, lanes) : V(S(0));
      const T* v = static_cast<const T*>(pv) + c + at;
      for (int64_t j = 0; j < cols; ++j, v += v_step) total = fma(V(p[j]), load<V>(v, lanes), total);
      store(total, out + c + at, lanes);
    });
  }
}

template <class T>
void rotary_rows(const void* px, int64_t x_step, const void* pcos, const void* psin, int64_t angle_step,
                 bool interleaved, double sign, int64_t rows, int64_t half, int64_t width, void* py, int64_t y_step) {
  using S = Scalar<T>;
  using V = Compute<T>;
  const V turn = V(S(sign));
  for (int64_t r = 0; r < rows; ++r) {
    const T* x = static_cast<const T*>(px) + r * x_step;
    const S *c = static_cast<const S*>(pcos) + r * angle_step, *s = static_cast<const S*>(psin) + r * angle_step;
    T* y = static_cast<T*>(py) + r * y_step;
    auto rotate = [&](int64_t i, auto lanes, V a, V b, V* turned_a, V* turned_b) {
      V cosine = load<V>(c + i, lanes), sine = load<V>(s + i, lanes) * turn;
      *turned_a = a * cosine - b * sine;
      *turned_b = b * cosine + a * sine;
    };
    V a, b;
    if (!interleaved) {
      for_lanes<V>(half, [&](int64_t i, auto lanes) {
        rotate(i, lanes, load<V>(x + i, lanes), load<V>(x + half + i, lanes), &a, &b);
        store(a, y + i, lanes);
        store(b, y + half + i, lanes);
      });
    } else {
      int64_t i = 0;
      for (; i + V::kLanes <= half; i += V::kLanes) {
        V even, odd;
        deinterleave(V::load(x + 2 * i), V::load(x + 2 * i + V::kLanes), &even, &odd);
        rotate(i, Full(), even, odd, &a, &b);
        interleave(a, b, &even, &odd);
        even.store(y + 2 * i);
        odd.store(y + 2 * i + V::kLanes);
      }
      if (i < half) {
        const int n = int(2 * (half - i)), low = n < V::kLanes ? n : V::kLanes, high = n - low;
        V even, odd, first = V::load(x + 2 * i, low), second = high ? V::load(x + 2 * i + low, high) : V(S(0));
        deinterleave(first, second, &even, &odd);
        rotate(i, int(half - i), even, odd, &a, &b);
        interleave(a, b, &first, &second);
        first.store(y + 2 * i, low);
        if (high) second.store(y + 2 * i + low, high);
      }
    }
    for_lanes<V>(width - 2 * half,
                 [&](int64_t i, auto lanes) { store(load<V>(x + 2 * half + i, lanes), y + 2 * half + i, lanes); });
  }
}

}  // namespace

#define FASTNN_FAMILY_INC "attention.inc"
#define FASTNN_FAMILY_TABLE                        \
  extern const AttentionKernels attention_kernels; \
  const AttentionKernels attention_kernels
#include "../kernels/fill.h"

}  // namespace fastnn::FASTNN_ISA
