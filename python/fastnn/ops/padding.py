"""Padding of the last dimensions: with a constant, or with what is inside."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from .. import _C
from ._arguments import integer
from .activation import _number

if TYPE_CHECKING:
    import numpy as np

    from ..tensor import Tensor

_MODES = ("constant", "reflect", "replicate", "circular")


def _part(x, axis, begin, end):
    return _C.basic_index(x, (slice(None),) * axis + (slice(begin, end),))


def _center(x, widths, crop):
    """The part of x inside of positive widths, or, to crop, inside of negative ones; widths are (before, after)."""
    for axis, pair in enumerate(widths):
        before, after = (max(-w if crop else w, 0) for w in pair)
        if before or after:
            x = _part(x, axis, before, x.shape[axis] - after)
    return x


def _copies(mode: str, size: int, before: int, after: int) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    """What a padded axis repeats: (begin, end) in the border, (begin, end) of its source inside."""
    last = size - max(after, 0)
    before, after = max(before, 0), max(after, 0)
    if mode == "reflect":
        yield from (((i, i + 1), (2 * before - i, 2 * before - i + 1)) for i in range(before))
        yield from (((i, i + 1), (2 * last - 2 - i, 2 * last - 1 - i)) for i in range(last, size))
    elif mode == "replicate":
        yield (0, before), (before, before + 1)
        yield (last, size), (last - 1, last)
    elif mode == "circular":
        yield (0, before), (last - before, last)
        yield (last, size), (before, before + after)


def _forward(x, widths, mode, value):
    x = _center(x, widths, crop=True)
    shape = tuple(n + max(b, 0) + max(a, 0) for n, (b, a) in zip(x.shape, widths, strict=True))
    if x.dtype.kind in "iub" and value.is_integer():
        value = int(value)
    out = _C.full(shape, value, x.dtype, x.device) if mode == "constant" else _C.empty(shape, x.dtype, x.device)
    if _C.is_channels_last(x):
        out = _C.contiguous(out, True)
    _C.assign(_center(out, widths, crop=False), x)
    for axis, pair in enumerate(widths):
        for (begin, end), source in _copies(mode, shape[axis], *pair):
            if begin < end:
                _C.assign(_part(out, axis, begin, end), _part(out, axis, *source))
    return out


def _backward(ctx, grad):
    shape, widths, mode = ctx.saved
    if mode != "constant":
        grad = _C.clone(grad)
    for axis, pair in reversed(tuple(enumerate(widths))):
        for (begin, end), source in _copies(mode, grad.shape[axis], *pair):
            if begin < end:
                place = _part(grad, axis, *source)
                _C.add_in_place(place, _C.sum_to(_part(grad, axis, begin, end), place.shape))
    grad = _center(grad, widths, crop=False)
    if all(w >= 0 for pair in widths for w in pair):
        return grad
    out = _C.full(shape, 0, grad.dtype, grad.device)
    _C.assign(_center(out, widths, crop=True), grad)
    return out


def _keep_one(size: int, before: int, after: int) -> tuple[int, int]:
    """The same padding of an axis by its last or first element, cropped so that it is left, where all would go."""
    if size + before + after < 1:  # the caller says so
        return before, after
    if 0 < size <= -before and after > 0:
        return 1 - size, max(0, before + size - 1 + after)
    if 0 < size <= -after and before > 0:
        return max(0, after + size - 1 + before), 1 - size
    return before, after


_pad = _C.Op(
    "pad",
    _forward,
    lambda x, widths, mode, value: (_forward(x, widths, mode, value), (x.shape, widths, mode)),
    _backward,
)


def pad(input: Tensor | np.ndarray, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> Tensor:
    """input with elements added before and after its last dimensions.

    Args:
        pad: (before, after) of the last dimension, then of the one before it, and so on; negative numbers crop.
        mode: "constant": with `value`, by default 0; "reflect": mirrored at the first and last element, which are not
            repeated; "replicate": the first or last element; "circular": from the other end.

    Raises:
        ValueError: pad has an odd length or names more dimensions than there are, a size would be negative, an unknown
            mode, a value beside another mode than "constant", or a border larger than what the mode can repeat.
    """
    if mode not in _MODES:
        raise ValueError(f"pad: mode is {mode!r}; expected one of {', '.join(_MODES)}")
    if value is not None and mode != "constant":
        raise ValueError(f"pad: value is {value!r} beside mode {mode!r}; expected None, or mode 'constant'")
    if not isinstance(pad, (tuple, list)) or len(pad) % 2 or len(pad) > 2 * input.ndim:
        raise ValueError(f"pad: pad is {pad!r}; expected an even number of ints, at most {2 * input.ndim}")
    widths = [(0, 0)] * input.ndim
    for i in range(0, len(pad), 2):
        before, after = (integer(w, "pad", "pad") for w in pad[i : i + 2])
        axis = input.ndim - 1 - i // 2
        size = input.shape[axis]
        if mode == "replicate":
            before, after = _keep_one(size, before, after)
        left = size + min(before, 0) + min(after, 0)
        if left < 0:
            raise ValueError(f"pad: pad {before} and {after} leave nothing of size {size} of dimension {axis}")
        most = {"reflect": left - 1, "circular": left, "replicate": left and max(before, after)}.get(mode)
        if most is not None and max(before, after, 0) > max(most, 0):
            raise ValueError(
                f"pad: pad is {before} and {after} for size {left} of dimension {axis}; mode {mode!r} can add at most "
                f"{max(most, 0)}"
            )
        widths[axis] = (before, after)
    return _pad(input, tuple(widths), mode, 0.0 if value is None else _number("pad", "value", value))
