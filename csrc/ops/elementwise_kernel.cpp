#include "../dispatch.h"
#include "../simd/simd.h"

namespace fastnn::FASTNN_ISA {
namespace {

}  // namespace

#define FASTNN_FAMILY_INC "elementwise.inc"
#define FASTNN_FAMILY_TABLE extern const ElementwiseKernels elementwise_kernels; const ElementwiseKernels elementwise_kernels
#include "../kernels/fill.h"

}  // namespace fastnn::FASTNN_ISA
