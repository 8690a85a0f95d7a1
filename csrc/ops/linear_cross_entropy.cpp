#include "linear_cross_entropy.h"

#include "../convert.h"
#include "../float_mode.h"
#include "cross_entropy_rows.h"
#include "gemm.h"

namespace fastnn::ops {
namespace {

constexpr const char* kOp = "linear_cross_entropy";
// Rows of logits at a time: they should stay in cache, but fewer than 256 make the products slow, and more than 64 MB
// is what the op is there to avoid. A function of the shapes only: the sums over blocks are in one order.
constexpr int64_t kBlockBytes = 8 << 20, kMostBytes = 64 << 20, kRows = 256, kFewestRows = 16;

struct Needs {
  bool input = false, weight = false, bias = false;
  bool any() const { return input || weight || bias; }
};

DType saved_type(DType dtype) { return dtype == DType::f16 ? DType::f32 : dtype; }

// to = from * factor, or added to it.
template <class T>
void convert_scaled(const T* from, float* to, int64_t n, double factor, bool add) {
  parallel_for(n, 16384, [&](int64_t begin, int64_t end) {
    const float f = float(factor);
    for (int64_t i = begin; i < end; ++i) to[i] = (add ? to[i] : 0.0f) + convert<float>(from[i]) * f;
  });
}

class LinearCrossEntropy {
 public:
  LinearCrossEntropy(const Array& input, const Array& weight, const std::optional<Array>& bias, const Array& target,
                     const std::optional<Array>& class_weight, int64_t ignore_index, std::string_view reduction,
                     double label_smoothing)
      : dtype_(input.dtype), weight_(weight) {
    require_float(kOp, input);
    require<ValueError>(weight.ndim() == 2, kOp, ": linear_weight has shape ", weight.shape,
                        "; expected (classes, features)");
    classes_ = weight.size(0), k_ = weight.size(1);
    require<ValueError>((input.ndim() == 1 || input.ndim() == 2) && input.shape.back() == k_, kOp, ": input has shape ",
                        input.shape, "; expected (N, ", k_, ") or (", k_, ",)");
    require_dtype(kOp, "linear_weight", weight, dtype_);
    x_ = input.ndim() == 1 ? input.view({1, k_}, {0, input.stride(0)}) : input;
    n_ = x_.size(0);
    if (bias) {
      require<ValueError>(bias->shape == Dims{classes_}, kOp, ": linear_bias has shape ", bias->shape, "; expected ",
                          Dims{classes_});
      require_dtype(kOp, "linear_bias", *bias, dtype_);
      bias_ = astype(bias->contiguous(), compute_type(dtype_));
    }
    Dims logits = input.ndim() == 1 ? Dims{classes_} : Dims{n_, classes_};
    target_ = read_target(kOp, logits, dtype_, target, class_weight, ignore_index, reduction, label_smoothing);
    loss_shape_ = input.ndim() == 1 ? Dims() : Dims{n_};
    const int64_t row = std::max<int64_t>(1, classes_ * item());
    block_ = std::max({std::min({n_, kRows, kMostBytes / row}), kBlockBytes / row, kFewestRows});
  }

