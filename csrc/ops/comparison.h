// Comparisons with broadcasting, which give bool, and selection by a mask. Every dtype.
#pragma once
#include "../array.h"
#include "../kernels/types.h"
#include "../operand.h"

namespace fastnn::ops {

// A number is converted to the dtype of the array first: bfloat16(0.1) == 0.1 holds, as in torch.
template <Comparison c>
Array compare(const Operand& a, const Operand& b);

// condition ? a : b; condition is bool.
Array where(const Array& condition, const Operand& a, const Operand& b);

}  // namespace fastnn::ops
