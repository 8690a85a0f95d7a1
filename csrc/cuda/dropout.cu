// y = x * m / (1 - p), with the mask that the CPU draws: ops/dropout.h, ops/dropout_kernel.cpp.
#include "launchers.h"
#include "pointwise.h"

namespace fastnn::gpu {
namespace {

constexpr int kGroup = 64, kLanes = 16;  // elements of a group of counters, and counters of it

// ---- kernels ------------------------------------------------------------------------------------------------------

// Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3", section 3.4).
GPU_FN void philox(uint64_t counter, uint64_t offset, uint64_t seed, uint32_t (&words)[4]) {
  constexpr uint32_t kM0 = 0xD2511F53u, kM1 = 0xCD9E8D57u;
  uint32_t c0 = uint32_t(counter), c1 = uint32_t(counter >> 32), c2 = uint32_t(offset), c3 = uint32_t(offset >> 32);
  uint32_t k0 = uint32_t(seed), k1 = uint32_t(seed >> 32);
#pragma unroll
  for (int round = 0; round < 10; ++round) {
    const uint32_t high0 = __umulhi(kM0, c0), high1 = __umulhi(kM1, c2), low0 = kM0 * c0, low1 = kM1 * c2;
    c0 = high1 ^ c1 ^ k0;
    c1 = low1;
    c2 = high0 ^ c3 ^ k1;
    c3 = low0;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  words[0] = c0;
  words[1] = c1;
  words[2] = c2;
  words[3] = c3;
}

// Word w of counter c of a group belongs to element 16 w + c: N neighbouring counters give a thread 4 packs of N.
template <class T, int N>
__global__ void __launch_bounds__(kPointwiseBlock)
    dropout_kernel(const T* __restrict__ x, T* __restrict__ y, int64_t n, bool wide, uint64_t seed, uint64_t offset,
                   uint32_t threshold, Scalar<T> scale) {
  const int64_t units = ceil_div(n, int64_t(kGroup)) * (kLanes / N);
  for (int64_t u = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; u < units; u += int64_t(gridDim.x) * blockDim.x) {
    const int64_t group = u / (kLanes / N);
    const int first = int(u % (kLanes / N)) * N;
    uint32_t words[N][4];
#pragma unroll
    for (int k = 0; k < N; ++k) philox(uint64_t(group * kLanes + first + k), offset, seed, words[k]);
#pragma unroll
    for (int w = 0; w < 4; ++w) {
      const int64_t i = group * kGroup + w * kLanes + first;
      // A product also where dropped: NaN stays NaN.
      auto drop = [&](T v, int k) { return narrow<T>(widen(v) * (words[k][w] >= threshold ? scale : Scalar<T>(0))); };
      if (wide && i + N <= n) {
        Pack<T, N> p = load<N>(x + i);
#pragma unroll
        for (int k = 0; k < N; ++k) p[k] = drop(p[k], k);
        store(y + i, p);
      } else {
#pragma unroll
        for (int k = 0; k < N; ++k)
          if (i + k < n) y[i + k] = drop(x[i + k], k);
      }
    }
  }
}

}  // namespace

// ---- launchers ----------------------------------------------------------------------------------------------------

Status dropout(DType dtype, const void* x, void* y, int64_t n, uint64_t seed, uint64_t offset, uint32_t threshold,
               double scale, Stream stream) {
  Status status = 0;
  visit_float(dtype, [&]<class T>(T*) {
    constexpr int N = kPack<T>;
    const int64_t blocks = ceil_div(ceil_div(n, int64_t(kGroup)) * (kLanes / N), int64_t(kPointwiseBlock));
    status = launch(dropout_kernel<T, N>, dim3(unsigned(blocks < kMostBlocks ? blocks : kMostBlocks)),
                    dim3(kPointwiseBlock), 0, stream, static_cast<const T*>(x), static_cast<T*>(y), n, aligned(x, y),
                    seed, offset, threshold, scale);
  });
  return status;
}

}  // namespace fastnn::gpu
