#include "dlpack.h"

#include "tensor.h"

namespace fastnn::python {
namespace {

constexpr DLDataType kCodes[kDTypes] = {{2, 32, 1}, {4, 16, 1}, {2, 16, 1}, {2, 64, 1}, {0, 8, 1},
                                        {1, 8, 1},  {0, 32, 1}, {0, 64, 1}, {6, 8, 1}};

// What a capsule of ours owns. The deleter needs no GIL unless the memory is numpy's.
template <class Managed>
struct Export {
  Managed managed;
  Array array;
  Export(Array a) : managed{}, array(std::move(a)) { array.storage->lend(); }
  ~Export() { array.storage->end_loan(); }
};

void set_version(DLManagedTensor&, const Array&) {}
void set_version(DLManagedTensorVersioned& m, const Array& a) {
  m.version = {1, 1};
  m.flags = a.storage->writable ? 0 : kDLReadOnly;
}

template <class Managed>
Managed* make_export(Array array) {
  auto* e = new Export<Managed>(std::move(array));
  Array& a = e->array;
  DLDevice device = {a.on_cuda() ? kDLCuda : kDLCpu, a.device().index};
  e->managed.tensor = {a.data, device, a.ndim(), kCodes[int(a.dtype)], a.shape.d, a.strides.d, 0};
  set_version(e->managed, a);
  e->managed.context = e;
  e->managed.deleter = [](Managed* m) { delete static_cast<Export<Managed>*>(m->context); };
  return &e->managed;
}

template <class Managed>
PyObject* make_capsule(const Array& a, const char* name) {
  Managed* managed = make_export<Managed>(a);
  PyObject* capsule = PyCapsule_New(managed, name, [](PyObject* c) {
    // A consumer renames the capsule and calls the deleter itself.
    const char* now = PyCapsule_GetName(c);
    if (now && (now[0] == 'u')) return;
    auto* m = static_cast<Managed*>(PyCapsule_GetPointer(c, now));
    if (m) m->deleter(m);
  });
  if (!capsule) managed->deleter(managed);
  return capsule;
}

template <class Managed>
PyObject* adopt(PyObject* capsule, const char* name, const char* used_name, bool writable) {
  auto* m = static_cast<Managed*>(PyCapsule_GetPointer(capsule, name));
  if (!m) return nullptr;
  const DLTensor& t = m->tensor;
  std::optional<Device> device = device_from_dlpack(t.device);
  if (!device) {
    PyErr_Format(PyExc_NotImplementedError,
                 "from_dlpack: device (%d, %d) is not supported; expected the CPU, or one of the %d GPUs that "
                 "`python -m fastnn.info` shows",
                 int(t.device.type), int(t.device.id), cuda::device_count());
    return nullptr;
  }
  std::optional<DType> dtype = dtype_from_dlpack(t.dtype);
  if (!dtype) {
    PyErr_Format(PyExc_NotImplementedError, "from_dlpack: data type code %d with %d bits is not supported",
                 int(t.dtype.code), int(t.dtype.bits));
    return nullptr;
  }
  Array layout;
  try {
    read_layout(t, layout);
  } catch (...) {
    set_python_error();
    return nullptr;
  }
  Array a = Array::borrow(
      layout.data, layout.shape, layout.strides, *dtype, writable,
      [](void* owner) {
        auto* m = static_cast<Managed*>(owner);
        if (!m->deleter || !Py_IsInitialized()) return;
        PyGILState_STATE state = PyGILState_Ensure();  // the deleter may belong to a Python object
        m->deleter(m);
        PyGILState_Release(state);
      },
      m, *device);
  PyCapsule_SetName(capsule, used_name);
  return wrap(std::move(a));
}

}  // namespace

std::optional<DType> dtype_from_dlpack(const DLDataType& type) {
  for (int i = 0; i < kDTypes; ++i)
    if (kCodes[i].code == type.code && kCodes[i].bits == type.bits && type.lanes == 1) return DType(i);
  return std::nullopt;
}

std::optional<Device> device_from_dlpack(const DLDevice& device) {
  if (device.type == kDLCpu) return Device();
  if (device.type != kDLCuda || device.id < 0 || device.id >= cuda::device_count()) return std::nullopt;
  return Device{Device::cuda, uint8_t(device.id)};
}

void read_layout(const DLTensor& tensor, Array& array) {
  require<ValueError>(tensor.ndim <= kMaxDims, "DLPack tensor has ", tensor.ndim, " dimensions; at most ", kMaxDims,
                      " are supported");
  array.data = static_cast<char*>(tensor.data) + tensor.byte_offset;
  array.shape.n = array.strides.n = tensor.ndim;
  for (int i = 0; i < tensor.ndim; ++i) array.shape[i] = tensor.shape[i];
  if (!tensor.strides) array.strides = contiguous_strides(array.shape);
  for (int i = 0; tensor.strides && i < tensor.ndim; ++i) array.strides[i] = tensor.strides[i];
}

DLManagedTensorVersioned* export_versioned(Array array) {
  return make_export<DLManagedTensorVersioned>(std::move(array));
}

PyObject* to_dlpack(PyObject* tensor, bool versioned) {
  const Array& a = as_tensor(tensor)->array;
  if (versioned) return make_capsule<DLManagedTensorVersioned>(a, "dltensor_versioned");
  if (!a.storage->writable) {
    PyErr_SetString(PyExc_BufferError, "__dlpack__: the memory is read-only, which needs max_version=(1, 0) or later");
    return nullptr;
  }
  return make_capsule<DLManagedTensor>(a, "dltensor");
}

PyObject* from_dlpack(PyObject* capsule) {
  if (PyCapsule_IsValid(capsule, "dltensor_versioned")) {
    auto* m = static_cast<DLManagedTensorVersioned*>(PyCapsule_GetPointer(capsule, "dltensor_versioned"));
    if (m->version.major != 1) {
      PyErr_Format(PyExc_BufferError, "from_dlpack: DLPack version %u is not supported; expected 1", m->version.major);
      return nullptr;
    }
    return adopt<DLManagedTensorVersioned>(capsule, "dltensor_versioned", "used_dltensor_versioned",
                                           !(m->flags & kDLReadOnly));
  }
  if (PyCapsule_IsValid(capsule, "dltensor")) return adopt<DLManagedTensor>(capsule, "dltensor", "used_dltensor", true);
  PyErr_SetString(PyExc_TypeError, "from_dlpack: expected a DLPack capsule that nobody has consumed");
  return nullptr;
}

}  // namespace fastnn::python
