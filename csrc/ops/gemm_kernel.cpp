#include "../dispatch.h"
#include "../simd/activation.h"
#include "../simd/simd.h"
#include "../simd/transpose.h"

namespace fastnn::FASTNN_ISA {
namespace {

// Rows of the register tile. 14 x 2 vectors fill 28 of 32 registers; 6 x 2 fill 12 of 16.
#if FASTNN_ISA_ID == 2 || FASTNN_ISA_ID == 3
constexpr int kMaxRows = 14;
#elif FASTNN_ISA_ID == 1 || FASTNN_ISA_ID == 4
constexpr int kMaxRows = 6;
#else
constexpr int kMaxRows = 4;
#endif
constexpr int kMaxLanes = 16;

template <class T>
TileShape tile_shape() {
  return {kMaxRows, Compute<T>::kLanes};
}

// One step of the sum: plain values, or (Pairs) two bfloat16 values in each 32-bit lane.
template <bool Pairs, class V>
FASTNN_INLINE V multiply_add(V x, V w, V acc) {
#if FASTNN_ISA_ID == 3
  if constexpr (Pairs) return dot_pairs(x, w, acc);
#endif
  return fma(x, w, acc);
}

// The sum over k of R rows by N vectors, into buffer[m * 2 * kLanes + n]. Step is the row step if known, else 0.
template <class S, int R, int N, int Step, bool Pairs>
void accumulate(const Tile& t, S* buffer) {
  using V = Vec<S>;
  V acc[R][N];
#pragma GCC unroll 16
  for (int m = 0; m < R; ++m)
#pragma GCC unroll 2
    for (int j = 0; j < N; ++j) acc[m][j] = V(S(0));
  const S* b = static_cast<const S*>(t.b);
  const S* a = static_cast<const S*>(t.a);
  const int64_t step = Step ? Step : t.a_row;
  for (int64_t k = 0; k < t.k; ++k, b += t.b_step) {
    const S* p = a + t.offsets[k];
    V w[N];
#pragma GCC unroll 2
    for (int j = 0; j < N; ++j) w[j] = V::load(b + j * V::kLanes);
#pragma GCC unroll 16
    for (int m = 0; m < R; ++m) {
      V x = V(p[m * step]);
#pragma GCC unroll 2
      for (int j = 0; j < N; ++j) acc[m][j] = multiply_add<Pairs>(x, w[j], acc[m][j]);
    }
  }
#pragma GCC unroll 16
  for (int m = 0; m < R; ++m)
#pragma GCC unroll 2
    for (int j = 0; j < N; ++j) acc[m][j].store(buffer + m * 2 * V::kLanes + j * V::kLanes);
}

// accumulate<S, rows, N, Step, Pairs> for rows known at run time.
template <class S, int N, int Step, bool Pairs>
FASTNN_INLINE void accumulate_rows(const Tile& t, int rows, S* buffer) {
  with_constant<kMaxRows>(rows, [&](auto r) { accumulate<S, r.value, N, Step, Pairs>(t, buffer); });
}

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
  const S* bias = static_cast<const S*>(t.bias);
  const T* residual = static_cast<const T*>(t.residual);
  T* c = static_cast<T*>(t.c);
  if (t.c_col == 1) {
    for (int m = 0; m < rows; ++m)
      for_lanes<V>(cols, [&](int64_t n, auto lanes) {
        V v = load<V>(buffer + m * kStep + n, lanes);
        T* to = c + m * t.c_row + n;
        if (t.accumulate) v = v + load<V>(to, lanes);
        if (bias) v = v + load<V>(bias + n, lanes);
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
  if (t.activation <= Activation::relu)
    finish_as<T, false>(t, rows, cols, buffer);
  else
    finish_as<T, true>(t, rows, cols, buffer);
}

template <class S>
FASTNN_INLINE void accumulate_tile(const Tile& t, int rows, int cols, S* buffer) {
  if (cols <= Vec<S>::kLanes) {
    if (t.a_row == 1)
      accumulate_rows<S, 1, 1, false>(t, rows, buffer);
    else
      accumulate_rows<S, 1, 0, false>(t, rows, buffer);
  } else {
    if (t.a_row == 1)
      accumulate_rows<S, 2, 1, false>(t, rows, buffer);
    else
      accumulate_rows<S, 2, 0, false>(t, rows, buffer);
  }
}

template <class T>
void tile(const Tile& t, int rows, int cols) {
  alignas(64) Scalar<T> buffer[kMaxRows * 2 * kMaxLanes];
  accumulate_tile(t, rows, cols, buffer);
  finish<T>(t, rows, cols, buffer);
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
  accumulate_tile(t, rows, cols, up);
  Tile second = t;
  second.a = static_cast<const S*>(t.a) + a_down;
  accumulate_tile(second, rows, cols, down);
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

#if FASTNN_ISA_ID == 3
void tile_pairs(const Tile& t, int rows, int cols) {
  alignas(64) float buffer[kMaxRows * 2 * kMaxLanes];
  if (cols <= Vec<float>::kLanes)
    accumulate_rows<float, 1, 1, true>(t, rows, buffer);
  else
    accumulate_rows<float, 2, 1, true>(t, rows, buffer);
  finish<bf16>(t, rows, cols, buffer);
}

void pack_pairs(const void* from, int64_t step_k, int64_t step_n, int64_t k, int cols, int width, void* to) {
  const bf16* b = static_cast<const bf16*>(from);
  bf16* panel = static_cast<bf16*>(to);
  const bf16 zero = {0};
  for (int64_t i = 0; i < k; i += 2, panel += 2 * width)
    for (int n = 0; n < width; ++n) {
      const bf16* p = b + i * step_k + n * step_n;
      panel[2 * n] = n < cols ? p[0] : zero;
      panel[2 * n + 1] = n < cols && i + 1 < k ? p[step_k] : zero;
    }
}
#else
constexpr decltype(nullptr) tile_pairs = nullptr, pack_pairs = nullptr;
#endif

template <class T>
void pack_panel(const void* from, int64_t step_k, int64_t step_n, int64_t k, int cols, int width, void* to) {
  using S = Scalar<T>;
  using V = Compute<T>;
  const T* b = static_cast<const T*>(from);
  S* panel = static_cast<S*>(to);
  if (step_n == 1) {
    for (int64_t i = 0; i < k; ++i)
      for (int n = 0; n < width; n += V::kLanes) {
        int have = int(greater(0, lesser(V::kLanes, cols - n))), room = int(lesser(V::kLanes, width - n));
        V::load(b + i * step_k + n, have).store(panel + i * width + n, room);
      }
    return;
  }
  // Lanes run along k: convert a block of vectors, then turn it.
  constexpr int L = V::kLanes;
  alignas(64) S block[kMaxLanes * kMaxLanes];
  for (int64_t k0 = 0; k0 < k; k0 += L) {
    int depth = int(lesser(L, k - k0));
    for (int n = 0; n < width; n += L) {
      int room = int(lesser(L, width - n));
      for (int i = 0; i < room; ++i) {
        const T* p = b + (n + i) * step_n + k0 * step_k;
        if (n + i >= cols) {
          V(S(0)).store(block + i * L);
        } else if (step_k == 1) {
          V::load(p, depth).store(block + i * L);
        } else {
          for (int j = 0; j < depth; ++j) V::load(p + j * step_k, 1).store(block + i * L + j, 1);
        }
      }
      transpose_block(block, L, room, depth, [&](int j, V v) { v.store(panel + (k0 + j) * width + n, room); });
    }
  }
}

template <class T, int N>
FASTNN_INLINE void dot_columns(int64_t k, const T* a, const T* b, int64_t ldb, Scalar<T>* out) {
  using V = Compute<T>;
  V acc[N];
  for (int j = 0; j < N; ++j) acc[j] = V(Scalar<T>(0));
  for_lanes<V>(k, [&](int64_t i, auto lanes) {
    V x = load<V>(a + i, lanes);
#pragma GCC unroll 8
    for (int j = 0; j < N; ++j) acc[j] = fma(x, load<V>(b + j * ldb + i, lanes), acc[j]);
  });
  for (int j = 0; j < N; ++j) out[j] = sum(acc[j]);
}

template <class T>
void dot_rows(int64_t m, int64_t n, int64_t k, const void* pa, int64_t lda, const void* pb, int64_t ldb, void* pc,
              int64_t ldc, const void* pbias, Activation f) {
  using S = Scalar<T>;
  using V = Compute<T>;
  constexpr int N = 8;
  const T *a = static_cast<const T*>(pa), *b = static_cast<const T*>(pb);
  T* c = static_cast<T*>(pc);
  const S* bias = static_cast<const S*>(pbias);
  alignas(64) S out[kMaxLanes];
  for (int64_t j = 0; j < n; j += N) {
    int cols = int(lesser(N, n - j));
    for (int64_t i = 0; i < m; ++i) {
      if (cols == N)
        dot_columns<T, N>(k, a + i * lda, b + j * ldb, ldb, out);
      else
        for (int q = 0; q < cols; ++q) dot_columns<T, 1>(k, a + i * lda, b + (j + q) * ldb, ldb, out + q);
      for_lanes<V>(cols, [&](int64_t q, auto lanes) {
        V v = load<V>(out + q, lanes);
        if (bias) v = v + load<V>(bias + j + q, lanes);
        store(activate<true>(f, v), c + i * ldc + j + q, lanes);
      });
    }
  }
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
