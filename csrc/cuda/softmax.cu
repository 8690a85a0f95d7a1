// softmax and log_softmax along one axis of dense data, seen as outer x n x inner in memory order. Equations stand in
// python/fastnn/ops/softmax.py.
//
// inner = 1: a warp or a block for each row, which is read and written once up to 4096 elements. Else a block for a
// strip of neighbouring columns, whose threads share the n elements of each. Occupancy: bound by memory, so a
// multiprocessor should hold 1024 threads, 768 of the kernels for strips.
#include "launchers.h"
#include "rows.h"

namespace fastnn::gpu {
namespace {

// ---- kernels ------------------------------------------------------------------------------------------------------

// float64 divides, as its users count digits.
GPU_FN float factor_of(float total) { return 1.0f / total; }
GPU_FN double factor_of(double total) { return total; }
GPU_FN float apply_factor(float e, float factor) { return e * factor; }
GPU_FN double apply_factor(double e, double factor) { return e / factor; }

// y of x, given the top of its distribution and factor_of or log_of the total.
template <class S>
GPU_FN S result(bool log, S x, S top, S term) {
  return log ? (x - top) - term : apply_factor(exp_of(x - top), term);
}
template <class S>
GPU_FN S gradient(bool log, S y, S dy, S total) {
  return log ? dy - exp_of(y) * total : y * (dy - total);
}

template <class T, class Shape>
__global__ void __launch_bounds__(Shape::BLOCK, Shape::RESIDENT)
    rows_kernel(bool log, const T* __restrict__ x, T* __restrict__ y, int64_t rows, int64_t n) {
  using S = Scalar<T>;
  GPU_SHARED(S, shared, [Shape::WARPS]);
  for_rows<Shape>(rows, [&](int64_t row) {
    const Row<T, Shape> in(x + row * n, n);
    const OnlineSum<S> s = exponential_sum<Shape, T>(in, n, shared);
    const S term = log ? log_of(s.total) : factor_of(s.total);
    for_packs<Shape>(n, [&](int k, int64_t i) {
      Pack<T, Shape::N> p = in(k, i);
#pragma unroll
      for (int j = 0; j < Shape::N; ++j) p[j] = narrow<T>(result(log, widen(p[j]), s.top, term));
      store(y + row * n + i, p);
    });
  });
}

template <class T, class Shape>
__global__ void __launch_bounds__(Shape::BLOCK, Shape::RESIDENT)
    rows_backward_kernel(bool log, const T* __restrict__ y, const T* __restrict__ dy, T* __restrict__ dx, int64_t rows,
                         int64_t n) {
  using S = Scalar<T>;
  GPU_SHARED(S, shared, [Shape::WARPS]);
  for_rows<Shape>(rows, [&](int64_t row) {
    const Row<T, Shape> out(y + row * n, n), grad(dy + row * n, n);
    S total = 0;
    for_packs<Shape>(n, [&](int k, int64_t i) {
      const auto py = out(k, i), pg = grad(k, i);
#pragma unroll
      for (int j = 0; j < Shape::N; ++j) total += log ? widen(pg[j]) : widen(py[j]) * widen(pg[j]);
    });
    total = group_sum<Shape::WARPS>(total, shared);
    for_packs<Shape>(n, [&](int k, int64_t i) {
      const auto py = out(k, i), pg = grad(k, i);
      Pack<T, Shape::N> p;
#pragma unroll
      for (int j = 0; j < Shape::N; ++j) p[j] = narrow<T>(gradient(log, widen(py[j]), widen(pg[j]), total));
      store(dx + row * n + i, p);
    });
  });
}

constexpr int kStripBlock = 256;
template <class T>
constexpr int kStripResident = sizeof(T) == 8 ? 1 : 3;
// ACROSS threads stand beside each other, each at N columns; the others share the elements of these columns.
template <int ACROSS_, int N_>
struct Strip {
  static constexpr int ACROSS = ACROSS_, N = N_, COLUMNS = ACROSS * N, ALONG = kStripBlock / ACROSS;
};

// Calls f(first element of this thread, whether it is in range) for the strips of this block.
template <class Strip, class F>
GPU_FN void for_strips(int64_t outer, int64_t n, int64_t inner, F&& f) {
  const int64_t strips = ceil_div(inner, int64_t(Strip::COLUMNS));
  for (int64_t tile = blockIdx.x; tile < outer * strips; tile += gridDim.x) {
    const int64_t c = tile % strips * Strip::COLUMNS + threadIdx.x % Strip::ACROSS * Strip::N;
    f(tile / strips * n * inner + c, c < inner);
  }
}

template <class T, class Strip>
__global__ void __launch_bounds__(kStripBlock, kStripResident<T>)
    columns_kernel(bool log, const T* __restrict__ x, T* __restrict__ y, int64_t outer, int64_t n, int64_t inner) {
  using S = Scalar<T>;
  constexpr int N = Strip::N;
  GPU_SHARED(S, tops, [Strip::ALONG][Strip::COLUMNS]);
  GPU_SHARED(S, totals, [Strip::ALONG][Strip::COLUMNS]);
  const int along = threadIdx.x / Strip::ACROSS, column = threadIdx.x % Strip::ACROSS * N;
  for_strips<Strip>(outer, n, inner, [&](int64_t first, bool active) {
    OnlineSum<S> s[N];
    if (active)
#pragma unroll 4
      for (int64_t i = along; i < n; i += Strip::ALONG) {
        const Pack<T, N> p = load<N>(x + first + i * inner);
#pragma unroll
        for (int j = 0; j < N; ++j) s[j].add(Pack<T, 1>{{p[j]}});
      }
#pragma unroll
    for (int j = 0; j < N; ++j) {
      tops[along][column + j] = s[j].top;
      totals[along][column + j] = s[j].total;
    }
    __syncthreads();
    if (int c = threadIdx.x; c < Strip::COLUMNS) {
      S top = tops[0][c], total = 0;
      for (int i = 1; i < Strip::ALONG; ++i) top = larger(top, tops[i][c]);
      for (int i = 0; i < Strip::ALONG; ++i) total += totals[i][c] * exp_of(tops[i][c] - top);
      tops[0][c] = top;
      totals[0][c] = log ? log_of(total) : factor_of(total);
    }
    __syncthreads();
    if (active)
#pragma unroll 4
      for (int64_t i = along; i < n; i += Strip::ALONG) {
        Pack<T, N> p = load<N>(x + first + i * inner);
#pragma unroll
        for (int j = 0; j < N; ++j)
          p[j] = narrow<T>(result(log, widen(p[j]), tops[0][column + j], totals[0][column + j]));
        store(y + first + i * inner, p);
      }
    __syncthreads();  // the shared arrays are free
  });
}

template <class T, class Strip>
__global__ void __launch_bounds__(kStripBlock, kStripResident<T>)
    columns_backward_kernel(bool log, const T* __restrict__ y, const T* __restrict__ dy, T* __restrict__ dx,
                            int64_t outer, int64_t n, int64_t inner) {
  using S = Scalar<T>;
  constexpr int N = Strip::N;
  GPU_SHARED(S, totals, [Strip::ALONG][Strip::COLUMNS]);
  const int along = threadIdx.x / Strip::ACROSS, column = threadIdx.x % Strip::ACROSS * N;
  for_strips<Strip>(outer, n, inner, [&](int64_t first, bool active) {
    S total[N] = {};
    if (active)
#pragma unroll 4
      for (int64_t i = along; i < n; i += Strip::ALONG) {
        const Pack<T, N> py = load<N>(y + first + i * inner), pg = load<N>(dy + first + i * inner);
#pragma unroll
        for (int j = 0; j < N; ++j) total[j] += log ? widen(pg[j]) : widen(py[j]) * widen(pg[j]);
      }
#pragma unroll
    for (int j = 0; j < N; ++j) totals[along][column + j] = total[j];
    __syncthreads();
    if (int c = threadIdx.x; c < Strip::COLUMNS) {
      S sum = 0;
      for (int i = 0; i < Strip::ALONG; ++i) sum += totals[i][c];
      totals[0][c] = sum;
    }
    __syncthreads();
    if (active)
#pragma unroll 4
      for (int64_t i = along; i < n; i += Strip::ALONG) {
        const Pack<T, N> py = load<N>(y + first + i * inner), pg = load<N>(dy + first + i * inner);
        Pack<T, N> p;
#pragma unroll
        for (int j = 0; j < N; ++j) p[j] = narrow<T>(gradient(log, widen(py[j]), widen(pg[j]), totals[0][column + j]));
        store(dx + first + i * inner, p);
      }
    __syncthreads();
  });
}

// ---- launchers ----------------------------------------------------------------------------------------------------

// Strips are 128 bytes wide by accesses of 16, else 32 elements.
template <class T, class F>
void visit_strip(bool wide, F&& f) {
  if constexpr (sizeof(T) == 8)
    f(Strip<32, 1>());
  else
    wide ? f(Strip<8, kPack<T>>()) : f(Strip<32, 1>());
}
template <class Strip>
dim3 strip_grid(int64_t outer, int64_t inner) {
  const int64_t strips = outer * ceil_div(inner, int64_t(Strip::COLUMNS));
  return dim3(unsigned(strips < kMostBlocks ? strips : kMostBlocks));
}

}  // namespace

Status softmax_forward(bool log, DType dtype, const void* x, void* y, int64_t outer, int64_t n, int64_t inner,
                       Stream stream) {
  Status status = 0;
  visit_float(dtype, [&]<class T>(T*) {
    const T* from = static_cast<const T*>(x);
    T* to = static_cast<T*>(y);
    if (inner == 1)
      visit_row_shape<T>(n, wide_rows<T>(n, x, y), [&]<class Shape>(Shape) {
        status = launch(rows_kernel<T, Shape>, row_grid<Shape>(outer), dim3(Shape::BLOCK), 0, stream, log, from, to,
                        outer, n);
      });
    else
      visit_strip<T>(wide_rows<T>(inner, x, y), [&]<class Strip>(Strip) {
        status = launch(columns_kernel<T, Strip>, strip_grid<Strip>(outer, inner), dim3(kStripBlock), 0, stream, log,
                        from, to, outer, n, inner);
      });
  });
  return status;
}

Status softmax_backward(bool log, DType dtype, const void* y, const void* dy, void* dx, int64_t outer, int64_t n,
                        int64_t inner, Stream stream) {
  Status status = 0;
  visit_float(dtype, [&]<class T>(T*) {
    const T *out = static_cast<const T*>(y), *grad = static_cast<const T*>(dy);
    T* to = static_cast<T*>(dx);
    if (inner == 1)
      visit_row_shape<T>(n, wide_rows<T>(n, y, dy, dx), [&]<class Shape>(Shape) {
        status = launch(rows_backward_kernel<T, Shape>, row_grid<Shape>(outer), dim3(Shape::BLOCK), 0, stream, log, out,
                        grad, to, outer, n);
      });
    else
      visit_strip<T>(wide_rows<T>(inner, y, dy, dx), [&]<class Strip>(Strip) {
        status = launch(columns_backward_kernel<T, Strip>, strip_grid<Strip>(outer, inner), dim3(kStripBlock), 0,
                        stream, log, out, grad, to, outer, n, inner);
      });
  });
  return status;
}

}  // namespace fastnn::gpu
