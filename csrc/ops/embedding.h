// Rows of a table: y[..., :] = weight[input[...], :], with weight (V, D) and input of int64 or int32. IndexError for an
// index outside of [0, V), before anything is written.
#pragma once
#include "../array.h"

namespace fastnn::ops {

Array embedding(const Array& weight, const Array& input);

// dW[r] = sum of grad[n] over the n with input[n] = r, in the order of n; divided by their number with
// scale_grad_by_freq; zero for r = padding_idx (-1: none). weight_shape is (V, D).
Array embedding_backward(const Array& grad, const Array& input, const Dims& weight_shape, int64_t padding_idx,
                         bool scale_grad_by_freq);

// In place: each row that input names and whose p-norm, p = norm_type, is above max_norm is scaled down to it.
void embedding_renorm(const Array& weight, const Array& input, double max_norm, double norm_type);

}  // namespace fastnn::ops
