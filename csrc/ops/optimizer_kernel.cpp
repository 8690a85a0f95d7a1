#include "../dispatch.h"
#include "../simd/simd.h"

namespace fastnn::FASTNN_ISA {
namespace {

}  // namespace

#define FASTNN_FAMILY_INC "optimizer.inc"
#define FASTNN_FAMILY_TABLE extern const OptimizerKernels optimizer_kernels; const OptimizerKernels optimizer_kernels
#include "../kernels/fill.h"

}  // namespace fastnn::FASTNN_ISA
