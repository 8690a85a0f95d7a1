"""Views, joins and indexing. Views share memory with their base, and with it the counter of in-place changes."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import _C

if TYPE_CHECKING:
    from ..tensor import Tensor


def sizes(op: str, shape: tuple[Any, ...]) -> tuple[int, ...]:
    """The shape of a call f(2, 3) or f((2, 3))."""
    if len(shape) == 1 and isinstance(shape[0], (tuple, list)):
        shape = tuple(shape[0])
    for size in shape:
        if type(size) is not int and (isinstance(size, bool) or not hasattr(size, "__index__")):
            raise TypeError(f"{op}: sizes are {shape}; expected ints")
    return shape


def _reshape_back(ctx, grad):
    return _C.reshape(grad, ctx.saved[0])


def _permute_back(ctx, grad):
    order = ctx.saved[0]
    back = [0] * len(order)
    for i, axis in enumerate(order):
        back[axis] = i  # a negative axis counts from the end, in the list as well
    return _C.permute(grad, tuple(back))


_reshape = _C.Op("reshape", _C.reshape, lambda x, shape: (_C.reshape(x, shape), (x.shape,)), _reshape_back)
_view = _C.Op("view", _C.view, lambda x, shape: (_C.view(x, shape), (x.shape,)), _reshape_back)
_permute = _C.Op("permute", _C.permute, lambda x, order: (_C.permute(x, order), (order,)), _permute_back)
_transpose = _C.Op(
    "transpose",
    _C.transpose,
    lambda x, a, b: (_C.transpose(x, a, b), (a, b)),
    lambda ctx, grad: _C.transpose(grad, *ctx.saved),
)
_expand = _C.Op(
    "expand",
    _C.expand,
    lambda x, shape: (_C.expand(x, shape), (x.shape,)),
    lambda ctx, grad: _C.sum_to(grad, ctx.saved[0]),
)
_contiguous = _C.Op(
    "contiguous",
    _C.contiguous,
    lambda x, channels_last: (_C.contiguous(x, channels_last), ()),
    lambda ctx, grad: grad,
)
_clone = _C.Op("clone", _C.clone, lambda x: (_C.clone(x), ()), lambda ctx, grad: grad)
_to_device = _C.Op(
    "to_device",
    _C.to_device,
    lambda x, device: (_C.to_device(x, device), (x.device,)),
    lambda ctx, grad: _C.to_device(grad, ctx.saved[0]),
)
_astype = _C.Op(
    "to",
    _C.astype,
    lambda x, dtype: (_C.astype(x, dtype), (x.dtype,)),
    lambda ctx, grad: _C.astype(grad, ctx.saved[0]),
)


def _cat_record(dim, *tensors):
    return _C.cat(tensors, dim), (dim, [t.shape for t in tensors])


def _cat_backward(ctx, grad):
    dim, shapes = ctx.saved
    dim %= grad.ndim
    grads, begin = [None], 0
    for shape, needed in zip(shapes, ctx.needs_input_grad[1:], strict=True):
        if shape == (0,):
            grads.append(_C.full(shape, 0, grad.dtype, grad.device) if needed else None)
            continue
        end = begin + shape[dim]
        index = (slice(None),) * dim + (slice(begin, end),)
        grads.append(_C.basic_index(grad, index) if needed else None)
        begin = end
    return tuple(grads)


_cat = _C.Op("cat", lambda dim, *tensors: _C.cat(tensors, dim), _cat_record, _cat_backward)


def reshape(input: Tensor | np.ndarray, shape: Sequence[int]) -> Tensor:
    """The elements in row-major order in another shape, one size of which may be -1. A view where the strides allow."""
    return _reshape(input, sizes("reshape", (shape,)))


def transpose(input: Tensor | np.ndarray, dim0: int, dim1: int) -> Tensor:
    """A view with two dimensions swapped."""
    return _transpose(input, operator.index(dim0), operator.index(dim1))


def permute(input: Tensor | np.ndarray, dims: Sequence[int]) -> Tensor:
    """A view with the dimensions in another order."""
    return _permute(input, sizes("permute", (dims,)))


def flatten(input: Tensor | np.ndarray, start_dim: int = 0, end_dim: int = -1) -> Tensor:
    """Joins dimensions start_dim to end_dim (inclusive) into one; a 0-d tensor becomes (1,)."""
    rank = input.ndim
    first, last = _axis("flatten", start_dim, rank), _axis("flatten", end_dim, rank)
    if first > last:
        raise ValueError(f"flatten: start_dim {start_dim} comes after end_dim {end_dim}")
    if rank == 0:
        return _reshape(input, (1,))
    shape, joined = tuple(input.shape), 1
    for size in shape[first : last + 1]:
        joined *= size
    return _reshape(input, shape[:first] + (joined,) + shape[last + 1 :])


def squeeze(input: Tensor | np.ndarray, dim: int | Sequence[int] | None = None) -> Tensor:
    """Without dimensions of size 1: all of them, or those among dim."""
    shape, rank = tuple(input.shape), input.ndim
    if dim is None:
        drop = set(range(rank))
    else:
        drop = {_axis("squeeze", d, rank) for d in (dim if isinstance(dim, (tuple, list)) else (dim,))}
    return _reshape(input, tuple(size for i, size in enumerate(shape) if size != 1 or i not in drop))


def unsqueeze(input: Tensor | np.ndarray, dim: int) -> Tensor:
    """With a dimension of size 1 before index dim."""
    at = _axis("unsqueeze", dim, input.ndim + 1)
    return _reshape(input, tuple(input.shape[:at]) + (1,) + tuple(input.shape[at:]))


def cat(tensors: Sequence[Tensor | np.ndarray], dim: int = 0) -> Tensor:
    """Joins tensors of one dtype along dim; the other sizes must agree. All channels_last gives channels_last.

    Tensors of shape (0,) join with any shape and add nothing, as in torch.

    Raises:
        ValueError: no tensors, 0-d tensors, or shapes that do not fit.
        TypeError: dtypes differ, or tensors is no sequence of tensors.
    """
    return _cat(dim, *_sequence("cat", tensors))


def stack(tensors: Sequence[Tensor | np.ndarray], dim: int = 0) -> Tensor:
    """Joins tensors of one shape along a new dimension dim."""
    tensors = _sequence("stack", tensors)
    if not tensors:
        raise ValueError("stack: tensors is empty; expected at least one tensor")
    for i, t in enumerate(tensors):
        if t.shape != tensors[0].shape:
            raise ValueError(
                f"stack: tensors 0 and {i} have shapes {tensors[0].shape} and {t.shape}; expected one shape"
            )
    return _cat(_axis("stack", dim, tensors[0].ndim + 1), *(unsqueeze(t, dim) for t in tensors))


def split(input: Tensor, split_size_or_sections: int | Sequence[int], dim: int = 0) -> tuple[Tensor, ...]:
    """Views of pieces along dim: of a size (the last may be smaller), or of the listed sizes."""
    axis = _axis("split", dim, input.ndim)
    if input.ndim == 0:
        raise ValueError("split: a 0-d tensor cannot be split")
    total, step = input.shape[axis], split_size_or_sections
    if isinstance(step, (tuple, list)):
        pieces = sizes("split", (step,))
        if sum(pieces) != total or any(size < 0 for size in pieces):
            raise ValueError(f"split: sections {step} do not add up to size {total} of dimension {axis}")
    else:
        step = operator.index(step)
        if step < 1:
            raise ValueError(f"split: split_size is {step}; expected a positive int")
        pieces = [min(step, total - begin) for begin in range(0, max(total, 1), step)]
    out, begin = [], 0
    for size in pieces:
        out.append(_get_item(input, (slice(None),) * axis + (slice(begin, begin + size),)))
        begin += size
    return tuple(out)


def chunk(input: Tensor, chunks: int, dim: int = 0) -> tuple[Tensor, ...]:
    """At most `chunks` views of equal size along dim; the last may be smaller."""
    if operator.index(chunks) < 1:
        raise ValueError(f"chunk: chunks is {chunks}; expected a positive int")
    total = input.shape[_axis("chunk", dim, input.ndim)] if input.ndim else 0
    return split(input, max(1, -(-total // chunks)), dim)


def _axis(op: str, dim: int, rank: int) -> int:
    dim, reach = operator.index(dim), max(rank, 1)
    if not -reach <= dim < reach:
        raise IndexError(f"{op}: dim is {dim}; expected {-reach} to {reach - 1}")
    return dim % reach


def _sequence(op: str, tensors: Any) -> tuple[Any, ...]:
    if not isinstance(tensors, (tuple, list)):
        raise TypeError(f"{op}: tensors is a {type(tensors).__name__}; expected a list or tuple of tensors")
    return tuple(tensors)


# ---- indexing --------------------------------------------------------------------------------------------------------


def _numpy_index(index: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(i.numpy() if isinstance(i, _C.TensorBase) else i for i in index)


def _scatter_add(shape, dtype, index, grad):
    """zeros(shape) with grad added at index, float16 and bfloat16 in float32."""
    values = grad.numpy()
    out = np.zeros(shape, np.float32 if dtype.itemsize == 2 else dtype)
    if all(i.dtype == bool for i in index if isinstance(i, np.ndarray)):  # a mask names no element twice
        out[index] = values
    else:
        np.add.at(out, index, values.astype(out.dtype))
    return _C.clone(_C.from_numpy(out.astype(dtype, copy=False)))


def _get_item_record(x, index):
    return _C.basic_index(x, index), (x.shape, index)


def _get_item_backward(ctx, grad):
    shape, index = ctx.saved
    out = _C.full(shape, 0, grad.dtype, grad.device)
    _C.assign(_C.basic_index(out, index), grad)
    return out


def _refuse_cuda(op, x):
    if x.is_cuda:
        raise NotImplementedError(
            f"{op}: indexing by arrays has no GPU kernel, and the tensor is on {x.device}; use .cpu()"
        )


def _take_forward(x, index):
    _refuse_cuda("getitem", x)
    picked = x.numpy()[_numpy_index(index)]
    return _C.from_numpy(np.array(picked, x.dtype, copy=not isinstance(picked, np.ndarray) or picked.base is not None))


def _take_record(x, index):
    index = tuple(np.array(i) if isinstance(i, (list, np.ndarray)) else i for i in _numpy_index(index))
    return _take_forward(x, index), (x.shape, x.dtype, index)


_get_item = _C.Op("getitem", _C.basic_index, _get_item_record, _get_item_backward)
_take = _C.Op("take", _take_forward, _take_record, lambda ctx, grad: _scatter_add(*ctx.saved, grad))


def get_item(x: Tensor, index: Any) -> Tensor:
    """x[index] with numpy's rules: a view for int, slice, None and ...; a copy for integer arrays and bool masks."""
    if type(index) is not tuple:
        index = (index,)
    out = _get_item(x, index)
    return _take(x, index) if out is None else out