  // The loss; gradients of what is needed times `row_grads`, one per row, if there are some.
  std::tuple<Array, LinearGradients> run(Needs needs, const Array* row_grads) {
    FlushSubnormals flush;
    // Divided by N float16 gradients of the logits would vanish: that comes last.
    const double boost =
        dtype_ == DType::f16 && target_.reduction == Reduction::mean ? double(std::max(n_, int64_t(1))) : 1;
    CrossEntropyRows rows = target_.arguments;
    rows.scale *= boost;
    const DType saved = saved_type(dtype_), wide = compute_type(dtype_);
    Array logits = Array::empty({std::min(block_, n_), classes_}, dtype_);
    Array gradient = needs.any() ? saved == dtype_ ? logits : Array::empty(logits.shape, saved) : Array();
    Array losses, dx, dw, db;
    if (target_.reduction == Reduction::none) losses = Array::zeros(loss_shape_, dtype_);
    if (needs.input) dx = Array::empty({n_, k_}, saved);
    if (needs.weight) dw = n_ ? Array::empty({classes_, k_}, wide) : Array::zeros({classes_, k_}, wide);
    if (needs.bias) db = Array::zeros({classes_}, wide);

    auto kernel = kernels().cross_entropy.cross_entropy_rows[dtype_];
    double total = 0;
    for (int64_t r = 0; r < n_; r += block_) {
      const int64_t m = std::min(block_, n_ - r);
      const Matrix x{x_.data + r * x_.stride(0) * item(), x_.stride(0), x_.stride(1)};
      Epilogue plus_bias;
      plus_bias.bias = bias_.data;
      gemm(dtype_, m, classes_, k_, x, {weight_.data, weight_.stride(1), weight_.stride(0)}, logits.data, classes_,
           plus_bias);
      CrossEntropyRows part = rows;
      part.x = logits.data;
      part.dx = gradient.data;
      if (rows.labels) part.labels = rows.labels + r;
      if (rows.probabilities) part.probabilities = at(rows.probabilities, r * classes_ * item());
      if (losses.data) part.losses = losses.data + r * item();
      total += sum_blocks(m, std::max<int64_t>(1, 16384 / std::max<int64_t>(1, classes_)),
                          [&](int64_t begin, int64_t end) { return kernel(part, begin, end); });
      if (!needs.any()) continue;
      finish_gradient(gradient, logits, m, row_grads, r);
      const Matrix g{logits.data, classes_, 1};
      if (needs.input) multiply_back(g, m, dx, r, boost);
      if (needs.weight) add_weight_gradient(g, m, x, dw, r > 0);
      if (needs.bias) add_columns(logits, m, db);
    }
    LinearGradients gradients;
    if (needs.input) std::get<0>(gradients) = dx.view(x_shape(), contiguous_strides(x_shape()));
    if (needs.weight) std::get<1>(gradients) = finish(dw, saved, 1 / boost);
    if (needs.bias) std::get<2>(gradients) = finish(db, saved, 1 / boost);
    Array loss = losses.data || target_.reduction == Reduction::none ? losses : scalar(total / target_.divisor, dtype_);
    return {std::move(loss), std::move(gradients)};
  }

 private:
  int64_t item() const { return int64_t(size_of(dtype_)); }
  Dims x_shape() const { return loss_shape_.n ? Dims{n_, k_} : Dims{k_}; }
  static const void* at(const void* p, int64_t bytes) { return static_cast<const char*>(p) + bytes; }

  // Rows of the logits' gradient, in `logits`, each times its own value of row_grads.
  void finish_gradient(const Array& gradient, const Array& logits, int64_t m, const Array* row_grads, int64_t r) {
    if (!row_grads && gradient.dtype == dtype_) return;
    auto kernel = kernels().cross_entropy.cross_entropy_scale[dtype_];
    const int64_t from = classes_ * int64_t(size_of(gradient.dtype)), to = classes_ * item();
    visit_float(dtype_, [&]<class T>(T*) {
      const T* factor = row_grads ? row_grads->as<T>() + r : nullptr;
      parallel_for(m, std::max<int64_t>(1, 16384 / std::max<int64_t>(1, classes_)), [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i)
          kernel(gradient.data + i * from, nullptr, factor ? convert<double>(factor[i]) : 1.0, logits.data + i * to,
                 classes_);
      });
    });
  }

  void multiply_back(Matrix g, int64_t m, Array& dx, int64_t r, double boost) {
    const Matrix w{weight_.data, weight_.stride(0), weight_.stride(1)};
    if (dx.dtype == dtype_) return gemm(dtype_, m, k_, classes_, g, w, dx.data + r * k_ * item(), k_, {});
    Scratch part(size_t(m * k_ * item()));
    gemm(dtype_, m, k_, classes_, g, w, part.as<char>(), k_, {});
    convert_scaled(part.as<f16>(), dx.as<float>() + r * k_, m * k_, 1 / boost, false);
  }

