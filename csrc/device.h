// Devices: where an array lies, the library of GPU launchers, and memory on GPUs.
//
// _C does not link CUDA. load_cuda() opens the library `_cuda`, which has the kernels and the CUDA runtime, and takes
// its table of launchers (cuda/launchers.h). Without it every array lies on the CPU.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "cuda/launchers.h"

namespace fastnn {

struct Device {
  enum Kind : uint8_t { cpu, cuda };
  Kind kind = cpu;
  uint8_t index = 0;

  bool operator==(const Device&) const = default;
  bool on_cuda() const { return kind == cuda; }
};

std::string to_text(Device device);  // "cpu", "cuda:0"
// "cpu", "cuda" (the first GPU) or "cuda:1". Throws ValueError for another text, RuntimeError for a device that is not
// there.
Device parse_device(std::string_view text);

namespace cuda {

// Opens the library at `path`. Throws std::runtime_error that says why it cannot be used.
void load(const std::string& path);
bool loaded();
int device_count();  // 0 where nothing is loaded
const gpu::DeviceInfo& info(int index);
bool emulated();

// The table. Throws std::runtime_error where nothing is loaded.
const gpu::Launchers& launchers();

// Throws std::runtime_error with CUDA's text if `status`, what a launcher returned, is not 0.
void check(const char* op, gpu::Status status);

// Work of this thread goes to one stream per device: the default stream until set_stream() names another. Both make
// the device current for the launchers that follow.
gpu::Stream stream(Device device);
void set_stream(Device device, gpu::Stream stream);

// Device memory. A freed block is kept for the next request of its size class on its stream: what was launched there
// before is done with it when later work touches it, so nothing waits. Idle blocks go back to CUDA when it has no
// memory left, and by empty_cache().
void* allocate(Device device, gpu::Stream stream, size_t bytes);
void release(Device device, gpu::Stream stream, void* data, size_t bytes) noexcept;
void empty_cache();

struct MemoryStats {
  int64_t in_use, idle, peak, requests, hits;
};
MemoryStats memory_stats(int index);

// Whether large products of bfloat16 and float16 use wgmma where a GPU has it (cuda/matmul_sm90.cu). Of the process;
// off until it was verified on a card.
void set_wgmma(bool on);
bool wgmma();
int wgmma_multiprocessors(Device device);  // of a GPU that has it, where it is on; else 0

// What this thread launches on a device from the constructor to end() is recorded, not run; each replay() launches it
// on the stream of the thread. The memory of the recorded work stays the graph's: its blocks are used again within it
// only, and blocks of others that are freed while it is recorded, which it may read, wait for its end.
class Graph {
 public:
  explicit Graph(Device device);
  ~Graph();
  Graph(const Graph&) = delete;
  Graph& operator=(const Graph&) = delete;
  void end();
  void abandon();  // ends the recording, which cannot be replayed
  void replay();

 private:
  void leave();

  Device device_;
  gpu::Stream stream_ = nullptr, before_ = nullptr, replayed_ = nullptr;
  gpu::Graph graph_ = nullptr;
  bool recording_ = false;
};
bool capturing();  // this thread records a graph

// Later work of the stream `consumer` waits for what this thread's stream was given so far. DLPack's numbers: 1 is the
// default stream, -1 asks for nothing. Throws ValueError for 0, which DLPack forbids.
void order(Device device, int64_t consumer);
void synchronize(Device device);  // waits for the work of this thread's stream

}  // namespace cuda
}  // namespace fastnn
