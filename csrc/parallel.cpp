#include "parallel.h"

#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <fstream>
#include <mutex>
#include <sstream>
#include <thread>
#include <utility>

#include "error.h"
#include "float_mode.h"

namespace fastnn {
namespace {

constexpr int kRegions = 4;          // regions of different Python threads that run at once; a fifth runs serially
constexpr int kSpins = 4000;         // about 60 us of pauses: longer than Python needs between two ops
constexpr int kChunksPerThread = 8;  // enough that a worker that comes late still finds some
constexpr uint32_t kClosed = 0xffffffff;

thread_local bool inside = false;
thread_local const Team* team = nullptr;

inline void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

constexpr int kSegments = 16;

// The chunks of a region are dealt to segments, one per thread. A thread begins with its own segment, so that the next
// region finds its part of the data in the same core's cache (LeNet step: a tenth faster), then helps with the others.
// A claim holds epoch << 32 | next chunk. A thread reads the fields, then takes a chunk by compare-and-swap: success
// proves that the epoch, and with it every field that it read, was still the current one. Regions are never freed.
struct alignas(64) Claim {
  std::atomic<uint64_t> next{kClosed};
};

struct Region {
  Claim claims[kSegments];
  std::atomic<detail::RangeFn> fn{nullptr};
  std::atomic<void*> context{nullptr};
  std::atomic<int64_t> n{0}, chunk{0};
  std::atomic<uint32_t> chunks{0}, segments{0};
  std::atomic<FloatMode> mode{0};
  alignas(64) std::atomic<uint32_t> done{0};
  std::atomic<bool> owned{false}, failed{false};
  std::exception_ptr error;
  uint32_t epoch = 0;

  void open(int64_t total, int64_t size, detail::RangeFn f, void* ctx, uint32_t threads) {
    ++epoch;
    for (Claim& c : claims) c.next.store(uint64_t(epoch) << 32 | kClosed, std::memory_order_seq_cst);
    uint32_t count = uint32_t((total + size - 1) / size), parts = std::min({threads, count, uint32_t(kSegments)});
    fn.store(f, std::memory_order_release);
    context.store(ctx, std::memory_order_release);
    n.store(total, std::memory_order_release);
    chunk.store(size, std::memory_order_release);
    chunks.store(count, std::memory_order_release);
    segments.store(parts, std::memory_order_release);
    mode.store(float_mode(), std::memory_order_release);
    done.store(0, std::memory_order_relaxed);
    failed.store(false, std::memory_order_relaxed);
    for (uint32_t s = 0; s < parts; ++s)
      claims[s].next.store(uint64_t(epoch) << 32 | uint64_t(count) * s / parts, std::memory_order_release);
  }

  // Runs chunks until none is left, those of segment `home` first.
  void work(uint32_t home) {
    uint32_t parts = segments.load(std::memory_order_acquire);
    for (uint32_t i = 0; i < parts; ++i) work_on((home + i) % parts);
  }

  // The same on a thread that is not ours: it gets its state back.
  void work_as_guest(uint32_t home) {
    const bool was_inside = std::exchange(inside, true);
    const FloatMode before = float_mode();
    work(home);
    if (float_mode() != before) set_float_mode(before);
    inside = was_inside;
  }

  void work_on(uint32_t s) {
    for (;;) {
      uint64_t c = claims[s].next.load(std::memory_order_acquire);
      auto f = fn.load(std::memory_order_acquire);
      void* ctx = context.load(std::memory_order_acquire);
      int64_t total = n.load(std::memory_order_acquire), size = chunk.load(std::memory_order_acquire);
      uint32_t count = chunks.load(std::memory_order_acquire), parts = segments.load(std::memory_order_acquire);
      FloatMode wanted = mode.load(std::memory_order_acquire);
      uint32_t next = uint32_t(c);
      if (s >= parts || next >= uint64_t(count) * (s + 1) / parts) return;
      if (!claims[s].next.compare_exchange_weak(c, c + 1, std::memory_order_acq_rel)) continue;
      int64_t begin = next * size;
      if (wanted != float_mode()) set_float_mode(wanted);
      try {
        f(ctx, begin, std::min(total, begin + size));
      } catch (...) {
        if (!failed.exchange(true)) error = std::current_exception();
      }
      if (done.fetch_add(1, std::memory_order_acq_rel) + 1 == count) done.notify_all();
    }
  }
};

class Pool {
 public:
  std::atomic<int> threads;
  std::mutex mutex;  // guards the starting of workers

  Pool() : threads(default_threads()) {}

  void run(int64_t n, int64_t chunk, detail::RangeFn fn, void* context) {
    Region* r = acquire();
    if (!r) return fn(context, 0, n);
    const int share = num_threads();
    r->open(n, chunk, fn, context, uint32_t(share));
    if (team) {
      team->run(share, [](int i, void* region) { static_cast<Region*>(region)->work_as_guest(uint32_t(i)); }, r);
    } else {
      start_workers(share - 1);
      const uint32_t count = r->chunks.load(std::memory_order_relaxed);
      signal_.fetch_add(1, std::memory_order_seq_cst);
      if (sleepers_.load(std::memory_order_seq_cst)) signal_.notify_all();
      inside = true;
      r->work(0);
      inside = false;
      wait(*r, count);
    }
    std::exception_ptr error = r->failed.load() ? std::exchange(r->error, nullptr) : nullptr;
    r->owned.store(false, std::memory_order_release);
    if (error) std::rethrow_exception(error);
  }

