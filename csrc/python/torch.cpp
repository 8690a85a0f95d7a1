#include "torch.h"

#include <dlfcn.h>

#include <utility>
#include <vector>

#include "dlpack.h"
#include "tensor.h"
#include "torch_team.h"

namespace fastnn::python {

PyTypeObject *torch_tensor = nullptr, *torch_parameter = nullptr;

namespace {

// What the module fastnn.ops._torch gives us; never released.
struct Hooks {
  PyObject* resolve;    // resolve(op) -> (apply, native)
  PyObject* unusual;    // unusual(op, args): a call that may not take the fast path
  PyObject* backward;   // unusual_backward(op, needs_input_grad, saved, grads): the same for a gradient
  PyObject* only_once;  // only_once(op, grads): gradients that raise when they are differentiated
  PyObject* view;       // view(tensor, shape, strides, offset): a view of a torch tensor
  PyObject* is_plain;   // is_plain(): whether there is no dispatch mode, transform, tracing or autocast
  PyObject* function_modes;
  PyObject* is_grad_enabled;
  PyObject* forward_ad;  // __dict__ of torch.autograd.forward_ad
  PyObject* profiler;    // __dict__ of torch.autograd.profiler
  PyObject* increment_version;
};
Hooks hooks;
const DLExchange* exchange = nullptr;
bool (*grad_mode)() = nullptr;  // torch's own, from its stable C interface

PyObject* interned(const char* text) { return PyUnicode_InternFromString(text); }
struct Names {
  PyObject* requires_grad = interned("requires_grad");
  PyObject* is_neg = interned("is_neg");
  PyObject* current_level = interned("_current_level");
  PyObject* is_profiler_enabled = interned("_is_profiler_enabled");
  PyObject* to_save = interned("to_save");
  PyObject* saved_tensors = interned("saved_tensors");
  PyObject* saved_values = interned("saved_values");
  PyObject* arguments = interned("arguments");
  PyObject* needs_input_grad = interned("needs_input_grad");
  PyObject* materialize_grads = interned("materialize_grads");
};
Names* names = nullptr;

// ---- guards ------------------------------------------------------------------------------------------------------

void* key_library = nullptr;  // where the thread's dispatch keys are; null if this torch does not have them there

// Dispatch modes, transforms, tracing and autocast all show in the thread's included and excluded dispatch keys: two
// words, zero by default. Words that is_plain() finds harmless (those of inference mode) are remembered.
bool keys_are_plain() {
  struct Words {
    uint64_t included, excluded;
  };
  thread_local const Words* words = nullptr;
  thread_local Words harmless[4] = {};
  thread_local int next = 0;
  if (key_library && !words)
    words = static_cast<const Words*>(dlsym(key_library, "_ZN3c104impl26raw_local_dispatch_key_setE"));
  if (words)
    for (const Words& w : harmless)
      if (w.included == words->included && w.excluded == words->excluded) return true;
  PyObject* answer = PyObject_CallNoArgs(hooks.is_plain);
  Py_XDECREF(answer);
  if (!answer) PyErr_Clear();
  if (answer == Py_True && words) harmless[next++ & 3] = *words;
  return answer == Py_True;
}

bool is_plain_state() {
  if (!keys_are_plain()) return false;
  PyObject* modes = PyObject_CallNoArgs(hooks.function_modes);
  if (!modes) {
    PyErr_Clear();
    return false;
  }
  bool none = PyLong_AsLong(modes) == 0;
  Py_DECREF(modes);
  PyObject* level = PyDict_GetItemWithError(hooks.forward_ad, names->current_level);
  PyObject* profiling = PyDict_GetItemWithError(hooks.profiler, names->is_profiler_enabled);
  return none && level && PyLong_AsLong(level) < 0 && profiling != Py_True;
}

bool torch_grad_enabled() {
  if (grad_mode) return grad_mode();
  PyObject* on = PyObject_CallNoArgs(hooks.is_grad_enabled);
  Py_XDECREF(on);
  return on == Py_True;
}

bool is_true(PyObject* result) {
  Py_XDECREF(result);
  if (!result) PyErr_Clear();
  return result == Py_True;
}
bool requires_grad(PyObject* t) { return is_true(PyObject_GetAttr(t, names->requires_grad)); }

// While our code runs for torch: nothing is recorded on our tape, and torch's threads do the work.
struct OnTorch {
  NoRecording quiet;
  UseTeam team{torch_team()};
};

// ---- tensors in --------------------------------------------------------------------------------------------------

enum class Loan { done, unusual, failed };

// The Tensors that stand for torch tensors during one call, on torch's memory. What an op writes to (batch_norm to its
// running statistics) counts as changed for torch too.
class Borrowed {
 public:
  explicit Borrowed(Py_ssize_t capacity) {
    if (capacity > kInline) {
      more_.resize(size_t(2 * capacity));
      seen_ = more_.data();
    }
    theirs_ = seen_ + (capacity > kInline ? capacity : kInline);
  }
  Borrowed(const Borrowed&) = delete;
  Borrowed& operator=(const Borrowed&) = delete;

