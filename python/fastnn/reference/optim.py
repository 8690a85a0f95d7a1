"""One optimizer step on one parameter, in the order of torch.optim.

`state` is what the last step returned ({} before the first), with torch's keys. Nothing is written in place.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ._common import as_float64, quiet

State = dict[str, Any]


@quiet
def sgd(
    param: ArrayLike,
    grad: ArrayLike,
    state: State,
    lr: float = 1e-3,
    momentum: float = 0.0,
    dampening: float = 0.0,
    weight_decay: float = 0.0,
    nesterov: bool = False,
    *,
    maximize: bool = False,
) -> tuple[np.ndarray, State]:
    """g = +-grad + weight_decay p;  b = g on the first step, then momentum b + (1 - dampening) g
    p = p - lr g without momentum, p - lr (g + momentum b) with nesterov, else p - lr b

    state: momentum_buffer (with momentum). Sutskever et al. 2013, ICML.
    """
    p, g = as_float64(param), as_float64(grad)
    if nesterov and (momentum <= 0.0 or dampening != 0.0):
        raise ValueError(
            f"sgd: nesterov with momentum {momentum}, dampening {dampening}; expected momentum > 0, dampening 0"
        )
    if maximize:
        g = -g
    if weight_decay != 0.0:
        g = g + weight_decay * p
    if momentum == 0.0:
        return p - lr * g, {}
    buffer = state.get("momentum_buffer")
    buffer = g.copy() if buffer is None else momentum * as_float64(buffer) + (1.0 - dampening) * g
    return p - lr * (g + momentum * buffer if nesterov else buffer), {"momentum_buffer": buffer}


@quiet
def adam(
    param: ArrayLike,
    grad: ArrayLike,
    state: State,
    lr: float = 1e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    amsgrad: bool = False,
    *,
    maximize: bool = False,
) -> tuple[np.ndarray, State]:
    """g = +-grad + weight_decay p;  m = b1 m + (1 - b1) g;  v = b2 v + (1 - b2) g^2;  u = max(u, v)
    p = p - lr / (1 - b1^t) m / (sqrt(v / (1 - b2^t)) + eps), with u for v if amsgrad

    state: step (t), exp_avg (m), exp_avg_sq (v), max_exp_avg_sq (u). Kingma & Ba 2015, arXiv:1412.6980; Reddi et al.
    2018, arXiv:1904.09237.
    """
    p, g = as_float64(param), as_float64(grad)
    if maximize:
        g = -g
    if weight_decay != 0.0:
        g = g + weight_decay * p
    return _adam_update(p, g, state, lr, betas, eps, amsgrad)


@quiet
def adamw(
    param: ArrayLike,
    grad: ArrayLike,
    state: State,
    lr: float = 1e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 1e-2,
    amsgrad: bool = False,
    *,
    maximize: bool = False,
) -> tuple[np.ndarray, State]:
    """p = p (1 - lr weight_decay), then the step of adam with weight_decay 0.

    Loshchilov & Hutter 2019, arXiv:1711.05101.
    """
    p, g = as_float64(param), as_float64(grad)
    return _adam_update(p * (1.0 - lr * weight_decay), -g if maximize else g, state, lr, betas, eps, amsgrad)


@quiet
def rmsprop(
    param: ArrayLike,
    grad: ArrayLike,
    state: State,
    lr: float = 1e-2,
    alpha: float = 0.99,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    momentum: float = 0.0,
    centered: bool = False,
    *,
    maximize: bool = False,
) -> tuple[np.ndarray, State]:
    """g = +-grad + weight_decay p;  v = alpha v + (1 - alpha) g^2;  m = alpha m + (1 - alpha) g
    d = g / (sqrt(v - m^2 if centered else v) + eps);  b = momentum b + d;  p = p - lr (b with momentum, else d)

    state: step, square_avg (v), momentum_buffer (b, with momentum), grad_avg (m, if centered). Tieleman & Hinton 2012,
    Coursera lecture 6.5; Graves 2013, arXiv:1308.0850.
    """
    p, g = as_float64(param), as_float64(grad)
    if maximize:
        g = -g
    if weight_decay != 0.0:
        g = g + weight_decay * p
    v = alpha * as_float64(state.get("square_avg", 0.0)) + (1.0 - alpha) * g * g
    new_state: State = {"step": int(state.get("step", 0)) + 1, "square_avg": v}
    if centered:
        m = alpha * as_float64(state.get("grad_avg", 0.0)) + (1.0 - alpha) * g
        new_state["grad_avg"] = m
        v = np.maximum(v - m * m, 0.0)
    d = g / (np.sqrt(v) + eps)
    if momentum != 0.0:
        d = momentum * as_float64(state.get("momentum_buffer", 0.0)) + d
        new_state["momentum_buffer"] = d
    return p - lr * d, new_state


@quiet
def adagrad(
    param: ArrayLike,
    grad: ArrayLike,
    state: State,
    lr: float = 1e-2,
    lr_decay: float = 0.0,
    weight_decay: float = 0.0,
    initial_accumulator_value: float = 0.0,
    eps: float = 1e-10,
    *,
    maximize: bool = False,
) -> tuple[np.ndarray, State]:
    """g = +-grad + weight_decay p;  s = s + g^2;  p = p - lr / (1 + (t - 1) lr_decay) g / (sqrt(s) + eps)

    state: step (t), sum (s). Duchi et al. 2011, JMLR 12.
    """
    p, g = as_float64(param), as_float64(grad)
    if maximize:
        g = -g
    if weight_decay != 0.0:
        g = g + weight_decay * p
    step = int(state.get("step", 0)) + 1
    total = as_float64(state.get("sum", initial_accumulator_value)) + g * g
    return p - lr / (1.0 + (step - 1) * lr_decay) * g / (np.sqrt(total) + eps), {"step": step, "sum": total}


@quiet
def lion(
    param: ArrayLike,
    grad: ArrayLike,
    state: State,
    lr: float = 1e-4,
    betas: tuple[float, float] = (0.9, 0.99),
    weight_decay: float = 0.0,
    *,
    maximize: bool = False,
) -> tuple[np.ndarray, State]:
    """p = p (1 - lr weight_decay) - lr sign(b1 m + (1 - b1) g);  then m = b2 m + (1 - b2) g

    state: exp_avg (m). Chen et al. 2023, arXiv:2302.06675.
    """
    p, g = as_float64(param), as_float64(grad)
    if maximize:
        g = -g
    m = as_float64(state.get("exp_avg", np.zeros_like(g)))
    u = np.sign(betas[0] * m + (1.0 - betas[0]) * g)
    return p * (1.0 - lr * weight_decay) - lr * u, {"exp_avg": betas[1] * m + (1.0 - betas[1]) * g}


def _adam_update(
    p: np.ndarray, g: np.ndarray, state: State, lr: float, betas: tuple[float, float], eps: float, amsgrad: bool
) -> tuple[np.ndarray, State]:
    beta1, beta2 = betas
    step = int(state.get("step", 0)) + 1
    m = beta1 * as_float64(state.get("exp_avg", 0.0)) + (1.0 - beta1) * g
    v = beta2 * as_float64(state.get("exp_avg_sq", 0.0)) + (1.0 - beta2) * g * g
    new_state: State = {"step": step, "exp_avg": m, "exp_avg_sq": v}
    if amsgrad:
        v = np.maximum(as_float64(state.get("max_exp_avg_sq", 0.0)), v)
        new_state["max_exp_avg_sq"] = v
    denominator = np.sqrt(v) / math.sqrt(1.0 - beta2**step) + eps
    return p - lr / (1.0 - beta1**step) * m / denominator, new_state
