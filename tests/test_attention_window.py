"""Attention beyond torch's: windows, soft caps; few queries of many keys; rotary_embedding."""

import fastnn
import fastnn.functional as F
import numpy as np
import pytest
from fastnn import _C, reference
from guarded import guarded, poison
from test_attention import BF16, TOLERANCE, check, close, exact_gradients, kept, make, run

WINDOWS = [(0, 0), (3, -1), (-1, 2), (5, 140), (130, 0)]


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("window", WINDOWS, ids=str)
def test_windows(window, dtype, isa, rng):
    for sizes in ((20, 17, 8, 9), (120, 150, 4, 8)):
        arrays = make(rng, (2,), sizes, dtype)
        for causal in (False, True):
            check(arrays, TOLERANCE[dtype], is_causal=causal, window_size=window)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_window_with_the_rest(dtype, isa, rng):
    arrays = make(rng, (2, 4), (150, 170, 8, 4), dtype, kv_lead=(2, 2))
    mask = rng.standard_normal((150, 170)).astype(np.float32 if dtype == BF16 else dtype)
    for m in (mask > -0.5, mask if dtype != BF16 else mask.astype(BF16)):
        check(arrays, TOLERANCE[dtype], m, enable_gqa=True, window_size=(20, 3), softcap=1.5)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("softcap", [0.5, 30])
def test_softcap(softcap, dtype, isa, rng):
    for sizes in ((1, 1, 1, 1), (33, 31, 7, 16), (20, 150, 16, 17)):
        arrays = make(rng, (1, 2), sizes, dtype)
        check(arrays, TOLERANCE[dtype], softcap=softcap)
        mask = rng.standard_normal(sizes[:2]).astype(dtype)  # its gradient is of what is added after the cap
        check(arrays, TOLERANCE[dtype], mask, is_causal=True, softcap=softcap)


def test_a_window_hides_what_is_outside(isa, rng):
    """NaN outside of all windows is never read into a result; a query whose window holds no key gives 0."""
    q, k, v, g = make(rng, (1,), (300, 20, 8, 8))
    y, grads = run(q, k, v, g, window_size=(10, 0))
    assert not y[:, 30:].any() and not grads[0][:, 30:].any()
    long = make(rng, (1,), (4, 600, 8, 8))
    for a in long[1:3]:
        a[:, 10:] = np.nan
    y, grads = run(*long, window_size=(2, 6))
    assert np.isfinite(y).all() and np.isfinite(grads[0]).all() and not grads[1][:, 10:].any()


# ---- few queries of many keys ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("queries", [1, 2, 4])
def test_decoding(queries, dtype, isa, rng):
    for keys in (15, 17, 256, 257, 520):
        for width in ((16, 16), (33, 70)):
            arrays = make(rng, (1, 2), (queries, keys, *width), dtype)
            check(arrays, TOLERANCE[dtype])
    check(arrays, TOLERANCE[dtype], is_causal=True)
    check(arrays, TOLERANCE[dtype], window_size=(1, 300), softcap=2.0)


@pytest.mark.parametrize("dtype", [np.float32, BF16], ids=str)
def test_decoding_masks_and_groups(dtype, isa, rng):
    arrays = make(rng, (2, 6), (1, 600, 16, 24), dtype, kv_lead=(2, 2))
    for mask in (rng.random((2, 1, 1, 600)) < 0.5, np.arange(600) < 300, np.zeros(600, bool)):
        check(arrays, TOLERANCE[np.dtype(dtype)], mask, enable_gqa=True)
    check(arrays, TOLERANCE[np.dtype(dtype)], rng.standard_normal((6, 1, 600)).astype(dtype), enable_gqa=True)


def test_decoding_of_a_cache_that_is_a_view(isa, rng):
    """(N, S, H, E) in memory, and the first part of a longer cache; columns that are not contiguous."""
    cache = rng.standard_normal((2, 900, 3, 2, 16)).astype(np.float32)
    k, v = (cache[:, :777, :, i].transpose(0, 2, 1, 3) for i in range(2))
    q, g = (rng.standard_normal((2, 3, 1, 16)).astype(np.float32) for _ in range(2))
    check((q, k, v, g), 1e-5)
    check((q, *(np.asfortranarray(a) for a in (k, v)), g), 1e-5)


def test_decoding_drops(isa, rng):
    for queries, keys in ((1, 600), (3, 330)):
        arrays = make(rng, (1, 2), (queries, keys, 8, 8))
        fastnn.manual_seed(11)
        y, grads = run(*arrays, dropout_p=0.3)
        expected, exact = exact_gradients(*arrays, keep=kept((1, 2, queries, keys), 0.3, 11, 0), p=0.3)
        close(y, expected, 1e-5)
        for ours, theirs in zip(grads, exact, strict=True):
            close(ours, theirs, 4e-5)


def test_decoding_limits(isa, rng):
    q, k, v, g = make(rng, (2,), (1, 700, 16, 16))
    check((q * 100, k * 10, v, np.zeros_like(g)), 1e-4)
    for bad in (np.nan, np.inf):
        at = v.copy()
        at[0, 600, 2] = bad
        y = F.scaled_dot_product_attention(q, k, at)
        assert not np.isfinite(y[0, 0, 2]) and np.isfinite(np.delete(y, 2, axis=2)).all() and np.isfinite(y[1]).all()
        at = k.copy()
        at[0, 699, 0] = np.nan
        y = F.scaled_dot_product_attention(q, at, v)
        assert np.isnan(y[0]).all() and np.isfinite(y[1]).all()
    for at in ("start", "end"):
        poison(*(a.shape for a in (q, k, v)))
        assert np.isfinite(F.scaled_dot_product_attention(*(guarded(a, at) for a in (q, k, v)))).all()


