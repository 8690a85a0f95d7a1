// cross_entropy and nll_loss. Equations stand in python/fastnn/ops/cross_entropy.py.
//
// input (N, C, d1, ...) or (C,), floating; weight (C,) of the same dtype. target: class indices int64, int32 or uint8
// of the shape of input without C; for cross_entropy also probabilities of the shape and dtype of input. A label that
// is neither a class nor ignore_index is an IndexError before anything is computed.
#pragma once
#include <tuple>

#include "../array.h"

namespace fastnn::ops {

Array cross_entropy(const Array& input, const Array& target, const std::optional<Array>& weight, int64_t ignore_index,
                    std::string_view reduction, double label_smoothing);

// The loss and, from the same pass over the rows, the gradients of the reduced loss by input and target, those asked
// for; for reduction "none" the gradients of the sum. float16 has them in float32.
using SavedGradients = std::tuple<std::optional<Array>, std::optional<Array>>;
std::tuple<Array, SavedGradients> cross_entropy_with_gradient(const Array& input, const Array& target,
                                                              const std::optional<Array>& weight, int64_t ignore_index,
                                                              std::string_view reduction, double label_smoothing,
                                                              bool needs_input, bool needs_target);

// A saved gradient times the gradient of the loss. Works in place where the dtypes agree: `saved` is spent.
Array cross_entropy_backward(const Array& saved, const Array& grad);

Array nll_loss(const Array& input, const Array& target, const std::optional<Array>& weight, int64_t ignore_index,
               std::string_view reduction);
Array nll_loss_backward(const Array& input, const Array& target, const std::optional<Array>& weight,
                        int64_t ignore_index, std::string_view reduction, const Array& grad);

}  // namespace fastnn::ops
