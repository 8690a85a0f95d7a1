#include "../dispatch.h"
#include "../simd/math.h"
#include "../simd/simd.h"

namespace fastnn::FASTNN_ISA {
namespace {

alignas(64) const float kLaneIndex[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};

// What a gradient of T is stored in until backward (see cross_entropy.inc).
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

FASTNN_INLINE float log_of(float v) { return ::logf(v); }
FASTNN_INLINE double log_of(double v) { return ::log(v); }
template <class T>
FASTNN_INLINE Scalar<T> scalar_at(const T* p) {
  return sum(Compute<T>::load(p, 1));
}

template <class T>
FASTNN_INLINE Scalar<T> row_max(const T* x, int64_t n) {
  using V = Compute<T>;
  V lowest = V(-__builtin_inff()), best = lowest;
  // A NaN leaves `best` as it is; it reaches the loss through the sum of the exponentials.
  for_lanes<V>(n, [&](int64_t i, auto lanes) { best = max(head(load<V>(x + i, lanes), lanes, lowest), best); });
  return max_of(best);
}

// sum exp(x - m); the exponentials are kept in e unless it is null.
template <class T, class E>
FASTNN_INLINE Scalar<T> exp_sum(const T* x, Scalar<T> m, E* e, int64_t n) {
  using V = Compute<T>;
  V shift = V(m), total = V(0);
  for_lanes<V>(n, [&](int64_t i, auto lanes) {
    V v = exp(load<V>(x + i, lanes) - shift);
    if (e) store(v, e + i, lanes);
    // The next row comes from memory while this one, in L2, is computed. dx is not stored past the caches: what they
    // write back in the meantime costs less than waiting for the stores.
    __builtin_prefetch(x + n + i);
    total = total + head(v, lanes, V(0));
  });
  return sum(total);
}

// The part of the wanted distribution that lies on every class, times the class weights:
// k_c = w_c ((1 - smoothing) t_c + smoothing / C), without t_c where there are labels.
template <class T>
struct Wanted {
  using V = Compute<T>;
  const T *t, *w;
  Scalar<T> confidence, floor;

  template <class L>
  FASTNN_INLINE V operator()(int64_t i, L lanes) const {
    V k = V(floor);
    if (t) k = fma(V(confidence), load<V>(t + i, lanes), k);
    return w ? k * load<V>(w + i, lanes) : k;
  }
};

template <class T>
double cross_entropy_rows(const CrossEntropyRows& a, int64_t begin, int64_t end) {
  using V = Compute<T>;
  using S = Scalar<T>;
  using G = Saved<T>;
  // The exponentials of a long row are kept in dx between the passes. bfloat16 would round them, and a short row's
  // would be read while their store is under way.
  bool keep_exp = sizeof(G) >= 4 && a.classes > 4 * V::kLanes;
  int64_t n = a.classes;
  const T* weight = static_cast<const T*>(a.weight);
  S scale = S(a.scale), confidence = S(1 - a.smoothing);
  bool dense = a.probabilities || a.smoothing > 0;
  double total = 0;
  for (int64_t row = begin; row < end; ++row) {
    const T* x = static_cast<const T*>(a.x) + row * n;
    const T* t = a.probabilities ? static_cast<const T*>(a.probabilities) + row * n : nullptr;
    T* loss_out = a.losses ? static_cast<T*>(a.losses) + row : nullptr;
    G* dx = a.dx ? static_cast<G*>(a.dx) + row * n : nullptr;
    G* dt = a.dt ? static_cast<G*>(a.dt) + row * n : nullptr;
    int64_t label = a.labels ? a.labels[row] : -1;
    if (a.labels && label == a.ignore_index) {
      if (loss_out) V(0).store(loss_out, 1);
      if (dx) for_lanes<V>(n, [&](int64_t i, auto lanes) { store(V(0), dx + i, lanes); });
      continue;
    }

    S m = row_max(x, n);
    // loss = K log s - sum_c k_c (x_c - m) + k_label (log s - (x_label - m)), with K = sum_c k_c. x is not read after
    // the exponentials: dx may be x.
    Wanted<T> wanted{t, weight, confidence, dense ? S(a.smoothing / double(n)) : S(0)};
    S all = 0, wanted_x = 0, picked = 0, label_x = 0;
    if (dense) {
      V k_sum = V(0), k_x = V(0);
      for_lanes<V>(n, [&](int64_t i, auto lanes) {
        V k = head(wanted(i, lanes), lanes, V(0));
        k_sum = k_sum + k;
        k_x = k_x + head(k * (load<V>(x + i, lanes) - V(m)), lanes, V(0));
      });
      all = sum(k_sum);
      wanted_x = sum(k_x);
    }
    if (a.labels) {
      picked = weight ? confidence * scalar_at(weight + label) : confidence;
      label_x = scalar_at(x + label) - m;
    }
    S s = exp_sum(x, m, keep_exp ? dx : nullptr, n), log_s = log_of(s), loss = 0;
    if (dense) loss = all * log_s - wanted_x;
    if (a.labels) loss += picked * (log_s - label_x);
    if (loss_out) V(loss).store(loss_out, 1);
    total += double(loss);

    if (dx) {
      V shift = V(m), ratio = V((all + picked) * scale / s), vscale = V(scale), at_label = V(picked * scale);
      for_lanes<V>(n, [&](int64_t i, auto lanes) {
        V e = keep_exp ? load<V>(dx + i, lanes) : exp(load<V>(x + i, lanes) - shift);
        V g = e * ratio;
        if (dense) g = g - wanted(i, lanes) * vscale;
        // In the vector, not afterwards in memory: bfloat16 would round twice.
        g = g - select(V::load(kLaneIndex) == V(float(label - i)), at_label, V(0));
        store(g, dx + i, lanes);
      });
    }
    if (dt) {
      V shift = V(m), log_sum = V(log_s), factor = V(-confidence * scale);
      for_lanes<V>(n, [&](int64_t i, auto lanes) {
        V g = factor * (load<V>(x + i, lanes) - shift - log_sum);
        store(weight ? g * load<V>(weight + i, lanes) : g, dt + i, lanes);
      });
    }
  }
  return total;
}

template <class T>
void cross_entropy_scale(const void* saved, const void* grad, double factor, void* out, int64_t n) {
  using V = Compute<T>;
  const Saved<T>* s = static_cast<const Saved<T>*>(saved);
  const T* g = static_cast<const T*>(grad);
  T* y = static_cast<T*>(out);
  V f = V(Scalar<T>(factor));
  for_lanes<V>(
      n, [&](int64_t i, auto lanes) { store(load<V>(s + i, lanes) * (g ? load<V>(g + i, lanes) : f), y + i, lanes); });
}

}  // namespace

#define FASTNN_FAMILY_INC "cross_entropy.inc"
#define FASTNN_FAMILY_TABLE                               \
  extern const CrossEntropyKernels cross_entropy_kernels; \
  const CrossEntropyKernels cross_entropy_kernels
#include "../kernels/fill.h"

}  // namespace fastnn::FASTNN_ISA
