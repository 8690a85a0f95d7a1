// Large products of bfloat16 and float16 on sm_90a: bulk copies of tensors (TMA) and wgmma.
//
// A block has three warpgroups. One thread of the last, the producer, loads tiles of A and B, 64 of k at a time, into a
// ring of stages; the two others, the consumers, multiply: each has 64 rows of the tile of C. Blocks stay: block i has
// tiles i, i + gridDim, ... While consumers write one to memory, the producer loads the stages of the next.
//
// Not verified on a card yet: used where set_wgmma(true) asks for it.
#include "gemm_tile.h"
#include "products.h"
#include "ptx_sm90.h"

namespace fastnn::gpu {
namespace {

// ---- kernels ------------------------------------------------------------------------------------------------------

constexpr int kConsumers = 2, kWarpgroup = 128, kThreads = (kConsumers + 1) * kWarpgroup;
constexpr int kProducerRegisters = 24, kConsumerRegisters = 240;
static_assert(kWarpgroup * (kProducerRegisters + kConsumers * kConsumerRegisters) <= 65536);

// Operands lie in blocks of 64 rows by 64 of k (k-major), or 64 of k by 64 rows, swizzled.
constexpr int kBlockBytes = 64 * 128;
constexpr int kStagingColumns = 64;  // of sums that a warp hands to the epilogue at a time
constexpr int kStagingBytes = 16 * kStagingColumns * int(sizeof(float));

// One block on a multiprocessor: 225 KB of shared memory.
template <int N_>
struct Tile {
  static constexpr int M = 64 * kConsumers, N = N_, K = 64;
  static constexpr int kBytesA = M / 64 * kBlockBytes, kStageBytes = kBytesA + N / 64 * kBlockBytes;
  static constexpr int kStages = N == 256 ? 4 : 6;
  static constexpr int kShared = kStages * kStageBytes + kConsumers * 4 * kStagingBytes;
};

struct Parameters {
  Plan plan;
  int m, n, k;
  bool batch_a, batch_b;  // not: one matrix for all
  Output out;
};

// A stage, and the parity of the phase that a consumer waits for there.
template <class Tile>
struct Ring {
  int stage = 0, parity = 0;
  GPU_FN void next() {
    if (++stage < Tile::kStages) return;
    stage = 0;
    parity ^= 1;
  }
};

// Loads rows [row, row + ROWS), 64 of k from k on, of an operand's matrix.
template <bool K_MAJOR, int ROWS>
GPU_FN void load_operand(uint32_t to, const TensorMap* map, int row, int k, int matrix, uint32_t mbarrier) {
  if constexpr (K_MAJOR) {
    ptx::tma_load(to, map, k, row, matrix, mbarrier);
  } else {
#pragma unroll
    for (int i = 0; i < ROWS / 64; ++i) ptx::tma_load(to + i * kBlockBytes, map, row + i * 64, k, matrix, mbarrier);
  }
}

// Step `step` of 16 of k.
template <bool K_MAJOR>
GPU_FN uint64_t operand(uint32_t blocks, int step) {
  return ptx::descriptor(blocks + step * (K_MAJOR ? 32 : 16 * 128), 1024, kBlockBytes);
}

// A warp's 16 rows from row i0 on.
template <class T, int N>
GPU_FN void write_sums(const float (&sums)[N / 2], float* staging, const Parameters& p, int i0, int j0, int64_t batch) {
  const int lane = int(threadIdx.x) % 32, g = lane / 4, t = lane % 4;
#pragma unroll 1
  for (int part = 0; part < N / kStagingColumns; ++part) {
    __syncwarp();  // the part before was read
#pragma unroll
    for (int own = 0; own < N / kStagingColumns; ++own) {
      if (own != part) continue;  // registers have no index
#pragma unroll
      for (int j = 0; j < kStagingColumns / 8; ++j)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const int at = own * kStagingColumns / 2 + j * 4 + half * 2;
          Pack<float, 2> two;
          two[0] = sums[at], two[1] = sums[at + 1];
          store(staging + sum_offset<float, kStagingColumns>(g + half * 8, j * 8 + t * 2), two);
        }
    }
    __syncwarp();
    write_tile<T, float, 16, kStagingColumns, 32>(lane, staging, p.out, static_cast<float*>(nullptr), p.m, p.n, i0,
                                                  j0 + part * kStagingColumns, batch);
  }
}

template <class T, class Tile, bool A_K_MAJOR, bool B_K_MAJOR>
__global__ void __launch_bounds__(kThreads, 1)
    wgmma_kernel(const __grid_constant__ Parameters p, const __grid_constant__ TensorMap a,
                 const __grid_constant__ TensorMap b) {
  GPU_DYNAMIC_SHARED(shared);
  GPU_SHARED(uint64_t, mbarriers, [2 * Tile::kStages]);
  const uint32_t stages = ptx::shared_address(shared);
  const uint32_t full = ptx::shared_address(mbarriers), empty = full + 8 * Tile::kStages;
  const int warpgroup = int(threadIdx.x) / kWarpgroup, lane = int(threadIdx.x) % 32;
  if (threadIdx.x == 0) {
    for (int i = 0; i < Tile::kStages; ++i) {
      ptx::mbarrier_init(full + 8 * i, 1);
      ptx::mbarrier_init(empty + 8 * i, 4 * kConsumers);  // a lane of each warp
    }
    ptx::fence_mbarrier_init();
  }
  __syncthreads();
  const int k_tiles = ceil_div(p.k, Tile::K);
  Ring<Tile> ring;

  if (warpgroup == kConsumers) {
    ptx::registers_decrease<kProducerRegisters>();
    if (threadIdx.x % kWarpgroup) return;
    ptx::prefetch(&a);
    ptx::prefetch(&b);
    for (int64_t tile = blockIdx.x; tile < p.plan.blocks; tile += gridDim.x) {
      const Place place(p.plan, uint32_t(tile));
      const int i0 = place.tile_m * Tile::M, j0 = place.tile_n * Tile::N;
      const int matrix_a = p.batch_a ? int(place.batch) : 0, matrix_b = p.batch_b ? int(place.batch) : 0;
      for (int i = 0; i < k_tiles; ++i, ring.next()) {
        const uint32_t stage = stages + ring.stage * Tile::kStageBytes, mbarrier = full + 8 * ring.stage;
        ptx::mbarrier_wait(empty + 8 * ring.stage, ring.parity ^ 1);
        ptx::mbarrier_expect(mbarrier, Tile::kStageBytes);  // zeros outside of the matrices land, too
        load_operand<A_K_MAJOR, Tile::M>(stage, &a, i0, i * Tile::K, matrix_a, mbarrier);
        load_operand<B_K_MAJOR, Tile::N>(stage + Tile::kBytesA, &b, j0, i * Tile::K, matrix_b, mbarrier);
      }
    }
    return;
  }

  ptx::registers_increase<kConsumerRegisters>();
  const int warp = int(threadIdx.x) / 32;
  float* staging = reinterpret_cast<float*>(shared + Tile::kStages * Tile::kStageBytes + warp * kStagingBytes);
  for (int64_t tile = blockIdx.x; tile < p.plan.blocks; tile += gridDim.x) {
    const Place place(p.plan, uint32_t(tile));
    float sums[Tile::N / 2] = {};
    auto multiply = [&] {
      const uint32_t stage = stages + ring.stage * Tile::kStageBytes;
      ptx::mbarrier_wait(full + 8 * ring.stage, ring.parity);
      ptx::wgmma_fence();
#pragma unroll
      for (int step = 0; step < Tile::K / 16; ++step)
        ptx::wgmma<T, Tile::N, !A_K_MAJOR, !B_K_MAJOR>(sums, operand<A_K_MAJOR>(stage + warpgroup * kBlockBytes, step),
                                                       operand<B_K_MAJOR>(stage + Tile::kBytesA, step));
      ptx::wgmma_commit();
    };
    auto give_back = [&](int stage) {
      if (lane == 0) ptx::mbarrier_arrive(empty + 8 * stage);
    };
    multiply();
    for (int i = 1; i < k_tiles; ++i) {
      const int before = ring.stage;
      ring.next();
      multiply();
      ptx::wgmma_wait<1>();  // the stage before was read
      give_back(before);
    }
    ptx::wgmma_wait<0>();
    give_back(ring.stage);
    ring.next();
    write_sums<T, Tile::N>(sums, staging, p, place.tile_m * Tile::M + warp * 16, place.tile_n * Tile::N, place.batch);
  }
}

// ---- launchers ----------------------------------------------------------------------------------------------------

constexpr Status kInvalidValue = 1;

// An operand's matrix of rows x k, which lie in memory row + k * step or row * step + k elements on.
struct Operand {
  const void* data;
  int64_t rows, depth, step, per_batch;  // elements
  bool k_major, takes;

