"""normalize and local_response_norm, which are composed of other functions."""

import fastnn
import fastnn.functional as F
import numpy as np
import pytest
from fastnn import reference
from test_normalization import TOLERANCE, close, leaf

X = np.ones((2, 4, 3), np.float32)


def check_composed(rng, op, x, *args, **kwargs):
    torch = pytest.importorskip("torch")
    g = rng.standard_normal(x.shape).astype(x.dtype)
    exact = torch.tensor(np.array(x, np.float64, order="C"), requires_grad=True)
    want = getattr(torch.nn.functional, op)(exact, *args, **kwargs)
    want.backward(torch.tensor(np.asarray(g, np.float64)))
    close(getattr(reference, op)(x, *args, **kwargs), want.detach(), np.float64)
    plain, t = getattr(F, op)(x, *args, **kwargs), leaf(x)
    y = getattr(F, op)(t, *args, **kwargs)
    assert isinstance(plain, np.ndarray) and plain.dtype == x.dtype
    np.testing.assert_array_equal(y.numpy(), plain)
    close(plain, want.detach(), x.dtype)
    y.backward(fastnn.from_numpy(g))
    assert t.grad.dtype == x.dtype
    close(t.grad.numpy(), exact.grad, x.dtype, factor=3)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_normalize(isa, rng, dtype):
    x = rng.standard_normal((3, 7, 5)).astype(dtype)
    for p in (1, 2, 2.5, 3.0, np.inf):
        for dim in (1, -1, 0, (0, 2)):
            check_composed(rng, "normalize", x, p, dim)
    for p in (1, np.inf):
        check_composed(rng, "normalize", x, p, 1, 2.0)
    check_composed(rng, "normalize", x[..., ::-1], dim=[1])
    x[1, :, 2] = 0
    check_composed(rng, "normalize", x, eps=1e-2)  # 1 / eps fits float16
    check_composed(rng, "normalize", x, 2, 1, 2.0)
    assert F.normalize(np.zeros((2, 0, 3), dtype)).shape == (2, 0, 3)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_local_response_norm(isa, rng, dtype):
    x = rng.standard_normal((2, 7, 4, 3)).astype(dtype)
    for size in (1, 2, 3, 4, 5, 20):
        check_composed(rng, "local_response_norm", x, size, 0.5, 0.75, 2.0)
    check_composed(rng, "local_response_norm", x[..., 0], 3)
    assert F.local_response_norm(np.zeros((0, 3, 2), dtype), 2).shape == (0, 3, 2)


def test_errors_of_composed():
    for call, error, text in (
        (lambda: F.normalize(X, p=float("nan")), ValueError, "normalize: p is NaN"),
        (lambda: F.normalize(X, dim=3), IndexError, "dim"),
        (lambda: F.normalize(X, dim=1.5), TypeError, "normalize: dim is 1.5"),
        (lambda: F.normalize(X, out=X), NotImplementedError, "normalize: out"),
        (lambda: F.normalize(X.astype(np.int64)), NotImplementedError, "normalize: input has dtype int64"),
        (lambda: F.local_response_norm(X, 0), ValueError, "local_response_norm: size is 0"),
        (lambda: F.local_response_norm(X[0], 2), ValueError, "local_response_norm: input has shape"),
    ):
        with pytest.raises(error, match=text):
            call()
