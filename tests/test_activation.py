"""Activations and unary functions: error in ulps over the float32 range, gradients, limits, dtypes, layouts."""

import functools
import math

import fastnn
import fastnn.functional as F
import ml_dtypes
import numpy as np
import pytest
from fastnn import _C, reference

ON_CUDA = True
BF16 = np.dtype(ml_dtypes.bfloat16)
TOLERANCE = {np.dtype(np.float32): 1e-6, BF16: 1e-2, np.dtype(np.float16): 2e-3, np.dtype(np.float64): 1e-14}
SIZES = (0, 1, 7, 8, 9, 15, 16, 17, 31, 33)

# The truth of unary functions; activations have theirs in fastnn.reference.
UNARY = {
    "exp": np.exp,
    "expm1": np.expm1,
    "log": np.log,
    "log1p": np.log1p,
    "sqrt": np.sqrt,
    "abs": np.abs,
    "neg": np.negative,
}

# Function, arguments, largest error in ulps of float32 on any instruction set.
CASES = [
    ("relu", {}, 0),
    ("relu6", {}, 0),
    ("hardtanh", {}, 0),
    ("hardtanh", {"min_val": -0.5, "max_val": 2.5}, 0),
    ("leaky_relu", {}, 1),
    ("leaky_relu", {"negative_slope": -0.25}, 0.5),
    ("elu", {}, 1),
    ("elu", {"alpha": 2.5}, 2),
    ("gelu", {}, 9),  # near -13, where the density is subnormal; 4 elsewhere
    ("gelu", {"approximate": "tanh"}, 256),  # near -9, where exp(-83) amplifies the rounding of its argument
    ("silu", {}, 4),
    ("mish", {}, 5),
    ("sigmoid", {}, 2.5),
    ("tanh", {}, 2.5),
    ("hardswish", {}, 2),
    ("hardsigmoid", {}, 1),
    ("softplus", {}, 2),
    ("softplus", {"beta": 2.0, "threshold": 5.0}, 2),
    ("softsign", {}, 1.5),
    ("selu", {}, 2),
    ("celu", {}, 1),
    ("celu", {"alpha": 2.5}, 2),
    ("logsigmoid", {}, 2),
    ("hardshrink", {}, 0),
    ("hardshrink", {"lambd": 1.25}, 0),
    ("softshrink", {}, 0.5),
    ("softshrink", {"lambd": 1.25}, 0.5),
    ("threshold", {"threshold": 0.25, "value": -2.0}, 0),
    ("exp", {}, 1.1),
    ("expm1", {}, 1.3),
    ("log", {}, 1),
    ("log1p", {}, 1.5),
    ("sqrt", {}, 0.5),
    ("abs", {}, 0),
    ("neg", {}, 0),
]
IDS = [" ".join([name, *map(str, kwargs.values())]) for name, kwargs, _ in CASES]
SMALLEST_NORMAL = 2.0**-126


def truth(name, x, **kwargs):
    with np.errstate(all="ignore"):
        x = np.asarray(x, np.float64)
        return np.asarray(UNARY[name](x) if name in UNARY else getattr(reference, name)(x, **kwargs))


FLUSHED = set(
    "leaky_relu elu gelu silu mish sigmoid tanh hardswish hardsigmoid softplus softsign selu celu logsigmoid".split()
)


@functools.cache
def sweep():
    """Every 12289th float32 bit pattern (both signs, subnormal, infinite, NaN), and [-20, 20] densely."""
    everything = np.arange(0, 2**32, 12289, dtype=np.uint64).astype(np.uint32).view(np.float32)
    limits = np.array([0.0, -0.0, np.inf, -np.inf, np.nan], np.float32)
    return np.concatenate([everything, np.linspace(-20, 20, 100001, dtype=np.float32), limits])


@functools.cache
def sweep_truth(case):
    name, kwargs, _ = CASES[case]
    return truth(name, sweep(), **kwargs)


