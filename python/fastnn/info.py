"""`python -m fastnn.info`: what runs on this machine, what does not, and why. `info()` has the same as a dict."""

from __future__ import annotations

import importlib.util
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from . import _C, backends

_REQUIRED = ("fastnn", "numpy", "ml_dtypes", "safetensors")
_OPTIONAL = {
    "torch": "fastnn does not need it; the tests compare with it",
    "triton": "Triton kernels need it",
    "onnxruntime": "a peer of `python -m fastnn.benchmarks`",
    "jax": "a peer of `python -m fastnn.benchmarks`",
}
# The architectures that an instruction set is built for; see CMakeLists.txt.
_ISAS = {
    "generic": ("x86_64", "aarch64"),
    "avx2": ("x86_64",),
    "avx512": ("x86_64",),
    "avx512_bf16": ("x86_64",),
    "neon": ("aarch64",),
}
_HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def info() -> dict[str, Any]:
    """The state of this installation on this machine. Packages are looked up, not imported.

    Returns:
        A dict of plain values, fit for JSON:
          versions   version of fastnn, Python and each package it needs; compiler of the kernels; platform
          cpu        name, architecture, logical: CPUs that are online
          isa        in_use, available (built, and this CPU has it; slowest first), built, FASTNN_ISA
          threads    in_use, why, affinity: CPUs this process may run on, cgroup: CPUs of the quota or None,
                     FASTNN_NUM_THREADS
          memory     bytes: in_use, idle (cached for reuse), peak, limit (of idle), physical; requests and hits
                     (served from the cache); huge_pages
          gpus       name, capability, multiprocessors and bytes of memory of each GPU that can be used
          no_gpu     why there is none, or None
          built      names of what is in this build
          not_built  name of what is not -> the reason
          packages   version of each optional package, or None
    """
    return {
        "versions": {
            "python": platform.python_version(),
            **{name: _version(name) or "not installed as a package" for name in _REQUIRED},
            "compiler": _C.compiler,
            "platform": platform.platform(),
        },
        "cpu": {"name": _cpu_name(), "architecture": platform.machine(), "logical": os.cpu_count()},
        "isa": {
            "in_use": _C.get_isa(),
            "available": _C.available_isas(),
            "built": _C.built_isas(),
            "FASTNN_ISA": os.environ.get("FASTNN_ISA"),
        },
        "threads": _threads(),
        "memory": _C.memory_stats() | {"physical": _physical_memory(), "huge_pages": _huge_pages()},
        **_gpus(),
        **_built(),
        "packages": {name: _version(name) for name in _OPTIONAL},
    }


def format_info(data: dict[str, Any]) -> str:
    """What `python -m fastnn.info` prints of `info()`."""
    versions, cpu, isa, threads, memory = (data[key] for key in ("versions", "cpu", "isa", "threads", "memory"))
    forced = f"; FASTNN_ISA={isa['FASTNN_ISA']}" if isa["FASTNN_ISA"] else ""
    rows = [
        ("fastnn", versions["fastnn"]),
        ("", ", ".join(f"{name} {versions[name]}" for name in ("python", *_REQUIRED[1:]))),
        ("", f"built by {versions['compiler']}; {versions['platform']}"),
        ("CPU", f"{cpu['name']} ({cpu['architecture']}), {cpu['logical']} logical CPUs"),
        ("ISA", f"{isa['in_use']} in use (of {', '.join(isa['available'])}{forced})"),
        *(("", f"{name}: built, but this CPU lacks it") for name in isa["built"] if name not in isa["available"]),
        ("threads", f"{threads['in_use']}: {threads['why']}"),
        ("memory", f"{_size(memory['in_use'])} in use, {_size(memory['peak'])} at most so far"),
        ("", f"{_size(memory['idle'])} cached for reuse, {_size(memory['limit'])} allowed (FASTNN_CACHE_LIMIT)"),
        ("", f"{memory['hits']} of {memory['requests']} requests served from the cache"),
        ("", f"{_size(memory['physical'])} in this machine; huge pages: {memory['huge_pages']}"),
        *(("GPU", f"{gpu['name']} {gpu['capability']}, {_size(gpu['memory'])}") for gpu in data["gpus"]),
        *((("GPU", f"NONE: {data['no_gpu']}"),) if data["no_gpu"] else ()),
        *(("built" if i == 0 else "", name) for i, name in enumerate(data["built"])),
        *(("", f"NOT BUILT: {name}: {reason}") for name, reason in data["not_built"].items()),
    ]
    heading = "packages"
    for name, found in data["packages"].items():
        rows.append((heading, f"{name} {found}" if found else f"NOT INSTALLED: {name} ({_OPTIONAL[name]})"))
        heading = ""
    return "\n".join(f"{heading:<10}{text}" for heading, text in rows)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or "unknown"


