"""What the launchers share: argument checks, the current device, and torch's tracing of kernels."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import triton

# Decided when the kernels are decorated, as triton does.
INTERPRETED: bool = triton.knobs.runtime.interpret

FLOATS = (torch.float32, torch.bfloat16, torch.float16)


def wrap_triton(kernel: Any) -> Any:
    """The kernel in the form that torch.compile can look into; the interpreter's kernels go as they are."""
    return kernel if INTERPRETED else torch.library.wrap_triton(kernel)


def autotuned(kernel: Any, configs: tuple[Any, ...], key: list[str]) -> Any:
    """The kernel with the best of `configs` for each value of the arguments `key`; the first one in the interpreter.

    Each config has `keywords()`: the kernel's constants, num_warps and num_stages.
    """
    forms = []
    for config in configs[:1] if INTERPRETED else configs:
        constants = config.keywords()
        warps, stages = constants.pop("num_warps"), constants.pop("num_stages")
        forms.append(triton.Config(constants, num_warps=warps, num_stages=stages))
    return triton.autotune(configs=forms, key=key)(kernel)


def on_device(x: torch.Tensor) -> AbstractContextManager:
    """Triton launches on the current device: make it that of x (which may be fake, where there is no CUDA)."""
    return torch.cuda.device(x.device) if x.is_cuda and torch.cuda.is_initialized() else nullcontext()


def check_tensors(op: str, first: str, x: torch.Tensor, /, **others: torch.Tensor | None) -> None:
    """x is floating; the others are on its device and have its dtype.

    Raises:
        NotImplementedError: the dtype has no kernel.
        ValueError: another device or dtype.
    """
    if x.dtype not in FLOATS:
        raise NotImplementedError(f"{op}: {first} has dtype {x.dtype}; expected float32, bfloat16 or float16")
    for name, other in others.items():
        if other is None:
            continue
        if other.dtype != x.dtype:
            raise ValueError(f"{op}: {name} has dtype {other.dtype} but {first} {x.dtype}; expected the same")
        check_device(op, first, x, **{name: other})


def check_device(op: str, first: str, x: torch.Tensor, /, **others: torch.Tensor | None) -> None:
    """ValueError unless all others are on the device of x."""
    for name, other in others.items():
        if other is not None and other.device != x.device:
            raise ValueError(f"{op}: {name} is on {other.device} but {first} on {x.device}; expected the same device")


def check_shape(op: str, name: str, x: torch.Tensor | None, expected: tuple[int, ...]) -> None:
    """ValueError unless x is None or has this shape."""
    if x is not None and tuple(x.shape) != tuple(expected):
        raise ValueError(f"{op}: {name} has shape {tuple(x.shape)}; expected {tuple(expected)}")


def dense(x: torch.Tensor) -> torch.Tensor:
    """x itself where it is row-major or channels_last, else a row-major copy."""
    if x.is_contiguous() or x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last):
        return x
    return x.contiguous()


def like(x: torch.Tensor, pattern: torch.Tensor) -> torch.Tensor:
    """x with the strides of `pattern`, which is dense and has its shape: a copy only where they differ."""
    if x.stride() == pattern.stride():
        return x
    return torch.empty_like(pattern, dtype=x.dtype).copy_(x)


def rows_of(x: torch.Tensor) -> torch.Tensor:
    """x as (rows, columns): a view where rows have one stride between them and contiguous elements, else a copy."""
    if x.ndim == 2 and x.stride(1) == 1:
        return x
    if x.ndim and x.stride(-1) != 1:
        x = x.contiguous()
    return x.reshape(-1, x.shape[-1])


def cdiv(a: int, b: int) -> int:
    return -(-a // b)


def next_power_of_2(n: int) -> int:
    return 1 << max(0, n - 1).bit_length()
