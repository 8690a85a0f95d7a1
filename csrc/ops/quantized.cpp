#include "quantized.h"

#include <cmath>
#include <cstring>

#include "../dispatch.h"
#include "../error.h"
#include "../packed.h"
#include "activation.h"
#include "gemm.h"

namespace fastnn::ops {
namespace {

void check(const char* op, const Array& a, const char* b_name, const Array& b) {
  require<TypeError>(a.dtype == DType::i8 || a.dtype == DType::u8, op, ": input is ", name(a.dtype),
                     "; expected int8 or uint8");
  require<TypeError>(b.dtype == DType::i8, op, ": ", b_name, " is ", name(b.dtype), "; expected int8");
  require<ValueError>(a.ndim() >= 1, op, ": input has no dimensions; expected (..., k)");
  require<ValueError>(b.ndim() == 2, op, ": ", b_name, " has shape ", b.shape, "; expected 2 dimensions");
}

Array rows_of(const Array& x) {
  int64_t rows = 1;
  for (int i = 0; i < x.ndim() - 1; ++i) rows *= x.size(i);
  return x.reshape({rows, x.shape.back()});
}

Dims with_last(const Dims& shape, int64_t last) {
  Dims s = shape;
  s[s.n - 1] = last;
  return s;
}

constexpr int64_t kKeptSums = -2;  // the key of sums of columns, beside the packed columns of gemm.cpp

// sums[n] = the sum of column n of b.
void sum_columns(const Matrix& b, int64_t k, int64_t n, int32_t* sums) {
  Array ones = Array::empty({1, k}, DType::u8);
  for (int64_t i = 0; i < k; ++i) ones.as<uint8_t>()[i] = 1;
  gemm_bytes(DType::u8, 1, n, k, {ones.data, k, 1}, b, reinterpret_cast<char*>(sums), n, {});
}

// What must be added to column n of the sums of packed values: -offset times the sum of that column of b, a view of
// `weight`.
Array correction(const Array& weight, const Matrix& b, int64_t k, int64_t n, int64_t offset) {
  Array sums = Array::empty({n}, DType::i32);
  int32_t* values = sums.as<int32_t>();
  const size_t bytes = size_t(n) * sizeof(int32_t);
  const auto kept = Packed::from_second_use(weight, {kKeptSums, b.row, b.col}, bytes,
                                            [&](char* to) { sum_columns(b, k, n, reinterpret_cast<int32_t*>(to)); });
  if (kept)
    std::memcpy(values, kept->data(), bytes);
  else
    sum_columns(b, k, n, values);
  for (int64_t i = 0; i < n; ++i) values[i] = int32_t(-uint32_t(offset) * uint32_t(values[i]));
  return sums;
}

int64_t shift_of(DType dtype) { return dtype == DType::i8 ? kernels().quantized.byte_tile_shape().shift : 0; }

}  // namespace

Array int_mm(const Array& a, const Array& b) {
  check("int_mm", a, "other", b);
  const int64_t k = a.shape.back(), n = b.size(1);
  require<ValueError>(b.size(0) == k, "int_mm: shapes ", a.shape, " and ", b.shape,
                      " do not fit; the last size of input (", k, ") must equal the first of other (", b.size(0), ")");
  Array rows = rows_of(a), c = Array::empty(with_last(a.shape, n), DType::i32), corrections;
  const Matrix mb{b.data, b.stride(0), b.stride(1)};
  Requantize q{};
  if (const int64_t shift = shift_of(a.dtype)) {
    corrections = correction(b, mb, k, n, shift);
    q.correction = corrections.as<int32_t>();
  }
  gemm_bytes(a.dtype, rows.size(0), n, k, {rows.data, rows.stride(0), rows.stride(1)}, mb, c.data, n, q, &b);
  return c;
}

Array linear_int8(const Array& x, const Array& weight, double scale, int64_t zero_point, const Array& weight_scale,
                  const std::optional<Array>& bias, std::string_view activation, double output_scale,
                  int64_t output_zero_point) {
  const char* op = "linear_int8";
  check(op, x, "weight", weight);
  const int64_t n = weight.size(0), k = weight.size(1);
  const int64_t low = x.dtype == DType::u8 ? 0 : -128;
  require<ValueError>(x.shape.back() == k, op, ": input has shape ", x.shape, " but weight has shape ", weight.shape,
                      "; expected input of shape (..., ", k, ")");
  require<ValueError>(zero_point >= low && zero_point <= low + 255, op, ": input_zero_point is ", zero_point,
                      "; expected a value of ", name(x.dtype));
  require<ValueError>(std::isfinite(scale), op, ": input_scale is ", scale, "; expected a finite number");
  require<TypeError>(weight_scale.dtype == DType::f32, op, ": weight_scale is ", name(weight_scale.dtype),
                     "; expected float32");
  require<ValueError>(weight_scale.numel() == 1 || (weight_scale.ndim() == 1 && weight_scale.size(0) == n), op,
                      ": weight_scale has shape ", weight_scale.shape, "; expected (", n, ",) or one element");
  if (bias) {
    require<TypeError>(bias->dtype == DType::f32, op, ": bias is ", name(bias->dtype), "; expected float32");
    require<ValueError>(bias->ndim() == 1 && bias->size(0) == n, op, ": bias has shape ", bias->shape, "; expected (",
                        n, ",)");
  }
  Requantize q{};
  q.activation = parse_activation(op, activation);
  q.out = DType::f32;
  if (output_scale != 0) {
    require<ValueError>(output_scale > 0 && std::isfinite(output_scale), op, ": output_scale is ", output_scale,
                        "; expected a positive number");
    require<ValueError>(output_zero_point >= low && output_zero_point <= low + 255, op, ": output_zero_point is ",
                        output_zero_point, "; expected a value of ", name(x.dtype));
    q.out = x.dtype;
    q.inverse_scale = float(1 / output_scale);
    q.zero_point = float(output_zero_point);
  }
  Array scales = Array::empty({n}, DType::f32), bias_values, corrections, given = weight_scale.contiguous();
  for (int64_t i = 0; i < n; ++i) scales.as<float>()[i] = float(scale * given.as<float>()[given.numel() == 1 ? 0 : i]);
  q.scale = scales.as<float>();
  if (bias) {
    bias_values = bias->contiguous();
    q.bias = bias_values.as<float>();
  }
  const Matrix b{weight.data, weight.stride(1), weight.stride(0)};
  if (const int64_t offset = zero_point + shift_of(x.dtype)) {
    corrections = correction(weight, b, k, n, offset);
    q.correction = corrections.as<int32_t>();
  }
  Array rows = rows_of(x), y = Array::empty(with_last(x.shape, n), q.out);
  gemm_bytes(x.dtype, rows.size(0), n, k, {rows.data, rows.stride(0), rows.stride(1)}, b, y.data, n, q, &weight);
  return y;
}

}  // namespace fastnn::ops
