// cross_entropy of the logits x W^T + b, which are never held all at once: a block of rows at a time is computed,
// turned into its gradient and multiplied back. Equations stand in python/fastnn/ops/linear_cross_entropy.py.
//
// input (N, K) or (K,), weight (C, K), bias (C,), the rest as in cross_entropy.h.
#pragma once
#include <tuple>

#include "../array.h"

namespace fastnn::ops {

Array linear_cross_entropy(const Array& input, const Array& weight, const std::optional<Array>& bias,
                           const Array& target, const std::optional<Array>& class_weight, int64_t ignore_index,
                           std::string_view reduction, double label_smoothing);

// Of input, weight and bias, those asked for; float16 has them in float32. cross_entropy_backward() multiplies them.
using LinearGradients = std::tuple<std::optional<Array>, std::optional<Array>, std::optional<Array>>;
std::tuple<Array, LinearGradients> linear_cross_entropy_with_gradient(
    const Array& input, const Array& weight, const std::optional<Array>& bias, const Array& target,
    const std::optional<Array>& class_weight, int64_t ignore_index, std::string_view reduction, double label_smoothing,
    bool need_input, bool need_weight, bool need_bias);

// For reduction "none": grad has a value per row. The logits are computed again.
LinearGradients linear_cross_entropy_backward(const Array& input, const Array& weight, const std::optional<Array>& bias,
                                              const Array& target, const std::optional<Array>& class_weight,
                                              int64_t ignore_index, double label_smoothing, const Array& grad,
                                              bool need_input, bool need_weight, bool need_bias);

}  // namespace fastnn::ops
