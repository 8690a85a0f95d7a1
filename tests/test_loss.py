"""Pointwise losses against the float64 reference and torch's gradients."""

import warnings

import fastnn
import ml_dtypes
import numpy as np
import pytest
from fastnn import _C, reference
from fastnn import functional as F
from guarded import guarded, poison

torch = pytest.importorskip("torch")

ON_CUDA = True
DTYPES = {"float32": np.float32, "bfloat16": ml_dtypes.bfloat16, "float16": np.float16, "float64": np.float64}
TOLERANCE = {"float32": 2e-6, "bfloat16": 1e-2, "float16": 2e-3, "float64": 1e-12}
SIZES = [(1,), (7,), (8,), (9,), (15,), (16,), (17,), (31,), (33,), (3, 5, 7), ()]
REDUCTIONS = ["none", "mean", "sum"]

# Loss, options, what input and target are.
LOSSES = [
    ("mse_loss", {}, "real"),
    ("l1_loss", {}, "real"),
    ("smooth_l1_loss", {}, "real"),
    ("smooth_l1_loss", {"beta": 0.3}, "real"),
    ("smooth_l1_loss", {"beta": 0.0}, "real"),
    ("huber_loss", {}, "real"),
    ("huber_loss", {"delta": 0.4}, "real"),
    ("binary_cross_entropy", {}, "probability"),
    ("binary_cross_entropy_with_logits", {}, "logits"),
    ("kl_div", {}, "probability"),
    ("kl_div", {"log_target": True}, "real"),
]
IDS = [f"{name}{options or ''}" for name, options, _ in LOSSES]


def operands(kind, shape, dtype, rng):
    x, t = 2 * rng.standard_normal(shape), rng.standard_normal(shape)
    if kind == "probability":
        x = rng.random(shape) * 0.98 + 0.01
    if kind != "real":
        t = rng.random(shape) * 0.98 + 0.01
    return np.asarray(x, DTYPES[dtype]), np.asarray(t, DTYPES[dtype])


def close(actual, expected, dtype):
    assert np.shape(actual) == np.shape(expected)
    scale = np.abs(expected).max(initial=1e-3)
    tolerance = TOLERANCE[dtype]
    np.testing.assert_allclose(
        np.asarray(actual, np.float64), expected, rtol=tolerance, atol=0.5 * tolerance * min(scale, 10)
    )


def run(name, arrays, grad, **options):
    """Result and gradients of fastnn."""
    x, t = (fastnn.tensor(a, requires_grad=True) for a in arrays)
    options = {k: fastnn.tensor(v) if isinstance(v, np.ndarray) else v for k, v in options.items()}
    out = getattr(F, name)(x, t, **options)
    assert out.dtype == arrays[0].dtype
    _C.backward(out, fastnn.tensor(np.asarray(grad, out.dtype)))
    return out.numpy(), x.grad.numpy(), t.grad.numpy()


