// Batched products of matrices, see gemm_tile.h: tensor cores for bfloat16, float16 and tf32, else multiply-adds.
//
// Small grids split k; the parts are added in order by a second kernel.
#include "gemm_mma.h"
#include "gemm_simt.h"
#include "products.h"

namespace fastnn::gpu {
namespace {

// ---- kernels ------------------------------------------------------------------------------------------------------

struct Parameters {
  Plan plan;
  int m, n, k;
  const void *a, *b;
  int64_t a_row, a_column, b_row, b_column;
  bool wide_a, wide_b;  // chunks of 16 bytes are aligned
  Index<2> batch;
  int64_t batches;
  Output out;
  void* partial;
};

template <class T, class Tile, bool A_K_MAJOR, bool B_K_MAJOR>
__global__ void __launch_bounds__(Tile::kThreads, kMmaBlocks<T, Tile, A_K_MAJOR && B_K_MAJOR>)
    mma_kernel(const __grid_constant__ Parameters p) {
  GPU_DYNAMIC_SHARED(shared);
  const Place place(p.plan, blockIdx.x);
  const int i0 = place.tile_m * Tile::M, j0 = place.tile_n * Tile::N;
  int64_t offset[2];
  p.batch(uint32_t(place.batch), offset);
  const MatrixLoader<T, A_K_MAJOR, Tile::M, Tile::kThreads> a(static_cast<const T*>(p.a) + offset[0],
                                                              A_K_MAJOR ? p.a_row : p.a_column, i0, p.m, p.k, p.wide_a);
  const MatrixLoader<T, B_K_MAJOR, Tile::N, Tile::kThreads> b(static_cast<const T*>(p.b) + offset[1],
                                                              B_K_MAJOR ? p.b_column : p.b_row, j0, p.n, p.k, p.wide_b);
  Mma<T, Tile, A_K_MAJOR, B_K_MAJOR> mma;
  pipeline<Tile::kStageBytes>(
      shared, place.first_k_tile(p.plan), place.k_tiles(p.plan, p.k, kDepth<T>),
      [&](unsigned char* stage, int tile) {
        a(stage, tile * kDepth<T>);
        b(stage + Tile::kBytesA, tile * kDepth<T>);
      },
      mma);
  float* sums = reinterpret_cast<float*>(shared);
  mma.store_sums(sums);
  __syncthreads();
  write_tile<T, float, Tile::M, Tile::N, Tile::kThreads>(
      int(threadIdx.x), sums, p.out, place.partial<float>(p.plan, p.partial, p.batches, int64_t(p.m) * p.n), p.m, p.n,
      i0, j0, place.batch);
}

template <class Tile>
__global__ void __launch_bounds__(Tile::kThreads, Tile::kBlocks)
    simt_kernel(const __grid_constant__ Parameters p, const Copy copy_a, const Copy copy_b) {
  using T = typename Tile::T;
  GPU_DYNAMIC_SHARED(shared);
  const Place place(p.plan, blockIdx.x);
  const int i0 = place.tile_m * Tile::M, j0 = place.tile_n * Tile::N;
  int64_t offset[2];
  p.batch(uint32_t(place.batch), offset);
  const StridedLoader<T, Tile::M, Tile::kThreads> a{
      static_cast<const T*>(p.a) + offset[0], p.a_row, p.a_column, i0, p.m, p.k, copy_a};
  const StridedLoader<T, Tile::N, Tile::kThreads> b{
      static_cast<const T*>(p.b) + offset[1], p.b_column, p.b_row, j0, p.n, p.k, copy_b};
  Simt<Tile> simt;
  pipeline<Tile::kStageBytes>(
      shared, place.first_k_tile(p.plan), place.k_tiles(p.plan, p.k, kDepth<T>),
      [&](unsigned char* stage, int tile) {
        a(stage, tile * kDepth<T>);
        b(stage + Tile::kBytesA, tile * kDepth<T>);
      },
      simt);
  T* sums = reinterpret_cast<T*>(shared);
  simt.store_sums(sums);
  __syncthreads();
  write_tile<T, T, Tile::M, Tile::N, Tile::kThreads>(int(threadIdx.x), sums, p.out,
                                                     place.partial<T>(p.plan, p.partial, p.batches, int64_t(p.m) * p.n),
                                                     p.m, p.n, i0, j0, place.batch);
}

constexpr Status kInvalidValue = 1;

// ---- launchers ----------------------------------------------------------------------------------------------------

Plan plan_of(const Product& p) {
  return plan(p.m, p.n, p.k, count(p.batch), kDepthBytes / int(size_of(p.dtype)), p.dtype != DType::f64);
}

// Whether chunks of 16 bytes of an operand are aligned in every matrix of the batch.
bool chunks_are_aligned(const Product& p, const void* data, int64_t step, int operand) {
  const int64_t per_chunk = 16 / int64_t(size_of(p.dtype));
  bool fits = aligned(data) && step % per_chunk == 0;
  for (int i = 0; i < p.batch.n; ++i) fits = fits && p.batch.stride[operand][i] % per_chunk == 0;
  return fits;
}

template <class T, class Tile>
Status launch_mma(const Parameters& p, Stream stream) {
  const dim3 grid(unsigned(p.plan.blocks)), block(Tile::kThreads);
  const bool a = p.a_column == 1, b = p.b_row == 1;  // the fourth case is rare: callers copy
  if (a ? !b && p.b_column != 1 : p.a_row != 1 || p.b_column != 1) return kInvalidValue;
  auto kernel =
      a ? (b ? mma_kernel<T, Tile, true, true> : mma_kernel<T, Tile, true, false>) : mma_kernel<T, Tile, false, false>;
  return launch(kernel, grid, block, Tile::kShared, stream, p);
}

template <class Tile>
Status launch_simt(const Parameters& p, Stream stream) {
  auto choose = [](bool chunks, int64_t row, int64_t k) {
    return chunks && row == 1 ? Copy::chunks : k == 1 ? Copy::along_k : Copy::along_rows;
  };
  return launch(simt_kernel<Tile>, dim3(unsigned(p.plan.blocks)), dim3(Tile::kThreads), Tile::kShared, stream, p,
                choose(p.wide_a, p.a_row, p.a_column), choose(p.wide_b, p.b_column, p.b_row));
}

}  // namespace

Status matmul_workspace(const Product& p, int64_t* bytes) {
  *bytes = wgmma_takes(p) ? 0 : workspace_bytes(plan_of(p), p.m, p.n, count(p.batch), p.dtype);
  return 0;
}

Status matmul(const Product& p, Stream stream) {
  if (wgmma_takes(p)) return matmul_wgmma(p, stream);
  constexpr int64_t kMost = int64_t(1) << 31;
  Parameters q{};
  q.plan = plan_of(p);
  q.batches = count(p.batch);
  if (p.m >= kMost || p.n >= kMost || p.k >= kMost || q.batches >= kMost || q.plan.blocks >= kMost)
    return kInvalidValue;
  q.m = int(p.m), q.n = int(p.n), q.k = int(p.k);
  q.a = p.a, q.b = p.b;
  q.a_row = p.a_row, q.a_column = p.a_column, q.b_row = p.b_row, q.b_column = p.b_column;
  q.wide_a = chunks_are_aligned(p, p.a, p.a_column == 1 ? p.a_row : p.a_column, 0);
  q.wide_b = chunks_are_aligned(p, p.b, p.b_row == 1 ? p.b_column : p.b_row, 1);
  q.batch = Index<2>(p.batch);
  q.partial = p.workspace;
  q.out.c = p.c, q.out.residual = p.residual, q.out.bias = p.bias, q.out.activation = p.activation;
  q.out.step = p.n, q.out.batch = p.m * p.n;
  q.out.wide = aligned(p.c, p.residual) && p.n % (16 / int64_t(size_of(p.dtype))) == 0;
  Status status = kInvalidValue;
  visit_float(p.dtype, [&]<class T>(T*) {
    if constexpr (sizeof(T) == 8)
      status = launch_simt<SmallSimt<T>>(q, stream);
    else if constexpr (sizeof(T) == 2)
      status = q.plan.large ? launch_mma<T, LargeMma>(q, stream) : launch_mma<T, SmallMma>(q, stream);
    else if (p.tf32)
      status = q.plan.large ? launch_mma<T, LargeMma>(q, stream) : launch_mma<T, SmallMma>(q, stream);
    else
      status = q.plan.large ? launch_simt<LargeSimt>(q, stream) : launch_simt<SmallSimt<T>>(q, stream);
    if (status || q.plan.splits == 1) return;
    status = launch_finish<T>(q.partial, q.plan.splits, q.out, q.m, q.n, q.batches, stream);
  });
  return status;
}

}  // namespace fastnn::gpu
