#include "embedding.h"

#include <cmath>
#include <cstring>

#include "../convert.h"
#include "../dispatch.h"
#include "../parallel.h"
#include "elementwise.h"
#include "embedding_common.h"
#include "loss_common.h"

namespace fastnn::ops {
namespace {

void check_weight(const char* op, const Dims& shape) {
  require<ValueError>(shape.n == 2, op, ": weight has shape ", shape, "; expected (num_embeddings, embedding_dim)");
}

template <class T>
double norm(const T* row, int64_t step, int64_t n, double p) {
  double total = p == -INFINITY ? INFINITY : 0;
  for (int64_t i = 0; i < n; ++i) {
    double x = std::abs(convert<double>(row[i * step]));
    if (x != x) return x;
    if (p == INFINITY)
      total = std::max(total, x);
    else if (p == -INFINITY)
      total = std::min(total, x);
    else
      total += p == 0 ? double(x != 0) : p == 1 ? x : p == 2 ? x * x : std::pow(x, p);
  }
  if (std::isinf(p) || p == 0 || p == 1) return total;
  return p == 2 ? std::sqrt(total) : std::pow(total, 1 / p);
}

}  // namespace

Array checked_indices(const char* op, const Array& input, int64_t rows) {
  require<NotImplementedError>(input.dtype == DType::i64 || input.dtype == DType::i32, op, ": input has dtype ",
                               name(input.dtype), "; expected int64 or int32");
  Array indices = input.dtype == DType::i64 ? input.contiguous() : fastnn::astype(input, DType::i64).contiguous();
  Array host = indices;
  if (cuda::capturing()) return indices;  // the kernels read nothing outside of the table
  if (input.on_cuda() && indices.numel()) {
    Array summary = Array::empty({2}, DType::f64, input.device()), partial = partial_sums(input.device(), 2);
    // Nothing is ignored: with rows, 0 is a valid index.
    cuda::check(
        op, cuda::launchers().label_summary(DType::f32, indices.as<int64_t>(), nullptr, indices.numel(), rows, 0,
                                            partial.as<double>(), summary.as<double>(), cuda::stream(input.device())));
    if (rows && *fastnn::to_device(summary, Device()).as<double>() == 0) return indices;
    host = fastnn::to_device(indices, Device());
  }
  const int64_t* at = host.as<int64_t>();
  for (int64_t i = 0, n = host.numel(); i < n; ++i)
    require<IndexError>(at[i] >= 0 && at[i] < rows, op, ": input holds the index ", at[i], " but weight has ", rows,
                        " rows; expected 0 to ", rows - 1);
  return indices;
}

Array embedding(const Array& weight, const Array& input) {
  check_weight("embedding", weight.shape);
  Array indices = checked_indices("embedding", input, weight.size(0));
  Array table = weight.size(1) > 1 && weight.stride(1) != 1 ? weight.contiguous() : weight;
  Dims shape = input.shape;
  shape.push_back(weight.size(1));
  Array y = Array::empty(shape, weight.dtype, weight.device());
  const int64_t item = int64_t(size_of(weight.dtype)), bytes = weight.size(1) * item, step = table.stride(0) * item;
  if (bytes == 0) return y;
  if (weight.on_cuda()) {
    cuda::check("embedding",
                cuda::launchers().embedding(table.data, step, weight.size(0), indices.as<int64_t>(), indices.numel(),
                                            bytes, item, y.data, cuda::stream(weight.device())));
    return y;
  }
  const int64_t* at = indices.as<int64_t>();
  parallel_for(indices.numel(), std::max<int64_t>(1, kRowGrain / bytes), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) std::memcpy(y.data + i * bytes, table.data + at[i] * step, size_t(bytes));
  });
  return y;
}

Array embedding_backward(const Array& grad, const Array& input, const Dims& weight_shape, int64_t padding_idx,
                         bool scale_grad_by_freq) {
  check_weight("embedding_backward", weight_shape);
  require<NotImplementedError>(is_float(grad.dtype), "embedding_backward: grad has dtype ", name(grad.dtype),
                               "; expected float32, bfloat16, float16 or float64");
  const int64_t rows = weight_shape[0], width = weight_shape[1];
  Dims expected = input.shape;
  expected.push_back(width);
  require<ValueError>(grad.shape == expected, "embedding_backward: grad has shape ", grad.shape, "; expected ",
                      expected);
  Array indices = checked_indices("embedding_backward", input, rows), g = grad.contiguous();
  Array dw = Array::empty(weight_shape, grad.dtype, grad.device());
  if (dw.numel() == 0) return dw;
  if (grad.on_cuda()) {
    const int64_t n = indices.numel(), tiles = (n + gpu::kSortTile - 1) / gpu::kSortTile;
    Array sorted = Array::empty({4 * n}, DType::i64, grad.device()),
          bounds = Array::empty({2 * rows}, DType::i64, grad.device());
    Array counts = Array::empty({256 * tiles}, DType::i32, grad.device());
    cuda::check("embedding_backward", cuda::launchers().embedding_backward(
                                          grad.dtype, g.data, width, indices.as<int64_t>(), n, rows, padding_idx,
                                          scale_grad_by_freq, sorted.as<int64_t>(), counts.as<int>(),
                                          bounds.as<int64_t>(), dw.data, cuda::stream(grad.device())));
    return dw;
  }
  IndexBuckets buckets(indices.as<int64_t>(), indices.numel(), rows);
  const int64_t bytes = width * int64_t(size_of(grad.dtype));
  auto kernel = kernels().embedding.sum_of_rows[grad.dtype];
  parallel_for(rows, std::max<int64_t>(1, kRowGrain / bytes), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      const int64_t first = buckets.begin[size_t(r)], count = buckets.begin[size_t(r) + 1] - first;
      char* to = dw.data + r * bytes;
      if (count == 0 || r == padding_idx)
        std::memset(to, 0, size_t(bytes));
      else
        kernel(g.data, width, buckets.order.data() + first, count, scale_grad_by_freq ? 1.0 / double(count) : 1.0, to,
               width);
    }
  });
  return dw;
}

void embedding_renorm(const Array& weight, const Array& input, double max_norm, double norm_type) {
  check_weight("embedding_renorm", weight.shape);
  check_writable("embedding_renorm", weight);
  require<NotImplementedError>(is_float(weight.dtype), "embedding_renorm: weight has dtype ", name(weight.dtype),
                               "; expected float32, bfloat16, float16 or float64");
  const int64_t rows = weight.size(0), width = weight.size(1);
  Array indices = checked_indices("embedding_renorm", input, rows);
  std::vector<char> named(size_t(rows), 0);
  for (const int64_t *at = indices.as<int64_t>(), *end = at + indices.numel(); at != end; ++at) named[size_t(*at)] = 1;
  visit(weight.dtype, [&]<class T>(T*) {
    parallel_for(rows, std::max<int64_t>(1, 4096 / std::max<int64_t>(1, width)), [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) {
        if (!named[size_t(r)]) continue;
        T* row = weight.as<T>() + r * weight.stride(0);
        double size = norm(row, weight.stride(1), width, norm_type);
        if (!(size > max_norm)) continue;
        double scale = max_norm / (size + 1e-7);  // torch's
        for (int64_t j = 0; j < width; ++j) {
          T& x = row[j * weight.stride(1)];
          x = convert<T>(convert<double>(x) * scale);
        }
      }
    });
  });
  weight.bump_version();
}

}  // namespace fastnn::ops
