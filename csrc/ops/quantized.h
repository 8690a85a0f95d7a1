// Products of 8-bit integers with exact 32-bit sums. Equations stand in python/fastnn/ops/quantized.py.
#pragma once
#include <optional>
#include <string_view>

#include "../array.h"

namespace fastnn::ops {

// (..., k) int8 or uint8 x (k, n) int8 -> (..., n) int32.
Array int_mm(const Array& a, const Array& b);
// y = f(scale * weight_scale[n] * sum_k (x - zero_point) W[n, k] + bias[n]) in float32, or, where output_scale is not
// 0, rounded to y / output_scale + output_zero_point in the dtype of x.
Array linear_int8(const Array& x, const Array& weight, double scale, int64_t zero_point, const Array& weight_scale,
                  const std::optional<Array>& bias, std::string_view activation, double output_scale,
                  int64_t output_zero_point);

}  // namespace fastnn::ops
