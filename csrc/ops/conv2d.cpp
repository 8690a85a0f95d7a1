#include "conv2d.h"

#include <algorithm>
#include <cstdio>
#include <cstring>

#include "../dispatch.h"
#include "../float_mode.h"
#include "../parallel.h"
#include "activation.h"
#include "depthwise.h"
#include "gemm.h"
#include "pointwise.h"
#include "pooling.h"
#include "winograd.h"

namespace fastnn::conv {
namespace {

constexpr int64_t kRegionElements = 128 * 1024;  // an input region of 512 KB stays in L2
constexpr int64_t kFlopsPerChunk = 1 << 20;      // about 10 us
constexpr int64_t kGroupChannels = 16;           // of a group, from which channels_last stays as it is
constexpr int64_t kRunBytes = 16 * 1024;         // of turned weights, which stay in L1
constexpr int64_t kFewTaps = 160;                // of all input channels
constexpr double kFull = 0.85;                   // of the lanes
constexpr int64_t kSlack = 16;                   // elements that a vector load may pass the end of a region

// Few taps: the tile's way to rows of channels, by a transposition, would cost more than the lanes that stay empty. One
// core: 3 -> 32 3x3 stride 2 at 224x224 64 -> 89 GFLOP/s, 3 -> 64 7x7 stride 2 86 -> 99.
bool pixels_as_lanes(const Pass& p, bool nhwc, int lanes) {
  if (nhwc || p.step_x > 2 || p.out_col != 1) return false;
  if (pixels_fill_lanes(p.cols, p.out_channels, lanes)) return true;
  const int64_t taps = p.in_channels * int64_t(p.ty.size() * p.tx.size());
  return taps <= kFewTaps && double(p.cols) >= kFull * double(divide_up(p.cols, lanes) * lanes);
}

// Weights of one group, k-major: a panel of the register tile's width or, with pixels as lanes, one [k][channels]
// block. k runs over (channel, tap) in row-major images and over (tap, channel) in channels_last ones.
void pack_weight(const Pass& p, const Array& weight, int64_t group, int64_t panel, bool nhwc, bool as_pixels,
                 const TileShape& shape, char* to) {
  const auto pack = kernels().gemm.pack_panel[weight.dtype];
  const int64_t item = int64_t(size_of(weight.dtype)), scalar = int64_t(size_of(compute_type(weight.dtype)));
  const int64_t taps_y = int64_t(p.wu.size()), taps_x = int64_t(p.wv.size()), taps = taps_y * taps_x;
  const int64_t width = as_pixels ? p.out_channels : 2 * shape.lanes, first = panel * width;
  const int64_t cols = std::min(width, p.out_channels - first);
  const int64_t wide = as_pixels ? width : cols <= shape.lanes ? shape.lanes : width, line = wide * scalar;
  const char* from = weight.data + (group * p.w_group + first * p.w_out) * item;
  to += panel * p.in_channels * taps * width * scalar;
  const int64_t each = std::min(p.w_in, p.w_out);  // weights of one kernel, which lie together
  if (each == 1) return pack(from, p.w_in, p.w_out, p.in_channels, int(cols), int(wide), to);
  bool in_order = p.w_in == each && taps == each;
  for (int64_t at = 0; at < taps && in_order; ++at)
    in_order = p.wu[size_t(at / taps_x)] + p.wv[size_t(at % taps_x)] == at;
  if (in_order && !nhwc) return pack(from, 1, p.w_out, p.in_channels * taps, int(cols), int(wide), to);
  // Turned in whole runs, a few channels at a time, then put in order.
  const int64_t batch = p.w_in == each ? std::clamp<int64_t>(kRunBytes / (each * line), 1, p.in_channels) : 1;
  Scratch memory(size_t(batch * each * line));
  for (int64_t c = 0; c < p.in_channels; c += batch) {
    const int64_t count = std::min(batch, p.in_channels - c);
    pack(from + c * p.w_in * item, 1, p.w_out, count * each, int(cols), int(wide), memory.as<char>());
    for (int64_t i = 0; i < count; ++i)
      for (int64_t at = 0; at < taps; ++at) {
        const int64_t tap = p.wu[size_t(at / taps_x)] + p.wv[size_t(at % taps_x)];
        const char* row = memory.as<char>() + (i * each + tap) * line;
        char* place = to + (nhwc ? at * p.in_channels + c + i : (c + i) * taps + at) * line;
        if (line == 128)
          std::memcpy(place, row, 128);  // a known size takes no call
        else
          std::memcpy(place, row, size_t(line));
      }
  }
}

// The line of FASTNN_LOG=dispatch.
void log_pass(const Pass& p, const Array& in, bool nhwc, const char* algorithm) {
  const Dims out{in.size(0), p.groups * p.out_channels, p.rows, p.cols};
  const Dims kernel{int64_t(p.ty.size()), int64_t(p.tx.size())}, step{p.step_y, p.step_x};
  std::fprintf(stderr, "fastnn: conv2d %s %s %s -> %s, kernel %s, step %s, groups %lld%s: %s, %s\n", name(in.dtype),
               nhwc ? "channels_last" : "row-major", to_text(in.shape).c_str(), to_text(out).c_str(),
               to_text(kernel).c_str(), to_text(step).c_str(), static_cast<long long>(p.groups),
               p.pool ? ", max-pool 2x2" : "", algorithm, kIsaNames[current_isa()]);
}

}  // namespace

Geometry geometry(const Array& x, const Array& weight, const Dims& stride, const Dims& padding, const Dims& dilation,
                  int64_t groups) {
  require<NotImplementedError>(is_float(x.dtype), "conv2d: dtype ", name(x.dtype),
                               " is not supported; expected float32, bfloat16, float16 or float64");
  require<TypeError>(x.dtype == weight.dtype, "conv2d: input is ", name(x.dtype), " but weight is ", name(weight.dtype),
                     "; expected the same dtype, convert one of them");
  require<ValueError>(x.ndim() == 4, "conv2d: input has shape ", x.shape, "; expected (N, C, H, W) or (C, H, W)");
  require<ValueError>(weight.ndim() == 4, "conv2d: weight has shape ", weight.shape,
                      "; expected (out_channels, in_channels / groups, kernel height, kernel width)");
  require<ValueError>(groups >= 1, "conv2d: groups is ", groups, "; expected a positive integer");
  require<ValueError>(weight.size(0) % groups == 0 && weight.size(0) > 0, "conv2d: weight has ", weight.size(0),
                      " output channels; expected a positive multiple of groups=", groups);
  require<ValueError>(x.size(1) == weight.size(1) * groups, "conv2d: weight has ", weight.size(1),
                      " input channels per group but input has ", x.size(1), " channels and groups=", groups,
                      "; expected weight of shape ",
                      Dims{weight.size(0), x.size(1) / groups, weight.size(2), weight.size(3)});
  require<ValueError>(weight.size(2) > 0 && weight.size(3) > 0, "conv2d: weight has shape ", weight.shape,
                      "; the kernel must not be empty");
  for (int i = 0; i < 2; ++i) {
    constexpr int64_t kMost = int64_t(1) << 31;
    require<ValueError>(stride[i] > 0 && stride[i] < kMost, "conv2d: stride is ", stride,
                        "; expected positive integers");
    require<ValueError>(dilation[i] > 0 && dilation[i] < kMost, "conv2d: dilation is ", dilation,
                        "; expected positive integers");
    for (int j = 0; j < 2; ++j)
      require<ValueError>(padding[2 * i + j] >= 0 && padding[2 * i + j] < kMost, "conv2d: padding is ", padding,
                          "; expected integers that are not negative");
  }
  Geometry g{};
  g.n = x.size(0), g.c = x.size(1), g.h = x.size(2), g.w = x.size(3);
  g.oc = weight.size(0), g.kh = weight.size(2), g.kw = weight.size(3);
  g.sh = stride[0], g.sw = stride[1], g.dh = dilation[0], g.dw = dilation[1], g.top = padding[0], g.left = padding[2];
  int64_t reach_h = (g.kh - 1) * g.dh + 1, reach_w = (g.kw - 1) * g.dw + 1;
  int64_t padded_h = g.h + padding[0] + padding[1], padded_w = g.w + padding[2] + padding[3];
  require<ValueError>(padded_h >= reach_h && padded_w >= reach_w, "conv2d: the kernel covers ", Dims{reach_h, reach_w},
                      " but the padded input is only ", Dims{padded_h, padded_w},
                      "; use more padding or a smaller kernel");
  g.oh = (padded_h - reach_h) / g.sh + 1;
  g.ow = (padded_w - reach_w) / g.sw + 1;
  g.groups = groups, g.cg = g.c / groups, g.og = g.oc / groups;
  g.dtype = x.dtype;
  // Groups of few channels leave most lanes of a vector of channels empty: pixels fill them.
  g.nhwc = x.is_channels_last() && (groups == 1 || g.depthwise() || g.og >= kGroupChannels);
  return g;
}

PackKey pack_key(PackKind kind, const Pass& p) {
  PackKey key{int64_t(kind), p.groups, p.in_channels, p.out_channels, p.w_group, p.w_out, p.w_in, int64_t(p.wu.size())};
  key.insert(key.end(), p.wu.begin(), p.wu.end());
  key.insert(key.end(), p.wv.begin(), p.wv.end());
  return key;
}

Pass forward_pass(const Geometry& g, const Array& y) {
  Pass p{};
  p.groups = g.groups, p.in_channels = g.cg, p.out_channels = g.og;
  p.rows = g.oh, p.cols = g.ow, p.step_y = g.sh, p.step_x = g.sw;
  for (int64_t u = 0; u < g.kh; ++u) p.ty.push_back(u * g.dh - g.top), p.wu.push_back(u * g.kw);
  for (int64_t v = 0; v < g.kw; ++v) p.tx.push_back(v * g.dw - g.left), p.wv.push_back(v);
  p.w_in = g.kh * g.kw, p.w_out = g.cg * p.w_in, p.w_group = g.og * p.w_out;
  p.out_row = y.stride(2), p.out_col = y.stride(3);
  return p;
}

// Elements from a pixel to the next one in a channels_last copy: not 2 KB or a multiple of it, because then neighbours
// would meet in few sets of the L1 cache (1x1, 1024 channels: 65 GFLOP/s for 100).
static int64_t pixel_step(int64_t channels) { return channels % 512 == 0 ? channels + 16 : channels; }

int64_t region_row(bool nhwc, int64_t cols, int64_t channels, int64_t phases) {
  return nhwc ? cols * pixel_step(channels) : divide_up(cols, phases) * phases;
}

Region copy_region(const Array& x, bool nhwc, int64_t n, int64_t c0, int64_t channels, int64_t y0, int64_t rows,
                   int64_t x0, int64_t cols, bool clear, char* to, int64_t phases) {
  const int64_t item = int64_t(size_of(x.dtype)), scalar = int64_t(size_of(compute_type(x.dtype)));
  const int64_t row = region_row(nhwc, cols, channels, phases);
  const Region region = nhwc ? Region{to, 1, row, pixel_step(channels)} : Region{to, rows * row, row, 1};
  // The part of the region that lies inside of x.
  const int64_t top = std::max<int64_t>(0, -y0), bottom = std::min(rows, x.size(2) - y0);
  const int64_t left = std::max<int64_t>(0, -x0), right = std::min(cols, x.size(3) - x0);
  const bool whole = top == 0 && left == 0 && bottom == rows && right == cols;
  if (clear && !whole) std::memset(to, 0, size_t(rows * row * (nhwc ? 1 : channels) * scalar));
  if (bottom <= top || right <= left) return region;
  const char* from =
      x.data + (n * x.stride(0) + c0 * x.stride(1) + (y0 + top) * x.stride(2) + (x0 + left) * x.stride(3)) * item;
  if (phases > 1) {
    for (int64_t c = 0; c < channels; ++c)
      kernels().depthwise.spread[x.dtype](from + c * x.stride(1) * item, x.stride(2), bottom - top, right - left,
                                          phases, left, to + (c * rows + top) * row * scalar, row, row / phases);
    return region;
  }
  char* first = to + (top * region.row + left * region.col) * scalar;
  auto kernel = kernels().conv2d.copy_image[x.dtype];
  if (!nhwc)
    kernel(from, x.stride(1), x.stride(2), channels, bottom - top, right - left, first, region.channel, region.row);
  else if (channels == x.size(1) && region.col == channels)
    kernel(from, 0, x.stride(2), 1, bottom - top, (right - left) * channels, first, 0, region.row);
  else  // the channels of one pixel after the other
    kernel(from, x.stride(2), x.stride(3), bottom - top, right - left, channels, first, region.row, region.col);
  return region;
}

std::optional<Region> view_region(const Array& x, int64_t n, int64_t c0, int64_t y0, int64_t rows, int64_t x0,
                                  int64_t cols) {
  if (x.dtype != compute_type(x.dtype) || y0 < 0 || x0 < 0 || y0 + rows > x.size(2) || x0 + cols > x.size(3))
    return std::nullopt;
  int64_t at = n * x.stride(0) + c0 * x.stride(1) + y0 * x.stride(2) + x0 * x.stride(3);
  return Region{x.data + at * int64_t(size_of(x.dtype)), x.stride(1), x.stride(2), x.stride(3)};
}

void run_pass(const Pass& p, const Array& in, bool nhwc, const Array& weight, const void* bias, const Array* residual,
              Activation activation, const Array& out, uint8_t* position) {
  if (in.size(0) == 0 || p.rows == 0 || p.cols == 0) return;
  FlushSubnormals flush;
  const DType dtype = in.dtype;
  const Kernels& kernel = kernels();
  const int64_t item = int64_t(size_of(dtype)), scalar = int64_t(size_of(compute_type(dtype)));
  const TileShape shape = kernel.gemm.tile_shape[dtype]();
  const int64_t width = 2 * shape.lanes, taps_y = int64_t(p.ty.size()), taps_x = int64_t(p.tx.size());
  const int64_t k = p.in_channels * taps_y * taps_x, panels = divide_up(p.out_channels, width);
  const bool as_pixels = !residual && k > 0 && pixels_as_lanes(p, nhwc, shape.lanes);
  // It writes runs of pixels or of channels; the gradient of a strided convolution may have neither.
  const bool winograd = worth_winograd(p, dtype) && (p.out_col == 1 || out.stride(1) == 1);
  const bool pairs = worth_pairs(p, in), pointwise = !pairs && worth_pointwise(p, in, nhwc, out);
  if (logs_dispatch())
    log_pass(p, in, nhwc,
             winograd    ? "Winograd 4x4"
             : pairs     ? "pairs of channels"
             : pointwise ? "matrix product"
             : as_pixels ? "pixels as lanes"
                         : "channels as lanes");
  if (pairs) return run_pairs(p, in, nhwc, weight, bias, residual, activation, out);
  if (pointwise) return run_pointwise(p, in, nhwc, weight, bias, residual, activation, out);
  if (winograd)
    return run_winograd(p, in, nhwc, weight, static_cast<const float*>(bias), residual, activation, out, position);

  const int64_t packed = k * (as_pixels ? p.out_channels : panels * width) * scalar;
  const PackKind kind = as_pixels ? PackKind::pixels : nhwc ? PackKind::panels_nhwc : PackKind::panels_nchw;
  const Packed packed_weight(weight, pack_key(kind, p), size_t(packed * p.groups), [&](char* to) {
    const int64_t shares = as_pixels ? 1 : panels;
    parallel_for(k > 0 ? p.groups * shares : 0, divide_up(kFlopsPerChunk / 32, std::max<int64_t>(1, k * width)),
                 [&](int64_t begin, int64_t end) {
                   for (int64_t i = begin; i < end; ++i)
                     pack_weight(p, weight, i / shares, i % shares, nhwc, as_pixels, shape, to + i / shares * packed);
                 });
  });

  // The region of a block of rows: from the lowest tap of its first row to the highest tap of its last.
  int64_t low_y = 0, high_y = 0, low_x = 0, high_x = 0;
  if (k > 0) {
    low_y = *std::min_element(p.ty.begin(), p.ty.end()), high_y = *std::max_element(p.ty.begin(), p.ty.end());
    low_x = *std::min_element(p.tx.begin(), p.tx.end()), high_x = *std::max_element(p.tx.begin(), p.tx.end());
  }
  const int64_t region_cols = (p.cols - 1) * p.step_x + high_x - low_x + 1;
  const int64_t phases = as_pixels ? p.step_x : 1;  // vectors of pixels read neighbours
  const int64_t row_elements =
      std::max<int64_t>(1, region_row(nhwc, region_cols, p.in_channels, phases) * (nhwc ? 1 : p.in_channels));
  int64_t block = (kRegionElements / row_elements - (high_y - low_y)) / p.step_y;
  block = std::min(p.rows, std::max<int64_t>(block, 1));
  const int64_t flops_row = std::max<int64_t>(1, 2 * k * p.out_channels * p.cols), images = in.size(0);
  // Few images: smaller blocks, so that there is a task for every thread.
  if (images * p.groups < 4 * num_threads() && num_threads() > 1)
    block = std::min(block, std::max(divide_up(kFlopsPerChunk, flops_row),
                                     divide_up(p.rows * images * p.groups, 4 * num_threads())));
  if (p.pool) block = (block + 1) / 2 * 2;
  const int64_t blocks = divide_up(p.rows, block), tasks = images * p.groups * blocks;

  parallel_for(tasks, std::max<int64_t>(1, kFlopsPerChunk / (flops_row * block)), [&](int64_t begin, int64_t end) {
    const int64_t most_rows = (block - 1) * p.step_y + high_y - low_y + 1;
    Scratch region_memory(size_t((most_rows * row_elements + kSlack) * scalar));
    Scratch offset_memory(size_t(k) * sizeof(int64_t));
    int64_t* offsets = offset_memory.as<int64_t>();
    Region last{};
    int64_t cleared_y = -1, cleared_rows = -1;
    for (int64_t task = begin; task < end; ++task) {
      const int64_t y = task % blocks * block, g = task / blocks % p.groups, n = task / blocks / p.groups;
      int64_t rows = std::min(block, p.rows - y), cols = p.cols, out_row = p.out_row;
      const int64_t y0 = y * p.step_y + low_y, in_rows = (rows - 1) * p.step_y + high_y - low_y + 1;
      const int64_t c0 = g * p.in_channels;
      std::optional<Region> found;
      if (!as_pixels && k > 0) found = view_region(in, n, c0, y0, in_rows, low_x, region_cols);
      Region region = found ? *found : Region{};
      if (!found && k > 0) {
        bool clear = task == begin || cleared_y != y0 || cleared_rows != in_rows;
        region = copy_region(in, nhwc, n, c0, p.in_channels, y0, in_rows, low_x, region_cols, clear,
                             region_memory.as<char>(), phases);
        cleared_y = y0, cleared_rows = in_rows;
      }
      if (task == begin || region.channel != last.channel || region.row != last.row) {
        int64_t at = 0;
        auto offset = [&](int64_t c, int64_t u, int64_t v) {
          const int64_t x = p.tx[size_t(v)] - low_x;
          return c * region.channel + (p.ty[size_t(u)] - low_y) * region.row +
                 (phases > 1 ? x % phases * (region.row / phases) + x / phases : x * region.col);
        };
        if (!nhwc) {
          for (int64_t c = 0; c < p.in_channels; ++c)
            for (int64_t u = 0; u < taps_y; ++u)
              for (int64_t v = 0; v < taps_x; ++v) offsets[at++] = offset(c, u, v);
        } else {
          for (int64_t u = 0; u < taps_y; ++u)
            for (int64_t v = 0; v < taps_x; ++v)
              for (int64_t c = 0; c < p.in_channels; ++c) offsets[at++] = offset(c, u, v);
        }
        last = region;
      }
      const int64_t o0 = g * p.out_channels;
      const int64_t first = n * out.stride(0) + o0 * out.stride(1) + p.offset + (p.pool ? y / 2 : y) * p.out_row;
      const char* w = packed_weight.data() + g * packed;
      const char* group_bias = bias ? static_cast<const char*>(bias) + o0 * scalar : nullptr;
      if (as_pixels) {
        PixelTile t{k,
                    region.data,
                    p.step_y * region.row,
                    offsets,
                    w,
                    out.data + first * item,
                    out.stride(1),
                    p.out_row,
                    cols,
                    group_bias,
                    activation};
        if (p.pool)
          kernel.conv2d.pixel_tile_pool[dtype](t, int(p.out_channels), int(rows / 2),
                                               position ? position + first : nullptr);
        else
          kernel.conv2d.pixel_tile[dtype](t, int(p.out_channels), int(rows));
        continue;
      }
      Tile t{};
      t.k = k;
      t.a_row = p.step_x * region.col;
      t.offsets = offsets;
      t.c_row = p.out_col;
      t.c_col = out.stride(1);
      t.activation = activation;
      // Rows that follow each other without a gap on both sides are one long row (1x1 kernels).
      if (!p.pool && p.step_y * region.row == cols * t.a_row && out_row == cols * p.out_col) {
        cols *= rows;
        rows = 1;
      }
      const int64_t unit = p.pool ? 2 : 1;         // a tile has whole 2x2 windows if they are pooled
      const bool follow = out_row * unit == cols;  // rows of the output plane follow each other
      const int64_t units = cols / unit, tiles = divide_up(units, shape.rows / unit);
      for (int64_t j = 0; j < panels; ++j) {
        int64_t wide = std::min(width, p.out_channels - j * width);
        t.b = w + j * width * k * scalar;
        t.b_step = wide <= shape.lanes ? shape.lanes : width;
        t.bias = group_bias ? group_bias + j * width * scalar : nullptr;
        for (int64_t r = 0; r < rows; r += unit)
          for (int64_t i = 0; i < tiles; ++i) {
            int64_t from = units * i / tiles * unit, count = units * (i + 1) / tiles * unit - from;
            t.a = region.data + (r * p.step_y * region.row + from * t.a_row) * scalar;
            int64_t to = first + j * width * t.c_col + r / unit * out_row + from / unit * t.c_row;
            t.c = out.data + to * item;
            t.room = ((follow ? (rows - r) * cols / unit : cols) - from) / unit;
            t.residual = residual ? residual->data + to * item : nullptr;
            if (p.pool)
              kernel.gemm.tile_pool[dtype](t, p.step_y * region.row, int(count), int(wide),
                                           position ? position + to : nullptr);
            else
              kernel.gemm.tile[dtype](t, int(count), int(wide));
          }
      }
    }
  });
}

void run_passes(const std::vector<Pass>& passes, const Array& in, bool nhwc, const Array& weight, const void* bias,
                const Array* residual, Activation activation, const Array& out) {
  if (std::all_of(passes.begin(), passes.end(), is_depthwise)) {
    if (logs_dispatch() && !passes.empty()) log_pass(passes[0], in, nhwc, "depthwise");
    return run_depthwise(passes, in, nhwc, weight, bias, residual, activation, out);
  }
  for (const Pass& p : passes) run_pass(p, in, nhwc, weight, bias, residual, activation, out);
}

}  // namespace fastnn::conv

