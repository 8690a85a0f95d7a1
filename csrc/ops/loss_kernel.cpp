#include "../dispatch.h"
#include "../simd/loss.h"

namespace fastnn::FASTNN_ISA {
namespace {

template <class V, class T, class L>
FASTNN_INLINE V load_or_one(const T* p, int64_t i, L lanes) {
  return p ? load<V>(p + i, lanes) : V(1);
}

template <class Fn, class T>
double forward(const PointwiseOperands& in, T* y, int64_t begin, int64_t n) {
  using V = Compute<T>;
  const T *x = static_cast<const T*>(in.x) + begin, *t = static_cast<const T*>(in.t) + begin;
  const T* w = in.weight ? static_cast<const T*>(in.weight) + begin : nullptr;
  const T* p = in.pos_weight ? static_cast<const T*>(in.pos_weight) + begin : nullptr;
  V a = V(Scalar<T>(in.a)), total = V(0);
  for_lanes<V>(n, [&](int64_t i, auto lanes) {
    V l = Fn::value(load<V>(x + i, lanes), load<V>(t + i, lanes), load_or_one<V>(p, i, lanes), a);
    if (w) l = l * load<V>(w + i, lanes);
    if (y)
      store(l, y + begin + i, lanes);
    else
      total = total + head(l, lanes, V(0));
  });
  return double(sum(total));
}

template <class Fn, class T>
void backward(const PointwiseOperands& in, const T* grad, double scale, T* dx, T* dt, int64_t begin, int64_t n) {
  using V = Compute<T>;
  const T *x = static_cast<const T*>(in.x) + begin, *t = static_cast<const T*>(in.t) + begin;
  const T* w = in.weight ? static_cast<const T*>(in.weight) + begin : nullptr;
  const T* p = in.pos_weight ? static_cast<const T*>(in.pos_weight) + begin : nullptr;
  V a = V(Scalar<T>(in.a)), factor = V(Scalar<T>(scale));
  for_lanes<V>(n, [&](int64_t i, auto lanes) {
    V vx = load<V>(x + i, lanes), vt = load<V>(t + i, lanes), vp = load_or_one<V>(p, i, lanes), g = factor;
    if (grad) g = g * load<V>(grad + begin + i, lanes);
    if (w) g = g * load<V>(w + i, lanes);
    if (dx) store(g * Fn::dx(vx, vt, vp, a), dx + begin + i, lanes);
    if (dt) store(g * Fn::dt(vx, vt, vp, a), dt + begin + i, lanes);
  });
}

template <class T>
double pointwise_loss(PointwiseLoss f, const PointwiseOperands& in, void* y, int64_t begin, int64_t end) {
  return visit_loss(f, [&](auto fn) { return forward<decltype(fn)>(in, static_cast<T*>(y), begin, end - begin); });
}

template <class T>
void pointwise_loss_backward(PointwiseLoss f, const PointwiseOperands& in, const void* grad, double scale, void* dx,
                             void* dt, int64_t begin, int64_t end) {
  visit_loss(f, [&](auto fn) {
    backward<decltype(fn)>(in, static_cast<const T*>(grad), scale, static_cast<T*>(dx), static_cast<T*>(dt), begin,
                           end - begin);
  });
}

template <class T>
bool all_probabilities(const void* x, int64_t n) {
  using V = Compute<T>;
  const T* p = static_cast<const T*>(x);
  bool outside = false;
  for_lanes<V>(n, [&](int64_t i, auto lanes) {
    V v = load<V>(p + i, lanes);
    outside |= any(!((v >= V(0)) & (v <= V(1))));
  });
  return !outside;
}

}  // namespace

#define FASTNN_FAMILY_INC "loss.inc"
#define FASTNN_FAMILY_TABLE              \
  extern const LossKernels loss_kernels; \
  const LossKernels loss_kernels
#include "../kernels/fill.h"

}  // namespace fastnn::FASTNN_ISA
