"""The emulation of CUDA on the CPU: each instruction wrapper against its documentation, and the faults it must see.

The first part runs on a GPU too, where there is one.
"""

from __future__ import annotations

import ctypes
import re
import subprocess

import cuda_builds
import ml_dtypes
import numpy as np
import pytest

pytestmark = pytest.mark.skipif(cuda_builds.host_compiler() is None, reason="no C++ compiler")

EMULATE = cuda_builds.CUDA / "emulate"
SELFTEST = [EMULATE / "selftest.cu", EMULATE / "selftest_sm90.cu"]
TYPES = {"float32": 0, "bfloat16": 1, "float16": 2}
LANE = np.arange(32)
G, T = LANE // 4, LANE % 4  # the PTX manual's groupID and threadID_in_group


@pytest.fixture(scope="module", params=["plain", pytest.param("hooks", marks=pytest.mark.full), "cuda"])
def library(request):
    conformance = [EMULATE / "conformance.cu"]
    if request.param == "cuda":
        if cuda_builds.compute_capability() is None or cuda_builds.nvcc() is None:
            pytest.skip("no GPU, or no nvcc")
        built = cuda_builds.cuda_library("conformance", [*conformance, cuda_builds.CUDA / "runtime.cu"])
    else:
        built = cuda_builds.emulated("conformance", conformance, request.param)
    loaded = ctypes.CDLL(str(built))
    loaded.error_string.restype = ctypes.c_char_p

    def call(name, *arguments):
        pointers = [a.ctypes.data_as(ctypes.c_void_p) if isinstance(a, np.ndarray) else int(a) for a in arguments]
        status = getattr(loaded, name)(*pointers)
        assert status == 0, loaded.error_string(status).decode()

    return call


def half_registers(lo, hi):
    """Pairs of 16-bit elements as registers, the first in the low half."""
    lo, hi = (np.ascontiguousarray(x).view(np.uint16).astype(np.uint32) for x in (lo, hi))
    return lo | hi << 16


def numpy_type(name):
    return np.dtype(getattr(ml_dtypes, name, name))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_mma_m16n8k16(library, rng, dtype):
    a, b = (rng.integers(-8, 9, shape).astype(numpy_type(dtype)) for shape in [(16, 16), (16, 8)])
    c = rng.integers(-99, 100, (16, 8)).astype(np.float32)
    # "Matrix fragments for mma.m16n8k16 with floating point type": registers of A by row, then by column half
    ra = np.stack(
        [half_registers(a[G + row, 2 * T + col], a[G + row, 2 * T + col + 1]) for col in (0, 8) for row in (0, 8)], 1
    )
    rb = np.stack([half_registers(b[2 * T + row, G], b[2 * T + row + 1, G]) for row in (0, 8)], 1)
    rc = np.stack([c[G + row, 2 * T + col] for row in (0, 8) for col in (0, 1)], 1)
    rd = np.zeros((32, 4), np.float32)
    library("mma", TYPES[dtype], *map(np.ascontiguousarray, (ra, rb, rc)), rd)
    d = a.astype(np.float32) @ b.astype(np.float32) + c
    np.testing.assert_array_equal(rd, np.stack([d[G + row, 2 * T + col] for row in (0, 8) for col in (0, 1)], 1))


