// Vec<float> on AVX-512 F/BW/DQ/VL. See simd.h for the contract.
#pragma once

namespace fastnn::FASTNN_ISA {
namespace {

struct Full {};  // "all lanes", as a type
template <class T>
struct Vec;

struct Mask {
  __mmask16 m;
  FASTNN_INLINE Mask operator&(Mask o) const { return {__mmask16(m & o.m)}; }
  FASTNN_INLINE Mask operator|(Mask o) const { return {__mmask16(m | o.m)}; }
  FASTNN_INLINE Mask operator!() const { return {__mmask16(~m)}; }
};

template <>
struct Vec<float> {
  static constexpr int kLanes = 16;
  __m512 v;

  Vec() = default;
  FASTNN_INLINE Vec(__m512 x) : v(x) {}
  FASTNN_INLINE Vec(float x) : v(_mm512_set1_ps(x)) {}

  static FASTNN_INLINE __mmask16 first(int n) { return __mmask16((1u << n) - 1); }
  static FASTNN_INLINE Vec load(const float* p) { return _mm512_loadu_ps(p); }
  static FASTNN_INLINE Vec load(const float* p, int n) { return _mm512_maskz_loadu_ps(first(n), p); }
  static FASTNN_INLINE Vec load(const bf16* p) { return widen(_mm256_loadu_si256((const __m256i*)p)); }
  static FASTNN_INLINE Vec load(const bf16* p, int n) { return widen(_mm256_maskz_loadu_epi16(first(n), p)); }
  static FASTNN_INLINE Vec load(const f16* p) { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)p)); }
  static FASTNN_INLINE Vec load(const f16* p, int n) { return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(first(n), p)); }
  FASTNN_INLINE void store(float* p) const { _mm512_storeu_ps(p, v); }
  FASTNN_INLINE void store(float* p, int n) const { _mm512_mask_storeu_ps(p, first(n), v); }
  FASTNN_INLINE void store(bf16* p) const { _mm256_storeu_si256((__m256i*)p, narrow()); }
  FASTNN_INLINE void store(bf16* p, int n) const { _mm256_mask_storeu_epi16(p, first(n), narrow()); }
  FASTNN_INLINE void store(f16* p) const { _mm256_storeu_si256((__m256i*)p, half()); }
  FASTNN_INLINE void store(f16* p, int n) const { _mm256_mask_storeu_epi16(p, first(n), half()); }

  FASTNN_INLINE void stream(float* p) const { _mm512_stream_ps(p, v); }
  FASTNN_INLINE void stream(bf16* p) const { _mm256_stream_si256((__m256i*)p, narrow()); }
  FASTNN_INLINE void stream(f16* p) const { _mm256_stream_si256((__m256i*)p, half()); }

  FASTNN_INLINE Vec operator+(Vec o) const { return _mm512_add_ps(v, o.v); }
  FASTNN_INLINE Vec operator-(Vec o) const { return _mm512_sub_ps(v, o.v); }
  FASTNN_INLINE Vec operator*(Vec o) const { return _mm512_mul_ps(v, o.v); }
  FASTNN_INLINE Vec operator/(Vec o) const { return _mm512_div_ps(v, o.v); }
  FASTNN_INLINE Vec operator-() const { return _mm512_xor_ps(v, _mm512_set1_ps(-0.0f)); }
  FASTNN_INLINE Mask operator<(Vec o) const { return {_mm512_cmp_ps_mask(v, o.v, _CMP_LT_OQ)}; }
  FASTNN_INLINE Mask operator<=(Vec o) const { return {_mm512_cmp_ps_mask(v, o.v, _CMP_LE_OQ)}; }
  FASTNN_INLINE Mask operator>(Vec o) const { return {_mm512_cmp_ps_mask(v, o.v, _CMP_GT_OQ)}; }
  FASTNN_INLINE Mask operator>=(Vec o) const { return {_mm512_cmp_ps_mask(v, o.v, _CMP_GE_OQ)}; }
  FASTNN_INLINE Mask operator==(Vec o) const { return {_mm512_cmp_ps_mask(v, o.v, _CMP_EQ_OQ)}; }
  FASTNN_INLINE Mask operator!=(Vec o) const { return {_mm512_cmp_ps_mask(v, o.v, _CMP_NEQ_UQ)}; }

 private:
  static FASTNN_INLINE Vec widen(__m256i b) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(b), 16));
  }
  FASTNN_INLINE __m256i narrow() const {
#if FASTNN_ISA_ID == 3
    return (__m256i)_mm512_cvtneps_pbh(v);  // subnormal numbers count as zero
#else
    __m512i u = _mm512_castps_si512(v);
    __m512i odd = _mm512_and_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(1));
    __m512i r = _mm512_srli_epi32(_mm512_add_epi32(u, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff))), 16);
    __mmask16 nan = _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
    r = _mm512_mask_or_epi32(r, nan, _mm512_srli_epi32(u, 16), _mm512_set1_epi32(0x40));
    return _mm512_cvtepi32_epi16(r);