  void add_weight_gradient(Matrix g, int64_t m, Matrix x, Array& dw, bool add) {
    const Matrix g_t{g.data, g.col, g.row};
    Epilogue e;
    e.accumulate = add;
    if (dw.dtype == dtype_) return gemm(dtype_, classes_, k_, m, g_t, x, dw.data, k_, e);
    Scratch part(size_t(classes_ * k_ * item()));
    gemm(dtype_, classes_, k_, m, g_t, x, part.as<char>(), k_, {});
    visit_float(dtype_, [&]<class T>(T*) {
      if constexpr (sizeof(T) == 2) convert_scaled(part.as<T>(), dw.as<float>(), classes_ * k_, 1, add);
    });
  }

  void add_columns(const Array& logits, int64_t m, Array& db) {
    auto kernel = kernels().gemm.sum_rows[dtype_];
    constexpr int64_t kColumns = 256;
    const int64_t wide = int64_t(size_of(db.dtype));
    parallel_for(divide_up(classes_, kColumns), std::max<int64_t>(1, 65536 / (kColumns * m)),
                 [&](int64_t begin, int64_t end) {
                   const int64_t c = begin * kColumns, count = std::min(classes_, end * kColumns) - c;
                   kernel(logits.data + c * item(), m, classes_, count, db.data + c * wide);
                 });
  }

  static Array finish(const Array& sums, DType saved, double factor) {
    if (factor == 1) return astype(sums, saved);
    Array out = Array::empty(sums.shape, saved);
    convert_scaled(sums.as<float>(), out.as<float>(), sums.numel(), factor, false);
    return out;
  }

  DType dtype_;
  Array x_, weight_, bias_;
  CrossEntropyTarget target_;
  int64_t n_, k_, classes_, block_;
  Dims loss_shape_;
};

}  // namespace

Array linear_cross_entropy(const Array& input, const Array& weight, const std::optional<Array>& bias,
                           const Array& target, const std::optional<Array>& class_weight, int64_t ignore_index,
                           std::string_view reduction, double label_smoothing) {
  LinearCrossEntropy op(input, weight, bias, target, class_weight, ignore_index, reduction, label_smoothing);
  return std::get<0>(op.run({}, nullptr));
}

std::tuple<Array, LinearGradients> linear_cross_entropy_with_gradient(
    const Array& input, const Array& weight, const std::optional<Array>& bias, const Array& target,
    const std::optional<Array>& class_weight, int64_t ignore_index, std::string_view reduction, double label_smoothing,
    bool need_input, bool need_weight, bool need_bias) {
  LinearCrossEntropy op(input, weight, bias, target, class_weight, ignore_index, reduction, label_smoothing);
  return op.run({need_input, need_weight, need_bias}, nullptr);
}

LinearGradients linear_cross_entropy_backward(const Array& input, const Array& weight, const std::optional<Array>& bias,
                                              const Array& target, const std::optional<Array>& class_weight,
                                              int64_t ignore_index, double label_smoothing, const Array& grad,
                                              bool need_input, bool need_weight, bool need_bias) {
  LinearCrossEntropy op(input, weight, bias, target, class_weight, ignore_index, "none", label_smoothing);
  require_gradient(kOp, grad, input.ndim() == 1 ? Dims() : Dims{input.size(0)}, input.dtype);
  Array g = grad.contiguous();
  auto [dx, dw, db] = std::get<1>(op.run({need_input, need_weight, need_bias}, &g));
  auto finish = [&](std::optional<Array>& a) { return a ? std::optional(astype(*a, input.dtype)) : std::nullopt; };
  return {finish(dx), finish(dw), finish(db)};
}

}  // namespace fastnn::ops
