#include <algorithm>
#include <cmath>
#include <vector>

#include "../convert.h"
#include "../dispatch.h"
#include "../float_mode.h"
#include "../parallel.h"
#include "normalization.h"

namespace fastnn::ops {
namespace {

using namespace detail;

constexpr int64_t kGrain = 16384;        // elements; about 5 us
constexpr int64_t kPart = 32768;         // elements that one task sums, where a statistic has more than that
constexpr int64_t kCoefficients = 1024;  // of a table, worth about 5 us
constexpr int64_t kColumns = 1024;       // columns that one task sums

char* at(const Array& a, int64_t i) { return a.data + i * int64_t(size_of(a.dtype)); }

// A dense array in memory order: (n, c, s), or, `inner`, (n, s, c).
struct Channels {
  int64_t n, c, s;
  bool inner;
  int64_t planes() const { return n * c; }
  int64_t numel() const { return n * c * s; }
};

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

// ---- sums -------------------------------------------------------------------------------------------------------

// Two numbers for each of `units` statistics from each of several parts of the data; part p of a unit has counts[p]
// elements. Parts are a function of the shape alone and are added in order: the same bits for any number of threads.
struct Parts {
  int64_t units;
  std::vector<int64_t> counts;
  Array first, second;  // (parts, units)

  Parts(int64_t units, int64_t parts)
      : units(units),
        counts(size_t(parts)),
        first(Array::empty({parts, units}, DType::f64)),
        second(Array::empty({parts, units}, DType::f64)) {}
  int64_t parts() const { return int64_t(counts.size()); }
  double* a(int64_t part, int64_t unit) const { return first.as<double>() + part * units + unit; }
  double* b(int64_t part, int64_t unit) const { return second.as<double>() + part * units + unit; }
};

// Statistics of runs: unit u has the runs `r` from element u * stride on. f(unit, part of the runs, its first element,
// a, b)
template <class Fn>
Parts sum_runs(const Runs& r, int64_t units, int64_t stride, Fn&& f) {
  const int64_t piece = std::min(r.n, kPart), pieces = (r.n + piece - 1) / piece;
  const int64_t together = std::max<int64_t>(1, kPart / r.n), groups = (r.count + together - 1) / together;
  Parts out(units, groups * pieces);
  auto runs_in = [&](int64_t part) { return std::min(together, r.count - part / pieces * together); };
  auto elements_in = [&](int64_t part) { return std::min(piece, r.n - part % pieces * piece); };
  for (int64_t p = 0; p < out.parts(); ++p) out.counts[size_t(p)] = runs_in(p) * elements_in(p);
  int64_t work = piece * std::min(together, r.count);
  parallel_for(units * out.parts(), std::max<int64_t>(1, kGrain / work), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      int64_t u = i / out.parts(), p = i % out.parts();
      int64_t first = u * stride + p / pieces * together * r.step + p % pieces * piece;
      f(u, Runs{runs_in(p), r.step, elements_in(p)}, first, out.a(p, u), out.b(p, u));
    }
  });
  return out;
}

// Statistics of the columns of n matrices of s rows and c columns; unit n * c + column.
// f(unit, rows, columns, first element, a, b)
template <class Fn>
Parts sum_columns(const Channels& k, Fn&& f) {
  const int64_t width = std::min(k.c, kColumns), pieces = (k.c + width - 1) / width;
  // Rows that are worth a task, in multiples of the kernels' tile, but no more than 256 parts.
  const int64_t rows = std::max((2 * kPart / width + 31) / 32 * 32, (k.s + 255) / 256);
  Parts out(k.planes(), (k.s + rows - 1) / rows);
  auto rows_in = [&](int64_t part) { return std::min(rows, k.s - part * rows); };
  for (int64_t p = 0; p < out.parts(); ++p) out.counts[size_t(p)] = rows_in(p);
  int64_t work = std::min(rows, k.s) * width;
  parallel_for(k.n * out.parts() * pieces, std::max<int64_t>(1, kGrain / work), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      int64_t c = i % pieces * width, p = i / pieces % out.parts(), n = i / pieces / out.parts();
      int64_t u = n * k.c + c, first = (n * k.s + p * rows) * k.c + c;
      f(u, rows_in(p), std::min(width, k.c - c), first, out.a(p, u), out.b(p, u));
    }
  });
  return out;
}

