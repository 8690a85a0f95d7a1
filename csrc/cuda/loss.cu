// Pointwise losses with their weights and reductions, and their gradients. Equations stand in
// python/fastnn/ops/loss.py, the functors in simd/loss.h. Bound by memory: 1024 threads or more on a multiprocessor.
#include "launchers.h"
#include "partial.h"

namespace fastnn::gpu {
namespace {

// ---- kernels ------------------------------------------------------------------------------------------------------

// N elements of an operand, ones where it is not there.
template <int N, class T>
GPU_FN void load_or_one(const T* p, int64_t i, Scalar<T> (&v)[N]) {
  if (p) {
    const Pack<T, N> pack = load<N>(p + i);
#pragma unroll
    for (int k = 0; k < N; ++k) v[k] = widen(pack[k]);
  } else {
#pragma unroll
    for (int k = 0; k < N; ++k) v[k] = 1;
  }
}

template <class Fn, class T>
__global__ void __launch_bounds__(kPointwiseBlock)
    forward_kernel(PointwiseOperands in, T* __restrict__ y, int64_t n, bool wide, double* __restrict__ partial) {
  using S = Scalar<T>;
  using V = simt::Vec<S>;
  GPU_SHARED(S, shared, [kPointwiseBlock / 32]);
  const T *x = static_cast<const T*>(in.x), *t = static_cast<const T*>(in.t), *w = static_cast<const T*>(in.weight),
          *p = static_cast<const T*>(in.pos_weight);
  S total = 0;
  pointwise<T>(n, wide, [&](int64_t i, auto count) {
    constexpr int N = count.value;
    const Pack<T, N> px = load<N>(x + i), pt = load<N>(t + i);
    S vp[N], vw[N];
    load_or_one<N>(p, i, vp);
    load_or_one<N>(w, i, vw);
    Pack<T, N> py;
#pragma unroll
    for (int k = 0; k < N; ++k) {
      const S l = Fn::value(V(widen(px[k])), V(widen(pt[k])), V(vp[k]), V(S(in.a))).v * vw[k];
      if (y) py[k] = narrow<T>(l);
      total += l;
    }
    if (y) store(y + i, py);
  });
  if (partial) store_partial<kPointwiseBlock>(total, shared, partial);
}

template <class Fn, class T>
__global__ void __launch_bounds__(kPointwiseBlock)
    backward_kernel(PointwiseOperands in, const T* __restrict__ grad, bool each, const double* __restrict__ divisor,
                    double divide, T* __restrict__ dx, T* __restrict__ dt, int64_t n, bool wide) {
  using S = Scalar<T>;
  using V = simt::Vec<S>;
  const T *x = static_cast<const T*>(in.x), *t = static_cast<const T*>(in.t), *w = static_cast<const T*>(in.weight),
          *p = static_cast<const T*>(in.pos_weight);
  const S scale = each ? S(1) : S(double(widen(grad[0])) / (divisor ? *divisor : divide));
  pointwise<T>(n, wide, [&](int64_t i, auto count) {
    constexpr int N = count.value;
    const Pack<T, N> px = load<N>(x + i), pt = load<N>(t + i);
    S vp[N], vw[N], vg[N];
    load_or_one<N>(p, i, vp);
    load_or_one<N>(w, i, vw);
    load_or_one<N>(each ? grad : nullptr, i, vg);
    Pack<T, N> pdx, pdt;
#pragma unroll
    for (int k = 0; k < N; ++k) {
      const V vx(widen(px[k])), vt(widen(pt[k])), g = V(scale) * V(vg[k]) * V(vw[k]);
      if (dx) pdx[k] = narrow<T>((g * Fn::dx(vx, vt, V(vp[k]), V(S(in.a)))).v);
      if (dt) pdt[k] = narrow<T>((g * Fn::dt(vx, vt, V(vp[k]), V(S(in.a)))).v);
    }
    if (dx) store(dx + i, pdx);
    if (dt) store(dt + i, pdt);
  });
}

// Partial sums of the elements, or of how many lie outside of [0, 1].
template <class T>
__global__ void __launch_bounds__(kPointwiseBlock)
    sum_kernel(const T* __restrict__ x, int64_t n, bool wide, bool outside, double* __restrict__ partial) {
  using S = Scalar<T>;
  GPU_SHARED(S, shared, [kPointwiseBlock / 32]);
  S total = 0;
  pointwise<T>(n, wide, [&](int64_t i, auto count) {
    const Pack<T, count.value> p = load<count.value>(x + i);
#pragma unroll
    for (int k = 0; k < count.value; ++k) {
      const S v = widen(p[k]);
      total += outside ? S(!(v >= 0 && v <= 1)) : v;
    }
  });
  store_partial<kPointwiseBlock>(total, shared, partial);
}

template <class T>
dim3 loss_grid(int64_t n) {
  return partial_grid(n, int64_t(kPointwiseBlock) * kPack<T>);
}

}  // namespace

// ---- launchers ----------------------------------------------------------------------------------------------------

Status pointwise_loss(PointwiseLoss f, const PointwiseOperands& in, DType dtype, void* y, int64_t n,
                      const double* divisor, double divide, double* partial, void* total, Stream stream) {
  Status status = 0;
  unsigned blocks = 0;
  visit_float(dtype, [&]<class T>(T*) {
    simt::visit_loss(f, [&]<class Fn>(Fn) {
      const dim3 grid = total ? loss_grid<T>(n) : pointwise_grid<T>(n);
      blocks = grid.x;
      status = launch(forward_kernel<Fn, T>, grid, dim3(kPointwiseBlock), 0, stream, in, static_cast<T*>(y), n,
                      aligned(in.x, in.t, in.weight, in.pos_weight, y), total ? partial : nullptr);
    });
  });
  return status || !total ? status : finish(partial, blocks, divisor, divide, dtype, total, stream);
}

Status pointwise_loss_backward(PointwiseLoss f, const PointwiseOperands& in, DType dtype, const void* grad, bool each,
                               const double* divisor, double divide, void* dx, void* dt, int64_t n, Stream stream) {
  Status status = 0;
  visit_float(dtype, [&]<class T>(T*) {
    simt::visit_loss(f, [&]<class Fn>(Fn) {
      const bool wide = aligned(in.x, in.t, in.weight, in.pos_weight, dx, dt) && (!each || aligned(grad));
      status =
          launch(backward_kernel<Fn, T>, pointwise_grid<T>(n), dim3(kPointwiseBlock), 0, stream, in,
                 static_cast<const T*>(grad), each, divisor, divide, static_cast<T*>(dx), static_cast<T*>(dt), n, wide);
    });
  });
  return status;
}

Status loss_sum(DType dtype, const void* x, int64_t n, bool outside, double* partial, double* total, Stream stream) {
  Status status = 0;
  unsigned blocks = 0;
  visit_float(dtype, [&]<class T>(T*) {
    const dim3 grid = loss_grid<T>(n);
    blocks = grid.x;
    status = launch(sum_kernel<T>, grid, dim3(kPointwiseBlock), 0, stream, static_cast<const T*>(x), n, aligned(x),
                    outside, partial);
  });
  return status ? status : finish(partial, blocks, nullptr, 1, DType::f64, total, stream);
}

}  // namespace fastnn::gpu
