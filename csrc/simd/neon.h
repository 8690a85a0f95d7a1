// arm64: the vector extension compiles to NEON; only the fused multiply-add must be asked for.
#pragma once
#include "generic.h"

namespace fastnn::FASTNN_ISA {
namespace {

FASTNN_INLINE Vec<float> fma(Vec<float> a, Vec<float> b, Vec<float> c) {
  for (int i = 0; i < Vec<float>::kLanes; ++i) c.v[i] = __builtin_fmaf(a.v[i], b.v[i], c.v[i]);
  return c;
}

}  // namespace
}  // namespace fastnn::FASTNN_ISA
