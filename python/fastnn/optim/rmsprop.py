"""RMSprop."""

from __future__ import annotations

from collections.abc import Iterable

from .. import _C
from ..tensor import Tensor
from .optimizer import Group, Optimizer, check_options


class RMSprop(Optimizer):
    """With g the gradient (-g with maximize):

        g = g + weight_decay p
        v = alpha v + (1 - alpha) g^2;   m = alpha m + (1 - alpha) g and u = v - m^2 with centered, else u = v
        d = g / (sqrt(u) + eps);   b = momentum b + d with momentum, else b = d
        p = p - lr b

    Args:
        params: Tensors or groups, see Optimizer.
        alpha: 0 to 1.

    State: step (a float32 scalar), square_avg (v), with momentum momentum_buffer (b), with centered grad_avg (m):
    float32, or float64 for float64 parameters.

    Tieleman & Hinton 2012, Coursera lecture 6.5; centered: Graves 2013, arXiv:1308.0850.
    """

    _counts_steps = True

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[Group],
        lr: float = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0,
        momentum: float = 0,
        centered: bool = False,
        *,
        maximize: bool = False,
    ) -> None:
        super().__init__(
            params,
            {
                "lr": lr,
                "alpha": alpha,
                "eps": eps,
                "weight_decay": weight_decay,
                "momentum": momentum,
                "centered": centered,
                "maximize": maximize,
            },
        )

    def _check(self, group: Group) -> None:
        check_options("RMSprop", group, "lr", "alpha", "eps", "weight_decay", "momentum")
        if group["alpha"] > 1:
            raise ValueError(f"RMSprop: alpha is {group['alpha']}; expected 0 to 1")

    def _state_names(self, group: Group) -> tuple[str, ...]:
        names = ("square_avg", "momentum_buffer") if group["momentum"] else ("square_avg",)
        return (*names, "grad_avg") if group["centered"] else names

    def _update(self, group: Group, params: list[Tensor], grads: list[Tensor]) -> None:
        new, states = self._states(group, params)
        momentum = group["momentum"]
        _C.rmsprop_step(
            params,
            grads,
            [s["square_avg"] for s in states],
            [s["grad_avg"] for s in states] if group["centered"] else (),
            [s["momentum_buffer"] for s in states] if momentum else (),
            [s["step"] for s in states],
            group["lr"],
            group["alpha"],
            group["eps"],
            group["weight_decay"],
            momentum,
            group["maximize"],
        )
        self.state.update(new)
