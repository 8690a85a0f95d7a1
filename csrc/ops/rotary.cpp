#include "rotary.h"

#include "../convert.h"
#include "../dispatch.h"
#include "../parallel.h"
#include "gemm.h"

namespace fastnn::ops {
namespace {

constexpr const char* kOp = "rotary_embedding";

// The angles in the compute type, with contiguous rows, broadcast to `shape`.
Array angles(const char* what, const Array& a, const Array& input, const Dims& shape) {
  require<NotImplementedError>(a.dtype == input.dtype || a.dtype == DType::f32, kOp, ": ", what, " has dtype ",
                               name(a.dtype), "; expected ", name(input.dtype), " or float32");
  bool fits = a.ndim() <= shape.n && a.ndim() >= 1;
  for (int i = 1; fits && i <= a.ndim(); ++i)
    fits = a.size(a.ndim() - i) == shape[shape.n - i] || (i > 1 && a.size(a.ndim() - i) == 1);
  require<ValueError>(fits, kOp, ": ", what, " has shape ", a.shape, "; expected one that broadcasts to ", shape);
  Array wide = fastnn::astype(a, compute_type(input.dtype)).contiguous();
  return broadcast_to(wide, shape);
}

}  // namespace

Array rotary_embedding(const Array& input, const Array& cos, const Array& sin, bool interleaved, bool inverse) {
  const int rank = input.ndim();
  require<NotImplementedError>(is_float(input.dtype), kOp, ": input has dtype ", name(input.dtype),
                               "; expected float32, bfloat16, float16 or float64");
  require<ValueError>(rank >= 2, kOp, ": input has shape ", input.shape, "; expected (..., L, E)");
  require<ValueError>(cos.shape == sin.shape && cos.ndim() >= 1, kOp, ": cos has shape ", cos.shape, " and sin ",
                      sin.shape, "; expected one shape, (..., L, R / 2)");
  const int64_t half = cos.size(cos.ndim() - 1), width = input.size(rank - 1), rows = input.size(rank - 2);
  require<ValueError>(2 * half <= width, kOp, ": cos has shape ", cos.shape, "; expected at most half of ", width,
                      " columns, which input has");
  Dims shape = input.shape;
  shape[rank - 1] = half;
  Array c = angles("cos", cos, input, shape), s = angles("sin", sin, input, shape);
  Array x = width > 1 && input.stride(rank - 1) != 1 ? input.contiguous() : input, y = Array::empty_like(x);
  if (y.stride(rank - 1) != 1 && width > 1) y = Array::empty(x.shape, x.dtype, x.device());
  int64_t matrices = 1;
  for (int i = 0; i < rank - 2; ++i) matrices *= x.size(i);
  if (matrices * rows * width == 0) return y;
  const int64_t item = int64_t(size_of(x.dtype)), scalar = int64_t(size_of(c.dtype));
  auto offset = [&](const Array& a, int64_t index) {
    int64_t at = 0;
    for (int i = rank - 3; i >= 0; index /= x.size(i--)) at += index % x.size(i) * a.stride(i);
    return at;
  };
  // An item is a block of rows of one matrix.
  const int64_t block = std::max<int64_t>(1, 16384 / width), blocks = divide_up(rows, block);
  auto kernel = kernels().attention.rotary_rows[x.dtype];
  parallel_for(matrices * blocks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t m = task / blocks, r = task % blocks * block, n = std::min(block, rows - r);
      auto row = [&](const Array& a, int64_t size) { return a.data + (offset(a, m) + r * a.stride(rank - 2)) * size; };
      kernel(row(x, item), x.stride(rank - 2), row(c, scalar), row(s, scalar), c.stride(rank - 2), interleaved,
             inverse ? -1 : 1, n, half, width, row(y, item), y.stride(rank - 2));
    }
  });
  return y;
}

}  // namespace fastnn::ops