namespace fastnn::ops {
namespace {

// The bias in the compute type, or an empty array.
Array bias_values(const conv::Geometry& g, const std::optional<Array>& bias) {
  if (!bias) return Array();
  require<TypeError>(bias->dtype == g.dtype, "conv2d: input is ", name(g.dtype), " but bias is ", name(bias->dtype));
  require<ValueError>(bias->ndim() == 1 && bias->size(0) == g.oc, "conv2d: bias has shape ", bias->shape,
                      "; expected (", g.oc, ",)");
  Array values = bias->contiguous();
  return g.dtype == compute_type(g.dtype) ? values : fastnn::astype(values, compute_type(g.dtype));
}

}  // namespace

Array conv2d(const Array& x_in, const Array& weight_in, const std::optional<Array>& bias, const Dims& stride,
             const Dims& padding, const Dims& dilation, int64_t groups, std::string_view activation,
             const std::optional<Array>& residual) {
  if (x_in.ndim() == 3) {
    std::optional<Array> r = residual;
    if (r) r = conv::with_batch(*r);
    return conv::without_batch(
        conv2d(conv::with_batch(x_in), weight_in, bias, stride, padding, dilation, groups, activation, r));
  }
  conv::Geometry g = conv::geometry(x_in, weight_in, stride, padding, dilation, groups);
  Activation f = parse_activation("conv2d", activation);
  Dims shape{g.n, g.oc, g.oh, g.ow};
  Array b = bias_values(g, bias);
  if (residual) {
    require<TypeError>(residual->dtype == g.dtype, "conv2d: input is ", name(g.dtype), " but residual is ",
                       name(residual->dtype));
    require<ValueError>(residual->shape == shape, "conv2d: residual has shape ", residual->shape, "; expected ", shape);
  }
  Array weight = weight_in.contiguous();
  if (x_in.on_cuda()) {
    Array y = x_in.is_channels_last() ? Array::empty_channels_last(shape, g.dtype, x_in.device())
                                      : Array::empty(shape, g.dtype, x_in.device());
    Array like_y = residual ? residual->with_layout_of(y) : Array();
    conv::gpu_forward(g, x_in, weight, b.data, residual ? &like_y : nullptr, f, y);
    return y;
  }
  Array x = g.nhwc ? x_in : x_in.contiguous();
  Array y = g.nhwc ? Array::empty_channels_last(shape, g.dtype) : Array::empty(shape, g.dtype);
  Array residual_values = residual ? residual->with_layout_of(y) : Array();
  conv::run_passes({conv::forward_pass(g, y)}, x, g.nhwc, weight, b.data, residual ? &residual_values : nullptr, f, y);
  return x_in.is_channels_last() && !g.nhwc ? y.channels_last() : y;
}

std::tuple<Array, std::optional<Array>> conv2d_pool(const Array& x_in, const Array& weight_in,
                                                    const std::optional<Array>& bias, const Dims& stride,
                                                    const Dims& padding, const Dims& dilation, int64_t groups,
                                                    std::string_view activation, bool need_positions) {
  conv::Geometry g = conv::geometry(x_in, weight_in, stride, padding, dilation, groups);
  Activation f = parse_activation("conv2d", activation);
  require<NotImplementedError>(f <= Activation::relu, "conv2d: ", activation,
                               " cannot be fused with a max-pool; expected relu");
  require<ValueError>(g.oh >= 2 && g.ow >= 2, "max_pool2d: input of shape ", Dims{g.n, g.oc, g.oh, g.ow},
                      " is smaller than the window (2, 2)");
  if (x_in.on_cuda()) {
    Array all = conv2d(x_in, weight_in, bias, stride, padding, dilation, groups, activation, std::nullopt);
    const Dims two{2, 2}, one{1, 1}, none{0, 0};
    if (!need_positions) return {max_pool2d(all, two, two, none, one, false), std::nullopt};
    auto [y, position, last] = max_pool2d_positions(all, two, two, none, one, false);
    return {std::move(y), std::move(position)};
  }
  Dims shape{g.n, g.oc, g.oh / 2, g.ow / 2};
  Array b = bias_values(g, bias), x = g.nhwc ? x_in : x_in.contiguous(), weight = weight_in.contiguous();
  auto make = [&](DType t) { return g.nhwc ? Array::empty_channels_last(shape, t) : Array::empty(shape, t); };
  Array y = make(g.dtype);
  std::optional<Array> position;
  if (need_positions) position = make(DType::u8);
  conv::Pass p = conv::forward_pass(g, y);
  p.pool = true;
  p.rows = g.oh / 2 * 2, p.cols = g.ow / 2 * 2;
  conv::run_pass(p, x, g.nhwc, weight, b.data, nullptr, f, y, position ? position->as<uint8_t>() : nullptr);
  if (x_in.is_channels_last() && !g.nhwc) {
    y = y.channels_last();
    if (position) position = position->channels_last();
  }
  return {std::move(y), std::move(position)};
}

}  // namespace fastnn::ops
