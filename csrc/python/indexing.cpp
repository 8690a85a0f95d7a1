#include "indexing.h"

#include "tensor.h"

namespace fastnn::python {
namespace {

// An int or what behaves like one; arrays and bools select by value, which is not basic indexing.
bool is_integer(PyObject* o) {
  return PyLong_CheckExact(o) || (PyIndex_Check(o) && !PyBool_Check(o) && !is_tensor(o) && !is_numpy(o));
}

PyObject* basic_index(PyObject*, PyObject* const* args, Py_ssize_t nargs) {
  if (nargs != 2 || !is_tensor(args[0]) || !PyTuple_Check(args[1])) {
    PyErr_SetString(PyExc_TypeError, "basic_index: expected a Tensor and a tuple");
    return nullptr;
  }
  const Array& x = as_tensor(args[0])->array;
  Py_ssize_t count = PyTuple_GET_SIZE(args[1]);
  int consumed = 0, added = 0;
  bool ellipsis = false;
  for (Py_ssize_t i = 0; i < count; ++i) {
    PyObject* o = PyTuple_GET_ITEM(args[1], i);
    if (o == Py_None)
      ++added;
    else if (o == Py_Ellipsis && !ellipsis)
      ellipsis = true;
    else if (PySlice_Check(o) || is_integer(o))
      ++consumed;
    else
      Py_RETURN_NONE;
  }
  if (consumed > x.ndim()) {
    PyErr_Format(PyExc_IndexError, "index: %d indices for a tensor of shape %s", consumed, to_text(x.shape).c_str());
    return nullptr;
  }
  if (x.ndim() + added > kMaxDims) {
    PyErr_Format(PyExc_ValueError, "index: the result has too many dimensions; at most %d are supported", kMaxDims);
    return nullptr;
  }
  Dims shape, strides;
  int64_t offset = 0;
  int axis = 0;
  auto keep = [&](int64_t size, int64_t stride) {
    shape.push_back(size);
    strides.push_back(stride);
  };
  for (Py_ssize_t i = 0; i < count; ++i) {
    PyObject* o = PyTuple_GET_ITEM(args[1], i);
    if (o == Py_None) {
      keep(1, 0);
    } else if (o == Py_Ellipsis) {
      for (int rest = x.ndim() - consumed; rest > 0; --rest, ++axis) keep(x.size(axis), x.stride(axis));
    } else if (PySlice_Check(o)) {
      Py_ssize_t start, stop, step;
      if (PySlice_Unpack(o, &start, &stop, &step) < 0) return nullptr;
      if (step < 1) {
        PyErr_Format(PyExc_ValueError, "index: the step of a slice is %zd; expected a positive number", step);
        return nullptr;
      }
      Py_ssize_t size = PySlice_AdjustIndices(Py_ssize_t(x.size(axis)), &start, &stop, step);
      if (size > 0) offset += start * x.stride(axis);
      keep(size, size > 1 ? step * x.stride(axis) : x.stride(axis));
      ++axis;
    } else {
      Py_ssize_t at = PyNumber_AsSsize_t(o, PyExc_IndexError), size = Py_ssize_t(x.size(axis));
      if (at == -1 && PyErr_Occurred()) return nullptr;
      if (at < -size || at >= size) {
        PyErr_Format(PyExc_IndexError, "index: %zd is out of bounds for dimension %d of size %zd", at, axis, size);
        return nullptr;
      }
      offset += (at < 0 ? at + size : at) * x.stride(axis++);
    }
  }
  for (; axis < x.ndim(); ++axis) keep(x.size(axis), x.stride(axis));
  return wrap(x.view(shape, strides, x.numel() ? offset : 0));
}

PyMethodDef methods[] = {
    {"basic_index", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(basic_index)), METH_FASTCALL,
     "basic_index(tensor, tuple) -> view, or None where the tuple holds more than int, slice, None and Ellipsis"},
    {}};

}  // namespace

bool add_indexing(PyObject* module) { return PyModule_AddFunctions(module, methods) == 0; }

}  // namespace fastnn::python
