#include "cross_entropy.h"

#include <cstring>

#include "../dispatch.h"
#include "../float_mode.h"
#include "cross_entropy_rows.h"
#include "loss_common.h"

namespace fastnn::ops {
namespace {

int class_axis(std::string_view op, const Array& x) {
  require<ValueError>(x.ndim() > 0, op, ": input has no dimensions; expected (N, C, d1, ...) or (C,)");
  return x.ndim() == 1 ? 0 : 1;
}

Dims without(const Dims& shape, int axis) {
  Dims d;
  for (int i = 0; i < shape.n; ++i)
    if (i != axis) d.push_back(shape[i]);
  return d;
}

// A view with `axis` last, and the way back.
Array axis_to_last(const Array& a, int axis) {
  Dims shape = without(a.shape, axis), strides = without(a.strides, axis);
  shape.push_back(a.size(axis));
  strides.push_back(a.stride(axis));
  return a.view(shape, strides);
}
Array axis_from_last(const Array& a, int axis) {
  Dims shape, strides;
  for (int i = 0, k = 0; i < a.ndim(); ++i) {
    int from = i == axis ? a.ndim() - 1 : k++;
    shape.push_back(a.size(from));
    strides.push_back(a.stride(from));
  }
  return a.view(shape, strides);
}

void check_weight(std::string_view op, const std::optional<Array>& weight, DType dtype, int64_t classes) {
  if (!weight) return;
  require<ValueError>(weight->shape == Dims{classes}, op, ": weight has shape ", weight->shape, "; expected ",
                      Dims{classes}, ", one per class");
  require_dtype(op, "weight", *weight, dtype);
}

struct Labels {
  Array indices;
  Array summary;  // on a GPU: what label_summary gives
};

[[noreturn]] void throw_label(std::string_view op, const Array& labels, int64_t classes, int64_t ignore_index) {
  Array host = to_device(labels, Device());
  const int64_t* t = host.as<int64_t>();
  int64_t i = 0;
  while (uint64_t(t[i]) < uint64_t(classes) || t[i] == ignore_index) ++i;
  throw IndexError(message(op, ": target holds ", t[i], "; expected a class in [0, ", classes,
                           ") or ignore_index, which is ", ignore_index));
}

// Class indices as contiguous int64, all checked. The weight is that of the classes, checked.
Labels read_labels(std::string_view op, const Array& target, const Dims& shape, int axis,
                   const std::optional<Array>& weight, int64_t ignore_index) {
  Dims expected = without(shape, axis);
  require<TypeError>(!is_float(target.dtype), op, ": target has dtype ", name(target.dtype), " and shape ",
                     target.shape, "; expected class indices int64, int32 or uint8 of shape ", expected);
  bool integer = target.dtype == DType::i64 || target.dtype == DType::i32 || target.dtype == DType::u8;
  require<NotImplementedError>(integer, op, ": target has dtype ", name(target.dtype),
                               "; expected int64, int32 or uint8");
  require<ValueError>(target.shape == expected, op, ": target has shape ", target.shape, "; expected ", expected,
                      " for input of shape ", shape);
  Array labels = target.dtype == DType::i64 ? target.contiguous() : astype(target.contiguous(), DType::i64);
  int64_t classes = shape[axis];
  if (target.on_cuda()) {
    const Device device = target.device();
    Array summary = Array::empty({2}, DType::f64, device), partial = partial_sums(device, 2);
    Array w = weight ? weight->contiguous() : Array();
    cuda::check("cross_entropy", cuda::launchers().label_summary(
                                     weight ? weight->dtype : DType::f32, labels.as<int64_t>(), w.data, labels.numel(),
                                     classes, ignore_index, numbers(partial), numbers(summary), cuda::stream(device)));
    // The loss of a bad label is NaN where the check would have to wait for the GPU.
    if (!cuda::capturing() && *to_device(summary, Device()).as<double>() != 0)
      throw_label(op, labels, classes, ignore_index);
    return {labels, summary};
  }
  const int64_t* t = labels.as<int64_t>();
  double bad = sum_blocks(labels.numel(), 65536, [&](int64_t begin, int64_t end) {
    int64_t count = 0;
    for (int64_t i = begin; i < end; ++i) count += uint64_t(t[i]) >= uint64_t(classes) && t[i] != ignore_index;
    return double(count);
  });
  if (bad != 0) [[unlikely]]
    throw_label(op, labels, classes, ignore_index);
  return {labels, {}};
}

// The sum of the weights of the labels that are not ignored: what "mean" divides by.
double weight_of_labels(const Array& labels, const std::optional<Array>& weight, int64_t ignore_index) {
  const int64_t* t = labels.as<int64_t>();
  auto total = [&](auto&& weight_at) {
    return sum_blocks(labels.numel(), 65536, [&](int64_t begin, int64_t end) {
      double s = 0;
      for (int64_t i = begin; i < end; ++i) s += t[i] == ignore_index ? 0.0 : weight_at(t[i]);
      return s;
    });
  };
  if (!weight) return total([](int64_t) { return 1.0; });
  return visit_float(weight->dtype, [&]<class T>(T*) {
    const T* w = weight->as<T>();
    int64_t stride = weight->stride(0);
    return total([=](int64_t c) { return convert<double>(w[c * stride]); });
  });
}

// The rows of `input` and what they should be.
struct Rows : CrossEntropyTarget {
  int axis;
  int64_t count;
  Array x;
};

Rows prepare(const Array& input, const Array& target, const std::optional<Array>& weight, int64_t ignore_index,
             std::string_view reduction, double label_smoothing) {
  const char* op = "cross_entropy";
  require_float(op, input);
  int axis = class_axis(op, input);
  Rows r{read_target(op, input.shape, input.dtype, target, weight, ignore_index, reduction, label_smoothing), axis};
  r.x = axis_to_last(input, axis).contiguous();
  r.count = r.arguments.classes ? r.x.numel() / r.arguments.classes : 0;
  r.arguments.x = r.x.data;
  return r;
}

Array run(Rows& r, const Array& input) {
  FlushSubnormals flush;
  Array losses;
  if (r.reduction == Reduction::none) {
    losses = r.arguments.classes ? Array::empty(without(input.shape, r.axis), input.dtype, input.device())
                                 : Array::zeros(without(input.shape, r.axis), input.dtype, input.device());
    r.arguments.losses = losses.data;
  }
  if (input.on_cuda()) {
    const bool each = r.reduction == Reduction::none;
    Array partial = partial_sums(input.device()),
          total = each ? Array() : Array::empty({}, input.dtype, input.device());
    const double* divisor = r.reduction == Reduction::mean && r.summary.storage ? r.summary.as<double>() + 1 : nullptr;
    cuda::check("cross_entropy",
                cuda::launchers().cross_entropy(r.arguments, input.dtype, r.count, divisor, partial.as<double>(),
                                                total.data, cuda::stream(input.device())));
    return each ? losses : total;
  }
  auto kernel = kernels().cross_entropy.cross_entropy_rows[input.dtype];
  int64_t block = std::max<int64_t>(1, 16384 / std::max<int64_t>(1, r.arguments.classes));
  double total =
      sum_blocks(r.count, block, [&](int64_t begin, int64_t end) { return kernel(r.arguments, begin, end); });
  return r.reduction == Reduction::none ? losses : scalar(total / r.divisor, input.dtype);
}

// Rows of gradients in the shape of input and, if that is dense, in its layout.
Array like_input(const Array& rows, const Array& input, int axis) {
  Array view = axis_from_last(rows, axis);
  if (view.is_contiguous() || view.same_layout(input)) return view;
  Array out = Array::empty_like(input, rows.dtype);
  copy(view, out);
  return out;
}

}  // namespace

CrossEntropyTarget read_target(const char* op, const Dims& shape, DType dtype, const Array& target,
                               const std::optional<Array>& weight, int64_t ignore_index, std::string_view reduction,
                               double label_smoothing) {
  CrossEntropyTarget r;
  r.reduction = parse_reduction(op, reduction);
  require<ValueError>(label_smoothing >= 0 && label_smoothing <= 1, op, ": label_smoothing is ", label_smoothing,
                      "; expected between 0 and 1");
  const int axis = shape.n == 1 ? 0 : 1;
  const int64_t classes = shape[axis];
  check_weight(op, weight, dtype, classes);
  const bool probabilities = target.shape == shape;
  if (probabilities) {
    require<TypeError>(is_float(target.dtype), op, ": target has the shape of the logits and dtype ",
                       name(target.dtype), "; expected probabilities of dtype ", name(dtype),
                       ", or class indices of shape ", without(shape, axis));
    require_dtype(op, "target", target, dtype);
    require<ValueError>(ignore_index < 0, op, ": ignore_index is ", ignore_index,
                        "; expected class indices as target with it, not probabilities");
    r.values = axis_to_last(target, axis).contiguous();
    r.arguments.probabilities = r.values.data;
  } else {
    Labels labels = read_labels(op, target, shape, axis, weight, ignore_index);
    r.values = labels.indices;
    r.summary = labels.summary;
    r.arguments.labels = r.values.as<int64_t>();
  }
  if (r.reduction == Reduction::mean && probabilities)
    r.divisor = double(classes ? r.values.numel() / classes : 0);
  else if (r.reduction == Reduction::mean && !target.on_cuda())
    r.divisor = weight_of_labels(r.values, weight, ignore_index);
  if (weight) {
    r.weight = weight->contiguous();
    r.arguments.weight = r.weight.data;
  }
  r.arguments.classes = classes;
  r.arguments.ignore_index = ignore_index;
  r.arguments.smoothing = label_smoothing;
  r.arguments.scale = 1 / r.divisor;
  return r;
}

Array cross_entropy(const Array& input, const Array& target, const std::optional<Array>& weight, int64_t ignore_index,
                    std::string_view reduction, double label_smoothing) {
  Rows r = prepare(input, target, weight, ignore_index, reduction, label_smoothing);
  return run(r, input);
}

std::tuple<Array, SavedGradients> cross_entropy_with_gradient(const Array& input, const Array& target,
                                                              const std::optional<Array>& weight, int64_t ignore_index,
                                                              std::string_view reduction, double label_smoothing,
                                                              bool needs_input, bool needs_target) {
  Rows r = prepare(input, target, weight, ignore_index, reduction, label_smoothing);
  DType saved = input.dtype == DType::f16 ? DType::f32 : input.dtype;
  std::optional<Array> dx, dt;
  if (needs_input) dx = Array::empty(r.x.shape, saved, input.device()), r.arguments.dx = dx->data;
  if (needs_target) dt = Array::empty(r.x.shape, saved, input.device()), r.arguments.dt = dt->data;
  Array loss = run(r, input);
  if (dx) dx = like_input(*dx, input, r.axis);
  if (dt) dt = like_input(*dt, input, r.axis);
  return {loss, {dx, dt}};
}

Array cross_entropy_backward(const Array& saved, const Array& grad) {
  FlushSubnormals flush;
  const char* op = "cross_entropy_backward";
  require_float(op, grad);
  require_dtype(op, "saved", saved, grad.dtype == DType::f16 ? DType::f32 : grad.dtype);
  int axis = class_axis(op, saved);
  bool same_dtype = saved.dtype == grad.dtype;
  bool in_place = same_dtype && saved.storage->writable;  // torch may ask for the gradient again
  auto on_gpu = [&](const Array& in, const Array& g, int64_t classes, int64_t plane) {
    Array out = in_place ? in : Array::empty_like(in, grad.dtype);
    if (in.numel())
      cuda::check(op, cuda::launchers().cross_entropy_scale(grad.dtype, in.data, g.data, in.numel(), classes, plane,
                                                            out.data, cuda::stream(in.device())));
    return out;
  };
  auto kernel = kernels().cross_entropy.cross_entropy_scale[grad.dtype];
  size_t saved_item = size_of(saved.dtype), item = size_of(grad.dtype);
  if (grad.ndim() == 0) {
    if (saved.on_cuda()) return on_gpu(saved.dense(), grad, saved.numel(), 1);
    double factor = first_value(grad);
    if (factor == 1 && same_dtype) return saved;
    Array in = saved.dense(), out = in_place ? in : Array::empty_like(in, grad.dtype);
    parallel_for(in.numel(), 16384, [&](int64_t begin, int64_t end) {
      kernel(in.data + size_t(begin) * saved_item, nullptr, factor, out.data + size_t(begin) * item, end - begin);
    });
    return out;
  }
  require_gradient(op, grad, without(saved.shape, axis), grad.dtype);
  Array g = grad.contiguous(), rows = axis_to_last(saved, axis);
  int64_t classes = saved.size(axis), count = g.numel();
  if (rows.is_contiguous()) {
    if (saved.on_cuda()) return axis_from_last(on_gpu(rows, g, classes, 1), axis);
    Array out = in_place ? rows : Array::empty(rows.shape, grad.dtype);
    visit_float(g.dtype, [&]<class T>(T*) {
      parallel_for(count, std::max<int64_t>(1, 16384 / std::max<int64_t>(1, classes)), [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i)
          kernel(rows.data + size_t(i * classes) * saved_item, nullptr, convert<double>(g.as<T>()[i]),
                 out.data + size_t(i * classes) * item, classes);
      });
    });
    return axis_from_last(out, axis);
  }
  // The class axis is not innermost: one plane of N x C at a time, each value with a gradient of its own.
  Array in = saved.contiguous();
  int64_t planes = saved.size(0) * classes, plane = planes ? in.numel() / planes : 0;
  if (saved.on_cuda()) return on_gpu(in, g, classes, plane);
  Array out = in_place ? in : Array::empty(in.shape, grad.dtype);
  parallel_for(planes, std::max<int64_t>(1, 16384 / std::max<int64_t>(1, plane)), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i)
      kernel(in.data + size_t(i * plane) * saved_item, g.data + size_t(i / classes * plane) * item, 0,
             out.data + size_t(i * plane) * item, plane);
  });
  return out;
}

