"""linear_cross_entropy against torch's linear and cross_entropy in float64."""

import fastnn
import ml_dtypes
import numpy as np
import pytest
from fastnn import functional as F

torch = pytest.importorskip("torch")

TOLERANCE = {"float32": 1e-5, "bfloat16": 2e-2, "float16": 4e-3, "float64": 1e-12}


def problem(rng, rows, classes, features, dtype, bias=True, probabilities=False):
    kind = ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype
    shape = (features,) if rows is None else (rows, features)
    x, w = rng.standard_normal(shape).astype(kind), rng.standard_normal((classes, features)).astype(kind)
    b = rng.standard_normal(classes).astype(kind) if bias else None
    if probabilities:
        target = rng.dirichlet(np.ones(classes), rows).astype(kind)
    else:
        target = np.asarray(rng.integers(0, classes, rows))
    return x, w, b, target


def expected(x, w, b, target, grad, weight=None, **kwargs):
    """Loss and gradients in float64."""
    leaves = [None if a is None else torch.tensor(np.asarray(a, np.float64), requires_grad=True) for a in (x, w, b)]
    target = np.asarray(target)
    target = torch.tensor(target.astype(np.int64 if target.dtype.kind in "iu" else np.float64))
    weight = None if weight is None else torch.tensor(np.asarray(weight, np.float64))
    logits = torch.nn.functional.linear(*leaves)
    loss = torch.nn.functional.cross_entropy(logits, target, weight=weight, **kwargs)
    loss.backward(torch.tensor(np.asarray(grad, np.float64)).reshape(loss.shape))
    return loss.detach().numpy(), [None if t is None else t.grad.numpy() for t in leaves]


def check(problem_, dtype, reduction, rng, weight=None, **kwargs):
    x, w, b, target = problem_
    tensors = [None if a is None else fastnn.tensor(a, requires_grad=True) for a in (x, w, b)]
    grad = np.ones(()) if reduction != "none" else np.ones(x.shape[:-1])
    grad = (grad * rng.uniform(0.5, 2, grad.shape)).astype(x.dtype)
    arguments = dict(reduction=reduction, weight=weight, **kwargs)
    loss = F.linear_cross_entropy(*tensors[:2], target, linear_bias=tensors[2], **arguments)
    loss.backward(fastnn.tensor(grad))
    with fastnn.no_grad():
        forward = F.linear_cross_entropy(x, w, target, linear_bias=b, **arguments)
    truth, gradients = expected(x, w, b, target, grad, reduction=reduction, weight=weight, **kwargs)
    tolerance = TOLERANCE[dtype]
    for actual in (loss.numpy(), np.asarray(forward)):
        np.testing.assert_allclose(np.asarray(actual, np.float64), truth, rtol=tolerance, atol=tolerance)
    for tensor, gradient in zip(tensors, gradients, strict=True):
        if tensor is not None:
            actual = np.asarray(tensor.grad.numpy(), np.float64)
            assert tensor.grad.dtype == tensor.dtype
            np.testing.assert_allclose(actual, gradient, rtol=0, atol=tolerance * np.abs(gradient).max())


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_values(isa, dtype, reduction):
    rng = np.random.default_rng(0)
    weight = rng.uniform(0.5, 2, 17).astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    for options in ({}, dict(label_smoothing=0.2), dict(ignore_index=3), dict(weight=weight, label_smoothing=0.1)):
        check(problem(rng, 9, 17, 33, dtype), dtype, reduction, rng, **options)
    check(problem(rng, 5, 40, 7, dtype, bias=False), dtype, reduction, rng)
    check(problem(rng, 5, 40, 7, dtype, probabilities=True), dtype, reduction, rng, label_smoothing=0.1)
    check(problem(rng, None, 10, 3, dtype), dtype, reduction, rng)
    check(problem(rng, 1, 1, 1, dtype), dtype, reduction, rng)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_several_blocks(isa, dtype, reduction):
    rng = np.random.default_rng(1)
    check(problem(rng, 600, 9001, 5, dtype), dtype, reduction, rng, ignore_index=7)


def test_float16_gradients_do_not_vanish():
    """Divided by N, gradients of logits are below float16's range; the weights' gradient, a sum over N rows, is not."""
    rng = np.random.default_rng(2)
    x, w, b, target = problem(rng, 40000, 6, 4, "float16")
    tensors = [fastnn.tensor(a, requires_grad=True) for a in (w, b)]
    F.linear_cross_entropy(fastnn.tensor(x), tensors[0], target, linear_bias=tensors[1]).backward()
    for tensor, gradient in zip(tensors, expected(x, w, b, target, np.ones(()))[1][1:], strict=True):
        actual = np.asarray(tensor.grad.numpy(), np.float64)
        np.testing.assert_allclose(actual, gradient, rtol=0, atol=TOLERANCE["float16"] * np.abs(gradient).max())


