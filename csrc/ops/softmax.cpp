#include "softmax.h"

#include <algorithm>

#include "../dispatch.h"
#include "../float_mode.h"
#include "../parallel.h"
#include "gemm.h"

namespace fastnn::ops {
namespace {

constexpr int64_t kGrain = 8192;  // elements worth about 5 us

// A dense array of any layout, seen along one axis: outer x n x inner in memory order.
struct Axis {
  int64_t outer, n, inner;
};

Axis axis_of(const char* op, const Array& x, int64_t dim) {
  require<NotImplementedError>(is_float(x.dtype), op, ": input has dtype ", name(x.dtype),
                               "; expected float32, bfloat16, float16 or float64");
  int64_t rank = std::max(x.ndim(), 1);
  require<IndexError>(dim >= -rank && dim < rank, op, ": dim is ", dim, "; expected ", -rank, " to ", rank - 1,
                      " for an input of shape ", x.shape);
  int64_t d = dim < 0 ? dim + rank : dim, n = x.ndim() ? x.size(int(d)) : 1;
  if (n <= 1 || x.numel() == 0) return {x.numel(), std::min<int64_t>(n, 1), 1};
  int64_t inner = x.stride(int(d));  // the product of the sizes that lie within, because x is dense
  return {x.numel() / (n * inner), n, inner};
}

// Calls rows(first element, rows), or columns(first element, columns), for parts that threads share.
template <class Rows, class Columns>
void for_parts(const Axis& a, Rows&& rows, Columns&& columns) {
  if (a.outer * a.n * a.inner == 0) return;
  if (a.inner == 1) {
    parallel_for(a.outer, std::max<int64_t>(1, kGrain / a.n),
                 [&](int64_t begin, int64_t end) { rows(begin * a.n, end - begin); });
    return;
  }
  int64_t tiles = (a.inner + kSoftmaxColumns - 1) / kSoftmaxColumns;
  int64_t tile_size = a.n * std::min<int64_t>(a.inner, kSoftmaxColumns);
  parallel_for(a.outer * tiles, std::max<int64_t>(1, kGrain / tile_size), [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      int64_t c = t % tiles * kSoftmaxColumns;
      columns(t / tiles * a.n * a.inner + c, std::min<int64_t>(kSoftmaxColumns, a.inner - c));
    }
  });
}

Array forward(const char* op, bool log, const Array& x, int64_t dim) {
  FlushSubnormals flush;
  Array in = x.dense();
  Axis a = axis_of(op, in, dim);
  Array y = Array::empty_like(in);
  if (in.on_cuda()) {
    if (in.numel())
      cuda::check(op, cuda::launchers().softmax_forward(log, in.dtype, in.data, y.data, a.outer, a.n, a.inner,
                                                        cuda::stream(in.device())));
    return y;
  }
  auto& k = kernels().softmax;
  auto row_kernel = k.softmax_rows[in.dtype];
  auto column_kernel = k.softmax_columns[in.dtype];
  int64_t item = int64_t(size_of(in.dtype));
  const size_t buffer = streams(y, a.n) ? size_t(a.n) * size_of(compute_type(in.dtype)) : 0;
  for_parts(
      a,
      [&](int64_t at, int64_t rows) {
        Scratch exponentials(buffer);
        row_kernel(log, in.data + at * item, y.data + at * item, rows, a.n, exponentials.as<void>());
      },
      [&](int64_t at, int64_t columns) {
        column_kernel(log, in.data + at * item, y.data + at * item, a.n, a.inner, columns);
      });
  return y;
}

Array backward(const char* op, bool log, const Array& y, const Array& dy, int64_t dim) {
  FlushSubnormals flush;
  require<ValueError>(dy.shape == y.shape && dy.dtype == y.dtype, op, ": gradient has shape ", dy.shape, " and dtype ",
                      name(dy.dtype), "; expected ", y.shape, " and ", name(y.dtype));
  Array out = y.dense(), g = dy.with_layout_of(out);
  Axis a = axis_of(op, out, dim);
  Array dx = Array::empty_like(out);
  if (out.on_cuda()) {
    if (out.numel())
      cuda::check(op, cuda::launchers().softmax_backward(log, out.dtype, out.data, g.data, dx.data, a.outer, a.n,
                                                         a.inner, cuda::stream(out.device())));
    return dx;
  }
  auto& k = kernels().softmax;
  const bool past = streams(dx, a.n);
  auto row_kernel = k.softmax_rows_backward[out.dtype];
  auto column_kernel = k.softmax_columns_backward[out.dtype];
  int64_t item = int64_t(size_of(out.dtype));
  for_parts(
      a,
      [&](int64_t at, int64_t rows) {
        row_kernel(log, out.data + at * item, g.data + at * item, dx.data + at * item, rows, a.n, past);
      },
      [&](int64_t at, int64_t columns) {
        column_kernel(log, out.data + at * item, g.data + at * item, dx.data + at * item, a.n, a.inner, columns);
      });
  return dx;
}

}  // namespace

Array softmax(const Array& x, int64_t dim) { return forward("softmax", false, x, dim); }
Array log_softmax(const Array& x, int64_t dim) { return forward("log_softmax", true, x, dim); }
Array softmax_backward(const Array& y, const Array& dy, int64_t dim) {
  return backward("softmax_backward", false, y, dy, dim);
}
Array log_softmax_backward(const Array& y, const Array& dy, int64_t dim) {
  return backward("log_softmax_backward", true, y, dy, dim);
}

}  // namespace fastnn::ops
