// Optimizer steps, each over all parameters in one call, and clipping and penalties of many tensors at once. Equations
// stand in python/fastnn/optim and python/fastnn/utils.py.
//
// Parameters are float32, bfloat16, float16 or float64, in any mix, shape and layout. Their state is float32 (float64
// for float64 parameters) and comes from optimizer_state(). Everything is checked before the first value is written.
#pragma once
#include <vector>

#include "../array.h"

namespace fastnn::ops {

using Arrays = std::vector<Array>;

// Zeros in the shape, layout and dtype that the state of `param` has.
Array optimizer_state(const Array& param);

// `momenta` is empty without momentum; `fresh` lists the parameters whose momentum holds nothing yet.
void sgd_step(const Arrays& params, const Arrays& grads, const Arrays& momenta, const std::vector<int64_t>& fresh,
              double lr, double momentum, double dampening, double weight_decay, bool nesterov, bool maximize);

// `max_exp_avg_sqs` is empty without amsgrad; `steps` are float32 scalars that count the steps made and are
// incremented. decoupled: the weight decay of AdamW.
void adam_step(const Arrays& params, const Arrays& grads, const Arrays& exp_avgs, const Arrays& exp_avg_sqs,
               const Arrays& max_exp_avg_sqs, const Arrays& steps, double lr, double beta1, double beta2, double eps,
               double weight_decay, bool decoupled, bool maximize);

// `grad_avgs` is empty unless the step is centered, `momenta` without momentum; `steps` are as in adam_step.
void rmsprop_step(const Arrays& params, const Arrays& grads, const Arrays& square_avgs, const Arrays& grad_avgs,
                  const Arrays& momenta, const Arrays& steps, double lr, double alpha, double eps, double weight_decay,
                  double momentum, bool maximize);

// `steps` are as in adam_step.
void adagrad_step(const Arrays& params, const Arrays& grads, const Arrays& sums, const Arrays& steps, double lr,
                  double lr_decay, double weight_decay, double eps, bool maximize);

void lion_step(const Arrays& params, const Arrays& grads, const Arrays& exp_avgs, double lr, double beta1, double beta2,
               double weight_decay, bool maximize);

// Scales the gradients so that their joint norm is at most max_norm; returns the norm before, a scalar, float64 if a
// gradient is, else float32. Throws std::runtime_error where it is not finite and error_if_nonfinite is set.
Array clip_grad_norm(const Arrays& grads, double max_norm, double norm_type, bool error_if_nonfinite);
void clip_grad_value(const Arrays& grads, double clip_value);

// weight sum |x|^p over all parameters, p 1 or 2, as a scalar of their common dtype.
Array penalty(const Arrays& params, double p, double weight);
Array penalty_backward(const Array& param, const Array& grad, double p, double weight);

}  // namespace fastnn::ops
