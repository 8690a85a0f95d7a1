"""Bulk copies of tensors and wgmma of sm_90 against their documentation: emulated, and on a GPU that has them."""

from __future__ import annotations

import ctypes
import itertools

import cuda_builds
import ml_dtypes
import numpy as np
import pytest

pytestmark = pytest.mark.skipif(cuda_builds.host_compiler() is None, reason="no C++ compiler")

SOURCES = [cuda_builds.CUDA / "emulate" / "conformance_sm90.cu"]
TYPES = {"float32": 0, "bfloat16": 1, "float16": 2}


@pytest.fixture(scope="module", params=["plain", pytest.param("hooks", marks=pytest.mark.full), "cuda"])
def library(request):
    if request.param == "cuda":
        if cuda_builds.compute_capability() != (9, 0) or cuda_builds.nvcc() is None:
            pytest.skip("no GPU of compute capability 9.0, or no nvcc")
        sources = [*SOURCES, cuda_builds.CUDA / "runtime.cu"]
        return ctypes.CDLL(str(cuda_builds.cuda_library("conformance_sm90", sources, ["sm_90a"])))
    return ctypes.CDLL(str(cuda_builds.emulated("conformance_sm90", SOURCES, request.param)))


def pointer(array):
    return array.ctypes.data_as(ctypes.c_void_p)


def integers(values, kind=np.int32):
    return pointer(np.array(values, kind))


def numpy_type(name):
    return np.dtype(getattr(ml_dtypes, name, name))


def swizzle(rows):
    """(n, 128) bytes as they lie in shared memory: 16-byte chunk c of row r is at place c ^ (r % 8)."""
    chunks = rows.reshape(len(rows), 8, 16)
    return np.stack([chunks[r, np.arange(8) ^ (r % 8)] for r in range(len(rows))]).reshape(rows.shape)


def box_of(tensor, at, box, step):
    """The box, dimension 0 last as numpy has it; zero outside of the tensor."""
    result = np.zeros(box[::-1], tensor.dtype)
    for place in itertools.product(*(range(n) for n in box[::-1])):
        source = [a + p * s for a, p, s in zip(at[::-1], place, step[::-1], strict=True)]
        if all(0 <= x < n for x, n in zip(source, tensor.shape, strict=True)):
            result[place] = tensor[tuple(source)]
    return result


TMA = [
    # dtype, shape (dimension 0 last), coordinates, box and step (dimension 0 first), swizzled
    ("bfloat16", (9, 72), (0, 0), (64, 16), (1, 1), True),
    ("bfloat16", (9, 72), (64, 5), (64, 8), (1, 1), True),
    ("float16", (20, 64), (-3, -2), (64, 24), (1, 1), True),
    ("float32", (33, 36), (32, 8), (32, 32), (1, 1), True),
    ("float32", (5, 8), (4, 1), (8, 4), (1, 1), False),
    ("float16", (3, 5, 64), (0, 2, 1), (64, 4, 2), (1, 1, 1), True),
    ("bfloat16", (2, 9, 11, 64), (0, -1, -1, 0), (64, 4, 3, 2), (1, 1, 1, 1), True),  # the rows of a padded image
    ("bfloat16", (2, 9, 11, 64), (0, -1, 1, 1), (64, 5, 4, 1), (1, 2, 2, 1), True),  # with stride 2
    ("float32", (2, 4, 6, 16), (8, 5, 3, 1), (8, 2, 2, 2), (1, 1, 1, 1), False),
]


@pytest.mark.parametrize(("dtype", "shape", "at", "box", "step", "swizzled"), TMA)
def test_bulk_copy_of_a_tensor(library, rng, dtype, shape, at, box, step, swizzled):
    tensor = rng.integers(-100, 100, shape).astype(numpy_type(dtype))
    expected = box_of(tensor, at, box, step)
    to = np.zeros(expected.nbytes, np.uint8)
    arguments = (
        *(integers(shape[::-1], np.int64), integers(tensor.strides[::-1], np.int64), integers(box), integers(step)),
        *(int(swizzled), integers(at), pointer(tensor), tensor.nbytes, pointer(to), to.nbytes),
    )
    assert library.tma(TYPES[dtype], len(shape), *arguments) == 0
    image = expected.view(np.uint8).reshape(-1)
    np.testing.assert_array_equal(to, swizzle(image.reshape(-1, 128)).reshape(-1) if swizzled else image)


def k_major(matrix):
    """(m, 128 bytes of k): rows of m. Returns its image, and the bytes (8 rows, not used, K elements)."""
    return swizzle(np.ascontiguousarray(matrix).view(np.uint8)), (1024, 16, 32)


def m_major(matrix):
    """(m, 64) of 16 bits: for each 64 of m, 64 rows of k. K is 16 elements, two times 8 rows."""
    blocks = [np.ascontiguousarray(matrix[i : i + 64].T).view(np.uint8) for i in range(0, len(matrix), 64)]
    return np.concatenate([swizzle(b) for b in blocks]), (1024, 64 * 128, 2048)


@pytest.mark.parametrize(
    ("dtype", "a_layout", "b_layout"),
    [
        ("float32", k_major, k_major),
        *itertools.product(["bfloat16", "float16"], [k_major, m_major], [k_major, m_major]),
    ],
)
@pytest.mark.parametrize("n", [64, 128, 256])
def test_wgmma(library, rng, n, dtype, a_layout, b_layout):
    k = 128 // numpy_type(dtype).itemsize
    a, b = (rng.integers(-8, 9, (rows, k)).astype(numpy_type(dtype)) for rows in (64, n))
    c = rng.integers(-99, 100, (64, n)).astype(np.float32)
    (image_a, layout_a), (image_b, layout_b) = a_layout(a), b_layout(b)
    # "Accumulator D": for thread t and register i
    t, i = np.arange(128)[:, None], np.arange(n // 2)[None, :]
    row, column = t // 32 * 16 + t % 32 // 4 + i // 2 % 2 * 8, i // 4 * 8 + t % 4 * 2 + i % 2
    d = np.ascontiguousarray(c[row, column])
    majors = int(a_layout is m_major), int(b_layout is m_major)
    images = pointer(np.ascontiguousarray(image_a)), pointer(np.ascontiguousarray(image_b))
    assert library.wgmma(TYPES[dtype], n, *majors, integers(layout_a), integers(layout_b), *images, pointer(d)) == 0
    expected = a.astype(np.float32) @ b.astype(np.float32).T + c
    np.testing.assert_array_equal(d, expected[row, column])


@pytest.mark.full
@pytest.mark.skipif(cuda_builds.nvcc() is None, reason="nvcc not found")
def test_wrappers_compile_to_their_instructions():
    compiled = cuda_builds.compiled(SOURCES[0], "sm_90a")
    assert all(k.spill_stores == k.spill_loads == k.stack == 0 for k in compiled.kernels)
    for instruction in ("UTMALDG.2D", "UTMALDG.3D", "UTMALDG.4D", "SYNCS.ARRIVE", "SYNCS.PHASECHK"):
        assert instruction in compiled.machine_code("tma_kernel"), instruction
    code = compiled.machine_code("wgmma_kernel")
    for shape in ("64x64x16.F32", "64x128x16.F32.BF16", "64x256x16.F32", "64x64x8.F32.TF32", "64x256x8.F32.TF32"):
        assert f"HGMMA.{shape}" in code, shape
