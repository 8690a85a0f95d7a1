#include <algorithm>
#include <cstring>

#include "../dispatch.h"
#include "../float_mode.h"
#include "../parallel.h"
#include "conv2d.h"

namespace fastnn::conv {
namespace {

constexpr int64_t kFlopsPerChunk = 1 << 21;  // about 10 us
constexpr int64_t kRegionPairs = 96 * 1024;  // of an input region: 384 KB, in L2
constexpr int64_t kPair = 4;                 // bytes
constexpr int64_t kAlias = 2048;             // bytes; pixels that far apart meet in few sets of the L1 cache
constexpr int64_t kPitch = 16;

// A region of one image as pairs of channels: pair c of pixel (y, x) at data + (c * channel + y * row + x * col) *
// kPair.
struct Pairs {
  const char* data;
  int64_t channel, row, col;
};

// Elements from one pixel (channels_last) or plane to the next one in a copy.
int64_t pitch_of(bool nhwc, int64_t pairs, int64_t cols) {
  return nhwc ? pairs + (pairs * kPair % kAlias == 0 ? kPitch : 0) : divide_up(cols, kPitch) * kPitch;
}

// The channels c0 to c0 + channels of rows y0 to y0 + rows and columns x0 to x0 + cols of image n, zeros outside of it.
// channels_last: [row][column][pair]; row-major, where two planes are woven: [row][pair][column].
Pairs copy_pairs(const Array& x, bool nhwc, int64_t n, int64_t c0, int64_t channels, int64_t y0, int64_t rows,
                 int64_t x0, int64_t cols, char* to) {
  const int64_t pairs = divide_up(channels, 2);
  const int64_t pitch = pitch_of(nhwc, pairs, cols);
  const Pairs region = nhwc ? Pairs{to, 1, cols * pitch, pitch} : Pairs{to, pitch, pairs * pitch, 1};
  const int64_t left = std::clamp<int64_t>(-x0, 0, cols), right = std::clamp<int64_t>(x.size(3) - x0, left, cols);
  for (int64_t y = 0; y < rows; ++y) {
    char* line = to + y * region.row * kPair;
    if (y0 + y < 0 || y0 + y >= x.size(2) || left == right) {
      std::memset(line, 0, size_t(region.row * kPair));
      continue;
    }
    const char* from =
        x.data + 2 * (n * x.stride(0) + c0 * x.stride(1) + (y0 + y) * x.stride(2) + (x0 + left) * x.stride(3));
    if (!nhwc) {
      std::memset(line, 0, size_t(left * kPair));  // zeros to the right of a row are those to the left of the next one
      kernels().gemm.pack_pairs(from, x.stride(1), 1, channels, int(right - left), int(pitch), line + left * kPair);
      continue;
    }
    std::memset(line, 0, size_t(left * pitch * kPair));
    std::memset(line + right * pitch * kPair, 0, size_t((cols - right) * pitch * kPair));
    if (channels == 2 * pitch && x.stride(3) == channels) {
      std::memcpy(line + left * pitch * kPair, from, size_t((right - left) * pitch * kPair));
      continue;
    }
    for (int64_t i = left; i < right; ++i, from += 2 * x.stride(3)) {
      char* pixel = line + i * pitch * kPair;
      std::memcpy(pixel, from, size_t(2 * channels));
      if (channels % 2) std::memset(pixel + 2 * channels, 0, 2);
    }
  }
  return region;
}

}  // namespace

bool worth_pairs(const Pass& p, const Array& in) {
  return in.dtype == DType::bf16 && kernels().gemm.tile_pairs && !p.pool && p.in_channels > 1 && !p.ty.empty();
}

void run_pairs(const Pass& p, const Array& in, bool nhwc, const Array& weight, const void* bias, const Array* residual,
               Activation activation, const Array& out) {
  FlushSubnormals flush;
  const Kernels& kernel = kernels();
  const TileShape shape = kernel.gemm.tile_shape[in.dtype]();
  const int64_t width = 2 * shape.lanes, taps_y = int64_t(p.ty.size()), taps_x = int64_t(p.tx.size());
  const int64_t pairs = divide_up(p.in_channels, 2), k = taps_y * taps_x * pairs;
  const int64_t panels = divide_up(p.out_channels, width), panel_bytes = k * width * kPair;
  auto columns = [&](int64_t panel) { return std::min(width, p.out_channels - panel * width); };
  auto wide = [&](int64_t panel) { return columns(panel) <= shape.lanes ? shape.lanes : width; };
  // Panels of output channels: [tap][pair][width].
  const Packed weights(weight, pack_key(PackKind::pairs, p), size_t(p.groups * panels * panel_bytes), [&](char* to) {
    parallel_for(p.groups * panels, divide_up(kFlopsPerChunk / 64, k * width), [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t j = i % panels, first = i / panels * p.w_group + j * width * p.w_out;
        for (int64_t at = 0; at < taps_y * taps_x; ++at)
          kernel.gemm.pack_pairs(weight.data + 2 * (first + p.wu[size_t(at / taps_x)] + p.wv[size_t(at % taps_x)]),
                                 p.w_in, p.w_out, p.in_channels, int(columns(j)), int(wide(j)),
                                 to + i * panel_bytes + at * pairs * wide(j) * kPair);
      }
    });
  });

