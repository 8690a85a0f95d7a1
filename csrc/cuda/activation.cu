// y = f(x) and its derivative, elementwise. Equations stand in simd/activation.h.
#include "functions.h"
#include "launchers.h"
#include "pointwise.h"

namespace fastnn::gpu {
namespace {

// ---- kernels ------------------------------------------------------------------------------------------------------

template <class Fn, class T>
__global__ void __launch_bounds__(kPointwiseBlock, 4)
    forward_kernel(const T* __restrict__ x, T* __restrict__ y, int64_t n, bool wide, Scalar<T> a, Scalar<T> b) {
  using V = simt::Vec<Scalar<T>>;
  pointwise<T>(n, wide, [&](int64_t i, auto count) {
    constexpr int N = count.value;
    Pack<T, N> px = load<N>(x + i), py;
#pragma unroll
    for (int k = 0; k < N; ++k) py[k] = narrow<T>(Fn::f(V(widen(px[k])), V(a), V(b)).v);
    store(y + i, py);
  });
}

template <class Fn, class T>
__global__ void __launch_bounds__(kPointwiseBlock, 4)
    backward_kernel(const T* __restrict__ s, const T* __restrict__ dy, T* __restrict__ dx, int64_t n, bool wide,
                    Scalar<T> a, Scalar<T> b) {
  using V = simt::Vec<Scalar<T>>;
  pointwise<T>(n, wide, [&](int64_t i, auto count) {
    constexpr int N = count.value;
    Pack<T, N> ps = load<N>(s + i), pg = load<N>(dy + i), px;
#pragma unroll
    for (int k = 0; k < N; ++k) px[k] = narrow<T>(Fn::df(V(widen(ps[k])), V(widen(pg[k])), V(a), V(b)).v);
    store(dx + i, px);
  });
}

}  // namespace

// ---- launchers ----------------------------------------------------------------------------------------------------

Status activation_forward(Activation f, DType dtype, const void* x, void* y, int64_t n, double a, double b,
                          Stream stream) {
  Status status = 0;
  visit_float(dtype, [&]<class T>(T*) {
    simt::visit_activation(f, [&]<class Fn>(Fn) {
      status = launch(forward_kernel<Fn, T>, pointwise_grid<T>(n), dim3(kPointwiseBlock), 0, stream,
                      static_cast<const T*>(x), static_cast<T*>(y), n, aligned(x, y), a, b);
    });
  });
  return status;
}

Status activation_backward(Activation f, DType dtype, const void* saved, const void* dy, void* dx, int64_t n, double a,
                           double b, Stream stream) {
  Status status = 0;
  visit_float(dtype, [&]<class T>(T*) {
    simt::visit_activation(f, [&]<class Fn>(Fn) {
      status = launch(backward_kernel<Fn, T>, pointwise_grid<T>(n), dim3(kPointwiseBlock), 0, stream,
                      static_cast<const T*>(saved), static_cast<const T*>(dy), static_cast<T*>(dx), n,
                      aligned(saved, dy, dx), a, b);
    });
  });
  return status;
}

}  // namespace fastnn::gpu
