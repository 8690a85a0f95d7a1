"""MultiheadAttention against torch.nn's with the same weights."""

import inspect

import fastnn
import numpy as np
import pytest

torch = pytest.importorskip("torch")

E, H, N, L, S = 12, 3, 2, 5, 7


def pair(**kwargs):
    theirs = torch.nn.MultiheadAttention(E, H, **kwargs)
    with torch.no_grad():
        for p in theirs.parameters():
            p.copy_(torch.randn(p.shape, generator=torch.Generator().manual_seed(1)) * 0.3)
    ours = fastnn.MultiheadAttention(E, H, **kwargs)
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


def inputs(rng, *shapes):
    arrays = [rng.standard_normal(shape).astype(np.float32) for shape in shapes]
    return [fastnn.tensor(a, requires_grad=True) for a in arrays], [torch.tensor(a, requires_grad=True) for a in arrays]


def in_torch(kwargs):
    return {k: torch.tensor(v) if isinstance(v, np.ndarray) else v for k, v in kwargs.items()}


def check(ours, theirs, mine, yours, **kwargs):
    y, w = ours(*mine, **kwargs)
    z, v = theirs(*yours, **in_torch(kwargs))
    np.testing.assert_allclose(y.detach().numpy(), z.detach().numpy(), rtol=1e-5, atol=1e-5)
    assert (w is None) == (v is None)
    if w is not None:
        np.testing.assert_allclose(w.detach().numpy(), v.detach().numpy(), rtol=1e-5, atol=1e-5)
    g = np.random.default_rng(9).standard_normal(y.shape).astype(np.float32)
    y.backward(fastnn.tensor(g))
    z.backward(torch.tensor(g))
    for a, b in zip({id(t): t for t in mine}.values(), {id(t): t for t in yours}.values(), strict=True):
        np.testing.assert_allclose(a.grad.numpy(), b.grad.numpy(), rtol=1e-4, atol=1e-4)
    for (n, p), q in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        np.testing.assert_allclose(p.grad.numpy(), q.grad.numpy(), rtol=1e-4, atol=2e-4, err_msg=n)


PADDING = np.arange(S) >= np.array([[6], [4]])
MASKS = [
    {},
    {"attn_mask": ~np.tri(L, S, 2, dtype=bool)},
    {"attn_mask": np.random.default_rng(0).standard_normal((L, S)).astype(np.float32)},
    {"attn_mask": np.random.default_rng(0).standard_normal((N * H, L, S)).astype(np.float32)},
    {"key_padding_mask": PADDING},
    {"key_padding_mask": PADDING, "attn_mask": ~np.tri(L, S, 2, dtype=bool)},
]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("need_weights", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("masks", MASKS, ids=lambda m: " ".join(f"{k}{v.shape}" for k, v in m.items()) or "none")
def test_cross_attention(masks, batch_first, need_weights, rng):
    ours, theirs = pair(batch_first=batch_first)
    shapes = [(N, L, E), (N, S, E), (N, S, E)] if batch_first else [(L, N, E), (S, N, E), (S, N, E)]
    check(ours, theirs, *inputs(rng, *shapes), need_weights=need_weights, **masks)


def test_self_attention(rng):
    for kwargs in ({}, {"bias": False}, {"batch_first": True}):
        ours, theirs = pair(**kwargs)
        (x,), (t,) = inputs(rng, (N, L, E))
        check(ours, theirs, [x] * 3, [t] * 3, average_attn_weights=False)
    ours, theirs = pair()
    (x,), (t,) = inputs(rng, (L, E))  # no batch
    check(ours, theirs, [x] * 3, [t] * 3)
    causal = ~np.tri(L, dtype=bool)
    (x,), (t,) = inputs(rng, (L, N, E))
    check(ours, theirs, [x] * 3, [t] * 3, need_weights=False, attn_mask=causal, is_causal=True)


def test_other_widths_of_key_and_value(rng):
    ours, theirs = pair(kdim=8, vdim=10)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    check(ours, theirs, *inputs(rng, (L, N, E), (S, N, 8), (S, N, 10)))


def test_looks_like_torch():
    for kwargs in ({}, {"bias": False}, {"kdim": 5}, {"batch_first": True}):
        ours, theirs = fastnn.MultiheadAttention(E, H, **kwargs), torch.nn.MultiheadAttention(E, H, **kwargs)
        assert {k: v.shape for k, v in ours.state_dict().items()} == {
            k: tuple(v.shape) for k, v in theirs.state_dict().items()
        }
        for name in ("embed_dim", "num_heads", "head_dim", "kdim", "vdim", "dropout", "batch_first"):
            assert getattr(ours, name) == getattr(theirs, name)
    for call in ("__init__", "forward"):
        mine, yours = (inspect.signature(getattr(c.MultiheadAttention, call)).parameters for c in (fastnn, torch.nn))
        assert [(n, p.default) for n, p in mine.items()] == [(n, p.default) for n, p in yours.items()]


def test_dropout_looks_at_training(rng):
    m = fastnn.MultiheadAttention(E, H, dropout=0.5)
    x = rng.standard_normal((L, N, E)).astype(np.float32)
    a, b = (m(x, x, x, need_weights=False)[0].numpy() for _ in range(2))
    assert not np.array_equal(a, b)
    m.eval()
    a, b = (m(x, x, x, need_weights=False)[0].numpy() for _ in range(2))
    np.testing.assert_array_equal(a, b)


def test_errors():
    with pytest.raises(ValueError, match="multiple of num_heads"):
        fastnn.MultiheadAttention(10, 3)
    with pytest.raises(NotImplementedError, match="add_bias_kv"):
        fastnn.MultiheadAttention(E, H, add_bias_kv=True)
    m, x = fastnn.MultiheadAttention(E, H), np.ones((L, N, E), np.float32)
    with pytest.raises(ValueError, match="expected three or two dimensions"):
        m(x, x, x[0])
    with pytest.raises(ValueError, match="is_causal"):
        m(x, x, x, is_causal=True)
