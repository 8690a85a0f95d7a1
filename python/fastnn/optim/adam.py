"""Adam and AdamW."""

from __future__ import annotations

from collections.abc import Iterable

from .. import _C
from ..tensor import Tensor
from .optimizer import Group, Optimizer, check_betas, check_options


class Adam(Optimizer):
    """With g the gradient (-g with maximize), in step t = 1, 2, ...:

        g = g + weight_decay p
        m = beta1 m + (1 - beta1) g;   v = beta2 v + (1 - beta2) g^2;   u = max(u, v) with amsgrad, else v
        p = p - lr / (1 - beta1^t) m / (sqrt(u / (1 - beta2^t)) + eps)

    Args:
        params: Tensors or groups, see Optimizer.
        betas: (beta1, beta2), each in [0, 1).

    State: step (t, a float32 scalar), exp_avg (m), exp_avg_sq (v), with amsgrad max_exp_avg_sq (u): float32, or float64
    for float64 parameters.

    Kingma & Ba 2015, arXiv:1412.6980; amsgrad: Reddi et al. 2018, arXiv:1904.09237.
    """

    _counts_steps = True
    _decoupled = False

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[Group],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
    ) -> None:
        super().__init__(
            params,
            {
                "lr": lr,
                "betas": betas,
                "eps": eps,
                "weight_decay": weight_decay,
                "amsgrad": amsgrad,
                "maximize": maximize,
            },
        )

    def _check(self, group: Group) -> None:
        name = type(self).__name__
        check_options(name, group, "lr", "eps", "weight_decay")
        check_betas(name, group)

    def _state_names(self, group: Group) -> tuple[str, ...]:
        return ("exp_avg", "exp_avg_sq", "max_exp_avg_sq") if group["amsgrad"] else ("exp_avg", "exp_avg_sq")

    def _update(self, group: Group, params: list[Tensor], grads: list[Tensor]) -> None:
        new, states = self._states(group, params)
        beta1, beta2 = group["betas"]
        _C.adam_step(
            params,
            grads,
            [s["exp_avg"] for s in states],
            [s["exp_avg_sq"] for s in states],
            [s["max_exp_avg_sq"] for s in states] if group["amsgrad"] else (),
            [s["step"] for s in states],
            group["lr"],
            beta1,
            beta2,
            group["eps"],
            group["weight_decay"],
            self._decoupled,
            group["maximize"],
        )
        self.state.update(new)


class AdamW(Adam):
    """Adam with decoupled weight decay: p = p (1 - lr weight_decay), then the step of Adam without weight_decay.

    Arguments and state are Adam's. Loshchilov & Hutter 2019, arXiv:1711.05101.
    """

    _decoupled = True

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[Group],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
    ) -> None:
        super().__init__(params, lr, betas, eps, weight_decay, amsgrad, maximize=maximize)
