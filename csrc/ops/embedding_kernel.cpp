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

}  // namespace

#define FASTNN_FAMILY_INC "embedding.inc"
#define FASTNN_FAMILY_TABLE                        \
  extern const EmbeddingKernels embedding_kernels; \
  const EmbeddingKernels embedding_kernels
#include "../kernels/fill.h"

}  // namespace fastnn::FASTNN_ISA