// Mean and biased variance of groups of neighbouring units, `width` each.
struct Statistics {
  Array mean, variance;
};
Statistics merge_moments(const Parts& parts, int64_t width) {
  int64_t groups = parts.units / width;
  Statistics out{Array::empty({groups}, DType::f64), Array::empty({groups}, DType::f64)};
  int64_t each = 0;
  for (int64_t n : parts.counts) each += n;
  const double count = double(each * width);
  parallel_for(groups, std::max<int64_t>(1, kGrain / (4 * width * parts.parts())), [&](int64_t begin, int64_t end) {
    double* mean = out.mean.as<double>();
    double* squares = out.variance.as<double>();
    std::fill(mean + begin, mean + end, 0.0);
    std::fill(squares + begin, squares + end, 0.0);
    auto for_all = [&](auto&& f) {
      for (int64_t p = 0; p < parts.parts(); ++p)
        for (int64_t g = begin; g < end; ++g)
          for (int64_t u = g * width; u < (g + 1) * width; ++u)
            f(g, double(parts.counts[size_t(p)]), *parts.a(p, u), *parts.b(p, u));
    };
    for_all([&](int64_t g, double n, double m, double) { mean[g] += n * m; });
    for (int64_t g = begin; g < end; ++g) mean[g] /= count;
    for_all([&](int64_t g, double n, double m, double q) { squares[g] += q + n * (m - mean[g]) * (m - mean[g]); });
    for (int64_t g = begin; g < end; ++g) squares[g] /= count;
  });
  return out;
}

// One set of moments for each channel, or for each group of `width` channels of each image.
Statistics moments(const Array& x, const Channels& k, bool batch, int64_t width) {
  auto& kernel = kernels().normalization;
  if (k.inner) {
    auto f = kernel.column_moments[x.dtype];
    return merge_moments(sum_columns(k, [&](int64_t, int64_t rows, int64_t columns, int64_t first, double* a,
                                            double* b) { f(at(x, first), rows, k.c, columns, a, b); }),
                         batch ? 1 : width);
  }
  Runs runs = batch ? Runs{k.n, k.c * k.s, k.s} : Runs{1, 0, width * k.s};
  auto f = kernel.moments[x.dtype];
  return merge_moments(
      sum_runs(runs, batch ? k.c : k.planes() / width, runs.n,
               [&](int64_t, const Runs& r, int64_t first, double* a, double* b) { f(r, at(x, first), a, b); }),
      1);
}

// ---- elements ---------------------------------------------------------------------------------------------------

// Rows of coefficients in the type of the arithmetic, one for each channel or for each channel of each image.
class Coefficients {
 public:
  Coefficients(int rows, int64_t period, DType t) : table_(Array::empty({rows, period}, compute_dtype(t))) {}
  int64_t period() const { return table_.size(1); }
  void set(int row, int64_t i, double v) {
    if (table_.dtype == DType::f64)
      table_.as<double>()[row * period() + i] = v;
    else
      table_.as<float>()[row * period() + i] = float(v);
  }
  // Sets row 0 to the rounded mean and returns what it lacks.
  double set_mean(int64_t i, double mean) {
    set(0, i, mean);
    return table_.dtype == DType::f64 ? 0 : mean - double(float(mean));
  }
  const void* get(int row, int64_t i) const { return at(table_, row * period() + i); }

 private:
  Array table_;
};

// run(first element, n, index of the coefficients) or columns(first element, rows, index) for parts that cover all
// elements.
template <class Run, class Columns>
void for_elements(const Channels& k, const Coefficients& table, Run&& run, Columns&& columns) {
  if (k.inner) {
    int64_t rows = std::min(k.s, std::max<int64_t>(1, kGrain / k.c)), blocks = (k.s + rows - 1) / rows;
    parallel_for(k.n * blocks, std::max<int64_t>(1, kGrain / (rows * k.c)), [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        int64_t n = i / blocks, r = i % blocks * rows;
        columns((n * k.s + r) * k.c, std::min(rows, k.s - r), n * k.c % table.period());
      }
    });
    return;
  }
  int64_t piece = std::min(k.s, kPart), pieces = (k.s + piece - 1) / piece;
  parallel_for(k.planes() * pieces, std::max<int64_t>(1, kGrain / piece), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      int64_t plane = i / pieces, first = i % pieces * piece;
      run(plane * k.s + first, std::min(piece, k.s - first), plane % table.period());
    }
  });
}

