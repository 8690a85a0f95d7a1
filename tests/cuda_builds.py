"""Builds CUDA sources for tests: emulated by the host compiler, and by nvcc where it is found.

An emulated build is one of `MODES`:

- "plain": fast; checks what instruction wrappers access, and values.
- "hooks": also checks every access of the kernels' plain code, for bounds, races and reads of unwritten shared memory.
- "sanitize": AddressSanitizer and UndefinedBehaviorSanitizer. A shared library of it needs `sanitizer_environment()`.

What was built stays in a cache under the temporary directory, by the hash of all that it was built from.
"""

from __future__ import annotations

import ctypes
import functools
import getpass
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

CSRC = Path(__file__).resolve().parent.parent / "csrc"
CUDA = CSRC / "cuda"
EMULATION = sorted((CUDA / "emulate").glob("*.cpp"))
MODES = ("plain", "hooks", "sanitize")
ARCHITECTURES = ("sm_80", "sm_90a")

_FLAGS = ("-std=c++20", "-g", "-fPIC", "-fno-gnu-unique", "-Wall", "-Wno-unknown-pragmas", "-Wno-psabi")
_NVCC_FLAGS = ("-std=c++20", "-O3", "--expt-relaxed-constexpr")
_MODE_FLAGS = {
    "plain": ("-O2",),
    "hooks": ("-O2", "-DFASTNN_EMULATE_HOOKS"),
    "sanitize": ("-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"),
}
_KEEP_SECONDS = 7 * 24 * 3600


def host_compiler() -> str | None:
    return shutil.which(os.environ.get("CXX", "c++"))


@functools.cache
def compute_capability() -> tuple[int, int] | None:
    """Of the first GPU; None where there is no driver or no GPU."""
    try:
        driver, major, minor = ctypes.CDLL("libcuda.so.1"), ctypes.c_int(), ctypes.c_int()
    except OSError:
        return None
    if driver.cuInit(0) or driver.cuDeviceComputeCapability(ctypes.byref(major), ctypes.byref(minor), 0):
        return None
    return major.value, minor.value


def nvcc() -> str | None:
    return shutil.which("nvcc") or shutil.which("/usr/local/cuda/bin/nvcc")


def emulated(name: str, sources: Sequence[Path], mode: str, *, shared: bool = True) -> Path:
    """The library (or program) `name` of these .cu files and the emulation, in one of `MODES`."""
    compiler = host_compiler()
    if compiler is None:
        raise RuntimeError("no C++ compiler found; set CXX")
    flags = (*_FLAGS, *_MODE_FLAGS[mode])
    hooks = ("-fsanitize=thread",) if mode == "hooks" else ()

    def compile_object(source: Path) -> Path:
        extra = ("-x", "c++", *hooks) if source.suffix == ".cu" else ()
        return _built(source.stem + ".o", (compiler, *flags, *extra, "-c", str(source)), [source, *_headers()])

    # The emulation first: of an inline function of both, the linker keeps the first copy, which must be without hooks.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(compile_object, [*EMULATION, *sources]))
    # The hooks are ours, so that the sanitizer's own library must not be linked.
    kind = ("-shared", "-Wl,-Bsymbolic") if shared else ()
    link = [compiler, *(flags if mode == "sanitize" else ()), *kind, *map(str, objects), "-ldl", "-lpthread"]
    return _built(f"lib{name}.so" if shared else name, link, objects)


def emulated_library(mode: str = "plain") -> Path:
    """All kernels of the library, emulated: what `_C.load_cuda` takes."""
    return emulated("_cuda", sorted(set(CUDA.glob("*.cu")) - {CUDA / "runtime.cu"}), mode)


def sanitizer_environment() -> dict[str, str]:
    """Environment variables under which Python can load a library of the "sanitize" mode."""
    # With the C++ library, or the sanitizer's throw finds nothing to call: Python itself does not load it.
    libraries = [
        subprocess.run(
            [host_compiler() or "c++", f"-print-file-name={name}"], capture_output=True, text=True, check=True
        ).stdout.strip()
        for name in ("libasan.so", "libstdc++.so")
    ]
    return {"LD_PRELOAD": " ".join(libraries), "ASAN_OPTIONS": "detect_leaks=0", "UBSAN_OPTIONS": "print_stacktrace=1"}


class Emulation:
    """The controls of an emulated library, which may be loaded elsewhere too."""

    SCHEDULES = ("lowest", "highest", "round_robin", "random", "rotate")
    COPIES = ("late", "early")
    _STATS = ("launches", "blocks", "switches", "accesses", "mma", "ldmatrix", "conflicts")

    def __init__(self, library: Path) -> None:
        self.library = ctypes.CDLL(str(library))

    def configure(self, schedule: str = "lowest", copies: str = "late", seed: int = 1) -> None:
        """Which of the ready threads runs next, and when asynchronous copies land, from the next launch on.

        "rotate" takes another schedule and way of landing in each launch."""
        indices = self.SCHEDULES.index(schedule), self.COPIES.index(copies)
        self.library.fastnn_emulate_configure(*indices, ctypes.c_uint64(seed))

    def stats(self) -> dict[str, int]:
        """Counts since the library was loaded; conflicts: rows of ldmatrix that waited for another one's banks."""
        counts = (ctypes.c_uint64 * len(self._STATS))()
        self.library.fastnn_emulate_stats(counts)
        return dict(zip(self._STATS, counts, strict=True))


