"""Products as `torch.ops.fastnn_triton.*`: linear layers, convolutions, attention. See triton_ops.py."""

# No `from __future__ import annotations`: torch reads the schema of each op from its annotations.
# ruff: noqa: UP007, UP045

from typing import Optional

import torch
from torch import Tensor

from ..kernels import attention as _attention
from ..kernels import conv2d as _conv2d
from ..kernels import matmul as _matmul
from ..kernels._functors import FROM_OUTPUT
from .triton_activation import activation, activation_backward
from .triton_registration import operator_of, precision, row_major

# ---- products --------------------------------------------------------------------------------------------------------


@operator_of(lambda x, weight, bias, activation, residual, precision: row_major(x, (*x.shape[:-1], weight.shape[0])))
def linear_fused(
    x: Tensor, weight: Tensor, bias: Optional[Tensor], activation: str, residual: Optional[Tensor], precision: str
) -> Tensor:
    return _matmul.linear(x, weight, bias, None if activation == "none" else activation, residual, precision)


@operator_of(lambda dy, x, weight, precision: (row_major(x), row_major(weight), weight.new_empty(weight.shape[0])))
def linear_backward(dy: Tensor, x: Tensor, weight: Tensor, precision: str) -> tuple[Tensor, Tensor, Tensor]:
    return _matmul.linear_backward(dy, x, weight, precision)


def _save_linear(ctx, inputs, output):
    x, weight, bias, ctx.activation, residual, ctx.precision = inputs
    ctx.bias, ctx.residual = bias is not None, residual is not None
    kept = output if ctx.activation in FROM_OUTPUT else None
    if ctx.activation != "none" and kept is None:
        raise NotImplementedError(f"linear_fused: {ctx.activation} has no gradient here; use linear()")
    ctx.save_for_backward(x, weight, kept)


def _linear_gradient(ctx, dy):
    x, weight, y = ctx.saved_tensors
    if y is not None:
        dy = activation_backward(y, dy, ctx.activation, 0.0, 0.0)
    dx, dweight, dbias = linear_backward(dy, x, weight, ctx.precision)
    return dx, dweight, dbias if ctx.bias else None, None, dy if ctx.residual else None, None


linear_fused.register_autograd(_linear_gradient, setup_context=_save_linear)


def _recorded(*tensors: Optional[Tensor]) -> bool:
    return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)


def linear(
    x: Tensor,
    weight: Tensor,
    bias: Optional[Tensor] = None,
    activation_name: Optional[str] = None,
    residual: Optional[Tensor] = None,
) -> Tensor:
    """f(x weight^T + bias + residual).

    The activation is part of the product, unless a gradient needs the value before it.
    """
    name = activation_name or "none"
    if name not in ("none", *FROM_OUTPUT) and _recorded(x, weight, bias, residual):
        return activation(linear_fused(x, weight, bias, "none", residual, precision()), name)
    return linear_fused(x, weight, bias, name, residual, precision())


def _conv2d_fake(x, weight, bias, stride, padding, dilation, groups, activation, residual, precision):
    rows, cols = _conv2d.output_size("conv2d", x.shape, weight.shape, stride, padding, dilation, groups)
    y = _images(x, x.shape[0], weight.shape[0], rows, cols)
    last = not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)
    return y if last else y.contiguous()


def _images(x: Tensor, n: int, c: int, h: int, w: int) -> Tensor:
    return x.new_empty((n, h, w, c)).permute(0, 3, 1, 2)


@operator_of(_conv2d_fake)
def conv2d_fused(
    x: Tensor,
    weight: Tensor,
    bias: Optional[Tensor],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    activation: str,
    residual: Optional[Tensor],
    precision: str,
) -> Tensor:
    name = None if activation == "none" else activation
    pairs = (tuple(stride), tuple(padding), tuple(dilation))
    return _conv2d.conv2d(x, weight, bias, *pairs, groups, name, residual, precision)


@operator_of(lambda dy, weight, shape, stride, padding, dilation, groups, precision: _images(dy, *shape))
def conv2d_input_backward(
    dy: Tensor,
    weight: Tensor,
    shape: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    precision: str,
) -> Tensor:
    pairs = (tuple(stride), tuple(padding), tuple(dilation))
    return _conv2d.conv2d_input_backward(dy, weight, tuple(shape), *pairs, groups, precision)


