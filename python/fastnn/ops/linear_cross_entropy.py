"""linear_cross_entropy: a language model's head and its loss, without the logits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .. import _C
from .cross_entropy import cross_entropy
from .loss import require_no_gradient
from .matmul import linear

if TYPE_CHECKING:
    from ..tensor import Tensor


def _record(input, linear_weight, linear_bias, target, weight, ignore_index, reduction, label_smoothing):
    require_no_gradient("linear_cross_entropy", "weight", weight)
    args = (input, linear_weight, linear_bias, target, weight, ignore_index)
    if reduction == "none":
        return _C.linear_cross_entropy(*args, reduction, label_smoothing), (reduction, *args, label_smoothing)
    needs = (t is not None and t.requires_grad for t in args[:3])
    loss, gradients = _C.linear_cross_entropy_with_gradient(*args, reduction, label_smoothing, *needs)
    return loss, (reduction, *gradients)


def _backward(ctx, grad):
    reduction, *saved = ctx.saved
    if reduction == "none":
        return _C.linear_cross_entropy_backward(*saved, grad, *ctx.needs_input_grad[:3])
    return tuple(None if g is None else _C.cross_entropy_backward(g, grad) for g in saved)


_linear_cross_entropy = _C.Op("linear_cross_entropy", _C.linear_cross_entropy, _record, _backward)


def linear_cross_entropy(
    input: Tensor,
    linear_weight: Tensor,
    target: Tensor,
    *,
    linear_bias: Tensor | None = None,
    weight: Tensor | None = None,
    reduction: str = "mean",
    ignore_index: int | None = None,
    label_smoothing: float = 0.0,
    options: Any = None,
) -> Tensor:
    """cross_entropy(input @ linear_weight.T + linear_bias, target, ...), without the logits in memory.

    A block of rows at a time, at most 64 MB of logits, is computed, turned into its gradient and multiplied back, in
    the forward pass; backward only multiplies by the incoming gradient. With 4096 tokens and 50257 classes that is 52
    MB in place of 0.8 GB for each of the logits, their logarithms and their gradients. For reduction "none" the logits
    are computed again in backward. Method: Hsu et al. 2024, arXiv:2410.10989 (Liger Kernel).

    Args:
        input: (N, features) or (features,); float32, bfloat16, float16 or float64.
        linear_weight: (C, features). linear_bias: (C,) or None. Both of the dtype of input. For a loss of several
            dimensions (C, d1, ..., features) and (C, d1, ...): then linear and cross_entropy are called.
        target: classes in [0, C), int64, int32 or uint8, of shape (N,) or (); or probabilities (N, C) or (C,) of the
            dtype of input. With probabilities linear and cross_entropy are called.
        weight, reduction, ignore_index, label_smoothing: as in cross_entropy; None stands for -100.
        options: torch's choice of blocks, which is not needed here.

    Returns: a 0-d tensor of the dtype of input, or for "none" one of the shape of the labels.

    Raises:
        IndexError: a label is no class and not ignore_index; nothing has been computed then.
        ValueError: shapes that do not fit, reduction, label_smoothing, or ignore_index >= 0 with probabilities.
        TypeError: labels that are not integers.
        NotImplementedError: other dtypes, mixed dtypes.
    """
    ignored = -100 if ignore_index is None else ignore_index
    if linear_weight.ndim > 2 and input.ndim != 2:
        raise ValueError(
            f"linear_cross_entropy: input has shape {tuple(input.shape)} and linear_weight "
            f"{tuple(linear_weight.shape)}; expected input of shape (N, features) for a loss of several dimensions"
        )
    if linear_weight.ndim > 2 or target.ndim == input.ndim:  # or probabilities, which may require a gradient
        *classes, features = linear_weight.shape
        bias = None if linear_bias is None else linear_bias.reshape(-1)
        logits = linear(input, linear_weight.reshape(-1, features), bias).reshape(*input.shape[:-1], *classes)
        return cross_entropy(
            logits, target, weight, ignore_index=ignored, reduction=reduction, label_smoothing=label_smoothing
        )
    return _linear_cross_entropy(input, linear_weight, linear_bias, target, weight, ignored, reduction, label_smoothing)
