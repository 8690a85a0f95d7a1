// The functors of simd/*.h for GPU kernels: simt::Relu::f(V(x), V(a), V(b)) with V = simt::Vec<float> or
// simt::Vec<double>, simt::visit_activation for launchers, simt::apply_activation for epilogues, simt::Add::f(a, b).
#pragma once
#define FASTNN_ISA simt
#define FASTNN_ISA_ID 5
#include "../simd/activation.h"
#include "../simd/arithmetic.h"
#include "../simd/loss.h"
#include "../simd/optimizer.h"
