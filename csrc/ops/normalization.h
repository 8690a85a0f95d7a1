// Normalization by a mean and a variance. Equations and shapes stand in python/fastnn/ops/normalization.py.
//
// Parameters (weight, bias, running statistics) have the dtype of the input, or float32 beside bfloat16 and float16.
// The functions _statistics return (output, mean, rstd) for the backward functions: float64, because a float32 mean of
// 1e4 would put an error of 5e-4 on values of size 1. Gradients of parameters have the dtype `parameters`.
#pragma once
#include <optional>
#include <tuple>

#include "../array.h"

namespace fastnn::ops {

using MaybeArray = std::optional<Array>;
using Normalized = std::tuple<Array, Array, Array>;
using NormGradients = std::tuple<MaybeArray, MaybeArray, MaybeArray>;  // of input, weight, bias

// Over the last dimensions, of sizes `shape`. normalization.cpp
Array layer_norm(const Array& x, const Dims& shape, const MaybeArray& weight, const MaybeArray& bias, double eps);
Normalized layer_norm_statistics(const Array& x, const Dims& shape, const MaybeArray& weight, const MaybeArray& bias,
                                 double eps);
NormGradients layer_norm_backward(const Array& dy, const Array& x, const Dims& shape, const MaybeArray& weight,
                                  const Array& mean, const Array& rstd, DType parameters, bool need_input,
                                  bool need_weight, bool need_bias);
Array rms_norm(const Array& x, const Dims& shape, const MaybeArray& weight, double eps);
std::tuple<Array, Array> rms_norm_statistics(const Array& x, const Dims& shape, const MaybeArray& weight, double eps);
std::tuple<MaybeArray, MaybeArray> rms_norm_backward(const Array& dy, const Array& x, const Dims& shape,
                                                     const MaybeArray& weight, const Array& rstd, bool need_input,
                                                     bool need_weight);

// Of (N, C, ...), in any layout with N outermost and C next to it or innermost, which the output keeps.
// normalization_channels.cpp
Array batch_norm(const Array& x, const MaybeArray& weight, const MaybeArray& bias, const MaybeArray& running_mean,
                 const MaybeArray& running_var, bool training, double momentum, double eps);
Normalized batch_norm_statistics(const Array& x, const MaybeArray& weight, const MaybeArray& bias,
                                 const MaybeArray& running_mean, const MaybeArray& running_var, bool training,
                                 double momentum, double eps);
NormGradients batch_norm_backward(const Array& dy, const Array& x, const MaybeArray& weight, const Array& mean,
                                  const Array& rstd, bool training, DType parameters, bool need_input, bool need_weight,
                                  bool need_bias);
Array group_norm(const Array& x, int64_t groups, const MaybeArray& weight, const MaybeArray& bias, double eps);
Normalized group_norm_statistics(const Array& x, int64_t groups, const MaybeArray& weight, const MaybeArray& bias,
                                 double eps);
NormGradients group_norm_backward(const Array& dy, const Array& x, int64_t groups, const MaybeArray& weight,
                                  const Array& mean, const Array& rstd, DType parameters, bool need_input,
                                  bool need_weight, bool need_bias);
Array instance_norm(const Array& x, const MaybeArray& weight, const MaybeArray& bias, const MaybeArray& running_mean,
                    const MaybeArray& running_var, double momentum, double eps);
Normalized instance_norm_statistics(const Array& x, const MaybeArray& weight, const MaybeArray& bias,
                                    const MaybeArray& running_mean, const MaybeArray& running_var, double momentum,
                                    double eps);

namespace detail {

inline DType compute_dtype(DType t) { return t == DType::f64 ? DType::f64 : DType::f32; }
inline double item(const Array& a, int64_t i) { return a.dtype == DType::f64 ? a.as<double>()[i] : a.as<float>()[i]; }

// Throws unless `a` may stand beside an input of dtype t: its dtype is t, or float32 where t has 16 bits.
void check_parameter(const char* op, const char* argument, const Array& a, const Dims& shape, DType t);
// The parameter, checked, contiguous and in the type of the arithmetic; none if it is not given.
MaybeArray parameter(const char* op, const char* argument, const MaybeArray& a, const Dims& shape, DType t);
void check_normalization(const char* op, const Array& x, double eps);
void check_gradient(const char* op, const Array& dy, const Array& x);
void check_statistic(const char* op, const char* argument, const Array& a, int64_t count);

}  // namespace detail
}  // namespace fastnn::ops
