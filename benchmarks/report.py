"""What a run prints and writes: an aligned table, a JSON file, a plot."""

from __future__ import annotations

import json
import os
import platform
from dataclasses import asdict
from datetime import datetime, timezone
from math import prod
from pathlib import Path
from typing import Any

from .limits import Limits
from .run import Row

BUSY = 0.5  # load average above which the table cannot be trusted


def machine(ours: Any, peers: list[Any], missing: dict[str, str], threads: int) -> dict[str, Any]:
    """What one must know to compare this run with another."""
    import numpy

    return {
        "cpu": _cpu_name(),
        "isa": ours.lib.get_isa(),
        "threads": threads,
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "system": f"{platform.system()} {platform.machine()}",
        "versions": {
            "python": platform.python_version(),
            "numpy": numpy.__version__,
            **{library.name: library.version for library in (ours, *peers)},
        },
        "missing": missing,
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def duration(seconds: float) -> str:
    """Three significant digits with a unit: "1.25 ms"."""
    for unit, scale in (("s", 1.0), ("ms", 1e3), ("us", 1e6)):
        if seconds * scale >= 1:
            return f"{seconds * scale:.3g} {unit}"
    return f"{seconds * 1e9:.3g} ns"


def rate(key: str, value: float) -> str:
    return f"{key} {value * 1e-9:.4g} {'GFLOP/s' if key.startswith('fma') else 'GB/s'}"


def header(info: dict[str, Any], limits: Limits) -> str:
    """The lines above the table: machine, versions, limits."""
    versions = ", ".join(f"{name} {version}" for name, version in info["versions"].items())
    lines = [f"{info['cpu']}, {info['isa']}, {info['threads']} threads", versions]
    lines += [f"{name} does not take part: {reason}" for name, reason in info["missing"].items()]
    if info["load"] is not None and info["load"] > BUSY:
        lines.append(
            f"CAUTION: load average {info['load']} before the start: on a busy machine peers that wait at a barrier "
            "(OpenMP) look many times slower than they are"
        )
    lines.append("limits: " + ", ".join(rate(key, limits.rate(key)) for key in limits.probes))
    return "\n".join(lines)


def table(rows: list[Row], peers: list[str]) -> str:
    """One line per row. Under a peer: its time, its time over ours (above 1.00x we are faster), its fastest form."""
    lines = [["case", "fastnn", *peers, "of the limit", "error", ""]]
    for row in rows:
        cells = [str(row), duration(row.seconds) if row.seconds else "-"]
        for peer in peers:
            result = row.peers.get(peer)
            cells.append(f"{duration(result.seconds)} {result.ratio:.2f}x {result.variant}" if result else "-")
        cells.append(f"{row.fraction:.0%} {row.limit}" if row.fraction is not None else "-")
        cells.append(f"{row.error:.0e}" if row.error is not None else "-")
        if row.status == "ok":
            cells.append("slower than " + ", ".join(row.slower_than) if row.slower_than else "")
        else:
            cells.append(f"{row.status}: {row.notes[0]}")
        lines.append(cells)
    widths = [max(len(cells[column]) for cells in lines) for column in range(len(lines[0]) - 1)]
    return "\n".join(
        "  ".join([*(cell.ljust(width) for cell, width in zip(cells, widths, strict=False)), cells[-1]]).rstrip()
        for cells in lines
    )


def summary(rows: list[Row]) -> str:
    """Per peer: geometric mean of the ratios and how many rows lose; then how many have no result."""
    lines = []
    for peer in dict.fromkeys(name for row in rows for name in row.peers):
        ratios = [row.peers[peer].ratio for row in rows if peer in row.peers]
        mean = prod(ratio ** (1 / len(ratios)) for ratio in ratios)
        lost = sum(ratio < 1 for ratio in ratios)
        lines.append(f"{peer}: {mean:.2f}x in the geometric mean of {len(ratios)} rows, slower than it on {lost}")
    for status in ("unsupported", "FAILED"):
        count = sum(row.status == status for row in rows)
        lines += [f"{status}: {count} of {len(rows)} rows"] if count else []
    return "\n".join(lines)


def write_json(path: str, info: dict[str, Any], limits: Limits, rows: list[Row]) -> None:
    """Machine, limits (operations or bytes per second) and all rows (times in seconds)."""
    rates = {key: limits.rate(key) for key in limits.probes}
    document = {"machine": info, "limits": rates, "rows": [asdict(row) for row in rows]}
    Path(path).write_text(json.dumps(document, indent=1) + "\n")


def write_plot(path: str, info: dict[str, Any], rows: list[Row]) -> None:
    """Bars of each peer's time over ours on a logarithmic axis; left of the line at 1.0 we lose."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullLocator

    rows = [row for row in rows if row.peers]
    peers = list(dict.fromkeys(name for row in rows for name in row.peers))
    height = 0.8 / max(len(peers), 1)
    figure = Figure(figsize=(10, 1.5 + 0.35 * max(len(rows), 1)), layout="constrained")
    axes = figure.add_subplot()
    for index, peer in enumerate(peers):
        places = [y for y, row in enumerate(rows) if peer in row.peers]
        # A bar on a log axis starts at 1, so that its length is the gain or the loss.
        widths = [rows[y].peers[peer].ratio - 1 for y in places]
        axes.barh([y + (index - (len(peers) - 1) / 2) * height for y in places], widths, height, left=1, label=peer)
    axes.axvline(1.0, color="black", linewidth=1)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}x")
    axes.set_yticks(range(len(rows)), [str(row) for row in rows])
    axes.invert_yaxis()
    axes.set_xlabel("time of the peer / time of fastnn (above 1 fastnn is faster)")
    axes.set_title(f"{info['cpu']}, {info['isa']}, {info['threads']} threads")
    if peers:
        axes.legend()
    figure.savefig(path, dpi=150)
