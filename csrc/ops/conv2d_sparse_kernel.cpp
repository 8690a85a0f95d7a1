#include "../dispatch.h"
#include "../simd/simd.h"

namespace fastnn::FASTNN_ISA {
namespace {

int64_t nonzeros(const float* x, int64_t n, float* values, int32_t* positions) {
  using V = Vec<float>;
  int64_t count = 0;
  for (int64_t i = 0; i < n; i += V::kLanes) {
    int lanes = int(lesser(V::kLanes, n - i));
    V v = lanes == V::kLanes ? V::load(x + i) : V::load(x + i, lanes);
    count += append_nonzero(v, lanes, int32_t(i), values + count, positions + count);
  }
  return count;
}

// x * 0 is 0 for finite x and NaN otherwise.
bool all_finite(const float* x, int64_t n) {
  using V = Vec<float>;
  V acc = V(0.0f);
  for_lanes<V>(n, [&](int64_t i, auto lanes) { acc = fma(load<V>(x + i, lanes), V(0.0f), acc); });
  return sum(acc) == 0.0f;
}

template <int N>
void scatter(int64_t count, const float* values, const int64_t* offsets, int64_t rows, const float* w, float* dx,
             int64_t dx_row) {
  for (int64_t e = 0; e < count; ++e) {
    Vec8 g = Vec8(values[e]);
    float* to = dx + offsets[e];
    const float* from = w;
    for (int64_t r = 0; r < rows; ++r, to += dx_row, from += 8 * N) {
      // All loads before the stores: the runs of one element do not overlap, but the compiler cannot know.
#pragma GCC unroll 8
      for (int j = 0; j < N; ++j) fma(g, Vec8::load(from + 8 * j), Vec8::load(to + 8 * j)).store(to + 8 * j);
    }
  }
}

template <int N, int R>
FASTNN_INLINE void gather_rows(int64_t count, const float* values, const int64_t* offsets, const float* x,
                               int64_t x_row, float* dw) {
  Vec8 acc[R][N];
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
    for (int j = 0; j < N; ++j) acc[r][j] = Vec8::load(dw + (r * N + j) * 8);
  for (int64_t e = 0; e < count; ++e) {
    Vec8 g = Vec8(values[e]);
    const float* from = x + offsets[e];
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
      for (int j = 0; j < N; ++j) acc[r][j] = fma(g, Vec8::load(from + r * x_row + 8 * j), acc[r][j]);
  }
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
    for (int j = 0; j < N; ++j) acc[r][j].store(dw + (r * N + j) * 8);
}

template <int N>
void gather(int64_t count, const float* values, const int64_t* offsets, int64_t rows, const float* x, int64_t x_row,
            float* dw) {
  constexpr int kRows = N <= 2 ? 5 : N <= 4 ? 3 : 2;  // accumulators of one pass stay in the registers
  int64_t r = 0;
  for (; r + kRows <= rows; r += kRows)
    gather_rows<N, kRows>(count, values, offsets, x + r * x_row, x_row, dw + r * 8 * N);
  for (; r + 2 <= rows; r += 2) gather_rows<N, 2>(count, values, offsets, x + r * x_row, x_row, dw + r * 8 * N);
  for (; r < rows; ++r) gather_rows<N, 1>(count, values, offsets, x + r * x_row, x_row, dw + r * 8 * N);
}

constexpr int kMostVectors = 8;

void scatter_runs(int64_t count, const float* values, const int64_t* offsets, int64_t rows, int vectors, const float* w,
                  float* dx, int64_t dx_row) {
  with_constant<kMostVectors>(vectors, [&](auto n) { scatter<n.value>(count, values, offsets, rows, w, dx, dx_row); });
}

void gather_runs(int64_t count, const float* values, const int64_t* offsets, int64_t rows, int vectors, const float* x,
                 int64_t x_row, float* dw) {
  with_constant<kMostVectors>(vectors, [&](auto n) { gather<n.value>(count, values, offsets, rows, x, x_row, dw); });
}

}  // namespace

#define FASTNN_FAMILY_INC "conv2d_sparse.inc"
#define FASTNN_FAMILY_TABLE                               \
  extern const Conv2dSparseKernels conv2d_sparse_kernels; \
  const Conv2dSparseKernels conv2d_sparse_kernels
#include "../kernels/fill.h"

}  // namespace fastnn::FASTNN_ISA
