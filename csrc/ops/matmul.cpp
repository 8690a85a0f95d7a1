#include "matmul.h"

#include <algorithm>
#include <cstring>

#include "../cuda/products.h"
#include "../dispatch.h"
#include "../parallel.h"
#include "activation.h"
#include "gemm.h"
#include "reduction.h"

namespace fastnn::ops {
namespace {

void check_dtypes(const char* op, const Array& a, const char* b_name, const Array& b) {
  require<NotImplementedError>(is_float(a.dtype), op, ": dtype ", name(a.dtype),
                               " is not supported; expected float32, bfloat16, float16 or float64");
  require<TypeError>(a.dtype == b.dtype, op, ": input is ", name(a.dtype), " but ", b_name, " is ", name(b.dtype),
                     "; expected the same dtype, convert one of them");
}

// A view of the last two axes as a Matrix; an operand that both strides jump over is copied first by the caller.
Matrix matrix_of(const Array& a) { return {a.data, a.stride(a.ndim() - 2), a.stride(a.ndim() - 1)}; }

Array collapse_rows(const Array& x) {
  int64_t k = x.shape.back(), rows = 1;
  for (int i = 0; i < x.ndim() - 1; ++i) rows *= x.size(i);
  return x.reshape({rows, k});
}

Dims with_last(const Dims& shape, int64_t last) {
  Dims s = shape;
  s[s.n - 1] = last;
  return s;
}

// c[batch] = f(a[batch] b[batch] + bias + residual) on a GPU; a (..., m, k) and b (..., k, n) of the same batch shape.
void gpu_product(const char* op, const Array& a_in, const Array& b_in, const Array& c, const Epilogue& e) {
  const int axes = a_in.ndim() - 2;
  gpu::Product p{};
  p.dtype = c.dtype;
  p.tf32 = tf32_products();
  p.m = a_in.size(axes), p.n = b_in.size(axes + 1), p.k = a_in.size(axes + 1);
  if (c.numel() == 0) return;
  constexpr int64_t kMost = int64_t(1) << 31;
  require<NotImplementedError>(p.m < kMost && p.n < kMost && p.k < kMost, op, ": product of ", Dims{p.m, p.k}, " and ",
                               Dims{p.k, p.n}, "; sizes from 2^31 on are not supported on a GPU");
  // The step along an axis of one element is free: what makes the other one 1 is best.
  auto steps = [&](const Array& x, int64_t& row, int64_t& column) {
    row = x.stride(axes), column = x.stride(axes + 1);
    if (x.size(axes + 1) <= 1 && row != 1)
      column = 1;
    else if (x.size(axes) <= 1 && column != 1)
      row = 1;
  };
  Array a = a_in, b = b_in;
  steps(a, p.a_row, p.a_column);
  steps(b, p.b_row, p.b_column);
  if (size_of(p.dtype) == 2 || (p.dtype == DType::f32 && p.tf32)) {
    // Tensor cores take rows or columns that lie side by side, but not columns of a with columns of b.
    if (p.b_row != 1 && p.b_column != 1) steps(b = b.contiguous(), p.b_row, p.b_column);
    if (p.a_column != 1 && (p.a_row != 1 || p.b_column != 1)) steps(a = a.contiguous(), p.a_row, p.a_column);
  }
  p.a = a.data, p.b = b.data, p.c = c.data;
  p.batch.n = 1, p.batch.size[0] = 1;
  for (int i = 0, to = 0; i < axes; ++i) {
    if (a.size(i) == 1) continue;
    p.batch.n = to + 1;
    p.batch.size[to] = a.size(i);
    p.batch.stride[0][to] = a.stride(i), p.batch.stride[1][to] = b.stride(i);
    ++to;
  }
  p.wgmma_multiprocessors = cuda::wgmma_multiprocessors(c.device());
  p.bias = e.bias, p.residual = e.residual, p.activation = e.activation;
  int64_t bytes = 0;
  const gpu::Stream stream = cuda::stream(c.device());
  cuda::check(op, cuda::launchers().matmul_workspace(p, &bytes));
  Array workspace = Array::empty({bytes}, DType::u8, c.device());
  p.workspace = workspace.data;
  cuda::check(op, cuda::launchers().matmul(p, stream));
}

// C = f(A B + bias + residual) of matrices on either device, C row-major. `keeps`: packed copies of b may be kept.
void product(const char* op, const Array& a, const Array& b, const Array& c, const Epilogue& e = {},
             bool keeps = false) {
  if (c.on_cuda()) return gpu_product(op, a, b, c, e);
  gemm(c.dtype, a.size(0), b.size(1), a.size(1), matrix_of(a), matrix_of(b), c.data, b.size(1), e,
       keeps ? &b : nullptr);
}

Array transposed(const Array& a) { return a.view({a.size(1), a.size(0)}, {a.stride(1), a.stride(0)}); }

}  // namespace

Array matmul(const Array& a_in, const Array& b_in) {
  check_dtypes("matmul", a_in, "other", b_in);
  require<ValueError>(a_in.ndim() >= 1 && b_in.ndim() >= 1,
                      "matmul: both arguments need at least 1 dimension, got shapes ", a_in.shape, " and ", b_in.shape);
  // A vector is a row on the left and a column on the right; its axis is dropped from the result.
  Array a = a_in.ndim() == 1 ? a_in.view({1, a_in.size(0)}, {0, a_in.stride(0)}) : a_in;
  Array b = b_in.ndim() == 1 ? b_in.view({b_in.size(0), 1}, {b_in.stride(0), 0}) : b_in;
  int64_t m = a.size(a.ndim() - 2), k = a.shape.back(), n = b.shape.back();
  require<ValueError>(b.size(b.ndim() - 2) == k, "matmul: shapes ", a_in.shape, " and ", b_in.shape,
                      " do not fit; the last size of input (", k, ") must equal the ",
                      b_in.ndim() == 1 ? "size" : "second to last size", " of other (", b.size(b.ndim() - 2), ")");
  Dims a_batch = a.shape, b_batch = b.shape;
  a_batch.n -= 2;
  b_batch.n -= 2;
  Dims batch = broadcast_shapes("matmul", a_batch, b_batch), full = batch;
  full.push_back(m);
  full.push_back(n);
  Dims out = batch;
  if (a_in.ndim() > 1) out.push_back(m);
  if (b_in.ndim() > 1) out.push_back(n);
  Array c = Array::empty(full, a.dtype, a.device());
  // One product where b is a single matrix, which may be a weight, and a's batches are rows that follow each other.
  if (b_batch.n == 0 && (batch.n == 0 || a.is_contiguous())) {
    Array rows = batch.n == 0 ? a : collapse_rows(a);
    product("matmul", rows, b, c.view({rows.size(0), n}, {n, 1}), {}, true);
  } else {
    Dims a_full = batch, b_full = batch;
    a_full.push_back(m), a_full.push_back(k);
    b_full.push_back(k), b_full.push_back(n);
    Array av = broadcast_to(a, a_full), bv = broadcast_to(b, b_full);
    if (c.on_cuda()) {
      gpu_product("matmul", av, bv, c, {});
      return c.view(out, contiguous_strides(out));
    }
    int64_t count = 1, item = int64_t(size_of(a.dtype));
    for (int64_t s : batch) count *= s;
    int64_t flops = std::max<int64_t>(1, 2 * m * n * k);
    parallel_for(count, std::max<int64_t>(1, (1 << 20) / flops), [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        int64_t rest = i, a_offset = 0, b_offset = 0;
        for (int d = batch.n - 1; d >= 0; --d) {
          a_offset += rest % batch[d] * av.stride(d);
          b_offset += rest % batch[d] * bv.stride(d);
          rest /= batch[d];
        }
        Matrix ma = matrix_of(av), mb = matrix_of(bv);
        ma.data += a_offset * item;
        mb.data += b_offset * item;
        gemm(a.dtype, m, n, k, ma, mb, c.data + i * m * n * item, n, {});
      }
    });
  }
  return c.view(out, contiguous_strides(out));
}

