#include <algorithm>
#include <cstring>

#include "../dispatch.h"
#include "../float_mode.h"
#include "../parallel.h"
#include "conv2d.h"
#include "depthwise.h"
#include "gemm.h"

namespace fastnn::conv {
namespace {

constexpr int64_t kParts = 16;                 // partial sums of a weight gradient; fixed, so that bits are
constexpr int64_t kPartBytes = 2 << 20;        // of all parts; larger weights have fewer, and shares
constexpr int64_t kWovenBytes = 16 << 20;      // of planes before they are put together
constexpr int64_t kPartPixels = 1024;          // of outputs in a part: it reads and writes all of its sums
constexpr int64_t kShareSums = 28;             // rows of weights in a share, at least
constexpr int64_t kBatchElements = 48 * 1024;  // input of the images that a kernel call covers: 192 KB, in L2

// Runs the passes of a row-major dx with stride 2 to planes of their own, whose pixels are neighbours, a few images at
// a time, and puts the columns together.
void backward_woven(const Geometry& g, std::vector<Pass> passes, const Array& dy, const Array& weight,
                    const Array& dx) {
  const int64_t plane = passes[0].rows * passes[0].cols, count = int64_t(passes.size()),
                item = int64_t(size_of(g.dtype));
  const int64_t images =
      std::clamp<int64_t>(kWovenBytes / std::max<int64_t>(1, g.c * count * plane * item), 1, std::max<int64_t>(1, g.n));
  for (int64_t i = 0; i < count; ++i)
    passes[size_t(i)].offset = i * plane, passes[size_t(i)].out_row = passes[0].cols, passes[size_t(i)].out_col = 1;
  Array parts = Array::empty({images, g.c, count * plane}, g.dtype);
  for (int64_t n = 0; n < g.n; n += images) {
    const int64_t some = std::min(images, g.n - n);
    const Array grad = dy.view({some, g.oc, g.oh, g.ow}, dy.strides, n * dy.stride(0));
    run_passes(passes, grad, false, weight, nullptr, nullptr, Activation::none, parts);
    parallel_for(
        some * g.c, std::max<int64_t>(1, 16384 / std::max<int64_t>(1, g.h * g.w)), [&](int64_t begin, int64_t end) {
          for (int64_t c = begin; c < end; ++c)
            for (int64_t y = 0; 2 * y < count; ++y) {
              const Pass& even = passes[size_t(2 * y)];
              char* to = dx.data + ((n * g.c + c) * g.h + y) * g.w * item;
              const char* from = parts.data + (c * count + 2 * y) * plane * item;
              kernels().depthwise.weave[g.dtype](from, passes[0].cols, plane, even.rows, g.w, 2, to, g.sh * g.w);
            }
        });
  }
}

// dx[n, c, y, x] = sum over the taps that reach (y, x). Pixels with the same residue of y + top and x + left modulo the
// stride are reached by the same taps: one pass each, a correlation of dy with step 1.
Array backward_data(const Geometry& g, const Array& dy, const Array& weight, bool nhwc) {
  Dims shape{g.n, g.c, g.h, g.w};
  Array dx = nhwc ? Array::empty_channels_last(shape, g.dtype) : Array::empty(shape, g.dtype);
  std::vector<Pass> passes;
  for (int64_t y = 0; y < std::min(g.sh, g.h); ++y)
    for (int64_t x = 0; x < std::min(g.sw, g.w); ++x) {
      Pass p{};
      p.groups = g.groups, p.in_channels = g.og, p.out_channels = g.cg;
      p.rows = divide_up(g.h - y, g.sh), p.cols = divide_up(g.w - x, g.sw), p.step_y = p.step_x = 1;
      // Downwards, so that the offsets in dy rise.
      for (int64_t u = g.kh - 1; u >= 0; --u)
        if (int64_t at = y + g.top - u * g.dh; at % g.sh == 0) p.ty.push_back(at / g.sh), p.wu.push_back(u * g.kw);
      for (int64_t v = g.kw - 1; v >= 0; --v)
        if (int64_t at = x + g.left - v * g.dw; at % g.sw == 0) p.tx.push_back(at / g.sw), p.wv.push_back(v);
      p.w_out = g.kh * g.kw, p.w_in = g.cg * p.w_out, p.w_group = g.og * p.w_in;
      p.offset = y * dx.stride(2) + x * dx.stride(3), p.out_row = g.sh * dx.stride(2), p.out_col = g.sw * dx.stride(3);
      if (p.ty.empty() || p.tx.empty()) p.ty.clear(), p.tx.clear(), p.wu.clear(), p.wv.clear();
      passes.push_back(std::move(p));
    }
  if (!nhwc && g.sw == 2 && g.w > 1 && !g.depthwise() && !passes.empty())
    backward_woven(g, passes, dy, weight, dx);
  else
    run_passes(passes, dy, nhwc, weight, nullptr, nullptr, Activation::none, dx);
  return dx;
}

// dw[o, c, u, v] = sum_{n, i, j} dy[n, o, i, j] x[n, c, i sh + u dh - top, j sw + v dw - left]. The (image, row) pairs
// are dealt to a fixed number of parts, each part is summed in order, and the parts are added in order. Large weights
// and few pixels have few parts, and shares of the input channels as tasks.
Array backward_weight(const Geometry& g, const Array& dy, const Array& x, bool nhwc) {
  const DType compute = compute_type(g.dtype);
  const Kernels& kernel = kernels();
  const int64_t item = int64_t(size_of(g.dtype)), scalar = int64_t(size_of(compute));
  const TileShape shape = kernel.gemm.tile_shape[g.dtype]();
  const int64_t width = 2 * shape.lanes, k = g.cg * g.kh * g.kw;
  const bool as_pixels = !nhwc && g.sw == 1 && pixels_fill_lanes(g.ow, g.og, shape.lanes);

  const int64_t taps = g.kh * g.kw, sums = g.groups * k * g.og;
  const int64_t most = std::clamp<int64_t>(
      std::min(kPartBytes / std::max<int64_t>(1, sums * scalar), g.n * g.oh * g.ow / kPartPixels), 1, kParts);
  const int64_t bands = g.n >= most || g.n == 0 ? 1 : std::min(g.oh, divide_up(most, g.n)), units = g.n * bands;
  const int64_t parts = std::max<int64_t>(1, std::min(units, most));
  // Shares do not touch the order of sums: as many as the threads need.
  const int64_t wanted = std::min(divide_up(4 * num_threads(), parts * g.groups), k / kShareSums);
  const int64_t shares = num_threads() > 1 ? std::clamp<int64_t>(wanted, 1, std::max<int64_t>(1, g.cg)) : 1;
  Array partial = Array::zeros({parts, g.groups, k, g.og}, compute);

  const int64_t channels = divide_up(g.cg, shares);  // of a share, at most
  const int64_t reach_y = (g.kh - 1) * g.dh, reach_x = (g.kw - 1) * g.dw;
  const int64_t band_rows = divide_up(g.oh, bands), region_cols = (g.ow - 1) * g.sw + reach_x + 1;
  const int64_t region_rows = (band_rows - 1) * g.sh + reach_y + 1,
                region_size = region_rows * region_row(nhwc, region_cols, channels) * (nhwc ? 1 : channels);
  // Bands of one image are far apart in memory, whole images are not: those go to the kernel several at a time.
  const int64_t batch = bands > 1 ? 1 : std::clamp<int64_t>(kBatchElements / std::max<int64_t>(1, region_size), 1, 16);
  const int64_t panel_size = batch * band_rows * g.ow * std::max<int64_t>(width, g.og);

  parallel_for(parts * g.groups * shares, 1, [&](int64_t begin, int64_t end) {
    Scratch region_memory(size_t((batch * region_size + width) * scalar));
    Scratch panel_memory(size_t(panel_size * scalar));
    Scratch offset_memory(size_t(k) * sizeof(int64_t));
    int64_t* offsets = offset_memory.as<int64_t>();
    for (int64_t task = begin; task < end; ++task) {
      const int64_t share = task % shares, part = task / shares / g.groups, group = task / shares % g.groups;
      const int64_t ch0 = g.cg * share / shares, count = g.cg * (share + 1) / shares - ch0, k_share = count * taps;
      char* c = partial.data + ((part * g.groups + group) * k + ch0 * taps) * g.og * scalar;
      const int64_t first = units * part / parts, last = units * (part + 1) / parts;
      for (int64_t unit = first; unit < last;) {
        const int64_t n = unit / bands, band = unit % bands, i0 = g.oh * band / bands;
        const int64_t rows = g.oh * (band + 1) / bands - i0, images = std::min(batch, last - unit);
        unit += images;
        // The input region of these rows, image after image.
        const int64_t in_rows = (rows - 1) * g.sh + reach_y + 1, y0 = i0 * g.sh - g.top;
        auto view = view_region(x, n, group * g.cg + ch0, y0, in_rows, -g.left, region_cols);
        Region region = view ? *view : Region{};
        const int64_t x_image =
            view ? x.stride(0) : in_rows * region_row(nhwc, region_cols, count) * (nhwc ? 1 : count);
        for (int64_t b = 0; !view && b < images; ++b) {
          Region copied = copy_region(x, nhwc, n + b, group * g.cg + ch0, count, y0, in_rows, -g.left, region_cols,
                                      true, region_memory.as<char>() + b * x_image * scalar);
          if (b == 0) region = copied;
        }
        for (int64_t ch = 0, at = 0; ch < count; ++ch)
          for (int64_t u = 0; u < g.kh; ++u)
            for (int64_t v = 0; v < g.kw; ++v)
              offsets[at++] = ch * region.channel + u * g.dh * region.row + v * g.dw * region.col;

        const char* dy_first = dy.data + (n * dy.stride(0) + group * g.og * dy.stride(1) + i0 * dy.stride(2)) * item;
        if (as_pixels) {
          PixelWeightTile t{region.data, x_image,      g.sh * region.row, offsets,      images, rows, g.ow,
                            dy_first,    dy.stride(0), dy.stride(1),      dy.stride(2), c,      g.og};
          if (compute != g.dtype) {
            for (int64_t b = 0; b < images; ++b)
              copy_region(dy, false, n + b, group * g.og, g.og, i0, rows, 0, g.ow, false,
                          panel_memory.as<char>() + b * g.og * rows * g.ow * scalar);
            t.g = panel_memory.as<char>();
            t.g_image = g.og * rows * g.ow, t.g_channel = rows * g.ow, t.g_row = g.ow;
          }
          kernel.conv2d.pixel_weight_tile[g.dtype](t, int(k_share), int(g.og));
          continue;
        }
        for (int64_t o = 0; o < g.og; o += width) {
          const int64_t cols = std::min(width, g.og - o), panel = cols <= shape.lanes ? shape.lanes : width;
          for (int64_t b = 0; b < images; ++b)
            kernel.gemm.pack_panel[g.dtype](dy_first + (b * dy.stride(0) + o * dy.stride(1)) * item, dy.stride(3),
                                            dy.stride(1), rows * g.ow, int(cols), int(panel),
                                            panel_memory.as<char>() + b * rows * g.ow * panel * scalar);
          const int64_t tiles = divide_up(k_share, kernel.conv2d.max_taps[g.dtype]());
          for (int64_t i = 0; i < tiles; ++i) {
            const int64_t m = k_share * i / tiles, rest = k_share * (i + 1) / tiles - m;
            WeightTile t{region.data,
                         x_image,
                         g.sh * region.row,
                         g.sw * region.col,
                         offsets + m,
                         images,
                         rows,
                         g.ow,
                         panel_memory.as<char>(),
                         panel,
                         c + (m * g.og + o) * scalar,
                         g.og};
            kernel.conv2d.weight_tile[g.dtype](t, int(rest), int(cols));
          }
        }
      }
    }
  });

  // Adds the parts, and turns (group, k, o) to (group, o, k), some o at a time.
  Array dw = Array::empty({g.oc, g.cg, g.kh, g.kw}, compute);
  const int64_t some = std::min<int64_t>(g.og, 64), blocks = divide_up(g.og, some);
  parallel_for(g.groups * blocks, std::max<int64_t>(1, 16384 / std::max<int64_t>(1, some * k * parts)),
               [&](int64_t begin, int64_t end) {
                 for (int64_t i = begin; i < end; ++i) {
                   const int64_t o = i % blocks * some, count = std::min(some, g.og - o);
                   char* from = partial.data + (i / blocks * k * g.og + o) * scalar;
                   for (int64_t m = 0; m < k && parts > 1; ++m)
                     kernel.gemm.sum_rows[compute](from + (sums + m * g.og) * scalar, parts - 1, sums, count,
                                                   from + m * g.og * scalar);
                   kernel.gemm.pack_panel[compute](from, 1, g.og, count, int(k), int(k),
                                                   dw.data + (i / blocks * g.og + o) * k * scalar);
                 }
               });
  return fastnn::astype(dw, g.dtype);
}

// db[o] = sum_{n, i, j} dy[n, o, i, j]
Array backward_bias(const Geometry& g, const Array& dy, bool nhwc) {
  const DType compute = compute_type(g.dtype);
  const int64_t item = int64_t(size_of(g.dtype)), scalar = int64_t(size_of(compute)), pixels = g.oh * g.ow;
  Array sums = Array::zeros({g.n, g.oc}, compute);
  const GemmKernels& kernel = kernels().gemm;
  parallel_for(g.n, std::max<int64_t>(1, 65536 / std::max<int64_t>(1, pixels * g.oc)), [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) {
      const char* from = dy.data + n * dy.stride(0) * item;
      char* to = sums.data + n * g.oc * scalar;
      if (nhwc)
        kernel.sum_rows[g.dtype](from, pixels, g.oc, g.oc, to);
      else
        for (int64_t o = 0; o < g.oc; ++o) kernel.sum_run[g.dtype](from + o * pixels * item, pixels, to + o * scalar);
    }
  });
  Array total = Array::zeros({g.oc}, compute);
  kernel.sum_rows[compute](sums.data, g.n, g.oc, g.oc, total.data);
  return fastnn::astype(total, g.dtype);
}

}  // namespace
}  // namespace fastnn::conv

