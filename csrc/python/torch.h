// torch tensors as arguments of an Op. torch is found at run time: no header of it, no link to it, no import of it.
//
// A call takes the fast path when nothing asks torch's dispatcher to see it: exact torch.Tensor or Parameter, strided,
// on the CPU, without a negative bit, no mode, transform, tracing or autocast. Tensors enter and leave by the DLPack C
// exchange; results live in this library's memory and go back to it when torch frees them. Where a gradient is
// asked for, the call goes through a torch.autograd.Function whose forward() and backward() are Op.torch_forward and
// Op.torch_backward. Everything else goes to Python: python/fastnn/ops/_torch.py.
#pragma once
#include <Python.h>

#include "tape.h"

namespace fastnn::python {

extern PyTypeObject *torch_tensor, *torch_parameter;  // null before attach_torch

inline bool is_torch(PyObject* o) {
  return Py_TYPE(o) == torch_tensor || (Py_TYPE(o) == torch_parameter && torch_parameter);
}

PyObject* torch_call(OpObject* op, PyObject* const* args, Py_ssize_t nargs);
PyObject* torch_forward(PyObject* op, PyObject* const* args, Py_ssize_t nargs);   // (ctx, *args)
PyObject* torch_backward(PyObject* op, PyObject* const* args, Py_ssize_t nargs);  // (ctx, *grads)
// The same without a ctx or guards, for the kernels of torch.ops.fastnn: (*args), and (needs, values, tensors, *grads).
PyObject* torch_run(PyObject* op, PyObject* const* args, Py_ssize_t nargs);
PyObject* torch_run_backward(PyObject* op, PyObject* const* args, Py_ssize_t nargs);

// `hooks` is the module fastnn.ops._torch; see there what it must have.
bool attach_torch(PyObject* hooks);

}  // namespace fastnn::python
