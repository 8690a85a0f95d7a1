#include "fiber.h"

#include <cstdlib>

#include "sanitizer.h"

#if defined(__x86_64__)
// Saves what a called function must preserve, and goes on where the other stack was left. 3 ns, where swapcontext takes
// 300: it makes system calls for the signal mask.
extern "C" __attribute__((visibility("hidden"))) void fastnn_emulate_switch(void** save, void* to);
asm(R"(
.text
.hidden fastnn_emulate_switch
.globl fastnn_emulate_switch
.type fastnn_emulate_switch, @function
fastnn_emulate_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size fastnn_emulate_switch, . - fastnn_emulate_switch
)");
#endif

namespace fastnn::emulate {

namespace {
thread_local Fiber* previous;  // the fibre that the last switch left, and
thread_local Fiber* running;   // the one that it went to
}  // namespace

void Fiber::arrived() {
  finish_switch_fiber(fake_stack_, &previous->stack_, &previous->bytes_);
  fake_stack_ = nullptr;
}

void Fiber::enter() {
  running->arrived();
  running->entry_();
  std::abort();
}

void Fiber::start(char* stack, size_t bytes, void (*entry)()) {
  unpoison(stack, bytes);  // what an abandoned run of this fibre left
  entry_ = entry;
  stack_ = stack;
  bytes_ = bytes;
  fake_stack_ = nullptr;
#if defined(__x86_64__)
  void** top = reinterpret_cast<void**>(stack + bytes) - 2;  // a called function finds its stack 8 bytes off 16
  *top = reinterpret_cast<void*>(&Fiber::enter);
  stack_pointer_ = top - 6;
#else
  getcontext(&context_);
  context_.uc_stack.ss_sp = stack;
  context_.uc_stack.ss_size = bytes;
  context_.uc_link = nullptr;
  makecontext(&context_, &Fiber::enter, 0);
#endif
}

void Fiber::switch_to(Fiber& from, Fiber& to, bool last) {
  previous = &from;
  running = &to;
  start_switch_fiber(last ? nullptr : &from.fake_stack_, to.stack_, to.bytes_);
#if defined(__x86_64__)
  fastnn_emulate_switch(&from.stack_pointer_, to.stack_pointer_);
#else
  swapcontext(&from.context_, &to.context_);
#endif
  from.arrived();
}

}  // namespace fastnn::emulate
