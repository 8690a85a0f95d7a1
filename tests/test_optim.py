"""Optimizers against torch."""

import inspect
import itertools
import pickle

import fastnn
import numpy as np
import pytest
from fastnn import _C, optim, reference, utils

torch = pytest.importorskip("torch")
from optim_pairs import SHAPES, TOLERANCE, assert_same, draw, pairs, set_grads, t  # noqa: E402

ON_CUDA = True

pytestmark = pytest.mark.usefixtures("one_torch_thread")

SGD_OPTIONS = [
    dict(momentum=m, dampening=d, weight_decay=w, nesterov=n, maximize=x)
    for m, d, w, n, x in itertools.product([0, 0.9], [0, 0.3], [0, 0.1], [False, True], [False, True])
    if not n or (m and not d)
]
ADAM_OPTIONS = [
    dict(weight_decay=w, amsgrad=a, maximize=x, **extra)
    for w, a, x, extra in itertools.product(
        [0, 0.1], [False, True], [False, True], [{}, dict(betas=(0.8, 0.95), eps=1e-3)]
    )
]
RMSPROP_OPTIONS = [
    dict(momentum=m, centered=c, weight_decay=w, maximize=x)
    for m, c, w, x in itertools.product([0, 0.9], [False, True], [0, 0.1], [False, True])
] + [dict(alpha=0.8, eps=1e-3)]
ADAGRAD_OPTIONS = [
    dict(lr_decay=d, weight_decay=w, maximize=x, **extra)
    for d, w, x, extra in itertools.product(
        [0, 0.1], [0, 0.1], [False, True], [{}, dict(initial_accumulator_value=0.5, eps=1e-3)]
    )
]
ALL_OPTIONS = (
    [("SGD", o) for o in SGD_OPTIONS]
    + [(n, o) for n in ("Adam", "AdamW") for o in ADAM_OPTIONS]
    + [("RMSprop", o) for o in RMSPROP_OPTIONS]
    + [("Adagrad", o) for o in ADAGRAD_OPTIONS]
)
SOME_OPTIONS = [
    ("SGD", dict(momentum=0.9, nesterov=True, weight_decay=0.1)),
    ("Adam", dict(amsgrad=True, weight_decay=0.1)),
    ("AdamW", {}),
    ("RMSprop", dict(momentum=0.9, centered=True, weight_decay=0.1)),
    ("Adagrad", dict(lr_decay=0.1, weight_decay=0.1, initial_accumulator_value=0.1)),
]


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW", "RMSprop", "Adagrad"])
def test_signatures_are_those_of_torch(name):
    ours = inspect.signature(getattr(optim, name)).parameters
    theirs = inspect.signature(getattr(torch.optim, name)).parameters
    assert set(theirs) - set(ours) <= {"foreach", "fused", "differentiable", "capturable", "decoupled_weight_decay"}
    assert list(ours) == [n for n in theirs if n in ours]
    for n, p in ours.items():
        assert p.default == theirs[n].default
        # RMSprop's maximize comes after two arguments that we do not have
        assert p.kind in (theirs[n].kind, inspect.Parameter.KEYWORD_ONLY)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name, options", ALL_OPTIONS, ids=str)
def test_twenty_steps(name, options, dtype):
    ours, theirs = pairs(dtype)
    a = getattr(optim, name)(ours, lr=0.01, **options)
    b = getattr(torch.optim, name)(theirs, lr=0.01, **options)
    for step in range(20):
        set_grads(ours, theirs, step, dtype, skip=(1,) if step < 3 or step == 9 else ())
        versions = [p._version for p in ours]
        a.step()
        b.step()
        assert [p._version - v for p, v in zip(ours, versions, strict=True)] == [p.grad is not None for p in ours]
    assert_same(ours, theirs, dtype, 20)
    mine, yours = a.state_dict()["state"], b.state_dict()["state"]
    assert {k: list(v) for k, v in mine.items()} == {
        k: [n for n, x in v.items() if x is not None]
        for k, v in yours.items()
        if any(x is not None for x in v.values())
    }
    for k, values in mine.items():
        for n, value in values.items():
            want = yours[k][n].numpy()
            largest = max(1.0, np.abs(want).max(initial=0.0))  # a buffer of RMSprop reaches 25
            np.testing.assert_allclose(value.numpy(), want, rtol=20 * TOLERANCE[dtype], atol=1e-6 * largest)


