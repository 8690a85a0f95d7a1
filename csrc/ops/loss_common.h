// What the losses share: reductions, sums in a fixed order, and 0-d results.
#pragma once
#include <algorithm>

#include "../array.h"
#include "../convert.h"
#include "../parallel.h"

namespace fastnn::ops {

enum class Reduction { none, mean, sum, batchmean };

inline Reduction parse_reduction(std::string_view op, std::string_view reduction) {
  if (reduction == "mean") return Reduction::mean;
  if (reduction == "sum") return Reduction::sum;
  if (reduction == "none") return Reduction::none;
  if (reduction == "batchmean" && op == "kl_div") return Reduction::batchmean;
  throw ValueError(message(op, ": reduction is '", reduction, "'; expected 'none', 'mean'",
                           op == "kl_div" ? ", 'batchmean'" : "", " or 'sum'"));
}

// The sum of f(begin, end) over blocks of [0, n), added in order: the same bits for any number of threads, because the
// blocks are a function of n and block alone.
template <class F>
double sum_blocks(int64_t n, int64_t block, F&& f) {
  if (n <= block) return n > 0 ? f(int64_t(0), n) : 0.0;
  int64_t blocks = (n + block - 1) / block;
  Scratch scratch(size_t(blocks) * sizeof(double));
  double* partial = scratch.as<double>();
  parallel_for(blocks, 1, [&](int64_t first, int64_t last) {
    for (int64_t b = first; b < last; ++b) partial[b] = f(b * block, std::min(n, (b + 1) * block));
  });
  double total = 0;
  for (int64_t b = 0; b < blocks; ++b) total += partial[b];
  return total;
}

// Calls f with a null pointer of the floating element type.
template <class F>
decltype(auto) visit_float(DType t, F&& f) {
  switch (t) {
    case DType::bf16:
      return f((bf16*)nullptr);
    case DType::f16:
      return f((f16*)nullptr);
    case DType::f64:
      return f((double*)nullptr);
    default:
      return f((float*)nullptr);
  }
}

inline Array scalar(double value, DType dtype) {
  Array a = Array::empty({}, dtype);
  visit_float(dtype, [&]<class T>(T*) { *a.as<T>() = convert<T>(value); });
  return a;
}
inline double first_value(const Array& a) {
  return visit_float(a.dtype, [&]<class T>(T*) { return convert<double>(*a.as<T>()); });
}

// ---- on a GPU ---------------------------------------------------------------------------------------------------

// Scratch memory for partial sums of a launcher.
inline Array partial_sums(Device device, int64_t times = 1) {
  return Array::empty({times * gpu::kPartials}, DType::f64, device);
}
inline double* numbers(const Array& a) { return a.storage ? a.as<double>() : nullptr; }

inline double sum_of(const Array& a) {
  Array c = a.contiguous();
  return visit_float(c.dtype, [&]<class T>(T*) {
    const T* p = c.as<T>();
    return sum_blocks(c.numel(), 16384, [&](int64_t begin, int64_t end) {
      double total = 0;
      for (int64_t i = begin; i < end; ++i) total += convert<double>(p[i]);
      return total;
    });
  });
}

inline void require_float(std::string_view op, const Array& x) {
  require<NotImplementedError>(is_float(x.dtype), op, ": input has dtype ", name(x.dtype),
                               "; expected float32, bfloat16, float16 or float64");
}
inline void require_dtype(std::string_view op, const char* argument, const Array& a, DType expected) {
  require<NotImplementedError>(a.dtype == expected, op, ": ", argument, " has dtype ", name(a.dtype), " and input ",
                               name(expected), "; expected the same dtype, convert one of them");
}
inline void require_gradient(std::string_view op, const Array& grad, const Dims& shape, DType dtype) {
  require<ValueError>(grad.shape == shape, op, ": gradient has shape ", grad.shape, "; expected ", shape);
  require_dtype(op, "gradient", grad, dtype);
}

}  // namespace fastnn::ops
