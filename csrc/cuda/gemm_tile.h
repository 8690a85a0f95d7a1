// What matrix products and convolutions share: tiles in shared memory, the pipeline of copies, the epilogue.
//
// A block computes a tile of C = A B, where A is M x K and B is K x N. An operand's tile has `rows` rows (of A: rows of
// C, of B: columns of C) and 64 bytes of k. In shared memory it is k-major, 64 bytes of k side by side for each row, or
// row-major in k, all rows side by side for each k: as the operand lies in global memory, so that 16-byte chunks can be
// copied. Chunks are swizzled so that fragments are read without bank conflicts.
//
// Copies run kStages - 1 tiles ahead of the products.
#pragma once
#include "functions.h"
#include "index.h"
#include "pointwise.h"
#include "ptx.h"

namespace fastnn::gpu {

constexpr int kDepthBytes = 64;  // of k, per row and stage
constexpr int kStages = 4;

template <class T>
constexpr int kDepth = kDepthBytes / int(sizeof(T));

// Byte offsets of 16-byte chunk `chunk` in the two layouts.
GPU_FN uint32_t k_major_offset(int row, int chunk) {
  return uint32_t(row * kDepthBytes + ((chunk ^ (row >> 1 & 3)) << 4));
}
// 16-bit elements are read by ldmatrix.trans, 8 values of k at a time; 32-bit ones by plain loads of 4 values of k and
// 8 rows, which are two chunks.
template <class T, int ROWS>
GPU_FN uint32_t k_row_offset(int k, int chunk) {
  const int swizzle = sizeof(T) == 2 ? k & 7 : (k & 3) << 1;
  return uint32_t(k * ROWS * int(sizeof(T)) + ((chunk ^ swizzle) << 4));
}

// Copies one chunk of which `n` elements from `from` on are there, the rest is zero. Not `wide`: `from` is aligned to
// its elements only.
template <class T>
GPU_FN void copy_chunk(unsigned char* to, const T* from, int n, bool wide) {
  const uint32_t address = ptx::shared_address(to);
  if (wide) {
    ptx::cp_async<16>(address, from, n * int(sizeof(T)));
  } else if constexpr (sizeof(T) == 4) {
#pragma unroll
    for (int i = 0; i < kPack<T>; ++i) ptx::cp_async<4>(address + i * 4, i < n ? from + i : from, i < n ? 4 : 0);
  } else {
    Pack<T> chunk;
#pragma unroll
    for (int i = 0; i < kPack<T>; ++i) chunk[i] = i < n ? from[i] : T{};
    store(reinterpret_cast<T*>(to), chunk);
  }
}

// Copies tiles of a matrix whose element (row, k) lies `step` * row + k or, not k-major, row + `step` * k elements on.
template <class T, bool K_MAJOR, int ROWS, int THREADS>
class MatrixLoader {
 public:
  static constexpr int kChunks = ROWS * kDepthBytes / 16 / THREADS;  // per thread
  static constexpr int kPerLine = K_MAJOR ? 4 : ROWS * int(sizeof(T)) / 16;
  static constexpr int kLines = THREADS / kPerLine;  // rows, or values of k, from one chunk of a thread to the next
  static_assert(THREADS % kPerLine == 0);

  GPU_FN MatrixLoader(const T* data, int64_t step, int first_row, int rows, int depth, bool wide)
      : data_(data), step_(step), wide_(wide) {
    const int line = int(threadIdx.x) / kPerLine, at = int(threadIdx.x) % kPerLine * kPack<T>;
    lines_ = (K_MAJOR ? rows - first_row : depth) - line;
    along_ = (K_MAJOR ? depth : rows - first_row) - at;
    from_ = data + (K_MAJOR ? first_row + line : line) * step + (K_MAJOR ? at : first_row + at);
  }

