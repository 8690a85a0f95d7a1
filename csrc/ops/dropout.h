// y = x * m / (1 - p), m_i = 0 with probability p, else 1. Whether element i is dropped depends on (seed, offset, i)
// alone, where i counts in memory order if x is row-major or channels_last, else in row-major order.
#pragma once
#include <tuple>

#include "../array.h"

namespace fastnn::ops {

// Also says whether x was taken as channels_last, which backward has to be told. Needs 0 <= p <= 1.
std::tuple<Array, bool> dropout(const Array& x, double p, int64_t seed, int64_t offset);
Array dropout_backward(const Array& grad, double p, int64_t seed, int64_t offset, bool channels_last);

// The 64 random words (as int32) of elements [64 * group, 64 * group + 64).
Array philox_words(int64_t group, int64_t offset, int64_t seed);

}  // namespace fastnn::ops
