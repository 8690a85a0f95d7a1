// The race detector follows FastTrack (Flanagan and Freund, PLDI 2009): vector clocks, but for full barriers, which
// only advance an epoch; a byte of shared memory keeps its last write and two readers per warp, one of global memory
// its last write, two readers of the block and one of an earlier block.
#include "check.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <map>
#include <memory>
#include <string>
#include <unordered_map>

#include "runtime.h"

extern "C" char __ehdr_start, _end;  // the linker's: the bounds of this library

namespace fastnn::emulate {

namespace {

uintptr_t address(const void* p) { return reinterpret_cast<uintptr_t>(p); }
bool within(uintptr_t a, size_t n, uintptr_t begin, uintptr_t end) { return a >= begin && a + n <= end; }
const char* name(Access kind) { return kind == Access::read ? "read" : kind == Access::atomic ? "atomic" : "write"; }

// When somebody accessed a byte: epoch, the thread's clock, the thread, whether by an atomic. 0: never.
using Stamp = uint64_t;
constexpr int kClockBits = 20;

uint32_t epoch_of(Stamp s) { return uint32_t(s >> 32); }
uint32_t clock_of(Stamp s) { return uint32_t(s >> 12) & ((1u << kClockBits) - 1); }
int thread_of(Stamp s) { return int(s >> 1 & 0x7ff); }
bool atomic_of(Stamp s) { return s & 1; }

// Zeroed memory that costs nothing until it is used.
template <class T>
struct Zeros {
  explicit Zeros(size_t n) : bytes(n * sizeof(T)) {
    void* m = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (m == MAP_FAILED) std::abort();
    p = static_cast<T*>(m);
  }
  ~Zeros() { munmap(p, bytes); }
  Zeros(const Zeros&) = delete;
  T& operator[](size_t i) { return p[i]; }
  size_t bytes;
  T* p;
};

// The epoch counts full barriers and blocks, over all launches.
uint32_t epoch = 1, block_epoch = 1, launch_epoch = 1;
uintptr_t call_begin, call_end;  // the arguments of the launch
bool clocks_used;                // whether `known` has to be cleared for the next block

// Rows of readers: a warp each, then the tensor core of a warpgroup each.
constexpr int kReaders = kMaxWarps + kMaxThreads / kWarpgroup;

// Which rows have read a byte since the last full barrier.
struct Readers {
  uint32_t epoch;
  uint64_t rows;
};
struct Shadow {
  Zeros<Stamp> write{kArena}, read{2 * kReaders * kArena};
  Zeros<Readers> readers{kArena};
  Zeros<uint32_t> known{size_t(kMaxThreads) * kActors};  // [t][a]: the clock of a up to which t knows what a did
  Stamp& reader(int slot, int row, size_t byte) { return read[(size_t(slot) * kReaders + row) * kArena + byte]; }
  uint32_t* known_by(const Thread& t) { return &known[size_t(t.id) * kActors]; }
};
Shadow& shadow() {
  static Shadow* const s = new Shadow;
  return *s;
}

Stamp stamp(int actor, uint32_t clock, bool atomic = false) {
  return Stamp(epoch) << 32 | Stamp(clock & ((1u << kClockBits) - 1)) << 12 | Stamp(actor) << 1 | atomic;
}
Stamp stamp(bool atomic) { return stamp(current->id, current->clock, atomic); }

// Whether the access of this block that left s comes before what t does now.
bool ordered(Stamp s, const Thread& t) {
  const int actor = thread_of(s);
  return epoch_of(s) < epoch || actor == t.id || shadow().known_by(t)[actor] >= clock_of(s);
}
bool ordered(Stamp s) { return ordered(s, *current); }

std::string name_of(int actor) {
  if (actor < kMaxThreads) return "thread " + std::to_string(actor);
  return actor < kTensorCore ? "a bulk copy" : "a wgmma of warpgroup " + std::to_string(actor - kTensorCore);
}

// The actors that there may be in this block: its threads, the copies of mbarriers, tensor cores.
template <class F>
void for_actors(F f) {
  for (int a = 0; a < thread_count; ++a) f(a);
  for (int a = kCopyEngine; a < kActors; ++a) f(a);
}

// A block that called count_block(): what its thread did before, and what all its threads did before the last barrier.
struct Release {
  uint32_t block_epoch, epoch, clock;
  int thread;
};
struct Acquired {
  const std::vector<Release>* releases;
  size_t count;
  uint32_t epoch;
  int thread;
};
std::unordered_map<uintptr_t, std::vector<Release>> releases;  // of this launch, by counter
std::vector<Acquired> acquired;                                // by this block

// Whether an earlier block's access that left s was published to the current thread.
bool published(Stamp s) {
  for (const Acquired& a : acquired) {
    if (a.thread != current->id && a.epoch >= epoch) continue;
    const auto begin = a.releases->begin(), end = begin + a.count;
    auto r = std::upper_bound(begin, end, epoch_of(s),
                              [](uint32_t e, const Release& release) { return e < release.block_epoch; });
    if (r == begin) continue;
    --r;
    if (epoch_of(s) < r->epoch || (epoch_of(s) == r->epoch && thread_of(s) == r->thread && clock_of(s) <= r->clock))
      return true;
  }
  return false;
}

// Shadow of an allocation, in granules of 4 bytes until something smaller is accessed.
struct Granule {
  Stamp write, last, second, other_block;
};
struct Memory {
  size_t bytes;
  int shift = 2;
  std::unique_ptr<Zeros<Granule>> granules;
};
std::map<uintptr_t, Memory> memory;
std::pair<const uintptr_t, Memory>* latest;

void refine(Memory& m, int shift) {
  auto fine = std::make_unique<Zeros<Granule>>((m.bytes >> shift) + 1);
  for (size_t i = 0; i << shift < m.bytes; ++i) {
    const Granule& g = (*m.granules)[i << shift >> m.shift];
    if (g.write | g.last | g.second | g.other_block) (*fine)[i] = g;
  }
  m.granules = std::move(fine);
  m.shift = shift;
}

std::pair<const uintptr_t, Memory>* find(uintptr_t a) {
  if (latest && a - latest->first < latest->second.bytes) return latest;
  auto it = memory.upper_bound(a);
  if (it == memory.begin()) return nullptr;
  --it;
  return a - it->first < it->second.bytes ? latest = &*it : nullptr;
}

// What an address outside of all allocations may have meant.
std::string nearest(uintptr_t a) {
  constexpr uintptr_t kNear = 4096;
  const auto after = memory.upper_bound(a);
  if (after != memory.begin())
    if (const auto& [begin, m] = *std::prev(after); a - begin - m.bytes < kNear)
      return ": " + std::to_string(a - begin - m.bytes) + " bytes after the end of an allocation of " +
             std::to_string(m.bytes) + " bytes";
  if (after != memory.end() && after->first - a < kNear)
    return ": " + std::to_string(after->first - a) + " bytes before an allocation of " +
           std::to_string(after->second.bytes) + " bytes";
  return "";
}

void access_global(const void* p, size_t n, Access kind) {
  ++stats.accesses;
  const uintptr_t a = address(p);
  auto* found = find(a);
  if (!found) {
    if (within(a, n, call_begin, call_end) || within(a, n, address(&__ehdr_start), address(&_end))) return;
    fail("global %s of %zu bytes at %p, which is not device memory%s", name(kind), n, p, nearest(a).c_str());
  }
  Memory& m = found->second;
  const size_t at = a - found->first;
  if (at + n > m.bytes)
    fail("global %s of %zu bytes at %p, %zu bytes before the end of an allocation of %zu bytes", name(kind), n, p,
         m.bytes - at, m.bytes);
  if (!kHooks) return;
  if (!m.granules) m.granules = std::make_unique<Zeros<Granule>>((m.bytes >> m.shift) + 1);
  if (const int need = std::min(2, __builtin_ctzll(at | n | 4)); need < m.shift) refine(m, need);

  const bool write = kind != Access::read, atomic = kind == Access::atomic;
  const Stamp now = stamp(atomic);
  auto check = [&](Stamp s, const char* what) {
    if (epoch_of(s) < launch_epoch || (atomic && atomic_of(s))) return;
    const bool same_block = epoch_of(s) >= block_epoch;
    if (same_block ? ordered(s) : published(s)) return;
    fail("race: global %s of %zu bytes at %p (%zu bytes into its allocation) after a %s by thread %d of %s block",
         name(kind), n, p, at, what, thread_of(s), same_block ? "this" : "another");
  };
  for (size_t i = at >> m.shift; i <= (at + n - 1) >> m.shift; ++i) {
    Granule& g = (*m.granules)[i];
    if (g.write) check(g.write, atomic_of(g.write) ? "atomic" : "write");
    if (write) {
      if (g.last) {
        check(g.last, "read");
        check(g.second, "read");
        check(g.other_block, "read");
      }
      g.write = now;
      continue;
    }
    if (epoch_of(g.last) < block_epoch) {
      if (g.last) g.other_block = g.last;
    } else if (thread_of(g.last) != current->id) {
      g.second = g.last;
    }
    g.last = now;
  }
}

// Records that `actor`, which has a row of its own or that of its warp, reads a byte.
void record_read(size_t byte, int row, Stamp now) {
  Shadow& s = shadow();
  Stamp& last = s.reader(0, row, byte);
  if (thread_of(last) != thread_of(now)) s.reader(1, row, byte) = last;
  last = now;
  Readers& r = s.readers[byte];
  r = {epoch, (r.epoch == epoch ? r.rows : 0) | uint64_t(1) << row};
}

void check_shared_bytes(size_t offset, size_t n, Access kind) {
  Shadow& s = shadow();
  const bool write = kind != Access::read, atomic = kind == Access::atomic;
  const Stamp now = stamp(atomic);
  Stamp fine = 0;  // the bytes of an element mostly have the same history
  for (size_t i = offset; i < offset + n; ++i) {
    const Stamp w = s.write[i];
    if (w != fine || !w) {
      const bool written = epoch_of(w) >= block_epoch;
      if (!written && kind != Access::write && kind != Access::copy)
        fail("shared %s of %zu bytes at offset %zu: nobody wrote them", name(kind), n, offset);
      if (written && !(atomic && atomic_of(w)) && !ordered(w))
        fail("race: shared %s of %zu bytes at offset %zu after a write by %s", name(kind), n, offset,
             name_of(thread_of(w)).c_str());
      fine = w;
    }
    if (!write) {
      record_read(i, current->warp, now);
      continue;
    }
    if (const Readers& r = s.readers[i]; r.epoch == epoch)
      for (uint64_t rows = r.rows; rows; rows &= rows - 1)
        for (int slot = 0; slot < 2; ++slot)
          if (const Stamp r = s.reader(slot, __builtin_ctzll(rows), i); epoch_of(r) == epoch && !ordered(r))
            fail("race: shared %s of %zu bytes at offset %zu after a read by %s", name(kind), n, offset,
                 name_of(thread_of(r)).c_str());
    if (kind != Access::copy) s.write[i] = now;  // a copy writes when it lands
  }
}

}  // namespace

void access(const void* p, size_t n, Access kind, void* caller, bool aligned) {
  if (!current) return;
  const uintptr_t a = address(p), offset = a - address(arena), stack = address(current->stack);
  code_address = caller;
  if (aligned && a & (n - 1) && !(n & (n - 1))) fail("%s of %zu bytes at %p, which is not aligned", name(kind), n, p);
  if (offset < kArena) {
    access_shared(offset, n, kind, caller);
  } else if (!within(a, n, stack, stack + kStack)) {
    access_global(p, n, kind);
  } else if (kHooks && current->wgmma_pending) {
    check_accumulators(p, n);
  }
  code_address = nullptr;
}

namespace {

void check_bounds(size_t offset, size_t n, Access kind) {
  for (size_t i = offset; i < offset + n; ++i) {
    if (i >= kArena || arena_state[i] == kOutside)
      fail("shared %s of %zu bytes at offset %zu is out of bounds", name(kind), n, offset);
    if (arena_state[i] == kInFlight)
      fail("shared %s of %zu bytes at offset %zu, where a copy that was not waited for writes", name(kind), n, offset);
  }
}

}  // namespace

void access_shared(size_t offset, size_t n, Access kind, void* caller) {
  code_address = caller;
  ++stats.accesses;
  check_bounds(offset, n, kind);
  if (kHooks) check_shared_bytes(offset, n, kind);
  code_address = nullptr;
}

void register_memory(const void* p, size_t bytes) {
  latest = nullptr;
  Memory& m = memory[address(p)];
  m = {};
  m.bytes = bytes;
}
bool forget_memory(const void* p) {
  latest = nullptr;
  return memory.erase(address(p)) == 1;
}
size_t registered_bytes(const void* p) {
  const auto* m = find(address(p));
  return m ? m->first + m->second.bytes - address(p) : 0;
}

void begin_launch_checks(const void* call, size_t bytes) {
  call_begin = address(call);
  call_end = call_begin + bytes;
  launch_epoch = epoch + 1;
  releases.clear();
}

void begin_block_checks() {
  block_epoch = ++epoch;
  acquired.clear();
  if (clocks_used)
    for (int t = 0; t < thread_count; ++t) std::fill_n(shadow().known_by(threads[t]), kActors, 0u);
  clocks_used = false;
}

void landed(size_t offset, size_t n, int actor, uint32_t clock) {
  if (kHooks) std::fill_n(&shadow().write[offset], n, stamp(actor, clock));
}

void full_barrier() { ++epoch; }

void order(Thread* const* from, int from_count, Thread* const* to, int to_count) {
  if (!kHooks) return;
  Clocks all;
  for (int i = 0; i < from_count; ++i) publish(*from[i], all);
  for (int i = 0; i < to_count; ++i) learn(*to[i], all);
}

void publish(Thread& from, Clocks& to) {
  if (!kHooks) return;
  clocks_used = true;
  uint32_t* known = shadow().known_by(from);
  known[from.id] = from.clock++;
  for_actors([&](int a) { to.of[a] = std::max(to.of[a], known[a]); });
}

void learn(Thread& to, const Clocks& from) {
  if (!kHooks) return;
  uint32_t* known = shadow().known_by(to);
  for_actors([&](int a) { known[a] = std::max(from.of[a], known[a]); });
}

void learn(Thread& to, int actor, uint32_t clock) {
  if (!kHooks) return;
  clocks_used = true;
  uint32_t& known = shadow().known_by(to)[actor];
  known = std::max(known, clock);
}

void fence_async_proxy() {
  current->fence_epoch = epoch;
  current->fence_clock = current->clock++;
}

void asynchronous_read(size_t offset, size_t n, const Thread& knows, int actor, uint32_t clock) {
  check_bounds(offset, n, Access::read);
  if (!kHooks) return;
  Stamp fine = 0;
  for (size_t i = offset; i < offset + n; ++i) {
    if (const Stamp w = shadow().write[i]; w != fine || !w) {
      const int writer = thread_of(w);
      if (epoch_of(w) < block_epoch) fail("wgmma reads shared memory at offset %zu: nobody wrote it", i);
      if (!ordered(w, knows))
        fail("race: wgmma reads shared memory at offset %zu after a write by %s", i, name_of(writer).c_str());
      if (writer < kMaxThreads) {
        const Thread& t = threads[writer];
        if (epoch_of(w) > t.fence_epoch || (epoch_of(w) == t.fence_epoch && clock_of(w) > t.fence_clock))
          fail("wgmma reads shared memory at offset %zu that thread %d wrote without fence_async_proxy()", i, writer);
      }
      fine = w;
    }
    if (clock) record_read(i, kMaxWarps + actor - kTensorCore, stamp(actor, clock));
  }
}

void acquire_and_release(const void* counter) {
  if (!kHooks) return;
  auto& before = releases[address(counter)];
  if (!before.empty() && before.back().block_epoch == block_epoch)
    fail("count_block: the block has counted itself at %p before", counter);
  acquired.push_back({&before, before.size(), epoch, current->id});
  before.push_back({block_epoch, epoch, current->clock++, current->id});
}

}  // namespace fastnn::emulate
