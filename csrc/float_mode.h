// Subnormal numbers count as zero while a FlushSubnormals lives: a multiply-add that meets one takes a hundred cycles
// more on many CPUs. For products, softmax, averages, activations and optimizers; not for functions such as log, whose
// value at a subnormal number is an ordinary one. parallel_for hands the mode on to the workers; the caller's mode is
// restored.
#pragma once
#include <cstdint>

namespace fastnn {

#if defined(__x86_64__)
using FloatMode = uint32_t;
constexpr FloatMode kFlush = 0x8040;  // MXCSR: flush to zero, denormals are zero
inline FloatMode float_mode() { return __builtin_ia32_stmxcsr(); }
inline void set_float_mode(FloatMode m) { __builtin_ia32_ldmxcsr(m); }
#elif defined(__aarch64__)
using FloatMode = uint64_t;
constexpr FloatMode kFlush = uint64_t(1) << 24;  // FPCR.FZ
inline FloatMode float_mode() {
  FloatMode m;
  asm volatile("mrs %0, fpcr" : "=r"(m));
  return m;
}
inline void set_float_mode(FloatMode m) { asm volatile("msr fpcr, %0" : : "r"(m)); }
#else
using FloatMode = uint32_t;
constexpr FloatMode kFlush = 0;
inline FloatMode float_mode() { return 0; }
inline void set_float_mode(FloatMode) {}
#endif

class FlushSubnormals {
 public:
  FlushSubnormals() : before_(float_mode()) { set_float_mode(before_ | kFlush); }
  ~FlushSubnormals() { set_float_mode(before_); }
  FlushSubnormals(const FlushSubnormals&) = delete;
  FlushSubnormals& operator=(const FlushSubnormals&) = delete;

 private:
  FloatMode before_;
};

}  // namespace fastnn
