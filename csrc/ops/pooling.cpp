#include "pooling.h"

#include <algorithm>

#include "../dispatch.h"
#include "../float_mode.h"
#include "../parallel.h"

namespace fastnn::ops {
namespace {

constexpr int64_t kLargest = (int64_t(1) << 31) - 1;
constexpr int64_t kNarrowTaps = 255;              // taps that uint8 positions can tell apart, beside "none"
constexpr int64_t kExactTaps = int64_t(1) << 24;  // taps that float32 lanes can tell apart

// ---- checks and shapes -------------------------------------------------------------------------------------------

// Where the image axes begin: 1 for (C, H, W), 2 for (N, C, H, W).
int image_axis(const char* op, const Dims& x) {
  bool ok = x.n == 3 || x.n == 4;
  for (int i = x.n - 3; ok && i < x.n; ++i) ok = x[i] > 0;
  require<ValueError>(ok, op, ": input has shape ", x,
                      "; expected (N, C, H, W) or (C, H, W), of which only N may be 0");
  return x.n - 2;
}

void require_float(const char* op, const char* argument, DType t) {
  require<NotImplementedError>(is_float(t), op, ": ", argument, " has dtype ", name(t),
                               "; expected float32, bfloat16, float16 or float64");
}

void require_range(const char* op, const char* argument, const Dims& value, int64_t least) {
  require<ValueError>(value.n == 2, op, ": ", argument, " is ", value, "; expected two ints");
  for (int64_t v : value)
    require<ValueError>(v >= least && v <= kLargest, op, ": ", argument, " is ", value, "; expected ints from ", least,
                        " to ", kLargest);
}

int64_t floor_divide(int64_t a, int64_t b) { return a >= 0 ? a / b : -((b - 1 - a) / b); }

Pool windows(const char* op, const Dims& x, const Dims& kernel, const Dims& stride, const Dims& padding,
             const Dims& dilation, bool ceil_mode) {
  int axis = image_axis(op, x);
  require_range(op, "kernel_size", kernel, 1);
  require_range(op, "stride", stride, 1);
  require_range(op, "padding", padding, 0);
  require_range(op, "dilation", dilation, 1);
  Pool g{};
  for (int i = 0; i < 2; ++i) {
    int64_t input = x[axis + i], extent = (kernel[i] - 1) * dilation[i] + 1, s = stride[i], p = padding[i];
    require<ValueError>(p <= extent / 2, op, ": padding is ", padding, " but kernel_size ", kernel, " with dilation ",
                        dilation, " spans ", extent, " along axis ", axis + i, "; expected at most half of the span");
    int64_t output = floor_divide(input + 2 * p - extent + (ceil_mode ? s - 1 : 0), s) + 1;
    if (ceil_mode && (output - 1) * s >= input + p) --output;  // it would start in the right padding
    require<ValueError>(output >= 1, op, ": kernel_size ", kernel, " with dilation ", dilation, " spans ", extent,
                        " along axis ", axis + i, " but the padded input of shape ", x, " has ", input + 2 * p,
                        " there; expected a smaller kernel_size or a larger input");
    (i ? g.w : g.h) = {input, output, kernel[i], s, p, dilation[i]};
  }
  return g;
}

Pool adaptive_windows(const char* op, const Dims& x, const Dims& output_size) {
  int axis = image_axis(op, x);
  require_range(op, "output_size", output_size, -1);
  Pool g{};
  for (int i = 0; i < 2; ++i) {
    int64_t input = x[axis + i], output = output_size[i] == -1 ? input : output_size[i], longest = 0;
    if (output > 0) {
      // A window may reach one pixel further at either end than its share; this bounds the longest from above.
      longest = input % output == 0 ? input / output : std::min(input, input / output + 2);
    }
    (i ? g.w : g.h) = {input, output, longest, 0, 0, 1};
  }
  return g;
}

int64_t taps(const Pool& g) { return g.h.taps * g.w.taps; }

// Keeps positions, if they can be told apart.
void set_positions(const char* op, Pool& g, bool channels_last) {
  int64_t most = channels_last ? kExactTaps : kLargest;
  require<NotImplementedError>(taps(g) <= most, op, ": windows of ", g.h.taps, " x ", g.w.taps, " taps; at most ", most,
                               " are supported where indices or a gradient are asked for");
  g.wide = taps(g) > kNarrowTaps;
}

Dims output_shape(const Dims& x, const Pool& g) {
  Dims y = x;
  y[x.n - 2] = g.h.output;
  y[x.n - 1] = g.w.output;
  return y;
}

Array empty(const Dims& shape, DType dtype, bool channels_last, Device device) {
  return channels_last ? Array::empty_channels_last(shape, dtype, device) : Array::empty(shape, dtype, device);
}

// The sizes of the loop over outputs in memory order: outer, rows, columns, inner.
struct Extents {
  int64_t outer, inner;
};
Extents extents(const Dims& shape, bool channels_last) {
  int64_t batch = shape.n == 4 ? shape[0] : 1, channels = shape[shape.n - 3];
  return channels_last ? Extents{batch, channels} : Extents{batch * channels, 1};
}

// ---- kernels -----------------------------------------------------------------------------------------------------

// Windows of 2x2 side by side, none of them cut off.
bool is_2x2(const Pool& g) {
  for (const PoolAxis& a : {g.h, g.w}) {
    bool regular = a.taps == 2 && a.stride == 2 && a.padding == 0 && a.dilation == 1 && a.output == a.input / 2;
    if (!regular && !(a.stride == 0 && a.input == 2 * a.output)) return false;
  }
  return true;
}

enum class Form { side_by_side, planes, channels };

Form form(const Pool& g, bool channels_last) {
  return channels_last ? Form::channels : is_2x2(g) ? Form::side_by_side : Form::planes;
}

template <class Kernel>
Kernel pick(Form f, Kernel side_by_side, Kernel planes, Kernel channels) {
  return f == Form::side_by_side ? side_by_side : f == Form::planes ? planes : channels;
}

// Calls work(begin, end, scratch) for planes (NCHW) or rows (channels_last; `rows` of an image).
template <class Work>
void share(const Pool& g, Form f, const Dims& shape, int64_t rows, size_t scratch, Work&& work) {
  Extents e = extents(shape, f == Form::channels);
  double seen = double(std::min(g.h.taps, g.h.input)) * double(std::min(g.w.taps, g.w.input));
  double cost = double(g.h.input * g.w.input) + double(g.h.output * g.w.output) * seen;
  if (f == Form::channels) cost *= double(e.inner) / double(rows);
  int64_t grain = std::max<int64_t>(1, int64_t(32768 / cost));
  parallel_for(f == Form::channels ? e.outer * rows : e.outer, grain, [&](int64_t begin, int64_t end) {
    Scratch memory(scratch);
    work(begin, end, memory.as<void>());
  });
}

// Bytes that the kernels ask for in kernels/pooling.inc.
size_t forward_scratch(const Pool& g, Form f, DType t) {
  if (f != Form::planes || size_of(t) != 2) return 0;
  return size_t(g.h.input * g.w.input + g.h.output * g.w.output) * sizeof(float);
}
size_t backward_scratch(const Pool& g, Form f) {
  if (f == Form::side_by_side) return 0;
  int64_t covers = g.w.input, values = g.channels;
  if (f == Form::planes) {
    covers += g.h.input;
    values = g.h.input * g.w.input + 2 * g.h.output * g.w.output;
  }
  return size_t(covers) * sizeof(PoolCover) + size_t(values) * sizeof(double);
}

enum class Kind { max, avg };

// GPU kernels count in 32 bits: pixels of an image, and what an axis spans with its padding.
void require_small(const char* op, const Pool& g, const Extents& e) {
  auto fits = [](const PoolAxis& a) {
    if (a.stride == 0) return (a.input + 1) * (a.output + 1) <= kLargest;
    return a.taps <= kLargest / a.dilation && a.input + 2 * a.padding + 2 * a.stride + a.taps * a.dilation <= kLargest;
  };
  require<NotImplementedError>(
      g.h.input * g.w.input * e.inner <= kLargest && g.h.output * g.w.output * e.inner <= kLargest && fits(g.h) &&
          fits(g.w),
      op, ": images of 2^31 or more elements, and windows that span as many, are not supported on a GPU");
}

void run_forward(Kind kind, const Pool& geometry, const Array& x, Array& y, void* position, bool channels_last) {
  if (y.numel() == 0) return;
  if (x.on_cuda()) {
    const Extents e = extents(x.shape, channels_last);
    require_small("pool2d", geometry, e);
    return cuda::check("pool2d", cuda::launchers().pool_forward(kind == Kind::max, x.dtype, geometry, e.outer, e.inner,
                                                                x.data, y.data, position, cuda::stream(x.device())));
  }
  std::optional<FlushSubnormals> flush;
  if (kind == Kind::avg) flush.emplace();
  Pool g = geometry;
  g.channels = x.size(x.ndim() - 3);
  Form f = form(g, channels_last);
  const PoolingKernels& k = kernels().pooling;
  DType t = x.dtype;
  auto kernel = kind == Kind::max ? pick(f, k.max_pool_2x2[t], k.max_pool_planes[t], k.max_pool_channels[t])
                                  : pick(f, k.avg_pool_2x2[t], k.avg_pool_planes[t], k.avg_pool_channels[t]);
  share(g, f, x.shape, g.h.output, forward_scratch(g, f, t),
        [&](int64_t begin, int64_t end, void* scratch) { kernel(g, x.data, y.data, position, begin, end, scratch); });
}

Array run_backward(Kind kind, const Pool& geometry, const Array& dy, const void* position, const Dims& input_shape,
                   bool channels_last) {
  if (geometry.h.output == 0 || geometry.w.output == 0) {
    Array dx = Array::zeros(input_shape, dy.dtype, dy.device());
    return channels_last ? dx.channels_last() : dx;
  }
  Array dx = empty(input_shape, dy.dtype, channels_last, dy.device());
  if (dx.numel() == 0) return dx;
  if (dy.on_cuda()) {
    const Extents e = extents(input_shape, channels_last);
    require_small("pool2d_backward", geometry, e);
    cuda::check("pool2d_backward",
                cuda::launchers().pool_backward(kind == Kind::max, dy.dtype, geometry, e.outer, e.inner, dy.data,
                                                position, dx.data, cuda::stream(dy.device())));
    return dx;
  }
  std::optional<FlushSubnormals> flush;
  if (kind == Kind::avg) flush.emplace();
  Pool g = geometry;
  g.channels = input_shape[input_shape.n - 3];
  Form f = form(g, channels_last);
  const PoolingKernels& k = kernels().pooling;
  DType t = dy.dtype;
  auto kernel =
      kind == Kind::max
          ? pick(f, k.max_pool_2x2_backward[t], k.max_pool_planes_backward[t], k.max_pool_channels_backward[t])
          : pick(f, k.avg_pool_2x2_backward[t], k.avg_pool_planes_backward[t], k.avg_pool_channels_backward[t]);
  share(g, f, input_shape, g.h.input, backward_scratch(g, f),
        [&](int64_t begin, int64_t end, void* scratch) { kernel(g, dy.data, position, dx.data, begin, end, scratch); });
  return dx;
}

// ---- ops of both kinds of windows ----------------------------------------------------------------------------------

Array forward(const char* op, Kind kind, const Pool& g, const Array& input) {
  require_float(op, "input", input.dtype);
  bool last = input.is_channels_last();
  Array x = last ? input : input.contiguous(), y = empty(output_shape(x.shape, g), x.dtype, last, x.device());
  run_forward(kind, g, x, y, nullptr, last);
  return y;
}

std::tuple<Array, Array, bool> positions(const char* op, Pool g, const Array& input) {
  require_float(op, "input", input.dtype);
  bool last = input.is_channels_last();
  set_positions(op, g, last);
  Array x = last ? input : input.contiguous(), y = empty(output_shape(x.shape, g), x.dtype, last, x.device());
  Array position = empty(y.shape, g.wide ? DType::i32 : DType::u8, last, x.device());
  run_forward(Kind::max, g, x, y, position.data, last);
  return {std::move(y), std::move(position), last};
}

void check_gradient(const char* op, const Pool& g, const Array& grad, const Dims& input_shape) {
  require_float(op, "grad", grad.dtype);
  Dims shape = output_shape(input_shape, g);
  require<ValueError>(grad.shape == shape, op, ": grad has shape ", grad.shape, "; expected the output's shape ",
                      shape);
}

void check_position(const char* op, Pool& g, const Array& position, const Dims& input_shape, bool last) {
  set_positions(op, g, last);
  Dims shape = output_shape(input_shape, g);
  DType t = g.wide ? DType::i32 : DType::u8;
  bool dense = last ? position.is_channels_last() || position.is_contiguous() : position.is_contiguous();
  require<ValueError>(position.shape == shape && position.dtype == t && dense, op, ": position is ",
                      name(position.dtype), " of shape ", position.shape, "; expected what the forward returned, ",
                      name(t), " of shape ", shape);
}

Array laid_out(const Array& grad, bool channels_last) {
  return channels_last ? grad.channels_last() : grad.contiguous();
}

Array max_backward(const char* op, Pool g, const Array& grad, const Array& position, const Dims& shape, bool last) {
  check_gradient(op, g, grad, shape);
  check_position(op, g, position, shape, last);
  return run_backward(Kind::max, g, laid_out(grad, last), position.data, shape, last);
}

Array avg_backward(const char* op, const Pool& g, const Array& grad, const Dims& shape, bool last) {
  check_gradient(op, g, grad, shape);
  return run_backward(Kind::avg, g, laid_out(grad, last), nullptr, shape, last);
}

int64_t origin(const PoolAxis& a, int64_t o) { return a.stride ? o * a.stride - a.padding : o * a.input / a.output; }

template <class P>
void to_indices(const Pool& g, Extents e, const P* position, int64_t* index) {
  parallel_for(e.outer, std::max<int64_t>(1, 16384 / (g.h.output * g.w.output * e.inner)),
               [&](int64_t begin, int64_t end) {
                 int64_t at = begin * g.h.output * g.w.output * e.inner;
                 for (int64_t n = begin; n < end; ++n)
                   for (int64_t p = 0; p < g.h.output; ++p)
                     for (int64_t q = 0; q < g.w.output; ++q) {
                       int64_t top = origin(g.h, p), left = origin(g.w, q);
                       for (int64_t i = 0; i < e.inner; ++i, ++at) {
                         P tap = position[at];
                         int64_t h = top + tap / g.w.taps * g.h.dilation, w = left + tap % g.w.taps * g.w.dilation;
                         index[at] = tap == P(-1) ? -1 : h * g.w.input + w;
                       }
                     }
               });
}

Array indices(const char* op, Pool g, const Array& position, const Dims& shape, bool last) {
  check_position(op, g, position, shape, last);
  Array index = empty(position.shape, DType::i64, last, position.device());
  if (index.numel() == 0) return index;
  Extents e = extents(position.shape, last);
  if (index.on_cuda()) {
    require_small(op, g, e);
    cuda::check(op, cuda::launchers().pool_indices(g, e.outer, e.inner, position.data, index.as<int64_t>(),
                                                   cuda::stream(index.device())));
    return index;
  }
  if (g.wide)
    to_indices(g, e, position.as<int32_t>(), index.as<int64_t>());
  else
    to_indices(g, e, position.as<uint8_t>(), index.as<int64_t>());
  return index;
}

Pool average(Pool g, bool count_include_pad, int64_t divisor_override) {
  g.count_include_pad = count_include_pad;
  g.divisor = double(divisor_override);
  return g;
}

constexpr const char kMax[] = "max_pool2d", kAvg[] = "avg_pool2d";
constexpr const char kAdaptiveMax[] = "adaptive_max_pool2d", kAdaptiveAvg[] = "adaptive_avg_pool2d";

}  // namespace

bool is_channels_last(const Array& input) { return input.is_channels_last(); }

Array max_pool2d(const Array& input, const Dims& kernel, const Dims& stride, const Dims& padding, const Dims& dilation,
                 bool ceil_mode) {
  return forward(kMax, Kind::max, windows(kMax, input.shape, kernel, stride, padding, dilation, ceil_mode), input);
}

std::tuple<Array, Array, bool> max_pool2d_positions(const Array& input, const Dims& kernel, const Dims& stride,
                                                    const Dims& padding, const Dims& dilation, bool ceil_mode) {
  return positions(kMax, windows(kMax, input.shape, kernel, stride, padding, dilation, ceil_mode), input);
}

Array max_pool2d_indices(const Array& position, const Dims& shape, bool channels_last, const Dims& kernel,
                         const Dims& stride, const Dims& padding, const Dims& dilation, bool ceil_mode) {
  return indices(kMax, windows(kMax, shape, kernel, stride, padding, dilation, ceil_mode), position, shape,
                 channels_last);
}

Array max_pool2d_backward(const Array& grad, const Array& position, const Dims& shape, bool channels_last,
                          const Dims& kernel, const Dims& stride, const Dims& padding, const Dims& dilation,
                          bool ceil_mode) {
  return max_backward(kMax, windows(kMax, shape, kernel, stride, padding, dilation, ceil_mode), grad, position, shape,
                      channels_last);
}

Array adaptive_max_pool2d(const Array& input, const Dims& output_size) {
  return forward(kAdaptiveMax, Kind::max, adaptive_windows(kAdaptiveMax, input.shape, output_size), input);
}

std::tuple<Array, Array, bool> adaptive_max_pool2d_positions(const Array& input, const Dims& output_size) {
  return positions(kAdaptiveMax, adaptive_windows(kAdaptiveMax, input.shape, output_size), input);
}

Array adaptive_max_pool2d_indices(const Array& position, const Dims& shape, bool channels_last,
                                  const Dims& output_size) {
  return indices(kAdaptiveMax, adaptive_windows(kAdaptiveMax, shape, output_size), position, shape, channels_last);
}

Array adaptive_max_pool2d_backward(const Array& grad, const Array& position, const Dims& shape, bool channels_last,
                                   const Dims& output_size) {
  return max_backward(kAdaptiveMax, adaptive_windows(kAdaptiveMax, shape, output_size), grad, position, shape,
                      channels_last);
}

Array avg_pool2d(const Array& input, const Dims& kernel, const Dims& stride, const Dims& padding, bool ceil_mode,
                 bool count_include_pad, int64_t divisor_override) {
  Pool g = windows(kAvg, input.shape, kernel, stride, padding, {1, 1}, ceil_mode);
  return forward(kAvg, Kind::avg, average(g, count_include_pad, divisor_override), input);
}

Array avg_pool2d_backward(const Array& grad, const Dims& shape, bool channels_last, const Dims& kernel,
                          const Dims& stride, const Dims& padding, bool ceil_mode, bool count_include_pad,
                          int64_t divisor_override) {
  Pool g = windows(kAvg, shape, kernel, stride, padding, {1, 1}, ceil_mode);
  return avg_backward(kAvg, average(g, count_include_pad, divisor_override), grad, shape, channels_last);
}

Array adaptive_avg_pool2d(const Array& input, const Dims& output_size) {
  return forward(kAdaptiveAvg, Kind::avg, adaptive_windows(kAdaptiveAvg, input.shape, output_size), input);
}

Array adaptive_avg_pool2d_backward(const Array& grad, const Dims& shape, bool channels_last, const Dims& output_size) {
  return avg_backward(kAdaptiveAvg, adaptive_windows(kAdaptiveAvg, shape, output_size), grad, shape, channels_last);
}

}  // namespace fastnn::ops
