// What kernels share that work on rows of contiguous elements: sums by a warp or a block, rows kept in registers.
#pragma once
#include "functions.h"
#include "pointwise.h"

namespace fastnn::gpu {

GPU_FN float exp_of(float x) { return expf(x); }
GPU_FN double exp_of(double x) { return exp(x); }
GPU_FN float log_of(float x) { return logf(x); }
GPU_FN double log_of(double x) { return log(x); }
// a where b is NaN.
template <class S>
GPU_FN S larger(S a, S b) {
  return b > a ? b : a;
}

// How a block shares rows: THREADS threads for each, by accesses of N elements, of which a thread has at most KEEP, in
// registers. KEEP 0: any number, read again whenever it is needed (from L2).
template <int THREADS_, int KEEP_, int N_>
struct RowShape {
  static constexpr int THREADS = THREADS_, KEEP = KEEP_, N = N_;
  static constexpr int BLOCK = THREADS == 32 ? 128 : THREADS, ROWS = BLOCK / THREADS;
  static constexpr int WARPS = THREADS / 32;     // of a row
  static constexpr int RESIDENT = 1024 / BLOCK;  // blocks that a multiprocessor should hold, for __launch_bounds__
};

// The longest row that a warp keeps, and that a block of 256 keeps: 16 elements in each thread.
constexpr int kKept = 16, kWarpRow = 32 * kKept, kBlockRow = 256 * kKept;

// Calls f(RowShape()) for rows of n elements of T; `wide`: by accesses of 16 bytes. Launchers use it.
template <class T, class F>
void visit_row_shape(int64_t n, bool wide, F&& f) {
  if constexpr (sizeof(T) == 8) {
    f(RowShape<256, 0, 1>());
  } else {
    auto visit = [&]<int N>(Count<N>) {
      if (n <= kWarpRow) return f(RowShape<32, kKept / N, N>());
      if (n <= kBlockRow) return f(RowShape<256, kKept / N, N>());
      return f(RowShape<512, 0, N>());
    };
    wide ? visit(Count<kPack<T>>()) : visit(Count<1>());
  }
}

// Whether rows of n elements can be accessed by 16 bytes.
template <class T, class... P>
bool wide_rows(int64_t n, const P*... p) {
  return n % kPack<T> == 0 && aligned(p...);
}

template <class Shape>
dim3 row_grid(int64_t rows, int64_t most = kMostBlocks) {
  const int64_t blocks = ceil_div(rows, int64_t(Shape::ROWS));
  return dim3(unsigned(blocks < most ? blocks : most));
}

// Calls f(row) for the rows of this thread.
template <class Shape, class F>
GPU_FN void for_rows(int64_t rows, F&& f) {
  for (int64_t row = int64_t(blockIdx.x) * Shape::ROWS + threadIdx.x / Shape::THREADS; row < rows;
       row += int64_t(gridDim.x) * Shape::ROWS)
    f(row);
}

// Calls f(k, i) for the accesses of this thread to a row: the k-th, of the elements from i on.
template <class Shape, class F>
GPU_FN void for_packs(int64_t n, F&& f) {
  const int thread = threadIdx.x % Shape::THREADS;
  if constexpr (Shape::KEEP > 0) {
    const int end = int(n);
#pragma unroll
    for (int k = 0; k < Shape::KEEP; ++k)
      if (const int i = (k * Shape::THREADS + thread) * Shape::N; i < end) f(k, i);
  } else {
#pragma unroll 4
    for (int64_t i = thread * Shape::N; i < n; i += Shape::THREADS * Shape::N) f(0, i);
  }
}

// A row of global memory, read once where Shape keeps it.
template <class T, class Shape>
struct Row {
  const T* p;
  Pack<T, Shape::N> kept[Shape::KEEP ? Shape::KEEP : 1];

  GPU_FN Row(const T* from, int64_t n) : p(from) {
    if constexpr (Shape::KEEP > 0) for_packs<Shape>(n, [&](int k, int64_t i) { kept[k] = load<Shape::N>(p + i); });
  }
  GPU_FN Pack<T, Shape::N> operator()(int k, int64_t i) const {
    if constexpr (Shape::KEEP > 0) return kept[k];
    return load<Shape::N>(p + i);
  }
};

// f over a value of each thread of a row, in an order that is always the same; all of them get the result. `shared`
// holds one value for each warp of a block; calls may follow each other.
template <int WARPS, class S, class F>
GPU_FN S group_reduce(S v, S* shared, F f) {
  v = warp_reduce(v, f);
  if constexpr (WARPS > 1) {
    __syncthreads();  // the previous result was read
    if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = v;
    __syncthreads();
    v = shared[0];
#pragma unroll
    for (int w = 1; w < WARPS; ++w) v = f(v, shared[w]);
  }
  return v;
}
template <int WARPS, class S>
GPU_FN S group_sum(S v, S* shared) {
  return group_reduce<WARPS>(v, shared, [](S a, S b) { return a + b; });
}
template <int WARPS, class S>
GPU_FN S group_max(S v, S* shared) {
  return group_reduce<WARPS>(v, shared, [](S a, S b) { return larger(a, b); });
}

// The largest of a stream of numbers and the sum of exp(x - largest). Milakov & Gimelshein 2018, arXiv:1805.02867. A
// NaN or +inf makes the total NaN; of nothing but -inf the total is 0.
template <class S>
struct OnlineSum {
  S top = -S(INFINITY), total = 0;

  template <class T, int N>
  GPU_FN void add(const Pack<T, N>& x) {
    S most = top;
#pragma unroll
    for (int j = 0; j < N; ++j) most = larger(most, widen(x[j]));
    const S shift = most == -S(INFINITY) ? S(0) : most;
    total *= exp_of(top - shift);
#pragma unroll
    for (int j = 0; j < N; ++j) total += exp_of(widen(x[j]) - shift);
    top = most;
  }
};

// The largest element of a row and the sum of exp(x - largest), NaN where there is a NaN or +inf, or only -inf.
template <class Shape, class T>
GPU_FN OnlineSum<Scalar<T>> exponential_sum(const Row<T, Shape>& x, int64_t n, Scalar<T>* shared) {
  using S = Scalar<T>;
  OnlineSum<S> s;
  if constexpr (Shape::KEEP > 0) {
    for_packs<Shape>(n, [&](int k, int64_t i) {
      const auto px = x(k, i);
#pragma unroll
      for (int j = 0; j < Shape::N; ++j) s.top = larger(s.top, widen(px[j]));
    });
    s.top = group_max<Shape::WARPS>(s.top, shared);
    for_packs<Shape>(n, [&](int k, int64_t i) {
      const auto px = x(k, i);
#pragma unroll
      for (int j = 0; j < Shape::N; ++j) s.total += exp_of(widen(px[j]) - s.top);
    });
  } else {
    for_packs<Shape>(n, [&](int k, int64_t i) { s.add(x(k, i)); });
    const S top = group_max<Shape::WARPS>(s.top, shared);
    s.total *= exp_of(s.top - top);
    s.top = top;
  }
  s.total = group_sum<Shape::WARPS>(s.total, shared);
  return s;
}

}  // namespace fastnn::gpu
