#include "../dispatch.h"
#include "../simd/activation.h"
#include "../simd/simd.h"
#include "../simd/transpose.h"
#include "gemm_tile.h"

namespace fastnn::FASTNN_ISA {
namespace {

constexpr int kLanes = Vec<float>::kLanes;

// int32 lanes; dot(x, w, acc) adds the products of what each lane holds: unsigned by signed bytes with VNNI, else pairs
// of int16.
#if FASTNN_ISA_ID == 3
constexpr int kDepth = 4, kShift = 128;
#else
constexpr int kDepth = 2, kShift = 0;
#endif

struct Ints {
  static constexpr int kLanes = Vec<float>::kLanes;
#if FASTNN_ISA_ID == 2 || FASTNN_ISA_ID == 3
  __m512i v;
  Ints() = default;
  FASTNN_INLINE Ints(__m512i x) : v(x) {}
  FASTNN_INLINE Ints(int32_t x) : v(_mm512_set1_epi32(x)) {}
  static FASTNN_INLINE Ints load(const int32_t* p) { return _mm512_loadu_si512(p); }
  FASTNN_INLINE void store(int32_t* p) const { _mm512_storeu_si512(p, v); }
  FASTNN_INLINE Ints operator+(Ints o) const { return _mm512_add_epi32(v, o.v); }
#elif FASTNN_ISA_ID == 1
  __m256i v;
  Ints() = default;
  FASTNN_INLINE Ints(__m256i x) : v(x) {}
  FASTNN_INLINE Ints(int32_t x) : v(_mm256_set1_epi32(x)) {}
  static FASTNN_INLINE Ints load(const int32_t* p) { return _mm256_loadu_si256((const __m256i*)p); }
  FASTNN_INLINE void store(int32_t* p) const { _mm256_storeu_si256((__m256i*)p, v); }
  FASTNN_INLINE Ints operator+(Ints o) const { return _mm256_add_epi32(v, o.v); }
#else
  int32_t v[kLanes];
  Ints() = default;
  FASTNN_INLINE Ints(int32_t x) {
    for (int i = 0; i < kLanes; ++i) v[i] = x;
  }
  static FASTNN_INLINE Ints load(const int32_t* p) {
    Ints r;
    for (int i = 0; i < kLanes; ++i) r.v[i] = p[i];
    return r;
  }
  FASTNN_INLINE void store(int32_t* p) const {
    for (int i = 0; i < kLanes; ++i) p[i] = v[i];
  }
  FASTNN_INLINE Ints operator+(Ints o) const {
    for (int i = 0; i < kLanes; ++i) o.v[i] = int32_t(uint32_t(o.v[i]) + uint32_t(v[i]));
    return o;
  }
#endif
};

struct ByteStep {
  static constexpr bool kEpilogue = false;
  using V = Ints;
  using S = int32_t;
  static FASTNN_INLINE Ints apply(Ints x, Ints w, Ints acc) {
#if FASTNN_ISA_ID == 3
    return _mm512_dpbusd_epi32(acc.v, x.v, w.v);
#elif FASTNN_ISA_ID == 2
    return _mm512_add_epi32(acc.v, _mm512_madd_epi16(x.v, w.v));
#elif FASTNN_ISA_ID == 1
    return _mm256_add_epi32(acc.v, _mm256_madd_epi16(x.v, w.v));
#else
    for (int i = 0; i < kLanes; ++i) {
      const uint32_t a = uint32_t(x.v[i]), b = uint32_t(w.v[i]);
      const int32_t products = int16_t(a) * int16_t(b) + int16_t(a >> 16) * int16_t(b >> 16);
      acc.v[i] = int32_t(uint32_t(acc.v[i]) + uint32_t(products));
    }
    return acc;
#endif
  }
};

ByteTileShape byte_tile_shape() { return {kMaxRows, kLanes, kDepth, kShift}; }

// The bits of `depth` values along k from p on, of which the first `have` exist.
template <class From>
FASTNN_INLINE uint32_t gather(const From* p, int64_t step_k, int64_t have, uint32_t flip) {
  uint32_t bits = 0;
  for (int j = 0; j < lesser(kDepth, have); ++j) {
    const int32_t x = p[j * step_k];
    bits |= kDepth == 4 ? ((uint32_t(x) & 0xff) ^ flip) << 8 * j : (uint32_t(x) & 0xffff) << 16 * (j & 1);
  }
  return bits;
}

// flip: 0x80 turns a signed byte into an unsigned one that is 128 larger.
template <class From>
FASTNN_INLINE void pack_as(const void* from, int64_t step_k, int64_t step_n, int64_t k, int cols, int width, void* to,
                           uint32_t flip) {
  const From* b = static_cast<const From*>(from);
  uint32_t* panel = static_cast<uint32_t*>(to);
#if FASTNN_ISA_ID == 3
  const __m512i flips = _mm512_set1_epi8(char(flip));
  if (step_k == 1) {
    turn_panel((k + 3) / 4, cols, width, reinterpret_cast<float*>(panel),
               [&](int64_t n, int64_t i) __attribute__((always_inline)) {
                 const int64_t have = k - 4 * i;
                 const __mmask64 in = have >= 64 ? ~__mmask64(0) : (__mmask64(1) << have) - 1;
                 const __m512i bytes = _mm512_maskz_loadu_epi8(in, b + n * step_n + 4 * i);
                 return Vec<float>(_mm512_castsi512_ps(_mm512_xor_si512(bytes, _mm512_maskz_mov_epi8(in, flips))));
               });
    return;
  }
  if (step_n == 1) {
    for (int64_t i = 0; i < k; i += 4, panel += width)
      for (int n = 0; n < width; n += 16) {
        const int have = int(greater(0, lesser(16, cols - n))), room = int(lesser(16, width - n));
        const __mmask16 in = __mmask16((1u << have) - 1);
        __m128i row[4];
#pragma GCC unroll 4
        for (int j = 0; j < 4; ++j)
          row[j] = i + j < k ? _mm_xor_si128(_mm_maskz_loadu_epi8(in, b + (i + j) * step_k + n),
                                             _mm_maskz_mov_epi8(in, _mm512_castsi512_si128(flips)))
                             : _mm_setzero_si128();
        const __m128i a = _mm_unpacklo_epi8(row[0], row[1]), c = _mm_unpackhi_epi8(row[0], row[1]);
        const __m128i d = _mm_unpacklo_epi8(row[2], row[3]), e = _mm_unpackhi_epi8(row[2], row[3]);
        __m512i quads = _mm512_castsi128_si512(_mm_unpacklo_epi16(a, d));
        quads = _mm512_inserti32x4(quads, _mm_unpackhi_epi16(a, d), 1);
        quads = _mm512_inserti32x4(quads, _mm_unpacklo_epi16(c, e), 2);
        quads = _mm512_inserti32x4(quads, _mm_unpackhi_epi16(c, e), 3);
        _mm512_mask_storeu_epi32(panel + n, __mmask16((1u << room) - 1), quads);
      }
    return;
  }
#endif
  for (int64_t i = 0; i < k; i += kDepth, panel += width)
    for (int n = 0; n < width; ++n) panel[n] = n < cols ? gather(b + i * step_k + n * step_n, step_k, k - i, flip) : 0;
}

void pack_signed(const void* b, int64_t step_k, int64_t step_n, int64_t k, int cols, int width, void* panel) {
  pack_as<int8_t>(b, step_k, step_n, k, cols, width, panel, 0);
}
void pack_unsigned(const void* b, int64_t step_k, int64_t step_n, int64_t k, int cols, int width, void* panel) {
  pack_as<uint8_t>(b, step_k, step_n, k, cols, width, panel, 0);
}
void pack_shifted(const void* b, int64_t step_k, int64_t step_n, int64_t k, int cols, int width, void* panel) {
  pack_as<int8_t>(b, step_k, step_n, k, cols, width, panel, kShift);
}

// Scales, bias, activation and rounding of `cols` sums, which become elements of c from `at` on.
template <bool Any>
FASTNN_INLINE void requantize(const Requantize& q, int64_t column, const int32_t* sums, int cols, void* c, int64_t at) {
  using V = Vec<float>;
  const bool wide = q.out == DType::f32;
  const V low(q.out == DType::u8 ? 0.0f : -128.0f), high(q.out == DType::u8 ? 255.0f : 127.0f);
  for_lanes<V>(cols, [&](int64_t n, auto lanes) {
    V v;
    load_integers(sums + n, lanes, &v);
    v = v * load<V>(q.scale + column + n, lanes);
    if (q.bias) v = v + load<V>(q.bias + column + n, lanes);
    v = activate<Any>(q.activation, v);
    if (wide) return store(v, static_cast<float*>(c) + at + n, lanes);
    v = round(v * V(q.inverse_scale)) + V(q.zero_point);
    v = min(max(v, low), high);
    if (q.out == DType::i8) v = select(v < V(0.0f), v + V(256.0f), v);  // as the unsigned byte of the same bits
    store_integers(v, static_cast<uint8_t*>(c) + at + n, lanes);
  });
}

template <int N>
FASTNN_INLINE void sum_rows_of(const Tile& t, int rows, Sink<int32_t> sink) {
  accumulate_rows<ByteStep, int32_t, N, 1, true>(t, rows, sink);
}

void byte_tile(const Tile& t, const Requantize* q, int64_t column, int rows, int cols) {
  constexpr int64_t kStep = 2 * kLanes;
  const int64_t line = t.c_row * (q && q->out != DType::i32 && q->out != DType::f32 ? 1 : 4);
  const char* lines = static_cast<const char*>(t.c);
  const bool one = cols <= kLanes;
  int32_t* c = static_cast<int32_t*>(t.c);
  if (cols % kLanes == 0 && !t.sums && (!q || (q->out == DType::i32 && !q->correction))) {
    Sink<int32_t> direct{c, t.c_row, t.accumulate ? c : nullptr, t.c_row, lines, line};
    return one ? sum_rows_of<1>(t, rows, direct) : sum_rows_of<2>(t, rows, direct);
  }
  alignas(64) int32_t buffer[kMaxRows * 2 * kMaxLanes];
  Sink<int32_t> sink{buffer, kStep, nullptr, 0, lines, line};
  one ? sum_rows_of<1>(t, rows, sink) : sum_rows_of<2>(t, rows, sink);
  const int32_t* sums = static_cast<const int32_t*>(t.sums);
  const int32_t* correction = q && q->correction ? q->correction + column : nullptr;
  const bool integers = !q || q->out == DType::i32;
  for (int m = 0; m < rows; ++m) {
    int32_t* row = buffer + m * kStep;
    // Sums wrap around as torch's do.
    auto add = [&](const int32_t* more) {
      int n = 0;
      for (; n + kLanes <= cols; n += kLanes) (Ints::load(row + n) + Ints::load(more + n)).store(row + n);
      for (; n < cols; ++n) row[n] = int32_t(uint32_t(row[n]) + uint32_t(more[n]));
    };
    if (t.accumulate) add(c + m * t.c_row);
    if (sums) add(sums + m * t.sums_row);
    if (correction) add(correction);
    if (integers)
      for (int n = 0; n < cols; ++n) c[m * t.c_row + n] = row[n];
    else if (q->activation <= Activation::relu)
      requantize<false>(*q, column, row, cols, t.c, m * t.c_row);
    else
      requantize<true>(*q, column, row, cols, t.c, m * t.c_row);
  }
}

}  // namespace

#define FASTNN_FAMILY_INC "quantized.inc"
#define FASTNN_FAMILY_TABLE                        \
  extern const QuantizedKernels quantized_kernels; \
  const QuantizedKernels quantized_kernels
#include "../kernels/fill.h"

}  // namespace fastnn::FASTNN_ISA
