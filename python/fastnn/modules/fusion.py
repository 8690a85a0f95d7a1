"""Runs of neighbouring modules that one kernel call replaces: conv or linear, its activation, a 2x2 max-pool.

Only modules that no hook looks at are fused, and only the library's own classes: a subclass may compute something else.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .. import functional as F
from ..ops.conv2d import _conv2d_max_pool
from .activation import GELU, Hardsigmoid, Hardswish, Mish, ReLU, ReLU6, Sigmoid, SiLU, Softsign, Tanh
from .conv import Conv2d
from .linear import Linear
from .module import Module
from .pooling import MaxPool2d

_ACTIVATIONS = {
    ReLU: "relu",
    ReLU6: "relu6",
    SiLU: "silu",
    Mish: "mish",
    Sigmoid: "sigmoid",
    Tanh: "tanh",
    Hardswish: "hardswish",
    Hardsigmoid: "hardsigmoid",
    Softsign: "softsign",
}
_PAIR_OF_2 = (2, (2, 2))


def _activation(module: Module) -> str | None:
    """Name of the epilogue that `module` is, or None."""
    if module._forward_hooks or module._forward_pre_hooks:
        return None
    if type(module) is GELU:
        return "gelu" if module.approximate == "none" else "gelu_tanh"
    return _ACTIVATIONS.get(type(module))


def _is_pool_2x2(module: Module) -> bool:
    return (
        type(module) is MaxPool2d
        and module.kernel_size in _PAIR_OF_2
        and module.stride in _PAIR_OF_2
        and module.padding in (0, (0, 0))
        and module.dilation in (1, (1, 1))
        and not (module.ceil_mode or module.return_indices or module._forward_hooks or module._forward_pre_hooks)
    )


def _run_conv2d(modules: list[Module], i: int, input: Any) -> tuple[Any, int]:
    conv, n = modules[i], len(modules)
    activation, end = None, i + 1
    if end < n and (activation := _activation(modules[end])):
        end += 1
    if end < n and activation in (None, "relu") and input.ndim == 4 and _is_pool_2x2(modules[end]):
        end += 1
        if activation is None and end < n and _activation(modules[end]) == "relu":  # pool, then relu: the same
            activation, end = "relu", end + 1
        arguments = (conv.weight, conv.bias, conv.stride, conv.padding, conv.dilation, conv.groups)
        return _conv2d_max_pool(input, *arguments, activation or "none"), end
    arguments = (conv.weight, conv.bias, conv.stride, conv.padding, conv.dilation, conv.groups)
    return F.conv2d(input, *arguments, activation=activation), end


def _run_linear(modules: list[Module], i: int, input: Any) -> tuple[Any, int]:
    linear = modules[i]
    activation = _activation(modules[i + 1]) if i + 1 < len(modules) else None
    return F.linear(input, linear.weight, linear.bias, activation=activation), i + (2 if activation else 1)


_RUNS: dict[type, Callable[[list[Module], int, Any], tuple[Any, int]]] = {Conv2d: _run_conv2d, Linear: _run_linear}


def run(modules: list[Module], input: Any) -> Any:
    """The composition of `modules`, with neighbours fused."""
    i, n = 0, len(modules)
    while i < n:
        module = modules[i]
        if module._forward_hooks or module._forward_pre_hooks:
            input, i = module(input), i + 1
            continue
        fused = _RUNS.get(type(module))
        if fused is None:
            input, i = module.forward(input), i + 1
        else:
            input, i = fused(modules, i, input)
    return input