@pytest.mark.parametrize("case", range(len(CASES)), ids=IDS)
def test_accuracy(case, isa):
    name, kwargs, bound = CASES[case]
    x, expected = sweep(), sweep_truth(case)
    y = getattr(F, name)(x, **kwargs)
    assert y.dtype == np.float32
    with np.errstate(all="ignore"):
        rounded = expected.astype(np.float32)
        finite = np.isfinite(rounded)
        np.testing.assert_array_equal(y[~finite], rounded[~finite])
        magnitude = np.maximum(np.abs(expected[finite]), SMALLEST_NORMAL)
        ulp = 2.0 ** (np.floor(np.log2(magnitude)) - 23)
        error = np.abs(y[finite].astype(np.float64) - expected[finite])
        # x exp(x) cannot be better than x, up to 104 here, times the last bit of exp(x); where subnormal numbers are
        # flushed that is the smallest normal number.
        error[error <= (104 * SMALLEST_NORMAL if name in FLUSHED else 64 * 2.0**-149)] = 0
        at = int((error / ulp).argmax())
        assert error[at] <= bound * ulp[at], f"{error[at] / ulp[at]} ulp at {x[finite][at]!r}"
        assert np.isfinite(y[finite]).all()


def test_sign_of_zero(isa):
    x = np.array([0.0, -0.0] * 17, np.float32)
    for name in ("elu", "gelu", "silu", "mish", "tanh", "softsign", "leaky_relu", "expm1", "log1p", "sqrt"):
        np.testing.assert_array_equal(np.signbit(getattr(F, name)(x)), np.signbit(x), err_msg=name)


INF, NAN = math.inf, math.nan
LIMITS = [
    # Function, values of x, values of y, values of dy/dx. As torch in float64.
    ("relu", [NAN, INF, -INF, 0.0], [NAN, INF, 0, 0], [1, 1, 0, 0]),
    ("relu6", [NAN, INF, -INF, 0.0, 6.0], [NAN, 6, 0, 0, 6], [0, 0, 0, 0, 0]),
    ("hardtanh", [NAN, INF, -INF, -1.0, 1.0], [NAN, 1, -1, -1, 1], [0, 0, 0, 0, 0]),
    ("leaky_relu", [NAN, INF, -INF, 0.0], [NAN, INF, -INF, 0], [0.01, 1, 0.01, 0.01]),
    ("elu", [NAN, INF, -INF, 0.0], [NAN, INF, -1, 0], [NAN, 1, 0, 1]),
    ("gelu", [NAN, -INF, 1e20, -1e20, 0.0], [NAN, NAN, 1e20, 0, 0], [NAN, NAN, 1, 0, 0.5]),
    ("silu", [NAN, INF, -INF, 1e20, -1e20, 0.0], [NAN, INF, NAN, 1e20, 0, 0], [NAN, NAN, NAN, 1, 0, 0.5]),
    ("mish", [NAN, -INF, 1e20, -1e20, 0.0], [NAN, NAN, 1e20, 0, 0], [NAN, NAN, 1, 0, 0.6]),
    ("sigmoid", [NAN, INF, -INF, 0.0], [NAN, 1, 0, 0.5], [NAN, 0, 0, 0.25]),
    ("tanh", [NAN, INF, -INF, 0.0], [NAN, 1, -1, 0], [NAN, 0, 0, 1]),
    ("hardswish", [NAN, INF, 3.0, -3.0, -1e20], [NAN, INF, 3, 0, 0], [NAN, 1, 1, 0, 0]),
    ("hardsigmoid", [NAN, INF, -INF, 3.0, -3.0], [NAN, 1, 0, 1, 0], [0, 0, 0, 0, 0]),
    ("softplus", [NAN, INF, -INF, 1e20], [NAN, INF, 0, 1e20], [NAN, 1, 0, 1]),
    ("softsign", [NAN, 1e30, -1e30, 0.0], [NAN, 1, -1, 0], [NAN, 0, 0, 1]),
    (
        "selu",
        [NAN, INF, -INF, 0.0],
        [NAN, INF, -1.7580993408473766, 0],
        [NAN, 1.0507009873554805, 0, 1.7580993408473766],
    ),
    ("celu", [NAN, INF, -INF, 0.0], [NAN, INF, -1, 0], [NAN, 1, 0, 1]),
    ("logsigmoid", [NAN, INF, -INF, 1e20, -1e20], [NAN, 0, -INF, 0, -1e20], [NAN, 0, 1, 0, 1]),
    ("hardshrink", [NAN, INF, -INF, 0.5, -0.5], [NAN, INF, -INF, 0, 0], [0, 1, 1, 0, 0]),
    ("softshrink", [NAN, INF, -INF, 0.5, -0.5], [NAN, INF, -INF, 0, 0], [0, 1, 1, 0, 0]),
    ("exp", [NAN, INF, -INF], [NAN, INF, 0], [NAN, INF, 0]),
    ("log", [NAN, INF, 0.0, -1.0], [NAN, INF, -INF, NAN], [NAN, 0, INF, -1]),
    ("sqrt", [NAN, INF, 0.0, -1.0], [NAN, INF, 0, NAN], [NAN, 0, INF, NAN]),
    ("abs", [NAN, INF, -INF, -0.0], [NAN, INF, INF, 0], [0, 1, -1, 0]),
]


