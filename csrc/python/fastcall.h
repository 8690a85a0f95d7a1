// Binds C++ functions as METH_FASTCALL builtins with positional arguments: about 0.1 us a call, where a pybind11
// dispatcher takes 0.4. Arguments are converted by From<T>, the GIL is released, exceptions become Python's.
#pragma once
#include <cxxabi.h>

#include <optional>
#include <string>
#include <string_view>
#include <tuple>
#include <vector>

#include "../operand.h"
#include "annotation.h"
#include "tensor.h"

namespace fastnn::python {

// Says which argument of which function was wrong.
struct Place {
  const char* function;
  const char* const* names;
  int index;
};

[[noreturn]] inline void wrong_type(const Place& at, PyObject* got, const char* expected) {
  throw TypeError(message(at.function, ": argument '", at.names[at.index], "' is ", Py_TYPE(got)->tp_name,
                          "; expected ", expected));
}

// Which devices a function takes: one without GPU launchers must not touch memory of a GPU.
enum class Devices {
  cpu,
  same,  // any, all tensors on the same
  any    // any mixture
};

inline unsigned on_gpu(const Array& a) { return unsigned(a.device().kind); }
inline unsigned on_gpu(const std::optional<Array>& a) { return a ? on_gpu(*a) : 0; }
inline unsigned on_gpu(const Operand& o) { return o.array ? on_gpu(*o.array) : 0; }
inline unsigned on_gpu(const std::vector<Array>& list) {
  unsigned any = 0;
  for (const Array& a : list) any |= on_gpu(a);
  return any;
}
template <class T>
unsigned on_gpu(const T&) {
  return 0;
}

// The tensors of a call of which at least one is on a GPU.
struct DeviceCheck {
  const char* function;
  const char* const* names;
  Devices allowed;
  int first = -1;
  Device device = {};

  void see(int index, const Array& a) {
    if (a.on_cuda() && allowed == Devices::cpu)
      throw NotImplementedError(message(function, ": argument '", names[index], "' is on ", a.device(),
                                        ", for which there is no kernel; move it with .cpu()"));
    if (first >= 0 && a.device() != device)
      throw ValueError(message(function, ": argument '", names[first], "' is on ", device, " and '", names[index],
                               "' on ", a.device(), "; expected one device: move one with .to(device)"));
    first = index;
    device = a.device();
  }
  void see(int index, const std::optional<Array>& a) {
    if (a) see(index, *a);
  }
  void see(int index, const Operand& o) {
    if (o.array) see(index, *o.array);
  }
  void see(int index, const std::vector<Array>& list) {
    for (const Array& a : list) see(index, a);
  }
  template <class T>
  void see(int, const T&) {}
};

template <class T>
struct From;

template <>
struct From<Array> {
  static const Array& get(PyObject* o, const Place& at) {
    if (!is_tensor(o)) [[unlikely]]
      wrong_type(at, o, "a Tensor or a numpy array");
    return as_tensor(o)->array;
  }
};
template <>
struct From<std::optional<Array>> {
  static std::optional<Array> get(PyObject* o, const Place& at) {
    if (o == Py_None) return std::nullopt;
    return From<Array>::get(o, at);
  }
};
template <>
struct From<int64_t> {
  static int64_t get(PyObject* o, const Place& at) {
    if (PyBool_Check(o) || !PyIndex_Check(o)) wrong_type(at, o, "an int");
    PyObject* i = PyNumber_Index(o);
    if (!i) throw TypeError("");
    int overflow;
    long long v = PyLong_AsLongLongAndOverflow(i, &overflow);
    Py_DECREF(i);
    if (overflow) throw ValueError(message(at.function, ": argument '", at.names[at.index], "' is too large"));
    return v;
  }
};
template <>
struct From<double> {
  static double get(PyObject* o, const Place& at) {
    double v = PyFloat_AsDouble(o);
    if (v == -1.0 && PyErr_Occurred()) {
      PyErr_Clear();
      wrong_type(at, o, "a float");
    }
    return v;
  }
};
template <>
struct From<bool> {
  static bool get(PyObject* o, const Place& at) {
    int v = PyObject_IsTrue(o);
    if (v < 0) {
      PyErr_Clear();
      wrong_type(at, o, "a bool");
    }
    return v;
  }
};
template <>
struct From<std::string_view> {
  static std::string_view get(PyObject* o, const Place& at) {
    if (!PyUnicode_Check(o)) wrong_type(at, o, "a str");
    Py_ssize_t n;
    const char* s = PyUnicode_AsUTF8AndSize(o, &n);
    if (!s) throw TypeError("");
    return {s, size_t(n)};
  }
};
template <>
struct From<DType> {
  static DType get(PyObject* o, const Place&) { return dtype_from_object(o); }
};
template <>
struct From<Device> {
  static Device get(PyObject* o, const Place& at) { return parse_device(From<std::string_view>::get(o, at)); }
};
// A tensor, an int or a float.
template <>
struct From<Operand> {
  static Operand get(PyObject* o, const Place& at) {
    if (is_tensor(o)) return Operand(as_tensor(o)->array);
    Operand v;
    if (PyFloat_Check(o)) {
      v.floating = true;
      v.number = PyFloat_AS_DOUBLE(o);
      return v;
    }
    if (!PyLong_Check(o)) wrong_type(at, o, "a Tensor, a numpy array or a number");
    int overflow;
    v.integer = PyLong_AsLongLongAndOverflow(o, &overflow);
    if (overflow) throw ValueError(message(at.function, ": argument '", at.names[at.index], "' does not fit int64"));
    v.number = double(v.integer);
    return v;
  }
};
// A tuple or list of ints; never a single int (the Python layer expands those).
template <>
struct From<Dims> {
  static Dims get(PyObject* o, const Place& at) {
    if (!PyTuple_Check(o) && !PyList_Check(o)) wrong_type(at, o, "a tuple of int");
    Dims d;
    Py_ssize_t n = PySequence_Fast_GET_SIZE(o);
    if (n > kMaxDims)
      throw ValueError(message(at.function, ": argument '", at.names[at.index], "' has ", int64_t(n),
                               " entries; at most ", kMaxDims, " are supported"));
    for (Py_ssize_t i = 0; i < n; ++i) d.push_back(From<int64_t>::get(PySequence_Fast_GET_ITEM(o, i), at));
    return d;
  }
};
template <class T>
struct From<std::vector<T>> {
  static std::vector<T> get(PyObject* o, const Place& at) {
    if (!PyTuple_Check(o) && !PyList_Check(o)) wrong_type(at, o, "a tuple");
    std::vector<T> v;
    Py_ssize_t n = PySequence_Fast_GET_SIZE(o);
    v.reserve(size_t(n));
    for (Py_ssize_t i = 0; i < n; ++i) v.push_back(From<T>::get(PySequence_Fast_GET_ITEM(o, i), at));
    return v;
  }
};

inline PyObject* to_python(Array&& a) { return wrap(std::move(a)); }
inline PyObject* to_python(double v) { return PyFloat_FromDouble(v); }
inline PyObject* to_python(int64_t v) { return PyLong_FromLongLong(v); }
inline PyObject* to_python(bool v) { return PyBool_FromLong(v); }
inline PyObject* to_python(std::optional<Array>&& a) { return a ? wrap(std::move(*a)) : Py_NewRef(Py_None); }
template <class... T>
PyObject* to_python(std::tuple<T...>&& t) {
  PyObject* out = PyTuple_New(sizeof...(T));
  if (!out) return nullptr;
  bool ok = true;
  [&]<size_t... I>(std::index_sequence<I...>) {
    auto put = [&](size_t i, PyObject* item) {
      ok &= item != nullptr;
      PyTuple_SET_ITEM(out, Py_ssize_t(i), item);
    };
    (put(I, to_python(std::move(std::get<I>(t)))), ...);
  }(std::index_sequence_for<T...>());
  if (!ok) Py_CLEAR(out);
  return out;
}

template <auto function, Devices devices>
struct Fastcall;

template <class R, class... Args, R (*function)(Args...), Devices devices>
struct Fastcall<function, devices> {
  static inline const char* name;
  static inline std::vector<const char*> names;
  static inline std::string storage, doc;
  static inline PyMethodDef def;