namespace {

// Offset of class 0 of row `row`, where rows run over all axes but `axis`, the last one fastest.
int64_t row_offset(const Array& a, int axis, int64_t row) {
  int64_t offset = 0;
  for (int i = a.ndim() - 1; i >= 0; --i) {
    if (i == axis) continue;
    offset += row % a.size(i) * a.stride(i);
    row /= a.size(i);
  }
  return offset;
}

struct NegativeLogLikelihood {
  int axis;
  Array labels, summary;
  Reduction reduction;
  double divisor = 1;

  // For the launchers: labels, and where x, of the shape that was checked, has their elements.
  gpu::NllRows rows(const Array& x, int64_t ignore_index) const {
    gpu::NllRows r{labels.as<int64_t>(), {}, x.size(axis), x.stride(axis), ignore_index};
    for (int i = 0; i < x.ndim(); ++i) {
      if (i == axis) continue;
      r.rows.size[r.rows.n] = x.size(i);
      r.rows.stride[0][r.rows.n++] = x.stride(i);
    }
    return r;
  }
  const double* device_divisor() const { return reduction == Reduction::mean ? summary.as<double>() + 1 : nullptr; }
};

NegativeLogLikelihood prepare_nll(const Array& x, const Array& target, const std::optional<Array>& weight,
                                  int64_t ignore_index, std::string_view reduction) {
  const char* op = "nll_loss";
  NegativeLogLikelihood n;
  n.reduction = parse_reduction(op, reduction);
  require_float(op, x);
  n.axis = class_axis(op, x);
  check_weight(op, weight, x.dtype, x.size(n.axis));
  Labels labels = read_labels(op, target, x.shape, n.axis, weight, ignore_index);
  n.labels = labels.indices;
  n.summary = labels.summary;
  if (n.reduction == Reduction::mean && !x.on_cuda()) n.divisor = weight_of_labels(n.labels, weight, ignore_index);
  return n;
}

template <class T>
double weight_at(const std::optional<Array>& weight, int64_t c) {
  return weight ? convert<double>(weight->as<T>()[c * weight->stride(0)]) : 1.0;
}

}  // namespace

