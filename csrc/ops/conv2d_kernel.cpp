#include "../dispatch.h"
#include "../simd/simd.h"

namespace fastnn::FASTNN_ISA {
namespace {

}  // namespace

#define FASTNN_FAMILY_INC "conv2d.inc"
#define FASTNN_FAMILY_TABLE extern const Conv2dKernels conv2d_kernels; const Conv2dKernels conv2d_kernels
#include "../kernels/fill.h"

}  // namespace fastnn::FASTNN_ISA