namespace fastnn::ops {

std::tuple<std::optional<Array>, std::optional<Array>, std::optional<Array>> conv2d_backward(
    const Array& grad, const Array& x_in, const Array& weight_in, const Dims& stride, const Dims& padding,
    const Dims& dilation, int64_t groups, bool need_x, bool need_weight, bool need_bias) {
  if (x_in.ndim() == 3) {
    auto [dx, dw, db] = conv2d_backward(conv::with_batch(grad), conv::with_batch(x_in), weight_in, stride, padding,
                                        dilation, groups, need_x, need_weight, need_bias);
    if (dx) dx = conv::without_batch(*dx);
    return {std::move(dx), std::move(dw), std::move(db)};
  }
  conv::Geometry g = conv::geometry(x_in, weight_in, stride, padding, dilation, groups);
  Dims shape{g.n, g.oc, g.oh, g.ow};
  require<ValueError>(grad.shape == shape && grad.dtype == g.dtype, "conv2d_backward: grad has shape ", grad.shape,
                      " and dtype ", name(grad.dtype), "; expected ", shape, " and ", name(g.dtype));
  if (x_in.on_cuda()) {
    std::optional<Array> dx, dw, db;
    if (need_x) dx = conv::gpu_backward_data(g, grad, weight_in.contiguous(), x_in.is_channels_last());
    if (need_weight) dw = conv::gpu_backward_weight(g, grad, x_in);
    if (need_bias) db = conv::gpu_backward_bias(g, grad);
    return {std::move(dx), std::move(dw), std::move(db)};
  }
  FlushSubnormals flush;
  const bool channels_last = x_in.is_channels_last();
  Array x = g.nhwc ? x_in : x_in.contiguous(), weight = weight_in.contiguous();
  Array dy = g.nhwc ? grad.channels_last() : grad.contiguous();
  if ((need_x || need_weight) && conv::may_be_sparse(g) && conv::worth_sparse(g, dy))
    if (auto found = conv::backward_sparse(g, dy.contiguous(), x, weight, need_x, need_weight, need_bias))
      return {std::move(found->x), std::move(found->weight), std::move(found->bias)};
  std::optional<Array> dx, dw, db;
  if (need_x) {
    dx = conv::backward_data(g, dy, weight, g.nhwc);
    if (channels_last && !g.nhwc) dx = dx->channels_last();
  }
  if (need_weight)
    dw = g.depthwise() ? conv::depthwise_weight(g, dy, x, g.nhwc) : conv::backward_weight(g, dy, x, g.nhwc);
  if (need_bias) db = conv::backward_bias(g, dy, g.nhwc);
  return {std::move(dx), std::move(dw), std::move(db)};
}

}  // namespace fastnn::ops
