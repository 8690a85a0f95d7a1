"""Every Triton kernel compiles for sm_80 and sm_90 without a GPU, within the resources that its file states."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest
from triton_support import torch  # noqa: F401

# isort: split
from fastnn.kernels._compile import Report, Variant, faults, variants

VARIANTS = {(file, v.name, dtype): v for file, v in variants() for dtype in v.dtypes}
FILES = sorted({file for file, *_ in VARIANTS})


def test_names_are_unique():
    assert len(VARIANTS) == sum(len(v.dtypes) for _, v in variants())


@pytest.fixture(scope="module")
def reports():
    """(file, variant, dtype, capability) -> report. Two processes of their own, which interpret nothing."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    workers = []
    for files in (FILES[::2], FILES[1::2]):
        command = [sys.executable, "-m", "fastnn.kernels._compile", *(f"--file={file}" for file in files)]
        workers.append(subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True))
    found = {}
    for worker in workers:
        output, _ = worker.communicate()
        for line in output.splitlines():
            entry = json.loads(line)
            found[entry["file"], entry["variant"], entry["dtype"], entry["capability"]] = entry
        assert worker.returncode in (0, 1), "the compiler stopped before the last kernel"
    return found


@pytest.mark.full
@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize(("file", "name", "dtype"), VARIANTS, ids=str)
def test_resources(reports, file, name, dtype, capability):
    entry = reports[file, name, dtype, capability]
    assert not entry["faults"], f"{'; '.join(entry['faults'])} in {entry}"


def test_faults_are_named():
    variant = Variant(None, {}, {}, registers=64, shared=1024, dots="wgmma", wide=(2, 1))
    counts = dict(HGMMA=4, HMMA=0, load16=2, load=2, store16=1, store=1, local=0)
    fine = Report("f", "k", "bfloat16", 90, 64, 0, 1024, 4, counts)
    assert faults(variant, fine) == []
    assert faults(variant, replace(fine, spills=8)) == ["spills 8 bytes (0 local accesses)"]
    assert faults(variant, replace(fine, registers=65)) == ["65 registers; target 64"]
    assert faults(variant, replace(fine, shared=1025)) == ["1025 bytes of shared memory; target 1024"]
    assert faults(variant, replace(fine, capability=80)) == ["no HMMA"]
    counts = {**fine.instructions, "HGMMA": 0, "HMMA": 4, "load16": 1}
    assert faults(variant, replace(fine, instructions=counts)) == ["no HGMMA", "1 of 2 loads are of 16 bytes; target 2"]


def test_occupancy():
    fine = Report("f", "k", "bfloat16", 90, 128, 0, 0, 8)
    assert fine.blocks_per_multiprocessor == 2  # 2 * 256 threads * 128 registers
    assert replace(fine, shared=100 << 10).blocks_per_multiprocessor == 2
    assert replace(fine, shared=120 << 10).blocks_per_multiprocessor == 1
    assert replace(fine, registers=32, warps=4).blocks_per_multiprocessor == 16
