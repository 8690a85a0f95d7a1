#include "../dispatch.h"
#include "../simd/simd.h"

namespace fastnn::FASTNN_ISA {
namespace {

// sum_{i < count} weight(i) * x[rows[i] * step + j] for the columns j, which finish(total, j, lanes) gets. Several
// vectors of a row at a time: rows of a large table lie far apart, and each is fetched once.
template <class T, class Weight, class Finish>
FASTNN_INLINE void combine_rows(const T* x, int64_t step, const int64_t* rows, int64_t count, int64_t width,
                                Weight&& weight, Finish&& finish) {
  using V = Compute<T>;
  using S = Scalar<T>;
  constexpr int kVectors = 4;
  constexpr int64_t kAhead = 8;  // rows that are fetched ahead
  int64_t j = 0;
  for (; j + kVectors * V::kLanes <= width; j += kVectors * V::kLanes) {
    V total[kVectors];
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) total[v] = V(S(0));
    for (int64_t i = 0; i < count; ++i) {
      const T *from = x + rows[i] * step + j, *ahead = x + rows[lesser(i + kAhead, count - 1)] * step + j;
      const V w = weight(i);
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) {
        __builtin_prefetch(ahead + v * V::kLanes);
        total[v] = fma(w, V::load(from + v * V::kLanes), total[v]);
      }
    }
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) finish(total[v], j + v * V::kLanes, Full());
  }
  for_lanes<V>(width - j, [&](int64_t at, auto lanes) {
    V total = V(S(0));
    for (int64_t i = 0; i < count; ++i) total = fma(weight(i), load<V>(x + rows[i] * step + j + at, lanes), total);
    finish(total, j + at, lanes);
  });
}

template <class T>
void sum_of_rows(const void* x, int64_t step, const int64_t* rows, int64_t count, double scale, void* y,
                 int64_t width) {
  using S = Scalar<T>;
  using V = Compute<T>;
  const V one = V(S(1)), factor = V(S(scale));
  combine_rows(
      static_cast<const T*>(x), step, rows, count, width, [&](int64_t) { return one; },
      [&](V total, int64_t j, auto lanes) { store(total * factor, static_cast<T*>(y) + j, lanes); });
}

template <class T>
void weighted_rows(const void* x, int64_t step, const int64_t* rows, const void* weights, int64_t count, void* y,
                   int64_t width, bool wide) {
  using S = Scalar<T>;
  using V = Compute<T>;
  const S* w = static_cast<const S*>(weights);
  combine_rows(
      static_cast<const T*>(x), step, rows, count, width, [&](int64_t i) { return V(w[i]); },
      [&](V total, int64_t j, auto lanes) {
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
