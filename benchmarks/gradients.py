"""Gradients in float64, to compare backward benchmarks with: `gradients.conv2d(grad_output, *args, **kwargs)`.

`fastnn.reference` has no derivatives: tests differentiate it numerically, entry by entry, and a benchmark's arrays are
too large for that. Each function returns the gradients of its op's floating-point arguments in order. They are checked
against `reference.numerical_gradient` in tests/test_benchmarks.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from fastnn import reference

Gradient = Callable[..., list[np.ndarray]]


def gradient(op: str) -> Gradient:
    """The gradient of `reference.<op>`; an op without a function here is taken for an elementwise one."""
    found = {"conv2d": conv2d, "matmul": matmul, "linear": linear, "max_pool2d": max_pool2d, "avg_pool2d": avg_pool2d}
    found |= {"softmax": softmax, "log_softmax": log_softmax, "cross_entropy": cross_entropy}
    found |= {"layer_norm": layer_norm, "rms_norm": rms_norm, "batch_norm": batch_norm, "group_norm": group_norm}
    found |= {"embedding": embedding, "scaled_dot_product_attention": scaled_dot_product_attention}
    return found.get(op) or (lambda grad, x, **kwargs: [elementwise(op, grad, x, **kwargs)])


def elementwise(op: str, grad: np.ndarray, x: np.ndarray, **kwargs: Any) -> np.ndarray:
    """grad f'(x) by central differences, for all elements at once; x must keep 1e-5 away from kinks of f."""
    function, step = getattr(reference, op), 1e-5
    return grad * (function(x + step, **kwargs) - function(x - step, **kwargs)) / (2 * step)


