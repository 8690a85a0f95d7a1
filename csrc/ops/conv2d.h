// 2-d convolution:
//   y[n, o, i, j] = f(bias[o] + sum_{c, u, v} w[o, c, u, v] x[n, g c' + c, i sh + u dh - top, j sw + v dw - left] +
//   residual)
// x (N, C, H, W), row-major or channels_last; w (O, C / groups, kh, kw); zeros outside of x; y keeps the layout of x.
#pragma once
#include <optional>
#include <string_view>
#include <tuple>
#include <vector>

#include "../array.h"
#include "../kernels/types.h"
#include "../packed.h"
#include "gemm.h"

namespace fastnn::ops {

// `padding` is (top, bottom, left, right); stride and dilation are (rows, columns).
Array conv2d(const Array& x, const Array& weight, const std::optional<Array>& bias, const Dims& stride,
             const Dims& padding, const Dims& dilation, int64_t groups, std::string_view activation,
             const std::optional<Array>& residual);

// max_pool2d(conv2d(...), 2) in one go, for a non-decreasing activation ("none" or "relu"), and, if asked for, the
// position 0 to 3 of each maximum in its 2x2 window, as max_pool2d_positions has them.
std::tuple<Array, std::optional<Array>> conv2d_pool(const Array& x, const Array& weight,
                                                    const std::optional<Array>& bias, const Dims& stride,
                                                    const Dims& padding, const Dims& dilation, int64_t groups,
                                                    std::string_view activation, bool need_positions);

// Gradients of x, weight and bias; each is computed only where asked for.
std::tuple<std::optional<Array>, std::optional<Array>, std::optional<Array>> conv2d_backward(
    const Array& grad, const Array& x, const Array& weight, const Dims& stride, const Dims& padding,
    const Dims& dilation, int64_t groups, bool need_x, bool need_weight, bool need_bias);

}  // namespace fastnn::ops

