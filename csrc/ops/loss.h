// Pointwise losses L(x, t) w, reduced. Equations stand in python/fastnn/ops/loss.py.
#pragma once
#include <tuple>

#include "../array.h"

namespace fastnn::ops {

// `loss` is the public name: mse_loss, l1_loss, smooth_l1_loss (a = beta), huber_loss (a = delta),
// binary_cross_entropy, binary_cross_entropy_with_logits, kl_div (a = 1 for log_target, else 0). input and target
// broadcast, except in the two binary ones; weight and pos_weight broadcast to them. All have the dtype of input.
// Returns a 0-d array, or for "none" one of the broadcast shape.
Array pointwise_loss(std::string_view loss, const Array& input, const Array& target, const std::optional<Array>& weight,
                     const std::optional<Array>& pos_weight, std::string_view reduction, double a);

// Gradients by input and target, those asked for.
std::tuple<std::optional<Array>, std::optional<Array>> pointwise_loss_backward(
    std::string_view loss, const Array& input, const Array& target, const std::optional<Array>& weight,
    const std::optional<Array>& pos_weight, std::string_view reduction, double a, const Array& grad, bool needs_input,
    bool needs_target);

}  // namespace fastnn::ops
