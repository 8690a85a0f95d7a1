// A linear map of each spatial axis of images, one after the other, given by the few elements that each output is made
// of: interpolation, and with the transposed maps its gradient.
#pragma once
#include <vector>

#include "../array.h"

namespace fastnn::ops {

// y[n, c, p, q] = sum_i sum_j weights[0][i, p] weights[1][j, q] x[n, c, index[0][i, p], index[1][j, q]] for x (N, C, H,
// W), and alike for one or three spatial axes. index[a] is int32 (taps, out), weights[a] float64 of its shape; taps
// whose index is -1 count as 0. A channels_last x gives a channels_last y. Sums are in float32 (float64 for float64).
Array resample(const Array& x, const std::vector<Array>& index, const std::vector<Array>& weights);

}  // namespace fastnn::ops