#endif
  }
  FASTNN_INLINE __m256i half() const { return _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
};

using F = Vec<float>;
FASTNN_INLINE F fma(F a, F b, F c) { return _mm512_fmadd_ps(a.v, b.v, c.v); }
FASTNN_INLINE F max(F a, F b) { return _mm512_max_ps(a.v, b.v); }
FASTNN_INLINE F min(F a, F b) { return _mm512_min_ps(a.v, b.v); }
FASTNN_INLINE F abs(F a) { return _mm512_andnot_ps(_mm512_set1_ps(-0.0f), a.v); }
FASTNN_INLINE F sqrt(F a) { return _mm512_sqrt_ps(a.v); }
FASTNN_INLINE F round(F a) { return _mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
FASTNN_INLINE F floor(F a) { return _mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC); }
FASTNN_INLINE F select(Mask m, F a, F b) { return _mm512_mask_blend_ps(m.m, b.v, a.v); }
FASTNN_INLINE bool any(Mask m) { return m.m != 0; }
FASTNN_INLINE float sum(F a) { return _mm512_reduce_add_ps(a.v); }
FASTNN_INLINE float max_of(F a) { return _mm512_reduce_max_ps(a.v); }
FASTNN_INLINE float min_of(F a) { return _mm512_reduce_min_ps(a.v); }
FASTNN_INLINE F scale2(F a, F n) { return _mm512_scalef_ps(a.v, n.v); }
FASTNN_INLINE F split2(F a, F* e) {
  *e = _mm512_add_ps(_mm512_getexp_ps(a.v), _mm512_set1_ps(1.0f));
  return _mm512_getmant_ps(a.v, _MM_MANT_NORM_p5_1, _MM_MANT_SIGN_src);
}

// Eight floats, for runs that are too short for a whole vector.
struct Vec8 {
  __m256 v;
  Vec8() = default;
  FASTNN_INLINE Vec8(__m256 x) : v(x) {}
  FASTNN_INLINE Vec8(float x) : v(_mm256_set1_ps(x)) {}
  static FASTNN_INLINE Vec8 load(const float* p) { return _mm256_loadu_ps(p); }
  FASTNN_INLINE void store(float* p) const { _mm256_storeu_ps(p, v); }
  FASTNN_INLINE Vec8 operator+(Vec8 o) const { return _mm256_add_ps(v, o.v); }
};
FASTNN_INLINE Vec8 fma(Vec8 a, Vec8 b, Vec8 c) { return _mm256_fmadd_ps(a.v, b.v, c.v); }

// Appends the lanes of `a` (the first n) that are not zero, and base + lane; may write a whole vector. Returns how
// many.
FASTNN_INLINE int append_nonzero(F a, int n, int32_t base, float* values, int32_t* positions) {
  __mmask16 m = _mm512_cmp_ps_mask(a.v, _mm512_setzero_ps(), _CMP_NEQ_UQ) & F::first(n);
  __m512i at = _mm512_add_epi32(_mm512_set1_epi32(base),
                                _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15));
  _mm512_storeu_ps(values, _mm512_maskz_compress_ps(m, a.v));
  _mm512_storeu_si512(positions, _mm512_maskz_compress_epi32(m, at));
  return __builtin_popcount(m);
}

