"""Reductions: values, accuracy, layouts, gradients, indices, errors."""

import itertools

import fastnn
import ml_dtypes
import numpy as np
import pytest
from fastnn import _C

torch = pytest.importorskip("torch")

ON_CUDA = True

BF16 = np.dtype(ml_dtypes.bfloat16)
TOLERANCE = {"float32": 1e-6, "bfloat16": 8e-3, "float16": 1e-3, "float64": 1e-14}
DIMS = [d for n in range(5) for d in itertools.combinations(range(4), n)]


@pytest.mark.parametrize("dtype", [np.float32, BF16, np.float16, np.float64], ids=str)
def test_sum_and_mean_over_every_set_of_dimensions(dtype, isa, rng):
    a = rng.uniform(0.5, 1.5, (3, 5, 2, 33)).astype(dtype)
    wide, tolerance = a.astype(np.float64), TOLERANCE[np.dtype(dtype).name]
    x = fastnn.tensor(a)
    for y in (x, x.contiguous(fastnn.channels_last), fastnn.tensor(a.T.copy()).T, x[:, :, :, ::2]):
        expected = wide if y.shape == a.shape else wide[..., ::2]
        for dims in DIMS:
            for keepdim in (False, True):
                axis = dims or None
                out = y.sum(dims or None, keepdim)
                assert out.dtype == dtype
                np.testing.assert_allclose(
                    out.numpy().astype(float), expected.sum(axis, keepdims=keepdim), rtol=tolerance
                )
                out = y.mean(dims or None, keepdim)
                np.testing.assert_allclose(
                    out.numpy().astype(float), expected.mean(axis, keepdims=keepdim), rtol=tolerance
                )


@pytest.mark.parametrize("n", [0, 1, 7, 8, 9, 15, 16, 17, 31, 33, 1023, 1024, 1025, 65536, 65537, 200001])
def test_lengths(n, isa, rng):
    a = rng.uniform(0, 1, n).astype(np.float32)
    for values in (a, (a / 8).astype(np.float16)):
        exact = values.astype(np.float64).sum()
        tolerance = TOLERANCE[values.dtype.name]
        assert fastnn.tensor(values).sum().item() == pytest.approx(exact, rel=tolerance)
        columns = fastnn.tensor(np.stack([values, 2 * values], 1)).sum(0)
        np.testing.assert_allclose(columns.numpy(), [exact, 2 * exact], rtol=tolerance)


def test_sums_are_accurate(isa):
    assert fastnn.ones(10_000_000).sum().item() == 10_000_000
    assert fastnn.ones(300, dtype=BF16).sum().item() == 300
    assert fastnn.ones(1_000_000, 2).sum(0).tolist() == [1_000_000] * 2
    a = np.random.default_rng(0).uniform(0, 1, 3_000_001).astype(np.float32)
    assert abs(fastnn.from_numpy(a).sum().item() / a.sum(dtype=np.float64) - 1) < 1.2e-7
    assert fastnn.full((1000,), 60000.0, dtype=np.float16).mean().item() == 60000


def test_empty_and_special():
    assert fastnn.zeros(0).sum().item() == 0 and np.isnan(fastnn.zeros(0).mean().item())
    assert fastnn.zeros(3, 0).sum(1).tolist() == [0, 0, 0] and fastnn.zeros(0, 3).sum(1).shape == (0,)
    assert fastnn.tensor(2.5).sum().item() == 2.5 and fastnn.tensor(2.5).mean(0).item() == 2.5
    assert fastnn.tensor([1.0, float("inf")]).sum().item() == float("inf")
    assert np.isnan(fastnn.tensor([float("nan"), 1.0]).sum().item())
    assert fastnn.tensor([1.0]).expand(5).sum().item() == 5
    assert fastnn.zeros(3, 0).any().item() is False if fastnn.zeros(3, 1).any() else True


def test_integers_and_bool(rng):
    for dtype in (np.int64, np.int32, np.uint8, np.int8, np.bool_):
        a = rng.integers(0, 2, (3, 4, 5)).astype(dtype)
        x = fastnn.tensor(a)
        for dims in ((), (0,), (1,), (0, 2)):
            out = x.sum(dims or None)
            assert out.dtype == np.int64
            np.testing.assert_array_equal(out.numpy(), a.sum(dims or None, dtype=np.int64))
        assert x.any().item() is True and x.all().item() is False
        np.testing.assert_array_equal(x.all(1).numpy(), (a != 0).all(1))
        np.testing.assert_array_equal(x.any(1, True).numpy(), (a != 0).any(1, keepdims=True))
    assert fastnn.tensor([-(2**62), -(2**62), 5]).sum().item() == -(2**63) + 5


