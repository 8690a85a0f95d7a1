// numpy arrays in and out without a copy. Uses pybind11's view of numpy's C API, so no numpy headers are needed to
// build.
#include <pybind11/numpy.h>

#include "tensor.h"

namespace py = pybind11;

namespace fastnn::python {
namespace {

struct Dtypes {
  PyObject* object[kDTypes] = {};  // numpy.dtype of each DType; bfloat16 is set by the Python layer
  Dtypes() {
    const char* codes[kDTypes] = {"f4", nullptr, "f2", "f8", "i1", "u1", "i4", "i8", "?"};
    for (int i = 0; i < kDTypes; ++i)
      if (codes[i]) object[i] = py::dtype(codes[i]).release().ptr();
  }
};

Dtypes& dtypes() {
  static Dtypes* d = new Dtypes;
  return *d;
}

// DType of a numpy.dtype; -1 where there is none.
int find(PyObject* descr) {
  Dtypes& d = dtypes();
  for (int i = 0; i < kDTypes; ++i)
    if (descr == d.object[i]) return i;
  for (int i = 0; i < kDTypes; ++i)
    if (d.object[i] && PyObject_RichCompareBool(descr, d.object[i], Py_EQ) == 1) return i;
  PyErr_Clear();
  return -1;
}

void release_array(void* owner) {
  if (!Py_IsInitialized()) return;  // the interpreter is gone, and numpy's memory with it
  PyGILState_STATE state = PyGILState_Ensure();
  Py_DECREF(static_cast<PyObject*>(owner));
  PyGILState_Release(state);
}

}  // namespace

Device implicit_device;
void set_implicit_device(const std::string& device) { implicit_device = parse_device(device); }

void set_bfloat16(PyObject* dtype) { Py_XSETREF(dtypes().object[int(DType::bf16)], Py_NewRef(dtype)); }

PyObject* dtype_object(DType t) { return dtypes().object[int(t)]; }

DType dtype_from_object(PyObject* o) {
  int t = find(o);
  if (t < 0) {
    py::dtype converted = py::dtype::from_args(py::reinterpret_borrow<py::object>(o));
    t = find(converted.ptr());
  }
  if (t < 0)
    throw NotImplementedError("dtype " + std::string(py::str(py::handle(o))) +
                              " is not supported; expected float32, bfloat16, float16, float64, int8, uint8, int32, "
                              "int64 or bool");
  return DType(t);
}

bool is_numpy(PyObject* o) { return py::detail::npy_api::get().PyArray_Check_(o); }

bool is_dtype(PyObject* o) {
  return PyObject_TypeCheck(o, reinterpret_cast<PyTypeObject*>(py::detail::npy_api::get().PyArrayDescr_Type_));
}

PyObject* from_numpy(PyObject* o) {
  auto* a = py::detail::array_proxy(o);
  int t = find(a->descr);
  if (t < 0) {
    PyErr_Format(PyExc_NotImplementedError,
                 "numpy array of dtype %S is not supported; expected float32, bfloat16, float16, float64, int8, uint8, "
                 "int32, int64 or bool",
                 a->descr);
    return nullptr;
  }
  if (a->nd > kMaxDims) {
    PyErr_Format(PyExc_ValueError, "numpy array has %d dimensions; at most %d are supported", a->nd, kMaxDims);
    return nullptr;
  }
  int64_t item = int64_t(size_of(DType(t)));
  bool whole = reinterpret_cast<uintptr_t>(a->data) % uintptr_t(item) == 0;
  for (int i = 0; i < a->nd; ++i) whole &= a->strides[i] % item == 0 || a->dimensions[i] <= 1;
  if (!whole) {  // misaligned, or strides that are no whole number of elements: numpy makes an aligned copy
    PyObject* copy = PyObject_CallMethod(o, "copy", nullptr);
    if (!copy) return nullptr;
    PyObject* result = from_numpy(copy);
    Py_DECREF(copy);
    return result;
  }
  Dims shape, strides;
  shape.n = strides.n = a->nd;
  for (int i = 0; i < a->nd; ++i) {
    shape[i] = a->dimensions[i];
    strides[i] = a->strides[i] / item;
  }
  bool writable = (a->flags & py::detail::npy_api::NPY_ARRAY_WRITEABLE_) != 0;
  return wrap(Array::borrow(a->data, shape, strides, DType(t), writable, release_array, Py_NewRef(o)));
}

PyObject* to_numpy(PyObject* tensor) {
  const Array& a = as_tensor(tensor)->array;
  if (a.on_cuda()) [[unlikely]] {
    if (a.device() != implicit_device) {
      PyErr_Format(PyExc_TypeError, "numpy: the tensor is on %s; copy it to the CPU first: x.cpu().numpy()",
                   to_text(a.device()).c_str());
      return nullptr;
    }
    PyObject* host = move_to(a, Device());
    PyObject* result = host ? to_numpy(host) : nullptr;
    Py_XDECREF(host);
    return result;
  }
  auto& api = py::detail::npy_api::get();
  PyObject* descr = dtype_object(a.dtype);
  if (!descr) {
    PyErr_SetString(PyExc_RuntimeError, "numpy: bfloat16 needs the ml_dtypes package");
    return nullptr;
  }
  PyObject* base = alias(tensor);  // keeps the memory alive, but no tape
  if (!base) return nullptr;
  if (a.storage->writable) {
    a.storage->lend();
    as_tensor(base)->lent = true;
  }
  Py_ssize_t shape[kMaxDims], strides[kMaxDims];
  auto item = Py_ssize_t(size_of(a.dtype));
  for (int i = 0; i < a.ndim(); ++i) {
    shape[i] = a.size(i);
    strides[i] = a.stride(i) * item;
  }
  static char nothing[8];  // numpy would allocate for a null pointer
  void* data = a.data ? a.data : nothing;
  int flags = a.storage->writable ? py::detail::npy_api::NPY_ARRAY_WRITEABLE_ : 0;
  PyObject* out =
      api.PyArray_NewFromDescr_(api.PyArray_Type_, Py_NewRef(descr), a.ndim(), shape, strides, data, flags, nullptr);
  if (!out) {
    Py_DECREF(base);
    return nullptr;
  }
  api.PyArray_SetBaseObject_(out, base);  // takes over the reference
  return out;
}

}  // namespace fastnn::python
