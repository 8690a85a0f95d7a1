"""softmax, log_softmax and sums over rows in Triton beside float64."""

import pytest
from triton_support import DTYPES, REDUCTION, close, gradients, pytestmark, randn, torch  # noqa: F401

# isort: split
from fastnn.kernels import softmax as kernels
from fastnn.kernels.reduction import sum_rows

SHAPES = [((3, 1), -1), ((5, 7), 1), ((130, 33), -1), ((2, 3, 1000), 2), ((2, 8200), -1)]
SHAPES += [((7, 5), 0), ((2, 100, 3), 1), ((2, 40, 70), 1), ((2, 3, 4, 5), -3)]


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("shape", "dim"), SHAPES, ids=str)
def test_softmax(shape, dim, dtype, log):
    function = torch.log_softmax if log else torch.softmax
    x = randn(*shape, dtype=dtype, scale=3.0)
    y = kernels.softmax(x, dim, log)
    close(y, function(x.cpu().double(), dim), REDUCTION[dtype])
    dy = randn(*shape, dtype=dtype, seed=1)
    # The reference starts from the rounded y, as the kernel does.
    v, g = y.cpu().double(), dy.cpu().double()
    expected = g - v.exp() * g.sum(dim, keepdim=True) if log else v * (g - (v * g).sum(dim, keepdim=True))
    close(kernels.softmax_backward(y, dy, dim, log), expected, 2 * REDUCTION[dtype])
    if dtype == torch.float32:
        close(kernels.softmax_backward(y, dy, dim, log), gradients(lambda x: function(x, dim), dy, x)[0], 2e-5)


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("dim", [0, 1])
def test_special_values(dim, log):
    inf = float("inf")
    x = torch.tensor(
        [[1.0, -inf, 2.0], [-inf, -inf, -inf], [inf, 0.0, 1.0], [float("nan"), 1.0, 2.0], [1e30, 0, -1e30]]
    )
    x = (x if dim else x.T.contiguous()).to(randn(1).device)
    function = torch.log_softmax if log else torch.softmax
    close(kernels.softmax(x, dim, log), function(x.cpu().double(), dim), 1e-5)


def test_layout_and_empty():
    x = randn(6, 8).T[::2]
    close(kernels.softmax(x), x.cpu().double().softmax(-1), 1e-5)
    assert kernels.softmax(randn(0, 3)).shape == (0, 3) and kernels.softmax(randn(3, 0)).shape == (3, 0)
    with pytest.raises(IndexError, match="softmax: dim is 2"):
        kernels.softmax(x, 2)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(1, 1), (31, 130), (257, 5), (700, 40), (2300, 3)], ids=str)
def test_sum_rows(shape, dtype):
    x = randn(*shape, dtype=dtype)
    close(sum_rows(x, torch.float32), x.cpu().double().sum(0), 1e-5)
    wide = randn(shape[0], shape[1] + 3, dtype=dtype)[:, 1:-2]
    close(sum_rows(wide, dtype), wide.cpu().double().sum(0), REDUCTION[dtype])


def test_sum_rows_of_none():
    assert sum_rows(randn(0, 4), torch.float32).tolist() == [0.0] * 4
    assert sum_rows(randn(4, 0), torch.float32).shape == (0,)
