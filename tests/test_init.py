"""Initial values: distributions, fans and gains against torch.nn.init."""

import math

import fastnn
import numpy as np
import pytest
from fastnn import init

torch = pytest.importorskip("torch")


@pytest.fixture(autouse=True)
def seeds():
    fastnn.manual_seed(1)
    torch.manual_seed(1)


SHAPE = (64, 32, 5, 5)


def fresh(shape=SHAPE, dtype=np.float32):
    return fastnn.Parameter(np.full(shape, np.nan, dtype))


def drawn(name, *args, shape=SHAPE, dtype=np.float32, **options):
    p = fresh(shape, dtype)
    assert getattr(init, name)(p, *args, **options) is p
    assert p.requires_grad and p.is_leaf and p._version == 1
    return p.detach().numpy()


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16", "float16"])
@pytest.mark.parametrize(
    "name, args",
    [
        ("uniform_", (-2.0, 3.0)),
        ("normal_", (1.0, 2.0)),
        ("trunc_normal_", (0.0, 1.0, -0.5, 1.5)),
        ("xavier_uniform_", (2.0,)),
        ("xavier_normal_", ()),
        ("kaiming_uniform_", (0.5, "fan_out")),
        ("kaiming_normal_", (0, "fan_in", "relu")),
    ],
)
def test_distributions(name, args, dtype):
    x = drawn(name, *args, dtype=dtype).astype(np.float64)
    y = getattr(torch.nn.init, name)(torch.empty(SHAPE), *args).double().numpy()
    quantiles = np.linspace(0, 1, 21)[1:-1]
    tolerance = 0.05 * y.std()
    np.testing.assert_allclose(np.quantile(x, quantiles), np.quantile(y, quantiles), atol=tolerance)
    if "uniform" in name or "trunc" in name:
        np.testing.assert_allclose([x.min(), x.max()], [y.min(), y.max()], atol=tolerance)
    assert abs(np.corrcoef(x.ravel()[1:], x.ravel()[:-1])[0, 1]) < 0.02


@pytest.mark.parametrize("layer", ["Linear", "Conv2d"])
def test_layers_begin_as_in_torch(layer):
    args = (100, 400) if layer == "Linear" else (16, 64, 5)
    ours, theirs = getattr(fastnn, layer)(*args), getattr(torch.nn, layer)(*args)
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        x, y = p.detach().numpy(), q.detach().numpy()
        bound = 1 / math.sqrt(100 if layer == "Linear" else 400)
        assert abs(x).max() <= bound * (1 + 1e-6) and abs(x).max() > 0.9 * bound
        np.testing.assert_allclose(x.std(), y.std(), rtol=0.25 if x.ndim == 1 else 0.02)
    assert not fastnn.Linear(0, 3).bias.detach().numpy().any()


def test_seed():
    def draw():
        return [fastnn.Linear(3, 4).weight.detach().numpy().tobytes(), drawn("normal_").tobytes()]

    fastnn.manual_seed(3)
    first = draw()
    assert draw() != first
    fastnn.manual_seed(3)
    assert draw() == first
    fastnn.manual_seed(4)
    assert draw() != first
    np.testing.assert_array_equal(
        drawn("uniform_", generator=np.random.default_rng(5)), drawn("uniform_", generator=np.random.default_rng(5))
    )


def test_constants():
    assert (drawn("constant_", 3.5) == 3.5).all()
    assert (drawn("ones_") == 1).all() and not drawn("zeros_").any()
    np.testing.assert_array_equal(drawn("eye_", shape=(3, 5)), np.eye(3, 5))
    assert drawn("uniform_", shape=()).shape == () and drawn("normal_", shape=(0, 3)).size == 0


@pytest.mark.parametrize("shape", [(5, 12), (12, 5), (6, 2, 3), (4, 4)])
def test_orthogonal(shape):
    w = drawn("orthogonal_", 2.0, shape=shape, dtype=np.float64).reshape(shape[0], -1)
    square = w @ w.T if w.shape[0] <= w.shape[1] else w.T @ w
    np.testing.assert_allclose(square, 4 * np.eye(len(square)), atol=1e-12)


@pytest.mark.parametrize(
    "name", ["linear", "conv2d", "conv_transpose1d", "sigmoid", "tanh", "relu", "leaky_relu", "selu"]
)
def test_gain(name):
    assert init.calculate_gain(name) == torch.nn.init.calculate_gain(name)
    if name == "leaky_relu":
        assert init.calculate_gain(name, 0.3) == torch.nn.init.calculate_gain(name, 0.3)


@pytest.mark.parametrize("shape", [(3, 4), (6, 5, 3, 2), (2, 0)])
def test_fans(shape):
    assert init._calculate_fan_in_and_fan_out(fresh(shape)) == torch.nn.init._calculate_fan_in_and_fan_out(
        torch.empty(shape)
    )


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: init.kaiming_uniform_(fresh((3,))), "two or more dimensions"),
        (lambda: init.kaiming_uniform_(fresh(), mode="x"), "mode is 'x'"),
        (lambda: init.kaiming_uniform_(fresh(), nonlinearity="x"), "nonlinearity is 'x'"),
        (lambda: init.calculate_gain("leaky_relu", True), "param is True"),
        (lambda: init.trunc_normal_(fresh(), 0, 1, 8, 9), "trunc_normal_"),
        (lambda: init.trunc_normal_(fresh(), 0, 1, 2, 1), "trunc_normal_"),
        (lambda: init.eye_(fresh()), "two dimensions"),
        (lambda: init.orthogonal_(fresh((3,))), "two or more dimensions"),
    ],
)
def test_errors(call, words):
    with pytest.raises(ValueError, match=words):
        call()
