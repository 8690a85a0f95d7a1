// Gradients of the weights of 2-d convolutions, as products over all pixels of y with an operand that is gathered from
// the images, see conv2d.cu. k counts pixels; it is split where the grid is small, and the parts are added in order.
#include "conv2d.h"
#include "gemm_mma.h"
#include "gemm_simt.h"

namespace fastnn::gpu {
namespace {

// ---- kernels ------------------------------------------------------------------------------------------------------

struct Parameters {
  Plan plan;
  int outputs, taps, pixels;  // m, n, k; taps: with their channels
  Images images;
  const void *x, *dy;
  int64_t dy_image, dy_channel, dy_row, dy_column;
  Output out;
  void* partial;
};

// Copies tiles of x, row-major: rows are taps and channels, k are pixels of y.
template <class T, int ROWS, int THREADS>
class TapLoader {
 public:
  static constexpr int kPerLine = ROWS * int(sizeof(T)) / 16, kChunks = ROWS * 4 / THREADS, kLines = THREADS / kPerLine;

  GPU_FN TapLoader(const T* x, const Images& images, int first)
      : data_(x), images_(images), tap_(images, first + int(threadIdx.x) % kPerLine * kPack<T>) {}
  GPU_FN void operator()(unsigned char* to, int k) const {
#pragma unroll
    for (int i = 0; i < kChunks; ++i) {
      const int line = int(threadIdx.x) / kPerLine + i * kLines;
      const T* from = images_.element(data_, Pixel(images_, k + line), tap_);
      const uint32_t offset = k_row_offset<T, ROWS>(line, int(threadIdx.x) % kPerLine);
      ptx::cp_async<16>(ptx::shared_address(to + offset), from ? from : data_, from ? 16 : 0);
    }
  }

