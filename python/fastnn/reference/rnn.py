"""Recurrent layers in one direction, input (T, N, I), states (N, H)."""

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from ._common import as_float64, quiet

Step = Callable[..., tuple[np.ndarray, ...]]


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1.0 / (1.0 + np.exp(-x))


def _run(
    step: Step,
    x: ArrayLike,
    states: tuple[ArrayLike, ...],
    w_ih: ArrayLike,
    w_hh: ArrayLike,
    b_ih: ArrayLike | None,
    b_hh: ArrayLike | None,
    reverse: bool,
) -> tuple[np.ndarray, ...]:
    """step(a, q, *states) -> states, with a = x W_ih^T + b_ih and q = h W_hh^T + b_hh; (y, *last states)."""
    x, w_ih, w_hh = as_float64(x), as_float64(w_ih), as_float64(w_hh)
    current = tuple(as_float64(state) for state in states)
    b_ih, b_hh = (0.0 if b is None else as_float64(b) for b in (b_ih, b_hh))
    y = np.zeros((*x.shape[:2], w_hh.shape[1]))
    for t in reversed(range(len(x))) if reverse else range(len(x)):
        current = step(x[t] @ w_ih.T + b_ih, current[0] @ w_hh.T + b_hh, *current)
        y[t] = current[0]
    return (y, *current)


@quiet
def rnn_layer(
    x: ArrayLike,
    h0: ArrayLike,
    w_ih: ArrayLike,
    w_hh: ArrayLike,
    b_ih: ArrayLike | None = None,
    b_hh: ArrayLike | None = None,
    nonlinearity: str = "tanh",
    reverse: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """h = f(W_ih x + b_ih + W_hh h + b_hh); (y, h_n). Elman 1990, Cognitive Science 14(2)."""

    def step(a: np.ndarray, q: np.ndarray, h: np.ndarray) -> tuple[np.ndarray]:
        return (np.tanh(a + q) if nonlinearity == "tanh" else np.maximum(a + q, 0.0),)

    return _run(step, x, (h0,), w_ih, w_hh, b_ih, b_hh, reverse)


@quiet
def lstm_layer(
    x: ArrayLike,
    h0: ArrayLike,
    c0: ArrayLike,
    w_ih: ArrayLike,
    w_hh: ArrayLike,
    b_ih: ArrayLike | None = None,
    b_hh: ArrayLike | None = None,
    reverse: bool = False,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """i, f, g, o = sigma, sigma, tanh, sigma of W_ih x + b_ih + W_hh h + b_hh;  c = f c + i g;  h = o tanh(c);
    (y, h_n, c_n). Hochreiter & Schmidhuber 1997, Neural Computation 9(8)."""

    def step(a: np.ndarray, q: np.ndarray, h: np.ndarray, c: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        i, f, g, o = np.split(a + q, 4, axis=-1)
        c = _sigmoid(f) * c + _sigmoid(i) * np.tanh(g)
        return _sigmoid(o) * np.tanh(c), c

    return _run(step, x, (h0, c0), w_ih, w_hh, b_ih, b_hh, reverse)


@quiet
def gru_layer(
    x: ArrayLike,
    h0: ArrayLike,
    w_ih: ArrayLike,
    w_hh: ArrayLike,
    b_ih: ArrayLike | None = None,
    b_hh: ArrayLike | None = None,
    reverse: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """r, z = sigma of W_ih x + b_ih + W_hh h + b_hh;  n = tanh(W_in x + b_in + r (W_hn h + b_hn));
    h = (1 - z) n + z h;  (y, h_n). Cho et al. 2014, arXiv:1406.1078, in the form of cuDNN."""

    def step(a: np.ndarray, q: np.ndarray, h: np.ndarray) -> tuple[np.ndarray]:
        (ar, az, an), (qr, qz, qn) = np.split(a, 3, axis=-1), np.split(q, 3, axis=-1)
        z = _sigmoid(az + qz)
        return ((1.0 - z) * np.tanh(an + _sigmoid(ar + qr) * qn) + z * h,)

    return _run(step, x, (h0,), w_ih, w_hh, b_ih, b_hh, reverse)
