"""Tensor: an array with a gradient and a place on the tape."""

from __future__ import annotations

import copy as _copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import ml_dtypes
import numpy as np

from . import _C
from .backends import _device
from .ops import arithmetic, reduction, shape, unary
from .ops._foreign import call_foreign

channels_last = "channels_last"
contiguous_format = "contiguous_format"

_CPU, _CUDA = 1, 2  # DLPack's names of them


class Tensor(_C.TensorBase):
    """An n-dimensional array on the CPU or a GPU whose operations can be recorded for `backward()`.

    Made by `fastnn.tensor(data)` (copies), `fastnn.from_numpy(array)` and `fastnn.from_dlpack(object)` (share memory).
    dtypes are numpy's: float32, bfloat16 (of ml_dtypes), float16 and float64 for values, int64, int32, uint8, int8 and
    bool for labels, indices and masks. At most 8 dimensions.

    Methods have torch's names and meanings. Nothing is cast silently: two tensors of different dtypes are a TypeError,
    a Python number adapts to the tensor. numpy arrays may stand beside tensors. An in-place change through this API of
    memory that the tape still needs makes `backward()` raise; writes through `.numpy()` or DLPack cannot be seen.

    A tensor on a GPU (`fastnn.tensor(data, device="cuda")`, `x.cuda()`) is worked on there, by the ops that have a
    kernel for it; operands must be on one device.

    Attributes:
        device: "cpu", or "cuda:0" and so on.
        shape, ndim, dtype, strides (in elements), requires_grad, is_leaf.
        grad: gradient accumulated by backward(), or None; may be set.
        grad_fn: the recorded operation that made it, or None.
    """

    __slots__ = ()
    __array_priority__ = 1000  # array + tensor is the tensor's business

    # ---- autograd

    def backward(self, gradient: Tensor | np.ndarray | None = None) -> None:
        """Adds d(self)/d(leaf), times `gradient`, to the grad of every leaf that requires one. Frees the graph.

        Args:
            gradient: of self's shape and dtype; 1 if None, which needs a tensor of one element.

        Raises:
            RuntimeError: self does not require a gradient, or is no scalar and there is no gradient, or the graph was
                already differentiated, or a value that it needs was changed in place.
            TypeError, ValueError: gradient has another type, shape or dtype.
        """
        if gradient is None:
            if self.requires_grad and self.numel() != 1:
                raise RuntimeError(
                    f"backward: a gradient can be created implicitly only for one element, got shape {self.shape}; "
                    "sum the tensor or pass gradient"
                )
            gradient = _C.full(self.shape, 1, self.dtype, self.device) if self.requires_grad else self
        else:
            if isinstance(gradient, np.ndarray):
                gradient = from_numpy(gradient)
            if not isinstance(gradient, Tensor):
                raise TypeError(f"backward: gradient is a {type(gradient).__name__}; expected a Tensor")
            if gradient.shape != self.shape or gradient.dtype != self.dtype:
                raise ValueError(
                    f"backward: gradient has shape {gradient.shape} and dtype {gradient.dtype}; "
                    f"expected {self.shape} and {self.dtype}"
                )
        _C.backward(self, gradient)

    def requires_grad_(self, requires_grad: bool = True) -> Tensor:
        """Sets requires_grad and returns self."""
        self.requires_grad = requires_grad
        return self

    # ---- data

    @property
    def nbytes(self) -> int:
        """Bytes of the elements."""
        return self.numel() * self.dtype.itemsize

    def element_size(self) -> int:
        """Bytes of one element."""
        return self.dtype.itemsize

    def dim(self) -> int:
        """Number of dimensions."""
        return self.ndim

    def size(self, dim: int | None = None) -> tuple[int, ...] | int:
        """The shape, or one size of it."""
        return self.shape if dim is None else self.shape[dim]

    def stride(self, dim: int | None = None) -> tuple[int, ...] | int:
        """Steps between elements, in elements."""
        return self.strides if dim is None else self.strides[dim]

    def is_contiguous(self, memory_format: str = contiguous_format) -> bool:
        """Whether the elements lie in row-major order, or in channels_last order."""
        if _memory_format("is_contiguous", memory_format):
            return self.ndim == 4 and _C.permute(self, (0, 2, 3, 1))._is_contiguous()
        return self._is_contiguous()

    def tolist(self) -> Any:
        """Nested lists of Python numbers."""
        array = self.cpu().numpy()
        return array.astype(np.float32).tolist() if self.dtype == _bfloat16 else array.tolist()

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        array = self.numpy()
        if dtype is not None and np.dtype(dtype) != array.dtype:
            if copy is False:
                raise ValueError(f"__array__: dtype {self.dtype} to {np.dtype(dtype)} needs a copy")
            return array.astype(dtype)
        return array.copy() if copy else array

    def __dlpack__(
        self,
        *,
        stream: Any = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> Any:
        """A DLPack capsule on the same memory (https://dmlc.github.io/dlpack).

        stream: for a tensor on a GPU, the consumer's stream, which is made to wait for ours; None is CUDA's default
        stream, -1 leaves the order to the caller.

        Raises:
            BufferError: the tensor requires a gradient (use detach()), or a device is asked for that it is not on.
        """
        if self.requires_grad:
            raise BufferError("__dlpack__: the tensor requires a gradient, which DLPack does not carry; use detach()")
        on, source = self.__dlpack_device__(), self
        if dl_device is not None and (int(dl_device[0]), int(dl_device[1])) != on:
            if int(dl_device[0]) != _CPU or copy is False:
                raise BufferError(f"__dlpack__: dl_device is {dl_device}; expected {on}, where the tensor is")
            source, copy = self.cpu(), False
        if source.device != "cpu":
            _C.stream_wait(source, 1 if stream is None else stream)
        elif stream is not None and stream != -1 and on[0] == _CPU:
            raise BufferError(f"__dlpack__: stream is {stream}; expected None on the CPU")
        versioned = max_version is not None and max_version[0] >= 1
        return _C.to_dlpack(_C.clone(source) if copy else source, versioned)

    def __dlpack_device__(self) -> tuple[int, int]:
        kind, _, index = self.device.partition(":")
        return (_CPU, 0) if kind == "cpu" else (_CUDA, int(index))

    # ---- conversion

    def to(
        self, dtype: Any = None, *, device: str | None = None, memory_format: str | None = None, copy: bool = False
    ) -> Tensor:
        """Converts dtype (rounding to nearest even), device, layout; self where nothing changes and copy is False."""
        if isinstance(dtype, str) and dtype.partition(":")[0] in ("cpu", "cuda"):
            dtype, device = None, dtype
        out = self
        if device is not None and (device := _device("to", device)) != self.device:
            out = shape._to_device(out, device)
        if dtype is not None and (dtype := np.dtype(dtype)) != self.dtype:
            out = shape._astype(out, dtype)
        if memory_format is not None and memory_format != "preserve_format":
            out = out.contiguous(memory_format)
        return shape._clone(self) if copy and out is self else out

    def astype(self, dtype: Any) -> Tensor:
        """Like to(dtype)."""
        return self.to(dtype)

    def float(self) -> Tensor:
        return self.to(np.float32)

    def double(self) -> Tensor:
        return self.to(np.float64)

    def half(self) -> Tensor:
        return self.to(np.float16)

    def bfloat16(self) -> Tensor:
        return self.to(_bfloat16)

    def long(self) -> Tensor:
        return self.to(np.int64)

    def int(self) -> Tensor:
        return self.to(np.int32)

    def bool(self) -> Tensor:
        return self.to(np.bool_)

    def cpu(self) -> Tensor:
        """self, or a copy on the CPU; the gradient goes through."""
        return self if self.device == "cpu" else shape._to_device(self, "cpu")

    def cuda(self, device: int | str = 0) -> Tensor:
        """self, or a copy on a GPU; the gradient goes through."""
        return self.to(device=f"cuda:{device}" if isinstance(device, int) else device)

    @property
    def is_cuda(self) -> bool:
        return self.device != "cpu"

    def clone(self) -> Tensor:
        """A copy in memory of its own; the gradient goes through."""
        return shape._clone(self)

    def contiguous(self, memory_format: str = contiguous_format) -> Tensor:
        """self, or a copy in row-major (channels_last: N, H, W, C) order."""
        wanted = _memory_format("contiguous", memory_format)
        return self if self.is_contiguous(memory_format) else shape._contiguous(self, wanted)

    # ---- shape

    def reshape(self, *shape_: Any) -> Tensor:
        """The elements in row-major order in another shape; one size may be -1. A view where the strides allow."""
        return shape._reshape(self, shape.sizes("reshape", shape_))

    def view(self, *shape_: Any) -> Tensor:
        """As reshape, but raises ValueError where a copy would be needed."""
        return shape._view(self, shape.sizes("view", shape_))

    def expand(self, *shape_: Any) -> Tensor:
        """A view in which sizes of 1 grow (stride 0); -1 keeps a size."""
        return shape._expand(self, shape.sizes("expand", shape_))

    def permute(self, *dims: Any) -> Tensor:
        """A view with the dimensions in another order."""
        return shape._permute(self, shape.sizes("permute", dims))

    def transpose(self, dim0: int, dim1: int) -> Tensor:
        """A view with two dimensions swapped."""
        return shape._transpose(self, dim0, dim1)

    @property
    def T(self) -> Tensor:
        """A view with the dimensions reversed."""
        return shape._permute(self, tuple(range(self.ndim))[::-1])

    @property
    def mT(self) -> Tensor:
        """A view with the last two dimensions swapped."""
        if self.ndim < 2:
            raise ValueError(f"mT: expected a matrix or a batch of them, got shape {self.shape}")
        return shape._transpose(self, -2, -1)

    flatten = shape.flatten
    squeeze = shape.squeeze
    unsqueeze = shape.unsqueeze
    split = shape.split
    chunk = shape.chunk

    def __getitem__(self, index: Any) -> Tensor:
        return shape.get_item(self, index)

    def __setitem__(self, index: Any, value: Any) -> None:
        shape.set_item(self, index, value)

    def __len__(self) -> int:
        if not self.ndim:
            raise TypeError("len: a 0-d tensor has no length")
        return self.shape[0]

    def __iter__(self) -> Iterator[Tensor]:
        if not self.ndim:
            raise TypeError("iter: a 0-d tensor cannot be iterated over")
        return (self[i] for i in range(self.shape[0]))

    # ---- arithmetic. An Op in a class is a method.

    __add__ = __radd__ = arithmetic._add
    __sub__ = arithmetic._sub
    __mul__ = __rmul__ = arithmetic._mul
    __truediv__ = arithmetic._div
    __pow__ = arithmetic._pow
    __neg__ = neg = arithmetic.negative
    __abs__ = abs = arithmetic.absolute
    __and__ = __rand__ = arithmetic._bitwise_and
    __or__ = __ror__ = arithmetic._bitwise_or
    __xor__ = __rxor__ = arithmetic._bitwise_xor
    __lt__ = arithmetic._lt
    __le__ = arithmetic._le
    __gt__ = arithmetic._gt
    __ge__ = arithmetic._ge
    add = arithmetic._add
    sub = arithmetic._sub
    mul = arithmetic._mul
    div = arithmetic._div
    pow = arithmetic._pow
    sqrt = unary.sqrt
    exp = unary.exp
    log = unary.log
    maximum = arithmetic._maximum
    minimum = arithmetic._minimum
    clamp = arithmetic.clamp

    def __rsub__(self, other: Any) -> Tensor:
        return arithmetic._sub(_beside(other), self)

    def __rtruediv__(self, other: Any) -> Tensor:
        return arithmetic._div(_beside(other), self)

    def __rpow__(self, other: Any) -> Tensor:
        return arithmetic._pow(_beside(other), self)

    def __matmul__(self, other: Any) -> Tensor:
        from .functional import matmul

        return matmul(self, other)

    def __rmatmul__(self, other: Any) -> Tensor:
        from .functional import matmul

        return matmul(_beside(other), self)

    matmul = __matmul__

    def __pos__(self) -> Tensor:
        return self

    def __invert__(self) -> Tensor:
        return arithmetic._bitwise_xor(self, {"bool": True, "uint8": 255}.get(self.dtype.name, -1))

    def __eq__(self, other: Any) -> Tensor:  # type: ignore[override]
        return NotImplemented if other is None or isinstance(other, str) else arithmetic._eq(self, other)

    def __ne__(self, other: Any) -> Tensor:  # type: ignore[override]
        return NotImplemented if other is None or isinstance(other, str) else arithmetic._ne(self, other)

    __hash__ = object.__hash__  # by identity: == is elementwise

    # ---- reductions

    sum = reduction.sum
    mean = reduction.mean
    max = reduction.max
    min = reduction.min
    amax = reduction.amax
    amin = reduction.amin
    argmax = reduction.argmax
    argmin = reduction.argmin

    def all(self, dim: Any = None, keepdim: bool = False) -> Tensor:
        """Whether all elements are nonzero; bool."""
        return (self != 0).min(dim, keepdim) if dim is None else (self != 0).amin(dim, keepdim)

    def any(self, dim: Any = None, keepdim: bool = False) -> Tensor:
        """Whether an element is nonzero; bool."""
        return (self != 0).max(dim, keepdim) if dim is None else (self != 0).amax(dim, keepdim)

    # ---- in place

    def add_(self, other: Any, alpha: float = 1) -> Tensor:
        """self += alpha * other"""
        return arithmetic.in_place(arithmetic._add_, self, other if alpha == 1 else arithmetic._mul(other, alpha))

    def sub_(self, other: Any, alpha: float = 1) -> Tensor:
        """self -= alpha * other"""
        return arithmetic.in_place(arithmetic._sub_, self, other if alpha == 1 else arithmetic._mul(other, alpha))

    def mul_(self, other: Any) -> Tensor:
        """self *= other"""
        return arithmetic.in_place(arithmetic._mul_, self, other)

    def div_(self, other: Any) -> Tensor:
        """self /= other"""
        return arithmetic.in_place(arithmetic._div_, self, other)

    def copy_(self, source: Tensor | np.ndarray) -> Tensor:
        """self[...] = source, broadcast and converted to self's dtype."""
        return arithmetic.in_place(arithmetic._copy_, self, source)

    def fill_(self, value: float) -> Tensor:
        """self[...] = value"""
        return arithmetic.in_place(arithmetic._fill_, self, value)

    def zero_(self) -> Tensor:
        """self[...] = 0"""
        return arithmetic.in_place(arithmetic._fill_, self, 0)

    def __iadd__(self, other: Any) -> Tensor:
        return arithmetic.augmented(arithmetic._add_, arithmetic._add, self, other)

    def __isub__(self, other: Any) -> Tensor:
        return arithmetic.augmented(arithmetic._sub_, arithmetic._sub, self, other)

    def __imul__(self, other: Any) -> Tensor:
        return arithmetic.augmented(arithmetic._mul_, arithmetic._mul, self, other)

    def __itruediv__(self, other: Any) -> Tensor:
        return arithmetic.augmented(arithmetic._div_, arithmetic._div, self, other)

    # ---- Python

    def __bool__(self) -> bool:
        if self.numel() != 1:
            raise RuntimeError(f"bool: the truth of a tensor of shape {self.shape} is ambiguous; use all() or any()")
        return self.item() != 0

    def __float__(self) -> float:
        return float(self.item())

    def __int__(self) -> int:
        return int(self.item())

    def __index__(self) -> int:
        if self.dtype.kind not in "iub" or self.numel() != 1:
            raise TypeError(f"index: a tensor of dtype {self.dtype} and shape {self.shape} is no index")
        return int(self.item())

    def __repr__(self) -> str:
        array = self.detach().cpu().numpy()
        if self.dtype.itemsize == 2:
            array = array.astype(np.float32)
        text = "tensor(" + np.array2string(array, precision=4, separator=", ", prefix="tensor(", threshold=1000)
        if self.numel() == 0 and self.shape != (0,):
            text += f", shape={self.shape}"
        if self.dtype not in (np.float32, np.int64, np.bool_):
            text += f", dtype={self.dtype.name}"
        if self.device != "cpu":
            text += f", device='{self.device}'"
        if self.grad_fn is not None:
            text += f", grad_fn=<{self.grad_fn.name}>"
        elif self.requires_grad:
            text += ", requires_grad=True"
        return text + ")"

    def __format__(self, spec: str) -> str:
        return format(self.item() if spec and self.ndim == 0 else repr(self), spec)

    def __copy__(self) -> Tensor:
        out = self._as_subclass(type(self))
        out.requires_grad = self.requires_grad
        return out

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        if not self.is_leaf:
            raise RuntimeError("deepcopy: only leaf tensors can be copied; use detach().clone()")
        out = _C.clone(self)._as_subclass(type(self))
        memo[id(self)] = out
        out.requires_grad = self.requires_grad
        if self.grad is not None:
            out.grad = _copy.deepcopy(self.grad, memo)
        return out

    def __reduce_ex__(self, protocol: Any) -> tuple[Callable[..., Tensor], tuple[Any, ...]]:
        array = np.array(self.detach().cpu().numpy())
        return _rebuild, (type(self), array, self.requires_grad, self.device)


def _rebuild(cls: type[Tensor], array: np.ndarray, requires_grad: bool, device: str = "cpu") -> Tensor:
    host = _C.from_numpy(array)
    new = _C.clone(host) if device == "cpu" else _C.to_device(host, _device("unpickle", device))
    return new._as_subclass(cls).requires_grad_(requires_grad)


def _beside(other: Any) -> Any:
    """The left operand of a reflected operator, whose result is a Tensor although an array comes first."""
    return _C.from_numpy(other) if isinstance(other, np.ndarray) else other


def _memory_format(op: str, memory_format: str) -> bool:
    if memory_format not in (channels_last, contiguous_format):
        raise ValueError(
            f"{op}: memory_format is {memory_format!r}; expected fastnn.channels_last or 'contiguous_format'"
        )
    return memory_format == channels_last


def tensor(data: Any, dtype: Any = None, requires_grad: bool = False, device: str | None = None) -> Tensor:
    """A new tensor with a copy of data.

    Args:
        data: a numpy array or Tensor (its dtype is kept), a number, or nested lists of them; Python floats become
            float32, ints int64.
        dtype: converts to it.
        device: "cpu", "cuda" or "cuda:1"; None: where data is, the CPU for anything but a Tensor.

    Raises:
        NotImplementedError: a dtype that tensors do not have.
        ValueError: ragged lists, requires_grad of a tensor that is not floating, or no name of a device.
        RuntimeError: a device that is not there.
    """
    if isinstance(data, _C.TensorBase) and data.is_cuda:
        out = data.detach().to(dtype, device=device, copy=True)
    else:
        host, device = _C.from_numpy(_as_array(data, dtype)), _device("tensor", device)
        out = _C.clone(host) if device == "cpu" else _C.to_device(host, device)
    if requires_grad:
        out.requires_grad = True
    return out


def as_tensor(data: Any, dtype: Any = None) -> Tensor:
    """As tensor, but without a copy where data is a Tensor or a numpy array of that dtype."""
    if isinstance(data, Tensor):
        return data if dtype is None else data.to(dtype)
    return _C.from_numpy(_as_array(data, dtype))


def from_numpy(array: np.ndarray) -> Tensor:
    """A tensor on the memory of a numpy array, on the CPU. Read-only arrays give tensors that refuse in-place changes.

    Raises:
        TypeError: array is no numpy array.
        NotImplementedError: a dtype that tensors do not have.
    """
    out = _C.from_numpy(array)
    implicit = _C.get_implicit_device()
    return out if implicit == "cpu" else _C.to_device(out, implicit)


def from_dlpack(object: Any) -> Tensor:
    """A tensor on the memory of an object with `__dlpack__` (torch, JAX, CuPy, numpy, ...), or of a capsule.

    Memory on a GPU stays there: our work is made to wait for what its library does with it.

    Raises:
        TypeError: the object does not speak DLPack.
        NotImplementedError: another device or dtype.
    """
    if type(object).__name__ == "PyCapsule":
        return _C.from_dlpack(object)
    if not hasattr(object, "__dlpack__"):
        raise TypeError(f"from_dlpack: got a {type(object).__name__}; expected an object with __dlpack__")
    kind, index = map(int, object.__dlpack_device__())
    options = {}
    if kind == _CUDA:
        options["stream"] = _C.current_stream(_device("from_dlpack", f"cuda:{index}")) or 1  # 1: the default stream
    elif kind != _CPU:
        raise NotImplementedError(f"from_dlpack: device {(kind, index)} is not supported; expected the CPU or a GPU")
    try:
        capsule = object.__dlpack__(max_version=(1, 1), **options)
    except TypeError:  # written before DLPack 1.0
        capsule = object.__dlpack__(**options)
    return _C.from_dlpack(capsule)


def _as_array(data: Any, dtype: Any) -> np.ndarray:
    if isinstance(data, _C.TensorBase):
        data = data.detach().cpu().numpy()
    array = np.asarray(data, dtype)
    if dtype is None and array.dtype == np.float64 and _is_python(data):
        return array.astype(np.float32)
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def _is_python(data: Any) -> bool:
    """Whether the first element is a Python number, whose dtype is ours to choose."""
    while isinstance(data, Sequence) and len(data):
        data = data[0]
    return not isinstance(data, (np.ndarray, np.generic, _C.TensorBase))


_bfloat16 = np.dtype(ml_dtypes.bfloat16)
_C.set_tensor_type(Tensor)
_C.set_bfloat16(_bfloat16)
_C.set_accumulate(_C.add, _C.add_in_place, _C.clone)
_C.set_foreign_handler(call_foreign)
