"""Where ops run: the CPU (`_C`), and GPUs by CUDA C++ (`_cuda`) or Triton (`fastnn.kernels`).

`_cuda` is opened at the first use of a GPU, and only where NVIDIA's driver is. Nothing falls back silently: an op that
has no kernel for the device of its tensors raises NotImplementedError.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from . import _C

_FLOATING = ("float32", "bfloat16", "float16", "float64")
_ANY = (*_FLOATING, "int8", "uint8", "int32", "int64", "bool")

# Ops that have CUDA launchers -> the dtypes of their values.
_CUDA: dict[str, tuple[str, ...]] = {
    "activation": _FLOATING,
    "attention": _FLOATING,
    "comparison": _ANY,
    "conv2d": _FLOATING,
    "copy": _ANY,
    "cross_entropy": _FLOATING,
    "dropout": _FLOATING,
    "elementwise": _ANY,
    "embedding": _ANY,
    "fill": _ANY,
    "loss": _FLOATING,
    "matmul": _FLOATING,
    "normalization": _FLOATING,
    "optimizer": _FLOATING,
    "pooling": _FLOATING,
    "reduction": _ANY,
    "softmax": _FLOATING,
}

_lock = threading.Lock()
_reason: str | None = None  # why there is no GPU; None until it was looked for


class Choice(NamedTuple):
    """The backend of an op: "cuda" or "triton", or None; and why."""

    backend: str | None
    reason: str


def backend(op: str, dtype: Any = np.float32) -> Choice:
    """Which kernels run `op` (the stem of its file: "activation", "conv2d", ...) on a GPU, for values of this dtype."""
    name = np.dtype(dtype).name
    if op not in _CUDA:
        return Choice(None, f"{op} has no GPU kernel")
    if name not in _CUDA[op]:
        return Choice(None, f"{op} has no GPU kernel for {name}, only for {', '.join(_CUDA[op])}")
    return Choice("cuda", "the only one")


def cuda_unavailable() -> str | None:
    """None where GPUs can be used, else the reason why not. Loads the kernels at the first call."""
    global _reason
    if _C.cuda_loaded():
        return None
    with _lock:
        if _reason is None and not _C.cuda_loaded():
            _reason = _load()
        return _reason or None


def is_available() -> bool:
    """Whether there is a GPU, with a driver, and kernels for it."""
    return cuda_unavailable() is None


def set_wgmma(on: bool) -> None:
    """Whether large products of bfloat16 and float16 use TMA and wgmma on GPUs of compute capability 9.0 (H100, H200).

    Off at first: the kernel compiles and passes its tests under emulation, but was not verified on a card.
    """
    if not isinstance(on, bool):
        raise TypeError(f"set_wgmma: got {on!r}; expected True or False")
    _C.set_wgmma(on)


def get_wgmma() -> bool:
    """Whether they do; see set_wgmma."""
    return _C.get_wgmma()


def synchronize(device: str = "cuda") -> None:
    """Waits until the GPU has done what was asked of it so far."""
    _C.cuda_synchronize(_device("synchronize", device))


def memory_stats(index: int = 0) -> dict[str, int]:
    """Bytes of GPU memory: in_use, idle (cached for reuse), peak; requests, and hits, those served from the cache."""
    return _C.cuda_memory_stats(index)


def library_path() -> Path:
    """Where the build puts the CUDA kernels."""
    return Path(_C.__file__).parent / "_cuda.so"


def _load() -> str:
    if not library_path().exists():
        return f"the CUDA kernels are not built: {_C.cuda_missing or 'the library is missing'}"
    import ctypes

    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return "NVIDIA's driver (libcuda.so.1) is not installed"
    try:
        _C.load_cuda(str(library_path()))
    except RuntimeError as error:
        return str(error)
    return ""


def _device(op: str, device: Any) -> str:
    """ "cpu" or "cuda:<index>" of what users give: those, "cuda", a torch.device; None is the default device."""
    text = _C.get_implicit_device() if device is None else str(device)
    if text == "cpu":
        return text
    kind, _, index = text.partition(":")
    if kind != "cuda" or (index and not index.isdecimal()) or text.endswith(":"):
        raise ValueError(f"{op}: device is {device!r}; expected 'cpu', 'cuda' or 'cuda:<index>'")
    if reason := cuda_unavailable():
        raise RuntimeError(f"{op}: device {text!r} cannot be used: {reason}; see `python -m fastnn.info`")
    count = _C.cuda_device_count()
    if int(index or 0) >= count:
        raise RuntimeError(f"{op}: device {text!r} is not there: {count} GPUs are")
    return f"cuda:{int(index or 0)}"