@pytest.mark.parametrize("name, options", SOME_OPTIONS, ids=str)
def test_every_isa(isa, name, options):
    ours, theirs = pairs("float32")
    a = getattr(optim, name)(ours, lr=0.01, **options)
    b = getattr(torch.optim, name)(theirs, lr=0.01, **options)
    for step in range(5):
        set_grads(ours, theirs, step, "float32")
        a.step()
        b.step()
    assert_same(ours, theirs, "float32", 5)


@pytest.mark.parametrize("layout", ["channels_last", "strided"])
@pytest.mark.parametrize("name, options", SOME_OPTIONS, ids=str)
def test_layouts(name, options, layout):
    ours, theirs = pairs("float32", layout)
    strides = [p.strides for p in ours]
    a = getattr(optim, name)(ours, lr=0.01, **options)
    b = getattr(torch.optim, name)(theirs, lr=0.01, **options)
    for step in range(5):
        set_grads(ours, theirs, step, "float32")
        ours[4].grad = fastnn.from_numpy(np.asfortranarray(ours[4].grad.numpy()))
        a.step()
        b.step()
    assert_same(ours, theirs, "float32", 5)
    assert [p.strides for p in ours] == strides


LION_OPTIONS = [{}, dict(betas=(0.8, 0.9), weight_decay=0.1), dict(maximize=True)]


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16", "float16"])
@pytest.mark.parametrize("options", LION_OPTIONS, ids=str)
def test_lion(isa, options, dtype):  # torch has none
    starts = [draw(shape, i, np.float64).astype(dtype) for i, shape in enumerate(SHAPES)]
    starts[-1] = starts[-1].transpose(0, 3, 1, 2)
    ours = [fastnn.Parameter(a) for a in starts]
    optimizer = optim.Lion(ours, lr=0.01, **options)
    expected, states = [a.astype(np.float64) for a in starts], [{} for _ in ours]
    for step in range(20):
        for i, p in enumerate(ours):
            g = draw(p.shape, 100 * step + i + 7, np.float64).astype(dtype)
            if g.size:
                g.flat[0] = 0
            p.grad = fastnn.from_numpy(g)
            new, states[i] = reference.lion(expected[i], g, states[i], lr=0.01, **options)
            expected[i] = new.astype(dtype).astype(np.float64)  # bfloat16 has no room for a small weight decay
        if step == 10:
            saved = pickle.loads(
                pickle.dumps(
                    {
                        **optimizer.state_dict(),
                        "state": {
                            k: {n: x.numpy() for n, x in v.items()} for k, v in optimizer.state_dict()["state"].items()
                        },
                    }
                )
            )
            optimizer = optim.Lion(ours)
            optimizer.load_state_dict(saved)
        optimizer.step()
    tolerance = {"float32": 4e-5, "float64": 2e-12, "bfloat16": 2e-2, "float16": 4e-3}[dtype]
    for p, want, state in zip(ours, expected, states, strict=True):
        np.testing.assert_allclose(p.detach().numpy().astype(np.float64), want, rtol=tolerance, atol=4 * tolerance)
        np.testing.assert_allclose(optimizer.state[p]["exp_avg"].numpy(), state["exp_avg"], rtol=1e-5, atol=1e-6)


def test_lion_nan_threads_and_errors():
    p, g = np.array([1, np.inf, np.nan, 1, 1, 0], np.float32), np.array([np.nan, 1, 1, np.inf, -np.inf, 0], np.float32)
    ours = fastnn.Parameter(p)
    optimizer, state = optim.Lion([ours], lr=0.01), {}
    for _ in range(3):
        ours.grad = fastnn.from_numpy(g)
        optimizer.step()
        p, state = reference.lion(p, g, state, lr=0.01)
    np.testing.assert_allclose(ours.detach().numpy(), p, rtol=1e-5)
    results = []
    for threads in (1, 3):
        _C.set_num_threads(threads)
        params, theirs = pairs("float32")
        optimizer = optim.Lion(params)
        set_grads(params, theirs, 0, "float32")
        optimizer.step()
        results.append([q.detach().numpy().tobytes() for q in params])
    assert results[0] == results[1]
    with pytest.raises(ValueError, match="Lion: betas"):
        optim.Lion([ours], betas=(0.9, 1.0))
    with pytest.raises(ValueError, match="Lion: lr is -1"):
        optim.Lion([ours], lr=-1)
    with pytest.raises(ValueError, match="lion_step: exp_avgs 0 has shape"):
        _C.lion_step([t(3)], [t(3)], [t(2)], 0.1, 0.9, 0.99, 0.0, False)


