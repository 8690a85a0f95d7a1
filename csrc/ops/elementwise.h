// Arithmetic with broadcasting, reductions, copies.
#pragma once
#include "../array.h"

namespace fastnn::ops {

Array clone(const Array& x);                            // a dense copy, layout kept
Array astype(const Array& x, DType dtype);
void assign(const Array& target, const Array& source);  // target[...] = source, broadcast; counts as an in-place change
Array add(const Array& a, const Array& b);
void add_in_place(const Array& a, const Array& b);

}  // namespace fastnn::ops
