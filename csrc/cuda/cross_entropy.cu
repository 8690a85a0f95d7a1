// cross_entropy: losses and gradients of rows of logits in one pass; nll_loss. Equations stand in
// python/fastnn/ops/cross_entropy.py.
//
// Rows are shared as those of softmax: a row of up to 4096 logits is read once. Occupancy: bound by memory, 1024
// threads on a multiprocessor for labels, 512 for probabilities or smoothing.
#include "launchers.h"
#include "partial.h"

namespace fastnn::gpu {
namespace {

// ---- kernels ------------------------------------------------------------------------------------------------------

// What a gradient of T is stored in until backward: scaled later by a loss scale, float16 would have underflowed.
template <class T>
struct SavedOf {
  using type = T;
};
template <>
struct SavedOf<f16> {
  using type = float;
};
template <class T>
using Saved = typename SavedOf<T>::type;

template <int N>
GPU_FN void store_values(double* p, const double (&v)[N]) {
  for (int j = 0; j < N; ++j) p[j] = v[j];
}
template <int N, class T>
GPU_FN void store_values(T* p, const float (&v)[N]) {
  store_float(p, v);
}

// The part of the wanted distribution that lies on every class, times the class weights, for N classes from i on.
template <class T, int N>
struct Wanted {
  using S = Scalar<T>;
  const T *t, *w;
  S confidence, floor;