def test_gradients(rng):
    a = rng.standard_normal((2, 3, 4))
    for name in ("sum", "mean", "amax", "amin"):
        for dims in (None, 1, -1, (0, 2)):
            for keepdim in (False, True):
                x, t = fastnn.tensor(a, requires_grad=True), torch.tensor(a, requires_grad=True)
                out = getattr(x, name)(dims, keepdim)
                theirs = getattr(torch, name)(t, () if dims is None and name[0] == "a" else dims, keepdim)
                grad = rng.standard_normal(out.shape)
                out.backward(fastnn.tensor(grad))
                theirs.backward(torch.tensor(grad))
                np.testing.assert_allclose(x.grad.numpy(), t.grad, rtol=1e-12, atol=1e-15)
    ties = np.array([[1.0, 3, 3], [2, 2, 2]])
    for name, dim in (("amax", 1), ("amax", None), ("max", None), ("min", None)):
        x, t = fastnn.tensor(ties, requires_grad=True), torch.tensor(ties, requires_grad=True)
        getattr(x, name)(dim).sum().backward() if dim else getattr(x, name)().backward()
        getattr(t, name)(dim).sum().backward() if dim else getattr(t, name)().backward()
        np.testing.assert_allclose(x.grad.numpy(), t.grad)


@pytest.mark.parametrize("dtype", [np.float32, BF16, np.float64, np.int64, np.uint8, np.bool_], ids=str)
def test_extrema(dtype, rng):
    a = rng.integers(0, 2 if dtype == np.bool_ else 9, (4, 5, 6)).astype(dtype)
    for x in (fastnn.tensor(a), fastnn.tensor(a.T.copy()).T):
        for dim in (0, 1, 2, -1):
            for keepdim in (False, True):
                top, bottom = x.max(dim, keepdim), x.min(dim, keepdim)
                np.testing.assert_array_equal(top.values.numpy(), a.max(dim, keepdims=keepdim))
                np.testing.assert_array_equal(bottom.values.numpy(), a.min(dim, keepdims=keepdim))
                np.testing.assert_array_equal(top.indices.numpy(), a.astype(float).argmax(dim, keepdims=keepdim))
                np.testing.assert_array_equal(x.argmin(dim, keepdim).numpy(), a.astype(float).argmin(dim, keepdims=keepdim))  # fmt: skip # noqa: E501
        assert x.argmax().item() == a.astype(float).argmax() and x.max().item() == a.max()
        np.testing.assert_array_equal(x.amax((0, 2)).numpy(), a.max((0, 2)))


def test_extrema_with_nan_and_gradient(rng):
    x = fastnn.tensor([[1.0, float("nan"), 3.0], [1.0, 2.0, 0.0]], requires_grad=True)
    values, indices = x.max(1)
    assert indices.tolist() == [1, 1] and np.isnan(values.tolist()[0]) and values.tolist()[1] == 2
    assert x.argmin(1).tolist() == [1, 2] and np.isnan(x.amax().item())
    a = rng.standard_normal((3, 4))
    for dim, keepdim in ((0, False), (1, True), (-1, False)):
        x, t = fastnn.tensor(a, requires_grad=True), torch.tensor(a, requires_grad=True)
        (x.max(dim, keepdim).values * 2).sum().backward()
        (t.max(dim, keepdim).values * 2).sum().backward()
        np.testing.assert_array_equal(x.grad.numpy(), t.grad)


def test_sum_to():
    x = fastnn.arange(24, dtype=np.float32).reshape(2, 3, 4)
    for shape, axes in (((2, 3, 4), ()), ((3, 4), (0,)), ((3, 1), (0, 2)), ((1, 1, 4), (0, 1)), ((), (0, 1, 2))):
        out = _C.sum_to(x, shape)
        assert out.shape == shape
        np.testing.assert_array_equal(out.numpy(), x.numpy().sum(axes).reshape(shape) if axes else x.numpy())


def test_numpy_in_numpy_out():
    a = np.ones((2, 3), np.float32)
    from fastnn.ops import reduction

    assert isinstance(reduction.sum(a, 1), np.ndarray) and isinstance(reduction.argmax(a, 1), np.ndarray)


def test_errors():
    x = fastnn.ones(2, 3)
    for call, error, text in (
        (lambda: x.sum(2), IndexError, "sum: dim is 2"),
        (lambda: x.sum(-3), IndexError, "sum: dim is -3"),
        (lambda: x.sum((0, 0)), ValueError, "twice"),
        (lambda: x.sum("a"), TypeError, "sum: dim is a str"),
        (lambda: x.sum(1.0), TypeError, "sum: dim is a float"),
        (lambda: x.sum((0, "a")), TypeError, "sum"),
        (lambda: x.long().mean(), NotImplementedError, "mean: dtype int64"),
        (lambda: fastnn.zeros(0).max(), ValueError, "amax: the tensor of shape"),
        (lambda: fastnn.zeros(2, 0).argmax(1), ValueError, "no elements along dimension 1"),
        (lambda: x.argmax(5), IndexError, "max: dim is 5"),
        (lambda: _C.sum_to(x, (5,)), ValueError, "sum_to"),
        (lambda: _C.sum_to(x, (1, 2, 3)), ValueError, "sum_to"),
    ):
        with pytest.raises(error, match=text):
            call()


def test_small_sums_are_rounded_once(isa, rng):
    for shape, dim in (((50,), None), ((31, 33), 0), ((10, 1, 17), (0, 2))):
        a = rng.uniform(-9, 9, shape).astype(np.float32)
        exact = a.astype(np.float64).sum(dim)
        np.testing.assert_array_equal(fastnn.tensor(a).sum(dim).numpy(), exact.astype(np.float32))
