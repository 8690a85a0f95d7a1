#include "../dispatch.h"
#include "../simd/simd.h"

namespace fastnn::FASTNN_ISA {
namespace {

constexpr int kWidth = 16;  // counters worked on together; part of the definition of the mask, the same on every ISA
constexpr int kGroup = 4 * kWidth;

// Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3", section 3.4). The upper halves of
// the lanes are not words: what products leave there, the next product ignores.
void philox_group(uint64_t group, uint64_t offset, uint64_t seed, uint32_t* words) {
  constexpr int kTogether = 2;  // hide the latency of the products
  const Words m0(0xD2511F53), m1(0xCD9E8D57);
  for (int j = 0; j < kWidth; j += kTogether * Words::kLanes) {
    Words c0[kTogether] = {Words::from(group * kWidth + uint64_t(j)),
                           Words::from(group * kWidth + uint64_t(j + Words::kLanes))};
    Words c1[kTogether] = {c0[0].high(), c0[1].high()}, c2[kTogether] = {offset, offset},
          c3[kTogether] = {offset >> 32, offset >> 32};
    uint32_t k0 = uint32_t(seed), k1 = uint32_t(seed >> 32);
    for (int round = 0; round < 10; ++round, k0 += 0x9E3779B9u, k1 += 0xBB67AE85u)
      for (int i = 0; i < kTogether; ++i) {
        Words p0 = c0[i] * m0, p1 = c2[i] * m1;
        c0[i] = p1.high() ^ c1[i] ^ Words(k0);
        c1[i] = p1;
        c2[i] = p0.high() ^ c3[i] ^ Words(k1);
        c3[i] = p0;
      }
    for (int i = 0; i < kTogether; ++i) {
      uint32_t* to = words + j + i * Words::kLanes;
      c0[i].store(to);
      c1[i].store(to + kWidth);
      c2[i].store(to + 2 * kWidth);
      c3[i].store(to + 3 * kWidth);
    }
  }
}

template <class T>
void dropout(const void* x, void* y, int64_t first_group, int64_t n, uint64_t seed, uint64_t offset, uint32_t threshold,
             double scale, bool streams) {
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
      store(load<V>(px + i + j, lanes) * load<V>(factor + j, lanes), py + i + j, lanes, streams);
    });
  }
  fence(streams);
}

}  // namespace

#define FASTNN_FAMILY_INC "dropout.inc"
#define FASTNN_FAMILY_TABLE                    \
  extern const DropoutKernels dropout_kernels; \
  const DropoutKernels dropout_kernels
#include "../kernels/fill.h"

}  // namespace fastnn::FASTNN_ISA
