// Vec<float> on AVX2 + FMA + F16C. See simd.h for the contract.
#pragma once

namespace fastnn::FASTNN_ISA {
namespace {

struct Full {};  // "all lanes", as a type
template <class T>
struct Vec;

struct Mask {
  __m256 m;
  FASTNN_INLINE Mask operator&(Mask o) const { return {_mm256_and_ps(m, o.m)}; }
  FASTNN_INLINE Mask operator|(Mask o) const { return {_mm256_or_ps(m, o.m)}; }
  FASTNN_INLINE Mask operator!() const { return {_mm256_xor_ps(m, _mm256_castsi256_ps(_mm256_set1_epi32(-1)))}; }
};

// Sliding window of ones and zeros: kFirst + 8 - n starts n ones.
alignas(64) const int32_t kFirst[16] = {-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0};

template <>
struct Vec<float> {
  static constexpr int kLanes = 8;
  __m256 v;

  Vec() = default;
  FASTNN_INLINE Vec(__m256 x) : v(x) {}
  FASTNN_INLINE Vec(float x) : v(_mm256_set1_ps(x)) {}

  static FASTNN_INLINE __m256i first(int n) { return _mm256_loadu_si256((const __m256i*)(kFirst + 8 - n)); }
  static FASTNN_INLINE Vec load(const float* p) { return _mm256_loadu_ps(p); }
  static FASTNN_INLINE Vec load(const float* p, int n) { return _mm256_maskload_ps(p, first(n)); }
  static FASTNN_INLINE Vec load(const bf16* p) { return widen(_mm_loadu_si128((const __m128i*)p)); }
  static FASTNN_INLINE Vec load(const bf16* p, int n) { return widen(partial(p, n)); }
  static FASTNN_INLINE Vec load(const f16* p) { return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)p)); }
  static FASTNN_INLINE Vec load(const f16* p, int n) { return _mm256_cvtph_ps(partial(p, n)); }
  FASTNN_INLINE void store(float* p) const { _mm256_storeu_ps(p, v); }
  FASTNN_INLINE void store(float* p, int n) const { _mm256_maskstore_ps(p, first(n), v); }
  FASTNN_INLINE void store(bf16* p) const { _mm_storeu_si128((__m128i*)p, narrow()); }
  FASTNN_INLINE void store(bf16* p, int n) const { partial(p, n, narrow()); }
  FASTNN_INLINE void store(f16* p) const { _mm_storeu_si128((__m128i*)p, half()); }
  FASTNN_INLINE void store(f16* p, int n) const { partial(p, n, half()); }

  FASTNN_INLINE void stream(float* p) const { _mm256_stream_ps(p, v); }
  FASTNN_INLINE void stream(bf16* p) const { _mm_stream_si128((__m128i*)p, narrow()); }
  FASTNN_INLINE void stream(f16* p) const { _mm_stream_si128((__m128i*)p, half()); }

  FASTNN_INLINE Vec operator+(Vec o) const { return _mm256_add_ps(v, o.v); }
  FASTNN_INLINE Vec operator-(Vec o) const { return _mm256_sub_ps(v, o.v); }
  FASTNN_INLINE Vec operator*(Vec o) const { return _mm256_mul_ps(v, o.v); }
  FASTNN_INLINE Vec operator/(Vec o) const { return _mm256_div_ps(v, o.v); }
  FASTNN_INLINE Vec operator-() const { return _mm256_xor_ps(v, _mm256_set1_ps(-0.0f)); }
  FASTNN_INLINE Mask operator<(Vec o) const { return {_mm256_cmp_ps(v, o.v, _CMP_LT_OQ)}; }
  FASTNN_INLINE Mask operator<=(Vec o) const { return {_mm256_cmp_ps(v, o.v, _CMP_LE_OQ)}; }
  FASTNN_INLINE Mask operator>(Vec o) const { return {_mm256_cmp_ps(v, o.v, _CMP_GT_OQ)}; }
  FASTNN_INLINE Mask operator>=(Vec o) const { return {_mm256_cmp_ps(v, o.v, _CMP_GE_OQ)}; }
  FASTNN_INLINE Mask operator==(Vec o) const { return {_mm256_cmp_ps(v, o.v, _CMP_EQ_OQ)}; }
  FASTNN_INLINE Mask operator!=(Vec o) const { return {_mm256_cmp_ps(v, o.v, _CMP_NEQ_UQ)}; }

 private:
  // There are no masked 16-bit moves on AVX2.
  static FASTNN_INLINE __m128i partial(const void* p, int n) {
    alignas(16) uint16_t b[8] = {};
    for (int i = 0; i < n; ++i) b[i] = static_cast<const uint16_t*>(p)[i];
    return _mm_load_si128((const __m128i*)b);
  }
  static FASTNN_INLINE void partial(void* p, int n, __m128i v) {
    alignas(16) uint16_t b[8];
    _mm_store_si128((__m128i*)b, v);
    for (int i = 0; i < n; ++i) static_cast<uint16_t*>(p)[i] = b[i];
  }
  static FASTNN_INLINE Vec widen(__m128i b) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(b), 16));
  }
  FASTNN_INLINE __m128i narrow() const {
    __m256i u = _mm256_castps_si256(v), top = _mm256_srli_epi32(u, 16);
    __m256i bias = _mm256_add_epi32(_mm256_and_si256(top, _mm256_set1_epi32(1)), _mm256_set1_epi32(0x7fff));
    __m256i r = _mm256_srli_epi32(_mm256_add_epi32(u, bias), 16);
    __m256i quiet = _mm256_or_si256(top, _mm256_set1_epi32(0x40));
    __m256 nan = _mm256_cmp_ps(v, v, _CMP_UNORD_Q);
    r = _mm256_castps_si256(_mm256_blendv_ps(_mm256_castsi256_ps(r), _mm256_castsi256_ps(quiet), nan));
    return _mm_packus_epi32(_mm256_castsi256_si128(r), _mm256_extracti128_si256(r, 1));
  }
  FASTNN_INLINE __m128i half() const { return _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
};