Array linear(const Array& x, const Array& weight, const std::optional<Array>& bias, std::string_view activation,
             const std::optional<Array>& residual) {
  check_dtypes("linear", x, "weight", weight);
  require<ValueError>(weight.ndim() == 2, "linear: weight has shape ", weight.shape,
                      "; expected (out_features, in_features)");
  require<ValueError>(x.ndim() >= 1 && x.shape.back() == weight.size(1), "linear: input has shape ", x.shape,
                      " but weight has shape ", weight.shape, "; expected input of shape (..., ", weight.size(1), ")");
  int64_t n = weight.size(0);
  Epilogue e;
  e.activation = parse_activation("linear", activation);
  Array bias_values, residual_values;
  if (bias) {
    check_dtypes("linear", x, "bias", *bias);
    require<ValueError>(bias->ndim() == 1 && bias->size(0) == n, "linear: bias has shape ", bias->shape, "; expected (",
                        n, ",)");
    bias_values = bias->dtype == compute_type(x.dtype) ? bias->contiguous()
                                                       : fastnn::astype(bias->contiguous(), compute_type(x.dtype));
    e.bias = bias_values.data;
  }
  Dims shape = with_last(x.shape, n);
  if (residual) {
    check_dtypes("linear", x, "residual", *residual);
    require<ValueError>(residual->shape == shape, "linear: residual has shape ", residual->shape, "; expected ", shape);
    residual_values = residual->contiguous();
    e.residual = residual_values.data;
  }
  Array rows = collapse_rows(x), y = Array::empty(shape, x.dtype, x.device());
  product("linear", rows, transposed(weight), y.view({rows.size(0), n}, {n, 1}), e, true);
  return y;
}