  const auto [low_y, high_y] = std::minmax_element(p.ty.begin(), p.ty.end());
  const auto [low_x, high_x] = std::minmax_element(p.tx.begin(), p.tx.end());
  const int64_t reach_y = *high_y - *low_y, region_cols = (p.cols - 1) * p.step_x + *high_x - *low_x + 1;
  const int64_t x0 = *low_x, y_low = *low_y;
  // Pixels that need neither padding nor another order are read where they lie.
  const bool lies = nhwc && p.in_channels % 2 == 0 && in.stride(3) % 2 == 0 && x0 >= 0 &&
                    x0 + region_cols <= in.size(3) && y_low >= 0 && (p.rows - 1) * p.step_y + *high_y < in.size(2) &&
                    (panels == 1 || p.step_x * in.stride(3) * 2 % kAlias != 0);
  const int64_t row_pairs = pitch_of(nhwc, pairs, region_cols) * (nhwc ? region_cols : pairs);
  int64_t block = std::clamp<int64_t>((kRegionPairs / row_pairs - reach_y) / p.step_y, 1, p.rows);
  const int64_t images = in.size(0), flops_row = 4 * k * p.out_channels * p.cols;
  if (images * p.groups < 4 * num_threads() && num_threads() > 1)
    block = std::min(block, std::max(divide_up(kFlopsPerChunk, flops_row),
                                     divide_up(p.rows * images * p.groups, 4 * num_threads())));
  const int64_t blocks = divide_up(p.rows, block);

  parallel_for(images * p.groups * blocks, std::max<int64_t>(1, kFlopsPerChunk / (flops_row * block)),
               [&](int64_t begin, int64_t end) {
                 const int64_t slack = std::max<int64_t>(0, -x0);  // zeros behind the last row
                 Scratch memory(lies ? 0 : size_t(((block - 1) * p.step_y + reach_y + 1) * row_pairs + slack) * kPair);
                 Scratch offset_memory(size_t(k) * sizeof(int64_t));
                 int64_t* offsets = offset_memory.as<int64_t>();
                 for (int64_t task = begin; task < end; ++task) {
                   const int64_t y = task % blocks * block, g = task / blocks % p.groups, n = task / blocks / p.groups;
                   int64_t rows = std::min(block, p.rows - y), cols = p.cols;
                   const int64_t y0 = y * p.step_y + y_low, c0 = g * p.in_channels;
                   const Pairs region =
                       lies ? Pairs{in.data + 2 * (n * in.stride(0) + c0 + y0 * in.stride(2) + x0 * in.stride(3)), 1,
                                    in.stride(2) / 2, in.stride(3) / 2}
                            : copy_pairs(in, nhwc, n, c0, p.in_channels, y0, (rows - 1) * p.step_y + reach_y + 1, x0,
                                         region_cols, memory.as<char>());
                   for (int64_t u = 0, at = 0; u < taps_y && task == begin; ++u)
                     for (int64_t v = 0; v < taps_x; ++v)
                       for (int64_t c = 0; c < pairs; ++c)
                         offsets[at++] = c * region.channel + (p.ty[size_t(u)] - y_low) * region.row +
                                         (p.tx[size_t(v)] - x0) * region.col;
                   Tile t{};
                   t.k = k;
                   t.a_row = p.step_x * region.col;
                   t.offsets = offsets;
                   t.c_row = p.out_col;
                   t.c_col = out.stride(1);
                   t.activation = activation;
                   // Rows that follow each other without a gap on both sides are one long row.
                   if (p.step_y * region.row == cols * t.a_row && p.out_row == cols * p.out_col) cols *= rows, rows = 1;
                   const bool follow = p.out_row == cols;
                   const int64_t tiles = divide_up(cols, shape.rows), o0 = g * p.out_channels;
                   const int64_t first = n * out.stride(0) + o0 * out.stride(1) + p.offset + y * p.out_row;
                   for (int64_t j = 0; j < panels; ++j) {
                     t.b = weights.data() + (g * panels + j) * panel_bytes;
                     t.b_step = wide(j);
                     t.bias = bias ? static_cast<const float*>(bias) + o0 + j * width : nullptr;
                     for (int64_t r = 0; r < rows; ++r)
                       for (int64_t i = 0; i < tiles; ++i) {
                         const int64_t from = cols * i / tiles, count = cols * (i + 1) / tiles - from;
                         const int64_t to = first + j * width * t.c_col + r * p.out_row + from * t.c_row;
                         t.a = region.data + (r * p.step_y * region.row + from * t.a_row) * kPair;
                         t.a_step = lies && j == 0 ? count * t.a_row : 0;
                         t.c = out.data + 2 * to;
                         t.room = (follow ? (rows - r) * cols : cols) - from;
                         t.residual = residual ? residual->data + 2 * to : nullptr;
                         kernel.gemm.tile_pairs(t, int(count), int(columns(j)));
                       }
                   }
                 }
               });
}

}  // namespace fastnn::conv
