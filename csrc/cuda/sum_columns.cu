// Sums over the rows of a matrix, for gradients of biases: parts of 256 rows each, whose sums are added in order.
#include "functions.h"
#include "launchers.h"
#include "pointwise.h"

namespace fastnn::gpu {
namespace {

// ---- kernels ------------------------------------------------------------------------------------------------------

constexpr int kRowsPerPart = 256, kLanes = 32, kRowGroups = 8;

// y[part, j] = sum of x[i, j] over the rows of the part. A warp takes neighbouring columns, the block's 8 warps every
// eighth row. At most 64 registers: memory-bound, full occupancy is not needed.
template <class From, class To>
__global__ void __launch_bounds__(kLanes* kRowGroups)
    sum_columns_kernel(const From* __restrict__ x, int64_t row_step, int64_t rows, int64_t columns,
                       To* __restrict__ y) {
  using S = Scalar<From>;
  GPU_SHARED(S, sums, [kRowGroups][kLanes]);
  const int lane = int(threadIdx.x) % kLanes, group = int(threadIdx.x) / kLanes;
  const int64_t j = int64_t(blockIdx.x) * kLanes + lane;
  for (int64_t part = blockIdx.y; part * kRowsPerPart < rows || part == 0; part += gridDim.y) {
    const int64_t first = part * kRowsPerPart, last = min(first + kRowsPerPart, rows);
    S sum = 0;
    if (j < columns)
      for (int64_t i = first + group; i < last; i += kRowGroups) sum += widen(x[i * row_step + j]);
    sums[group][lane] = sum;
    __syncthreads();
    if (group == 0 && j < columns) {
      S total = 0;
#pragma unroll
      for (int g = 0; g < kRowGroups; ++g) total += sums[g][lane];
      y[part * columns + j] = narrow<To>(total);
    }
    __syncthreads();
  }
}

template <class From, class To>
Status run(const From* x, int64_t row_step, int64_t rows, int64_t columns, To* y, Stream stream) {
  const int64_t parts = ceil_div(rows, int64_t(kRowsPerPart));
  const dim3 grid(unsigned(ceil_div(columns, int64_t(kLanes))), unsigned(parts < 1       ? 1
                                                                         : parts < 65535 ? parts
                                                                                         : 65535));
  return launch(sum_columns_kernel<From, To>, grid, dim3(kLanes * kRowGroups), 0, stream, x, row_step, rows, columns,
                y);
}

}  // namespace

// ---- launchers ----------------------------------------------------------------------------------------------------

// `partial` has room for the parts of x and, behind them, for their own parts, and so on.
Status sum_columns(DType dtype, const void* x, int64_t row_step, int64_t rows, int64_t columns, void* partial, void* y,
                   Stream stream) {
  Status status = 0;
  visit_float(dtype, [&]<class T>(T*) {
    using S = Scalar<T>;
    if (rows <= kRowsPerPart) {
      status = run(static_cast<const T*>(x), row_step, rows, columns, static_cast<T*>(y), stream);
      return;
    }
    S* to = static_cast<S*>(partial);
    status = run(static_cast<const T*>(x), row_step, rows, columns, to, stream);
    for (rows = ceil_div(rows, int64_t(kRowsPerPart)); !status && rows > kRowsPerPart;
         rows = ceil_div(rows, int64_t(kRowsPerPart))) {
      status = run(static_cast<const S*>(to), columns, rows, columns, to + rows * columns, stream);
      to += rows * columns;
    }
    if (!status) status = run(static_cast<const S*>(to), columns, rows, columns, static_cast<T*>(y), stream);
  });
  return status;
}

}  // namespace fastnn::gpu