std::tuple<std::optional<Array>, std::optional<Array>, std::optional<Array>> linear_backward(
    const Array& grad, const Array& x, const Array& weight, bool need_x, bool need_weight, bool need_bias) {
  std::optional<Array> dx, dw, db;
  Array g = collapse_rows(grad.contiguous()), rows = collapse_rows(x);
  int64_t m = g.size(0), n = g.size(1), k = weight.size(1);
  if (need_x) {
    dx = Array::empty(x.shape, x.dtype, x.device());
    product("linear_backward", g, weight, dx->view({m, k}, {k, 1}));
  }
  if (need_weight) {
    dw = Array::empty({n, k}, x.dtype, x.device());
    product("linear_backward", transposed(g), rows, *dw);
  }
  if (need_bias) db = sum_columns(g);
  return {std::move(dx), std::move(dw), std::move(db)};
}

Array sum_columns(const Array& x) {
  int64_t rows = x.size(0), cols = x.size(1);
  DType compute = compute_type(x.dtype);
  if (x.on_cuda()) return sum(x, {0}, false);
  constexpr int64_t kRowsPerPart = 256;
  int64_t parts = std::max<int64_t>(1, (rows + kRowsPerPart - 1) / kRowsPerPart);
  Array sums = Array::zeros({parts, cols}, compute);
  auto kernel = kernels().gemm.sum_rows;
  int64_t item = int64_t(size_of(x.dtype)), scalar = int64_t(size_of(compute));
  parallel_for(parts, std::max<int64_t>(1, 65536 / std::max<int64_t>(1, cols * kRowsPerPart)),
               [&](int64_t begin, int64_t end) {
                 for (int64_t p = begin; p < end; ++p)
                   kernel[x.dtype](x.data + p * kRowsPerPart * x.stride(0) * item,
                                   std::min(kRowsPerPart, rows - p * kRowsPerPart), x.stride(0), cols,
                                   sums.data + p * cols * scalar);
               });
  Array total = sums.view({cols}, {1});
  if (parts > 1) kernel[compute](sums.data + cols * scalar, parts - 1, cols, cols, sums.data);
  return fastnn::astype(total, x.dtype);
}

}  // namespace fastnn::ops
