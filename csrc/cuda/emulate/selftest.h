// The kernels of selftest.cu and selftest_sm90.cu: each with a fault, and without.
#pragma once
#include "../gpu.h"

constexpr int kFloats = 256;  // in `in`, `out` and so on

struct Arguments {
  const float* in;
  float* out;
  unsigned* counter;
  float* host;                 // not device memory
  float* released;             // no longer
  fastnn::gpu::TensorMap map;  // of `in`: 8 rows of 64 bf16, in boxes of 64 rows
};

enum Build { kAlways, kHooksOnly, kSanitizersOnly };  // which builds report it
struct Case {
  const char* name;
  void (*fault)(Arguments);
  void (*clean)(Arguments);
  const char* message;  // a part of it, or alternatives
  Build build;
  bool memory;  // an error that AddressSanitizer or UndefinedBehaviorSanitizer must see too
  unsigned threads = 64;
  size_t shared = 256;
};
// Of a template <bool FAULT> kernel.
#define CASE(kernel, message, build, memory) {#kernel, kernel<true>, kernel<false>, message, build, memory}

extern const Case kSm90Cases[];
extern const int kSm90CaseCount;