  // The tile from k on.
  GPU_FN void operator()(unsigned char* to, int k) const {
    const int n = min(max(K_MAJOR ? along_ - k : along_, 0), kPack<T>);
    const T* from = from_ + (K_MAJOR ? k : k * step_);
#pragma unroll
    for (int i = 0; i < kChunks; ++i) {
      const int line = int(threadIdx.x) / kPerLine + i * kLines, chunk = int(threadIdx.x) % kPerLine;
      const bool there = (K_MAJOR ? 0 : k) + i * kLines < lines_ && n > 0;
      const uint32_t offset = K_MAJOR ? k_major_offset(line, chunk) : k_row_offset<T, ROWS>(line, chunk);
      copy_chunk(to + offset, there ? from + i * kLines * step_ : data_, there ? n : 0, wide_);
    }
  }

 private:
  const T* data_;
  const T* from_;  // the thread's first chunk at k = 0
  int64_t step_;
  int lines_, along_;  // rows and elements that are there from it on, along k or across
  bool wide_;
};

// Calls copy(stage, k) for k tiles [first, first + count) ahead of product(stage).
template <int STAGE_BYTES, class Copy, class Product>
GPU_FN void pipeline(unsigned char* shared, int first, int count, Copy&& copy, Product&& product) {
#pragma unroll
  for (int i = 0; i < kStages - 1; ++i) {
    if (i < count) copy(shared + i * STAGE_BYTES, first + i);
    ptx::cp_async_commit();
  }
  for (int i = 0; i < count; ++i) {
    ptx::cp_async_wait<kStages - 2>();
    __syncthreads();  // tile i is there, and everyone is done with the one that the next copy overwrites
    const int next = i + kStages - 1;
    if (next < count) copy(shared + next % kStages * STAGE_BYTES, first + next);
    ptx::cp_async_commit();
    product(shared + i % kStages * STAGE_BYTES);
  }
  ptx::cp_async_wait<0>();
  __syncthreads();
}

// ---- results ------------------------------------------------------------------------------------------------------

// Where C goes. Columns (or rows, `by_row`) are pixels if height > 0: pixel p = (image n, row i, column j) lies n *
// image + i * line + j * pixel elements on; the other axis has `step`. Else element (i, j) lies i * step + j on.
struct Output {
  void* c;
  const void* residual;  // like c, or null
  const void* bias;      // in the compute type, one per channel: rows of C if `bias_by_row`, else columns; or null
  Activation activation;
  bool bias_by_row;
  bool
      wide;  // kPack neighbours in a row of C are neighbours in memory, and aligned if the first is at a multiple of it
  int64_t step;
  int64_t batch, bias_batch;  // from one matrix of a batch to the next
  bool pixels, by_row;
  Divisor per_image, per_line;
  int64_t image, line, pixel;

