// runtime.h of the GPU on the CPU: device memory is host memory with guards, streams run at once, graphs are lists.
#include "runtime.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <map>
#include <mutex>
#include <set>
#include <string>

#include "../runtime.h"
#include "check.h"

namespace fastnn::emulate {

namespace {

using gpu::Status;
using gpu::Stream;

constexpr Status kInvalidValue = 1, kOutOfMemory = 2, kInvalidHandle = 400, kFailure = 719,
                 kCapturing = 900;                            // as CUDA numbers them
constexpr size_t kMemoryGuard = kAddressSanitizer ? 0 : 256;  // before and after an allocation, written
constexpr size_t kGap = kHooks ? 16 << 10 : 0;  // and further: what lies far outside must not be another allocation
constexpr unsigned char kGuardByte = 0xa5;

struct Allocation {
  size_t bytes;
  unsigned char* guarded;
};
struct Recorded {
  std::vector<std::function<Status()>> steps;
};

std::recursive_mutex mutex;  // launches and copies, one at a time
std::map<const void*, Allocation> allocations;
std::map<Stream, Recorded*> captures;
std::set<Stream> streams;

bool guards_hold(const Allocation& a) {
  for (size_t i = 0; i < kMemoryGuard; ++i)
    if (a.guarded[i] != kGuardByte || a.guarded[kMemoryGuard + a.bytes + i] != kGuardByte) return false;
  return true;
}

Status submit(Stream stream, std::function<Status()> step) {
  std::lock_guard lock(mutex);
  if (stream && !streams.count(stream)) return kInvalidHandle;
  if (auto it = captures.find(stream); it != captures.end()) {
    it->second->steps.push_back(std::move(step));
    return 0;
  }
  return step();
}

bool on_device(const void* p, size_t bytes) {
  std::lock_guard lock(mutex);
  return !bytes || registered_bytes(p) >= bytes;
}

bool capturing(Stream stream) {
  std::lock_guard lock(mutex);
  return captures.count(stream) != 0;
}

// A copy or fill of device memory.
template <class F>
Status transfer(Stream stream, F step) {
  return submit(stream, [step] {
    step();
    return 0;
  });
}

}  // namespace

void check_memory_guards() {
  for (const auto& [p, a] : allocations)
    if (!guards_hold(a)) {
      report("global memory was written outside of the %zu bytes at %p", a.bytes, p);
      std::memset(a.guarded, kGuardByte, kMemoryGuard);
      std::memset(a.guarded + kMemoryGuard + a.bytes, kGuardByte, kMemoryGuard);
    }
}

Status submit(const Launch& launch, Stream stream) {
  if (!launch.grid.x || !launch.grid.y || !launch.grid.z) return 0;
  struct alignas(128) Aligned {
    char bytes[128];
  };
  std::vector<Aligned> call(launch.call_bytes / sizeof(Aligned) + 1);  // a graph outlives the caller
  std::memcpy(call.data(), launch.call, launch.call_bytes);
  return submit(stream, [launch, call] {
    Launch now = launch;
    now.call = call.data();
    run(now);
    check_memory_guards();
    return *fault() ? kFailure : 0;
  });
}

}  // namespace fastnn::emulate

