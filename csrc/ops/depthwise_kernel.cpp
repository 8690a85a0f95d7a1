#include "../dispatch.h"
#include "../simd/activation.h"
#include "../simd/simd.h"

namespace fastnn::FASTNN_ISA {
namespace {

// Accumulators: pixels, rows of 3x3 neighbours, taps of a weight gradient, rows and columns of a block of pixels.
#if FASTNN_ISA_ID == 2
constexpr int kPixels = 14, kRows = 8, kTaps = 13, kBlockRows = 3, kBlockCols = 6;
#elif FASTNN_ISA_ID == 1 || FASTNN_ISA_ID == 4
constexpr int kPixels = 10, kRows = 4, kTaps = 9, kBlockRows = 2, kBlockCols = 4;
#else
constexpr int kPixels = 4, kRows = 2, kTaps = 5, kBlockRows = 2, kBlockCols = 2;
#endif

// ---- channels as lanes ----------------------------------------------------------------------------------------------

template <class T, bool Any, int R, class Lanes>
FASTNN_INLINE void pixels(const DepthwiseRectangle& t, const T* x, int64_t to, int64_t c, Lanes lanes) {
  using S = Scalar<T>;
  using V = Compute<T>;
  V acc[R];
  const V bias = t.bias ? load<V>(static_cast<const S*>(t.bias) + c, lanes) : V(S(0));
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) acc[r] = bias;
  const S* w = static_cast<const S*>(t.w) + c;
  for (int64_t k = 0; k < t.taps; ++k) {
    const V weight = V::load(w + t.w_offsets[k]);
    const T* p = x + t.x_offsets[k];
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) acc[r] = fma(weight, load<V>(p + r * t.x_col, lanes), acc[r]);
  }
  T* y = static_cast<T*>(t.y) + to;
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
    if (t.residual) acc[r] = acc[r] + load<V>(static_cast<const T*>(t.residual) + to + r * t.y_col, lanes);
    store(activate<Any>(t.activation, acc[r]), y + r * t.y_col, lanes);
  }
}

template <class T, bool Any>
void rectangle_as(const DepthwiseRectangle& t) {
  const int64_t tiles = (t.cols + kPixels - 1) / kPixels;
  for (int64_t r = 0; r < t.rows; ++r)
    for (int64_t i = 0; i < tiles; ++i) {
      const int64_t from = t.cols * i / tiles, count = t.cols * (i + 1) / tiles - from;
      const T* x = static_cast<const T*>(t.x) + r * t.x_row + from * t.x_col;
      const int64_t to = r * t.y_row + from * t.y_col;
      with_constant<kPixels>(int(count), [&](auto n) {
        for_lanes<Compute<T>>(t.channels,
                              [&](int64_t c, auto lanes) { pixels<T, Any, n.value>(t, x + c, to + c, c, lanes); });
      });
    }
}

