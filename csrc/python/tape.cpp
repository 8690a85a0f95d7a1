#include "tape.h"

#include <queue>
#include <vector>

#include "tensor.h"
#include "torch.h"

namespace fastnn::python {
namespace {

thread_local bool recording = true;

PyObject *foreign_handler = nullptr, *accumulate_add = nullptr, *accumulate_in_place = nullptr, *make_copy = nullptr;
thread_local PyObject* leaf_list = nullptr;
PyTypeObject *op_type = nullptr, *node_type = nullptr;

struct Edge {
  PyObject* target;  // a Node, or a leaf Tensor; null where no gradient is needed
  int index;         // output of the Node
};

struct Saved {
  Py_ssize_t position;  // in the saved tuple
  int64_t version;
};

struct NodeState {
  std::vector<Edge> edges;
  std::vector<Saved> versions;
  std::vector<PyObject*> pending;  // gradients of the outputs, during run_backward
};

struct NodeObject {
  PyObject_HEAD OpObject* op;
  PyObject *saved, *needs;
  uint64_t sequence;  // nodes run in falling order: every consumer was recorded later
  bool queued, used;
  NodeState* state;
};

uint64_t next_sequence = 0;  // under the GIL

// ---- Node ------------------------------------------------------------------------------------------------------

void node_destroy(NodeObject* self) {
  Py_CLEAR(self->saved);
  Py_CLEAR(self->needs);
  Py_CLEAR(self->op);
  if (self->state) {
    for (Edge& e : self->state->edges) Py_XDECREF(e.target);
    for (PyObject* g : self->state->pending) Py_XDECREF(g);
    delete self->state;
  }
  PyTypeObject* type = Py_TYPE(self);
  type->tp_free(self);
  Py_DECREF(type);
}

// Destroying a node releases the nodes before it; a list instead of recursion, so that no graph is too deep.
void node_dealloc(PyObject* o) {
  thread_local std::vector<NodeObject*> doomed;
  thread_local bool destroying = false;
  doomed.push_back(reinterpret_cast<NodeObject*>(o));
  if (destroying) return;
  destroying = true;
  while (!doomed.empty()) {
    NodeObject* n = doomed.back();
    doomed.pop_back();
    node_destroy(n);
  }
  destroying = false;
}

PyObject* node_saved(PyObject* o, void*) {
  auto* self = reinterpret_cast<NodeObject*>(o);
  if (!self->saved) {
    PyErr_Format(
        PyExc_RuntimeError,
        "backward: the values that %U saved have been freed by an earlier backward(); run the forward pass again",
        self->op->name);
    return nullptr;
  }
  return Py_NewRef(self->saved);
}
PyObject* node_needs(PyObject* o, void*) { return Py_NewRef(reinterpret_cast<NodeObject*>(o)->needs); }
PyObject* node_name(PyObject* o, void*) { return Py_NewRef(reinterpret_cast<NodeObject*>(o)->op->name); }
PyObject* node_repr(PyObject* o) {
  return PyUnicode_FromFormat("<Node %U>", reinterpret_cast<NodeObject*>(o)->op->name);
}

PyGetSetDef node_getset[] = {{"saved", node_saved, nullptr, "What record() saved for backward().", nullptr},
                             {"needs_input_grad", node_needs, nullptr, "One bool per argument of the call.", nullptr},
                             {"name", node_name, nullptr, "Name of the operation.", nullptr},
                             {}};
PyType_Slot node_slots[] = {{Py_tp_dealloc, reinterpret_cast<void*>(node_dealloc)},
                            {Py_tp_getset, node_getset},
                            {Py_tp_repr, reinterpret_cast<void*>(node_repr)},
                            {0, nullptr}};
PyType_Spec node_spec = {"fastnn._C.Node", sizeof(NodeObject), 0,
                         Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION, node_slots};

// ---- recording ---------------------------------------------------------------------------------------------------

// `outputs` is what record() returned: a tensor or a tuple of them. Attaches the new node to each floating output.
// The tensors in `saved` that are outputs are replaced by aliases, since node -> saved -> output -> node is a cycle.
bool attach(OpObject* op, PyObject* const* args, Py_ssize_t nargs, PyObject*& outputs, PyObject* saved) {
  auto* node = reinterpret_cast<NodeObject*>(node_type->tp_alloc(node_type, 0));
  if (!node) return false;
  node->op = reinterpret_cast<OpObject*>(Py_NewRef(reinterpret_cast<PyObject*>(op)));
  node->saved = Py_NewRef(saved);
  node->needs = PyTuple_New(nargs);
  node->state = new NodeState;
  node->sequence = next_sequence++;
  node->state->edges.resize(size_t(nargs));
  for (Py_ssize_t i = 0; i < nargs; ++i) {
    bool needs = is_tensor(args[i]) && as_tensor(args[i])->requires_grad;
    PyTuple_SET_ITEM(node->needs, i, Py_NewRef(needs ? Py_True : Py_False));
    Edge& e = node->state->edges[size_t(i)];
    if (!needs) continue;
    TensorObject* t = as_tensor(args[i]);
    e = {Py_NewRef(t->node ? t->node : args[i]), t->output_index};
  }
  bool several = PyTuple_Check(outputs);
  Py_ssize_t count = several ? PyTuple_GET_SIZE(outputs) : 1;
  node->state->pending.resize(size_t(count));
  bool ok = true;
  for (Py_ssize_t i = 0; i < count; ++i) {
    PyObject* out = several ? PyTuple_GET_ITEM(outputs, i) : outputs;
    if (!is_tensor(out) || !is_float(as_tensor(out)->array.dtype)) continue;
    // An op that hands an argument through (or a saved tensor) must not put its history on that object.
    bool shared = as_tensor(out)->node || as_tensor(out)->requires_grad;
    for (Py_ssize_t k = 0; k < nargs; ++k) shared |= args[k] == out;
    if (shared) {
      PyObject* fresh = alias(out);
      if (!fresh)
        ok = false;
      else if (several)
        PyTuple_SetItem(outputs, i, fresh);
      else
        Py_SETREF(outputs, fresh);
      if (!ok) break;
      out = fresh;
    }
    as_tensor(out)->requires_grad = true;
    as_tensor(out)->output_index = int(i);
    as_tensor(out)->node = Py_NewRef(reinterpret_cast<PyObject*>(node));
  }
  for (Py_ssize_t k = 0; ok && k < PyTuple_GET_SIZE(saved); ++k) {
    PyObject* s = PyTuple_GET_ITEM(saved, k);
    if (!is_tensor(s)) continue;
    if (as_tensor(s)->node == reinterpret_cast<PyObject*>(node)) {
      PyObject* fresh = alias(s);
      if (!fresh)
        ok = false;
      else {
        PyTuple_SET_ITEM(saved, k, fresh);
        Py_DECREF(s);
        s = fresh;
      }
      if (!ok) break;
    }
    node->state->versions.push_back({k, as_tensor(s)->array.storage->version.load(std::memory_order_relaxed)});
  }
  Py_DECREF(node);
  return ok;
}

PyObject* call_recorded(OpObject* op, PyObject* const* args, Py_ssize_t nargs) {
  PyObject* result = call_record(op, args, nargs);
  if (!result) return nullptr;
  PyObject* outputs = Py_NewRef(PyTuple_GET_ITEM(result, 0));
  PyObject* saved = Py_NewRef(PyTuple_GET_ITEM(result, 1));
  Py_DECREF(result);
  bool ok = attach(op, args, nargs, outputs, saved);
  Py_DECREF(saved);
  if (!ok) Py_CLEAR(outputs);
  return outputs;
}

// Replaces a tensor, or each tensor of a tuple, by a numpy array on the same memory.
PyObject* outputs_to_numpy(PyObject* out) {
  if (!out) return nullptr;
  PyObject* result = nullptr;
  if (is_tensor(out)) {
    result = to_numpy(out);
  } else if (PyTuple_Check(out)) {
    Py_ssize_t n = PyTuple_GET_SIZE(out);
    result = PyTuple_New(n);
    for (Py_ssize_t i = 0; result && i < n; ++i) {
      PyObject* item = PyTuple_GET_ITEM(out, i);
      PyObject* converted = is_tensor(item) ? to_numpy(item) : Py_NewRef(item);
      if (!converted)
        Py_CLEAR(result);
      else
        PyTuple_SET_ITEM(result, i, converted);
    }
  } else {
    return out;
  }
  Py_DECREF(out);
  return result;
}

PyObject* call_with_tensors(OpObject* op, PyObject* const* args, Py_ssize_t nargs, bool record) {
  if (record) return call_recorded(op, args, nargs);
  if (!recording) return PyObject_Vectorcall(op->forward, args, size_t(nargs), nullptr);
  NoRecording guard;  // forward may be Python that calls other ops
  return PyObject_Vectorcall(op->forward, args, size_t(nargs), nullptr);
}

// A call with numpy arrays among the arguments. Out of line: the frame that it needs would slow down other calls.
__attribute__((noinline)) PyObject* call_with_numpy(OpObject* op, PyObject* const* args, Py_ssize_t nargs, bool record,
                                                    bool first_is_numpy) {
  struct Moved {  // to the implicit device
    Array host, device;
    int64_t version;
  };
  std::vector<PyObject*> converted(size_t(nargs), nullptr), owned;
  std::vector<Moved> moved;
  bool ok = true;
  for (Py_ssize_t i = 0; ok && i < nargs; ++i) {
    converted[size_t(i)] = args[i];
    if (Py_TYPE(args[i]) == tensor_type || !is_numpy(args[i])) continue;
    PyObject* t = from_numpy(args[i]);
    if (t && implicit_device.on_cuda()) [[unlikely]] {
      Array array = as_tensor(t)->array;  // without the GIL it must be ours
      Py_SETREF(t, move_to(array, implicit_device));
      if (t) {
        const Array& there = as_tensor(t)->array;
        if (there.storage) moved.push_back({array, there, there.storage->version.load()});
      }
    }
    if (!t)
      ok = false;
    else
      owned.push_back(converted[size_t(i)] = t);
  }
  PyObject* out = ok ? call_with_tensors(op, converted.data(), nargs, record) : nullptr;
  try {
    for (Moved& m : moved)  // what the op wrote to comes back
      if (out && m.device.storage->version.load() != m.version) copy(m.device, m.host);
  } catch (...) {
    set_python_error();
    Py_CLEAR(out);
  }
  if (out && first_is_numpy && !record) out = outputs_to_numpy(out);
  for (PyObject* t : owned) Py_DECREF(t);
  return out;
}

PyObject* op_call(PyObject* self, PyObject* const* args, size_t nargsf, PyObject* keywords) {
  auto* op = reinterpret_cast<OpObject*>(self);
  Py_ssize_t nargs = PyVectorcall_NARGS(nargsf);
  if (keywords && PyTuple_GET_SIZE(keywords)) {
    PyErr_Format(PyExc_TypeError, "%U: operations take positional arguments only", op->name);
    return nullptr;
  }
  bool needs_grad = false, numpy = false, foreign = false, first_is_numpy = false, seen = false;
  for (Py_ssize_t i = 0; i < nargs; ++i) {
    PyObject* a = args[i];
    PyTypeObject* type = Py_TYPE(a);
    if (is_torch(a)) return torch_call(op, args, nargs);
    if (type == tensor_type || is_tensor(a)) {
      needs_grad |= as_tensor(a)->requires_grad;
      seen = true;
    } else if (a == Py_None || type == &PyLong_Type || type == &PyFloat_Type || type == &PyBool_Type ||
               type == &PyUnicode_Type || type == &PyTuple_Type) {
      continue;
    } else if (is_dtype(a)) {
      continue;
    } else if (is_numpy(a)) {
      numpy = true;
      first_is_numpy |= !seen;
      seen = true;
    } else {
      foreign = true;
    }
  }
  bool record = needs_grad && recording && op->record != Py_None;
  if (!numpy && !foreign) return call_with_tensors(op, args, nargs, record);
  if (foreign) {
    if (foreign_handler) {
      PyObject* tuple = PyTuple_New(nargs);
      if (!tuple) return nullptr;
      for (Py_ssize_t i = 0; i < nargs; ++i) PyTuple_SET_ITEM(tuple, i, Py_NewRef(args[i]));
      PyObject* out = PyObject_CallFunctionObjArgs(foreign_handler, self, tuple, nullptr);
      Py_DECREF(tuple);
      return out;
    }
    PyErr_Format(PyExc_TypeError, "%U: unsupported argument type", op->name);
    return nullptr;
  }
  return call_with_numpy(op, args, nargs, record, first_is_numpy);
}

PyObject* op_new(PyTypeObject* type, PyObject* args, PyObject* keywords) {
  PyObject *name, *forward, *record = Py_None, *backward = Py_None;
  static const char* names[] = {"name", "forward", "record", "backward", nullptr};
  if (!PyArg_ParseTupleAndKeywords(args, keywords, "UO|OO:Op", const_cast<char**>(names), &name, &forward, &record,
                                   &backward))
    return nullptr;
  auto* self = reinterpret_cast<OpObject*>(type->tp_alloc(type, 0));
  if (!self) return nullptr;
  self->vectorcall = op_call;
  self->name = Py_NewRef(name);
  self->forward = Py_NewRef(forward);
  self->record = Py_NewRef(record);
  self->backward = Py_NewRef(backward);
  return reinterpret_cast<PyObject*>(self);
}

void op_dealloc(PyObject* o) {
  auto* self = reinterpret_cast<OpObject*>(o);
  Py_XDECREF(self->name);
  Py_XDECREF(self->forward);
  Py_XDECREF(self->record);
  Py_XDECREF(self->backward);
  Py_XDECREF(self->torch_apply);
  Py_XDECREF(self->torch_native);
  Py_XDECREF(self->traced);
  PyTypeObject* type = Py_TYPE(o);
  type->tp_free(o);
  Py_DECREF(type);
}

// An Op that is an attribute of a class is a method: Tensor.__add__ = add costs no Python frame.
PyObject* op_get(PyObject* self, PyObject* object, PyObject*) {
  return object && object != Py_None ? PyMethod_New(self, object) : Py_NewRef(self);
}

PyMethodDef op_methods[] = {
    {"torch_forward", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(torch_forward)), METH_FASTCALL,
     "torch_forward(ctx, *args): the forward() of a torch.autograd.Function."},
    {"torch_backward", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(torch_backward)), METH_FASTCALL,
     "torch_backward(ctx, *grads): the backward() of a torch.autograd.Function."},
    {"torch_run", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(torch_run)), METH_FASTCALL,
     "torch_run(*args): forward() of torch tensors, with nothing recorded and no mode looked at."},
    {"torch_run_backward", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(torch_run_backward)),
     METH_FASTCALL, "torch_run_backward(needs, values, tensors, *grads): one gradient or None per argument."},
    {}};
