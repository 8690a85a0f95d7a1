// parallel_for: chunks of a range on our own pool. Workers spin briefly, then sleep; chunks are taken dynamically and
// the caller never waits for a chunk that nobody has begun, so a worker that the system has not scheduled delays
// nobody. Ops partition their work so that each output element is summed in one fixed order: results never depend on
// threads.
#pragma once
#include <cstdint>
#include <memory>
#include <type_traits>

namespace fastnn {

int num_threads();
void set_num_threads(int n);  // throws ValueError unless n >= 1
bool in_parallel_region();

// Threads of another library, for a caller whose own work runs on them: while a UseTeam is in scope they, not the
// pool's workers, share the calling thread's regions, so that two sets of threads do not spin against each other.
struct Team {
  int (*size)();
  // Calls member(i, context) for i < members, on as many threads as there are, and returns when all have returned.
  void (*run)(int members, void (*member)(int i, void* context), void* context);
};
class UseTeam {
 public:
  explicit UseTeam(const Team* team);  // null: the pool
  ~UseTeam();
  UseTeam(const UseTeam&) = delete;
  UseTeam& operator=(const UseTeam&) = delete;

 private:
  const Team* before_;
};

namespace detail {
using RangeFn = void (*)(void* context, int64_t begin, int64_t end);
void run_region(int64_t n, int64_t chunk, RangeFn fn, void* context);
int64_t chunk_size(int64_t n, int64_t grain);  // n itself where the work is too small to share
}  // namespace detail

// Calls fn(begin, end) for chunks of at least `grain` items that cover [0, n). `grain` items should be worth 5 us or
// more. An exception thrown by fn reaches the caller.
template <class F>
void parallel_for(int64_t n, int64_t grain, F&& fn) {
  if (n <= 0) return;
  int64_t chunk = detail::chunk_size(n, grain);
  if (chunk >= n) {
    fn(int64_t(0), n);
    return;
  }
  using Fn = std::remove_reference_t<F>;
  detail::run_region(
      n, chunk, [](void* context, int64_t b, int64_t e) { (*static_cast<Fn*>(context))(b, e); },
      const_cast<void*>(static_cast<const void*>(std::addressof(fn))));
}

}  // namespace fastnn
