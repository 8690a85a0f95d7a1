#include "../dispatch.h"
#include "../simd/simd.h"

namespace fastnn::FASTNN_ISA {
namespace {

}  // namespace

#define FASTNN_FAMILY_INC "pooling.inc"
#define FASTNN_FAMILY_TABLE extern const PoolingKernels pooling_kernels; const PoolingKernels pooling_kernels
#include "../kernels/fill.h"

}  // namespace fastnn::FASTNN_ISA
