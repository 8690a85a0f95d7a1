"""Interpolation, where each spatial axis is a linear map in which an output is made of few inputs; pixel shuffling."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import _C
from . import pooling, pooling1d, pooling3d
from ._arguments import integer
from .activation import _number

if TYPE_CHECKING:
    from ..tensor import Tensor

    Array = Tensor | np.ndarray

_RANKS = {"nearest": (3, 4, 5), "nearest-exact": (3, 4, 5), "linear": (3,), "bilinear": (4,), "bicubic": (4,)}
_RANKS |= {"trilinear": (5,), "area": (3, 4, 5)}
_AREA = {3: pooling1d.adaptive_avg_pool1d, 4: pooling.adaptive_avg_pool2d, 5: pooling3d.adaptive_avg_pool3d}


# ---- taps ------------------------------------------------------------------------------------------------------------


def _nearest(before: int, after: int, scale: float, exact: bool) -> tuple[np.ndarray, np.ndarray]:
    step = np.float32(1 / scale if scale > 0 else before / after)  # in float32, as torch: which pixel depends on it
    at = (np.arange(after, dtype=np.float32) + np.float32(0.5 if exact else 0)) * step
    if not exact and not scale > 0 and after == 2 * before:
        at = np.arange(after) // 2
    return np.minimum(np.floor(at).astype(np.int64), before - 1)[None], np.ones((1, after))


def _positions(before: int, after: int, scale: float, align_corners: bool) -> np.ndarray:
    """Where outputs lie between inputs: pixels are squares, or with align_corners points."""
    at = np.arange(after)
    if align_corners:
        return at * ((before - 1) / (after - 1) if after > 1 else 0.0)
    return (at + 0.5) * (1 / scale if scale > 0 else before / after) - 0.5


def _linear(before: int, after: int, scale: float, align_corners: bool) -> tuple[np.ndarray, np.ndarray]:
    at = np.maximum(_positions(before, after, scale, align_corners), 0)
    low = np.minimum(np.floor(at).astype(np.int64), before - 1)
    share = np.clip(at - low, 0, 1)
    return np.stack((low, np.minimum(low + 1, before - 1))), np.stack((1 - share, share))


def _cubic(before: int, after: int, scale: float, align_corners: bool) -> tuple[np.ndarray, np.ndarray]:
    """Keys 1981, IEEE Trans. ASSP 29(6), with a = -0.75."""
    a, at = -0.75, _positions(before, after, scale, align_corners)
    low = np.floor(at)
    t = at - low

    def near(x: np.ndarray) -> np.ndarray:
        return ((a + 2) * x - (a + 3)) * x * x + 1

    def far(x: np.ndarray) -> np.ndarray:
        return ((a * x - 5 * a) * x + 8 * a) * x - 4 * a

    index = np.clip(low.astype(np.int64) + np.arange(-1, 3)[:, None], 0, before - 1)
    return index, np.stack((far(t + 1), near(t), near(1 - t), far(2 - t)))


def _transposed(index: np.ndarray, weight: np.ndarray, before: int) -> tuple[np.ndarray, np.ndarray]:
    """The taps of the transposed map: for each input, the outputs that it is in; -1 where there are fewer."""
    source, target = index.ravel(), np.broadcast_to(np.arange(index.shape[1]), index.shape).ravel()
    order = np.argsort(source, kind="stable")
    source = source[order]
    rank = np.arange(source.size) - np.searchsorted(source, source)
    shape = (max(1, int(rank.max(initial=-1)) + 1), before)
    at, share = np.full(shape, -1, np.int64), np.zeros(shape)
    at[rank, source], share[rank, source] = target[order], weight.ravel()[order]
    return at, share


@functools.lru_cache(maxsize=256)
def _taps(mode: str, before: int, after: int, scale: float, align_corners: bool, backward: bool) -> tuple[Any, Any]:
    if mode.startswith("nearest"):
        taps = _nearest(before, after, scale, mode == "nearest-exact")
    else:
        taps = (_cubic if mode == "bicubic" else _linear)(before, after, scale, align_corners)
    index, weight = _transposed(*taps, before) if backward else taps
    return _C.from_numpy(index.astype(np.int32)), _C.from_numpy(np.ascontiguousarray(weight, np.float64))


def _resample(x, before, after, mode, align_corners, scales, backward):
    axes = [
        _taps(mode, n, m, scale, align_corners, backward)
        for n, m, scale in zip(before, after, scales or (0.0,) * len(before), strict=True)
    ]
    return _C.resample(x, [index for index, _ in axes], [weight for _, weight in axes])


def _forward(x, size, mode, align_corners, scales):
    return _resample(x, x.shape[2:], size, mode, align_corners, scales, False)


def _record(x, *arguments):
    return _forward(x, *arguments), (x.shape[2:], *arguments)


_interpolate = _C.Op("interpolate", _forward, _record, lambda ctx, grad: _resample(grad, *ctx.saved, True))


# ---- pixels ----------------------------------------------------------------------------------------------------------


_ALL = slice(None)


def _shuffled(x, r):
    *lead, channels, height, width = x.shape
    channels //= r * r
    out = _C.empty((*lead, channels, height, r, width, r), x.dtype, x.device)
    parts = _C.reshape(x, (*lead, channels, r, r, height, width))
    for j in range(r):  # a column of each r: so whole rows of x are copied at a time, not r elements
        _C.assign(_C.basic_index(out, (..., j)), _C.transpose(_C.basic_index(parts, (..., j, _ALL, _ALL)), -3, -2))
    return _C.reshape(out, (*lead, channels, height * r, width * r))


def _unshuffled(x, r):
    *lead, channels, height, width = x.shape
    parts = _C.reshape(x, (*lead, channels, height // r, r, width // r, r))
    n = len(lead)
    order = (*range(n + 1), n + 2, n + 4, n + 1, n + 3)
    return _C.reshape(_C.permute(parts, order), (*lead, channels * r * r, height // r, width // r))


_pixel_shuffle = _C.Op(
    "pixel_shuffle", _shuffled, lambda x, r: (_shuffled(x, r), (r,)), lambda ctx, grad: _unshuffled(grad, *ctx.saved)
)
_pixel_unshuffle = _C.Op(
    "pixel_unshuffle",
    _unshuffled,
    lambda x, r: (_unshuffled(x, r), (r,)),
    lambda ctx, grad: _shuffled(grad, *ctx.saved),
)


# ---- the functions ---------------------------------------------------------------------------------------------------


def interpolate(
    input: Array,
    size: int | Sequence[int] | None = None,
    scale_factor: float | Sequence[float] | None = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    antialias: bool = False,
) -> Tensor:
    """Images, (N, C, W), (N, C, H, W) or (N, C, D, H, W), with other spatial sizes.

    Output q of an axis lies at s (q + 0.5) - 0.5 between the inputs, with s = 1 / scale_factor, or in / out, and with
    align_corners at q (in - 1) / (out - 1). Sums are in float32 (float64 for float64).

    Args:
        size: the output's, an int for all axes or one for each; or
        scale_factor: what multiplies the input's, rounded down.
        mode: "nearest": input floor(s q); "nearest-exact": floor(s (q + 0.5)); "linear", "bilinear", "trilinear": of
            the two neighbours on each of one, two, three axes; "bicubic": of four (Keys 1981); "area": mean of all that
            an output covers, adaptive_avg_pool.
        align_corners: None is False; for the linear and cubic modes.
        recompute_scale_factor: s = in / out although scale_factor is given.
        antialias: only False.

    Returns: channels_last where input is; in the dtype of input: float32, bfloat16, float16 or float64.

    Raises:
        ValueError: not one of size and scale_factor, sizes below 1 or not one for each axis, align_corners in another
            mode, an unknown mode.
        NotImplementedError: a mode for other axes, antialias=True, another dtype.
    """
    op = "interpolate"
    if mode not in _RANKS:
        raise ValueError(f"{op}: mode is {mode!r}; expected one of {', '.join(_RANKS)}")
    if input.ndim not in _RANKS[mode]:
        raise NotImplementedError(
            f"{op}: input has shape {tuple(input.shape)}, and mode is {mode!r}; expected "
            f"{' or '.join(map(str, _RANKS[mode]))} dimensions"
        )
    if antialias:
        raise NotImplementedError(f"{op}: antialias=True is not supported")
    if align_corners is not None and (mode.startswith("nearest") or mode == "area"):
        raise ValueError(f"{op}: align_corners is {align_corners} in mode {mode!r}; expected None")
    if (size is None) == (scale_factor is None):
        raise ValueError(f"{op}: size is {size!r} and scale_factor {scale_factor!r}; expected one of them")
    before = tuple(input.shape[2:])
    scales: tuple[float, ...] = ()
    if size is not None:
        if recompute_scale_factor:
            raise ValueError(f"{op}: recompute_scale_factor=True with size; expected scale_factor")
        sizes = tuple(integer(n, op, "size") for n in _each(op, "size", size, len(before)))
    else:
        scales = tuple(_number(op, "scale_factor", s) for s in _each(op, "scale_factor", scale_factor, len(before)))
        if not all(0 < s < math.inf for s in scales):
            raise ValueError(f"{op}: scale_factor is {scale_factor}; expected positive numbers")
        sizes = tuple(math.floor(n * s) for n, s in zip(before, scales, strict=True))
        if recompute_scale_factor:
            scales = ()
    if min(sizes) < 1 or min(before) < 1:
        raise ValueError(f"{op}: sizes are {before} before and {sizes} after; expected at least 1")
    if mode == "area":
        return _AREA[input.ndim](input, sizes[0] if input.ndim == 3 else sizes)
    return _interpolate(input, sizes, mode, bool(align_corners), scales)


def _each(op: str, name: str, value: Any, n: int) -> Sequence[Any]:
    if not isinstance(value, (tuple, list)):
        return (value,) * n
    if len(value) != n:
        raise ValueError(f"{op}: {name} is {value}; expected one number, or one for each of {n} spatial axes")
    return value


def pixel_shuffle(input: Array, upscale_factor: int) -> Tensor:
    """y[..., c, r h + i, r w + j] = x[..., (c r + i) r + j, h, w], r = upscale_factor: (..., C r^2, H, W) ->
    (..., C, r H, r W). Shi et al. 2016, arXiv:1609.05158."""
    r = _factor("pixel_shuffle", "upscale_factor", input, upscale_factor)
    channels = input.shape[-3]
    if channels % (r * r):
        raise ValueError(
            f"pixel_shuffle: input has {channels} channels; expected a multiple of upscale_factor^2, {r * r}"
        )
    return _pixel_shuffle(input, r)


def pixel_unshuffle(input: Array, downscale_factor: int) -> Tensor:
    """The inverse of pixel_shuffle: (..., C, r H, r W) -> (..., C r^2, H, W), r = downscale_factor."""
    r = _factor("pixel_unshuffle", "downscale_factor", input, downscale_factor)
    height, width = input.shape[-2:]
    if height % r or width % r:
        raise ValueError(f"pixel_unshuffle: input has {height} x {width} pixels; expected multiples of {r}")
    return _pixel_unshuffle(input, r)


def _factor(op: str, name: str, input: Array, value: int) -> int:
    r = integer(value, op, name)
    if r < 1:
        raise ValueError(f"{op}: {name} is {r}; expected at least 1")
    if input.ndim < 3:
        raise ValueError(f"{op}: input has shape {tuple(input.shape)}; expected (..., C, H, W)")
    return r
