// Arithmetic with broadcasting, copies and fills. A number beside an array adapts to the array's dtype without rounding
// to it first; two arrays must have one dtype: nothing is cast silently.
#pragma once
#include "../array.h"
#include "../kernels/types.h"
#include "../operand.h"

namespace fastnn::ops {

Array clone(const Array& x);  // a dense copy, layout kept
Array astype(const Array& x, DType dtype);
Array to_device(const Array& x, Device device);  // itself, or a copy, layout kept
Array empty(const Dims& shape, DType dtype, Device device);
Array full(const Dims& shape, const Operand& value, DType dtype, Device device);

// y = f(a, b) with numpy's broadcasting; the layout of the first operand that has the result's shape is kept.
template <Binary f>
Array arithmetic(const Operand& a, const Operand& b);

// In place: each counts as one change of the target's memory (its version). The target may be any view; operands that
// share memory with it are read first.
template <Binary f>
void arithmetic_in_place(const Array& target, const Operand& other);
void assign(const Array& target, const Array& source);  // broadcast, dtype converted
void fill(const Array& target, const Operand& value);

// Whether the address ranges of two arrays meet; also for arrays that borrow the same memory separately.
bool may_overlap(const Array& a, const Array& b);
// Throws unless target can be written: read-only memory, or an element that several indices share.
void check_writable(const char* op, const Array& target);

// dtype that both operands have. Throws TypeError where they differ, or where a number does not fit that dtype.
DType common_dtype(const char* op, const Operand& a, const Operand& b);
Dims common_shape(const char* op, const Operand& a, const Operand& b);
// Dense, uninitialised, in the layout of the first operand that has this shape.
Array output_for(const Operand& a, const Operand& b, const Dims& shape, DType dtype);
// A number as a zero-dimensional array on the CPU.
Array scalar_array(const char* op, const Operand& number, DType dtype);

// An operand of a GPU kernel, and its strides where the result has `shape`: zeros for what is broadcast and for
// numbers.
gpu::Source device_source(const Operand& o);
Dims device_strides(const Operand& o, const Dims& shape);

}  // namespace fastnn::ops
