"""Gradient clipping and penalties against torch."""

import fastnn
import numpy as np
import pytest
from fastnn import _C, utils

torch = pytest.importorskip("torch")
from optim_pairs import draw, pairs, set_grads, t  # noqa: E402

ON_CUDA = True

pytestmark = pytest.mark.usefixtures("one_torch_thread")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("norm_type", [2.0, 1.0, float("inf"), "inf", 3, 0.5])
@pytest.mark.parametrize("max_norm", [0.0, 1.0, 1e9])
def test_clip_grad_norm(isa, dtype, norm_type, max_norm):
    ours, theirs = pairs(dtype)
    set_grads(ours, theirs, 0, dtype, skip=(2, 3))
    norm = utils.clip_grad_norm_(ours, max_norm, norm_type)
    expected = torch.nn.utils.clip_grad_norm_(theirs, max_norm, norm_type)
    assert norm.shape == () and norm.dtype == np.dtype(dtype)
    tolerance = 1e-5 if dtype == "float32" else 1e-12
    np.testing.assert_allclose(norm.numpy(), expected.numpy(), rtol=tolerance)
    for p, q in zip(ours, theirs, strict=True):
        assert (p.grad is None) == (q.grad is None)
        if p.grad is not None:
            np.testing.assert_allclose(p.grad.numpy(), q.grad.numpy(), rtol=tolerance, atol=tolerance)


def test_clip_grad_norm_of_nothing_and_of_one():
    p = fastnn.Parameter(np.ones(3, np.float32))
    assert utils.clip_grad_norm_([p], 1.0).numpy() == 0
    assert utils.clip_grad_norm_([], 1.0).numpy() == 0
    p.grad = t(3)
    assert utils.clip_grad_norm_(p, 1.0, 0).numpy() == 3
    p.grad = t(3)
    np.testing.assert_allclose(utils.clip_grad_norm_(p, 1.0).numpy(), 3**0.5, rtol=1e-6)
    np.testing.assert_allclose(p.grad.numpy(), np.full(3, 3**-0.5), rtol=1e-5)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("norm_type", [1.0, 2.0, np.inf, 3.0])
def test_clip_grad_norm_nonfinite(isa, bad, norm_type):
    p = fastnn.Parameter(np.ones(300, np.float32))
    g = np.ones(300, np.float32)
    g[17] = bad
    p.grad = fastnn.from_numpy(g.copy())
    with pytest.raises(RuntimeError, match="norm"):
        utils.clip_grad_norm_([p], 1.0, norm_type, error_if_nonfinite=True)
    np.testing.assert_array_equal(p.grad.numpy(), g)
    norm = utils.clip_grad_norm_([p], 1.0, norm_type)
    q = torch.ones(300, requires_grad=True)
    q.grad = torch.from_numpy(g.copy())
    expected = torch.nn.utils.clip_grad_norm_([q], 1.0, norm_type)
    np.testing.assert_array_equal(norm.numpy(), expected.numpy())
    np.testing.assert_array_equal(p.grad.numpy(), q.grad.numpy())


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_clip_half_precision(isa, dtype):
    p = fastnn.Parameter(np.ones(1000, dtype))
    g = draw((1000,), 1, np.float32).astype(dtype)
    p.grad = fastnn.from_numpy(g.copy())
    wide = g.astype(np.float64)
    norm = utils.clip_grad_norm_([p], 1.0)
    np.testing.assert_allclose(norm.numpy(), np.linalg.norm(wide), rtol=1e-5)
    np.testing.assert_allclose(p.grad.numpy().astype(np.float64), wide / np.linalg.norm(wide), rtol=1e-2)
    utils.clip_grad_value_([p], 0.01)
    assert abs(p.grad.numpy().astype(np.float64)).max() <= 0.0101


def test_clip_grad_value(isa):
    ours, theirs = pairs("float32")
    set_grads(ours, theirs, 0, "float32", skip=(2,))
    for p, q in zip(ours[:2], theirs[:2], strict=True):
        q.grad.numpy().flat[:3] = [np.nan, np.inf, -np.inf]
        p.grad.copy_(q.grad.numpy())
    utils.clip_grad_value_(ours, 0.5)
    torch.nn.utils.clip_grad_value_(theirs, 0.5)
    for p, q in zip(ours, theirs, strict=True):
        assert (p.grad is None) == (q.grad is None)
        if p.grad is not None:
            np.testing.assert_array_equal(p.grad.numpy(), q.grad.numpy())


def test_clip_errors():
    p = fastnn.Parameter(np.ones(3, np.float32))
    with pytest.raises(ValueError, match="norm_type is -1"):
        utils.clip_grad_norm_([p], 1.0, -1)
    with pytest.raises(ValueError, match="clip_value is -1"):
        utils.clip_grad_value_([p], -1)
    with pytest.raises(TypeError, match="holds a int"):
        utils.clip_grad_norm_([3], 1.0)
    frozen = np.ones(3, np.float32)
    frozen.flags.writeable = False
    p.grad = fastnn.from_numpy(frozen)
    with pytest.raises(ValueError, match="read-only"):
        utils.clip_grad_norm_([p], 1.0)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("order", [1, 2])
def test_penalty(isa, order, dtype):
    penalty = (utils.l1_penalty, utils.l2_penalty)[order - 1]
    ours, theirs = pairs(dtype, "channels_last")
    with torch.no_grad(), fastnn.no_grad():
        ours[1][2] = 0
        theirs[1][2] = 0
    ours[0].requires_grad = False
    loss = penalty(ours, 0.01)
    expected = 0.01 * sum(q.abs().pow(order).sum() for q in theirs)
    expected.backward()
    tolerance = 1e-5 if dtype == "float32" else 1e-12
    assert loss.dtype == np.dtype(dtype) and loss.shape == () and loss.requires_grad
    np.testing.assert_allclose(loss.numpy(), expected.detach().numpy(), rtol=tolerance)
    loss.backward()
    assert ours[0].grad is None
    for p, q in zip(ours[1:], theirs[1:], strict=True):
        np.testing.assert_allclose(p.grad.numpy(), q.grad.numpy(), rtol=1e-6, atol=0)
    was = _C.set_grad_enabled(False)
    assert not penalty(ours, 0.01).requires_grad
    _C.set_grad_enabled(was)


def test_penalty_errors():
    p = fastnn.Parameter(np.ones(3, np.float32))
    with pytest.raises(TypeError, match="l1_penalty: parameters holds a str"):
        utils.l1_penalty(["x"], 0.1)
    with pytest.raises(ValueError, match="no parameters"):
        utils.l2_penalty([], 0.1)
    with pytest.raises(ValueError, match="one dtype"):
        utils.l2_penalty([p, fastnn.Parameter(np.ones(3))], 0.1)
