// Elementwise activations y = f(x). Equations stand in python/fastnn/ops/activation.py.
#pragma once
#include "../array.h"

namespace fastnn::ops {

Array activation(std::string_view f, const Array& x, double a, double b);
Array activation_backward(std::string_view f, const Array& saved, const Array& dy, double a, double b);

}  // namespace fastnn::ops
