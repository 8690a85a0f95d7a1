#include "../dispatch.h"
#include "../simd/math.h"

namespace fastnn::FASTNN_ISA {
namespace {

constexpr float kInfinity = __builtin_inff();

// NaN needs no care in the maximum: exp(NaN - max) makes the sum, and with it the whole row, NaN. So does a row of
// -inf alone, or one with +inf: -inf - -inf and inf - inf are NaN.

// Of a sum of exponentials s: what makes them probabilities. The reciprocal saves float32 a division per element;
// float64, whose users count digits, divides.
template <class T>
FASTNN_INLINE Compute<T> factor_of(Compute<T> s) {
  return sizeof(Scalar<T>) == sizeof(double) ? s : Compute<T>(1.0f) / s;
}
template <class T>
FASTNN_INLINE Compute<T> apply_factor(Compute<T> e, Compute<T> factor) {
  return sizeof(Scalar<T>) == sizeof(double) ? e / factor : e * factor;
}

// The sum of n numbers; float64 one after the other, which costs nothing beside its exp, and rounds as others do.
template <class T, class Term>
FASTNN_INLINE Scalar<T> sum_of(int64_t n, Term&& term) {
  using V = Compute<T>;
  if constexpr (sizeof(Scalar<T>) == sizeof(double)) {
    double total = 0, e[V::kLanes];
    for_lanes<V>(n, [&](int64_t i, auto lanes) {
      term(i, lanes).store(e);
      for (int k = 0; k < V::kLanes && i + k < n; ++k) total += e[k];
    });
    return total;
  } else {
    V total = V(0.0f);
    for_lanes<V>(n, [&](int64_t i, auto lanes) { total = total + head(term(i, lanes), lanes, V(0.0f)); });
    return sum(total);
  }
}

// ---- rows: one distribution is contiguous ----------------------------------------------------------------------

template <class T>
FASTNN_INLINE Compute<T> row_max(const T* x, int64_t n) {
  using V = Compute<T>;
  V top = V(-kInfinity);
  for_lanes<V>(n, [&](int64_t i, auto lanes) { top = max(top, head(load<V>(x + i, lanes), lanes, V(-kInfinity))); });
  return V(max_of(top));
}

// The next row comes from memory while the last passes over this one, which find it in L1 or L2, compute.
template <class T>
FASTNN_INLINE void fetch_next(const T* x, int64_t n) {
  __builtin_prefetch(x + n);
}

// e: n values for the exponentials, or null: they are then computed twice.
template <class T>
FASTNN_INLINE void softmax_row(const T* x, T* y, int64_t n, Scalar<T>* e, bool streams) {
  using V = Compute<T>;
  V top = row_max(x, n);
  V total = V(sum_of<T>(n, [&](int64_t i, auto lanes) {
    V v = exp(load<V>(x + i, lanes) - top);
    if (e) store(v, e + i, lanes);
    fetch_next(x + i, n);
    return v;
  }));
  V factor = factor_of<T>(total);
  for_lanes<V>(n, [&](int64_t i, auto lanes) {
    V v = e ? load<V>(e + i, lanes) : exp(load<V>(x + i, lanes) - top);
    store(apply_factor<T>(v, factor), y + i, lanes, streams);
  });
}

template <class T>
FASTNN_INLINE void log_softmax_row(const T* x, T* y, int64_t n, bool streams) {
  using V = Compute<T>;
  V top = row_max(x, n);
  V shift = log(V(sum_of<T>(n, [&](int64_t i, auto lanes) {
    fetch_next(x + i, n);
    return exp(load<V>(x + i, lanes) - top);
  })));
  for_lanes<V>(n, [&](int64_t i, auto lanes) { store((load<V>(x + i, lanes) - top) - shift, y + i, lanes, streams); });
}

template <class T>
void softmax_rows(bool log, const void* x, void* y, int64_t rows, int64_t n, void* buffer) {
  auto* px = static_cast<const T*>(x);
  auto* py = static_cast<T*>(y);
  const bool streams = buffer != nullptr;
  for (int64_t r = 0; r < rows; ++r, px += n, py += n) {
    auto* e = static_cast<Scalar<T>*>(buffer);
    // y can hold the exponentials where it has the precision of the arithmetic.
    if (sizeof(T) == sizeof(Scalar<T>) && !e) e = reinterpret_cast<Scalar<T>*>(py);
    if (log)
      log_softmax_row(px, py, n, streams);
    else
      softmax_row(px, py, n, e, streams);
  }
  fence(streams);
}

template <class T>
void softmax_rows_backward(bool log, const void* y, const void* dy, void* dx, int64_t rows, int64_t n, bool streams) {
  using V = Compute<T>;
  auto* py = static_cast<const T*>(y);
  auto* pg = static_cast<const T*>(dy);
  auto* px = static_cast<T*>(dx);
  for (int64_t r = 0; r < rows; ++r, py += n, pg += n, px += n) {
    V total = V(0.0f);
    for_lanes<V>(n, [&](int64_t i, auto lanes) {  // lanes above the tail load as zero
      V g = load<V>(pg + i, lanes);
      total = log ? total + g : fma(load<V>(py + i, lanes), g, total);
    });
    total = V(sum(total));
    for_lanes<V>(n, [&](int64_t i, auto lanes) {
      V out = load<V>(py + i, lanes), g = load<V>(pg + i, lanes);
      fetch_next(py + i, n);
      fetch_next(pg + i, n);
      store(log ? g - exp(out) * total : out * (g - total), px + i, lanes, streams);
    });
  }
  fence(streams);
}

// ---- columns: neighbours in memory belong to different distributions -------------------------------------------

template <class T>
struct alignas(64) ColumnState {
  Scalar<T> of[kSoftmaxColumns];
};

// state[c] = step(state[c], element i of column c, ...) for all i.
template <class T, class Step>
FASTNN_INLINE void fold(ColumnState<T>& state, int64_t n, int64_t stride, int64_t columns, Step&& step) {
  using V = Compute<T>;
  for (int64_t i = 0; i < n; ++i)
    for_lanes<V>(columns, [&](int64_t c, auto lanes) {
      store(step(load<V>(state.of + c, lanes), i * stride + c, c, lanes), state.of + c, lanes);
    });
}

template <class T>
void softmax_columns(bool log, const void* x, void* y, int64_t n, int64_t stride, int64_t columns) {
  using V = Compute<T>;
  auto* px = static_cast<const T*>(x);
  auto* py = static_cast<T*>(y);
  ColumnState<T> top, total;
  for (int c = 0; c < columns; ++c) {
    top.of[c] = -kInfinity;
    total.of[c] = 0;
  }
  fold<T>(top, n, stride, columns,
          [&](V m, int64_t at, int64_t, auto lanes) { return max(m, load<V>(px + at, lanes)); });
  fold<T>(total, n, stride, columns, [&](V s, int64_t at, int64_t c, auto lanes) {
    return s + exp(load<V>(px + at, lanes) - load<V>(top.of + c, lanes));
  });
  for_lanes<V>(columns, [&](int64_t c, auto lanes) {
    V s = load<V>(total.of + c, lanes);
    store(log ? fastnn::FASTNN_ISA::log(s) : factor_of<T>(s), total.of + c, lanes);
  });
  for (int64_t i = 0; i < n; ++i)
    for_lanes<V>(columns, [&](int64_t c, auto lanes) {
      V shifted = load<V>(px + i * stride + c, lanes) - load<V>(top.of + c, lanes), s = load<V>(total.of + c, lanes);
      store(log ? shifted - s : apply_factor<T>(exp(shifted), s), py + i * stride + c, lanes);
    });
}

template <class T>
void softmax_columns_backward(bool log, const void* y, const void* dy, void* dx, int64_t n, int64_t stride,
                              int64_t columns) {
  using V = Compute<T>;
  auto* py = static_cast<const T*>(y);
  auto* pg = static_cast<const T*>(dy);
  auto* px = static_cast<T*>(dx);
  ColumnState<T> total;
  for (int c = 0; c < columns; ++c) total.of[c] = 0;
  fold<T>(total, n, stride, columns, [&](V s, int64_t at, int64_t, auto lanes) {
    V g = load<V>(pg + at, lanes);
    return log ? s + g : fma(load<V>(py + at, lanes), g, s);
  });
  for (int64_t i = 0; i < n; ++i)
    for_lanes<V>(columns, [&](int64_t c, auto lanes) {
      V out = load<V>(py + i * stride + c, lanes), g = load<V>(pg + i * stride + c, lanes);
      V s = load<V>(total.of + c, lanes);
      store(log ? g - exp(out) * s : out * (g - s), px + i * stride + c, lanes);
    });
}

}  // namespace

#define FASTNN_FAMILY_INC "softmax.inc"
#define FASTNN_FAMILY_TABLE                    \
  extern const SoftmaxKernels softmax_kernels; \
  const SoftmaxKernels softmax_kernels
#include "../kernels/fill.h"

}  // namespace fastnn::FASTNN_ISA