def test_expanded_gradient():
    p = fastnn.Parameter(np.arange(6, dtype=np.float32).reshape(2, 3))
    p.grad = fastnn.from_numpy(np.broadcast_to(np.float32(2), (2, 3)))
    optim.SGD([p], lr=0.5).step()
    np.testing.assert_array_equal(p.detach().numpy(), np.arange(6).reshape(2, 3) - 1)


@pytest.mark.parametrize("dtype, tolerance", [("bfloat16", 1e-2), ("float16", 2e-3)])
@pytest.mark.parametrize("name, options", SOME_OPTIONS, ids=str)
def test_half_precision_keeps_state_in_float32(isa, name, options, dtype, tolerance):
    start = draw((3, 17), 0, np.float32).astype(dtype)
    p = fastnn.Parameter(start)
    optimizer = getattr(optim, name)([p], lr=0.01, **options)
    step = getattr(reference, name.lower())
    expected, state = start.astype(np.float64), {}
    for i in range(10):
        g = draw((3, 17), i + 1, np.float32).astype(dtype)
        p.grad = fastnn.from_numpy(g)
        optimizer.step()
        expected, state = step(expected, g.astype(np.float64), state, lr=0.01, **options)
    assert p.dtype == np.dtype(dtype)
    np.testing.assert_allclose(p.detach().numpy().astype(np.float64), expected, rtol=tolerance, atol=tolerance)
    for n, value in optimizer.state[p].items():
        assert value.dtype == np.float32
        if n != "step":  # weight decay reads the rounded parameter
            largest = max(1.0, np.abs(state[n]).max())
            np.testing.assert_allclose(value.numpy(), state[n], rtol=tolerance, atol=tolerance * largest)


@pytest.mark.parametrize("name, options", SOME_OPTIONS, ids=str)
def test_nan_and_infinity(name, options):
    p = np.array([1, np.inf, np.nan, 1, 1, 0], np.float32)
    g = np.array([np.nan, 1, 1, np.inf, -np.inf, 0], np.float32)
    ours, theirs = fastnn.Parameter(p), torch.from_numpy(p.copy()).requires_grad_()
    a = getattr(optim, name)([ours], lr=0.01, **options)
    b = getattr(torch.optim, name)([theirs], lr=0.01, **options)
    for _ in range(3):
        ours.grad, theirs.grad = fastnn.from_numpy(g), torch.from_numpy(g.copy())
        a.step()
        b.step()
    np.testing.assert_allclose(ours.detach().numpy(), theirs.detach().numpy(), rtol=1e-5)


@pytest.mark.parametrize("name, options", SOME_OPTIONS, ids=str)
def test_same_bits_for_any_number_of_threads(name, options):
    results = []
    for threads in (1, 2, 3, 8):
        _C.set_num_threads(threads)
        ours, theirs = pairs("float32")
        optimizer = getattr(optim, name)(ours, **options)
        for step in range(3):
            set_grads(ours, theirs, step, "float32")
            norm = utils.clip_grad_norm_(ours, 1.0)
            optimizer.step()
        results.append([norm.numpy().tobytes(), *(p.detach().numpy().tobytes() for p in ours)])
    assert all(r == results[0] for r in results)


