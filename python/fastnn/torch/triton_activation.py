"""Activations and gated products as `torch.ops.fastnn_triton.*`. See triton_ops.py."""

# No `from __future__ import annotations`: torch reads the schema of each op from its annotations.
# ruff: noqa: UP007, UP045

from torch import Tensor

from ..kernels import activation as _activation
from .triton_registration import operator_of, row_major, same


@operator_of(same)
def activation(x: Tensor, name: str, a: float = 0.0, b: float = 0.0) -> Tensor:
    return _activation.activation(x, name, a, b)


@operator_of(same)
def activation_backward(saved: Tensor, dy: Tensor, name: str, a: float, b: float) -> Tensor:
    return _activation.activation_backward(saved, dy, name, a, b)


def _save_activation(ctx, inputs, output):
    x, ctx.name, ctx.a, ctx.b = inputs
    ctx.save_for_backward(output if ctx.name in _activation.FROM_OUTPUT else x)


def _activation_gradient(ctx, dy):
    return activation_backward(*ctx.saved_tensors, dy, ctx.name, ctx.a, ctx.b), None, None, None


activation.register_autograd(_activation_gradient, setup_context=_save_activation)


@operator_of(lambda gate, up, activation: row_major(gate))
def gated(gate: Tensor, up: Tensor, activation: str = "silu") -> Tensor:
    return _activation.gated(gate, up, activation)


@operator_of(lambda gate, up, dy, activation: (row_major(gate), row_major(gate)))
def gated_backward(gate: Tensor, up: Tensor, dy: Tensor, activation: str) -> tuple[Tensor, Tensor]:
    return _activation.gated_backward(gate, up, dy, activation)


def _save_gated(ctx, inputs, output):
    gate, up, ctx.activation = inputs
    ctx.save_for_backward(gate, up)


gated.register_autograd(
    lambda ctx, dy: (*gated_backward(*ctx.saved_tensors, dy, ctx.activation), None), setup_context=_save_gated
)
