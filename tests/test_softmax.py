"""softmax and log_softmax: values, gradients, every axis, layouts, limits, dtypes."""

import warnings

import fastnn
import fastnn.functional as F
import ml_dtypes
import numpy as np
import pytest
from fastnn import _C, reference

ON_CUDA = True
BF16 = np.dtype(ml_dtypes.bfloat16)
TOLERANCE = {np.dtype(np.float32): 2e-6, BF16: 1e-2, np.dtype(np.float16): 2e-3, np.dtype(np.float64): 1e-13}
OPS = ["softmax", "log_softmax"]
# Rows and columns around the widths of vectors, and more columns than one tile has.
SHAPES = [(3, n) for n in (1, 2, 7, 8, 9, 10, 15, 16, 17, 31, 33, 130)] + [(2, 5, 129), (3, 4, 2, 5), (2, 3, 17, 19)]


def close(actual, expected, tolerance):
    np.testing.assert_allclose(np.asarray(actual).astype(np.float64), expected, rtol=tolerance, atol=tolerance)


def gradient(op, x, g, dim):
    """In float64, from the definition."""
    x, g = x.astype(np.float64), g.astype(np.float64)
    p = reference.softmax(x, dim)
    if op == "softmax":
        return p * (g - (p * g).sum(axis=dim, keepdims=True))
    return g - p * g.sum(axis=dim, keepdims=True)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("op", OPS)
def test_every_axis(op, dtype, isa, rng):
    for shape in SHAPES:
        x = (rng.standard_normal(shape) * 4).astype(dtype)
        g = rng.standard_normal(shape).astype(dtype)
        for dim in range(-len(shape), len(shape)):
            t = fastnn.tensor(x, requires_grad=True)
            y = getattr(F, op)(t, dim)
            y.backward(fastnn.tensor(g))
            assert y.dtype == dtype and y.shape == shape and t.grad.dtype == dtype
            close(y.numpy(), getattr(reference, op)(x, dim), TOLERANCE[dtype])
            # Our gradient is a function of the rounded output.
            close(t.grad.numpy(), gradient(op, x, g, dim), 4 * TOLERANCE[dtype])


@pytest.mark.parametrize("op", OPS)
def test_against_torch(op, isa, rng):
    torch = pytest.importorskip("torch")
    x, g = rng.standard_normal((4, 6, 21)), rng.standard_normal((4, 6, 21))
    for dim in (0, 1, 2):
        exact = torch.tensor(x, requires_grad=True)
        getattr(torch.nn.functional, op)(exact, dim).backward(torch.tensor(g))
        for dtype, tolerance in ((np.float32, 2e-6), (np.float64, 1e-13)):
            t = fastnn.tensor(x.astype(dtype), requires_grad=True)
            y = getattr(F, op)(t, dim=dim)
            y.backward(fastnn.tensor(g.astype(dtype)))
            close(y.numpy(), getattr(reference, op)(x, dim), tolerance)
            close(t.grad.numpy(), exact.grad.numpy(), tolerance)


