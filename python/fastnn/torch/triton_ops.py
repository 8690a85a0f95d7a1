"""Registers the Triton kernels as `torch.ops.fastnn_triton.*`, with gradients, and open to torch.compile.

    import fastnn.torch.triton_ops
    y = fastnn.torch.triton_ops.linear(x, weight, bias, "gelu")
    y = torch.ops.fastnn_triton.linear_fused(x, weight, bias, "relu", None, "ieee")

Each gradient is an operator of its own, `f_backward`; a gradient of it raises. The ops take CUDA tensors; with
TRITON_INTERPRET=1 CPU tensors, for which torch.compile sees opaque operators.
"""

# No `from __future__ import annotations`: torch reads the schema of each op from its annotations.
# ruff: noqa: UP007, UP045

from collections.abc import Callable
from typing import Any, Optional

import torch
from torch import Tensor

from ..kernels import activation as _activation
from ..kernels import attention as _attention
from ..kernels import conv2d as _conv2d
from ..kernels import cross_entropy as _cross_entropy
from ..kernels import dropout as _dropout
from ..kernels import embedding as _embedding
from ..kernels import linear_cross_entropy as _linear_cross_entropy
from ..kernels import matmul as _matmul
from ..kernels import normalization as _normalization
from ..kernels import optimizer as _optimizer
from ..kernels import rotary as _rotary
from ..kernels import softmax as _softmax
from ..kernels._launch import INTERPRETED, dense

_NAMESPACE = "fastnn_triton"


def _op(fake: Callable[..., Any]) -> Callable[[Callable[..., Any]], Any]:
    """Registers a function as the operator of its name; `fake` makes results of the same shapes, dtypes and strides."""

    def register(function: Callable[..., Any]) -> Any:
        name = f"{_NAMESPACE}::{function.__name__.removeprefix('_')}"
        # The interpreter's kernels cannot be traced: what torch.compile sees there is an opaque operator.
        make = torch.library.custom_op if INTERPRETED else torch.library.triton_op
        operator = make(name, function, mutates_args=())
        operator.register_fake(fake)
        return operator

    return register


def _same(x: Tensor, *_: Any, **__: Any) -> Tensor:
    return torch.empty_like(dense(x))


def _row_major(x: Tensor, shape: Any = None, dtype: Optional[torch.dtype] = None) -> Tensor:
    return x.new_empty(x.shape if shape is None else shape, dtype=dtype)


def _precision() -> str:
    """What torch's own products of float32 on a GPU would use."""
    return "tf32" if torch.backends.cuda.matmul.allow_tf32 else "ieee"


# ---- activations -----------------------------------------------------------------------------------------------------


@_op(_same)
def activation(x: Tensor, name: str, a: float = 0.0, b: float = 0.0) -> Tensor:
    return _activation.activation(x, name, a, b)


@_op(_same)
def activation_backward(saved: Tensor, dy: Tensor, name: str, a: float, b: float) -> Tensor:
    return _activation.activation_backward(saved, dy, name, a, b)


def _save_activation(ctx, inputs, output):
    x, ctx.name, ctx.a, ctx.b = inputs
    ctx.save_for_backward(output if ctx.name in _activation.FROM_OUTPUT else x)


def _activation_gradient(ctx, dy):
    return activation_backward(*ctx.saved_tensors, dy, ctx.name, ctx.a, ctx.b), None, None, None


activation.register_autograd(_activation_gradient, setup_context=_save_activation)


@_op(lambda gate, up, activation: _row_major(gate))
def gated(gate: Tensor, up: Tensor, activation: str = "silu") -> Tensor:
    return _activation.gated(gate, up, activation)


@_op(lambda gate, up, dy, activation: (_row_major(gate), _row_major(gate)))
def gated_backward(gate: Tensor, up: Tensor, dy: Tensor, activation: str) -> tuple[Tensor, Tensor]:
    return _activation.gated_backward(gate, up, dy, activation)


def _save_gated(ctx, inputs, output):
    gate, up, ctx.activation = inputs
    ctx.save_for_backward(gate, up)


gated.register_autograd(
    lambda ctx, dy: (*gated_backward(*ctx.saved_tensors, dy, ctx.activation), None), setup_context=_save_gated
)


# ---- softmax and losses ----------------------------------------------------------------------------------------------


@_op(lambda x, dim=-1, log=False: _row_major(x))
def softmax(x: Tensor, dim: int = -1, log: bool = False) -> Tensor:
    return _softmax.softmax(x, dim, log)


@_op(lambda y, dy, dim, log: _row_major(y))
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
    return loss, _row_major(x) if gradient else x.new_empty(0)


@_op(_cross_entropy_fake)
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


