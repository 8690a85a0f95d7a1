#include "memory.h"

#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <chrono>
#include <cstdlib>
#include <fstream>
#include <mutex>
#include <new>

namespace fastnn {
namespace {

constexpr size_t kAlign = 64;
constexpr size_t kMmapFrom = size_t(1) << 20;  // below: aligned_alloc; above: own mappings
constexpr size_t kHugePage = size_t(2) << 20;
constexpr size_t kHugeFrom = size_t(4) << 20;      // below, a huge page would waste up to half of itself
constexpr int64_t kHeldFloor = int64_t(64) << 20;  // small processes never trim
constexpr int kBins = 400;
constexpr int64_t kWindowNs = 5'000'000'000;  // a step repeated within this time finds its blocks warm

// A size class every eighth of a doubling: at most 12.5 % of a block is waste.
size_t class_size(size_t bytes) {
  if (bytes <= 512) return (bytes + kAlign - 1) / kAlign * kAlign;
  size_t step = std::bit_floor(bytes - 1) / 8;
  if (bytes >= 8 * kHugePage) step = std::max(step, kHugePage);
  return (bytes + step - 1) / step * step;
}

int class_index(size_t size) {
  if (size <= 512) return int(size / kAlign);
  int octave = std::bit_width(size - 1) - 1;
  return 9 + (octave - 9) * 8 + int((size - 1) >> (octave - 3) & 7);
}

// Lives in the first bytes of an idle block.
struct IdleBlock {
  IdleBlock *bin_next, *bin_prev, *older, *newer;
  size_t size;
};
static_assert(sizeof(IdleBlock) <= kAlign);

void* system_allocate(size_t size) {
  if (size < kMmapFrom) return std::aligned_alloc(kAlign, size);
  bool huge = size >= kHugeFrom;
  size_t mapped = huge ? size + kHugePage : size;
  void* raw = mmap(nullptr, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (raw == MAP_FAILED) return nullptr;
  if (!huge) return raw;
  auto start = reinterpret_cast<uintptr_t>(raw);
  auto aligned = (start + kHugePage - 1) / kHugePage * kHugePage;
  if (aligned > start) munmap(raw, aligned - start);
  size_t page = size_t(sysconf(_SC_PAGESIZE));
  size_t kept = (size + page - 1) / page * page;
  if (size_t tail = start + mapped - (aligned + kept)) munmap(reinterpret_cast<void*>(aligned + kept), tail);
#ifdef MADV_HUGEPAGE
  madvise(reinterpret_cast<void*>(aligned), kept, MADV_HUGEPAGE);
#endif
  return reinterpret_cast<void*>(aligned);
}

void system_free(void* p, size_t size) {
  if (size < kMmapFrom)
    std::free(p);
  else
    munmap(p, size);
}

int64_t now_ns() { return std::chrono::steady_clock::now().time_since_epoch().count(); }

class Cache {
 public:
  Cache() {
    int64_t physical = int64_t(sysconf(_SC_PHYS_PAGES)) * sysconf(_SC_PAGESIZE);
    limit_ = physical / 2;
    if (const char* text = std::getenv("FASTNN_CACHE_LIMIT")) {
      char* end;
      long long v = std::strtoll(text, &end, 10);
      if (end != text && v >= 0) limit_ = v;
    }
  }

  void* allocate(size_t bytes) {
    if (bytes > (size_t(1) << 47)) throw std::bad_alloc();
    size_t size = class_size(bytes);
    int bin = class_index(size);
    {
      std::lock_guard lock(mutex_);
      ++requests_;
      IdleBlock* b = bins_[bin];
      if (b) {
        unlink(b, bin);
        ++hits_;
      }
      if (b) {
        count(size);
        return b;
      }
    }
    void* p = system_allocate(size);
    if (!p) {
      empty();  // what we cache must never be the reason for a failure
      p = system_allocate(size);
    }
    if (!p) throw std::bad_alloc();
    std::lock_guard lock(mutex_);
    count(size);
    return p;
  }

  void deallocate(void* p, size_t bytes) noexcept {
    size_t size = class_size(bytes);
    std::lock_guard lock(mutex_);
    in_use_ -= int64_t(size);
    link(static_cast<IdleBlock*>(p), size, class_index(size));
    if (size >= 16384 || (++frees_ & 255) == 0) turn_window();
    trim(std::min(limit_, std::max(kHeldFloor, std::max(window_peak_, last_peak_) * 2) - in_use_));
  }

  void empty() {
    std::lock_guard lock(mutex_);
    trim(0);
  }

  void set_limit(int64_t bytes) {
    std::lock_guard lock(mutex_);
    limit_ = bytes;
    trim(limit_);
  }

  MemoryStats stats() {
    std::lock_guard lock(mutex_);
    return {in_use_, idle_, peak_, limit_, hits_, requests_};
  }

  std::mutex& mutex() { return mutex_; }

 private:
  void count(size_t size) {
    in_use_ += int64_t(size);
    peak_ = std::max(peak_, in_use_);
    window_peak_ = std::max(window_peak_, in_use_);
  }

  void link(IdleBlock* b, size_t size, int bin) {
    *b = {bins_[bin], nullptr, newest_, nullptr, size};
    if (b->bin_next) b->bin_next->bin_prev = b;
    bins_[bin] = b;
    if (newest_) newest_->newer = b;
    newest_ = b;
    if (!oldest_) oldest_ = b;
    idle_ += int64_t(size);
  }

  void unlink(IdleBlock* b, int bin) {
    (b->bin_prev ? b->bin_prev->bin_next : bins_[bin]) = b->bin_next;
    if (b->bin_next) b->bin_next->bin_prev = b->bin_prev;
    (b->newer ? b->newer->older : newest_) = b->older;
    (b->older ? b->older->newer : oldest_) = b->newer;
    idle_ -= int64_t(b->size);
  }

  void trim(int64_t allowed) {
    while (oldest_ && idle_ > std::max<int64_t>(allowed, 0)) {
      IdleBlock* b = oldest_;
      size_t size = b->size;
      unlink(b, class_index(size));
      system_free(b, size);
    }
  }

  void turn_window() {
    int64_t t = now_ns();
    if (t - window_start_ < kWindowNs) return;
    last_peak_ = window_peak_;
    window_peak_ = in_use_;
    window_start_ = t;
  }

  std::mutex mutex_;
  IdleBlock* bins_[kBins] = {};
  IdleBlock *oldest_ = nullptr, *newest_ = nullptr;
  int64_t in_use_ = 0, idle_ = 0, peak_ = 0, limit_ = 0, hits_ = 0, requests_ = 0, frees_ = 0;
  int64_t window_start_ = 0, window_peak_ = 0, last_peak_ = 0;
};

Cache& cache() {
  static Cache* c = [] {
    auto* made = new Cache;
    // The child of a fork may not inherit the mutex locked by a thread that it does not have.
    pthread_atfork([] { cache().mutex().lock(); }, [] { cache().mutex().unlock(); }, [] { cache().mutex().unlock(); });
    return made;
  }();
  return *c;
}

}  // namespace

void* allocate(size_t bytes) { return bytes ? cache().allocate(bytes) : nullptr; }
void deallocate(void* data, size_t bytes) noexcept {
  if (data) cache().deallocate(data, bytes);
}
size_t last_level_cache() {
  // sysconf adds up all caches of the package on some CPUs.
  static const size_t bytes = [] {
    size_t kilobytes = 0;
    std::ifstream("/sys/devices/system/cpu/cpu0/cache/index3/size") >> kilobytes;
    return kilobytes ? kilobytes << 10 : size_t(32) << 20;
  }();
  return bytes;
}
MemoryStats memory_stats() { return cache().stats(); }
void empty_cache() { cache().empty(); }
void set_cache_limit(int64_t bytes) { cache().set_limit(bytes); }

}  // namespace fastnn
