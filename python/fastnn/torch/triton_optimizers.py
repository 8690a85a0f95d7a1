"""Optimizer steps as `torch.ops.fastnn_triton.*`.

Their kernels read tables of addresses, in which torch.compile cannot see what is written: opaque operators.
"""

# No `from __future__ import annotations`: torch reads the schema of each op from its annotations.
# ruff: noqa: UP007, UP045

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..kernels import optimizer as _optimizer
from .triton_registration import NAMESPACE


def _step(states: str) -> Callable[[Callable[..., None]], Any]:
    def register(function: Callable[..., None]) -> Any:
        name = f"{NAMESPACE}::{function.__name__}"
        operator = torch.library.custom_op(name, function, mutates_args=("params", *states.split()))
        operator.register_fake(lambda *_, **__: None)
        return operator

    return register


@_step("momentum_buffers")
def sgd_step(
    params: list[Tensor],
    grads: list[Tensor],
    momentum_buffers: list[Tensor],
    lr: float,
    momentum: float = 0.0,
    dampening: float = 0.0,
    weight_decay: float = 0.0,
    nesterov: bool = False,
    maximize: bool = False,
    first: bool = False,
) -> None:
    _optimizer.sgd_step(
        params, grads, momentum_buffers, lr, momentum, dampening, weight_decay, nesterov, maximize, first
    )


@_step("exp_avgs exp_avg_sqs max_exp_avg_sqs")
def adam_step(
    params: list[Tensor],
    grads: list[Tensor],
    exp_avgs: list[Tensor],
    exp_avg_sqs: list[Tensor],
    max_exp_avg_sqs: list[Tensor],
    step: int,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float = 0.0,
    decoupled: bool = False,
    maximize: bool = False,
) -> None:
    states = (exp_avgs, exp_avg_sqs, max_exp_avg_sqs)
    _optimizer.adam_step(params, grads, *states, step, lr, beta1, beta2, eps, weight_decay, decoupled, maximize)


@_step("square_avgs grad_avgs momentum_buffers")
def rmsprop_step(
    params: list[Tensor],
    grads: list[Tensor],
    square_avgs: list[Tensor],
    grad_avgs: list[Tensor],
    momentum_buffers: list[Tensor],
    lr: float,
    alpha: float = 0.99,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    momentum: float = 0.0,
    maximize: bool = False,
) -> None:
    states = (square_avgs, grad_avgs, momentum_buffers)
    _optimizer.rmsprop_step(params, grads, *states, lr, alpha, eps, weight_decay, momentum, maximize)


@_step("sums")
def adagrad_step(
    params: list[Tensor],
    grads: list[Tensor],
    sums: list[Tensor],
    step: int,
    lr: float,
    lr_decay: float = 0.0,
    weight_decay: float = 0.0,
    eps: float = 1e-10,
    maximize: bool = False,
) -> None:
    _optimizer.adagrad_step(params, grads, sums, step, lr, lr_decay, weight_decay, eps, maximize)


@_step("exp_avgs")
def lion_step(
    params: list[Tensor],
    grads: list[Tensor],
    exp_avgs: list[Tensor],
    lr: float,
    beta1: float = 0.9,
    beta2: float = 0.99,
    weight_decay: float = 0.0,
    maximize: bool = False,
) -> None:
    _optimizer.lion_step(params, grads, exp_avgs, lr, beta1, beta2, weight_decay, maximize)
