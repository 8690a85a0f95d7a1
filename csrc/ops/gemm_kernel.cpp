#include "../dispatch.h"
#include "../simd/activation.h"
#include "../simd/simd.h"
#include "../simd/transpose.h"
#include "gemm_tile.h"

namespace fastnn::FASTNN_ISA {
namespace {

template <class T>
TileShape tile_shape() {
  return {kMaxRows, Compute<T>::kLanes};
}

// One step of the sum: plain values, or two bfloat16 values in each 32-bit lane.
template <class T>
struct PlainStep {
  static constexpr bool kEpilogue = true;
  using S = T;
  using V = Vec<T>;
  static FASTNN_INLINE V apply(V x, V w, V acc) { return fma(x, w, acc); }
};
#if FASTNN_ISA_ID == 3
struct PairStep {
  static constexpr bool kEpilogue = true;
  using S = float;
  using V = Vec<float>;
  static FASTNN_INLINE V apply(V x, V w, V acc) { return dot_pairs(x, w, acc); }
};
#else
using PairStep = PlainStep<float>;  // never run: there is no tile_pairs
#endif

// Bias, residual, activation, and the store of v at c[at], n lanes of one column.
template <class T, bool Any, class V>
FASTNN_INLINE void finish_lanes(const Tile& t, V v, int64_t at, int column, int n, int64_t room) {
  T* c = static_cast<T*>(t.c) + at;
  if (t.accumulate) v = v + load<V>(c, n);
  if (t.bias) v = v + V(static_cast<const Scalar<T>*>(t.bias)[column]);
  if (t.residual) v = v + load<V>(static_cast<const T*>(t.residual) + at, n);
  store_row(activate<Any>(t.activation, v), c, n, room);
}

// Bias, residual, activation, and the store of the buffer. Rows or columns of c are contiguous, or neither.
template <class T, bool Any>
void finish_as(const Tile& t, int rows, int cols, const Scalar<T>* buffer) {
  using S = Scalar<T>;
  using V = Compute<T>;
  constexpr int64_t kStep = 2 * V::kLanes;
  const S *bias = static_cast<const S*>(t.bias), *sums = static_cast<const S*>(t.sums);
  const S* row_bias = static_cast<const S*>(t.row_bias);
  const T* residual = static_cast<const T*>(t.residual);
  T* c = static_cast<T*>(t.c);
  if (t.c_col == 1) {
    for (int m = 0; m < rows; ++m)
      for_lanes<V>(cols, [&](int64_t n, auto lanes) {
        V v = load<V>(buffer + m * kStep + n, lanes);
        T* to = c + m * t.c_row + n;
        if (t.accumulate) v = v + load<V>(to, lanes);
        if (sums) v = v + load<V>(sums + m * t.sums_row + n, lanes);
        if (bias) v = v + load<V>(bias + n, lanes);
        if (row_bias) v = v + V(row_bias[m]);
        if (residual) v = v + load<V>(residual + m * t.c_row + n, lanes);
        store(activate<Any>(t.activation, v), to, lanes);
      });
    return;
  }
  // Columns are apart (channels of an NCHW image): turn the tile, so that its pixels are written as vectors.
  constexpr int L = V::kLanes;
  for (int n0 = 0; n0 < cols; n0 += L)
    for (int m0 = 0; m0 < rows; m0 += L) {
      const int height = int(lesser(rows - m0, L)), width = int(lesser(cols - n0, L));
      transpose_block(buffer + m0 * kStep + n0, kStep, height, width, [&](int n, V v) {
        const int64_t at = (n0 + n) * t.c_col + m0 * t.c_row;
        if (t.c_row != 1) {
          alignas(64) S column[L];
          v.store(column);
          for (int m = 0; m < height; ++m) finish_lanes<T, Any>(t, V(column[m]), at + m * t.c_row, n0 + n, 1, 1);
        } else {
          finish_lanes<T, Any>(t, v, at, n0 + n, height, t.room - m0);
        }
      });
    }
}

template <class T>
void finish(const Tile& t, int rows, int cols, const Scalar<T>* buffer) {
  if (is_simple(t.activation))
    finish_as<T, false>(t, rows, cols, buffer);
  else
    finish_as<T, true>(t, rows, cols, buffer);
}

template <class S, int N>
FASTNN_INLINE void accumulate_columns(const Tile& t, int rows, Sink<S> sink) {
  if (!t.offsets)
    accumulate_rows<PlainStep<S>, S, N, 1, true>(t, rows, sink);
  else if (t.a_row == 1)
    accumulate_rows<PlainStep<S>, S, N, 1, false>(t, rows, sink);
  else
    accumulate_rows<PlainStep<S>, S, N, 0, false>(t, rows, sink);
}

template <class S, bool Pairs, class Out>
FASTNN_INLINE void accumulate_tile(const Tile& t, int rows, int cols, Sink<Out> sink) {
  const bool one = cols <= Vec<S>::kLanes;
  if constexpr (Pairs) {
    if (t.offsets)
      one ? accumulate_rows<PairStep, Out, 1, 0, false>(t, rows, sink)
          : accumulate_rows<PairStep, Out, 2, 0, false>(t, rows, sink);
    else
      one ? accumulate_rows<PairStep, Out, 1, 1, true>(t, rows, sink)
          : accumulate_rows<PairStep, Out, 2, 1, true>(t, rows, sink);
  } else {
    one ? accumulate_columns<S, 1>(t, rows, sink) : accumulate_columns<S, 2>(t, rows, sink);
  }
}

template <class T, bool Pairs>
FASTNN_INLINE void tile_of(const Tile& t, int rows, int cols) {
  using S = Scalar<T>;
  constexpr int L = Vec<S>::kLanes;
  const char* lines = static_cast<const char*>(t.c);
  const int64_t line = t.c_row * int64_t(sizeof(T));
  if constexpr (Pairs || sizeof(T) == sizeof(S)) {
    // Whole vectors go from registers to c.
    if (t.c_col == 1 && cols % L == 0 && !(t.accumulate && t.residual) && !t.sums && is_simple(t.activation)) {
      T* c = static_cast<T*>(t.c);
      const T* add = t.accumulate ? c : static_cast<const T*>(t.residual);
      return accumulate_tile<S, Pairs, T>(t, rows, cols,
                                          {c, t.c_row, add, t.c_row, lines, line, t.bias, t.row_bias, t.activation});
    }
  }
  alignas(64) S buffer[kMaxRows * 2 * kMaxLanes];
  accumulate_tile<S, Pairs, S>(t, rows, cols, {buffer, 2 * L, nullptr, 0, lines, line});
  finish<T>(t, rows, cols, buffer);
}

template <class T>
void tile(const Tile& t, int rows, int cols) {
  tile_of<T, false>(t, rows, cols);
}

// Writes positions 0 to 3, which stand in `buffer` like a tile's values, where the tile writes its own.
template <class T>
void finish_positions(const Tile& t, int rows, int cols, const Scalar<T>* buffer, uint8_t* position) {
  using V = Compute<T>;
  constexpr int64_t kStep = 2 * V::kLanes;
  if (t.c_col == 1) {
    for (int m = 0; m < rows; ++m)
      for_lanes<V>(cols, [&](int64_t n, auto lanes) {
        store_integers(load<V>(buffer + m * kStep + n, lanes), position + m * t.c_row + n, lanes);
      });
    return;
  }
  for (int n0 = 0; n0 < cols; n0 += V::kLanes)
    transpose_block(buffer + n0, kStep, rows, int(lesser(cols - n0, V::kLanes)),
                    [&](int n, V v) { store_integers(v, position + (n0 + n) * t.c_col, rows); });
}

// `t` for two rows of pixels, the second `a_down` elements behind the first; what is written are the maxima of 2x2
// pixels and, if `position` is given, which of the four it was. As torch, the first maximum or the last NaN wins.
template <class T>
void tile_pool(const Tile& t, int64_t a_down, int rows, int cols, uint8_t* position) {
  using S = Scalar<T>;
  using V = Compute<T>;
  constexpr int64_t kStep = 2 * V::kLanes;
  alignas(64) S up[kMaxRows * 2 * kMaxLanes], down[kMaxRows * 2 * kMaxLanes], where[kMaxRows * kMaxLanes];
  accumulate_tile<S, false, S>(t, rows, cols, {up, kStep, nullptr, 0, nullptr, 0});
  Tile second = t;
  second.a = static_cast<const S*>(t.a) + a_down;
  accumulate_tile<S, false, S>(second, rows, cols, {down, kStep, nullptr, 0, nullptr, 0});
  for (int j = 0; j < rows / 2; ++j)
    for (int n = 0; n < cols; n += V::kLanes) {
      const S *a = up + 2 * j * kStep + n, *b = down + 2 * j * kStep + n;
      if (!position) {
        V upper = larger_or_nan(V::load(a), V::load(a + kStep)), lower = larger_or_nan(V::load(b), V::load(b + kStep));
        larger_or_nan(upper, lower).store(up + j * kStep + n);
        continue;
      }
      V best = V::load(a), at = V(S(0));
      take_larger(V::load(a + kStep), V(S(1)), &best, &at);
      take_larger(V::load(b), V(S(2)), &best, &at);
      take_larger(V::load(b + kStep), V(S(3)), &best, &at);
      best.store(up + j * kStep + n);
      at.store(where + j * kStep + n);
    }
  finish<T>(t, rows / 2, cols, up);
  if (position) finish_positions<T>(t, rows / 2, cols, where, position);
}

constexpr int64_t kRowsAhead = 16;  // that are fetched to L2: rows far apart are no stream that the hardware sees

#if FASTNN_ISA_ID == 3
void tile_pairs(const Tile& t, int rows, int cols) { tile_of<bf16, true>(t, rows, cols); }
void tile_pairs_sums(const Tile& t, int rows, int cols) { tile_of<float, true>(t, rows, cols); }

// The bfloat16 pairs (k, k + 1) of one column for k up to `depth` <= 32 from p on, which follow each other.
FASTNN_INLINE Vec<float> load_pairs(const bf16* p, int64_t depth) {
  const __mmask32 in = depth >= 32 ? ~__mmask32(0) : (__mmask32(1) << depth) - 1;
  return _mm512_castsi512_ps(_mm512_maskz_loadu_epi16(in, p));
}

void pack_pairs(const void* from, int64_t step_k, int64_t step_n, int64_t k, int cols, int width, void* to) {
  const bf16* b = static_cast<const bf16*>(from);
  float* panel = static_cast<float*>(to);
  if (step_k == 1) {
    turn_panel((k + 1) / 2, cols, width, panel, [&](int64_t n, int64_t pair) __attribute__((always_inline)) {
      return load_pairs(b + n * step_n + 2 * pair, k - 2 * pair);
    });
    return;
  }
  if (step_n == 1) {
    const __m512i low = _mm512_set_epi16(47, 15, 46, 14, 45, 13, 44, 12, 43, 11, 42, 10, 41, 9, 40, 8, 39, 7, 38, 6, 37,
                                         5, 36, 4, 35, 3, 34, 2, 33, 1, 32, 0);
    const __m512i high = _mm512_add_epi16(low, _mm512_set1_epi16(16));
    for (int64_t i = 0; i < k; i += 2, panel += width)
      for (int n = 0; n < width; n += 32) {
        const int have = int(greater(0, lesser(32, cols - n))), room = int(lesser(32, width - n));
        const bf16* p = b + i * step_k + n;
        __builtin_prefetch(p + kRowsAhead * step_k, 0, 2);
        __builtin_prefetch(p + (kRowsAhead + 1) * step_k, 0, 2);
        const __m512i even = _mm512_castps_si512(load_pairs(p, have).v);
        const __m512i odd = i + 1 < k ? _mm512_castps_si512(load_pairs(p + step_k, have).v) : _mm512_setzero_si512();
        const Vec<float> first = _mm512_castsi512_ps(_mm512_permutex2var_epi16(even, low, odd));
        first.store(panel + n, int(lesser(16, room)));
        if (room > 16)
          Vec<float>(_mm512_castsi512_ps(_mm512_permutex2var_epi16(even, high, odd))).store(panel + n + 16, room - 16);
      }
    return;
  }
  bf16* each = static_cast<bf16*>(to);
  for (int64_t i = 0; i < k; i += 2, each += 2 * width)
    for (int n = 0; n < width; ++n) {
      const bf16* p = b + i * step_k + n * step_n;
      each[2 * n] = n < cols ? p[0] : bf16{0};
      each[2 * n + 1] = n < cols && i + 1 < k ? p[step_k] : bf16{0};
    }
}
#else
constexpr decltype(nullptr) tile_pairs = nullptr, tile_pairs_sums = nullptr, pack_pairs = nullptr;
#endif

// Rows of a panel from consecutive elements. Rows that end within a vector are stored as whole ones, which the next
// rows overwrite.
template <class T>
FASTNN_INLINE void pack_lines(const T* b, int64_t step_k, int64_t k, int cols, int width, Scalar<T>* panel) {
  using V = Compute<T>;
  constexpr int L = V::kLanes;
  if (cols == width && width == 2 * L) {
    for (int64_t i = 0; i < k; ++i, b += step_k, panel += width) {
      __builtin_prefetch(b + kRowsAhead * step_k, 0, 2);
      __builtin_prefetch(b + kRowsAhead * step_k + 2 * L - 1, 0, 2);
      const V low = V::load(b), high = V::load(b + L);
      low.store(panel);
      high.store(panel + L);
    }
    return;
  }
  for (int64_t i = 0; i < k; ++i, b += step_k, panel += width)
    for (int n = 0; n < width; n += L) {
      const V v = V::load(b + n, int(greater(0, lesser(L, cols - n))));
      if (width - n >= L || (k - i) * width >= n + L)
        v.store(panel + n);
      else
        v.store(panel + n, width - n);
    }
}

template <class T>
void pack_panel(const void* from, int64_t step_k, int64_t step_n, int64_t k, int cols, int width, void* to) {
  using S = Scalar<T>;
  using V = Compute<T>;
  const T* b = static_cast<const T*>(from);
  S* panel = static_cast<S*>(to);
  if (step_n == 1) return pack_lines(b, step_k, k, cols, width, panel);
  if (step_k == 1) {
    turn_panel(k, cols, width, panel, [&](int64_t n, int64_t i) __attribute__((always_inline)) {
      return V::load(b + n * step_n + i, int(lesser(V::kLanes, k - i)));
    });
    return;
  }
  for (int64_t i = 0; i < k; ++i)
    for (int n = 0; n < width; ++n)
      n < cols ? V::load(b + i * step_k + n * step_n, 1).store(panel + i * width + n, 1)
               : V(S(0)).store(panel + i * width + n, 1);
}

// What one step of dot_rows reads from a row: a vector of values, or of bfloat16 pairs.
template <class T>
struct DotStep {
  using V = Compute<T>;
  static constexpr int kStep = V::kLanes;
  template <class Lanes>
  static FASTNN_INLINE V read(const T* p, Lanes n) {
    return load<V>(p, n);
  }
  static FASTNN_INLINE V apply(V x, V w, V acc) { return fma(x, w, acc); }
};
#if FASTNN_ISA_ID == 3
template <>
struct DotStep<bf16> {
  using V = Vec<float>;
  static constexpr int kStep = 2 * V::kLanes;
  static FASTNN_INLINE V read(const bf16* p, Full) { return _mm512_castsi512_ps(_mm512_loadu_si512(p)); }
  static FASTNN_INLINE V read(const bf16* p, int n) { return load_pairs(p, n); }
  static FASTNN_INLINE V apply(V x, V w, V acc) { return dot_pairs(x, w, acc); }
};
#endif

// out[i * N + j] = sum_k a[i * lda + k] b[j * ldb + k] for i < M, j < N.
template <class T, int M, int N>
FASTNN_INLINE void dot_block(int64_t k, const T* a, int64_t lda, const T* b, int64_t ldb, Scalar<T>* out) {
  using Dot = DotStep<T>;
  using V = typename Dot::V;
  V acc[M][N];
  for (int i = 0; i < M; ++i)
    for (int j = 0; j < N; ++j) acc[i][j] = V(Scalar<T>(0));
  auto step = [&](int64_t p, auto lanes) __attribute__((always_inline)) {
    V x[M];
#pragma GCC unroll 4
    for (int i = 0; i < M; ++i) x[i] = Dot::read(a + i * lda + p, lanes);
#pragma GCC unroll 8
    for (int j = 0; j < N; ++j) {
      const V w = Dot::read(b + j * ldb + p, lanes);
      // The few rows of b that are read at once are too few streams to keep the memory busy: the next ones are fetched.
      if (N < 8) __builtin_prefetch(b + (N + j) * ldb + p, 0, 2);
#pragma GCC unroll 4
      for (int i = 0; i < M; ++i) acc[i][j] = Dot::apply(x[i], w, acc[i][j]);
    }
  };
  int64_t p = 0;
  for (; p + Dot::kStep <= k; p += Dot::kStep) step(p, Full());
  if (p < k) step(p, int(k - p));
  for (int i = 0; i < M; ++i)
    for (int j = 0; j < N; ++j) out[i * N + j] = sum(acc[i][j]);
}

// Columns of b that are read at once beside M rows of a: as many sums as there are registers for.
template <int M>
constexpr int kDotColumns = M == 1           ? 8
                            : kMaxRows >= 14 ? (M == 2 ? 8 : 4)
                                             : (M == 4 ? 2 : 4);

template <class T>
void dot_rows(int64_t m, int64_t n, int64_t k, const void* pa, int64_t lda, const void* pb, int64_t ldb, void* pc,
              int64_t ldc, const void* pbias, Activation f) {
  using S = Scalar<T>;
  using V = Compute<T>;
  const T *a = static_cast<const T*>(pa), *b = static_cast<const T*>(pb);
  T* c = static_cast<T*>(pc);
  const S* bias = static_cast<const S*>(pbias);
  with_constant<4>(int(m), [&](auto rows) {
    constexpr int M = rows.value, N = kDotColumns<M>;
    alignas(64) S out[M * N];
    for (int64_t j = 0; j < n; j += N) {
      const int cols = int(lesser(N, n - j));
      if (cols == N) {
        dot_block<T, M, N>(k, a, lda, b + j * ldb, ldb, out);
      } else {
        for (int q = 0; q < cols; ++q) {
          S one[M];
          dot_block<T, M, 1>(k, a, lda, b + (j + q) * ldb, ldb, one);
          for (int i = 0; i < M; ++i) out[i * N + q] = one[i];
        }
      }
      for (int i = 0; i < M; ++i)
        for_lanes<V>(cols, [&](int64_t q, auto lanes) {
          V v = load<V>(out + i * N + q, lanes);
          if (bias) v = v + load<V>(bias + j + q, lanes);
          store(activate<true>(f, v), c + i * ldc + j + q, lanes);
        });
    }
  });
}

// Four rows of b at a time: c, which stays in the L1 cache, is then read and written once for every four.
template <class T, int M, int K>
FASTNN_INLINE void combine_step(int64_t n, const T* a, int64_t a_row, int64_t a_col, const T* b, int64_t ldb,
                                Scalar<T>* c) {
  using V = Compute<T>;
  V factor[M][K];
  for (int i = 0; i < M; ++i)
    for (int q = 0; q < K; ++q) factor[i][q] = V(sum(V::load(a + i * a_row + q * a_col, 1)));
  for_lanes<V>(n, [&](int64_t j, auto lanes) {
    V row[K];
#pragma GCC unroll 4
    for (int q = 0; q < K; ++q) row[q] = load<V>(b + q * ldb + j, lanes);
#pragma GCC unroll 4
    for (int i = 0; i < M; ++i) {
      V acc = load<V>(c + i * n + j, lanes);
#pragma GCC unroll 4
      for (int q = 0; q < K; ++q) acc = fma(factor[i][q], row[q], acc);
      store(acc, c + i * n + j, lanes);
    }
  });
}

template <class T>
void combine_rows(int64_t m, int64_t n, int64_t k, const void* pa, int64_t a_row, int64_t a_col, const void* pb,
                  int64_t ldb, void* pc) {
  const T *a = static_cast<const T*>(pa), *b = static_cast<const T*>(pb);
  auto* c = static_cast<Scalar<T>*>(pc);
  with_constant<4>(int(m), [&](auto rows) {
    int64_t i = 0;
    for (; i + 4 <= k; i += 4) combine_step<T, rows.value, 4>(n, a + i * a_col, a_row, a_col, b + i * ldb, ldb, c);
    for (; i < k; ++i) combine_step<T, rows.value, 1>(n, a + i * a_col, a_row, a_col, b + i * ldb, ldb, c);
  });
}

template <class T>
void sum_rows(const void* px, int64_t rows, int64_t step, int64_t cols, void* psums) {
  using V = Compute<T>;
  const T* x = static_cast<const T*>(px);
  Scalar<T>* sums = static_cast<Scalar<T>*>(psums);
  for_lanes<V>(cols, [&](int64_t n, auto lanes) {
    V acc = load<V>(sums + n, lanes);
    for (int64_t r = 0; r < rows; ++r) acc = acc + load<V>(x + r * step + n, lanes);
    store(acc, sums + n, lanes);
  });
}

template <class T>
void sum_run(const void* px, int64_t n, void* psums) {
  using V = Compute<T>;
  const T* x = static_cast<const T*>(px);
  V acc[4] = {V(Scalar<T>(0)), V(Scalar<T>(0)), V(Scalar<T>(0)), V(Scalar<T>(0))};
  int64_t i = 0;
  for (; i + 4 * V::kLanes <= n; i += 4 * V::kLanes)
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) acc[j] = acc[j] + V::load(x + i + j * V::kLanes);
  for_lanes<V>(n - i, [&](int64_t j, auto lanes) { acc[0] = acc[0] + load<V>(x + i + j, lanes); });
  *static_cast<Scalar<T>*>(psums) += sum((acc[0] + acc[1]) + (acc[2] + acc[3]));
}

}  // namespace

#define FASTNN_FAMILY_INC "gemm.inc"
#define FASTNN_FAMILY_TABLE              \
  extern const GemmKernels gemm_kernels; \
  const GemmKernels gemm_kernels
#include "../kernels/fill.h"

}  // namespace fastnn::FASTNN_ISA