PyMemberDef op_members[] = {{"__vectorcalloffset__", T_PYSSIZET, offsetof(OpObject, vectorcall), READONLY, nullptr},
                            {"name", T_OBJECT, offsetof(OpObject, name), READONLY, nullptr},
                            {"forward", T_OBJECT, offsetof(OpObject, forward), READONLY, nullptr},
                            {"record", T_OBJECT, offsetof(OpObject, record), READONLY, nullptr},
                            {"backward", T_OBJECT, offsetof(OpObject, backward), READONLY, nullptr},
                            {"traced", T_OBJECT, offsetof(OpObject, traced), 0, nullptr},
                            {}};
PyType_Slot op_slots[] = {{Py_tp_new, reinterpret_cast<void*>(op_new)},
                          {Py_tp_dealloc, reinterpret_cast<void*>(op_dealloc)},
                          {Py_tp_call, reinterpret_cast<void*>(PyVectorcall_Call)},
                          {Py_tp_descr_get, reinterpret_cast<void*>(op_get)},
                          {Py_tp_methods, op_methods},
                          {Py_tp_members, op_members},
                          {0, nullptr}};
PyType_Spec op_spec = {"fastnn._C.Op", sizeof(OpObject), 0,
                       Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_VECTORCALL | Py_TPFLAGS_METHOD_DESCRIPTOR, op_slots};

