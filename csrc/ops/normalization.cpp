#include "normalization.h"

#include <algorithm>

#include "../dispatch.h"
#include "../float_mode.h"
#include "../parallel.h"

namespace fastnn::ops {
namespace detail {

void check_parameter(const char* op, const char* argument, const Array& a, const Dims& shape, DType t) {
  require<ValueError>(a.shape == shape, op, ": ", argument, " has shape ", a.shape, "; expected ", shape);
  require<NotImplementedError>(a.dtype == t || a.dtype == compute_dtype(t), op, ": ", argument, " has dtype ",
                               name(a.dtype), " and input ", name(t), "; expected ", name(t),
                               t == compute_dtype(t) ? "" : " or float32", ", convert one of them");
}

MaybeArray parameter(const char* op, const char* argument, const MaybeArray& a, const Dims& shape, DType t) {
  if (!a) return std::nullopt;
  check_parameter(op, argument, *a, shape, t);
  Array dense = a->contiguous();
  return dense.dtype == compute_dtype(t) ? dense : astype(dense, compute_dtype(t));
}

void check_normalization(const char* op, const Array& x, double eps) {
  require<NotImplementedError>(is_float(x.dtype), op, ": input has dtype ", name(x.dtype),
                               "; expected float32, bfloat16, float16 or float64");
  require<ValueError>(eps == eps, op, ": eps is NaN; expected a number");
}

void check_gradient(const char* op, const Array& dy, const Array& x) {
  require<ValueError>(dy.shape == x.shape && dy.dtype == x.dtype, op, ": gradient has shape ", dy.shape, " and dtype ",
                      name(dy.dtype), "; expected ", x.shape, " and ", name(x.dtype));
  require<NotImplementedError>(is_float(x.dtype), op, ": input has dtype ", name(x.dtype),
                               "; expected float32, bfloat16, float16 or float64");
}

void check_statistic(const char* op, const char* argument, const Array& a, int64_t count) {
  require<ValueError>(a.dtype == DType::f64 && a.is_contiguous() && a.numel() == count, op, ": ", argument,
                      " has shape ", a.shape, " and dtype ", name(a.dtype), "; expected ", count,
                      " float64 numbers, as the forward function returns them");
}

}  // namespace detail

namespace {

using namespace detail;

constexpr int64_t kGrain = 16384;  // elements; about 5 us
constexpr int64_t kWide = 4096;    // rows longer than this are summed over by columns
constexpr int64_t kColumns = 256;  // of a task then

// rows x n, row-major: the last shape.n dimensions are n.
struct Rows {
  int64_t rows, n;
};

Rows rows_of(const char* op, const Array& x, const Dims& shape) {
  require<ValueError>(shape.n > 0, op, ": normalized_shape is (); expected at least one dimension");
  bool fits = shape.n <= x.ndim();
  for (int i = 0; fits && i < shape.n; ++i) fits = shape[i] == x.size(x.ndim() - shape.n + i);
  require<ValueError>(fits, op, ": input has shape ", x.shape, "; expected one that ends with normalized_shape ",
                      shape);
  Rows r{1, 1};
  for (int i = 0; i < x.ndim(); ++i) (i < x.ndim() - shape.n ? r.rows : r.n) *= x.size(i);
  return r;
}

void* pointer(const MaybeArray& a) { return a ? a->data : nullptr; }
char* at(const Array& a, int64_t i) { return a.data + i * int64_t(size_of(a.dtype)); }

Normalized forward(const char* op, bool centered, const Array& x, const Dims& shape, const MaybeArray& weight,
                   const MaybeArray& bias, double eps) {
  FlushSubnormals flush;
  check_normalization(op, x, eps);
  auto [rows, n] = rows_of(op, x, shape);
  MaybeArray w = parameter(op, "weight", weight, shape, x.dtype), b = parameter(op, "bias", bias, shape, x.dtype);
  Array in = x.contiguous(), y = Array::empty(x.shape, x.dtype, x.device());
  const int64_t statistics = x.numel() ? rows : 0;
  Array mean = Array::empty({centered ? statistics : 0}, DType::f64, x.device());
  Array rstd = Array::empty({statistics}, DType::f64, x.device());
  if (statistics == 0) return {y, mean, rstd};
  if (x.on_cuda()) {
    cuda::check(
        op, cuda::launchers().normalize_rows(centered, x.dtype, in.data, y.data, rows, n, pointer(w), pointer(b), eps,
                                             mean.as<double>(), rstd.as<double>(), cuda::stream(x.device())));
    return {y, mean, rstd};
  }
  auto kernel = kernels().normalization.normalize_rows[x.dtype];
  const bool past = streams(y, n);
  parallel_for(rows, std::max<int64_t>(1, kGrain / n), [&, n = n](int64_t begin, int64_t end) {
    kernel(centered, at(in, begin * n), at(y, begin * n), end - begin, n, pointer(w), pointer(b), eps,
           centered ? mean.as<double>() + begin : nullptr, rstd.as<double>() + begin, past);
  });
  return {y, mean, rstd};
}

// Sums over `blocks` partial sums of n numbers, in order, rounded to `dtype`.
Array add_blocks(const double* partial, int64_t blocks, int64_t stride, const Dims& shape, DType dtype) {
  Array total = Array::empty(shape, DType::f64);
  double* out = total.as<double>();
  parallel_for(total.numel(), std::max<int64_t>(1, kGrain / blocks), [&](int64_t begin, int64_t end) {
    std::copy(partial + begin, partial + end, out + begin);
    for (int64_t b = 1; b < blocks; ++b)
      for (int64_t i = begin; i < end; ++i) out[i] += partial[b * stride + i];
  });
  return dtype == DType::f64 ? total : astype(total, dtype);
}

NormGradients backward(const char* op, bool centered, const Array& dy, const Array& x, const Dims& shape,
                       const MaybeArray& weight, const Array* mean, const Array& rstd, DType parameters,
                       bool need_input, bool need_weight, bool need_bias) {
  FlushSubnormals flush;
  check_gradient(op, dy, x);
  const Rows size = rows_of(op, x, shape);
  const int64_t rows = size.rows, n = size.n;
  MaybeArray w = parameter(op, "weight", weight, shape, x.dtype), dx, dw, db;
  if (centered) check_statistic(op, "mean", *mean, x.numel() ? rows : 0);
  check_statistic(op, "rstd", rstd, x.numel() ? rows : 0);
  if (need_input) dx = Array::empty(x.shape, x.dtype, x.device());
  if (x.numel() == 0) {
    if (need_weight) dw = Array::zeros(shape, parameters, x.device());
    if (need_bias) db = Array::zeros(shape, parameters, x.device());
    return {dx, dw, db};
  }
  Array in = x.contiguous(), g = dy.contiguous();
  if (x.on_cuda()) {
    if (need_weight) dw = Array::empty(shape, parameters, x.device());
    if (need_bias) db = Array::empty(shape, parameters, x.device());
    const int64_t wanted = int64_t(need_weight) + int64_t(need_bias);
    Array partial = Array::empty({wanted * gpu::norm_parts(n), n}, compute_dtype(x.dtype), x.device());
    cuda::check(op, cuda::launchers().normalize_rows_backward(centered, x.dtype, in.data, g.data, pointer(dx), rows, n,
                                                              pointer(w), centered ? mean->as<double>() : nullptr,
                                                              rstd.as<double>(), partial.data, parameters, pointer(dw),
                                                              pointer(db), cuda::stream(x.device())));
    return {dx, dw, db};
  }
  auto elements = kernels().normalization.normalize_rows_backward[x.dtype];
  const bool past = dx && streams(*dx, n);
  auto sums = kernels().normalization.normalize_rows_sums[x.dtype];
  auto means = [&](int64_t row) { return centered ? mean->as<double>() + row : nullptr; };
  auto rstds = [&](int64_t row) { return rstd.as<double>() + row; };
  auto rows_at = [&](int64_t first, int64_t count) {
    elements(centered, at(in, first * n), at(g, first * n), at(*dx, first * n), count, n, pointer(w), means(first),
             rstds(first), past);
  };
  const bool need_sums = need_weight || need_bias, wide = n > kWide;
  if (need_input && (wide || !need_sums))
    parallel_for(rows, std::max<int64_t>(1, kGrain / n),
                 [&](int64_t begin, int64_t end) { rows_at(begin, end - begin); });
  if (!need_sums) return {dx, dw, db};
  // Long rows: a task sums a few columns over all rows. Else: blocks of rows that are worth a task, at most 64 of them,
  // each with partial sums.
  const int64_t block = wide ? rows : std::max({(kGrain + n - 1) / n, (rows + 63) / 64, int64_t(16)});
  const int64_t blocks = (rows + block - 1) / block, columns = wide ? kColumns : n,
                pieces = (n + columns - 1) / columns;
  // So few rows at once that the sums over columns find them in L1 or L2.
  const int64_t tile = wide ? rows : std::clamp<int64_t>(16384 / n, 4, 32);
  const int64_t width = n * (int64_t(need_weight) + int64_t(need_bias));
  Array partial = Array::zeros({blocks, width}, DType::f64);
  double* dweight = need_weight ? partial.as<double>() : nullptr;
  double* dbias = need_bias ? partial.as<double>() + (need_weight ? n : 0) : nullptr;
  parallel_for(blocks * pieces, std::max<int64_t>(1, kGrain / (block * columns)), [&](int64_t begin, int64_t end) {
    for (int64_t k = begin; k < end; ++k) {
      int64_t last = std::min(rows, (k / pieces + 1) * block), c = k % pieces * columns,
              offset = k / pieces * width + c;
      for (int64_t r = k / pieces * block; r < last; r += tile) {
        int64_t count = std::min(tile, last - r);
        if (need_input && !wide) rows_at(r, count);
        sums(at(in, r * n + c), at(g, r * n + c), count, n, std::min(columns, n - c), means(r), rstds(r),
             dweight ? dweight + offset : nullptr, dbias ? dbias + offset : nullptr);
      }
    }
  });
  if (need_weight) dw = add_blocks(dweight, blocks, width, shape, parameters);
  if (need_bias) db = add_blocks(dbias, blocks, width, shape, parameters);
  return {dx, dw, db};
}

}  // namespace

Array layer_norm(const Array& x, const Dims& shape, const MaybeArray& weight, const MaybeArray& bias, double eps) {
  return std::get<0>(forward("layer_norm", true, x, shape, weight, bias, eps));
}
Normalized layer_norm_statistics(const Array& x, const Dims& shape, const MaybeArray& weight, const MaybeArray& bias,
                                 double eps) {
  return forward("layer_norm", true, x, shape, weight, bias, eps);
}
NormGradients layer_norm_backward(const Array& dy, const Array& x, const Dims& shape, const MaybeArray& weight,
                                  const Array& mean, const Array& rstd, DType parameters, bool need_input,
                                  bool need_weight, bool need_bias) {
  return backward("layer_norm_backward", true, dy, x, shape, weight, &mean, rstd, parameters, need_input, need_weight,
                  need_bias);
}

Array rms_norm(const Array& x, const Dims& shape, const MaybeArray& weight, double eps) {
  return std::get<0>(forward("rms_norm", false, x, shape, weight, std::nullopt, eps));
}
std::tuple<Array, Array> rms_norm_statistics(const Array& x, const Dims& shape, const MaybeArray& weight, double eps) {
  auto [y, mean, rstd] = forward("rms_norm", false, x, shape, weight, std::nullopt, eps);
  return {y, rstd};
}
std::tuple<MaybeArray, MaybeArray> rms_norm_backward(const Array& dy, const Array& x, const Dims& shape,
                                                     const MaybeArray& weight, const Array& rstd, bool need_input,
                                                     bool need_weight) {
  auto [dx, dw, db] = backward("rms_norm_backward", false, dy, x, shape, weight, nullptr, rstd,
                               weight ? weight->dtype : x.dtype, need_input, need_weight, false);
  return {dx, dw};
}

}  // namespace fastnn::ops