  // A Tensor that an op kept (none does) must keep the torch tensor.
  ~Borrowed() {
    for (Py_ssize_t i = 0; i < count_; ++i) {
      if (!theirs_[i]) continue;
      Storage* s = storage(i);
      if (s->version.load(std::memory_order_relaxed)) note_change(theirs_[i]);
      if (Py_REFCNT(seen_[i]) > 1 || s->references.load(std::memory_order_relaxed) > 1) {
        s->owner = Py_NewRef(theirs_[i]);
        s->release = [](void* owner) {
          if (!Py_IsInitialized()) return;
          PyGILState_STATE state = PyGILState_Ensure();
          Py_DECREF(static_cast<PyObject*>(owner));
          PyGILState_Release(state);
        };
      }
      Py_DECREF(seen_[i]);
    }
  }

  Py_ssize_t count() const { return count_; }
  PyObject* const* args() const { return seen_; }
  PyObject* theirs(Py_ssize_t i) const { return theirs_[i]; }  // null where the argument is no tensor
  TensorObject* tensor(Py_ssize_t i) const { return as_tensor(seen_[i]); }

  void pass(PyObject* value) {
    seen_[count_] = value;
    theirs_[count_++] = nullptr;
  }

  Loan lend(PyObject* t, bool writable = true) {
    if (!is_torch(t) || is_true(PyObject_CallMethodNoArgs(t, names->is_neg))) return Loan::unusual;
    DLTensor d;
    if (exchange->borrow(t, &d)) {  // meta and sparse tensors, wrappers of transforms
      PyErr_Clear();
      return Loan::unusual;
    }
    std::optional<DType> dtype = dtype_from_dlpack(d.dtype);
    if (d.device.type != kDLCpu || !dtype) return Loan::unusual;
    try {
      Array a;
      read_layout(d, a);
      if (!a.data && a.numel()) return Loan::unusual;  // without memory of its own
      PyObject* tensor = wrap(Array::borrow(a.data, a.shape, a.strides, *dtype, writable, [](void*) {}, nullptr));
      if (!tensor) return Loan::failed;
      seen_[count_] = tensor;
      theirs_[count_++] = t;
    } catch (...) {
      set_python_error();
      return Loan::failed;
    }
    return Loan::done;
  }

  Loan lend_all(PyObject* const* objects, Py_ssize_t n) {
    for (Py_ssize_t i = 0; i < n; ++i) {
      PyObject* o = objects[i];
      if (is_torch(o)) {
        Loan loan = lend(o);
        if (loan != Loan::done) return loan;
      } else if (o == Py_None || PyFloat_Check(o) || PyLong_Check(o) || PyTuple_Check(o) || PyUnicode_Check(o)) {
        pass(o);
      } else {
        return Loan::unusual;
      }
    }
    return Loan::done;
  }