// ---- backward ----------------------------------------------------------------------------------------------------

// slot += g; takes over the reference g.
bool add_pending(PyObject*& slot, PyObject* g) {
  if (!slot) {
    slot = g;
    return true;
  }
  PyObject* total = PyObject_CallFunctionObjArgs(accumulate_add, slot, g, nullptr);
  Py_DECREF(g);
  if (!total) return false;
  Py_SETREF(slot, total);
  return true;
}

// (leaf, whether it had a gradient) goes to the list of record_leaves(), if there is one.
bool note_leaf(TensorObject* leaf) {
  if (!leaf_list) [[likely]]
    return true;
  PyObject* entry = PyTuple_Pack(2, reinterpret_cast<PyObject*>(leaf), leaf->grad ? Py_True : Py_False);
  const bool ok = entry && PyList_Append(leaf_list, entry) == 0;
  Py_XDECREF(entry);
  return ok;
}

// leaf.grad += g; takes over the reference g. A first gradient that nobody else holds is kept as it is.
bool add_to_leaf(TensorObject* leaf, PyObject* g) {
  const Array& a = as_tensor(g)->array;
  if (!(a.shape == leaf->array.shape) || a.dtype != leaf->array.dtype) {
    PyErr_Format(PyExc_RuntimeError,
                 "backward: gradient of shape %s and dtype %s for a tensor of shape %s and dtype %s",
                 to_text(a.shape).c_str(), name(a.dtype), to_text(leaf->array.shape).c_str(), name(leaf->array.dtype));
    Py_DECREF(g);
    return false;
  }
  if (!note_leaf(leaf)) {
    Py_DECREF(g);
    return false;
  }
  PyObject* made;
  if (leaf->grad) {
    made = PyObject_CallFunctionObjArgs(accumulate_in_place, leaf->grad, g, nullptr);
    Py_DECREF(g);
    Py_XDECREF(made);
    return made != nullptr;
  }
  bool sole = Py_REFCNT(g) == 1 && a.storage->references.load() == 1 && !a.storage->release && a.is_dense();
  if (sole) {
    leaf->grad = g;
    return true;
  }
  made = PyObject_CallFunctionObjArgs(make_copy, g, nullptr);
  Py_DECREF(g);
  leaf->grad = made;
  return made != nullptr;
}

