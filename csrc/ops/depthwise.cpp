#include "depthwise.h"

#include <algorithm>
#include <cstring>

#include "../dispatch.h"
#include "../float_mode.h"
#include "../parallel.h"

namespace fastnn::conv {
namespace {

constexpr int64_t kFlopsPerChunk = 1 << 18;  // about 5 us
constexpr int64_t kBandRows = 6;             // of channels_last outputs, at least: rows share the pixels that they read
constexpr int64_t kPlaneElements = 6 * 1024;  // of a band of a plane: 24 KB, in L1
constexpr int64_t kParts = 16;                // partial sums of a weight gradient; fixed, so that bits are
constexpr int64_t kChannelsPerTask = 64;      // of a weight gradient
constexpr int64_t kPitch = 16;                // rows of copies begin on a line of the cache
constexpr int64_t kSlack = 64;                // elements that loads may pass the end of a copy

// Outputs of one axis that use the same taps, first to last.
struct Segment {
  int64_t begin, end, first, last;
};

// The outputs 0 to `outputs`, whose tap t reads i * step + taps[t] in [0, inputs); taps rise.
std::vector<Segment> segments(int64_t outputs, int64_t step, const std::vector<int64_t>& taps, int64_t inputs) {
  std::vector<Segment> found;
  const int64_t n = int64_t(taps.size());
  for (int64_t i = 0; i < outputs; ++i) {
    int64_t first = 0, last = n;
    while (first < n && i * step + taps[size_t(first)] < 0) ++first;
    while (last > first && i * step + taps[size_t(last - 1)] >= inputs) --last;
    if (!found.empty() && found.back().first == first && found.back().last == last)
      found.back().end = i + 1;
    else
      found.push_back({i, i + 1, first, last});
  }
  return found;
}

// fn(rows, cols) for the rectangles of outputs with equal taps, of rows `from` to `to`.
template <class Fn>
void for_rectangles(const std::vector<Segment>& rows, const std::vector<Segment>& cols, int64_t from, int64_t to,
                    Fn&& fn) {
  for (Segment r : rows) {
    r.begin = std::max(r.begin, from), r.end = std::min(r.end, to);
    if (r.begin >= r.end) continue;
    for (const Segment& c : cols) fn(r, c);
  }
}

// What a rectangle has of its pass: offsets of taps in x (strides x_row, x_col) and in the packed weights.
struct Taps {
  std::vector<int64_t> x, w;
  void set(const Pass& p, const Segment& r, const Segment& c, int64_t x_row, int64_t x_col, int64_t w_step) {
    x.clear(), w.clear();
    for (int64_t u = r.first; u < r.last; ++u)
      for (int64_t v = c.first; v < c.last; ++v) {
        x.push_back(p.ty[size_t(u)] * x_row + p.tx[size_t(v)] * x_col);
        w.push_back((p.wu[size_t(u)] + p.wv[size_t(v)]) * w_step);
      }
  }
};

// Columns are the longer side: those share registers.
void turn(DepthwiseRectangle& t) {
  if (t.rows <= t.cols || t.taps == 9) return;
  std::swap(t.rows, t.cols);
  std::swap(t.x_row, t.x_col);
  std::swap(t.y_row, t.y_col);
}

// `w` has the weights of all channels in the compute type, [tap][w_step].
void run_channels(const Pass& p, const Array& in, char* w, int64_t w_step, const void* bias, const Array* residual,
                  Activation activation, const Array& out) {
  const DType dtype = in.dtype;
  const auto kernel = kernels().depthwise.rectangle[dtype];
  const int64_t item = int64_t(size_of(dtype)), channels = p.groups;
  const std::vector<Segment> rows = segments(p.rows, p.step_y, p.ty, in.size(2));
  const std::vector<Segment> cols = segments(p.cols, p.step_x, p.tx, in.size(3));
  const int64_t flops = std::max<int64_t>(1, 2 * int64_t(p.ty.size() * p.tx.size()) * p.cols * channels);
  const int64_t band = std::clamp<int64_t>(kFlopsPerChunk / flops, kBandRows, std::max(kBandRows, p.rows));
  const int64_t bands = divide_up(p.rows, band);
  parallel_for(
      in.size(0) * bands, std::max<int64_t>(1, kFlopsPerChunk / (flops * band)), [&](int64_t begin, int64_t end) {
        Taps taps;
        for (int64_t task = begin; task < end; ++task) {
          const int64_t n = task / bands, from = task % bands * band, to = std::min(p.rows, from + band);
          for_rectangles(rows, cols, from, to, [&](const Segment& r, const Segment& c) {
            taps.set(p, r, c, in.stride(2), in.stride(3), w_step);
            const int64_t at = n * out.stride(0) + p.offset + r.begin * p.out_row + c.begin * p.out_col;
            const int64_t x = n * in.stride(0) + r.begin * p.step_y * in.stride(2) + c.begin * p.step_x * in.stride(3);
            DepthwiseRectangle t{};
            t.rows = r.end - r.begin, t.cols = c.end - c.begin, t.channels = channels;
            t.taps = int64_t(taps.x.size());
            t.x = in.data + x * item, t.x_row = p.step_y * in.stride(2), t.x_col = p.step_x * in.stride(3);
            t.x_offsets = taps.x.data();
            t.w = w, t.w_offsets = taps.w.data();
            t.y = out.data + at * item, t.y_row = p.out_row, t.y_col = p.out_col;
            t.bias = bias, t.activation = activation;
            t.residual = residual ? residual->data + at * item : nullptr;
            turn(t);
            kernel(t);
          });
        }
      });
}

// A padded copy of a band of a plane, in the compute type: [row phase][column phase][rows][pitch], where padded row
// q * step_y + phase is row q of its phase; the same for columns. So a tap reads neighbours for neighbouring outputs.
struct Band {
  int64_t step_y, step_x, low_y, low_x, rows, cols;  // of outputs
  int64_t in_rows, in_cols, plane_rows, pitch, phase;
  int64_t elements;