@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("name, x, y, slope", LIMITS, ids=[row[0] for row in LIMITS])
def test_limits(name, x, y, slope, dtype, isa):
    t = fastnn.tensor(np.array(x * 9, dtype), requires_grad=True)  # also in full vectors
    out = getattr(F, name)(t)
    out.backward(fastnn.tensor(np.ones(len(x) * 9, dtype)))
    np.testing.assert_allclose(out.numpy(), np.array(y * 9, dtype), rtol=1e-6, atol=1e-35)
    np.testing.assert_allclose(t.grad.numpy(), np.array(slope * 9, dtype), rtol=1e-6, atol=1e-18)


def torch_function(torch, name, kwargs):
    owner = torch if name in UNARY or name in ("sigmoid", "tanh") else torch.nn.functional
    return lambda x: getattr(owner, name)(x, **kwargs)


def positive_only(name):
    return name in ("log", "log1p", "sqrt")


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("case", range(len(CASES)), ids=IDS)
def test_forward_and_backward(case, dtype, isa, rng):
    torch = pytest.importorskip("torch")
    name, kwargs, _ = CASES[case]
    for n in SIZES:
        x = (rng.standard_normal(n) * 3).astype(dtype)
        x = np.abs(x) + x.dtype.type(0.125) if positive_only(name) else x
        g = rng.standard_normal(n).astype(dtype)
        t = fastnn.tensor(x, requires_grad=True)
        y = getattr(F, name)(t, **kwargs)
        y.backward(fastnn.tensor(g))
        assert y.dtype == dtype and y.shape == (n,) and t.grad.dtype == dtype
        exact = torch.tensor(x.astype(np.float64), requires_grad=True)
        torch_function(torch, name, kwargs)(exact).backward(torch.tensor(g.astype(np.float64)))
        tolerance = TOLERANCE[dtype]
        np.testing.assert_allclose(
            y.numpy().astype(np.float64), truth(name, x, **kwargs), rtol=tolerance, atol=tolerance * 1e-2
        )
        expected = exact.grad.numpy()
        if name == "hardsigmoid":
            tolerance = max(tolerance, 1e-8)  # torch's float64 multiplies by 1/6 of float32
        scale = np.maximum(np.abs(expected), np.abs(g.astype(np.float64)))
        assert (np.abs(t.grad.numpy().astype(np.float64) - expected) <= 2 * tolerance * scale).all()


