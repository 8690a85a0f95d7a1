#include "pointwise.h"

#include <algorithm>
#include <numeric>

#include "../dispatch.h"
#include "../float_mode.h"
#include "../parallel.h"

namespace fastnn::conv {
namespace {

constexpr int64_t kFlopsPerChunk = 1 << 20;  // about 10 us
constexpr int64_t kBlockBytes = 128 * 1024;  // of pixels, which stay in L2 with some weights
constexpr int64_t kMostPixels = 512;         // of a block
constexpr int64_t kFewPixels = 400;          // of a row-major image: below, vectors of channels are fuller
constexpr int64_t kShortSum = 160;           // channels
constexpr int64_t kAlias = 2048;             // bytes; pixels that far apart meet in few sets of the L1 cache

struct Call {
  const Pass& p;
  const Array& in;
  const Array& weight;
  const void* bias;
  const Array* residual;
  Activation activation;
  const Array& out;

  const Kernels& kernel = kernels();
  const DType dtype = in.dtype;
  const int64_t item = int64_t(size_of(dtype)), scalar = int64_t(size_of(compute_type(dtype)));
  const TileShape shape = kernel.gemm.tile_shape[dtype]();
  const int64_t width = 2 * shape.lanes, k = p.in_channels, images = in.size(0);

