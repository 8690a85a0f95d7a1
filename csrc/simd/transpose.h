// transpose_rows<V>(rows, cols, load_row, emit): load_row(i) gives row i < rows as a vector; emit(j, v) is then called
// for j < cols with column j, zero in lanes from `rows` on. A block at most kLanes wide and high, in registers.
// transpose_block(from, from_step, rows, cols, emit): the same with from[i * from_step + j] in row i, column j.
#pragma once
#include "simd.h"

namespace fastnn::FASTNN_ISA {
namespace {

template <class V>
struct Transpose {
  template <class LoadRow, class Emit>
  static FASTNN_INLINE void run(int rows, int cols, LoadRow&& load_row, Emit&& emit) {
    V block[V::kLanes], column;
    for (int i = 0; i < rows; ++i) block[i] = load_row(i);
    for (int j = 0; j < cols; ++j) {
      for (int i = 0; i < V::kLanes; ++i) column.v[i] = i < rows ? block[i].v[j] : 0;
      emit(j, column);
    }
  }
};

#if FASTNN_ISA_ID == 2 || FASTNN_ISA_ID == 3
template <>
struct Transpose<Vec<float>> {
  template <class LoadRow, class Emit>
  static FASTNN_INLINE void run(int rows, int cols, LoadRow&& load_row, Emit&& emit) {
    __m512 r[16], t[16];
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i) r[i] = i < rows ? load_row(i).v : _mm512_setzero_ps();
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i) {
      t[2 * i] = _mm512_unpacklo_ps(r[2 * i], r[2 * i + 1]);
      t[2 * i + 1] = _mm512_unpackhi_ps(r[2 * i], r[2 * i + 1]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      r[4 * i] = _mm512_shuffle_ps(t[4 * i], t[4 * i + 2], 0x44);
      r[4 * i + 1] = _mm512_shuffle_ps(t[4 * i], t[4 * i + 2], 0xee);
      r[4 * i + 2] = _mm512_shuffle_ps(t[4 * i + 1], t[4 * i + 3], 0x44);
      r[4 * i + 3] = _mm512_shuffle_ps(t[4 * i + 1], t[4 * i + 3], 0xee);
    }
    // r[4 g + c] holds, in 128-bit lane l, column 4 l + c of rows 4 g .. 4 g + 3.
#pragma GCC unroll 4
    for (int c = 0; c < 4; ++c) {
      __m512 a = _mm512_shuffle_f32x4(r[c], r[4 + c], 0x44), b = _mm512_shuffle_f32x4(r[8 + c], r[12 + c], 0x44);
      __m512 d = _mm512_shuffle_f32x4(r[c], r[4 + c], 0xee), e = _mm512_shuffle_f32x4(r[8 + c], r[12 + c], 0xee);
      t[c] = _mm512_shuffle_f32x4(a, b, 0x88);
      t[4 + c] = _mm512_shuffle_f32x4(a, b, 0xdd);
      t[8 + c] = _mm512_shuffle_f32x4(d, e, 0x88);
      t[12 + c] = _mm512_shuffle_f32x4(d, e, 0xdd);
    }
#pragma GCC unroll 16
    for (int j = 0; j < 16; ++j)
      if (j < cols) emit(j, Vec<float>(t[j]));
  }
};
#elif FASTNN_ISA_ID == 1
template <>
struct Transpose<Vec<float>> {
  template <class LoadRow, class Emit>
  static FASTNN_INLINE void run(int rows, int cols, LoadRow&& load_row, Emit&& emit) {
    __m256 r[8], t[8];
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i) r[i] = i < rows ? load_row(i).v : _mm256_setzero_ps();
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      t[2 * i] = _mm256_unpacklo_ps(r[2 * i], r[2 * i + 1]);
      t[2 * i + 1] = _mm256_unpackhi_ps(r[2 * i], r[2 * i + 1]);
    }
#pragma GCC unroll 2
    for (int i = 0; i < 2; ++i) {
      r[4 * i] = _mm256_shuffle_ps(t[4 * i], t[4 * i + 2], 0x44);
      r[4 * i + 1] = _mm256_shuffle_ps(t[4 * i], t[4 * i + 2], 0xee);
      r[4 * i + 2] = _mm256_shuffle_ps(t[4 * i + 1], t[4 * i + 3], 0x44);
      r[4 * i + 3] = _mm256_shuffle_ps(t[4 * i + 1], t[4 * i + 3], 0xee);
    }
#pragma GCC unroll 4
    for (int c = 0; c < 4; ++c) {
      t[c] = _mm256_permute2f128_ps(r[c], r[4 + c], 0x20);
      t[4 + c] = _mm256_permute2f128_ps(r[c], r[4 + c], 0x31);
    }
#pragma GCC unroll 8
    for (int j = 0; j < 8; ++j)
      if (j < cols) emit(j, Vec<float>(t[j]));
  }
};
#endif

template <class V, class LoadRow, class Emit>
FASTNN_INLINE void transpose_rows(int rows, int cols, LoadRow&& load_row, Emit&& emit) {
  Transpose<V>::run(rows, cols, load_row, emit);
}

template <class S, class Emit>
FASTNN_INLINE void transpose_block(const S* from, int64_t from_step, int rows, int cols, Emit&& emit) {
  using V = Vec<S>;
  transpose_rows<V>(
      rows, cols, [&](int i) __attribute__((always_inline)) { return V::load(from + i * from_step, cols); }, emit);
}

}  // namespace
}  // namespace fastnn::FASTNN_ISA
