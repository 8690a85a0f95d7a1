// Sums over a whole array in two steps, in an order that the shape alone determines: blocks leave partial sums, one
// block adds them.
#pragma once
#include "rows.h"

namespace fastnn::gpu {

constexpr int kPartialBlock = 256;

// The sum over the block to partial[blockIdx.x]; all threads call it, and may again. `shared` has a place per warp.
template <int THREADS, class S>
GPU_FN void store_partial(S value, S* shared, double* partial) {
  value = group_sum<THREADS / 32>(value, shared);
  if (threadIdx.x == 0) partial[blockIdx.x] = double(value);
}

// *out = sum of n partial sums, divided by *divisor or, where that is null, by `divide`.
template <class T>
__global__ void __launch_bounds__(kPartialBlock)
    finish_kernel(const double* __restrict__ partial, int n, const double* divisor, double divide, T* out) {
  GPU_SHARED(double, shared, [kPartialBlock / 32]);
  double sum = 0;
  for (int i = threadIdx.x; i < n; i += kPartialBlock) sum += partial[i];
  sum = group_sum<kPartialBlock / 32>(sum, shared);
  if (threadIdx.x == 0) {
    sum /= divisor ? *divisor : divide;
    if constexpr (sizeof(T) == 8)
      *out = sum;
    else
      *out = narrow<T>(float(sum));
  }
}

inline Status finish(const double* partial, unsigned n, const double* divisor, double divide, DType dtype, void* out,
                     Stream stream) {
  Status status = 0;
  visit_float(dtype, [&]<class T>(T*) {
    status = launch(finish_kernel<T>, dim3(1), dim3(kPartialBlock), 0, stream, partial, int(n), divisor, divide,
                    static_cast<T*>(out));
  });
  return status;
}

// The grid of a kernel that leaves partial sums.
inline dim3 partial_grid(int64_t n, int64_t per_block) {
  const int64_t blocks = ceil_div(n, per_block);
  return dim3(unsigned(blocks < kPartials ? blocks : kPartials));
}

}  // namespace fastnn::gpu
