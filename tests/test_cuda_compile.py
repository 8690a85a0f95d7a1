"""Every .cu file compiles for every architecture without spilling registers; those bound by memory move 16 bytes."""

from __future__ import annotations

import os
import re
from concurrent.futures import ThreadPoolExecutor

import cuda_builds
import pytest

pytestmark = [pytest.mark.full, pytest.mark.skipif(cuda_builds.nvcc() is None, reason="no nvcc")]

# Overlapping windows, and tiles of rows of any alignment: single elements, neighbours by neighbouring threads.
SINGLE_ELEMENTS = {"pooling", "attention"}
NO_KERNELS = {"library", "runtime"}
FILES = [path for path in sorted(cuda_builds.CUDA.glob("*.cu")) if path.stem not in NO_KERNELS]


@pytest.fixture(scope="module")
def reports(request):
    """What was compiled of the tests that were selected, by (path, architecture): on every processor."""
    wanted = [item.callspec.params for item in request.session.items if item.module is request.module]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        yield {
            (each["path"], each["architecture"]): pool.submit(cuda_builds.compiled, each["path"], each["architecture"])
            for each in wanted
        }


@pytest.mark.parametrize("architecture", cuda_builds.ARCHITECTURES)
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_no_spills(path, architecture, reports):
    if path.stem.endswith("_sm90") and architecture != "sm_90a":
        pytest.skip("instructions of sm_90a")
    compiled = reports[path, architecture].result()
    assert compiled.kernels
    assert not [k.name for k in compiled.kernels if k.spill_stores or k.spill_loads]
    if path.stem not in SINGLE_ELEMENTS:
        assert re.search(r"LDG(STS)?\.E(\.BYPASS)?\.128", compiled.machine_code(""))