// y = (x - m) scale + shift, with rows m, scale, shift of the table
Array normalize(const Array& x, const Channels& k, const Coefficients& t) {
  Array y = Array::empty_like(x);
  auto run = kernels().normalization.normalize_run[x.dtype];
  auto columns = kernels().normalization.normalize_columns[x.dtype];
  for_elements(
      k, t, [&](int64_t e, int64_t n, int64_t i) { run(at(x, e), at(y, e), n, t.get(0, i), t.get(1, i), t.get(2, i)); },
      [&](int64_t e, int64_t rows, int64_t i) {
        columns(at(x, e), at(y, e), rows, k.c, t.get(0, i), t.get(1, i), t.get(2, i));
      });
  return y;
}

// dx = a dy + b (x - m) + c, with rows m, a, b, c of the table
Array normalize_backward(const Array& x, const Array& dy, const Channels& k, const Coefficients& t) {
  Array dx = Array::empty_like(x);
  auto run = kernels().normalization.normalize_run_backward[x.dtype];
  auto columns = kernels().normalization.normalize_columns_backward[x.dtype];
  for_elements(
      k, t,
      [&](int64_t e, int64_t n, int64_t i) {
        run(at(x, e), at(dy, e), at(dx, e), n, t.get(0, i), t.get(1, i), t.get(2, i), t.get(3, i));
      },
      [&](int64_t e, int64_t rows, int64_t i) {
        columns(at(x, e), at(dy, e), at(dx, e), rows, k.c, t.get(0, i), t.get(1, i), t.get(2, i), t.get(3, i));
      });
  return dx;
}

