"""Attention in Triton beside float64."""

import pytest
from triton_support import DEVICE, DTYPES, REDUCTION, close, gradients, pytestmark, randn, torch  # noqa: F401

# isort: split
from fastnn import reference
from fastnn.kernels import attention as kernels
from fastnn.kernels.attention import AttentionConfig

SMALL = AttentionConfig(16, 16, 4, 1)
WIDE = AttentionConfig(16, 32, 4, 1)
HIGH = AttentionConfig(32, 16, 4, 1)


def inputs(shape, dtype=torch.float32):
    """(q, k, v) of (batch, heads, key heads, length, keys, size, value size)."""
    batch, heads, key_heads, length, keys, size, value_size = shape
    q = randn(batch, heads, length, size, dtype=dtype)
    k = randn(batch, key_heads, keys, size, dtype=dtype, seed=1)
    return q, k, randn(batch, key_heads, keys, value_size, dtype=dtype, seed=2)


def plain(q, k, v, mask, causal, scale=None):
    """The equation, differentiable; 0 for queries that see no key."""
    group = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
    s = q @ k.transpose(-1, -2) * (q.shape[-1] ** -0.5 if scale is None else scale)
    if mask is not None:
        s = s.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else s + mask.double()
    if causal:
        s = s.masked_fill(~torch.ones(s.shape[-2:], dtype=torch.bool).tril(), -torch.inf)
    blind = (s == -torch.inf).all(-1, keepdim=True)
    return s.masked_fill(blind, 0.0).softmax(-1).masked_fill(blind, 0.0) @ v


def check(q, k, v, mask=None, causal=False, config=SMALL, scale=None, tolerance=None):
    tolerance = tolerance or REDUCTION[q.dtype]
    o, log_sum = kernels.attention(q, k, v, mask, causal, scale, config=config)
    there = None if mask is None else mask.cpu()
    expected = plain(q.cpu().double(), k.cpu().double(), v.cpu().double(), there, causal, scale)
    close(o, expected, tolerance)
    do = randn(*o.shape, dtype=q.dtype, seed=3)
    found = kernels.attention_backward(do, q, k, v, o, log_sum, mask, causal, scale, config=config)
    wanted = gradients(lambda q, k, v: plain(q, k, v, there, causal, scale), do, q, k, v)
    for out, reference_gradient in zip(found, wanted, strict=True):
        close(out, reference_gradient, 3 * tolerance)


SHAPES = [
    (1, 1, 1, 1, 1, 1, 1),
    (1, 2, 2, 16, 16, 16, 16),
    (1, 1, 1, 33, 47, 8, 24),
    (2, 4, 2, 20, 20, 20, 20),
    (1, 1, 1, 5, 40, 40, 3),
    (1, 1, 1, 40, 5, 17, 33),
    (1, 3, 1, 17, 31, 32, 32),
]


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("shape", SHAPES[:2] + [SHAPES[-1]], ids=str)
def test_some_shapes(shape, causal):
    check(*inputs(shape), causal=causal)


@pytest.mark.full
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_float32(shape, causal):
    check(*inputs(shape), causal=causal)


@pytest.mark.parametrize("config", [WIDE, HIGH], ids=str)
@pytest.mark.parametrize("causal", [False, True])
def test_blocks_that_are_not_square(causal, config):
    check(*inputs((1, 2, 1, 50, 35, 16, 16)), causal=causal, config=config)
    check(*inputs((1, 1, 1, 35, 50, 16, 16)), causal=causal, config=config)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("dtype", DTYPES[1:], ids=str)
def test_half(dtype, causal):
    check(*inputs((1, 2, 1, 37, 45, 24, 24), dtype), causal=causal)


@pytest.mark.full
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", [64, 80, 128, 256])
def test_tables(size, dtype):
    check(*inputs((1, 2, 1, 150, 140, size, size), dtype), causal=True, config=None)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("kind", ["bool", "float"])
def test_masks(kind, causal):
    q, k, v = inputs((2, 2, 1, 19, 35, 16, 16))
    mask = randn(2, 1, 19, 35, seed=4)
    if kind == "bool":
        mask = mask > 0
        mask[0, 0, 3] = False  # a query that sees no key
    else:
        mask[0, 0, :, 5] = -torch.inf
    check(q, k, v, mask.expand(2, 2, 19, 35), causal)
    check(q, k, v, mask[:1, :, :1].expand(2, 2, 19, 35), causal)


def test_scale_and_strides():
    q, k, v = (randn(2, 21, 3, 16, seed=i).transpose(1, 2) for i in range(3))
    check(q, k, v, scale=0.3)
    check(q[..., ::2], k[..., ::2], v)
    check(*inputs((1, 1, 1, 20, 20, 16, 16)), scale=20.0, tolerance=1e-4)  # softmax of nearly one key


def test_against_the_reference():
    q, k, v = inputs((1, 4, 2, 9, 13, 8, 8))
    o, _ = kernels.attention(q, k, v, causal=True, config=SMALL)
    expected = reference.scaled_dot_product_attention(
        *(x.cpu().numpy() for x in (q, k, v)), is_causal=True, enable_gqa=True
    )
    close(o, torch.from_numpy(expected), 1e-5)


def test_large_scores_do_not_overflow():
    q, k, v = inputs((1, 1, 1, 20, 20, 16, 16))
    o, log_sum = kernels.attention(q * 100, k * 100, v, config=SMALL)
    close(o, plain(q.cpu().double() * 100, k.cpu().double() * 100, v.cpu().double(), None, False), 1e-3)
    grads = kernels.attention_backward(torch.ones_like(o), q * 100, k * 100, v, o, log_sum, config=SMALL)
    assert all(g.isfinite().all() for g in grads)


def test_empty():
    q, k, v = randn(2, 2, 0, 8), randn(2, 2, 3, 8), randn(2, 2, 3, 8)
    o, log_sum = kernels.attention(q, k, v)
    assert o.shape == q.shape and not any(g.any() for g in kernels.attention_backward(o, q, k, v, o, log_sum))
    q, k, v = randn(1, 2, 3, 8), randn(1, 2, 0, 8), randn(1, 2, 0, 8)
    o, log_sum = kernels.attention(q, k, v, config=SMALL)
    assert o.shape == q.shape and not o.any()
    assert not kernels.attention_backward(o, q, k, v, o, log_sum)[0].any()


def test_gradients_have_the_same_bits_again():
    q, k, v = inputs((1, 4, 1, 40, 40, 16, 16))
    o, log_sum = kernels.attention(q, k, v, config=SMALL)
    first = kernels.attention_backward(v.expand_as(q), q, k, v, o, log_sum, config=SMALL)
    second = kernels.attention_backward(v.expand_as(q), q, k, v, o, log_sum, config=SMALL)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_errors():
    q, k, v = inputs((1, 4, 2, 5, 5, 8, 8))
    with pytest.raises(ValueError, match="attention: query has 4 heads but key 3"):
        kernels.attention(q, randn(1, 3, 5, 8), v)
    with pytest.raises(ValueError, match="attention: key has shape"):
        kernels.attention(q, randn(1, 2, 5, 9), v)
    with pytest.raises(NotImplementedError, match="attention: query has heads of 257"):
        kernels.attention(randn(1, 1, 2, 257), randn(1, 1, 2, 257), randn(1, 1, 2, 257))
    with pytest.raises(ValueError, match="attention: attn_mask has shape"):
        kernels.attention(q, k, v, torch.ones(5, 4, dtype=torch.bool, device=DEVICE))
