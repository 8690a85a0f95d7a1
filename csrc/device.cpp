#include "device.h"

#include <dlfcn.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <map>
#include <mutex>
#include <new>
#include <vector>

#include "error.h"

namespace fastnn {

std::string to_text(Device device) {
  return device.kind == Device::cpu ? "cpu" : "cuda:" + std::to_string(int(device.index));
}

Device parse_device(std::string_view text) {
  if (text == "cpu") return {};
  int index = text == "cuda" ? 0 : -1;
  if (text.starts_with("cuda:") && text.size() > 5 && text.size() < 8) {
    index = 0;
    for (char c : text.substr(5)) index = c >= '0' && c <= '9' && index >= 0 ? index * 10 + (c - '0') : -1;
  }
  require<ValueError>(index >= 0, "device is '", text, "'; expected 'cpu', 'cuda' or 'cuda:0'");
  require<std::runtime_error>(index < cuda::device_count(), "device ", text, " is not there: ", cuda::device_count(),
                              " GPUs can be used; see `python -m fastnn.info`");
  return {Device::cuda, uint8_t(index)};
}

namespace cuda {
namespace {

using gpu::Stream;

const gpu::Launchers* table = nullptr;
std::vector<gpu::DeviceInfo> devices;

constexpr int kMaxDevices = 64;
thread_local Stream streams[kMaxDevices] = {};

// A size class every eighth of a doubling, as on the CPU; whole blocks of 512 bytes, which keeps vector loads aligned.
size_t class_size(size_t bytes) {
  size_t step = std::max<size_t>(512, std::bit_floor(bytes - 1) / 8);
  return (bytes + step - 1) / step * step;
}

class Cache {
 public:
  void* allocate(Device device, Stream stream, size_t bytes) {
    // Tests see an access past the end of a block, or to one that was freed, only if each request has its own.
    size_t size = table->emulated ? bytes : class_size(bytes);
    std::lock_guard lock(mutex_);
    MemoryStats& s = stats_[device.index];
    ++s.requests;
    void* p = nullptr;
    auto found = idle_.find({device.index, stream, size});
    if (found != idle_.end() && !found->second.empty()) {
      p = found->second.back();
      found->second.pop_back();
      s.idle -= int64_t(size);
      ++s.hits;
    } else {
      if (table->allocate(&p, size) != 0) {
        give_back();
        if (table->allocate(&p, size) != 0) throw std::bad_alloc();
      }
      if (auto pool = pools_.find(stream); pool != pools_.end()) ++pool->second.blocks;
    }
    s.in_use += int64_t(size);
    s.peak = std::max(s.peak, s.in_use);
    return p;
  }

  void release(Device device, Stream stream, void* p, size_t bytes) noexcept {
    size_t size = table->emulated ? bytes : class_size(bytes);
    std::lock_guard lock(mutex_);
    MemoryStats& s = stats_[device.index];
    s.in_use -= int64_t(size);
    auto pool = pools_.find(stream);
    if (pool != pools_.end() && pool->second.ended) {
      table->release(p);  // CUDA waits for the work that uses it
      if (--pool->second.blocks == 0) end(pool);
      return;
    }
    if (pool == pools_.end() && !recording_.empty()) {  // the graph may have recorded a read
      s.idle += int64_t(size);
      pools_[recording_.back()].kept.push_back({{device.index, stream, size}, p});
      return;
    }
    if (pool == pools_.end() && table->emulated) {
      table->release(p);
      return;
    }
    s.idle += int64_t(size);
    idle_[{device.index, stream, size}].push_back(p);
  }

  // Blocks of this stream are used again on it only, and go back to CUDA when the pool has ended.
  void begin_pool(Stream stream) {
    std::lock_guard lock(mutex_);
    pools_[stream] = {};
    recording_.push_back(stream);
  }
  void end_recording(Stream stream) {
    std::lock_guard lock(mutex_);
    std::erase(recording_, stream);
  }
  void end_pool(Stream stream) {
    std::lock_guard lock(mutex_);
    auto pool = pools_.find(stream);
    for (auto& [key, blocks] : idle_)
      if (key.stream == stream) pool->second.blocks -= int64_t(give_back(key, blocks));
    for (auto& [key, p] : pool->second.kept) {
      if (table->emulated) {
        stats_[key.device].idle -= int64_t(key.size);
        table->release(p);
      } else {
        idle_[key].push_back(p);
      }
    }
    pool->second.kept.clear();
    pool->second.ended = true;
    if (pool->second.blocks == 0) end(pool);
  }

  void empty() {
    std::lock_guard lock(mutex_);
    give_back();
  }

  MemoryStats stats(int index) {
    std::lock_guard lock(mutex_);
    return stats_[index];
  }

 private:
  struct Key {
    int device;
    Stream stream;
    size_t size;
    auto operator<=>(const Key&) const = default;
  };

  struct Pool {
    std::vector<std::pair<Key, void*>> kept;  // blocks of other streams
    int64_t blocks = 0;                       // that it has from CUDA
    bool ended = false;
  };

  // CUDA waits for the work that uses a block before it takes it back.
  size_t give_back(const Key& key, std::vector<void*>& blocks) {
    for (void* p : blocks) {
      table->release(p);
      stats_[key.device].idle -= int64_t(key.size);
    }
    const size_t count = blocks.size();
    blocks.clear();
    return count;
  }
  void give_back() {
    for (auto& [key, blocks] : idle_)
      if (!pools_.count(key.stream)) give_back(key, blocks);
  }
  // The stream lives as long as its blocks, or another one might get its name and them.
  void end(std::map<Stream, Pool>::iterator pool) {
    table->stream_destroy(pool->first);
    pools_.erase(pool);
  }

