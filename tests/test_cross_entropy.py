"""cross_entropy and nll_loss against the float64 reference and torch's gradients."""

import fastnn
import ml_dtypes
import numpy as np
import pytest
from fastnn import _C, reference
from fastnn import functional as F
from guarded import guarded, poison

torch = pytest.importorskip("torch")

ON_CUDA = True
TORCH_DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float64": torch.float64,
}
TOLERANCE = {"float32": 1e-5, "bfloat16": 1e-2, "float16": 2e-3, "float64": 1e-12}


def as_dtype(array, dtype):
    return array.astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)


def close(actual, expected, dtype, scale=1.0):
    actual = np.asarray(actual, np.float64)
    assert actual.shape == np.shape(expected)
    tolerance = TOLERANCE[dtype]
    np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=0.1 * tolerance * scale)


def gradients(function, arrays, grad, **kwargs):
    """Gradients of fastnn by the float arguments of `function`, given the gradient of the result."""
    tensors = [
        fastnn.tensor(a, requires_grad=True) if isinstance(a, np.ndarray) and a.dtype.kind not in "iu" else a
        for a in arrays
    ]
    out = function(*tensors, **kwargs)
    _C.backward(out, fastnn.tensor(grad.astype(out.dtype)))
    return out.numpy(), [t.grad.numpy() if isinstance(t, fastnn.Tensor) else None for t in tensors]


def torch_gradients(function, arrays, grad, **kwargs):
    """The same from torch in float64."""
    tensors = [
        torch.tensor(np.array(a, np.float64, order="C"), requires_grad=True)
        if isinstance(a, np.ndarray) and a.dtype.kind not in "iu"
        else torch.tensor(a.astype(np.int64))
        for a in arrays
    ]
    kwargs = {k: torch.tensor(v.astype(np.float64)) if isinstance(v, np.ndarray) else v for k, v in kwargs.items()}
    out = function(*tensors, **kwargs)
    out.backward(torch.tensor(grad.astype(np.float64)).reshape(out.shape))
    return out.detach().numpy(), [None if t.grad is None else t.grad.numpy() for t in tensors]


def check(name, arrays, dtype, reduction, rng, **kwargs):
    grad = rng.standard_normal(np.shape(getattr(reference, name)(*arrays, reduction=reduction, **kwargs)))
    grad = as_dtype(np.asarray(grad), dtype)
    mine = {k: fastnn.tensor(v) if isinstance(v, np.ndarray) else v for k, v in kwargs.items()}
    out, grads = gradients(getattr(F, name), arrays, grad, reduction=reduction, **mine)
    expected, expected_grads = torch_gradients(
        getattr(torch.nn.functional, name), arrays, grad, reduction=reduction, **kwargs
    )
    assert out.dtype == arrays[0].dtype
    close(out, expected, dtype)
    close(out, getattr(reference, name)(*arrays, reduction=reduction, **kwargs), dtype)
    for actual, wanted in zip(grads, expected_grads, strict=True):
        if actual is not None:
            close(actual, wanted, dtype, np.abs(wanted).max(initial=0.0))
    no_grad = getattr(F, name)(*[fastnn.tensor(a) for a in arrays], reduction=reduction, **mine)
    assert no_grad.numpy().tobytes() == out.tobytes()


CASES = [
    {},
    {"label_smoothing": 0.1},
    {"ignore_index": 2},
    {"weight": True},
    {"weight": True, "label_smoothing": 0.3, "ignore_index": 0},
]


@pytest.mark.parametrize("dtype", TORCH_DTYPES)
@pytest.mark.parametrize("options", CASES, ids=str)
@pytest.mark.parametrize("shape", [(100, 10), (9, 33), (5, 3, 2, 4), (7,)], ids=str)
def test_class_indices(isa, rng, dtype, options, shape):
    x = as_dtype(3 * rng.standard_normal(shape), dtype)
    axis = min(1, len(shape) - 1)
    classes = shape[axis]
    target = rng.integers(0, classes, shape[:axis] + shape[axis + 1 :])
    if shape == (7,):
        target = np.asarray(4)
    options = dict(options)
    if "weight" in options:
        options["weight"] = as_dtype(rng.random(classes) + 0.5, dtype)
    for reduction in ("none", "mean", "sum"):
        check("cross_entropy", (x, target), dtype, reduction, rng, **options)


