#include "optimizer.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "../dispatch.h"
#include "../float_mode.h"
#include "../parallel.h"

namespace fastnn::ops {
namespace {

constexpr int64_t kGrain = 16384;  // elements; about 5 us of memory traffic
constexpr int64_t kBlock = 4096;   // elements summed in float32 before the sum goes on in float64

DType state_dtype(DType param) { return param == DType::f64 ? DType::f64 : DType::f32; }

void check_float(const char* op, const char* what, size_t i, const Array& a) {
  require<NotImplementedError>(is_float(a.dtype), op, ": ", what, " ", i, " has dtype ", name(a.dtype),
                               "; expected float32, bfloat16, float16 or float64");
}

void check_writable(const char* op, const char* what, size_t i, const Array& a) {
  require<ValueError>(a.storage->writable, op, ": ", what, " ", i, " is read-only memory; expected a writable tensor");
}

void check_count(const char* op, const char* what, size_t count, size_t expected) {
  require<ValueError>(count == expected, op, ": got ", count, " ", what, " for ", expected, " parameters");
}

// Arrays to write to, each dense in memory: itself, or a dense copy that finish() writes back.
class Targets {
 public:
  explicit Targets(const Arrays& targets) : targets_(targets) {
    dense_.reserve(targets.size());
    ends_.reserve(targets.size());
    int64_t total = 0;
    for (const Array& a : targets) {
      dense_.push_back(a.dense());
      ends_.push_back(total += a.numel());
    }
  }
  const Array& operator[](size_t i) const { return dense_[i]; }
  const Arrays& all() const { return dense_; }

  // Calls fn(i, begin, end) so that the pieces [begin, end) of the arrays i cover them all, in one parallel region.
  template <class F>
  void for_pieces(F&& fn) const {
    parallel_for(ends_.empty() ? 0 : ends_.back(), kGrain, [&](int64_t begin, int64_t end) {
      auto i = size_t(std::upper_bound(ends_.begin(), ends_.end(), begin) - ends_.begin());
      for (; begin < end; ++i) {
        int64_t first = i ? ends_[i - 1] : 0, stop = std::min(end, ends_[i]);
        if (begin < stop) fn(i, begin - first, stop - first);
        begin = stop;
      }
    });
  }

  void finish() {
    for (size_t i = 0; i < targets_.size(); ++i) {
      Array target = targets_[i];
      if (dense_[i].data != target.data) copy(dense_[i], target);
      target.bump_version();
    }
  }