def run_torch(name, arrays, grad, **options):
    """The same from torch in float64."""
    x, t = (torch.tensor(np.array(a, np.float64, order="C"), requires_grad=True) for a in arrays)
    options = {
        k: torch.tensor(np.array(v, np.float64, order="C")) if isinstance(v, np.ndarray) else v
        for k, v in options.items()
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        out = getattr(torch.nn.functional, name)(x, t, **options)
    out.backward(torch.tensor(np.array(grad, np.float64)))
    return out.detach().numpy(), x.grad.numpy(), t.grad.numpy()


def check(name, arrays, dtype, rng, **options):
    expected = getattr(reference, name)(*arrays, **options)
    grad = np.asarray(rng.standard_normal(np.shape(expected)), DTYPES[dtype])
    results = run(name, arrays, grad, **options)
    close(results[0], expected, dtype)
    for actual, wanted in zip(results, run_torch(name, arrays, grad, **options), strict=True):
        close(actual, wanted, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("name", "options", "kind"), LOSSES, ids=IDS)
def test_values_and_gradients(isa, rng, name, options, kind, dtype):
    for shape in SIZES:
        for reduction in REDUCTIONS:
            check(name, operands(kind, shape, dtype, rng), dtype, rng, reduction=reduction, **options)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_weights(isa, rng, dtype, reduction):
    shape = (4, 3, 5)

    def positive(*shape):
        return np.array(rng.random(shape) + 0.5, DTYPES[dtype])

    for name in ("mse_loss", "l1_loss", "huber_loss"):
        check(name, operands("real", shape, dtype, rng), dtype, rng, reduction=reduction, weight=positive(*shape))
    for weight in (shape, (5,), (4, 1, 1), ()):
        options = {"reduction": reduction, "weight": positive(*weight)}
        check("binary_cross_entropy", operands("probability", shape, dtype, rng), dtype, rng, **options)
        arrays = operands("logits", shape, dtype, rng)
        check("binary_cross_entropy_with_logits", arrays, dtype, rng, **options)
        check("binary_cross_entropy_with_logits", arrays, dtype, rng, pos_weight=positive(3, 1), **options)


@pytest.mark.parametrize("log_target", [False, True])
def test_batchmean(isa, rng, log_target):
    for shape in ((6, 5), (4,), ()):
        arrays = operands("real" if log_target else "probability", shape, "float32", rng)
        check("kl_div", arrays, "float32", rng, reduction="batchmean", log_target=log_target)


@pytest.mark.parametrize(("name", "options", "kind"), LOSSES, ids=IDS)
def test_numerical_gradient(rng, name, options, kind):
    arrays = operands(kind, (3, 4), "float64", rng)
    for reduction in ("none", "mean"):
        grad = rng.standard_normal((3, 4) if reduction == "none" else ())
        _, *grads = run(name, arrays, grad, reduction=reduction, **options)
        for i in range(2):
            expected = reference.numerical_gradient(
                lambda x, t, r=reduction: getattr(reference, name)(x, t, reduction=r, **options), arrays, i, grad
            )
            np.testing.assert_allclose(grads[i], expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("name", "options", "kind"), LOSSES, ids=IDS)
def test_guarded_memory(isa, rng, name, options, kind, dtype):
    """Nothing is read beyond either end, and everything is written."""
    for n in (1, 7, 8, 15, 16, 17, 33):
        arrays = operands(kind, (n,), dtype, rng)
        grad = np.ones(n, DTYPES[dtype])
        expected = run(name, arrays, grad, reduction="none", **options)
        for at in ("end", "start"):
            poison((n,), dtype=DTYPES[dtype])
            leaves = [fastnn.from_numpy(guarded(a, at)) for a in arrays]
            for leaf in leaves:
                leaf.requires_grad = True
            out = getattr(F, name)(*leaves, reduction="none", **options)
            _C.backward(out, fastnn.from_numpy(guarded(grad, at)))
            for actual, wanted in zip((out, leaves[0].grad, leaves[1].grad), expected, strict=True):
                assert actual.numpy().tobytes() == wanted.tobytes()
            assert np.isfinite(getattr(F, name)(*leaves, reduction="sum", **options).numpy().astype(np.float64))


@pytest.mark.parametrize("name", ["mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss", "kl_div"])
def test_broadcast(rng, name):
    kind = "probability" if name == "kl_div" else "real"
    for shapes in [((4, 1, 3), (2, 1)), ((3,), (5, 3)), ((), (2, 3)), ((2, 3), (1, 1)), ((0, 3), (1,))]:
        for reduction in REDUCTIONS:
            x, t = operands(kind, shapes[0], "float32", rng)[0], operands(kind, shapes[1], "float32", rng)[1]
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                check(name, (x, t), "float32", rng, reduction=reduction)
    if name != "kl_div":
        with pytest.warns(UserWarning, match=rf"{name}: target has shape \(5,\) and input \(5, 1\)"):
            getattr(F, name)(np.ones((5, 1), np.float32), np.ones(5, np.float32))


@pytest.mark.parametrize(("name", "options", "kind"), LOSSES, ids=IDS)
def test_layouts(isa, rng, name, options, kind):
    x, t = operands(kind, (4, 6, 5, 3), "float32", rng)
    layouts = [
        np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2),
        x.transpose(2, 1, 0, 3),
        x[:, ::2, ::-1],
        np.broadcast_to(x[:, :1], x.shape),
    ]
    for view in layouts:
        target = t.transpose(2, 1, 0, 3) if view.shape == (5, 6, 4, 3) else t[:, : view.shape[1]]
        for reduction in ("none", "sum"):
            leaves = [fastnn.from_numpy(view), fastnn.from_numpy(target)]
            for leaf in leaves:
                leaf.requires_grad = True
            out = getattr(F, name)(*leaves, reduction=reduction, **options)
            grad = np.broadcast_to(np.float32(0.7), out.shape)
            _C.backward(out, fastnn.from_numpy(grad))
            expected = run_torch(name, (view, target), grad, reduction=reduction, **options)
            for actual, wanted in zip((out, leaves[0].grad, leaves[1].grad), expected, strict=True):
                close(actual.numpy(), wanted, "float32")
    leaf = fastnn.from_numpy(layouts[0])
    assert getattr(F, name)(leaf, fastnn.tensor(t), reduction="none", **options).numpy().strides == layouts[0].strides


