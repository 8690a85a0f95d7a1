// Faults in what is particular to sm_90; see selftest.cu.
#include "../ptx_sm90.h"
#include "selftest.h"

using namespace fastnn;

namespace {

enum Fault {
  kNone,
  kFullWait,        // consumers do not wait for a stage to be full
  kEmptyWait,       // the producer does not wait for it to be empty
  kFullParity,      // consumers wait for the phase before
  kEmptyParity,     // the producer waits for a phase that cannot end
  kTooFewBytes,     // the producer expects less than lands
  kTooManyBytes,    // or more
  kWgmmaWait,       // a stage is given back while wgmma may read it
  kWgmmaFence,      // wgmma after accumulators were touched
  kAccumulators,    // used before the wait
  kOneWarpMissing,  // of a warpgroup
  kAlignment,       // of a stage
  kNoInitialisation,
  kInitialisationBarrier,
  kInitialisationFence,
  kExtraArrival,
};

// d = x x^T summed over kSteps loads of the tile x, through a ring of two stages: the fifth warp loads, a warpgroup
// multiplies.
template <int FAULT>
__global__ void pipeline(Arguments a) {
  constexpr int kStages = 2, kSteps = 5, kBytes = 64 * 128;
  GPU_DYNAMIC_SHARED(shared);
  GPU_SHARED(uint64_t, mbarriers, [2 * kStages]);
  const uint32_t full = ptx::shared_address(mbarriers), empty = full + 8 * kStages;
  const uint32_t stages = ptx::shared_address(shared) + (FAULT == kAlignment ? 64 : 0);
  if (FAULT != kNoInitialisation && threadIdx.x == 0)
    for (int i = 0; i < kStages; ++i) {
      ptx::mbarrier_init(full + 8 * i, 1);
      ptx::mbarrier_init(empty + 8 * i, FAULT == kExtraArrival ? 1 : 4);
      if (FAULT != kInitialisationFence) ptx::fence_mbarrier_init();
    }
  if (FAULT != kInitialisationBarrier) __syncthreads();
  if (threadIdx.x >= 128) {
    if (threadIdx.x == 128)
      for (int k = 0; k < kSteps; ++k) {
        const int s = k % kStages;
        if (FAULT != kEmptyWait) ptx::mbarrier_wait(empty + 8 * s, (k / kStages + (FAULT != kEmptyParity)) % 2);
        ptx::mbarrier_expect(full + 8 * s, FAULT == kTooFewBytes    ? kBytes - 16
                                           : FAULT == kTooManyBytes ? kBytes + 16
                                                                    : kBytes);
        ptx::tma_load(stages + s * kBytes, &a.map, 0, 0, full + 8 * s);
      }
  } else {
    float d[32] = {};
    for (int k = 0; k < kSteps; ++k) {
      const int s = k % kStages;
      if (FAULT != kFullWait) ptx::mbarrier_wait(full + 8 * s, (k / kStages + (FAULT == kFullParity)) % 2);
      const uint32_t tile = stages + s * kBytes;
      if (FAULT == kOneWarpMissing && threadIdx.x >= 96) continue;
      if (FAULT != kWgmmaFence) ptx::wgmma_fence();
      for (int i = 0; i < 4; ++i)
        ptx::wgmma<bf16, 64>(d, ptx::descriptor(tile + i * 32), ptx::descriptor(tile + i * 32));
      ptx::wgmma_commit();
      if (FAULT == kAccumulators) d[k] += 1;
      if (FAULT != kWgmmaWait) ptx::wgmma_wait<0>();
      if (threadIdx.x % 32 == 0) ptx::mbarrier_arrive(empty + 8 * s);
      if (FAULT == kWgmmaWait) ptx::wgmma_wait<0>();
    }
    if (threadIdx.x < 64) a.out[blockIdx.x * 64 + threadIdx.x] = d[0];
  }
}

// Three warpgroups that share the registers of a multiprocessor.
template <bool TOO_MANY, bool SOME>
__global__ void registers(Arguments a) {
  if (threadIdx.x >= 256) {
    if (TOO_MANY)
      ptx::registers_increase<240>();
    else if (!SOME || threadIdx.x < 320)
      ptx::registers_decrease<24>();
  } else {
    ptx::registers_increase<240>();
    if (threadIdx.x < 64) a.out[blockIdx.x * 64 + threadIdx.x] = 1;
  }
}

// A tile written by threads.
template <bool FAULT>
__global__ void proxy_fence(Arguments a) {
  GPU_DYNAMIC_SHARED(shared);
  for (int i = int(threadIdx.x); i < 2048; i += 128) reinterpret_cast<float*>(shared)[i] = 0;
  if (!FAULT) ptx::fence_async_proxy();
  __syncthreads();
  float d[32] = {};
  const uint32_t tile = ptx::shared_address(shared);
  ptx::wgmma_fence();
  ptx::wgmma<bf16, 64>(d, ptx::descriptor(tile), ptx::descriptor(tile));
  ptx::wgmma_commit();
  ptx::wgmma_wait<0>();
  if (threadIdx.x < 64) a.out[blockIdx.x * 64 + threadIdx.x] = d[0];
}

template <bool FAULT>
__global__ void tile_barrier(Arguments a) {  // the fence alone orders no other thread's writes
  GPU_DYNAMIC_SHARED(shared);
  for (int i = int(threadIdx.x); i < 2048; i += 128) reinterpret_cast<float*>(shared)[i] = 0;
  ptx::fence_async_proxy();
  if (!FAULT) __syncthreads();
  float d[32] = {};
  const uint32_t tile = ptx::shared_address(shared);
  ptx::wgmma_fence();
  ptx::wgmma<bf16, 64>(d, ptx::descriptor(tile), ptx::descriptor(tile));
  ptx::wgmma_commit();
  ptx::wgmma_wait<0>();
  if (threadIdx.x < 64) a.out[blockIdx.x * 64 + threadIdx.x] = d[0];
}

template <bool FAULT>
__global__ void bulk_copy_at_exit(Arguments a) {
  GPU_DYNAMIC_SHARED(shared);
  GPU_SHARED(uint64_t, mbarriers, [1]);
  const uint32_t mbarrier = ptx::shared_address(mbarriers);
  if (threadIdx.x == 0) {
    ptx::mbarrier_init(mbarrier, 1);
    ptx::fence_mbarrier_init();
    ptx::mbarrier_expect(mbarrier, 8192);
    ptx::tma_load(ptx::shared_address(shared), &a.map, 0, 0, mbarrier);
    if (!FAULT) ptx::mbarrier_wait(mbarrier, 0);
  }
}

}  // namespace

