"""Captured steps (fastnn.graph) beside the same steps run as usual: bit for bit the same numbers."""

from __future__ import annotations

import fastnn
import fastnn.functional as F
import numpy as np
import pytest
from fastnn import _C, backends

pytestmark = [pytest.mark.full, pytest.mark.usefixtures("gpu")]


def network(seed=0):
    fastnn.manual_seed(seed)
    return fastnn.Sequential(
        fastnn.Conv2d(1, 3, 3), fastnn.ReLU(), fastnn.MaxPool2d(2), fastnn.Flatten(), fastnn.Linear(27, 5)
    ).cuda()


def batches(rng, sizes):
    return [(rng.standard_normal((n, 1, 8, 8)).astype(np.float32), rng.integers(0, 5, n)) for n in sizes]


def training(model, optimizer):
    def step(images, labels):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        return loss

    return step


def same(model, other):
    for (name, a), (_, b) in zip(model.named_parameters(), other.named_parameters(), strict=True):
        np.testing.assert_array_equal(a.cpu().numpy(), b.cpu().numpy(), err_msg=name)


def pair(optimizer, **options):
    """(model, optimizer, step) captured and as usual."""
    result = []
    for captured in (True, False):
        model = network()
        opt = optimizer(model.parameters(), **options)
        step = training(model, opt)
        result.append((model, opt, fastnn.graph(step) if captured else step))
    return result


def on_gpu(batch):
    return [fastnn.tensor(x, device="cuda") for x in batch]


@pytest.mark.parametrize("optimizer", ["SGD", "Lion"])
def test_training(rng, optimizer):
    (model, opt, step), (other, other_opt, usual) = pair(
        getattr(fastnn.optim, optimizer), lr=0.01, **({"momentum": 0.9} if optimizer == "SGD" else {})
    )
    runs = []
    model.register_forward_hook(lambda *_: runs.append(1))
    for i, batch in enumerate(batches(rng, [4, 4, 4, 3, 4, 3, 3, 4, 4])):
        if i == 7:
            opt.param_groups[0]["lr"] = other_opt.param_groups[0]["lr"] = 0.003
        garbage = [fastnn.tensor(np.full(s, np.nan, np.float32), device="cuda") for s in (64, 135, 27, 5, 432)]
        a, b = step(*on_gpu(batch)), usual(*on_gpu(batch))
        assert a.item() == b.item() and not a.requires_grad
        same(model, other)
        for p, q in zip(model.parameters(), other.parameters(), strict=True):
            np.testing.assert_array_equal(p.grad.cpu().numpy(), q.grad.cpu().numpy())
        del garbage
        fastnn.empty_cache()
    # Each size as usual and captured, and captured anew with the new learning rate.
    assert len(runs) == 5


def test_gradients_by_a_graph_and_a_step_after_it(rng):
    (model, opt, _), (other, other_opt, usual) = pair(fastnn.optim.AdamW, lr=0.01)

    @fastnn.graph
    def gradients(images, labels):
        loss = F.cross_entropy(model(images), labels)
        loss.backward()
        return {"loss": loss}

    for batch in batches(rng, [4, 4, 2, 4, 2, 2, 4]):
        opt.zero_grad()
        loss = gradients(*batch)["loss"]  # numpy arrays
        opt.step()
        assert loss.item() == usual(*on_gpu(batch)).item()
        same(model, other)


@pytest.mark.parametrize("set_to_none", [True, False])
def test_gradients_add_up_as_usual(rng, set_to_none):
    w, v = (fastnn.tensor(np.ones((3, 2), np.float32), device="cuda", requires_grad=True) for _ in range(2))

    def backward(leaf):
        def run(x):
            (x @ leaf).sum().backward()

        return run

    step, usual = fastnn.graph(backward(w)), backward(v)
    for i in range(9):
        x = rng.standard_normal((2, 3)).astype(np.float32)
        step(fastnn.tensor(x, device="cuda"))
        usual(fastnn.tensor(x, device="cuda"))
        np.testing.assert_array_equal(w.grad.cpu().numpy(), v.grad.cpu().numpy(), err_msg=str(i))
        if i in (2, 3, 6):
            for leaf in (w, v):
                if set_to_none:
                    leaf.grad = None
                else:
                    leaf.grad.zero_()


def test_inference_and_arguments(rng):
    model = network()

    @fastnn.graph
    def scores(inputs, scale, *, names=("a",)):
        with fastnn.no_grad():
            first, (second,) = inputs["x"], inputs["more"]
            return [model(first) * scale, model(second)], names

    for n in (2, 2, 2, 1, 1):
        a, b = (rng.standard_normal((n, 1, 8, 8)).astype(np.float32) for _ in range(2))
        for scale in (2.0, 3.0):
            (x, y), names = scores({"x": a, "more": (fastnn.tensor(b, device="cuda"),)}, scale)
            assert names == ("a",) and not x.requires_grad
            np.testing.assert_array_equal(x.cpu().numpy(), (model(on_gpu([a])[0]) * scale).cpu().detach().numpy())
            np.testing.assert_array_equal(y.cpu().numpy(), model(on_gpu([b])[0]).cpu().detach().numpy())


