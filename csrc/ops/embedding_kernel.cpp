#include "../dispatch.h"
#include "../simd/simd.h"

namespace fastnn::FASTNN_ISA {
namespace {

template <class T>
void sum_of_rows(const void* x, int64_t step, const int64_t* rows, int64_t count, double scale, void* y,
                 int64_t width) {
  using V = Compute<T>;
  const T* px = static_cast<const T*>(x);
  T* py = static_cast<T*>(y);
  V factor = V(Scalar<T>(scale));
  for_lanes<V>(width, [&](int64_t j, auto lanes) {
    V total = V(Scalar<T>(0));
    for (int64_t i = 0; i < count; ++i) total = total + load<V>(px + rows[i] * step + j, lanes);
    store(total * factor, py + j, lanes);
  });
}

template <class T>
void weighted_rows(const void* x, int64_t step, const int64_t* rows, const void* weights, int64_t count, void* y,
                   int64_t width, bool wide) {
  using S = Scalar<T>;
  using V = Compute<T>;
  const T* px = static_cast<const T*>(x);
  const S* w = static_cast<const S*>(weights);
  for_lanes<V>(width, [&](int64_t j, auto lanes) {
    V total = V(S(0));
    for (int64_t i = 0; i < count; ++i) total = fma(V(w[i]), load<V>(px + rows[i] * step + j, lanes), total);
    if (wide)
      store(total, static_cast<S*>(y) + j, lanes);
    else
      store(total, static_cast<T*>(y) + j, lanes);
  });
}

template <class T>
void max_of_rows(const void* x, int64_t step, const int64_t* rows, int64_t count, void* y, void* at, int64_t width) {
  using S = Scalar<T>;
  using V = Compute<T>;
  const T* px = static_cast<const T*>(x);
  for_lanes<V>(width, [&](int64_t j, auto lanes) {
    V best = load<V>(px + rows[0] * step + j, lanes), best_at = V(S(0));
    for (int64_t i = 1; i < count; ++i) {
      V v = load<V>(px + rows[i] * step + j, lanes);
      auto larger = v > best;
      best = select(larger, v, best);
      best_at = select(larger, V(S(i)), best_at);
    }
    store(best, static_cast<T*>(y) + j, lanes);
    store(best_at, static_cast<S*>(at) + j, lanes);
  });
}

// x[index[l]] in lane l.
template <class V, class S>
FASTNN_INLINE V gather(const S* x, const int32_t* index, Full) {
  S picked[V::kLanes];
  for (int l = 0; l < V::kLanes; ++l) picked[l] = x[index[l]];
  return V::load(picked);
}
template <class V, class S>
FASTNN_INLINE V gather(const S* x, const int32_t* index, int lanes) {
  S picked[V::kLanes];
  for (int l = 0; l < V::kLanes; ++l) picked[l] = l < lanes ? x[index[l]] : S(0);
  return V::load(picked);
}

template <class T>
void weighted_columns(const void* x, const int32_t* index, const void* weights, int taps, int64_t n, void* y) {
  using S = Scalar<T>;
  using V = Compute<T>;
  const S *px = static_cast<const S*>(x), *w = static_cast<const S*>(weights);
  for_lanes<V>(n, [&](int64_t j, auto lanes) {
    V total = V(S(0));
    for (int i = 0; i < taps; ++i)
      total = fma(load<V>(w + i * n + j, lanes), gather<V>(px, index + i * n + j, lanes), total);
    store(total, static_cast<T*>(y) + j, lanes);
  });
}

}  // namespace

#define FASTNN_FAMILY_INC "embedding.inc"
#define FASTNN_FAMILY_TABLE                        \
  extern const EmbeddingKernels embedding_kernels; \
  const EmbeddingKernels embedding_kernels
#include "../kernels/fill.h"

}  // namespace fastnn::FASTNN_ISA
