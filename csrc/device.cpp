#include "device.h"

#include <dlfcn.h>

#include <algorithm>
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
    } else if (table->allocate(&p, size) != 0) {
      give_back();
      if (table->allocate(&p, size) != 0) throw std::bad_alloc();
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
    if (table->emulated) {
      table->release(p);
      return;
    }
    s.idle += int64_t(size);
    idle_[{device.index, stream, size}].push_back(p);
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

  // CUDA waits for the work that uses a block before it takes it back.
  void give_back() {
    for (auto& [key, blocks] : idle_) {
      for (void* p : blocks) {
        table->release(p);
        stats_[key.device].idle -= int64_t(key.size);
      }
      blocks.clear();
    }
  }

  std::mutex mutex_;
  std::map<Key, std::vector<void*>> idle_;
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
