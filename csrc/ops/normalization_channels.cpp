#include "normalization_channels.h"

#include <algorithm>
#include <cmath>

#include "../convert.h"
#include "../float_mode.h"
#include "../memory.h"
#include "../parallel.h"

namespace fastnn::ops {
namespace {

using namespace detail;

constexpr int64_t kCoefficients = 1024;  // of a table, worth about 5 us

void check_input(const char* op, const Array& x, double eps) {
  check_normalization(op, x, eps);
  require<ValueError>(x.ndim() >= 2, op, ": input has shape ", x.shape, "; expected (N, C, ...)");
}

// Makes x dense in one of the two orders and says which.
Channels channels_of(Array& x) {
  Channels k{x.size(0), x.size(1), 1, false};
  for (int i = 2; i < x.ndim(); ++i) k.s *= x.size(i);
  if (x.numel() == 0) return k;
  bool batches = x.is_dense() && (k.n == 1 || x.stride(0) == k.c * k.s);
  k.inner = batches && k.c > 1 && x.stride(1) == 1;
  if (!k.inner && !(batches && (k.c == 1 || x.stride(1) == k.s))) {
    x = x.contiguous();
    k.inner = k.s == 1;
  }
  return k;
}

// The gradient of few elements is a small difference of large terms: there float32 is computed in float64.
bool in_float64(const Array& x, int64_t count) { return x.dtype == DType::f32 && x.numel() > 0 && count < 8; }

Normalized no_statistics(const Array& x) {
  return {Array::empty_like(x), Array::empty({0}, DType::f64, x.device()), Array::empty({0}, DType::f64, x.device())};
}

template <class Backward>
NormGradients widened(const Array& grad, const Array& x, const MaybeArray& weight, Backward&& backward) {
  MaybeArray w = weight ? MaybeArray(astype(*weight, DType::f64)) : std::nullopt;
  NormGradients out = backward(astype(grad, DType::f64), astype(x, DType::f64), w);
  if (auto& dx = std::get<0>(out)) dx = astype(*dx, x.dtype);
  return out;
}

// The affine part of a normalization whose statistic g = group(plane) belongs to a plane, for planes [0, period).
template <class Group>
void apply(const Array& x, const Array& y, bool past, const Channels& k, int64_t period, const Array& mean,
           const Array& rstd, const MaybeArray& w, const MaybeArray& b, Group&& group) {
  Coefficients table(3, period, x.dtype);
  parallel_for(period, kCoefficients, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      int64_t g = group(i), c = i % k.c;
      double scale = rstd.as<double>()[g] * (w ? item(*w, c) : 1);
      double low = table.set_mean(i, mean.as<double>()[g]);
      table.set(1, i, scale);
      table.set(2, i, (b ? item(*b, c) : 0) - low * scale);
    }
  });
  normalize(x, y, k, table, past);
}

Array inverse_root(const Array& variance, double eps) {
  Array out = Array::empty(variance.shape, DType::f64);
  for (int64_t i = 0; i < out.numel(); ++i) out.as<double>()[i] = 1 / std::sqrt(variance.as<double>()[i] + eps);
  return out;
}

// ---- running statistics -----------------------------------------------------------------------------------------

void check_running(const char* op, const MaybeArray& mean, const MaybeArray& var, int64_t channels, DType t,
                   bool write) {
  require<ValueError>(bool(mean) == bool(var), op,
                      ": only one of running_mean and running_var is given; expected both or none");
  if (!mean) return;
  for (auto [argument, a] : {std::pair{"running_mean", &*mean}, std::pair{"running_var", &*var}}) {
    check_parameter(op, argument, *a, {channels}, t);
    require<ValueError>(!write || a->storage->writable, op, ": ", argument,
                        " is read-only memory; expected a writable array");
  }
}

// running[c] = (1 - momentum) running[c] + momentum value(c), in float64, rounded.
template <class Value>
void update(const Array& running, double momentum, Value&& value) {
  visit(running.dtype, [&]<class T>(T*) {
    for (int64_t c = 0; c < running.size(0); ++c) {
      T& to = running.as<T>()[c * running.stride(0)];
      to = convert<T>((1 - momentum) * convert<double>(to) + momentum * value(c));
    }
  });
  running.bump_version();
}

// `images` statistics of `count` elements for each channel; their average counts, and the unbiased variance.
void update_running(const MaybeArray& mean, const MaybeArray& var, const Statistics& s, int64_t images, double count,
                    double momentum) {
  if (!mean) return;
  const int64_t channels = mean->size(0);
  auto average = [&](const Array& a, int64_t c) {
    double total = 0;
    for (int64_t n = 0; n < images; ++n) total += a.as<double>()[n * channels + c];
    return total / double(images);
  };
  update(*mean, momentum, [&](int64_t c) { return average(s.mean, c); });
  update(*var, momentum, [&](int64_t c) { return average(s.variance, c) * (count / (count - 1)); });
}

