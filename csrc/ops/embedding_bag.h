// Sums, means and maxima of rows of a table: bag b holds indices input[offsets[b]] to input[offsets[b + 1] - 1].
#pragma once
#include <optional>
#include <tuple>

#include "../array.h"

namespace fastnn::ops {

// y[b] = sum, mean or max of weight[i] over the indices i of bag b but padding_idx (-1: none), 0 for none; sums may
// have a weight for each index. weight (V, D); input (n,) and offsets (B,), int64 or int32; include_last_offset: the
// last offset is the end of the last bag. Returns y and, for max, the index (B, D) that each element is from, -1 for
// none.
std::tuple<Array, std::optional<Array>> embedding_bag(const Array& weight, const Array& input, const Array& offsets,
                                                      std::string_view mode,
                                                      const std::optional<Array>& per_sample_weights,
                                                      bool include_last_offset, int64_t padding_idx);

// Gradients of weight and per_sample_weights; `from` is what embedding_bag returned for max. Each row is summed in the
// order of input.
std::tuple<std::optional<Array>, std::optional<Array>> embedding_bag_backward(
    const Array& grad, const Array& weight, const Array& input, const Array& offsets, const std::optional<Array>& from,
    std::string_view mode, const std::optional<Array>& per_sample_weights, bool include_last_offset,
    int64_t padding_idx, bool scale_grad_by_freq, bool need_weight, bool need_per_sample_weights);

}  // namespace fastnn::ops
