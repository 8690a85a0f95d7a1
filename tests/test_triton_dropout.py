"""Dropout, embedding and rotary embedding in Triton."""

import pytest
from triton_support import DEVICE, DTYPES, REDUCTION, close, gradients, pytestmark, randn, torch  # noqa: F401

# isort: split
import fastnn
from fastnn import _C
from fastnn.kernels import dropout as kernels
from fastnn.kernels.embedding import embedding, embedding_backward
from fastnn.kernels.rotary import rotary


def key(seed, offset):
    return torch.tensor([seed, offset], dtype=torch.int64, device=DEVICE)


@pytest.mark.parametrize("p", [0.0, 0.1, 0.5, 1.0])
@pytest.mark.parametrize(("seed", "offset"), [(0, 0), (1234567890123456789, 7), (-3, 2**40 + 5), (5, -1)])
def test_same_mask_as_the_cpu(seed, offset, p):
    ones = torch.ones(5000)
    expected, _ = _C.dropout(fastnn.tensor(ones.numpy()), p, seed, offset)
    out = kernels.dropout(ones.to(DEVICE), p, key(seed, offset))
    assert torch.equal(out.cpu(), torch.from_numpy(expected.numpy().copy()))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("n", [0, 1, 63, 64, 65, 4096, 4099])
def test_values_and_gradient(n, dtype):
    x = randn(n, dtype=dtype)
    mask = kernels.dropout(torch.ones(n, device=DEVICE), 0.3, key(3, 4)).cpu().double()
    y = kernels.dropout(x, 0.3, key(3, 4))
    close(y, x.cpu().double() * mask, REDUCTION[dtype])
    if n == 4096:
        assert abs(float((mask == 0).double().mean()) - 0.3) < 0.03
    dy = randn(n, dtype=dtype, seed=1)
    close(kernels.dropout_backward(dy, 0.3, key(3, 4), x), dy.cpu().double() * mask, REDUCTION[dtype])


def test_layout_and_nan():
    x = randn(2, 3, 4, 5).to(memory_format=torch.channels_last)
    y = kernels.dropout(x, 0.5, key(1, 2))
    flat = kernels.dropout(x.permute(0, 2, 3, 1).contiguous(), 0.5, key(1, 2))
    assert torch.equal(y.permute(0, 2, 3, 1), flat)
    dy = torch.ones(2, 3, 4, 5, device=DEVICE)
    assert torch.equal(kernels.dropout_backward(dy, 0.5, key(1, 2), x) != 0, y != 0)
    assert kernels.dropout(torch.full((64,), float("nan"), device=DEVICE), 0.5, key(1, 2)).isnan().all()
    with pytest.raises(ValueError, match="dropout: p is 2"):
        kernels.dropout(x, 2, key(1, 2))
    with pytest.raises(ValueError, match="dropout: key is"):
        kernels.dropout(x, 0.5, torch.zeros(3))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("columns", [1, 7, 300, 1030])
def test_embedding(columns, dtype):
    weight = randn(11, columns, dtype=dtype)
    index = torch.randint(11, (3, 9), generator=torch.Generator().manual_seed(1)).to(DEVICE)
    assert torch.equal(embedding(index, weight), weight[index])
    assert torch.equal(embedding(index.int(), weight), weight[index])
    dy = randn(3, 9, columns, dtype=dtype, seed=2)
    for padding, by_frequency in ((None, False), (2, False), (-1, True)):
        out = embedding_backward(dy, index, 11, padding, by_frequency)
        leaf = weight.cpu().double().requires_grad_()
        y = torch.nn.functional.embedding(index.cpu(), leaf, padding, scale_grad_by_freq=by_frequency)
        y.backward(dy.cpu().double())
        close(out, leaf.grad, REDUCTION[dtype])


def test_embedding_edges():
    weight = randn(4, 3)
    y = embedding(torch.tensor([0, 4, -1, 3], device=DEVICE), weight)
    assert y[1:3].isnan().all() and torch.equal(y[::3], weight[::3])
    none = torch.zeros(0, dtype=torch.int64, device=DEVICE)
    assert embedding(none, weight).shape == (0, 3) and not embedding_backward(randn(0, 3), none, 4).any()
    one = torch.full((40,), 2, dtype=torch.int64, device=DEVICE)  # more than a block of one row
    dy = randn(40, 3)
    close(embedding_backward(dy, one, 4)[2], dy.cpu().double().sum(0), 1e-5)
    with pytest.raises(ValueError, match="embedding: weight has shape"):
        embedding(one, weight[0])


def angles(length, pairs, dtype=torch.float32):
    a = torch.arange(length)[:, None] * 10000.0 ** (-torch.arange(pairs) / max(pairs, 1))[None, :]
    return a.cos().to(dtype).to(DEVICE), a.sin().to(dtype).to(DEVICE)


def rotated(x, cos, sin, interleaved):
    pairs = cos.shape[1]
    c, s = cos.cpu().double(), sin.cpu().double()
    u = x[..., 0 : 2 * pairs : 2] if interleaved else x[..., :pairs]
    v = x[..., 1 : 2 * pairs : 2] if interleaved else x[..., pairs : 2 * pairs]
    a, b = u * c - v * s, v * c + u * s
    turned = torch.stack((a, b), -1).flatten(-2) if interleaved else torch.cat((a, b), -1)
    return torch.cat((turned, x[..., 2 * pairs :]), -1)


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("shape", "pairs"), [((2, 3, 5, 8), 4), ((1, 9, 33, 22), 8), ((2, 1, 70, 80), 40)], ids=str)
def test_rotary(shape, pairs, dtype, interleaved):
    x = randn(*shape, dtype=dtype)
    cos, sin = angles(shape[2], pairs)
    y = rotary(x, cos, sin, interleaved)
    close(y, rotated(x.cpu().double(), cos, sin, interleaved), REDUCTION[dtype])
    dy = randn(*shape, dtype=dtype, seed=1)
    expected = gradients(lambda v: rotated(v, cos, sin, interleaved), dy, x)[0]
    close(rotary(dy, cos, sin, interleaved, inverse=True), expected, REDUCTION[dtype])


def test_rotary_strides_and_errors():
    x = randn(2, 7, 3, 16).transpose(1, 2)  # (batch, heads, length, size) of a (batch, length, heads, size) tensor
    cos, sin = angles(7, 8, torch.float16)
    close(rotary(x, cos, sin), rotated(x.cpu().double(), cos, sin, False), 1e-5)
    assert rotary(randn(0, 3, 7, 16), cos, sin).shape == (0, 3, 7, 16)
    with pytest.raises(ValueError, match="rotary: cos has shape"):
        rotary(x, cos[:3], sin[:3])
    with pytest.raises(ValueError, match="rotary: sin has shape"):
        rotary(x, cos, sin[:3])
