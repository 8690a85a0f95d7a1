"""Products by bulk copies and wgmma (csrc/cuda/matmul_sm90.cu), emulated where there is no GPU that has them."""

from __future__ import annotations

import os
import re

import cuda_builds
import fastnn
import fastnn.functional as F
import ml_dtypes
import numpy as np
import pytest
from fastnn import _C, backends

pytestmark = pytest.mark.full
TOLERANCE = {"bfloat16": 1e-2, "float16": 2e-3}


@pytest.fixture
def wgmma(gpu):
    if not _C.cuda_emulated() and _C.cuda_info(0)["capability"] != (9, 0):
        pytest.skip("a GPU without wgmma")
    backends.set_wgmma(True)
    yield
    backends.set_wgmma(False)


@pytest.fixture(params=TOLERANCE)
def kind(request):
    return request.param


def numbers(rng, shape, kind):
    return rng.standard_normal(shape).astype(getattr(ml_dtypes, kind, kind))


def on_gpu(array):
    return fastnn.tensor(array, device="cuda")


def matrix(rng, shape, kind, transposed):
    """In numpy and on the GPU, there as the transpose of what lies in memory, if wanted."""
    if not transposed:
        x = numbers(rng, shape, kind)
        return x.astype(np.float64), on_gpu(x)
    x = numbers(rng, (*shape[:-2], shape[-1], shape[-2]), kind)
    return np.swapaxes(x, -1, -2).astype(np.float64), on_gpu(x).transpose(-1, -2)


def emulation():
    return cuda_builds.Emulation(cuda_builds.emulated_library(os.environ.get("FASTNN_TEST_EMULATION", "plain")))


def products():
    """How many wgmma a warpgroup did so far; None on a real GPU, which does not say."""
    if not _C.cuda_emulated():
        return None
    return emulation().stats()["mma"]


def check(run, wanted, kind, count):
    """The values, and that it took `count` wgmma."""
    before = products()
    got = run()
    if before is not None:
        assert products() - before == count
    got = np.asarray(got.cpu().numpy(), np.float64)
    assert got.shape == wanted.shape
    np.testing.assert_allclose(got, wanted, rtol=TOLERANCE[kind], atol=TOLERANCE[kind] * np.abs(wanted).max())