  GPU_FN int64_t pixel_offset(int p) const {
    const uint32_t n = per_image.divide(uint32_t(p)), rest = uint32_t(p) - n * per_image.d;
    const uint32_t i = per_line.divide(rest), j = rest - i * per_line.d;
    return n * image + i * line + j * pixel;
  }
  GPU_FN int64_t row_offset(int i) const { return pixels && by_row ? pixel_offset(i) : i * step; }
  GPU_FN int64_t column_offset(int j) const {
    if (!pixels) return j;
    return by_row ? j * step : pixel_offset(j);
  }
};

// The sums of a tile wait in shared memory, in the compute type, for the epilogue. Rows of a quad's stores and of a
// thread's 16-byte loads fall into different banks.
template <class S, int N>
GPU_FN int sum_offset(int row, int column) {
  constexpr int kPer = 16 / int(sizeof(S));
  return row * N + ((column / kPer) ^ ((row & 3) << 1)) * kPer + column % kPer;
}

// f(sum + bias + residual) of V neighbours in row i of matrix b from column j on, `n` of them there, stored as T.
template <class T, int V, class S>
GPU_FN void finish(const Output& out, S (&v)[V], int i, int j, int n, int64_t b) {
  if (out.bias) {
    const S* bias = static_cast<const S*>(out.bias) + b * out.bias_batch;
    const S of_row = out.bias_by_row ? bias[i] : S(0);
#pragma unroll
    for (int e = 0; e < V; ++e)
      if (e < n) v[e] += out.bias_by_row ? of_row : bias[j + e];
  }
  T* c = static_cast<T*>(out.c);
  const T* residual = static_cast<const T*>(out.residual);
  const int64_t row = b * out.batch + out.row_offset(i);
  const bool wide = out.wide && n == V;
  Pack<T, V> pack;
  if (wide) {
    const int64_t at = row + out.column_offset(j);
    if (residual) {
      const Pack<T, V> r = load<V>(residual + at);
#pragma unroll
      for (int e = 0; e < V; ++e) v[e] += widen(r[e]);
    }
  } else if (residual) {
#pragma unroll
    for (int e = 0; e < V; ++e)
      if (e < n) v[e] += widen(residual[row + out.column_offset(j + e)]);
  }
  if (out.activation == Activation::relu) {
#pragma unroll
    for (int e = 0; e < V; ++e) v[e] = simt::Relu::f(simt::Vec<S>(v[e]), simt::Vec<S>(0), simt::Vec<S>(0)).v;
  } else if (out.activation != Activation::none) {
#pragma unroll
    for (int e = 0; e < V; ++e)
      v[e] = simt::apply_any_activation(out.activation, simt::Vec<S>(v[e]), simt::Vec<S>(0), simt::Vec<S>(0)).v;
  }
#pragma unroll
  for (int e = 0; e < V; ++e) pack[e] = narrow<T>(v[e]);
  if (wide) {
    store(c + row + out.column_offset(j), pack);
  } else {
#pragma unroll
    for (int e = 0; e < V; ++e)
      if (e < n) c[row + out.column_offset(j + e)] = pack[e];
  }
}

// A tile of sums from shared memory to C, or, where others have a part of k too, to `partial`, an M x N matrix.
template <class T, class S, int M, int N, int THREADS>
GPU_FN void write_tile(int thread, const S* sums, const Output& out, S* partial, int rows, int columns, int i0, int j0,
                       int64_t batch) {
  constexpr int V = kPack<T>, kPer = 16 / int(sizeof(S));
#pragma unroll 1
  for (int at = thread; at < M * N / V; at += THREADS) {
    const int row = at / (N / V), column = at % (N / V) * V, i = i0 + row, j = j0 + column;
    const int n = i < rows ? min(columns - j, V) : 0;
    if (n <= 0) continue;
    S v[V];
#pragma unroll
    for (int e = 0; e < V; e += kPer) {
      const Pack<S> p = load<kPer>(sums + sum_offset<S, N>(row, column + e));
#pragma unroll
      for (int x = 0; x < kPer; ++x) v[e + x] = p[x];
    }
    if (partial) {
      S* to = partial + int64_t(i) * columns + j;
      if (columns % V == 0) {
#pragma unroll
        for (int e = 0; e < V; e += kPer) {
          Pack<S> p;
#pragma unroll
          for (int x = 0; x < kPer; ++x) p[x] = v[e + x];
          store(to + e, p);
        }
      } else {
#pragma unroll
        for (int e = 0; e < V; ++e)
          if (e < n) to[e] = v[e];
      }
    } else {
      finish<T>(out, v, i, j, n, batch);
    }
  }
}

// C from the sums of `splits` parts of k, added in order.
template <class T>
__global__ void __launch_bounds__(256) finish_kernel(const Scalar<T>* __restrict__ partial, int splits, int64_t part,
                                                     Output out, int rows, int columns, int64_t batch) {
  using S = Scalar<T>;
  constexpr int V = kPack<T>;
  const int64_t per_row = ceil_div(columns, V), total = batch * rows * per_row;
  for (int64_t at = int64_t(blockIdx.x) * 256 + threadIdx.x; at < total; at += int64_t(gridDim.x) * 256) {
    const int64_t row = at / per_row;
    const int j = int(at - row * per_row) * V, n = min(columns - j, V);
    S v[V];
#pragma unroll
    for (int e = 0; e < V; ++e) v[e] = 0;
    const S* from = partial + row * columns + j;
    for (int s = 0; s < splits; ++s, from += part)
#pragma unroll
      for (int e = 0; e < V; ++e)
        if (e < n) v[e] += from[e];
    const int64_t b = row / rows;
    finish<T>(out, v, int(row - b * rows), j, n, b);
  }
}

// After a kernel whose blocks had parts of k.
template <class T>
Status launch_finish(const void* partial, int splits, const Output& out, int rows, int columns, int64_t batch,
                     Stream stream) {
  const int64_t blocks = ceil_div(batch * rows * ceil_div(int64_t(columns), int64_t(kPack<T>)), int64_t(256));
  return launch(finish_kernel<T>, dim3(unsigned(blocks < kMostBlocks ? blocks : kMostBlocks)), dim3(256), 0, stream,
                static_cast<const Scalar<T>*>(partial), splits, batch * rows * columns, out, rows, columns, batch);
}

// ---- plans --------------------------------------------------------------------------------------------------------

// How a product is dealt to blocks. A function of the sizes only, so that results are the same on every GPU.
struct Plan {
  bool large;  // tiles of 128 x 128, else 64 x 64
  int tiles_m, tiles_n, splits;
  int per_split;  // k tiles
  int64_t blocks;
};

inline Plan plan(int64_t m, int64_t n, int64_t k, int64_t batch, int depth, bool has_large) {
  constexpr int64_t kFill = 128;  // blocks that keep a large GPU busy
  auto tiles = [&](int64_t size) { return ceil_div(m, size) * ceil_div(n, size) * batch; };
  Plan p{};
  p.large = has_large && tiles(128) >= kFill;
  const int64_t size = p.large ? 128 : 64, k_tiles = ceil_div(k, int64_t(depth));
  p.tiles_m = int(ceil_div(m, size));
  p.tiles_n = int(ceil_div(n, size));
  const int64_t wanted = kFill / (tiles(size) > 0 ? tiles(size) : 1), most = k_tiles / 8;  // 8: more than the pipeline
  p.splits = int(wanted < most ? wanted : most);
  if (p.splits < 1) p.splits = 1;
  p.per_split = int(ceil_div(k_tiles, int64_t(p.splits)));
  p.splits = p.per_split ? int(ceil_div(k_tiles, int64_t(p.per_split))) : 1;
  p.blocks = tiles(size) * p.splits;
  return p;
}

inline int64_t workspace_bytes(const Plan& p, int64_t m, int64_t n, int64_t batch, DType dtype) {
  return p.splits == 1 ? 0 : p.splits * batch * m * n * (dtype == DType::f64 ? 8 : 4);
}

// A block's part of the plan. Tiles are numbered down groups of 8 rows of tiles, so that blocks which run together
// share operands in the L2 cache.
struct Place {
  int tile_m, tile_n, split;
  int64_t batch;

  GPU_FN Place(const Plan& p, uint32_t block) {
    const uint32_t tiles = uint32_t(p.tiles_m) * uint32_t(p.tiles_n), tile = block % tiles, rest = block / tiles;
    split = int(rest % uint32_t(p.splits));
    batch = rest / uint32_t(p.splits);
    const uint32_t group = tile / (8u * p.tiles_n), first = group * 8u, rows = min(uint32_t(p.tiles_m) - first, 8u);
    const uint32_t in_group = tile - group * 8u * p.tiles_n;
    tile_m = int(first + in_group % rows);
    tile_n = int(in_group / rows);
  }
  GPU_FN int first_k_tile(const Plan& p) const { return split * p.per_split; }
  GPU_FN int k_tiles(const Plan& p, int depth, int per_tile) const {
    return max(min(p.per_split, ceil_div(depth, per_tile) - split * p.per_split), 0);
  }
  // Where the sums of this block go if k is split: matrices of `elements` by split and batch.
  template <class S>
  GPU_FN S* partial(const Plan& p, void* workspace, int64_t batches, int64_t elements) const {
    return p.splits == 1 ? nullptr : static_cast<S*>(workspace) + (split * batches + batch) * elements;
  }
};

}  // namespace fastnn::gpu