struct Later {
  bool operator()(NodeObject* a, NodeObject* b) const { return a->sequence < b->sequence; }
};
using Queue = std::priority_queue<NodeObject*, std::vector<NodeObject*>, Later>;

// Hands g (its reference is taken over) to what an edge points at.
bool deliver(Queue& queue, PyObject* target, int index, PyObject* g) {
  if (Py_TYPE(target) != node_type) return add_to_leaf(as_tensor(target), g);
  auto* n = reinterpret_cast<NodeObject*>(target);
  if (!add_pending(n->state->pending[size_t(index)], g)) return false;
  if (!n->queued) {
    n->queued = true;
    queue.push(reinterpret_cast<NodeObject*>(Py_NewRef(target)));
  }
  return true;
}

bool check_saved(NodeObject* n) {
  if (n->used) {
    PyErr_Format(PyExc_RuntimeError,
                 "backward: %U was already differentiated and its saved values are freed; run the forward pass again",
                 n->op->name);
    return false;
  }
  for (const Saved& s : n->state->versions) {
    const Array& a = as_tensor(PyTuple_GET_ITEM(n->saved, s.position))->array;
    if (a.storage->version.load(std::memory_order_relaxed) != s.version) {
      PyErr_Format(PyExc_RuntimeError,
                   "backward: a tensor of shape %s that %U needs was changed in place after it was used; change a copy",
                   to_text(a.shape).c_str(), n->op->name);
      return false;
    }
  }
  return true;
}