Array to_double(const Array& a) { return astype(a.contiguous(), DType::f64); }

// (N, S) x C instead of N images, where memory allows it.
Channels merged(Channels k) { return k.inner ? Channels{1, k.c, k.n * k.s, true} : k; }

// ---- gradients --------------------------------------------------------------------------------------------------

MaybeArray rounded(bool wanted, const Array& a, DType t) {
  if (!wanted) return std::nullopt;
  return t == DType::f64 ? a : astype(a, t);
}

NormGradients no_elements(const Array& x, DType t, bool need_input, bool need_weight, bool need_bias) {
  NormGradients out;
  if (need_input) std::get<0>(out) = Array::empty_like(x);
  if (need_weight) std::get<1>(out) = Array::zeros({x.size(1)}, t, x.device());
  if (need_bias) std::get<2>(out) = Array::zeros({x.size(1)}, t, x.device());
  return out;
}

Array images(const Array& x, int64_t first, int64_t count) {
  Dims shape = x.shape;
  shape[0] = count;
  return x.view(shape, x.strides, first * x.stride(0));
}

// ---- ops --------------------------------------------------------------------------------------------------------

Normalized group_forward(const char* op, const Array& input, int64_t groups, const MaybeArray& weight,
                         const MaybeArray& bias, double eps, const MaybeArray& running_mean,
                         const MaybeArray& running_var, double momentum) {
  Array x = input;
  Channels k = channels_of(x);
  MaybeArray w = parameter(op, "weight", weight, {k.c}, x.dtype), b = parameter(op, "bias", bias, {k.c}, x.dtype);
  if (x.numel() == 0) return no_statistics(x);
  const int64_t width = k.c / groups;
  Array exact = in_float64(x, width * k.s) ? astype(x, DType::f64) : x;
  if (x.on_cuda()) {
    Statistics s = moments_on_gpu(op, exact, k, false, width);
    update_running_on_gpu(op, running_mean, running_var, s, k.n, double(k.s), momentum);
    return normalize_on_gpu(op, x, k, false, width, s, eps, w, b);
  }
  Array y = Array::empty_like(x), rstd = Array::empty({k.n * groups}, DType::f64);
  Statistics s{Array::empty({k.n * groups}, DType::f64), Array::empty({k.n * groups}, DType::f64)};
  const bool past = streams(y, k.row());
  // So many images at once that the second pass finds them in the cache.
  const int64_t image = k.c * k.s * int64_t(size_of(exact.dtype));
  const int64_t most = std::max<int64_t>(1, int64_t(last_level_cache() / 4) / image);
  for (int64_t n = 0; n < k.n; n += most) {
    const Channels part{std::min(most, k.n - n), k.c, k.s, k.inner};
    Statistics found = moments(images(exact, n, part.n), part, false, width);
    Array scale = inverse_root(found.variance, eps);
    apply(images(x, n, part.n), images(y, n, part.n), past, part, part.planes(), found.mean, scale, w, b,
          [&](int64_t i) { return i / width; });
    for (auto [from, to] : {std::pair{&found.mean, &s.mean}, {&found.variance, &s.variance}, {&scale, &rstd}})
      std::copy_n(from->as<double>(), from->numel(), to->as<double>() + n * groups);
  }
  update_running(running_mean, running_var, s, k.n, double(k.s), momentum);
  return {y, s.mean, rstd};
}

void check_groups(const char* op, const Array& x, int64_t groups) {
  require<ValueError>(groups > 0, op, ": num_groups is ", groups, "; expected at least 1");
  require<ValueError>(x.size(1) % groups == 0, op, ": input has shape ", x.shape, " with ", x.size(1),
                      " channels; expected a multiple of num_groups ", groups);
}

}  // namespace

