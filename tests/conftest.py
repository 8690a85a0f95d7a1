"""Fixtures shared by all tests."""

import numpy as np
import pytest
from fastnn import _C


@pytest.fixture(params=_C.available_isas())
def isa(request):
    """Runs the test on every instruction set that this machine has."""
    before = _C.get_isa()
    _C.set_isa(request.param)
    yield request.param
    _C.set_isa(before)


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