def _assign_item(target, value, index):
    place = _C.basic_index(target, index)
    if place is None:
        _refuse_cuda("setitem", target)
        if isinstance(value, _C.TensorBase):
            value = value.numpy()
        else:
            value = _C.full((), value, target.dtype, "cpu").numpy()
        if not target.numpy().flags.writeable:
            raise ValueError("setitem: the target's memory is read-only; change a copy, x.clone()")
        target.numpy()[_numpy_index(index)] = value
        target._bump_version()
    elif isinstance(value, _C.TensorBase):
        _C.assign(place, value)
    else:
        _C.fill(place, value)


def _set_item_record(target, value, index):
    index = tuple(np.array(i) if isinstance(i, (list, np.ndarray)) else i for i in _numpy_index(index))
    _assign_item(target, value, index)
    return target, (value.shape if isinstance(value, _C.TensorBase) else None, index)


def _set_item_backward(ctx, grad):
    shape, index = ctx.saved
    grad_target = grad_value = None
    if ctx.needs_input_grad[0]:
        grad_target = _C.clone(grad)
        _assign_item(grad_target, 0, index)
    if ctx.needs_input_grad[1]:
        picked = _C.basic_index(grad, index)
        grad_value = _C.sum_to(_take_forward(grad, index) if picked is None else picked, shape)
    return grad_target, grad_value


_set_item = _C.Op("setitem", _assign_item, _set_item_record, _set_item_backward)


def set_item(x: Tensor, index: Any, value: Any) -> None:
    """x[index] = value in place, value broadcast. Tensors and arrays must have x's dtype: nothing is cast silently."""
    from .arithmetic import in_place

    if type(index) is not tuple:
        index = (index,)
    if isinstance(value, (list, tuple)):
        value = np.asarray(value, x.dtype)
    if isinstance(value, (_C.TensorBase, np.ndarray)) and value.dtype != x.dtype:
        raise TypeError(
            f"setitem: value has dtype {value.dtype} but the tensor has {x.dtype}; expected one dtype: convert it"
        )
    in_place(_set_item, x, value, index)
