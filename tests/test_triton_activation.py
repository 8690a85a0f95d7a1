"""Activations and gated products in Triton beside float64."""

import pytest
from triton_support import DTYPES, ELEMENTWISE, close, gradients, pytestmark, randn, torch  # noqa: F401

# isort: split
from fastnn.kernels import activation as kernels

F = torch.nn.functional
FUNCTIONS = {
    "relu": (F.relu, 0.0, 0.0),
    "relu6": (F.relu6, 0.0, 0.0),
    "leaky_relu": (lambda x: F.leaky_relu(x, 0.1), 0.1, 0.0),
    "elu": (lambda x: F.elu(x, 1.5), 1.5, 0.0),
    "gelu": (F.gelu, 0.0, 0.0),
    "gelu_tanh": (lambda x: F.gelu(x, approximate="tanh"), 0.0, 0.0),
    "silu": (F.silu, 0.0, 0.0),
    "mish": (F.mish, 0.0, 0.0),
    "sigmoid": (torch.sigmoid, 0.0, 0.0),
    "tanh": (torch.tanh, 0.0, 0.0),
    "hardswish": (F.hardswish, 0.0, 0.0),
    "hardsigmoid": (F.hardsigmoid, 0.0, 0.0),
    "hardtanh": (lambda x: F.hardtanh(x, -0.5, 2.0), -0.5, 2.0),
    "softplus": (lambda x: F.softplus(x, 2.0, 15.0), 2.0, 15.0),
    "softsign": (F.softsign, 0.0, 0.0),
    "selu": (F.selu, 0.0, 0.0),
    "celu": (lambda x: F.celu(x, 1.5), 1.5, 0.0),
    "logsigmoid": (F.logsigmoid, 0.0, 0.0),
    "hardshrink": (lambda x: F.hardshrink(x, 0.7), 0.7, 0.0),
    "softshrink": (lambda x: F.softshrink(x, 0.7), 0.7, 0.0),
    "threshold": (lambda x: F.threshold(x, 0.25, -2.0), 0.25, -2.0),
}


def test_all_names_are_tested():
    assert set(FUNCTIONS) == set(kernels.ACTIVATIONS)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_forward_and_backward(name, dtype):
    function, a, b = FUNCTIONS[name]
    x = randn(1501, dtype=dtype, scale=3.0)  # one full block of float32 and a part of one
    y = kernels.activation(x, name, a, b)
    assert y.dtype == dtype
    close(y, function(x.cpu().double()), ELEMENTWISE[dtype])
    dy = randn(1501, dtype=dtype, seed=1)
    saved = function(x.cpu().double()).to(x) if name in kernels.FROM_OUTPUT else x
    close(kernels.activation_backward(saved, dy, name, a, b), gradients(function, dy, x)[0], 2 * ELEMENTWISE[dtype])


@pytest.mark.parametrize("name", FUNCTIONS)
def test_special_values(name):
    function, a, b = FUNCTIONS[name]
    inf = float("inf")
    x = torch.tensor([0.0, -0.0, inf, -inf, float("nan"), 1e30, -1e30, 88.0, -88.0, 1e-4, -1e-4, 0.6, -0.6, 0.3, -0.3])
    y = kernels.activation(x.to(randn(1).device), name, a, b).cpu()
    expected = function(x.double())
    # 88: past it exp overflows float32, and exp(-88) is subnormal
    assert torch.allclose(y.double(), expected, rtol=2e-6, atol=1e-6, equal_nan=True), (y, expected)
    if name not in kernels.FROM_OUTPUT:
        finite = x[x.isfinite()].to(randn(1).device)
        dx = kernels.activation_backward(finite, torch.ones_like(finite), name, a, b)
        assert not dx.isnan().any()


@pytest.mark.parametrize("n", [0, 1, 7, 1023, 1024, 1025, 2049])
def test_sizes(n):
    x = randn(n)
    close(kernels.activation(x, "silu"), F.silu(x.cpu().double()), 3e-6)


def test_layouts():
    x = randn(2, 5, 3, 7).to(memory_format=torch.channels_last)
    y = kernels.activation(x, "gelu")
    assert y.stride() == x.stride()
    close(y, F.gelu(x.cpu().double()), 3e-6)
    dy = randn(2, 5, 3, 7, seed=1)  # row-major
    close(kernels.activation_backward(x, dy, "gelu"), gradients(F.gelu, dy, x)[0], 3e-6)
    close(kernels.activation_backward(x, dy[:1, :1, :1, :1].expand_as(x), "gelu"),
          gradients(F.gelu, dy[:1, :1, :1, :1].expand_as(x), x)[0], 3e-6)  # fmt: skip
    strided = randn(6, 10)[:, ::3]
    close(kernels.activation(strided, "relu"), F.relu(strided.cpu().double()), 1e-7)


@pytest.mark.parametrize("columns", [1, 33, 1024, 1100])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", ["silu", "gelu", "gelu_tanh"])
def test_gated(name, dtype, columns):
    function = FUNCTIONS[name][0]
    h = randn(2, 2, 2 * columns, dtype=dtype, scale=2.0)
    gate, up = h.chunk(2, -1)
    y = kernels.gated(gate, up, name)
    close(y, function(gate.cpu().double()) * up.cpu().double(), ELEMENTWISE[dtype])
    dy = randn(2, 2, columns, dtype=dtype, seed=1)
    expected = gradients(lambda g, u: function(g) * u, dy, gate, up)
    for out, reference in zip(kernels.gated_backward(gate, up, dy, name), expected, strict=True):
        close(out, reference, 2 * ELEMENTWISE[dtype])


def test_gated_strides():
    gate, up = randn(2, 3, 9)[..., ::2], randn(3, 5).expand(2, 3, 5)
    close(kernels.gated(gate, up, "silu"), F.silu(gate.cpu().double()) * up.cpu().double(), 3e-6)
    assert kernels.gated(randn(0, 4), randn(0, 4), "silu").shape == (0, 4)
    assert kernels.gated(randn(4, 0), randn(4, 0), "silu").shape == (4, 0)


def test_errors():
    x = randn(4)
    with pytest.raises(NotImplementedError, match="activation: activation is 'sine'"):
        kernels.activation(x, "sine")
    with pytest.raises(NotImplementedError, match="activation: x has dtype torch.float64"):
        kernels.activation(x.double(), "relu")
    with pytest.raises(ValueError, match="activation_backward: dy has shape"):
        kernels.activation_backward(x, x[:3], "relu")
    with pytest.raises(ValueError, match="gated: up has dtype"):
        kernels.gated(x, x.half(), "silu")