bool run_node(Queue& queue, NodeObject* n) {
  if (!check_saved(n)) return false;
  auto& pending = n->state->pending;
  PyObject* grad;
  if (pending.size() == 1) {
    grad = pending[0];
    pending[0] = nullptr;
  } else {
    grad = PyTuple_New(Py_ssize_t(pending.size()));
    for (size_t i = 0; grad && i < pending.size(); ++i) {
      PyTuple_SET_ITEM(grad, i, pending[i] ? pending[i] : Py_NewRef(Py_None));
      pending[i] = nullptr;
    }
  }
  if (!grad) return false;
  PyObject* args[2] = {reinterpret_cast<PyObject*>(n), grad};
  PyObject* result = PyObject_Vectorcall(n->op->backward, args, 2, nullptr);
  Py_DECREF(grad);
  if (!result) return false;
  n->used = true;
  Py_CLEAR(n->saved);
  bool ok = true;
  bool tuple = PyTuple_CheckExact(result);
  Py_ssize_t count = tuple ? PyTuple_GET_SIZE(result) : 1;
  auto& edges = n->state->edges;
  // The tuple is emptied as its items are handed on, so that a leaf can see that it is the only holder.
  for (Py_ssize_t i = 0; ok && i < count; ++i) {
    PyObject* g = tuple ? PyTuple_GET_ITEM(result, i) : result;
    if (size_t(i) >= edges.size() || !edges[size_t(i)].target || g == Py_None) continue;
    if (!is_tensor(g)) {
      PyErr_Format(PyExc_TypeError, "%U: backward() returned %s, expected a Tensor", n->op->name, Py_TYPE(g)->tp_name);
      ok = false;
      break;
    }
    if (tuple)
      PyTuple_SET_ITEM(result, i, Py_NewRef(Py_None));
    else
      result = nullptr;
    ok = deliver(queue, edges[size_t(i)].target, edges[size_t(i)].index, g);
  }
  Py_XDECREF(result);
  return ok;
}

}  // namespace