Array nll_loss(const Array& x, const Array& target, const std::optional<Array>& weight, int64_t ignore_index,
               std::string_view reduction) {
  NegativeLogLikelihood n = prepare_nll(x, target, weight, ignore_index, reduction);
  bool each = n.reduction == Reduction::none;
  Array losses = each ? Array::empty(n.labels.shape, x.dtype, x.device()) : Array();
  if (x.on_cuda()) {
    Array partial = partial_sums(x.device()), total = each ? Array() : Array::empty({}, x.dtype, x.device());
    Array w = weight ? weight->contiguous() : Array();
    cuda::check("nll_loss", cuda::launchers().nll_loss(n.rows(x, ignore_index), x.dtype, x.data, w.data, losses.data,
                                                       n.labels.numel(), n.device_divisor(), partial.as<double>(),
                                                       total.data, cuda::stream(x.device())));
    return each ? losses : total;
  }
  const int64_t* t = n.labels.as<int64_t>();
  double total = visit_float(x.dtype, [&]<class T>(T*) {
    const T* px = x.as<T>();
    T* y = each ? losses.as<T>() : nullptr;
    return sum_blocks(n.labels.numel(), 4096, [&](int64_t begin, int64_t end) {
      double s = 0;
      for (int64_t i = begin; i < end; ++i) {
        double loss = 0;
        if (t[i] != ignore_index)
          loss = -weight_at<T>(weight, t[i]) * convert<double>(px[row_offset(x, n.axis, i) + t[i] * x.stride(n.axis)]);
        if (y) y[i] = convert<T>(loss);
        s += loss;
      }
      return s;
    });
  });
  return each ? losses : scalar(total / n.divisor, x.dtype);
}