@operator_of(lambda dy, x, shape, stride, padding, dilation, groups, precision: _images(x, *shape))
def conv2d_weight_backward(
    dy: Tensor,
    x: Tensor,
    shape: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    precision: str,
) -> Tensor:
    pairs = (tuple(stride), tuple(padding), tuple(dilation))
    return _conv2d.conv2d_weight_backward(dy, x, tuple(shape), *pairs, groups, precision)


@operator_of(lambda dy: dy.new_empty(dy.shape[1]))
def conv2d_bias_backward(dy: Tensor) -> Tensor:
    return _conv2d.conv2d_bias_backward(dy)


def _save_conv2d(ctx, inputs, output):
    x, weight, bias, *pairs, groups, ctx.activation, residual, precision = inputs
    ctx.arguments = (*pairs, groups, precision)
    kept = output if ctx.activation in FROM_OUTPUT else None
    if ctx.activation != "none" and kept is None:
        raise NotImplementedError(f"conv2d_fused: {ctx.activation} has no gradient here; use conv2d()")
    ctx.save_for_backward(x, weight, kept)


def _conv2d_gradient(ctx, dy):
    x, weight, y = ctx.saved_tensors
    if y is not None:
        dy = activation_backward(y, dy, ctx.activation, 0.0, 0.0)
    needs = ctx.needs_input_grad
    dx = conv2d_input_backward(dy, weight, list(x.shape), *ctx.arguments) if needs[0] else None
    dweight = conv2d_weight_backward(dy, x, list(weight.shape), *ctx.arguments) if needs[1] else None
    dbias = conv2d_bias_backward(dy) if needs[2] else None
    return dx, dweight, dbias, None, None, None, None, None, dy if needs[8] else None, None


conv2d_fused.register_autograd(_conv2d_gradient, setup_context=_save_conv2d)


def conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Optional[Tensor] = None,
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int] = (0, 0),
    dilation: tuple[int, int] = (1, 1),
    groups: int = 1,
    activation_name: Optional[str] = None,
    residual: Optional[Tensor] = None,
) -> Tensor:
    """f(conv2d(x, weight) + bias + residual); see linear for the activation."""
    name = activation_name or "none"
    arguments = (list(stride), list(padding), list(dilation), groups)
    if name not in ("none", *FROM_OUTPUT) and _recorded(x, weight, bias, residual):
        return activation(conv2d_fused(x, weight, bias, *arguments, "none", residual, precision()), name)
    return conv2d_fused(x, weight, bias, *arguments, name, residual, precision())


# ---- attention -------------------------------------------------------------------------------------------------------


def _attention_fake(q, k, v, mask, causal, scale, precision):
    return row_major(q, (*q.shape[:3], v.shape[3])), q.new_empty(q.shape[:3], dtype=torch.float32)


@operator_of(_attention_fake)
def attention_with_sums(
    q: Tensor, k: Tensor, v: Tensor, mask: Optional[Tensor], causal: bool, scale: float, precision: str
) -> tuple[Tensor, Tensor]:
    return _attention.attention(q, k, v, mask, causal, scale, precision)


@operator_of(lambda do, q, k, v, *_: (row_major(q), row_major(k), row_major(v)))
def attention_backward(
    do: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    o: Tensor,
    log_sum: Tensor,
    mask: Optional[Tensor],
    causal: bool,
    scale: float,
    precision: str,
) -> tuple[Tensor, Tensor, Tensor]:
    return _attention.attention_backward(do, q, k, v, o, log_sum, mask, causal, scale, precision)


def _save_attention(ctx, inputs, output):
    q, k, v, mask, *ctx.arguments = inputs
    if mask is not None and mask.requires_grad:
        raise NotImplementedError("attention: attn_mask requires a gradient, which the kernels do not compute")
    ctx.save_for_backward(q, k, v, *output, mask)
    ctx.mark_non_differentiable(output[1])


def _attention_gradient(ctx, do, _):
    return *attention_backward(do, *ctx.saved_tensors, *ctx.arguments), None, None, None, None


attention_with_sums.register_autograd(_attention_gradient, setup_context=_save_attention)


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Optional[Tensor] = None,
    causal: bool = False,
    scale: Optional[float] = None,
) -> Tensor:
    """scaled_dot_product_attention of (batch, heads, length, size), with as many or fewer heads of keys."""
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    if mask is not None:
        mask = mask.expand(*q.shape[:3], k.shape[2])
    return attention_with_sums(q, k, v, mask, causal, scale, precision())[0]
