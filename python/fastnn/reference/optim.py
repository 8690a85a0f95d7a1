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
