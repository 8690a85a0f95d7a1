// The products of a tile on tensor cores: mma.sync on fragments that ldmatrix reads, see gemm_tile.h.
#pragma once
#include "gemm_tile.h"

namespace fastnn::gpu {

// A block's tile of M x N, a warp's of WM x WN. Two blocks of the large one, four of the small one, share a
// multiprocessor: at most 128 registers a thread and 64 KB of shared memory a block (small: 32).
template <int M_, int N_, int WM_, int WN_>
struct MmaTile {
  static constexpr int M = M_, N = N_, WM = WM_, WN = WN_, kThreads = 32 * (M / WM) * (N / WN);
  static constexpr int kBytesA = M * kDepthBytes, kStageBytes = (M + N) * kDepthBytes;
  static constexpr int kShared = kStages * kStageBytes > M * N * 4 ? kStages * kStageBytes : M * N * 4;
  static constexpr int kBlocks = M == 128 ? 2 : 4;  // per multiprocessor
};
using LargeMma = MmaTile<128, 128, 64, 32>;
using SmallMma = MmaTile<64, 64, 32, 32>;

// Blocks per multiprocessor. Fragments of tf32 that are gathered by plain loads take more registers: one large block.
template <class T, class Tile, bool BOTH_K_MAJOR>
constexpr int kMmaBlocks = sizeof(T) == 4 && !BOTH_K_MAJOR && Tile::M == 128 ? 1 : Tile::kBlocks;

// Registers a[0] to a[3] of mma for 16 rows of an operand and step `step` of k; as B: b0 and b1 of 8 columns in r[0],
// r[1] and of the next 8 in r[2], r[3].
template <class T, bool K_MAJOR, int ROWS, bool IS_B>
GPU_FN void read_fragment(uint32_t (&r)[4], const unsigned char* tile, int row, int step) {
  const int lane = int(threadIdx.x) % 32, high = lane >> 4, middle = lane >> 3 & 1;
  if constexpr (K_MAJOR) {
    const int at = row + (lane & 7) + (IS_B ? high : middle) * 8, chunk = step * 2 + (IS_B ? middle : high);
    ptx::ldmatrix(r, ptx::shared_address(tile + k_major_offset(at, chunk)));
  } else if constexpr (sizeof(T) == 2) {
    const int k = step * 16 + (lane & 7) + (IS_B ? middle : high) * 8, chunk = row / 8 + (IS_B ? high : middle);
    ptx::ldmatrix_trans(r, ptx::shared_address(tile + k_row_offset<T, ROWS>(k, chunk)));
  } else {
    const int g = lane / 4, t = lane % 4;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int at = row + g + (IS_B ? i / 2 : i % 2) * 8, k = step * 8 + t + (IS_B ? i % 2 : i / 2) * 4;
      r[i] = *reinterpret_cast<const uint32_t*>(tile + k_row_offset<T, ROWS>(k, at / 4) + at % 4 * 4);
    }
  }
  if constexpr (sizeof(T) == 4) {
#pragma unroll
    for (int i = 0; i < 4; ++i) r[i] = ptx::to_tf32(__uint_as_float(r[i]));
  }
}

template <class T, class Tile, bool A_K_MAJOR, bool B_K_MAJOR>
struct Mma {
  static constexpr int kRows = Tile::WM / 16, kColumns = Tile::WN / 8;
  float sums[kRows][kColumns][4] = {};

  GPU_FN static int warp_row() { return int(threadIdx.x) / 32 / (Tile::N / Tile::WN) * Tile::WM; }
  GPU_FN static int warp_column() { return int(threadIdx.x) / 32 % (Tile::N / Tile::WN) * Tile::WN; }

  // Adds the product of a stage.
  GPU_FN void operator()(const unsigned char* stage) {
#pragma unroll
    for (int step = 0; step < 2; ++step) {
      uint32_t b[kColumns / 2][4];
#pragma unroll
      for (int j = 0; j < kColumns / 2; ++j)
        read_fragment<T, B_K_MAJOR, Tile::N, true>(b[j], stage + Tile::kBytesA, warp_column() + j * 16, step);
#pragma unroll
      for (int i = 0; i < kRows; ++i) {
        uint32_t a[4];
        read_fragment<T, A_K_MAJOR, Tile::M, false>(a, stage, warp_row() + i * 16, step);
#pragma unroll
        for (int j = 0; j < kColumns; ++j) ptx::mma<T>(sums[i][j], a, b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1]);
      }
    }
  }

  // To shared memory, for write_tile().
  GPU_FN void store_sums(float* to) const {
    const int lane = int(threadIdx.x) % 32, g = lane / 4, t = lane % 4;
#pragma unroll
    for (int i = 0; i < kRows; ++i)
#pragma unroll
      for (int j = 0; j < kColumns; ++j)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          Pack<float, 2> two;
          two[0] = sums[i][j][half * 2], two[1] = sums[i][j][half * 2 + 1];
          store(to + sum_offset<float, Tile::N>(warp_row() + i * 16 + half * 8 + g, warp_column() + j * 8 + t * 2),
                two);
        }
  }
};

}  // namespace fastnn::gpu
