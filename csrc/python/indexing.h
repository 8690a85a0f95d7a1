// Basic indexing, x[1, :, None, ..., ::2], as a view.
#pragma once
#include <Python.h>

namespace fastnn::python {

// basic_index(tensor, tuple of int, slice, None and Ellipsis) -> view; None where the tuple holds anything else.
bool add_indexing(PyObject* module);

}  // namespace fastnn::python
