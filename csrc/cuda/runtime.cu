// runtime.h with CUDA.
#include <cuda.h>
#include <cuda_runtime.h>

#include <cstring>

#include "runtime.h"

namespace fastnn::gpu {

namespace {
cudaStream_t cuda(Stream s) { return static_cast<cudaStream_t>(s); }
cudaEvent_t event_of(Event e) { return static_cast<cudaEvent_t>(e); }
}  // namespace

const char* error_string(Status status) { return cudaGetErrorString(cudaError_t(status)); }
Status device_count(int* count) { return cudaGetDeviceCount(count); }
Status set_device(int device) { return cudaSetDevice(device); }

Status device_info(int device, DeviceInfo* info) {
  cudaDeviceProp p;
  if (cudaError_t e = cudaGetDeviceProperties(&p, device)) return e;
  *info = {};
  std::strncpy(info->name, p.name, sizeof info->name - 1);
  info->memory = p.totalGlobalMem;
  info->shared_per_block = p.sharedMemPerBlockOptin;
  info->shared_per_multiprocessor = p.sharedMemPerMultiprocessor;
  info->l2 = size_t(p.l2CacheSize);
  info->multiprocessors = p.multiProcessorCount;
  info->major = p.major;
  info->minor = p.minor;
  info->memory_bus_bits = p.memoryBusWidth;
  if (cudaError_t e = cudaDeviceGetAttribute(&info->clock_khz, cudaDevAttrClockRate, device)) return e;
  return cudaDeviceGetAttribute(&info->memory_clock_khz, cudaDevAttrMemoryClockRate, device);
}

Status memory_info(size_t* free, size_t* total) { return cudaMemGetInfo(free, total); }
Status allocate(void** p, size_t bytes) { return cudaMalloc(p, bytes ? bytes : 1); }
Status release(void* p) { return cudaFree(p); }

Status copy_to_device(void* to, const void* from, size_t bytes, Stream stream) {
  return cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, cuda(stream));
}
Status copy_to_host(void* to, const void* from, size_t bytes, Stream stream) {
  if (cudaError_t e = cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, cuda(stream))) return e;
  return cudaStreamSynchronize(cuda(stream));
}
Status copy_device(void* to, const void* from, size_t bytes, Stream stream) {
  return cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, cuda(stream));
}
Status fill(void* p, int byte, size_t bytes, Stream stream) { return cudaMemsetAsync(p, byte, bytes, cuda(stream)); }
Status synchronize(Stream stream) { return cudaStreamSynchronize(cuda(stream)); }

Status stream_create(Stream* stream) {
  return cudaStreamCreateWithFlags(reinterpret_cast<cudaStream_t*>(stream), cudaStreamNonBlocking);
}
Status stream_destroy(Stream stream) { return cudaStreamDestroy(cuda(stream)); }
Status event_create(Event* event) { return cudaEventCreate(reinterpret_cast<cudaEvent_t*>(event)); }
Status event_destroy(Event event) { return cudaEventDestroy(event_of(event)); }
Status event_record(Event event, Stream stream) { return cudaEventRecord(event_of(event), cuda(stream)); }
Status event_wait(Stream stream, Event event) { return cudaStreamWaitEvent(cuda(stream), event_of(event), 0); }
Status event_milliseconds(float* elapsed, Event begin, Event end) {
  if (cudaError_t e = cudaEventSynchronize(event_of(end))) return e;
  return cudaEventElapsedTime(elapsed, event_of(begin), event_of(end));
}

Status capture_begin(Stream stream) { return cudaStreamBeginCapture(cuda(stream), cudaStreamCaptureModeRelaxed); }
Status capture_end(Stream stream, Graph* graph) {
  cudaGraph_t captured;
  if (cudaError_t e = cudaStreamEndCapture(cuda(stream), &captured)) return e;
  cudaGraphExec_t ready;
  const cudaError_t e = cudaGraphInstantiate(&ready, captured, 0);
  cudaGraphDestroy(captured);
  *graph = e ? nullptr : ready;
  return e;
}
Status graph_launch(Graph graph, Stream stream) {
  return cudaGraphLaunch(static_cast<cudaGraphExec_t>(graph), cuda(stream));
}
Status graph_destroy(Graph graph) { return cudaGraphExecDestroy(static_cast<cudaGraphExec_t>(graph)); }

Status tensor_map(TensorMap* map, const TensorView& view) {
  static_assert(sizeof(TensorMap) == sizeof(CUtensorMap) && alignof(TensorMap) >= alignof(CUtensorMap));
  // From the driver at run time: nothing links to it, so that the library loads where there is none.
  static const auto encode = [] {
    void* f = nullptr;
    cudaDriverEntryPointQueryResult found;
    const cudaError_t e =
        cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &f, 12000, cudaEnableDefault, &found);
    return reinterpret_cast<decltype(&cuTensorMapEncodeTiled)>(e || found != cudaDriverEntryPointSuccess ? nullptr : f);
  }();
  if (!encode) return cudaErrorNotSupported;
  cuuint64_t size[5], stride[4];
  cuuint32_t box[5], step[5];
  for (int i = 0; i < view.rank; ++i) {
    size[i] = cuuint64_t(view.size[i]);
    if (i) stride[i - 1] = cuuint64_t(view.stride[i]);
    box[i] = cuuint32_t(view.box[i] * view.step[i]);
    step[i] = cuuint32_t(view.step[i]);
  }
  const CUtensorMapDataType type = view.dtype == DType::f32    ? CU_TENSOR_MAP_DATA_TYPE_FLOAT32
                                   : view.dtype == DType::bf16 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16
                                                               : CU_TENSOR_MAP_DATA_TYPE_FLOAT16;
  const CUresult r = encode(reinterpret_cast<CUtensorMap*>(map), type, cuuint32_t(view.rank),
                            const_cast<void*>(view.data), size, stride, box, step, CU_TENSOR_MAP_INTERLEAVE_NONE,
                            view.swizzled ? CU_TENSOR_MAP_SWIZZLE_128B : CU_TENSOR_MAP_SWIZZLE_NONE,
                            CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  return r == CUDA_SUCCESS ? cudaSuccess : cudaErrorInvalidValue;
}

}  // namespace fastnn::gpu
