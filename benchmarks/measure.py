"""The timing loop: contestants take turns, block by block, so that a slow minute of the machine slows all of them."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import repeat
from statistics import median
from typing import Any

from .cases import Work

BLOCK = 0.010  # seconds of calls in one timed block, at the least
# An idle OpenMP or ONNX Runtime worker spins for some milliseconds after its last call; this pause lets it go to sleep
# before the next contestant needs its core.
SETTLE = 0.020
# A form of a peer that is this much slower than the peer's fastest form cannot be its best; the rounds leave it out.
HOPELESS = 5.0


@dataclass
class Contestant:
    """One library's form of a case, and its times in seconds per call, one for each round."""

    library: str
    variant: str
    work: Work
    count: int = 1
    times: list[float] = field(default_factory=list)
    last: Any = None

    @property
    def label(self) -> str:
        return f"{self.library} {self.variant}".strip()

    @property
    def time(self) -> float:
        return median(self.times)

    def block(self, count: int) -> float:
        """Seconds per call over `count` calls. As in `y = f(x)` in a loop, each output replaces the one before."""
        call = self.work.call
        out = None
        start = time.perf_counter_ns()
        for _ in repeat(None, count):
            out = call()
        elapsed = time.perf_counter_ns() - start
        self.last = out
        return elapsed * 1e-9 / count

    def calibrate(self) -> float:
        """Chooses how many calls fill a block; returns the best seconds per call seen."""
        best = self.block(1)
        deadline = time.perf_counter() + 3 * BLOCK
        while time.perf_counter() < deadline:
            best = min(best, self.block(max(1, int(BLOCK / 4 / best))))
        self.count = max(1, int(BLOCK / best) + 1)
        return best


def without_hopeless(contestants: list[Contestant], ours: str) -> tuple[list[Contestant], list[str]]:
    """Calibrates all; drops the forms of a peer that are far behind its best one, and says which."""
    best: dict[str, float] = {}
    quick = {}
    for contestant in contestants:
        time.sleep(SETTLE)
        quick[contestant.label] = seconds = contestant.calibrate()
        best[contestant.library] = min(best.get(contestant.library, seconds), seconds)
    kept, notes = [], []
    for contestant in contestants:
        seconds = quick[contestant.label]
        if contestant.library != ours and seconds > HOPELESS * best[contestant.library]:
            notes.append(f"{contestant.label} left out: {seconds / best[contestant.library]:.1f}x its best form")
        else:
            kept.append(contestant)
    return kept, notes


def interleave(contestants: list[Contestant], rounds: int, probe: Callable[[], None]) -> None:
    """Times the contestants A B C A B C ..., and calls `probe` once in every round."""
    gc.collect()
    enabled = gc.isenabled()
    gc.disable()
    try:
        for _ in range(rounds):
            for contestant in contestants:
                time.sleep(SETTLE)
                contestant.block(max(1, contestant.count // 4))  # wakes the threads, warms the caches
                contestant.times.append(contestant.block(contestant.count))
            probe()
    finally:
        if enabled:
            gc.enable()