  // Whether it was made from these objects, and perhaps others after them.
  bool stand_for(PyObject* const* objects, Py_ssize_t n) const {
    if (n > count_) return false;
    for (Py_ssize_t i = 0; i < n; ++i)
      if (objects[i] != (theirs_[i] ? theirs_[i] : seen_[i])) return false;
    return true;
  }

  // The torch tensor with this memory and layout, borrowed; or `base` is set to one with this memory.
  PyObject* find(const Array& a, PyObject*& base, int64_t& offset) const {
    base = nullptr;
    for (Py_ssize_t i = 0; i < count_; ++i) {
      if (!theirs_[i]) continue;
      const Array& b = tensor(i)->array;
      if (!(a.storage == b.storage)) continue;
      if (a.data == b.data && a.same_layout(b)) return theirs_[i];
      base = theirs_[i];
      offset = (a.data - b.data) / int64_t(size_of(a.dtype));
    }
    return nullptr;
  }

 private:
  static constexpr Py_ssize_t kInline = 16;
  static void note_change(PyObject* t) {  // also beside an error
    PyObject *type, *value, *trace;
    PyErr_Fetch(&type, &value, &trace);
    Py_XDECREF(PyObject_CallOneArg(hooks.increment_version, t));
    PyErr_Clear();
    PyErr_Restore(type, value, trace);
  }
  Storage* storage(Py_ssize_t i) const { return tensor(i)->array.storage.operator->(); }

