// conformance.cu for the instructions of ptx_sm90.h.
#include "../ptx_sm90.h"
#include "conformance.h"

using namespace fastnn;

namespace {

struct Coordinates {
  int at[4];
};

// The box at these coordinates, as it lies in shared memory.
__global__ void tma_kernel(const __grid_constant__ gpu::TensorMap map, int rank, Coordinates c, int bytes,
                           unsigned char* to) {
  GPU_DYNAMIC_SHARED(shared);
  GPU_SHARED(uint64_t, mbarriers, [1]);
  const uint32_t mbarrier = ptx::shared_address(mbarriers), box = ptx::shared_address(shared);
  if (threadIdx.x == 0) {
    ptx::mbarrier_init(mbarrier, 1);
    ptx::fence_mbarrier_init();
  }
  __syncthreads();
  if (threadIdx.x == 0) {
    ptx::mbarrier_expect(mbarrier, bytes);
    if (rank == 2) ptx::tma_load(box, &map, c.at[0], c.at[1], mbarrier);
    if (rank == 3) ptx::tma_load(box, &map, c.at[0], c.at[1], c.at[2], mbarrier);
    if (rank == 4) ptx::tma_load(box, &map, c.at[0], c.at[1], c.at[2], c.at[3], mbarrier);
  }
  ptx::mbarrier_wait(mbarrier, 0);
  for (int i = int(threadIdx.x); i < bytes; i += int(blockDim.x)) to[i] = shared[i];
}

// Bytes between 8 rows (or 8 of k), between 64 of m or n, and to the next K elements.
struct Layout {
  int stride, leading, step;
};

// d += a b, where a and b are 64 wide in k (32 for tf32) and come as they lie in shared memory.
template <class T, int N, bool M_MAJOR, bool N_MAJOR>
__global__ void __launch_bounds__(128)
    wgmma_kernel(const uint32_t* a, const uint32_t* b, float* d, Layout la, Layout lb) {
  GPU_DYNAMIC_SHARED(shared);
  auto* words = reinterpret_cast<uint32_t*>(shared);
  const int t = int(threadIdx.x);
  for (int i = t; i < 2048; i += 128) words[i] = a[i];
  for (int i = t; i < N * 32; i += 128) words[2048 + i] = b[i];
  ptx::fence_async_proxy();
  __syncthreads();
  float x[N / 2];
#pragma unroll
  for (int i = 0; i < N / 2; ++i) x[i] = d[t * (N / 2) + i];
  const uint32_t address = ptx::shared_address(shared);
  ptx::wgmma_fence();
#pragma unroll
  for (int k = 0; k < 4; ++k)
    ptx::wgmma<T, N, M_MAJOR, N_MAJOR>(x, ptx::descriptor(address + k * la.step, la.stride, la.leading),
                                       ptx::descriptor(address + 8192 + k * lb.step, lb.stride, lb.leading));
  ptx::wgmma_commit();
  ptx::wgmma_wait<0>();
#pragma unroll
  for (int i = 0; i < N / 2; ++i) d[t * (N / 2) + i] = x[i];
}

template <class T, int N>
gpu::Status wgmma_of(bool m_major, bool n_major, void** p, Layout la, Layout lb) {
  auto run = [&](auto kernel) {
    return gpu::launch(kernel, 1, 128, 8192 + N * 128, nullptr, static_cast<uint32_t*>(p[0]),
                       static_cast<uint32_t*>(p[1]), static_cast<float*>(p[2]), la, lb);
  };
  if constexpr (sizeof(T) == 2) {
    if (m_major && n_major) return run(wgmma_kernel<T, N, true, true>);
    if (m_major) return run(wgmma_kernel<T, N, true, false>);
    if (n_major) return run(wgmma_kernel<T, N, false, true>);
  }
  return run(wgmma_kernel<T, N, false, false>);
}
template <class T>
gpu::Status wgmma_of(int n, bool m_major, bool n_major, void** p, Layout la, Layout lb) {
  if (n == 64) return wgmma_of<T, 64>(m_major, n_major, p, la, lb);
  return n == 128 ? wgmma_of<T, 128>(m_major, n_major, p, la, lb) : wgmma_of<T, 256>(m_major, n_major, p, la, lb);
}

}  // namespace

extern "C" {

int tma(int type, int rank, const int64_t* size, const int64_t* stride, const int* box, const int* step, int swizzled,
        const int* at, void* data, int data_bytes, void* to, int to_bytes) {
  return with_device({{data, size_t(data_bytes)}, {to, size_t(to_bytes)}}, [&](void** p) {
    gpu::TensorView view{p[0], DType(type), rank, {}, {}, {}, {}, swizzled != 0};
    Coordinates c{};
    for (int i = 0; i < rank; ++i) {
      view.size[i] = size[i];
      view.stride[i] = stride[i];
      view.box[i] = box[i];
      view.step[i] = step[i];
      c.at[i] = at[i];
    }
    gpu::TensorMap map;
    if (gpu::Status s = gpu::tensor_map(&map, view)) return s;
    return gpu::launch(tma_kernel, 1, 64, size_t(to_bytes), nullptr, map, rank, c, to_bytes,
                       static_cast<unsigned char*>(p[1]));
  });
}

int wgmma(int type, int n, int m_major, int n_major, const int* layout_a, const int* layout_b, void* a, void* b,
          void* d) {
  const Layout la{layout_a[0], layout_a[1], layout_a[2]}, lb{layout_b[0], layout_b[1], layout_b[2]};
  return with_device({{a, 8192}, {b, size_t(n) * 128}, {d, size_t(n) * 256}}, [&](void** p) {
    if (type == 0) return wgmma_of<float>(n, false, false, p, la, lb);
    return type == 1 ? wgmma_of<bf16>(n, m_major, n_major, p, la, lb) : wgmma_of<f16>(n, m_major, n_major, p, la, lb);
  });
}
}
