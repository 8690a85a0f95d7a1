#include "loss.h"

#include <atomic>

#include "../dispatch.h"
#include "loss_common.h"
#include "reduction.h"

namespace fastnn::ops {
namespace {

constexpr int64_t kBlock = 8192;  // elements per partial sum

struct Loss {
  PointwiseLoss f;
  std::string_view name;
  Reduction reduction;
  Dims shape;            // of the losses
  Array x, t, w, p;      // of that shape, dense, in one layout; w and p empty where they are not given
  double divisor;        // of the sum of the losses
  Array divisor_on_gpu;  // instead of it, where that is not known here
  PointwiseOperands operands;
};

PointwiseLoss parse(std::string_view loss, double a) {
  if (loss == "mse_loss") return PointwiseLoss::mse;
  if (loss == "l1_loss") return PointwiseLoss::l1;
  if (loss == "smooth_l1_loss") return a == 0 ? PointwiseLoss::l1 : PointwiseLoss::smooth_l1;
  if (loss == "huber_loss") return PointwiseLoss::huber;
  if (loss == "binary_cross_entropy") return PointwiseLoss::bce;
  if (loss == "binary_cross_entropy_with_logits") return PointwiseLoss::bce_logits;
  if (loss == "kl_div") return a != 0 ? PointwiseLoss::kl_div_log : PointwiseLoss::kl_div;
  throw ValueError(message("pointwise_loss: unknown loss '", loss, "'"));
}

bool broadcasts_to(const Dims& from, const Dims& to) {
  if (from.n > to.n) return false;
  for (int i = 1; i <= from.n; ++i)
    if (from[from.n - i] != to[to.n - i] && from[from.n - i] != 1) return false;
  return true;
}

// `a` in the shape and layout of x.
Array matched(const Array& a, const Array& x) {
  return (a.shape == x.shape ? a : broadcast_to(a, x.shape)).with_layout_of(x);
}

Array matched_weight(const Loss& l, const char* argument, const Array& w, bool binary, const Array& input) {
  require_dtype(l.name, argument, w, input.dtype);
  bool fits = binary ? broadcasts_to(w.shape, l.shape) : w.shape == input.shape;
  require<ValueError>(fits, l.name, ": ", argument, " has shape ", w.shape, "; expected ",
                      binary ? "one that broadcasts to " : "", input.shape, ", the shape of input");
  return matched(w, l.x);
}

// One number in the memory of that GPU: the sum of `a`, or how many elements are outside of [0, 1].
Array sum_on_gpu(const Array& a, bool outside) {
  Array dense = a.dense(), total = Array::empty({}, DType::f64, a.device()), partial = partial_sums(a.device());
  cuda::check("loss", cuda::launchers().loss_sum(a.dtype, dense.data, a.numel(), outside, partial.as<double>(),
                                                 total.as<double>(), cuda::stream(a.device())));
  return total;
}

void require_probabilities(const Loss& l) {
  constexpr const char* kOutside = ": input has values outside of [0, 1]; expected probabilities, as from sigmoid";
  if (cuda::capturing()) return;  // nothing can be read; the logarithms of bad ones are NaN
  if (l.x.on_cuda()) {
    require<ValueError>(*to_device(sum_on_gpu(l.x, true), Device()).as<double>() == 0, l.name, kOutside);
    return;
  }
  auto kernel = kernels().loss.all_probabilities[l.x.dtype];
  size_t item = size_of(l.x.dtype);
  std::atomic<bool> ok{true};
  parallel_for(l.x.numel(), 4 * kBlock, [&](int64_t begin, int64_t end) {
    if (!kernel(l.x.data + size_t(begin) * item, end - begin)) ok = false;
  });
  require<ValueError>(ok, l.name, kOutside);
}

Loss prepare(std::string_view name, const Array& x, const Array& t, const std::optional<Array>& w,
             const std::optional<Array>& p, std::string_view reduction, double a) {
  Loss l;
  l.f = parse(name, a);
  l.name = name;
  l.reduction = parse_reduction(name, reduction);
  require_float(name, x);
  require_dtype(name, "target", t, x.dtype);
  bool binary = l.f == PointwiseLoss::bce || l.f == PointwiseLoss::bce_logits;
  require<ValueError>(!binary || x.shape == t.shape, name, ": target has shape ", t.shape, "; expected that of input, ",
                      x.shape);
  require<ValueError>(l.f != PointwiseLoss::smooth_l1 || a > 0, name, ": beta is ", a, "; expected 0 or more");
  require<ValueError>(l.f != PointwiseLoss::huber || a > 0, name, ": delta is ", a, "; expected more than 0");
  l.shape = broadcast_shapes(std::string(name).c_str(), x.shape, t.shape);
  l.x = x.shape == l.shape ? x.dense() : broadcast_to(x, l.shape).contiguous();
  l.t = matched(t, l.x);
  if (w) l.w = matched_weight(l, "weight", *w, binary, x);
  if (p) l.p = matched_weight(l, "pos_weight", *p, binary, x);
  l.divisor = 1;
  if (l.reduction == Reduction::mean) {
    // As in torch: the weights of mse_loss and l1_loss make a weighted mean, others do not.
    bool weighted = w && (l.f == PointwiseLoss::mse || l.f == PointwiseLoss::l1);
    if (weighted && x.on_cuda())
      l.divisor_on_gpu = sum_on_gpu(*w, false);
    else
      l.divisor = weighted ? sum_of(*w) : double(l.x.numel());
  } else if (l.reduction == Reduction::batchmean) {
    l.divisor = x.ndim() ? double(x.size(0)) : 1;
  }
  l.operands = {l.x.data, l.t.data, w ? l.w.data : nullptr, p ? l.p.data : nullptr, a};
  return l;
}

}  // namespace

Array pointwise_loss(std::string_view name, const Array& x, const Array& t, const std::optional<Array>& w,
                     const std::optional<Array>& p, std::string_view reduction, double a) {
  Loss l = prepare(name, x, t, w, p, reduction, a);
  if (l.f == PointwiseLoss::bce) require_probabilities(l);
  if (x.on_cuda()) {
    const bool each = l.reduction == Reduction::none;
    Array y = each ? Array::empty_like(l.x) : Array(), total = each ? Array() : Array::empty({}, x.dtype, x.device());
    Array partial = each ? Array() : partial_sums(x.device());
    cuda::check("pointwise_loss", cuda::launchers().pointwise_loss(
                                      l.f, l.operands, x.dtype, y.data, l.x.numel(), numbers(l.divisor_on_gpu),
                                      l.divisor, numbers(partial), total.data, cuda::stream(x.device())));
    return each ? y : total;
  }
  auto kernel = kernels().loss.pointwise_loss[x.dtype];
  if (l.reduction == Reduction::none) {
    Array y = Array::empty_like(l.x);
    parallel_for(y.numel(), kBlock, [&](int64_t begin, int64_t end) { kernel(l.f, l.operands, y.data, begin, end); });
    return y;
  }
  double total = sum_blocks(l.x.numel(), kBlock,
                            [&](int64_t begin, int64_t end) { return kernel(l.f, l.operands, nullptr, begin, end); });
  return scalar(total / l.divisor, x.dtype);
}

std::tuple<std::optional<Array>, std::optional<Array>> pointwise_loss_backward(
    std::string_view name, const Array& x, const Array& t, const std::optional<Array>& w, const std::optional<Array>& p,
    std::string_view reduction, double a, const Array& grad, bool needs_input, bool needs_target) {
  Loss l = prepare(name, x, t, w, p, reduction, a);
  bool each = l.reduction == Reduction::none;
  require_gradient(name, grad, each ? l.shape : Dims(), x.dtype);
  Array g = each ? grad.with_layout_of(l.x) : grad;
  std::optional<Array> dx, dt;
  if (needs_input) dx = Array::empty_like(l.x);
  if (needs_target) dt = Array::empty_like(l.x);
  if (x.on_cuda()) {
    cuda::check("pointwise_loss_backward",
                cuda::launchers().pointwise_loss_backward(
                    l.f, l.operands, x.dtype, g.data, each, numbers(l.divisor_on_gpu), l.divisor,
                    dx ? dx->data : nullptr, dt ? dt->data : nullptr, l.x.numel(), cuda::stream(x.device())));
    if (dx) dx = sum_to(*dx, x.shape);
    if (dt) dt = sum_to(*dt, t.shape);
    return {dx, dt};
  }
  double scale = each ? 1.0 : first_value(grad) / l.divisor;
  auto kernel = kernels().loss.pointwise_loss_backward[x.dtype];
  parallel_for(l.x.numel(), kBlock, [&](int64_t begin, int64_t end) {
    kernel(l.f, l.operands, each ? g.data : nullptr, scale, dx ? dx->data : nullptr, dt ? dt->data : nullptr, begin,
           end);
  });
  if (dx) dx = sum_to(*dx, x.shape);
  if (dt) dt = sum_to(*dt, t.shape);
  return {dx, dt};
}

}  // namespace fastnn::ops
