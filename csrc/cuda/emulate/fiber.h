// Coroutines with stacks of their own.
#pragma once
#include <cstddef>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace fastnn::emulate {

class Fiber {
 public:
  // From now on the fibre runs `entry`, which must not return, on this stack (aligned to 16 bytes).
  void start(char* stack, size_t bytes, void (*entry)());

  // Goes on with `to`; returns when somebody switches to `from`, the running fibre (never, if `last`).
  static void switch_to(Fiber& from, Fiber& to, bool last = false);

 private:
  static void enter();
  void arrived();

#if defined(__x86_64__)
  void* stack_pointer_ = nullptr;
#else
  ucontext_t context_;
#endif
  void (*entry_)() = nullptr;
  const void* stack_ = nullptr;  // for AddressSanitizer, which must know on which stack it is
  size_t bytes_ = 0;
  void* fake_stack_ = nullptr;
};

}  // namespace fastnn::emulate