FASTNN_INLINE void fence(bool streams) {
  if (streams) _mm_sfence();
}
#if FASTNN_ISA_ID == 3
// acc + the products of the two bfloat16 values in each lane.
FASTNN_INLINE F dot_pairs(F a, F b, F acc) {
  return _mm512_dpbf16_ps(acc.v, (__m512bh)_mm512_castps_si512(a.v), (__m512bh)_mm512_castps_si512(b.v));
}
// Sixteen int32 sums of products of uint8 by int8.
struct Sums {
  __m512i v;
  FASTNN_INLINE Sums(__m512i x) : v(x) {}
  FASTNN_INLINE Sums(int32_t x) : v(_mm512_set1_epi32(x)) {}
  Sums() = default;
};
FASTNN_INLINE int32_t sum(Sums a) { return _mm512_reduce_add_epi32(a.v); }
FASTNN_INLINE Sums dot_bytes(Sums a, Sums b, Sums acc) { return _mm512_dpbusd_epi32(acc.v, a.v, b.v); }
#endif

FASTNN_INLINE void deinterleave(F a, F b, F* even, F* odd) {
  const __m512i e = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
  const __m512i o = _mm512_setr_epi32(1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
  *even = _mm512_permutex2var_ps(a.v, e, b.v);
  *odd = _mm512_permutex2var_ps(a.v, o, b.v);
}
FASTNN_INLINE void interleave(F even, F odd, F* a, F* b) {
  const __m512i lo = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
  const __m512i hi = _mm512_setr_epi32(8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
  *a = _mm512_permutex2var_ps(even.v, lo, odd.v);
  *b = _mm512_permutex2var_ps(even.v, hi, odd.v);
}
FASTNN_INLINE void load_integers(const uint8_t* p, Full, F* v) {
  *v = _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i*)p)));
}
FASTNN_INLINE void load_integers(const uint8_t* p, int n, F* v) {
  *v = _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(F::first(n), p)));
}
FASTNN_INLINE void load_integers(const int32_t* p, Full, F* v) { *v = _mm512_cvtepi32_ps(_mm512_loadu_si512(p)); }
FASTNN_INLINE void load_integers(const int32_t* p, int n, F* v) {
  *v = _mm512_cvtepi32_ps(_mm512_maskz_loadu_epi32(F::first(n), p));
}
FASTNN_INLINE void store_integers(F v, uint8_t* p, Full) {
  _mm_storeu_si128((__m128i*)p, _mm512_cvtepi32_epi8(_mm512_cvttps_epi32(v.v)));
}
FASTNN_INLINE void store_integers(F v, uint8_t* p, int n) {
  _mm_mask_storeu_epi8(p, F::first(n), _mm512_cvtepi32_epi8(_mm512_cvttps_epi32(v.v)));
}
FASTNN_INLINE void store_integers(F v, int32_t* p, Full) { _mm512_storeu_si512(p, _mm512_cvttps_epi32(v.v)); }
FASTNN_INLINE void store_integers(F v, int32_t* p, int n) {
  _mm512_mask_storeu_epi32(p, F::first(n), _mm512_cvttps_epi32(v.v));
}

FASTNN_INLINE F head(F v, int n, F rest) { return _mm512_mask_blend_ps(F::first(n), rest.v, v.v); }

struct Words {
  static constexpr int kLanes = 8;
  __m512i v;
  FASTNN_INLINE Words(__m512i x) : v(x) {}
  FASTNN_INLINE Words(uint64_t x) : v(_mm512_set1_epi64(int64_t(x))) {}
  static FASTNN_INLINE Words from(uint64_t first) {
    return _mm512_add_epi64(_mm512_set1_epi64(int64_t(first)), _mm512_setr_epi64(0, 1, 2, 3, 4, 5, 6, 7));
  }
  FASTNN_INLINE Words operator*(Words o) const { return _mm512_mul_epu32(v, o.v); }
  FASTNN_INLINE Words operator^(Words o) const { return _mm512_xor_si512(v, o.v); }
  FASTNN_INLINE Words high() const { return _mm512_srli_epi64(v, 32); }
  FASTNN_INLINE void store(uint32_t* p) const { _mm256_storeu_si256((__m256i*)p, _mm512_cvtepi64_epi32(v)); }
};
}  // namespace
}  // namespace fastnn::FASTNN_ISA
