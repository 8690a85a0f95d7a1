// The products of a tile by ordinary multiply-adds, for float32 in full precision and float64, see gemm_tile.h.
//
// Both operands' tiles are row-major in k. Where an operand lies otherwise in memory, its elements are copied one by
// one, which cp.async does for 4 and 8 bytes.
#pragma once
#include "gemm_tile.h"

namespace fastnn::gpu {

// A thread computes TM x TN values, in groups of 16 bytes. Blocks per multiprocessor as for MmaTile.
template <class T_, int M_, int N_, int TM_, int TN_>
struct SimtTile {
  using T = T_;
  static constexpr int M = M_, N = N_, TM = TM_, TN = TN_, kThreads = (M / TM) * (N / TN);
  static constexpr int kBytesA = M * kDepthBytes, kStageBytes = (M + N) * kDepthBytes;
  static constexpr int kShared = kStages * kStageBytes > M * N * int(sizeof(T)) ? kStages * kStageBytes
                                                                                : M * N * int(sizeof(T));
  static constexpr int kBlocks = M == 128 ? 2 : sizeof(T) == 8 ? 3 : 4;
};
using LargeSimt = SimtTile<float, 128, 128, 8, 8>;
template <class T>
using SmallSimt = SimtTile<T, 64, 64, 8, 4>;

// Chunks are swizzled by k so that the copies of one row's neighbours along k fall into different banks.
template <class T, int ROWS>
GPU_FN int simt_offset(int k, int row) {
  return k * ROWS + ((row / kPack<T>)^(k & 7)) * kPack<T> + row % kPack<T>;
}

enum class Copy {
  chunks,
  along_k,
  along_rows
};  // chunks of rows, or elements with neighbouring threads along one axis

// element(row, k) says where an element is, null: it is zero. row < ROWS, k < kDepth of the tile.
template <class T, int ROWS, int THREADS, class Element>
GPU_FN void copy_elements_of_tile(T* to, const void* any, bool along_k, Element&& element) {
  constexpr int K = kDepth<T>, kCount = ROWS * K / THREADS;
#pragma unroll 1
  for (int i = 0; i < kCount; ++i) {
    const int at = int(threadIdx.x) + i * THREADS;
    const int row = along_k ? at / 8 % ROWS : at % ROWS, k = along_k ? at % 8 + at / (8 * ROWS) * 8 : at / ROWS;
    const T* from = element(row, k);
    ptx::cp_async<int(sizeof(T))>(ptx::shared_address(to + simt_offset<T, ROWS>(k, row)), from ? from : any,
                                  from ? int(sizeof(T)) : 0);
  }
}

// Copies tiles of a matrix of any strides.
template <class T, int ROWS, int THREADS>
struct StridedLoader {
  const T* data;
  int64_t row_step, k_step;
  int first_row, rows, depth;
  Copy copy;

  GPU_FN void operator()(unsigned char* stage, int k0) const {
    T* to = reinterpret_cast<T*>(stage);
    if (copy == Copy::chunks) {
      constexpr int kPerK = ROWS / kPack<T>, kCount = kPerK * kDepth<T> / THREADS;
#pragma unroll
      for (int i = 0; i < kCount; ++i) {
        const int at = int(threadIdx.x) + i * THREADS, k = at / kPerK, row = at % kPerK * kPack<T>;
        const int n = k0 + k < depth ? min(max(rows - first_row - row, 0), kPack<T>) : 0;
        ptx::cp_async<16>(ptx::shared_address(to + simt_offset<T, ROWS>(k, row)),
                          n ? data + (first_row + row) + (k0 + k) * k_step : data, n * int(sizeof(T)));
      }
    } else {
      copy_elements_of_tile<T, ROWS, THREADS>(to, data, copy == Copy::along_k, [&](int row, int k) -> const T* {
        return first_row + row < rows && k0 + k < depth ? data + (first_row + row) * row_step + (k0 + k) * k_step
                                                        : nullptr;
      });
    }
  }
};

template <class Tile>
struct Simt {
  using T = typename Tile::T;
  static constexpr int V = kPack<T>, kRows = Tile::M / Tile::TM, kColumns = Tile::N / Tile::TN;  // of threads
  T sums[Tile::TM][Tile::TN] = {};

  // The row of value i, the column of value j.
  GPU_FN static int row(int i) { return (int(threadIdx.x) / kColumns + i / V * kRows) * V + i % V; }
  GPU_FN static int column(int j) { return (int(threadIdx.x) % kColumns + j / V * kColumns) * V + j % V; }

  GPU_FN void operator()(const unsigned char* stage) {
    const T* a = reinterpret_cast<const T*>(stage);
    const T* b = reinterpret_cast<const T*>(stage + Tile::kBytesA);
#pragma unroll 8  // the period of the swizzle
    for (int k = 0; k < kDepth<T>; ++k) {
      Pack<T> x[Tile::TM / V], y[Tile::TN / V];
#pragma unroll
      for (int i = 0; i < Tile::TM / V; ++i) x[i] = load<V>(a + simt_offset<T, Tile::M>(k, row(i * V)));
#pragma unroll
      for (int j = 0; j < Tile::TN / V; ++j) y[j] = load<V>(b + simt_offset<T, Tile::N>(k, column(j * V)));
#pragma unroll
      for (int i = 0; i < Tile::TM; ++i)
#pragma unroll
        for (int j = 0; j < Tile::TN; ++j) sums[i][j] = fma(x[i / V][i % V], y[j / V][j % V], sums[i][j]);
    }
  }

  GPU_FN void store_sums(T* to) const {
#pragma unroll
    for (int i = 0; i < Tile::TM; ++i)
#pragma unroll
      for (int j = 0; j < Tile::TN; j += V) {
        Pack<T> p;
#pragma unroll
        for (int e = 0; e < V; ++e) p[e] = sums[i][j + e];
        store(to + sum_offset<T, Tile::N>(row(i), column(j)), p);
      }
  }
};

}  // namespace fastnn::gpu
