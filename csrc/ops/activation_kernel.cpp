#include "../dispatch.h"
#include "../simd/activation.h"

namespace fastnn::FASTNN_ISA {
namespace {

// Each function has a loop of its own, out of line: one body with all of them would be too large to optimise well.
template <class Fn, class T>
__attribute__((noinline)) void forward(const T* x, T* y, int64_t n, double a, double b, bool streams) {
  using V = Compute<T>;
  V va = V(Scalar<T>(a)), vb = V(Scalar<T>(b));
  for_lanes<V>(n, [&](int64_t i, auto lanes) { store(Fn::f(load<V>(x + i, lanes), va, vb), y + i, lanes, streams); });
  fence(streams);
}

template <class Fn, class T>
__attribute__((noinline)) void backward(const T* s, const T* dy, T* dx, int64_t n, double a, double b, bool streams) {
  using V = Compute<T>;
  V va = V(Scalar<T>(a)), vb = V(Scalar<T>(b));
  for_lanes<V>(n, [&](int64_t i, auto lanes) {
    store(Fn::df(load<V>(s + i, lanes), load<V>(dy + i, lanes), va, vb), dx + i, lanes, streams);
  });
  fence(streams);
}

template <class T>
void activation_forward(Activation f, const void* x, void* y, int64_t n, double a, double b, bool streams) {
  visit_activation(
      f, [&](auto fn) { forward<decltype(fn)>(static_cast<const T*>(x), static_cast<T*>(y), n, a, b, streams); });
}

template <class T>
void activation_backward(Activation f, const void* s, const void* dy, void* dx, int64_t n, double a, double b,
                         bool streams) {
  visit_activation(f, [&](auto fn) {
    backward<decltype(fn)>(static_cast<const T*>(s), static_cast<const T*>(dy), static_cast<T*>(dx), n, a, b, streams);
  });
}

}  // namespace

#define FASTNN_FAMILY_INC "activation.inc"
#define FASTNN_FAMILY_TABLE                          \
  extern const ActivationKernels activation_kernels; \
  const ActivationKernels activation_kernels
#include "../kernels/fill.h"

}  // namespace fastnn::FASTNN_ISA
