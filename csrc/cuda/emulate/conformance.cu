// One kernel per instruction wrapper, run by one warp on data of the caller: the tests compare with what the PTX ISA
// manual says, under emulation and, where there is one, on a GPU. Returns 0, or a status of the launch.
#include "../ptx.h"
#include "conformance.h"

using namespace fastnn;

namespace {

template <class T>
__global__ void mma_kernel(const uint32_t* a, const uint32_t* b, const float* c, float* d) {
  const int lane = int(threadIdx.x);
  uint32_t x[4];
  float y[4];
  for (int i = 0; i < 4; ++i) {
    x[i] = a[lane * 4 + i];
    y[i] = c[lane * 4 + i];
  }
  ptx::mma<T>(y, x, b[lane * 2], b[lane * 2 + 1]);
  for (int i = 0; i < 4; ++i) d[lane * 4 + i] = y[i];
}

// `rows`: per lane the byte offset of a row in `data`, which has 64 words.
template <int N, bool TRANSPOSED>
__global__ void ldmatrix_kernel(const uint32_t* data, const uint32_t* rows, uint32_t* r) {
  GPU_SHARED(uint32_t, shared, [256]);
  const int lane = int(threadIdx.x);
  for (int i = lane; i < 256; i += 32) shared[i] = data[i];
  __syncwarp();
  uint32_t x[N];
  const uint32_t row = ptx::shared_address(shared) + rows[lane];
  if (TRANSPOSED)
    ptx::ldmatrix_trans(x, row);
  else
    ptx::ldmatrix(x, row);
  for (int i = 0; i < N; ++i) r[lane * N + i] = x[i];
}

// Copies bytes[lane] of N bytes; what lies after them in shared memory must stay as it was.
template <int N>
__global__ void cp_async_kernel(const unsigned char* from, const int* bytes, unsigned char* to) {
  GPU_SHARED(unsigned char, shared, [32 * 32]);
  const int lane = int(threadIdx.x);
  for (int i = lane; i < 1024; i += 32) shared[i] = 0xee;
  __syncwarp();
  ptx::cp_async<N>(ptx::shared_address(shared + lane * 32), from + lane * 16, bytes[lane]);
  ptx::cp_async_commit();
  ptx::cp_async_wait<0>();
  __syncwarp();
  for (int i = lane; i < 1024; i += 32) to[i] = shared[i];
}

// Three groups in flight: after wait<2> the first is there, after wait<1> the second.
__global__ void cp_async_group_kernel(const uint32_t* from, uint32_t* to) {
  GPU_SHARED(uint32_t, shared, [3][32]);
  const int lane = int(threadIdx.x);
  for (int i = 0; i < 3; ++i) {
    ptx::cp_async<4>(ptx::shared_address(&shared[i][lane]), from + i * 32 + lane);
    ptx::cp_async_commit();
  }
  ptx::cp_async_wait<2>();
  to[lane] = shared[0][lane];
  ptx::cp_async_wait<1>();
  to[32 + lane] = shared[1][lane];
  ptx::cp_async_wait<0>();
  to[64 + lane] = shared[2][lane];
}

__global__ void shuffle_kernel(int kind, int argument, int width, const uint32_t* from, uint32_t* to) {
  const uint32_t v = from[threadIdx.x];
  uint32_t r = 0;
  if (kind == 0) r = __shfl_sync(~0u, v, argument, width);
  if (kind == 1) r = __shfl_up_sync(~0u, v, unsigned(argument), width);
  if (kind == 2) r = __shfl_down_sync(~0u, v, unsigned(argument), width);
  if (kind == 3) r = __shfl_xor_sync(~0u, v, argument, width);
  to[threadIdx.x] = r;
}

__global__ void vote_kernel(const uint32_t* from, uint32_t* to) {
  const int p = int(from[threadIdx.x]);
  uint32_t* mine = to + threadIdx.x * 6;
  mine[0] = __ballot_sync(~0u, p);
  mine[1] = uint32_t(__any_sync(~0u, p) != 0);
  mine[2] = uint32_t(__all_sync(~0u, p) != 0);
  mine[3] = uint32_t(__syncthreads_count(p));
  mine[4] = uint32_t(__syncthreads_or(p) != 0);
  mine[5] = uint32_t(__syncthreads_and(p) != 0);
}

// to[0..8]: what 32 lanes make of eight words by eight atomics and by counting themselves.
__global__ void atomic_kernel(const int* from, int* to) {
  const int v = from[threadIdx.x];
  atomicAdd(to, v);
  atomicMax(to + 1, v);
  atomicMin(to + 2, v);
  atomicOr(to + 3, v);
  atomicAnd(to + 4, v);
  atomicCAS(to + 5, 0, v);
  atomicExch(to + 6, v);
  atomicAdd(reinterpret_cast<float*>(to + 7), float(v));
  if (threadIdx.x == 0) to[8] = int(gpu::count_block(reinterpret_cast<unsigned*>(to + 9)));
}

template <class T>
__global__ void convert_kernel(const float* from, uint16_t* bits, float* back, int n) {
  for (int i = int(threadIdx.x); i < n; i += 32) {
    const T x = gpu::from_float<T>(from[i]);
    bits[i] = x.bits;
    back[i] = gpu::to_float(x);
  }
}
template <class T>
__global__ void widen_kernel(const T* from, float* to, int n) {
  for (int i = int(threadIdx.x); i < n; i += 32) to[i] = gpu::to_float(from[i]);
}
__global__ void tf32_kernel(const float* from, uint32_t* to, int n) {
  for (int i = int(threadIdx.x); i < n; i += 32) to[i] = ptx::to_tf32(from[i]);
}

// A copy in pieces of N elements, through float, by accesses of up to 16 bytes.
template <class T, int N>
__global__ void pack_kernel(const T* from, T* to) {
  float v[N];
  gpu::load_float(v, from + int(threadIdx.x) * N);
  gpu::store_float(to + int(threadIdx.x) * N, v);
  const auto p = gpu::load_once<gpu::kPack<T>>(from + int(threadIdx.x) * gpu::kPack<T>);
  gpu::store_once(to + 32 * N + int(threadIdx.x) * gpu::kPack<T>, p);
}

// The second warp hands 32 words to the first, through a barrier where it does not wait.
__global__ void named_barrier_kernel(const uint32_t* from, uint32_t* to) {
  GPU_SHARED(uint32_t, shared, [32]);
  const int lane = int(threadIdx.x) % 32;
  if (threadIdx.x >= 32) {
    shared[lane] = from[lane];
    ptx::barrier_arrive(1, 64);
  } else {
    ptx::barrier_sync(1, 64);
    to[lane] = shared[31 - lane];
  }
}

__global__ void increment_kernel(uint32_t* words) { words[threadIdx.x] += 1; }

// Kernels of one warp (two for the named barrier) that take pointers, then sizes.
template <class... P, class... A>
gpu::Status run(void (*kernel)(P...), int threads, std::initializer_list<Array> arrays, A... rest) {
  return with_device(arrays, [&](void** p) {
    if constexpr (sizeof...(P) - sizeof...(A) == 2)
      return gpu::launch(kernel, 1, unsigned(threads), 0, nullptr, p[0], p[1], rest...);
    else if constexpr (sizeof...(P) - sizeof...(A) == 3)
      return gpu::launch(kernel, 1, unsigned(threads), 0, nullptr, p[0], p[1], p[2], rest...);
    else
      return gpu::launch(kernel, 1, unsigned(threads), 0, nullptr, p[0], p[1], p[2], p[3], rest...);
  });
}

}  // namespace

