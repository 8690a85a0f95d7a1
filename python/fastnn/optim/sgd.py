"""Stochastic gradient descent."""

from __future__ import annotations

from collections.abc import Iterable

from .. import _C
from ..tensor import Tensor
from .optimizer import Group, Optimizer, check_options


class SGD(Optimizer):
    """With g the gradient (-g with maximize), and b the momentum buffer:

        g = g + weight_decay p;   b = g in the first step, then momentum b + (1 - dampening) g
        p = p - lr d,   d = g without momentum, g + momentum b with nesterov, else b

    weight_decay is the gradient of the L2 penalty weight_decay / 2 sum p^2.

    Args:
        params: Tensors or groups, see Optimizer.

    State: momentum_buffer, float32 (float64 for float64 parameters), with momentum.

    Sutskever et al. 2013, ICML.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[Group],
        lr: float = 1e-3,
        momentum: float = 0,
        dampening: float = 0,
        weight_decay: float = 0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
    ) -> None:
        super().__init__(
            params,
            {
                "lr": lr,
                "momentum": momentum,
                "dampening": dampening,
                "weight_decay": weight_decay,
                "nesterov": nesterov,
                "maximize": maximize,
            },
        )

    def _check(self, group: Group) -> None:
        check_options("SGD", group, "lr", "momentum", "weight_decay")
        if group["nesterov"] and (group["momentum"] <= 0 or group["dampening"] != 0):
            raise ValueError(
                f"SGD: nesterov with momentum {group['momentum']} and dampening {group['dampening']}; "
                "expected momentum > 0 and dampening 0"
            )

    def _state_names(self, group: Group) -> tuple[str, ...]:
        return ("momentum_buffer",)

    def _update(self, group: Group, params: list[Tensor], grads: list[Tensor]) -> None:
        new, fresh, buffers = {}, (), ()
        momentum = group["momentum"]
        if momentum:
            new, states = self._states(group, params)
            if new:
                fresh = [i for i, p in enumerate(params) if p in new]
            buffers = [s["momentum_buffer"] for s in states]
        _C.sgd_step(
            params,
            grads,
            buffers,
            fresh,
            group["lr"],
            momentum,
            group["dampening"],
            group["weight_decay"],
            group["nesterov"],
            group["maximize"],
        )
        self.state.update(new)
