#include "../dispatch.h"
#include "../simd/simd.h"

namespace fastnn::FASTNN_ISA {
namespace {

struct Relu {
  template <class V> static FASTNN_INLINE V f(V x, V, V) { return max(V(0.0f), x); }
  template <class V> static FASTNN_INLINE V df(V y, V dy, V, V) { return select(y > V(0.0f), dy, V(0.0f)); }
};

template <class Fn, class T>
FASTNN_INLINE void forward(const T* x, T* y, int64_t n, double a, double b) {
  using V = Compute<T>;
  V va = V(Scalar<T>(a)), vb = V(Scalar<T>(b));
  for_lanes<V>(n, [&](int64_t i, auto lanes) { store(Fn::f(load<V>(x + i, lanes), va, vb), y + i, lanes); });
}

template <class Fn, class T>
FASTNN_INLINE void backward(const T* s, const T* dy, T* dx, int64_t n, double a, double b) {
  using V = Compute<T>;
  V va = V(Scalar<T>(a)), vb = V(Scalar<T>(b));
  for_lanes<V>(n, [&](int64_t i, auto lanes) {
    store(Fn::df(load<V>(s + i, lanes), load<V>(dy + i, lanes), va, vb), dx + i, lanes);
  });
}

template <class T>
void activation_forward(Activation f, const void* x, void* y, int64_t n, double a, double b) {
  auto* px = static_cast<const T*>(x);
  auto* py = static_cast<T*>(y);
  switch (f) {
    case Activation::relu: return forward<Relu>(px, py, n, a, b);
    default: return;
  }
}

template <class T>
void activation_backward(Activation f, const void* s, const void* dy, void* dx, int64_t n, double a, double b) {
  auto* ps = static_cast<const T*>(s);
  auto* pg = static_cast<const T*>(dy);
  auto* px = static_cast<T*>(dx);
  switch (f) {
    case Activation::relu: return backward<Relu>(ps, pg, px, n, a, b);
    default: return;
  }
}

}  // namespace

#define FASTNN_FAMILY_INC "activation.inc"
#define FASTNN_FAMILY_TABLE extern const ActivationKernels activation_kernels; const ActivationKernels activation_kernels
#include "../kernels/fill.h"

}  // namespace fastnn::FASTNN_ISA