@pytest.mark.parametrize(("name", "options", "kind"), LOSSES, ids=IDS)
def test_gradients_are_made_where_asked_for(isa, rng, name, options, kind):
    x, t = operands(kind, (9,), "float32", rng)
    _, dx, dt = run(name, (x, t), np.ones(()), **options)
    for i, wanted in enumerate((dx, dt)):
        leaves = [fastnn.tensor(a, requires_grad=k == i) for k, a in enumerate((x, t))]
        _C.backward(getattr(F, name)(*leaves, **options), fastnn.tensor(np.float32(1)))
        np.testing.assert_array_equal(leaves[i].grad.numpy(), wanted)
        assert leaves[1 - i].grad is None
    out = getattr(F, name)(fastnn.tensor(x), fastnn.tensor(t), **options)
    assert not out.requires_grad
    assert isinstance(getattr(F, name)(x, t, **options), np.ndarray)


def test_special_values(isa):
    inf, nan = np.inf, np.nan
    x = np.array([nan, inf, -inf, 0.0, -0.0, 1e-40, 3e38, 100.0, -100.0, 2.0, 1.0, 5.0], np.float32)
    t = np.array([1.0, 1.0, 1.0, -0.0, 0.0, 0.0, -3e38, 0.5, 0.5, nan, inf, 5.0], np.float32)
    for name in ("mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss"):
        out, dx, dt = run(name, (x, t), np.ones(12), reduction="none")
        tx, tt = torch.tensor(x, requires_grad=True), torch.tensor(t, requires_grad=True)
        expected = getattr(torch.nn.functional, name)(tx, tt, reduction="none")
        expected.sum().backward()
        for actual, wanted in ((out, expected.detach()), (dx, tx.grad), (dt, tt.grad)):
            np.testing.assert_allclose(actual, wanted.numpy(), rtol=1e-6, err_msg=name)


def test_ends_of_binary_cross_entropy(isa):
    x, t = np.array([0, 1, 0, 1, 1e-30], np.float32), np.array([0, 0, 1, 1, 1], np.float32)
    out, dx, dt = run("binary_cross_entropy", (x, t), np.ones(5), reduction="none")
    expected, tx, tt = run_torch("binary_cross_entropy", (x, t), np.ones(5), reduction="none")
    for actual, wanted in ((out, expected), (dx, tx), (dt, tt)):
        np.testing.assert_allclose(actual, wanted, rtol=1e-5)


def test_binary_cross_entropy_with_logits_far_out(isa):
    """Small losses keep their relative accuracy, where (1 - t) x + softplus(-x) cancels."""
    x = np.array([-1000, -80, -40, -20, -1e-3, 0, 20, 40, 80, 1000], np.float32)
    for t in (0.0, 1.0):
        out, dx, _ = run("binary_cross_entropy_with_logits", (x, np.full_like(x, t)), np.ones(10), reduction="none")
        z = np.where(t == 1.0, x, -x).astype(np.float64)
        np.testing.assert_allclose(out, np.log1p(np.exp(-np.abs(z))) + np.maximum(-z, 0), rtol=2e-6, atol=1e-38)
        with np.errstate(over="ignore"):
            np.testing.assert_allclose(np.abs(dx), 1 / (1 + np.exp(z)), rtol=2e-6, atol=1e-7)


def test_kl_div_of_zero_probability(isa):
    x, t = np.array([-1, -2, -3], np.float32), np.array([0, 0.5, 1], np.float32)
    np.testing.assert_allclose(F.kl_div(x, t, reduction="none"), reference.kl_div(x, t, reduction="none"), rtol=1e-6)


@pytest.mark.parametrize(("name", "options", "kind"), LOSSES, ids=IDS)
def test_empty(isa, name, options, kind):
    empty = np.zeros((0, 3), np.float32)
    assert np.isnan(getattr(F, name)(empty, empty, **options))
    assert getattr(F, name)(empty, empty, reduction="sum", **options) == 0
    out, dx, dt = run(name, (empty, empty), np.zeros((0, 3)), reduction="none", **options)
    assert out.shape == dx.shape == dt.shape == (0, 3)


@pytest.mark.parametrize("name", ["mse_loss", "binary_cross_entropy_with_logits"])
def test_same_bits_for_any_number_of_threads(isa, rng, name):
    x, t = (rng.standard_normal(100_003).astype(np.float32) for _ in range(2))
    results = set()
    for threads in (1, 2, 3, 8):
        _C.set_num_threads(threads)
        results.add(b"".join(a.tobytes() for a in run(name, (x, t), 0.3)))
    assert len(results) == 1


def test_sum_of_many(isa, rng):
    x = rng.random(1_000_000).astype(np.float32)
    expected = np.sum(x.astype(np.float64))
    assert F.l1_loss(x, np.zeros_like(x), reduction="sum") == pytest.approx(expected, rel=2e-7)