  Py_ssize_t count_ = 0;
  PyObject* inline_[2 * kInline];
  std::vector<PyObject*> more_;
  PyObject **seen_ = inline_, **theirs_;
};

// ---- results out -------------------------------------------------------------------------------------------------

PyObject* tuple_of(const Dims& dims) {
  PyObject* t = PyTuple_New(dims.n);
  for (int i = 0; t && i < dims.n; ++i) PyTuple_SET_ITEM(t, i, PyLong_FromLongLong(dims[i]));
  return t;
}

// A torch tensor for a Tensor: an input itself, a view of it, or a new one on our memory. Anything else as it is.
PyObject* give(PyObject* out, const Borrowed& inputs) {
  if (!is_tensor(out)) return Py_NewRef(out);
  const Array& a = as_tensor(out)->array;
  PyObject* base = nullptr;
  int64_t offset = 0;
  if (a.storage->release)
    if (PyObject* same = inputs.find(a, base, offset)) return Py_NewRef(same);
  if (base) {
    PyObject *shape = tuple_of(a.shape), *strides = tuple_of(a.strides), *step = PyLong_FromLongLong(offset);
    PyObject* view = nullptr;
    if (shape && strides && step) view = PyObject_CallFunctionObjArgs(hooks.view, base, shape, strides, step, nullptr);
    Py_XDECREF(shape);
    Py_XDECREF(strides);
    Py_XDECREF(step);
    return view;
  }
  DLManagedTensorVersioned* managed = export_versioned(a);
  void* result = nullptr;
  if (exchange->object_from_managed(managed, &result)) {
    managed->deleter(managed);
    return nullptr;
  }
  return static_cast<PyObject*>(result);
}

PyObject* give_all(PyObject* out, const Borrowed& inputs) {
  if (!out || !PyTuple_CheckExact(out)) {
    PyObject* result = out ? give(out, inputs) : nullptr;
    Py_XDECREF(out);
    return result;
  }
  Py_ssize_t n = PyTuple_GET_SIZE(out);
  PyObject* result = PyTuple_New(n);
  for (Py_ssize_t i = 0; result && i < n; ++i) {
    PyObject* item = give(PyTuple_GET_ITEM(out, i), inputs);
    if (item)
      PyTuple_SET_ITEM(result, i, item);
    else
      Py_CLEAR(result);
  }
  Py_DECREF(out);
  return result;
}

PyObject* as_python_tuple(PyObject* const* items, Py_ssize_t n) {
  PyObject* t = PyTuple_New(n);
  for (Py_ssize_t i = 0; t && i < n; ++i) PyTuple_SET_ITEM(t, i, Py_NewRef(items[i]));
  return t;
}

PyObject* call_unusual(OpObject* op, PyObject* const* args, Py_ssize_t nargs) {
  PyObject* tuple = as_python_tuple(args, nargs);
  if (!tuple) return nullptr;
  PyObject* out = PyObject_CallFunctionObjArgs(hooks.unusual, reinterpret_cast<PyObject*>(op), tuple, nullptr);
  Py_DECREF(tuple);
  return out;
}

bool resolve(OpObject* op) {
  PyObject* pair = PyObject_CallOneArg(hooks.resolve, reinterpret_cast<PyObject*>(op));
  if (!pair) return false;
  bool ok = PyTuple_CheckExact(pair) && PyTuple_GET_SIZE(pair) == 2;
  if (ok && !op->torch_apply) {
    op->torch_native = Py_NewRef(PyTuple_GET_ITEM(pair, 1));
    op->torch_apply = Py_NewRef(PyTuple_GET_ITEM(pair, 0));
  }
  Py_DECREF(pair);
  if (!ok) PyErr_SetString(PyExc_TypeError, "resolve() must return (apply, native)");
  return ok;
}

// ---- autograd ----------------------------------------------------------------------------------------------------

// What backward() will need goes to ctx: tensors by save_for_backward, so that torch sees changes in place and its
// hooks for saved tensors run; other values, with Ellipsis where the tensors belong, as ctx.saved_values.
bool save(PyObject* ctx, PyObject* saved, PyObject* record_outputs, PyObject* outputs, const Borrowed& inputs) {
  Py_ssize_t n = PyTuple_GET_SIZE(saved);
  Py_ssize_t count = 0, next = 0;
  for (Py_ssize_t i = 0; i < n; ++i) count += is_tensor(PyTuple_GET_ITEM(saved, i));
  PyObject *tensors = PyTuple_New(count), *values = PyTuple_New(n);
  bool ok = tensors && values, several = PyTuple_CheckExact(record_outputs);
  for (Py_ssize_t i = 0; ok && i < n; ++i) {
    PyObject* item = PyTuple_GET_ITEM(saved, i);
    PyTuple_SET_ITEM(values, i, Py_NewRef(is_tensor(item) ? Py_Ellipsis : item));
    if (!is_tensor(item)) continue;
    PyObject* t = nullptr;
    Py_ssize_t results = several ? PyTuple_GET_SIZE(record_outputs) : 1;
    for (Py_ssize_t k = 0; !t && k < results; ++k) {
      PyObject* out = several ? PyTuple_GET_ITEM(record_outputs, k) : record_outputs;
      if (out == item) t = Py_NewRef(several ? PyTuple_GET_ITEM(outputs, k) : outputs);
    }
    if (!t) t = give(item, inputs);
    PyTuple_SET_ITEM(tensors, next++, t);
    ok = t != nullptr;
  }
  PyObject* arguments = PyLong_FromSsize_t(inputs.count());
  ok = ok && arguments && PyObject_SetAttr(ctx, names->to_save, tensors) == 0 &&
       PyObject_SetAttr(ctx, names->saved_values, values) == 0 &&
       PyObject_SetAttr(ctx, names->arguments, arguments) == 0 &&
       (!several || PyObject_SetAttr(ctx, names->materialize_grads, Py_False) == 0);
  Py_XDECREF(arguments);
  Py_XDECREF(tensors);
  Py_XDECREF(values);
  return ok;
}

// record(): gives the outputs, and saves on ctx what backward() needs.
PyObject* forward_and_save(OpObject* op, PyObject* ctx, const Borrowed& inputs) {
  UseTeam guard(torch_team());
  PyObject* result = call_record(op, inputs.args(), inputs.count());
  if (!result) return nullptr;
  PyObject* recorded = PyTuple_GET_ITEM(result, 0);
  PyObject* outputs = give_all(Py_NewRef(recorded), inputs);
  if (outputs && !save(ctx, PyTuple_GET_ITEM(result, 1), recorded, outputs, inputs)) Py_CLEAR(outputs);
  Py_DECREF(result);
  return outputs;
}

// Tells record() which tensors require a gradient; whether one does.
bool mark_gradients(Borrowed& inputs) {
  bool any = false;
  for (Py_ssize_t i = 0; i < inputs.count(); ++i)
    if (inputs.theirs(i)) any |= inputs.tensor(i)->requires_grad = requires_grad(inputs.theirs(i));
  return any;
}

// From torch_call to the torch_forward that it causes, through torch: the tensors are lent once.
thread_local const Borrowed* handed_over = nullptr;

// The saved tuple as record() returned it; the tensors are lent by `loans`.
PyObject* restore(PyObject* values, PyObject* tensors, Borrowed& loans, Loan& loan) {
  Py_ssize_t n = PyTuple_GET_SIZE(values), next = 0;
  PyObject* saved = PyTuple_New(n);
  loan = saved ? Loan::done : Loan::failed;
  for (Py_ssize_t i = 0; loan == Loan::done && i < n; ++i) {
    PyObject* v = PyTuple_GET_ITEM(values, i);
    if (v == Py_Ellipsis) {
      loan = loans.lend(PyTuple_GET_ITEM(tensors, next++), false);  // backward() may run again on them
      if (loan == Loan::done) v = loans.args()[loans.count() - 1];
    }
    PyTuple_SET_ITEM(saved, i, Py_NewRef(v));
  }
  if (loan != Loan::done) Py_CLEAR(saved);
  return saved;
}

// backward() may ask about arguments that torch did not see (see torch_call): they need no gradient.
PyObject* pad_needs(PyObject* needs, Py_ssize_t n) {
  Py_ssize_t have = PyTuple_GET_SIZE(needs);
  if (have >= n) return Py_NewRef(needs);
  PyObject* out = PyTuple_New(n);
  for (Py_ssize_t i = 0; out && i < n; ++i)
    PyTuple_SET_ITEM(out, i, Py_NewRef(i < have ? PyTuple_GET_ITEM(needs, i) : Py_False));
  return out;
}

// One gradient per argument: backward() returns those of the leading ones.
PyObject* pad(PyObject* grads, Py_ssize_t n) {
  if (!grads) return nullptr;
  bool tuple = PyTuple_CheckExact(grads);
  Py_ssize_t have = tuple ? PyTuple_GET_SIZE(grads) : 1;
  if (tuple && have == n) return grads;
  PyObject* out = PyTuple_New(n);
  for (Py_ssize_t i = 0; out && i < n; ++i) {
    PyObject* g = i >= have ? Py_None : tuple ? PyTuple_GET_ITEM(grads, i) : grads;
    PyTuple_SET_ITEM(out, i, Py_NewRef(g));
  }
  Py_DECREF(grads);
  return out;
}

PyObject* run_torch_backward(OpObject* op, PyObject* needs, Py_ssize_t arguments, PyObject* values, PyObject* tensors,
                             PyObject* const* grads, Py_ssize_t count, bool guarded) {
  bool any = false;  // outputs that nothing depends on have no gradient
  for (Py_ssize_t i = 0; i < count; ++i) any |= grads[i] != Py_None;
  if (!any) return pad(Py_NewRef(Py_None), PyTuple_GET_SIZE(needs));
  Borrowed loans(PyTuple_GET_SIZE(tensors) + count);
  Loan loan = Loan::done;
  for (Py_ssize_t i = 0; loan == Loan::done && i < count; ++i) {
    if (grads[i] == Py_None)
      loans.pass(Py_None);
    else
      loan = loans.lend(grads[i]);
  }
  PyObject* saved = nullptr;
  if (loan == Loan::done && (!guarded || keys_are_plain()))
    saved = restore(values, tensors, loans, loan);
  else if (loan == Loan::done)
    loan = Loan::unusual;
  if (loan == Loan::failed) return nullptr;
  if (loan == Loan::unusual && !guarded)
    return PyErr_Format(PyExc_NotImplementedError, "%U: the gradient needs strided CPU tensors", op->name);
  if (loan == Loan::unusual) {
    PyObject *g = as_python_tuple(grads, count), *all = g ? pad_needs(needs, arguments) : nullptr;
    PyObject* out = all ? PyObject_CallFunctionObjArgs(hooks.backward, reinterpret_cast<PyObject*>(op), all, values,
                                                       tensors, g, nullptr)
                        : nullptr;
    Py_XDECREF(all);
    Py_XDECREF(g);
    return out;
  }
  PyObject* all_needs = pad_needs(needs, arguments);
  PyObject* ctx = all_needs ? make_context(op, saved, all_needs) : nullptr;
  if (!all_needs) Py_DECREF(saved);
  PyObject* grad = !ctx ? nullptr : count == 1 ? Py_NewRef(loans.args()[0]) : as_python_tuple(loans.args(), count);
  PyObject* result = nullptr;
  if (grad) {
    OnTorch guard;
    PyObject* args[2] = {ctx, grad};
    result = PyObject_Vectorcall(op->backward, args, 2, nullptr);
  }
  Py_XDECREF(grad);
  Py_XDECREF(ctx);
  result = pad(give_all(result, loans), PyTuple_GET_SIZE(needs));
  if (result && torch_grad_enabled())
    Py_SETREF(result, PyObject_CallFunctionObjArgs(hooks.only_once, reinterpret_cast<PyObject*>(op), result, nullptr));
  return result;
}

}  // namespace

PyObject* torch_call(OpObject* op, PyObject* const* args, Py_ssize_t nargs) {
  if (!op->torch_apply && !resolve(op)) return nullptr;
  if (op->torch_native != Py_None) return PyObject_Vectorcall(op->torch_native, args, size_t(nargs), nullptr);
  if (!is_plain_state()) return call_unusual(op, args, nargs);
  Borrowed inputs(nargs);
  Loan loan = inputs.lend_all(args, nargs);
  if (loan == Loan::failed) return nullptr;
  if (loan == Loan::unusual) return call_unusual(op, args, nargs);
  if (op->torch_apply != Py_None && torch_grad_enabled() && mark_gradients(inputs)) {
    // Plain values after the last tensor do not concern torch, which takes 0.2 us for each; handed_over has them.
    Py_ssize_t n = nargs;
    while (!inputs.theirs(n - 1) && args[n - 1] != Py_None) --n;
    handed_over = &inputs;
    PyObject* out = PyObject_Vectorcall(op->torch_apply, args, size_t(n), nullptr);
    handed_over = nullptr;
    return out;
  }
  OnTorch guard;
  return give_all(PyObject_Vectorcall(op->forward, inputs.args(), size_t(nargs), nullptr), inputs);
}

PyObject* torch_run(PyObject* self, PyObject* const* args, Py_ssize_t nargs) {
  auto* op = reinterpret_cast<OpObject*>(self);
  Borrowed inputs(nargs);
  Loan loan = inputs.lend_all(args, nargs);
  if (loan == Loan::unusual)
    PyErr_Format(PyExc_NotImplementedError, "%U: expected strided CPU tensors and plain values", op->name);
  if (loan != Loan::done) return nullptr;
  OnTorch guard;
  return give_all(PyObject_Vectorcall(op->forward, inputs.args(), size_t(nargs), nullptr), inputs);
}

PyObject* torch_forward(PyObject* self, PyObject* const* args, Py_ssize_t nargs) {
  auto* op = reinterpret_cast<OpObject*>(self);
  if (nargs < 1) return PyErr_Format(PyExc_TypeError, "%U: torch_forward takes ctx and the arguments", op->name);
  const Borrowed* given = std::exchange(handed_over, nullptr);
  if (given && given->stand_for(args + 1, nargs - 1)) return forward_and_save(op, args[0], *given);
  Borrowed inputs(nargs - 1);
  Loan loan = inputs.lend_all(args + 1, nargs - 1);
  if (loan == Loan::unusual)
    PyErr_Format(PyExc_NotImplementedError, "%U: expected strided CPU tensors and plain values", op->name);
  if (loan != Loan::done) return nullptr;
  mark_gradients(inputs);
  return forward_and_save(op, args[0], inputs);
}

PyObject* torch_backward(PyObject* self, PyObject* const* args, Py_ssize_t nargs) {
  auto* op = reinterpret_cast<OpObject*>(self);
  if (nargs < 2) return PyErr_Format(PyExc_TypeError, "%U: torch_backward takes ctx and gradients", op->name);
  PyObject* values = PyObject_GetAttr(args[0], names->saved_values);
  PyObject* tensors = values ? PyObject_GetAttr(args[0], names->saved_tensors) : nullptr;
  PyObject* needs = tensors ? PyObject_GetAttr(args[0], names->needs_input_grad) : nullptr;
  PyObject* count = needs ? PyObject_GetAttr(args[0], names->arguments) : nullptr;
  PyObject* result = nullptr;
  if (count)
    result = run_torch_backward(op, needs, PyLong_AsSsize_t(count), values, tensors, args + 1, nargs - 1, true);
  Py_XDECREF(count);
  Py_XDECREF(values);
  Py_XDECREF(tensors);
  Py_XDECREF(needs);
  return result;
}

PyObject* torch_run_backward(PyObject* self, PyObject* const* args, Py_ssize_t nargs) {
  auto* op = reinterpret_cast<OpObject*>(self);
  if (nargs < 4 || !PyTuple_Check(args[0]) || !PyTuple_Check(args[1]) || !PyTuple_Check(args[2]))
    return PyErr_Format(PyExc_TypeError, "%U: torch_run_backward takes needs, values, tensors and gradients", op->name);
  return run_torch_backward(op, args[0], PyTuple_GET_SIZE(args[0]), args[1], args[2], args + 3, nargs - 3, false);
}

bool attach_torch(PyObject* module) {
  static Names* n = new Names;
  names = n;
  auto get = [&](const char* name) { return PyObject_GetAttrString(module, name); };
  PyObject* capsule = get("exchange");
  PyObject* tensor = capsule ? get("Tensor") : nullptr;
  PyObject* parameter = tensor ? get("Parameter") : nullptr;
  if (!parameter) return false;
  auto* api = static_cast<const DLExchange*>(PyCapsule_GetPointer(capsule, "dlpack_exchange_api"));
  if (!api) return false;
  if (api->header.version.major != 1) {
    PyErr_Format(PyExc_ImportError, "torch's DLPack exchange has version %u; expected 1", api->header.version.major);
    return false;
  }
  hooks = {get("resolve"),    get("unusual"),  get("unusual_backward"), get("only_once"),
           get("view"),       get("is_plain"), get("function_modes"),   get("is_grad_enabled"),
           get("forward_ad"), get("profiler"), get("increment_version")};
  PyObject *keys = get("key_library"), *cpu = get("cpu_library");
  if (PyErr_Occurred()) return false;
  auto open = [](PyObject* path) {
    return PyUnicode_Check(path) ? dlopen(PyUnicode_AsUTF8(path), RTLD_LAZY | RTLD_NOLOAD) : nullptr;
  };
  key_library = open(keys);
  if (void* library = open(cpu))
    grad_mode = reinterpret_cast<bool (*)()>(dlsym(library, "aoti_torch_grad_mode_is_enabled"));
  exchange = api;
  torch_parameter = reinterpret_cast<PyTypeObject*>(parameter);
  torch_tensor = reinterpret_cast<PyTypeObject*>(tensor);
  return true;
}

}  // namespace fastnn::python
