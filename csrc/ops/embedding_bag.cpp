#include "embedding_bag.h"

#include <cstring>

#include "../convert.h"
#include "../dispatch.h"
#include "../parallel.h"
#include "elementwise.h"
#include "embedding_common.h"
#include "gemm.h"

namespace fastnn::ops {
namespace {

constexpr const char* kOp = "embedding_bag";

enum class BagMode { sum, mean, max };

// The arguments, checked: indices, and the bounds of the bags.
struct Bags {
  BagMode mode;
  Array indices;
  std::vector<int64_t> bounds;  // of bags + 1
  std::optional<Array> sample;  // weight of each index, in the compute type
  int64_t rows, width, padding_idx;
  DType compute;

  Bags(const Array& weight, const Array& input, const Array& offsets, std::string_view mode_name,
       const std::optional<Array>& weights, bool include_last_offset, int64_t padding)
      : padding_idx(padding) {
    require<ValueError>(mode_name == "sum" || mode_name == "mean" || mode_name == "max", kOp, ": mode is '", mode_name,
                        "'; expected 'sum', 'mean' or 'max'");
    mode = mode_name == "sum" ? BagMode::sum : mode_name == "mean" ? BagMode::mean : BagMode::max;
    require<ValueError>(weight.ndim() == 2, kOp, ": weight has shape ", weight.shape,
                        "; expected (num_embeddings, embedding_dim)");
    require<NotImplementedError>(is_float(weight.dtype), kOp, ": weight has dtype ", name(weight.dtype),
                                 "; expected float32, bfloat16, float16 or float64");
    require<ValueError>(input.ndim() == 1 && offsets.ndim() == 1, kOp, ": input has shape ", input.shape,
                        " and offsets ", offsets.shape, "; expected one dimension in each");
    require<NotImplementedError>(offsets.dtype == DType::i64 || offsets.dtype == DType::i32, kOp,
                                 ": offsets has dtype ", name(offsets.dtype), "; expected int64 or int32");
    rows = weight.size(0);
    width = weight.size(1);
    compute = compute_type(weight.dtype);
    indices = checked_indices(kOp, input, rows);
    Array at = fastnn::astype(offsets, DType::i64).contiguous();
    bounds.assign(at.as<int64_t>(), at.as<int64_t>() + at.numel());
    require<ValueError>(!include_last_offset || !bounds.empty(), kOp,
                        ": offsets is empty; expected at least one with include_last_offset=True");
    const int64_t n = indices.numel();
    if (!include_last_offset) bounds.push_back(n);
    require<ValueError>(bounds.size() == 1 || bounds[0] == 0, kOp, ": offsets begins with ", bounds[0], "; expected 0");
    for (size_t b = 1; b < bounds.size(); ++b)
      require<ValueError>(bounds[b - 1] <= bounds[b] && bounds[b] <= n, kOp, ": offsets holds ", bounds[b - 1],
                          " and then ", bounds[b], "; expected rising offsets up to ", n, ", the size of input");
    if (weights) {
      require<NotImplementedError>(mode == BagMode::sum, kOp, ": per_sample_weights with mode '", mode_name,
                                   "'; expected mode 'sum'");
      require<ValueError>(weights->shape == input.shape, kOp, ": per_sample_weights has shape ", weights->shape,
                          " but input ", input.shape, "; expected one shape");
      require<TypeError>(weights->dtype == weight.dtype, kOp, ": per_sample_weights has dtype ", name(weights->dtype),
                         " but weight has ", name(weight.dtype), "; expected one dtype");
      sample = fastnn::astype(*weights, compute).contiguous();
    }
  }

  int64_t count() const { return int64_t(bounds.size()) - 1; }
  const int64_t* index() const { return indices.as<int64_t>(); }

