"""Clipping of gradients, and penalties to add to a loss."""

from __future__ import annotations

from collections.abc import Iterable

from .. import _C
from ..tensor import Tensor


def clip_grad_norm_(
    parameters: Tensor | Iterable[Tensor],
    max_norm: float,
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
) -> Tensor:
    """Scales all gradients in place by min(1, max_norm / (norm + 1e-6)), norm = (sum |g|^p)^(1/p) over all of them.

    Args:
        parameters: Tensors; those without gradient do not count.
        norm_type: p, 0 or more (0: the number of values that are not 0); "inf" or infinity: the largest |g|.
        error_if_nonfinite: whether a norm that is NaN or infinite is an error; nothing is changed then.

    Returns the norm before, a scalar Tensor: float64 if a gradient is, else float32.

    Pascanu et al. 2013, arXiv:1211.5063.
    """
    norm_type = float(norm_type)
    if not norm_type >= 0:
        raise ValueError(f"clip_grad_norm_: norm_type is {norm_type}; expected 0 or more")
    return _C.clip_grad_norm(_gradients("clip_grad_norm_", parameters), float(max_norm), norm_type, error_if_nonfinite)


def clip_grad_value_(parameters: Tensor | Iterable[Tensor], clip_value: float) -> None:
    """Clips every value of the gradients in place to [-clip_value, clip_value]; NaN stays NaN."""
    clip_value = float(clip_value)
    if not clip_value >= 0:
        raise ValueError(f"clip_grad_value_: clip_value is {clip_value}; expected 0 or more")
    _C.clip_grad_value(_gradients("clip_grad_value_", parameters), clip_value)


def l1_penalty(parameters: Tensor | Iterable[Tensor], weight: float) -> Tensor:
    """weight sum |p| over all parameters, a scalar of their dtype to add to a loss (its gradient is weight sign(p))."""
    return _penalty(*_tensors("l1_penalty", parameters), 1.0, float(weight))


def l2_penalty(parameters: Tensor | Iterable[Tensor], weight: float) -> Tensor:
    """weight sum p^2 over all parameters, a scalar of their dtype to add to a loss (its gradient is 2 weight p).

    SGD's weight_decay w is l2_penalty with weight w / 2.
    """
    return _penalty(*_tensors("l2_penalty", parameters), 2.0, float(weight))


def _tensors(op: str, parameters: Tensor | Iterable[Tensor]) -> list[Tensor]:
    tensors = [parameters] if isinstance(parameters, Tensor) else list(parameters)
    for p in tensors:
        if not isinstance(p, Tensor):
            raise TypeError(f"{op}: parameters holds a {type(p).__name__}; expected Tensors")
    return tensors


def _gradients(op: str, parameters: Tensor | Iterable[Tensor]) -> list[Tensor]:
    return [p.grad for p in _tensors(op, parameters) if p.grad is not None]


def _penalty_forward(*args: Tensor | float) -> Tensor:
    *params, p, weight = args
    return _C.penalty(params, p, weight)


def _penalty_backward(ctx: _C.Node, grad: Tensor) -> tuple[Tensor | None, ...]:
    *params, p, weight = ctx.saved
    needed = ctx.needs_input_grad
    return tuple(_C.penalty_backward(x, grad, p, weight) if needed[i] else None for i, x in enumerate(params))


_penalty = _C.Op(
    "penalty",
    forward=_penalty_forward,
    record=lambda *args: (_penalty_forward(*args), args),
    backward=_penalty_backward,
)