  Band(const std::vector<Pass>& passes, int64_t band_rows) {
    step_y = passes[0].step_y, step_x = passes[0].step_x, rows = band_rows, cols = 0;
    low_y = low_x = INT64_MAX;
    int64_t high_y = 0, high_x = 0;
    for (const Pass& p : passes) {
      cols = std::max(cols, p.cols);
      if (p.ty.empty()) continue;
      const bool first = low_y == INT64_MAX;
      high_y = first ? p.ty.back() : std::max(high_y, p.ty.back());
      high_x = first ? p.tx.back() : std::max(high_x, p.tx.back());
      low_y = std::min(low_y, p.ty[0]), low_x = std::min(low_x, p.tx[0]);
    }
    if (low_y == INT64_MAX) low_y = low_x = 0;
    in_rows = (rows - 1) * step_y + high_y - low_y + 1, in_cols = (cols - 1) * step_x + high_x - low_x + 1;
    plane_rows = divide_up(in_rows, step_y), pitch = divide_up(divide_up(in_cols, step_x), kPitch) * kPitch;
    phase = plane_rows * pitch;
    elements = step_y * step_x * phase;
  }
  int64_t offset(int64_t ty, int64_t tx) const {
    const int64_t y = ty - low_y, x = tx - low_x;
    return (y % step_y * step_x + x % step_x) * phase + y / step_y * pitch + x / step_x;
  }
  // Copies the band of outputs from row i on, of the plane at x. What lies outside of the plane is left alone.
  void copy(DType dtype, const char* x, int64_t height, int64_t width, int64_t i, char* to) const {
    const int64_t item = int64_t(size_of(dtype)), scalar = int64_t(size_of(compute_type(dtype)));
    const int64_t top = i * step_y + low_y;  // input row of padded row 0
    const int64_t left = std::max<int64_t>(0, low_x), right = std::min(width, low_x + in_cols);
    if (left >= right) return;
    for (int64_t p = 0; p < step_y; ++p) {
      int64_t first = std::max<int64_t>(0, top), last = std::min(height, top + in_rows);
      first += ((p - (first - top)) % step_y + step_y) % step_y;
      if (first >= last) continue;
      kernels().depthwise.spread[dtype](
          x + (first * width + left) * item, step_y * width, divide_up(last - first, step_y), right - left, step_x,
          left - low_x, to + (p * step_x * phase + (first - top) / step_y * pitch) * scalar, pitch, phase);
    }
  }
};

// Rows of a band of a plane of `rows` outputs.
int64_t band_rows(const std::vector<Pass>& passes, int64_t rows) {
  const Band one(passes, 1), two(passes, 2);
  const int64_t more = std::max<int64_t>(1, two.elements - one.elements);
  const int64_t most = std::max<int64_t>(1, (kPlaneElements - one.elements) / more);
  return divide_up(rows, divide_up(rows, most));
}

void run_planes(const std::vector<Pass>& passes, const Array& in, const Array& weight, const void* bias,
                const Array* residual, Activation activation, const Array& out) {
  const DType dtype = in.dtype;
  const DepthwiseKernels& kernel = kernels().depthwise;
  const int64_t item = int64_t(size_of(dtype)), scalar = int64_t(size_of(compute_type(dtype)));
  const Pass& most = passes[0];  // the first residue has the most rows and columns
  const Band band(passes, band_rows(passes, most.rows));
  const int64_t bands = divide_up(most.rows, band.rows), planes = in.size(0) * in.size(1);
  int64_t across = 0, width = 0;  // passes of a row residue, columns that they write together
  for (const Pass& p : passes)
    if (p.offset / out.stride(2) == 0) ++across, width += p.cols;
  const Array w = weight.dtype == compute_type(dtype) ? weight : fastnn::astype(weight, compute_type(dtype));
  const int64_t weights = w.numel() / in.size(1), woven = across > 1 ? band.rows * most.cols : 0;
  // A few planes go through each step together: what was just stored is slow to load as other vectors.
  const int64_t together = std::clamp<int64_t>(kPlaneElements / band.elements, 1, 16),
                steps = divide_up(planes, together);
  const int64_t work = (band.elements * 4 + 2 * weights * band.rows * most.cols) * std::min(together, planes);
  parallel_for(steps * bands, std::max<int64_t>(1, kFlopsPerChunk / work), [&](int64_t begin, int64_t end) {
    Scratch copies(size_t(together * band.elements + kSlack) * size_t(scalar));
    Scratch parts(size_t(together * across * woven * item));
    std::vector<int64_t> x_offsets, w_offsets, starts;
    for (const Pass& p : passes) {
      starts.push_back(int64_t(x_offsets.size()));
      for (size_t u = 0; u < p.ty.size(); ++u)
        for (size_t v = 0; v < p.tx.size(); ++v) {
          x_offsets.push_back(band.offset(p.ty[u], p.tx[v]));
          w_offsets.push_back(p.wu[u] + p.wv[v]);
        }
    }
    starts.push_back(int64_t(x_offsets.size()));
    int64_t cleared = -1;
    for (int64_t task = begin; task < end; ++task) {
      // Consecutive tasks copy the same rows, and what is outside of them stays zero.
      const int64_t first = task % steps * together, last = std::min(planes, first + together);
      const int64_t i = task / steps * band.rows;
      if (cleared != i) std::memset(copies.as<char>(), 0, size_t(together * band.elements * scalar));
      cleared = i;
      for (int64_t plane = first; plane < last; ++plane)
        band.copy(dtype, in.data + plane * in.size(2) * in.size(3) * item, in.size(2), in.size(3), i,
                  copies.as<char>() + (plane - first) * band.elements * scalar);
      for (size_t q = 0; q < passes.size(); ++q) {
        const Pass& p = passes[q];
        const int64_t rows = std::min(band.rows, p.rows - i), x = int64_t(q) % across;
        if (rows <= 0) continue;
        DepthwisePlane t{};
        t.rows = rows, t.cols = p.cols, t.taps = starts[q + 1] - starts[q];
        t.x_row = band.pitch, t.x_offsets = x_offsets.data() + starts[q], t.w_offsets = w_offsets.data() + starts[q];
        t.y_row = across == 1 ? p.out_row : most.cols;
        t.activation = activation;
        for (int64_t plane = first; plane < last; ++plane) {
          const int64_t c = plane % in.size(1), at = plane * out.stride(1) + p.offset + i * p.out_row;
          t.x = copies.as<char>() + (plane - first) * band.elements * scalar;
          t.w = w.data + c * weights * scalar;
          t.bias = bias ? static_cast<const char*>(bias) + c * scalar : nullptr;
          t.residual = residual ? residual->data + at * item : nullptr;
          t.y = across == 1 ? out.data + at * item : parts.as<char>() + ((plane - first) * across + x) * woven * item;
          kernel.plane[dtype](t);
        }
        if (across == 1 || x < across - 1) continue;
        for (int64_t plane = first; plane < last; ++plane) {  // the rows are complete
          const int64_t to = plane * out.stride(1) + p.offset - x + i * p.out_row;
          kernel.weave[dtype](parts.as<char>() + (plane - first) * across * woven * item, most.cols, woven, rows, width,
                              across, out.data + to * item, p.out_row);
        }
      }
    }
  });
}

}  // namespace

bool is_depthwise(const Pass& p) { return p.in_channels == 1 && p.out_channels == 1 && !p.pool; }

void run_depthwise(const std::vector<Pass>& passes, const Array& in, bool nhwc, const Array& weight, const void* bias,
                   const Array* residual, Activation activation, const Array& out) {
  if (out.numel() == 0) return;
  FlushSubnormals flush;
  if (!nhwc) return run_planes(passes, in, weight, bias, residual, activation, out);
  const int64_t lanes = kernels().gemm.tile_shape[in.dtype]().lanes, channels = in.size(1);
  const int64_t taps = weight.size(2) * weight.size(3), step = divide_up(channels, lanes) * lanes;
  const Packed packed(
      weight, {int64_t(PackKind::depthwise)}, size_t(taps * step) * size_of(compute_type(in.dtype)),
      [&](char* to) { kernels().gemm.pack_panel[in.dtype](weight.data, 1, taps, taps, int(channels), int(step), to); });
  for (const Pass& p : passes)
    if (p.rows > 0 && p.cols > 0) run_channels(p, in, packed.data(), step, bias, residual, activation, out);
}

Array depthwise_weight(const Geometry& g, const Array& dy, const Array& x, bool nhwc) {
  const DType compute = compute_type(g.dtype);
  const Kernels& kernel = kernels();
  const int64_t item = int64_t(size_of(g.dtype)), scalar = int64_t(size_of(compute)), taps = g.kh * g.kw;
  const int64_t lanes = kernel.gemm.tile_shape[g.dtype]().lanes, step = divide_up(g.c, lanes) * lanes;
  const std::vector<Pass> passes{forward_pass(g, dy)};
  const Pass& p = passes[0];
  const Band band(passes, band_rows(passes, g.oh));
  // Tasks are parts of the (image, band of rows) pairs by shares of the channels.
  const int64_t share = nhwc ? kChannelsPerTask : 1, shares = divide_up(g.c, share);
  const int64_t rows =
      nhwc ? divide_up(g.oh, std::clamp<int64_t>(kParts / std::max<int64_t>(1, g.n * shares), 1, g.oh)) : band.rows;
  const int64_t bands = divide_up(g.oh, rows), units = g.n * bands;
  const int64_t parts = std::max<int64_t>(1, std::min(nhwc ? units : g.n, kParts));
  Array partial = nhwc ? Array::zeros({parts, taps, step}, compute) : Array::zeros({parts, g.c, taps}, compute);
  const int64_t sums = partial.numel() / parts;
  const int64_t together = std::clamp<int64_t>(kPlaneElements / band.elements, 1, 16);
  const std::vector<Segment> row_segments = segments(g.oh, g.sh, p.ty, g.h), columns = segments(g.ow, g.sw, p.tx, g.w);

  parallel_for(parts * shares, 1, [&](int64_t begin, int64_t end) {
    Scratch copies(nhwc ? 0 : size_t(together * band.elements + kSlack) * size_t(scalar));
    Taps at;
    if (!nhwc)
      for (size_t u = 0; u < p.ty.size(); ++u)
        for (size_t v = 0; v < p.tx.size(); ++v) {
          at.x.push_back(band.offset(p.ty[u], p.tx[v]));
          at.w.push_back(p.wu[u] + p.wv[v]);
        }
    for (int64_t task = begin; task < end; ++task) {
      const int64_t part = task / shares, c = task % shares * share;
      char* w = partial.data + (part * sums + c * (nhwc ? 1 : taps)) * scalar;
      const int64_t first_unit = units * part / parts, last_unit = units * (part + 1) / parts;
      if (!nhwc) {
        for (int64_t unit = first_unit; unit < last_unit; unit += together) {
          const int64_t count = std::min(together, last_unit - unit);
          for (int64_t b = 0; b < count; ++b) {
            const int64_t n = (unit + b) / bands;
            char* to = copies.as<char>() + b * band.elements * scalar;
            if (bands > 1 || unit == first_unit) std::memset(to, 0, size_t(band.elements * scalar));
            band.copy(g.dtype, x.data + (n * x.stride(0) + c * x.stride(1)) * item, g.h, g.w, (unit + b) % bands * rows,
                      to);
          }
          for (int64_t b = 0; b < count; ++b) {
            const int64_t n = (unit + b) / bands, i = (unit + b) % bands * rows;
            DepthwisePlane t{};
            t.rows = std::min(g.oh - i, rows), t.cols = g.ow, t.taps = taps;
            t.x = copies.as<char>() + b * band.elements * scalar, t.x_row = band.pitch, t.x_offsets = at.x.data();
            t.w = w, t.w_offsets = at.w.data();
            t.y = dy.data + (n * dy.stride(0) + c * dy.stride(1) + i * dy.stride(2)) * item, t.y_row = dy.stride(2);
            kernel.depthwise.plane_weight[g.dtype](t);
          }
        }
        continue;
      }
      for (int64_t unit = first_unit; unit < last_unit; ++unit) {
        const int64_t n = unit / bands, i = unit % bands * rows, last = std::min(g.oh, i + rows);
        const int64_t x0 = n * x.stride(0) + c * x.stride(1), y0 = n * dy.stride(0) + c * dy.stride(1);
        for_rectangles(row_segments, columns, i, last, [&](const Segment& r, const Segment& col) {
          at.set(p, r, col, x.stride(2), x.stride(3), step);
          DepthwiseRectangle t{};
          t.rows = r.end - r.begin, t.cols = col.end - col.begin, t.channels = std::min(share, g.c - c);
          t.taps = int64_t(at.x.size());
          t.x = x.data + (x0 + r.begin * g.sh * x.stride(2) + col.begin * g.sw * x.stride(3)) * item;
          t.x_row = g.sh * x.stride(2), t.x_col = g.sw * x.stride(3), t.x_offsets = at.x.data();
          t.w = w, t.w_offsets = at.w.data();
          t.y = dy.data + (y0 + r.begin * dy.stride(2) + col.begin * dy.stride(3)) * item;
          t.y_row = dy.stride(2), t.y_col = dy.stride(3);
          kernel.depthwise.rectangle_weight[g.dtype](t);
        });
      }
    }
  });

  if (parts > 1) kernel.gemm.sum_rows[compute](partial.data + sums * scalar, parts - 1, sums, sums, partial.data);
  Array total = nhwc ? partial.view({g.c, taps}, {1, step}) : partial.view({g.c, taps}, {taps, 1});
  return fastnn::astype(total.contiguous(), g.dtype)
      .view({g.c, 1, g.kh, g.kw}, contiguous_strides({g.c, 1, g.kh, g.kw}));
}

}  // namespace fastnn::conv
