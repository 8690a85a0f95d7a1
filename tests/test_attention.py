"""scaled_dot_product_attention: values, gradients, masks, shapes, layouts, dropout, threads."""

import fastnn
import fastnn.functional as F
import ml_dtypes
import numpy as np
import pytest
from fastnn import _C, reference
from guarded import guarded, poison

# Not dropout, which is for the CPU.
ON_CUDA = {
    "test_values_and_gradients",
    "test_masks",
    "test_masks_of_any_strides",
    "test_queries_that_see_nothing",
    "test_grouped_queries",
    "test_leading_dimensions",
    "test_only_what_is_needed",
    "test_scale",
    "test_layouts",
    "test_empty",
    "test_no_features",
    "test_limits",
    "test_guarded_memory",
    "test_sizes_of_heads",
    "test_against_torch",
}
BF16 = np.dtype(ml_dtypes.bfloat16)
TOLERANCE = {np.dtype(np.float32): 1e-5, BF16: 2e-2, np.dtype(np.float16): 3e-3, np.dtype(np.float64): 1e-12}
# L, S, E, Ev: around the widths of vectors and the sizes of blocks (128 keys, at most 112 queries).
SIZES = [
    (1, 1, 1, 1),
    (7, 9, 8, 8),
    (15, 17, 16, 31),
    (33, 31, 7, 16),
    (1, 130, 33, 9),
    (129, 5, 16, 17),
    (120, 260, 4, 3),
]


def close(actual, expected, tolerance):
    np.testing.assert_allclose(np.asarray(actual).astype(np.float64), expected, rtol=tolerance, atol=tolerance)


def make(rng, lead, sizes, dtype=np.float32, kv_lead=None):
    n, s, e, v = sizes
    kv_lead = lead if kv_lead is None else kv_lead
    shapes = (*lead, n, e), (*kv_lead, s, e), (*kv_lead, s, v), (*lead, n, v)
    return [rng.standard_normal(shape).astype(dtype) for shape in shapes]


