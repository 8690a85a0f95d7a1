#include <math.h>

#include "../dispatch.h"
#include "../simd/simd.h"

namespace fastnn::FASTNN_ISA {
namespace {

// libm on every lane: exact in the special cases. Models take powers of 2, 3 and 1/2, which binary_scalar does itself.
template <class V, class Fn>
FASTNN_INLINE V lanewise(V a, V b, Fn fn) {
  decltype(sum(a)) x[V::kLanes], y[V::kLanes];
  a.store(x);
  b.store(y);
  for (int i = 0; i < V::kLanes; ++i) x[i] = fn(x[i], y[i]);
  return V::load(x);
}
inline float power(float a, float b) { return ::powf(a, b); }
inline double power(double a, double b) { return ::pow(a, b); }

template <class V>
FASTNN_INLINE V pow(V a, V b) {
  return lanewise(a, b, [](auto x, auto y) { return power(x, y); });
}

}  // namespace
}  // namespace fastnn::FASTNN_ISA

#include "../simd/arithmetic.h"

namespace fastnn::FASTNN_ISA {
namespace {

struct Square {
  template <class V>
  static FASTNN_INLINE V f(V a) {
    return a * a;
  }
};
struct Cube {
  template <class V>
  static FASTNN_INLINE V f(V a) {
    return a * a * a;
  }
};
struct Sqrt {
  template <class V>
  static FASTNN_INLINE V f(V a) {
    return sqrt(a);
  }
};
template <class Fn, class T>
FASTNN_INLINE void map(const void* x, void* y, int64_t n, bool streams) {
  using V = Compute<T>;
  auto* px = static_cast<const T*>(x);
  auto* py = static_cast<T*>(y);
  for_lanes<V>(n, [&](int64_t i, auto lanes) { store(Fn::f(load<V>(px + i, lanes)), py + i, lanes, streams); });
  fence(streams);
}

template <class T>
void binary(Binary f, const void* a, const void* b, void* y, int64_t n, bool streams) {
  using V = Compute<T>;
  auto* pa = static_cast<const T*>(a);
  auto* pb = static_cast<const T*>(b);
  auto* py = static_cast<T*>(y);
  with_function(f, [&]<class Fn>(Fn) {
    for_lanes<V>(n, [&](int64_t i, auto lanes) {
      store(Fn::f(load<V>(pa + i, lanes), load<V>(pb + i, lanes)), py + i, lanes, streams);
    });
  });
  fence(streams);
}

template <class T>
void binary_scalar(Binary f, const void* a, double b, void* y, int64_t n, bool streams) {
  using V = Compute<T>;
  if (f == Binary::pow) {
    if (b == 2) return map<Square, T>(a, y, n, streams);
    if (b == 3) return map<Cube, T>(a, y, n, streams);
    if (b == 0.5) return map<Sqrt, T>(a, y, n, streams);
  }
  auto* pa = static_cast<const T*>(a);
  auto* py = static_cast<T*>(y);
  V vb = V(Scalar<T>(b));
  with_function(f, [&]<class Fn>(Fn) {
    for_lanes<V>(n, [&](int64_t i, auto lanes) { store(Fn::f(load<V>(pa + i, lanes), vb), py + i, lanes, streams); });
  });
  fence(streams);
}

template <class T>
void scalar_binary(Binary f, double a, const void* b, void* y, int64_t n, bool streams) {
  using V = Compute<T>;
  auto* pb = static_cast<const T*>(b);
  auto* py = static_cast<T*>(y);
  V va = V(Scalar<T>(a));
  with_function(f, [&]<class Fn>(Fn) {
    for_lanes<V>(n, [&](int64_t i, auto lanes) { store(Fn::f(va, load<V>(pb + i, lanes)), py + i, lanes, streams); });
  });
  fence(streams);
}

}  // namespace

#define FASTNN_FAMILY_INC "elementwise.inc"
#define FASTNN_FAMILY_TABLE                            \
  extern const ElementwiseKernels elementwise_kernels; \
  const ElementwiseKernels elementwise_kernels
#include "../kernels/fill.h"

}  // namespace fastnn::FASTNN_ISA