  // In the child of a fork there are no workers and no region is running.
  void after_fork() {
    started_ = 0;
    sleepers_.store(0);
    for (Region& r : regions_) {  // another thread's region may have been running: its stack is gone
      for (Claim& c : r.claims) c.next.store(c.next.load() | kClosed);
      r.owned.store(false);
    }
    inside = false;
  }

 private:
  static int default_threads();

  Region* acquire() {
    for (Region& r : regions_)
      if (!r.owned.load(std::memory_order_relaxed) && !r.owned.exchange(true, std::memory_order_acquire)) return &r;
    return nullptr;
  }

  void start_workers(int wanted) {
    if (started_.load(std::memory_order_acquire) >= wanted) return;
    std::lock_guard lock(mutex);
    while (started_.load() < wanted) {
      int index = started_.load();
      try {
        std::thread([this, index] { loop(index); }).detach();
      } catch (const std::exception&) {
        return;  // no more threads to be had: the caller does the work
      }
      started_.store(index + 1, std::memory_order_release);
    }
  }

  void loop(int index) {
    inside = true;
    uint32_t seen = signal_.load(std::memory_order_acquire) - 1;
    for (;;) {
      for (int spin = 0; signal_.load(std::memory_order_acquire) == seen; ++spin) {
        if (spin < kSpins) {
          pause();
          continue;
        }
        sleepers_.fetch_add(1, std::memory_order_seq_cst);
        signal_.wait(seen, std::memory_order_seq_cst);
        sleepers_.fetch_sub(1, std::memory_order_relaxed);
      }
      seen = signal_.load(std::memory_order_acquire);
      if (index + 1 >= threads.load(std::memory_order_relaxed)) continue;  // more workers than set_num_threads allows
      for (Region& r : regions_) r.work(uint32_t(index) + 1);
    }
  }

  static void wait(Region& r, uint32_t count) {
    for (int spin = 0;; ++spin) {
      uint32_t done = r.done.load(std::memory_order_acquire);
      if (done == count) return;
      if (spin < kSpins)
        pause();
      else
        r.done.wait(done, std::memory_order_acquire);
    }
  }

  std::atomic<int> started_{0};
  alignas(64) std::atomic<uint32_t> signal_{0};
  std::atomic<int> sleepers_{0};
  Region regions_[kRegions];
};

// CPUs of the cgroup quota, rounded up; 0 where there is none.
int cgroup_cpus() {
  double quota = 0, period = 0;
  if (std::ifstream file("/sys/fs/cgroup/cpu.max"); file) {  // version 2: "max 100000" or "200000 100000"
    std::string text;
    file >> text >> period;
    if (text != "max") quota = std::atof(text.c_str());
  } else {
    std::ifstream("/sys/fs/cgroup/cpu/cpu.cfs_quota_us") >> quota;
    std::ifstream("/sys/fs/cgroup/cpu/cpu.cfs_period_us") >> period;
  }
  return quota > 0 && period > 0 ? std::max(1, int(quota / period + 0.999)) : 0;
}

int Pool::default_threads() {
  if (const char* text = std::getenv("FASTNN_NUM_THREADS")) {
    int n = std::atoi(text);
    if (n >= 1 && n <= 1024) return n;
    std::fprintf(stderr, "fastnn: FASTNN_NUM_THREADS=%s is ignored; expected a number from 1 to 1024\n", text);
  }
  int n = int(std::thread::hardware_concurrency());
#ifdef __linux__
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) n = CPU_COUNT(&set);
#endif
  if (int quota = cgroup_cpus()) n = std::min(n, quota);
  return std::max(n, 1);
}

Pool& pool() {
  static Pool* p = [] {
    auto* made = new Pool;  // never destroyed: workers may outlive static destructors
    pthread_atfork([] { pool().mutex.lock(); }, [] { pool().mutex.unlock(); },
                   [] {
                     pool().mutex.unlock();
                     pool().after_fork();
                   });
    return made;
  }();
  return *p;
}

}  // namespace

int num_threads() { return team ? team->size() : pool().threads.load(std::memory_order_relaxed); }

UseTeam::UseTeam(const Team* t) : before_(std::exchange(team, t)) {}
UseTeam::~UseTeam() { team = before_; }

void set_num_threads(int n) {
  require<ValueError>(n >= 1 && n <= 1024, "set_num_threads: got ", n, "; expected a number from 1 to 1024");
  pool().threads.store(n);
}

bool in_parallel_region() { return inside; }

namespace detail {

int64_t chunk_size(int64_t n, int64_t grain) {
  if (inside || n <= grain) return n;
  int threads = num_threads();
  if (threads == 1) return n;
  int64_t parts = std::min<int64_t>(n / std::max<int64_t>(grain, 1), int64_t(threads) * kChunksPerThread);
  return parts <= 1 ? n : (n + parts - 1) / parts;
}

void run_region(int64_t n, int64_t chunk, RangeFn fn, void* context) { pool().run(n, chunk, fn, context); }

}  // namespace detail
}  // namespace fastnn