def cuda_library(name: str, sources: Sequence[Path], architectures: Sequence[str] = ARCHITECTURES) -> Path:
    """The library `name` of these .cu files for a GPU."""
    flags = [*_NVCC_FLAGS, "-Xcompiler", "-fPIC", "-shared", *(f"-gencode={_code(a)}" for a in architectures)]
    return _built(f"lib{name}.so", [str(nvcc()), *flags, *map(str, sources)], [*sources, *_headers()])


@dataclass(frozen=True)
class KernelReport:
    """What ptxas says of a kernel; bytes, and registers per thread."""

    name: str
    registers: int
    stack: int
    spill_stores: int
    spill_loads: int
    shared: int


@dataclass(frozen=True)
class Compiled:
    """A .cu file as machine code for one architecture."""

    cubin: Path
    kernels: tuple[KernelReport, ...]

    @functools.cached_property
    def _sections(self) -> list[str]:
        disassembler = _tool("nvdisasm")
        if disassembler is None:
            raise RuntimeError("nvdisasm not found; it is in the CUDA toolkit and in triton's wheel")
        code = subprocess.run([disassembler, "-c", str(self.cubin)], capture_output=True, text=True, check=True).stdout
        return re.split(r"\.section\s+\.text\.", code)[1:]

    def machine_code(self, kernel: str) -> str:
        """The instructions of the kernels whose mangled names contain `kernel`."""
        return "".join(section for section in self._sections if kernel in section.split(",", 1)[0])


def compiled(source: Path, architecture: str) -> Compiled:
    """`source` compiled for "sm_80" or "sm_90a", without a GPU."""
    command = [
        str(nvcc()),
        *_NVCC_FLAGS,
        f"-gencode={_code(architecture)}",
        "-Xptxas",
        "-v",
        "-cubin",
        str(source),
    ]
    cubin = _built(f"{source.stem}.cubin", command, [source, *_headers()])
    log = cubin.with_name(cubin.name + ".log").read_text()
    pattern = (
        r"Compiling entry function '(\S+)' for .*?(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill "
        r"loads\n.*?Used (\d+) registers([^\n]*)"
    )
    kernels = []
    for name, stack, stores, loads, registers, rest in re.findall(pattern, log, re.DOTALL):
        shared = re.search(r"(\d+) bytes smem", rest)
        kernels.append(
            KernelReport(name, int(registers), int(stack), int(stores), int(loads), int(shared[1]) if shared else 0)
        )
    return Compiled(cubin, tuple(kernels))


def _code(architecture: str) -> str:
    return f"arch={architecture.replace('sm_', 'compute_')},code={architecture}"


def _tool(name: str) -> str | None:
    """A program of the CUDA toolkit, or of triton's wheel."""
    compiler = nvcc()
    folders = [Path(compiler).resolve().parent] if compiler else []
    try:
        import triton

        folders.append(Path(triton.__file__).parent / "backends" / "nvidia" / "bin")
    except ImportError:
        pass
    return next((path for folder in folders if (path := shutil.which(name, path=str(folder)))), shutil.which(name))


@functools.cache
def _headers() -> tuple[Path, ...]:
    shared = ((CSRC / folder).glob("*") for folder in ("kernels", "simd"))
    folders = (CUDA.rglob("*.h"), CUDA.rglob("*.inc"), CSRC.glob("*.h"), *shared)
    return tuple(sorted(path for folder in folders for path in folder))


@functools.cache
def _content(path: Path) -> bytes:
    return hashlib.sha256(path.read_bytes()).digest()


@functools.cache
def _version(compiler: str) -> bytes:
    return subprocess.run([compiler, "--version"], capture_output=True, check=True).stdout


@functools.cache
def _cache() -> Path:
    folder = Path(tempfile.gettempdir()) / f"fastnn-cuda-builds-{getpass.getuser()}"
    folder.mkdir(exist_ok=True)
    for entry in folder.iterdir():
        if entry.stat().st_mtime < time.time() - _KEEP_SECONDS:
            shutil.rmtree(entry, ignore_errors=True)
    return folder


def _built(name: str, command: Sequence[str], inputs: Iterable[Path]) -> Path:
    """The file that `command` with "-o FILE" makes of `inputs`; its output is beside it in FILE.log."""
    key = hashlib.sha256(_version(command[0]) + "\0".join(command).encode())
    for path in inputs:
        key.update(_content(path))
    folder = _cache() / key.hexdigest()[:32]
    if (folder / name).exists():
        os.utime(folder)
        return folder / name
    work = Path(tempfile.mkdtemp(dir=_cache()))
    try:
        done = subprocess.run([*command, "-o", str(work / name)], capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
        (work / f"{name}.log").write_text(done.stdout + done.stderr)
        try:
            work.rename(folder)  # another process may have been first
        except OSError:
            if not (folder / name).exists():
                raise
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return folder / name
