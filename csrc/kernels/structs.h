// Included by dispatch.h, which defines KERNEL and FLOAT_KERNEL as member declarations.
struct GemmKernels {
#include "gemm.inc"
};
struct Conv2dKernels {
#include "conv2d.inc"
};
struct Conv2dSparseKernels {
#include "conv2d_sparse.inc"
};
struct ElementwiseKernels {
#include "elementwise.inc"
};
struct ReductionKernels {
#include "reduction.inc"
};
struct ActivationKernels {
#include "activation.inc"
};
struct PoolingKernels {
#include "pooling.inc"
};
struct SoftmaxKernels {
#include "softmax.inc"
};
struct LossKernels {
#include "loss.inc"
};
struct CrossEntropyKernels {
#include "cross_entropy.inc"
};
struct DropoutKernels {
#include "dropout.inc"
};
struct OptimizerKernels {
#include "optimizer.inc"
};
struct ProbeKernels {
#include "probe.inc"
};

struct Kernels {
#define FAMILY(stem, Struct) Struct stem;
#include "families.inc"
#undef FAMILY
};
