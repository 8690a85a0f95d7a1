"""The tape: accumulation, order, errors, memory."""

import gc
import threading
import weakref

import fastnn
import fastnn.functional as F
import numpy as np
import pytest
from fastnn import _C

ON_CUDA = True


def leaf(*values):
    return fastnn.tensor(list(values), requires_grad=True)


def test_accumulation():
    x = leaf(1.0, 2.0)
    (x * 3).sum().backward()
    first = x.grad
    (x * x).sum().backward()
    assert x.grad is first and x.grad.tolist() == [5, 7]
    x.grad = None
    (x + x + x).sum().backward()
    assert x.grad.tolist() == [3, 3]
    x.grad = fastnn.tensor([1.0, 1.0])
    x.sum().backward()
    assert x.grad.tolist() == [2, 2]


def test_gradients_of_different_leaves_are_different_memory():
    x, y = leaf(1.0, 2.0), leaf(3.0, 4.0)
    gradient = fastnn.ones(2)
    (x + y).backward(gradient)
    x.grad.add_(1)
    assert y.grad.tolist() == [1, 1] and gradient.tolist() == [1, 1]


def test_diamond_graphs_run_each_node_once():
    calls = []

    def backward(ctx, grad):
        calls.append(grad.tolist())
        return grad

    op = _C.Op("probe", lambda x: _C.clone(x), lambda x: (_C.clone(x), ()), backward)
    x = leaf(2.0)
    a = op(x)
    b = a * 3
    c = a * 4
    d = b * c + a
    d.backward()
    assert calls == [[2 * 12 * 2 + 1]] and x.grad.tolist() == [49]


def test_gradients_of_several_outputs():
    x = leaf(3.0, 1.0, 2.0)
    values, indices = x.reshape(1, 3).max(1)
    assert not indices.requires_grad and values.requires_grad
    (values * 2).backward()
    assert x.grad.tolist() == [2, 0, 0]
    a, b = leaf(1.0, 2.0, 3.0).split(2)
    (a.sum() + b.sum() * 5).backward()


def test_gradient_argument():
    x = leaf(1.0, 2.0)
    (x * 2).backward(fastnn.tensor([1.0, 10.0]))
    (x * 2).backward(np.array([1.0, 10.0], np.float32))
    assert x.grad.tolist() == [4, 40]
    x.backward(fastnn.ones(2))
    assert x.grad.tolist() == [5, 41]
    one = leaf(5.0).reshape(1, 1)
    one.backward()
    expanded = leaf(1.0, 1.0)
    (expanded * 3).backward(fastnn.tensor(2.0).expand(2))
    assert expanded.grad.tolist() == [6, 6]


def test_errors():
    x = leaf(1.0, 2.0)
    y = x * x
    for call, error, text in (
        (lambda: y.backward(), RuntimeError, "only for one element"),
        (lambda: y.backward(fastnn.ones(3)), ValueError, r"gradient has shape \(3,\)"),
        (lambda: y.backward(fastnn.ones(2, dtype=np.float64)), ValueError, "float64"),
        (lambda: y.backward(1.0), TypeError, "gradient is a float"),
        (lambda: fastnn.ones(1).backward(), RuntimeError, "does not require a gradient"),
        (lambda: fastnn.tensor([1]).requires_grad_(), ValueError, "only floating tensors"),
        (lambda: y.requires_grad_(False), RuntimeError, "detach"),
        (lambda: setattr(x, "grad", fastnn.ones(3)), ValueError, "grad: got shape"),
        (lambda: setattr(x, "grad", np.ones(2)), TypeError, "grad: expected a Tensor"),
        (lambda: setattr(x, "grad", x), ValueError, "grad"),
    ):
        with pytest.raises(error, match=text):
            call()
    y.sum().backward()
    assert x.grad.tolist() == [2, 4]


def test_second_backward_says_so():
    x = leaf(1.0, 2.0)
    y = (x * x).sum()
    y.backward()
    with pytest.raises(RuntimeError, match="already differentiated"):
        y.backward()
    assert x.grad.tolist() == [2, 4]


def test_an_error_in_backward_reaches_the_caller_and_leaves_the_tape_usable():
    def backward(ctx, grad):
        raise KeyError("mine")

    op = _C.Op("bad", lambda x: _C.clone(x), lambda x: (_C.clone(x), ()), backward)
    x = leaf(1.0)
    y = op(x) * 2 + x
    with pytest.raises(KeyError, match="mine"):
        y.backward()
    (x * 3).backward()
    bad = _C.Op("bad", lambda x: _C.clone(x), lambda x: (_C.clone(x), ()), lambda ctx, grad: 3)
    with pytest.raises(TypeError, match="bad: backward"):
        bad(x).backward()
    with pytest.raises(TypeError, match="record"):
        _C.Op("bad", None, lambda x: x, backward)(x)


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t.add_(1),
        lambda t: t.zero_(),
        lambda t: t.__setitem__(0, 5.0),
        lambda t: t[1:].mul_(2),
        lambda t: t.view(2, 1).copy_(fastnn.ones(2, 1)),
        lambda t: t.detach().fill_(3),
    ],
)
def test_changes_of_saved_tensors_are_detected(change):
    x, other = leaf(1.0, 2.0), fastnn.tensor([3.0, 4.0])
    y = (x * other).sum()
    with fastnn.no_grad():
        change(other)
    with pytest.raises(RuntimeError, match="changed in place"):
        y.backward()
    out = F.relu(x)  # an output that is saved
    y = out.sum()
    with fastnn.no_grad():
        change(out)
    with pytest.raises(RuntimeError, match="changed in place"):
        y.backward()
    h = x + other  # saves nothing
    with fastnn.no_grad():
        change(other)
    h.sum().backward()


