"""embedding: values, gradients, renormalisation, index errors, threads; the module."""

import fastnn
import fastnn.functional as F
import ml_dtypes
import numpy as np
import pytest
from fastnn import _C, reference
from guarded import guarded, poison

# Not max_norm, which is for the CPU.
ON_CUDA = {
    "test_values_and_gradient",
    "test_many_indices",
    "test_against_torch",
    "test_layouts",
    "test_any_dtype_of_weight",
    "test_guarded_memory",
    "test_empty",
    "test_limits",
    "test_same_bits_for_any_number_of_threads",
}
BF16 = np.dtype(ml_dtypes.bfloat16)
TOLERANCE = {np.dtype(np.float32): 1e-6, BF16: 1e-2, np.dtype(np.float16): 2e-3, np.dtype(np.float64): 1e-14}


def gradient(grad, index, shape, padding_idx=None, by_frequency=False):
    """In float64, from the definition."""
    out = np.zeros(shape)
    np.add.at(out, index.reshape(-1), grad.reshape(index.size, shape[1]).astype(np.float64))
    if by_frequency:
        out /= np.maximum(np.bincount(index.reshape(-1), minlength=shape[0]), 1)[:, None]
    if padding_idx is not None:
        out[padding_idx] = 0
    return out


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("width", [1, 7, 8, 9, 15, 16, 17, 31, 33, 130])
def test_values_and_gradient(dtype, width, isa, rng):
    weight = rng.standard_normal((11, width)).astype(dtype)
    for shape in ((), (5,), (3, 7), (2, 3, 40)):
        for kind in (np.int64, np.int32):
            index = rng.integers(0, 11, shape).astype(kind)
            g = rng.standard_normal((*shape, width)).astype(dtype)
            w = fastnn.tensor(weight, requires_grad=True)
            y = F.embedding(index, w)
            np.testing.assert_array_equal(y.numpy(), weight[index])
            y.backward(fastnn.tensor(g))
            assert w.grad.dtype == dtype
            np.testing.assert_allclose(
                w.grad.numpy().astype(np.float64),
                gradient(g, index, weight.shape),
                rtol=TOLERANCE[dtype],
                atol=4 * TOLERANCE[dtype],
            )


