// What batch, group and instance norm are made of: passes over (N, C, ...), on the CPU in normalization_passes.cpp and
// on a GPU in normalization_cuda.cpp. The ops stand in normalization_channels.cpp.
#pragma once
#include <vector>

#include "normalization.h"

namespace fastnn::ops::detail {

// A dense array in memory order: (n, c, s), or, `inner`, (n, s, c).
struct Channels {
  int64_t n, c, s;
  bool inner;
  int64_t planes() const { return n * c; }
  int64_t numel() const { return n * c * s; }
  int64_t row() const { return inner ? c : s; }
};

// Mean and biased variance of groups of neighbouring units, `width` each.
struct Statistics {
  Array mean, variance;
};

// One set of moments for each channel, or for each group of `width` channels of each image.
Statistics moments(const Array& x, const Channels& k, bool batch, int64_t width);

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
  const void* get(int row, int64_t i) const {
    return table_.data + (row * period() + i) * int64_t(size_of(table_.dtype));
  }

 private:
  Array table_;
};

// y = (x - m) scale + shift, with rows m, scale, shift of the table; y is stored past the caches if `past`.
void normalize(const Array& x, const Array& y, const Channels& k, const Coefficients& t, bool past);
// dx = a dy + b (x - m) + c, with rows m, a, b, c of the table
Array normalize_backward(const Array& x, const Array& dy, const Channels& k, const Coefficients& t);

// For each unit (a channel, or a channel of an image): the sums of dy and of dy (x - mean).
struct Sums {
  Array plain, product;
};
Sums gradient_sums(const Array& x, const Array& dy, const Channels& k, bool batch, const Coefficients& table,
                   const std::vector<double>& low);

// The same on a GPU: moments; the running statistics of `images` statistics of `count` elements for each channel;
// (y, mean, rstd); and the gradients.
Statistics moments_on_gpu(const char* op, const Array& x, const Channels& k, bool batch, int64_t width);
void update_running_on_gpu(const char* op, const MaybeArray& mean, const MaybeArray& var, const Statistics& s,
                           int64_t images, double count, double momentum);
Normalized normalize_on_gpu(const char* op, const Array& x, const Channels& k, bool batch, int64_t width,
                            const Statistics& s, double eps, const MaybeArray& w, const MaybeArray& b);
NormGradients backward_on_gpu(const char* op, const Array& x, const Array& dy, const Channels& k, bool batch,
                              int64_t width, bool training, const MaybeArray& w, const Array& mean, const Array& rstd,
                              DType parameters, bool need_input, bool need_weight, bool need_bias);

}  // namespace fastnn::ops::detail
