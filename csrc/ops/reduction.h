// Reductions over axes. Each output is summed in one fixed order, a function of the shape only: the same bits for any
// number of threads. Sums of floating dtypes go through blocks in float32 and block sums in float64; a float32 sum is
// wrong by about one rounding. NaN wins every comparison.
#pragma once
#include <tuple>

#include "../array.h"

namespace fastnn::ops {

// Sum over `dims` (all axes if empty); bool and integers give int64. mean divides by the number of elements.
Array sum(const Array& x, const Dims& dims, bool keepdim);
Array mean(const Array& x, const Dims& dims, bool keepdim);
// Sums x over what was broadcast from `shape`; x itself where nothing was.
Array sum_to(const Array& x, const Dims& shape);

// Largest (or smallest) element over `dims` (all if empty).
Array amax(const Array& x, const Dims& dims, bool keepdim);
Array amin(const Array& x, const Dims& dims, bool keepdim);
// Values and int64 indices (of the first of equals) along one axis.
std::tuple<Array, Array> max_along(const Array& x, int64_t dim, bool keepdim);
std::tuple<Array, Array> min_along(const Array& x, int64_t dim, bool keepdim);

}  // namespace fastnn::ops
