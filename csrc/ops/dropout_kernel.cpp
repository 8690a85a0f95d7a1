#include "../dispatch.h"
#include "../simd/simd.h"

namespace fastnn::FASTNN_ISA {
namespace {

constexpr int kWidth = 16;  // counters worked on together; part of the definition of the mask, the same on every ISA
constexpr int kGroup = 4 * kWidth;

// Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3", section 3.4). Loops over local
// arrays, one operation each: the compiler turns them into vectors of the ISA, which it does not with `words` in their
// place.
void philox_group(uint64_t group, uint64_t offset, uint64_t seed, uint32_t* words) {
  constexpr uint32_t kM0 = 0xD2511F53u, kM1 = 0xCD9E8D57u;
  uint32_t c0[kWidth], c1[kWidth], c2[kWidth], c3[kWidth], high0[kWidth], high1[kWidth];
  for (int j = 0; j < kWidth; ++j) {
    uint64_t counter = group * kWidth + uint64_t(j);
    c0[j] = uint32_t(counter);
    c1[j] = uint32_t(counter >> 32);
    c2[j] = uint32_t(offset);
    c3[j] = uint32_t(offset >> 32);
  }
  uint32_t k0 = uint32_t(seed), k1 = uint32_t(seed >> 32);
  for (int round = 0; round < 10; ++round) {
    for (int j = 0; j < kWidth; ++j) high0[j] = uint32_t(uint64_t(kM0) * c0[j] >> 32);
    for (int j = 0; j < kWidth; ++j) high1[j] = uint32_t(uint64_t(kM1) * c2[j] >> 32);
    for (int j = 0; j < kWidth; ++j) {
      uint32_t low0 = kM0 * c0[j], low1 = kM1 * c2[j];
      c0[j] = high1[j] ^ c1[j] ^ k0;
      c1[j] = low1;
      c2[j] = high0[j] ^ c3[j] ^ k1;
      c3[j] = low0;
    }
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  for (int j = 0; j < kWidth; ++j) {
    words[j] = c0[j];
    words[kWidth + j] = c1[j];
    words[2 * kWidth + j] = c2[j];
    words[3 * kWidth + j] = c3[j];
  }
}

template <class T>
void dropout(const void* x, void* y, int64_t first_group, int64_t n, uint64_t seed, uint64_t offset, uint32_t threshold,
             double scale) {
  using V = Compute<T>;
  const T* px = static_cast<const T*>(x);
  T* py = static_cast<T*>(y);
  alignas(64) uint32_t words[kGroup];
  alignas(64) Scalar<T> factor[kGroup];
  for (int64_t i = 0; i < n; i += kGroup) {
    philox_group(uint64_t(first_group + i / kGroup), offset, seed, words);
    // A product instead of a choice, which would become a branch that is mispredicted every other time.
    for (int j = 0; j < kGroup; ++j) factor[j] = Scalar<T>(int32_t(words[j] >= threshold)) * Scalar<T>(scale);
    // A product also where dropped: NaN stays NaN, as in torch.
    for_lanes<V>(lesser(kGroup, n - i), [&](int64_t j, auto lanes) {
      store(load<V>(px + i + j, lanes) * load<V>(factor + j, lanes), py + i + j, lanes);
    });
  }
}

}  // namespace

#define FASTNN_FAMILY_INC "dropout.inc"
#define FASTNN_FAMILY_TABLE                    \
  extern const DropoutKernels dropout_kernels; \
  const DropoutKernels dropout_kernels
#include "../kernels/fill.h"

}  // namespace fastnn::FASTNN_ISA
