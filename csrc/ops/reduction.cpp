#include "reduction.h"

#include <algorithm>
#include <cstring>
#include <type_traits>

#include "../convert.h"
#include "../dispatch.h"
#include "../parallel.h"
#include "shape.h"

namespace fastnn::ops {
namespace {

// Which axes are reduced, as bits.
unsigned reduced_axes(const char* op, const Array& x, const Dims& dims) {
  if (dims.n == 0) return (1u << x.ndim()) - 1;
  unsigned bits = 0;
  for (int64_t d : dims) {
    int axis = normalize_dim(op, d, x.ndim());
    require<ValueError>(!(bits >> axis & 1), op, ": dim ", dims, " names dimension ", axis, " twice");
    bits |= 1u << axis;
  }
  return bits & ((1u << x.ndim()) - 1);
}

Dims kept_shape(const Array& x, unsigned reduced, bool keepdim) {
  Dims shape;
  for (int i = 0; i < x.ndim(); ++i)
    if (!(reduced >> i & 1))
      shape.push_back(x.size(i));
    else if (keepdim)
      shape.push_back(1);
  return shape;
}

int64_t reduced_count(const Array& x, unsigned reduced) {
  int64_t n = 1;
  for (int i = 0; i < x.ndim(); ++i)
    if (reduced >> i & 1) n *= x.size(i);
  return n;
}

// ---- sums of floating dtypes --------------------------------------------------------------------------------------

struct Group {  // neighbouring axes in memory, all reduced or all kept
  int64_t size;
  bool reduced;
};

// out[o] = sum over n of x[o, n]
void sum_rows(DType t, const char* x, int64_t outer, int64_t n, double* out) {
  constexpr int64_t kPiece = 65536;
  auto kernel = kernels().reduction.sum_row[t];
  size_t item = size_of(t);
  int64_t pieces = (n + kPiece - 1) / kPiece;
  if (pieces == 1) {
    parallel_for(outer, std::max<int64_t>(1, 32768 / n), [&](int64_t begin, int64_t end) {
      for (int64_t o = begin; o < end; ++o) out[o] = kernel(x + size_t(o * n) * item, n);
    });
    return;
  }
  Scratch scratch(size_t(outer * pieces) * sizeof(double));
  auto* part = scratch.as<double>();
  parallel_for(outer * pieces, 1, [&](int64_t begin, int64_t end) {
    for (int64_t u = begin; u < end; ++u) {
      int64_t o = u / pieces, first = u % pieces * kPiece;
      part[u] = kernel(x + size_t(o * n + first) * item, std::min(kPiece, n - first));
    }
  });
  for (int64_t o = 0; o < outer; ++o) {
    out[o] = 0;
    for (int64_t i = 0; i < pieces; ++i) out[o] += part[o * pieces + i];
  }
}

// out[o, c] = sum over n of x[o, n, c]
void sum_columns(DType t, const char* x, int64_t outer, int64_t n, int64_t inner, double* out) {
  constexpr int64_t kColumns = 1024;
  auto kernel = kernels().reduction.sum_columns[t];
  size_t item = size_of(t);
  // Pieces of rows that are worth a task, but at most 256 of them, since each needs a row of partial sums.
  int64_t rows = std::max((65536 / std::min(inner, kColumns) + 31) / 32 * 32, (n + 255) / 256);
  int64_t row_pieces = (n + rows - 1) / rows, column_pieces = (inner + kColumns - 1) / kColumns;
  Scratch scratch(row_pieces > 1 ? size_t(outer * row_pieces * inner) * sizeof(double) : 0);
  double* part = row_pieces > 1 ? scratch.as<double>() : out;
  int64_t work = std::min(rows, n) * std::min(inner, kColumns);
  parallel_for(outer * row_pieces * column_pieces, std::max<int64_t>(1, 32768 / work), [&](int64_t begin, int64_t end) {
    for (int64_t u = begin; u < end; ++u) {
      int64_t c = u % column_pieces * kColumns, r = u / column_pieces % row_pieces * rows;
      int64_t o = u / column_pieces / row_pieces, count = std::min(kColumns, inner - c);
      double* to = part + u / column_pieces * inner + c;
      std::memset(to, 0, size_t(count) * sizeof(double));
      kernel(x + size_t((o * n + r) * inner + c) * item, std::min(rows, n - r), inner, count, to);
    }
  });
  if (row_pieces == 1) return;
  parallel_for(outer * inner, std::max<int64_t>(1, 16384 / row_pieces), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const double* from = part + i / inner * row_pieces * inner + i % inner;
      double total = 0;
      for (int64_t r = 0; r < row_pieces; ++r) total += from[r * inner];
      out[i] = total;
    }
  });
}

