#include "../dispatch.h"
#include "../simd/math.h"
#include "../simd/transpose.h"

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

// Of R queries and K keys, R * K = kLanes: their sums are turned into one vector of scores. Keys are read one after the
// other, as the CPU's own prefetching wants it: software prefetches and several keys by turns halved the bandwidth.
template <int R, class T, class S>
FASTNN_INLINE void score_block(const S* q, const T* k, int64_t k_step, int64_t depth, S* scores, int64_t step) {
  using V = Compute<T>;
  constexpr int K = V::kLanes / R;
  V total[R * K];
#pragma GCC unroll 16
  for (int i = 0; i < K; ++i) {
    V sums[R];
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) sums[r] = V(S(0));
    for_lanes<V>(depth, [&](int64_t c, auto lanes) {
      V y = load<V>(k + i * k_step + c, lanes);
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) sums[r] = fma(load<V>(q + r * depth + c, lanes), y, sums[r]);
    });
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) total[r * K + i] = sums[r];
  }
  V sums = V(S(0));
  Transpose<V>::run(R * K, V::kLanes, [&](int i) { return total[i]; }, [&](int, V column) { sums = sums + column; });
  S lanes_of[V::kLanes];
  sums.store(lanes_of);
  for (int r = 0; r < R; ++r)
    for (int i = 0; i < K; ++i) scores[r * step + i] = lanes_of[r * K + i];
}

// Queries whose loads of keys and values are shared.
template <class V>
constexpr int kShared = V::kLanes >= 16 ? 4 : 2;

template <int R, class T, class S>
FASTNN_INLINE void score_rows(const S* q, const T* k, int64_t k_step, int64_t cols, int64_t depth, S* scores,
                              int64_t step) {
  using V = Compute<T>;
  constexpr int K = V::kLanes / R;
  int64_t j = 0;
  for (; j + K <= cols; j += K) score_block<R>(q, k + j * k_step, k_step, depth, scores + j, step);
  for (; j < cols; ++j)
    for (int r = 0; r < R; ++r) {
      V total = V(S(0));
      for_lanes<V>(depth, [&](int64_t c, auto lanes) {
        total = fma(load<V>(q + r * depth + c, lanes), load<V>(k + j * k_step + c, lanes), total);
      });
      scores[r * step + j] = sum(total);
    }
}

template <class T>
void attention_scores(const void* pq, int rows, const void* pk, int64_t k_step, int64_t cols, int64_t depth,
                      void* pscores, int64_t step) {
  using S = Scalar<T>;
  constexpr int R = kShared<Compute<T>>;
  constexpr int64_t kKeys = Compute<T>::kLanes;  // stay in L1 while several queries use them
  const S* q = static_cast<const S*>(pq);
  for (int64_t j = 0; j < cols; j += kKeys) {
    const int64_t n = lesser(kKeys, cols - j);
    const T* k = static_cast<const T*>(pk) + j * k_step;
    S* scores = static_cast<S*>(pscores) + j;
    int r = 0;
    for (; r + R <= rows; r += R) score_rows<R>(q + r * depth, k, k_step, n, depth, scores + r * step, step);
    for (; r < rows; ++r) score_rows<1>(q + r * depth, k, k_step, n, depth, scores + r * step, step);
  }
}

// As many columns as registers hold sums for, so that values of heads of common sizes are read in one go.
template <int R, class T, class S>
FASTNN_INLINE void value_rows(const S* p, int64_t step, const T* v, int64_t v_step, int64_t cols, int64_t width, S* out,
                              bool accumulate) {
  using V = Compute<T>;
  constexpr int kVectors = R == 1 ? 8 : 4;
  auto block = [&](int64_t c, auto vectors) {
    constexpr int N = decltype(vectors)::value;
    V total[R][N];
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
      for (int i = 0; i < N; ++i) total[r][i] = accumulate ? V::load(out + r * width + c + i * V::kLanes) : V(S(0));
    const T* from = v + c;
    for (int64_t j = 0; j < cols; ++j, from += v_step) {
      V weight[R];
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) weight[r] = V(p[r * step + j]);
#pragma GCC unroll 8
      for (int i = 0; i < N; ++i) {
        V x = V::load(from + i * V::kLanes);
#pragma GCC unroll 4
        for (int r = 0; r < R; ++r) total[r][i] = fma(weight[r], x, total[r][i]);
      }
    }
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
      for (int i = 0; i < N; ++i) total[r][i].store(out + r * width + c + i * V::kLanes);
  };
  int64_t c = 0;
  for (; c + kVectors * V::kLanes <= width; c += kVectors * V::kLanes) block(c, Constant<kVectors>());
  with_constant<kVectors - 1>(int((width - c) / V::kLanes), [&](auto vectors) { block(c, vectors); });
  c += (width - c) / V::kLanes * V::kLanes;
  for_lanes<V>(width - c, [&](int64_t at, auto lanes) {
    for (int r = 0; r < R; ++r) {
      V total = accumulate ? load<V>(out + r * width + c + at, lanes) : V(S(0));
      const T* from = v + c + at;
      for (int64_t j = 0; j < cols; ++j, from += v_step) total = fma(V(p[r * step + j]), load<V>(from, lanes), total);
      store(total, out + r * width + c + at, lanes);
    }
  });
}

template <class T>
void attention_values(const void* pp, int64_t step, int rows, const void* pv, int64_t v_step, int64_t cols,
                      int64_t width, void* pout, bool accumulate) {
  using S = Scalar<T>;
  constexpr int R = kShared<Compute<T>>;
  constexpr int64_t kKeys = 16;  // stay in L1 while several queries use them
  for (int64_t j = 0; j < cols; j += rows > 1 ? kKeys : cols) {
    const int64_t n = rows > 1 ? lesser(kKeys, cols - j) : cols;
    const S* p = static_cast<const S*>(pp) + j;
    const T* v = static_cast<const T*>(pv) + j * v_step;
    S* out = static_cast<S*>(pout);
    const bool add = accumulate || j;
    int r = 0;
    for (; r + R <= rows; r += R) value_rows<R>(p + r * step, step, v, v_step, n, width, out + r * width, add);
    for (; r < rows; ++r) value_rows<1>(p + r * step, step, v, v_step, n, width, out + r * width, add);
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
