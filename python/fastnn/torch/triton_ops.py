"""Registers the Triton kernels as `torch.ops.fastnn_triton.*`, with gradients, and open to torch.compile.

    import fastnn.torch.triton_ops
    y = fastnn.torch.triton_ops.linear(x, weight, bias, "gelu")
    y = torch.ops.fastnn_triton.linear_fused(x, weight, bias, "relu", None, "ieee")

Each gradient is an operator of its own, `f_backward`; a gradient of it raises. The ops take CUDA tensors; with
TRITON_INTERPRET=1 CPU tensors, for which torch.compile sees opaque operators.
"""
# No `from __future__ import annotations`: torch reads the schema of each op from its annotations.
# ruff: noqa: UP007, UP045

from typing import Optional

import torch
from torch import Tensor

from ..kernels import cross_entropy as _cross_entropy
from ..kernels import dropout as _dropout
from ..kernels import embedding as _embedding
from ..kernels import linear_cross_entropy as _linear_cross_entropy
from ..kernels import normalization as _normalization
from ..kernels import rotary as _rotary
from ..kernels import softmax as _softmax
from .triton_activation import activation, gated
from .triton_optimizers import adagrad_step, adam_step, lion_step, rmsprop_step, sgd_step
from .triton_products import attention, conv2d, linear
from .triton_registration import NAMESPACE, operator_of, precision, row_major, same

__all__ = [
    "activation",
    "adagrad_step",
    "adam_step",
    "add_layer_norm",
    "add_rms_norm",
    "attention",
    "conv2d",
    "cross_entropy",
    "dropout",
    "embedding",
    "gated",
    "layer_norm",
    "linear",
    "linear_cross_entropy",
    "lion_step",
    "rms_norm",
    "rmsprop_step",
    "rotary",
    "sgd_step",
    "softmax",
]


# ---- softmax and losses ----------------------------------------------------------------------------------------------


@operator_of(lambda x, dim=-1, log=False: row_major(x))
def softmax(x: Tensor, dim: int = -1, log: bool = False) -> Tensor:
    return _softmax.softmax(x, dim, log)


@operator_of(lambda y, dy, dim, log: row_major(y))
def softmax_backward(y: Tensor, dy: Tensor, dim: int, log: bool) -> Tensor:
    return _softmax.softmax_backward(y, dy, dim, log)


def _save_softmax(ctx, inputs, output):
    _, ctx.dim, ctx.log = inputs
    ctx.save_for_backward(output)


softmax.register_autograd(
    lambda ctx, dy: (softmax_backward(*ctx.saved_tensors, dy, ctx.dim, ctx.log), None, None),
    setup_context=_save_softmax,
)


def _cross_entropy_fake(x, target, weight, ignore_index, reduction, label_smoothing, gradient):
    loss = x.new_empty(target.shape if reduction == "none" else ())
    return loss, row_major(x) if gradient else x.new_empty(0)


@operator_of(_cross_entropy_fake)
def cross_entropy_with_gradient(
    x: Tensor,
    target: Tensor,
    weight: Optional[Tensor],
    ignore_index: int,
    reduction: str,
    label_smoothing: float,
    gradient: bool,
) -> tuple[Tensor, Tensor]:
    loss, dx = _cross_entropy.cross_entropy(x, target, weight, ignore_index, reduction, label_smoothing, gradient)
    return loss, x.new_empty(0) if dx is None else dx


@operator_of(lambda dx, dloss: row_major(dx))
def cross_entropy_backward(dx: Tensor, dloss: Tensor) -> Tensor:
    return _cross_entropy.scale_rows_(dx.clone(), dloss)


def scale_rows_(dx: Tensor, dloss: Tensor) -> None:
    _cross_entropy.scale_rows_(dx, dloss)


scale_rows_ = torch.library.custom_op(f"{NAMESPACE}::scale_rows_", scale_rows_, mutates_args=("dx",))
scale_rows_.register_fake(lambda dx, dloss: None)


def _save_cross_entropy(ctx, inputs, output):
    if not inputs[-1]:
        raise RuntimeError("cross_entropy_with_gradient: a gradient is recorded but gradient=False")
    ctx.save_for_backward(output[1])
    ctx.mark_non_differentiable(output[1])


def _cross_entropy_gradient(ctx, dloss, _):
    if getattr(ctx, "spent", False):
        raise RuntimeError(
            "cross_entropy: its gradient was taken before, and its memory given away; call cross_entropy again instead "
            "of backward with retain_graph=True"
        )
    (dx,) = ctx.saved_tensors
    if torch.compiler.is_compiling() or type(dx) is not Tensor:  # traced
        dx = cross_entropy_backward(dx, dloss)
    else:
        # In place, and without any traffic where dloss is one: another copy would double the cost of the whole loss.
        ctx.spent = True
        scale_rows_(dx, dloss)
    return dx, None, None, None, None, None, None


