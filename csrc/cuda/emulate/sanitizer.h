// What AddressSanitizer must be told; nothing in other builds.
#pragma once
#include <cstddef>

#if defined(__SANITIZE_ADDRESS__)
#define FASTNN_EMULATE_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define FASTNN_EMULATE_ASAN 1
#endif
#endif

#ifdef FASTNN_EMULATE_ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

namespace fastnn::emulate {

#ifdef FASTNN_EMULATE_ASAN
constexpr bool kAddressSanitizer = true;
inline void poison(const void* p, size_t n) { ASAN_POISON_MEMORY_REGION(p, n); }
inline void unpoison(const void* p, size_t n) { ASAN_UNPOISON_MEMORY_REGION(p, n); }
inline void start_switch_fiber(void** fake, const void* stack, size_t n) {
  __sanitizer_start_switch_fiber(fake, stack, n);
}
inline void finish_switch_fiber(void* fake, const void** stack, size_t* n) {
  __sanitizer_finish_switch_fiber(fake, stack, n);
}
#else
constexpr bool kAddressSanitizer = false;
inline void poison(const void*, size_t) {}
inline void unpoison(const void*, size_t) {}
inline void start_switch_fiber(void**, const void*, size_t) {}
inline void finish_switch_fiber(void*, const void**, size_t*) {}
#endif

}  // namespace fastnn::emulate
