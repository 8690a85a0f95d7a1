#include "../dispatch.h"
#include "../simd/simd.h"

namespace fastnn::FASTNN_ISA {
namespace {

}  // namespace

#define FASTNN_FAMILY_INC "probe.inc"
#define FASTNN_FAMILY_TABLE extern const ProbeKernels probe_kernels; const ProbeKernels probe_kernels
#include "../kernels/fill.h"

}  // namespace fastnn::FASTNN_ISA
