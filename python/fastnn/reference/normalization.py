"""Normalization by a mean and a variance. Running statistics are written, as torch does."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from ._common import as_float64, quiet


@quiet
def layer_norm(
    input: ArrayLike,
    normalized_shape: Sequence[int],
    weight: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    eps: float = 1e-5,
) -> np.ndarray:
    """y = (x - mean) / sqrt(var + eps) w + b, with the mean and the biased variance over the last dimensions"""
    x = as_float64(input)
    if not len(normalized_shape) or tuple(normalized_shape) != x.shape[-len(normalized_shape) :]:
        raise ValueError(f"layer_norm: input has shape {x.shape}; expected one that ends with {normalized_shape}")
    axes = tuple(range(-len(normalized_shape), 0))
    return _affine(_normalize(x, axes, eps), weight, bias)


@quiet
def rms_norm(
    input: ArrayLike, normalized_shape: Sequence[int], weight: ArrayLike | None = None, eps: float | None = None
) -> np.ndarray:
    """y = x / sqrt(mean(x^2) + eps) w over the last dimensions; eps None is 2^-23, for float64 2^-52"""
    if eps is None:
        eps = 2.0**-52 if np.asarray(input).dtype == np.float64 else 2.0**-23
    x = as_float64(input)
    if not len(normalized_shape) or tuple(normalized_shape) != x.shape[-len(normalized_shape) :]:
        raise ValueError(f"rms_norm: input has shape {x.shape}; expected one that ends with {normalized_shape}")
    axes = tuple(range(-len(normalized_shape), 0))
    return _affine(x / np.sqrt((x * x).mean(axes, keepdims=True) + eps), weight, None)


@quiet
def batch_norm(
    input: ArrayLike,
    running_mean: np.ndarray | None,
    running_var: np.ndarray | None,
    weight: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> np.ndarray:
    """As layer_norm, with the mean and variance of each channel of (N, C, ...); the running ones without `training`"""
    x = as_float64(input)
    weight, bias = _of_channels(weight, x.ndim), _of_channels(bias, x.ndim)
    if not training:
        mean, var = _of_channels(running_mean, x.ndim), _of_channels(running_var, x.ndim)
        return _affine((x - mean) / np.sqrt(var + eps), weight, bias)
    axes = (0, *range(2, x.ndim))
    if running_mean is not None and x.size:
        _update(running_mean, x.mean(axes), momentum)
        _update(running_var, x.var(axes, ddof=1), momentum)
    return _affine(_normalize(x, axes, eps), weight, bias)


@quiet
def group_norm(
    input: ArrayLike,
    num_groups: int,
    weight: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    eps: float = 1e-5,
) -> np.ndarray:
    """As layer_norm, with the mean and variance of each group of channels of each image of (N, C, ...)"""
    x = as_float64(input)
    groups = x.reshape(x.shape[0], num_groups, x.shape[1] // num_groups, *x.shape[2:])
    y = _normalize(groups, tuple(range(2, groups.ndim)), eps).reshape(x.shape)
    return _affine(y, _of_channels(weight, x.ndim), _of_channels(bias, x.ndim))


@quiet
def instance_norm(
    input: ArrayLike,
    running_mean: np.ndarray | None = None,
    running_var: np.ndarray | None = None,
    weight: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> np.ndarray:
    """As layer_norm, with the mean and variance of each channel of each image of (N, C, ...)"""
    x = as_float64(input)
    if not use_input_stats:
        return batch_norm(x, running_mean, running_var, weight, bias, False, momentum, eps)
    axes = tuple(range(2, x.ndim))
    if running_mean is not None and x.size:
        _update(running_mean, x.mean(axes).mean(0), momentum)
        _update(running_var, x.var(axes, ddof=1).mean(0), momentum)
    return _affine(_normalize(x, axes, eps), _of_channels(weight, x.ndim), _of_channels(bias, x.ndim))


@quiet
def normalize(
    input: ArrayLike, p: float = 2.0, dim: int | Sequence[int] = 1, eps: float = 1e-12, out: None = None
) -> np.ndarray:
    """y = x / max((sum |x|^p)^(1 / p), eps), with the sum, or the maximum for p = inf, along `dim`"""
    x = as_float64(input)
    axes = tuple(dim) if isinstance(dim, Sequence) else (dim,)
    size = np.abs(x)
    norm = size.max(axes, keepdims=True) if p == np.inf else (size**p).sum(axes, keepdims=True) ** (1 / p)
    return x / np.maximum(norm, eps)


@quiet
def local_response_norm(
    input: ArrayLike, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0
) -> np.ndarray:
    """y[n, c] = x[n, c] / (k + alpha / size sum of x[n, c']^2 for c - size // 2 <= c' < c + (size + 1) // 2)^beta"""
    x = as_float64(input)
    sums = [(x[:, max(0, c - size // 2) : c + (size + 1) // 2] ** 2).sum(1) for c in range(x.shape[1])]
    return x / (k + alpha / size * np.stack(sums, 1)) ** beta


def _normalize(x: np.ndarray, axes: tuple[int, ...], eps: float) -> np.ndarray:
    if not x.size:
        return x.copy()
    centered = x - x.mean(axes, keepdims=True)
    return centered / np.sqrt((centered * centered).mean(axes, keepdims=True) + eps)


def _affine(x: np.ndarray, weight: ArrayLike | None, bias: ArrayLike | None) -> np.ndarray:
    if weight is not None:
        x = x * as_float64(weight)
    return x if bias is None else x + as_float64(bias)


def _of_channels(value: ArrayLike | None, ndim: int) -> np.ndarray | None:
    return None if value is None else as_float64(value).reshape(-1, *(1,) * (ndim - 2))


def _update(running: np.ndarray, value: np.ndarray, momentum: float) -> None:
    running[...] = (1 - momentum) * as_float64(running) + momentum * value