@pytest.mark.parametrize("dtype", TORCH_DTYPES)
@pytest.mark.parametrize("options", [{}, {"weight": True}, {"weight": True, "label_smoothing": 0.2}], ids=str)
@pytest.mark.parametrize("shape", [(9, 10), (3, 17, 2), (33,)], ids=str)
def test_probabilities(isa, rng, dtype, options, shape):
    x = as_dtype(2 * rng.standard_normal(shape), dtype)
    target = as_dtype(rng.random(shape), dtype)
    options = dict(options)
    if "weight" in options:
        options["weight"] = as_dtype(rng.random(shape[min(1, len(shape) - 1)]) + 0.5, dtype)
    for reduction in ("none", "mean", "sum"):
        check("cross_entropy", (x, target), dtype, reduction, rng, **options)


@pytest.mark.parametrize("classes", [1, 2, 7, 8, 9, 15, 16, 17, 31, 33, 63, 64, 65, 129, 1000])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
def test_every_number_of_classes(isa, rng, classes, dtype):
    x = as_dtype(4 * rng.standard_normal((5, classes)), dtype)
    check("cross_entropy", (x, rng.integers(0, classes, 5)), dtype, "mean", rng)


@pytest.mark.parametrize("name", ["cross_entropy", "nll_loss"])
@pytest.mark.parametrize("label", [np.int64, np.int32, np.uint8])
def test_labels_are_tensors_or_arrays_of_any_integer_dtype(name, label, rng):
    x = rng.standard_normal((6, 5)).astype(np.float32)
    target = rng.integers(0, 5, 6)
    expected = getattr(reference, name)(x, target)
    function = getattr(F, name)
    close(function(fastnn.tensor(x), fastnn.tensor(target.astype(label))).numpy(), expected, "float32")
    close(function(fastnn.tensor(x), target.astype(label)).numpy(), expected, "float32")
    strided = np.repeat(target, 3).astype(label)[::3]
    close(function(fastnn.tensor(x), strided).numpy(), expected, "float32")
    result = function(x, target.astype(label))
    assert isinstance(result, np.ndarray)
    close(result, expected, "float32")


@pytest.mark.parametrize("dtype", TORCH_DTYPES)
@pytest.mark.parametrize("options", [{}, {"weight": True, "ignore_index": 1}], ids=str)
@pytest.mark.parametrize("shape", [(9, 10), (4, 3, 2, 5), (6,)], ids=str)
def test_nll_loss(isa, rng, dtype, options, shape):
    x = as_dtype(rng.standard_normal(shape), dtype)
    axis = min(1, len(shape) - 1)
    target = np.asarray(rng.integers(0, shape[axis], shape[:axis] + shape[axis + 1 :]))
    options = dict(options)
    if "weight" in options:
        options["weight"] = as_dtype(rng.random(shape[axis]) + 0.5, dtype)
    for reduction in ("none", "mean", "sum"):
        check("nll_loss", (x, target), dtype, reduction, rng, **options)


@pytest.mark.parametrize("name", ["cross_entropy", "nll_loss"])
@pytest.mark.parametrize("reduction", ["none", "mean"])
@pytest.mark.parametrize("layout", ["channels_last", "transposed", "every second", "broadcast"])
def test_layouts(name, reduction, layout, isa, rng):
    base = rng.standard_normal((3, 8, 4, 5)).astype(np.float32)
    x = {
        "channels_last": np.ascontiguousarray(base.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2),
        "transposed": base.transpose(3, 1, 2, 0),
        "every second": base[:, ::2, :, ::-1],
        "broadcast": np.broadcast_to(base[:1], base.shape),
    }[layout]
    target = rng.integers(0, x.shape[1], (x.shape[0], *x.shape[2:]))
    leaf = fastnn.from_numpy(x)
    leaf.requires_grad = True
    out = getattr(F, name)(leaf, target, reduction=reduction)
    grad = rng.standard_normal(out.shape).astype(np.float32)
    _C.backward(out, fastnn.tensor(grad))
    expected, (expected_grad, _) = torch_gradients(
        getattr(torch.nn.functional, name), (x, target), grad, reduction=reduction
    )
    close(out.numpy(), expected, "float32")
    close(leaf.grad.numpy(), expected_grad, "float32")
    if layout == "channels_last":
        assert leaf.grad.numpy().strides == x.strides