def test_mma_m16n8k8_tf32(library, rng):
    a, b = (rng.integers(-1000, 1001, shape).astype(np.float32) for shape in [(16, 8), (8, 8)])  # exact in tf32
    c = rng.integers(-99, 100, (16, 8)).astype(np.float32)
    ra = np.stack([a[G + row, T + col] for col in (0, 4) for row in (0, 8)], 1)
    rb = np.stack([b[T + row, G] for row in (0, 4)], 1)
    rc = np.stack([c[G + row, 2 * T + col] for row in (0, 8) for col in (0, 1)], 1)
    rd = np.zeros((32, 4), np.float32)
    library("mma", TYPES["float32"], *map(np.ascontiguousarray, (ra, rb, rc)), rd)
    d = a @ b + c
    np.testing.assert_array_equal(rd, np.stack([d[G + row, 2 * T + col] for row in (0, 8) for col in (0, 1)], 1))


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("count", [1, 2, 4])
def test_ldmatrix(library, rng, count, transposed):
    data = np.arange(512, dtype=np.uint16)
    rows = rng.permutation(64)[:32].astype(np.uint32) * 16  # of lanes from 8 * count on: not used
    r = np.zeros((32, count), np.uint32)
    library("ldmatrix", count, transposed, data, rows, r)
    for i in range(count):
        matrix = np.stack([data[start // 2 : start // 2 + 8] for start in rows[8 * i : 8 * i + 8]])
        if transposed:
            matrix = matrix.T
        np.testing.assert_array_equal(r[:, i], half_registers(matrix[G, 2 * T], matrix[G, 2 * T + 1]))


@pytest.mark.parametrize("n", [4, 8, 16])
def test_cp_async_fills_with_zeros_and_writes_no_further(library, rng, n):
    data = rng.integers(1, 255, (32, 16)).astype(np.uint8)
    sizes = rng.integers(0, n + 1, 32).astype(np.int32)
    sizes[:2] = 0, n
    to = np.zeros((32, 32), np.uint8)
    library("cp_async", n, data, sizes, to)
    expected = np.full((32, 32), 0xEE, np.uint8)
    expected[:, :n] = np.where(np.arange(n) < sizes[:, None], data[:, :n], 0)
    np.testing.assert_array_equal(to, expected)


def test_cp_async_groups(library):
    data, to = np.arange(1, 97, dtype=np.uint32), np.zeros(96, np.uint32)
    library("cp_async_groups", data, to)
    np.testing.assert_array_equal(to, data)


@pytest.mark.parametrize("width", [32, 8])
@pytest.mark.parametrize("kind", ["index", "up", "down", "xor"])
def test_shuffle(library, rng, kind, width):
    v = rng.integers(0, 2**32, 32, dtype=np.uint32)
    for argument in (0, 1, 5, width // 2):
        first = LANE // width * width
        source = {
            "index": first + argument % width,
            "up": LANE - argument,
            "down": LANE + argument,
            "xor": LANE ^ argument,
        }
        source = np.where((source[kind] >= first) & (source[kind] < first + width), source[kind], LANE)
        to = np.zeros(32, np.uint32)
        library("shuffle", ["index", "up", "down", "xor"].index(kind), argument, width, v, to)
        np.testing.assert_array_equal(to, v[source], err_msg=f"argument {argument}")


@pytest.mark.parametrize("bits", [0, 1, 0x80000001, 0xFFFFFFFF, 0x7FFFFFFF, 0x00F0A500])
def test_votes(library, bits):
    p, to = (bits >> LANE & 1).astype(np.uint32), np.zeros((32, 6), np.uint32)
    library("vote", p, to)
    expected = [bits, int(p.any()), int(p.all()), int(p.sum()), int(p.any()), int(p.all())]
    np.testing.assert_array_equal(to, np.tile(np.array(expected, np.uint32), (32, 1)))


def test_atomics(library, rng):
    v = rng.integers(1, 1000, 32).astype(np.int32)
    to = np.array([0, 0, 9999, 0, -1, 0, 0, 0, 77, 5], np.int32)
    library("atomics", v, to)
    assert to[:5].tolist() == [v.sum(), v.max(), v.min(), np.bitwise_or.reduce(v), np.bitwise_and.reduce(v)]
    assert to[5] in v and to[6] in v
    assert to[7:8].view(np.float32)[0] == v.sum()
    assert to[8:].tolist() == [5, 6]


def special_floats(rng):
    """All kinds of float32: bit patterns at random, ties of 16-bit types, limits."""
    with np.errstate(all="ignore"):
        ties = [
            np.arange(2**16, dtype=np.uint32) << 16 | low
            for low in (0, 0x7FFF, 0x8000, 0x8001, 0x1000, 0x0FFF, 0x1001, 0xF000)
        ]
        some = [rng.integers(0, 2**32, 20000, dtype=np.uint32), *(t[::17] for t in ties)]
        return np.concatenate(some).view(np.float32)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_conversions_round_to_nearest_even(library, rng, dtype):
    x = special_floats(rng)
    bits, back = np.zeros(len(x), np.uint16), np.zeros(len(x), np.float32)
    library("convert", TYPES[dtype], x, bits, back, len(x))
    with np.errstate(all="ignore"):
        expected = x.astype(numpy_type(dtype))
    nan = np.isnan(x)
    np.testing.assert_array_equal(bits[~nan], expected.view(np.uint16)[~nan])
    np.testing.assert_array_equal(bits[nan], 0x7FFF)
    np.testing.assert_array_equal(back, expected.astype(np.float32))
    every, wide = np.arange(2**16, dtype=np.uint16), np.zeros(2**16, np.float32)
    library("widen", TYPES[dtype], every, wide, len(every))
    np.testing.assert_array_equal(wide, every.view(numpy_type(dtype)).astype(np.float32))


def test_tf32_rounds_ties_away_from_zero(library, rng):
    x = special_floats(rng)
    x = x[np.isfinite(x)]
    x = np.concatenate([x, np.array([np.inf, -np.inf, 3.4028235e38], np.float32)])
    to = np.zeros(len(x), np.uint32)
    library("to_tf32", x, to, len(x))
    u = x.view(np.uint32).astype(np.uint64)
    expected = np.where(np.isfinite(x), (u & 0x80000000) | ((u & 0x7FFFFFFF) + 0x1000) >> 13 << 13, u)
    np.testing.assert_array_equal(to, expected.astype(np.uint32))


@pytest.mark.parametrize("n", [2, 8])
@pytest.mark.parametrize("dtype", TYPES)
def test_vector_accesses(library, rng, dtype, n):
    data = rng.standard_normal(512).astype(numpy_type(dtype))
    per_access = 16 // data.itemsize
    to = np.zeros(32 * (n + per_access), data.dtype)
    library("pack", TYPES[dtype], n, data, to, data.nbytes, to.nbytes)
    np.testing.assert_array_equal(to[: 32 * n].view(np.uint8), data[: 32 * n].view(np.uint8))
    np.testing.assert_array_equal(to[32 * n :].view(np.uint8), data[: 32 * per_access].view(np.uint8))


def test_named_barrier(library):
    data, to = np.arange(32, dtype=np.uint32), np.zeros(32, np.uint32)
    library("named_barrier", data, to)
    np.testing.assert_array_equal(to, data[::-1])


@pytest.mark.parametrize("times", [0, 1, 3])
def test_graph_repeats_its_launches(library, times):
    words = np.arange(32, dtype=np.uint32)
    library("graph", times, words)
    np.testing.assert_array_equal(words, np.arange(32) + 2 * times)


def test_bank_conflicts_are_counted(rng):
    """Of 8 rows, those that start in the banks of another row wait."""
    built = cuda_builds.emulated("conformance", [EMULATE / "conformance.cu"], "plain")
    emulation = cuda_builds.Emulation(built)
    data, r = np.zeros(512, np.uint16), np.zeros((32, 1), np.uint32)
    for step, conflicts in [(16, 0), (32, 4), (64, 6), (128, 7), (144, 0), (80, 0)]:
        before = emulation.stats()["conflicts"]
        rows = (LANE % 8 * step % 1024).astype(np.uint32)
        assert emulation.library.ldmatrix(1, 0, *(ctypes.c_void_p(a.ctypes.data) for a in (data, rows, r))) == 0
        assert emulation.stats()["conflicts"] - before == conflicts, step


def test_kernels_are_one_source_and_their_vector_accesses_are_seen():
    """Only the wrappers tell nvcc from a host compiler; vectors move by gpu::load and gpu::store, which are checked."""
    wrappers = {cuda_builds.CUDA / name for name in ("gpu.h", "ptx.h", "ptx_sm90.h")}
    for path in {*cuda_builds.CUDA.glob("*.cu"), *cuda_builds.CUDA.glob("*.h")} - wrappers:
        found = re.search(r"__CUDA\w*__|\basm\b|cast<(const )?(float|int|uint)[24]\b", path.read_text())
        assert not found, (path.name, found[0])


# Faults.


@pytest.mark.parametrize("mode", ["plain", "hooks"])
def test_faults_are_reported_and_nothing_else(mode):
    """In all schedules, both ways of landing copies: selftest.cu, selftest_sm90.cu."""
    program = cuda_builds.emulated("selftest", SELFTEST, mode, shared=False)
    done = subprocess.run([program], capture_output=True, text=True)
    lines = [line.split("\t") for line in done.stdout.splitlines()]
    assert {line[2] for line in lines} == {"ok"}, [line for line in lines if line[2] != "ok"]
    assert done.returncode == 0, done.stderr
    reported, clean = (sum(line[1] == kind for line in lines) for kind in ("fault", "clean"))
    assert clean >= 60 and reported >= (60 if mode == "hooks" else 30)


@pytest.mark.full
def test_faults_under_sanitizers():
    program = cuda_builds.emulated("selftest", SELFTEST, "sanitize", shared=False)
    environment = {"ASAN_OPTIONS": "detect_leaks=0"}
    kernels = subprocess.run([program, "--list"], capture_output=True, text=True, check=True, env=environment).stdout
    for name, kind in (line.split("\t") for line in kernels.splitlines()):
        for variant in ("clean", "fault") if kind == "memory" else ("clean",):
            done = subprocess.run([program, name, variant], capture_output=True, text=True, env=environment)
            if variant == "clean":
                assert done.returncode == 0 and not done.stderr, (name, done.stdout, done.stderr)
            else:
                assert "AddressSanitizer" in done.stderr or "runtime error" in done.stderr, (name, done.stdout)


INSTRUCTIONS = {
    "mma_kernel": {"HMMA.16816.F32", "HMMA.16816.F32.BF16", "HMMA.1688.F32.TF32"},
    "ldmatrix_kernel": {
        "LDSM.16.M88",
        "LDSM.16.M88.2",
        "LDSM.16.M88.4",
        "LDSM.16.MT88",
        "LDSM.16.MT88.2",
        "LDSM.16.MT88.4",
    },
    "cp_async_kernel": {"LDGSTS.E", "LDGSTS.E.64", "LDGSTS.E.BYPASS.128"},
    "named_barrier_kernel": {"BAR.ARV", "BAR.SYNC"},
    "pack_kernel": {"LDG.E.128", "STG.E.128", "LDG.E.64"},
}


@pytest.mark.full
@pytest.mark.skipif(cuda_builds.nvcc() is None, reason="nvcc not found")
@pytest.mark.parametrize("architecture", cuda_builds.ARCHITECTURES)
def test_wrappers_compile_to_their_instructions(architecture):
    compiled = cuda_builds.compiled(EMULATE / "conformance.cu", architecture)
    assert len(compiled.kernels) > 20
    assert all(k.spill_stores == k.spill_loads == 0 for k in compiled.kernels)
    for kernel, expected in INSTRUCTIONS.items():
        found = set(re.findall(r"[A-Z][A-Z0-9]*(?:\.\w+)*", compiled.machine_code(kernel)))
        missing = {i for i in expected if not any(f == i or f.startswith(i + ".") for f in found)}
        assert not missing, (kernel, missing)
