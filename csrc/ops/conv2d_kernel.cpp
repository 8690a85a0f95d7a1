#include "../dispatch.h"
#include "../simd/activation.h"
#include "../simd/simd.h"

namespace fastnn::FASTNN_ISA {
namespace {

// Registers: kChannels x kVectors accumulators for pixel_tile, kTaps x kWeightChannels for pixel_weight_tile.
#if FASTNN_ISA_ID == 2 || FASTNN_ISA_ID == 3
constexpr int kChannels = 6, kVectors = 4, kTaps = 4, kWeightChannels = 6, kMaxTaps = 14;
#elif FASTNN_ISA_ID == 1
constexpr int kChannels = 6, kVectors = 2, kTaps = 5, kWeightChannels = 2, kMaxTaps = 6;
#elif FASTNN_ISA_ID == 4
constexpr int kChannels = 6, kVectors = 2, kTaps = 5, kWeightChannels = 2, kMaxTaps = 6;
#else
constexpr int kChannels = 6, kVectors = 1, kTaps = 3, kWeightChannels = 2, kMaxTaps = 4;
#endif

// Pixels whose products are added one after another before they join a sum: longer chains round worse, shorter ones
// read and write the sums more often.
constexpr int64_t kChain = 128;

template <class T>
void copy_image(const void* px, int64_t x_channel, int64_t x_row, int64_t channels, int64_t rows, int64_t cols,
                void* to, int64_t to_channel, int64_t to_row) {
  using V = Compute<T>;
  const T* x = static_cast<const T*>(px);
  Scalar<T>* out = static_cast<Scalar<T>*>(to);
  for (int64_t c = 0; c < channels; ++c)
    for (int64_t y = 0; y < rows; ++y)
      for_lanes<V>(cols, [&](int64_t i, auto lanes) {
        store(load<V>(x + c * x_channel + y * x_row + i, lanes), out + c * to_channel + y * to_row + i, lanes);
      });
}

// ---- pixels as lanes: forward and backward-data -------------------------------------------------------------------

// A vector of pixels: where it reads, where it writes, how many of its lanes exist.
template <class S>
struct Slot {
  const S* x;
  int64_t out;
  int lanes;
};

// The sums of C channels by N vectors of pixels, with the bias.
template <class S, int C, int N>
FASTNN_INLINE void pixel_sums(const PixelTile& t, const Slot<S>* slots, int first, int channels, Vec<S> (&acc)[C][N]) {
  using V = Vec<S>;
#pragma GCC unroll 8
  for (int o = 0; o < C; ++o) {
    V bias = t.bias ? V(static_cast<const S*>(t.bias)[first + o]) : V(S(0));
#pragma GCC unroll 4
    for (int j = 0; j < N; ++j) acc[o][j] = bias;
  }
  const S* w = static_cast<const S*>(t.w) + first;
  for (int64_t k = 0; k < t.k; ++k, w += channels) {
    int64_t at = t.offsets[k];
    V x[N];
#pragma GCC unroll 4
    for (int j = 0; j < N; ++j) x[j] = V::load(slots[j].x + at);
#pragma GCC unroll 8
    for (int o = 0; o < C; ++o) {
      V s = V(w[o]);
#pragma GCC unroll 4
      for (int j = 0; j < N; ++j) acc[o][j] = fma(s, x[j], acc[o][j]);
    }
  }
}

template <class T, bool Any, int C, int N>
void pixel_block(const PixelTile& t, const Slot<Scalar<T>>* slots, int first, int channels) {
  using V = Compute<T>;
  V acc[C][N];
  pixel_sums<Scalar<T>, C, N>(t, slots, first, channels, acc);
  T* c = static_cast<T*>(t.c);
#pragma GCC unroll 8
  for (int o = 0; o < C; ++o) {
#pragma GCC unroll 4
    for (int j = 0; j < N; ++j) {
      V v = activate<Any>(t.activation, acc[o][j]);
      T* to = c + (first + o) * t.c_channel + slots[j].out;
      if (slots[j].lanes == V::kLanes)
        v.store(to);
      else
        v.store(to, slots[j].lanes);
    }
  }
}

// Slots come in pairs, a vector of pixels and the one below it.
template <class T, int C, int N>
void pixel_block_pool(const PixelTile& t, const Slot<Scalar<T>>* slots, int first, int channels, uint8_t* position) {
  using S = Scalar<T>;
  using V = Compute<T>;
  V acc[C][N];
  pixel_sums<S, C, N>(t, slots, first, channels, acc);
  T* c = static_cast<T*>(t.c);
#pragma GCC unroll 8
  for (int o = 0; o < C; ++o) {
#pragma GCC unroll 2
    for (int j = 0; j < N; j += 2) {
      const int64_t to = (first + o) * t.c_channel + slots[j].out;
      if (!position) {
        V even, odd, high = larger_or_nan(acc[o][j], acc[o][j + 1]);
        deinterleave(high, high, &even, &odd);
        activate<false>(t.activation, larger_or_nan(even, odd)).store(c + to, slots[j].lanes / 2);
        continue;
      }
      V a, b, d, e;
      deinterleave(acc[o][j], acc[o][j], &a, &b);
      deinterleave(acc[o][j + 1], acc[o][j + 1], &d, &e);
      V best = a, at = V(S(0));
      take_larger(b, V(S(1)), &best, &at);
      take_larger(d, V(S(2)), &best, &at);
      take_larger(e, V(S(3)), &best, &at);
      activate<false>(t.activation, best).store(c + to, slots[j].lanes / 2);
      store_integers(at, position + to, slots[j].lanes / 2);
    }
  }
}

// fn(first pixel, lanes) for the vectors of a row. The last one of a row that is long enough is moved back to be full:
// it computes some pixels again, which costs nothing, where masked stores took a fifth of LeNet's conv 1.
template <int L, class Fn>
FASTNN_INLINE void for_slots(int64_t width, Fn&& fn) {
  int64_t i = 0;
  for (; i + L <= width; i += L) fn(i, L);
  if (i < width) fn(width < L ? 0 : width - L, int(lesser(L, width)));
}

template <class T, bool Any>
void pixel_rows(const PixelTile& t, int channels, int rows) {
  using S = Scalar<T>;
  constexpr int L = Compute<T>::kLanes;
  const int blocks = (channels + kChannels - 1) / kChannels;
  Slot<S> slots[kVectors];
  int filled = 0;
  auto flush = [&] {
    for (int b = 0; b < blocks; ++b) {
      int first = channels * b / blocks, count = channels * (b + 1) / blocks - first;
      with_constant<kVectors>(filled, [&](auto n) {
        with_constant<kChannels>(count,
                                 [&](auto c) { pixel_block<T, Any, c.value, n.value>(t, slots, first, channels); });
      });
    }
    filled = 0;
  };
  for (int r = 0; r < rows; ++r)
    for_slots<L>(t.width, [&](int64_t i, int lanes) {
      slots[filled++] = {static_cast<const S*>(t.x) + r * t.x_row + i, r * t.c_row + i, lanes};
      if (filled == kVectors) flush();
    });
  flush();
}

template <class T>
void pixel_tile(const PixelTile& t, int channels, int rows) {
  if (is_simple(t.activation))
    pixel_rows<T, false>(t, channels, rows);
  else
    pixel_rows<T, true>(t, channels, rows);
}

template <class T>
void pixel_tile_pool(const PixelTile& t, int channels, int pairs, uint8_t* position) {
  using S = Scalar<T>;
  constexpr int L = Compute<T>::kLanes, kMost = kVectors < 2 ? 2 : kVectors;
  const int blocks = (channels + kChannels - 1) / kChannels;
  Slot<S> slots[kMost];
  int filled = 0;
  auto flush = [&] {
    for (int b = 0; b < blocks; ++b) {
      int first = channels * b / blocks, count = channels * (b + 1) / blocks - first;
      with_constant<kMost / 2>(filled / 2, [&](auto n) {
        with_constant<kChannels>(
            count, [&](auto c) { pixel_block_pool<T, c.value, 2 * n.value>(t, slots, first, channels, position); });
      });
    }
    filled = 0;
  };
  for (int r = 0; r < pairs; ++r)
    for_slots<L>(t.width, [&](int64_t i, int lanes) {
      const S* x = static_cast<const S*>(t.x) + 2 * r * t.x_row + i;
      slots[filled++] = {x, r * t.c_row + i / 2, lanes};
      slots[filled++] = {x + t.x_row, 0, lanes};
      if (filled == kMost) flush();
    });
  flush();
}

// ---- channels as lanes: backward-weight -----------------------------------------------------------------------------

template <class T>
int max_taps() {
  return kMaxTaps;
}

template <class S, int R, int N>
void weight_block(const WeightTile& t, int cols) {
  using V = Vec<S>;
  constexpr int L = V::kLanes;
  S* c = static_cast<S*>(t.c);
  const int last = cols - (N - 1) * L;  // columns of the last vector
  const S* g = static_cast<const S*>(t.g);
  const int64_t some = greater(1, kChain / t.width);  // rows of a chain of sums
  for (int64_t b = 0; b < t.images; ++b)
    for (int64_t r = 0; r < t.rows;) {
      V acc[R][N] = {};
      for (const int64_t end = lesser(t.rows, r + some); r < end; ++r) {
        const S* base = static_cast<const S*>(t.x) + b * t.x_image + r * t.x_row;
        const S* p[R];
#pragma GCC unroll 16
        for (int m = 0; m < R; ++m) p[m] = base + t.offsets[m];
        for (int64_t i = 0, at = 0; i < t.width; ++i, at += t.x_step, g += t.g_step) {
          V w[N];
#pragma GCC unroll 2
          for (int j = 0; j < N; ++j) w[j] = V::load(g + j * L);
#pragma GCC unroll 16
          for (int m = 0; m < R; ++m) {
            V x = V(p[m][at]);
#pragma GCC unroll 2
            for (int j = 0; j < N; ++j) acc[m][j] = fma(x, w[j], acc[m][j]);
          }
        }
      }
#pragma GCC unroll 16
      for (int m = 0; m < R; ++m)
#pragma GCC unroll 2
        for (int j = 0; j < N; ++j) {
          const int lanes = j == N - 1 ? last : L;
          S* sums = c + m * t.c_row + j * L;
          (V::load(sums, lanes) + acc[m][j]).store(sums, lanes);
        }
    }
}

template <class T>
void weight_tile(const WeightTile& t, int taps, int cols) {
  using S = Scalar<T>;
  with_constant<kMaxTaps>(taps, [&](auto rows) {
    if (cols <= Vec<S>::kLanes)
      weight_block<S, rows.value, 1>(t, cols);
    else
      weight_block<S, rows.value, 2>(t, cols);
  });
}

// ---- pixels as lanes: backward-weight -------------------------------------------------------------------------------

template <class S, int R, int C>
void pixel_weight_block(const PixelWeightTile& t, int first_tap, int first_channel) {
  using V = Vec<S>;
  V acc[R][C];
#pragma GCC unroll 8
  for (int m = 0; m < R; ++m)
#pragma GCC unroll 8
    for (int o = 0; o < C; ++o) acc[m][o] = V(S(0));
  const int64_t* offsets = t.offsets + first_tap;
  for (int64_t b = 0; b < t.images; ++b)
    for (int64_t r = 0; r < t.rows; ++r) {
      const S* x = static_cast<const S*>(t.x) + b * t.x_image + r * t.x_row;
      const S* g = static_cast<const S*>(t.g) + b * t.g_image + first_channel * t.g_channel + r * t.g_row;
      for_lanes<V>(t.width, [&](int64_t i, auto lanes) {
        V d[C];
#pragma GCC unroll 8
        for (int o = 0; o < C; ++o) d[o] = load<V>(g + o * t.g_channel + i, lanes);
#pragma GCC unroll 8
        for (int m = 0; m < R; ++m) {
          V v = load<V>(x + offsets[m] + i, lanes);
#pragma GCC unroll 8
          for (int o = 0; o < C; ++o) acc[m][o] = fma(v, d[o], acc[m][o]);
        }
      });
    }
  S* c = static_cast<S*>(t.c);
#pragma GCC unroll 8
  for (int m = 0; m < R; ++m)
#pragma GCC unroll 8
    for (int o = 0; o < C; ++o) c[(first_tap + m) * t.c_row + first_channel + o] += sum(acc[m][o]);
}

template <class S, int R, int C = kWeightChannels>
FASTNN_INLINE void pixel_weight_channels(const PixelWeightTile& t, int tap, int channel, int count) {
  if constexpr (C > 0) {
    if (count == C) return pixel_weight_block<S, R, C>(t, tap, channel);
    pixel_weight_channels<S, R, C - 1>(t, tap, channel, count);
  }
}

template <class T>
void pixel_weight_tile(const PixelWeightTile& t, int taps, int channels) {
  using S = Scalar<T>;
  const int blocks = (channels + kWeightChannels - 1) / kWeightChannels;
  for (int b = 0; b < blocks; ++b) {
    int first = channels * b / blocks, count = channels * (b + 1) / blocks - first;
    int m = 0;
    for (; m + kTaps <= taps; m += kTaps) pixel_weight_channels<S, kTaps>(t, m, first, count);
    for (; m < taps; ++m) pixel_weight_channels<S, 1>(t, m, first, count);
  }
}

}  // namespace

#define FASTNN_FAMILY_INC "conv2d.inc"
#define FASTNN_FAMILY_TABLE                  \
  extern const Conv2dKernels conv2d_kernels; \
  const Conv2dKernels conv2d_kernels
#include "../kernels/fill.h"

}  // namespace fastnn::FASTNN_ISA
