"""Random numbers: one seed for initialisation, data order and dropout."""

from __future__ import annotations

import operator
import secrets
import threading

import numpy as np

_lock = threading.Lock()
_seed: int
_calls: int
_generator: np.random.Generator


def manual_seed(seed: int) -> None:
    """Starts all random numbers of fastnn anew from `seed`; the same seed gives the same run, on any number of threads.

    Args:
        seed: any int; its low 64 bits count. Without a call the operating system's entropy is the seed.
    """
    global _seed, _calls, _generator
    try:
        bits = operator.index(seed) & (2**64 - 1)
    except TypeError:
        raise TypeError(f"manual_seed: seed is {type(seed).__name__}; expected an int") from None
    with _lock:
        _seed = bits - 2**64 if bits >= 2**63 else bits
        _calls = 0
        _generator = np.random.default_rng(bits)


def generator() -> np.random.Generator:
    """The numpy generator of initialisation and data order. manual_seed replaces it: do not keep it."""
    return _generator


def next_philox() -> tuple[int, int]:
    """(seed, offset) of the next call that draws from Philox4x32-10 (dropout): key and upper half of its counter.

    The offset counts the calls since manual_seed. Both fit into a signed 64-bit integer.
    """
    global _calls
    with _lock:
        offset = _calls
        _calls += 1
        return _seed, offset


def get_state() -> tuple[int, int, dict]:
    """All random state, for set_state."""
    with _lock:
        return _seed, _calls, _generator.bit_generator.state


def set_state(state: tuple[int, int, dict]) -> None:
    """Goes on where get_state() was called."""
    global _seed, _calls
    with _lock:
        _seed, _calls, _generator.bit_generator.state = state


manual_seed(secrets.randbits(64))
