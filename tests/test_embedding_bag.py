"""embedding_bag against torch's in float64, forward and backward; index errors, threads; the module."""

import fastnn
import fastnn.functional as F
import numpy as np
import pytest
from fastnn import _C
from guarded import guarded, poison
from test_embedding import BF16, TOLERANCE

torch = pytest.importorskip("torch")

INDEX = np.array([3, 1, 10, 3, 5, 0, 3, 3, 10, 7])
OFFSETS = np.array([0, 0, 3, 4, 9, 9])  # bags of 0, 3, 1, 5, 0 and 1


def expected(weight, grad, index, offsets, samples=None, **kwargs):
    """In float64 by torch, whose scale_grad_by_freq divides by the number of another index (2.13)."""
    by_frequency = kwargs.pop("scale_grad_by_freq", False)
    w = torch.tensor(weight.astype(np.float64), requires_grad=True)
    s = None if samples is None else torch.tensor(samples.astype(np.float64), requires_grad=True)
    at = None if offsets is None else torch.tensor(offsets)
    y = torch.nn.functional.embedding_bag(torch.tensor(index), w, at, per_sample_weights=s, **kwargs)
    y.backward(torch.tensor(grad.astype(np.float64)))
    if by_frequency:
        w.grad /= torch.tensor(np.maximum(np.bincount(index.ravel(), minlength=len(weight)), 1))[:, None]
    return y.detach().numpy(), w.grad.numpy(), None if s is None else s.grad.numpy()


def check(weight, index, offsets, tolerance, rng, samples=None, **kwargs):
    bags = len(index) if offsets is None else len(offsets) - bool(kwargs.get("include_last_offset"))
    grad = rng.standard_normal((bags, weight.shape[1])).astype(weight.dtype)
    w = fastnn.from_numpy(weight)
    w.requires_grad = True
    s = None
    if samples is not None:
        s = fastnn.from_numpy(samples)
        s.requires_grad = True
    y = F.embedding_bag(index, w, offsets, per_sample_weights=s, **kwargs)
    y.backward(fastnn.tensor(grad))
    assert y.dtype == weight.dtype == w.grad.dtype
    found = (y.detach().numpy(), w.grad.numpy(), None if s is None else s.grad.numpy())
    for ours, theirs in zip(found, expected(weight, grad, index, offsets, samples, **kwargs), strict=True):
        if theirs is not None:
            np.testing.assert_allclose(ours.astype(np.float64), theirs, rtol=tolerance, atol=4 * tolerance)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("width", [1, 7, 8, 9, 15, 16, 17, 31, 33, 130])
def test_values_and_gradients(width, dtype, isa, rng):
    weight = rng.standard_normal((11, width)).astype(dtype)
    tolerance = 2 * TOLERANCE[dtype]
    for mode in ("sum", "mean", "max"):
        check(weight, INDEX, OFFSETS, tolerance, rng, mode=mode)
        check(weight, INDEX, OFFSETS, tolerance, rng, mode=mode, padding_idx=3)
        check(
            weight, INDEX, np.append(OFFSETS, 10), tolerance, rng, mode=mode, include_last_offset=True, padding_idx=-1
        )
        check(weight, INDEX.reshape(2, 5), None, tolerance, rng, mode=mode)
        if mode != "max":
            check(weight, INDEX, OFFSETS, tolerance, rng, mode=mode, scale_grad_by_freq=True)
    samples = rng.standard_normal(10).astype(dtype)
    check(weight, INDEX, OFFSETS, 2 * tolerance, rng, samples, mode="sum")
    check(weight, INDEX, OFFSETS, 2 * tolerance, rng, samples, mode="sum", padding_idx=10)
    check(weight, INDEX.reshape(5, 2), None, 2 * tolerance, rng, samples.reshape(5, 2), mode="sum")