def test_same_bits_for_any_number_of_threads():
    rng = np.random.default_rng(3)
    x, w, b, target = problem(rng, 700, 9001, 16, "float32")
    results, threads = [], fastnn.get_num_threads()
    try:
        for n in (1, 2, 3, 8):
            fastnn.set_num_threads(n)
            tensors = [fastnn.tensor(a, requires_grad=True) for a in (x, w, b)]
            loss = F.linear_cross_entropy(*tensors[:2], target, linear_bias=tensors[2])
            loss.backward()
            results.append([loss.numpy().copy(), *(t.grad.numpy().copy() for t in tensors)])
    finally:
        fastnn.set_num_threads(threads)
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(a, b)


def test_gradients_only_where_asked():
    rng = np.random.default_rng(4)
    x, w, b, target = problem(rng, 6, 5, 4, "float32")
    weight = fastnn.tensor(w, requires_grad=True)
    F.linear_cross_entropy(fastnn.tensor(x), weight, target, linear_bias=fastnn.tensor(b)).backward()
    _, (_, dw, _) = expected(x, w, b, target, np.ones(()))
    np.testing.assert_allclose(weight.grad.numpy(), dw, rtol=1e-5, atol=1e-6)


def test_strided_and_empty():
    rng = np.random.default_rng(5)
    x, w, b, target = problem(rng, 6, 5, 4, "float32")
    check((np.asfortranarray(x), np.asfortranarray(w), b, target), "float32", "mean", rng)
    empty = [fastnn.tensor(a, requires_grad=True) for a in (x[:0], w)]
    loss = F.linear_cross_entropy(*empty, target[:0], reduction="sum")
    loss.backward()
    assert loss.item() == 0 and not empty[1].grad.numpy().any() and empty[0].grad.shape == (0, 4)
    assert np.isnan(F.linear_cross_entropy(x[:0], w, target[:0]))


def test_all_ignored_and_special_values():
    rng = np.random.default_rng(6)
    x, w, b, target = problem(rng, 4, 5, 3, "float32")
    tensors = [fastnn.tensor(a, requires_grad=True) for a in (x, w)]
    loss = F.linear_cross_entropy(*tensors, np.full(4, -100), reduction="mean")
    loss.backward()
    truth = expected(x, w, None, np.full(4, -100), np.ones(()))[1]
    assert np.isnan(loss.item())
    for tensor, gradient in zip(tensors, truth, strict=False):
        np.testing.assert_array_equal(tensor.grad.numpy(), gradient)
    x[1, 1] = np.nan
    losses = F.linear_cross_entropy(x, w, target, reduction="none")
    assert np.isnan(losses[1]) and np.isfinite(losses[[0, 2, 3]]).all()


def test_module_and_state_dict():
    module = fastnn.modules.LinearCrossEntropyLoss(4, 5, bias=True, label_smoothing=0.1, ignore_index=2)
    assert list(module.state_dict()) == ["linear.weight", "linear.bias"]
    rng = np.random.default_rng(7)
    x, target = rng.standard_normal((6, 4)).astype("float32"), rng.integers(0, 5, 6)
    w, b = (module.state_dict()[k].numpy() for k in ("linear.weight", "linear.bias"))
    loss, _ = expected(x, w, b, target, np.ones(()), label_smoothing=0.1, ignore_index=2)
    np.testing.assert_allclose(module(fastnn.tensor(x), target).item(), loss, rtol=1e-5)


@pytest.mark.parametrize(
    "error, message, change",
    [
        (ValueError, "linear_cross_entropy: input has shape", dict(x=np.zeros((2, 3), "f"))),
        (ValueError, "linear_cross_entropy: linear_weight has shape", dict(w=np.zeros(4, "f"))),
        (NotImplementedError, "linear_cross_entropy: linear_weight has dtype", dict(w=np.zeros((5, 4)))),
        (NotImplementedError, "linear_cross_entropy: input has dtype", dict(x=np.zeros((2, 4), int))),
        (ValueError, "linear_cross_entropy: linear_bias has shape", dict(b=np.zeros(4, "f"))),
        (IndexError, "linear_cross_entropy: target holds 5", dict(target=np.array([0, 5]))),
        (ValueError, "linear_cross_entropy: target has shape", dict(target=np.array([0]))),
    ],
)
def test_errors(error, message, change):
    arguments = dict(x=np.zeros((2, 4), "f"), w=np.zeros((5, 4), "f"), b=np.zeros(5, "f"), target=np.array([0, 1]))
    arguments |= change
    with pytest.raises(error, match=message):
        F.linear_cross_entropy(arguments["x"], arguments["w"], arguments["target"], linear_bias=arguments["b"])