// R rows by P columns of pixels whose taps are 3x3 neighbours, S apart: a vector of an input pixel is loaded once for
// all outputs that use it. What the next block to the right reads and writes is fetched ahead: its lines are too far
// apart for the hardware to see them coming.
template <class T, int S, int R, int P, class Lanes>
FASTNN_INLINE void block(const DepthwiseRectangle& t, const T* x, int64_t row, int64_t col, int64_t to, int64_t c,
                         Lanes lanes) {
  using V = Compute<T>;
  constexpr int kHigh = (R - 1) * S + 3, kWide = (P - 1) * S + 3;
  const Scalar<T>* weights = static_cast<const Scalar<T>*>(t.w) + c;
  T* y = static_cast<T*>(t.y) + to;
  V acc[R][P], w[9];
#pragma GCC unroll 9
  for (int k = 0; k < 9; ++k) w[k] = V::load(weights + t.w_offsets[k]);
  const V bias = t.bias ? load<V>(static_cast<const Scalar<T>*>(t.bias) + c, lanes) : V(0.0f);
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
    for (int i = 0; i < P; ++i) acc[r][i] = bias;
#pragma GCC unroll 8
  for (int j = 0; j < kHigh; ++j, x += row) {
    const T* p = x;
#pragma GCC unroll 16
    for (int i = 0; i < kWide; ++i, p += col) {
      const V pixel = load<V>(p, lanes);
#pragma GCC unroll 3
      for (int u = 0; u < 3; ++u)
#pragma GCC unroll 3
        for (int v = 0; v < 3; ++v)
          if ((j - u) % S == 0 && j >= u && (j - u) / S < R && (i - v) % S == 0 && i >= v && (i - v) / S < P)
            acc[(j - u) / S][(i - v) / S] = fma(w[3 * u + v], pixel, acc[(j - u) / S][(i - v) / S]);
    }
    if (j >= 3 - S)
#pragma GCC unroll 16
      for (int i = 0; i < P * S; ++i, p += col) __builtin_prefetch(p);
  }
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r, y += t.y_row)
#pragma GCC unroll 8
    for (int i = 0; i < P; ++i) {
      const int64_t at = r * t.y_row + i * t.y_col;
      if (t.residual) acc[r][i] = acc[r][i] + load<V>(static_cast<const T*>(t.residual) + to + at, lanes);
      store(activate<false>(t.activation, acc[r][i]), y + i * t.y_col, lanes);
      __builtin_prefetch(y + (P + i) * t.y_col, 1);
    }
}

// fn(first, how many as a constant) for even shares of at least half of Most.
template <int Most, class Fn>
FASTNN_INLINE void for_shares(int64_t n, Fn&& fn) {
  const int64_t shares = (n + Most - 1) / Most;
  for (int64_t i = 0; i < shares; ++i) {
    const int64_t first = n * i / shares;
    with_constant<Most>(int(n * (i + 1) / shares - first), [&](auto count) {
      if constexpr (2 * count.value >= Most) fn(first, count);
    });
  }
}

template <class T, int S>
void blocks(const DepthwiseRectangle& t) {
  const int64_t row = t.x_row / S, col = t.x_col / S;
  for_shares<kBlockRows>(t.rows, [&](int64_t r, auto rows) {
    for_shares<kBlockCols>(t.cols, [&](int64_t i, auto cols) {
      const T* x = static_cast<const T*>(t.x) + t.x_offsets[0] + r * t.x_row + i * t.x_col;
      const int64_t to = r * t.y_row + i * t.y_col;
      for_lanes<Compute<T>>(t.channels, [&](int64_t c, auto lanes) {
        block<T, S, rows.value, cols.value>(t, x + c, row, col, to + c, c, lanes);
      });
    });
  });
}

// The distance of the taps' steps if they are 3x3 neighbours and the outputs enough for a block, else 0.
int block_step(const DepthwiseRectangle& t) {
  if (t.taps != 9 || 2 * t.rows < kBlockRows || 2 * t.cols < kBlockCols) return 0;
  const int64_t row = t.x_offsets[3] - t.x_offsets[0], col = t.x_offsets[1] - t.x_offsets[0];
  for (int k = 0; k < 9; ++k)
    if (t.x_offsets[k] != t.x_offsets[0] + k / 3 * row + k % 3 * col) return 0;
  for (int step = 1; step <= 2; ++step)
    if (t.x_row == step * row && t.x_col == step * col) return step;
  return 0;
}

template <class T>
void rectangle(const DepthwiseRectangle& t) {
  if (!is_simple(t.activation)) return rectangle_as<T, true>(t);
  if constexpr (std::is_same_v<T, float> || std::is_same_v<T, bf16>)  // each type is 10 s of compilation
    if (const int step = block_step(t)) return step == 1 ? blocks<T, 1>(t) : blocks<T, 2>(t);
  rectangle_as<T, false>(t);
}

