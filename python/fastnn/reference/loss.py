"""Losses. `reduction` is "none", "mean" or "sum"; `size_average` and `reduce` are torch's deprecated way to say it."""

import numpy as np
from numpy.typing import ArrayLike

from ._common import as_float64, quiet
from .activation import log_softmax


@quiet
def cross_entropy(
    input: ArrayLike,
    target: ArrayLike,
    weight: ArrayLike | None = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> np.ndarray:
    """With l = log_softmax(x) over the classes, weights w (ones if None) and smoothing e:

        class indices:  L = -(1 - e) w_t l_t - e / C sum_c w_c l_c, and 0 where t = ignore_index
        probabilities:  L = -sum_c w_c ((1 - e) t_c + e / C) l_c

    "mean" divides the sum by sum(w_t) of the targets not ignored, or for probabilities by the number of targets; with
    nothing to divide by it is NaN. Smoothing: Szegedy et al. 2016, arXiv:1512.00567.

    input (N, C, d1, ...) or (C,); target integer (N, d1, ...) or (), or floating with the shape of input; weight (C,).
    """
    reduction = _reduction("cross_entropy", reduction, size_average, reduce)
    if not 0.0 <= label_smoothing <= 1.0:
        raise ValueError(f"cross_entropy: label_smoothing is {label_smoothing}; expected between 0 and 1")
    x = as_float64(input)
    axis = _class_axis("cross_entropy", x)
    classes = x.shape[axis]
    log_p = log_softmax(x, axis)
    w = _class_weight("cross_entropy", weight, classes)
    weighted = log_p * w.reshape(-1, *[1] * (x.ndim - axis - 1))

    if np.shape(target) == x.shape:
        if np.asarray(target).dtype.kind in "biu":
            raise TypeError("cross_entropy: target has the shape of input and an integer dtype; expected probabilities")
        if ignore_index >= 0:
            raise ValueError(f"cross_entropy: ignore_index is {ignore_index}; expected class indices as target with it")
        probability = (1.0 - label_smoothing) * as_float64(target) + label_smoothing / classes
        losses = -(weighted * probability).sum(axis=axis)
        return _reduce(losses, reduction)

    labels, kept = _labels("cross_entropy", target, x, axis, ignore_index)
    losses = np.where(kept, -_pick(weighted, labels, axis), 0.0)
    if label_smoothing > 0.0:
        smooth = np.where(kept, -weighted.sum(axis=axis), 0.0)
        losses = (1.0 - label_smoothing) * losses + label_smoothing / classes * smooth
    return _reduce(losses, reduction, np.where(kept, w[labels], 0.0).sum())


@quiet
def nll_loss(
    input: ArrayLike,
    target: ArrayLike,
    weight: ArrayLike | None = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> np.ndarray:
    """L = -w_t x_t, and 0 where t = ignore_index; "mean" divides the sum by sum(w_t) of the targets not ignored.

    input (N, C, d1, ...) or (C,) of log-probabilities; target integer (N, d1, ...) or (); weight (C,), ones if None.
    """
    reduction = _reduction("nll_loss", reduction, size_average, reduce)
    x = as_float64(input)
    axis = _class_axis("nll_loss", x)
    labels, kept = _labels("nll_loss", target, x, axis, ignore_index)
    w = _class_weight("nll_loss", weight, x.shape[axis])[labels]
    losses = np.where(kept, -_pick(x, labels, axis) * w, 0.0)
    return _reduce(losses, reduction, np.where(kept, w, 0.0).sum())


@quiet
def mse_loss(
    input: ArrayLike,
    target: ArrayLike,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    weight: ArrayLike | None = None,
) -> np.ndarray:
    """L = w (x - t)^2, w one if None; "mean" divides the sum by sum(w). input and target broadcast."""
    losses = (as_float64(input) - as_float64(target)) ** 2
    return _reduce_weighted(losses, weight, _reduction("mse_loss", reduction, size_average, reduce))


@quiet
def l1_loss(
    input: ArrayLike,
    target: ArrayLike,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    weight: ArrayLike | None = None,
) -> np.ndarray:
    """L = w |x - t|, w one if None; "mean" divides the sum by sum(w). input and target broadcast."""
    losses = np.abs(as_float64(input) - as_float64(target))
    return _reduce_weighted(losses, weight, _reduction("l1_loss", reduction, size_average, reduce))


@quiet
def smooth_l1_loss(
    input: ArrayLike,
    target: ArrayLike,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    beta: float = 1.0,
) -> np.ndarray:
    """L = d^2 / (2 beta) if d < beta else d - beta / 2, with d = |x - t|; beta 0 is l1_loss.

    Girshick 2015, arXiv:1504.08083.
    """
    if beta < 0:
        raise ValueError(f"smooth_l1_loss: beta is {beta}; expected 0 or more")
    distance = np.abs(as_float64(input) - as_float64(target))
    # With beta 0 the quadratic side is 0/0 where nothing reads it.
    losses = np.where(distance < beta, 0.5 * distance**2 / np.float64(beta), distance - 0.5 * beta)
    return _reduce(losses, _reduction("smooth_l1_loss", reduction, size_average, reduce))


@quiet
def huber_loss(
    input: ArrayLike,
    target: ArrayLike,
    reduction: str = "mean",
    delta: float = 1.0,
    weight: ArrayLike | None = None,
) -> np.ndarray:
    """L = w d^2 / 2 if d <= delta else w delta (d - delta / 2), with d = |x - t|; w is one if None.

    "mean" divides by the number of elements, also with a weight (as torch does, unlike in mse_loss).
    Huber 1964, Ann. Math. Statist. 35.
    """
    if delta <= 0:
        raise ValueError(f"huber_loss: delta is {delta}; expected more than 0")
    distance = np.abs(as_float64(input) - as_float64(target))
    losses = np.where(distance <= delta, 0.5 * distance**2, delta * (distance - 0.5 * delta))
    return _reduce(losses if weight is None else losses * as_float64(weight), _reduction("huber_loss", reduction))


@quiet
def binary_cross_entropy(
    input: ArrayLike,
    target: ArrayLike,
    weight: ArrayLike | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> np.ndarray:
    """L = -w (t log x + (1 - t) log(1 - x)), each logarithm at least -100; "mean" divides by the number of elements.

    input: probabilities in [0, 1], target of the same shape; weight broadcasts to it.
    """
    x, t = as_float64(input), as_float64(target)
    if x.shape != t.shape:
        raise ValueError(f"binary_cross_entropy: target has shape {t.shape}; expected that of input, {x.shape}")
    if not ((x >= 0.0) & (x <= 1.0)).all():
        raise ValueError("binary_cross_entropy: input has values outside of [0, 1]; expected probabilities")
    losses = -(t * np.maximum(np.log(x), -100.0) + (1.0 - t) * np.maximum(np.log1p(-x), -100.0))
    losses = losses if weight is None else losses * as_float64(weight)
    return _reduce(losses, _reduction("binary_cross_entropy", reduction, size_average, reduce))


@quiet
def binary_cross_entropy_with_logits(
    input: ArrayLike,
    target: ArrayLike,
    weight: ArrayLike | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    pos_weight: ArrayLike | None = None,
) -> np.ndarray:
    """L = -w (v t log s(x) + (1 - t) log(1 - s(x))), s the sigmoid, v = pos_weight; computed as

        L = w ((1 - t) x - (1 + (v - 1) t) log s(x)),  log s(x) = min(x, 0) - log(1 + exp(-|x|))

    input and target of one shape; weight and pos_weight broadcast to it, ones if None.
    """
    x, t = as_float64(input), as_float64(target)
    if x.shape != t.shape:
        raise ValueError(
            f"binary_cross_entropy_with_logits: target has shape {t.shape}; expected that of input, {x.shape}"
        )
    log_sigmoid = np.minimum(x, 0.0) - np.log1p(np.exp(-np.abs(x)))
    positive = 1.0 if pos_weight is None else 1.0 + (as_float64(pos_weight) - 1.0) * t
    losses = (1.0 - t) * x - positive * log_sigmoid
    losses = losses if weight is None else losses * as_float64(weight)
    return _reduce(losses, _reduction("binary_cross_entropy_with_logits", reduction, size_average, reduce))


@quiet
def kl_div(
    input: ArrayLike,
    target: ArrayLike,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    log_target: bool = False,
) -> np.ndarray:
    """L = t (log t - x), 0 log 0 = 0; with log_target L = exp(t) (t - x). Kullback & Leibler 1951.

    input: log-probabilities. reduction may also be "batchmean", the sum divided by input.shape[0]; "mean" divides by
    the number of elements.
    """
    x, t = as_float64(input), as_float64(target)
    if log_target:
        losses = np.exp(t) * (t - x)
    else:
        losses = np.where(t == 0.0, 0.0, t * np.log(t)) - t * x
    if reduction == "batchmean" and size_average is None and reduce is None:
        return losses.sum() / np.float64(x.shape[0] if x.ndim else 1)
    return _reduce(losses, _reduction("kl_div", reduction, size_average, reduce))


def _reduction(op: str, reduction: str, size_average: bool | None = None, reduce: bool | None = None) -> str:
    if size_average is not None or reduce is not None:
        if reduce is False:
            return "none"
        return "sum" if size_average is False else "mean"
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(f'{op}: reduction is {reduction!r}; expected "none", "mean" or "sum"')
    return reduction


def _reduce(losses: np.ndarray, reduction: str, divisor: float | None = None) -> np.ndarray:
    if reduction == "none":
        return losses
    total = losses.sum()
    # As float64, so that a division by 0 is NaN.
    return total if reduction == "sum" else total / np.float64(losses.size if divisor is None else divisor)


def _reduce_weighted(losses: np.ndarray, weight: ArrayLike | None, reduction: str) -> np.ndarray:
    if weight is None:
        return _reduce(losses, reduction)
    w = as_float64(weight)
    return _reduce(losses * w, reduction, w.sum())


def _class_axis(op: str, x: np.ndarray) -> int:
    if x.ndim == 0:
        raise ValueError(f"{op}: input has no dimensions; expected (N, C, d1, ...) or (C,)")
    return 0 if x.ndim == 1 else 1


def _class_weight(op: str, weight: ArrayLike | None, classes: int) -> np.ndarray:
    w = np.ones(classes) if weight is None else as_float64(weight)
    if w.shape != (classes,):
        raise ValueError(f"{op}: weight has shape {w.shape}; expected ({classes},), one per class")
    return w


def _labels(op: str, target: ArrayLike, x: np.ndarray, axis: int, ignore_index: int) -> tuple[np.ndarray, np.ndarray]:
    """Class indices, 0 where ignored, and where they are not."""
    labels = np.asarray(target)
    expected = x.shape[:axis] + x.shape[axis + 1 :]
    if labels.dtype.kind not in "iu":
        raise TypeError(
            f"{op}: target has dtype {labels.dtype} and shape {labels.shape}; expected integer class indices"
        )
    if labels.shape != expected:
        raise ValueError(f"{op}: target has shape {labels.shape}; expected {expected} for input of shape {x.shape}")
    labels = labels.astype(np.int64)
    kept = labels != ignore_index
    bad = kept & ((labels < 0) | (labels >= x.shape[axis]))
    if bad.any():
        raise IndexError(f"{op}: target holds {labels[bad][0]}; expected a class in [0, {x.shape[axis]})")
    return np.where(kept, labels, 0), kept


def _pick(values: np.ndarray, labels: np.ndarray, axis: int) -> np.ndarray:
    return np.take_along_axis(values, np.expand_dims(labels, axis), axis).squeeze(axis)
