// What is checked at every access to memory: those of the instruction wrappers in all builds, those of plain C++ code
// in the hooks build (hooks.cpp). Bounds and alignment always; in the hooks build also reads of shared memory that
// nobody wrote, and races: each byte remembers who wrote and read it when, and an access that does not come after those
// by a barrier, __syncwarp or count_block() is reported, whatever the schedule made of it.
#pragma once
#include <cstddef>

#include "block.h"

namespace fastnn::emulate {

enum class Access { read, write, atomic, copy };  // copy: the issue of an asynchronous write

// By the current thread; `caller`: the address in the kernel, for the message.
void access(const void* p, size_t bytes, Access kind, void* caller, bool aligned = true);
void access_shared(size_t offset, size_t bytes, Access kind, void* caller);

// Device memory, with its exact size.
void register_memory(const void* p, size_t bytes);
bool forget_memory(const void* p);
size_t registered_bytes(const void* p);  // from p to the end of its allocation; 0: not device memory

void begin_launch_checks(const void* call, size_t call_bytes);
void begin_block_checks();
void full_barrier();  // all threads of the block passed a barrier
// What the `from` did before, the `to` know from now on.
void order(Thread* const* from, int from_count, Thread* const* to, int to_count);
// The current thread's part of count_block(): it publishes what it knows, and learns what others published.
void acquire_and_release(const void* counter);

// Who accesses shared memory: threads by their ids, the bulk copies that an mbarrier counts, the tensor core of a
// warpgroup. Each has a clock.
constexpr int kMbarriers = 64;
constexpr int kCopyEngine = kMaxThreads;
constexpr int kTensorCore = kCopyEngine + kMbarriers;
constexpr int kActors = kTensorCore + kMaxThreads / kWarpgroup;
struct Clocks {
  uint32_t of[kActors] = {};
};
void publish(Thread& from, Clocks& to);      // adds what the thread knows
void learn(Thread& to, const Clocks& from);  // the thread knows it from now on
void learn(Thread& to, int actor, uint32_t clock);

void landed(size_t offset, size_t bytes, int actor, uint32_t clock);  // an asynchronous write is done
void fence_async_proxy();  // what the current thread wrote can be read by asynchronous instructions
// A read by a tensor core for the thread `knows`; clock 0: only checked.
void asynchronous_read(size_t offset, size_t bytes, const Thread& knows, int actor, uint32_t clock);
// Reports an access of the current thread to registers that a wgmma which was not waited for works on (sm90.cpp).
void check_accumulators(const void* p, size_t bytes);

}  // namespace fastnn::emulate