cross_entropy_with_gradient.register_autograd(_cross_entropy_gradient, setup_context=_save_cross_entropy)


def cross_entropy(
    x: Tensor,
    target: Tensor,
    weight: Optional[Tensor] = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    """cross_entropy of (rows, classes); where x requires a gradient, that is computed along with the loss."""
    gradient = torch.is_grad_enabled() and x.requires_grad
    return cross_entropy_with_gradient(x, target, weight, ignore_index, reduction, label_smoothing, gradient)[0]


def _linear_cross_entropy_fake(x, weight, target, bias, ignore_index, reduction, label_smoothing, precision, gradient):
    none = x.new_empty(0)
    if not gradient:
        return x.new_empty(()), none, none.clone(), none.clone()
    dbias = none if bias is None else row_major(bias)
    return x.new_empty(()), row_major(x), row_major(weight), dbias


@operator_of(_linear_cross_entropy_fake)
def linear_cross_entropy_with_gradient(
    x: Tensor,
    weight: Tensor,
    target: Tensor,
    bias: Optional[Tensor],
    ignore_index: int,
    reduction: str,
    label_smoothing: float,
    precision: str,
    gradient: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    loss, *grads = _linear_cross_entropy.linear_cross_entropy(
        x, weight, target, bias, ignore_index, reduction, label_smoothing, gradient, precision
    )
    return (loss, *(x.new_empty(0) if g is None else g for g in grads))


def _save_linear_cross_entropy(ctx, inputs, output):
    if not inputs[-1]:
        raise RuntimeError("linear_cross_entropy_with_gradient: a gradient is recorded but gradient=False")
    ctx.save_for_backward(*output[1:])
    ctx.with_bias = inputs[3] is not None
    ctx.mark_non_differentiable(*output[1:])


def _linear_cross_entropy_gradient(ctx, dloss, *_):
    dx, dweight, dbias = ctx.saved_tensors
    dbias = dloss * dbias if ctx.with_bias else None
    return dloss * dx, dloss * dweight, None, dbias, None, None, None, None, None


linear_cross_entropy_with_gradient.register_autograd(
    _linear_cross_entropy_gradient, setup_context=_save_linear_cross_entropy
)


def linear_cross_entropy(
    x: Tensor,
    weight: Tensor,
    target: Tensor,
    bias: Optional[Tensor] = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    """cross_entropy(linear(x, weight, bias), target) without the logits; gradients are computed along with the loss."""
    gradient = torch.is_grad_enabled() and any(v is not None and v.requires_grad for v in (x, weight, bias))
    return linear_cross_entropy_with_gradient(
        x, weight, target, bias, ignore_index, reduction, label_smoothing, precision(), gradient
    )[0]


# ---- normalization ---------------------------------------------------------------------------------------------------


def _norm_fake(x, weight, bias, residual, eps, rms):
    rows = x.numel() // x.shape[-1] if x.shape[-1] else 0
    rstd = x.new_empty(rows, dtype=torch.float32)
    z = x.new_empty(0) if residual is None else row_major(x)
    return row_major(x), z, rstd.new_empty(0 if rms else rows), rstd


@operator_of(_norm_fake)
def norm(
    x: Tensor, weight: Optional[Tensor], bias: Optional[Tensor], residual: Optional[Tensor], eps: float, rms: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(y, z, mean, rstd); z = x + residual is empty without a residual."""
    y, z, mean, rstd = _normalization.norm(x, weight, bias, residual, eps, rms)
    return y, x.new_empty(0) if residual is None else z, mean, rstd


def _norm_backward_fake(dy, dz, z, weight, mean, rstd, bias, rms):
    none = z.new_empty(0)
    return (
        row_major(z),
        none if weight is None else z.new_empty(z.shape[-1]),
        z.new_empty(z.shape[-1]) if bias else none.clone(),
    )


@operator_of(_norm_backward_fake)
def norm_backward(
    dy: Tensor, dz: Optional[Tensor], z: Tensor, weight: Optional[Tensor], mean: Tensor, rstd: Tensor, bias: bool,
    rms: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    dx, dweight, dbias = _normalization.norm_backward(dy, dz, z, weight, mean, rstd, bias, rms)
    return dx, z.new_empty(0) if dweight is None else dweight, z.new_empty(0) if dbias is None else dbias


def _save_norm(ctx, inputs, output):
    x, weight, bias, residual, _, ctx.rms = inputs
    _, z, mean, rstd = output
    ctx.bias, ctx.residual = bias is not None, residual is not None
    ctx.save_for_backward(z if ctx.residual else x, weight, mean, rstd)
    ctx.mark_non_differentiable(mean, rstd, *(() if ctx.residual else (z,)))
    ctx.set_materialize_grads(False)


def _norm_gradient(ctx, dy, dz, *_):
    z, weight, mean, rstd = ctx.saved_tensors
    if dy is None:
        dy = torch.zeros_like(z)
    dz = dz if ctx.residual else None
    dx, dweight, dbias = norm_backward(dy, dz, z, weight, mean, rstd, ctx.bias, ctx.rms)
    return (
        dx,
        None if weight is None else dweight,
        dbias if ctx.bias else None,
        dx if ctx.residual else None,
        None,
        None,
    )


norm.register_autograd(_norm_gradient, setup_context=_save_norm)


def layer_norm(x: Tensor, weight: Optional[Tensor] = None, bias: Optional[Tensor] = None, eps: float = 1e-5) -> Tensor:
    """layer_norm over the last dimension."""
    return norm(x, weight, bias, None, eps, False)[0]


def rms_norm(x: Tensor, weight: Optional[Tensor] = None, eps: Optional[float] = None) -> Tensor:
    """rms_norm over the last dimension."""
    return norm(x, weight, None, None, torch.finfo(x.dtype).eps if eps is None else eps, True)[0]


def add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float = 1e-6) -> tuple[Tensor, Tensor]:
    """(rms_norm(z) weight, z) with z = x + residual, in one pass."""
    return norm(x, weight, None, residual, eps, True)[:2]


def add_layer_norm(
    x: Tensor, residual: Tensor, weight: Optional[Tensor] = None, bias: Optional[Tensor] = None, eps: float = 1e-5
) -> tuple[Tensor, Tensor]:
    """(layer_norm(z), z) with z = x + residual, in one pass."""
    return norm(x, weight, bias, residual, eps, False)[:2]


@operator_of(lambda x, *_: row_major(x))
def rotary(x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool = False, inverse: bool = False) -> Tensor:
    return _rotary.rotary(x, cos, sin, interleaved, inverse)


def _save_rotary(ctx, inputs, output):
    _, cos, sin, ctx.interleaved, ctx.inverse = inputs
    ctx.save_for_backward(cos, sin)


rotary.register_autograd(
    lambda ctx, dy: (rotary(dy, *ctx.saved_tensors, ctx.interleaved, not ctx.inverse), None, None, None, None),
    setup_context=_save_rotary,
)


# ---- dropout and embedding -------------------------------------------------------------------------------------------


@operator_of(same)
def dropout_keyed(x: Tensor, p: float, key: Tensor) -> Tensor:
    return _dropout.dropout(x, p, key)


@operator_of(lambda dy, p, key, pattern: same(pattern))
def dropout_backward(dy: Tensor, p: float, key: Tensor, pattern: Tensor) -> Tensor:
    return _dropout.dropout_backward(dy, p, key, pattern)


def _save_dropout(ctx, inputs, output):
    _, ctx.p, key = inputs
    ctx.save_for_backward(key, output)  # of the output only the layout is used; the next op keeps it anyway


dropout_keyed.register_autograd(
    lambda ctx, dy: (dropout_backward(dy, ctx.p, *ctx.saved_tensors), None, None), setup_context=_save_dropout
)


def dropout(x: Tensor, p: float = 0.5, training: bool = True) -> Tensor:
    """dropout whose key is drawn by torch's generator of the device (`torch.manual_seed`)."""
    if not training or p == 0:
        return x
    key = torch.randint(-(2**63), 2**63 - 1, (2,), dtype=torch.int64, device=x.device)
    return dropout_keyed(x, p, key)


@operator_of(lambda index, weight, *_: weight.new_empty((*index.shape, weight.shape[1])))
def embedding(
    index: Tensor, weight: Tensor, padding_idx: Optional[int] = None, scale_grad_by_freq: bool = False
) -> Tensor:
    return _embedding.embedding(index, weight)


@operator_of(lambda dy, index, rows, *_: dy.new_empty((rows, dy.shape[-1])))
def embedding_backward(
    dy: Tensor, index: Tensor, rows: int, padding_idx: Optional[int], scale_grad_by_freq: bool
) -> Tensor:
    return _embedding.embedding_backward(dy, index, rows, padding_idx, scale_grad_by_freq)


def _save_embedding(ctx, inputs, output):
    index, weight, ctx.padding, ctx.by_frequency = inputs
    ctx.rows = weight.shape[0]
    ctx.save_for_backward(index)


embedding.register_autograd(
    lambda ctx, dy: (
        None, embedding_backward(dy, *ctx.saved_tensors, ctx.rows, ctx.padding, ctx.by_frequency), None, None
    ),
    setup_context=_save_embedding,
)  # fmt: skip
