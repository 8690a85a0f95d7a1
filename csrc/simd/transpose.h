// Calls emit(j, v) for j < cols with v[i] = from[i * from_step + j] for i < rows: a block at most kLanes wide and high,
// in registers. Lanes of v from `rows` on are zero.
#pragma once
#include "simd.h"

namespace fastnn::FASTNN_ISA {
namespace {

template <class S, class Emit>
FASTNN_INLINE void transpose_block(const S* from, int64_t from_step, int rows, int cols, Emit&& emit) {
  for (int j = 0; j < cols; ++j) {
    alignas(64) S column[Vec<S>::kLanes] = {};
    for (int i = 0; i < rows; ++i) column[i] = from[i * from_step + j];
    emit(j, Vec<S>::load(column));
  }
}

#if FASTNN_ISA_ID == 2 || FASTNN_ISA_ID == 3
template <class Emit>
FASTNN_INLINE void transpose_block(const float* from, int64_t from_step, int rows, int cols, Emit&& emit) {
  __m512 r[16], t[16];
  __mmask16 in = __mmask16((1u << cols) - 1);
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) r[i] = i < rows ? _mm512_maskz_loadu_ps(in, from + i * from_step) : _mm512_setzero_ps();
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
#elif FASTNN_ISA_ID == 1
template <class Emit>
FASTNN_INLINE void transpose_block(const float* from, int64_t from_step, int rows, int cols, Emit&& emit) {
  __m256 r[8], t[8];
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) r[i] = i < rows ? Vec<float>::load(from + i * from_step, cols).v : _mm256_setzero_ps();
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
#endif

}  // namespace
}  // namespace fastnn::FASTNN_ISA