template <class T>
void round_to(const double* from, double divisor, T* to, int64_t n) {
  parallel_for(n, 32768, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) to[i] = convert<T>(from[i] / divisor);
  });
}

// One reduced group after the other, the innermost first; out gets the sum over `divisor`.
void sum_on_device(Array now, Group* groups, int count, double divisor, const Array& out) {
  const gpu::Launchers& l = cuda::launchers();
  for (;;) {
    int last = count - 1, more = 0;
    while (last >= 0 && !groups[last].reduced) --last;
    for (int i = 0; i < last; ++i) more += int(groups[i].reduced);
    int64_t outer = 1, n = last < 0 ? 1 : groups[last].size, inner = 1, values;
    for (int i = 0; i < last; ++i) outer *= groups[i].size;
    for (int i = last + 1; i < count; ++i) inner *= groups[i].size;
    l.sum_scratch(outer, n, inner, &values);
    Array scratch = Array::empty({values}, DType::f64, out.device());
    Array to = more ? Array::empty({outer * inner}, is_float(out.dtype) ? DType::f64 : DType::i64, out.device()) : out;
    cuda::check("sum", l.sum(now.dtype, now.data, outer, n, inner, to.dtype, to.data, more ? 1 : divisor, scratch.data,
                             cuda::stream(out.device())));
    if (!more) return;
    for (int i = last; i + 1 < count; ++i) groups[i] = groups[i + 1];
    --count;
    now = to;
  }
}

Array sum_float(const Array& input, unsigned reduced, bool keepdim, double divisor) {
  Dims shape = kept_shape(input, reduced, keepdim);
  Array x = input.dense();
  int order[kMaxDims], n = 0;  // axes from the outermost in memory to the innermost
  for (int i = 0; i < x.ndim(); ++i) order[n++] = i;
  for (int i = 1; i < n; ++i)
    for (int j = i; j > 0 && x.stride(order[j - 1]) < x.stride(order[j]); --j) std::swap(order[j - 1], order[j]);

  Group groups[kMaxDims + 1];
  int count = 0;
  Dims strides = contiguous_strides(shape);
  int64_t run = 1;
  for (int i = n - 1; i >= 0; --i) {  // the result keeps the order in memory of the kept axes
    int axis = order[i];
    if (reduced >> axis & 1) continue;
    int at = axis;
    for (int k = 0; !keepdim && k < axis; ++k) at -= int(reduced >> k & 1);
    if (x.size(axis) != 1) strides[at] = run;
    run *= x.size(axis);
  }
  for (int i = 0; i < n; ++i) {
    bool r = reduced >> order[i] & 1;
    if (x.size(order[i]) == 1) continue;
    if (count && groups[count - 1].reduced == r)
      groups[count - 1].size *= x.size(order[i]);
    else
      groups[count++] = {x.size(order[i]), r};
  }
  Array out = Array::empty(shape, x.dtype, x.device()).view(shape, strides);
  if (out.numel() == 0) return out;
  if (out.on_cuda()) {
    bool empty = x.numel() == 0;
    if (empty) groups[0] = {out.numel(), false};
    sum_on_device(empty ? Array::zeros(shape, DType::f64, x.device()) : x, groups, empty ? 1 : count, divisor, out);
    return out;
  }
  auto finish = [&](const double* from) {
    visit(x.dtype, [&]<class T>(T*) { round_to(from, divisor, out.as<T>(), out.numel()); });
  };
  if (x.numel() == 0) {
    Array zero = Array::zeros(shape, DType::f64);
    finish(zero.as<double>());
    return out;
  }
  // One step per reduced group, the innermost first; what is left is in float64. A small sum is in float64 throughout:
  // there a rounding is seen and the time is not.
  constexpr int64_t kSmall = 1024;
  Array now = x.dtype == DType::f32 && x.numel() <= kSmall ? fastnn::astype(x, DType::f64) : x;
  for (;;) {
    int last = count - 1;
    while (last >= 0 && !groups[last].reduced) --last;
    if (last < 0) break;
    int64_t outer = 1, inner = 1;
    for (int i = 0; i < last; ++i) outer *= groups[i].size;
    for (int i = last + 1; i < count; ++i) inner *= groups[i].size;
    Array next = Array::empty({outer * inner}, DType::f64);
    if (inner == 1)
      sum_rows(now.dtype, now.data, outer, groups[last].size, next.as<double>());
    else
      sum_columns(now.dtype, now.data, outer, groups[last].size, inner, next.as<double>());
    for (int i = last; i + 1 < count; ++i) groups[i] = groups[i + 1];
    --count;
    now = next;
  }
  if (now.dtype != DType::f64) now = fastnn::astype(now, DType::f64);
  finish(now.as<double>());
  return out;
}

