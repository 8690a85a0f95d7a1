#include "resample.h"

#include "../convert.h"
#include "../dispatch.h"
#include "../parallel.h"
#include "gemm.h"

namespace fastnn::ops {
namespace {

constexpr const char* kOp = "interpolate";

// The map of one axis.
struct Axis {
  int64_t in = 1, out = 1, taps = 1;
  std::vector<int32_t> index{0};
  std::vector<double> weight{1.0};

  Axis() = default;
  Axis(const Array& i, const Array& w, int64_t in_) : in(in_), out(i.size(1)), taps(i.size(0)) {
    Array at = i.contiguous(), values = w.contiguous();
    index.assign(at.as<int32_t>(), at.as<int32_t>() + at.numel());
    weight.assign(values.as<double>(), values.as<double>() + values.numel());
    for (int32_t v : index)
      require<IndexError>(v >= -1 && v < in, kOp, ": a tap has index ", v, "; expected -1 to ", in - 1);
  }
  int32_t at(int64_t tap, int64_t p) const { return index[size_t(tap * out + p)]; }
  double of(int64_t tap, int64_t p) const { return weight[size_t(tap * out + p)]; }
};

// The rows of the input that an output is made of, and their weights in the type S.
template <class S>
struct Taps {
  std::vector<int64_t> rows;
  std::vector<S> weights;

  void clear() {
    rows.clear();
    weights.clear();
  }
  void add(int64_t row, double weight) {
    rows.push_back(row);
    weights.push_back(S(weight));
  }
};

struct Problem {
  const Array &x, &y;
  const Axis &depth, &height, &width;
  int64_t images, channels;
};

// Rows of images are combined into one row of width.in, and its elements into the row of the output.
template <class S>
void run_rows(const Problem& p) {
  const EmbeddingKernels& kernel = kernels().embedding;
  const Axis &d = p.depth, &h = p.height, &w = p.width;
  const int64_t item = int64_t(size_of(p.x.dtype)), planes = p.images * p.channels;
  // The element after the row is 0, for taps that are none.
  std::vector<int32_t> index = w.index;
  for (int32_t& i : index) i = i < 0 ? int32_t(w.in) : i;
  std::vector<S> weights(w.weight.begin(), w.weight.end());
  parallel_for(planes * d.out * h.out, std::max<int64_t>(1, 8192 / (w.out * w.taps + w.in)),
               [&](int64_t begin, int64_t end) {
                 Taps<S> taps;
                 std::vector<S> row(size_t(w.in) + 1, S(0));
                 for (int64_t task = begin; task < end; ++task) {
                   const int64_t q = task % h.out, z = task / h.out % d.out, plane = task / (h.out * d.out);
                   taps.clear();
                   for (int64_t i = 0; i < d.taps; ++i)
                     for (int64_t j = 0; j < h.taps; ++j)
                       if (d.at(i, z) >= 0 && h.at(j, q) >= 0)
                         taps.add((plane * d.in + d.at(i, z)) * h.in + h.at(j, q), d.of(i, z) * h.of(j, q));
                   kernel.weighted_rows[p.x.dtype](p.x.data, w.in, taps.rows.data(), taps.weights.data(),
                                                   int64_t(taps.rows.size()), row.data(), w.in, true);
                   kernel.weighted_columns[p.x.dtype](row.data(), index.data(), weights.data(), int(w.taps), w.out,
                                                      p.y.data + task * w.out * item);
                 }
               });
}

// Pixels are rows of channels.
template <class S>
void run_pixels(const Problem& p) {
  auto kernel = kernels().embedding.weighted_rows[p.x.dtype];
  const Axis &h = p.height, &w = p.width;
  const int64_t item = int64_t(size_of(p.x.dtype));
  parallel_for(p.images * h.out, std::max<int64_t>(1, 8192 / (w.out * p.channels * w.taps * h.taps)),
               [&](int64_t begin, int64_t end) {
                 Taps<S> taps;
                 for (int64_t task = begin; task < end; ++task)
                   for (int64_t r = 0; r < w.out; ++r) {
                     const int64_t q = task % h.out, image = task / h.out;
                     taps.clear();
                     for (int64_t i = 0; i < h.taps; ++i)
                       for (int64_t j = 0; j < w.taps; ++j)
                         if (h.at(i, q) >= 0 && w.at(j, r) >= 0)
                           taps.add((image * h.in + h.at(i, q)) * w.in + w.at(j, r), h.of(i, q) * w.of(j, r));
                     kernel(p.x.data, p.channels, taps.rows.data(), taps.weights.data(), int64_t(taps.rows.size()),
                            p.y.data + (task * w.out + r) * p.channels * item, p.channels, false);
                   }
               });
}

}  // namespace

Array resample(const Array& x, const std::vector<Array>& index, const std::vector<Array>& weights) {
  const int rank = x.ndim();
  require<NotImplementedError>(is_float(x.dtype), kOp, ": input has dtype ", name(x.dtype),
                               "; expected float32, bfloat16, float16 or float64");
  require<ValueError>(rank >= 3 && rank <= 5 && int(index.size()) == rank - 2 && index.size() == weights.size(), kOp,
                      ": input has shape ", x.shape, "; expected (N, C, W), (N, C, H, W) or (N, C, D, H, W)");
  Axis axes[3];
  Dims shape = x.shape;
  for (int a = 0; a < rank - 2; ++a) {
    const Array &i = index[size_t(a)], &w = weights[size_t(a)];
    require<ValueError>(i.ndim() == 2 && i.shape == w.shape && i.dtype == DType::i32 && w.dtype == DType::f64, kOp,
                        ": taps have shapes ", i.shape, " and ", w.shape, "; expected (taps, out), int32 and float64");
    axes[5 - rank + a] = Axis(i, w, x.size(2 + a));
    shape[2 + a] = i.size(1);
  }
  const bool pixels = rank == 4 && x.is_channels_last();
  Array in = pixels ? x.channels_last() : x.contiguous();
  Array y = Array::empty(shape, x.dtype, x.device());
  if (pixels) y = Array::empty_channels_last(shape, x.dtype);
  if (y.numel() == 0) return y;
  const Problem p{in, y, axes[0], axes[1], axes[2], x.size(0), x.size(1)};
  if (x.dtype == DType::f64)
    pixels ? run_pixels<double>(p) : run_rows<double>(p);
  else
    pixels ? run_pixels<float>(p) : run_rows<float>(p);
  return y;
}

}  // namespace fastnn::ops