// The affine part of a normalization whose statistic g = group(plane) belongs to a plane, for planes [0, period).
template <class Group>
Array apply(const Array& x, const Channels& k, int64_t period, const Array& mean, const Array& rstd,
            const MaybeArray& w, const MaybeArray& b, Group&& group) {
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
  return normalize(x, k, table);
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

// For each unit (a channel, or a channel of an image): the sums of dy and of dy (x - mean).
struct Sums {
  Array plain, product;
};
Sums gradient_sums(const Array& x, const Array& dy, const Channels& k, bool batch, const Coefficients& table,
                   const std::vector<double>& low) {
  auto& kernel = kernels().normalization;
  auto sum = [&] {
    if (k.inner) {
      auto f = kernel.column_gradient_sums[x.dtype];
      return sum_columns(k, [&](int64_t u, int64_t rows, int64_t columns, int64_t e, double* a, double* b) {
        f(at(x, e), at(dy, e), rows, k.c, columns, table.get(0, u), a, b);
      });
    }
    Runs runs = batch ? Runs{k.n, k.c * k.s, k.s} : Runs{1, 0, k.s};
    auto f = kernel.gradient_sums[x.dtype];
    return sum_runs(runs, batch ? k.c : k.planes(), k.s,
                    [&](int64_t u, const Runs& r, int64_t e, double* a, double* b) {
                      f(r, at(x, e), at(dy, e), table.get(0, u), a, b);
                    });
  };
  Parts parts = sum();
  Sums out{Array::zeros({parts.units}, DType::f64), Array::zeros({parts.units}, DType::f64)};
  double *plain = out.plain.as<double>(), *product = out.product.as<double>();
  parallel_for(parts.units, std::max<int64_t>(1, kGrain / (4 * parts.parts())), [&](int64_t begin, int64_t end) {
    for (int64_t p = 0; p < parts.parts(); ++p)
      for (int64_t u = begin; u < end; ++u) {
        plain[u] += *parts.a(p, u);
        product[u] += *parts.b(p, u);
      }
    for (int64_t u = begin; u < end; ++u) product[u] -= low[size_t(u)] * plain[u];
  });
  return out;
}

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

// ---- on a GPU ---------------------------------------------------------------------------------------------------

gpu::ChannelShape shape_on_gpu(const Channels& k, bool batch, int64_t width) {
  gpu::ChannelShape g{k.n, k.c, k.s, k.inner, batch, width, 1, 0};
  // Parts that a block reads twice from its caches, in whole accesses, but no more than 64 of them.
  const int64_t most = k.inner ? 512 : 8192, count = g.elements();
  g.part = std::max(most, (count + 63) / 64 + 15) / 16 * 16;
  g.parts = (count + g.part - 1) / g.part;
  return g;
}

void* pointer(const MaybeArray& a) { return a ? a->data : nullptr; }
Array doubles(int64_t n, const Array& x) { return Array::empty({n}, DType::f64, x.device()); }

Statistics moments_on_gpu(const char* op, const Array& x, const Channels& k, bool batch, int64_t width) {
  const gpu::ChannelShape g = shape_on_gpu(k, batch, width);
  Statistics s{doubles(g.units() / width, x), doubles(g.units() / width, x)};
  Array partial = doubles(2 * g.parts * g.units(), x);
  cuda::check(op, cuda::launchers().channel_moments(g, x.dtype, x.data, partial.as<double>(), s.mean.as<double>(),
                                                    s.variance.as<double>(), cuda::stream(x.device())));
  return s;
}

void update_running_on_gpu(const char* op, const MaybeArray& mean, const MaybeArray& var, const Statistics& s,
                           int64_t images, double count, double momentum) {
  if (!mean) return;
  auto update = [&](const Array& running, const Array& units, double factor) {
    cuda::check(op, cuda::launchers().channel_running(units.as<double>(), images, running.size(0), momentum, factor,
                                                      running.dtype, running.data, running.stride(0),
                                                      cuda::stream(running.device())));
    running.bump_version();
  };
  update(*mean, s.mean, 1);
  update(*var, s.variance, count / (count - 1));
}

Normalized normalize_on_gpu(const char* op, const Array& x, const Channels& k, bool batch, int64_t width,
                            const Statistics& s, double eps, const MaybeArray& w, const MaybeArray& b) {
  const gpu::ChannelShape g = shape_on_gpu(k, batch, width);
  Array y = Array::empty_like(x), rstd = doubles(g.units() / width, x);
  Array table = Array::empty({4 * g.units()}, compute_dtype(x.dtype), x.device());
  cuda::check(op, cuda::launchers().channel_normalize(g, x.dtype, x.data, y.data, s.mean.as<double>(),
                                                      s.variance.as<double>(), eps, pointer(w), pointer(b),
                                                      rstd.as<double>(), table.data, cuda::stream(x.device())));
  return {y, s.mean, rstd};
}

NormGradients backward_on_gpu(const char* op, const Array& x, const Array& dy, const Channels& k, bool batch,
                              int64_t width, bool training, const MaybeArray& w, const Array& mean, const Array& rstd,
                              DType parameters, bool need_input, bool need_weight, bool need_bias) {
  const gpu::ChannelShape g = shape_on_gpu(k, batch, width);
  MaybeArray dx, dw, db;
  if (need_input) dx = Array::empty_like(x);
  if (need_weight) dw = Array::empty({k.c}, parameters, x.device());
  if (need_bias) db = Array::empty({k.c}, parameters, x.device());
  Array partial = doubles(2 * (g.parts + 1) * g.units(), x);
  Array table = Array::empty({4 * g.units()}, compute_dtype(x.dtype), x.device());
  cuda::check(op, cuda::launchers().channel_normalize_backward(g, training, x.dtype, x.data, dy.data, pointer(dx),
                                                               pointer(w), mean.as<double>(), rstd.as<double>(),
                                                               partial.as<double>(), table.data, parameters,
                                                               pointer(dw), pointer(db), cuda::stream(x.device())));
  return {dx, dw, db};
}

Normalized group_forward(const char* op, const Array& input, int64_t groups, const MaybeArray& weight,
                         const MaybeArray& bias, double eps, const MaybeArray& running_mean,
                         const MaybeArray& running_var, double momentum) {
  Array x = input;
  Channels k = channels_of(x);
  MaybeArray w = parameter(op, "weight", weight, {k.c}, x.dtype), b = parameter(op, "bias", bias, {k.c}, x.dtype);
  if (x.numel() == 0) return {Array::empty_like(x), Array::empty({0}, DType::f64), Array::empty({0}, DType::f64)};
  const int64_t width = k.c / groups;
  Array exact = in_float64(x, width * k.s) ? astype(x, DType::f64) : x;
  if (x.on_cuda()) {
    Statistics s = moments_on_gpu(op, exact, k, false, width);
    update_running_on_gpu(op, running_mean, running_var, s, k.n, double(k.s), momentum);
    return normalize_on_gpu(op, x, k, false, width, s, eps, w, b);
  }
  Statistics s = moments(exact, k, false, width);
  Array rstd = inverse_root(s.variance, eps);
  update_running(running_mean, running_var, s, k.n, double(k.s), momentum);
  return {apply(x, k, k.planes(), s.mean, rstd, w, b, [&](int64_t i) { return i / width; }), s.mean, rstd};
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
  if (x.numel() == 0) return {Array::empty_like(x), Array::empty({0}, DType::f64), Array::empty({0}, DType::f64)};
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
  return {apply(x, k, channels, s.mean, rstd, w, b, [](int64_t i) { return i; }), s.mean, rstd};
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
  return {normalize(dy, k, table), dw, db};
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
