// The state of the block that runs; shared by the files of the emulation only. Blocks run one after the other.
#pragma once
#include <vector>

#include "emulate.h"
#include "fiber.h"
#include "sanitizer.h"

namespace fastnn::emulate {

constexpr int kMaxThreads = 1024;
constexpr int kWarp = 32;
constexpr int kMaxWarps = kMaxThreads / kWarp;
constexpr int kWarpgroup = 4 * kWarp;
constexpr int kRegisters = 64 << 10;  // of a multiprocessor
constexpr size_t kStack = kAddressSanitizer ? 256 << 10 : 64 << 10;
constexpr size_t kSharedLimit = 227 << 10;  // of sm_90
constexpr size_t kGuard = 64;               // invalid bytes between shared arrays
constexpr size_t kDynamic = 1024;           // where dynamic shared memory begins
constexpr size_t kArena = 256 << 10;

struct Thread;

// What the threads of a warp do together: the last to arrive does it for all lanes of `mask`.
using Together = void (*)(Thread* const* lanes, unsigned mask);

// An asynchronous copy of a thread: bytes as they were at its issue, on their way to an offset in shared memory.
struct Copy {
  uint32_t to;
  int bytes;
  unsigned char data[16];
};

inline bool same(Site a, Site b) { return a.line == b.line && (a.file == b.file || !std::strcmp(a.file, b.file)); }

struct Thread {
  Fiber fiber;
  char* stack;
  uint3 index;
  int id, lane, warp;
  uint32_t clock;  // counts what others can wait for (check.cpp)

  // What it waits for.
  const char* operation;
  Site site;
  Together together;
  void* operands;
  unsigned mask;

  uint32_t fence_epoch, fence_clock;  // of its last fence_async_proxy()
  bool wgmma_pending;

  std::vector<Copy> open;
  std::vector<std::vector<Copy>> groups;
};

// Shared memory: offsets are the addresses that PTX instructions see.
enum Byte : unsigned char { kOutside, kInside, kInFlight };  // kInFlight: an asynchronous copy will write it
extern unsigned char arena[kArena];
extern Byte arena_state[kArena];

extern Thread threads[kMaxThreads];
extern int thread_count;
extern Thread* current;     // nullptr: the host's own code
extern void* code_address;  // where a hook was called: report() names its line

[[noreturn]] __attribute__((format(printf, 1, 2))) void fail(const char* format, ...);  // ends the launch
__attribute__((format(printf, 1, 2))) void report(const char* format, ...);             // the first one is kept

void set_ready(Thread* t);
void wait();  // until somebody makes the current thread ready
uint64_t random_number();
void collective(unsigned mask, const char* operation, Together together, void* operands, Site site, bool aligned);

// sm90.cpp, for block.cpp.
void begin_asynchronous();  // of a block
bool asynchronous_step();   // completes a bulk copy, for when no thread can go on; false: there is none
void end_asynchronous();    // reports what nobody waited for

}  // namespace fastnn::emulate
