"""The tests of ops on an emulated GPU that checks every access, and under sanitizers; schedules change by launch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import cuda_builds
import pytest
from fastnn import backends

pytestmark = [
    pytest.mark.full,
    pytest.mark.skipif(cuda_builds.host_compiler() is None, reason="no C++ compiler"),
    pytest.mark.skipif(backends.is_available(), reason="the tests of ops run on a real GPU here"),
]

FOLDER = Path(__file__).parent
FILES = [path for path in sorted(FOLDER.glob("test_*.py")) if "\nON_CUDA = " in path.read_text()]
FILES += [FOLDER / f"test_cuda_{name}.py" for name in ("graph", "wgmma")]


@pytest.mark.parametrize("mode", ["hooks", "sanitize"])
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_ops_on_a_checked_gpu(path, mode):
    environment = {**os.environ, "FASTNN_TEST_EMULATION": mode}
    if mode == "sanitize":
        environment.update(cuda_builds.sanitizer_environment())
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-x",
        "-p",
        "no:cacheprovider",
        "-m",
        "full",
        "-k",
        "cuda",
        str(path),
    ]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=3600)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-5000:]