def test_memory_is_its_own_and_comes_back(rng):
    def in_use():
        stats = backends.memory_stats()
        return stats["in_use"], stats["idle"]

    x = fastnn.tensor(rng.standard_normal(1000).astype(np.float32), device="cuda")
    fastnn.empty_cache()
    before = in_use()
    chain = fastnn.graph(lambda a: F.relu(F.tanh(F.tanh(a) * 2) + 1) * 3)
    wanted = F.relu(F.tanh(F.tanh(x) * 2) + 1).cpu().numpy() * 3
    results = [chain(x) for _ in range(3)]
    others = [F.tanh(x) for _ in range(8)]  # not in the memory of the graph
    again = chain(x)
    assert again is results[1]
    np.testing.assert_array_equal(again.cpu().numpy(), wanted)
    np.testing.assert_array_equal(others[0].cpu().numpy(), F.tanh(x).cpu().numpy())
    del results, others
    kept = again
    del chain, again
    fastnn.empty_cache()
    np.testing.assert_array_equal(kept.cpu().numpy(), wanted)  # a result outlives its graph
    del kept
    fastnn.empty_cache()
    assert in_use() == before


def test_what_the_step_frees_stays_until_it_ends(rng):
    """Memory that was there before, is read in the step, and is dropped by it."""
    x = fastnn.tensor(rng.standard_normal(500).astype(np.float32), device="cuda")
    state = {"first": None}

    def step(a):
        y = a + state["first"] if state["first"] is not None else a + 1
        state["first"] = None
        return y

    run = fastnn.graph(step)
    run(x)
    state["first"] = F.relu(x)
    for _ in range(3):
        y = run(x)
        fastnn.empty_cache()
        np.testing.assert_array_equal(y.cpu().numpy(), (x + F.relu(x)).cpu().numpy())


def test_errors_leave_it_as_it_was(rng):
    model = network()
    batch = on_gpu(batches(rng, [3])[0])
    adam = training(model, fastnn.optim.Adam(model.parameters()))
    reads = fastnn.graph(lambda images, labels: F.cross_entropy(model(images), labels).item())
    cases = [
        (fastnn.graph(adam), NotImplementedError, "Adam.step: .*call step\\(\\) after it"),
        (reads, RuntimeError, "not while a step is captured"),
        (fastnn.graph(lambda x, _: F.dropout(x, 0.5)), NotImplementedError, "dropout: a captured step"),
    ]
    for step, error, message in cases:
        step(*batch)
        grads = [p.grad for p in model.parameters()]
        for _ in range(2):
            with pytest.raises(error, match=message):
                step(*batch)
            assert not _C.cuda_capturing()
            assert all(p.grad is g for p, g in zip(model.parameters(), grads, strict=True))
        F.relu(batch[0]).cpu()
    with pytest.raises(ValueError, match="requires a gradient"):
        fastnn.graph(F.relu)(fastnn.ones(3, device="cuda", requires_grad=True))
    with pytest.raises(TypeError, match="an argument is a bytearray"):
        fastnn.graph(lambda x, y: x)(batch[0], bytearray())
    with pytest.raises(ValueError, match="graph: device is 'gpu'"):
        fastnn.graph(F.relu, device="gpu")(batch[0])


def test_momentum_does_not_begin_in_it(rng):
    model = network()
    opt = fastnn.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    x, y = on_gpu(batches(rng, [3])[0])

    def step(images, labels):
        loss = F.cross_entropy(model(images), labels)
        loss.backward()
        if step.calls:
            opt.step()
        step.calls += 1

    step.calls = 0
    run = fastnn.graph(step)
    run(x, y)
    with pytest.raises(RuntimeError, match="has no state yet"):
        run(x, y)


def test_bad_labels_and_indices_are_nan(rng):
    x = fastnn.tensor(rng.standard_normal((3, 5)).astype(np.float32), device="cuda")
    weight = fastnn.tensor(rng.uniform(1, 2, 5).astype(np.float32), device="cuda")
    table = fastnn.tensor(rng.standard_normal((5, 4)).astype(np.float32), device="cuda", requires_grad=True)

    @fastnn.graph
    def step(labels):
        rows = F.embedding(labels, table)
        rows.sum().backward()
        log = F.log_softmax(x, 1)
        return F.cross_entropy(x, labels), F.cross_entropy(x, labels, weight), F.nll_loss(log, labels), rows

    good = fastnn.tensor([1, 4, 0], device="cuda")
    step(good)
    for bad in (None, 5, -1, 1 << 40, -(1 << 62)):
        labels = good if bad is None else fastnn.tensor([1, bad, 0], device="cuda")
        *losses, rows = step(labels)
        assert [np.isnan(loss.item()) for loss in losses] == [bad is not None] * 3
        np.testing.assert_array_equal(np.isnan(rows.cpu().numpy()).all(1), [False, bad is not None, False])
        np.testing.assert_array_equal(rows.cpu().numpy()[0], table.cpu().detach().numpy()[1])
