"""Schedules of the learning rate. Each changes group["lr"] of an optimizer's groups at every step().

Like torch's, they go on from the rate that a group has, so that several of them on one optimizer multiply.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from .optimizer import Group, Optimizer


class LRScheduler:
    """Base class of schedules; subclasses define _next(group, base_lr).

    Args:
        last_epoch: -1 to begin; else the number of steps made before, for groups that hold their "initial_lr".

    Attributes: base_lrs, the rates at the beginning; last_epoch, the steps made.
    """

    def __init__(self, optimizer: Optimizer, last_epoch: int = -1) -> None:
        name = type(self).__name__
        if not isinstance(optimizer, Optimizer):
            raise TypeError(f"{name}: optimizer is a {type(optimizer).__name__}; expected a fastnn.optim.Optimizer")
        self.optimizer = optimizer
        for i, group in enumerate(optimizer.param_groups):
            if last_epoch == -1:
                group.setdefault("initial_lr", group["lr"])
            elif "initial_lr" not in group:
                raise KeyError(
                    f"{name}: group {i} has no 'initial_lr', which last_epoch={last_epoch} needs; load the optimizer's "
                    "state_dict first"
                )
        self.base_lrs = [group["initial_lr"] for group in optimizer.param_groups]
        self.last_epoch = last_epoch
        self._step_count = 0
        self.step()

    def step(self) -> None:
        """Sets the rates of the next epoch. Call it after the optimizer's step()."""
        self._step_count += 1
        self.last_epoch += 1
        for group, base in zip(self.optimizer.param_groups, self.base_lrs, strict=True):
            group["lr"] = self._next(group, base)
        self._last_lr = [group["lr"] for group in self.optimizer.param_groups]

    def _next(self, group: Group, base_lr: float) -> float:
        raise NotImplementedError

    @property
    def _beginning(self) -> bool:
        return self._step_count == 1

    def get_last_lr(self) -> list[float]:
        """The rates that the last step() set, one per group."""
        return self._last_lr

    def state_dict(self) -> dict[str, Any]:
        """Everything but the optimizer."""
        return {key: value for key, value in self.__dict__.items() if key != "optimizer"}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Goes on where state_dict() was taken; the optimizer's rates are part of its own state_dict."""
        own = self.state_dict()
        missing = [key for key in own if key not in state_dict]
        if missing:
            raise ValueError(
                f"{type(self).__name__}.load_state_dict: {', '.join(missing)} missing; got {list(state_dict)}"
            )
        self.__dict__.update({key: state_dict[key] for key in own})


class StepLR(LRScheduler):
    """lr = base_lr gamma^floor(epoch / step_size)"""

    def __init__(self, optimizer: Optimizer, step_size: int, gamma: float = 0.1, last_epoch: int = -1) -> None:
        if step_size < 1:
            raise ValueError(f"StepLR: step_size is {step_size}; expected 1 or more")
        self.step_size = step_size
        self.gamma = gamma
        super().__init__(optimizer, last_epoch)

    def _next(self, group: Group, base_lr: float) -> float:
        if self.last_epoch == 0 or self.last_epoch % self.step_size:
            return group["lr"]
        return group["lr"] * self.gamma


class CosineAnnealingLR(LRScheduler):
    """lr = eta_min + (base_lr - eta_min) (1 + cos(pi epoch / T_max)) / 2

    Loshchilov & Hutter 2017, arXiv:1608.03983.
    """

    def __init__(self, optimizer: Optimizer, T_max: int, eta_min: float = 0.0, last_epoch: int = -1) -> None:
        if T_max < 1:
            raise ValueError(f"CosineAnnealingLR: T_max is {T_max}; expected 1 or more")
        self.T_max = T_max
        self.eta_min = eta_min
        super().__init__(optimizer, last_epoch)

    def _next(self, group: Group, base_lr: float) -> float:
        lr, epoch, period, low = group["lr"], self.last_epoch, self.T_max, self.eta_min
        if self._beginning:
            return lr
        if (epoch - 1 - period) % (2 * period) == 0:  # up again from eta_min, where the ratio below is 0 / 0
            return lr + (base_lr - low) * (1 - math.cos(math.pi / period)) / 2
        ratio = (1 + math.cos(math.pi * epoch / period)) / (1 + math.cos(math.pi * (epoch - 1) / period))
        return ratio * (lr - low) + low


class LinearLR(LRScheduler):
    """lr = base_lr f, f going in equal steps from start_factor to end_factor in total_iters epochs, then staying."""

    def __init__(
        self,
        optimizer: Optimizer,
        start_factor: float = 1.0 / 3,
        end_factor: float = 1.0,
        total_iters: int = 5,
        last_epoch: int = -1,
    ) -> None:
        if not 0 < start_factor <= 1:
            raise ValueError(f"LinearLR: start_factor is {start_factor}; expected more than 0 and at most 1")
        if not 0 <= end_factor <= 1:
            raise ValueError(f"LinearLR: end_factor is {end_factor}; expected between 0 and 1")
        self.start_factor = start_factor
        self.end_factor = end_factor
        self.total_iters = total_iters
        super().__init__(optimizer, last_epoch)

    def _next(self, group: Group, base_lr: float) -> float:
        if self.last_epoch == 0:
            return group["lr"] * self.start_factor
        if self._beginning or self.last_epoch > self.total_iters:
            return group["lr"]
        change = self.end_factor - self.start_factor
        return group["lr"] * (1 + change / (self.total_iters * self.start_factor + (self.last_epoch - 1) * change))
