// to[j * to_step + i] = from[i * from_step + j] for i < rows, j < cols: a block at most kLanes wide and high, in
// registers. A row of `to` is written up to `rows` elements only.
#pragma once
#include "simd.h"

namespace fastnn::FASTNN_ISA {
namespace {

template <class S>
FASTNN_INLINE void transpose_scalar(const S* from, int64_t from_step, S* to, int64_t to_step, int rows, int cols) {
  for (int j = 0; j < cols; ++j)
    for (int i = 0; i < rows; ++i) to[j * to_step + i] = from[i * from_step + j];
}

template <class S>
FASTNN_INLINE void transpose_block(const S* from, int64_t from_step, S* to, int64_t to_step, int rows, int cols) {
  transpose_scalar(from, from_step, to, to_step, rows, cols);
}

#if FASTNN_ISA_ID == 2 || FASTNN_ISA_ID == 3
template <>
void transpose_block<float>(const float* from, int64_t from_step, float* to, int64_t to_step, int rows, int cols) {
  __m512 r[16], t[16];
  __mmask16 in = __mmask16((1u << cols) - 1), out = __mmask16((1u << rows) - 1);
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
    if (j < cols) _mm512_mask_storeu_ps(to + j * to_step, out, t[j]);
}
#elif FASTNN_ISA_ID == 1
template <>
void transpose_block<float>(const float* from, int64_t from_step, float* to, int64_t to_step, int rows, int cols) {
  if (rows != 8 || cols != 8) return transpose_scalar(from, from_step, to, to_step, rows, cols);
  __m256 r[8], t[8];
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) r[i] = _mm256_loadu_ps(from + i * from_step);
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
    _mm256_storeu_ps(to + c * to_step, _mm256_permute2f128_ps(r[c], r[4 + c], 0x20));
    _mm256_storeu_ps(to + (4 + c) * to_step, _mm256_permute2f128_ps(r[c], r[4 + c], 0x31));
  }
}
#endif

}  // namespace
}  // namespace fastnn::FASTNN_ISA