template <class T, int K, class Lanes>
FASTNN_INLINE void pixel_taps(const DepthwiseRectangle& t, int64_t first, int64_t c, Lanes lanes) {
  using S = Scalar<T>;
  using V = Compute<T>;
  S* w = static_cast<S*>(t.w) + c;
  const T* x[K];
  V acc[K];
#pragma GCC unroll 16
  for (int k = 0; k < K; ++k) {
    x[k] = static_cast<const T*>(t.x) + t.x_offsets[first + k] + c;
    acc[k] = V::load(w + t.w_offsets[first + k]);
  }
  for (int64_t r = 0; r < t.rows; ++r) {
    const T* g = static_cast<const T*>(t.y) + r * t.y_row + c;
    for (int64_t i = 0, at = r * t.x_row; i < t.cols; ++i, at += t.x_col) {
      const V d = load<V>(g + i * t.y_col, lanes);
#pragma GCC unroll 16
      for (int k = 0; k < K; ++k) acc[k] = fma(d, load<V>(x[k] + at, lanes), acc[k]);
    }
  }
#pragma GCC unroll 16
  for (int k = 0; k < K; ++k) acc[k].store(w + t.w_offsets[first + k]);
}

// fn(first tap, how many as a constant) for even shares of at most kTaps.
template <class Fn>
FASTNN_INLINE void for_taps(int64_t taps, Fn&& fn) {
  const int64_t blocks = (taps + kTaps - 1) / kTaps;
  for (int64_t b = 0; b < blocks; ++b) {
    const int64_t first = taps * b / blocks;
    with_constant<kTaps>(int(taps * (b + 1) / blocks - first), [&](auto n) { fn(first, n); });
  }
}

template <class T>
void rectangle_weight(const DepthwiseRectangle& t) {
  for_lanes<Compute<T>>(t.channels, [&](int64_t c, auto lanes) {
    for_taps(t.taps, [&](int64_t first, auto n) { pixel_taps<T, n.value>(t, first, c, lanes); });
  });
}

// ---- pixels as lanes ------------------------------------------------------------------------------------------------

// Whether the taps are 3x3 neighbours: then a vector of pixels, most of which cross a line of the cache, is loaded once
// for the three rows of outputs or weights that use it.
bool is_3x3(const DepthwisePlane& t) {
  if (t.taps != 9) return false;
  for (int k = 0; k < 9; ++k)
    if (t.x_offsets[k] != t.x_offsets[0] + k / 3 * t.x_row + k % 3) return false;
  return true;
}

// fn(first row, how many as a constant) for even shares of at most Most rows.
template <int Most, class Fn>
FASTNN_INLINE void for_rows(int64_t rows, Fn&& fn) {
  const int64_t blocks = (rows + Most - 1) / Most;
  for (int64_t b = 0; b < blocks; ++b) {
    const int64_t first = rows * b / blocks;
    with_constant<Most>(int(rows * (b + 1) / blocks - first), [&](auto n) { fn(first, n); });
  }
}

template <class T, bool Any, int R, class Lanes>
FASTNN_INLINE void finish_rows(const DepthwisePlane& t, const Compute<T> (&acc)[R], int64_t to, Lanes lanes) {
  using V = Compute<T>;
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r, to += t.y_row) {
    V v = acc[r];
    if (t.residual) v = v + load<V>(static_cast<const T*>(t.residual) + to, lanes);
    store(activate<Any>(t.activation, v), static_cast<T*>(t.y) + to, lanes);
  }
}

template <class T, bool Any, int R, class Lanes>
FASTNN_INLINE void rows_3x3(const DepthwisePlane& t, const Compute<T> (&w)[9], Compute<T> bias, int64_t row, int64_t i,
                            Lanes lanes) {
  using V = Compute<T>;
  const Scalar<T>* x = static_cast<const Scalar<T>*>(t.x) + t.x_offsets[0] + row * t.x_row + i;
  V acc[R];
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) acc[r] = bias;
#pragma GCC unroll 16
  for (int y = 0; y < R + 2; ++y, x += t.x_row)
#pragma GCC unroll 3
    for (int v = 0; v < 3; ++v) {
      const V pixels = V::load(x + v);
#pragma GCC unroll 3
      for (int u = 0; u < 3; ++u)
        if (y - u >= 0 && y - u < R) acc[y - u] = fma(w[3 * u + v], pixels, acc[y - u]);
    }
  finish_rows<T, Any>(t, acc, row * t.y_row + i, lanes);
}

