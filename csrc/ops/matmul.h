// Matrix products. Equations stand in python/fastnn/ops/matmul.py.
#pragma once
#include <optional>
#include <string_view>
#include <tuple>

#include "../array.h"

namespace fastnn::ops {

// torch.matmul: (..., m, k) x (..., k, n) with broadcast batches; vectors at either side.
Array matmul(const Array& a, const Array& b);
// y = f(x W^T + bias + residual): x (..., in), W (out, in), bias (out,), residual like y.
Array linear(const Array& x, const Array& weight, const std::optional<Array>& bias, std::string_view activation,
             const std::optional<Array>& residual);
// Gradients of x, weight and bias; each is computed only where asked for.
std::tuple<std::optional<Array>, std::optional<Array>, std::optional<Array>> linear_backward(
    const Array& grad, const Array& x, const Array& weight, bool need_x, bool need_weight, bool need_bias);

// Sum of x (rows, cols) over the rows, in one fixed order for any number of threads.
Array sum_columns(const Array& x);

}  // namespace fastnn::ops