using F = Vec<float>;
FASTNN_INLINE F fma(F a, F b, F c) { return _mm256_fmadd_ps(a.v, b.v, c.v); }
FASTNN_INLINE F max(F a, F b) { return _mm256_max_ps(a.v, b.v); }
FASTNN_INLINE F min(F a, F b) { return _mm256_min_ps(a.v, b.v); }
FASTNN_INLINE F abs(F a) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a.v); }
FASTNN_INLINE F sqrt(F a) { return _mm256_sqrt_ps(a.v); }
FASTNN_INLINE F round(F a) { return _mm256_round_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
FASTNN_INLINE F floor(F a) { return _mm256_round_ps(a.v, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC); }
FASTNN_INLINE F select(Mask m, F a, F b) { return _mm256_blendv_ps(b.v, a.v, m.m); }
FASTNN_INLINE bool any(Mask m) { return _mm256_movemask_ps(m.m) != 0; }
FASTNN_INLINE float sum(F a) {
  __m128 s = _mm_add_ps(_mm256_castps256_ps128(a.v), _mm256_extractf128_ps(a.v, 1));
  s = _mm_add_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_add_ss(s, _mm_shuffle_ps(s, s, 1)));
}
FASTNN_INLINE float max_of(F a) {
  __m128 s = _mm_max_ps(_mm256_castps256_ps128(a.v), _mm256_extractf128_ps(a.v, 1));
  s = _mm_max_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_max_ss(s, _mm_shuffle_ps(s, s, 1)));
}
FASTNN_INLINE float min_of(F a) { return -max_of(-a); }
FASTNN_INLINE __m256 power2(__m256i n) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(n, _mm256_set1_epi32(127)), 23));
}
// In three steps, so that every factor is a normal number; the result may be subnormal or infinite.
FASTNN_INLINE F scale2(F a, F n) {
  __m256i i = _mm256_cvtps_epi32(n.v), third = _mm256_cvtps_epi32(_mm256_mul_ps(n.v, _mm256_set1_ps(1.0f / 3)));
  __m256i rest = _mm256_sub_epi32(i, _mm256_add_epi32(third, third));
  F s = power2(third);
  return a * s * s * F(power2(rest));
}
FASTNN_INLINE F split2(F a, F* e) {
  __m256i u = _mm256_castps_si256(a.v);
  *e = _mm256_cvtepi32_ps(_mm256_sub_epi32(_mm256_srli_epi32(u, 23), _mm256_set1_epi32(126)));
  __m256i m = _mm256_or_si256(_mm256_and_si256(u, _mm256_set1_epi32(0x007fffff)), _mm256_set1_epi32(0x3f000000));
  return _mm256_castsi256_ps(m);
}

using Vec8 = F;

