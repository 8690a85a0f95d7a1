// The tape: Op, a callable that runs an operation on tensors or numpy arrays and records it when a gradient is asked
// for, and Node, one recorded call.
//
//   op = _C.Op(name, forward, record, backward)
//   forward(*args) -> output(s)                     called when nothing is recorded
//   record(*args)  -> (output(s), saved tuple)      called when an argument requires a gradient
//   backward(ctx, grad) -> gradient or tuple of gradients of the leading arguments; None where there is none
//                          ctx.saved is the tuple, ctx.needs_input_grad a tuple of bool, one per argument;
//                          grad is a tuple (with None) when there are several outputs
#pragma once
#include <Python.h>
#include <structmember.h>

namespace fastnn::python {

struct OpObject {
  PyObject_HEAD vectorcallfunc vectorcall;
  PyObject *name, *forward, *record, *backward;
  PyObject *torch_apply, *torch_native;  // set at the first call with a torch tensor: see torch.h
  PyObject* traced;                      // what torch.compile sees in its place, set by Python
};

bool grad_enabled();
bool set_grad_enabled(bool on);  // returns what it was

// Nothing is recorded in its scope.
class NoRecording {
 public:
  NoRecording() : was_(set_grad_enabled(false)) {}
  ~NoRecording() { set_grad_enabled(was_); }
  NoRecording(const NoRecording&) = delete;
  NoRecording& operator=(const NoRecording&) = delete;

 private:
  bool was_;
};

// Runs record() unrecorded. (outputs, saved tuple) as a new reference; null with an exception set.
PyObject* call_record(OpObject* op, PyObject* const* args, Py_ssize_t nargs);

// A Node as the ctx of one call of backward(); takes over both references.
PyObject* make_context(OpObject* op, PyObject* saved, PyObject* needs_input_grad);

// Accumulates gradients into the leaves that `tensor` depends on. Null with an exception set, or None.
PyObject* run_backward(PyObject* tensor, PyObject* gradient);

void set_foreign_handler(PyObject* handler);  // called as handler(op, args) when an argument is another array type
// Appends (leaf, whether it had a gradient) to this list, in this thread, whenever backward() reaches a leaf; None ends
// it. Returns the list before, a new reference.
PyObject* record_leaves(PyObject* list);
void set_accumulate(PyObject* add, PyObject* add_in_place, PyObject* copy);

bool add_tape_types(PyObject* module);

}  // namespace fastnn::python
