// 2-d convolutions as matrix products whose one operand is gathered from the images while it is copied to shared memory
// (implicit GEMM, Chetlur et al. 2014, arXiv:1410.0759), see gemm_tile.h. k counts taps, and channels within a tap.
//
// Pixels are rows of C where channels of y are neighbours in memory, else columns: rows of C are written in runs.
#include "conv2d.h"
#include "gemm_mma.h"
#include "gemm_simt.h"
#include "products.h"

namespace fastnn::gpu {
namespace {

// ---- kernels ------------------------------------------------------------------------------------------------------

struct Parameters {
  Plan plan;
  int m, n, k;
  bool pixels_are_rows;
  Images images;
  const void *x, *w;
  Output out;
  void* partial;
};

// Copies tiles of x, k-major: rows are pixels of y, k are taps and channels.
template <class T, int ROWS, int THREADS>
class PixelLoader {
 public:
  static constexpr int kChunks = ROWS * 4 / THREADS, kLines = THREADS / 4;

  GPU_FN PixelLoader(const T* x, const Images& images, int first) : data_(x), images_(images) {
#pragma unroll
    for (int i = 0; i < kChunks; ++i) {
      const Pixel p(images, first + int(threadIdx.x) / 4 + i * kLines);
      from_[i] = x + p.image * images.x_image;
      y_[i] = p.there ? p.y : kFarAway;
      x_[i] = p.x;
    }
  }
  GPU_FN void operator()(unsigned char* to, int k) const {
    const Tap tap(images_, k + int(threadIdx.x) % 4 * kPack<T>);
#pragma unroll
    for (int i = 0; i < kChunks; ++i) {
      const int y = y_[i] + tap.y, x = x_[i] + tap.x;
      const bool there = tap.there && images_.inside(y, x);
      const T* from = there ? from_[i] + y * images_.x_row + x * images_.x_column + tap.channel : data_;
      const uint32_t offset = k_major_offset(int(threadIdx.x) / 4 + i * kLines, int(threadIdx.x) % 4);
      ptx::cp_async<16>(ptx::shared_address(to + offset), from, there ? 16 : 0);
    }
  }

