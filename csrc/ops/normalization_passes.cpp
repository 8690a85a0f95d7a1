#include <algorithm>

#include "../dispatch.h"
#include "../parallel.h"
#include "normalization_channels.h"

namespace fastnn::ops::detail {
namespace {

constexpr int64_t kGrain = 16384;   // elements; about 5 us
constexpr int64_t kPart = 32768;    // elements that one task sums, where a statistic has more than that
constexpr int64_t kLongRun = 1024;  // elements
constexpr int64_t kColumns = 1024;  // columns that one task sums

char* at(const Array& a, int64_t i) { return a.data + i * int64_t(size_of(a.dtype)); }

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
  // Long runs one by one and in the order of memory, which reads them faster.
  const int64_t together = r.n >= kLongRun ? 1 : kPart / r.n, groups = (r.count + together - 1) / together;
  Parts out(units, groups * pieces);
  auto runs_in = [&](int64_t part) { return std::min(together, r.count - part / pieces * together); };
  auto elements_in = [&](int64_t part) { return std::min(piece, r.n - part % pieces * piece); };
  for (int64_t p = 0; p < out.parts(); ++p) out.counts[size_t(p)] = runs_in(p) * elements_in(p);
  int64_t work = piece * std::min(together, r.count);
  parallel_for(units * out.parts(), std::max<int64_t>(1, kGrain / work), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      int64_t u = i % units, p = i / units;
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

}  // namespace

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

namespace {

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

}  // namespace

void normalize(const Array& x, const Array& y, const Channels& k, const Coefficients& t, bool past) {
  auto run = kernels().normalization.normalize_run[x.dtype];
  auto columns = kernels().normalization.normalize_columns[x.dtype];
  for_elements(
      k, t,
      [&](int64_t e, int64_t n, int64_t i) { run(at(x, e), at(y, e), n, t.get(0, i), t.get(1, i), t.get(2, i), past); },
      [&](int64_t e, int64_t rows, int64_t i) {
        columns(at(x, e), at(y, e), rows, k.c, t.get(0, i), t.get(1, i), t.get(2, i), past);
      });
}

Array normalize_backward(const Array& x, const Array& dy, const Channels& k, const Coefficients& t) {
  Array dx = Array::empty_like(x);
  const bool past = streams(dx, k.row());
  auto run = kernels().normalization.normalize_run_backward[x.dtype];
  auto columns = kernels().normalization.normalize_columns_backward[x.dtype];
  for_elements(
      k, t,
      [&](int64_t e, int64_t n, int64_t i) {
        run(at(x, e), at(dy, e), at(dx, e), n, t.get(0, i), t.get(1, i), t.get(2, i), t.get(3, i), past);
      },
      [&](int64_t e, int64_t rows, int64_t i) {
        columns(at(x, e), at(dy, e), at(dx, e), rows, k.c, t.get(0, i), t.get(1, i), t.get(2, i), t.get(3, i), past);
      });
  return dx;
}

// ---- gradients --------------------------------------------------------------------------------------------------

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

}  // namespace fastnn::ops::detail
