// Views and joins. Views share the memory of their base, and with it the counter of in-place changes.
#pragma once
#include <vector>

#include "../array.h"

namespace fastnn::ops {

// One size may be -1: what the number of elements leaves for it.
Array reshape(const Array& x, const Dims& shape);  // a view where the strides allow one, else a copy
Array view(const Array& x, const Dims& shape);     // throws ValueError where a copy would be needed
Array permute(const Array& x, const Dims& order);
Array transpose(const Array& x, int64_t first, int64_t second);
Array expand(const Array& x, const Dims& shape);  // -1 keeps a size
Array contiguous(const Array& x, bool channels_last);
Array concatenate(const std::vector<Array>& parts, int64_t dim);

// dim in [-rank, rank) as an index in [0, rank). Throws IndexError that names op.
int normalize_dim(const char* op, int64_t dim, int rank);

}  // namespace fastnn::ops
