#include "../dispatch.h"
#include "../simd/simd.h"

namespace fastnn::FASTNN_ISA {
namespace {

}  // namespace

#define FASTNN_FAMILY_INC "softmax.inc"
#define FASTNN_FAMILY_TABLE extern const SoftmaxKernels softmax_kernels; const SoftmaxKernels softmax_kernels
#include "../kernels/fill.h"

}  // namespace fastnn::FASTNN_ISA
