// Rows of a table by index, and the gradient of the table: indices are sorted (stably, by digits of 8 bits), and the
// gradients of each row of the table are added in that order, which makes the sums the same in every run. Bound by
// memory: 1024 threads on a multiprocessor.
#include "launchers.h"
#include "rows.h"

namespace fastnn::gpu {
namespace {

// ---- kernels ------------------------------------------------------------------------------------------------------

constexpr int kGatherBlock = 256;

// y[i] = table[indices[i]], rows of `units` units; a warp for each row. Indices are checked before, but not where a
// step is captured: there all bits of the row of a bad one are set, which is NaN.
template <class Unit>
__global__ void __launch_bounds__(kGatherBlock, 1024 / kGatherBlock)
    gather_kernel(const Unit* __restrict__ table, int64_t step, const int64_t* __restrict__ indices, int64_t n,
                  int64_t units, int64_t rows, Unit* __restrict__ y) {
  const int lane = threadIdx.x % 32;
  for (int64_t i = (int64_t(blockIdx.x) * kGatherBlock + threadIdx.x) / 32; i < n;
       i += int64_t(gridDim.x) * (kGatherBlock / 32)) {
    const int64_t row = indices[i];
    const bool there = uint64_t(row) < uint64_t(rows);
    const Unit* from = table + (there ? row : 0) * step;
    for (int64_t u = lane; u < units; u += 32) {
      if constexpr (sizeof(Unit) == 16)
        store(y[i * units + u].v, there ? load<4>(from[u].v) : Pack<uint32_t, 4>{{~0u, ~0u, ~0u, ~0u}});
      else
        y[i * units + u] = there ? from[u] : Unit(~Unit(0));
    }
  }
}

constexpr int kDigits = 256;
GPU_FN int digit_of(int64_t key, int shift) { return int(key >> shift) & (kDigits - 1); }

// counts[digit][tile]
__global__ void __launch_bounds__(kSortTile)
    count_kernel(const int64_t* __restrict__ keys, int64_t n, int shift, int* __restrict__ counts) {
  GPU_SHARED(int, histogram, [kDigits]);
  if (threadIdx.x < kDigits) histogram[threadIdx.x] = 0;
  __syncthreads();
  const int64_t i = int64_t(blockIdx.x) * kSortTile + threadIdx.x;
  if (i < n) atomicAdd(&histogram[digit_of(keys[i], shift)], 1);  // integers: the order does not matter
  __syncthreads();
  if (threadIdx.x < kDigits) counts[int64_t(threadIdx.x) * gridDim.x + blockIdx.x] = histogram[threadIdx.x];
}

// counts becomes the sums of what is before each; one block.
__global__ void __launch_bounds__(kSortTile) scan_kernel(int* __restrict__ counts, int64_t n) {
  GPU_SHARED(int, sums, [kSortTile / 32]);
  int before = 0;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  for (int64_t first = 0; first < n; first += kSortTile) {
    const int64_t i = first + threadIdx.x;
    const int own = i < n ? counts[i] : 0;
    int v = own;
#pragma unroll
    for (int o = 1; o < 32; o <<= 1) {
      const int other = __shfl_up_sync(~0u, v, o);
      if (lane >= o) v += other;
    }
    if (lane == 31) sums[warp] = v;
    __syncthreads();
    int total = 0;
    for (int w = 0; w < kSortTile / 32; ++w) {
      if (w == warp) v += total;
      total += sums[w];
    }
    if (i < n) counts[i] = before + v - own;
    before += total;
    __syncthreads();
  }
}

__global__ void __launch_bounds__(kSortTile)
    scatter_kernel(const int64_t* __restrict__ keys, const int64_t* __restrict__ positions, int64_t n, int shift,
                   const int* __restrict__ offsets, int64_t* __restrict__ keys_out,
                   int64_t* __restrict__ positions_out) {
  GPU_SHARED(unsigned char, digits, [kSortTile]);
  const int64_t i = int64_t(blockIdx.x) * kSortTile + threadIdx.x;
  const int64_t key = i < n ? keys[i] : 0;
  const int digit = digit_of(key, shift);
  digits[threadIdx.x] = (unsigned char)digit;
  __syncthreads();
  if (i >= n) return;
  int rank = 0;
  for (int t = 0; t < int(threadIdx.x); ++t) rank += digits[t] == digit;
  const int64_t to = offsets[int64_t(digit) * gridDim.x + blockIdx.x] + rank;
  keys_out[to] = key;
  positions_out[to] = positions ? positions[i] : i;
}

// Where each key begins and ends in the sorted keys; both are zero for keys that are not there.
__global__ void __launch_bounds__(kGatherBlock, 1024 / kGatherBlock)
    bounds_kernel(const int64_t* __restrict__ keys, int64_t n, int64_t rows, int64_t* __restrict__ begin,
                  int64_t* __restrict__ end) {
  const int64_t i = int64_t(blockIdx.x) * kGatherBlock + threadIdx.x;
  if (i >= n || uint64_t(keys[i]) >= uint64_t(rows)) return;
  if (i == 0 || keys[i - 1] != keys[i]) begin[keys[i]] = i;
  if (i == n - 1 || keys[i + 1] != keys[i]) end[keys[i]] = i + 1;
}

// A block for each row of the table: its warps take turns at the gradients, their lanes have columns.
template <class T, int N>
__global__ void __launch_bounds__(kGatherBlock, 1024 / kGatherBlock)
    sum_kernel(const T* __restrict__ grad, int64_t width, const int64_t* __restrict__ positions,
               const int64_t* __restrict__ begin, const int64_t* __restrict__ end, int64_t rows, int64_t padding,
               bool average, T* __restrict__ dw) {
  using S = Scalar<T>;
  constexpr int WARPS = kGatherBlock / 32;
  GPU_SHARED(S, sums, [WARPS][32 * N]);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  for (int64_t r = blockIdx.x; r < rows; r += gridDim.x) {
    const int64_t first = begin[r], last = r == padding ? first : end[r];
    const S factor = average && last > first ? S(1 / double(last - first)) : S(1);
    for (int64_t c0 = 0; c0 < width; c0 += 32 * N) {
      const int64_t c = c0 + lane * N;
      S sum[N] = {};
      if (c < width)
#pragma unroll 4
        for (int64_t i = first + warp; i < last; i += WARPS) {
          const Pack<T, N> g = load<N>(grad + positions[i] * width + c);
#pragma unroll
          for (int j = 0; j < N; ++j) sum[j] += widen(g[j]);
        }
#pragma unroll
      for (int j = 0; j < N; ++j) sums[warp][lane * N + j] = sum[j];
      __syncthreads();
      if (warp == 0 && c < width) {
        Pack<T, N> out;
#pragma unroll
        for (int j = 0; j < N; ++j) {
          S total = sums[0][lane * N + j];
          for (int w = 1; w < WARPS; ++w) total += sums[w][lane * N + j];
          out[j] = narrow<T>(total * factor);
        }
        store(dw + r * width + c, out);
      }
      __syncthreads();
    }
  }
}

struct alignas(16) Wide {
  uint32_t v[4];
};

template <class Unit>
Status gather(const void* table, int64_t step, int64_t rows, const int64_t* indices, int64_t n, int64_t bytes, void* y,
              Stream stream) {
  const int64_t blocks = ceil_div(n, int64_t(kGatherBlock / 32)), unit = int64_t(sizeof(Unit));
  return launch(gather_kernel<Unit>, dim3(unsigned(blocks < kMostBlocks ? blocks : kMostBlocks)), dim3(kGatherBlock), 0,
                stream, static_cast<const Unit*>(table), step / unit, indices, n, bytes / unit, rows,
                static_cast<Unit*>(y));
}

}  // namespace

// ---- launchers ----------------------------------------------------------------------------------------------------

Status embedding(const void* table, int64_t step, int64_t rows, const int64_t* indices, int64_t n, int64_t bytes,
                 int64_t item, void* y, Stream stream) {
  if (aligned(table, y) && step % 16 == 0 && bytes % 16 == 0)
    return gather<Wide>(table, step, rows, indices, n, bytes, y, stream);
  if (item == 8) return gather<uint64_t>(table, step, rows, indices, n, bytes, y, stream);
  if (item == 4) return gather<uint32_t>(table, step, rows, indices, n, bytes, y, stream);
  if (item == 2) return gather<uint16_t>(table, step, rows, indices, n, bytes, y, stream);
  return gather<uint8_t>(table, step, rows, indices, n, bytes, y, stream);
}

Status embedding_backward(DType dtype, const void* grad, int64_t width, const int64_t* indices, int64_t n, int64_t rows,
                          int64_t padding, bool average, int64_t* sorted, int* counts, int64_t* bounds, void* dw,
                          Stream stream) {
  const int64_t tiles = ceil_div(n, int64_t(kSortTile));
  const int64_t *keys = indices, *positions = nullptr;
  int64_t* to = sorted;
  Status status = fill(bounds, 0, size_t(2 * rows) * sizeof(int64_t), stream);
  for (int shift = 0; n > 0 && (shift == 0 || (rows - 1) >> shift > 0); shift += 8) {
    const dim3 grid(static_cast<unsigned>(tiles)), block(kSortTile);
    if (!status) status = launch(count_kernel, grid, block, 0, stream, keys, n, shift, counts);
    if (!status) status = launch(scan_kernel, dim3(1), block, 0, stream, counts, tiles * kDigits);
    if (!status) status = launch(scatter_kernel, grid, block, 0, stream, keys, positions, n, shift, counts, to, to + n);
    keys = to;
    positions = to + n;
    to = to == sorted ? sorted + 2 * n : sorted;
  }
  if (!status)
    status = launch(bounds_kernel, dim3(unsigned(ceil_div(n, int64_t(kGatherBlock)))), dim3(kGatherBlock), 0, stream,
                    keys, n, rows, bounds, bounds + rows);
  if (status) return status;
  visit_float(dtype, [&]<class T>(T*) {
    auto run = [&]<int N>(Count<N>) {
      status = launch(sum_kernel<T, N>, dim3(unsigned(rows < kMostBlocks ? rows : kMostBlocks)), dim3(kGatherBlock), 0,
                      stream, static_cast<const T*>(grad), width, positions, bounds, bounds + rows, rows, padding,
                      average, static_cast<T*>(dw));
    };
    wide_rows<T>(width, grad, dw) ? run(Count<kPack<T>>()) : run(Count<1>());
  });
  return status;
}

}  // namespace fastnn::gpu
