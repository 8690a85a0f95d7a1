#include "linear_cross_entropy.h"

#include "../convert.h"
#include "../float_mode.h"
#include "cross_entropy_rows.h"
#include "gemm.h"

namespace fastnn::ops {
namespace {

constexpr const char* kOp = "linear_cross_entropy";
// Rows of logits at a time: they should stay in cache, but fewer than 512 make the products slow, and more than 128 MB
// is what the op is there to avoid. A function of the shapes only: the sums over blocks are in one order.
constexpr int64_t kBlockBytes = 8 << 20, kMostBytes = 128 << 20, kRows = 512, kFewestRows = 16;

struct Needs {
  bool input = false, weight = false, bias = false;
  bool any() const { return input || weight || bias; }
};

// Itself where it has the dtype.
Array in_dtype(const Array& a, DType dtype) { return a.dtype == dtype ? a : astype(a, dtype); }

DType saved_type(DType dtype) { return dtype == DType::f16 ? DType::f32 : dtype; }

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
      bias_ = in_dtype(bias->contiguous(), compute_type(dtype_));
    }
    Dims logits = input.ndim() == 1 ? Dims{classes_} : Dims{n_, classes_};
    target_ = read_target(kOp, logits, dtype_, target, class_weight, ignore_index, reduction, label_smoothing);
    // Logits are never rounded to 16 bits: with them, all that their kernel reads.
    auto widen = [&](Array& a, const void*& p) {
      if (p) a = in_dtype(a, compute_type(dtype_)), p = a.data;
    };
    widen(target_.weight, target_.arguments.weight);
    widen(target_.values, target_.arguments.probabilities);
    loss_shape_ = input.ndim() == 1 ? Dims() : Dims{n_};
    const int64_t row = std::max<int64_t>(1, classes_ * int64_t(size_of(compute_type(dtype_))));
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
    Array logits = Array::empty({std::min(block_, n_), classes_}, wide), losses, dx, dw, db;
    if (target_.reduction == Reduction::none) losses = Array::zeros(loss_shape_, wide);
    if (needs.input) dx = Array::empty({n_, k_}, saved);
    if (needs.weight) dw = n_ ? Array::empty({classes_, k_}, wide) : Array::zeros({classes_, k_}, wide);
    if (needs.bias) db = Array::zeros({classes_}, wide);

    auto kernel = kernels().cross_entropy.cross_entropy_rows[wide];
    const int64_t wide_item = int64_t(size_of(wide));
    double total = 0;
    for (int64_t r = 0; r < n_; r += block_) {
      const int64_t m = std::min(block_, n_ - r);
      const Matrix x{x_.data + r * x_.stride(0) * item(), x_.stride(0), x_.stride(1)};
      gemm(dtype_, m, classes_, k_, x, {weight_.data, weight_.stride(1), weight_.stride(0)}, logits.data, classes_,
           {.bias = bias_.data, .wide = true});
      CrossEntropyRows part = rows;
      part.x = logits.data;
      part.dx = needs.any() ? logits.data : nullptr;
      if (rows.labels) part.labels = rows.labels + r;
      if (rows.probabilities) part.probabilities = at(rows.probabilities, r * classes_ * wide_item);
      if (losses.data) part.losses = losses.data + r * wide_item;
      total += sum_blocks(m, std::max<int64_t>(1, 16384 / std::max<int64_t>(1, classes_)),
                          [&](int64_t begin, int64_t end) { return kernel(part, begin, end); });
      if (!needs.any()) continue;
      Array gradient = logits.view({m, classes_}, {classes_, 1});
      if (row_grads)
        visit_float(dtype_, [&]<class T>(T*) {
          scale_rows(gradient, [factor = row_grads->as<T>() + r](int64_t i) { return convert<double>(factor[i]); });
        });
      if (needs.bias) add_columns(gradient, db);
      gradient = in_dtype(gradient, dtype_);
      const Matrix g{gradient.data, classes_, 1}, g_t{gradient.data, 1, classes_};
      if (needs.input)
        gemm(dtype_, m, k_, classes_, g, {weight_.data, weight_.stride(0), weight_.stride(1)},
             dx.data + r * k_ * int64_t(size_of(saved)), k_, {.wide = saved != dtype_});
      if (needs.weight) gemm(dtype_, classes_, k_, m, g_t, x, dw.data, k_, {.accumulate = r > 0, .wide = true});
    }
    if (boost != 1)
      for (Array* sums : {&dx, &dw, &db})
        if (sums->data) scale_rows(*sums, [&](int64_t) { return 1 / boost; });
    LinearGradients gradients;
    if (needs.input) std::get<0>(gradients) = dx.view(x_shape(), contiguous_strides(x_shape()));
    if (needs.weight) std::get<1>(gradients) = in_dtype(dw, saved);
    if (needs.bias) std::get<2>(gradients) = in_dtype(db, saved);
    const bool each = target_.reduction == Reduction::none;
    return {each ? in_dtype(losses, dtype_) : scalar(total / target_.divisor, dtype_), std::move(gradients)};
  }

 private:
  int64_t item() const { return int64_t(size_of(dtype_)); }
  Dims x_shape() const { return loss_shape_.n ? Dims{n_, k_} : Dims{k_}; }
  static const void* at(const void* p, int64_t bytes) { return static_cast<const char*>(p) + bytes; }

  // Row i of an array in the compute type, times factor(i).
  template <class F>
  static void scale_rows(const Array& a, F&& factor) {
    const int64_t rows = a.size(0), n = a.numel() / std::max<int64_t>(1, rows), bytes = n * int64_t(size_of(a.dtype));
    auto kernel = kernels().cross_entropy.cross_entropy_scale[a.dtype];
    parallel_for(rows, std::max<int64_t>(1, 16384 / std::max<int64_t>(1, n)), [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) kernel(a.data + i * bytes, nullptr, factor(i), a.data + i * bytes, n);
    });
  }

  // db += sums of the columns of a.
  static void add_columns(const Array& a, const Array& db) {
    auto kernel = kernels().gemm.sum_rows[a.dtype];
    constexpr int64_t kColumns = 256;
    const int64_t m = a.size(0), n = a.size(1), item = int64_t(size_of(a.dtype));
    parallel_for(divide_up(n, kColumns), std::max<int64_t>(1, 65536 / (kColumns * m)), [&](int64_t begin, int64_t end) {
      const int64_t c = begin * kColumns, count = std::min(n, end * kColumns) - c;
      kernel(a.data + c * item, m, n, count, db.data + c * item);
    });
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
  auto finish = [&](std::optional<Array>& a) { return a ? std::optional(in_dtype(*a, input.dtype)) : std::nullopt; };
  return {finish(dx), finish(dw), finish(db)};
}

}  // namespace fastnn::ops
