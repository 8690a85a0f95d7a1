// layer_norm and rms_norm of rows. Equations stand in python/fastnn/ops/normalization.py.
//
// Rows are shared as those of softmax. Statistics take two passes over registers (or L2): the mean, then what is left
// of it and the squared deviations; they are combined in float64. The gradients of weight and bias are summed in the
// pass that computes dx, by blocks that keep their columns, where rows are kept in registers. Occupancy: bound by
// memory, 1024 threads on a multiprocessor, 512 in backward.
#include "launchers.h"
#include "partial.h"

namespace fastnn::gpu {
namespace {

// ---- kernels ------------------------------------------------------------------------------------------------------

// N parameters from p + i on, `missing` where there are none.
template <int N, class S>
GPU_FN void load_parameter(const S* p, int64_t i, S missing, S (&v)[N]) {
  if constexpr (sizeof(S) == 4) {
    if (p) return load_float(v, p + i);
  }
#pragma unroll
  for (int j = 0; j < N; ++j) v[j] = p ? p[i + j] : missing;
}

template <class T>
constexpr int kForwardThreads = sizeof(T) == 8 ? 1 : 1024;

template <class T, class Shape>
__global__ void __launch_bounds__(Shape::BLOCK, (kForwardThreads<T> + Shape::BLOCK - 1) / Shape::BLOCK)
    rows_kernel(bool centered, const T* __restrict__ x, T* __restrict__ y, int64_t rows, int64_t n,
                const Scalar<T>* __restrict__ weight, const Scalar<T>* __restrict__ bias, double eps,
                double* __restrict__ mean, double* __restrict__ rstd) {
  using S = Scalar<T>;
  constexpr int N = Shape::N;
  GPU_SHARED(double, shared, [Shape::WARPS]);
  for_rows<Shape>(rows, [&](int64_t row) {
    const Row<T, Shape> in(x + row * n, n);
    S high = 0;
    double average = 0;
    if (centered) {
      S sum = 0;
      for_packs<Shape>(n, [&](int k, int64_t i) {
        const auto p = in(k, i);
#pragma unroll
        for (int j = 0; j < N; ++j) sum += widen(p[j]);
      });
      high = S(group_sum<Shape::WARPS>(double(sum), shared) / double(n));
    }
    S rest = 0, square = 0;
    for_packs<Shape>(n, [&](int k, int64_t i) {
      const auto p = in(k, i);
#pragma unroll
      for (int j = 0; j < N; ++j) {
        const S e = widen(p[j]) - high;
        rest += e;
        square += e * e;
      }
    });
    double squares = group_sum<Shape::WARPS>(double(square), shared);
    if (centered) {
      double left = group_sum<Shape::WARPS>(double(rest), shared);
      if (left - left != 0) left = 0;  // an infinite mean is infinite, not NaN
      average = double(high) + left / double(n);
      squares -= left * left / double(n);
      if (squares < 0) squares = 0;
    }
    const double inverse = 1 / sqrt(squares / double(n) + eps);
    if (threadIdx.x % Shape::THREADS == 0) {
      if (centered) mean[row] = average;
      rstd[row] = inverse;
    }
    high = S(average);
    const S scale = S(inverse), low = S((double(high) - average) * inverse);
    for_packs<Shape>(n, [&](int k, int64_t i) {
      Pack<T, N> p = in(k, i);
      S w[N], b[N];
      load_parameter(weight, i, S(1), w);
      load_parameter(bias, i, S(0), b);
#pragma unroll
      for (int j = 0; j < N; ++j) p[j] = narrow<T>(((widen(p[j]) - high) * scale + low) * w[j] + b[j]);
      store(y + row * n + i, p);
    });
  });
}

// dx; where Shape keeps rows and the partial sums are not null, also those of dy (x - mean) rstd and of dy, for each
// group of threads over the rows that it had.
template <class T>
constexpr int kBackwardThreads = sizeof(T) == 8 ? 1 : 512;

template <class T, class Shape>
__global__ void __launch_bounds__(Shape::BLOCK, (kBackwardThreads<T> + Shape::BLOCK - 1) / Shape::BLOCK)
    rows_backward_kernel(bool centered, const T* __restrict__ x, const T* __restrict__ dy, T* __restrict__ dx,
                         int64_t rows, int64_t n, const Scalar<T>* __restrict__ weight, const double* __restrict__ mean,
                         const double* __restrict__ rstd, Scalar<T>* __restrict__ dweight,
                         Scalar<T>* __restrict__ dbias) {
  using S = Scalar<T>;
  constexpr int N = Shape::N, KEEP = Shape::KEEP ? Shape::KEEP : 1;
  GPU_SHARED(double, shared, [Shape::WARPS]);
  S dw[KEEP][N] = {}, db[KEEP][N] = {};
  for_rows<Shape>(rows, [&](int64_t row) {
    const Row<T, Shape> in(x + row * n, n), grad(dy + row * n, n);
    const double average = centered ? mean[row] : 0, inverse = rstd[row];
    const S high = S(average);
    const double low = average - double(high);
    const S scale = S(inverse), shift = S(-low * inverse);
    S sum = 0, product = 0;
    for_packs<Shape>(n, [&](int k, int64_t i) {
      const auto px = in(k, i), pg = grad(k, i);
      S w[N];
      load_parameter(weight, i, S(1), w);
#pragma unroll
      for (int j = 0; j < N; ++j) {
        const S raw = widen(pg[j]), g = raw * w[j], e = widen(px[j]) - high;
        sum += g;
        product += g * e;
        if constexpr (Shape::KEEP > 0) {
          dw[k][j] += raw * (e * scale + shift);
          db[k][j] += raw;
        }
      }
    });
    if (!dx) return;
    const double all = group_sum<Shape::WARPS>(double(sum), shared);
    const double slope = -(group_sum<Shape::WARPS>(double(product), shared) - low * all) * inverse * inverse * inverse /
                         double(n),
                 level = centered ? all / double(n) : 0;
    const S near = S(level);  // subtracted first: what remains of a single or constant g is exactly 0
    const S a = S(inverse), b = S(slope), c = S(inverse * (double(near) - level) - slope * low);
    for_packs<Shape>(n, [&](int k, int64_t i) {
      const auto px = in(k, i), pg = grad(k, i);
      S w[N];
      load_parameter(weight, i, S(1), w);
      Pack<T, N> p;
#pragma unroll
      for (int j = 0; j < N; ++j) p[j] = narrow<T>((widen(pg[j]) * w[j] - near) * a + ((widen(px[j]) - high) * b + c));
      store(dx + row * n + i, p);
    });
  });
  if constexpr (Shape::KEEP > 0) {
    const int64_t part = int64_t(blockIdx.x) * Shape::ROWS + threadIdx.x / Shape::THREADS;
    for_packs<Shape>(n, [&](int k, int64_t i) {
#pragma unroll
      for (int j = 0; j < N; ++j) {
        if (dweight) dweight[part * n + i + j] = dw[k][j];
        if (dbias) dbias[part * n + i + j] = db[k][j];
      }
    });
  }
}

// The same partial sums for rows that are not kept: a thread has a column of the rows of its blockIdx.y.
template <class T>
__global__ void __launch_bounds__(kPointwiseBlock)
    columns_kernel(bool centered, const T* __restrict__ x, const T* __restrict__ dy, int64_t rows, int64_t n,
                   const double* __restrict__ mean, const double* __restrict__ rstd, Scalar<T>* __restrict__ dweight,
                   Scalar<T>* __restrict__ dbias) {
  using S = Scalar<T>;
  const int64_t c = int64_t(blockIdx.x) * kPointwiseBlock + threadIdx.x, part = blockIdx.y;
  const int64_t each = ceil_div(rows, int64_t(gridDim.y)), end = min(rows, (part + 1) * each);
  if (c >= n) return;
  S dw = 0, db = 0;
#pragma unroll 4
  for (int64_t r = part * each; r < end; ++r) {
    const S g = widen(dy[r * n + c]);
    const double average = centered ? mean[r] : 0;
    const S high = S(average), scale = S(rstd[r]);
    dw += g * ((widen(x[r * n + c]) - high) * scale + S((double(high) - average) * rstd[r]));
    db += g;
  }
  if (dweight) dweight[part * n + c] = dw;
  if (dbias) dbias[part * n + c] = db;
}

constexpr int kFinishColumns = 32, kFinishParts = 8;

// out[c] = sum of partial[part][c], in order within kFinishParts interleaved sums.
template <class S, class D>
__global__ void __launch_bounds__(kFinishColumns* kFinishParts)
    finish_columns_kernel(const S* __restrict__ partial, int64_t parts, int64_t n, D* __restrict__ out) {
  GPU_SHARED(double, sums, [kFinishParts][kFinishColumns]);
  const int column = threadIdx.x % kFinishColumns, first = threadIdx.x / kFinishColumns;
  const int64_t c = int64_t(blockIdx.x) * kFinishColumns + column;
  double sum = 0;
  if (c < n)
#pragma unroll 4
    for (int64_t p = first; p < parts; p += kFinishParts) sum += double(partial[p * n + c]);
  sums[first][column] = sum;
  __syncthreads();
  if (first || c >= n) return;
  for (int p = 1; p < kFinishParts; ++p) sum += sums[p][column];
  if constexpr (sizeof(D) == 8)
    out[c] = sum;
  else
    out[c] = narrow<D>(float(sum));
}

}  // namespace

// ---- launchers ----------------------------------------------------------------------------------------------------

Status normalize_rows(bool centered, DType dtype, const void* x, void* y, int64_t rows, int64_t n, const void* weight,
                      const void* bias, double eps, double* mean, double* rstd, Stream stream) {
  Status status = 0;
  visit_float(dtype, [&]<class T>(T*) {
    using S = Scalar<T>;
    visit_row_shape<T>(n, wide_rows<T>(n, x, y, weight, bias), [&]<class Shape>(Shape) {
      status = launch(rows_kernel<T, Shape>, row_grid<Shape>(rows), dim3(Shape::BLOCK), 0, stream, centered,
                      static_cast<const T*>(x), static_cast<T*>(y), rows, n, static_cast<const S*>(weight),
                      static_cast<const S*>(bias), eps, mean, rstd);
    });
  });
  return status;
}

Status normalize_rows_backward(bool centered, DType dtype, const void* x, const void* dy, void* dx, int64_t rows,
                               int64_t n, const void* weight, const double* mean, const double* rstd, void* partial,
                               DType parameters, void* dweight, void* dbias, Stream stream) {
  Status status = 0;
  visit_float(dtype, [&]<class T>(T*) {
    using S = Scalar<T>;
    const T *in = static_cast<const T*>(x), *grad = static_cast<const T*>(dy);
    S* sums_w = dweight ? static_cast<S*>(partial) : nullptr;
    S* sums_b = dbias ? static_cast<S*>(partial) + (dweight ? norm_parts(n) * n : 0) : nullptr;
    int64_t parts = 0;
    visit_row_shape<T>(n, wide_rows<T>(n, x, dy, dx, weight), [&]<class Shape>(Shape) {
      const bool sums = dweight || dbias, fused = Shape::KEEP > 0;
      const dim3 grid = row_grid<Shape>(rows, sums && fused ? norm_parts(n) / Shape::ROWS : kMostBlocks);
      if (dx || fused)
        status = launch(rows_backward_kernel<T, Shape>, grid, dim3(Shape::BLOCK), 0, stream, centered, in, grad,
                        static_cast<T*>(dx), rows, n, static_cast<const S*>(weight), mean, rstd, sums_w, sums_b);
      parts = int64_t(grid.x) * Shape::ROWS;
      if (status || fused || !sums) return;
      parts = min(ceil_div(rows, int64_t(16)), norm_parts(n));
      status = launch(columns_kernel<T>, dim3(unsigned(ceil_div(n, int64_t(kPointwiseBlock))), unsigned(parts)),
                      dim3(kPointwiseBlock), 0, stream, centered, in, grad, rows, n, mean, rstd, sums_w, sums_b);
    });
    visit_float(parameters, [&]<class D>(D*) {
      auto finish = [&](const S* sums, void* out) {
        if (sums && !status)
          status = launch(finish_columns_kernel<S, D>, dim3(unsigned(ceil_div(n, int64_t(kFinishColumns)))),
                          dim3(kFinishColumns * kFinishParts), 0, stream, sums, parts, n, static_cast<D*>(out));
      };
      finish(sums_w, dweight);
      finish(sums_b, dbias);
    });
  });
  return status;
}

}  // namespace fastnn::gpu