Normalized batch_norm_statistics(const Array& input, const MaybeArray& weight, const MaybeArray& bias,
                                 const MaybeArray& running_mean, const MaybeArray& running_var, bool training,
                                 double momentum, double eps) {
  FlushSubnormals flush;
  const char* op = "batch_norm";
  check_input(op, input, eps);
  Array x = input;
  const int64_t channels = x.size(1);
  check_running(op, running_mean, running_var, channels, x.dtype, training);
  require<ValueError>(training || running_mean, op,
                      ": running_mean and running_var are None; expected both with training=False");
  MaybeArray w = parameter(op, "weight", weight, {channels}, x.dtype);
  MaybeArray b = parameter(op, "bias", bias, {channels}, x.dtype);
  if (x.numel() == 0) return no_statistics(x);
  Channels k = merged(channels_of(x));
  const int64_t count = x.numel() / channels;
  require<ValueError>(!training || count > 1, op,
                      ": Expected more than 1 value per channel when training, got input size ", x.shape);
  Array exact = training && in_float64(x, count) ? astype(x, DType::f64) : x;
  if (x.on_cuda()) {
    Statistics s = training ? moments_on_gpu(op, exact, k, true, 1)
                            : Statistics{to_double(*running_mean), to_double(*running_var)};
    if (training) update_running_on_gpu(op, running_mean, running_var, s, 1, double(count), momentum);
    return normalize_on_gpu(op, x, k, true, 1, s, eps, w, b);
  }
  Statistics s = training ? moments(exact, k, true, 1) : Statistics{to_double(*running_mean), to_double(*running_var)};
  Array rstd = inverse_root(s.variance, eps);
  if (training) update_running(running_mean, running_var, s, 1, double(count), momentum);
  Array y = Array::empty_like(x);
  apply(x, y, streams(y, k.row()), k, channels, s.mean, rstd, w, b, [](int64_t i) { return i; });
  return {y, s.mean, rstd};
}

Array batch_norm(const Array& x, const MaybeArray& weight, const MaybeArray& bias, const MaybeArray& running_mean,
                 const MaybeArray& running_var, bool training, double momentum, double eps) {
  return std::get<0>(batch_norm_statistics(x, weight, bias, running_mean, running_var, training, momentum, eps));
}

NormGradients batch_norm_backward(const Array& grad, const Array& input, const MaybeArray& weight, const Array& mean,
                                  const Array& rstd, bool training, DType parameters, bool need_input, bool need_weight,
                                  bool need_bias) {
  FlushSubnormals flush;
  const char* op = "batch_norm_backward";
  check_input(op, input, 0);
  check_gradient(op, grad, input);
  Array x = input;
  const int64_t channels = x.size(1);
  MaybeArray w = parameter(op, "weight", weight, {channels}, x.dtype);
  check_statistic(op, "mean", mean, x.numel() ? channels : 0);
  check_statistic(op, "rstd", rstd, x.numel() ? channels : 0);
  if (x.numel() == 0) return no_elements(x, parameters, need_input, need_weight, need_bias);
  if (training && in_float64(x, x.numel() / channels))
    return widened(grad, x, weight, [&](const Array& dy, const Array& wide, const MaybeArray& scale) {
      return batch_norm_backward(dy, wide, scale, mean, rstd, training, parameters, need_input, need_weight, need_bias);
    });
  Channels k = merged(channels_of(x));
  Array dy = grad.with_layout_of(x);
  if (x.on_cuda())
    return backward_on_gpu(op, x, dy, k, true, 1, training, w, mean, rstd, parameters, need_input, need_weight,
                           need_bias);
  const double count = double(x.numel() / channels);

  Coefficients table(4, channels, x.dtype);
  std::vector<double> low(static_cast<size_t>(channels));
  for (int64_t c = 0; c < channels; ++c) low[size_t(c)] = table.set_mean(c, mean.as<double>()[c]);
  MaybeArray dx, dw, db;
  const double* r = rstd.as<double>();
  if (need_weight || need_bias || training) {
    Sums s = gradient_sums(x, dy, k, true, table, low);
    double *plain = s.plain.as<double>(), *product = s.product.as<double>();
    for (int64_t c = 0; c < channels; ++c) product[c] *= r[c];
    dw = rounded(need_weight, s.product, parameters);
    db = rounded(need_bias, s.plain, parameters);
    for (int64_t c = 0; c < channels; ++c) {
      double a = r[c] * (w ? item(*w, c) : 1), b = -a * r[c] * product[c] / count;
      table.set(1, c, a);
      table.set(2, c, b);
      table.set(3, c, -a * plain[c] / count - b * low[size_t(c)]);
    }
  }
  if (!need_input) return {dx, dw, db};
  if (training) return {normalize_backward(x, dy, k, table), dw, db};
  for (int64_t c = 0; c < channels; ++c) {  // the statistics are constants: dx = dy rstd weight
    table.set(0, c, 0);
    table.set(1, c, r[c] * (w ? item(*w, c) : 1));
    table.set(2, c, 0);
  }
  dx = Array::empty_like(dy);
  normalize(dy, *dx, k, table, streams(*dx, k.row()));
  return {dx, dw, db};
}

Normalized group_norm_statistics(const Array& x, int64_t groups, const MaybeArray& weight, const MaybeArray& bias,
                                 double eps) {
  FlushSubnormals flush;
  check_input("group_norm", x, eps);
  check_groups("group_norm", x, groups);
  require<ValueError>(x.numel() != groups,
                      "group_norm: Expected more than 1 value per channel when training, got input size ", x.shape);
  return group_forward("group_norm", x, groups, weight, bias, eps, std::nullopt, std::nullopt, 0);
}

