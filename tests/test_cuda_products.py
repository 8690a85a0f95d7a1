"""Matrix products and convolutions on a GPU (emulated where there is none): what the tests of the ops do not reach.

Large tiles, tf32, bank conflicts, the same bits in every schedule; and the resources that nvcc reports.
"""

from __future__ import annotations

import re

import cuda_builds
import fastnn
import fastnn.functional as F
import ml_dtypes
import numpy as np
import pytest
from fastnn import backends

pytestmark = pytest.mark.full
TOLERANCE = {"float32": 3e-6, "bfloat16": 1e-2, "float16": 2e-3, "tf32": 2e-3, "float64": 1e-13}
BATCH = 129  # matrices of one tile: enough to make the tiles large ones


@pytest.fixture(params=TOLERANCE)
def kind(request, gpu):
    """The dtype, and the precision that comes with it."""
    before = fastnn.get_precision()
    if request.param == "tf32":
        fastnn.set_precision("tf32")
    yield request.param
    fastnn.set_precision(before)


def numbers(rng, shape, kind):
    name = "float32" if kind == "tf32" else kind
    return rng.standard_normal(shape).astype(ml_dtypes.bfloat16 if name == "bfloat16" else name)


def error(got, wanted):
    got = np.asarray(got.cpu().numpy(), np.float64)
    assert got.shape == wanted.shape and np.isfinite(got).all()
    return np.abs(got - wanted).max() / np.abs(wanted).max()


def on_gpu(array):
    return fastnn.tensor(array, device="cuda")


def operand(rng, shape, kind, transposed):
    if not transposed:
        x = numbers(rng, shape, kind)
        return x, on_gpu(x)
    x = numbers(rng, (*shape[:-2], shape[-1], shape[-2]), kind)
    return np.swapaxes(x, -1, -2), on_gpu(x).transpose(-1, -2)


@pytest.mark.parametrize("transposed", ["", "a", "b", "ab"])
@pytest.mark.parametrize("size", [(1, 1, 1), (66, 72, 40), (65, 70, 33), (8, 8, 1000), (64, 64, 2048), (3, 129, 257)])
def test_small_tiles(kind, rng, size, transposed):
    m, n, k = size
    a, ta = operand(rng, (m, k), kind, "a" in transposed)
    b, tb = operand(rng, (k, n), kind, "b" in transposed)
    assert error(F.matmul(ta, tb), a.astype(np.float64) @ b.astype(np.float64)) < TOLERANCE[kind]


@pytest.mark.parametrize("transposed", ["", "a", "b", "ab"])
@pytest.mark.parametrize("size", [(72, 80, 40), (67, 70, 33)])
def test_large_tiles(kind, rng, size, transposed):
    m, n, k = size
    a, ta = operand(rng, (BATCH, m, k), kind, "a" in transposed)
    b, tb = operand(rng, (BATCH, k, n), kind, "b" in transposed)
    assert error(F.matmul(ta, tb), a.astype(np.float64) @ b.astype(np.float64)) < TOLERANCE[kind]


@pytest.mark.parametrize("activation", [None, "relu", "gelu"])
@pytest.mark.parametrize("size", [(70, 40, 24), (5, 9, 1100), (1, 64, 24)])
def test_epilogue(kind, rng, size, activation):
    m, n, k = size
    x, w, bias, residual = (numbers(rng, s, kind) for s in ((m, k), (n, k), (n,), (m, n)))
    wide = [v.astype(np.float64) for v in (x, w, bias, residual)]
    wanted = wide[0] @ wide[1].T + wide[2] + wide[3]
    if activation:
        wanted = getattr(F, activation)(wanted)
    got = F.linear(*map(on_gpu, (x, w, bias)), activation=activation, residual=on_gpu(residual))
    assert error(got, wanted) < TOLERANCE[kind]


