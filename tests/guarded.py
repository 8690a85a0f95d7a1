"""Arrays whose memory ends (or begins) at a page that must not be touched, and memory full of NaN."""

from __future__ import annotations

import ctypes
import mmap

import fastnn
import numpy as np

_libc = ctypes.CDLL(None, use_errno=True)
_PAGE = mmap.PAGESIZE


def guarded(array, at: str = "end"):
    """A copy of `array` (layout kept) that touches a protected page `at` its "end" or "start"."""
    array = np.asarray(array)
    dense = array if array.flags.c_contiguous else np.ascontiguousarray(array.transpose(_memory_order(array)))
    size = (dense.nbytes + _PAGE - 1) // _PAGE * _PAGE or _PAGE
    region = mmap.mmap(-1, size + 2 * _PAGE)
    address = ctypes.addressof(ctypes.c_char.from_buffer(region))
    for page in (address, address + _PAGE + size):
        if _libc.mprotect(ctypes.c_void_p(page), _PAGE, 0):
            raise OSError(ctypes.get_errno(), "mprotect")
    offset = _PAGE if at == "start" else _PAGE + size - dense.nbytes
    copy = np.frombuffer(region, np.uint8, dense.nbytes, offset).view(dense.dtype).reshape(dense.shape)
    copy[...] = dense
    if array.flags.c_contiguous:
        return copy
    return copy.transpose(np.argsort(_memory_order(array)))


def _memory_order(array):
    return tuple(np.argsort([-s for s in array.strides], kind="stable"))


def poison(*shapes, dtype="float32"):
    """Leaves blocks of these sizes, full of NaN, in the allocator: the next outputs of these sizes lie there."""
    nan = [fastnn.tensor(np.full(shape, np.nan, dtype)) for shape in shapes for _ in range(3)]
    del nan


def channels_last(array):
    """The same (N, C, H, W) array, laid out as N, H, W, C."""
    return np.ascontiguousarray(array.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
