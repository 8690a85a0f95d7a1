#include "check.h"

#include <map>

#include "runtime.h"

namespace fastnn::emulate {

namespace {

std::map<uintptr_t, size_t> memory;  // device memory: address, bytes
uintptr_t call_begin, call_end;      // the arguments of the launch
extern "C" char __ehdr_start, _end;  // the linker's names for the bounds of this library

uintptr_t address(const void* p) { return reinterpret_cast<uintptr_t>(p); }
bool within(uintptr_t a, size_t n, uintptr_t begin, uintptr_t end) { return a >= begin && a + n <= end; }

void access_global(const void* p, size_t n, Access kind) {
  const uintptr_t a = address(p), stack = address(current->stack);
  if (within(a, n, stack, stack + kStack) || within(a, n, call_begin, call_end) ||
      within(a, n, address(&__ehdr_start), address(&_end)))
    return;
  if (registered_bytes(p) < n)
    fail("global %s of %zu bytes at %p is out of bounds", kind == Access::read ? "read" : "write", n, p);
}

}  // namespace

void access(const void* p, size_t n, Access kind) {
  if (!current) return;
  ++stats.accesses;
  if ((n & (n - 1)) == 0 && address(p) % n) fail("access to %zu bytes at %p, which is not aligned", n, p);
  const size_t offset = address(p) - address(arena);
  offset < kArena ? access_shared(offset, n, kind) : access_global(p, n, kind);
}

void access_shared(size_t offset, size_t n, Access kind) {
  const char* what = kind == Access::read ? "read" : "write";
  for (size_t i = offset; i < offset + n; ++i) {
    if (i >= kArena || arena_state[i] == kOutside)
      fail("shared %s of %zu bytes at offset %zu is out of bounds", what, n, offset);
    if (arena_state[i] == kInFlight)
      fail("shared %s of %zu bytes at offset %zu, where a cp.async that was not waited for writes", what, n, offset);
  }
}

void register_memory(const void* p, size_t bytes) { memory[address(p)] = bytes; }
bool forget_memory(const void* p) { return memory.erase(address(p)) == 1; }
size_t registered_bytes(const void* p) {
  auto it = memory.upper_bound(address(p));
  if (it == memory.begin()) return 0;
  --it;
  const size_t at = address(p) - it->first;
  return at < it->second ? it->second - at : 0;
}

void begin_launch_checks(const void* call, size_t bytes) {
  call_begin = address(call);
  call_end = call_begin + bytes;
}
void begin_block_checks() {}
void landed(const Copy&) {}
void full_barrier() {}
void order(Thread* const*, int, Thread* const*, int) {}

}  // namespace fastnn::emulate