extern "C" {

const char* error_string(int status) { return gpu::error_string(status); }
int device_count() {
  int n = 0;
  return gpu::device_count(&n) ? 0 : n;
}

int mma(int type, void* a, void* b, void* c, void* d) {
  const std::initializer_list<Array> arrays = {{a, 512}, {b, 256}, {c, 512}, {d, 512}};
  if (type == 0) return run(mma_kernel<float>, 32, arrays);
  return type == 1 ? run(mma_kernel<bf16>, 32, arrays) : run(mma_kernel<f16>, 32, arrays);
}
int ldmatrix(int count, int transposed, void* data, void* rows, void* r) {
  const std::initializer_list<Array> arrays = {{data, 1024}, {rows, 128}, {r, size_t(count) * 128}};
  if (count == 1)
    return transposed ? run(ldmatrix_kernel<1, true>, 32, arrays) : run(ldmatrix_kernel<1, false>, 32, arrays);
  if (count == 2)
    return transposed ? run(ldmatrix_kernel<2, true>, 32, arrays) : run(ldmatrix_kernel<2, false>, 32, arrays);
  return transposed ? run(ldmatrix_kernel<4, true>, 32, arrays) : run(ldmatrix_kernel<4, false>, 32, arrays);
}
int cp_async(int n, void* from, void* bytes, void* to) {
  const std::initializer_list<Array> arrays = {{from, 512}, {bytes, 128}, {to, 1024}};
  if (n == 4) return run(cp_async_kernel<4>, 32, arrays);
  return n == 8 ? run(cp_async_kernel<8>, 32, arrays) : run(cp_async_kernel<16>, 32, arrays);
}
int cp_async_groups(void* from, void* to) { return run(cp_async_group_kernel, 32, {{from, 384}, {to, 384}}); }
int shuffle(int kind, int argument, int width, void* from, void* to) {
  return with_device({{from, 128}, {to, 128}}, [&](void** p) {
    return gpu::launch(shuffle_kernel, 1, 32, 0, nullptr, kind, argument, width, static_cast<uint32_t*>(p[0]),
                       static_cast<uint32_t*>(p[1]));
  });
}
int vote(void* from, void* to) { return run(vote_kernel, 32, {{from, 128}, {to, 32 * 6 * 4}}); }
int atomics(void* from, void* to) { return run(atomic_kernel, 32, {{from, 128}, {to, 40}}); }
int convert(int type, void* from, void* bits, void* back, int n) {
  gpu::Status status = 0;
  for (int i = 0; i < 2 && !status; ++i) {  // once for each result
    const size_t m = size_t(n);
    void* unused = i ? bits : back;
    status = with_device({{from, m * 4}, {unused, m * (i ? 2 : 4)}, {i ? back : bits, m * (i ? 4 : 2)}}, [&](void** p) {
      auto* b = static_cast<uint16_t*>(p[i ? 1 : 2]);
      auto* f = static_cast<float*>(p[i ? 2 : 1]);
      return type == 1 ? gpu::launch(convert_kernel<bf16>, 1, 32, 0, nullptr, static_cast<float*>(p[0]), b, f, n)
                       : gpu::launch(convert_kernel<f16>, 1, 32, 0, nullptr, static_cast<float*>(p[0]), b, f, n);
    });
  }
  return status;
}
int widen(int type, void* from, void* to, int n) {
  const std::initializer_list<Array> arrays = {{from, size_t(n) * 2}, {to, size_t(n) * 4}};
  return type == 1 ? run(widen_kernel<bf16>, 32, arrays, n) : run(widen_kernel<f16>, 32, arrays, n);
}
int to_tf32(void* from, void* to, int n) {
  return run(tf32_kernel, 32, {{from, size_t(n) * 4}, {to, size_t(n) * 4}}, n);
}
int pack(int type, int n, void* from, void* to, int bytes, int to_bytes) {
  const std::initializer_list<Array> arrays = {{from, size_t(bytes)}, {to, size_t(to_bytes)}};
  if (type == 0) return n == 2 ? run(pack_kernel<float, 2>, 32, arrays) : run(pack_kernel<float, 8>, 32, arrays);
  if (type == 1) return n == 2 ? run(pack_kernel<bf16, 2>, 32, arrays) : run(pack_kernel<bf16, 8>, 32, arrays);
  return n == 2 ? run(pack_kernel<f16, 2>, 32, arrays) : run(pack_kernel<f16, 8>, 32, arrays);
}
int named_barrier(void* from, void* to) { return run(named_barrier_kernel, 64, {{from, 128}, {to, 128}}); }

// A graph of two kernels that each add 1, launched `times` times.
int graph(int times, void* words) {
  return with_device({{words, 128}}, [&](void** p) {
    gpu::Stream stream;
    gpu::Graph graph;
    gpu::Status status = gpu::stream_create(&stream);
    if (!status) status = gpu::capture_begin(stream);
    for (int i = 0; i < 2 && !status; ++i)
      status = gpu::launch(increment_kernel, 1, 32, 0, stream, static_cast<uint32_t*>(p[0]));
    if (!status) status = gpu::capture_end(stream, &graph);
    for (int i = 0; i < times && !status; ++i) status = gpu::graph_launch(graph, stream);
    if (!status) status = gpu::synchronize(stream);
    if (!status) status = gpu::graph_destroy(graph);
    if (!status) status = gpu::stream_destroy(stream);
    return status;
  });
}
}
