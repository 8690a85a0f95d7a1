// Rotary position embedding (Su et al. 2021, arXiv:2104.09864): pairs of elements of a row, turned by angles.
#pragma once
#include "../array.h"

namespace fastnn::ops {

// input (..., L, E); cos and sin (..., L, R / 2), R <= E, broadcast to the leading sizes of input. Element i < R / 2
// makes a pair with R / 2 + i, or, interleaved, element 2 i with 2 i + 1; elements from R on stay. inverse: by the
// negative angle, which is the gradient. The result is laid out like input if that is dense with contiguous rows.
Array rotary_embedding(const Array& input, const Array& cos, const Array& sin, bool interleaved, bool inverse);

}  // namespace fastnn::ops
