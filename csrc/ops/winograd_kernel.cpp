#include "../dispatch.h"
#include "../simd/activation.h"
#include "../simd/simd.h"
#include "../simd/transpose.h"

namespace fastnn::FASTNN_ISA {
namespace {

using V = Vec<float>;
constexpr int L = V::kLanes;

// Rows (tiles) of the register tile, as in gemm_kernel.cpp.
#if FASTNN_ISA_ID == 2
constexpr int kRows = 14;
#elif FASTNN_ISA_ID == 1 || FASTNN_ISA_ID == 4
constexpr int kRows = 6;
#else
constexpr int kRows = 4;
#endif

TileShape shape() { return {kRows, L}; }

// ---- the transforms along one axis, for the points 0, a, -a, b, -b and infinity
// ---------------------------------------

constexpr float kA = 0.75f, kB = 1.5f, kA2 = kA * kA, kB2 = kB * kB;  // and b = 2 a

// B^T d
FASTNN_INLINE void transform_6(const V (&d)[6], V (&t)[6]) {
  const V a2 = V(-kA2), b2 = V(-kB2), product = V(kA2 * kB2), sum = V(-kA2 - kB2);
  V even_a = fma(b2, d[2], d[4]), odd_a = fma(b2, d[1], d[3]);
  V even_b = fma(a2, d[2], d[4]), odd_b = fma(a2, d[1], d[3]);
  t[0] = fma(product, d[0], fma(sum, d[2], d[4]));
  t[1] = fma(V(kA), odd_a, even_a);
  t[2] = fma(V(-kA), odd_a, even_a);
  t[3] = fma(V(kB), odd_b, even_b);
  t[4] = fma(V(-kB), odd_b, even_b);
  t[5] = fma(product, d[1], fma(sum, d[3], d[5]));
}

// A^T m, for four outputs or two
FASTNN_INLINE void transform_back(const V (&m)[6], V (&y)[4]) {
  V s = m[1] + m[2], d = m[1] - m[2], p = m[3] + m[4], q = m[3] - m[4];
  y[0] = (m[0] + s) + p;
  y[1] = V(kA) * fma(V(2.0f), q, d);
  y[2] = V(kA2) * fma(V(4.0f), p, s);
  y[3] = fma(V(kA2 * kA), fma(V(8.0f), q, d), m[5]);
}
FASTNN_INLINE void transform_back(const V (&m)[6], V (&y)[2]) {
  V s = m[1] + m[2], d = m[1] - m[2], p = m[3] + m[4], q = m[3] - m[4];
  y[0] = (m[0] + s) + p;
  y[1] = fma(V(kA), fma(V(2.0f), q, d), m[5]);
}

// G g, for three taps or five
template <int Taps>
FASTNN_INLINE void transform_taps(const V (&g)[Taps], V (&u)[6]) {
  constexpr float a = 1 / (2 * kA2 * (kA2 - kB2)), b = 1 / (2 * kB2 * (kB2 - kA2));
  V even_a = fma(V(kA2 * a), g[2], V(a) * g[0]), even_b = fma(V(kB2 * b), g[2], V(b) * g[0]);
  V odd_a = g[1], odd_b = g[1];
  if constexpr (Taps == 5) {
    even_a = fma(V(kA2 * kA2 * a), g[4], even_a), even_b = fma(V(kB2 * kB2 * b), g[4], even_b);
    odd_a = fma(V(kA2), g[3], odd_a), odd_b = fma(V(kB2), g[3], odd_b);
  }
  u[0] = V(1 / (kA2 * kB2)) * g[0];
  u[1] = fma(V(kA * a), odd_a, even_a);
  u[2] = fma(V(-kA * a), odd_a, even_a);
  u[3] = fma(V(kB * b), odd_b, even_b);
  u[4] = fma(V(-kB * b), odd_b, even_b);
  u[5] = g[Taps - 1];
}

// ---- weights --------------------------------------------------------------------------------------------------------

template <int Side>
FASTNN_INLINE void transform_weights(const float* w, const int* taps, int64_t channels, int vectors, float* u,
                                     int64_t u_step) {
  const int width = vectors * L;
  for (int64_t c = 0; c < channels; ++c, w += Side * Side * width, u += width)
    for (int n = 0; n < width; n += L) {
      V rows[6][Side];
#pragma GCC unroll 5
      for (int j = 0; j < Side; ++j) {
        V g[Side], t[6];
#pragma GCC unroll 5
        for (int i = 0; i < Side; ++i) g[i] = V::load(w + taps[Side * i + j] * width + n);
        transform_taps(g, t);
#pragma GCC unroll 6
        for (int i = 0; i < 6; ++i) rows[i][j] = t[i];
      }
#pragma GCC unroll 6
      for (int i = 0; i < 6; ++i) {
        V t[6];
        transform_taps(rows[i], t);
#pragma GCC unroll 6
        for (int j = 0; j < 6; ++j) t[j].store(u + (6 * i + j) * u_step + n);
      }
    }
}

void transform_weight(const float* w, int side, const int* taps, int64_t channels, int vectors, float* u,
                      int64_t u_step) {
  side == 3 ? transform_weights<3>(w, taps, channels, vectors, u, u_step)
            : transform_weights<5>(w, taps, channels, vectors, u, u_step);
}

// ---- input ----------------------------------------------------------------------------------------------------------

// Channels c to c + n, n <= L, of the run's pixels, channels last: region[6][cols][L]. Pixels outside of the image are
// left alone.
FASTNN_INLINE void copy_channels(const WinogradInput& t, int64_t c, int n, int64_t cols) {
  const int64_t from = greater(0, -t.left), to = lesser(cols, t.width - t.left);
  for (int64_t i = greater(0, -t.top); i < lesser(6, t.height - t.top); ++i) {
    const float* x = t.x + c * t.x_channel + (t.top + i) * t.x_row + t.left * t.x_col;
    float* region = t.region + i * cols * L;
    if (t.x_channel == 1) {
      if (n == L)
        for (int64_t j = from; j < to; ++j) V::load(x + j * t.x_col).store(region + j * L);
      else
        for (int64_t j = from; j < to; ++j) V::load(x + j * t.x_col, n).store(region + j * L);
      continue;
    }
    for (int64_t j0 = from; j0 < to; j0 += L)
      transpose_block(x + j0, t.x_channel, n, int(lesser(L, to - j0)),
                      [&](int j, V v) { v.store(region + (j0 + j) * L); });
  }
}

void transform_input(const WinogradInput& t) {
  const int64_t cols = t.side * t.tiles + 6 - t.side, blocks = (t.channels + L - 1) / L;
  if (t.top < 0 || t.left < 0 || t.top + 6 > t.height || t.left + cols > t.width)
    for (int64_t i = 0; i < 6 * cols; ++i) V(0.0f).store(t.region + i * L);
  for (int64_t block = 0; block < blocks; ++block) {
    copy_channels(t, block * L, int(lesser(L, t.channels - block * L)), cols);
    for (int64_t tile = 0; tile < t.tiles; ++tile) {
      const int64_t at = t.first + tile, group = at / t.rows, row = at % t.rows;
      float* v = t.v + (((group * blocks + block) * t.rows) + row) * L;
      const float* x = t.region + t.side * tile * L;
      V rows[6][6];
#pragma GCC unroll 6
      for (int i = 0; i < 6; ++i) {
        V d[6];
#pragma GCC unroll 6
        for (int j = 0; j < 6; ++j) d[j] = V::load(x + (i * cols + j) * L);
        transform_6(d, rows[i]);
      }
#pragma GCC unroll 6
      for (int j = 0; j < 6; ++j) {
        V d[6], column[6];
#pragma GCC unroll 6
        for (int i = 0; i < 6; ++i) d[i] = rows[i][j];
        transform_6(d, column);
#pragma GCC unroll 6
        for (int i = 0; i < 6; ++i) column[i].store(v + (6 * i + j) * t.v_step);
      }
    }
  }
}

// ---- products -------------------------------------------------------------------------------------------------------

template <int R, int N>
void product(const float* v, int64_t v_block, const float* u, int64_t channels, float* m) {
  V acc[R][N];
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
    for (int j = 0; j < N; ++j) acc[r][j] = V(0.0f);
  for (int64_t c = 0; c < channels; c += L, v += v_block) {
    const int64_t depth = lesser(L, channels - c);
    for (int64_t i = 0; i < depth; ++i, u += N * L) {
      V w[N];
#pragma GCC unroll 2
      for (int j = 0; j < N; ++j) w[j] = V::load(u + j * L);
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) {
        V x = V(v[r * L + i]);
#pragma GCC unroll 2
        for (int j = 0; j < N; ++j) acc[r][j] = fma(x, w[j], acc[r][j]);
      }
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
    for (int j = 0; j < N; ++j) acc[r][j].store(m + (r * N + j) * L);
}

template <int N>
void products(const WinogradProduct& t) {
  const int64_t v_block = t.rows * L, v_group = (t.channels + L - 1) / L * v_block;
  for (int64_t k = 0; k < 36; ++k) {
    const float* v = t.v + k * t.v_step;
    float* m = t.m + k * t.m_step;
    for (int64_t first = 0; first < t.tiles; first += t.rows, v += v_group, m += t.rows * N * L)
      with_constant<kRows>(int(lesser(t.rows, t.tiles - first)),
                           [&](auto rows) { product<rows.value, N>(v, v_block, t.u + k * t.u_step, t.channels, m); });
  }
}

void multiply(const WinogradProduct& t) { t.vectors == 1 ? products<1>(t) : products<2>(t); }

// ---- output ---------------------------------------------------------------------------------------------------------

// One vector of channels of the run, before the epilogue: block[pixel][L], the pixels of a row one after the other.
template <int Side>
FASTNN_INLINE void transform_tiles(const WinogradOutput& t, const float* m, int64_t cols, float* block,
                                   float* position) {
  const int64_t m_tile = t.vectors * L;
  for (int64_t tile = 0; tile < t.tiles; ++tile, m += m_tile) {
    V rows[Side][6], y[Side][Side];
#pragma GCC unroll 6
    for (int j = 0; j < 6; ++j) {
      V column[6], s[Side];
#pragma GCC unroll 6
      for (int i = 0; i < 6; ++i) column[i] = V::load(m + (6 * i + j) * t.m_step);
      transform_back(column, s);
#pragma GCC unroll 4
      for (int i = 0; i < Side; ++i) rows[i][j] = s[i];
    }
#pragma GCC unroll 4
    for (int i = 0; i < Side; ++i) transform_back(rows[i], y[i]);
    if (!t.pool) {
      float* to = block + Side * tile * L;
#pragma GCC unroll 4
      for (int i = 0; i < Side; ++i)
#pragma GCC unroll 4
        for (int j = 0; j < Side; ++j)
          if (i < t.rows && Side * tile + j < cols) y[i][j].store(to + (i * cols + j) * L);
      continue;
    }
#pragma GCC unroll 2
    for (int i = 0; i < Side / 2; ++i)
#pragma GCC unroll 2
      for (int j = 0; j < Side / 2; ++j) {
        if (2 * i >= t.rows || Side / 2 * tile + j >= cols) continue;
        const int64_t to = (i * cols + Side / 2 * tile + j) * L;
        V best = y[2 * i][2 * j], at = V(0.0f);
        take_larger(y[2 * i][2 * j + 1], V(1.0f), &best, &at);
        take_larger(y[2 * i + 1][2 * j], V(2.0f), &best, &at);
        take_larger(y[2 * i + 1][2 * j + 1], V(3.0f), &best, &at);
        best.store(block + to);
        at.store(position + to);
      }
  }
}

template <bool Any>
void finish(const WinogradOutput& t) {
  const int64_t unit = t.pool ? 2 : 1;
  int64_t rows = t.rows / unit, cols = t.cols / unit;
  float* position = t.block + 16 * t.tiles * L;
  for (int first = 0; first < t.channels; first += L) {
    const int n = int(lesser(L, t.channels - first));
    t.side == 4 ? transform_tiles<4>(t, t.m + first, cols, t.block, position)
                : transform_tiles<2>(t, t.m + first, cols, t.block, position);
    if (t.y_channel == 1) {
      for (int64_t i = 0; i < rows; ++i)
        for (int64_t j = 0; j < cols; ++j)
          for_lanes<V>(n, [&](int64_t, auto lanes) {
            const int64_t to = i * t.y_row + j * t.y_col + first, from = (i * cols + j) * L;
            V v = V::load(t.block + from);
            if (t.bias) v = v + load<V>(t.bias + first, lanes);
            if (t.residual) v = v + load<V>(t.residual + to, lanes);
            store(activate<Any>(t.activation, v), t.y + to, lanes);
            if (t.position) store_integers(V::load(position + from), t.position + to, lanes);
          });
      continue;
    }
    // Rows that follow each other in memory are one long row.
    const bool follow = t.y_row == cols;
    const int64_t lines = follow ? 1 : rows, line = follow ? rows * cols : cols;
    for (int64_t i = 0; i < lines; ++i)
      for_lanes<V>(line, [&](int64_t j, auto lanes) {
        const int64_t from = (i * line + j) * L, at = first * t.y_channel + i * t.y_row + j;
        const int count = int(lesser(L, line - j));
        transpose_block(t.block + from, L, count, n, [&](int c, V v) {
          const int64_t to = at + c * t.y_channel;
          if (t.bias) v = v + V(t.bias[first + c]);
          if (t.residual) v = v + load<V>(t.residual + to, lanes);
          store(activate<Any>(t.activation, v), t.y + to, lanes);
        });
        if (t.position)
          transpose_block(position + from, L, count, n,
                          [&](int c, V v) { store_integers(v, t.position + at + c * t.y_channel, lanes); });
      });
  }
}

void transform_output(const WinogradOutput& t) { is_simple(t.activation) ? finish<false>(t) : finish<true>(t); }

}  // namespace

#define FASTNN_FAMILY_INC "winograd.inc"
#define FASTNN_FAMILY_TABLE                      \
  extern const WinogradKernels winograd_kernels; \
  const WinogradKernels winograd_kernels
#include "../kernels/fill.h"

}  // namespace fastnn::FASTNN_ISA