template <class T, bool Any, int R, class Lanes>
FASTNN_INLINE void rows_of_taps(const DepthwisePlane& t, Compute<T> bias, int64_t row, int64_t i, Lanes lanes) {
  using S = Scalar<T>;
  using V = Compute<T>;
  const S *x = static_cast<const S*>(t.x) + row * t.x_row + i, *w = static_cast<const S*>(t.w);
  V acc[R];
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) acc[r] = bias;
  for (int64_t k = 0; k < t.taps; ++k) {
    const V weight = V(w[t.w_offsets[k]]);
    const S* p = x + t.x_offsets[k];
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) acc[r] = fma(weight, V::load(p + r * t.x_row), acc[r]);
  }
  finish_rows<T, Any>(t, acc, row * t.y_row + i, lanes);
}

template <class T, bool Any>
void plane_as(const DepthwisePlane& t) {
  using S = Scalar<T>;
  using V = Compute<T>;
  const V bias = t.bias ? V(*static_cast<const S*>(t.bias)) : V(S(0));
  if (!is_3x3(t)) {
    for_rows<kPixels>(t.rows, [&](int64_t row, auto n) {
      for_lanes<V>(t.cols, [&](int64_t i, auto lanes) { rows_of_taps<T, Any, n.value>(t, bias, row, i, lanes); });
    });
    return;
  }
  V w[9];
#pragma GCC unroll 9
  for (int k = 0; k < 9; ++k) w[k] = V(static_cast<const S*>(t.w)[t.w_offsets[k]]);
  for_rows<kRows>(t.rows, [&](int64_t row, auto n) {
    for_lanes<V>(t.cols, [&](int64_t i, auto lanes) { rows_3x3<T, Any, n.value>(t, w, bias, row, i, lanes); });
  });
}

template <class T>
void plane(const DepthwisePlane& t) {
  is_simple(t.activation) ? plane_as<T, false>(t) : plane_as<T, true>(t);
}

template <class T, int K>
FASTNN_INLINE void plane_taps(const DepthwisePlane& t, int64_t first) {
  using S = Scalar<T>;
  using V = Compute<T>;
  const S* x[K];
  V acc[K];
#pragma GCC unroll 16
  for (int k = 0; k < K; ++k) {
    x[k] = static_cast<const S*>(t.x) + t.x_offsets[first + k];
    acc[k] = V(S(0));
  }
  for (int64_t r = 0; r < t.rows; ++r) {
    const T* g = static_cast<const T*>(t.y) + r * t.y_row;
    for_lanes<V>(t.cols, [&](int64_t i, auto lanes) {
      const V d = load<V>(g + i, lanes);
#pragma GCC unroll 16
      for (int k = 0; k < K; ++k) acc[k] = fma(d, load<V>(x[k] + r * t.x_row + i, lanes), acc[k]);
    });
  }
  S* w = static_cast<S*>(t.w);
#pragma GCC unroll 16
  for (int k = 0; k < K; ++k) w[t.w_offsets[first + k]] += sum(acc[k]);
}

template <class T>
void plane_weight_3x3(const DepthwisePlane& t) {
  using S = Scalar<T>;
  using V = Compute<T>;
  V acc[9];
#pragma GCC unroll 9
  for (int k = 0; k < 9; ++k) acc[k] = V(S(0));
  for_rows<kRows>(t.rows, [&](int64_t row, auto n) {
    for_lanes<V>(t.cols, [&](int64_t i, auto lanes) {
      constexpr int R = n.value;
      const T* g = static_cast<const T*>(t.y) + row * t.y_row + i;
      const S* x = static_cast<const S*>(t.x) + t.x_offsets[0] + row * t.x_row + i;
      V d[R];
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) d[r] = load<V>(g + r * t.y_row, lanes);
#pragma GCC unroll 16
      for (int y = 0; y < R + 2; ++y, x += t.x_row)
#pragma GCC unroll 3
        for (int v = 0; v < 3; ++v) {
          const V pixels = load<V>(x + v, lanes);
#pragma GCC unroll 3
          for (int u = 0; u < 3; ++u)
            if (y - u >= 0 && y - u < R) acc[3 * u + v] = fma(d[y - u], pixels, acc[3 * u + v]);
        }
    });
  });
  S* w = static_cast<S*>(t.w);