def test_parameters_may_change_after_backward():
    w = leaf(1.0, 2.0)
    for _ in range(3):
        (w * w).sum().backward()
        with fastnn.no_grad():
            w.sub_(w.grad, alpha=0.25)
        w.grad = None
    assert w.tolist() == [0.125, 0.25] and w.requires_grad and w.is_leaf


def test_deep_chain_does_not_overflow_the_stack():
    x = leaf(1.0)
    y = x
    for _ in range(100_000):
        y = y + 0.0
    y.backward()
    assert x.grad.tolist() == [1]
    y = x
    for _ in range(100_000):
        y = y * 1.0
    del y


def test_graphs_are_freed_without_the_garbage_collector():
    gc.collect()
    gc.disable()
    try:
        x = leaf(1.0, 2.0)
        mid = F.relu(x * x)
        out = (mid[0] + fastnn.cat([mid, mid]).sum()).exp()
        watch = [weakref.ref(mid), weakref.ref(out)]
        used = _C.memory_stats()["in_use"]
        out.backward()
        del mid, out
        assert [ref() for ref in watch] == [None, None]
        h = x * 2
        h += x
        h[0] = 3.0
        watch = weakref.ref(h)
        del h
        assert watch() is None
        assert _C.memory_stats()["in_use"] <= used
    finally:
        gc.enable()


def test_training_steps_keep_no_memory(rng):
    w = fastnn.tensor(rng.standard_normal((50, 50)).astype(np.float32), requires_grad=True)

    def step():
        w.grad = None
        (F.relu(w * w + 1).mean() + (w / 3).sum()).backward()

    step()
    before = _C.memory_stats()["in_use"]
    for _ in range(5):
        step()
    assert _C.memory_stats()["in_use"] == before


def test_switches():
    x = leaf(1.0)
    with fastnn.no_grad():
        assert not fastnn.is_grad_enabled() and not (x * 2).requires_grad and (x * 2).is_leaf
        with fastnn.enable_grad():
            assert (x * 2).requires_grad
        assert not fastnn.is_grad_enabled()
        with fastnn.set_grad_enabled(True):
            assert fastnn.is_grad_enabled()
        assert not fastnn.is_grad_enabled()
    assert fastnn.is_grad_enabled()
    with pytest.raises(KeyError), fastnn.no_grad():
        raise KeyError
    assert fastnn.is_grad_enabled()

    @fastnn.no_grad()
    def evaluate(v):
        """Documented."""
        return (v * 2).requires_grad

    @fastnn.no_grad
    def bare(v):
        return (v * 2).requires_grad

    @fastnn.set_grad_enabled(False)
    def third(v):
        return (v * 2).requires_grad

    assert fastnn.is_grad_enabled()
    assert not evaluate(x) and not bare(x) and not third(x) and evaluate.__doc__ == "Documented."
    fastnn.set_grad_enabled(False)
    assert not fastnn.is_grad_enabled()
    fastnn.set_grad_enabled(True)


def test_the_switch_is_per_thread():
    seen = []
    with fastnn.no_grad():
        thread = threading.Thread(target=lambda: seen.append(fastnn.is_grad_enabled()))
        thread.start()
        thread.join()
    assert seen == [True]


def test_detach_and_leaves():
    x = leaf(1.0, 2.0)
    y = x * 2
    d = y.detach()
    assert not d.requires_grad and d.is_leaf and d.data_ptr() == y.data_ptr() and d.grad_fn is None
    assert y.grad_fn.name == "mul" and not y.is_leaf and x.is_leaf and fastnn.ones(1).is_leaf
    assert not (fastnn.ones(2) * 2).requires_grad
    assert not (x > 1).requires_grad and not x.argmax().requires_grad and not x.long().requires_grad


def test_numpy_input_gives_a_tensor_where_a_gradient_is_wanted():
    x, a = leaf(1.0, 2.0), np.ones(2, np.float32)
    assert isinstance(fastnn.maximum(a, x), fastnn.Tensor)
    with fastnn.no_grad():
        assert isinstance(fastnn.maximum(a, x), np.ndarray)
