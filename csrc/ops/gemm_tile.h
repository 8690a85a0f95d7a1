// The inner loop of register tiles and the packing of panels, for the kernels of float and of integer products. Dot is
// a type with the vector V, the element S of packed operands, one step of the sum: V apply(x, w, acc), and kEpilogue:
// whether bias and activation may follow.
#pragma once
#include "../kernels/types.h"
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

// Where the sums of a tile go: to[m * to_row + n], with add[m * add_row + n] added if add is given, then the bias of
// the column or row, and the activation (a simple one). The lines that will be written in the end begin at c, c_row
// bytes apart.
template <class Out>
struct Sink {
  Out* to;
  int64_t to_row;
  const Out* add;
  int64_t add_row;
  const char* c;
  int64_t c_row;
  const void *bias = nullptr, *row_bias = nullptr;
  Activation activation = Activation::none;
};

constexpr int64_t kStepsPerFetch = 4;

// The sum over k of R rows by N vectors. Step is the row step if known, else 0; Packed: a advances by t.a_step instead
// of t.offsets.
template <class Dot, class Out, int R, int N, int Step, bool Packed>
void accumulate(const Tile& t, Sink<Out> sink) {
  using S = typename Dot::S;
  using V = typename Dot::V;
  V acc[R][N];
#pragma GCC unroll 16
  for (int m = 0; m < R; ++m)
#pragma GCC unroll 2
    for (int j = 0; j < N; ++j) acc[m][j] = V(S(0));
  const S* b = static_cast<const S*>(t.b);
  const S* a = static_cast<const S*>(t.a);
  const int64_t step = Step ? Step : t.a_row;
  int64_t k = 0;
  auto until = [&](int64_t end) __attribute__((always_inline)) {
    for (; k < end; ++k, b += t.b_step) {
      const S* p = Packed ? a : a + t.offsets[k];
      if (Packed) a += t.a_step;
      V w[N];
#pragma GCC unroll 2
      for (int j = 0; j < N; ++j) w[j] = V::load(b + j * V::kLanes);
#pragma GCC unroll 16
      for (int m = 0; m < R; ++m) {
        V x = V(p[m * step]);
#pragma GCC unroll 2
        for (int j = 0; j < N; ++j) acc[m][j] = Dot::apply(x, w[j], acc[m][j]);
      }
    }
  };
  // The lines of c are fetched a few steps apart: all at once they would hold up the loads of a and b.
  if (Packed && sink.c) {
    for (int line = 0; line < R * N && k + kStepsPerFetch < t.k; ++line) {
      __builtin_prefetch(sink.c + line / N * sink.c_row + line % N * (N * V::kLanes * sizeof(S) - 1), 1);
      until(k + kStepsPerFetch);
    }
  }
  // Pixels of many channels are too far apart for the hardware to see the next tile's coming.
  if constexpr (!Packed && Step == 0) {
    constexpr int64_t kLine = 64 / sizeof(S);
    for (int64_t end = kLine; t.a_step && end <= t.k; end += kLine) {
      const S* next = a + t.offsets[k] + t.a_step;
#pragma GCC unroll 16
      for (int m = 0; m < R; ++m) __builtin_prefetch(next + m * step);
      until(end);
    }
  }
  until(t.k);
  if (sink.add) {
#pragma GCC unroll 16
    for (int m = 0; m < R; ++m)
#pragma GCC unroll 2
      for (int j = 0; j < N; ++j) acc[m][j] = acc[m][j] + V::load(sink.add + m * sink.add_row + j * V::kLanes);
  }
  if constexpr (Dot::kEpilogue) {
    if (sink.bias) {
#pragma GCC unroll 2
      for (int j = 0; j < N; ++j) {
        const V bias = V::load(static_cast<const S*>(sink.bias) + j * V::kLanes);
#pragma GCC unroll 16
        for (int m = 0; m < R; ++m) acc[m][j] = acc[m][j] + bias;
      }
    }
    if (sink.row_bias) {
#pragma GCC unroll 16
      for (int m = 0; m < R; ++m) {
        const V bias = V(static_cast<const S*>(sink.row_bias)[m]);
#pragma GCC unroll 2
        for (int j = 0; j < N; ++j) acc[m][j] = acc[m][j] + bias;
      }
    }
    if (sink.activation != Activation::none) {
#pragma GCC unroll 16
      for (int m = 0; m < R; ++m)
#pragma GCC unroll 2
        for (int j = 0; j < N; ++j) acc[m][j] = max(V(S(0)), acc[m][j]);
    }
    if (sink.activation == Activation::relu6) {
#pragma GCC unroll 16
      for (int m = 0; m < R; ++m)
#pragma GCC unroll 2
        for (int j = 0; j < N; ++j) acc[m][j] = min(V(S(6)), acc[m][j]);
    }
  }
#pragma GCC unroll 16
  for (int m = 0; m < R; ++m)
#pragma GCC unroll 2
    for (int j = 0; j < N; ++j) acc[m][j].store(sink.to + m * sink.to_row + j * V::kLanes);
}

// accumulate for rows known at run time.
template <class Dot, class Out, int N, int Step, bool Packed>
FASTNN_INLINE void accumulate_rows(const Tile& t, int rows, Sink<Out> sink) {
  with_constant<kMaxRows>(rows, [&](auto r) { accumulate<Dot, Out, r.value, N, Step, Packed>(t, sink); });
}

// panel[i * width + n] from columns n < cols that have their elements one after the other: load(n, i) gives elements
// i, i + 1, ... of column n, zero from `depth` on.
template <class S, class Load>
FASTNN_INLINE void turn_panel(int64_t depth, int cols, int width, S* panel, Load&& load) {
  using V = Vec<S>;
  constexpr int L = V::kLanes;
  // A vector's columns are taken some lines deep before the next ones: lines that are a multiple of 4 KB apart share
  // few places in L1, and what is fetched ahead should still be there.
  constexpr int64_t kLines = 4 * L;
  for (int64_t from = 0; from < depth; from += kLines)
    for (int n = 0; n < width; n += L)
      for (int64_t i = from; i < lesser(depth, from + kLines); i += L) {
        const int have = int(greater(0, lesser(L, cols - n))), room = int(lesser(L, width - n));
        transpose_rows<V>(
            have, int(lesser(L, depth - i)), [&](int r) __attribute__((always_inline)) { return load(n + r, i); },
            [&](int j, V v) __attribute__((always_inline)) {
              // A row narrower than a vector is stored as a whole one, which the next rows overwrite.
              const int64_t at = (i + j) * width + n;
              if (room == L || (width < L && at + L <= depth * width))
                v.store(panel + at);
              else
                v.store(panel + at, room);
            });
      }
}

}  // namespace
}  // namespace fastnn::FASTNN_ISA
