// Threads as fibres: scheduling, barriers, warp collectives, shared memory, launches.
#include "block.h"

#include <dlfcn.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <map>
#include <string>
#include <string_view>
#include <utility>

#include "check.h"
#include "runtime.h"

namespace fastnn::emulate {

Options options;
Stats stats;
Index index;

alignas(1024) unsigned char arena[kArena];
Byte arena_state[kArena];
Thread threads[kMaxThreads];
int thread_count;
Thread* current;
void* code_address;

namespace {

struct Barrier {
  int arrived = 0, threads = 0;
  Site site = {};
  std::vector<Thread*> all, waiting;
};
struct SharedArray {
  const void* key;
  size_t offset;
};

Fiber host;
Barrier barriers[16];
unsigned arrived_lanes[kMaxWarps];
uint64_t ready[kMaxThreads / 64];
int live;
uint64_t random_state;
std::string fault_text;
void* fault_address;
std::vector<SharedArray> shared_arrays;
size_t shared_used;   // arena bytes
size_t shared_bytes;  // what the kernel asked for
int predicates, predicates_result;
const Launch* running_launch;

// The first ready thread at or after `from`, cyclically; -1: none.
int first_ready(int from) {
  const int words = (thread_count + 63) / 64, start = from / 64;
  for (int i = 0; i <= words; ++i) {
    const int word = (start + i) % words;
    uint64_t bits = ready[word];
    if (i == 0) bits &= ~0ull << from % 64;
    if (bits) return word * 64 + __builtin_ctzll(bits);
  }
  return -1;
}
int last_ready() {
  for (int word = (thread_count - 1) / 64; word >= 0; --word)
    if (ready[word]) return word * 64 + 63 - __builtin_clzll(ready[word]);
  return -1;
}

int choose() {
  switch (options.schedule) {
    case Schedule::lowest:
      return first_ready(0);
    case Schedule::highest:
      return last_ready();
    case Schedule::round_robin:
      return first_ready(current ? (current->id + 1) % thread_count : 0);
    case Schedule::random:
    case Schedule::rotate:  // run() has chosen one
      break;
  }
  return first_ready(int(random_number() % unsigned(thread_count)));
}

void switch_to(Thread* to, bool last) {
  Thread* from = current;
  ++stats.switches;
  current = to;
  if (to) index.thread = to->index;
  Fiber::switch_to(from ? from->fiber : host, to ? to->fiber : host, last);
}

// Runs whichever thread is next; the current one waits, or is done.
void run_next(bool done) {
  int next = choose();
  while (next < 0 && live && asynchronous_step()) next = choose();
  if (next < 0) {
    if (live) {
      std::string what;
      for (int i = 0, shown = 0; i < thread_count && shown < 3; ++i)
        if (threads[i].operation) {
          what += (shown++ ? ", thread " : "thread ") + std::to_string(i) + " in " + threads[i].operation + " at " +
                  threads[i].site.file + ":" + std::to_string(threads[i].site.line);
        }
      report("deadlock: %d threads wait for what never comes (%s)", live, what.c_str());
    }
    return switch_to(nullptr, done);
  }
  ready[next / 64] &= ~(1ull << next % 64);
  if (&threads[next] != current) switch_to(&threads[next], done);
}

void thread_main() {
  running_launch->invoke(running_launch->call);
  if (!current->open.empty()) fail("the thread ends with a cp.async that no group holds");
  for (const auto& group : current->groups)
    if (!group.empty()) fail("the thread ends with a cp.async that it did not wait for");
  const Barrier& b = barriers[0];
  if (b.arrived) fail("the thread ends while others wait at the barrier of %s:%d", b.site.file, b.site.line);
  --live;
  run_next(true);
}

char* stack_of(int id) {
  constexpr size_t kPage = 4096;
  static char* const stacks = [] {
    constexpr size_t kAll = kMaxThreads * (kStack + kPage);
    void* p = mmap(nullptr, kAll, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) std::abort();
    for (int i = 0; i < kMaxThreads; ++i)  // an overflow must not reach the next stack
      mprotect(static_cast<char*>(p) + size_t(i) * (kStack + kPage), kPage, PROT_NONE);
    return static_cast<char*>(p);
  }();
  return stacks + size_t(id) * (kStack + kPage) + kPage;
}

void start_thread(int id, dim3 block) {
  Thread& t = threads[id];
  t.id = id;
  t.lane = id % kWarp;
  t.warp = id / kWarp;
  t.index = {unsigned(id) % block.x, unsigned(id) / block.x % block.y, unsigned(id) / block.x / block.y};
  t.clock = 1;
  t.operation = nullptr;
  t.fence_epoch = t.fence_clock = 0;
  t.wgmma_pending = false;
  t.open.clear();
  t.groups.clear();
  t.stack = stack_of(id);
  // Tops a little apart: at equal distances of a power of two they would all fall into a few sets of the cache.
  t.fiber.start(t.stack, kStack - size_t(id) * 320 % 4096, thread_main);
  set_ready(&t);
}

constexpr unsigned char kGuardByte = 0xa5;

void reserve_shared(size_t offset, size_t bytes) {
  unpoison(arena + shared_used, offset + bytes + kGuard - shared_used);
  std::memset(arena + shared_used, kGuardByte, offset - shared_used);
  std::memset(arena + offset, 0xff, bytes);  // NaN in every float type
  std::memset(arena + offset + bytes, kGuardByte, kGuard);
  std::fill(arena_state + offset, arena_state + offset + bytes, kInside);
  poison(arena + shared_used, offset - shared_used);
  poison(arena + offset + bytes, kGuard);
  shared_used = offset + bytes + kGuard;
  shared_bytes += bytes;
}

void begin_shared(size_t dynamic) {
  std::fill(arena_state, arena_state + shared_used, kOutside);
  shared_arrays.clear();
  shared_used = kDynamic - kGuard;
  shared_bytes = 0;
  reserve_shared(kDynamic, dynamic);
}

void check_guards() {
  if (kAddressSanitizer || !fault_text.empty()) return;
  for (size_t i = kDynamic - kGuard; i < shared_used; ++i)
    if (arena_state[i] == kOutside && arena[i] != kGuardByte)
      return report("shared memory was written outside of its arrays, at offset %zu", i);
}

void run_block(const Launch& launch, uint3 block) {
  index.block = block;
  begin_shared(launch.shared);
  begin_block_checks();
  begin_asynchronous();
  for (Barrier& b : barriers) b = {};
  std::fill(arrived_lanes, arrived_lanes + kMaxWarps, 0u);
  std::fill(ready, ready + kMaxThreads / 64, uint64_t(0));
  live = thread_count;
  predicates = 0;
  for (int i = 0; i < thread_count; ++i) start_thread(i, launch.block);
  ++stats.blocks;
  run_next(false);
  if (fault_text.empty()) end_asynchronous();
  check_guards();
}

// " (file:line)" of the line of a kernel that `code` was compiled from, where addr2line is installed.
std::string place(void* code) {
  static std::map<void*, std::string> known;
  Dl_info info;
  if (!code || !dladdr(code, &info)) return "";
  const auto [entry, is_new] = known.try_emplace(code);
  if (!is_new) return entry->second;
  char command[1024], line[512];
  std::snprintf(command, sizeof command, "addr2line -i -e '%s' %#zx 2>/dev/null", info.dli_fname,
                size_t(static_cast<char*>(code) - static_cast<char*>(info.dli_fbase)) - 1);
  FILE* pipe = popen(command, "r");
  while (pipe && std::fgets(line, sizeof line, pipe)) {  // the innermost inlined function first
    const std::string_view text(line, std::strcspn(line, "\n "));
    const std::string_view file = text.substr(0, text.rfind(':'));
    if (text[0] == '?' || file.ends_with("/gpu.h") || file.ends_with("/ptx.h") || file.ends_with("/ptx_sm90.h") ||
        file.ends_with("/emulate.h"))
      continue;
    entry->second = " (" + std::string(text) + ")";
    break;
  }
  if (pipe) pclose(pipe);
  return entry->second;
}

void run_blocks(const Launch& launch) {
  const dim3 grid = launch.grid, block = launch.block;
  const uint64_t count = uint64_t(block.x) * block.y * block.z;
  if (!count || count > kMaxThreads || block.z > 64)
    return report("launch of %llu threads per block", (unsigned long long)count);
  if (grid.y > 65535 || grid.z > 65535 || grid.x > 0x7fffffff)
    return report("launch of a grid of (%u,%u,%u) blocks", grid.x, grid.y, grid.z);
  if (launch.shared > kSharedLimit) return report("launch with %zu bytes of shared memory", launch.shared);
  ++stats.launches;
  running_launch = &launch;
  random_state = options.seed * 0x9e3779b97f4a7c15 | 1;
  thread_count = int(count);
  index.block_dim = block;
  index.grid_dim = grid;
  begin_launch_checks(launch.call, launch.call_bytes);
  const uint64_t blocks = uint64_t(grid.x) * grid.y * grid.z;
  for (uint64_t i = 0; i < blocks && fault_text.empty(); ++i) {
    uint64_t b = i;
    if (options.schedule == Schedule::highest) b = blocks - 1 - i;
    if (options.schedule == Schedule::random) b = (i + options.seed) % blocks;
    run_block(launch, {unsigned(b % grid.x), unsigned(b / grid.x % grid.y), unsigned(b / grid.x / grid.y)});
  }
  running_launch = nullptr;
}

}  // namespace

void run(const Launch& launch) {
  clear_fault();
  const Options given = options;
  if (given.schedule == Schedule::rotate) {
    const uint64_t turn = given.seed + stats.launches;
    options = {Schedule(turn % 4), Copies(turn / 4 % 2), turn};
  }
  run_blocks(launch);
  if (given.schedule == Schedule::rotate && !fault_text.empty()) {
    constexpr const char* kSchedules[] = {"lowest", "highest", "round_robin", "random"};
    fault_text += std::string(" [schedule ") + kSchedules[int(options.schedule)] + ", copies " +
                  (options.copies == Copies::late ? "late" : "early") + ", seed " + std::to_string(options.seed) + "]";
  }
  options = given;
}

uint64_t random_number() {  // xorshift64
  random_state ^= random_state << 13;
  random_state ^= random_state >> 7;
  return random_state ^= random_state << 17;
}

const char* fault() {
  fault_text += place(std::exchange(fault_address, nullptr));  // here, as a fibre's stack is too small for it
  return fault_text.c_str();
}
void clear_fault() {
  fault_text.clear();
  fault_address = nullptr;
}

void report(const char* format, ...) {
  if (!fault_text.empty()) return;
  char text[512];
  int n = 0;
  if (current)
    n = std::snprintf(text, sizeof text, "block (%u,%u,%u) thread (%u,%u,%u): ", blockIdx.x, blockIdx.y, blockIdx.z,
                      threadIdx.x, threadIdx.y, threadIdx.z);
  va_list list;
  va_start(list, format);
  std::vsnprintf(text + n, sizeof text - size_t(n), format, list);
  va_end(list);
  fault_text = text;
  fault_address = std::exchange(code_address, nullptr);
}

void fail(const char* format, ...) {
  char text[400];
  va_list list;
  va_start(list, format);
  std::vsnprintf(text, sizeof text, format, list);
  va_end(list);
  report("%s", text);
  switch_to(nullptr, true);
  __builtin_unreachable();
}

void set_ready(Thread* t) { ready[t->id / 64] |= 1ull << t->id % 64; }

void wait() {
  Thread* me = current;
  run_next(false);
  me->operation = nullptr;
}

void* shared_array(const void* key, size_t bytes, size_t align) {
  for (const SharedArray& a : shared_arrays)
    if (a.key == key) return arena + a.offset;
  const size_t offset = (shared_used + align - 1) / align * align;
  if (shared_bytes + bytes > kSharedLimit || offset + bytes + kGuard > kArena)
    fail("more than %zu bytes of shared memory", kSharedLimit);
  reserve_shared(offset, bytes);
  shared_arrays.push_back({key, offset});
  return arena + offset;
}

void* shared_dynamic() { return arena + kDynamic; }

uint32_t shared_address(const void* p) {
  return uint32_t(static_cast<const unsigned char*>(p) - arena);  // what is elsewhere is found when it is used
}

void barrier(int id, int count, bool wait_for_it, Site site) {
  Barrier& b = barriers[id];
  const bool all = id == 0;
  if (all) {
    count = thread_count;
    if (live != thread_count) fail("the barrier of %s:%d comes after threads of the block ended", site.file, site.line);
  } else if (count % kWarp || count <= 0) {
    fail("barrier %d of %d threads at %s:%d: not a number of warps", id, count, site.file, site.line);
  }
  if (!b.arrived) {
    b.site = site;
    b.threads = count;
  } else if (all && !same(b.site, site)) {
    fail("divergent barriers: others wait at %s:%d, this thread came to %s:%d", b.site.file, b.site.line, site.file,
         site.line);
  } else if (b.threads != count) {
    fail("barrier %d of %d threads at %s:%d, of %d at %s:%d", id, b.threads, b.site.file, b.site.line, count, site.file,
         site.line);
  }
  ++b.arrived;
  b.all.push_back(current);
  if (wait_for_it) b.waiting.push_back(current);
  if (b.arrived < count) {
    if (!wait_for_it) return;
    current->operation = "a barrier";
    current->site = site;
    return wait();
  }
  if (all || count == thread_count)
    full_barrier();
  else
    order(b.all.data(), int(b.all.size()), b.waiting.data(), int(b.waiting.size()));
  for (Thread* t : b.waiting)
    if (t != current) set_ready(t);
  b.arrived = 0;
  b.all.clear();
  b.waiting.clear();
  predicates_result = predicates;
  predicates = 0;
}

int barrier_count(bool predicate, Site site) {
  predicates += predicate;
  barrier(0, 0, true, site);
  return predicates_result;
}

void collective(unsigned mask, const char* operation, Together together, void* operands, Site site, bool aligned) {
  Thread* me = current;
  me->operation = operation;
  me->site = site;
  me->together = together;
  me->operands = operands;
  me->mask = mask;
  if (!(mask >> me->lane & 1))
    fail("%s at %s:%d: the calling lane %d is not in its mask %08x", operation, site.file, site.line, me->lane, mask);
  unsigned& arrived = arrived_lanes[me->warp];
  arrived |= 1u << me->lane;
  if ((arrived & mask) != mask) return wait();

  Thread* lanes[kWarp] = {};
  for (int l = 0; l < kWarp; ++l) {
    if (!(mask >> l & 1)) continue;
    lanes[l] = &threads[me->warp * kWarp + l];
    const Thread& t = *lanes[l];
    if (t.together != together || t.mask != mask || (aligned && !same(t.site, site)))
      fail("%s with mask %08x at %s:%d, but lane %d is in %s with mask %08x at %s:%d", operation, mask, site.file,
           site.line, l, t.operation, t.mask, t.site.file, t.site.line);
  }
  together(lanes, mask);
  arrived &= ~mask;
  for (Thread* t : lanes)
    if (t && t != me) set_ready(t);
  me->operation = nullptr;
}

void sync_warp(unsigned mask, Site site) {
  collective(
      mask, "__syncwarp",
      [](Thread* const* lanes, unsigned) {
        Thread* some[kWarp];
        int n = 0;
        for (int l = 0; l < kWarp; ++l)
          if (lanes[l]) some[n++] = lanes[l];
        order(some, n, some, n);
      },
      nullptr, site, false);
}

namespace {
struct ShuffleOperands {
  uint64_t value, result;
  Shuffle kind;
  int argument, width;
};
}  // namespace

uint64_t shuffle(unsigned mask, uint64_t value, Shuffle kind, int argument, int width, Site site) {
  ShuffleOperands operands{value, 0, kind, argument, width};
  collective(
      mask, "a shuffle",
      [](Thread* const* lanes, unsigned mask) {
        for (int l = 0; l < kWarp; ++l) {
          if (!lanes[l]) continue;
          auto& o = *static_cast<ShuffleOperands*>(lanes[l]->operands);
          const int begin = l & ~(o.width - 1), end = begin + o.width;
          int from = begin + (o.argument & (o.width - 1));
          if (o.kind == Shuffle::up) from = l - o.argument;
          if (o.kind == Shuffle::down) from = l + o.argument;
          if (o.kind == Shuffle::exclusive_or) from = l ^ o.argument;
          if (from < begin || from >= end) from = l;
          if (!(mask >> from & 1)) fail("a shuffle with mask %08x: lane %d reads from lane %d", mask, l, from);
          o.result = static_cast<ShuffleOperands*>(lanes[from]->operands)->value;
        }
      },
      &operands, site, false);
  return operands.result;
}

unsigned vote(unsigned mask, bool predicate, Site site) {
  struct Operands {
    bool predicate;
    unsigned result;
  } operands{predicate, 0};
  collective(
      mask, "a vote",
      [](Thread* const* lanes, unsigned) {
        unsigned result = 0;
        for (int l = 0; l < kWarp; ++l)
          if (lanes[l]) result |= unsigned(static_cast<Operands*>(lanes[l]->operands)->predicate) << l;
        for (int l = 0; l < kWarp; ++l)
          if (lanes[l]) static_cast<Operands*>(lanes[l]->operands)->result = result;
      },
      &operands, site, false);
  return operands.result;
}

}  // namespace fastnn::emulate
