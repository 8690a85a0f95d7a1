#include <algorithm>
#include <numeric>

#include "../cuda/products.h"
#include "../dispatch.h"
#include "conv2d.h"
#include "matmul.h"

namespace fastnn::conv {
namespace {

// The kernels count pixels, taps and positions in 32 bits, with room for what lies outside of the image.
void require_small(const Geometry& g) {
  constexpr int64_t kMost = int64_t(1) << 31, kFar = int64_t(1) << 28;
  const int64_t reach_h = (g.kh - 1) * g.dh + g.h + g.top, reach_w = (g.kw - 1) * g.dw + g.w + g.left;
  require<NotImplementedError>(
      g.n * g.h * g.w < kMost && g.n * g.oh * g.ow < kMost && g.c * g.kh * g.kw < kMost && g.oc * g.kh * g.kw < kMost &&
          reach_h < kFar && reach_w < kFar && g.sh < kFar && g.sw < kFar,
      "conv2d: input of shape ", Dims{g.n, g.c, g.h, g.w}, " and kernel of ", Dims{g.kh, g.kw},
      "; 2^31 or more pixels or taps, and images of 2^28 or more rows or columns, are not supported on a GPU");
}

// Few channels per group: the kernels take any strides. Must agree with is_direct() in cuda/conv2d.h.
bool is_direct(const Geometry& g) { return g.groups > 1 && g.cg * g.og <= 16; }

bool on_tensor_cores(const Geometry& g) {
  return !is_direct(g) && (size_of(g.dtype) == 2 || (g.dtype == DType::f32 && tf32_products()));
}

int64_t whole_chunks(int64_t channels, DType t) {
  return divide_up(channels, 16 / int64_t(size_of(t))) * 16 / int64_t(size_of(t));
}

// (N, H, W, groups, channels) of x (N, groups * channels, H, W).
Array by_channels(const Array& x, int64_t groups) {
  const int64_t channels = x.size(1) / groups;
  return x.view({x.size(0), x.size(2), x.size(3), groups, channels},
                {x.stride(0), x.stride(2), x.stride(3), channels * x.stride(1), x.stride(1)});
}

// The same for tensor cores: row-major, channels filled up with zeros to whole chunks of 16 bytes.
Array packed(const Array& x, int64_t groups) {
  const Array from = by_channels(x, groups);
  Dims shape = from.shape;
  shape[4] = whole_chunks(shape[4], x.dtype);
  const bool whole = shape == from.shape;
  if (whole && from.is_contiguous() && reinterpret_cast<uintptr_t>(x.data) % 16 == 0)
    return from.view(shape, contiguous_strides(shape));  // steps along axes of one element may be anything
  Array to = whole ? Array::empty(shape, x.dtype, x.device()) : Array::zeros(shape, x.dtype, x.device());
  Array part = to.view(from.shape, to.strides);
  copy(from, part);
  return to;
}

// A row-major copy of w (groups, outputs, taps_y, taps_x, channels), channels filled up like packed() if `whole`.
Array packed_weight(const Array& w, bool whole) {
  Dims shape = w.shape;
  if (whole) shape[4] = whole_chunks(shape[4], w.dtype);
  if (shape == w.shape) return w.contiguous();
  Array to = Array::zeros(shape, w.dtype, w.device());
  Array part = to.view(w.shape, to.strides);
  copy(w, part);
  return to;
}

// Sizes and strides of x (N, H, W, groups, channels).
void set_images(gpu::Convolution& c, const Array& x) {
  c.images = x.size(0), c.height = x.size(1), c.width = x.size(2), c.groups = x.size(3), c.channels = x.size(4);
  c.x = x.data;
  c.x_image = x.stride(0), c.x_row = x.stride(1), c.x_column = x.stride(2);
  c.x_channel = x.size(4) > 1 ? x.stride(4) : x.stride(3);
  if (x.size(3) * x.size(4) == 1) c.x_channel = 1;
}

// Runs the correlation of weight (groups, outputs, taps_y, taps_x, channels) where c has all but x, w and sizes.
void run(const Geometry& g, gpu::Convolution& c, const Array& x, const Array& weight) {
  if (c.images == 0 || c.rows == 0 || c.columns == 0) return;
  const bool tensor_cores = on_tensor_cores(g);
  const Array w = packed_weight(weight, tensor_cores);
  set_images(c, x);
  c.dtype = g.dtype, c.tf32 = tf32_products();
  c.outputs = w.size(1), c.taps_y = w.size(2), c.taps_x = w.size(3);
  c.w = w.data;
  int64_t bytes = 0;
  cuda::check("conv2d", cuda::launchers().convolution_workspace(c, &bytes));
  const Array workspace = Array::empty({bytes}, DType::u8, x.device());
  c.workspace = workspace.data;
  cuda::check("conv2d", cuda::launchers().convolution(c, cuda::stream(x.device())));
}

Array for_kernel(const Geometry& g, const Array& x) {
  return on_tensor_cores(g) ? packed(x, g.groups) : by_channels(x, g.groups);
}

void set_forward(const Geometry& g, gpu::Convolution& c) {
  c.images = g.n, c.rows = g.oh, c.columns = g.ow;
  c.step_y = g.sh, c.step_x = g.sw, c.base_y = -g.top, c.base_x = -g.left, c.tap_y = g.dh, c.tap_x = g.dw;
}

int64_t channel_step(const Array& x) { return x.size(1) > 1 ? x.stride(1) : 1; }

}  // namespace

void gpu_forward(const Geometry& g, const Array& x, const Array& weight, const void* bias, const Array* residual,
                 Activation activation, const Array& y) {
  require_small(g);
  gpu::Convolution c{};
  set_forward(g, c);
  c.y = y.data, c.y_image = y.stride(0), c.y_channel = channel_step(y), c.y_row = y.stride(2), c.y_column = y.stride(3);
  c.residual = residual ? residual->data : nullptr;
  c.bias = bias;
  c.activation = activation;
  const int64_t k = g.cg * g.kh * g.kw;
  run(g, c, for_kernel(g, x), weight.view({g.groups, g.og, g.kh, g.kw, g.cg}, {g.og * k, k, g.kw, 1, g.kh * g.kw}));
}

// Pixels of dx with the same residue of y + top and x + left modulo the stride are reached by the same taps: those from
// a first one on, in steps; their places in dy fall.
Array gpu_backward_data(const Geometry& g, const Array& dy_in, const Array& weight, bool channels_last) {
  require_small(g);
  const Dims shape{g.n, g.c, g.h, g.w};
  Array dx = channels_last ? Array::empty_channels_last(shape, g.dtype, dy_in.device())
                           : Array::empty(shape, g.dtype, dy_in.device());
  const Array dy = for_kernel(g, dy_in);
  struct Taps {
    int64_t first, step, count, base, move;
  };
  auto taps_of = [](int64_t at, int64_t taps, int64_t dilation, int64_t stride) {
    Taps t{0, stride / std::gcd(stride, dilation), 0, 0, 0};
    while (t.first < taps && (at - t.first * dilation) % stride) ++t.first;
    if (t.first < taps) t.count = (taps - 1 - t.first) / t.step + 1;
    if (t.count) t.base = (at - t.first * dilation) / stride, t.move = -(t.step * dilation / stride);
    return t;
  };
  const int64_t taps = g.kh * g.kw, k = g.cg * taps;
  for (int64_t y = 0; y < std::min(g.sh, g.h); ++y)
    for (int64_t x = 0; x < std::min(g.sw, g.w); ++x) {
      const Taps u = taps_of(y + g.top, g.kh, g.dh, g.sh), v = taps_of(x + g.left, g.kw, g.dw, g.sw);
      gpu::Convolution c{};
      c.images = g.n, c.rows = divide_up(g.h - y, g.sh), c.columns = divide_up(g.w - x, g.sw);
      c.step_y = c.step_x = 1, c.base_y = u.base, c.base_x = v.base, c.tap_y = u.move, c.tap_x = v.move;
      c.y = dx.data + (y * dx.stride(2) + x * dx.stride(3)) * int64_t(size_of(g.dtype));
      c.y_image = dx.stride(0), c.y_channel = channel_step(dx), c.y_row = g.sh * dx.stride(2);
      c.y_column = g.sw * dx.stride(3);
      const int64_t offset = (u.first % g.kh) * g.kw + v.first % g.kw;
      run(g, c, dy,
          weight.view({g.groups, g.cg, u.count, v.count, g.og}, {g.og * k, taps, u.step * g.kw, v.step, k}, offset));
    }
  return dx;
}

Array gpu_backward_weight(const Geometry& g, const Array& dy_in, const Array& x_in) {
  require_small(g);
  const Array x = for_kernel(g, x_in), dy = for_kernel(g, dy_in);
  gpu::WeightGradient gradient{};
  gpu::Convolution& c = gradient.of;
  set_forward(g, c);
  set_images(c, x);
  c.dtype = g.dtype, c.tf32 = tf32_products();
  c.outputs = dy.size(4), c.taps_y = g.kh, c.taps_x = g.kw;
  Array dw = Array::empty({g.groups, dy.size(4), g.kh, g.kw, x.size(4)}, g.dtype, x.device());
  if (dw.numel()) {
    gradient.dy = dy.data;
    gradient.dy_image = dy.stride(0), gradient.dy_row = dy.stride(1), gradient.dy_column = dy.stride(2);
    gradient.dy_channel = dy.size(4) > 1 ? dy.stride(4) : dy.stride(3);
    if (g.oc == 1) gradient.dy_channel = 1;
    gradient.dw = dw.data;
    int64_t bytes = 0;
    cuda::check("conv2d_backward", cuda::launchers().weight_gradient_workspace(gradient, &bytes));
    const Array workspace = Array::empty({bytes}, DType::u8, x.device());
    c.workspace = workspace.data;
    cuda::check("conv2d_backward", cuda::launchers().weight_gradient(gradient, cuda::stream(x.device())));
  }
  // (groups, outputs, u, v, channels) without the fill -> (outputs, channels, u, v)
  const Array part = dw.view({g.groups, g.og, g.cg, g.kh, g.kw},
                             {dw.stride(0), dw.stride(1), dw.stride(4), dw.stride(2), dw.stride(3)});
  return part.contiguous().view({g.oc, g.cg, g.kh, g.kw}, contiguous_strides({g.oc, g.cg, g.kh, g.kw}));
}

Array gpu_backward_bias(const Geometry& g, const Array& dy) {
  return ops::sum_columns(dy.channels_last().view({g.n * g.oh * g.ow, g.oc}, {g.oc, 1}));
}

}  // namespace fastnn::conv