// ---- integers, extrema --------------------------------------------------------------------------------------------

// The reduced axes moved last and made contiguous: rows of n elements in the order of the kept axes.
Array rows_of(const Array& x, unsigned reduced) {
  Dims order;
  for (int i = 0; i < x.ndim(); ++i)
    if (!(reduced >> i & 1)) order.push_back(i);
  for (int i = 0; i < x.ndim(); ++i)
    if (reduced >> i & 1) order.push_back(i);
  return permute(x, order).contiguous();
}

Array sum_integer(const Array& x, unsigned reduced, bool keepdim) {
  int64_t n = reduced_count(x, reduced);
  if (n == 0) return Array::zeros(kept_shape(x, reduced, keepdim), DType::i64, x.device());
  Array out = Array::empty(kept_shape(x, reduced, keepdim), DType::i64, x.device()), in = rows_of(x, reduced);
  if (out.on_cuda()) {
    Group groups[2] = {{out.numel(), false}, {n, true}};
    if (out.numel()) sum_on_device(in, groups, 2, 1, out);
    return out;
  }
  visit(x.dtype, [&]<class T>(T*) {
    if constexpr (std::is_integral_v<T>) {
      parallel_for(out.numel(), std::max<int64_t>(1, 32768 / std::max<int64_t>(n, 1)), [&](int64_t begin, int64_t end) {
        for (int64_t o = begin; o < end; ++o) {
          uint64_t total = 0;  // wraps around, as numpy's and torch's sums do
          for (int64_t i = 0; i < n; ++i) total += uint64_t(in.as<T>()[o * n + i]);
          out.as<int64_t>()[o] = int64_t(total);
        }
      });
    }
  });
  return out;
}

template <class T>
T comparable(T v) {
  return v;
}
float comparable(bf16 v) { return to_float(v); }
float comparable(f16 v) { return to_float(v); }

template <bool largest, class V>
bool better(V v, V than) {
  return (largest ? v > than : v < than) || (v != v && than == than);
}

// x is (outer, n, inner), contiguous; values and index are (outer, inner), either may be null.
template <bool largest, class T>
void extremum(const T* x, int64_t outer, int64_t n, int64_t inner, T* values, int64_t* index) {
  parallel_for(outer * inner, std::max<int64_t>(1, 8192 / n), [&](int64_t begin, int64_t end) {
    for (int64_t u = begin; u < end; ++u) {
      const T* p = x + u / inner * n * inner + u % inner;
      int64_t at = 0;
      auto best = comparable(p[0]);
      for (int64_t i = 1; i < n; ++i)
        if (auto v = comparable(p[i * inner]); better<largest>(v, best)) {
          best = v;
          at = i;
        }
      if (values) values[u] = p[at * inner];
      if (index) index[u] = at;
    }
  });
}