  GPU_FN void operator()(int64_t i, S (&k)[N]) const {
    Pack<T, N> pt, pw;
    if (t) pt = load<N>(t + i);
    if (w) pw = load<N>(w + i);
#pragma unroll
    for (int j = 0; j < N; ++j) {
      k[j] = t ? floor + confidence * widen(pt[j]) : floor;
      if (w) k[j] *= widen(pw[j]);
    }
  }
};

// Threads that a multiprocessor should hold. DENSE: something is wanted of every class.
template <class T, bool DENSE>
constexpr int kResident = sizeof(T) == 8 ? 1
                          : DENSE        ? 512
                                         : 1024;

// Labels are checked before (label_summary), but not where a step is captured: there the loss of a bad one is NaN.
GPU_FN bool is_class(int64_t label, int64_t classes) { return uint64_t(label) < uint64_t(classes); }

template <class T, class Shape, bool DENSE>
__global__ void __launch_bounds__(Shape::BLOCK, (kResident<T, DENSE> + Shape::BLOCK - 1) / Shape::BLOCK)
    rows_kernel(CrossEntropyRows a, int64_t rows, const double* __restrict__ divisor, double* __restrict__ partial) {
  using S = Scalar<T>;
  using G = Saved<T>;
  constexpr int N = Shape::N;
  GPU_SHARED(S, shared, [Shape::WARPS]);
  GPU_SHARED(double, totals, [Shape::ROWS]);
  const int64_t n = a.classes;
  const T* weight = static_cast<const T*>(a.weight);
  const S scale = divisor ? S(1 / *divisor) : S(a.scale), confidence = S(1 - a.smoothing);
  const bool first = threadIdx.x % Shape::THREADS == 0;
  double total = 0;
  for_rows<Shape>(rows, [&](int64_t row) {
    const T* from = static_cast<const T*>(a.x) + row * n;
    T* loss_out = a.losses ? static_cast<T*>(a.losses) + row : nullptr;
    G* dx = a.dx ? static_cast<G*>(a.dx) + row * n : nullptr;
    G* dt = a.dt ? static_cast<G*>(a.dt) + row * n : nullptr;
    const int64_t label = a.labels ? a.labels[row] : -1;
    if (a.labels && label == a.ignore_index) {
      if (loss_out && first) *loss_out = narrow<T>(S(0));
      if (dx)
        for_packs<Shape>(n, [&](int, int64_t i) {
          const S zero[N] = {};
          store_values(dx + i, zero);
        });
      return;
    }
    const Row<T, Shape> x(from, n);
    const OnlineSum<S> s = exponential_sum<Shape, T>(x, n, shared);
    const S log_sum = log_of(s.total);
    // loss = K log s - sum_c k_c (x_c - m) + k_label (log s - (x_label - m)), with K = sum_c k_c
    const Wanted<T, N> wanted{a.probabilities ? static_cast<const T*>(a.probabilities) + row * n : nullptr, weight,
                              confidence, S(a.smoothing / double(n))};
    S all = 0, loss = 0, picked = 0;
    if constexpr (DENSE) {
      S sum = 0;
      for_packs<Shape>(n, [&](int k, int64_t i) {
        const auto px = x(k, i);
        S part[N];
        wanted(i, part);
#pragma unroll
        for (int j = 0; j < N; ++j) {
          all += part[j];
          sum += part[j] * (widen(px[j]) - s.top);
        }
      });
      all = group_sum<Shape::WARPS>(all, shared);
      loss = all * log_sum - group_sum<Shape::WARPS>(sum, shared);
    }
    if (a.labels) {
      picked = weight && is_class(label, n) ? confidence * S(widen(weight[label])) : confidence;
      loss += picked * (log_sum - (is_class(label, n) ? S(widen(from[label])) - s.top : S(NAN)));
    }
    if (first) {
      if (loss_out) *loss_out = narrow<T>(loss);
      total += double(loss);
    }
    if (dx) {
      const S ratio = (all + picked) * scale / s.total, at_label = picked * scale;
      for_packs<Shape>(n, [&](int k, int64_t i) {
        const auto px = x(k, i);
        S g[N], part[N];
        if constexpr (DENSE) wanted(i, part);
#pragma unroll
        for (int j = 0; j < N; ++j) {
          g[j] = exp_of(widen(px[j]) - s.top) * ratio;
          if constexpr (DENSE) g[j] -= part[j] * scale;
          if (i + j == label) g[j] -= at_label;
        }
        store_values(dx + i, g);
      });
    }
    if (DENSE && dt) {
      const S factor = -confidence * scale;
      for_packs<Shape>(n, [&](int k, int64_t i) {
        const auto px = x(k, i);
        Pack<T, N> pw;
        if (weight) pw = load<N>(weight + i);
        S g[N];
#pragma unroll
        for (int j = 0; j < N; ++j) {
          g[j] = factor * (widen(px[j]) - s.top - log_sum);
          if (weight) g[j] *= widen(pw[j]);
        }
        store_values(dt + i, g);
      });
    }
  });
  if (first) totals[threadIdx.x / Shape::THREADS] = total;
  __syncthreads();
  if (threadIdx.x == 0) {
    for (int r = 1; r < Shape::ROWS; ++r) total += totals[r];
    partial[blockIdx.x] = total;
  }
}

// out = saved * grad[i / (classes * plane) * plane + i % plane], in packs of N.
template <class T, int N>
__global__ void __launch_bounds__(kPointwiseBlock)
    scale_kernel(const Saved<T>* saved, const T* __restrict__ grad, int64_t n, int64_t classes, int64_t plane, T* out) {
  const bool one = classes * plane == n && plane == 1;
  if (one && static_cast<const void*>(saved) == out && widen(grad[0]) == 1) return;  // the usual gradient of a loss
  const int64_t step = int64_t(gridDim.x) * blockDim.x * N;
  for (int64_t i = (int64_t(blockIdx.x) * blockDim.x + threadIdx.x) * N; i < n; i += step) {
    const int64_t group = one ? 0 : i / (classes * plane) * plane, at = one ? 0 : i % plane;
    Scalar<T> v[N];
#pragma unroll
    for (int j = 0; j < N; ++j) v[j] = widen(saved[i + j]) * widen(grad[group + (plane == 1 ? 0 : at + j)]);
    store_values(out + i, v);
  }
}

// How many labels are neither a class nor ignore_index, and the sum of the weights of the others.
template <class T>
__global__ void __launch_bounds__(kPartialBlock)
    labels_kernel(const int64_t* __restrict__ labels, const T* __restrict__ weight, int64_t n, int64_t classes,
                  int64_t ignore_index, double* __restrict__ partial) {
  GPU_SHARED(double, shared, [kPartialBlock / 32]);
  double bad = 0, sum = 0;
  for (int64_t i = int64_t(blockIdx.x) * kPartialBlock + threadIdx.x; i < n; i += int64_t(gridDim.x) * kPartialBlock) {
    const int64_t t = labels[i];
    if (t == ignore_index) continue;
    const bool fits = uint64_t(t) < uint64_t(classes);
    bad += !fits;
    if (fits) sum += weight ? double(widen(weight[t])) : 1.0;
  }
  store_partial<kPartialBlock>(bad, shared, partial);
  store_partial<kPartialBlock>(sum, shared, partial + kPartials);
}

GPU_FN int64_t row_offset(const Loop<1>& rows, int64_t row) {
  int64_t offset = 0;
  for (int i = rows.n - 1; i >= 0; --i) {
    offset += row % rows.size[i] * rows.stride[0][i];
    row /= rows.size[i];
  }
  return offset;
}

template <class T>
__global__ void __launch_bounds__(kPartialBlock)
    nll_kernel(NllRows a, const T* __restrict__ x, const T* __restrict__ weight, T* __restrict__ losses, int64_t n,
               double* __restrict__ partial) {
  using S = Scalar<T>;
  GPU_SHARED(double, shared, [kPartialBlock / 32]);
  double total = 0;
  for (int64_t i = int64_t(blockIdx.x) * kPartialBlock + threadIdx.x; i < n; i += int64_t(gridDim.x) * kPartialBlock) {
    const int64_t t = a.labels[i];
    S loss = 0;
    if (t != a.ignore_index) {
      const bool there = is_class(t, a.classes);
      loss = there ? -S(widen(x[row_offset(a.rows, i) + t * a.class_stride])) : S(NAN);
      if (weight && there) loss *= widen(weight[t]);
    }
    if (losses) losses[i] = narrow<T>(loss);
    total += double(loss);
  }
  store_partial<kPartialBlock>(total, shared, partial);
}

template <class T>
__global__ void __launch_bounds__(kPartialBlock)
    nll_backward_kernel(NllRows a, const T* __restrict__ weight, const T* __restrict__ grad, bool each,
                        const double* __restrict__ divisor, T* __restrict__ dx, int64_t n) {
  using S = Scalar<T>;
  for (int64_t i = int64_t(blockIdx.x) * kPartialBlock + threadIdx.x; i < n; i += int64_t(gridDim.x) * kPartialBlock) {
    const int64_t t = a.labels[i];
    if (t == a.ignore_index || !is_class(t, a.classes)) continue;
    double g = double(widen(grad[each ? i : 0]));
    if (divisor) g /= *divisor;
    dx[row_offset(a.rows, i) + t * a.class_stride] = narrow<T>(S(-(weight ? double(widen(weight[t])) : 1.0) * g));
  }
}

}  // namespace

// ---- launchers ----------------------------------------------------------------------------------------------------

Status label_summary(DType dtype, const int64_t* labels, const void* weight, int64_t n, int64_t classes,
                     int64_t ignore_index, double* partial, double* summary, Stream stream) {
  Status status = 0;
  const dim3 grid = partial_grid(n, kPartialBlock);
  visit_float(dtype, [&]<class T>(T*) {
    status = launch(labels_kernel<T>, grid, dim3(kPartialBlock), 0, stream, labels, static_cast<const T*>(weight), n,
                    classes, ignore_index, partial);
  });
  if (!status) status = finish(partial, grid.x, nullptr, 1, DType::f64, summary, stream);
  return status ? status : finish(partial + kPartials, grid.x, nullptr, 1, DType::f64, summary + 1, stream);
}

Status cross_entropy(const CrossEntropyRows& rows, DType dtype, int64_t count, const double* divisor, double* partial,
                     void* total, Stream stream) {
  Status status = 0;
  unsigned blocks = 0;
  visit_float(dtype, [&]<class T>(T*) {
    const bool wide = wide_rows<T>(rows.classes, rows.x, rows.probabilities, rows.weight, rows.dx, rows.dt);
    visit_row_shape<T>(rows.classes, wide, [&]<class Shape>(Shape) {
      const dim3 grid = row_grid<Shape>(count, kPartials);
      blocks = grid.x;
      const bool dense = rows.probabilities || rows.smoothing > 0;
      status = launch(dense ? rows_kernel<T, Shape, true> : rows_kernel<T, Shape, false>, grid, dim3(Shape::BLOCK), 0,
                      stream, rows, count, divisor, partial);
    });
  });
  return status || !total ? status : finish(partial, blocks, divisor, 1 / rows.scale, dtype, total, stream);
}

Status cross_entropy_scale(DType dtype, const void* saved, const void* grad, int64_t n, int64_t classes, int64_t plane,
                           void* out, Stream stream) {
  Status status = 0;
  visit_float(dtype, [&]<class T>(T*) {
    auto run = [&]<int N>(Count<N>) {
      status = launch(scale_kernel<T, N>, pointwise_grid<T>(n), dim3(kPointwiseBlock), 0, stream,
                      static_cast<const Saved<T>*>(saved), static_cast<const T*>(grad), n, classes, plane,
                      static_cast<T*>(out));
    };
    const bool wide = sizeof(T) < 8 && aligned(saved, out) && (plane == 1 ? classes : plane) % kPack<T> == 0;
    if constexpr (sizeof(T) < 8)
      if (wide) return run(Count<kPack<T>>());
    run(Count<1>());
  });
  return status;
}

Status nll_loss(const NllRows& rows, DType dtype, const void* x, const void* weight, void* losses, int64_t n,
                const double* divisor, double* partial, void* total, Stream stream) {
  Status status = 0;
  const dim3 grid = partial_grid(n, kPartialBlock);
  visit_float(dtype, [&]<class T>(T*) {
    status = launch(nll_kernel<T>, grid, dim3(kPartialBlock), 0, stream, rows, static_cast<const T*>(x),
                    static_cast<const T*>(weight), static_cast<T*>(losses), n, partial);
  });
  return status || !total ? status : finish(partial, grid.x, divisor, 1, dtype, total, stream);
}

Status nll_loss_backward(const NllRows& rows, DType dtype, const void* weight, const void* grad, bool each,
                         const double* divisor, void* dx, int64_t n, Stream stream) {
  Status status = 0;
  visit_float(dtype, [&]<class T>(T*) {
    status = launch(nll_backward_kernel<T>, partial_grid(n, kPartialBlock), dim3(kPartialBlock), 0, stream, rows,
                    static_cast<const T*>(weight), static_cast<const T*>(grad), each, divisor, static_cast<T*>(dx), n);
  });
  return status;
}

}  // namespace fastnn::gpu
