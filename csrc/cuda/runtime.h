// The host side of a GPU: memory, copies, streams, events, graphs. runtime.cu implements it with CUDA,
// emulate/runtime.cpp on the CPU. Every function returns 0 or an error for error_string().
#pragma once
#include <cstddef>
#include <cstdint>

#include "../dtype.h"

namespace fastnn::gpu {

using Status = int;
using Stream = void*;  // nullptr: the default stream
using Event = void*;
using Graph = void*;

struct DeviceInfo {
  char name[256];
  size_t memory;
  size_t shared_per_block;  // bytes that a block may ask for (opt-in limit)
  size_t shared_per_multiprocessor;
  size_t l2;
  int multiprocessors;
  int major, minor;  // compute capability
  int clock_khz, memory_clock_khz, memory_bus_bits;
};

const char* error_string(Status status);
Status device_count(int* count);
Status set_device(int device);
Status device_info(int device, DeviceInfo* info);
Status memory_info(size_t* free, size_t* total);

Status allocate(void** p, size_t bytes);  // at least 256-byte aligned
Status release(void* p);
Status copy_to_device(void* to, const void* from, size_t bytes, Stream stream);
Status copy_to_host(void* to, const void* from, size_t bytes, Stream stream);  // complete on return
Status copy_device(void* to, const void* from, size_t bytes, Stream stream);
Status fill(void* p, int byte, size_t bytes, Stream stream);
Status synchronize(Stream stream);

Status stream_create(Stream* stream);
Status stream_destroy(Stream stream);
Status event_create(Event* event);
Status event_destroy(Event event);
Status event_record(Event event, Stream stream);
Status event_wait(Stream stream, Event event);
Status event_milliseconds(float* elapsed, Event begin, Event end);  // both complete on return

Status capture_begin(Stream stream);
Status capture_end(Stream stream, Graph* graph);
Status graph_launch(Graph graph, Stream stream);
Status graph_destroy(Graph graph);

// Device memory as the tensor memory accelerator (sm_90) sees it; dimension 0 is contiguous. A load takes a box of
// `box` elements, in steps of `step`; what lies outside of the tensor is zero. Swizzled: the box is at most 128 bytes
// wide, and in each row of 128 bytes of shared memory the 16-byte chunks are at their index ^ (row % 8).
struct TensorView {
  const void* data;  // multiple of 16
  DType dtype;       // float32, bfloat16, float16
  int rank;          // 2 to 5
  int64_t size[5];
  int64_t stride[5];  // bytes, multiples of 16; stride[0] is not used
  int box[5];         // at most 256 / step
  int step[5];        // 1 to 8; step[0] is 1
  bool swizzled;
};
struct alignas(128) TensorMap {  // opaque; a kernel takes it by value, as `const __grid_constant__ gpu::TensorMap`
  uint64_t words[16];
};
Status tensor_map(TensorMap* map, const TensorView& view);

}  // namespace fastnn::gpu