@pytest.mark.parametrize("dim", [0, 1, 2])
@pytest.mark.parametrize("op", OPS)
def test_numerical_gradient(op, dim, rng):
    x, g = rng.standard_normal((3, 4, 2)), rng.standard_normal((3, 4, 2))
    t = fastnn.tensor(x, requires_grad=True)
    getattr(F, op)(t, dim).backward(fastnn.tensor(g))
    expected = reference.numerical_gradient(lambda v: getattr(F, op)(v, dim), [x], grad_output=g)
    np.testing.assert_allclose(t.grad.numpy(), expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("dim", [0, 1])
@pytest.mark.parametrize("op", OPS)
def test_limits(op, dim, isa):
    inf, nan = np.inf, np.nan
    rows = [
        [1e38, -1e38, 0.0],
        [1000.0, 1000.5, 999.0],
        [-1000.0, -1000.5, -inf],
        [-inf, 2.0, -inf],
        [-inf, -inf, -inf],
        [inf, 1.0, 2.0],
        [nan, 1.0, 2.0],
        [0.0, 1.0, nan],
    ]
    x = np.array(rows, np.float32)
    x = np.concatenate([np.tile(x[:, 1:], 20), x], axis=1)  # in full vectors and in the tail
    expected = getattr(reference, op)(x, 1)
    x, expected = (x, expected) if dim == 1 else (x.T.copy(), expected.T)
    y = getattr(F, op)(x, dim)
    np.testing.assert_allclose(y, expected.astype(np.float32), rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("op", OPS)
def test_accuracy_of_small_probabilities(op, isa, rng):
    x = np.linspace(-80, 0, 4097, dtype=np.float32)[None]
    expected = getattr(reference, op)(x, 1)
    np.testing.assert_allclose(getattr(F, op)(x, 1), expected, rtol=1e-6)
    np.testing.assert_allclose(getattr(F, op)(x.T.copy(), 0), expected.T, rtol=2e-6)


@pytest.mark.parametrize("op", OPS)
def test_layouts(op, isa, rng):
    f = getattr(F, op)
    base = rng.standard_normal((2, 6, 5, 7)).astype(np.float32)
    channels_last = np.ascontiguousarray(base.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    g = rng.standard_normal(base.shape).astype(np.float32)
    for dim in range(4):
        expected = getattr(reference, op)(base, dim)
        y = f(channels_last, dim)
        assert y.strides == channels_last.strides
        close(y, expected, 2e-6)
        for view in (base.T, base[:, ::2, 1:, ::-1], np.broadcast_to(base[:1, :, :1], base.shape)):
            close(f(view, dim), getattr(reference, op)(view, dim), 2e-6)
        for grad in (g, g[::-1, :, ::-1], np.broadcast_to(np.float32(0.5), base.shape)):
            t = fastnn.from_numpy(channels_last)
            t.requires_grad = True
            f(t, dim).backward(fastnn.from_numpy(grad))
            close(t.grad.numpy(), gradient(op, base, grad, dim), 4e-6)


@pytest.mark.parametrize("op", OPS)
def test_empty_and_scalar(op, isa):
    for shape, dims in {(0,): (0,), (0, 3): (0, 1), (3, 0): (0, 1), (2, 0, 4): (0, 1, 2), (): (0, -1)}.items():
        for dim in dims:
            t = fastnn.tensor(np.ones(shape, np.float32), requires_grad=True)
            y = getattr(F, op)(t, dim)
            y.backward(fastnn.tensor(np.ones(shape, np.float32)))
            assert y.shape == shape and t.grad.shape == shape
    assert getattr(F, op)(np.array(3.0, np.float32), 0) == (1.0 if op == "softmax" else 0.0)


@pytest.mark.parametrize("op", OPS)
def test_dtype(op, rng):
    x = rng.standard_normal((3, 5)).astype(np.float16)
    y = getattr(F, op)(x, 1, dtype=np.float32)
    assert y.dtype == np.float32
    close(y, getattr(reference, op)(x, 1), 2e-6)
    assert getattr(F, op)(np.ones((2, 2), np.int64), 1, dtype="float64").dtype == np.float64
    t = fastnn.tensor(x.astype(BF16), requires_grad=True)
    out = getattr(F, op)(t, 1, dtype=np.float32)
    g = rng.standard_normal((3, 5)).astype(np.float32)
    out.backward(fastnn.tensor(g))
    assert t.grad.dtype == BF16
    close(t.grad.numpy(), gradient(op, t.numpy(), g, 1), 1e-2)


@pytest.mark.parametrize("op", OPS)
def test_default_dim_warns_and_follows_torch(op, rng):
    for shape, dim in (((4,), 0), ((3, 4), 1), ((2, 3, 4), 0), ((2, 3, 2, 2), 1)):
        x = rng.standard_normal(shape).astype(np.float32)
        with pytest.warns(UserWarning, match=f"{op}: dim"):
            y = getattr(F, op)(x)
        np.testing.assert_array_equal(y, getattr(F, op)(x, dim))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        getattr(F, op)(x, 1)


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("dim", [0, 1])
def test_same_bits_for_any_number_of_threads(op, dim, isa, rng):
    x = rng.standard_normal((301, 401)).astype(np.float32)
    results = []
    for threads in (1, 2, 3, 8):
        _C.set_num_threads(threads)
        t = fastnn.tensor(x, requires_grad=True)
        y = getattr(F, op)(t, dim)
        y.backward(fastnn.tensor(x))
        results.append((y.numpy(), t.grad.numpy()))
    for y, grad in results[1:]:
        np.testing.assert_array_equal(y, results[0][0])
        np.testing.assert_array_equal(grad, results[0][1])


@pytest.mark.parametrize("op", OPS)
def test_errors(op):
    f = getattr(F, op)
    x = np.ones((2, 3), np.float32)
    for dim in (2, -3, 10**15):
        with pytest.raises(IndexError, match=f"{op}: dim is"):
            f(x, dim)
    with pytest.raises(IndexError, match=f"{op}: dim is"):
        f(np.ones((), np.float32), 1)
    with pytest.raises(TypeError, match=f"{op}: argument 'dim'"):
        f(x, 1.0)
    with pytest.raises(NotImplementedError, match=f"{op}: input has dtype int64"):
        f(x.astype(np.int64), 1)
    with pytest.raises(NotImplementedError, match="int32"):
        f(x, 1, dtype=np.int32)
    with pytest.raises(ValueError, match=f"{op}_backward: gradient has shape"):
        getattr(_C, op + "_backward")(fastnn.tensor(x), fastnn.tensor(x[:1]), 1)
    with pytest.raises(ValueError, match=f"{op}_backward: gradient has shape"):
        getattr(_C, op + "_backward")(fastnn.tensor(x), fastnn.tensor(x.astype(np.float64)), 1)