bool grad_enabled() { return recording; }
bool set_grad_enabled(bool on) {
  bool was = recording;
  recording = on;
  return was;
}

PyObject* call_record(OpObject* op, PyObject* const* args, Py_ssize_t nargs) {
  NoRecording guard;
  PyObject* result = PyObject_Vectorcall(op->record, args, size_t(nargs), nullptr);
  if (!result) return nullptr;
  if (PyTuple_CheckExact(result) && PyTuple_GET_SIZE(result) == 2 && PyTuple_Check(PyTuple_GET_ITEM(result, 1)))
    return result;
  Py_DECREF(result);
  PyErr_Format(PyExc_TypeError, "%U: record() must return (outputs, saved tuple)", op->name);
  return nullptr;
}

PyObject* make_context(OpObject* op, PyObject* saved, PyObject* needs_input_grad) {
  auto* node = reinterpret_cast<NodeObject*>(node_type->tp_alloc(node_type, 0));
  if (!node) {
    Py_XDECREF(saved);
    Py_XDECREF(needs_input_grad);
    return nullptr;
  }
  node->op = reinterpret_cast<OpObject*>(Py_NewRef(reinterpret_cast<PyObject*>(op)));
  node->saved = saved;
  node->needs = needs_input_grad;
  return reinterpret_cast<PyObject*>(node);
}

PyObject* run_backward(PyObject* tensor, PyObject* gradient) {
  TensorObject* root = as_tensor(tensor);
  if (!root->requires_grad) {
    PyErr_SetString(PyExc_RuntimeError, "backward: the tensor does not require a gradient and nothing was recorded");
    return nullptr;
  }
  NoRecording guard;
  Queue queue;
  bool ok = deliver(queue, root->node ? root->node : tensor, root->output_index, Py_NewRef(gradient));
  while (!queue.empty()) {
    NodeObject* n = queue.top();
    queue.pop();
    n->queued = false;
    if (ok) ok = run_node(queue, n);
    for (PyObject*& g : n->state->pending) Py_CLEAR(g);
    Py_DECREF(n);
  }
  if (ok) Py_RETURN_NONE;
  if (!PyErr_Occurred())
    PyErr_SetString(PyExc_RuntimeError, "backward: two threads differentiated the same graph at once");
  return nullptr;
}

void set_foreign_handler(PyObject* handler) { Py_XSETREF(foreign_handler, Py_NewRef(handler)); }
PyObject* record_leaves(PyObject* list) {
  PyObject* before = leaf_list ? leaf_list : Py_NewRef(Py_None);
  leaf_list = list == Py_None ? nullptr : Py_NewRef(list);
  return before;
}

void set_accumulate(PyObject* add, PyObject* add_in_place, PyObject* copy) {
  Py_XSETREF(accumulate_add, Py_NewRef(add));
  Py_XSETREF(accumulate_in_place, Py_NewRef(add_in_place));
  Py_XSETREF(make_copy, Py_NewRef(copy));
}

bool add_tape_types(PyObject* module) {
  op_type = reinterpret_cast<PyTypeObject*>(PyType_FromSpec(&op_spec));
  node_type = reinterpret_cast<PyTypeObject*>(PyType_FromSpec(&node_spec));
  return op_type && node_type && PyModule_AddObjectRef(module, "Op", reinterpret_cast<PyObject*>(op_type)) == 0 &&
         PyModule_AddObjectRef(module, "Node", reinterpret_cast<PyObject*>(node_type)) == 0;
}

}  // namespace fastnn::python