#define PIPELINE(fault, message, build) \
  {"pipeline " #fault, pipeline<fault>, pipeline<kNone>, message, build, false, 160, 2 * 8192}
#define TILE(kernel, message, build) {#kernel, kernel<true>, kernel<false>, message, build, false, 128, 8192}
const Case kSm90Cases[] = {
    PIPELINE(kFullWait, "not waited for|race|nobody wrote", kHooksOnly),
    PIPELINE(kEmptyWait, "race|not waited for|mbarrier", kAlways),
    PIPELINE(kFullParity, "not waited for|race|nobody wrote|deadlock", kHooksOnly),
    PIPELINE(kEmptyParity, "deadlock", kAlways),
    PIPELINE(kTooFewBytes, "deadlock|race|not waited for", kAlways),
    PIPELINE(kTooManyBytes, "deadlock", kAlways),
    PIPELINE(kWgmmaWait, "race|not waited for", kHooksOnly),
    PIPELINE(kWgmmaFence, "without wgmma_fence", kAlways),
    PIPELINE(kAccumulators, "accumulators", kHooksOnly),
    PIPELINE(kOneWarpMissing, "deadlock|different numbers|ends while", kAlways),
    PIPELINE(kAlignment, "not aligned", kAlways),
    PIPELINE(kNoInitialisation, "no mbarrier", kAlways),
    PIPELINE(kInitialisationBarrier, "no mbarrier|race", kHooksOnly),
    PIPELINE(kInitialisationFence, "without fence_mbarrier_init", kAlways),
    {"registers_of_all", registers<true, false>, registers<false, false>, "ask for", kAlways, false, 384, 0},
    {"registers_of_some", registers<false, true>, registers<false, false>, "64 threads of", kAlways, false, 384, 0},
    PIPELINE(kExtraArrival, "more than 1 arrive|race|not waited for|deadlock", kAlways),
    TILE(proxy_fence, "without fence_async_proxy", kHooksOnly),
    TILE(tile_barrier, "race|nobody wrote", kHooksOnly),
    TILE(bulk_copy_at_exit, "in flight|nobody waited", kAlways),
};
const int kSm90CaseCount = sizeof kSm90Cases / sizeof kSm90Cases[0];
