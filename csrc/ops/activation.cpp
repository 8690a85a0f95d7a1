#include "activation.h"

#include "../dispatch.h"
#include "../parallel.h"

namespace fastnn::ops {
namespace {

Activation parse(std::string_view f) {
  if (f == "relu") return Activation::relu;
  throw ValueError(message("activation: unknown function '", f, "'"));
}

}  // namespace

Array activation(std::string_view f, const Array& x, double a, double b) {
  Activation kind = parse(f);
  require<NotImplementedError>(is_float(x.dtype), f, ": dtype ", name(x.dtype), " is not supported; expected a floating dtype");
  Array in = x.dense(), y = Array::empty_like(in);
  auto kernel = kernels().activation.activation_forward[x.dtype];
  size_t item = size_of(x.dtype);
  parallel_for(in.numel(), 16384, [&](int64_t begin, int64_t end) {
    kernel(kind, in.data + begin * item, y.data + begin * item, end - begin, a, b);
  });
  return y;
}

Array activation_backward(std::string_view f, const Array& saved, const Array& dy, double a, double b) {
  Activation kind = parse(f);
  Array in = saved.dense(), g = dy.with_layout_of(in), dx = Array::empty_like(in);
  auto kernel = kernels().activation.activation_backward[in.dtype];
  size_t item = size_of(in.dtype);
  parallel_for(in.numel(), 16384, [&](int64_t begin, int64_t end) {
    kernel(kind, in.data + begin * item, g.data + begin * item, dx.data + begin * item, end - begin, a, b);
  });
  return dx;
}

}  // namespace fastnn::ops