@pytest.mark.parametrize("case", range(len(CASES)), ids=IDS)
def test_numerical_gradient(case, rng):
    name, kwargs, _ = CASES[case]
    x = rng.uniform(0.2, 2.4, 40) if positive_only(name) else rng.uniform(-5, 5, 40)
    for kink in (-3, -1.25, -1, -0.5, 0, 0.25, 0.5, 1, 1.25, 2.5, 3, 6):
        x[np.abs(x - kink) < 1e-2] += 0.03
    g = rng.standard_normal(40)
    t = fastnn.tensor(x, requires_grad=True)
    getattr(F, name)(t, **kwargs).backward(fastnn.tensor(g))
    expected = reference.numerical_gradient(lambda v: getattr(F, name)(v, **kwargs), [x], grad_output=g)
    np.testing.assert_allclose(t.grad.numpy(), expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", ["relu", "gelu", "sigmoid"])
def test_layouts(name, isa, rng):
    f = getattr(F, name)
    base = rng.standard_normal((2, 6, 5, 7)).astype(np.float32)
    channels_last = np.ascontiguousarray(base.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    y = f(channels_last)
    assert y.strides == channels_last.strides
    np.testing.assert_array_equal(y, f(base))
    views = [
        base[:, ::2, 1:, ::-1],
        np.broadcast_to(base[:1, :, :1], base.shape),
        base[0, 0, 0, 0:1].reshape(()),
        base.T,
    ]
    for view in views:
        np.testing.assert_array_equal(f(view), f(np.ascontiguousarray(view)))
    # Gradients of another layout, and of stride 0.
    for g in (channels_last, np.broadcast_to(np.float32(2.0), base.shape), base[::-1, :, ::-1]):
        a, b = fastnn.tensor(base, requires_grad=True), fastnn.tensor(base, requires_grad=True)
        f(a).backward(fastnn.from_numpy(g))
        f(b).backward(fastnn.tensor(np.ascontiguousarray(g)))
        np.testing.assert_array_equal(a.grad.numpy(), b.grad.numpy())


@pytest.mark.parametrize("shape", [(0,), (3, 0, 2), ()])
def test_empty_and_scalar(shape, isa):
    x = fastnn.tensor(np.ones(shape, np.float32), requires_grad=True)
    y = F.silu(x)
    y.backward(fastnn.tensor(np.ones(shape, np.float32)))
    assert y.shape == shape and x.grad.shape == shape


def test_same_bits_for_any_number_of_threads(isa, rng):
    x = rng.standard_normal(100_003).astype(np.float32)
    results = []
    for threads in (1, 2, 3, 8):
        _C.set_num_threads(threads)
        t = fastnn.tensor(x, requires_grad=True)
        y = F.gelu(t)
        y.backward(fastnn.tensor(x))
        results.append((y.numpy(), t.grad.numpy()))
    for y, grad in results[1:]:
        np.testing.assert_array_equal(y, results[0][0])
        np.testing.assert_array_equal(grad, results[0][1])


INPLACE = ["relu", "relu6", "hardtanh", "leaky_relu", "elu", "silu", "mish", "hardswish", "hardsigmoid"]


@pytest.mark.parametrize("name", INPLACE)
def test_inplace(name, rng):
    f = getattr(F, name)
    x = rng.standard_normal((3, 5)).astype(np.float32)
    expected = f(x)
    array = x.copy()
    assert f(array, inplace=True) is array
    np.testing.assert_array_equal(array, expected)
    t = fastnn.tensor(x)
    version = t._version
    assert f(t, inplace=True) is t and t._version > version
    np.testing.assert_array_equal(t.numpy(), expected)
    strided = x.copy()[:, ::2]
    f(strided, inplace=True)
    np.testing.assert_array_equal(strided, expected[:, ::2])


def test_inplace_is_out_of_place_while_recording(rng):
    x = rng.standard_normal((4, 4)).astype(np.float32)
    t = fastnn.tensor(x, requires_grad=True)
    y = F.relu(F.sigmoid(t), inplace=True)
    np.testing.assert_array_equal(t.numpy(), x)
    y.backward(fastnn.tensor(np.ones_like(x)))
    s = reference.sigmoid(x)
    np.testing.assert_allclose(t.grad.numpy(), s * (1 - s), rtol=1e-5)


def test_inplace_change_of_a_saved_tensor_is_an_error():
    t = fastnn.tensor(np.ones(4, np.float32), requires_grad=True)
    y = F.sigmoid(t)
    F.relu(y.detach(), inplace=True)
    with pytest.raises(RuntimeError, match="sigmoid"):
        y.backward(fastnn.tensor(np.ones(4, np.float32)))


def test_errors():
    x = np.ones(3, np.float32)
    for dtype in (np.int64, np.int32, np.uint8, bool):
        with pytest.raises(NotImplementedError, match="relu: input has dtype"):
            F.relu(x.astype(dtype))
    with pytest.raises(ValueError, match="hardtanh: min_val"):
        F.hardtanh(x, 2.0, 1.0)
    with pytest.raises(ValueError, match="gelu: approximate"):
        F.gelu(x, "erf")
    with pytest.raises(TypeError, match="elu: alpha"):
        F.elu(x, "much")
    with pytest.raises(TypeError, match="softplus: beta"):
        F.softplus(x, None)
    read_only = x.copy()
    read_only.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        F.relu(read_only, inplace=True)
    with pytest.raises(ValueError, match="read-only"):
        F.relu(fastnn.from_numpy(read_only), inplace=True)
    t = fastnn.tensor(x)
    with pytest.raises(ValueError, match="relu: gradient has shape"):
        _C.activation_backward("relu", t, fastnn.tensor(np.ones(4, np.float32)), 0.0, 0.0)
    with pytest.raises(ValueError, match="relu: gradient has shape"):
        _C.activation_backward("relu", t, fastnn.tensor(np.ones(3)), 0.0, 0.0)
    with pytest.raises(ValueError, match="rely"):
        _C.activation("rely", t, 0.0, 0.0)