def ceil(a, b):
    return -(-a // b)


# (batch, m, n, k): at least 128 tiles of 128 x 128. Tiles of 256 columns where there are 128 of those, too.
SIZES = [
    (128, 8, 16, 8),
    (64, 136, 72, 136),  # a row of tiles of 8 rows
    (43, 56, 280, 72),  # three tiles side by side
    (43, 264, 136, 40),  # 256 columns
]


@pytest.mark.parametrize("transposed", ["", "a", "b"])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_values(wgmma, kind, rng, size, transposed):
    batch, m, n, k = size
    a, ta = matrix(rng, (batch, m, k), kind, "a" in transposed)
    b, tb = matrix(rng, (batch, k, n), kind, "b" in transposed)
    wide = n > 128 and ceil(m, 128) * ceil(n, 256) * batch >= 128
    tiles = ceil(m, 128) * ceil(n, 256 if wide else 128) * batch
    check(lambda: F.matmul(ta, tb), a @ b, kind, tiles * ceil(k, 64) * 4 * 2)


@pytest.mark.parametrize("m, n, k", [(2040, 1032, 24), (1000, 2056, 72)])
def test_many_tiles_of_one_matrix(wgmma, kind, rng, m, n, k):
    a, ta = matrix(rng, (m, k), kind, False)
    b, tb = matrix(rng, (k, n), kind, False)
    check(lambda: F.matmul(ta, tb), a @ b, kind, ceil(m, 128) * ceil(n, 128) * ceil(k, 64) * 8)


@pytest.mark.parametrize("activation", [None, "relu", "gelu"])
@pytest.mark.parametrize("n", [33, 40, 264])  # 33: columns of c are not aligned
def test_epilogue(wgmma, kind, rng, activation, n):
    m, k = 128 * 64 - 3, 32
    x, w, bias, residual = (numbers(rng, s, kind) for s in ((m, k), (n, k), (n,), (m, n)))
    wide = [v.astype(np.float64) for v in (x, w, bias, residual)]
    wanted = wide[0] @ wide[1].T + wide[2] + wide[3]
    if activation:
        wanted = getattr(F, activation)(wanted)
    tiles = 64 * ceil(n, 256 if n > 256 else 128)
    if tiles < 128:
        x, residual, wanted = (np.concatenate([v, v]) for v in (x, residual, wanted))
        tiles = ceil(2 * m, 128)
    args = [on_gpu(v) for v in (x, w, bias)]
    check(lambda: F.linear(*args, activation=activation, residual=on_gpu(residual)), wanted, kind, tiles * 8)


def test_one_matrix_for_a_batch(wgmma, kind, rng):
    a, ta = matrix(rng, (129, 20, 24), kind, False)
    b, tb = matrix(rng, (24, 40), kind, False)
    check(lambda: F.matmul(ta[:, :16], tb), a[:, :16] @ b, kind, 129 * 8)
    c, tc = matrix(rng, (129, 24, 40), kind, False)
    d, td = matrix(rng, (16, 24), kind, False)
    check(lambda: F.matmul(td, tc), d @ c, kind, 129 * 8)


@pytest.mark.parametrize(
    "shape",
    [(129, 64, 31, 64), (2, 64, 64, 64), (129, 64, 64, 0)],
    ids=["rows of 62 bytes", "few tiles", "k = 0"],
)
def test_what_it_leaves_to_others(wgmma, kind, rng, shape):
    batch, m, k, n = shape[0], shape[1], shape[3] and shape[2], 72
    a, ta = matrix(rng, (batch, m, k), kind, False)
    b, tb = matrix(rng, (batch, k, n), kind, False)
    got = np.asarray(F.matmul(ta, tb).cpu().numpy(), np.float64)
    np.testing.assert_allclose(got, a @ b, rtol=TOLERANCE[kind], atol=TOLERANCE[kind] * 30)


def test_off_at_first(gpu):
    assert backends.get_wgmma() is False


@pytest.mark.skipif(backends.is_available(), reason="emulated schedules")
def test_the_same_bits_in_every_schedule(wgmma, kind, rng):
    controls = emulation()
    _, a = matrix(rng, (128, 24, 136), kind, False)
    _, b = matrix(rng, (128, 136, 40), kind, False)
    results = set()
    for schedule in controls.SCHEDULES:
        for copies in controls.COPIES:
            controls.configure(schedule, copies)
            results.add(F.matmul(a, b).cpu().numpy().tobytes())
    controls.configure("rotate")
    assert len(results) == 1


@pytest.mark.skipif(cuda_builds.nvcc() is None, reason="nvcc not found")
def test_machine_code():
    compiled = cuda_builds.compiled(cuda_builds.CUDA / "matmul_sm90.cu", "sm_90a")
    assert len(compiled.kernels) == 12
    log = compiled.cubin.with_name(compiled.cubin.name + ".log").read_text()
    assert not re.search(r"wgmma.*serialized|setmaxnreg ignored", log)
    for kernel in compiled.kernels:
        assert kernel.spill_stores == kernel.spill_loads == kernel.stack == 0, kernel
        assert kernel.registers * 384 <= 65536, kernel
        code = compiled.machine_code(kernel.name)
        n = 256 if "Li256E" in kernel.name else 128
        wanted = [f"HGMMA.64x{n}x16.F32", "UTMALDG.3D", "SYNCS.PHASECHK", "USETMAXREG.DEALLOC", "USETMAXREG.TRY_ALLOC"]
        for instruction in [*wanted, "STG.E.128", "LDG.E.128"]:
            assert instruction in code, (kernel.name, instruction)
