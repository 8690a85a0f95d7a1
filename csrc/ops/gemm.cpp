#include "gemm.h"

#include <algorithm>
#include <cstring>

#include "../float_mode.h"
#include "../parallel.h"

namespace fastnn {
namespace {

// Depth of a block: a panel of 512 x 32 floats is 64 KB, which stays in L2 while the rows of A pass by.
constexpr int64_t kDepth = 512;
constexpr int64_t kFewRows = 4;              // up to here reading B once is all that matters
constexpr int64_t kFlopsPerChunk = 1 << 20;  // about 10 us
constexpr int64_t kPackFrom = 128;           // columns from which a packed copy of A's rows pays

// Rows of tile i when m rows are dealt evenly to `tiles` tiles.
int64_t tile_begin(int64_t m, int64_t tiles, int64_t i) { return m * i / tiles; }

// Few rows times a row-major B, which is read once as it lies: blocks of k give partial rows, added in order.
void few_rows(DType dtype, int64_t m, int64_t n, int64_t k, Matrix a, Matrix b, char* c, int64_t ldc,
              const Epilogue& e) {
  const GemmKernels& kernel = fastnn::kernels().gemm;
  const int64_t item = int64_t(size_of(dtype)), scalar = int64_t(size_of(compute_type(dtype)));
  const int64_t width = 2 * kernel.tile_shape[dtype]().lanes;
  const int64_t block = std::max<int64_t>({16, divide_up(k, 16), (1 << 16) / n}), blocks = divide_up(k, block);
  const int64_t partial = m * n * scalar;
  Scratch sums(size_t(blocks * partial + width * scalar)), offsets(size_t(blocks) * 8);
  parallel_for(blocks, std::max<int64_t>(1, kFlopsPerChunk / (8 * m * n * block)), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      char* to = sums.as<char>() + i * partial;
      std::memset(to, 0, size_t(partial));
      kernel.combine_rows[dtype](m, n, std::min(block, k - i * block), a.data + i * block * a.col * item, a.row, a.col,
                                 b.data + i * block * b.row * item, b.row, to);
    }
  });
  const float one = 1;
  const double one_f64 = 1;
  std::memset(offsets.as<char>(), 0, size_t(blocks) * 8);
  Tile t{};
  t.k = blocks;
  t.a = dtype == DType::f64 ? static_cast<const void*>(&one_f64) : &one;
  t.offsets = offsets.as<int64_t>();
  t.b_step = m * n;
  t.c_row = ldc;
  t.c_col = 1;
  t.activation = e.activation;
  for (int64_t i = 0; i < m; ++i)
    for (int64_t j = 0; j < n; j += width) {
      t.b = sums.as<char>() + (i * n + j) * scalar;
      t.c = c + (i * ldc + j) * item;
      t.bias = e.bias ? static_cast<const char*>(e.bias) + j * scalar : nullptr;
      t.residual = e.residual ? static_cast<const char*>(e.residual) + (i * ldc + j) * item : nullptr;
      kernel.tile[dtype](t, 1, int(std::min(width, n - j)));
    }
}

}  // namespace

