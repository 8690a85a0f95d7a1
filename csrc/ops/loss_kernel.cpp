#include "../dispatch.h"
#include "../simd/simd.h"

namespace fastnn::FASTNN_ISA {
namespace {

}  // namespace

#define FASTNN_FAMILY_INC "loss.inc"
#define FASTNN_FAMILY_TABLE extern const LossKernels loss_kernels; const LossKernels loss_kernels
#include "../kernels/fill.h"

}  // namespace fastnn::FASTNN_ISA
