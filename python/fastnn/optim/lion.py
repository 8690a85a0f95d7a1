"""Lion."""

from __future__ import annotations

from collections.abc import Iterable

from .. import _C
from ..tensor import Tensor
from .optimizer import Group, Optimizer, check_betas, check_options


class Lion(Optimizer):
    """With g the gradient (-g with maximize):

        p = p (1 - lr weight_decay) - lr sign(beta1 m + (1 - beta1) g)
        m = beta2 m + (1 - beta2) g

    Args:
        params: Tensors or groups, see Optimizer.
        lr: every parameter moves by it, so a third to a tenth of AdamW's.
        betas: (beta1, beta2), each in [0, 1).

    State: exp_avg (m), float32, or float64 for float64 parameters.

    Chen et al. 2023, arXiv:2302.06675, whose names and defaults these are: torch has no Lion.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[Group],
        lr: float = 1e-4,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
        *,
        maximize: bool = False,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay, "maximize": maximize})

    def _check(self, group: Group) -> None:
        check_options("Lion", group, "lr", "weight_decay")
        check_betas("Lion", group)

    def _state_names(self, group: Group) -> tuple[str, ...]:
        return ("exp_avg",)

    def _update(self, group: Group, params: list[Tensor], grads: list[Tensor]) -> None:
        new, states = self._states(group, params)
        _C.lion_step(
            params,
            grads,
            [s["exp_avg"] for s in states],
            group["lr"],
            *group["betas"],
            group["weight_decay"],
            group["maximize"],
        )
        self.state.update(new)