def exact_gradients(
    q, k, v, g, mask=None, causal=False, scale=None, gqa=False, keep=None, p=0.0, window_size=(-1, -1), softcap=0.0
):
    """By torch's autograd in float64, from the definition."""
    torch = pytest.importorskip("torch")
    leaves = [torch.tensor(a.astype(np.float64), requires_grad=True) for a in (q, k, v)]
    tq, tk, tv = leaves
    if gqa:
        tk, tv = (t.repeat_interleave(q.shape[-3] // k.shape[-3], dim=-3) for t in (tk, tv))
    scores = tq @ tk.mT * (q.shape[-1] ** -0.5 if scale is None else scale)
    if softcap:
        scores = softcap * torch.tanh(scores / softcap)
    if mask is not None:
        if mask.dtype == bool:
            scores = scores.masked_fill(~torch.tensor(mask), -torch.inf)
        else:
            leaves.append(torch.tensor(mask.astype(np.float64), requires_grad=True))
            scores = scores + leaves[3]
    if causal:
        scores = scores.masked_fill(~torch.ones(scores.shape[-2:], dtype=bool).tril(), -torch.inf)
    distance = torch.arange(scores.shape[-1]) - torch.arange(scores.shape[-2])[:, None]
    for limit, far in zip(window_size, (-distance, distance), strict=True):
        if limit >= 0:
            scores = scores.masked_fill(far > limit, -torch.inf)
    hidden = (scores == -torch.inf).all(-1, keepdim=True)
    weights = torch.softmax(scores.masked_fill(hidden, 0), -1).masked_fill(hidden, 0)
    if keep is not None:
        weights = weights * torch.tensor(keep / (1 - p))
    y = weights @ tv
    y.backward(torch.tensor(np.asarray(g).astype(np.float64)))
    return y.detach().numpy(), [leaf.grad.numpy() for leaf in leaves]


def run(q, k, v, g, mask=None, **kwargs):
    leaves = [fastnn.from_numpy(a) for a in (q, k, v)]
    if mask is not None:
        mask = fastnn.from_numpy(mask)
        if mask.dtype != bool:
            leaves.append(mask)
    for leaf in leaves:
        leaf.requires_grad = True
    y = F.scaled_dot_product_attention(*leaves[:3], mask, **kwargs)
    y.backward(fastnn.from_numpy(g))
    return y.detach().numpy(), [leaf.grad.numpy() for leaf in leaves]


def check(arrays, tolerance, mask=None, is_causal=False, scale=None, enable_gqa=False, **beyond):
    kwargs = {"is_causal": is_causal, "scale": scale, "enable_gqa": enable_gqa, **beyond}
    y, grads = run(*arrays, mask, **kwargs)
    expected, exact = exact_gradients(*arrays, mask, is_causal, scale, enable_gqa, **beyond)
    close(y, expected, tolerance)
    close(y, reference.scaled_dot_product_attention(*arrays[:3], mask, **kwargs), tolerance)
    close(F.scaled_dot_product_attention(*arrays[:3], mask, **kwargs), y.astype(np.float64), 0)
    for ours, theirs in zip(grads, exact, strict=True):
        assert ours.dtype == arrays[0].dtype
        close(ours, theirs, 4 * tolerance)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_values_and_gradients(sizes, causal, dtype, isa, rng):
    check(make(rng, (1, 2), sizes, dtype), TOLERANCE[dtype], is_causal=causal)


@pytest.mark.parametrize("kind", ["bool", "float"])
@pytest.mark.parametrize("dtype", [np.dtype(np.float32), BF16], ids=str)
def test_masks(dtype, kind, isa, rng):
    sizes = (30, 140, 4, 8)
    arrays = make(rng, (2, 3), sizes, dtype)
    for shape in ((30, 140), (30, 1), (140,), (2, 1, 1, 140), (3, 30, 140), (1, 1, 1, 1)):
        mask = rng.standard_normal(shape).astype(dtype)
        if kind == "bool":
            mask = mask > -0.5
        check(arrays, TOLERANCE[dtype], mask)
    check(arrays, TOLERANCE[dtype], mask, is_causal=True)


@pytest.mark.parametrize("dtype", [np.float32, BF16, np.float16], ids=str)
@pytest.mark.parametrize("sizes", [(70, 90, 64, 64), (65, 67, 72, 128), (66, 40, 256, 136)])
def test_sizes_of_heads(sizes, dtype, isa, rng):
    """Around the tiles of GPU kernels, which depend on the size of a head."""
    mask = (rng.random((sizes[0], sizes[1])) < 0.8) | (np.arange(sizes[1]) == 0)
    for kwargs in ({}, {"is_causal": True}, {"mask": mask}, {"enable_gqa": True}):
        kv_lead = (1, 2) if "enable_gqa" in kwargs else None
        check(make(rng, (1, 4) if kv_lead else (1, 2), sizes, dtype, kv_lead), TOLERANCE[np.dtype(dtype)], **kwargs)


def test_masks_of_any_strides(isa, rng):
    arrays = make(rng, (2,), (20, 33, 8, 8))
    base = rng.standard_normal((33, 20)).astype(np.float32)
    check(arrays, 1e-5, base.T > 0)
    check(arrays, 1e-5, base.T)
    check(arrays, 1e-5, np.broadcast_to(base[:, :1].T, (20, 33)))
    y = F.scaled_dot_product_attention(*(a.astype(BF16) for a in arrays[:3]), base.T)  # float32 beside bfloat16
    close(y, reference.scaled_dot_product_attention(*(a.astype(BF16) for a in arrays[:3]), base.T), 2e-2)


@pytest.mark.parametrize("kind", ["bool", "float"])
def test_queries_that_see_nothing(kind, isa, rng):
    arrays = make(rng, (2,), (40, 150, 8, 8))
    mask = np.ones((40, 150), bool)
    mask[3] = mask[39] = False
    mask[:, 7] = False
    mask[17, :140] = False  # the first block holds no key for it
    if kind == "float":
        mask = np.where(mask, np.float32(0), np.float32(-np.inf))
    y, (dq, dk, dv, *_) = run(*arrays, mask)
    assert not y[:, [3, 39]].any() and not dq[:, [3, 39]].any() and not dk[:, 7].any() and not dv[:, 7].any()
    check(arrays, 1e-5, mask)


@pytest.mark.parametrize("dtype", [np.float32, BF16], ids=str)
@pytest.mark.parametrize("causal", [False, True])
def test_grouped_queries(causal, dtype, isa, rng):
    for heads, shared in ((6, 2), (4, 1)):
        arrays = make(rng, (2, heads), (15, 20, 8, 16), dtype, kv_lead=(2, shared))
        check(arrays, TOLERANCE[np.dtype(dtype)], is_causal=causal, enable_gqa=True)


def test_leading_dimensions(isa, rng):
    for lead in ((), (3,), (2, 1, 3), (1, 2, 2, 2)):
        check(make(rng, lead, (9, 11, 4, 5)), 1e-5)
    q, k, v = (rng.standard_normal(s) for s in ((2, 1, 3, 4, 8), (5, 1, 6, 8), (1, 6, 7)))
    leaves = [fastnn.tensor(a, requires_grad=True) for a in (q, k, v)]
    y = F.scaled_dot_product_attention(*leaves)
    assert y.shape == (2, 5, 3, 4, 7)
    close(y.detach().numpy(), reference.scaled_dot_product_attention(q, k, v), 1e-12)
    y.sum().backward()
    for i, leaf in enumerate(leaves):
        expected = reference.numerical_gradient(F.scaled_dot_product_attention, [q, k, v], i)
        np.testing.assert_allclose(leaf.grad.numpy(), expected, rtol=1e-6, atol=1e-7)


def test_numerical_gradient(rng):
    *arrays, g = make(rng, (2,), (3, 4, 2, 5), np.float64)
    arrays.append(rng.standard_normal((3, 4)))
    leaves = [fastnn.tensor(a, requires_grad=True) for a in arrays]
    F.scaled_dot_product_attention(*leaves, scale=0.7, is_causal=True).backward(fastnn.tensor(g))
    for i, leaf in enumerate(leaves):
        expected = reference.numerical_gradient(
            lambda *a: F.scaled_dot_product_attention(*a, scale=0.7, is_causal=True), arrays, i, grad_output=g
        )
        np.testing.assert_allclose(leaf.grad.numpy(), expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("needed", range(1, 15))
def test_only_what_is_needed(needed, isa, rng):
    arrays = [*make(rng, (2,), (5, 6, 4, 4))[:3], rng.standard_normal((5, 6)).astype(np.float32)]
    leaves = [fastnn.tensor(a, requires_grad=True) for a in arrays]
    F.scaled_dot_product_attention(*leaves).sum().backward()
    some = [fastnn.tensor(a, requires_grad=bool(needed >> i & 1)) for i, a in enumerate(arrays)]
    F.scaled_dot_product_attention(*some).sum().backward()
    for i, (all_, one) in enumerate(zip(leaves, some, strict=True)):
        if needed >> i & 1:
            np.testing.assert_array_equal(all_.grad.numpy(), one.grad.numpy())
        else:
            assert one.grad is None


@pytest.mark.parametrize("scale", [0.0, 1.0, -2.0, 3])
def test_scale(scale, isa, rng):
    check(make(rng, (2,), (10, 12, 4, 4)), 2e-5, scale=scale)


def test_layouts(isa, rng):
    """Heads next to each other, as a projection makes them; any strides; the output keeps the order of the axes."""
    projected = rng.standard_normal((2, 30, 3, 4, 8)).astype(np.float32)
    q, k, v = (projected[:, :, i].transpose(0, 2, 1, 3) for i in range(3))
    g = rng.standard_normal((2, 4, 30, 8)).astype(np.float32)
    check((q, k, v, g), 1e-5, is_causal=True)
    assert F.scaled_dot_product_attention(q, k, v).flags.c_contiguous
    arrays = [np.ascontiguousarray(a.transpose(0, 2, 1, 3)).transpose(0, 2, 1, 3) for a in (q, k, v, g)]
    y, grads = run(*arrays)
    for a in (y, *grads):
        assert a.transpose(0, 2, 1, 3).flags.c_contiguous
    check(arrays, 1e-5)
    arrays = make(rng, (3, 2), (20, 24, 8, 8))
    check([a[::-1, :, ::2, ::-1] for a in arrays], 1e-5)
    check([np.asfortranarray(a) for a in arrays], 1e-5)
    check([np.broadcast_to(a[:1, :, :1], a.shape) for a in arrays], 1e-5)


@pytest.mark.parametrize("sizes", [(0, 5, 8, 8), (5, 0, 8, 8), (5, 6, 8, 0), (0, 0, 0, 0)])
def test_empty(sizes, isa, rng):
    arrays = make(rng, (2,), sizes)
    y, grads = run(*arrays)
    assert y.shape == arrays[3].shape and not y.any()
    for grad, a in zip(grads, arrays, strict=False):
        assert grad.shape == a.shape and not grad.any()
    for lead in ((0,), (2, 0), (0, 3)):
        arrays = make(rng, lead, (3, 4, 5, 6))
        y, grads = run(*arrays)
        assert y.shape == arrays[3].shape and [grad.shape for grad in grads] == [a.shape for a in arrays[:3]]


def test_no_features(isa, rng):
    arrays = make(rng, (2,), (5, 6, 0, 3))
    check(arrays, 1e-6, scale=1.0)
    torch = pytest.importorskip("torch")
    expected = torch.nn.functional.scaled_dot_product_attention(*map(torch.tensor, arrays[:3])).numpy()
    close(F.scaled_dot_product_attention(*arrays[:3]), expected, 1e-6)


def test_limits(isa):
    """Large scores do not overflow; NaN and infinity go where the formula takes them."""
    rng = np.random.default_rng(0)
    q, k, v, g = make(rng, (1,), (40, 150, 8, 8))
    check((q * 100, k * 10, v, np.zeros_like(g)), 1e-4)
    y = F.scaled_dot_product_attention(np.full_like(q, 1e19), np.full_like(k, 1e19), v)
    assert np.isnan(y).all()  # infinite scores
    for bad in (np.nan, np.inf):
        q2 = q.copy()
        q2[0, 3, 0] = bad
        y = F.scaled_dot_product_attention(q2, k, v)
        assert np.isnan(y[0, 3]).all() and np.isfinite(np.delete(y, 3, axis=1)).all()
    v2 = v.copy()
    v2[0, 149, 2] = np.nan
    y = F.scaled_dot_product_attention(q, k, v2)
    assert np.isnan(y[0, :, 2]).all() and np.isfinite(np.delete(y, 2, axis=2)).all()
    k2 = k.copy()
    k2[0, 149] = np.nan
    assert np.isfinite(F.scaled_dot_product_attention(q, k2, v, is_causal=True)).all()  # no query sees that key


def test_guarded_memory(isa, rng):
    for sizes in ((1, 1, 1, 1), (7, 9, 3, 5), (15, 17, 16, 31), (33, 129, 17, 9)):
        arrays = make(rng, (2,), sizes)
        for at in ("start", "end"):
            poison(*(a.shape for a in arrays))
            y, grads = run(*(guarded(a, at) for a in arrays), guarded(rng.random(sizes[:2]) < 0.8, at))
            assert np.isfinite(y).all() and all(np.isfinite(grad).all() for grad in grads)


@pytest.mark.parametrize("causal", [False, True])
def test_same_bits_for_any_number_of_threads(causal, isa, rng):
    arrays = make(rng, (2, 4), (150, 170, 16, 24), kv_lead=(2, 2))
    mask = rng.standard_normal((150, 170)).astype(np.float32)
    results = set()
    for threads in (1, 2, 3, 8):
        _C.set_num_threads(threads)
        fastnn.manual_seed(1)
        y, grads = run(*arrays, mask, is_causal=causal, enable_gqa=True, dropout_p=0.2)
        results.add(b"".join(a.tobytes() for a in (y, *grads)))
    assert len(results) == 1


# ---- dropout ---------------------------------------------------------------------------------------------------------


def kept(shape, p, seed, offset):
    """What attention_common.cpp promises, from the words."""
    *lead, n, s = shape
    groups = (s + 63) // 64
    rows = int(np.prod(lead)) * n
    words = [_C.philox_words(g, offset, seed).numpy().view(np.uint32) for g in range(rows * groups)]
    return (np.array(words).reshape(*lead, n, groups * 64)[..., :s] >= np.uint32(p * 2**32)).astype(np.float64)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, BF16], ids=str)
@pytest.mark.parametrize("causal", [False, True])
def test_dropout(causal, dtype, isa, rng):
    for sizes in ((5, 7, 4, 4), (30, 130, 8, 9), (130, 30, 8, 8)):
        arrays = make(rng, (1, 2), sizes, dtype)
        fastnn.manual_seed(11)
        y, grads = run(*arrays, dropout_p=0.3, is_causal=causal)
        keep = kept((1, 2, *sizes[:2]), 0.3, 11, 0)
        expected, exact = exact_gradients(*arrays, causal=causal, keep=keep, p=0.3)
        close(y, expected, TOLERANCE[np.dtype(dtype)])
        for ours, theirs in zip(grads, exact, strict=True):
            close(ours, theirs, 4 * TOLERANCE[np.dtype(dtype)])
        fastnn.manual_seed(11)
        close(F.scaled_dot_product_attention(*arrays[:3], dropout_p=0.3, is_causal=causal), y.astype(np.float64), 0)


def test_ends_of_dropout(isa, rng):
    arrays = make(rng, (2,), (5, 6, 4, 4))
    y, grads = run(*arrays, dropout_p=1.0)
    assert not y.any() and not any(grad.any() for grad in grads)
    fastnn.manual_seed(2)
    first = F.scaled_dot_product_attention(*arrays[:3], dropout_p=0.5)
    assert not np.array_equal(first, F.scaled_dot_product_attention(*arrays[:3], dropout_p=0.5))
    fastnn.manual_seed(2)
    np.testing.assert_array_equal(first, F.scaled_dot_product_attention(*arrays[:3], dropout_p=0.5))


# ---- torch and errors ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kwargs", [{}, {"is_causal": True}, {"scale": 0.3}, {"enable_gqa": True}], ids=str)
def test_against_torch(kwargs, isa, rng):
    torch = pytest.importorskip("torch")
    arrays = make(rng, (2, 4), (20, 30, 16, 16), kv_lead=(2, 2) if "enable_gqa" in kwargs else None)
    expected = torch.nn.functional.scaled_dot_product_attention(*map(torch.tensor, arrays[:3]), **kwargs).numpy()
    close(F.scaled_dot_product_attention(*arrays[:3], **kwargs), expected, 1e-5)


def test_torch_tensors(rng):
    torch = pytest.importorskip("torch")
    q, k, v, g = (torch.tensor(a) for a in make(rng, (2, 4), (20, 30, 16, 8), kv_lead=(2, 2)))
    mask = torch.randn(20, 30)
    results = []
    for function in (F.scaled_dot_product_attention, torch.nn.functional.scaled_dot_product_attention):
        leaves = [t.clone().requires_grad_() for t in (q, k, v, mask)]
        y = function(*leaves, enable_gqa=True)
        y.backward(g)
        results.append([y.detach(), *(leaf.grad for leaf in leaves)])
    for ours, theirs in zip(*results, strict=True):
        assert isinstance(ours, torch.Tensor)
        close(ours.numpy(), theirs.numpy(), 1e-5)


def test_errors(rng):
    q, k, v, g = make(rng, (2, 4), (3, 5, 8, 6))
    f = F.scaled_dot_product_attention
    name = "scaled_dot_product_attention: "
    with pytest.raises(ValueError, match=name + "query has shape .* key has shape .* same last size"):
        f(q, k[..., :7], v)
    with pytest.raises(ValueError, match=name + "key has shape .* but value has shape"):
        f(q, k, v[..., :4, :])
    with pytest.raises(ValueError, match=name + "query, key and value have shapes .* enable_gqa"):
        f(q, k[:, :2], v[:, :2])
    with pytest.raises(ValueError, match=name + "query has 4 heads, key 3"):
        f(q, k[:, :3], v[:, :3], enable_gqa=True)
    with pytest.raises(ValueError, match=name + "query has 4 heads, key 2 and value 1"):
        f(q, k[:, :2], v[:, :1], enable_gqa=True)
    with pytest.raises(ValueError, match="at least 3 dimensions"):
        f(q[0, 0], k[0, 0, :, :], v[0], enable_gqa=True)
    for bad in (np.ones(8, np.float32), np.ones((), np.float32)):
        with pytest.raises(ValueError, match=name):
            f(bad, bad, bad)
    with pytest.raises(TypeError, match=name + "query has dtype float32 but key has float64"):
        f(q, k.astype(np.float64), v)
    with pytest.raises(NotImplementedError, match=name + "query has dtype int64"):
        f(q.astype(np.int64), k.astype(np.int64), v.astype(np.int64))
    with pytest.raises(NotImplementedError, match=name + "attn_mask has dtype int64"):
        f(q, k, v, np.ones((3, 5), np.int64))
    for shape in ((3, 4), (2, 3, 5), (1, 2, 4, 3, 5)):
        with pytest.raises(ValueError, match=name + "attn_mask has shape"):
            f(q, k, v, np.ones(shape, bool))
    for p in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match=name + "dropout_p is"):
            f(q, k, v, dropout_p=p)
    with pytest.raises(TypeError, match=name + "dropout_p"):
        f(q, k, v, dropout_p="a")
    with pytest.raises(TypeError, match=name + "scale"):
        f(q, k, v, scale="a")
    t = [fastnn.tensor(a) for a in (q, k, v)]
    y, log_sum = _C.attention(*t, None, False, 1.0, 0.0, 0, 0, 0.0, -1, -1)
    details = (False, 1.0, 0.0, 0, 0, 0.0, -1, -1, True, True, False)
    for bad in (g[..., :5], g.astype(np.float64)):
        with pytest.raises(ValueError, match="grad has shape"):
            _C.attention_backward(fastnn.tensor(bad), *t, None, y, log_sum, *details)
    with pytest.raises(ValueError, match="output has shape"):
        _C.attention_backward(fastnn.tensor(g), *t, None, y, y, *details)