// What forward and backward share.
namespace fastnn::conv {

struct Geometry {
  int64_t n, c, h, w;                 // input
  int64_t oc, kh, kw, oh, ow;         // kernel and output
  int64_t sh, sw, dh, dw, top, left;  // stride, dilation, padding
  int64_t groups, cg, og;             // channels per group
  DType dtype;
  bool nhwc;  // computed on channels_last images
  bool depthwise() const { return cg == 1 && og == 1; }
};

// Checks everything and throws before anything is computed.
Geometry geometry(const Array& x, const Array& weight, const Dims& stride, const Dims& padding, const Dims& dilation,
                  int64_t groups);

// Where a kernel reads an image: element (c, y, x) of the region at data + c * channel + y * row + x * col, in elements
// of the compute type.
struct Region {
  const char* data;
  int64_t channel, row, col;
};

// Whether vectors of the pixels of a row leave fewer lanes empty than vectors of channels: few channels as lanes waste
// most of them (conv 1 -> 6 of LeNet uses 0.37 of the lanes that way, 0.87 with pixels).
inline bool pixels_fill_lanes(int64_t pixels, int64_t channels, int lanes) {
  auto use = [&](int64_t n) { return double(n) / double(divide_up(n, lanes) * lanes); };
  return use(pixels) > 1.1 * use(channels);
}

// A correlation with part of the taps; forward is one pass, backward-data one for each residue of the stride:
//   out[o, i, j] = sum_{c, u, v} w[o, c, u, v] in[c, i * step_y + ty[u], j * step_x + tx[v]],  i < rows, j < cols
// With `pool`, rows and cols are even and the output has the maxima of 2x2 pixels, half of the rows and columns.
// Output (n, group, o, i, j) lies `offset` + i * out_row + j * out_col elements behind the channel plane's first pixel.
struct Pass {
  int64_t groups, in_channels, out_channels;  // channels per group
  int64_t rows, cols, step_y, step_x;
  std::vector<int64_t> ty, tx;   // offsets of the taps in the input, may be negative
  int64_t w_group, w_out, w_in;  // steps in the weight
  std::vector<int64_t> wu, wv;   // offsets of the taps in the weight
  int64_t offset, out_row, out_col;
  bool pool;
};

// What a copy of the weight for a pass depends on; `kind` tells layouts apart.
enum class PackKind : int64_t { panels_nchw, panels_nhwc, pixels, winograd, depthwise, pointwise, pairs };
PackKey pack_key(PackKind kind, const Pass& pass);

// The pass of the forward, to an output with the strides of y.
Pass forward_pass(const Geometry& g, const Array& y);

// `position` is written with the layout of `out` if `pool` and it is not null.
void run_pass(const Pass& pass, const Array& in, bool nhwc, const Array& weight, const void* bias,
              const Array* residual, Activation activation, const Array& out, uint8_t* position = nullptr);
// All passes of an output.
void run_passes(const std::vector<Pass>& passes, const Array& in, bool nhwc, const Array& weight, const void* bias,
                const Array* residual, Activation activation, const Array& out);

// Copies the region (c0.., y0.., x0..) of image n of x into `to` in the compute type. Outside of x, `to` is set to zero
// if `clear`, else left as an earlier copy of the same y0 and rows has set it. With `phases` (row-major only), column
// x0
// + i is column i / phases of run i % phases of its row; runs are region_row() / phases elements long.
Region copy_region(const Array& x, bool nhwc, int64_t n, int64_t c0, int64_t channels, int64_t y0, int64_t rows,
                   int64_t x0, int64_t cols, bool clear, char* to, int64_t phases = 1);
// Elements of a row of such a copy: of all its channels if nhwc, else of one.
int64_t region_row(bool nhwc, int64_t cols, int64_t channels, int64_t phases = 1);
// The region where it lies, if it needs neither padding nor conversion.
std::optional<Region> view_region(const Array& x, int64_t n, int64_t c0, int64_t y0, int64_t rows, int64_t x0,
                                  int64_t cols);

// conv2d_pairs.cpp: bfloat16 by dot products of pairs of channels, where the ISA has them; as run_pass.
bool worth_pairs(const Pass& pass, const Array& in);
void run_pairs(const Pass& pass, const Array& in, bool nhwc, const Array& weight, const void* bias,
               const Array* residual, Activation activation, const Array& out);

struct Gradients {
  std::optional<Array> x, weight, bias;
};

// conv2d_sparse.cpp: gradients from the elements of dy that are not zero, when few are. Empty where a value is not
// finite: then the dense sums decide what becomes NaN. worth_sparse takes a dense dy, backward_sparse a row-major one.
bool may_be_sparse(const Geometry& g);
bool worth_sparse(const Geometry& g, const Array& dy);
std::optional<Gradients> backward_sparse(const Geometry& g, const Array& dy, const Array& x, const Array& weight,
                                         bool need_x, bool need_weight, bool need_bias);

// conv2d_cuda.cpp: on a GPU, in any layout. y and residual, and x and dy, may have any dense layout.
void gpu_forward(const Geometry& g, const Array& x, const Array& weight, const void* bias, const Array* residual,
                 Activation activation, const Array& y);
Array gpu_backward_data(const Geometry& g, const Array& dy, const Array& weight, bool channels_last);
Array gpu_backward_weight(const Geometry& g, const Array& dy, const Array& x);
Array gpu_backward_bias(const Geometry& g, const Array& dy);

// (C, H, W) as a batch of one, and back.
inline Array with_batch(const Array& a) {
  if (a.ndim() != 3) return a;
  return a.view({1, a.size(0), a.size(1), a.size(2)}, {a.numel(), a.stride(0), a.stride(1), a.stride(2)});
}
inline Array without_batch(const Array& a) {
  return a.view({a.size(1), a.size(2), a.size(3)}, {a.stride(1), a.stride(2), a.stride(3)});
}

}  // namespace fastnn::conv