@pytest.mark.parametrize("layout", ["row-major", "channels_last"])
@pytest.mark.parametrize(
    "shape, weight, arguments",
    [
        ((16, 8, 32, 34), (24, 8, 3, 3), {"padding": 1}),  # large tiles of pixels
        ((1, 3, 9, 7), (5, 3, 3, 2), {"stride": 2, "padding": 1, "dilation": (1, 2)}),
        ((2, 24, 5, 6), (40, 12, 3, 3), {"groups": 2, "padding": 2, "stride": (1, 3)}),
        ((2, 16, 9, 9), (32, 1, 3, 3), {"groups": 16, "padding": 1}),  # depthwise
        ((1, 128, 3, 3), (640, 128, 3, 3), {"padding": 1}),  # large tiles of the gradient of weights
    ],
    ids=["pixels", "odd", "groups", "depthwise", "weights"],
)
def test_convolution(kind, rng, shape, weight, arguments, layout):
    torch = pytest.importorskip("torch")
    torch.set_num_threads(1)
    x, w, b = (numbers(rng, s, kind) for s in (shape, weight, weight[:1]))
    leaves = [torch.tensor(v.astype(np.float64), requires_grad=True) for v in (x, w, b)]
    wanted = torch.conv2d(*leaves, **arguments)
    grad = numbers(rng, tuple(wanted.shape), kind)
    wanted.backward(torch.tensor(grad.astype(np.float64)))
    tensors = [on_gpu(v) for v in (x, w, b)]
    if layout == "channels_last":
        tensors[0] = tensors[0].contiguous(fastnn.channels_last)
    for t in tensors:
        t.requires_grad = True
    got = F.conv2d(*tensors, **arguments)
    assert error(got, wanted.detach().numpy()) < TOLERANCE[kind]
    got.backward(on_gpu(grad))
    for name, t, leaf in zip(("x", "weight", "bias"), tensors, leaves, strict=True):
        assert error(t.grad, leaf.grad.numpy()) < 2 * TOLERANCE[kind], name


@pytest.mark.skipif(backends.is_available(), reason="a real GPU counts no conflicts")
def test_no_bank_conflicts_and_the_same_bits_in_every_schedule(kind, rng):
    emulation = cuda_builds.Emulation(cuda_builds.emulated_library())
    size = {"a": (65, 40), "b": (40, 72)}
    results = []
    for transposed in ("", "a", "b"):
        (_, a), (_, b) = (operand(rng, size[name], kind, name in transposed) for name in "ab")
        x = on_gpu(numbers(rng, (2, 8, 6, 7), kind))
        w = on_gpu(numbers(rng, (70, 8, 3, 3), kind))
        before = emulation.stats()
        for schedule in emulation.SCHEDULES:
            for copies in emulation.COPIES:
                emulation.configure(schedule, copies)
                results.append([F.matmul(a, b).cpu().numpy().tobytes(), F.conv2d(x, w).cpu().numpy().tobytes()])
                assert results[-1] == results[0], (transposed, schedule, copies)
        results.clear()
        after = emulation.stats()
        assert after["conflicts"] == before["conflicts"]
        assert (after["mma"] > before["mma"]) == (kind in ("bfloat16", "float16", "tf32"))


def test_precision():
    with pytest.raises(ValueError, match="'fast', 'exact' or 'tf32'"):
        fastnn.set_precision("double")


# Threads of a block and blocks that share a multiprocessor: what the kernels state.
OCCUPANCY = [
    ("Li128ELi128ELi64ELi32E", 256, 2),
    ("Li64ELi64ELi32ELi32E", 128, 4),
    ("SimtTileIfLi128E", 256, 2),
    ("SimtTileIfLi64E", 128, 4),
    ("SimtTileIdLi64E", 128, 3),
]
FILES = ["matmul", "conv2d", "conv2d_weight", "pooling"]


@pytest.mark.skipif(cuda_builds.nvcc() is None, reason="nvcc not found")
@pytest.mark.parametrize("architecture", cuda_builds.ARCHITECTURES)
@pytest.mark.parametrize("file", FILES)
def test_resources(file, architecture):
    compiled = cuda_builds.compiled(cuda_builds.CUDA / f"{file}.cu", architecture)
    assert compiled.kernels
    for kernel in compiled.kernels:
        assert kernel.spill_stores == kernel.spill_loads == 0, kernel
        for part, threads, blocks in OCCUPANCY:
            gathered_tf32 = "mma_kernelIf" in kernel.name and (file == "conv2d_weight" or "Lb0E" in kernel.name)
            if part in kernel.name and not (gathered_tf32 and "Li128E" in part):
                assert -(-kernel.registers // 8) * 8 * threads * blocks <= 65536, kernel
        code = compiled.machine_code(kernel.name)
        found = set(re.findall(r"[A-Z][A-Z0-9]*(?:\.\w+)*", code))
        if "mma_kernel" in kernel.name:
            half = "f16E" in kernel.name
            wanted = {"HMMA.16816.F32" if half else "HMMA.1688.F32.TF32", "LDGSTS.E.BYPASS", "STG.E.128"}
            if half or file == "conv2d" or "Lb1E" in kernel.name:
                wanted.add("LDSM.16")
        elif "simt_kernel" in kernel.name:
            wanted = {"DFMA" if "TileId" in kernel.name else "FFMA", "LDGSTS.E", "LDS.128", "STG.E.128"}
        else:
            continue
        missing = {w for w in wanted if not any(f == w or f.startswith(w + ".") for f in found)}
        assert not missing, (kernel.name, missing)