Array nll_loss_backward(const Array& x, const Array& target, const std::optional<Array>& weight, int64_t ignore_index,
                        std::string_view reduction, const Array& grad) {
  NegativeLogLikelihood n = prepare_nll(x, target, weight, ignore_index, reduction);
  bool each = n.reduction == Reduction::none;
  require_gradient("nll_loss", grad, each ? n.labels.shape : Dims(), x.dtype);
  Array g = grad.contiguous(), dx = Array::empty_like(x);
  if (x.on_cuda()) {
    if (dx.numel() == 0) return dx;
    gpu::Stream stream = cuda::stream(x.device());
    Array w = weight ? weight->contiguous() : Array();
    cuda::check("nll_loss", cuda::launchers().fill(dx.data, 0, size_t(dx.numel()) * size_of(dx.dtype), stream));
    cuda::check("nll_loss", cuda::launchers().nll_loss_backward(n.rows(dx, ignore_index), x.dtype, w.data, g.data, each,
                                                                n.device_divisor(), dx.data, n.labels.numel(), stream));
    return dx;
  }
  if (dx.numel()) std::memset(dx.data, 0, size_t(dx.numel()) * size_of(dx.dtype));
  const int64_t* t = n.labels.as<int64_t>();
  visit_float(x.dtype, [&]<class T>(T*) {
    double all = each ? 0.0 : first_value(g) / n.divisor;
    T* pd = dx.as<T>();
    parallel_for(n.labels.numel(), 4096, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        if (t[i] == ignore_index) continue;
        double factor = each ? convert<double>(g.as<T>()[i]) : all;
        pd[row_offset(dx, n.axis, i) + t[i] * dx.stride(n.axis)] = convert<T>(-weight_at<T>(weight, t[i]) * factor);
      }
    });
  });
  return dx;
}

}  // namespace fastnn::ops
