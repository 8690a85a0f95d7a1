// softmax and log_softmax along one dimension. Equations stand in python/fastnn/ops/softmax.py.
#pragma once
#include "../array.h"

namespace fastnn::ops {

Array softmax(const Array& x, int64_t dim);
Array log_softmax(const Array& x, int64_t dim);
// From the output y: softmax dx = y (dy - sum(y dy)), log_softmax dx = dy - exp(y) sum(dy).
Array softmax_backward(const Array& y, const Array& dy, int64_t dim);
Array log_softmax_backward(const Array& y, const Array& dy, int64_t dim);

}  // namespace fastnn::ops