 private:
  const T* data_;
  const Images& images_;
  const T* from_[kChunks];
  int y_[kChunks], x_[kChunks];
};

template <class T, class Tile>
__global__ void __launch_bounds__(Tile::kThreads, Tile::kBlocks) mma_kernel(const __grid_constant__ Parameters p) {
  static_assert(Tile::M == Tile::N);  // either operand can be the pixels
  GPU_DYNAMIC_SHARED(shared);
  const Place place(p.plan, blockIdx.x);
  const int i0 = place.tile_m * Tile::M, j0 = place.tile_n * Tile::N, group = int(place.batch);
  const int pixels_at = p.pixels_are_rows ? 0 : Tile::kBytesA, outputs = p.pixels_are_rows ? p.n : p.m;
  const PixelLoader<T, Tile::M, Tile::kThreads> pixels(static_cast<const T*>(p.x) + group * p.images.x_group, p.images,
                                                       p.pixels_are_rows ? i0 : j0);
  const MatrixLoader<T, true, Tile::M, Tile::kThreads> weight(
      static_cast<const T*>(p.w) + int64_t(group) * outputs * p.k, p.k, p.pixels_are_rows ? j0 : i0, outputs, p.k,
      true);
  Mma<T, Tile, true, true> mma;
  pipeline<Tile::kStageBytes>(
      shared, place.first_k_tile(p.plan), place.k_tiles(p.plan, p.k, kDepth<T>),
      [&](unsigned char* stage, int tile) {
        pixels(stage + pixels_at, tile * kDepth<T>);
        weight(stage + (Tile::kBytesA - pixels_at), tile * kDepth<T>);
      },
      mma);
  float* sums = reinterpret_cast<float*>(shared);
  mma.store_sums(sums);
  __syncthreads();
  write_tile<T, float, Tile::M, Tile::N, Tile::kThreads>(
      int(threadIdx.x), sums, p.out, place.partial<float>(p.plan, p.partial, p.images.groups, int64_t(p.m) * p.n), p.m,
      p.n, i0, j0, place.batch);
}

// `along_k`: channels of x are neighbours, not pixels.
template <class Tile>
__global__ void __launch_bounds__(Tile::kThreads, Tile::kBlocks)
    simt_kernel(const __grid_constant__ Parameters p, const bool along_k) {
  using T = typename Tile::T;
  static_assert(Tile::M == Tile::N);
  GPU_DYNAMIC_SHARED(shared);
  const Place place(p.plan, blockIdx.x);
  const int i0 = place.tile_m * Tile::M, j0 = place.tile_n * Tile::N, group = int(place.batch);
  const int pixels_at = p.pixels_are_rows ? 0 : Tile::kBytesA, outputs = p.pixels_are_rows ? p.n : p.m;
  const int first_pixel = p.pixels_are_rows ? i0 : j0;
  const T* x = static_cast<const T*>(p.x) + group * p.images.x_group;
  const StridedLoader<T, Tile::M, Tile::kThreads> weight{static_cast<const T*>(p.w) + int64_t(group) * outputs * p.k,
                                                         p.k,
                                                         1,
                                                         p.pixels_are_rows ? j0 : i0,
                                                         outputs,
                                                         p.k,
                                                         Copy::along_k};
  Simt<Tile> simt;
  pipeline<Tile::kStageBytes>(
      shared, place.first_k_tile(p.plan), place.k_tiles(p.plan, p.k, kDepth<T>),
      [&](unsigned char* stage, int tile) {
        copy_elements_of_tile<T, Tile::M, Tile::kThreads>(
            reinterpret_cast<T*>(stage + pixels_at), x, along_k, [&](int row, int k) -> const T* {
              return p.images.element(x, Pixel(p.images, first_pixel + row), Tap(p.images, tile * kDepth<T> + k));
            });
        weight(stage + (Tile::kBytesA - pixels_at), tile * kDepth<T>);
      },
      simt);
  T* sums = reinterpret_cast<T*>(shared);
  simt.store_sums(sums);
  __syncthreads();
  write_tile<T, T, Tile::M, Tile::N, Tile::kThreads>(
      int(threadIdx.x), sums, p.out, place.partial<T>(p.plan, p.partial, p.images.groups, int64_t(p.m) * p.n), p.m, p.n,
      i0, j0, place.batch);
}

// Few channels and outputs in each of many groups (depthwise): a thread computes a value of y, neighbouring threads
// neighbours in memory. Weights are read through the L1 cache.
template <class T>
__global__ void __launch_bounds__(kPointwiseBlock)
    direct_kernel(const __grid_constant__ Parameters p, const Divisor outputs, const Divisor all_outputs,
                  const Divisor pixels) {
  using S = Scalar<T>;
  const Images& g = p.images;
  const int64_t total = int64_t(pixels.d) * all_outputs.d;
  for (int64_t at = int64_t(blockIdx.x) * kPointwiseBlock + threadIdx.x; at < total;
       at += int64_t(gridDim.x) * kPointwiseBlock) {
    const uint32_t i = uint32_t(at), quotient = (p.pixels_are_rows ? all_outputs : pixels).divide(i);
    const uint32_t rest = i - quotient * (p.pixels_are_rows ? all_outputs : pixels).d;
    const int pixel = int(p.pixels_are_rows ? quotient : rest), o = int(p.pixels_are_rows ? rest : quotient);
    const int group = int(outputs.divide(uint32_t(o))), in_group = o - group * int(outputs.d);
    const Pixel place(g, pixel);
    const T* x = static_cast<const T*>(p.x) + group * g.x_group;
    const T* w = static_cast<const T*>(p.w) + int64_t(o) * p.k;
    S sum[1] = {0};
    for (int k = 0; k < p.k; ++k)
      if (const T* from = g.element(x, place, Tap(g, k))) sum[0] += widen(*from) * widen(w[k]);
    finish<T>(p.out, sum, p.pixels_are_rows ? pixel : in_group, p.pixels_are_rows ? in_group : pixel, 1, group);
  }
}

// ---- launchers ----------------------------------------------------------------------------------------------------

constexpr Status kInvalidValue = 1;

Plan plan_of(const Convolution& c) {
  const int64_t pixels = c.images * c.rows * c.columns, k = c.taps_y * c.taps_x * c.channels;
  return plan(pixels, c.outputs, k, c.groups, kDepthBytes / int(size_of(c.dtype)), c.dtype != DType::f64);
}

template <class T>
bool on_tensor_cores(const Convolution& c) {
  return sizeof(T) == 2 || (sizeof(T) == 4 && c.tf32);
}

template <class T>
Status run(const Convolution& c, Parameters& p, Stream stream) {
  const bool chunks = aligned(c.x, c.w) && c.x_channel == 1 && c.channels % kPack<T> == 0 &&
                      c.x_image % kPack<T> == 0 && c.x_row % kPack<T> == 0 && c.x_column % kPack<T> == 0;
  if (is_direct(c)) {
    const int64_t pixels = c.images * c.rows * c.columns, all = c.groups * c.outputs;
    if (pixels * all >= int64_t(1) << 31) return kInvalidValue;
    const int64_t blocks = ceil_div(pixels * all, int64_t(kPointwiseBlock));
    p.out.wide = false;
    return launch(direct_kernel<T>, dim3(unsigned(blocks)), dim3(kPointwiseBlock), 0, stream, p, Divisor(c.outputs),
                  Divisor(all), Divisor(pixels));
  }
  Status status = kInvalidValue;
  const dim3 grid(unsigned(p.plan.blocks));
  if constexpr (sizeof(T) <= 4) {
    if (on_tensor_cores<T>(c)) {
      if (!chunks) return kInvalidValue;
      status = p.plan.large
                   ? launch(mma_kernel<T, LargeMma>, grid, dim3(LargeMma::kThreads), LargeMma::kShared, stream, p)
                   : launch(mma_kernel<T, SmallMma>, grid, dim3(SmallMma::kThreads), SmallMma::kShared, stream, p);
    }
  }
  if constexpr (sizeof(T) >= 4) {
    using Small = SmallSimt<T>;
    const bool along_k = c.x_channel == 1;
    if (!on_tensor_cores<T>(c)) {
      if constexpr (sizeof(T) == 4)
        if (p.plan.large)
          status =
              launch(simt_kernel<LargeSimt>, grid, dim3(LargeSimt::kThreads), LargeSimt::kShared, stream, p, along_k);
      if (!p.plan.large)
        status = launch(simt_kernel<Small>, grid, dim3(Small::kThreads), Small::kShared, stream, p, along_k);
    }
  }
  if (status || p.plan.splits == 1) return status;
  return launch_finish<T>(p.partial, p.plan.splits, p.out, p.m, p.n, c.groups, stream);
}

}  // namespace

Status convolution_workspace(const Convolution& c, int64_t* bytes) {
  const Plan p = plan_of(c);
  *bytes = is_direct(c) ? 0 : workspace_bytes(p, c.images * c.rows * c.columns, c.outputs, c.groups, c.dtype);
  return 0;
}

Status convolution(const Convolution& c, Stream stream) {
  const int64_t pixels = c.images * c.rows * c.columns, k = c.taps_y * c.taps_x * c.channels;
  const int64_t per_pack = 16 / int64_t(size_of(c.dtype));
  Parameters p{};
  p.plan = plan_of(c);
  if (pixels >= kMost || k >= kMost || c.outputs >= kMost || p.plan.blocks >= kMost) return kInvalidValue;
  p.images = Images(c);
  p.pixels_are_rows = c.y_channel == 1;
  p.m = int(p.pixels_are_rows ? pixels : c.outputs), p.n = int(p.pixels_are_rows ? c.outputs : pixels), p.k = int(k);
  if (!p.pixels_are_rows) {
    const int tiles = p.plan.tiles_m;
    p.plan.tiles_m = p.plan.tiles_n, p.plan.tiles_n = tiles;
  }
  p.x = c.x, p.w = c.w, p.partial = c.workspace;
  Output& out = p.out;
  out.c = c.y, out.residual = c.residual, out.bias = c.bias, out.activation = c.activation;
  out.bias_by_row = !p.pixels_are_rows, out.bias_batch = c.outputs;
  out.step = c.y_channel, out.batch = c.outputs * c.y_channel;
  out.pixels = true, out.by_row = p.pixels_are_rows;
  out.per_image = Divisor(c.rows * c.columns), out.per_line = Divisor(c.columns);
  out.image = c.y_image, out.line = c.y_row, out.pixel = c.y_column;
  auto whole = [&](auto... sizes) { return ((sizes % per_pack == 0) && ...); };
  out.wide = aligned(c.y, c.residual) && whole(c.y_image, out.batch) &&
             (p.pixels_are_rows ? whole(c.y_row, c.y_column)
                                : c.y_column == 1 && c.y_row == c.columns && whole(c.rows * c.columns, c.y_channel));
  Status status = kInvalidValue;
  visit_float(c.dtype, [&]<class T>(T*) { status = run<T>(c, p, stream); });
  return status;
}

}  // namespace fastnn::gpu
