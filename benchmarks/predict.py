"""A static model of the Triton kernels on an H100: predictions from shapes and compiled code, nothing measured.

Of each launch the time is

    launch + tail * max(bytes / (bandwidth * memory), FLOPs / (peak * mma) + exponentials / special) + ramp

    memory   how much of the bandwidth the loads in flight can ask for (Little's law): resident warps x 32 threads x
             16 bytes x the 16-byte loads that the code has before it waits, over latency x bandwidth; at most SUSTAINED
    mma      SUSTAINED of the tensor cores for wgmma, half of it for mma.sync on sm_90; the float units without either
    special  exponentials between two products, which the products before and after them wait for
    tail     waves, rounded up, over waves: the last wave leaves multiprocessors idle
    ramp     filling the pipeline of a block and writing its last tile, when no other block hides it

Registers, shared memory and instructions come from the compiled kernel (fastnn.kernels._compile), bytes and FLOPs from
the shape. The card's limit is that of the data sheet; the fraction is the time at the limit over the predicted time.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastnn.kernels._compile import Report


@dataclass(frozen=True)
class Card:
    """A GPU's limits, from its data sheet (NVIDIA H100 SXM5) but for the latencies, which are round numbers."""

    name: str = "H100 SXM5"
    capability: int = 90
    multiprocessors: int = 132
    bandwidth: float = 3.35e12
    bfloat16: float = 989e12
    tf32: float = 495e12
    float32: float = 67e12
    special: float = 132 * 16 * 1.7e9  # exponentials per second
    latency: float = 700e-9  # of a load from memory
    launch: float = 2.5e-6


CARD = Card()
# Copy 3.0 of 3.35 TB/s and cuBLAS 798 of 989 TFLOP/s were measured on one: nothing of ours is assumed to do better.
SUSTAINED_MEMORY, SUSTAINED_MMA = 0.90, 0.81


@dataclass(frozen=True)
class Launch:
    """One launch: the variant of the kernel file that stands for it, its blocks, and the work of all of them."""

    file: str
    variant: str
    blocks: int
    bytes: float
    flops: float = 0.0
    exponentials: float = 0.0


@dataclass(frozen=True)
class GpuCase:
    """A piece of work: its launches, and the bytes and FLOPs that any implementation needs."""

    op: str
    name: str
    direction: str
    dtype: str
    bytes: float
    flops: float
    launches: tuple[Launch, ...]

    def __str__(self) -> str:
        return f"{self.op} {self.name} {self.direction} {self.dtype}"


@dataclass(frozen=True)
class Prediction:
    case: str
    seconds: float
    limit: str
    fraction: float
    bytes: float
    flops: float
    launches: tuple[dict[str, Any], ...]


def predict(case: GpuCase, card: Card = CARD) -> Prediction:
    """The predicted time of a case, and its fraction of the card's limit."""
    found = [(launch, compiled(launch.file, launch.variant, case.dtype, card.capability)) for launch in case.launches]
    parts = [_launch(launch, report, case.dtype, card) for launch, report in found]
    seconds = sum(part["seconds"] for part in parts)
    bounds = {"memory": case.bytes / card.bandwidth, "arithmetic": case.flops / peak(case.dtype, card)}
    limit = max(bounds, key=bounds.__getitem__)
    return Prediction(str(case), seconds, limit, bounds[limit] / seconds, case.bytes, case.flops, tuple(parts))


def peak(dtype: str, card: Card) -> float:
    return card.tf32 if dtype == "float32" else card.bfloat16


def _launch(launch: Launch, report: Report, dtype: str, card: Card) -> dict[str, Any]:
    resident = report.blocks_per_multiprocessor
    at_once = card.multiprocessors * resident
    waves = launch.blocks / at_once
    # A block of the last wave has a multiprocessor to itself, but does not get faster by as much.
    tail = max(1.0, math.ceil(waves) / waves) if waves > 1 else 1.0
    busy = min(1.0, launch.blocks / card.multiprocessors)
    blocks_each = min(resident, max(1.0, launch.blocks / card.multiprocessors))
    in_flight = blocks_each * report.warps * 32 * 16 * max(1, min(report.instructions["load16"], 8))
    wanted = card.latency * card.bandwidth / card.multiprocessors
    memory = SUSTAINED_MEMORY * min(1.0, in_flight / wanted) * busy
    if report.instructions["HGMMA"]:
        rate = peak(dtype, card) * SUSTAINED_MMA
    elif report.instructions["HMMA"]:
        rate = peak(dtype, card) * SUSTAINED_MMA / 2
    else:
        rate = card.float32 * SUSTAINED_MMA
    arithmetic = launch.flops / rate + launch.exponentials / card.special
    work = max(launch.bytes / (card.bandwidth * memory), arithmetic / busy)
    # With one block on a multiprocessor nothing runs while it fills its pipeline and writes its result.
    ramp = math.ceil(waves) * 2 * card.latency / resident
    return {
        "kernel": f"{launch.file}.{launch.variant}",
        "seconds": card.launch + tail * work + ramp,
        "registers": report.registers,
        "shared": report.shared,
        "blocks_per_multiprocessor": resident,
        "blocks": launch.blocks,
        "waves": round(waves, 2),
    }


_reports: dict[tuple[str, str, str, int], Report] = {}


def compiled(file: str, variant: str, dtype: str, capability: int) -> Report:
    """The report of one variant; compiled once.

    Raises:
        ValueError: no kernel file has such a variant in the dtype.
    """
    from fastnn.kernels import _compile

    key = (file, variant, dtype, capability)
    if key not in _reports:
        for name, candidate in _compile.variants():
            if name == file and candidate.name == variant and dtype in candidate.dtypes:
                _reports[key] = _compile.report(file, candidate, dtype, capability)
                break
        else:
            raise ValueError(f"predict: kernels/{file}.py has no variant {variant} in {dtype}")
    return _reports[key]


def table(predictions: list[Prediction], card: Card = CARD) -> str:
    """One line per case, and one per launch below it."""
    lines = [
        f"PREDICTIONS for one {card.name} from compiled code and shapes; nothing here was measured.",
        f"limits: {card.bandwidth * 1e-12:.2f} TB/s, bfloat16 {card.bfloat16 * 1e-12:.0f}, "
        f"TF32 {card.tf32 * 1e-12:.0f} TFLOP/s",
    ]
    rows = [
        (
            "case",
            "predicted",
            "of the limit",
            "bound by",
            "MB",
            "GFLOP",
            "kernel: registers, shared KiB, blocks/SM, waves",
        )
    ]
    for p in predictions:
        first, *rest = (
            f"{k['kernel']}: {k['registers']}, {k['shared'] / 1024:.0f}, {k['blocks_per_multiprocessor']}, {k['waves']}"
            for k in p.launches
        )
        cells = (p.case, f"{p.seconds * 1e6:.1f} us", f"{p.fraction:.0%}", p.limit, f"{p.bytes * 1e-6:.0f}")
        rows.append((*cells, f"{p.flops * 1e-9:.0f}", first))
        rows += [("", "", "", "", "", "", other) for other in rest]
    widths = [max(len(row[i]) for row in rows) for i in range(6)]
    lines += ["  ".join([*(c.ljust(w) for c, w in zip(row, widths, strict=False)), row[6]]).rstrip() for row in rows]
    return "\n".join(lines)


def write_json(path: str, predictions: list[Prediction], card: Card = CARD) -> None:
    document = {"predicted": True, "card": asdict(card), "cases": [asdict(p) for p in predictions]}
    Path(path).write_text(json.dumps(document, indent=1) + "\n")