def test_layouts_and_empty(isa, rng):
    weight = rng.standard_normal((22, 18)).astype(np.float32)
    for view in (
        weight[::2, ::2],
        weight[:11, 8::-1],
        np.asfortranarray(weight),
        np.broadcast_to(weight[:1], (11, 18)),
    ):
        check(view, INDEX, OFFSETS, 1e-6, rng, mode="mean")
        check(view, INDEX, OFFSETS, 1e-5, rng, rng.standard_normal(20).astype(np.float32)[::2], mode="sum")
    for index, offsets in ((INDEX[:0], OFFSETS[:0]), (INDEX[:0], np.array([0, 0])), (INDEX, OFFSETS[:1])):
        check(weight, index, offsets, 1e-6, rng, mode="sum")
    assert F.embedding_bag(np.zeros((3, 0), np.int64), weight).shape == (3, 18)
    assert F.embedding_bag(INDEX, weight[:, :0], OFFSETS).shape == (6, 0)
    np.testing.assert_array_equal(
        F.embedding_bag(INDEX.astype(np.int32), weight, OFFSETS.astype(np.int32)),
        F.embedding_bag(INDEX, weight, OFFSETS),
    )


def test_max_norm(rng):
    weight = rng.standard_normal((11, 6)).astype(np.float32)
    theirs = torch.tensor(weight)
    y = F.embedding_bag(INDEX, weight, OFFSETS, max_norm=1.0)
    z = torch.nn.functional.embedding_bag(torch.tensor(INDEX), theirs, torch.tensor(OFFSETS), max_norm=1.0)
    np.testing.assert_allclose(y, z.numpy(), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(weight, theirs.numpy(), rtol=1e-6, atol=1e-6)


def test_special_values(isa):
    weight = np.array([[np.nan, 1], [2, np.nan], [np.inf, 3], [1, -np.inf]], np.float32)
    index, offsets = np.array([0, 1, 2, 2, 3, 3, 0]), np.array([0, 2, 4])
    for mode in ("sum", "mean", "max"):
        y = F.embedding_bag(index, weight, offsets, mode=mode)
        z = torch.nn.functional.embedding_bag(*map(torch.tensor, (index, weight, offsets)), mode=mode)
        np.testing.assert_array_equal(y, z.numpy())


def test_guarded_memory(isa, rng):
    for width in (1, 7, 17, 33):
        weight, samples = rng.standard_normal((11, width)).astype(np.float32), rng.random(10).astype(np.float32)
        for at in ("start", "end"):
            poison(weight.shape, (6, width))
            for mode in ("sum", "max"):
                extra = guarded(samples, at) if mode == "sum" else None
                y = F.embedding_bag(
                    guarded(INDEX, at), guarded(weight, at), guarded(OFFSETS, at), mode=mode, per_sample_weights=extra
                )
                assert np.isfinite(y).all()


def test_same_bits_for_any_number_of_threads(isa, rng):
    weight = rng.standard_normal((50, 40)).astype(np.float32)
    index, offsets = rng.integers(0, 50, 20000), np.arange(0, 20000, 7)
    grad = fastnn.tensor(rng.standard_normal((len(offsets), 40)).astype(np.float32))
    results = set()
    for threads in (1, 2, 3, 8):
        _C.set_num_threads(threads)
        found = b""
        for mode in ("sum", "mean", "max"):
            w = fastnn.tensor(weight, requires_grad=True)
            y = F.embedding_bag(index, w, offsets, mode=mode)
            y.backward(grad)
            found += y.detach().numpy().tobytes() + w.grad.numpy().tobytes()
        results.add(found)
    assert len(results) == 1


def test_errors(rng):
    weight = rng.standard_normal((11, 4)).astype(np.float32)
    samples = np.ones(10, np.float32)

    def bad(error, match, *args, **kwargs):
        with pytest.raises(error, match="embedding_bag: .*" + match):
            F.embedding_bag(*args, **kwargs)

    bad(IndexError, "index 11 ", np.array([0, 11]), weight, np.array([0]))
    bad(IndexError, "index -1 ", np.array([0, -1]), weight, np.array([0]))
    bad(ValueError, "mode is 'x'", INDEX, weight, OFFSETS, mode="x")
    bad(ValueError, "offsets is None", INDEX, weight)
    bad(ValueError, "offsets beside input", INDEX.reshape(2, 5), weight, OFFSETS)
    bad(ValueError, "input has shape", INDEX.reshape(1, 2, 5), weight)
    bad(ValueError, "offsets begins with 1", INDEX, weight, OFFSETS + 1)
    bad(ValueError, "rising offsets", INDEX, weight, np.array([0, 5, 3]))
    bad(ValueError, "rising offsets", INDEX, weight, np.array([0, 11]))
    bad(ValueError, "rising offsets", INDEX, weight, np.array([0, -3]))
    bad(ValueError, "offsets is empty", INDEX, weight, OFFSETS[:0], include_last_offset=True)
    bad(ValueError, "weight has shape", INDEX, weight[0], OFFSETS)
    bad(ValueError, "padding_idx is 11", INDEX, weight, OFFSETS, padding_idx=11)
    bad(ValueError, "per_sample_weights has shape", INDEX, weight, OFFSETS, mode="sum", per_sample_weights=samples[1:])
    bad(NotImplementedError, "mode 'mean'", INDEX, weight, OFFSETS, per_sample_weights=samples)
    bad(NotImplementedError, "sparse", INDEX, weight, OFFSETS, sparse=True)
    bad(NotImplementedError, "scale_grad_by_freq", INDEX, weight, OFFSETS, mode="max", scale_grad_by_freq=True)
    bad(NotImplementedError, "weight has dtype int64", INDEX, weight.astype(np.int64), OFFSETS)
    bad(NotImplementedError, "input has dtype float", INDEX.astype(np.float32), weight, OFFSETS)
    bad(NotImplementedError, "offsets has dtype float", INDEX, weight, OFFSETS.astype(np.float32))
    half = samples.astype(BF16)
    bad(TypeError, "per_sample_weights has dtype", INDEX, weight, OFFSETS, mode="sum", per_sample_weights=half)


def test_torch_tensors(rng):
    weight = rng.standard_normal((11, 5)).astype(np.float32)
    for index, offsets in ((INDEX, OFFSETS), (INDEX.reshape(2, 5), None)):
        results = []
        for function in (F.embedding_bag, torch.nn.functional.embedding_bag):
            w = torch.tensor(weight, requires_grad=True)
            y = function(torch.tensor(index), w, None if offsets is None else torch.tensor(offsets), mode="max")
            y.sum().backward()
            results.append((y.detach(), w.grad))
        for ours, theirs in zip(*results, strict=True):
            torch.testing.assert_close(ours, theirs)


def test_module(rng):
    for kwargs in ({}, {"mode": "sum", "padding_idx": -1}, {"mode": "max", "include_last_offset": True}):
        ours, theirs = fastnn.EmbeddingBag(11, 4, **kwargs), torch.nn.EmbeddingBag(11, 4, **kwargs)
        assert list(ours.state_dict()) == list(theirs.state_dict())
        ours.load_state_dict(theirs.state_dict())
        offsets = np.append(OFFSETS, 10)
        y, z = ours(INDEX, offsets), theirs(torch.tensor(INDEX), torch.tensor(offsets))
        np.testing.assert_allclose(y.detach().numpy(), z.detach().numpy(), rtol=1e-6, atol=1e-6)
        assert repr(ours) == repr(theirs)
    samples = rng.random(10).astype(np.float32)
    ours = fastnn.EmbeddingBag.from_pretrained(rng.standard_normal((11, 4)).astype(np.float32), mode="sum")
    assert not ours.weight.requires_grad and ours(INDEX, OFFSETS, samples).shape == (6, 4)
    fastnn.manual_seed(0)
    values = fastnn.EmbeddingBag(100, 50, padding_idx=3).weight.detach().numpy()
    assert not values[3].any() and abs(values.std() - 1) < 0.05
    with pytest.raises(NotImplementedError, match="EmbeddingBag: sparse"):
        fastnn.EmbeddingBag(3, 4, sparse=True)
