"""Pointwise losses.

In all of them L is the loss of one element, `reduction` is "none" (L itself), "sum" or "mean", and `size_average` and
`reduce` are torch's deprecated way to say it. dtypes are float32, bfloat16, float16 and float64; target and weight have
the dtype of input. The result has it too, and is 0-d unless the reduction is "none". Both input and target are
differentiable, weights are not. All raise ValueError for shapes and parameters that do not fit and NotImplementedError
for other dtypes.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

from .. import _C

if TYPE_CHECKING:
    from ..tensor import Tensor


def legacy_reduction(size_average: bool | None, reduce: bool | None) -> str:
    """The reduction that torch's deprecated arguments stand for."""
    reduction = "none" if reduce is False else "sum" if size_average is False else "mean"
    warnings.warn(
        f"size_average and reduce are deprecated; use reduction={reduction!r}", DeprecationWarning, stacklevel=3
    )
    return reduction


def require_no_gradient(op: str, argument: str, value: Tensor | None) -> None:
    if value is not None and value.requires_grad:
        raise NotImplementedError(f"{op}: {argument} requires a gradient, which is not supported; detach it")


def _warn_of_broadcast(op: str, input: Tensor, target: Tensor) -> None:
    # (N, 1) against (N,) is the classic: a loss over N x N pairs that trains, badly.
    a, b = getattr(input, "shape", None), getattr(target, "shape", None)
    if a != b and a is not None and b is not None:
        warnings.warn(
            f"{op}: target has shape {tuple(b)} and input {tuple(a)}; they broadcast, which is rarely meant; give both "
            "the same shape",
            stacklevel=3,
        )


def _op(loss: str) -> _C.Op:
    def record(input, target, weight, pos_weight, reduction, a):
        require_no_gradient(loss, "weight", weight)
        require_no_gradient(loss, "pos_weight", pos_weight)
        value = _C.pointwise_loss(loss, input, target, weight, pos_weight, reduction, a)
        return value, (input, target, weight, pos_weight, reduction, a)

    return _C.Op(
        loss,
        forward=lambda *args: _C.pointwise_loss(loss, *args),
        record=record,
        backward=lambda ctx, grad: _C.pointwise_loss_backward(loss, *ctx.saved, grad, *ctx.needs_input_grad[:2]),
    )


_mse_loss = _op("mse_loss")
_l1_loss = _op("l1_loss")
_smooth_l1_loss = _op("smooth_l1_loss")
_huber_loss = _op("huber_loss")
_binary_cross_entropy = _op("binary_cross_entropy")
_binary_cross_entropy_with_logits = _op("binary_cross_entropy_with_logits")
_kl_div = _op("kl_div")


def mse_loss(
    input: Tensor,
    target: Tensor,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    weight: Tensor | None = None,
) -> Tensor:
    """L = w (x - t)^2; "mean" divides the sum by sum(w).

    input and target broadcast, with a warning. weight: of the shape of input, ones if None.
    """
    if size_average is not None or reduce is not None:
        reduction = legacy_reduction(size_average, reduce)
    _warn_of_broadcast("mse_loss", input, target)
    return _mse_loss(input, target, weight, None, reduction, 0.0)


def l1_loss(
    input: Tensor,
    target: Tensor,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    weight: Tensor | None = None,
) -> Tensor:
    """L = w |x - t|; "mean" divides the sum by sum(w). The derivative at x = t is 0.

    input and target broadcast, with a warning. weight: of the shape of input, ones if None.
    """
    if size_average is not None or reduce is not None:
        reduction = legacy_reduction(size_average, reduce)
    _warn_of_broadcast("l1_loss", input, target)
    return _l1_loss(input, target, weight, None, reduction, 0.0)


def smooth_l1_loss(
    input: Tensor,
    target: Tensor,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    beta: float = 1.0,
) -> Tensor:
    """L = d^2 / (2 beta) if d < beta else d - beta / 2, with d = |x - t|. Girshick 2015, arXiv:1504.08083.

    input and target broadcast, with a warning. beta: 0 or more; 0 is l1_loss.
    """
    if size_average is not None or reduce is not None:
        reduction = legacy_reduction(size_average, reduce)
    _warn_of_broadcast("smooth_l1_loss", input, target)
    return _smooth_l1_loss(input, target, None, None, reduction, beta)


def huber_loss(
    input: Tensor,
    target: Tensor,
    reduction: str = "mean",
    delta: float = 1.0,
    weight: Tensor | None = None,
) -> Tensor:
    """L = w d^2 / 2 if d <= delta else w delta (d - delta / 2), with d = |x - t|. Huber 1964, Ann. Math. Statist. 35.

    input and target broadcast, with a warning. delta: more than 0. weight: of the shape of input, ones if None; "mean"
    divides by the number of elements also with a weight.
    """
    _warn_of_broadcast("huber_loss", input, target)
    return _huber_loss(input, target, weight, None, reduction, delta)


def binary_cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    """L = -w (t log x + (1 - t) log(1 - x)), each logarithm at least -100.

    input: probabilities; a value outside of [0, 1] is a ValueError. x (1 - x) in the derivative is at least 1e-12.
    target: of the same shape. weight: broadcasts to it, ones if None; "mean" divides by the number of elements.
    """
    if size_average is not None or reduce is not None:
        reduction = legacy_reduction(size_average, reduce)
    return _binary_cross_entropy(input, target, weight, None, reduction, 0.0)


def binary_cross_entropy_with_logits(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    pos_weight: Tensor | None = None,
) -> Tensor:
    """L = -w (p t log s + (1 - t) log(1 - s)), with s = 1 / (1 + exp(-x)), computed from x without overflow.

    input: logits. target: of the same shape. weight (w) and pos_weight (p): broadcast to it, ones if None; "mean"
    divides by the number of elements.
    """
    if size_average is not None or reduce is not None:
        reduction = legacy_reduction(size_average, reduce)
    return _binary_cross_entropy_with_logits(input, target, weight, pos_weight, reduction, 0.0)


def kl_div(
    input: Tensor,
    target: Tensor,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    log_target: bool = False,
) -> Tensor:
    """L = t (log t - x), with 0 log 0 = 0; with log_target L = exp(t) (t - x). Kullback & Leibler 1951.

    input: log-probabilities. target: probabilities, or their logarithms; broadcasts with input. reduction may also be
    "batchmean", the divergence of the batch: the sum divided by input.shape[0]. "mean" divides by the number of
    elements.
    """
    if size_average is not None or reduce is not None:
        reduction = legacy_reduction(size_average, reduce)
    return _kl_div(input, target, None, None, reduction, 1.0 if log_target else 0.0)