  std::mutex mutex_;
  std::map<Key, std::vector<void*>> idle_;
  std::map<Stream, Pool> pools_;
  std::vector<Stream> recording_;
  MemoryStats stats_[kMaxDevices] = {};
};

Cache& cache() {
  static Cache* c = new Cache;  // never destroyed: arrays may outlive every other static
  return *c;
}

}  // namespace

void load(const std::string& path) {
  if (table) return;
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!library) throw std::runtime_error(message("load_cuda: ", dlerror()));
  auto* entry = reinterpret_cast<const gpu::Launchers* (*)()>(dlsym(library, "fastnn_cuda_launchers"));
  require<std::runtime_error>(entry != nullptr, "load_cuda: ", path, " has no table of launchers");
  const gpu::Launchers* found = entry();
  require<std::runtime_error>(found->interface == gpu::kInterface, "load_cuda: ", path,
                              " belongs to another build of fastnn; build both together");
  int count = 0;
  gpu::Status status = found->device_count(&count);
  require<std::runtime_error>(status == 0, "load_cuda: ", found->error_string(status));
  std::vector<gpu::DeviceInfo> all(size_t(std::min(count, kMaxDevices)));
  for (size_t i = 0; i < all.size(); ++i) {
    status = found->device_info(int(i), &all[i]);
    require<std::runtime_error>(status == 0, "load_cuda: ", found->error_string(status));
  }
  devices = std::move(all);
  table = found;
}

bool loaded() { return table != nullptr; }
bool emulated() { return table && table->emulated; }
int device_count() { return int(devices.size()); }
const gpu::DeviceInfo& info(int index) {
  require<IndexError>(index >= 0 && index < device_count(), "device ", index, " is not there: ", device_count(),
                      " GPUs can be used");
  return devices[size_t(index)];
}

const gpu::Launchers& launchers() {
  if (!table) [[unlikely]]
    throw std::runtime_error("no GPU kernels are loaded; see `python -m fastnn.info`");
  return *table;
}

void check(const char* op, gpu::Status status) {
  if (status != 0) [[unlikely]]
    throw std::runtime_error(message(op, ": ", launchers().error_string(status)));
}

Stream stream(Device device) {
  if (devices.size() > 1) check("set_device", launchers().set_device(device.index));  // others may have changed it
  return streams[device.index];
}

void set_stream(Device device, Stream stream) { streams[device.index] = stream; }

void* allocate(Device device, Stream stream, size_t bytes) {
  return bytes ? cache().allocate(device, stream, bytes) : nullptr;
}
void release(Device device, Stream stream, void* data, size_t bytes) noexcept {
  if (data) cache().release(device, stream, data, bytes);
}
void empty_cache() {
  if (table) cache().empty();
}
MemoryStats memory_stats(int index) {
  info(index);
  return cache().stats(index);
}

namespace {
std::atomic<bool> wgmma_is_on{false};
thread_local int captures = 0;
}  // namespace

void set_wgmma(bool on) { wgmma_is_on.store(on, std::memory_order_relaxed); }
bool wgmma() { return wgmma_is_on.load(std::memory_order_relaxed); }
int wgmma_multiprocessors(Device device) {
  if (!wgmma()) return 0;
  const gpu::DeviceInfo& i = info(device.index);
  return i.major == 9 && i.minor == 0 ? i.multiprocessors : 0;
}

bool capturing() { return captures != 0; }

Graph::Graph(Device device) : device_(device) {
  require<ValueError>(device.on_cuda(), "graph: device is ", to_text(device), "; expected a GPU");
  require<std::runtime_error>(!capturing(), "graph: a step is captured already, and cannot capture another one");
  before_ = stream(device);
  check("graph", launchers().stream_create(&stream_));
  if (gpu::Status status = table->capture_begin(stream_)) {
    table->stream_destroy(stream_);
    check("graph", status);
  }
  cache().begin_pool(stream_);
  set_stream(device, stream_);
  recording_ = true;
  ++captures;
}

void Graph::leave() {
  recording_ = false;
  --captures;
  cache().end_recording(stream_);
  set_stream(device_, before_);
}

void Graph::end() {
  require<std::runtime_error>(recording_, "graph: nothing is recorded");
  leave();
  check("graph", table->capture_end(stream_, &graph_));
}

void Graph::abandon() {
  if (!recording_) return;
  leave();
  gpu::Graph unfinished = nullptr;
  if (table->capture_end(stream_, &unfinished) == 0) table->graph_destroy(unfinished);
}

void Graph::replay() {
  require<std::runtime_error>(graph_ != nullptr, "graph: nothing was recorded");
  replayed_ = stream(device_);
  check("graph", table->graph_launch(graph_, replayed_));
}

Graph::~Graph() {
  abandon();
  if (graph_) {
    table->synchronize(replayed_);  // what it kept of others may be written again at once
    table->graph_destroy(graph_);
  }
  cache().end_pool(stream_);
}

void order(Device device, int64_t consumer) {
  Stream ours = stream(device), theirs = consumer == 1 ? nullptr : reinterpret_cast<Stream>(consumer);
  require<ValueError>(consumer == -1 || consumer > 0, "__dlpack__: stream is ", consumer,
                      "; expected -1, 1 (the default stream) or a CUDA stream");
  if (consumer == -1 || ours == theirs) return;
  gpu::Event event;
  check("__dlpack__", table->event_create(&event));
  gpu::Status status = table->event_record(event, ours);
  if (status == 0) status = table->event_wait(theirs, event);
  table->event_destroy(event);
  check("__dlpack__", status);
}

void synchronize(Device device) { check("synchronize", launchers().synchronize(stream(device))); }

}  // namespace cuda
}  // namespace fastnn
