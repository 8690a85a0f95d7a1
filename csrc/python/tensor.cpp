#include "tensor.h"

#include <pybind11/pybind11.h>

#include <new>

#include "../convert.h"
#include "tape.h"

namespace fastnn::python {

PyTypeObject* tensor_base = nullptr;
PyTypeObject* tensor_type = nullptr;

void set_python_error() {
  if (PyErr_Occurred()) return;
  try {
    throw;
  } catch (pybind11::error_already_set& e) { e.restore(); } catch (const ValueError& e) {
    PyErr_SetString(PyExc_ValueError, e.what());
  } catch (const TypeError& e) { PyErr_SetString(PyExc_TypeError, e.what()); } catch (const IndexError& e) {
    PyErr_SetString(PyExc_IndexError, e.what());
  } catch (const NotImplementedError& e) {
    PyErr_SetString(PyExc_NotImplementedError, e.what());
  } catch (const std::bad_alloc&) {
    PyErr_SetString(PyExc_MemoryError, "fastnn: out of memory");
  } catch (const std::exception& e) { PyErr_SetString(PyExc_RuntimeError, e.what()); }
}

PyObject* wrap(Array array) {
  auto* self = as_tensor(tensor_type->tp_alloc(tensor_type, 0));
  if (self) new (&self->array) Array(std::move(array));
  return reinterpret_cast<PyObject*>(self);
}

PyObject* move_to(const Array& array, Device device) {
  try {
    Array moved;
    {
      WithoutGil free;
      moved = to_device(array, device);
    }
    return wrap(std::move(moved));
  } catch (...) {
    set_python_error();
    return nullptr;
  }
}

namespace {

void dealloc(PyObject* o) {
  TensorObject* self = as_tensor(o);
  PyTypeObject* type = Py_TYPE(o);
  if (self->weak_references) PyObject_ClearWeakRefs(o);
  Py_CLEAR(self->grad);
  Py_CLEAR(self->node);
  if (self->lent) self->array.storage->end_loan();
  self->array.~Array();
  type->tp_free(o);
  Py_DECREF(type);
}

PyObject* refuse_new(PyTypeObject*, PyObject*, PyObject*) {
  PyErr_SetString(PyExc_TypeError, "Tensor: make one with fastnn.tensor(data) or fastnn.from_numpy(array)");
  return nullptr;
}

PyObject* tuple_of(const Dims& dims) {
  PyObject* t = PyTuple_New(dims.n);
  for (int i = 0; t && i < dims.n; ++i) PyTuple_SET_ITEM(t, i, PyLong_FromLongLong(dims[i]));
  return t;
}

PyObject* get_shape(PyObject* o, void*) { return tuple_of(as_tensor(o)->array.shape); }
PyObject* get_strides(PyObject* o, void*) { return tuple_of(as_tensor(o)->array.strides); }
PyObject* get_dtype(PyObject* o, void*) { return Py_NewRef(dtype_object(as_tensor(o)->array.dtype)); }
PyObject* get_ndim(PyObject* o, void*) { return PyLong_FromLong(as_tensor(o)->array.ndim()); }
PyObject* get_device(PyObject* o, void*) {
  static PyObject* cpu = PyUnicode_InternFromString("cpu");
  const Array& a = as_tensor(o)->array;
  return a.on_cuda() ? PyUnicode_FromString(to_text(a.device()).c_str()) : Py_NewRef(cpu);
}
PyObject* get_requires_grad(PyObject* o, void*) { return PyBool_FromLong(as_tensor(o)->requires_grad); }
PyObject* get_is_leaf(PyObject* o, void*) { return PyBool_FromLong(!as_tensor(o)->node); }
PyObject* get_version(PyObject* o, void*) {
  return PyLong_FromLongLong(as_tensor(o)->array.storage->version.load(std::memory_order_relaxed));
}
PyObject* get_node(PyObject* o, void*) {
  PyObject* node = as_tensor(o)->node;
  return Py_NewRef(node ? node : Py_None);
}
PyObject* get_grad(PyObject* o, void*) {
  PyObject* grad = as_tensor(o)->grad;
  return Py_NewRef(grad ? grad : Py_None);
}

int set_requires_grad(PyObject* o, PyObject* value, void*) {
  TensorObject* self = as_tensor(o);
  int on = value ? PyObject_IsTrue(value) : 0;
  if (on < 0) return -1;
  if (on && !is_float(self->array.dtype)) {
    PyErr_Format(PyExc_ValueError, "requires_grad: only floating tensors can have a gradient, got dtype %s",
                 name(self->array.dtype));
    return -1;
  }
  if (self->node && !on) {
    PyErr_SetString(PyExc_RuntimeError, "requires_grad: can be turned off for leaves only; use detach()");
    return -1;
  }
  self->requires_grad = on;
  return 0;
}

int set_grad(PyObject* o, PyObject* value, void*) {
  TensorObject* self = as_tensor(o);
  if (!value || value == Py_None) {
    Py_CLEAR(self->grad);
    return 0;
  }
  if (!is_tensor(value)) {
    PyErr_Format(PyExc_TypeError, "grad: expected a Tensor or None, got %s", Py_TYPE(value)->tp_name);
    return -1;
  }
  const Array& g = as_tensor(value)->array;
  if (!(g.shape == self->array.shape) || g.dtype != self->array.dtype || g.device() != self->array.device() ||
      value == o) {
    PyErr_Format(PyExc_ValueError, "grad: got shape %s, dtype %s and device %s; expected %s, %s and %s",
                 to_text(g.shape).c_str(), name(g.dtype), to_text(g.device()).c_str(),
                 to_text(self->array.shape).c_str(), name(self->array.dtype), to_text(self->array.device()).c_str());
    return -1;
  }
  Py_XSETREF(self->grad, Py_NewRef(value));
  return 0;
}

PyObject* as_subclass(PyObject* o, PyObject* type) {
  if (!PyType_Check(type) || !PyType_IsSubtype(reinterpret_cast<PyTypeObject*>(type), tensor_base)) {
    PyErr_SetString(PyExc_TypeError, "as_subclass: expected a subclass of Tensor");
    return nullptr;
  }
  auto* t = reinterpret_cast<PyTypeObject*>(type);
  auto* self = as_tensor(t->tp_alloc(t, 0));
  if (self) new (&self->array) Array(as_tensor(o)->array);
  return reinterpret_cast<PyObject*>(self);
}

PyObject* method_numpy(PyObject* o, PyObject*) { return to_numpy(o); }
PyObject* method_detach(PyObject* o, PyObject*) { return alias(o); }
PyObject* method_bump(PyObject* o, PyObject*) {
  as_tensor(o)->array.bump_version();
  Py_RETURN_NONE;
}

PyObject* method_numel(PyObject* o, PyObject*) { return PyLong_FromLongLong(as_tensor(o)->array.numel()); }
PyObject* method_data_ptr(PyObject* o, PyObject*) {
  return PyLong_FromUnsignedLongLong(reinterpret_cast<uintptr_t>(as_tensor(o)->array.data));
}
PyObject* method_is_contiguous(PyObject* o, PyObject*) { return PyBool_FromLong(as_tensor(o)->array.is_contiguous()); }
PyObject* method_is_sole_owner(PyObject* o, PyObject*) {
  return PyBool_FromLong(as_tensor(o)->array.storage->references.load(std::memory_order_relaxed) == 1);
}

// Element as a Python number.
PyObject* method_item(PyObject* o, PyObject*) {
  const Array& a = as_tensor(o)->array;
  if (a.numel() != 1) {
    PyErr_Format(PyExc_RuntimeError, "item: a tensor of shape %s has %lld elements; expected one",
                 to_text(a.shape).c_str(), static_cast<long long>(a.numel()));
    return nullptr;
  }
  if (a.on_cuda()) [[unlikely]] {
    PyObject* host = move_to(a, Device());
    PyObject* result = host ? method_item(host, nullptr) : nullptr;
    Py_XDECREF(host);
    return result;
  }
  return visit(a.dtype, [&]<class T>(T* p) -> PyObject* {
    p = a.as<T>();
    if constexpr (std::is_same_v<T, bool>)
      return PyBool_FromLong(*p);
    else if constexpr (std::is_integral_v<T>)
      return PyLong_FromLongLong(*p);
    else
      return PyFloat_FromDouble(convert<double>(*p));
  });
}

// After an in-place change: the tape describes this tensor as it does `source`, the result that was recorded for it.
PyObject* method_take_history(PyObject* o, PyObject* source) {
  if (!is_tensor(source)) {
    PyErr_SetString(PyExc_TypeError, "_take_history: expected a Tensor");
    return nullptr;
  }
  TensorObject *self = as_tensor(o), *from = as_tensor(source);
  self->requires_grad = from->requires_grad;
  self->output_index = from->output_index;
  PyObject* before = self->node;
  self->node = Py_XNewRef(from->node);
  Py_XDECREF(before);
  Py_RETURN_NONE;
}

PyGetSetDef getset[] = {
    {"shape", get_shape, nullptr, "Sizes, a tuple of int.", nullptr},
    {"strides", get_strides, nullptr, "Steps in elements, a tuple of int.", nullptr},
    {"dtype", get_dtype, nullptr, "numpy.dtype of the elements.", nullptr},
    {"device", get_device, nullptr, "Where the elements are: \"cpu\", or \"cuda:0\".", nullptr},
    {"ndim", get_ndim, nullptr, "Number of dimensions.", nullptr},
    {"requires_grad", get_requires_grad, set_requires_grad, "Whether operations on it are recorded.", nullptr},
    {"grad", get_grad, set_grad, "Gradient accumulated by backward(), or None.", nullptr},
    {"is_leaf", get_is_leaf, nullptr, "Whether no recorded operation made it.", nullptr},
    {"grad_fn", get_node, nullptr, "The recorded operation that made it, or None.", nullptr},
    {"_version", get_version, nullptr, "Number of in-place changes made through fastnn.", nullptr},
    {}};

PyMethodDef methods[] = {
    {"numpy", method_numpy, METH_NOARGS, "A numpy array on the same memory."},
    {"detach", method_detach, METH_NOARGS, "A tensor on the same memory that is not on the tape."},
    {"item", method_item, METH_NOARGS, "The only element as a Python number. RuntimeError unless there is one."},
    {"numel", method_numel, METH_NOARGS, "Number of elements."},
    {"data_ptr", method_data_ptr, METH_NOARGS, "Address of the first element."},
    {"_is_contiguous", method_is_contiguous, METH_NOARGS, "Whether the elements lie in row-major order."},
    {"_is_sole_owner", method_is_sole_owner, METH_NOARGS, "Whether no other tensor shares the memory."},
    {"_take_history", method_take_history, METH_O, "Makes the tape see this tensor as the given one."},
    {"_as_subclass", as_subclass, METH_O, "A tensor of the given subclass on the same memory."},
    {"_bump_version", method_bump, METH_NOARGS, "Marks the memory as changed."},
    {}};

PyMemberDef members[] = {{"__weaklistoffset__", T_PYSSIZET, offsetof(TensorObject, weak_references), READONLY, nullptr},
                         {}};

PyType_Slot slots[] = {{Py_tp_dealloc, reinterpret_cast<void*>(dealloc)},
                       {Py_tp_new, reinterpret_cast<void*>(refuse_new)},
                       {Py_tp_getset, getset},
                       {Py_tp_methods, methods},
                       {Py_tp_members, members},
                       {0, nullptr}};

PyType_Spec spec = {"fastnn._C.TensorBase", sizeof(TensorObject), 0, Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE, slots};

}  // namespace

bool add_tensor_type(PyObject* module) {
  tensor_base = reinterpret_cast<PyTypeObject*>(PyType_FromSpec(&spec));
  if (!tensor_base) return false;
  tensor_type = tensor_base;
  return PyModule_AddObjectRef(module, "TensorBase", reinterpret_cast<PyObject*>(tensor_base)) == 0;
}

}  // namespace fastnn::python
