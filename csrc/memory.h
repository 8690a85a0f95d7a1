// Caching allocator. Blocks are 64-byte aligned; large ones lie on huge pages. A freed block is kept warm for the next
// request of its size class, because a fresh 100 MB output costs ten times more in page faults than the kernel that
// fills it. What is held stays below 1.25 times the recent peak of use, so a process that shrinks gives memory back.
// Never destroyed, needs no GIL, sound after fork().
#pragma once
#include <cstddef>
#include <cstdint>

namespace fastnn {

struct MemoryStats {
  int64_t in_use;    // bytes handed out
  int64_t idle;      // bytes cached for reuse
  int64_t peak;      // largest in_use since the start
  int64_t limit;     // largest idle allowed (FASTNN_CACHE_LIMIT)
  int64_t hits;      // requests served from the cache
  int64_t requests;  // requests in all
};

// Returns nullptr for zero bytes; throws std::bad_alloc when the system has no memory.
void* allocate(size_t bytes);
// `bytes` is what allocate() was asked for.
void deallocate(void* data, size_t bytes) noexcept;

size_t last_level_cache();  // bytes that cores share

MemoryStats memory_stats();
void empty_cache();
void set_cache_limit(int64_t bytes);

// Scratch memory of one scope.
class Scratch {
 public:
  explicit Scratch(size_t bytes) : data_(allocate(bytes)), bytes_(bytes) {}
  ~Scratch() { deallocate(data_, bytes_); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  template <class T>
  T* as() {
    return static_cast<T*>(data_);
  }

 private:
  void* data_;
  size_t bytes_;
};

}  // namespace fastnn
