// Scalar conversion between storage types, and visit(): a runtime DType becomes a template argument. Used by ops, not
// by kernels (kernels convert whole vectors, simd/).
#pragma once
#include <bit>
#include <type_traits>

#include "dtype.h"
#include "error.h"

namespace fastnn {

inline float to_float(bf16 v) { return std::bit_cast<float>(uint32_t(v.bits) << 16); }

inline float to_float(f16 v) {
  uint32_t sign = uint32_t(v.bits & 0x8000) << 16, exponent = v.bits >> 10 & 31, mantissa = v.bits & 0x3ff;
  if (exponent == 0) {  // zero and subnormals
    float f = float(mantissa) * 0x1p-24f;
    return std::bit_cast<float>(std::bit_cast<uint32_t>(f) | sign);
  }
  if (exponent == 31) return std::bit_cast<float>(sign | 0x7f800000u | mantissa << 13);
  return std::bit_cast<float>(sign | (exponent + 112) << 23 | mantissa << 13);
}

inline bf16 to_bf16(float f) {
  uint32_t u = std::bit_cast<uint32_t>(f);
  if (f != f) return {uint16_t(u >> 16 | 0x40)};
  return {uint16_t((u + 0x7fff + (u >> 16 & 1)) >> 16)};
}

inline f16 to_f16(float f) {
  uint32_t u = std::bit_cast<uint32_t>(f);
  uint16_t sign = uint16_t(u >> 16 & 0x8000);
  u &= 0x7fffffff;
  if (u > 0x7f800000) return {uint16_t(sign | 0x7e00 | (u >> 13 & 0x3ff))};
  if (u >= 0x47800000) return {uint16_t(sign | 0x7c00)};
  if (u < 0x38800000) {  // subnormal in float16: adding 0.5 aligns the mantissa and rounds to nearest even
    float r = std::bit_cast<float>(u) + 0.5f;
    return {uint16_t(sign | (std::bit_cast<uint32_t>(r) - 0x3f000000))};
  }
  u += 0xfff + (u >> 13 & 1);
  return {uint16_t(sign | ((u - 0x38000000) >> 13))};
}

template <class D, class S>
inline D convert(S v) {
  if constexpr (std::is_same_v<D, S>)
    return v;
  else if constexpr (std::is_same_v<S, bf16> || std::is_same_v<S, f16>)
    return convert<D>(to_float(v));
  else if constexpr (std::is_same_v<D, bf16>)
    return to_bf16(float(v));
  else if constexpr (std::is_same_v<D, f16>)
    return to_f16(float(v));
  else if constexpr (std::is_same_v<D, bool>)
    return v != S(0);
  else
    return static_cast<D>(v);
}

// Calls f with a null pointer of the element type.
template <class F>
decltype(auto) visit(DType t, F&& f) {
  switch (t) {
    case DType::f32:
      return f((float*)nullptr);
    case DType::bf16:
      return f((bf16*)nullptr);
    case DType::f16:
      return f((f16*)nullptr);
    case DType::f64:
      return f((double*)nullptr);
    case DType::i8:
      return f((int8_t*)nullptr);
    case DType::u8:
      return f((uint8_t*)nullptr);
    case DType::i32:
      return f((int32_t*)nullptr);
    case DType::i64:
      return f((int64_t*)nullptr);
    default:
      return f((bool*)nullptr);
  }
}

}  // namespace fastnn
