"""What the files that register Triton kernels share."""

# No `from __future__ import annotations`: torch reads the schema of each op from its annotations.
# ruff: noqa: UP007, UP045

from collections.abc import Callable
from typing import Any, Optional

import torch
from torch import Tensor

from ..kernels._launch import INTERPRETED, dense

NAMESPACE = "fastnn_triton"


def operator_of(fake: Callable[..., Any]) -> Callable[[Callable[..., Any]], Any]:
    """Registers a function as the operator of its name; `fake` makes results of the same shapes, dtypes and strides."""

    def register(function: Callable[..., Any]) -> Any:
        name = f"{NAMESPACE}::{function.__name__.removeprefix('_')}"
        # The interpreter's kernels cannot be traced: what torch.compile sees there is an opaque operator.
        make = torch.library.custom_op if INTERPRETED else torch.library.triton_op
        operator = make(name, function, mutates_args=())
        operator.register_fake(fake)
        return operator

    return register


def same(x: Tensor, *_: Any, **__: Any) -> Tensor:
    return torch.empty_like(dense(x))


def row_major(x: Tensor, shape: Any = None, dtype: Optional[torch.dtype] = None) -> Tensor:
    return x.new_empty(x.shape if shape is None else shape, dtype=dtype)


def precision() -> str:
    """What torch's own products of float32 on a GPU would use."""
    return "tf32" if torch.backends.cuda.matmul.allow_tf32 else "ieee"