  // Where bag b's indices but padding_idx stand, rising; `kept` is memory for them.
  void positions(int64_t b, std::vector<int64_t>& kept) const {
    kept.clear();
    for (int64_t i = bounds[size_t(b)]; i < bounds[size_t(b) + 1]; ++i)
      if (index()[i] != padding_idx) kept.push_back(i);
  }
};

template <class F>
void in_scalar(DType compute, F&& f) {
  compute == DType::f64 ? f(static_cast<double*>(nullptr)) : f(static_cast<float*>(nullptr));
}

template <class S>
void gather(const Array& from, const std::vector<int64_t>& at, char* to) {
  for (size_t i = 0; i < at.size(); ++i) reinterpret_cast<S*>(to)[i] = from.as<S>()[at[i]];
}

Array with_contiguous_rows(const Array& a) { return a.size(1) > 1 && a.stride(1) != 1 ? a.contiguous() : a; }

// Gradient of weight where each element of y is from one row.
Array max_backward(const Bags& bags, const Array& grad, const Array& from, DType dtype) {
  Array wide = Array::zeros({bags.rows, bags.width}, bags.compute), g = fastnn::astype(grad, bags.compute).contiguous();
  const int64_t* at = from.as<int64_t>();
  in_scalar(bags.compute, [&]<class S>(S*) {
    // Columns are shared out, so that each is summed in the order of bags.
    parallel_for(bags.width, 64, [&](int64_t begin, int64_t end) {
      for (int64_t b = 0; b < bags.count(); ++b)
        for (int64_t j = begin; j < end; ++j)
          if (int64_t row = at[b * bags.width + j]; row >= 0)
            wide.as<S>()[row * bags.width + j] += g.as<S>()[b * bags.width + j];
    });
  });
  return fastnn::astype(wide, dtype);
}

}  // namespace

std::tuple<Array, std::optional<Array>> embedding_bag(const Array& weight, const Array& input, const Array& offsets,
                                                      std::string_view mode,
                                                      const std::optional<Array>& per_sample_weights,
                                                      bool include_last_offset, int64_t padding_idx) {
  const Bags bags(weight, input, offsets, mode, per_sample_weights, include_last_offset, padding_idx);
  const bool max = bags.mode == BagMode::max;
  const int64_t item = int64_t(size_of(weight.dtype)), scalar = int64_t(size_of(bags.compute));
  Array table = with_contiguous_rows(weight), y = Array::empty({bags.count(), bags.width}, weight.dtype);
  std::optional<Array> from;
  if (max) from = Array::empty({bags.count(), bags.width}, DType::i64);
  if (y.numel() == 0) return {std::move(y), std::move(from)};
  const EmbeddingKernels& kernel = kernels().embedding;
  const int64_t each = std::max<int64_t>(1, bags.indices.numel() / bags.count()) * bags.width * item;
  parallel_for(bags.count(), std::max<int64_t>(1, kRowGrain / each), [&](int64_t begin, int64_t end) {
    std::vector<int64_t> at, rows;
    std::vector<char> memory;
    for (int64_t b = begin; b < end; ++b) {
      const int64_t first = bags.bounds[size_t(b)];
      const int64_t* row = bags.index() + first;
      int64_t n = bags.bounds[size_t(b) + 1] - first;
      if (bags.padding_idx >= 0 || bags.sample) {
        bags.positions(b, at);
        rows.clear();
        for (int64_t i : at) rows.push_back(bags.index()[i]);
        row = rows.data();
        n = int64_t(rows.size());
      }
      char* to = y.data + b * bags.width * item;
      if (max) {
        int64_t* source = from->as<int64_t>() + b * bags.width;
        if (!n) {
          std::memset(to, 0, size_t(bags.width * item));
          std::fill_n(source, bags.width, int64_t(-1));
          continue;
        }
        memory.resize(size_t(bags.width * scalar));
        kernel.max_of_rows[weight.dtype](table.data, table.stride(0), row, n, to, memory.data(), bags.width);
        in_scalar(bags.compute, [&]<class S>(S*) {
          for (int64_t j = 0; j < bags.width; ++j)
            source[j] = row[int64_t(reinterpret_cast<const S*>(memory.data())[j])];
        });
      } else if (bags.sample) {
        memory.resize(size_t(n * scalar));
        in_scalar(bags.compute, [&]<class S>(S*) { gather<S>(*bags.sample, at, memory.data()); });
        kernel.weighted_rows[weight.dtype](table.data, table.stride(0), row, memory.data(), n, to, bags.width, false);
      } else {
        const double scale = bags.mode == BagMode::mean && n ? 1 / double(n) : 1;
        kernel.sum_of_rows[weight.dtype](table.data, table.stride(0), row, n, scale, to, bags.width);
      }
    }
  });
  return {std::move(y), std::move(from)};
}

std::tuple<std::optional<Array>, std::optional<Array>> embedding_bag_backward(
    const Array& grad, const Array& weight, const Array& input, const Array& offsets, const std::optional<Array>& from,
    std::string_view mode, const std::optional<Array>& per_sample_weights, bool include_last_offset,
    int64_t padding_idx, bool scale_grad_by_freq, bool need_weight, bool need_per_sample_weights) {
  const Bags bags(weight, input, offsets, mode, per_sample_weights, include_last_offset, padding_idx);
  const int64_t item = int64_t(size_of(weight.dtype)), width = bags.width, all = bags.indices.numel();
  const int64_t n = bags.count() ? bags.bounds.back() : 0;  // indices that are in a bag
  const Dims expected{bags.count(), width};
  require<ValueError>(grad.shape == expected && grad.dtype == weight.dtype, kOp, "_backward: grad has shape ",
                      grad.shape, " and dtype ", name(grad.dtype), "; expected ", expected, " and ",
                      name(weight.dtype));
  if (bags.mode == BagMode::max) {
    require<ValueError>(from && from->shape == expected && from->dtype == DType::i64, kOp,
                        "_backward: the indices of the maxima are not what embedding_bag returned");
    return {max_backward(bags, grad, from->contiguous(), weight.dtype), std::nullopt};
  }
  Array g = grad.contiguous();
  // The bag of each position, and its share of that bag's result.
  std::vector<int64_t> bag(static_cast<size_t>(n), 0), kept;
  std::vector<double> share(size_t(n), 0);
  for (int64_t b = 0; b < bags.count(); ++b) {
    bags.positions(b, kept);
    for (int64_t i : kept) share[size_t(i)] = bags.mode == BagMode::mean ? 1 / double(kept.size()) : 1;
    std::fill(bag.begin() + bags.bounds[size_t(b)], bag.begin() + bags.bounds[size_t(b) + 1], b);
  }
  std::optional<Array> dw, ds;
  if (need_weight) {
    dw = Array::empty({bags.rows, width}, weight.dtype);
    IndexBuckets buckets(bags.index(), n, bags.rows);
    Array weights = Array::empty({n}, bags.compute);
    std::vector<int64_t> bag_of(static_cast<size_t>(n));
    in_scalar(bags.compute, [&]<class S>(S*) {
      for (int64_t r = 0; r < bags.rows; ++r) {
        const size_t first = size_t(buckets.begin[size_t(r)]), last = size_t(buckets.begin[size_t(r) + 1]);
        for (size_t k = first; k < last; ++k) {
          const size_t i = size_t(buckets.order[k]);
          double w = bags.sample ? share[i] * double(bags.sample->as<S>()[i]) : share[i];
          weights.as<S>()[k] = S(scale_grad_by_freq ? w / double(last - first) : w);
          bag_of[k] = bag[i];
        }
      }
    });
    const int64_t bytes = width * item, scalar = int64_t(size_of(bags.compute));
    auto kernel = kernels().embedding.weighted_rows[weight.dtype];
    if (dw->numel())
      parallel_for(bags.rows, std::max<int64_t>(1, kRowGrain / bytes), [&](int64_t begin, int64_t end) {
        for (int64_t r = begin; r < end; ++r) {
          const int64_t first = buckets.begin[size_t(r)], count = buckets.begin[size_t(r) + 1] - first;
          char* to = dw->data + r * bytes;
          if (count == 0 || r == padding_idx)
            std::memset(to, 0, size_t(bytes));
          else
            kernel(g.data, width, bag_of.data() + first, weights.data + first * scalar, count, to, width, false);
        }
      });
  }
  if (need_per_sample_weights && per_sample_weights) {
    Array table = with_contiguous_rows(weight), wide = Array::zeros({all}, bags.compute);
    auto kernel = kernels().attention.attention_dots[weight.dtype];
    const int64_t scalar = int64_t(size_of(bags.compute));
    parallel_for(n, std::max<int64_t>(1, kRowGrain / std::max<int64_t>(1, width * item)),
                 [&](int64_t begin, int64_t end) {
                   for (int64_t i = begin; i < end; ++i) {
                     char* to = wide.data + i * scalar;
                     if (share[size_t(i)] == 0)
                       std::memset(to, 0, size_t(scalar));
                     else
                       kernel(g.data + bag[size_t(i)] * width * item, width,
                              table.data + bags.index()[i] * table.stride(0) * item, width, 1, width, to);
                   }
                 });
    ds = fastnn::astype(wide, weight.dtype);
  }
  return {std::move(dw), std::move(ds)};
}

}  // namespace fastnn::ops