def _threads() -> dict[str, Any]:
    """The facts of which csrc/parallel.cpp makes the default, and the one that decided."""
    logical = os.cpu_count() or 1
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else logical
    quota = _cgroup_cpus()
    asked = os.environ.get("FASTNN_NUM_THREADS")
    in_use = _C.get_num_threads()
    if asked == str(in_use):
        why = f"FASTNN_NUM_THREADS={asked}"
    elif in_use != min(affinity, quota or affinity):
        why = "set_num_threads()"
    elif quota and quota < affinity:
        why = f"the CPU quota of the cgroup, of {affinity} CPUs"
    elif affinity < logical:
        why = f"the CPU affinity of the process, of {logical} CPUs"
    else:
        why = "one for each CPU; no affinity mask, cgroup quota or FASTNN_NUM_THREADS says less"
    return {"in_use": in_use, "why": why, "affinity": affinity, "cgroup": quota, "FASTNN_NUM_THREADS": asked}


def _cgroup_cpus() -> int | None:
    """CPUs of the quota, rounded up; None where there is no quota."""
    root = Path("/sys/fs/cgroup")
    try:
        if (root / "cpu.max").exists():  # version 2
            quota, period = (root / "cpu.max").read_text().split()
        else:
            quota = (root / "cpu/cpu.cfs_quota_us").read_text()
            period = (root / "cpu/cpu.cfs_period_us").read_text()
        cpus = -(-int(quota) // int(period))
    except (OSError, ValueError, ZeroDivisionError):  # no cgroup, or "max"
        return None
    return cpus if cpus > 0 else None


def _physical_memory() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _huge_pages() -> str:
    try:
        text = _HUGE_PAGES.read_text()
    except OSError:
        return "NOT USED: this system has no transparent huge pages"
    mode = text.partition("[")[2].partition("]")[0]
    if mode == "never":
        return f"NOT USED: {_HUGE_PAGES} says never, so large arrays are slow to make"
    return f"used for arrays of 4 MiB and more ({mode})"


def _gpus() -> dict[str, Any]:
    reason = backends.cuda_unavailable()
    return {"gpus": [_C.cuda_info(i) for i in range(_C.cuda_device_count())], "no_gpu": reason}


def _built() -> dict[str, Any]:
    machine, isas = platform.machine(), _C.built_isas()
    built = [f"CPU kernels for {isa}" for isa in isas]
    not_built = {}
    for isa, architectures in _ISAS.items():
        if isa not in isas:
            reason = "the build left it out" if machine in architectures else f"this machine is {machine}"
            not_built[f"CPU kernels for {isa}"] = reason
    if backends.library_path().exists():
        built.append(f"CUDA kernels ({_C.cuda_build})")
    else:
        not_built["CUDA kernels"] = _C.cuda_missing or f"{backends.library_path()} is missing"
    spec = importlib.util.find_spec(f"{__package__}.kernels")
    if spec and spec.origin:
        built.append("Triton kernels")
    else:
        not_built["Triton kernels"] = "this version of fastnn has none, with or without triton"
    return {"built": built, "not_built": not_built}


def _size(count: int) -> str:
    value, unit = float(count), "B"
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024 or unit == "GiB":
            break
        value /= 1024
    return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"


if __name__ == "__main__":
    print(format_info(info()))
