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
void landed(const Copy& copy);  // written by the current thread
void full_barrier();            // all threads of the block passed a barrier
// What the `from` did before, the `to` know from now on.
void order(Thread* const* from, int from_count, Thread* const* to, int to_count);
// The current thread's part of count_block(): it publishes what it knows, and learns what others published.
void acquire_and_release(const void* counter);

}  // namespace fastnn::emulate
