"""Runs one case: builds every library's forms of it, compares their outputs with the reference, times them in turns."""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import median
from typing import Any

import numpy as np

from .cases import TOLERANCE, Arrays, Case, error
from .limits import Limit, Limits
from .measure import Contestant, interleave, without_hopeless

OURS = "fastnn"


@dataclass
class PeerResult:
    """The fastest form of a peer. `ratio` is its time over ours, median over the rounds: above 1 we are faster."""

    variant: str
    seconds: float
    ratio: float


@dataclass
class Row:
    """One line of the report: fastnn in one layout on one case, beside each peer's best form."""

    op: str
    name: str
    direction: str
    dtype: str
    variant: str
    status: str = "ok"  # or "FAILED", "unsupported"
    seconds: float | None = None
    peers: dict[str, PeerResult] = field(default_factory=dict)
    limit: str = ""
    fraction: float | None = None  # time at the limit / our time
    error: float | None = None
    notes: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return " ".join(filter(None, (self.op, self.name, self.variant, self.direction)))

    @property
    def slower_than(self) -> list[str]:
        return [peer for peer, result in self.peers.items() if result.ratio < 1]


def run_case(case: Case, ours: Any, peers: list[Any], dtype: str, rounds: int, limits: Limits) -> list[Row]:
    """One row for every layout that fastnn is timed in."""
    arrays = case.inputs(dtype)
    expected = case.expected(arrays)
    rows: dict[str, Row] = {}
    contestants: list[Contestant] = []
    notes: list[str] = []
    for variant in case.runs[OURS].variants:
        row = rows[variant] = Row(case.op, case.name, case.direction, dtype, variant)
        try:
            contestant, row.error = _checked(case, ours, variant, arrays, expected)
        except NotImplementedError as reason:
            row.status = "unsupported"
            row.notes.append(str(reason))
        except Exception as reason:
            row.status = "FAILED"
            row.notes.append(_reason(reason))
        else:
            _judge(row)
            contestants.append(contestant)
    for peer in peers if contestants else ():
        if peer.name not in case.runs:
            continue
        for variant in case.runs[peer.name].variants:
            label = f"{peer.name} {variant}".strip()
            try:
                contestant, gap = _checked(case, peer, variant, arrays, expected)
            except Exception as reason:  # whatever it is, the peer does not do this case in this form
                notes.append(f"{label}: {_reason(reason)}")
                continue
            if gap > TOLERANCE[dtype]:
                notes.append(f"{label} left out: its error is {gap:.1e}")
            else:
                contestants.append(contestant)
    if contestants:
        contestants, dropped = without_hopeless(contestants, OURS)
        notes += dropped
        itemsize = next(a.dtype.itemsize for a in arrays.values() if a.dtype.kind not in "iub")
        limit = limits.binding(case.flops, *case.traffic(itemsize))
        rates: list[float] = []
        interleave(contestants, rounds, lambda: rates.append(limits.sample(limit.key)))
        for contestant in contestants:
            if contestant.library == OURS:
                row = rows[contestant.variant]
                if not case.stateful:  # the last output too: a race need not show in the first
                    row.error = max(row.error, error(contestant.work.outputs(contestant.last), expected))
                    _judge(row)
                _fill(row, contestant, contestants, limit, median(rates))
    for row in rows.values():
        row.notes += notes
    return list(rows.values())


def _checked(
    case: Case, library: Any, variant: str, arrays: Arrays, expected: list[np.ndarray]
) -> tuple[Contestant, float]:
    """Builds one form, runs it once, and returns it with its error."""
    work = case.runs[library.name].build(library, arrays, variant)
    gap = error(work.outputs(work.call()), expected)
    return Contestant(library.name, variant, work), gap


def _judge(row: Row) -> None:
    if row.error > TOLERANCE[row.dtype]:
        row.status = "FAILED"
        row.notes = [f"error {row.error:.1e} is above {TOLERANCE[row.dtype]:.0e}"]


def _reason(error: Exception) -> str:
    """The first line of an exception: peers' messages run to pages."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200] if lines else ''}"


def _fill(row: Row, us: Contestant, contestants: list[Contestant], limit: Limit, rate: float) -> None:
    row.seconds = us.time
    row.limit = limit.key
    row.fraction = limit.amount / rate / us.time
    for peer in dict.fromkeys(c.library for c in contestants if c.library != OURS):
        best = min((c for c in contestants if c.library == peer), key=lambda c: c.time)
        ratio = median(theirs / own for theirs, own in zip(best.times, us.times, strict=True))
        row.peers[peer] = PeerResult(best.variant, best.time, ratio)
