"""Adagrad."""

from __future__ import annotations

from collections.abc import Iterable

from .. import _C
from ..autograd import no_grad
from ..tensor import Tensor
from .optimizer import Group, Optimizer, check_options


class Adagrad(Optimizer):
    """With g the gradient (-g with maximize), in step t = 1, 2, ...:

        g = g + weight_decay p;   s = s + g^2
        p = p - lr / (1 + (t - 1) lr_decay) g / (sqrt(s) + eps)

    Args:
        params: Tensors or groups, see Optimizer.
        initial_accumulator_value: s before the first step.

    State, there from the start: step (t, a float32 scalar), sum (s), float32 or float64 for float64 parameters.

    Duchi et al. 2011, JMLR 12.
    """

    _counts_steps = True

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[Group],
        lr: float = 1e-2,
        lr_decay: float = 0,
        weight_decay: float = 0,
        initial_accumulator_value: float = 0,
        eps: float = 1e-10,
        *,
        maximize: bool = False,
    ) -> None:
        super().__init__(
            params,
            {
                "lr": lr,
                "lr_decay": lr_decay,
                "weight_decay": weight_decay,
                "initial_accumulator_value": initial_accumulator_value,
                "eps": eps,
                "maximize": maximize,
            },
        )

    def add_param_group(self, param_group: Group) -> None:
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        new, _ = self._states(group, group["params"])
        self.state.update(new)

    def _check(self, group: Group) -> None:
        check_options("Adagrad", group, "lr", "lr_decay", "weight_decay", "initial_accumulator_value", "eps")

    def _state_names(self, group: Group) -> tuple[str, ...]:
        return ("sum",)

    def _new_state(self, param: Tensor, group: Group) -> dict[str, Tensor]:
        state = super()._new_state(param, group)
        if group["initial_accumulator_value"]:
            with no_grad():
                state["sum"] += group["initial_accumulator_value"]
        return state

    def _update(self, group: Group, params: list[Tensor], grads: list[Tensor]) -> None:
        new, states = self._states(group, params)
        _C.adagrad_step(
            params,
            grads,
            [s["sum"] for s in states],
            [s["step"] for s in states],
            group["lr"],
            group["lr_decay"],
            group["weight_decay"],
            group["eps"],
            group["maximize"],
        )
        self.state.update(new)
