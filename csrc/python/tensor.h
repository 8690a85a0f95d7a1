// TensorBase, the Python object behind fastnn.Tensor: an Array, its gradient and its place on the tape. Methods are
// added in Python (python/fastnn/tensor.py).
#pragma once
#include <Python.h>
#include <unistd.h>

#include "../array.h"

namespace fastnn::python {

struct TensorObject {
  PyObject_HEAD Array array;
  bool requires_grad;
  bool lent;         // it keeps the memory of a numpy view
  int output_index;  // which output of `node` this is
  PyObject* node;    // the Node that made it; null for leaves
  PyObject* grad;
  PyObject* weak_references;
};

extern PyTypeObject* tensor_base;  // _C.TensorBase
extern PyTypeObject* tensor_type;  // fastnn.Tensor: the type of every new tensor

inline bool is_tensor(PyObject* o) { return Py_TYPE(o) == tensor_type || PyObject_TypeCheck(o, tensor_base); }
inline TensorObject* as_tensor(PyObject* o) { return reinterpret_cast<TensorObject*>(o); }

// A new reference to a new tensor; null with MemoryError set.
PyObject* wrap(Array array);
// A new tensor object on the same memory, without history.
inline PyObject* alias(PyObject* tensor) { return wrap(as_tensor(tensor)->array); }

// A new tensor with these elements on another device; null with an exception set.
PyObject* move_to(const Array& array, Device device);

// The Python exception for the C++ exception in flight.
void set_python_error();

bool add_tensor_type(PyObject* module);

// For tests: where numpy arrays that ops take go, and from where .numpy() comes back; else numpy is on the CPU.
extern Device implicit_device;
void set_implicit_device(const std::string& device);

// numpy: both directions share memory. numpy.cpp
bool is_numpy(PyObject* o);
bool is_dtype(PyObject* o);  // numpy.dtype
PyObject* from_numpy(PyObject* array);
PyObject* to_numpy(PyObject* tensor);  // TypeError for a tensor on a GPU
PyObject* dtype_object(DType t);       // borrowed numpy.dtype
DType dtype_from_object(PyObject* o);  // throws NotImplementedError
void set_bfloat16(PyObject* dtype);    // numpy.dtype(ml_dtypes.bfloat16)

// dlpack.cpp
PyObject* to_dlpack(PyObject* tensor, bool versioned);  // the caller sees to the order of streams
PyObject* from_dlpack(PyObject* capsule);

inline bool is_finalizing() {
#if PY_VERSION_HEX >= 0x030D0000
  return Py_IsFinalizing();
#else
  return _Py_IsFinalizing();
#endif
}

// Releases the GIL for its scope. A daemon thread that wants it back while the interpreter ends stops here, as Python
// 3.14 does it; before, PyEval_RestoreThread ends the thread by unwinding, which must not meet a noexcept function.
class WithoutGil {
 public:
  WithoutGil() : state_(PyEval_SaveThread()) {}
  ~WithoutGil() noexcept(false) {
    while (is_finalizing()) pause();
    PyEval_RestoreThread(state_);
  }
  WithoutGil(const WithoutGil&) = delete;
  WithoutGil& operator=(const WithoutGil&) = delete;

 private:
  PyThreadState* state_;
};

}  // namespace fastnn::python
