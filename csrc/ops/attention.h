// Scaled dot-product attention, tile by tile: the matrix of scores is never held.
//   y = dropout(softmax(cap(scale * q k^T) + mask)) v
// for query (..., H, L, E), key (..., H / G, S, E) and value (..., H / G, S, Ev); query head h uses key head h / G. A
// query whose keys are all masked gives 0. Dao et al. 2022, arXiv:2205.14135; Rabe & Staats 2021, arXiv:2112.05682.
#pragma once
#include <optional>
#include <tuple>

#include "../array.h"

namespace fastnn::ops {

// mask broadcasts to (..., H, L, S): bool, false = not seen, or floating, added. is_causal: query i sees keys up to i.
// left, right: it sees keys i - left to i + right; negative: no limit. cap(x) = softcap * tanh(x / softcap); 0: none.
// Returns y (..., H, L, Ev), laid out like query if that is dense and Ev = E, and log(sum(exp(scores))) (..., H, L) in
// the compute type, which is +inf where all keys are masked.
std::tuple<Array, Array> attention(const Array& query, const Array& key, const Array& value,
                                   const std::optional<Array>& mask, bool is_causal, double scale, double dropout_p,
                                   int64_t seed, int64_t offset, double softcap, int64_t left, int64_t right);

// Gradients of query, key and value, and of the mask as if it had the shape (..., H, L, S), in the compute type.
std::tuple<std::optional<Array>, std::optional<Array>, std::optional<Array>, std::optional<Array>> attention_backward(
    const Array& grad, const Array& query, const Array& key, const Array& value, const std::optional<Array>& mask,
    const Array& output, const Array& log_sum, bool is_causal, double scale, double dropout_p, int64_t seed,
    int64_t offset, double softcap, int64_t left, int64_t right, bool need_query, bool need_key_value, bool need_mask);

}  // namespace fastnn::ops
