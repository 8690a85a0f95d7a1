#include "../dispatch.h"
#include "../simd/simd.h"

namespace fastnn::FASTNN_ISA {
namespace {

// Elements summed in float32: 32 to 64 additions in each lane keep the error near one unit in the last place, and a
// block stays in L1 while it is read twice.
constexpr int64_t kBlock = 2048;
constexpr int64_t kTileRows = 32;  // rows that columns are summed over in float32

FASTNN_INLINE bool finite(double v) { return v - v == 0; }
FASTNN_INLINE double not_negative(double v) { return v < 0 ? 0 : v; }  // a NaN stays

// ---- what sums go through ----------------------------------------------------------------------------------------

// block(first element, runs, how far on the next block begins) for pieces of the runs of about kBlock elements. It is
// fetched from memory while a second pass over this one computes; after the last one, what follows in memory.
template <class Fn>
FASTNN_INLINE void for_blocks(const Runs& r, Fn&& block) {
  if (r.n >= kBlock) {
    for (int64_t i = 0; i < r.count; ++i)
      for (int64_t begin = 0; begin < r.n; begin += kBlock) {
        const int64_t n = lesser(kBlock, r.n - begin);
        const bool jumps = begin + n == r.n && i + 1 < r.count;
        block(i * r.step + begin, Runs{1, 0, n}, jumps ? r.step - begin : n);
      }
    return;
  }
  int64_t together = greater(1, kBlock / greater(1, r.n));
  for (int64_t i = 0; i < r.count; i += together)
    block(i * r.step, Runs{lesser(together, r.count - i), r.step, r.n}, r.count == 1 ? r.n : together * r.step);
}

// f(accumulator, element, lanes) for all elements of a block; four accumulators hide the latency of the addition.
template <class V, class Fn>
FASTNN_INLINE void for_vectors(const Runs& r, Fn&& f) {
  constexpr int L = V::kLanes;
  for (int64_t run = 0; run < r.count; ++run) {
    const int64_t at = run * r.step;
    int64_t i = 0;
    for (; i + 4 * L <= r.n; i += 4 * L) {
      f(0, at + i, Full());
      f(1, at + i + L, Full());
      f(2, at + i + 2 * L, Full());
      f(3, at + i + 3 * L, Full());
    }
    for (; i + L <= r.n; i += L) f(0, at + i, Full());
    if (i < r.n) f(1, at + i, int(r.n - i));
  }
}

template <class V>
struct Sums {
  V v[4] = {V(0.0f), V(0.0f), V(0.0f), V(0.0f)};
  FASTNN_INLINE double total() const { return double(sum((v[0] + v[1]) + (v[2] + v[3]))); }
};

// Mean and sum of squared deviations of what was added so far (Chan, Golub and LeVeque 1983, "Algorithms for computing
// the sample variance").
struct Moments {
  double count = 0, total = 0, squares = 0;
  FASTNN_INLINE double mean() const { return total / count; }
  FASTNN_INLINE void add(double n, double mean, double squared) {
    squares += squared;
    if (count > 0) {
      double delta = mean - total / count;
      squares += delta * delta * (count * n / (count + n));
    }
    count += n;
    total += mean * n;
  }
};

// Two passes over a block in L1: the rounded mean m, then sums of x - m and of its square, which correct it.
template <class T>
FASTNN_INLINE void add_moments(const Runs& runs, const T* x, Moments* out) {
  using V = Compute<T>;
  for_blocks(runs, [&](int64_t first, const Runs& r, int64_t next) {
    const T* p = x + first;
    double n = double(r.count * r.n);
    Sums<V> s;
    for_vectors<V>(r, [&](int k, int64_t i, auto lanes) { s.v[k] = s.v[k] + load<V>(p + i, lanes); });
    Scalar<T> rounded = Scalar<T>(s.total() / n);
    V m(rounded);
    Sums<V> rest, square;
    for_vectors<V>(r, [&](int k, int64_t i, auto lanes) {
      __builtin_prefetch(p + i + next);
      V e = head(load<V>(p + i, lanes) - m, lanes, V(0.0f));
      rest.v[k] = rest.v[k] + e;
      square.v[k] = fma(e, e, square.v[k]);
    });
    double left = rest.total();
    if (!finite(left)) left = 0;  // an infinite mean is infinite, not NaN
    out->add(n, double(rounded) + left / n, not_negative(square.total() - left * left / n));
  });
}

template <class T>
FASTNN_INLINE double sum_of_squares(const T* x, int64_t n) {
  using V = Compute<T>;
  double total = 0;
  for_blocks(Runs{1, 0, n}, [&](int64_t first, const Runs& r, int64_t) {
    Sums<V> s;
    for_vectors<V>(r, [&](int k, int64_t i, auto lanes) {
      V v = load<V>(x + first + i, lanes);
      s.v[k] = fma(v, v, s.v[k]);
    });
    total += s.total();
  });
  return total;
}

// ---- rows --------------------------------------------------------------------------------------------------------

template <class T>
void normalize_rows(bool centered, const void* input, void* output, int64_t rows, int64_t n, const void* weight,
                    const void* bias, double eps, double* mean, double* rstd, bool streams) {
  using V = Compute<T>;
  using S = Scalar<T>;
  auto* x = static_cast<const T*>(input);
  auto* y = static_cast<T*>(output);
  auto* w = static_cast<const S*>(weight);
  auto* b = static_cast<const S*>(bias);
  for (int64_t r = 0; r < rows; ++r, x += n, y += n) {
    double m = 0, variance;
    if (centered) {
      Moments all;
      add_moments<T>({1, 0, n}, x, &all);
      mean[r] = m = all.mean();
      variance = all.squares / double(n);
    } else {
      variance = sum_of_squares(x, n) / double(n);
    }
    double scale = rstd[r] = 1 / __builtin_sqrt(variance + eps);
    S high = S(m);
    V vm(high), vs = V(S(scale)), vl = V(S((double(high) - m) * scale));
    auto normal = [&](int64_t i, auto lanes) {
      __builtin_prefetch(x + n + i);  // the next row comes from memory while this one, in L1 or L2, is computed
      return fma(load<V>(x + i, lanes) - vm, vs, vl);
    };
    if (w && b)
      for_lanes<V>(n, [&](int64_t i, auto lanes) {
        store(fma(normal(i, lanes), load<V>(w + i, lanes), load<V>(b + i, lanes)), y + i, lanes, streams);
      });
    else if (w)
      for_lanes<V>(
          n, [&](int64_t i, auto lanes) { store(normal(i, lanes) * load<V>(w + i, lanes), y + i, lanes, streams); });
    else
      for_lanes<V>(n, [&](int64_t i, auto lanes) {
        store(b ? normal(i, lanes) + load<V>(b + i, lanes) : normal(i, lanes), y + i, lanes, streams);
      });
  }
  fence(streams);
}

// With h = (x - mean) rstd and g = dy weight: dx = rstd (g - mean of g - h mean of (g h)); not centered, without mean
// of g.
template <class T>
FASTNN_INLINE void row_backward(bool centered, const T* x, const T* dy, T* dx, int64_t n, const Scalar<T>* w,
                                double mean, double rstd, bool streams) {
  using V = Compute<T>;
  using S = Scalar<T>;
  S high = S(mean);
  V m(high);
  double low = mean - double(high), sum = 0, product = 0;
  auto gradient = [&](int64_t i, auto lanes) {
    V g = load<V>(dy + i, lanes);
    return w ? g * load<V>(w + i, lanes) : g;
  };
  for_blocks(Runs{1, 0, n}, [&](int64_t first, const Runs& r, int64_t) {
    Sums<V> s, p;
    for_vectors<V>(r, [&](int k, int64_t i, auto lanes) {  // lanes above the tail load as zero
      V g = gradient(first + i, lanes);
      s.v[k] = s.v[k] + g;
      p.v[k] = fma(g, load<V>(x + first + i, lanes) - m, p.v[k]);
    });
    sum += s.total();
    product += p.total();
  });
  double slope = -(product - low * sum) * rstd * rstd * rstd / double(n), average = centered ? sum / double(n) : 0;
  S near = S(average);  // subtracted first: what remains of a single or constant g is exactly 0
  double shift = rstd * (double(near) - average) - slope * low;
  V a = V(S(rstd)), b = V(S(slope)), c = V(S(shift)), level = V(near);
  for_lanes<V>(n, [&](int64_t i, auto lanes) {
    __builtin_prefetch(x + n + i);
    __builtin_prefetch(dy + n + i);
    store(fma(gradient(i, lanes) - level, a, fma(load<V>(x + i, lanes) - m, b, c)), dx + i, lanes, streams);
  });
}

template <class V, class Lanes>
FASTNN_INLINE void add_to(double* out, V v, Lanes lanes) {
  decltype(sum(v)) part[V::kLanes];
  v.store(part);
  if constexpr (__is_same(Lanes, Full)) {
    for (int i = 0; i < V::kLanes; ++i) out[i] += double(part[i]);
  } else {
    for (int i = 0; i < lanes; ++i) out[i] += double(part[i]);
  }
}

// Columns [c, c + K vectors) of at most kTileRows rows. dbias may be null.
template <int K, class T, class Lanes>
FASTNN_INLINE void weight_columns(const T* x, const T* dy, int64_t rows, int64_t n, const Scalar<T>* m,
                                  const Scalar<T>* scale, const Scalar<T>* shift, double* dweight, double* dbias,
                                  Lanes lanes) {
  using V = Compute<T>;
  V w[K], b[K];
  for (int k = 0; k < K; ++k) w[k] = b[k] = V(0.0f);
  for (int64_t r = 0; r < rows; ++r, x += n, dy += n) {
    V mean(m[r]), s(scale[r]), t(shift[r]);
    for (int k = 0; k < K; ++k) {
      V g = load<V>(dy + k * V::kLanes, lanes);
      w[k] = fma(g, fma(load<V>(x + k * V::kLanes, lanes) - mean, s, t), w[k]);
      b[k] = b[k] + g;
    }
  }
  for (int k = 0; k < K; ++k) {
    if (dweight) add_to(dweight + k * V::kLanes, w[k], lanes);
    if (dbias) add_to(dbias + k * V::kLanes, b[k], lanes);
  }
}

template <class T>
void normalize_rows_backward(bool centered, const void* input, const void* gradient, void* output, int64_t rows,
                             int64_t n, const void* weight, const double* mean, const double* rstd, bool streams) {
  auto* x = static_cast<const T*>(input);
  auto* dy = static_cast<const T*>(gradient);
  auto* dx = static_cast<T*>(output);
  auto* w = static_cast<const Scalar<T>*>(weight);
  for (int64_t r = 0; r < rows; ++r)
    row_backward<T>(centered, x + r * n, dy + r * n, dx + r * n, n, w, centered ? mean[r] : 0, rstd[r], streams);
  fence(streams);
}

template <class T>
void normalize_rows_sums(const void* input, const void* gradient, int64_t rows, int64_t n, int64_t columns,
                         const double* mean, const double* rstd, double* dweight, double* dbias) {
  using V = Compute<T>;
  using S = Scalar<T>;
  auto at = [](double* p, int64_t i) { return p ? p + i : nullptr; };
  for (int64_t first = 0; first < rows; first += kTileRows) {
    int64_t count = lesser(kTileRows, rows - first), c = 0;
    auto* x = static_cast<const T*>(input) + first * n;
    auto* dy = static_cast<const T*>(gradient) + first * n;
    S m[kTileRows], scale[kTileRows], shift[kTileRows];
    for (int64_t r = 0; r < count; ++r) {
      double exact = mean ? mean[first + r] : 0;
      m[r] = S(exact);
      scale[r] = S(rstd[first + r]);
      shift[r] = S((double(m[r]) - exact) * rstd[first + r]);
    }
    for (; c + 4 * V::kLanes <= columns; c += 4 * V::kLanes)
      weight_columns<4>(x + c, dy + c, count, n, m, scale, shift, at(dweight, c), at(dbias, c), Full());
    for_lanes<V>(columns - c, [&](int64_t i, auto lanes) {
      i += c;
      weight_columns<1>(x + i, dy + i, count, n, m, scale, shift, at(dweight, i), at(dbias, i), lanes);
    });
  }
}

// ---- runs: one statistic for all of them -------------------------------------------------------------------------

template <class T>
void moments(const Runs& r, const void* x, double* mean, double* squares) {
  Moments all;
  add_moments<T>(r, static_cast<const T*>(x), &all);
  *mean = all.mean();
  *squares = all.squares;
}

template <class T>
void gradient_sums(const Runs& runs, const void* input, const void* gradient, const void* mean, double* sum,
                   double* product) {
  using V = Compute<T>;
  V m(*static_cast<const Scalar<T>*>(mean));
  *sum = *product = 0;
  for_blocks(runs, [&](int64_t first, const Runs& r, int64_t) {
    auto* x = static_cast<const T*>(input) + first;
    auto* dy = static_cast<const T*>(gradient) + first;
    Sums<V> s, p;
    for_vectors<V>(r, [&](int k, int64_t i, auto lanes) {
      V g = load<V>(dy + i, lanes);
      s.v[k] = s.v[k] + g;
      p.v[k] = fma(g, load<V>(x + i, lanes) - m, p.v[k]);
    });
    *sum += s.total();
    *product += p.total();
  });
}

template <class T>
void normalize_run(const void* input, void* output, int64_t n, const void* mean, const void* scale, const void* shift,
                   bool streams) {
  using V = Compute<T>;
  using S = Scalar<T>;
  auto* x = static_cast<const T*>(input);
  auto* y = static_cast<T*>(output);
  V m(*static_cast<const S*>(mean)), s(*static_cast<const S*>(scale)), t(*static_cast<const S*>(shift));
  for_lanes<V>(n, [&](int64_t i, auto lanes) { store(fma(load<V>(x + i, lanes) - m, s, t), y + i, lanes, streams); });
  fence(streams);
}

template <class T>
void normalize_run_backward(const void* input, const void* gradient, void* output, int64_t n, const void* mean,
                            const void* pa, const void* pb, const void* pc, bool streams) {
  using V = Compute<T>;
  using S = Scalar<T>;
  auto* x = static_cast<const T*>(input);
  auto* dy = static_cast<const T*>(gradient);
  auto* dx = static_cast<T*>(output);
  V m(*static_cast<const S*>(mean));
  V a(*static_cast<const S*>(pa)), b(*static_cast<const S*>(pb)), c(*static_cast<const S*>(pc));
  for_lanes<V>(n, [&](int64_t i, auto lanes) {
    store(fma(load<V>(dy + i, lanes), a, fma(load<V>(x + i, lanes) - m, b, c)), dx + i, lanes, streams);
  });
  fence(streams);
}

// ---- columns: neighbours in memory belong to different statistics ------------------------------------------------

template <int K, class T, class Lanes>
FASTNN_INLINE void column_block_moments(const T* x, int64_t rows, int64_t stride, double before, double* mean,
                                        double* squares, Lanes lanes) {
  using V = Compute<T>;
  using S = Scalar<T>;
  constexpr int L = V::kLanes;
  V m[K], rest[K], square[K];
  for (int k = 0; k < K; ++k) m[k] = rest[k] = square[k] = V(0.0f);
  for (int64_t r = 0; r < rows; ++r)
    for (int k = 0; k < K; ++k) m[k] = m[k] + load<V>(x + r * stride + k * L, lanes);
  for (int k = 0; k < K; ++k) m[k] = m[k] * V(S(1.0 / double(rows)));
  for (int64_t r = 0; r < rows; ++r)
    for (int k = 0; k < K; ++k) {
      V e = load<V>(x + r * stride + k * L, lanes) - m[k];
      rest[k] = rest[k] + e;
      square[k] = fma(e, e, square[k]);
    }
  // Chan's update, as in Moments.
  const double n = double(rows), each = 1 / n, share = before * n / (before + n), part = n / (before + n);
  for (int k = 0; k < K; ++k) {
    S high[L], low[L], deviation[L];
    m[k].store(high);
    rest[k].store(low);
    square[k].store(deviation);
    int count = L;
    if constexpr (!__is_same(Lanes, Full)) count = lanes;
    double *to_mean = mean + k * L, *to_squares = squares + k * L;
    for (int i = 0; i < count; ++i) {
      double left = low[i] - low[i] == 0 ? double(low[i]) : 0.0, here = double(high[i]) + left * each;
      double delta = here - to_mean[i], squared = not_negative(double(deviation[i]) - left * left * each);
      bool infinite = delta - delta != 0;
      to_mean[i] = before == 0 ? here : infinite ? to_mean[i] + here : to_mean[i] + delta * part;
      to_squares[i] = before == 0 ? squared : to_squares[i] + squared + delta * delta * share;
    }
  }
}

template <class T>
void column_moments(const void* input, int64_t rows, int64_t stride, int64_t columns, double* mean, double* squares) {
  using V = Compute<T>;
  auto* x = static_cast<const T*>(input);
  for (int64_t r = 0; r < rows; r += kTileRows) {
    int64_t count = lesser(kTileRows, rows - r), c = 0;
    const T* q = x + r * stride;
    for (; c + 4 * V::kLanes <= columns; c += 4 * V::kLanes)
      column_block_moments<4>(q + c, count, stride, double(r), mean + c, squares + c, Full());
    for_lanes<V>(columns - c, [&](int64_t i, auto lanes) {
      column_block_moments<1>(q + c + i, count, stride, double(r), mean + c + i, squares + c + i, lanes);
    });
  }
}

template <int K, class T, class Lanes>
FASTNN_INLINE void column_block_sums(const T* x, const T* dy, int64_t rows, int64_t stride, const Scalar<T>* mean,
                                     double* sum, double* product, Lanes lanes) {
  using V = Compute<T>;
  constexpr int L = V::kLanes;
  V m[K], s[K], p[K];
  for (int k = 0; k < K; ++k) {
    m[k] = load<V>(mean + k * L, lanes);
    s[k] = p[k] = V(0.0f);
  }
  for (int64_t r = 0; r < rows; ++r, x += stride, dy += stride)
    for (int k = 0; k < K; ++k) {
      V g = load<V>(dy + k * L, lanes);
      s[k] = s[k] + g;
      p[k] = fma(g, load<V>(x + k * L, lanes) - m[k], p[k]);
    }
  for (int k = 0; k < K; ++k) {
    add_to(sum + k * L, s[k], lanes);
    add_to(product + k * L, p[k], lanes);
  }
}

template <class T>
void column_gradient_sums(const void* input, const void* gradient, int64_t rows, int64_t stride, int64_t columns,
                          const void* mean, double* sum, double* product) {
  using V = Compute<T>;
  auto* m = static_cast<const Scalar<T>*>(mean);
  for (int64_t c = 0; c < columns; ++c) sum[c] = product[c] = 0;
  for (int64_t r = 0; r < rows; r += kTileRows) {
    int64_t count = lesser(kTileRows, rows - r), c = 0;
    auto* x = static_cast<const T*>(input) + r * stride;
    auto* dy = static_cast<const T*>(gradient) + r * stride;
    for (; c + 4 * V::kLanes <= columns; c += 4 * V::kLanes)
      column_block_sums<4>(x + c, dy + c, count, stride, m + c, sum + c, product + c, Full());
    for_lanes<V>(columns - c, [&](int64_t i, auto lanes) {
      i += c;
      column_block_sums<1>(x + i, dy + i, count, stride, m + i, sum + i, product + i, lanes);
    });
  }
}

template <class T>
void normalize_columns(const void* input, void* output, int64_t rows, int64_t columns, const void* mean,
                       const void* scale, const void* shift, bool streams) {
  using V = Compute<T>;
  using S = Scalar<T>;
  auto* x = static_cast<const T*>(input);
  auto* y = static_cast<T*>(output);
  auto *m = static_cast<const S*>(mean), *s = static_cast<const S*>(scale), *t = static_cast<const S*>(shift);
  for (int64_t r = 0; r < rows; ++r, x += columns, y += columns)
    for_lanes<V>(columns, [&](int64_t i, auto lanes) {
      V e = load<V>(x + i, lanes) - load<V>(m + i, lanes);
      store(fma(e, load<V>(s + i, lanes), load<V>(t + i, lanes)), y + i, lanes, streams);
    });
  fence(streams);
}

template <class T>
void normalize_columns_backward(const void* input, const void* gradient, void* output, int64_t rows, int64_t columns,
                                const void* mean, const void* pa, const void* pb, const void* pc, bool streams) {
  using V = Compute<T>;
  using S = Scalar<T>;
  auto* x = static_cast<const T*>(input);
  auto* dy = static_cast<const T*>(gradient);
  auto* dx = static_cast<T*>(output);
  auto* m = static_cast<const S*>(mean);
  auto *a = static_cast<const S*>(pa), *b = static_cast<const S*>(pb), *c = static_cast<const S*>(pc);
  for (int64_t r = 0; r < rows; ++r, x += columns, dy += columns, dx += columns)
    for_lanes<V>(columns, [&](int64_t i, auto lanes) {
      V e = load<V>(x + i, lanes) - load<V>(m + i, lanes);
      V rest = fma(e, load<V>(b + i, lanes), load<V>(c + i, lanes));
      store(fma(load<V>(dy + i, lanes), load<V>(a + i, lanes), rest), dx + i, lanes, streams);
    });
  fence(streams);
}

}  // namespace

#define FASTNN_FAMILY_INC "normalization.inc"
#define FASTNN_FAMILY_TABLE                                \
  extern const NormalizationKernels normalization_kernels; \
  const NormalizationKernels normalization_kernels
#include "../kernels/fill.h"

}  // namespace fastnn::FASTNN_ISA
