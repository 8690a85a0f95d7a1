// What the emulation must report, and what it must not.
#include <cstdio>

#include "../ptx.h"

using namespace fastnn;

namespace {

template <class T>
__global__ void __launch_bounds__(256) relu_kernel(const T* __restrict__ x, T* __restrict__ y, int n) {
  constexpr int N = gpu::kPack<T>;
  const int i = int(blockIdx.x * blockDim.x + threadIdx.x) * N;
  if (i + N <= n) {
    float v[N];
    gpu::load_float(v, x + i);
#pragma unroll
    for (int j = 0; j < N; ++j) v[j] = fmaxf(v[j], 0.0f);
    gpu::store_float(y + i, v);
  } else {
    for (int j = i; j < n; ++j) y[j] = gpu::from_float<T>(fmaxf(gpu::to_float(x[j]), 0.0f));
  }
}

// One 16x16x8 product by a warp: shared memory by cp.async, ldmatrix, mma.
__global__ void product_kernel(const bf16* a, const bf16* b, float* d) {
  GPU_DYNAMIC_SHARED(bytes);
  GPU_SHARED(bf16, tile, [16][16]);
  bf16* columns = reinterpret_cast<bf16*>(bytes);
  const int lane = int(threadIdx.x);
  ptx::cp_async<16>(ptx::shared_address(&tile[lane / 2][lane % 2 * 8]), a + lane * 8);
  if (lane < 16) ptx::cp_async<16>(ptx::shared_address(columns + lane * 8), b + lane * 8);
  ptx::cp_async_commit();
  ptx::cp_async_wait<0>();
  __syncwarp();
  uint32_t x[4], y[2];
  ptx::ldmatrix(x, ptx::shared_address(&tile[lane % 16][lane / 16 * 8]));
  ptx::ldmatrix_trans(y, ptx::shared_address(columns + lane % 16 * 8));
  float c[4] = {};
  ptx::mma<bf16>(c, x, y[0], y[1]);
  for (int i = 0; i < 4; ++i) d[(lane / 4 + i / 2 * 8) * 8 + lane % 4 * 2 + i % 2] = c[i];
}

}  // namespace

int main() {
  const int n = 1003;
  float x[n], y[n];
  for (int i = 0; i < n; ++i) x[i] = float(i % 7 - 3);
  void *dx, *dy;
  gpu::allocate(&dx, sizeof x);
  gpu::allocate(&dy, sizeof y);
  gpu::copy_to_device(dx, x, sizeof x, nullptr);
  gpu::Status s =
      gpu::launch(relu_kernel<float>, gpu::ceil_div(n, 1024), 256, 0, nullptr, (const float*)dx, (float*)dy, n);
  gpu::copy_to_host(y, dy, sizeof y, nullptr);
  int wrong = s != 0;
  for (int i = 0; i < n; ++i) wrong += y[i] != (x[i] > 0 ? x[i] : 0);
  bf16 a[256], b[128];
  for (int i = 0; i < 256; ++i) a[i] = bf16{uint16_t(i % 5 ? 0x3f80 : 0xc000)};
  for (int i = 0; i < 128; ++i) b[i] = bf16{uint16_t(i % 3 ? 0x4000 : 0x3f80)};
  void *da, *db, *dd;
  gpu::allocate(&da, sizeof a);
  gpu::allocate(&db, sizeof b);
  gpu::allocate(&dd, 512);
  gpu::copy_to_device(da, a, sizeof a, nullptr);
  gpu::copy_to_device(db, b, sizeof b, nullptr);
  s = gpu::launch(product_kernel, 1, 32, 256, nullptr, (const bf16*)da, (const bf16*)db, (float*)dd);
  float d[128];
  gpu::copy_to_host(d, dd, sizeof d, nullptr);
  wrong += s != 0;
  for (int i = 0; i < 128; ++i) {
    float want = 0;
    for (int k = 0; k < 16; ++k) want += ((i / 8 * 16 + k) % 5 ? 1.0f : -2.0f) * ((k * 8 + i % 8) % 3 ? 2.0f : 1.0f);
    wrong += d[i] != want;
  }
  std::printf("%d wrong: %s\n", wrong, gpu::error_string(s));
  return wrong != 0;
}