  Tile tile() const {
    Tile t{};
    t.k = k;
    t.activation = activation;
    return t;
  }
  // Where the pass reads input pixel (0, 0) of an image, and writes output pixel (0, 0).
  const char* input(int64_t image, int64_t channel) const {
    return in.data +
           (image * in.stride(0) + channel * in.stride(1) + p.ty[0] * in.stride(2) + p.tx[0] * in.stride(3)) * item;
  }
  const char* weights(int64_t group) const { return weight.data + (group * p.w_group + p.wu[0] + p.wv[0]) * item; }
  const void* bias_of(int64_t channel) const {
    return bias ? static_cast<const char*>(bias) + channel * scalar : nullptr;
  }
};

// Fetches `bytes` from c + at on, to be written.
void fetch_line(void* c, int64_t at, int64_t bytes) {
  char* line = static_cast<char*>(c) + at;
  for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch(line + i, 1);
}

// Blocks of pixels of one image, a multiple of `unit` but the last, and enough of them for all threads.
int64_t block_size(int64_t pixels, int64_t bytes, int64_t unit, int64_t others) {
  int64_t most = std::min(kMostPixels, kBlockBytes / bytes) / unit;
  if (others < 4 * num_threads()) most = std::min(most, divide_up(pixels, unit * divide_up(4 * num_threads(), others)));
  return unit * std::max<int64_t>(1, most);
}

void run_rows(const Call& call) {
  const Pass& p = call.p;
  const int64_t unit = call.shape.rows, k = call.k, tiles = divide_up(p.out_channels, unit), pixels = p.rows * p.cols;
  const int64_t tile_bytes = unit * k * call.scalar;
  // Tiles of output channels, [k][unit] each.
  auto first = [&](int64_t tile) { return p.out_channels * tile / tiles; };
  const Packed weights(
      call.weight, pack_key(PackKind::pointwise, p), size_t(p.groups * tiles * tile_bytes), [&](char* to) {
        for (int64_t i = 0; i < p.groups * tiles; ++i) {
          const int64_t o = first(i % tiles), count = first(i % tiles + 1) - o;
          call.kernel.gemm.pack_panel[call.dtype](call.weights(i / tiles) + o * p.w_out * call.item, p.w_in, p.w_out, k,
                                                  int(count), int(unit), to + i * tile_bytes);
        }
      });
  // A block is whole rows of outputs, or with a dense input any run of pixels.
  const bool dense = p.step_y == 1 && p.step_x == 1 && p.cols == call.in.size(3);
  const int64_t rows_unit = dense ? call.width : p.cols;
  const int64_t block = std::min(pixels, block_size(pixels, k * call.scalar, rows_unit, call.images * p.groups));
  const int64_t blocks = divide_up(pixels, block);
  const int64_t pitch = (divide_up(block, 16) | 1) * 16;  // odd: powers of two would meet in few sets of the cache
  const int64_t flops = std::max<int64_t>(1, 2 * k * p.out_channels * block);
  parallel_for(
      call.images * p.groups * blocks, std::max<int64_t>(1, kFlopsPerChunk / flops), [&](int64_t begin, int64_t end) {
        // One more row takes what the copies drop or pass.
        Scratch copy(size_t(((p.step_x) * k + 1) * pitch + call.width) * size_t(call.scalar));
        for (int64_t task = begin; task < end; ++task) {
          const int64_t q = task % blocks * block, count = std::min(block, pixels - q);
          const int64_t g = task / blocks % p.groups, n = task / blocks / p.groups, o0 = g * p.out_channels;
          const char* x = call.input(n, g * k);
          const int64_t row = call.in.stride(2);
          if (dense)
            call.kernel.conv2d.copy_image[call.dtype](x + q * call.item, call.in.stride(1), 0, k, 1, count,
                                                      copy.as<char>(), pitch, 0);
          for (int64_t c = 0; c < k && !dense; ++c)
            call.kernel.depthwise.spread[call.dtype](
                x + (c * call.in.stride(1) + q / p.cols * p.step_y * row) * call.item, p.step_y * row, count / p.cols,
                (p.cols - 1) * p.step_x + 1, p.step_x, 0, copy.as<char>() + c * pitch * call.scalar, p.cols, k * pitch);
          Tile t = call.tile();
          t.a_row = 1;
          t.a_step = unit;
          t.b_step = pitch;
          t.c_row = call.out.stride(1);
          t.c_col = 1;
          for (int64_t i = 0; i < tiles; ++i)
            for (int64_t j = 0; j < count; j += call.width) {
              const int64_t o = first(i), at = n * call.out.stride(0) + (o0 + o) * t.c_row + p.offset + q + j;
              t.a = weights.data() + (g * tiles + i) * tile_bytes;
              t.b = copy.as<char>() + j * call.scalar;
              t.c = call.out.data + at * call.item;
              t.row_bias = call.bias_of(o0 + o);
              t.residual = call.residual ? call.residual->data + at * call.item : nullptr;
              call.kernel.gemm.tile[call.dtype](t, int(first(i + 1) - o), int(std::min(call.width, count - j)));
            }
        }
      });
}

void run_channels_last(const Call& call) {
  const Pass& p = call.p;
  const int64_t k = call.k, panels = divide_up(p.out_channels, call.width), panel_bytes = k * call.width * call.scalar;
  auto wide = [&](int64_t panel) {
    return p.out_channels - panel * call.width <= call.shape.lanes ? call.shape.lanes : call.width;
  };
  auto columns = [&](int64_t panel) { return std::min(call.width, p.out_channels - panel * call.width); };
  // Panels of output channels, [k][width] each.
  const Packed weights(
      call.weight, pack_key(PackKind::panels_nhwc, p), size_t(p.groups * panels * panel_bytes), [&](char* to) {
        parallel_for(
            p.groups * panels, divide_up(kFlopsPerChunk / 32, k * call.width), [&](int64_t begin, int64_t end) {
              for (int64_t i = begin; i < end; ++i) {
                const int64_t j = i % panels;
                call.kernel.gemm.pack_panel[call.dtype](call.weights(i / panels) + j * call.width * p.w_out * call.item,
                                                        p.w_in, p.w_out, k, int(columns(j)), int(wide(j)),
                                                        to + i * panel_bytes);
              }
            });
      });
  // Pixels that lie one after the other, on both sides, are one row, across images too.
  int64_t rows = p.rows, cols = p.cols, images = call.images;
  const int64_t x_col = p.step_x * call.in.stride(3), x_row = p.step_y * call.in.stride(2);
  if (x_row == cols * x_col && p.out_row == cols * p.out_col) cols *= rows, rows = 1;
  if (rows == 1 && call.in.stride(0) == cols * x_col && call.out.stride(0) == cols * p.out_col)
    cols *= images, images = 1;
  const bool copies =
      call.item != call.scalar || (panels > 1 && x_col * call.item % kAlias == 0 && p.out_channels > call.width);
  const int64_t pitch = copies ? (divide_up(k, 16) | 1) * 16 : x_col;
  const int64_t block = std::min(cols, block_size(cols, k * call.scalar, call.shape.rows, images * rows * p.groups));
  const int64_t blocks = divide_up(cols, block), all = images * rows * p.groups * blocks;
  // Too few blocks for the threads: panels are shared out too.
  const int64_t shares = std::clamp<int64_t>(divide_up(4 * num_threads(), all), 1, num_threads() > 1 ? panels : 1);
  const int64_t flops = std::max<int64_t>(1, 2 * k * divide_up(p.out_channels, shares) * block);
  Scratch offset_memory(size_t(k) * sizeof(int64_t));
  std::iota(offset_memory.as<int64_t>(), offset_memory.as<int64_t>() + k, 0);
  const int64_t* offsets = offset_memory.as<int64_t>();
  parallel_for(all * shares, std::max<int64_t>(1, kFlopsPerChunk / flops), [&](int64_t begin, int64_t end) {
    Scratch copy(copies ? size_t(block * pitch) * size_t(call.scalar) : 0);
    for (int64_t task = begin; task < end; ++task) {
      const int64_t share = task % shares, q = task / shares % blocks * block, count = std::min(block, cols - q);
      const int64_t g = task / shares / blocks % p.groups, r = task / shares / blocks / p.groups % rows;
      const int64_t n = task / shares / blocks / p.groups / rows, o0 = g * p.out_channels;
      const char* x = call.input(n, g * k) + (r * x_row + q * x_col) * call.item;
      if (copies) {
        call.kernel.conv2d.copy_image[call.dtype](x, 0, x_col, 1, count, k, copy.as<char>(), 0, pitch);
        x = copy.as<char>();
      }
      const int64_t tiles = divide_up(count, call.shape.rows);
      Tile t = call.tile();
      t.a_row = pitch;
      t.offsets = offsets;
      t.c_row = p.out_col;
      t.c_col = 1;
      const int64_t first = panels * share / shares;
      for (int64_t j = first; j < panels * (share + 1) / shares; ++j) {
        t.b = weights.data() + (g * panels + j) * panel_bytes;
        t.b_step = wide(j);
        t.bias = call.bias_of(o0 + j * call.width);
        for (int64_t i = 0; i < tiles; ++i) {
          const int64_t from = count * i / tiles, height = count * (i + 1) / tiles - from;
          const int64_t at =
              n * call.out.stride(0) + o0 + j * call.width + p.offset + r * p.out_row + (q + from) * p.out_col;
          t.a = x + from * pitch * call.scalar;
          t.a_step = j == first && !copies ? height * pitch : 0;
          t.c = call.out.data + at * call.item;
          t.residual = call.residual ? call.residual->data + at * call.item : nullptr;
          // After a short sum the stores would wait for their lines.
          for (int64_t m = 0; m < height && k <= kShortSum; ++m)
            fetch_line(t.c, m * t.c_row * call.item, columns(j) * call.item);
          call.kernel.gemm.tile[call.dtype](t, int(height), int(columns(j)));
        }
      }
    }
  });
}

}  // namespace

// Before -> with it, GFLOP/s of one core of a Zen 4 with AVX-512 that does 118, batch 1, row-major / channels_last:
//   256 -> 512 56x56 stride 2: 78 -> 100 / 88 -> 105     512 -> 1024 28x28 stride 2: 88 -> 106 / 74 -> 109
//   1024 -> 256 14x14: - / 83 -> 111                     1024 -> 512 14x14: - / 80 -> 111
bool worth_pointwise(const Pass& p, const Array& in, bool nhwc, const Array& out) {
  const bool one = p.ty.size() == 1 && p.tx.size() == 1 && !p.pool && p.ty[0] >= 0 && p.tx[0] >= 0 &&
                   (p.rows - 1) * p.step_y + p.ty[0] < in.size(2) && (p.cols - 1) * p.step_x + p.tx[0] < in.size(3);
  if (!one || p.in_channels == 0 || nhwc) return one && p.in_channels > 0 && out.stride(1) == 1;
  return p.out_col == 1 && (p.out_row == p.cols || p.rows == 1) && p.step_x <= 2 && p.rows * p.cols >= kFewPixels;
}

void run_pointwise(const Pass& p, const Array& in, bool nhwc, const Array& weight, const void* bias,
                   const Array* residual, Activation activation, const Array& out) {
  const Call call{p, in, weight, bias, residual, activation, out};
  nhwc ? run_channels_last(call) : run_rows(call);
}

}  // namespace fastnn::conv