namespace fastnn::gpu {

using namespace emulate;

const char* error_string(Status status) {
  if (status == 0) return "no error";
  if (status == kOutOfMemory) return "out of memory";
  if (status == kFailure) return *fault() ? fault() : "launch failure";
  if (status == kCapturing) return "operation not permitted while the stream is being captured";
  return status == kInvalidHandle ? "invalid stream" : "invalid value";
}
Status device_count(int* count) {
  *count = 1;
  return 0;
}
Status set_device(int device) { return device ? kInvalidValue : 0; }
Status device_info(int device, DeviceInfo* info) {
  if (device) return kInvalidValue;
  *info = {"emulated GPU", size_t(4) << 30, kSharedLimit, 228 << 10, 50 << 20, 2, 9, 0, 1000000, 1000000, 64};
  return 0;
}
Status memory_info(size_t* free, size_t* total) {
  *total = size_t(4) << 30;
  *free = *total;
  std::lock_guard lock(mutex);
  for (const auto& [p, a] : allocations) *free -= std::min(*free, a.bytes);
  return 0;
}

Status allocate(void** p, size_t bytes) {
  *p = nullptr;
  void* block = nullptr;
  if (bytes > size_t(1) << 40 || posix_memalign(&block, 256, bytes + 2 * (kMemoryGuard + kGap))) return kOutOfMemory;
  auto* guarded = static_cast<unsigned char*>(block) + kGap;
  std::memset(guarded, kGuardByte, kMemoryGuard);
  std::memset(guarded + kMemoryGuard, 0xff, bytes);  // NaN in every float type
  std::memset(guarded + kMemoryGuard + bytes, kGuardByte, kMemoryGuard);
  *p = guarded + kMemoryGuard;
  std::lock_guard lock(mutex);
  allocations[*p] = {bytes, guarded};
  register_memory(*p, bytes);
  return 0;
}
Status release(void* p) {
  if (!p) return 0;
  std::lock_guard lock(mutex);
  const auto it = allocations.find(p);
  if (it == allocations.end() || !forget_memory(p)) return kInvalidValue;
  const bool sound = guards_hold(it->second);
  if (!sound) {
    clear_fault();
    report("global memory was written outside of the %zu bytes at %p", it->second.bytes, p);
  }
  std::free(it->second.guarded - kGap);
  allocations.erase(it);
  return sound ? 0 : kFailure;
}

Status copy_to_device(void* to, const void* from, size_t bytes, Stream stream) {
  if (!on_device(to, bytes)) return kInvalidValue;
  return transfer(stream, [=] { std::memcpy(to, from, bytes); });
}
Status copy_to_host(void* to, const void* from, size_t bytes, Stream stream) {
  if (!on_device(from, bytes)) return kInvalidValue;
  if (capturing(stream)) return kCapturing;
  return transfer(stream, [=] { std::memcpy(to, from, bytes); });
}
Status copy_device(void* to, const void* from, size_t bytes, Stream stream) {
  if (!on_device(to, bytes) || !on_device(from, bytes)) return kInvalidValue;
  return transfer(stream, [=] { std::memmove(to, from, bytes); });
}
Status fill(void* p, int byte, size_t bytes, Stream stream) {
  if (!on_device(p, bytes)) return kInvalidValue;
  return transfer(stream, [=] { std::memset(p, byte, bytes); });
}
Status synchronize(Stream stream) { return capturing(stream) ? kCapturing : 0; }

Status stream_create(Stream* stream) {
  std::lock_guard lock(mutex);
  *stream = new char;
  streams.insert(*stream);
  return 0;
}
Status stream_destroy(Stream stream) {
  std::lock_guard lock(mutex);
  if (!streams.erase(stream)) return kInvalidHandle;
  delete static_cast<char*>(stream);
  return 0;
}

namespace {
double& moment(Event e) { return *static_cast<double*>(e); }
}  // namespace

Status event_create(Event* event) {
  *event = new double(0);
  return 0;
}
Status event_destroy(Event event) {
  delete static_cast<double*>(event);
  return 0;
}
Status event_record(Event event, Stream) {
  const auto now = std::chrono::steady_clock::now().time_since_epoch();
  moment(event) = std::chrono::duration<double, std::milli>(now).count();
  return 0;
}
Status event_wait(Stream, Event) { return 0; }
Status event_milliseconds(float* elapsed, Event begin, Event end) {
  *elapsed = float(moment(end) - moment(begin));
  return 0;
}

Status capture_begin(Stream stream) {
  std::lock_guard lock(mutex);
  if (captures.count(stream)) return kInvalidValue;
  captures[stream] = new Recorded;
  return 0;
}
Status capture_end(Stream stream, Graph* graph) {
  std::lock_guard lock(mutex);
  const auto it = captures.find(stream);
  if (it == captures.end()) return kInvalidValue;
  *graph = it->second;
  captures.erase(it);
  return 0;
}
Status graph_launch(Graph graph, Stream) {
  std::lock_guard lock(mutex);
  for (const auto& step : static_cast<Recorded*>(graph)->steps)
    if (Status status = step()) return status;
  return 0;
}
Status graph_destroy(Graph graph) {
  delete static_cast<Recorded*>(graph);
  return 0;
}

}  // namespace fastnn::gpu

// For tests that have loaded an emulated library.
extern "C" __attribute__((visibility("default"))) void fastnn_emulate_configure(int schedule, int copies,
                                                                                uint64_t seed) {
  using namespace fastnn::emulate;
  std::lock_guard lock(mutex);
  options = {Schedule(schedule), Copies(copies), seed};
}
extern "C" __attribute__((visibility("default"))) void fastnn_emulate_stats(fastnn::emulate::Stats* counts) {
  *counts = fastnn::emulate::stats;
}
