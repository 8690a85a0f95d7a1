"""What the families share: conversion to float64 and pairs of sizes."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

Size2d = int | Sequence[int]

# numpy warns where torch returns inf or NaN without a word; usable as a decorator.
quiet = np.errstate(all="ignore")


def as_float64(value: ArrayLike) -> np.ndarray:
    """`value` as a float64 array. TypeError for complex values, whose imaginary part numpy would drop."""
    array = np.asarray(value)
    if array.dtype.kind == "c":
        raise TypeError(f"reference: got dtype {array.dtype}; expected real numbers")
    return array.astype(np.float64, copy=False)


def pair(op: str, name: str, value: Size2d, minimum: int) -> tuple[int, int]:
    """(vertical, horizontal) from an int or a sequence of one or two ints, each at least `minimum`."""
    values = tuple(value) if isinstance(value, Sequence) else (value, value)
    if len(values) == 1:
        values *= 2
    if len(values) != 2 or min(values) < minimum:
        raise ValueError(f"{op}: {name} is {value}; expected an int or two ints, each at least {minimum}")
    return int(values[0]), int(values[1])
