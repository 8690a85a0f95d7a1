// The Python module _C: types, and one line per op. No logic.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "dispatch.h"
#include "memory.h"
#include "ops/activation.h"
#include "ops/attention.h"
#include "ops/comparison.h"
#include "ops/conv2d.h"
#include "ops/cross_entropy.h"
#include "ops/dropout.h"
#include "ops/elementwise.h"
#include "ops/embedding.h"
#include "ops/embedding_bag.h"
#include "ops/linear_cross_entropy.h"
#include "ops/loss.h"
#include "ops/matmul.h"
#include "ops/normalization.h"
#include "ops/optimizer.h"
#include "ops/pooling.h"
#include "ops/probe.h"
#include "ops/quantized.h"
#include "ops/reduction.h"
#include "ops/resample.h"
#include "ops/rnn.h"
#include "ops/rotary.h"
#include "ops/shape.h"
#include "ops/softmax.h"
#include "parallel.h"
#include "python/fastcall.h"
#include "python/indexing.h"
#include "python/tape.h"
#include "python/torch.h"

namespace py = pybind11;
using namespace fastnn;
using python::add;
using python::Devices;

namespace {

py::object take(PyObject* o) {
  if (!o) throw py::error_already_set();
  return py::reinterpret_steal<py::object>(o);
}

void bind_ops(PyObject* m) {
  bool ok = true;
  // elementwise
  ok &= add<ops::clone, Devices::same>(m, "clone", "input");
  ok &= add<ops::astype, Devices::same>(m, "astype", "input, dtype");
  ok &= add<ops::assign, Devices::any>(m, "assign", "target, source");
  ok &= add<ops::may_overlap, Devices::same>(m, "may_overlap", "a, b");
  ok &= add<ops::to_device, Devices::any>(m, "to_device", "input, device");
  ok &= add<ops::empty>(m, "empty", "shape, dtype, device");
  ok &= add<ops::full>(m, "full", "shape, value, dtype, device");
  ok &= add<ops::fill, Devices::same>(m, "fill", "target, value");
  ok &= add<ops::arithmetic<Binary::add>, Devices::same>(m, "add", "input, other");
  ok &= add<ops::arithmetic<Binary::sub>, Devices::same>(m, "sub", "input, other");
  ok &= add<ops::arithmetic<Binary::mul>, Devices::same>(m, "mul", "input, other");
  ok &= add<ops::arithmetic<Binary::div>, Devices::same>(m, "div", "input, other");
  ok &= add<ops::arithmetic<Binary::pow>, Devices::same>(m, "pow", "input, exponent");
  ok &= add<ops::arithmetic<Binary::maximum>, Devices::same>(m, "maximum", "input, other");
  ok &= add<ops::arithmetic<Binary::minimum>, Devices::same>(m, "minimum", "input, other");
  ok &= add<ops::arithmetic<Binary::bit_and>, Devices::same>(m, "bitwise_and", "input, other");
  ok &= add<ops::arithmetic<Binary::bit_or>, Devices::same>(m, "bitwise_or", "input, other");
  ok &= add<ops::arithmetic<Binary::bit_xor>, Devices::same>(m, "bitwise_xor", "input, other");
  ok &= add<ops::arithmetic_in_place<Binary::add>, Devices::same>(m, "add_in_place", "target, other");
  ok &= add<ops::arithmetic_in_place<Binary::sub>, Devices::same>(m, "sub_in_place", "target, other");
  ok &= add<ops::arithmetic_in_place<Binary::mul>, Devices::same>(m, "mul_in_place", "target, other");
  ok &= add<ops::arithmetic_in_place<Binary::div>, Devices::same>(m, "div_in_place", "target, other");
  // comparison
  ok &= add<ops::compare<Comparison::eq>, Devices::same>(m, "eq", "input, other");
  ok &= add<ops::compare<Comparison::ne>, Devices::same>(m, "ne", "input, other");
  ok &= add<ops::compare<Comparison::lt>, Devices::same>(m, "lt", "input, other");
  ok &= add<ops::compare<Comparison::le>, Devices::same>(m, "le", "input, other");
  ok &= add<ops::compare<Comparison::gt>, Devices::same>(m, "gt", "input, other");
  ok &= add<ops::compare<Comparison::ge>, Devices::same>(m, "ge", "input, other");
  ok &= add<ops::where, Devices::same>(m, "where", "condition, input, other");
  // reduction
  ok &= add<ops::sum, Devices::same>(m, "sum", "input, dim, keepdim");
  ok &= add<ops::mean, Devices::same>(m, "mean", "input, dim, keepdim");
  ok &= add<ops::sum_to, Devices::same>(m, "sum_to", "input, shape");
  ok &= add<ops::amax, Devices::same>(m, "amax", "input, dim, keepdim");
  ok &= add<ops::amin, Devices::same>(m, "amin", "input, dim, keepdim");
  ok &= add<ops::max_along, Devices::same>(m, "max_along", "input, dim, keepdim");
  ok &= add<ops::min_along, Devices::same>(m, "min_along", "input, dim, keepdim");
  // shape
  ok &= add<ops::reshape, Devices::same>(m, "reshape", "input, shape");
  ok &= add<ops::view, Devices::same>(m, "view", "input, shape");
  ok &= add<ops::permute, Devices::same>(m, "permute", "input, dims");
  ok &= add<ops::transpose, Devices::same>(m, "transpose", "input, dim0, dim1");
  ok &= add<ops::expand, Devices::same>(m, "expand", "input, shape");
  ok &= add<ops::contiguous, Devices::same>(m, "contiguous", "input, channels_last");
  ok &= add<ops::concatenate, Devices::same>(m, "cat", "tensors, dim");
  // activation
  ok &= add<ops::activation, Devices::same>(m, "activation", "function, input, a, b");
  ok &= add<ops::activation_backward, Devices::same>(m, "activation_backward", "function, saved, grad, a, b");
  // pooling
  ok &= add<ops::is_channels_last, Devices::same>(m, "is_channels_last", "input");
  ok &=
      add<ops::max_pool2d, Devices::same>(m, "max_pool2d", "input, kernel_size, stride, padding, dilation, ceil_mode");
  ok &= add<ops::max_pool2d_positions, Devices::same>(m, "max_pool2d_positions",
                                                      "input, kernel_size, stride, padding, dilation, ceil_mode");
  ok &= add<ops::max_pool2d_indices, Devices::same>(
      m, "max_pool2d_indices",
      "position, input_shape, channels_last, kernel_size, stride, padding, dilation, ceil_mode");
  ok &= add<ops::max_pool2d_backward, Devices::same>(
      m, "max_pool2d_backward",
      "grad, position, input_shape, channels_last, kernel_size, stride, padding, dilation, ceil_mode");
  ok &= add<ops::adaptive_max_pool2d, Devices::same>(m, "adaptive_max_pool2d", "input, output_size");
  ok &=
      add<ops::adaptive_max_pool2d_positions, Devices::same>(m, "adaptive_max_pool2d_positions", "input, output_size");
  ok &= add<ops::adaptive_max_pool2d_indices, Devices::same>(m, "adaptive_max_pool2d_indices",
                                                             "position, input_shape, channels_last, output_size");
  ok &= add<ops::adaptive_max_pool2d_backward, Devices::same>(
      m, "adaptive_max_pool2d_backward", "grad, position, input_shape, channels_last, output_size");
  ok &= add<ops::avg_pool2d, Devices::same>(
      m, "avg_pool2d", "input, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override");
  ok &= add<ops::avg_pool2d_backward, Devices::same>(
      m, "avg_pool2d_backward",
      "grad, input_shape, channels_last, kernel_size, stride, padding, ceil_mode, "
      "count_include_pad, divisor_override");
  ok &= add<ops::adaptive_avg_pool2d, Devices::same>(m, "adaptive_avg_pool2d", "input, output_size");
  ok &= add<ops::adaptive_avg_pool2d_backward, Devices::same>(m, "adaptive_avg_pool2d_backward",
                                                              "grad, input_shape, channels_last, output_size");
  // softmax
  ok &= add<ops::softmax, Devices::same>(m, "softmax", "input, dim");
  ok &= add<ops::softmax_backward, Devices::same>(m, "softmax_backward", "output, grad, dim");
  ok &= add<ops::log_softmax, Devices::same>(m, "log_softmax", "input, dim");
  ok &= add<ops::log_softmax_backward, Devices::same>(m, "log_softmax_backward", "output, grad, dim");
  // normalization
  ok &= add<ops::layer_norm, Devices::same>(m, "layer_norm", "input, normalized_shape, weight, bias, eps");
  ok &= add<ops::layer_norm_statistics, Devices::same>(m, "layer_norm_statistics",
                                                       "input, normalized_shape, weight, bias, eps");
  ok &= add<ops::layer_norm_backward, Devices::same>(
      m, "layer_norm_backward",
      "grad, input, normalized_shape, weight, mean, rstd, parameter_dtype, need_input, "
      "need_weight, need_bias");
  ok &= add<ops::rms_norm, Devices::same>(m, "rms_norm", "input, normalized_shape, weight, eps");
  ok &= add<ops::rms_norm_statistics, Devices::same>(m, "rms_norm_statistics", "input, normalized_shape, weight, eps");
  ok &= add<ops::rms_norm_backward, Devices::same>(
      m, "rms_norm_backward", "grad, input, normalized_shape, weight, rstd, need_input, need_weight");
  ok &= add<ops::batch_norm, Devices::same>(m, "batch_norm",
                                            "input, weight, bias, running_mean, running_var, training, momentum, eps");
  ok &= add<ops::batch_norm_statistics, Devices::same>(
      m, "batch_norm_statistics", "input, weight, bias, running_mean, running_var, training, momentum, eps");
  ok &= add<ops::batch_norm_backward, Devices::same>(
      m, "batch_norm_backward",
      "grad, input, weight, mean, rstd, training, parameter_dtype, need_input, "
      "need_weight, need_bias");
  ok &= add<ops::group_norm, Devices::same>(m, "group_norm", "input, num_groups, weight, bias, eps");
  ok &= add<ops::group_norm_statistics, Devices::same>(m, "group_norm_statistics",
                                                       "input, num_groups, weight, bias, eps");
  ok &= add<ops::group_norm_backward, Devices::same>(
      m, "group_norm_backward",
      "grad, input, num_groups, weight, mean, rstd, parameter_dtype, need_input, "
      "need_weight, need_bias");
  ok &= add<ops::instance_norm, Devices::same>(m, "instance_norm",
                                               "input, weight, bias, running_mean, running_var, momentum, eps");
  ok &= add<ops::instance_norm_statistics, Devices::same>(
      m, "instance_norm_statistics", "input, weight, bias, running_mean, running_var, momentum, eps");
  // loss
  ok &= add<ops::pointwise_loss, Devices::same>(m, "pointwise_loss",
                                                "loss, input, target, weight, pos_weight, reduction, a");
  ok &= add<ops::pointwise_loss_backward, Devices::same>(
      m, "pointwise_loss_backward",
      "loss, input, target, weight, pos_weight, reduction, a, grad, needs_input, "
      "needs_target");
  ok &= add<ops::cross_entropy, Devices::same>(m, "cross_entropy",
                                               "input, target, weight, ignore_index, reduction, label_smoothing");
  ok &= add<ops::cross_entropy_with_gradient, Devices::same>(
      m, "cross_entropy_with_gradient",
      "input, target, weight, ignore_index, reduction, label_smoothing, "
      "needs_input, needs_target");
  ok &= add<ops::cross_entropy_backward, Devices::same>(m, "cross_entropy_backward", "saved, grad");
  ok &= add<ops::linear_cross_entropy>(m, "linear_cross_entropy",
                                       "input, linear_weight, linear_bias, target, weight, ignore_index, reduction, "
                                       "label_smoothing");
  ok &= add<ops::linear_cross_entropy_with_gradient>(m, "linear_cross_entropy_with_gradient",
                                                     "input, linear_weight, linear_bias, target, weight, ignore_index, "
                                                     "reduction, label_smoothing, need_input, need_weight, need_bias");
  ok &= add<ops::linear_cross_entropy_backward>(m, "linear_cross_entropy_backward",
                                                "input, linear_weight, linear_bias, target, weight, ignore_index, "
                                                "label_smoothing, grad, need_input, need_weight, need_bias");
  ok &= add<ops::nll_loss, Devices::same>(m, "nll_loss", "input, target, weight, ignore_index, reduction");
  ok &= add<ops::nll_loss_backward, Devices::same>(m, "nll_loss_backward",
                                                   "input, target, weight, ignore_index, reduction, grad");
  // dropout
  ok &= add<ops::dropout, Devices::same>(m, "dropout", "input, p, seed, offset");
  ok &= add<ops::dropout_backward, Devices::same>(m, "dropout_backward", "grad, p, seed, offset, channels_last");
  ok &= add<ops::philox_words>(m, "philox_words", "group, offset, seed");
  // embedding
  ok &= add<ops::embedding, Devices::same>(m, "embedding", "weight, input");
  ok &= add<ops::embedding_backward, Devices::same>(m, "embedding_backward",
                                                    "grad, input, weight_shape, padding_idx, scale_grad_by_freq");
  ok &= add<ops::embedding_renorm>(m, "embedding_renorm", "weight, input, max_norm, norm_type");
  ok &= add<ops::embedding_bag>(m, "embedding_bag",
                                "weight, input, offsets, mode, per_sample_weights, include_last_offset, padding_idx");
  ok &= add<ops::embedding_bag_backward>(
      m, "embedding_bag_backward",
      "grad, weight, input, offsets, maxima, mode, per_sample_weights, include_last_offset, padding_idx, "
      "scale_grad_by_freq, need_weight, need_per_sample_weights");
  ok &= add<ops::resample>(m, "resample", "input, index, weights");
  // attention
  ok &= add<ops::attention, Devices::same>(m, "attention",
                                           "query, key, value, attn_mask, is_causal, scale, dropout_p, seed, offset, "
                                           "softcap, left, right");
  ok &= add<ops::attention_backward, Devices::same>(
      m, "attention_backward",
      "grad, query, key, value, attn_mask, output, log_sum, is_causal, scale, dropout_p, "
      "seed, offset, softcap, left, right, need_query, need_key_value, need_mask");
  ok &= add<ops::rotary_embedding>(m, "rotary_embedding", "input, cos, sin, interleaved, inverse");
  // matmul
  ok &= add<ops::matmul, Devices::same>(m, "matmul", "input, other");
  ok &= add<ops::linear, Devices::same>(m, "linear", "input, weight, bias, activation, residual");
  ok &= add<ops::linear_backward, Devices::same>(m, "linear_backward",
                                                 "grad, input, weight, need_input, need_weight, need_bias");
  ok &= add<ops::int_mm>(m, "int_mm", "input, other");
  ok &= add<ops::linear_int8>(m, "linear_int8",
                              "input, weight, input_scale, input_zero_point, weight_scale, bias, activation, "
                              "output_scale, output_zero_point");
  // conv2d
  ok &= add<ops::conv2d, Devices::same>(m, "conv2d",
                                        "input, weight, bias, stride, padding, dilation, groups, activation, residual");
  ok &= add<ops::conv2d_pool, Devices::same>(
      m, "conv2d_pool", "input, weight, bias, stride, padding, dilation, groups, activation, need_positions");
  ok &= add<ops::conv2d_backward, Devices::same>(
      m, "conv2d_backward",
      "grad, input, weight, stride, padding, dilation, groups, need_input, need_weight, need_bias");
  // rnn
  ok &= add<ops::rnn_layer>(m, "rnn_layer", "cell, input, h0, c0, weight_ih, weight_hh, bias_ih, bias_hh, reverse");
  ok &= add<ops::rnn_layer_backward>(
      m, "rnn_layer_backward",
      "cell, grad, grad_h, grad_c, input, weight_ih, weight_hh, h, c, gates, hidden_term, reverse, needs");
  // optimizer
  ok &= add<ops::optimizer_state, Devices::same>(m, "optimizer_state", "param");
  ok &= add<ops::sgd_step, Devices::any>(
      m, "sgd_step", "params, grads, momenta, fresh, lr, momentum, dampening, weight_decay, nesterov, maximize");
  ok &= add<ops::adam_step, Devices::any>(
      m, "adam_step",
      "params, grads, exp_avgs, exp_avg_sqs, max_exp_avg_sqs, steps, lr, beta1, beta2, eps, "
      "weight_decay, decoupled, maximize");
  ok &= add<ops::rmsprop_step, Devices::any>(
      m, "rmsprop_step",
      "params, grads, square_avgs, grad_avgs, momenta, steps, lr, alpha, eps, weight_decay, "
      "momentum, maximize");
  ok &= add<ops::adagrad_step, Devices::any>(m, "adagrad_step",
                                             "params, grads, sums, steps, lr, lr_decay, weight_decay, eps, maximize");
  ok &= add<ops::lion_step, Devices::any>(m, "lion_step",
                                          "params, grads, exp_avgs, lr, beta1, beta2, weight_decay, maximize");
  ok &= add<ops::clip_grad_norm, Devices::same>(m, "clip_grad_norm", "grads, max_norm, norm_type, error_if_nonfinite");
  ok &= add<ops::clip_grad_value, Devices::same>(m, "clip_grad_value", "grads, clip_value");
  ok &= add<ops::penalty, Devices::same>(m, "penalty", "params, p, weight");
  ok &= add<ops::penalty_backward, Devices::same>(m, "penalty_backward", "param, grad, p, weight");
  // probe
  ok &= add<ops::probe_fma>(m, "probe_fma", "dtype, seconds");
  ok &= add<ops::probe_read>(m, "probe_read", "bytes, seconds");
  ok &= add<ops::probe_copy>(m, "probe_copy", "bytes, seconds");
  if (!ok) throw py::error_already_set();
}

void bind_runtime(py::module_& m) {
  m.attr("compiler") = FASTNN_COMPILER;
  m.attr("cuda_build") = FASTNN_CUDA_BUILD;      // what made the GPU kernels, or ""
  m.attr("cuda_missing") = FASTNN_CUDA_MISSING;  // why there are none
  m.def("set_num_threads", &set_num_threads);
  m.def("get_num_threads", &num_threads);
  m.def("set_isa", &set_isa);
  m.def("get_isa", [] { return kIsaNames[current_isa()]; });
  m.def(
      "set_precision", &set_precision,
      "\"fast\" (the default) lets ops use faster algorithms that round more: Winograd's F(4x4, 3x3) for float32 3x3\n"
      "convolutions of stride 1, with up to about twice the error; where an input is not finite, further outputs\n"
      "near it may be NaN. \"tf32\" also lets GPUs round float32 operands of matrix products and convolutions to 10\n"
      "bits of mantissa, for tensor cores. \"exact\" keeps to direct sums. Holds for all threads of the process.\n"
      "ValueError for another name.");
  m.def("get_precision", &precision, "The precision in use: \"fast\", \"exact\" or \"tf32\"; see set_precision.");
  m.def("available_isas", [] {
    std::vector<const char*> names;
    for (Isa isa : available_isas()) names.push_back(kIsaNames[isa]);
    return names;
  });
  m.def("built_isas", [] {
    std::vector<const char*> names;
    for (int i = 0; i < kIsas; ++i)
      if (built(Isa(i))) names.push_back(kIsaNames[i]);
    return names;
  });
  m.def("kernel_rows", [] {
    py::list rows;
    for (const KernelRow& r : kernel_rows()) rows.append(py::make_tuple(r.family, r.name));
    return rows;
  });
  m.def("memory_stats", [] {
    MemoryStats s = memory_stats();
    py::dict d;
    d["in_use"] = s.in_use;
    d["idle"] = s.idle;
    d["peak"] = s.peak;
    d["limit"] = s.limit;
    d["hits"] = s.hits;
    d["requests"] = s.requests;
    return d;
  });
  m.def("empty_cache", [] {
    empty_cache();
    cuda::empty_cache();
  });
  m.def("set_cache_limit", &set_cache_limit);
}

void bind_cuda(py::module_& m) {
  m.def("load_cuda", &cuda::load, "Opens the library of GPU kernels at this path. RuntimeError where it is no use.");
  m.def("cuda_loaded", &cuda::loaded);
  m.def("cuda_device_count", &cuda::device_count, "GPUs that can be used; 0 where no library is loaded.");
  m.def("cuda_emulated", &cuda::emulated);
  m.def("cuda_info", [](int index) {
    const gpu::DeviceInfo& i = cuda::info(index);
    py::dict d;
    d["name"] = i.name;
    d["capability"] = py::make_tuple(i.major, i.minor);
    d["multiprocessors"] = i.multiprocessors;
    d["memory"] = i.memory;
    d["shared_per_block"] = i.shared_per_block;
    d["l2"] = i.l2;
    return d;
  });
  m.def("cuda_memory_stats", [](int index) {
    cuda::MemoryStats s = cuda::memory_stats(index);
    py::dict d;
    d["in_use"] = s.in_use;
    d["idle"] = s.idle;
    d["peak"] = s.peak;
    d["requests"] = s.requests;
    d["hits"] = s.hits;
    return d;
  });
  m.def("current_stream", [](const std::string& device) {  // a cudaStream_t as a number; 0 is the default stream
    return reinterpret_cast<uintptr_t>(cuda::stream(parse_device(device)));
  });
  m.def("stream_wait", [](py::handle tensor, int64_t consumer) {
    if (!python::is_tensor(tensor.ptr())) throw py::type_error("stream_wait: expected a Tensor");
    cuda::order(python::as_tensor(tensor.ptr())->array.device(), consumer);
  });
  m.def("cuda_synchronize", [](const std::string& device) {
    Device d = parse_device(device);
    py::gil_scoped_release free;
    if (d.on_cuda()) cuda::synchronize(d);
  });
  m.def("set_wgmma", &cuda::set_wgmma);
  m.def("get_wgmma", &cuda::wgmma);
  m.def("cuda_capturing", &cuda::capturing, "Whether this thread records a graph.");
  // A capture begins with the object, in the thread that makes it; see cuda::Graph.
  py::class_<cuda::Graph>(m, "CudaGraph")
      .def(py::init([](const std::string& device) { return std::make_unique<cuda::Graph>(parse_device(device)); }))
      .def("end", &cuda::Graph::end)
      .def("abandon", &cuda::Graph::abandon)
      .def("replay", &cuda::Graph::replay, py::call_guard<py::gil_scoped_release>());
  m.def("set_implicit_device", &python::set_implicit_device,
        "For tests: numpy arrays that ops take go to this device, numpy results and .numpy() come back from it.");
  m.def("get_implicit_device", [] { return to_text(python::implicit_device); });
}

void bind_tensor(py::module_& m) {
  if (!python::add_tensor_type(m.ptr()) || !python::add_tape_types(m.ptr()) || !python::add_indexing(m.ptr()))
    throw py::error_already_set();
  m.def("set_tensor_type",
        [](py::type t) { python::tensor_type = reinterpret_cast<PyTypeObject*>(t.release().ptr()); });
  m.def("set_bfloat16", [](py::handle dtype) { python::set_bfloat16(dtype.ptr()); });
  m.def("set_foreign_handler", [](py::handle f) { python::set_foreign_handler(f.ptr()); });
  m.def("instance_method", [](py::handle f) { return take(PyInstanceMethod_New(f.ptr())); });
  m.def("attach_torch", [](py::handle hooks) {
    if (!python::attach_torch(hooks.ptr())) throw py::error_already_set();
  });
  m.def("set_accumulate", [](py::handle add, py::handle in_place, py::handle copy) {
    python::set_accumulate(add.ptr(), in_place.ptr(), copy.ptr());
  });
  m.def("record_leaves", [](std::optional<py::list> list) {
    return py::reinterpret_steal<py::object>(python::record_leaves(list ? list->ptr() : Py_None));
  });
  m.def("grad_enabled", &python::grad_enabled);
  m.def("set_grad_enabled", &python::set_grad_enabled);
  m.def("backward", [](py::handle tensor, py::handle gradient) {
    if (!python::is_tensor(tensor.ptr()) || !python::is_tensor(gradient.ptr()))
      throw py::type_error("backward: expected a Tensor");
    return take(python::run_backward(tensor.ptr(), gradient.ptr()));
  });
  m.def("from_numpy", [](py::handle a) {
    if (!python::is_numpy(a.ptr())) throw py::type_error("from_numpy: expected a numpy array");
    return take(python::from_numpy(a.ptr()));
  });
  m.def("to_dlpack", [](py::handle t, bool versioned) {
    if (!python::is_tensor(t.ptr())) throw py::type_error("to_dlpack: expected a Tensor");
    return take(python::to_dlpack(t.ptr(), versioned));
  });
  m.def("from_dlpack", [](py::handle capsule) { return take(python::from_dlpack(capsule.ptr())); });
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.doc() = "Compiled kernels of fastnn.";
  py::register_exception_translator([](std::exception_ptr p) {
    try {
      if (p) std::rethrow_exception(p);
    } catch (const ValueError& e) { PyErr_SetString(PyExc_ValueError, e.what()); } catch (const TypeError& e) {
      PyErr_SetString(PyExc_TypeError, e.what());
    } catch (const IndexError& e) {
      PyErr_SetString(PyExc_IndexError, e.what());
    } catch (const NotImplementedError& e) { PyErr_SetString(PyExc_NotImplementedError, e.what()); }
  });
  bind_tensor(m);
  bind_runtime(m);
  bind_cuda(m);
  bind_ops(m.ptr());
}
