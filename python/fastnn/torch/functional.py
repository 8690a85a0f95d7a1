"""The functions of fastnn.functional that torch.nn.functional has too, with torch's own behind each of them.

A call that fastnn has no kernel for (it raises NotImplementedError: another device, dtype or argument) runs as torch's
function; `fallbacks` counts these calls by function and reason.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch

from .. import functional as _ours
from ..ops._arguments import pair
from ..ops.conv2d import _conv2d_max_pool

_theirs = torch.nn.functional

fallbacks: Counter[tuple[str, str]] = Counter()


def note_fallback(name: str, error: Exception) -> None:
    if not torch.compiler.is_compiling():
        fallbacks[name, str(error)] += 1


def _either(name: str) -> Callable[..., Any]:
    ours, theirs = getattr(_ours, name), getattr(_theirs, name)

    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            return ours(*args, **kwargs)
        except NotImplementedError as error:
            note_fallback(name, error)
        return theirs(*args, **kwargs)

    call.__name__ = call.__qualname__ = name
    call.__module__ = __name__
    call.__doc__ = f"fastnn.functional.{name}, or torch.nn.functional.{name} where that has no kernel."
    return call


NAMES = tuple(name for name in _ours.__all__ if hasattr(_theirs, name))
globals().update({name: _either(name) for name in NAMES})


def conv2d_fused(
    input: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    stride: Any,
    padding: Any,
    dilation: Any,
    groups: int,
    activation: str | None = None,
    residual: torch.Tensor | None = None,
    pool: bool = False,
) -> torch.Tensor:
    """pool(activation(conv2d(...) + residual)) in one call; pool is max_pool2d over 2x2 pixels, without a residual.

    What that call does not take, for example a residual that broadcasts, runs in torch's functions.
    """
    try:
        if pool and input.ndim == 4:
            stride, dilation = pair(stride, "conv2d", "stride"), pair(dilation, "conv2d", "dilation")
            return _conv2d_max_pool(input, weight, bias, stride, padding, dilation, groups, activation or "none")
        y = _ours.conv2d(
            input, weight, bias, stride, padding, dilation, groups, activation=activation, residual=residual
        )
        return _ours.max_pool2d(y, 2) if pool else y
    except (NotImplementedError, ValueError, TypeError) as error:
        note_fallback("conv2d", error)
    y = _epilogue(_theirs.conv2d(input, weight, bias, stride, padding, dilation, groups), activation, residual)
    return _theirs.max_pool2d(y, 2) if pool else y


def linear_fused(
    input: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    activation: str | None = None,
    residual: torch.Tensor | None = None,
) -> torch.Tensor:
    """activation(linear(...) + residual) in one call, or in torch's functions where that does not take it."""
    try:
        return _ours.linear(input, weight, bias, activation=activation, residual=residual)
    except (NotImplementedError, ValueError, TypeError) as error:
        note_fallback("linear", error)
    return _epilogue(_theirs.linear(input, weight, bias), activation, residual)


def _epilogue(y: torch.Tensor, activation: str | None, residual: torch.Tensor | None) -> torch.Tensor:
    if residual is not None:
        y = y + residual
    if activation is None:
        return y
    if activation == "gelu_tanh":
        return _theirs.gelu(y, approximate="tanh")
    return getattr(_theirs, activation)(y)


def __getattr__(name: str) -> Any:
    """Everything else is torch's."""
    return getattr(_theirs, name)
