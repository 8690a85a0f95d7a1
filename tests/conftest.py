"""Fixtures shared by all tests."""

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
    """The fixture `isa` takes every instruction set that this machine has, and "cuda" for the tests of a module that it
    names in ON_CUDA; True names all."""
    if "isa" in metafunc.fixturenames:
        on_cuda = getattr(metafunc.module, "ON_CUDA", ())
        params = list(_C.available_isas())
        if on_cuda is True or metafunc.function.__name__ in on_cuda:
            params.append(pytest.param("cuda", marks=pytest.mark.full))
        metafunc.parametrize("isa", params, indirect=True)


@pytest.fixture
def isa(request):
    """Runs the test on an instruction set, or with numpy arrays and new tensors on a GPU, from which results come back.

    The GPU is emulated where there is none.
    """
    if request.param == "cuda":
        request.getfixturevalue("gpu")
        _C.set_implicit_device("cuda")
        yield "cuda"
        _C.set_implicit_device("cpu")
        return
    before = _C.get_isa()
    _C.set_isa(request.param)
    yield request.param
    _C.set_isa(before)


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