@_op(lambda dx, dloss: _row_major(dx))
def cross_entropy_backward(dx: Tensor, dloss: Tensor) -> Tensor:
    return _cross_entropy.scale_rows_(dx.clone(), dloss)


def scale_rows_(dx: Tensor, dloss: Tensor) -> None:
    _cross_entropy.scale_rows_(dx, dloss)


scale_rows_ = torch.library.custom_op(f"{_NAMESPACE}::scale_rows_", scale_rows_, mutates_args=("dx",))
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
    dbias = none if bias is None else _row_major(bias)
    return x.new_empty(()), _row_major(x), _row_major(weight), dbias


@_op(_linear_cross_entropy_fake)
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
        x, weight, target, bias, ignore_index, reduction, label_smoothing, _precision(), gradient
    )[0]


# ---- normalization ---------------------------------------------------------------------------------------------------


def _norm_fake(x, weight, bias, residual, eps, rms):
    rows = x.numel() // x.shape[-1] if x.shape[-1] else 0
    rstd = x.new_empty(rows, dtype=torch.float32)
    z = x.new_empty(0) if residual is None else _row_major(x)
    return _row_major(x), z, rstd.new_empty(0 if rms else rows), rstd


@_op(_norm_fake)
def norm(
    x: Tensor, weight: Optional[Tensor], bias: Optional[Tensor], residual: Optional[Tensor], eps: float, rms: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(y, z, mean, rstd); z = x + residual is empty without a residual."""
    y, z, mean, rstd = _normalization.norm(x, weight, bias, residual, eps, rms)
    return y, x.new_empty(0) if residual is None else z, mean, rstd


def _norm_backward_fake(dy, dz, z, weight, mean, rstd, bias, rms):
    none = z.new_empty(0)
    return (
        _row_major(z),
        none if weight is None else z.new_empty(z.shape[-1]),
        z.new_empty(z.shape[-1]) if bias else none.clone(),
    )


@_op(_norm_backward_fake)
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


# ---- products --------------------------------------------------------------------------------------------------------


@_op(lambda x, weight, bias, activation, residual, precision: _row_major(x, (*x.shape[:-1], weight.shape[0])))
def linear_fused(
    x: Tensor, weight: Tensor, bias: Optional[Tensor], activation: str, residual: Optional[Tensor], precision: str
) -> Tensor:
    return _matmul.linear(x, weight, bias, None if activation == "none" else activation, residual, precision)


@_op(lambda dy, x, weight, precision: (_row_major(x), _row_major(weight), weight.new_empty(weight.shape[0])))
def linear_backward(dy: Tensor, x: Tensor, weight: Tensor, precision: str) -> tuple[Tensor, Tensor, Tensor]:
    return _matmul.linear_backward(dy, x, weight, precision)


def _save_linear(ctx, inputs, output):
    x, weight, bias, ctx.activation, residual, ctx.precision = inputs
    ctx.bias, ctx.residual = bias is not None, residual is not None
    kept = output if ctx.activation in _activation.FROM_OUTPUT else None
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
    if name not in ("none", *_activation.FROM_OUTPUT) and _recorded(x, weight, bias, residual):
        return activation(linear_fused(x, weight, bias, "none", residual, _precision()), name)
    return linear_fused(x, weight, bias, name, residual, _precision())


def _conv2d_fake(x, weight, bias, stride, padding, dilation, groups, activation, residual, precision):
    rows, cols = _conv2d.output_size("conv2d", x.shape, weight.shape, stride, padding, dilation, groups)
    y = _images(x, x.shape[0], weight.shape[0], rows, cols)
    last = not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)
    return y if last else y.contiguous()


def _images(x: Tensor, n: int, c: int, h: int, w: int) -> Tensor:
    return x.new_empty((n, h, w, c)).permute(0, 3, 1, 2)


@_op(_conv2d_fake)
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


@_op(lambda dy, weight, shape, stride, padding, dilation, groups, precision: _images(dy, *shape))
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


@_op(lambda dy, x, shape, stride, padding, dilation, groups, precision: _images(x, *shape))
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


@_op(lambda dy: dy.new_empty(dy.shape[1]))
def conv2d_bias_backward(dy: Tensor) -> Tensor:
    return _conv2d.conv2d_bias_backward(dy)


def _save_conv2d(ctx, inputs, output):
    x, weight, bias, *pairs, groups, ctx.activation, residual, precision = inputs
    ctx.arguments = (*pairs, groups, precision)
    kept = output if ctx.activation in _activation.FROM_OUTPUT else None
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
    if name not in ("none", *_activation.FROM_OUTPUT) and _recorded(x, weight, bias, residual):
        return activation(conv2d_fused(x, weight, bias, *arguments, "none", residual, _precision()), name)
    return conv2d_fused(x, weight, bias, *arguments, name, residual, _precision())


# ---- attention -------------------------------------------------------------------------------------------------------


def _attention_fake(q, k, v, mask, causal, scale, precision):
    return _row_major(q, (*q.shape[:3], v.shape[3])), q.new_empty(q.shape[:3], dtype=torch.float32)


@_op(_attention_fake)
def attention_with_sums(
    q: Tensor, k: Tensor, v: Tensor, mask: Optional[Tensor], causal: bool, scale: float, precision: str
) -> tuple[Tensor, Tensor]:
    return _attention.attention(q, k, v, mask, causal, scale, precision)


@_op(lambda do, q, k, v, *_: (_row_major(q), _row_major(k), _row_major(v)))
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
    return attention_with_sums(q, k, v, mask, causal, scale, _precision())[0]


@_op(lambda x, *_: _row_major(x))
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


@_op(_same)
def dropout_keyed(x: Tensor, p: float, key: Tensor) -> Tensor:
    return _dropout.dropout(x, p, key)


@_op(lambda dy, p, key, pattern: _same(pattern))
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


@_op(lambda index, weight, *_: weight.new_empty((*index.shape, weight.shape[1])))
def embedding(
    index: Tensor, weight: Tensor, padding_idx: Optional[int] = None, scale_grad_by_freq: bool = False
) -> Tensor:
    return _embedding.embedding(index, weight)


@_op(lambda dy, index, rows, *_: dy.new_empty((rows, dy.shape[-1])))
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


# ---- optimizers ------------------------------------------------------------------------------------------------------
# Their kernels read tables of addresses, in which torch.compile cannot see what is written: opaque operators.


def _step(states: str) -> Callable[[Callable[..., None]], Any]:
    def register(function: Callable[..., None]) -> Any:
        name = f"{_NAMESPACE}::{function.__name__}"
        operator = torch.library.custom_op(name, function, mutates_args=("params", *states.split()))
        operator.register_fake(lambda *_, **__: None)
        return operator

    return register


@_step("momentum_buffers")
def sgd_step(
    params: list[Tensor],
    grads: list[Tensor],
    momentum_buffers: list[Tensor],
    lr: float,
    momentum: float = 0.0,
    dampening: float = 0.0,
    weight_decay: float = 0.0,
    nesterov: bool = False,
    maximize: bool = False,
    first: bool = False,
) -> None:
    _optimizer.sgd_step(
        params, grads, momentum_buffers, lr, momentum, dampening, weight_decay, nesterov, maximize, first
    )


@_step("exp_avgs exp_avg_sqs max_exp_avg_sqs")
def adam_step(
    params: list[Tensor],
    grads: list[Tensor],
    exp_avgs: list[Tensor],
    exp_avg_sqs: list[Tensor],
    max_exp_avg_sqs: list[Tensor],
    step: int,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float = 0.0,
    decoupled: bool = False,
    maximize: bool = False,
) -> None:
    states = (exp_avgs, exp_avg_sqs, max_exp_avg_sqs)
    _optimizer.adam_step(params, grads, *states, step, lr, beta1, beta2, eps, weight_decay, decoupled, maximize)


@_step("square_avgs grad_avgs momentum_buffers")
def rmsprop_step(
    params: list[Tensor],
    grads: list[Tensor],
    square_avgs: list[Tensor],
    grad_avgs: list[Tensor],
    momentum_buffers: list[Tensor],
    lr: float,
    alpha: float = 0.99,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    momentum: float = 0.0,
    maximize: bool = False,
) -> None:
    states = (square_avgs, grad_avgs, momentum_buffers)
    _optimizer.rmsprop_step(params, grads, *states, lr, alpha, eps, weight_decay, momentum, maximize)


@_step("sums")
def adagrad_step(
    params: list[Tensor],
    grads: list[Tensor],
    sums: list[Tensor],
    step: int,
    lr: float,
    lr_decay: float = 0.0,
    weight_decay: float = 0.0,
    eps: float = 1e-10,
    maximize: bool = False,
) -> None:
    _optimizer.adagrad_step(params, grads, sums, step, lr, lr_decay, weight_decay, eps, maximize)


@_step("exp_avgs")
def lion_step(
    params: list[Tensor],
    grads: list[Tensor],
    exp_avgs: list[Tensor],
    lr: float,
    beta1: float = 0.9,
    beta2: float = 0.99,
    weight_decay: float = 0.0,
    maximize: bool = False,
) -> None:
    _optimizer.lion_step(params, grads, exp_avgs, lr, beta1, beta2, weight_decay, maximize)
