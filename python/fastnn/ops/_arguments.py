"""Arguments that may be one int or several, as torch's functions take them."""

from __future__ import annotations

from collections.abc import Sequence
from operator import index


def pair(value: int | Sequence[int], op: str, name: str) -> tuple[int, int]:
    """(vertical, horizontal) from an int, which stands for both, or from a sequence of one or two ints.

    Raises:
      TypeError, ValueError: naming `op` and the argument `name`. The range is the op's to check.
    """
    if type(value) is int:
        return value, value
    if type(value) is tuple and len(value) == 2 and type(value[0]) is int and type(value[1]) is int:
        return value
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        if len(value) not in (1, 2):
            raise ValueError(f"{op}: {name} is {value!r}; expected an int or a pair of ints")
        return integer(value[0], op, name), integer(value[-1], op, name)
    size = integer(value, op, name)
    return size, size


def single(value: int | Sequence[int], op: str, name: str) -> int:
    """An int from an int or a sequence of one; TypeError or ValueError, as pair."""
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        if len(value) != 1:
            raise ValueError(f"{op}: {name} is {value!r}; expected an int, or a sequence of one")
        value = value[0]
    return integer(value, op, name)


def integer(value: int, op: str, name: str) -> int:
    """`value` as an int; TypeError for what is not an integer, bool included."""
    if not isinstance(value, bool):
        try:
            return index(value)
        except TypeError:
            pass
    raise TypeError(f"{op}: {name} is {value!r} of type {type(value).__name__}; expected an int or a pair of ints")
