// One layer of a recurrent network in one direction, over all time steps. Equations stand in python/fastnn/ops/rnn.py.
#pragma once
#include <optional>
#include <string_view>
#include <tuple>

#include "../array.h"

namespace fastnn::ops {

using MaybeArray = std::optional<Array>;

// cell: "rnn_tanh", "rnn_relu", "lstm" or "gru", of G = 1, 1, 4, 3 gates. input (T, N, I), h0 and c0 (N, H), weight_ih
// (G H, I), weight_hh (G H, H), biases (G H,). reverse: from the last step to the first.
// Returns y (T, N, H), h_n and c_n (N, H); then, in the compute type, what the backward needs: h and c (T + 1, N, H),
// gates (T, N, G H) and hidden_term (T, N, H). c is there for LSTM only, hidden_term for GRU only.
std::tuple<Array, Array, MaybeArray, Array, MaybeArray, Array, MaybeArray> rnn_layer(
    std::string_view cell, const Array& input, const MaybeArray& h0, const MaybeArray& c0, const Array& weight_ih,
    const Array& weight_hh, const MaybeArray& bias_ih, const MaybeArray& bias_hh, bool reverse);

// Gradients of input, h0, c0, weight_ih, weight_hh, bias_ih and bias_hh, those whose number in `needs` is not 0.
std::tuple<MaybeArray, MaybeArray, MaybeArray, MaybeArray, MaybeArray, MaybeArray, MaybeArray> rnn_layer_backward(
    std::string_view cell, const MaybeArray& grad, const MaybeArray& grad_h, const MaybeArray& grad_c,
    const Array& input, const Array& weight_ih, const Array& weight_hh, const Array& h, const MaybeArray& c,
    const Array& gates, const MaybeArray& hidden_term, bool reverse, const Dims& needs);

}  // namespace fastnn::ops