def test_loss_scaling_in_float16(isa, rng):
    x, t = (rng.standard_normal(4096).astype(np.float16) for _ in range(2))
    _, dx, _ = run("mse_loss", (x, t), 4096.0)
    np.testing.assert_allclose(dx.astype(np.float64), 2.0 * (x.astype(np.float64) - t), rtol=1e-3, atol=1e-3)


def test_deprecated_arguments(rng):
    x, t = operands("probability", (4, 3), "float32", rng)
    for name in ("mse_loss", "l1_loss", "smooth_l1_loss", "kl_div"):
        for flags in ((True, None), (False, None), (None, False), (False, False), (True, True)):
            with pytest.warns(DeprecationWarning, match="reduction="):
                close(getattr(F, name)(x, t, *flags), getattr(reference, name)(x, t, *flags), "float32")
    for name in ("binary_cross_entropy", "binary_cross_entropy_with_logits"):
        with pytest.warns(DeprecationWarning, match="reduction='sum'"):
            close(getattr(F, name)(x, t, None, False), getattr(reference, name)(x, t, None, False), "float32")


def test_changed_target_is_noticed(rng):
    x, t = operands("real", (4,), "float32", rng)
    leaf, target = fastnn.tensor(x, requires_grad=True), fastnn.tensor(t)
    out = F.mse_loss(leaf, target)
    _C.assign(target, fastnn.tensor(x))
    with pytest.raises(RuntimeError, match="changed in place"):
        _C.backward(out, fastnn.tensor(np.float32(1)))


def test_errors(isa, rng):
    x = rng.random((3, 4)).astype(np.float32)
    leaf = fastnn.tensor(x, requires_grad=True)
    weight = fastnn.tensor(x, requires_grad=True)
    for name in {name for name, _, _ in LOSSES}:
        f = getattr(F, name)
        for error, match, call in [
            (ValueError, "reduction is 'average'", lambda f=f: f(x, x, reduction="average")),
            (NotImplementedError, "input has dtype int64", lambda f=f: f(np.ones(3, np.int64), np.ones(3, np.int64))),
            (NotImplementedError, "target has dtype float64", lambda f=f: f(x, x.astype(np.float64))),
        ]:
            with pytest.raises(error, match=f"{name}: {match}"):
                call()
        for bad in (None, [1.0], "x"):
            with pytest.raises(TypeError, match="argument (1|'target') is"):
                f(x, bad)
        if name.startswith("binary"):
            with pytest.raises(ValueError, match=rf"{name}: target has shape \(1, 4\); expected that of input"):
                f(x, x[:1])
            with pytest.raises(ValueError, match=rf"{name}: weight has shape \(2, 3, 4\)"):
                f(x, x, np.ones((2, 3, 4), np.float32))
        else:
            with warnings.catch_warnings(), pytest.raises(ValueError, match=f"{name}: shapes .* do not broadcast"):
                warnings.simplefilter("ignore")
                f(x, np.ones((2, 4), np.float32))
    for name in ("mse_loss", "l1_loss", "huber_loss"):
        f = getattr(F, name)
        with pytest.raises(ValueError, match=rf"{name}: weight has shape \(4,\); expected \(3, 4\)"):
            f(x, x, weight=np.ones(4, np.float32))
        with pytest.raises(NotImplementedError, match=f"{name}: weight has dtype float64"):
            f(x, x, weight=np.ones((3, 4)))
        with pytest.raises(NotImplementedError, match=f"{name}: weight requires a gradient"):
            f(leaf, fastnn.tensor(x), weight=weight)
    with pytest.raises(ValueError, match="huber_loss: delta is 0"):
        F.huber_loss(x, x, delta=0)
    with pytest.raises(ValueError, match="huber_loss: delta is nan"):
        F.huber_loss(x, x, delta=float("nan"))
    with pytest.raises(ValueError, match="smooth_l1_loss: beta is -1"):
        F.smooth_l1_loss(x, x, beta=-1)
    with pytest.raises(ValueError, match=r"binary_cross_entropy_with_logits: pos_weight has shape \(2,\)"):
        F.binary_cross_entropy_with_logits(x, x, pos_weight=np.ones(2, np.float32))
    for bad in (-1e-6, 1.001, np.nan, np.inf):
        for size in (5, 40):
            probabilities = np.full(size, 0.5, np.float32)
            probabilities[-1] = bad
            with pytest.raises(ValueError, match=r"binary_cross_entropy: input has values outside of \[0, 1\]"):
                F.binary_cross_entropy(probabilities, np.ones(size, np.float32))
    with pytest.raises(ValueError, match="kl_div: reduction is 'x'; expected .*'batchmean'"):
        F.kl_div(x, x, reduction="x")
    with pytest.raises(ValueError, match="mse_loss: reduction is 'batchmean'"):
        F.mse_loss(x, x, reduction="batchmean")
