"""The tests of ops on an emulated GPU that checks every access, and under sanitizers; schedules change by launch."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
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


MODES = ("hooks", "sanitize")


def run(path, mode):
    environment = {**os.environ, "FASTNN_TEST_EMULATION": mode}
    if mode == "sanitize":
        environment.update(cuda_builds.sanitizer_environment())
    options = ("-q", "-x", "-p", "no:cacheprovider", "-m", "full", "-k", "cuda")
    command = [sys.executable, "-m", "pytest", *options, str(path)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=3600)


@pytest.fixture(scope="module")
def runs(request):
    """Runs of the tests that were selected, by (path, mode): one for each processor at a time."""
    wanted = [item.callspec.params for item in request.session.items if item.module is request.module]
    for mode in {each["mode"] for each in wanted}:
        cuda_builds.emulated_library(mode)  # once, not by several processes
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        started = {(each["path"], each["mode"]): pool.submit(run, each["path"], each["mode"]) for each in wanted}
        yield started
        for future in started.values():
            future.cancel()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_ops_on_a_checked_gpu(path, mode, runs):
    done = runs[path, mode].result()
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-5000:]
