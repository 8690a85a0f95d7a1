"""Matrix products in Triton beside float64."""

import pytest
from triton_support import DTYPES, REDUCTION, close, gradients, pytestmark, randn, torch  # noqa: F401

# isort: split
from fastnn.kernels import matmul as kernels
from fastnn.kernels._functors import EPILOGUES
from fastnn.kernels.matmul import MatmulConfig

SMALL = MatmulConfig(16, 32, 16, 4, 2, group=2)


def product(a, b):
    return a.cpu().double() @ b.cpu().double()


@pytest.mark.parametrize("persistent", [False, True])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(1, 1, 1), (33, 65, 17), (16, 32, 16), (5, 70, 48), (100, 3, 31)], ids=str)
def test_shapes(shape, dtype, persistent):
    m, n, k = shape
    a, b = randn(m, k, dtype=dtype), randn(k, n, dtype=dtype, seed=1)
    close(kernels.matmul(a, b, persistent=persistent, config=SMALL), product(a, b), REDUCTION[dtype])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(150, 40, 100), (64, 300, 128)], ids=str)
def test_configs_of_the_tables(shape, dtype):
    m, n, k = shape
    a, b = randn(m, k, dtype=dtype), randn(k, n, dtype=dtype, seed=1)
    close(kernels.matmul(a, b), product(a, b), REDUCTION[dtype])
    close(kernels.matmul(a, b, precision="tf32"), product(a, b), max(2e-3, REDUCTION[dtype]))


@pytest.mark.parametrize("table", [kernels.CONFIGS, kernels.CONFIGS_FLOAT32, kernels.CONFIGS_IEEE])
def test_every_config(table):
    a, b = randn(70, 90), randn(90, 130, seed=1)
    for config in table:
        close(kernels.matmul(a, b, config=config), product(a, b), 1e-5)


@pytest.mark.parametrize("persistent", [False, True])
@pytest.mark.parametrize("name", [None, *EPILOGUES])
def test_epilogues(name, persistent):
    a, b, bias = randn(20, 18), randn(18, 40, seed=1), randn(40, seed=2)
    residual = randn(40, 20, seed=3).T
    function = {
        **{"relu6": torch.nn.functional.relu6, "hardswish": torch.nn.functional.hardswish, None: lambda x: x},
        **{"gelu_tanh": lambda x: torch.nn.functional.gelu(x, approximate="tanh"), "sigmoid": torch.sigmoid},
        **{"tanh": torch.tanh},
    }.get(name) or getattr(torch.nn.functional, name)
    z = product(a, b) + bias.cpu().double() + residual.cpu().double()
    out = kernels.matmul(a, b, bias, name, residual, persistent=persistent, config=SMALL)
    close(out, function(z), 1e-5)
    if name is not None:
        close(kernels.matmul(a, b, activation=name, config=SMALL), function(product(a, b)), 1e-5)


def test_strides_and_batches():
    a, b = randn(3, 20, 34)[:, ::2, 1:], randn(3, 7, 33, seed=1).transpose(1, 2)
    close(kernels.matmul(a, b, config=SMALL), product(a, b), 1e-5)
    a = randn(20, 33).expand(3, 20, 33)
    close(kernels.matmul(a, b, config=SMALL), product(a, b), 1e-5)
    wide = randn(20, 1).expand(20, 33)
    close(kernels.matmul(wide, b[0], config=SMALL), product(wide, b[0]), 1e-5)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_split_sums(dtype):
    a, b = randn(20, 5003, dtype=dtype), randn(5003, 30, dtype=dtype, seed=1)
    config = MatmulConfig(32, 32, 128, 4, 2)
    c = kernels.matmul(a, b, config=config)
    close(c, product(a, b), 2 * REDUCTION[dtype])
    assert torch.equal(c, kernels.matmul(a, b, config=config))
    close(kernels.matmul(a, b, bias=randn(30, dtype=dtype) * 0, config=config), product(a, b), 2 * REDUCTION[dtype])


def test_empty():
    assert kernels.matmul(randn(0, 3), randn(3, 4)).shape == (0, 4)
    assert kernels.matmul(randn(2, 0), randn(0, 4)).tolist() == [[0.0] * 4] * 2
    bias = randn(4)
    assert torch.equal(kernels.matmul(randn(2, 0), randn(0, 4), bias), bias.expand(2, 4))
    assert kernels.linear(randn(2, 0, 3), randn(5, 3)).shape == (2, 0, 5)


def test_infinity_and_nan_stay_in_their_row():
    a, b = randn(20, 18), randn(18, 40, seed=1).abs()
    a[3, 2], a[7, 5] = float("inf"), float("nan")
    c = kernels.matmul(a, b, config=SMALL)
    assert c[3].isinf().all() and c[7].isnan().all()
    assert c[[i for i in range(20) if i not in (3, 7)]].isfinite().all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_linear(dtype):
    x, w = randn(3, 5, 24, dtype=dtype), randn(37, 24, dtype=dtype, seed=1)
    bias, residual = randn(37, dtype=dtype, seed=2), randn(3, 5, 37, dtype=dtype, seed=3)
    y = kernels.linear(x, w, bias, None, residual)
    close(y, x.cpu().double() @ w.cpu().double().T + bias.cpu().double() + residual.cpu().double(), REDUCTION[dtype])
    dy = randn(3, 5, 37, dtype=dtype, seed=4)
    expected = gradients(torch.nn.functional.linear, dy, x, w, bias)
    for out, reference in zip(kernels.linear_backward(dy, x, w), expected, strict=True):
        close(out, reference, 2 * REDUCTION[dtype])


def test_errors():
    with pytest.raises(ValueError, match=r"matmul: a has shape \(2, 3\) and b \(2, 3\)"):
        kernels.matmul(randn(2, 3), randn(2, 3))
    with pytest.raises(NotImplementedError, match="matmul: activation is 'elu'"):
        kernels.matmul(randn(2, 3), randn(3, 2), activation="elu")
    with pytest.raises(ValueError, match="matmul: bias has shape"):
        kernels.matmul(randn(2, 3), randn(3, 2), bias=randn(3))
    with pytest.raises(ValueError, match="linear: x has shape"):
        kernels.linear(randn(2, 3), randn(3, 2))
    with pytest.raises(ValueError, match="precision is 'fast'"):
        kernels.matmul(randn(2, 3), randn(3, 2), precision="fast")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_result_in_float32(dtype):
    a, b, c = randn(20, 18, dtype=dtype), randn(18, 40, dtype=dtype, seed=1), randn(20, 40, seed=2)
    out = kernels.matmul(a, b, residual=c, out_dtype=torch.float32, config=SMALL)
    assert out.dtype == torch.float32
    close(out, product(a, b) + c.cpu().double(), 1e-5)
    with pytest.raises(ValueError, match="matmul: residual has dtype"):
        kernels.matmul(a, b, residual=c.to(torch.bfloat16), config=SMALL)