def test_many_indices(isa, rng):
    """More than a GPU sorts and scans at a time, with more than one digit."""
    index, g = rng.integers(0, 300, 5000), rng.standard_normal((5000, 2))
    w = fastnn.tensor(rng.standard_normal((300, 2)), requires_grad=True)
    F.embedding(index, w).backward(fastnn.tensor(g))
    np.testing.assert_allclose(w.grad.numpy(), gradient(g, index, (300, 2)), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kwargs", [{}, {"padding_idx": 2}, {"padding_idx": -1}, {"scale_grad_by_freq": True}], ids=str)
def test_against_torch(kwargs, isa, rng):
    torch = pytest.importorskip("torch")
    weight, g = rng.standard_normal((9, 20)), rng.standard_normal((4, 6, 20))
    index = rng.integers(0, 9, (4, 6))
    exact = torch.tensor(weight, requires_grad=True)
    expected = torch.nn.functional.embedding(torch.tensor(index), exact, **kwargs)
    expected.backward(torch.tensor(g))
    w = fastnn.tensor(weight, requires_grad=True)
    y = F.embedding(fastnn.tensor(index), w, **kwargs)
    y.backward(fastnn.tensor(g))
    np.testing.assert_array_equal(y.numpy(), expected.detach().numpy())
    np.testing.assert_allclose(w.grad.numpy(), exact.grad.numpy(), rtol=1e-13, atol=1e-14)
    np.testing.assert_array_equal(reference.embedding(index, weight, **kwargs), expected.detach().numpy())


def test_numerical_gradient(rng):
    weight, g, index = rng.standard_normal((4, 3)), rng.standard_normal((5, 3)), np.array([0, 3, 3, 1, 3])
    w = fastnn.tensor(weight, requires_grad=True)
    F.embedding(index, w).backward(fastnn.tensor(g))
    expected = reference.numerical_gradient(lambda v: F.embedding(index, v), [weight], grad_output=g)
    np.testing.assert_allclose(w.grad.numpy(), expected, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("p", [2.0, 1.0, 3.5, np.inf, -np.inf, 0.0])
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_max_norm(dtype, p, rng):
    torch = pytest.importorskip("torch")
    weight = (rng.standard_normal((7, 5)) * 2).astype(dtype)
    index = np.array([[1, 4, 4], [0, 6, 1]])
    exact = torch.tensor(weight.astype(np.float64))
    torch.nn.functional.embedding(torch.tensor(index), exact, max_norm=1.5, norm_type=p)
    for w in (fastnn.tensor(weight, requires_grad=True), weight.copy()):
        y = F.embedding(index, w, max_norm=1.5, norm_type=p)
        after = w.detach().numpy() if isinstance(w, fastnn.Tensor) else w
        np.testing.assert_allclose(after.astype(np.float64), exact.numpy(), rtol=TOLERANCE[dtype])
        np.testing.assert_array_equal(np.asarray(y.detach() if isinstance(y, fastnn.Tensor) else y), after[index])
        np.testing.assert_array_equal(after[[2, 3, 5]], weight[[2, 3, 5]])


def test_max_norm_is_seen_by_the_tape(rng):
    w = fastnn.tensor(rng.standard_normal((3, 4)).astype(np.float32) * 9, requires_grad=True)
    squares = w * w
    F.embedding(np.array([1]), w, max_norm=1.0)
    with pytest.raises(RuntimeError, match="in place"):
        squares.sum().backward()
    view = fastnn.from_numpy(np.full((2, 4), 9.0, np.float32).T)
    F.embedding(np.array([0]), view, max_norm=1.0)
    np.testing.assert_allclose(view.numpy(), [[0.5**0.5] * 2] + [[9.0] * 2] * 3, rtol=1e-6)
    frozen = np.ones((2, 2), np.float32)
    frozen.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        F.embedding(np.array([0]), frozen, max_norm=0.5)


def test_layouts(isa, rng):
    weight = rng.standard_normal((12, 10)).astype(np.float32)
    index = rng.integers(0, 5, (4, 6))
    for table in (weight.T, weight[::2], weight[::-1, ::3], np.broadcast_to(weight[:1], (9, 10)), weight[:, :1]):
        for at in (index, index.T, index[::2, ::-1], np.broadcast_to(index[0, :1], (3, 4))):
            np.testing.assert_array_equal(F.embedding(at, table), table[at])
            w = fastnn.tensor(table, requires_grad=True)
            y = F.embedding(at, w)
            g = np.broadcast_to(np.float32(0.5), y.shape)
            y.backward(fastnn.from_numpy(g))
            np.testing.assert_allclose(w.grad.numpy(), gradient(g, at, table.shape), rtol=1e-6)


def test_any_dtype_of_weight(isa):
    for dtype in (np.int64, np.uint8, bool):
        weight = np.array([[1, 0], [0, 1]], dtype)
        np.testing.assert_array_equal(F.embedding(np.array([1, 1, 0]), weight), weight[[1, 1, 0]])


def test_guarded_memory(isa, rng):
    for width in (1, 7, 17, 33):
        weight, index = rng.standard_normal((5, width)).astype(np.float32), rng.integers(0, 5, 9)
        for at in ("start", "end"):
            poison((5, width), (9, width))
            w = fastnn.from_numpy(guarded(weight, at))
            w.requires_grad = True
            y = F.embedding(guarded(index, at), w)
            y.backward(fastnn.from_numpy(guarded(y.detach().numpy(), at)))
            np.testing.assert_allclose(w.grad.numpy(), gradient(y.detach().numpy(), index, weight.shape), rtol=1e-6)


def test_empty(isa):
    for rows, width, shape in ((3, 0, (2,)), (3, 4, (0,)), (0, 4, (0, 2)), (3, 4, (2, 0))):
        w = fastnn.tensor(np.ones((rows, width), np.float32), requires_grad=True)
        y = F.embedding(np.zeros(shape, np.int64), w)
        assert y.shape == (*shape, width)
        y.backward(fastnn.tensor(np.ones(y.shape, np.float32)))
        np.testing.assert_array_equal(w.grad.numpy(), gradient(np.ones(y.shape), np.zeros(shape, int), w.shape))


def test_limits(isa):
    weight = np.array([[np.nan, np.inf, -0.0], [1.0, -np.inf, 3.0]], np.float32)
    w = fastnn.tensor(weight, requires_grad=True)
    y = F.embedding(np.array([0, 1, 0]), w)
    np.testing.assert_array_equal(y.numpy(), weight[[0, 1, 0]])
    assert np.signbit(y.numpy()[0, 2])
    y.backward(fastnn.tensor(np.array([[np.nan, np.inf, 1], [0, 0, 0], [1, -np.inf, 1]], np.float32)))
    np.testing.assert_array_equal(w.grad.numpy(), [[np.nan, np.nan, 2], [0, 0, 0]])


def test_same_bits_for_any_number_of_threads(isa, rng):
    weight = rng.standard_normal((701, 96)).astype(np.float32)
    index = np.minimum(rng.integers(0, 1400, (64, 33)), 700)  # one row is used by half of them
    g = rng.standard_normal((64, 33, 96)).astype(np.float32)
    grads = set()
    for threads in (1, 2, 3, 8):
        _C.set_num_threads(threads)
        w = fastnn.tensor(weight, requires_grad=True)
        F.embedding(index, w).backward(fastnn.tensor(g))
        grads.add(w.grad.numpy().tobytes())
    assert len(grads) == 1


def test_torch_tensors(rng):
    torch = pytest.importorskip("torch")
    weight, index = torch.tensor(rng.standard_normal((9, 20)) * 2), torch.tensor(rng.integers(0, 9, (4, 6)))
    results = []
    for function in (F.embedding, torch.nn.functional.embedding):
        w = weight.clone().requires_grad_()
        before = w._version
        y = function(index, w, padding_idx=3, max_norm=1.5, scale_grad_by_freq=True)
        assert w._version > before
        y.sum().backward()
        results.append((y.detach(), w.detach(), w.grad))
    for ours, theirs in zip(*results, strict=True):
        assert isinstance(ours, torch.Tensor)
        np.testing.assert_allclose(ours.numpy(), theirs.numpy(), rtol=1e-12)


def test_errors():
    weight = np.ones((4, 3), np.float32)
    for bad in (-1, 4, 10**15, -(2**63)):
        for at in (np.array([0, bad]), fastnn.tensor(np.array([[bad]]))):
            with pytest.raises(IndexError, match="embedding: input holds the index"):
                F.embedding(at, weight)
        w = weight * 9
        with pytest.raises(IndexError, match="input holds the index"):
            F.embedding(np.array([0, bad]), w, max_norm=1.0)
        np.testing.assert_array_equal(w, weight * 9)
    with pytest.raises(IndexError):
        F.embedding(np.array([0]), np.ones((0, 3), np.float32))
    for kind in (np.float32, np.uint8, bool):
        with pytest.raises(NotImplementedError, match="embedding: input has dtype"):
            F.embedding(np.zeros(2, kind), weight)
    for bad in (np.ones(3, np.float32), np.ones((2, 2, 2), np.float32), np.ones((), np.float32)):
        with pytest.raises(ValueError, match="embedding: weight has shape"):
            F.embedding(np.array([0]), bad)
    for bad in (4, -5):
        with pytest.raises(ValueError, match="embedding: padding_idx is"):
            F.embedding(np.array([0]), weight, bad)
    with pytest.raises(TypeError, match="padding_idx"):
        F.embedding(np.array([0]), weight, 1.0)
    with pytest.raises(NotImplementedError, match="sparse"):
        F.embedding(np.array([0]), weight, sparse=True)
    with pytest.raises(ValueError, match="grad has shape"):
        _C.embedding_backward(fastnn.tensor(weight), fastnn.tensor(np.array([0])), (4, 3), -1, False)
    with pytest.raises(ValueError, match="dimensions"):
        F.embedding(np.zeros((1,) * 8, np.int64), weight)


# ---- module ----------------------------------------------------------------------------------------------------------


def test_module(rng):
    fastnn.manual_seed(3)
    m = fastnn.Embedding(50, 40, padding_idx=-1)
    assert m.padding_idx == 49 and list(m.state_dict()) == ["weight"] and m.weight.requires_grad
    values = m.weight.detach().numpy()
    assert not values[49].any() and abs(values[:49].mean()) < 0.1 and abs(values[:49].std() - 1) < 0.1
    index = rng.integers(0, 50, (3, 4))
    y = m(index)
    np.testing.assert_array_equal(y.numpy(), values[index])
    y.sum().backward()
    assert not m.weight.grad.numpy()[49].any()
    assert repr(m) == "Embedding(50, 40, padding_idx=49)"
    assert fastnn.Embedding(3, 2, dtype="float64").weight.dtype == np.float64


def test_from_pretrained(rng):
    values = rng.standard_normal((5, 3)).astype(np.float32)
    m = fastnn.Embedding.from_pretrained(values, padding_idx=1)
    assert not m.weight.requires_grad and m.padding_idx == 1 and (m.num_embeddings, m.embedding_dim) == (5, 3)
    np.testing.assert_array_equal(m(np.array([1, 4])), values[[1, 4]])
    assert fastnn.Embedding.from_pretrained(fastnn.tensor(values), freeze=False).weight.requires_grad
    with pytest.raises(ValueError, match="two dimensions"):
        fastnn.Embedding.from_pretrained(values[0])


def test_module_like_torch(rng):
    torch = pytest.importorskip("torch")
    theirs = torch.nn.Embedding(6, 4, padding_idx=2, max_norm=0.8, scale_grad_by_freq=True)
    ours = fastnn.Embedding(6, 4, padding_idx=2, max_norm=0.8, scale_grad_by_freq=True)
    ours.load_state_dict(theirs.state_dict())
    assert repr(ours) == repr(theirs)
    index = np.array([[0, 2, 5], [5, 5, 1]])
    y, expected = ours(index), theirs(torch.tensor(index))
    np.testing.assert_allclose(y.numpy(), expected.detach().numpy(), rtol=1e-6)
    y.sum().backward()
    expected.sum().backward()
    np.testing.assert_allclose(ours.weight.grad.numpy(), theirs.weight.grad.numpy(), rtol=1e-6)


def test_module_errors():
    for bad in (5, -6):
        with pytest.raises(ValueError, match="padding_idx"):
            fastnn.Embedding(5, 2, padding_idx=bad)
    with pytest.raises(ValueError, match="num_embeddings"):
        fastnn.Embedding(-1, 2)
    with pytest.raises(NotImplementedError, match="sparse"):
        fastnn.Embedding(5, 2, sparse=True)
    with pytest.raises(ValueError, match="_weight has shape"):
        fastnn.Embedding(5, 2, _weight=np.ones((5, 3), np.float32))
