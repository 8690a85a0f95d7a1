// Elementwise functions y = f(x). Equations stand in python/fastnn/ops/activation.py and unary.py.
#pragma once
#include "../array.h"
#include "../kernels/types.h"

namespace fastnn::ops {

// "relu" -> Activation::relu, for `op` in the error.
Activation parse_activation(const char* op, std::string_view name);

// a and b are the parameters of the function, see simd/activation.h.
Array activation(std::string_view f, const Array& x, double a, double b);
Array activation_backward(std::string_view f, const Array& saved, const Array& dy, double a, double b);

}  // namespace fastnn::ops