def test_gradient_of_the_loss_with_stride_zero(isa, rng):
    x = rng.standard_normal((6, 5)).astype(np.float32)
    target = rng.integers(0, 5, 6)
    for function in (F.cross_entropy, F.nll_loss):
        leaf = fastnn.tensor(x, requires_grad=True)
        grad = np.broadcast_to(np.float32(0.5), (6,))
        _C.backward(function(leaf, target, reduction="none"), fastnn.from_numpy(grad))
        _, (expected, _) = torch_gradients(
            getattr(torch.nn.functional, function.__name__), (x, target), grad, reduction="none"
        )
        close(leaf.grad.numpy(), expected, "float32")


def test_numerical_gradient(isa, rng):
    x, weight = rng.standard_normal((4, 6)), rng.random(6)
    labels, probabilities = np.array([0, 5, 2, 1]), rng.random((4, 6))
    for arrays in ((x, labels), (x, probabilities)):
        for reduction in ("mean", "none"):
            options = {"label_smoothing": 0.1, "reduction": reduction}
            grad = rng.standard_normal(4 if reduction == "none" else ())
            _, grads = gradients(F.cross_entropy, arrays, np.asarray(grad), weight=fastnn.tensor(weight), **options)
            for i in range(1 if arrays[1] is labels else 2):
                expected = reference.numerical_gradient(
                    lambda a, b, options=options: reference.cross_entropy(a, b, weight, **options), arrays, i, grad
                )
                np.testing.assert_allclose(grads[i], expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("classes", [1, 3, 10, 15, 16, 17, 33, 65, 70])
@pytest.mark.parametrize("dtype", TORCH_DTYPES)
def test_guarded_memory(isa, rng, classes, dtype):
    """Nothing is read beyond either end, and everything is written."""
    x, target = as_dtype(rng.standard_normal((3, classes)), dtype), rng.integers(0, classes, 3)
    probabilities, weight = as_dtype(rng.random((3, classes)), dtype), as_dtype(rng.random(classes), dtype)
    expected = reference.cross_entropy(x, target, weight, reduction="none")
    expected_soft = reference.cross_entropy(x, probabilities, weight, reduction="none", label_smoothing=0.1)
    for at in ("end", "start"):
        gx, gt, gp, gw = (guarded(a, at) for a in (x, target, probabilities, weight))
        poison((3,), (3, classes), dtype=x.dtype)
        leaf = fastnn.from_numpy(gx)
        leaf.requires_grad = True
        out = F.cross_entropy(leaf, gt, gw, reduction="none")
        close(out.numpy(), expected, dtype)
        _C.backward(out, fastnn.from_numpy(guarded(np.ones(3, x.dtype), at)))
        assert np.isfinite(leaf.grad.numpy().astype(np.float64)).all()
        close(F.cross_entropy(gx, gp, gw, reduction="none", label_smoothing=0.1), expected_soft, dtype)
        close(F.nll_loss(gx, gt, gw, reduction="none"), reference.nll_loss(x, target, weight, reduction="none"), dtype)


def test_large_logits_and_special_values(isa):
    inf, nan = np.inf, np.nan
    x = np.array(
        [
            [1e4, -1e4, 0, 3],
            [-1e4, -1e4, -1e4, -1e4],
            [-inf, 0, 1, 2],
            [0, -inf, 1, -inf],
            [nan, 0, 1, 2],
            [inf, 0, 1, 2],
            [-inf] * 4,
            [3e38, -3e38, 3e38, 0],
        ],
        np.float32,
    )
    target = np.array([1, 2, 0, 0, 1, 1, 0, 1])
    out, (grad, _) = gradients(F.cross_entropy, (x, target), np.ones(8), reduction="none")
    leaf = torch.tensor(x, requires_grad=True)
    expected = torch.nn.functional.cross_entropy(leaf, torch.tensor(target), reduction="none")
    expected.sum().backward()
    np.testing.assert_allclose(out, expected.detach().numpy(), rtol=1e-6)
    np.testing.assert_allclose(grad, leaf.grad.numpy(), rtol=1e-5, atol=1e-7)


def test_confident_rows_keep_small_gradients(isa):
    """float16 and bfloat16 gradients are rounded once: 1 - p is formed in float32."""
    for dtype in ("bfloat16", "float16"):
        x = as_dtype(np.array([[7.0, 0.0, 0.0]]), dtype)
        _, (grad, _) = gradients(F.cross_entropy, (x, np.array([0])), np.ones(()))
        _, (expected, _) = torch_gradients(torch.nn.functional.cross_entropy, (x, np.array([0])), np.ones(()))
        np.testing.assert_allclose(grad.astype(np.float64), expected, rtol=TOLERANCE[dtype])


def test_loss_scaling_in_float16(isa, rng):
    """With a loss scale, gradients that would underflow at scale 1 come out."""
    x = as_dtype(rng.standard_normal((4096, 10)), "float16")
    target = rng.integers(0, 10, 4096)
    leaf = fastnn.tensor(x, requires_grad=True)
    scale = np.float16(4096)
    _C.backward(F.cross_entropy(leaf, target), fastnn.tensor(scale))
    _, (expected, _) = torch_gradients(torch.nn.functional.cross_entropy, (x, target), np.asarray(scale))
    np.testing.assert_allclose(leaf.grad.numpy().astype(np.float64), expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("name", ["cross_entropy", "nll_loss"])
def test_everything_ignored(name, isa):
    x = np.ones((3, 4), np.float32)
    target = np.full(3, -100)
    for reduction, expected in (("mean", np.nan), ("sum", 0.0), ("none", np.zeros(3))):
        out, (grad, _) = gradients(
            getattr(F, name), (x, target), np.ones(np.shape(expected), np.float32), reduction=reduction
        )
        np.testing.assert_array_equal(out, expected)
        np.testing.assert_array_equal(grad, np.zeros((3, 4)))


def test_empty(isa):
    def run(shape, target, reduction):
        return gradients(
            F.cross_entropy,
            (np.zeros(shape, np.float32), target),
            np.ones(shape[:1] if reduction == "none" else ()),
            reduction=reduction,
        )[0]

    none = np.zeros(0, np.int64)
    assert np.isnan(run((0, 4), none, "mean"))
    assert run((0, 4), none, "sum") == 0
    assert run((0, 4), none, "none").shape == (0,)
    assert np.isnan(run((0, 4), np.zeros((0, 4), np.float32), "mean"))
    assert run((3, 0), np.zeros((3, 0), np.float32), "sum") == 0
    np.testing.assert_array_equal(run((3, 0), np.zeros((3, 0), np.float32), "none"), np.zeros(3))
    for name in ("cross_entropy", "nll_loss"):
        out = getattr(F, name)(np.zeros((2, 3, 0), np.float32), np.zeros((2, 0), np.int64), reduction="none")
        assert out.shape == (2, 0)
        with pytest.raises(IndexError, match=f"{name}: target holds 0"):
            getattr(F, name)(np.zeros((3, 0), np.float32), np.zeros(3, np.int64))


@pytest.mark.parametrize("name", ["cross_entropy", "nll_loss"])
@pytest.mark.parametrize("shape", [(3001, 10), (64, 5000), (2, 9, 61, 47)], ids=str)
def test_same_bits_for_any_number_of_threads(isa, rng, name, shape):
    x = rng.standard_normal(shape).astype(np.float32)
    target = rng.integers(0, shape[1], (shape[0], *shape[2:]))
    weight = fastnn.tensor(rng.random(shape[1]).astype(np.float32))
    results = set()
    for threads in (1, 2, 3, 8):
        _C.set_num_threads(threads)
        out, (grad, _) = gradients(getattr(F, name), (x, target), np.asarray(0.7), weight=weight)
        results.add(out.tobytes() + grad.tobytes())
    assert len(results) == 1


def test_deprecated_arguments(rng):
    x, target = rng.standard_normal((5, 4)).astype(np.float32), rng.integers(0, 4, 5)
    for name in ("cross_entropy", "nll_loss"):
        for size_average, reduce in ((True, None), (False, None), (None, False), (False, False), (True, True)):
            with pytest.warns(DeprecationWarning, match="reduction="):
                out = getattr(F, name)(x, target, None, size_average, -100, reduce)
            close(out, getattr(reference, name)(x, target, None, size_average, -100, reduce), "float32")


def test_backward_of_one_returns_what_was_saved(rng):
    x = fastnn.tensor(rng.standard_normal((5, 4)).astype(np.float32))
    labels = fastnn.tensor(np.zeros(5, np.int64))
    _, (dx, dt) = _C.cross_entropy_with_gradient(x, labels, None, -1, "mean", 0.0, True, False)
    assert dt is None
    back = _C.cross_entropy_backward(dx, fastnn.tensor(np.float32(1)))
    assert np.shares_memory(back.numpy(), dx.numpy())


def test_errors(isa, rng):
    x = fastnn.tensor(rng.standard_normal((3, 4)).astype(np.float32))
    target, f64 = np.array([0, 1, 2]), np.float64
    weight = fastnn.tensor(np.ones(4, np.float32), requires_grad=True)
    leaf = fastnn.tensor(np.ones((3, 4), np.float32), requires_grad=True)
    for name in ("cross_entropy", "nll_loss"):
        f = getattr(F, name)
        for error, match, call in [
            (IndexError, "target holds 4", lambda f=f: f(x, np.array([0, 4, 1]))),
            (IndexError, "target holds -1", lambda f=f: f(x, np.array([0, -1, 1]))),
            (IndexError, "target holds -100", lambda f=f: f(x, np.array([0, -100, 1]), ignore_index=5)),
            (IndexError, "target holds -9223372036854775808", lambda f=f: f(x, np.full(3, -(2**63)))),
            (ValueError, "target has shape", lambda f=f: f(x, target[:2])),
            (ValueError, "target has shape", lambda f=f: f(x, target[:, None])),
            (TypeError, "target has dtype float32", lambda f=f: f(x, np.zeros(3, np.float32))),
            (NotImplementedError, "target has dtype bool", lambda f=f: f(x, target > 0)),
            (ValueError, "reduction is 'average'", lambda f=f: f(x, target, reduction="average")),
            (ValueError, "input has no dimensions", lambda f=f: f(np.array(1, np.float32), np.array(0))),
            (NotImplementedError, "input has dtype int64", lambda f=f: f(np.ones((3, 4), np.int64), target)),
            (ValueError, r"weight has shape \(5,\)", lambda f=f: f(x, target, np.ones(5, np.float32))),
            (NotImplementedError, "weight has dtype", lambda f=f: f(x, target, np.ones(4, f64))),
            (NotImplementedError, "weight requires a gradient", lambda f=f: f(leaf, target, weight)),
            (TypeError, "ignore_index", lambda f=f: f(x, target, ignore_index=0.5)),
        ]:
            with pytest.raises(error, match=f"{name}: .*{match}"):
                call()
    for error, match, call in [
        (ValueError, "label_smoothing is 1.5", lambda: F.cross_entropy(x, target, label_smoothing=1.5)),
        (ValueError, "label_smoothing is", lambda: F.cross_entropy(x, target, label_smoothing=float("nan"))),
        (ValueError, "ignore_index is 1", lambda: F.cross_entropy(x, np.ones((3, 4), np.float32), ignore_index=1)),
        (TypeError, "target has the shape of the logits", lambda: F.cross_entropy(x, np.ones((3, 4), np.int64))),
        (NotImplementedError, "target has dtype float64", lambda: F.cross_entropy(x, np.ones((3, 4), f64))),
    ]:
        with pytest.raises(error, match=f"cross_entropy: {match}"):
            call()
