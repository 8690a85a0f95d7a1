#include "../dispatch.h"
#include "../simd/simd.h"

namespace fastnn::FASTNN_ISA {
namespace {

}  // namespace

#define FASTNN_FAMILY_INC "gemm.inc"
#define FASTNN_FAMILY_TABLE extern const GemmKernels gemm_kernels; const GemmKernels gemm_kernels
#include "../kernels/fill.h"

}  // namespace fastnn::FASTNN_ISA
