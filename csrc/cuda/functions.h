// The functors of simd/activation.h for GPU kernels: simt::Relu::f(V(x), V(a), V(b)) with V = simt::Vec<float> or
// simt::Vec<double>, simt::visit_activation for launchers, simt::apply_activation for epilogues.
#pragma once
#define FASTNN_ISA simt
#define FASTNN_ISA_ID 5
#include "../simd/activation.h"

namespace fastnn::gpu {

// What values of storage type T are computed in: float, or double for double.
template <class T>
using Scalar = simt::Scalar<T>;

}  // namespace fastnn::gpu