def test_decoding_has_the_same_bits_for_any_number_of_threads(isa, rng):
    arrays = make(rng, (1, 4), (1, 3000, 16, 24), kv_lead=(1, 2))[:3]
    results = set()
    for threads in (1, 2, 3, 8):
        _C.set_num_threads(threads)
        results.add(F.scaled_dot_product_attention(*arrays, enable_gqa=True).tobytes())
    assert len(results) == 1


def test_errors(rng):
    q, k, v, _ = make(rng, (2,), (3, 5, 8, 6))
    name = "scaled_dot_product_attention: "
    for bad in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=name + "softcap is"):
            F.scaled_dot_product_attention(q, k, v, softcap=bad)
    with pytest.raises(TypeError, match=name + "softcap"):
        F.scaled_dot_product_attention(q, k, v, softcap="a")
    for bad in ((-2, 0), (0, -2), (1,), 3, (1, 2, 3)):
        with pytest.raises(ValueError, match=name + "window_size is"):
            F.scaled_dot_product_attention(q, k, v, window_size=bad)
    with pytest.raises(TypeError, match=name + "window_size"):
        F.scaled_dot_product_attention(q, k, v, window_size=(0.5, 1))


def test_torch_tensors(rng):
    torch = pytest.importorskip("torch")
    arrays = make(rng, (2, 2), (9, 12, 8, 8))
    leaves = [torch.tensor(a, requires_grad=True) for a in arrays[:3]]
    y = F.scaled_dot_product_attention(*leaves, window_size=(2, 3), softcap=2.0)
    y.backward(torch.tensor(arrays[3]))
    expected, grads = exact_gradients(*arrays, window_size=(2, 3), softcap=2.0)
    close(y.detach().numpy(), expected, 1e-5)
    for leaf, theirs in zip(leaves, grads, strict=True):
        close(leaf.grad.numpy(), theirs, 4e-5)


# ---- rotary embedding ------------------------------------------------------------------------------------------------


def angles(rng, *shape):
    a = rng.uniform(-4, 4, shape)
    return np.cos(a), np.sin(a)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("interleaved", [False, True])
def test_rotary_embedding(interleaved, dtype, isa, rng):
    tolerance = {np.dtype(np.float32): 1e-6}.get(dtype, TOLERANCE[dtype])
    for half in (0, 1, 7, 8, 9, 15, 16, 17, 33):
        for rest in (0, 1, 19):
            x = rng.standard_normal((2, 3, 5, 2 * half + rest)).astype(dtype)
            for cos, sin in (angles(rng, 5, half), angles(rng, 2, 1, 5, half)):
                cos, sin = (a.astype(np.float32 if rest else dtype) for a in (cos, sin))
                if dtype == np.float64:
                    cos, sin = cos.astype(dtype), sin.astype(dtype)
                y = F.rotary_embedding(x, cos, sin, interleaved)
                assert y.dtype == x.dtype
                close(y, reference.rotary_embedding(x, cos, sin, interleaved), tolerance)
                leaf = fastnn.tensor(x, requires_grad=True)
                F.rotary_embedding(leaf, cos, sin, interleaved).backward(fastnn.tensor(x))
                close(leaf.grad.numpy(), reference.rotary_embedding(x, cos, -sin, interleaved), tolerance)


def test_rotary_embedding_layouts(isa, rng):
    cos, sin = (a.astype(np.float32) for a in angles(rng, 6, 4))
    x = rng.standard_normal((2, 6, 3, 10)).astype(np.float32).transpose(0, 2, 1, 3)
    y = F.rotary_embedding(x, cos, sin)
    assert y.transpose(0, 2, 1, 3).flags.c_contiguous
    close(y, reference.rotary_embedding(x, cos, sin), 1e-6)
    for view in (x[:, ::-1, :, ::-1], np.broadcast_to(x[:1, :, :1], x.shape), np.asfortranarray(x)):
        close(F.rotary_embedding(view, cos, sin, True), reference.rotary_embedding(view, cos, sin, True), 1e-6)
    for shape in ((0, 6, 8), (2, 0, 8), (6, 0)):
        empty = np.zeros(shape, np.float32)
        c = np.zeros((shape[-2], shape[-1] // 2), np.float32)
        assert F.rotary_embedding(empty, c, c).shape == shape


def test_rotary_embedding_errors(rng):
    x = np.zeros((2, 5, 8), np.float32)
    c = np.zeros((5, 4), np.float32)
    for bad in (np.zeros((5, 5), np.float32), np.zeros((4, 4), np.float32), np.zeros((), np.float32)):
        with pytest.raises(ValueError, match="rotary_embedding: cos has shape"):
            F.rotary_embedding(x, bad, bad)
    with pytest.raises(ValueError, match="rotary_embedding: cos has shape .* and sin"):
        F.rotary_embedding(x, c, c[:, :3])
    with pytest.raises(ValueError, match="rotary_embedding: input has shape"):
        F.rotary_embedding(x[0, 0], c, c)
    with pytest.raises(NotImplementedError, match="rotary_embedding: input has dtype int64"):
        F.rotary_embedding(x.astype(np.int64), c, c)
    with pytest.raises(NotImplementedError, match="rotary_embedding: cos has dtype float64"):
        F.rotary_embedding(x, c.astype(np.float64), c.astype(np.float64))
    y = F.rotary_embedding(x, fastnn.tensor(c, requires_grad=True), c)
    with pytest.raises(NotImplementedError, match="cos and sin have no gradients"):
        y.sum().backward()
