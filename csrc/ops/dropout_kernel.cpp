#include "../dispatch.h"
#include "../simd/simd.h"

namespace fastnn::FASTNN_ISA {
namespace {

constexpr int kWidth = 16;  // counters worked on together; part of the definition of the mask, the same on every ISA
constexpr int kGroup = 4 * kWidth;

// Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3", section 3.4). Plain loops over
// arrays: the compiler turns them into vectors of the ISA.
void philox_group(uint64_t group, uint64_t offset, uint64_t seed, uint32_t* words) {
  uint32_t *c0 = words, *c1 = words + kWidth, *c2 = words + 2 * kWidth, *c3 = words + 3 * kWidth;
  for (int j = 0; j < kWidth; ++j) {
    uint64_t counter = group * kWidth + uint64_t(j);
    c0[j] = uint32_t(counter);
    c1[j] = uint32_t(counter >> 32);
    c2[j] = uint32_t(offset);
    c3[j] = uint32_t(offset >> 32);
  }
  uint32_t k0 = uint32_t(seed), k1 = uint32_t(seed >> 32);
  for (int round = 0; round < 10; ++round) {
    for (int j = 0; j < kWidth; ++j) {
      uint64_t p0 = uint64_t(0xD2511F53u) * c0[j], p1 = uint64_t(0xCD9E8D57u) * c2[j];
      c0[j] = uint32_t(p1 >> 32) ^ c1[j] ^ k0;
      c1[j] = uint32_t(p1);
      c2[j] = uint32_t(p0 >> 32) ^ c3[j] ^ k1;
      c3[j] = uint32_t(p0);
    }
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
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
    for (int j = 0; j < kGroup; ++j) factor[j] = words[j] < threshold ? Scalar<T>(0) : Scalar<T>(scale);
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