Array group_norm(const Array& x, int64_t groups, const MaybeArray& weight, const MaybeArray& bias, double eps) {
  return std::get<0>(group_norm_statistics(x, groups, weight, bias, eps));
}

Normalized instance_norm_statistics(const Array& x, const MaybeArray& weight, const MaybeArray& bias,
                                    const MaybeArray& running_mean, const MaybeArray& running_var, double momentum,
                                    double eps) {
  FlushSubnormals flush;
  const char* op = "instance_norm";
  check_input(op, x, eps);
  check_running(op, running_mean, running_var, x.size(1), x.dtype, true);
  int64_t spatial = 1;
  for (int i = 2; i < x.ndim(); ++i) spatial *= x.size(i);
  require<ValueError>(spatial != 1, op, ": Expected more than 1 spatial element when training, got input size ",
                      x.shape);
  return group_forward(op, x, std::max<int64_t>(1, x.size(1)), weight, bias, eps, running_mean, running_var, momentum);
}

Array instance_norm(const Array& x, const MaybeArray& weight, const MaybeArray& bias, const MaybeArray& running_mean,
                    const MaybeArray& running_var, double momentum, double eps) {
  return std::get<0>(instance_norm_statistics(x, weight, bias, running_mean, running_var, momentum, eps));
}

NormGradients group_norm_backward(const Array& grad, const Array& input, int64_t groups, const MaybeArray& weight,
                                  const Array& mean, const Array& rstd, DType parameters, bool need_input,
                                  bool need_weight, bool need_bias) {
  FlushSubnormals flush;
  const char* op = "group_norm_backward";
  check_input(op, input, 0);
  check_gradient(op, grad, input);
  check_groups(op, input, groups);
  Array x = input;
  Channels k = channels_of(x);
  MaybeArray w = parameter(op, "weight", weight, {k.c}, x.dtype);
  const int64_t statistics = x.numel() ? k.n * groups : 0;
  check_statistic(op, "mean", mean, statistics);
  check_statistic(op, "rstd", rstd, statistics);
  if (statistics == 0) return no_elements(x, parameters, need_input, need_weight, need_bias);
  if (in_float64(x, x.numel() / statistics))
    return widened(grad, x, weight, [&](const Array& dy, const Array& wide, const MaybeArray& scale) {
      return group_norm_backward(dy, wide, groups, scale, mean, rstd, parameters, need_input, need_weight, need_bias);
    });
  Array dy = grad.with_layout_of(x);
  const int64_t width = k.c / groups;
  if (x.on_cuda())
    return backward_on_gpu(op, x, dy, k, false, width, true, w, mean, rstd, parameters, need_input, need_weight,
                           need_bias);

  Coefficients table(4, k.planes(), x.dtype);
  std::vector<double> low(static_cast<size_t>(k.planes()));
  for (int64_t i = 0; i < k.planes(); ++i) low[size_t(i)] = table.set_mean(i, mean.as<double>()[i / width]);
  Sums s = gradient_sums(x, dy, k, false, table, low);
  double *plain = s.plain.as<double>(), *product = s.product.as<double>();
  const double* r = rstd.as<double>();
  auto weight_of = [&](int64_t i) { return w ? item(*w, i % k.c) : 1.0; };
  parallel_for(statistics, std::max<int64_t>(1, kCoefficients / width), [&](int64_t begin, int64_t end) {
    for (int64_t g = begin; g < end; ++g) {
      double sum = 0, slope = 0;  // of g = dy weight, and of g h with h = (x - mean) rstd
      for (int64_t i = g * width; i < (g + 1) * width; ++i) {
        product[i] *= r[g];
        sum += weight_of(i) * plain[i];
        slope += weight_of(i) * product[i];
      }
      double count = double(width * k.s), b = -r[g] * r[g] * slope / count;
      for (int64_t i = g * width; i < (g + 1) * width; ++i) {
        table.set(1, i, r[g] * weight_of(i));
        table.set(2, i, b);
        table.set(3, i, -r[g] * sum / count - b * low[size_t(i)]);
      }
    }
  });
  MaybeArray dx;
  if (need_input) dx = normalize_backward(x, dy, k, table);
  for (int64_t i = k.c; i < k.planes(); ++i) {
    plain[i % k.c] += plain[i];
    product[i % k.c] += product[i];
  }
  auto of_channels = [&](bool wanted, const Array& a) { return rounded(wanted, a.view({k.c}, {1}), parameters); };
  return {dx, of_channels(need_weight, s.product), of_channels(need_bias, s.plain)};
}

}  // namespace fastnn::ops