  Operand(const Product& p, bool is_b) : data(is_b ? p.b : p.a), rows(is_b ? p.n : p.m), depth(p.k) {
    const int64_t along_rows = is_b ? p.b_column : p.a_row, along_k = is_b ? p.b_row : p.a_column;
    k_major = along_k == 1;
    step = k_major ? along_rows : along_k;
    if ((k_major ? rows : depth) == 1) step = ceil_div(k_major ? depth : rows, int64_t(8)) * 8;  // of no consequence
    per_batch = 0;
    int axes = 0;
    for (int i = 0; i < p.batch.n; ++i) {
      if (p.batch.size[i] == 1) continue;
      per_batch = p.batch.stride[is_b][i];
      ++axes;
    }
    // Bulk copies take steps of whole chunks of 16 bytes, of less than 2^32 bytes.
    auto fits = [](int64_t elements) { return elements % 8 == 0 && elements < int64_t(1) << 31; };
    takes = (k_major || along_rows == 1) && axes <= 1 && aligned(data) && fits(step) && step > 0 && fits(per_batch) &&
            per_batch >= 0;
  }

  Status map(TensorMap* to, DType dtype, int64_t batches, int tile_rows) const {
    TensorView v{data, dtype, 3, {}, {}, {}, {1, 1, 1}, true};
    v.size[0] = k_major ? depth : rows, v.size[1] = k_major ? rows : depth, v.size[2] = per_batch ? batches : 1;
    v.stride[1] = step * 2;
    v.stride[2] = per_batch ? per_batch * 2 : 16;
    v.box[0] = 64, v.box[1] = k_major ? tile_rows : 64, v.box[2] = 1;
    return tensor_map(to, v);
  }
};

// The tiles of a product: of 128 x 256 if there are enough to keep a large GPU busy.
Plan tiles_of(const Product& p, bool* wide) {
  constexpr int64_t kFill = 128;
  Plan plan{};
  const int64_t batches = count(p.batch);
  plan.large = true, plan.splits = 1;
  plan.tiles_m = int(ceil_div(p.m, int64_t(128)));
  *wide = p.n > 128 && plan.tiles_m * ceil_div(p.n, int64_t(256)) * batches >= kFill;
  plan.tiles_n = int(ceil_div(p.n, int64_t(*wide ? 256 : 128)));
  plan.blocks = int64_t(plan.tiles_m) * plan.tiles_n * batches;
  return plan;
}

template <class T, class Tile>
Status launch_wgmma(const Parameters& p, const Operand& a, const Operand& b, int64_t batches, DType dtype, int blocks,
                    Stream stream) {
  TensorMap map_a, map_b;
  if (Status s = a.map(&map_a, dtype, batches, Tile::M)) return s;
  if (Status s = b.map(&map_b, dtype, batches, Tile::N)) return s;
  auto kernel = a.k_major ? (b.k_major ? wgmma_kernel<T, Tile, true, true> : wgmma_kernel<T, Tile, true, false>)
                          : wgmma_kernel<T, Tile, false, false>;
  return launch(kernel, dim3(unsigned(p.plan.blocks < blocks ? p.plan.blocks : blocks)), dim3(kThreads), Tile::kShared,
                stream, p, map_a, map_b);
}

}  // namespace

