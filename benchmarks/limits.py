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
    """Rates of the probes: one sample of each from the start, and one more from each round of the cases it bounds.

    Args:
      probes: key -> function that measures a rate. Keys: "L2 read", "L3 read", "DRAM read", "DRAM copy", and `peak`.
      peak: the key of the arithmetic that the dtype runs at.
      caches: bytes of L2 and L3.
    """

    def __init__(self, probes: dict[str, Callable[[], float]], peak: str, caches: dict[int, int]) -> None:
        self.probes, self.peak, self.caches = probes, peak, caches
        self.samples: dict[str, list[float]] = {key: [] for key in probes}
        for key in probes:
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


def machine_limits(threads: int, dtype: str) -> Limits:
    """The limits of this machine for `threads` threads of fastnn's pool."""
    from fastnn import _C

    caches = cache_sizes(threads)
    l2, l3 = caches[2], caches[3]
    dram = max(256 << 20, 4 * l3)
    probes: dict[str, Callable[[], float]] = {
        "fma float32": lambda: 1e9 * _C.probe_fma("float32", SECONDS),
        "L2 read": lambda: 1e9 * _C.probe_read(l2 // 2, SECONDS),
        "L3 read": lambda: 1e9 * _C.probe_read(max(l3 // 2, 2 * l2), SECONDS),
        "DRAM read": lambda: 1e9 * _C.probe_read(dram, SECONDS),
        # Half of these bytes are read, half written.
        "DRAM copy": lambda: 1e9 * _C.probe_copy(dram // 2, SECONDS),
    }
    peak = "fma float32"
    if dtype != "float32":
        try:
            _C.probe_fma(dtype, SECONDS)
        except NotImplementedError:  # this ISA widens to float32
            pass
        else:
            peak = f"fma {dtype}"
            probes[peak] = lambda: 1e9 * _C.probe_fma(dtype, SECONDS)
    return Limits(probes, peak, caches)
