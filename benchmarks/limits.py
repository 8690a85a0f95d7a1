"""What the machine can do, measured in the same run: arithmetic peak, and bandwidth of each level of memory."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import NamedTuple

SECONDS = 0.02  # of one probe
# Where the OS does not say: the smallest caches of current server cores.
DEFAULT_CACHES = {2: 1 << 20, 3: 16 << 20}


class Limit(NamedTuple):
    """A bound on one case: `amount` (operations or bytes) at the rate of the probe `key`."""

    key: str
    amount: float


def cache_sizes(threads: int) -> dict[int, int]:
    """Bytes of L2 and L3 that `threads` cores have together."""
    sizes: dict[int, dict[str, int]] = {2: {}, 3: {}}
    for cpu in sorted(os.sched_getaffinity(0))[:threads] if hasattr(os, "sched_getaffinity") else []:
        for index in Path(f"/sys/devices/system/cpu/cpu{cpu}/cache").glob("index*"):
            try:
                level = int((index / "level").read_text())
                size = (index / "size").read_text().strip()
                shared = (index / "shared_cpu_list").read_text().strip()
            except OSError:
                continue
            if level in sizes and size.endswith("K"):
                sizes[level][shared] = int(size[:-1]) << 10
    return {level: sum(found.values()) or DEFAULT_CACHES[level] for level, found in sizes.items()}


class Limits:
    """Rates of the probes, by key: "fma float32", "L2 read", "L3 read", "DRAM read", "DRAM copy".

    Every rate has one sample from the start and one from each round of the cases that it bounds.
    """

    def __init__(self, threads: int, dtype: str) -> None:
        from fastnn import _C

        self.caches = cache_sizes(threads)
        l2, l3 = self.caches[2], self.caches[3]
        dram = max(256 << 20, 4 * l3)
        self.probes: dict[str, Callable[[], float]] = {
            "fma float32": lambda: 1e9 * _C.probe_fma("float32", SECONDS),
            "L2 read": lambda: 1e9 * _C.probe_read(l2 // 2, SECONDS),
            "L3 read": lambda: 1e9 * _C.probe_read(max(l3 // 2, 2 * l2), SECONDS),
            "DRAM read": lambda: 1e9 * _C.probe_read(dram, SECONDS),
            # Read and written: half of the bytes each.
            "DRAM copy": lambda: 1e9 * _C.probe_copy(dram // 2, SECONDS),
        }
        self.peak = "fma float32"
        if dtype != "float32":
            try:
                _C.probe_fma(dtype, SECONDS)
            except NotImplementedError:  # this ISA widens to float32
                pass
            else:
                self.peak = f"fma {dtype}"
                self.probes[self.peak] = lambda: 1e9 * _C.probe_fma(dtype, SECONDS)
        self.samples: dict[str, list[float]] = {key: [] for key in self.probes}
        for key in self.probes:
            self.sample(key)

    def sample(self, key: str) -> float:
        """One more measurement of the rate, in operations or bytes per second."""
        rate = self.probes[key]()
        self.samples[key].append(rate)
        return rate

    def rate(self, key: str) -> float:
        return median(self.samples[key])

    def binding(self, flops: float, read: int, written: int) -> Limit:
        """The limit that needs the most time for this much work.

        A case whose bytes fit a cache finds them there on the next call, so that cache's bandwidth bounds it. Stores to
        DRAM cost as in a copy with streaming stores; what is only read cannot be faster than the read probe either.
        """
        total = read + written
        if total <= self.caches[2]:
            bounds = [Limit("L2 read", total)]
        elif total <= self.caches[3]:
            bounds = [Limit("L3 read", total)]
        else:
            bounds = [Limit("DRAM read", read), Limit("DRAM copy", total)]
        return max([Limit(self.peak, flops), *bounds], key=lambda limit: limit.amount / self.rate(limit.key))
