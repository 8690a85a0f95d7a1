#include "../dispatch.h"
#include "../simd/simd.h"

namespace fastnn::FASTNN_ISA {
namespace {

constexpr int64_t kBlock =
    1024;  // 16 to 64 additions per lane: the rounding error stays near one unit in the last place
constexpr int kAccumulators = 4;  // hides the latency of the addition

template <class T>
double sum_row(const void* x, int64_t n) {
  using V = Compute<T>;
  auto* p = static_cast<const T*>(x);
  double total = 0;
  for (int64_t begin = 0; begin < n; begin += kBlock) {
    int64_t count = lesser(kBlock, n - begin), i = 0;
    const T* q = p + begin;
    V s0(0.0f), s1(0.0f), s2(0.0f), s3(0.0f);
    for (; i + kAccumulators * V::kLanes <= count; i += kAccumulators * V::kLanes) {
      s0 = s0 + V::load(q + i);
      s1 = s1 + V::load(q + i + V::kLanes);
      s2 = s2 + V::load(q + i + 2 * V::kLanes);
      s3 = s3 + V::load(q + i + 3 * V::kLanes);
    }
    for (; i + V::kLanes <= count; i += V::kLanes) s0 = s0 + V::load(q + i);
    if (i < count) s1 = s1 + V::load(q + i, int(count - i));
    total += double(sum((s0 + s1) + (s2 + s3)));
  }
  return total;
}

template <class V, class Lanes>
FASTNN_INLINE void add_to(double* out, V v, Lanes lanes) {
  decltype(sum(v)) part[V::kLanes];
  v.store(part);
  if constexpr (__is_same(Lanes, Full)) {
    for (int i = 0; i < V::kLanes; ++i) out[i] += double(part[i]);
  } else {
    for (int i = 0; i < lanes; ++i) out[i] += double(part[i]);
  }
}

template <class T>
void sum_columns(const void* x, int64_t rows, int64_t row_stride, int64_t columns, double* out) {
  using V = Compute<T>;
  constexpr int64_t kRows = 32;
  auto* p = static_cast<const T*>(x);
  for (int64_t r = 0; r < rows; r += kRows) {
    int64_t count = lesser(kRows, rows - r), c = 0;
    const T* q = p + r * row_stride;
    for (; c + kAccumulators * V::kLanes <= columns; c += kAccumulators * V::kLanes) {
      V s0(0.0f), s1(0.0f), s2(0.0f), s3(0.0f);
      const T* row = q + c;
      for (int64_t i = 0; i < count; ++i, row += row_stride) {
        s0 = s0 + V::load(row);
        s1 = s1 + V::load(row + V::kLanes);
        s2 = s2 + V::load(row + 2 * V::kLanes);
        s3 = s3 + V::load(row + 3 * V::kLanes);
      }
      add_to(out + c, s0, Full());
      add_to(out + c + V::kLanes, s1, Full());
      add_to(out + c + 2 * V::kLanes, s2, Full());
      add_to(out + c + 3 * V::kLanes, s3, Full());
    }
    for_lanes<V>(columns - c, [&](int64_t i, auto lanes) {
      V s(0.0f);
      const T* row = q + c + i;
      for (int64_t k = 0; k < count; ++k, row += row_stride) s = s + load<V>(row, lanes);
      add_to(out + c + i, s, lanes);
    });
  }
}

}  // namespace

#define FASTNN_FAMILY_INC "reduction.inc"
#define FASTNN_FAMILY_TABLE                        \
  extern const ReductionKernels reduction_kernels; \
  const ReductionKernels reduction_kernels
#include "../kernels/fill.h"

}  // namespace fastnn::FASTNN_ISA