FASTNN_INLINE int append_nonzero(F a, int n, int32_t base, float* values, int32_t* positions) {
  alignas(32) float lanes[8];
  a.store(lanes);
  int count = 0;
  for (int i = 0; i < n; ++i) {
    values[count] = lanes[i];
    positions[count] = base + i;
    count += lanes[i] != 0.0f;
  }
  return count;
}

FASTNN_INLINE void fence(bool streams) {
  if (streams) _mm_sfence();
}

FASTNN_INLINE void deinterleave(F a, F b, F* even, F* odd) {
  __m256 e = _mm256_shuffle_ps(a.v, b.v, 0x88), o = _mm256_shuffle_ps(a.v, b.v, 0xdd);
  *even = _mm256_castpd_ps(_mm256_permute4x64_pd(_mm256_castps_pd(e), 0xd8));
  *odd = _mm256_castpd_ps(_mm256_permute4x64_pd(_mm256_castps_pd(o), 0xd8));
}
FASTNN_INLINE void interleave(F even, F odd, F* a, F* b) {
  __m256 lo = _mm256_unpacklo_ps(even.v, odd.v), hi = _mm256_unpackhi_ps(even.v, odd.v);
  *a = _mm256_permute2f128_ps(lo, hi, 0x20);
  *b = _mm256_permute2f128_ps(lo, hi, 0x31);
}
FASTNN_INLINE void load_integers(const uint8_t* p, Full, F* v) {
  *v = _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i*)p)));
}
FASTNN_INLINE void load_integers(const uint8_t* p, int n, F* v) {
  uint64_t bytes = 0;
  for (int i = 0; i < n; ++i) bytes |= uint64_t(p[i]) << (8 * i);
  *v = _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_cvtsi64_si128(int64_t(bytes))));
}
FASTNN_INLINE void load_integers(const int32_t* p, Full, F* v) {
  *v = _mm256_cvtepi32_ps(_mm256_loadu_si256((const __m256i*)p));
}
FASTNN_INLINE void load_integers(const int32_t* p, int n, F* v) {
  *v = _mm256_cvtepi32_ps(_mm256_maskload_epi32(p, F::first(n)));
}
FASTNN_INLINE __m128i to_bytes(F v) {
  __m256i i = _mm256_cvttps_epi32(v.v);
  __m128i words = _mm_packus_epi32(_mm256_castsi256_si128(i), _mm256_extracti128_si256(i, 1));
  return _mm_packus_epi16(words, words);
}
FASTNN_INLINE void store_integers(F v, uint8_t* p, Full) { _mm_storel_epi64((__m128i*)p, to_bytes(v)); }
FASTNN_INLINE void store_integers(F v, uint8_t* p, int n) {
  uint64_t bytes = uint64_t(_mm_cvtsi128_si64(to_bytes(v)));
  for (int i = 0; i < n; ++i) p[i] = uint8_t(bytes >> (8 * i));
}
FASTNN_INLINE void store_integers(F v, int32_t* p, Full) { _mm256_storeu_si256((__m256i*)p, _mm256_cvttps_epi32(v.v)); }
FASTNN_INLINE void store_integers(F v, int32_t* p, int n) {
  _mm256_maskstore_epi32(p, F::first(n), _mm256_cvttps_epi32(v.v));
}

FASTNN_INLINE F head(F v, int n, F rest) { return _mm256_blendv_ps(rest.v, v.v, _mm256_castsi256_ps(F::first(n))); }

struct Words {
  static constexpr int kLanes = 4;
  __m256i v;
  FASTNN_INLINE Words(__m256i x) : v(x) {}
  FASTNN_INLINE Words(uint64_t x) : v(_mm256_set1_epi64x(int64_t(x))) {}
  static FASTNN_INLINE Words from(uint64_t first) {
    return _mm256_add_epi64(_mm256_set1_epi64x(int64_t(first)), _mm256_setr_epi64x(0, 1, 2, 3));
  }
  FASTNN_INLINE Words operator*(Words o) const { return _mm256_mul_epu32(v, o.v); }
  FASTNN_INLINE Words operator^(Words o) const { return _mm256_xor_si256(v, o.v); }
  FASTNN_INLINE Words high() const { return _mm256_srli_epi64(v, 32); }
  FASTNN_INLINE void store(uint32_t* p) const {
    __m256i low = _mm256_permutevar8x32_epi32(v, _mm256_setr_epi32(0, 2, 4, 6, 0, 2, 4, 6));
    _mm_storeu_si128((__m128i*)p, _mm256_castsi256_si128(low));
  }
};
}  // namespace
}  // namespace fastnn::FASTNN_ISA