template <bool largest>
Array extremum_over(const char* op, const Array& x, const Dims& dims, bool keepdim) {
  unsigned reduced = reduced_axes(op, x, dims);
  Array out = Array::empty(kept_shape(x, reduced, keepdim), x.dtype, x.device());
  int64_t n = reduced_count(x, reduced);
  if (out.numel() == 0) return out;
  require<ValueError>(n > 0, op, ": the tensor of shape ", x.shape, " has no elements to compare");
  Array in = rows_of(x, reduced);
  if (in.on_cuda()) {
    cuda::check(op, cuda::launchers().extremum(largest, x.dtype, in.data, out.numel(), n, 1, out.data, nullptr,
                                               cuda::stream(x.device())));
    return out;
  }
  visit(x.dtype, [&]<class T>(T*) { extremum<largest, T>(in.as<T>(), out.numel(), n, 1, out.as<T>(), nullptr); });
  return out;
}

template <bool largest>
std::tuple<Array, Array> extremum_along(const char* op, const Array& x, int64_t dim, bool keepdim) {
  int axis = normalize_dim(op, dim, x.ndim());
  unsigned reduced = x.ndim() ? 1u << axis : 0;
  Dims shape = kept_shape(x, reduced, keepdim);
  Array values = Array::empty(shape, x.dtype, x.device()), index = Array::empty(shape, DType::i64, x.device());
  Array in = x.contiguous();
  int64_t n = reduced_count(x, reduced), outer = 1, inner = 1;
  if (values.numel() == 0) return {values, index};
  require<ValueError>(n > 0, op, ": the tensor of shape ", x.shape, " has no elements along dimension ", axis);
  for (int i = 0; i < x.ndim(); ++i)
    if (i != axis) (i < axis ? outer : inner) *= x.size(i);
  if (in.on_cuda()) {
    cuda::check(op, cuda::launchers().extremum(largest, x.dtype, in.data, outer, n, inner, values.data,
                                               index.as<int64_t>(), cuda::stream(x.device())));
    return {values, index};
  }
  visit(x.dtype,
        [&]<class T>(T*) { extremum<largest, T>(in.as<T>(), outer, n, inner, values.as<T>(), index.as<int64_t>()); });
  return {values, index};
}

}  // namespace

Array sum(const Array& x, const Dims& dims, bool keepdim) {
  unsigned reduced = reduced_axes("sum", x, dims);
  return is_float(x.dtype) ? sum_float(x, reduced, keepdim, 1) : sum_integer(x, reduced, keepdim);
}

Array mean(const Array& x, const Dims& dims, bool keepdim) {
  require<NotImplementedError>(is_float(x.dtype), "mean: dtype ", name(x.dtype),
                               " is not supported; expected a floating dtype: convert with .float()");
  unsigned reduced = reduced_axes("mean", x, dims);
  return sum_float(x, reduced, keepdim, double(reduced_count(x, reduced)));
}

Array sum_to(const Array& x, const Dims& shape) {
  if (x.shape == shape) return x;
  int lead = x.ndim() - shape.n;
  Dims dims;
  for (int i = 0; i < x.ndim(); ++i) {
    bool fits = lead >= 0 && (i < lead || shape[i - lead] == 1 || shape[i - lead] == x.size(i));
    require<ValueError>(fits, "sum_to: shape ", x.shape, " was not broadcast from ", shape);
    if (i < lead || (shape[i - lead] == 1 && x.size(i) != 1)) dims.push_back(i);
  }
  require<ValueError>(lead >= 0, "sum_to: shape ", x.shape, " was not broadcast from ", shape);
  return dims.n ? sum(x, dims, true).reshape(shape) : x.reshape(shape);
}

Array amax(const Array& x, const Dims& dims, bool keepdim) { return extremum_over<true>("amax", x, dims, keepdim); }
Array amin(const Array& x, const Dims& dims, bool keepdim) { return extremum_over<false>("amin", x, dims, keepdim); }
std::tuple<Array, Array> max_along(const Array& x, int64_t dim, bool keepdim) {
  return extremum_along<true>("max", x, dim, keepdim);
}
std::tuple<Array, Array> min_along(const Array& x, int64_t dim, bool keepdim) {
  return extremum_along<false>("min", x, dim, keepdim);
}

}  // namespace fastnn::ops