 private:
  const T* data_;
  const Images& images_;
  const Tap tap_;
};

template <class T, class Tile>
__global__ void __launch_bounds__(Tile::kThreads, kMmaBlocks<T, Tile, false>)
    mma_kernel(const __grid_constant__ Parameters p) {
  GPU_DYNAMIC_SHARED(shared);
  const Place place(p.plan, blockIdx.x);
  const int i0 = place.tile_m * Tile::M, j0 = place.tile_n * Tile::N, group = int(place.batch);
  const MatrixLoader<T, false, Tile::M, Tile::kThreads> outputs(
      static_cast<const T*>(p.dy) + int64_t(group) * p.outputs, p.dy_column, i0, p.outputs, p.pixels, true);
  const TapLoader<T, Tile::N, Tile::kThreads> taps(static_cast<const T*>(p.x) + group * p.images.x_group, p.images, j0);
  Mma<T, Tile, false, false> mma;
  pipeline<Tile::kStageBytes>(
      shared, place.first_k_tile(p.plan), place.k_tiles(p.plan, p.pixels, kDepth<T>),
      [&](unsigned char* stage, int tile) {
        outputs(stage, tile * kDepth<T>);
        taps(stage + Tile::kBytesA, tile * kDepth<T>);
      },
      mma);
  float* sums = reinterpret_cast<float*>(shared);
  mma.store_sums(sums);
  __syncthreads();
  write_tile<T, float, Tile::M, Tile::N, Tile::kThreads>(
      int(threadIdx.x), sums, p.out,
      place.partial<float>(p.plan, p.partial, p.images.groups, int64_t(p.outputs) * p.taps), p.outputs, p.taps, i0, j0,
      place.batch);
}

// `along_k`: pixels are neighbours, not channels.
template <class Tile>
__global__ void __launch_bounds__(Tile::kThreads, Tile::kBlocks)
    simt_kernel(const __grid_constant__ Parameters p, const bool along_k) {
  using T = typename Tile::T;
  GPU_DYNAMIC_SHARED(shared);
  const Place place(p.plan, blockIdx.x);
  const int i0 = place.tile_m * Tile::M, j0 = place.tile_n * Tile::N, group = int(place.batch);
  const T* x = static_cast<const T*>(p.x) + group * p.images.x_group;
  const T* dy = static_cast<const T*>(p.dy) + int64_t(group) * p.outputs * p.dy_channel;
  Simt<Tile> simt;
  pipeline<Tile::kStageBytes>(
      shared, place.first_k_tile(p.plan), place.k_tiles(p.plan, p.pixels, kDepth<T>),
      [&](unsigned char* stage, int tile) {
        copy_elements_of_tile<T, Tile::M, Tile::kThreads>(
            reinterpret_cast<T*>(stage), dy, along_k, [&](int row, int k) -> const T* {
              const Pixel pixel(p.images, tile * kDepth<T> + k);
              if (!pixel.there || i0 + row >= p.outputs) return nullptr;
              return dy + pixel.image * p.dy_image + pixel.row * p.dy_row + pixel.column * p.dy_column +
                     (i0 + row) * p.dy_channel;
            });
        copy_elements_of_tile<T, Tile::N, Tile::kThreads>(
            reinterpret_cast<T*>(stage + Tile::kBytesA), x, along_k, [&](int row, int k) -> const T* {
              return p.images.element(x, Pixel(p.images, tile * kDepth<T> + k), Tap(p.images, j0 + row));
            });
      },
      simt);
  T* sums = reinterpret_cast<T*>(shared);
  simt.store_sums(sums);
  __syncthreads();
  write_tile<T, T, Tile::M, Tile::N, Tile::kThreads>(
      int(threadIdx.x), sums, p.out, place.partial<T>(p.plan, p.partial, p.images.groups, int64_t(p.outputs) * p.taps),
      p.outputs, p.taps, i0, j0, place.batch);
}

// Depthwise: a block sums one weight's products over its part of the pixels, `parts` of them for each weight.
template <class T>
__global__ void __launch_bounds__(kPointwiseBlock)
    direct_kernel(const __grid_constant__ Parameters p, Scalar<T>* __restrict__ partial) {
  using S = Scalar<T>;
  GPU_SHARED(S, sums, [kPointwiseBlock / 32]);
  const int weight = int(blockIdx.x), o = weight / p.taps, group = o / p.outputs;
  const Tap tap(p.images, weight - o * p.taps);
  const T* x = static_cast<const T*>(p.x) + group * p.images.x_group;
  const T* dy = static_cast<const T*>(p.dy) + o * p.dy_channel;
  S sum = 0;
  for (int64_t i = int64_t(blockIdx.y) * kPointwiseBlock + threadIdx.x; i < p.pixels;
       i += int64_t(gridDim.y) * kPointwiseBlock) {
    const Pixel pixel(p.images, int(i));
    if (const T* from = p.images.element(x, pixel, tap))
      sum += widen(*from) * widen(dy[pixel.image * p.dy_image + pixel.row * p.dy_row + pixel.column * p.dy_column]);
  }
  sum = warp_reduce(sum, [](S a, S b) { return a + b; });
  if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = sum;
  __syncthreads();
  if (threadIdx.x == 0) {
    for (int i = 1; i < kPointwiseBlock / 32; ++i) sum += sums[i];
    partial[int64_t(blockIdx.y) * gridDim.x + weight] = sum;
  }
}

// ---- launchers ----------------------------------------------------------------------------------------------------

constexpr Status kInvalidValue = 1;

int64_t taps_of(const Convolution& c) { return c.taps_y * c.taps_x * c.channels; }
int64_t pixels_of(const Convolution& c) { return c.images * c.rows * c.columns; }

Plan plan_of(const Convolution& c) {
  return plan(c.outputs, taps_of(c), pixels_of(c), c.groups, kDepthBytes / int(size_of(c.dtype)),
              c.dtype != DType::f64);
}

int64_t direct_parts(const Convolution& c) {
  const int64_t parts = ceil_div(pixels_of(c), int64_t(16 * kPointwiseBlock));
  return parts < 1 ? 1 : parts < 64 ? parts : 64;
}

template <class T>
Status run(const WeightGradient& g, Parameters& p, Stream stream) {
  const Convolution& c = g.of;
  if (is_direct(c)) {
    const int64_t weights = c.groups * c.outputs * p.taps, parts = direct_parts(c);
    if (weights >= kMost) return kInvalidValue;
    using S = Scalar<T>;
    Status status = launch(direct_kernel<T>, dim3(unsigned(weights), unsigned(parts)), dim3(kPointwiseBlock), 0, stream,
                           p, static_cast<S*>(p.partial));
    // One matrix of one row: the parts are added in order.
    Output out{};
    out.c = g.dw;
    return status ? status : launch_finish<T>(p.partial, int(parts), out, 1, int(weights), 1, stream);
  }
  Status status = kInvalidValue;
  const dim3 grid(unsigned(p.plan.blocks));
  const bool tensor_cores = sizeof(T) == 2 || (sizeof(T) == 4 && c.tf32);
  if constexpr (sizeof(T) <= 4) {
    if (tensor_cores) {
      const int64_t per = kPack<T>;
      const bool chunks = aligned(c.x, g.dy) && c.x_channel == 1 && c.channels % per == 0 && c.x_image % per == 0 &&
                          c.x_row % per == 0 && c.x_column % per == 0 && g.dy_channel == 1 && g.dy_column % per == 0 &&
                          (c.groups == 1 || c.outputs % per == 0) && g.dy_row == c.columns * g.dy_column &&
                          g.dy_image == c.rows * g.dy_row;
      if (!chunks) return kInvalidValue;
      status = p.plan.large
                   ? launch(mma_kernel<T, LargeMma>, grid, dim3(LargeMma::kThreads), LargeMma::kShared, stream, p)
                   : launch(mma_kernel<T, SmallMma>, grid, dim3(SmallMma::kThreads), SmallMma::kShared, stream, p);
    }
  }
  if constexpr (sizeof(T) >= 4) {
    using Small = SmallSimt<T>;
    const bool along_k = c.x_channel != 1;
    if (!tensor_cores) {
      if constexpr (sizeof(T) == 4)
        if (p.plan.large)
          status =
              launch(simt_kernel<LargeSimt>, grid, dim3(LargeSimt::kThreads), LargeSimt::kShared, stream, p, along_k);
      if (!p.plan.large)
        status = launch(simt_kernel<Small>, grid, dim3(Small::kThreads), Small::kShared, stream, p, along_k);
    }
  }
  if (status || p.plan.splits == 1) return status;
  return launch_finish<T>(p.partial, p.plan.splits, p.out, p.outputs, p.taps, c.groups, stream);
}

}  // namespace

Status weight_gradient_workspace(const WeightGradient& g, int64_t* bytes) {
  const Convolution& c = g.of;
  if (is_direct(c))
    *bytes = direct_parts(c) * c.groups * c.outputs * taps_of(c) * (c.dtype == DType::f64 ? 8 : 4);
  else
    *bytes = workspace_bytes(plan_of(c), c.outputs, taps_of(c), c.groups, c.dtype);
  return 0;
}

Status weight_gradient(const WeightGradient& g, Stream stream) {
  const Convolution& c = g.of;
  Parameters p{};
  p.plan = plan_of(c);
  if (pixels_of(c) >= kMost || taps_of(c) >= kMost || c.outputs >= kMost || p.plan.blocks >= kMost)
    return kInvalidValue;
  p.outputs = int(c.outputs), p.taps = int(taps_of(c)), p.pixels = int(pixels_of(c));
  p.images = Images(c);
  p.x = c.x, p.dy = g.dy;
  p.dy_image = g.dy_image, p.dy_channel = g.dy_channel, p.dy_row = g.dy_row, p.dy_column = g.dy_column;
  p.partial = c.workspace;
  p.out.c = g.dw;
  p.out.step = p.taps, p.out.batch = int64_t(p.outputs) * p.taps;
  p.out.wide = aligned(g.dw) && p.taps % (16 / int64_t(size_of(c.dtype))) == 0;
  Status status = kInvalidValue;
  visit_float(c.dtype, [&]<class T>(T*) { status = run<T>(g, p, stream); });
  return status;
}

}  // namespace fastnn::gpu
