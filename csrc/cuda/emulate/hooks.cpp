// The functions that a compiler calls before each access to memory in code that it compiles with -fsanitize=thread:
// ours instead of ThreadSanitizer's, which would see one host thread. Only kernels are compiled so, nothing of the
// emulation.
#include <cstdint>

#include "check.h"

#ifdef FASTNN_EMULATE_HOOKS

using fastnn::emulate::Access;
using fastnn::emulate::access;

extern "C" {
void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_vptr_update(void**, void*) {}
void __tsan_vptr_read(void**) {}

#define FASTNN_HOOK(NAME, BYTES, KIND, ALIGNED) \
  void NAME##BYTES(void* p) { access(p, BYTES, Access::KIND, __builtin_return_address(0), ALIGNED); }
#define FASTNN_HOOKS(BYTES)                                \
  FASTNN_HOOK(__tsan_read, BYTES, read, true)              \
  FASTNN_HOOK(__tsan_write, BYTES, write, true)            \
  FASTNN_HOOK(__tsan_unaligned_read, BYTES, read, false)   \
  FASTNN_HOOK(__tsan_unaligned_write, BYTES, write, false) \
  FASTNN_HOOK(__tsan_volatile_read, BYTES, read, true)     \
  FASTNN_HOOK(__tsan_volatile_write, BYTES, write, true)
FASTNN_HOOKS(1)
FASTNN_HOOKS(2)
FASTNN_HOOKS(4)
FASTNN_HOOKS(8)
FASTNN_HOOKS(16)

void __tsan_read_range(void* p, size_t n) { access(p, n, Access::read, __builtin_return_address(0), false); }
void __tsan_write_range(void* p, size_t n) { access(p, n, Access::write, __builtin_return_address(0), false); }
}

#endif
