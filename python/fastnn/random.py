"""The library's random numbers: one generator, which manual_seed(n) sets."""

from __future__ import annotations

import numpy as np

_state = {"generator": np.random.Generator(np.random.Philox())}


def manual_seed(seed: int) -> None:
    """Makes everything random repeat from here on."""
    _state["generator"] = np.random.Generator(np.random.Philox(seed))


def generator() -> np.random.Generator:
    """The generator of initial values."""
    return _state["generator"]