@pytest.mark.parametrize("direction", ["to torch", "from torch", "ours", "pickled"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name, options", SOME_OPTIONS, ids=str)
def test_state_dict_goes_on(name, options, dtype, direction):
    ours, theirs = pairs(dtype)
    a = getattr(optim, name)(ours, lr=0.01, **options)
    b = getattr(torch.optim, name)(theirs, lr=0.01, **options)
    for step in range(3):
        set_grads(ours, theirs, step, dtype, skip=(2,))
        a.step()
        b.step()
    if direction == "to torch":
        state = a.state_dict()
        state["state"] = {
            k: {n: torch.from_numpy(x.numpy().copy()) for n, x in v.items()} for k, v in state["state"].items()
        }
        b = getattr(torch.optim, name)(theirs)
        b.load_state_dict(state)
    else:
        state = b.state_dict() if direction == "from torch" else a.state_dict()
        if direction == "pickled":
            state["state"] = {k: {n: x.numpy() for n, x in v.items()} for k, v in state["state"].items()}
            state = pickle.loads(pickle.dumps(state))
        a = getattr(optim, name)(ours)
        a.load_state_dict(state)
        assert a.param_groups[0]["params"] == ours
    for step in range(3, 6):
        set_grads(ours, theirs, step, dtype)
        a.step()
        b.step()
    assert_same(ours, theirs, dtype, 6)


def test_loaded_state_is_a_copy():
    p = fastnn.Parameter(np.ones(3, np.float32))
    p.grad = fastnn.from_numpy(np.ones(3, np.float32))
    a = optim.SGD([p], momentum=0.9)
    a.step()
    b = optim.SGD([p], momentum=0.9)
    b.load_state_dict(a.state_dict())
    b.step()
    np.testing.assert_array_equal(a.state[p]["momentum_buffer"].numpy(), np.ones(3))


def test_groups():
    ours, theirs = pairs("float32")
    a = optim.SGD([{"params": ours[:2], "lr": 0.5}, {"params": ours[2]}], lr=0.1, momentum=0.9)
    b = torch.optim.SGD([{"params": theirs[:2], "lr": 0.5}, {"params": theirs[2]}], lr=0.1, momentum=0.9)
    a.add_param_group({"params": ours[3:], "weight_decay": 0.1})
    b.add_param_group({"params": theirs[3:], "weight_decay": 0.1})
    for step in range(4):
        set_grads(ours, theirs, step, "float32")
        a.param_groups[1]["lr"] = b.param_groups[1]["lr"] = 0.1 / (step + 1)
        a.step()
        b.step()
    assert_same(ours, theirs, "float32", 4)
    groups = a.state_dict()["param_groups"]
    assert [g["params"] for g in groups] == [g["params"] for g in b.state_dict()["param_groups"]]
    assert [g["lr"] for g in groups] == [0.5, 0.025, 0.1]


def test_closure_and_zero_grad():
    p = fastnn.Parameter(np.ones(3, np.float32))
    optimizer = optim.SGD([p], lr=1.0)

    def closure():
        assert _C.grad_enabled()
        p.grad = fastnn.from_numpy(np.ones(3, np.float32))
        return "loss"

    was = _C.set_grad_enabled(False)
    try:
        assert optimizer.step(closure) == "loss"
        assert not _C.grad_enabled()
    finally:
        _C.set_grad_enabled(was)
    np.testing.assert_array_equal(p.detach().numpy(), np.zeros(3))
    grad = p.grad
    optimizer.zero_grad(set_to_none=False)
    np.testing.assert_array_equal(grad.numpy(), np.zeros(3))
    assert p.grad is grad
    optimizer.zero_grad()
    assert p.grad is None
    optimizer.step()


@pytest.mark.parametrize(
    "make, error, words",
    [
        (lambda p: optim.SGD([], lr=0.1), ValueError, "params is empty"),
        (lambda p: optim.SGD(p), TypeError, "params is a Parameter"),
        (lambda p: optim.SGD([1.0]), TypeError, "params holds a float"),
        (lambda p: optim.SGD([p, p]), ValueError, "comes twice"),
        (lambda p: optim.SGD([{"params": p}, {"params": [p]}]), ValueError, "comes twice"),
        (lambda p: optim.SGD([{"lr": 0.1}]), TypeError, "'params'"),
        (lambda p: optim.SGD([p], lr=-1), ValueError, "lr is -1"),
        (lambda p: optim.SGD([p], lr=float("nan")), ValueError, "lr is nan"),
        (lambda p: optim.SGD([p], momentum=-1), ValueError, "momentum is -1"),
        (lambda p: optim.SGD([p], nesterov=True), ValueError, "nesterov"),
        (lambda p: optim.SGD([p], momentum=0.9, dampening=0.1, nesterov=True), ValueError, "nesterov"),
        (lambda p: optim.Adam([p], betas=(1.0, 0.9)), ValueError, "betas"),
        (lambda p: optim.AdamW([p], eps=-1), ValueError, "AdamW: eps is -1"),
        (lambda p: optim.RMSprop([p], momentum=-1), ValueError, "RMSprop: momentum is -1"),
        (lambda p: optim.RMSprop([p], alpha=1.5), ValueError, "RMSprop: alpha is 1.5"),
        (lambda p: optim.Adagrad([p], lr_decay=-1), ValueError, "Adagrad: lr_decay is -1"),
        (lambda p: optim.SGD([p]).load_state_dict({}), TypeError, "param_groups"),
        (lambda p: optim.SGD([p]).load_state_dict({"state": {}, "param_groups": []}), ValueError, "groups of"),
    ],
)
def test_bad_arguments(make, error, words):
    with pytest.raises(error, match=words):
        make(fastnn.Parameter(np.ones(3, np.float32)))


@pytest.mark.parametrize(
    "state, error, words",
    [
        ({"exp_avg": np.zeros(3)}, ValueError, "'step' is None"),
        ({"step": 1, "exp_avg": np.zeros(3)}, ValueError, "no 'exp_avg_sq'"),
        ({"step": 1, "exp_avg": np.zeros(4), "exp_avg_sq": np.zeros(3)}, ValueError, r"has shape \(4,\)"),
        ({"step": np.zeros(2), "exp_avg": np.zeros(3), "exp_avg_sq": np.zeros(3)}, ValueError, "one number"),
        ({"step": 1, "exp_avg": "x", "exp_avg_sq": np.zeros(3)}, TypeError, "'exp_avg' is a str"),
    ],
)
def test_bad_state(state, error, words):
    p = fastnn.Parameter(np.ones(3, np.float32))
    optimizer = optim.Adam([p], lr=0.3)
    saved = optimizer.state_dict()
    saved["param_groups"][0]["lr"] = 0.7
    with pytest.raises(error, match=words):
        optimizer.load_state_dict({**saved, "state": {0: state}})
    assert optimizer.param_groups[0]["lr"] == 0.3 and not optimizer.state


def test_nothing_is_written_before_all_is_checked():
    frozen = np.ones(3, np.float32)
    frozen.flags.writeable = False
    good = fastnn.Parameter(np.ones(3, np.float32))
    bad = fastnn.Parameter(fastnn.from_numpy(frozen))
    good.grad = bad.grad = fastnn.from_numpy(np.ones(3, np.float32))
    for optimizer in (
        optim.SGD([good, bad], momentum=0.9),
        optim.Adam([good, bad]),
        optim.RMSprop([good, bad], centered=True),
    ):
        with pytest.raises(ValueError, match="parameter 1 is read-only"):
            optimizer.step()
        assert not optimizer.state
    optimizer = optim.Adagrad([good, bad])
    with pytest.raises(ValueError, match="parameter 1 is read-only"):
        optimizer.step()
    assert optimizer.state[good]["step"].item() == 0 and not optimizer.state[good]["sum"].numpy().any()
    np.testing.assert_array_equal(good.detach().numpy(), np.ones(3))


def test_centered_rmsprop_of_a_constant_gradient_stays_finite():
    p = fastnn.Parameter(np.zeros(1000, np.float32))
    g = np.random.default_rng(0).standard_normal(1000).astype(np.float32)
    optimizer = optim.RMSprop([p], alpha=0.5, eps=0.1, centered=True)
    for _ in range(60):
        p.grad = fastnn.from_numpy(g)
        optimizer.step()
    assert np.isfinite(p.detach().numpy()).all()


def test_adagrad_begins_with_a_state():
    p, q = (fastnn.Parameter(np.ones(3, dtype)) for dtype in ("bfloat16", "float64"))
    optimizer = optim.Adagrad([p], initial_accumulator_value=0.25)
    optimizer.add_param_group({"params": q})
    for param, dtype in ((p, np.float32), (q, np.float64)):
        assert optimizer.state[param]["sum"].dtype == dtype
        np.testing.assert_array_equal(optimizer.state[param]["sum"].numpy(), np.full(3, 0.25))


@pytest.mark.parametrize(
    "call, error",
    [
        (lambda: _C.sgd_step([t(3)], [], [], [], 0.1, 0.0, 0.0, 0.0, False, False), ValueError),
        (lambda: _C.sgd_step([t(3)], [t(4)], [], [], 0.1, 0.0, 0.0, 0.0, False, False), ValueError),
        (lambda: _C.sgd_step([t(3)], [t(3, dtype=np.float64)], [], [], 0.1, 0.0, 0.0, 0.0, False, False), ValueError),
        (lambda: _C.sgd_step([t(3)], [t(3)], [], [], 0.1, 0.9, 0.0, 0.0, False, False), ValueError),
        (lambda: _C.sgd_step([t(3)], [t(3)], [t(1)], [], 0.1, 0.9, 0.0, 0.0, False, False), ValueError),
        (lambda: _C.sgd_step([t(3)], [t(3)], [t(3)], [1], 0.1, 0.9, 0.0, 0.0, False, False), IndexError),
        (lambda: _C.sgd_step([t(3)], [t(3)], [t(3)], [-1], 0.1, 0.9, 0.0, 0.0, False, False), IndexError),
        (lambda: _C.sgd_step(t(3), [t(3)], [], [], 0.1, 0.0, 0.0, 0.0, False, False), TypeError),
        (lambda: _C.sgd_step([None], [t(3)], [], [], 0.1, 0.0, 0.0, 0.0, False, False), TypeError),
        (lambda: _C.sgd_step([t(3)], [t(3)], [], [], "x", 0.0, 0.0, 0.0, False, False), TypeError),
        (
            lambda: _C.sgd_step(*[[t(3, dtype=np.int64)]] * 2, [], [], 0.1, 0.0, 0.0, 0.0, False, False),
            NotImplementedError,
        ),
        (lambda: _C.optimizer_state(t(3, dtype=np.int32)), NotImplementedError),
        (lambda: _C.adam_step([t(3)], [t(3)], [t(3)], [], [], [t()], *[0.1] * 5, False, False), ValueError),
        (lambda: _C.adam_step([t(3)], [t(3)], [t(3)], [t(3)], [], [t(1)], *[0.1] * 5, False, False), ValueError),
        (lambda: _C.adam_step([t(3)], [t(3)], [t(3)], [t(3)], [t(2)], [t()], *[0.1] * 5, False, False), ValueError),
        (lambda: _C.rmsprop_step([t(3)], [t(3)], [], [], [], [t()], *[0.1] * 4, 0.0, False), ValueError),
        (lambda: _C.rmsprop_step([t(3)], [t(3)], [t(3)], [t(2)], [], [t()], *[0.1] * 4, 0.0, False), ValueError),
        (lambda: _C.rmsprop_step([t(3)], [t(3)], [t(3)], [], [], [t()], *[0.1] * 4, 0.9, False), ValueError),
        (lambda: _C.rmsprop_step([t(3)], [t(3)], [t(3)], [], [], [], *[0.1] * 4, 0.0, False), ValueError),
        (lambda: _C.adagrad_step([t(3)], [t(3)], [t(4)], [t()], *[0.1] * 4, False), ValueError),
        (lambda: _C.adagrad_step([t(3)], [t(3)], [t(3)], [t(1)], *[0.1] * 4, False), ValueError),
        (lambda: _C.penalty([], 1.0, 0.1), ValueError),
        (lambda: _C.penalty([t(3)], 3.0, 0.1), ValueError),
        (lambda: _C.penalty_backward(t(3), t(2), 1.0, 0.1), ValueError),
        (lambda: _C.clip_grad_norm([t(3, dtype=np.int64)], 1.0, 2.0, False), NotImplementedError),
        (lambda: _C.clip_grad_norm([t(3)], 1.0, float("nan"), False), ValueError),
    ],
)
def test_bad_native_calls(call, error):
    with pytest.raises(error):
        call()
