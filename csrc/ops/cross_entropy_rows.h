// What cross_entropy and linear_cross_entropy share: the checked target of logits that need not exist yet.
#pragma once
#include "../dispatch.h"
#include "loss_common.h"

namespace fastnn::ops {

struct CrossEntropyTarget {
  Reduction reduction;
  double divisor = 1;    // of the sum of the losses
  Array summary;         // on a GPU: holds the sum of the weights, which is the divisor of labels, see label_summary
  Array values, weight;  // labels or rows of probabilities; weights of the classes
  CrossEntropyRows arguments{};  // all but x, dx, dt and losses
};

// For logits of shape (N, C, d1, ...) or (C,). Raises what the op of that name raises.
CrossEntropyTarget read_target(const char* op, const Dims& shape, DType dtype, const Array& target,
                               const std::optional<Array>& weight, int64_t ignore_index, std::string_view reduction,
                               double label_smoothing);

}  // namespace fastnn::ops