bool wgmma_takes(const Product& p) {
  constexpr int64_t kMost = int64_t(1) << 31;
  if (!p.wgmma_multiprocessors || size_of(p.dtype) != 2 || !p.k || p.m >= kMost || p.n >= kMost || p.k >= kMost)
    return false;
  const int64_t tiles = ceil_div(p.m, int64_t(128)) * ceil_div(p.n, int64_t(128)) * count(p.batch);
  const Operand a(p, false), b(p, true);
  // Fewer tiles leave multiprocessors idle: smaller ones, or parts of k, are better (gemm_tile.h).
  return tiles >= 128 && tiles < kMost && a.takes && b.takes && (a.k_major || !b.k_major);
}

Status matmul_wgmma(const Product& p, Stream stream) {
  if (!wgmma_takes(p)) return kInvalidValue;
  const Operand a(p, false), b(p, true);
  const int64_t batches = count(p.batch);
  Parameters q{};
  bool wide;
  q.plan = tiles_of(p, &wide);
  q.m = int(p.m), q.n = int(p.n), q.k = int(p.k);
  q.batch_a = a.per_batch != 0, q.batch_b = b.per_batch != 0;
  q.out.c = p.c, q.out.residual = p.residual, q.out.bias = p.bias, q.out.activation = p.activation;
  q.out.step = p.n, q.out.batch = p.m * p.n;
  q.out.wide = aligned(p.c, p.residual) && p.n % 8 == 0;
  auto run = [&]<class T>(T*) {
    return wide ? launch_wgmma<T, Tile<256>>(q, a, b, batches, p.dtype, p.wgmma_multiprocessors, stream)
                : launch_wgmma<T, Tile<128>>(q, a, b, batches, p.dtype, p.wgmma_multiprocessors, stream);
  };
  return p.dtype == DType::bf16 ? run(static_cast<bf16*>(nullptr)) : run(static_cast<f16*>(nullptr));
}

}  // namespace fastnn::gpu