void gemm(DType dtype, int64_t m, int64_t n, int64_t k, Matrix a, Matrix b, char* c, int64_t ldc, const Epilogue& e) {
  if (m == 0 || n == 0) return;
  FlushSubnormals flush;
  const GemmKernels& kernel = fastnn::kernels().gemm;
  const int64_t item = int64_t(size_of(dtype)), scalar = int64_t(size_of(compute_type(dtype)));

  if (m <= kFewRows && b.row == 1 && a.col == 1 && k > 0 && !e.residual) {
    int64_t grain = std::max<int64_t>(8, kFlopsPerChunk / (2 * m * k) / 8 * 8);
    parallel_for(divide_up(n, 8), grain / 8, [&](int64_t begin, int64_t end) {
      int64_t j = begin * 8, cols = std::min(n, end * 8) - j;
      auto* bias = e.bias ? static_cast<const char*>(e.bias) + j * scalar : nullptr;
      kernel.dot_rows[dtype](m, cols, k, a.data, a.row, b.data + j * b.col * item, b.col, c + j * item, ldc, bias,
                             e.activation);
    });
    return;
  }

  if (m <= kFewRows && b.col == 1 && k > 0) return few_rows(dtype, m, n, k, a, b, c, ldc, e);
  if (n == 1 && ldc == 1 && !e.bias && m > kFewRows) {  // a column: the transposed product has few rows
    return gemm(dtype, 1, m, k, {b.data, b.col, b.row}, {a.data, a.col, a.row}, c, m, e);
  }

  const TileShape shape = kernel.tile_shape[dtype]();
  const int64_t width = 2 * shape.lanes, panels = divide_up(n, width), tiles = divide_up(m, shape.rows);
  // Sums are kept in C between blocks of depth, which 16-bit storage would round: there the depth is one block.
  const int64_t depth = scalar == item ? std::min(k, kDepth) : k;
  // bfloat16 dot products: packed operands hold pairs along k, each as large as a float.
  const bool pairs = dtype == DType::bf16 && kernel.tile_pairs;
  const bool pack_a = scalar != item || n >= kPackFrom;
  auto pack = pairs ? kernel.pack_pairs : kernel.pack_panel[dtype];
  auto run = pairs ? kernel.tile_pairs : kernel.tile[dtype];
  Scratch panel_memory(size_t(std::max<int64_t>(depth, 1) * panels * width * scalar));
  Scratch offset_memory(size_t(std::max<int64_t>(depth, 1)) * sizeof(int64_t));
  char* packed_b = panel_memory.as<char>();
  int64_t* offsets = offset_memory.as<int64_t>();
  for (int64_t i = 0; i < depth; ++i) offsets[i] = i * (pack_a ? shape.rows : a.col);
  // A task is one row tile with a share of the panels; few row tiles mean that the panels are shared out as well.
  const int64_t shares = tiles >= 8 ? 1 : std::min(panels, divide_up(8, tiles)), share = divide_up(panels, shares);

  for (int64_t k0 = 0; k0 == 0 || k0 < k; k0 += depth) {
    const int64_t kb = std::min(depth, k - k0);
    const int64_t steps = pairs ? (kb + 1) / 2 : kb;  // elements of packed depth
    const bool first = k0 == 0, last = k0 + kb >= k;
    // A panel that needs one vector only is packed one vector wide, so that its rows stay together.
    auto panel_width = [&](int64_t j) { return n - j * width <= shape.lanes ? shape.lanes : width; };
    parallel_for(
        panels, std::max<int64_t>(1, 16384 / std::max<int64_t>(1, kb * width)), [&](int64_t begin, int64_t end) {
          for (int64_t j = begin; j < end; ++j)
            pack(b.data + (k0 * b.row + j * width * b.col) * item, b.row, b.col, kb,
                 int(std::min(width, n - j * width)), int(panel_width(j)), packed_b + j * width * steps * scalar);
        });
    const int64_t flops = 2 * shape.rows * std::max<int64_t>(kb, 1) * share * width;
    parallel_for(tiles * shares, std::max<int64_t>(1, kFlopsPerChunk / flops), [&](int64_t begin, int64_t end) {
      Scratch rows_memory(pack_a ? size_t(shape.rows * kb * scalar) : 0);
      for (int64_t task = begin; task < end; ++task) {
        int64_t i = task / shares, from = tile_begin(m, tiles, i), rows = tile_begin(m, tiles, i + 1) - from;
        const char* a_tile = a.data + (from * a.row + k0 * a.col) * item;
        Tile t{};
        t.k = steps;
        t.a = a_tile;
        t.a_row = a.row;
        t.offsets = offsets;
        t.c_row = ldc;
        t.c_col = 1;
        t.accumulate = !first;
        if (pack_a) {
          pack(a_tile, a.col, a.row, kb, int(rows), shape.rows, rows_memory.as<char>());
          t.a = rows_memory.as<char>();
          t.a_row = 1;
        }
        for (int64_t j = task % shares * share; j < std::min(panels, (task % shares + 1) * share); ++j) {
          t.b = packed_b + j * width * steps * scalar;
          t.b_step = panel_width(j);
          t.c = c + (from * ldc + j * width) * item;
          if (last) {
            t.bias = e.bias ? static_cast<const char*>(e.bias) + j * width * scalar : nullptr;
            t.residual = e.residual ? static_cast<const char*>(e.residual) + (from * ldc + j * width) * item : nullptr;
            t.activation = e.activation;
          }
          run(t, int(rows), int(std::min(width, n - j * width)));
        }
      }
    });
    if (k == 0) break;
  }
}

}  // namespace fastnn