  static constexpr size_t arity = sizeof...(Args);
  static std::string signature() { return annotate<R, std::remove_cvref_t<Args>...>(names); }

  static PyObject* call(PyObject*, PyObject* const* args, Py_ssize_t n) {
    if (n != Py_ssize_t(sizeof...(Args))) {
      PyErr_Format(PyExc_TypeError, "%s: expected %d arguments, got %zd: %s%s", name, int(sizeof...(Args)), n, name,
                   doc.c_str());
      return nullptr;
    }
    try {
      return invoke(args, std::index_sequence_for<Args...>());
#ifdef __GLIBCXX__
    } catch (abi::__forced_unwind&) {  // the interpreter ends this thread: see WithoutGil
      throw;
#endif
    } catch (...) {
      set_python_error();
      return nullptr;
    }
  }

  template <size_t... I>
  static PyObject* invoke(PyObject* const* args, std::index_sequence<I...>) {
    // References stay valid without the GIL: the caller's frame holds the argument objects.
    std::tuple<decltype(From<std::remove_cvref_t<Args>>::get(nullptr, std::declval<Place>()))...> v{
        From<std::remove_cvref_t<Args>>::get(args[I], Place{name, names.data(), int(I)})...};
    if constexpr (devices != Devices::any)
      if ((0u | ... | on_gpu(std::get<I>(v)))) [[unlikely]] {
        DeviceCheck check{name, names.data(), devices};
        (check.see(int(I), std::get<I>(v)), ...);
      }
    if constexpr (std::is_void_v<R>) {
      {
        WithoutGil free;
        function(std::get<I>(v)...);
      }
      return Py_NewRef(Py_None);
    } else {
      return to_python([&] {
        WithoutGil free;
        return function(std::get<I>(v)...);
      }());
    }
  }
};

// Adds `function` to `module` as `name`; `arguments` names its parameters: "input, weight, bias".
template <auto function, Devices devices = Devices::cpu>
bool add(PyObject* module, const char* name, const char* arguments) {
  using Call = Fastcall<function, devices>;
  Call::name = name;
  Call::storage = arguments;
  Call::names.clear();
  for (char* p = Call::storage.data(); *p;) {
    Call::names.push_back(p);
    while (*p && *p != ',') ++p;
    if (*p) *p++ = 0;
    while (*p == ' ') ++p;
  }
  if (Call::names.size() != Call::arity) {
    PyErr_Format(PyExc_ImportError, "_C.%s takes %d arguments, but its binding names '%s'", name, int(Call::arity),
                 arguments);
    return false;
  }
  Call::doc = Call::signature();
  Call::def = {name, reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(&Call::call)), METH_FASTCALL,
               Call::doc.c_str()};
  PyObject* f = PyCFunction_NewEx(&Call::def, nullptr, nullptr);
  bool ok = f && PyModule_AddObjectRef(module, name, f) == 0;
  Py_XDECREF(f);
  return ok;
}

}  // namespace fastnn::python