 private:
  const Arrays& targets_;
  Arrays dense_;
  std::vector<int64_t> ends_;
};

void check_params(const char* op, const Arrays& params, const Arrays& grads) {
  check_count(op, "gradients", grads.size(), params.size());
  for (size_t i = 0; i < params.size(); ++i) {
    const Array &p = params[i], &g = grads[i];
    check_float(op, "parameter", i, p);
    check_writable(op, "parameter", i, p);
    require<ValueError>(p.shape == g.shape && p.dtype == g.dtype, op, ": the gradient of parameter ", i, " has shape ",
                        to_text(g.shape), " and dtype ", name(g.dtype), "; expected ", to_text(p.shape), " and ",
                        name(p.dtype));
    require<ValueError>(p.device() == params[0].device() && g.device() == p.device(), op, ": parameter ", i, " is on ",
                        p.device(), " and its gradient on ", g.device(), "; expected the device of parameter 0, ",
                        params[0].device(), ", for both");
  }
}

// One state array per parameter, in the layout of the (dense) parameter.
void check_state(const char* op, const char* what, const Targets& params, const Arrays& states, size_t count) {
  check_count(op, what, states.size(), count);
  for (size_t i = 0; i < count; ++i) {
    const Array &p = params[i], &s = states[i];
    require<ValueError>(s.dtype == state_dtype(p.dtype) && s.same_layout(p), op, ": ", what, " ", i, " has shape ",
                        to_text(s.shape), ", strides ", to_text(s.strides), " and dtype ", name(s.dtype), "; expected ",
                        to_text(p.shape), ", ", to_text(p.strides), " and ", name(state_dtype(p.dtype)),
                        ", as optimizer_state makes them");
    require<ValueError>(s.device() == p.device(), op, ": ", what, " ", i, " is on ", s.device(), "; expected ",
                        p.device(), ", where the parameter is");
    check_writable(op, what, i, s);
  }
}

void check_steps(const char* op, const Arrays& steps, size_t count) {
  check_count(op, "steps", steps.size(), count);
  for (size_t i = 0; i < count; ++i) {
    require<ValueError>(steps[i].dtype == DType::f32 && steps[i].ndim() == 0, op, ": step ", i, " has shape ",
                        to_text(steps[i].shape), " and dtype ", name(steps[i].dtype), "; expected a float32 scalar");
    require<ValueError>(!steps[i].on_cuda(), op, ": step ", i, " is on ", steps[i].device(), "; expected the CPU");
    check_writable(op, "step", i, steps[i]);
  }
}

// Counts one more step; returns how many it is now.
double next_step(const Array& step) {
  step.bump_version();
  return double(*step.as<float>() += 1.0f);
}

Arrays with_layouts(const Arrays& arrays, const Targets& like) {
  Arrays out;
  out.reserve(arrays.size());
  for (size_t i = 0; i < arrays.size(); ++i) out.push_back(arrays[i].with_layout_of(like[i]));
  return out;
}

char* at(const Array& a, int64_t i) { return a.data + i * int64_t(size_of(a.dtype)); }

// Arrays of one dtype as the launchers take them.
std::vector<gpu::OptimizerTensor> device_tensors(const Arrays& arrays, DType dtype) {
  std::vector<gpu::OptimizerTensor> tensors;
  for (const Array& a : arrays)
    if (a.dtype == dtype && a.numel()) tensors.push_back({a.data, a.data, {}, a.numel(), 0, 0, false});
  return tensors;
}

// Sums over pieces of the arrays.
std::vector<double> power_sums_on_device(const Arrays& arrays, double p) {
  std::vector<double> sums;
  Device device = arrays[0].device();
  for (int t = 0; t < kFloatTypes; ++t) {
    std::vector<gpu::OptimizerTensor> tensors = device_tensors(arrays, DType(t));
    int64_t pieces = 0;
    for (const auto& tensor : tensors) pieces += (tensor.n + gpu::kPowerPiece - 1) / gpu::kPowerPiece;
    if (pieces == 0) continue;
    Array parts = Array::empty({pieces}, DType::f64, device);
    cuda::check("power_sum", cuda::launchers().power_sum(DType(t), p, tensors.data(), int64_t(tensors.size()),
                                                         parts.as<double>(), cuda::stream(device)));
    Array host = to_device(parts, Device());
    sums.insert(sums.end(), host.as<double>(), host.as<double>() + pieces);
  }
  return sums;
}

// Changes all arrays in place.
template <class Launcher>
void change_on_device(const char* op, Launcher launcher, double value, const Arrays& arrays) {
  for (int t = 0; t < kFloatTypes; ++t) {
    std::vector<gpu::OptimizerTensor> tensors = device_tensors(arrays, DType(t));
    if (!tensors.empty())
      cuda::check(op,
                  launcher(DType(t), value, tensors.data(), int64_t(tensors.size()), cuda::stream(arrays[0].device())));
  }
}

// sum |x|^p over all arrays; a maximum for p = infinity. Block sums depend on the shapes only and are added in order.
double power_sum(const Arrays& arrays, double p) {
  struct Block {
    size_t array;
    int64_t begin, end;
  };
  std::vector<Block> blocks;
  for (size_t i = 0; i < arrays.size(); ++i)
    for (int64_t b = 0, n = arrays[i].numel(); b < n; b += kBlock) blocks.push_back({i, b, std::min(n, b + kBlock)});
  std::vector<double> sums(blocks.size());
  if (!arrays.empty() && arrays[0].on_cuda())
    sums = power_sums_on_device(arrays, p);
  else {
    const auto& kernel = kernels().optimizer.power_sum;
    parallel_for(int64_t(blocks.size()), 8, [&](int64_t begin, int64_t end) {
      for (int64_t k = begin; k < end; ++k) {
        const Block& b = blocks[size_t(k)];
        const Array& a = arrays[b.array];
        sums[size_t(k)] = kernel[a.dtype](p, at(a, b.begin), b.end - b.begin);
      }
    });
  }
  double total = 0;
  for (double s : sums) {
    if (!std::isinf(p))
      total += s;
    else if (!(s <= total))
      total = s;                   // a NaN is kept,
    if (std::isnan(total)) break;  // and nothing replaces it
  }
  return total;
}

// The step of parameters on a GPU, by one launch for each dtype. A list of states may be empty; set(tensor, i) adds
// what parameter i has of its own.
template <class Step, class Launcher, class Set>
void step_on_device(const char* op, Launcher launcher, const Step& step, const Targets& params, const Arrays& grads,
                    std::array<const Arrays*, 3> states, Set&& set) {
  for (int t = 0; t < kFloatTypes; ++t) {
    std::vector<gpu::OptimizerTensor> tensors;
    for (size_t i = 0; i < grads.size(); ++i) {
      const Array& p = params[i];
      if (p.dtype != DType(t) || p.numel() == 0) continue;
      gpu::OptimizerTensor tensor{p.data, grads[i].data, {}, p.numel(), 0, 0, false};
      for (size_t k = 0; k < 3; ++k)
        if (states[k] && !states[k]->empty()) tensor.state[k] = (*states[k])[i].data;
      set(tensor, i);
      tensors.push_back(tensor);
    }
    if (!tensors.empty())
      cuda::check(op,
                  launcher(DType(t), step, tensors.data(), int64_t(tensors.size()), cuda::stream(params[0].device())));
  }
}
constexpr auto kNothing = [](gpu::OptimizerTensor&, size_t) {};

Arrays dense(const Arrays& arrays) {
  Arrays out;
  out.reserve(arrays.size());
  for (const Array& a : arrays) out.push_back(a.dense());
  return out;
}

Array scalar(double value, DType dtype, Device device) {
  Array wide = Array::empty({}, DType::f64);
  *wide.as<double>() = value;
  return to_device(astype(wide, dtype), device);
}

}  // namespace

Array optimizer_state(const Array& param) {
  check_float("optimizer_state", "parameter", 0, param);
  Array state = Array::empty_like(param, state_dtype(param.dtype));
  size_t bytes = state.storage->bytes;
  if (bytes && state.on_cuda())
    cuda::check("optimizer_state", cuda::launchers().fill(state.data, 0, bytes, cuda::stream(state.device())));
  else
    std::fill_n(state.data, bytes, char(0));
  return state;
}

void sgd_step(const Arrays& params, const Arrays& grads, const Arrays& momenta, const std::vector<int64_t>& fresh,
              double lr, double momentum, double dampening, double weight_decay, bool nesterov, bool maximize) {
  const bool buffered = momentum != 0;
  const char* op = "sgd_step";
  check_params(op, params, grads);
  Targets targets(params);
  check_state(op, "momenta", targets, momenta, buffered ? params.size() : 0);
  std::vector<char> is_fresh(params.size(), 0);
  for (int64_t i : fresh) {
    require<IndexError>(i >= 0 && size_t(i) < params.size(), "sgd_step: fresh holds ", i, " for ", params.size(),
                        " parameters");
    is_fresh[size_t(i)] = 1;
  }
  Arrays g = with_layouts(grads, targets);
  const SgdStep step{lr, momentum, dampening, weight_decay, nesterov, maximize};
  if (!params.empty() && params[0].on_cuda()) {
    step_on_device(op, cuda::launchers().sgd, step, targets, g, {&momenta, nullptr, nullptr},
                   [&](auto& t, size_t i) { t.fresh = is_fresh[i]; });
  } else {
    FlushSubnormals flush;
    const auto& kernel = kernels().optimizer.sgd;
    targets.for_pieces([&](size_t i, int64_t begin, int64_t end) {
      const Array& p = targets[i];
      kernel[p.dtype](step, at(p, begin), at(g[i], begin), buffered ? at(momenta[i], begin) : nullptr, is_fresh[i],
                      end - begin);
    });
  }
  targets.finish();
  for (const Array& m : momenta) m.bump_version();
}

void adam_step(const Arrays& params, const Arrays& grads, const Arrays& exp_avgs, const Arrays& exp_avg_sqs,
               const Arrays& max_exp_avg_sqs, const Arrays& steps, double lr, double beta1, double beta2, double eps,
               double weight_decay, bool decoupled, bool maximize) {
  const char* op = "adam_step";
  const bool amsgrad = !max_exp_avg_sqs.empty();
  check_params(op, params, grads);
  Targets targets(params);
  check_state(op, "exp_avgs", targets, exp_avgs, params.size());
  check_state(op, "exp_avg_sqs", targets, exp_avg_sqs, params.size());
  check_state(op, "max_exp_avg_sqs", targets, max_exp_avg_sqs, amsgrad ? params.size() : 0);
  check_steps(op, steps, params.size());
  Arrays g = with_layouts(grads, targets);
  std::vector<AdamStep> coefficients;
  coefficients.reserve(params.size());
  for (const Array& step : steps) {
    double t = next_step(step);
    coefficients.push_back({lr / (1 - std::pow(beta1, t)), 1 / std::sqrt(1 - std::pow(beta2, t)), beta1, beta2, eps,
                            decoupled ? 0 : weight_decay, decoupled ? 1 - lr * weight_decay : 1, maximize});
  }
  if (!params.empty() && params[0].on_cuda()) {
    step_on_device(op, cuda::launchers().adam, coefficients[0], targets, g, {&exp_avgs, &exp_avg_sqs, &max_exp_avg_sqs},
                   [&](auto& t, size_t i) {
                     t.step_size = coefficients[i].step_size;
                     t.root_scale = coefficients[i].root_scale;
                   });
  } else {
    FlushSubnormals flush;
    const auto& kernel = kernels().optimizer.adam;
    targets.for_pieces([&](size_t i, int64_t begin, int64_t end) {
      const Array& p = targets[i];
      kernel[p.dtype](coefficients[i], at(p, begin), at(g[i], begin), at(exp_avgs[i], begin), at(exp_avg_sqs[i], begin),
                      amsgrad ? at(max_exp_avg_sqs[i], begin) : nullptr, end - begin);
    });
  }
  targets.finish();
  for (const Arrays* states : {&exp_avgs, &exp_avg_sqs, &max_exp_avg_sqs})
    for (const Array& s : *states) s.bump_version();
}

void rmsprop_step(const Arrays& params, const Arrays& grads, const Arrays& square_avgs, const Arrays& grad_avgs,
                  const Arrays& momenta, const Arrays& steps, double lr, double alpha, double eps, double weight_decay,
                  double momentum, bool maximize) {
  const char* op = "rmsprop_step";
  const bool centered = !grad_avgs.empty(), buffered = momentum != 0;
  check_params(op, params, grads);
  Targets targets(params);
  check_state(op, "square_avgs", targets, square_avgs, params.size());
  check_state(op, "grad_avgs", targets, grad_avgs, centered ? params.size() : 0);
  check_state(op, "momenta", targets, momenta, buffered ? params.size() : 0);
  check_steps(op, steps, params.size());
  Arrays g = with_layouts(grads, targets);
  for (const Array& step : steps) next_step(step);
  const RmspropStep step{lr, alpha, eps, weight_decay, momentum, maximize};
  if (!params.empty() && params[0].on_cuda()) {
    step_on_device(op, cuda::launchers().rmsprop, step, targets, g, {&square_avgs, &grad_avgs, &momenta}, kNothing);
  } else {
    FlushSubnormals flush;
    const auto& kernel = kernels().optimizer.rmsprop;
    targets.for_pieces([&](size_t i, int64_t begin, int64_t end) {
      const Array& p = targets[i];
      kernel[p.dtype](step, at(p, begin), at(g[i], begin), at(square_avgs[i], begin),
                      centered ? at(grad_avgs[i], begin) : nullptr, buffered ? at(momenta[i], begin) : nullptr,
                      end - begin);
    });
  }
  targets.finish();
  for (const Arrays* states : {&square_avgs, &grad_avgs, &momenta})
    for (const Array& s : *states) s.bump_version();
}

void adagrad_step(const Arrays& params, const Arrays& grads, const Arrays& sums, const Arrays& steps, double lr,
                  double lr_decay, double weight_decay, double eps, bool maximize) {
  const char* op = "adagrad_step";
  check_params(op, params, grads);
  Targets targets(params);
  check_state(op, "sums", targets, sums, params.size());
  check_steps(op, steps, params.size());
  Arrays g = with_layouts(grads, targets);
  std::vector<AdagradStep> coefficients;
  coefficients.reserve(params.size());
  for (const Array& step : steps)
    coefficients.push_back({lr / (1 + (next_step(step) - 1) * lr_decay), weight_decay, eps, maximize});
  if (!params.empty() && params[0].on_cuda()) {
    step_on_device(op, cuda::launchers().adagrad, coefficients[0], targets, g, {&sums, nullptr, nullptr},
                   [&](auto& t, size_t i) { t.step_size = coefficients[i].step_size; });
  } else {
    FlushSubnormals flush;
    const auto& kernel = kernels().optimizer.adagrad;
    targets.for_pieces([&](size_t i, int64_t begin, int64_t end) {
      const Array& p = targets[i];
      kernel[p.dtype](coefficients[i], at(p, begin), at(g[i], begin), at(sums[i], begin), end - begin);
    });
  }
  targets.finish();
  for (const Array& s : sums) s.bump_version();
}

void lion_step(const Arrays& params, const Arrays& grads, const Arrays& exp_avgs, double lr, double beta1, double beta2,
               double weight_decay, bool maximize) {
  const char* op = "lion_step";
  check_params(op, params, grads);
  Targets targets(params);
  check_state(op, "exp_avgs", targets, exp_avgs, params.size());
  Arrays g = with_layouts(grads, targets);
  const LionStep step{lr, beta1, beta2, 1 - lr * weight_decay, maximize};
  if (!params.empty() && params[0].on_cuda()) {
    step_on_device(op, cuda::launchers().lion, step, targets, g, {&exp_avgs, nullptr, nullptr}, kNothing);
  } else {
    FlushSubnormals flush;
    const auto& kernel = kernels().optimizer.lion;
    targets.for_pieces([&](size_t i, int64_t begin, int64_t end) {
      const Array& p = targets[i];
      kernel[p.dtype](step, at(p, begin), at(g[i], begin), at(exp_avgs[i], begin), end - begin);
    });
  }
  targets.finish();
  for (const Array& s : exp_avgs) s.bump_version();
}

Array clip_grad_norm(const Arrays& grads, double max_norm, double norm_type, bool error_if_nonfinite) {
  const char* op = "clip_grad_norm";
  require<ValueError>(norm_type >= 0, op, ": norm_type is ", norm_type, "; expected 0 or more, or infinity");
  DType dtype = DType::f32;
  for (size_t i = 0; i < grads.size(); ++i) {
    check_float(op, "gradient", i, grads[i]);
    check_writable(op, "gradient", i, grads[i]);
    if (grads[i].dtype == DType::f64) dtype = DType::f64;
  }
  Targets targets(grads);
  double sum = power_sum(dense(grads), norm_type);
  double norm = norm_type == 2                                              ? std::sqrt(sum)
                : norm_type == 0 || norm_type == 1 || std::isinf(norm_type) ? sum
                                                                            : std::pow(sum, 1 / norm_type);
  if (error_if_nonfinite && !std::isfinite(norm))
    throw std::runtime_error(message(op, ": the total norm of order ", norm_type, " of the gradients is ", norm,
                                     ", so they cannot be clipped; find the step that made it, or pass "
                                     "error_if_nonfinite=False to scale by it anyway"));
  double factor = max_norm / (norm + 1e-6);
  if (!(factor >= 1)) {  // also where it is NaN
    if (!grads.empty() && grads[0].on_cuda()) {
      change_on_device(op, cuda::launchers().scale_values, factor, targets.all());
    } else {
      const auto& kernel = kernels().optimizer.scale;
      targets.for_pieces([&](size_t i, int64_t begin, int64_t end) {
        kernel[targets[i].dtype](factor, at(targets[i], begin), end - begin);
      });
    }
    targets.finish();
  }
  return scalar(norm, dtype, grads.empty() ? Device() : grads[0].device());
}

void clip_grad_value(const Arrays& grads, double clip_value) {
  for (size_t i = 0; i < grads.size(); ++i) {
    check_float("clip_grad_value", "gradient", i, grads[i]);
    check_writable("clip_grad_value", "gradient", i, grads[i]);
  }
  Targets targets(grads);
  if (!grads.empty() && grads[0].on_cuda()) {
    change_on_device("clip_grad_value", cuda::launchers().clip_values, clip_value, targets.all());
  } else {
    const auto& kernel = kernels().optimizer.clip;
    targets.for_pieces([&](size_t i, int64_t begin, int64_t end) {
      kernel[targets[i].dtype](clip_value, at(targets[i], begin), end - begin);
    });
  }
  targets.finish();
}

Array penalty(const Arrays& params, double p, double weight) {
  require<ValueError>(p == 1 || p == 2, "penalty: p is ", p, "; expected 1 or 2");
  require<ValueError>(!params.empty(), "penalty: got no parameters");
  for (size_t i = 0; i < params.size(); ++i) {
    check_float("penalty", "parameter", i, params[i]);
    require<ValueError>(params[i].dtype == params[0].dtype, "penalty: parameter ", i, " has dtype ",
                        name(params[i].dtype), " and the first one ", name(params[0].dtype),
                        "; expected one dtype; add up a penalty for each dtype");
  }
  return scalar(weight * power_sum(dense(params), p), params[0].dtype, params[0].device());
}

Array penalty_backward(const Array& param, const Array& grad, double p, double weight) {
  require<ValueError>(grad.numel() == 1, "penalty_backward: grad has shape ", to_text(grad.shape),
                      "; expected a scalar");
  check_float("penalty_backward", "parameter", 0, param);
  double factor = weight * *to_device(astype(grad, DType::f64), Device()).contiguous().as<double>();
  Array x = param.dense(), dx = Array::empty_like(x);
  if (x.on_cuda()) {
    if (x.numel())
      cuda::check("penalty_backward", cuda::launchers().power_backward(x.dtype, p, factor, x.data, dx.data, x.numel(),
                                                                       cuda::stream(x.device())));
    return dx;
  }
  auto kernel = kernels().optimizer.power_backward[x.dtype];
  parallel_for(x.numel(), kGrain,
               [&](int64_t begin, int64_t end) { kernel(p, factor, at(x, begin), at(dx, begin), end - begin); });
  return dx;
}

}  // namespace fastnn::ops
