"""Fixtures shared by all tests."""

import contextlib
import os
from pathlib import Path

import cuda_builds
import numpy as np
import pytest
from fastnn import _C, backends

# Without a GPU Triton kernels run in triton's interpreter; it looks at this when it is first imported.
if not Path("/dev/nvidiactl").exists():
    os.environ.setdefault("TRITON_INTERPRET", "1")


def pytest_generate_tests(metafunc):
    """The fixture `isa` takes every instruction set that this machine has. Tests that their module names in ON_CUDA, or
    all where that is True, run on a GPU too, but for those named in NOT_ON_CUDA."""
    module, name, cuda = metafunc.module, metafunc.function.__name__, pytest.param("cuda", marks=pytest.mark.full)
    named = getattr(module, "ON_CUDA", ())
    on_cuda = (named is True or name in named) and name not in getattr(module, "NOT_ON_CUDA", ())
    if "isa" in metafunc.fixturenames:
        metafunc.parametrize("isa", [*_C.available_isas(), *([cuda] if on_cuda else [])], indirect=True)
    elif on_cuda:
        metafunc.fixturenames.append("device")
        metafunc.parametrize("device", ["cpu", cuda], indirect=True)


@pytest.fixture
def isa(request):
    """Runs the test on an instruction set, or, if it is "cuda", on a GPU."""
    if request.param == "cuda":
        with implicit_device(request):
            yield "cuda"
        return
    before = _C.get_isa()
    _C.set_isa(request.param)
    yield request.param
    _C.set_isa(before)


@pytest.fixture
def device(request):
    """Runs the test on "cpu" or "cuda"."""
    with implicit_device(request) if request.param == "cuda" else contextlib.nullcontext():
        yield request.param


@contextlib.contextmanager
def implicit_device(request):
    """numpy arrays and new tensors go to a GPU, emulated where there is none, and come back from it as numpy arrays."""
    request.getfixturevalue("gpu")
    _C.set_implicit_device("cuda")
    try:
        yield
    finally:
        _C.set_implicit_device("cpu")


@pytest.fixture(scope="session")
def gpu():
    """A GPU that can be used: a real one, or the emulated one.

    FASTNN_TEST_EMULATION chooses how it is emulated: a mode of cuda_builds.py.
    """
    if not backends.is_available():
        if cuda_builds.host_compiler() is None:
            pytest.skip("no GPU, and no C++ compiler to emulate one")
        library = cuda_builds.emulated_library(os.environ.get("FASTNN_TEST_EMULATION", "plain"))
        _C.load_cuda(str(library))
        cuda_builds.Emulation(library).configure("rotate")


@pytest.fixture
def rng():
    return np.random.default_rng(1234)


@pytest.fixture(autouse=True)
def _threads():
    """A test that changes the number of threads does not change it for the next one."""
    before = _C.get_num_threads()
    yield
    _C.set_num_threads(before)


@pytest.fixture(scope="module")
def one_torch_thread():
    """On a busy machine every barrier of torch's threads takes milliseconds."""
    torch = pytest.importorskip("torch")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