def conv2d(
    grad: np.ndarray,
    x: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray | None = None,
    stride: int = 1,
    padding: int = 0,
    dilation: int = 1,
    groups: int = 1,
) -> list[np.ndarray]:
    """Per kernel tap (i, j), with X_ij the pixels that it meets: dX_ij += W_ij^T grad, dW_ij = grad X_ij^T."""
    out_channels, group_channels, kh, kw = weight.shape
    # Channels first, then images and pixels in one dimension: one large product per tap and group.
    padded = _pad(x, padding).swapaxes(0, 1)
    pixels = grad.swapaxes(0, 1).reshape(groups, out_channels // groups, -1)
    grad_padded, grad_weight = np.zeros(padded.shape), np.empty_like(weight)
    for i, j, tap in _taps((kh, kw), grad.shape[2:], stride, dilation):
        w = weight[:, :, i, j].reshape(groups, -1, group_channels)
        met = padded[tap].reshape(groups, group_channels, -1)
        grad_padded[tap] += (w.swapaxes(1, 2) @ pixels).reshape(padded[tap].shape)
        grad_weight[:, :, i, j] = (pixels @ met.swapaxes(1, 2)).reshape(out_channels, group_channels)
    gradients = [_unpad(grad_padded.swapaxes(0, 1), padding), grad_weight]
    return gradients if bias is None else [*gradients, grad.sum((0, 2, 3))]


def max_pool2d(
    grad: np.ndarray, x: np.ndarray, kernel_size: int, stride: int | None = None, padding: int = 0
) -> list[np.ndarray]:
    """The first maximum of each window, in row-major order, gets the window's gradient."""
    padded = _pad(x, padding, -np.inf)
    out = reference.max_pool2d(x, kernel_size, stride, padding)
    grad_padded, free = np.zeros_like(padded), np.ones(out.shape, bool)
    for _, _, tap in _taps((kernel_size, kernel_size), grad.shape[2:], stride or kernel_size):
        first = free & (padded[tap] == out)
        grad_padded[tap] += grad * first
        free &= ~first
    return [_unpad(grad_padded, padding)]


def avg_pool2d(
    grad: np.ndarray, x: np.ndarray, kernel_size: int, stride: int | None = None, padding: int = 0
) -> list[np.ndarray]:
    """Every pixel of a window gets an equal share of its gradient."""
    grad_padded = np.zeros_like(_pad(x, padding))
    for _, _, tap in _taps((kernel_size, kernel_size), grad.shape[2:], stride or kernel_size):
        grad_padded[tap] += grad / kernel_size**2
    return [_unpad(grad_padded, padding)]


def linear(grad: np.ndarray, x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None = None) -> list[np.ndarray]:
    rows, flat = grad.reshape(-1, grad.shape[-1]), x.reshape(-1, x.shape[-1])
    gradients = [grad @ weight, rows.T @ flat]
    return gradients if bias is None else [*gradients, rows.sum(0)]


def matmul(grad: np.ndarray, input: np.ndarray, other: np.ndarray) -> list[np.ndarray]:
    """Of operands with the same leading dimensions."""
    return [grad @ other.swapaxes(-1, -2), input.swapaxes(-1, -2) @ grad]


def softmax(grad: np.ndarray, x: np.ndarray, dim: int) -> list[np.ndarray]:
    y = reference.softmax(x, dim)
    return [y * (grad - (grad * y).sum(dim, keepdims=True))]


def log_softmax(grad: np.ndarray, x: np.ndarray, dim: int) -> list[np.ndarray]:
    return [grad - reference.softmax(x, dim) * grad.sum(dim, keepdims=True)]


def cross_entropy(grad: np.ndarray, x: np.ndarray, target: np.ndarray) -> list[np.ndarray]:
    """Of the mean over rows of logits (N, C) with class indices (N,)."""
    out = reference.softmax(x, 1)
    out[np.arange(len(x)), target] -= 1
    out *= grad / len(x)
    return [out]


def layer_norm(
    grad: np.ndarray, x: np.ndarray, weight: np.ndarray, bias: np.ndarray, normalized_shape: tuple[int, ...]
) -> list[np.ndarray]:
    axes = tuple(range(-len(normalized_shape), 0))
    dx, products = _normalized(grad * weight, grad, x, axes, 1e-5)
    return [dx, _sum_to(products, weight.shape), _sum_to(grad, bias.shape)]


def rms_norm(
    grad: np.ndarray, x: np.ndarray, weight: np.ndarray, normalized_shape: tuple[int, ...], eps: float
) -> list[np.ndarray]:
    axes = tuple(range(-len(normalized_shape), 0))
    dx, products = _normalized(grad * weight, grad, x, axes, eps, centered=False)
    return [dx, _sum_to(products, weight.shape)]


def batch_norm(
    grad: np.ndarray, x: np.ndarray, weight: np.ndarray, bias: np.ndarray, **kwargs: Any
) -> list[np.ndarray]:
    """In training."""
    channels = (-1, *(1,) * (x.ndim - 2))
    dx, products = _normalized(grad * weight.reshape(channels), grad, x, (0, *range(2, x.ndim)), 1e-5)
    rest = (0, *range(2, x.ndim))
    return [dx, products.sum(rest), grad.sum(rest)]


def group_norm(
    grad: np.ndarray, x: np.ndarray, weight: np.ndarray, bias: np.ndarray, num_groups: int
) -> list[np.ndarray]:
    channels, rest = (-1, *(1,) * (x.ndim - 2)), (0, *range(2, x.ndim))
    groups = (len(x), num_groups, -1)
    weighted = (grad * weight.reshape(channels)).reshape(groups)
    dx, products = _normalized(weighted, grad.reshape(groups), x.reshape(groups), (2,), 1e-5)
    return [dx.reshape(x.shape), products.reshape(x.shape).sum(rest), grad.sum(rest)]


def _normalized(
    weighted: np.ndarray, grad: np.ndarray, x: np.ndarray, axes: tuple[int, ...], eps: float, centered: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """With h = (x - mean) rstd: rstd (g - mean of g - h mean of (g h)) for g = weighted, and grad h."""
    h = x - x.mean(axes, keepdims=True) if centered else x
    rstd = 1 / np.sqrt((h * h).mean(axes, keepdims=True) + eps)
    h = h * rstd
    dx = weighted - h * (weighted * h).mean(axes, keepdims=True)
    if centered:
        dx -= weighted.mean(axes, keepdims=True)
    return dx * rstd, grad * h


def _sum_to(a: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    return a.sum(tuple(range(a.ndim - len(shape))))


def embedding(grad: np.ndarray, index: np.ndarray, weight: np.ndarray) -> list[np.ndarray]:
    out = np.zeros_like(weight)
    np.add.at(out, index.reshape(-1), grad.reshape(-1, weight.shape[1]))
    return [out]


def scaled_dot_product_attention(
    grad: np.ndarray,
    query: np.ndarray,
    key: np.ndarray,
    value: np.ndarray,
    is_causal: bool = False,
    enable_gqa: bool = False,
) -> list[np.ndarray]:
    """Of (B, H, L, E), with H / G heads in key and value."""
    group = query.shape[1] // key.shape[1]
    key, value = np.repeat(key, group, axis=1), np.repeat(value, group, axis=1)
    scale = query.shape[-1] ** -0.5
    scores = query @ key.swapaxes(-1, -2) * scale
    if is_causal:
        scores = np.where(np.tri(*scores.shape[-2:], dtype=bool), scores, -np.inf)
    weights = reference.softmax(scores, -1)
    grad_scores = softmax(grad @ value.swapaxes(-1, -2), scores, -1)[0] * scale

    def of_shared_heads(x: np.ndarray) -> np.ndarray:
        return x.reshape(x.shape[0], -1, group, *x.shape[2:]).sum(2)

    return [
        grad_scores @ key,
        of_shared_heads(grad_scores.swapaxes(-1, -2) @ query),
        of_shared_heads(weights.swapaxes(-1, -2) @ grad),
    ]


def _pad(x: np.ndarray, padding: int, value: float = 0.0) -> np.ndarray:
    return np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)), constant_values=value)


def _unpad(padded: np.ndarray, padding: int) -> np.ndarray:
    return padded[:, :, padding : padded.shape[2] - padding, padding : padded.shape[3] - padding]


def _taps(
    kernel: tuple[int, int], out: tuple[int, ...], stride: int, dilation: int = 1
) -> Iterator[tuple[int, int, tuple[Any, ...]]]:
    """(i, j, index of the padded pixels that tap (i, j) meets, one for each output pixel)."""
    for i, j in np.ndindex(kernel):
        rows, columns = (
            slice(at * dilation, at * dilation + (size - 1) * stride + 1, stride)
            for at, size in zip((i, j), out, strict=True)
        )
        yield i, j, (slice(None), slice(None), rows, columns)
