"""The model behind `python -m fastnn.benchmarks --device cuda --predict`."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest
from triton_support import torch  # noqa: F401

# isort: split
from fastnn.benchmarks import gpu_cases, predict
from fastnn.kernels._compile import Report, variants

REPORT = Report("f", "k", "bfloat16", 90, 64, 0, 0, 4, {"HGMMA": 0, "HMMA": 0, "load16": 2})


def seconds(launch, **changes):
    return predict._launch(launch, replace(REPORT, **changes), "bfloat16", predict.CARD)["seconds"]


def test_every_launch_has_a_compiled_variant():
    known = {(file, v.name, dtype) for file, v in variants() for dtype in v.dtypes}
    for case in gpu_cases.CASES:
        assert {(launch.file, launch.variant, case.dtype) for launch in case.launches} <= known, str(case)


def test_every_kernel_file_is_predicted():
    assert {launch.file for case in gpu_cases.CASES for launch in case.launches} == {file for file, _ in variants()}


def test_no_prediction_passes_the_limit():
    big = predict.Launch("f", "k", 132 * 64 * 100, 1e9)
    assert seconds(big) >= 1e9 / predict.CARD.bandwidth / predict.SUSTAINED_MEMORY
    product = replace(big, bytes=0, flops=1e12)
    wgmma = {"HGMMA": 4, "HMMA": 0, "load16": 2}
    assert seconds(product, instructions=wgmma) >= 1e12 / predict.CARD.bfloat16 / predict.SUSTAINED_MMA


def test_what_makes_a_kernel_slower():
    memory = predict.Launch("f", "k", 132 * 64, 1e8)
    narrow = {"HGMMA": 0, "HMMA": 0, "load16": 1}
    assert seconds(memory, registers=255, warps=2, instructions=narrow) > seconds(memory)  # too few loads in flight
    assert seconds(replace(memory, blocks=1)) > 50 * seconds(memory)
    product = predict.Launch("f", "k", 132 * 8, 0, 1e11)
    rates = [seconds(product, instructions={"HGMMA": h, "HMMA": m, "load16": 2}) for h, m in ((4, 0), (0, 4), (0, 0))]
    assert rates == sorted(rates)
    one_block = dict(instructions={"HGMMA": 4, "HMMA": 0, "load16": 2}, shared=200 << 10)
    assert seconds(replace(product, blocks=133), **one_block) > 1.5 * seconds(replace(product, blocks=132), **one_block)
    assert seconds(replace(product, exponentials=1e10)) > seconds(product)


@pytest.mark.full
def test_command(tmp_path):
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    file = tmp_path / "out.json"
    command = [sys.executable, "-m", "fastnn.benchmarks", "--device", "cuda", "--predict"]
    run = subprocess.run(
        [*command, "--op", "dropout,rotary", "--json", str(file)], capture_output=True, text=True, env=environment
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith("PREDICTIONS") and "nothing here was measured" in run.stdout
    document = json.loads(file.read_text())
    assert document["predicted"] and [case["case"].split()[0] for case in document["cases"]] == ["dropout", "rotary"]
    assert all(0 < case["fraction"] < 1 for case in document["cases"])
    assert subprocess.run([*command, "--op", "sine"], capture_output=True, env=environment).returncode == 2
