// Element types. The first four are the floating types that index ByDtype kernel tables (dispatch.h).
#pragma once
#include <cstddef>
#include <cstdint>

namespace fastnn {

enum class DType : uint8_t { f32, bf16, f16, f64, i8, u8, i32, i64, b8 };
constexpr int kFloatTypes = 4;
constexpr int kDTypes = 9;

// Storage only: kernels convert to float on load and round to nearest even on store.
struct bf16 {
  uint16_t bits;
};
struct f16 {
  uint16_t bits;
};

constexpr const char* kDTypeNames[kDTypes] = {"float32", "bfloat16", "float16", "float64", "int8",
                                              "uint8",   "int32",    "int64",   "bool"};
constexpr size_t kDTypeSizes[kDTypes] = {4, 2, 2, 8, 1, 1, 4, 8, 1};

constexpr const char* name(DType t) { return kDTypeNames[int(t)]; }
constexpr size_t size_of(DType t) { return kDTypeSizes[int(t)]; }
constexpr bool is_float(DType t) { return int(t) < kFloatTypes; }

template <class T>
struct dtype_of;
template <>
struct dtype_of<float> {
  static constexpr DType value = DType::f32;
};
template <>
struct dtype_of<bf16> {
  static constexpr DType value = DType::bf16;
};
template <>
struct dtype_of<f16> {
  static constexpr DType value = DType::f16;
};
template <>
struct dtype_of<double> {
  static constexpr DType value = DType::f64;
};
template <>
struct dtype_of<int8_t> {
  static constexpr DType value = DType::i8;
};
template <>
struct dtype_of<uint8_t> {
  static constexpr DType value = DType::u8;
};
template <>
struct dtype_of<int32_t> {
  static constexpr DType value = DType::i32;
};
template <>
struct dtype_of<int64_t> {
  static constexpr DType value = DType::i64;
};
template <>
struct dtype_of<bool> {
  static constexpr DType value = DType::b8;
};

}  // namespace fastnn