#pragma GCC unroll 9
  for (int k = 0; k < 9; ++k) w[t.w_offsets[k]] += sum(acc[k]);
}

template <class T>
void plane_weight(const DepthwisePlane& t) {
  if (is_3x3(t)) return plane_weight_3x3<T>(t);
  for_taps(t.taps, [&](int64_t first, auto n) { plane_taps<T, n.value>(t, first); });
}

template <class T>
void spread(const void* px, int64_t x_row, int64_t rows, int64_t cols, int64_t phases, int64_t first, void* pto,
            int64_t to_row, int64_t to_phase) {
  using V = Compute<T>;
  constexpr int L = V::kLanes;
  for (int64_t r = 0; r < rows; ++r) {
    const T* x = static_cast<const T*>(px) + r * x_row;
    Scalar<T>* to = static_cast<Scalar<T>*>(pto) + r * to_row;
    int64_t i = 0;
    if (phases == 1) {
      for_lanes<V>(cols, [&](int64_t j, auto lanes) { store(load<V>(x + j, lanes), to + first + j, lanes); });
      continue;
    }
    if (phases == 2) {
      Scalar<T>* even = to + first % 2 * to_phase + first / 2;
      Scalar<T>* odd = to + (first + 1) % 2 * to_phase + (first + 1) / 2;
      for (; i + 2 * L <= cols; i += 2 * L) {
        V a, b;
        deinterleave(V::load(x + i), V::load(x + i + L), &a, &b);
        a.store(even + i / 2);
        b.store(odd + i / 2);
      }
      if (i < cols) {
        const int left = int(cols - i), n = int(lesser(L, left));
        V a, b;
        deinterleave(V::load(x + i, n), left > n ? V::load(x + i + L, left - n) : V(Scalar<T>(0)), &a, &b);
        a.store(even + i / 2, (left + 1) / 2);
        b.store(odd + i / 2, left / 2);
      }
      continue;
    }
    for (; i < cols; ++i) V::load(x + i, 1).store(to + (first + i) % phases * to_phase + (first + i) / phases, 1);
  }
}

template <class T>
void weave(const void* px, int64_t x_row, int64_t x_phase, int64_t rows, int64_t cols, int64_t phases, void* pto,
           int64_t to_row) {
  using V = Compute<T>;
  constexpr int L = V::kLanes;
  for (int64_t r = 0; r < rows; ++r) {
    const T* x = static_cast<const T*>(px) + r * x_row;
    T* to = static_cast<T*>(pto) + r * to_row;
    int64_t i = 0;
    if (phases == 2) {
      for (; i + 2 * L <= cols; i += 2 * L) {
        V a, b;
        interleave(V::load(x + i / 2), V::load(x + x_phase + i / 2), &a, &b);
        a.store(to + i);
        b.store(to + i + L);
      }
      if (i < cols) {
        const int left = int(cols - i), n = int(lesser(L, left));
        V a, b;
        interleave(V::load(x + i / 2, (left + 1) / 2), V::load(x + x_phase + i / 2, left / 2), &a, &b);
        a.store(to + i, n);
        if (left > n) b.store(to + i + L, left - n);
      }
      continue;
    }
    for (; i < cols; ++i) to[i] = x[i % phases * x_phase + i / phases];
  }
}

}  // namespace

#define FASTNN_FAMILY_INC "depthwise.inc"
#define FASTNN_FAMILY_TABLE                        \
  extern const DepthwiseKernels depthwise_kernels; \
  const DepthwiseKernels depthwise_kernels
#include "../kernels/fill.h"

}  // namespace fastnn::FASTNN_ISA
