#include "../dispatch.h"
#include "../simd/simd.h"

namespace fastnn::FASTNN_ISA {
namespace {

using V = Vec<float>;
#if FASTNN_ISA_ID == 2 || FASTNN_ISA_ID == 3
constexpr int kChains = 24;
#else
constexpr int kChains = 12;
#endif

// kChains independent sums, n steps each.
template <class A, class Step>
FASTNN_INLINE float chains(int64_t n, Step step) {
  A acc[kChains];
#pragma GCC unroll 24
  for (int j = 0; j < kChains; ++j) acc[j] = A(j + 1);  // different, or the compiler merges them
  for (int64_t i = 0; i < n; ++i) {
#pragma GCC unroll 24
    for (int j = 0; j < kChains; ++j) acc[j] = step(acc[j]);
  }
  float total = 0;
#pragma GCC unroll 24
  for (int j = 0; j < kChains; ++j) total += float(sum(acc[j]));
  return total;
}

float fma_chains(int64_t n) {
  const V a = V(1.0001f), b = V(0.9999f);
  return chains<V>(n, [&](V acc) { return fma(a, acc, b); });
}
#if FASTNN_ISA_ID == 3
float pair_chains(int64_t n) {
  const V a = V(1.0001f), b = V(0.9999f);
  return chains<V>(n, [&](V acc) { return dot_pairs(a, b, acc); });
}
float byte_chains(int64_t n) {
  const Sums a = Sums(0x03030303);
  return chains<Sums>(n, [&](Sums acc) { return dot_bytes(a, a, acc); });
}
#else
constexpr decltype(nullptr) pair_chains = nullptr, byte_chains = nullptr;
#endif

int lanes() { return V::kLanes * kChains; }

float read_all(const float* x, int64_t n) {
  V acc[8];
#pragma GCC unroll 8
  for (int j = 0; j < 8; ++j) acc[j] = V(0.0f);
  int64_t i = 0;
  for (; i + 8 * V::kLanes <= n; i += 8 * V::kLanes) {
#pragma GCC unroll 8
    for (int j = 0; j < 8; ++j) acc[j] = acc[j] + V::load(x + i + j * V::kLanes);
  }
  V total = acc[0];
  for (int j = 1; j < 8; ++j) total = total + acc[j];
  return sum(total);
}

void copy_stream(const float* x, float* y, int64_t n) {
  for (int64_t i = 0; i < n; i += V::kLanes) V::load(x + i).stream(y + i);
}

}  // namespace

#define FASTNN_FAMILY_INC "probe.inc"
#define FASTNN_FAMILY_TABLE                \
  extern const ProbeKernels probe_kernels; \
  const ProbeKernels probe_kernels
#include "../kernels/fill.h"

}  // namespace fastnn::FASTNN_ISA
