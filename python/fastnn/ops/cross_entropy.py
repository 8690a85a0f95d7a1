"""cross_entropy and nll_loss."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .. import _C
from .loss import legacy_reduction, require_no_gradient

if TYPE_CHECKING:
    from ..tensor import Tensor


def _record(input, target, weight, ignore_index, reduction, label_smoothing):
    require_no_gradient("cross_entropy", "weight", weight)
    return _C.cross_entropy_with_gradient(
        input,
        target,
        weight,
        ignore_index,
        reduction,
        label_smoothing,
        input.requires_grad,
        target.requires_grad,
    )


def _backward(ctx, grad):
    dx, dt = ctx.saved
    if dt is None:
        return _C.cross_entropy_backward(dx, grad)
    return None if dx is None else _C.cross_entropy_backward(dx, grad), _C.cross_entropy_backward(dt, grad)


_cross_entropy = _C.Op("cross_entropy", forward=_C.cross_entropy, record=_record, backward=_backward)


def cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    """With l = log_softmax(x) over the classes, weights w (ones if None) and smoothing e:

        class indices:  L = -(1 - e) w_t l_t - e / C sum_c w_c l_c, and 0 where t = ignore_index
        probabilities:  L = -sum_c w_c ((1 - e) t_c + e / C) l_c

    "sum" adds the losses; "mean" divides that by the sum of w_t over the targets that are not ignored (NaN if there are
    none), or with probabilities by the number of targets. Logits are shifted by the largest of their row, so nothing
    overflows. Where a gradient is recorded, loss and gradient come from one pass over each row, and backward only
    multiplies by the incoming gradient. Smoothing: Szegedy et al. 2016, arXiv:1512.00567.

    Args:
        input: logits (N, C, d1, ...) or (C,); float32, bfloat16, float16 or float64.
        target: classes in [0, C), int64, int32 or uint8, of shape (N, d1, ...) or (); or probabilities of the shape and
            dtype of input. Differentiable as probabilities.
        weight: (C,) of the dtype of input; not differentiable.
        ignore_index: label of targets that count nothing; for class indices only.
        reduction: "none", "mean" or "sum". `size_average` and `reduce` are torch's deprecated way to say it.
        label_smoothing: e, in [0, 1].

    Returns:
        A 0-d tensor of the dtype of input, or for "none" one of shape (N, d1, ...).

    Raises:
        IndexError: a label is no class and not ignore_index; nothing has been computed then.
        ValueError: shapes that do not fit, reduction, label_smoothing, or ignore_index >= 0 with probabilities.
        TypeError: labels that are not integers, or integers in the shape of input.
        NotImplementedError: other dtypes, or dtypes of target or weight that are not that of input.
    """
    if size_average is not None or reduce is not None:
        reduction = legacy_reduction(size_average, reduce)
    return _cross_entropy(input, target, weight, ignore_index, reduction, label_smoothing)


def _nll_record(input, target, weight, ignore_index, reduction):
    require_no_gradient("nll_loss", "weight", weight)
    loss = _C.nll_loss(input, target, weight, ignore_index, reduction)
    return loss, (input, target, weight, ignore_index, reduction)


_nll_loss = _C.Op(
    "nll_loss",
    forward=_C.nll_loss,
    record=_nll_record,
    backward=lambda ctx, grad: _C.nll_loss_backward(*ctx.saved, grad),
)


def nll_loss(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    """L = -w_t x_t, and 0 where t = ignore_index; "mean" divides the sum by that of w_t over the targets not ignored.

    Args:
        input: log-probabilities (N, C, d1, ...) or (C,); float32, bfloat16, float16 or float64.
        target: classes in [0, C), int64, int32 or uint8, of shape (N, d1, ...) or ().
        weight: (C,) of the dtype of input, ones if None; not differentiable.
        ignore_index: label of targets that count nothing.
        reduction: "none", "mean" or "sum". `size_average` and `reduce` are torch's deprecated way to say it.

    Returns:
        A 0-d tensor of the dtype of input, or for "none" one of shape (N, d1, ...).

    Raises:
        IndexError, ValueError, TypeError, NotImplementedError: as `cross_entropy`.
    """
    if size_average is not None or reduce is not None:
        reduction = legacy_reduction(size_average, reduce)
    return _nll_loss(input, target, weight, ignore_index, reduction)
