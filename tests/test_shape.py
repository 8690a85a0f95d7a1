"""Views, joins, indexing: values, shared memory, gradients against torch, errors."""

import fastnn
import ml_dtypes
import numpy as np
import pytest

torch = pytest.importorskip("torch")

ON_CUDA = True

BF16 = np.dtype(ml_dtypes.bfloat16)


def pair(a):
    return fastnn.tensor(a, requires_grad=True), torch.tensor(a, requires_grad=True)


def same(f, a, g=None):
    """f gives the same value and gradient on a fastnn Tensor as g (or f) on a torch tensor."""
    x, t = pair(a)
    out, expected = f(x), (g or f)(t)
    assert out.shape == tuple(expected.shape)
    np.testing.assert_array_equal(out.detach().numpy(), expected.detach().numpy())
    weights = np.random.default_rng(0).standard_normal(out.shape)
    (out * fastnn.tensor(weights)).sum().backward()
    (expected * torch.tensor(weights)).sum().backward()
    np.testing.assert_allclose(x.grad.numpy(), t.grad.numpy(), rtol=1e-12)


def test_shape_methods(rng):
    a = rng.standard_normal((2, 3, 4))
    for f in (
        lambda x: x.reshape(6, 4),
        lambda x: x.reshape((4, -1)),
        lambda x: x.view(-1),
        lambda x: x.permute(2, 0, 1),
        lambda x: x.permute((-1, 0, 1)).reshape(8, 3),
        lambda x: x.transpose(0, 2),
        lambda x: x.transpose(-1, 1).reshape(-1),
        lambda x: x.mT,
        lambda x: x[0].T,
        lambda x: x.flatten(),
        lambda x: x.flatten(1),
        lambda x: x.flatten(0, 1),
        lambda x: x.unsqueeze(1),
        lambda x: x.unsqueeze(-1).squeeze(-1),
        lambda x: x.unsqueeze(0).squeeze(),
        lambda x: x[:1].squeeze(0).expand(5, 3, 4),
        lambda x: x.unsqueeze(1).expand(-1, 6, -1, 4),
        lambda x: x.contiguous().clone(),
        lambda x: x.permute(2, 1, 0).contiguous(),
        lambda x: x.split(2, 1)[1],
        lambda x: x.split([1, 3], -1)[1],
        lambda x: x.chunk(3, 2)[1],
    ):
        same(f, a)
    same(lambda x: fastnn.cat([x, x * 2, x[:, :1]], 1), a, lambda t: torch.cat([t, t * 2, t[:, :1]], 1))
    same(lambda x: fastnn.stack([x, x * 2], -1), a, lambda t: torch.stack([t, t * 2], -1))
    same(lambda x: x.float().double(), a.astype(np.float32).astype(np.float64))


def test_views_share_memory_and_version():
    x = fastnn.arange(12, dtype=np.float32)
    v = x.view(3, 4).T[1:, 1:].unsqueeze(0)
    v.fill_(-1)
    assert x.tolist() == [0, 1, 2, 3, 4, -1, -1, -1, 8, -1, -1, -1]
    assert x._version == v._version == 1 and x[2:].data_ptr() == x.data_ptr() + 8
    assert x.reshape(3, 4).data_ptr() == x.data_ptr()
    assert x.view(3, 4).T.reshape(12).data_ptr() != x.data_ptr()
    assert x.view(2, 6)[:, 1:].squeeze().data_ptr() == x.data_ptr() + 4


@pytest.mark.parametrize("seed", range(30))
def test_reshape_of_any_layout(seed):
    rng = np.random.default_rng(seed)
    shape = rng.choice([1, 2, 3, 4, 6], 4)
    a = np.arange(shape.prod() * 16.0).reshape(shape * 2)[tuple(slice(0, int(n)) for n in shape)]
    a = a.transpose(rng.permutation(4))
    for target in ((-1,), (-1, 2) if a.size % 2 == 0 else (1, -1), a.shape[:2] + (1, -1), (1, 1, -1), a.shape[::-1]):
        x, t = fastnn.from_numpy(a), torch.from_numpy(a)
        np.testing.assert_array_equal(x.reshape(target).numpy(), a.reshape(target))
        try:
            expected = t.view(target)
        except RuntimeError:
            with pytest.raises(ValueError, match="without a copy"):
                x.view(target)
        else:
            np.testing.assert_array_equal(x.view(target).numpy(), expected.numpy())


def test_reshape_does_not_merge_overlapping_windows():
    a = np.lib.stride_tricks.as_strided(np.arange(4.0), (2, 1, 3), (8, 8, 8))
    assert fastnn.from_numpy(a).reshape(6).tolist() == [0, 1, 2, 1, 2, 3]


INDICES = [
    0,
    -1,
    (1, 2),
    (slice(None), 1),
    (slice(1, None), slice(None, None, 2)),
    (slice(5, 1),),
    (slice(-3, None), Ellipsis, 0),
    (Ellipsis, slice(1, 3)),
    (None, 0, None, slice(None)),
    Ellipsis,
    (),
    np.array([2, 0, 0]),
    (slice(None), np.array([[1, 0], [1, 1]])),
    (np.array([0, 1]), np.array([2, 2])),
    (np.array([0, 0]), slice(None), np.array([1, 1])),
    np.array([True, False, True, True]),
    (slice(None), np.array([True, False, True])),
    [1, 1, 3],
    (0, [0, 2]),
]


@pytest.mark.parametrize("index", INDICES, ids=repr)
def test_indexing(index, rng):
    a = rng.standard_normal((4, 3, 5))

    def to_torch(i):
        return torch.from_numpy(i) if isinstance(i, np.ndarray) else i

    theirs = tuple(map(to_torch, index)) if isinstance(index, tuple) else to_torch(index)
    same(lambda x: x[index], a, lambda t: t[theirs])
    ours = (
        tuple(fastnn.tensor(i) if isinstance(i, np.ndarray) else i for i in index)
        if isinstance(index, tuple)
        else index
    )
    np.testing.assert_array_equal(fastnn.tensor(a)[ours].numpy(), a[index])
    # assignment, of a number and of a tensor with a gradient
    x, expected = fastnn.tensor(a), a.copy()
    x[index] = 7.0
    expected[index] = 7
    np.testing.assert_array_equal(x.numpy(), expected)
    if isinstance(index, np.ndarray) or (isinstance(index, tuple) and any(isinstance(i, np.ndarray) for i in index)):
        return  # repeated indices: which value wins is not defined
    shape = a[index].shape[-1:]
    (x, t), (v, u) = pair(a), pair(rng.standard_normal(shape))
    h, k = x * 2, t * 2
    h[index] = v * 3
    k[theirs] = u * 3
    assert h._version == 1
    np.testing.assert_array_equal(h.detach().numpy(), k.detach().numpy())
    (h * h).sum().backward()
    (k * k).sum().backward()
    np.testing.assert_allclose(x.grad.numpy(), t.grad, rtol=1e-12)
    np.testing.assert_allclose(v.grad.numpy(), u.grad, rtol=1e-12)


def test_gradient_of_repeated_indices_in_half_precision():
    x = fastnn.ones(3, dtype=BF16).requires_grad_()
    x[np.zeros(300, np.int64)].sum().backward()
    assert x.grad.dtype == BF16 and x.grad.tolist() == [300, 0, 0]


def test_augmented_assignment_to_an_item():
    x = fastnn.tensor([1.0, 2.0, 3.0])
    x[1:] += 10
    x[0] *= 5
    assert x.tolist() == [5, 12, 13]
    w = fastnn.tensor([1.0, 2.0, 3.0], requires_grad=True)
    h = w * 1
    h[0] *= 5
    h[1:] += w[:2]
    h.sum().backward()
    assert w.grad.tolist() == [6, 2, 1]


def test_iteration_and_length():
    x = fastnn.arange(6).reshape(3, 2)
    assert len(x) == 3 and [row.tolist() for row in x] == [[0, 1], [2, 3], [4, 5]]
    a, b = fastnn.tensor([1.0, 2.0])
    assert a.item() == 1 and b.item() == 2


def test_channels_last():
    x = fastnn.arange(2 * 3 * 4 * 5, dtype=np.float32).reshape(2, 3, 4, 5)
    y = x.contiguous(fastnn.channels_last)
    assert y.strides == (60, 1, 15, 3) and y.is_contiguous(fastnn.channels_last) and not y.is_contiguous()
    assert (x == y).all() and y.to(memory_format="contiguous_format").strides == x.strides
    assert y.contiguous(fastnn.channels_last) is y and x.contiguous() is x
    assert fastnn.cat([y, y], 1).is_contiguous(fastnn.channels_last)
    same(lambda v: v.to(memory_format=torch.channels_last) if isinstance(v, torch.Tensor) else v.to(memory_format="channels_last"), x.double().numpy())  # fmt: skip # noqa: E501


def test_errors():
    x = fastnn.ones(2, 3)
    for call, error, text in (
        (lambda: x.reshape(4), ValueError, r"reshape: shape \(2, 3\)"),
        (lambda: x.reshape(-1, -1), ValueError, "more than one -1"),
        (lambda: x.reshape(-2, 3), ValueError, "negative"),
        (lambda: x.reshape(2.0, 3), TypeError, "reshape: sizes"),
        (lambda: x.reshape(2**40, 2**40), ValueError, "cannot become"),
        (lambda: fastnn.zeros(0).reshape(-1, 0), ValueError, "undetermined"),
        (lambda: x.reshape(*[1] * 9, 6), ValueError, "at most 8"),
        (lambda: x.T.view(6), ValueError, "use reshape"),
        (lambda: x.permute(0), ValueError, "permute: dims"),
        (lambda: x.permute(0, 0), ValueError, "twice"),
        (lambda: x.permute(0, 2), IndexError, "permute: dim is 2"),
        (lambda: x.transpose(0, 5), IndexError, "transpose: dim is 5"),
        (lambda: x.expand(2), ValueError, "fewer dimensions"),
        (lambda: x.expand(3, 3), ValueError, "does not broadcast"),
        (lambda: x.expand(-1, 2, 3), ValueError, "negative"),
        (lambda: fastnn.ones(1).expand(2**62), ValueError, "too large"),
        (lambda: x.flatten(1, 0), ValueError, "flatten"),
        (lambda: x.squeeze(4), IndexError, "squeeze: dim is 4"),
        (lambda: x.unsqueeze(4), IndexError, "unsqueeze: dim is 4"),
        (lambda: fastnn.cat([]), ValueError, "cat: tensors is empty"),
        (lambda: fastnn.cat([x, x.double()]), TypeError, "float32 and float64"),
        (lambda: fastnn.cat([x, x.T]), ValueError, "cat: tensors 0 and 1"),
        (lambda: fastnn.cat([x], 2), IndexError, "cat: dim is 2"),
        (lambda: fastnn.cat(x), TypeError, "cat: tensors is a Tensor"),
        (lambda: fastnn.cat([fastnn.tensor(1.0)]), ValueError, "use stack"),
        (lambda: fastnn.stack([x, x.T]), ValueError, "stack: tensors 0 and 1"),
        (lambda: x.split(0), ValueError, "split_size is 0"),
        (lambda: x.split([1, 2]), ValueError, "add up"),
        (lambda: x.chunk(0), ValueError, "chunks is 0"),
        (lambda: x[2], IndexError, "2 is out of bounds for dimension 0 of size 2"),
        (lambda: x[0, 0, 0], IndexError, "3 indices"),
        (lambda: x[::-1], ValueError, "step"),
        (lambda: x[2**80], IndexError, ""),
        (lambda: x["a"], IndexError, ""),
        (lambda: x[np.array([5])], IndexError, ""),
        (lambda: x[np.array([0.5])], IndexError, ""),
        (lambda: x[(None,) * 7], ValueError, "too many dimensions"),
        (lambda: x.__setitem__(5, 1.0), IndexError, "5 is out of bounds"),
        (lambda: x.__setitem__(0, fastnn.ones(3, dtype=np.float64)), TypeError, "setitem: value has dtype float64"),
        (lambda: x.__setitem__(0, fastnn.ones(4)), ValueError, "does not broadcast"),
        (lambda: x.__setitem__(0, "a"), TypeError, ""),
        (lambda: x.long().__setitem__(0, 1.5), TypeError, "float"),
        (
            lambda: fastnn.from_numpy(np.broadcast_to(np.float32(1), (3,))).__setitem__([0], 1.0),
            ValueError,
            "read-only",
        ),
        (lambda: len(fastnn.tensor(1.0)), TypeError, "0-d"),
        (lambda: iter(fastnn.tensor(1.0)), TypeError, "0-d"),
        (lambda: x.contiguous("nchw"), ValueError, "memory_format"),
        (lambda: x.contiguous("channels_last"), ValueError, "4 dimensions"),
    ):
        with pytest.raises(error, match=text or None):
            call()
    assert (x == 1).all()


def test_cat_ignores_tensors_of_shape_0():
    x, nothing = fastnn.ones(2, 3).requires_grad_(), fastnn.zeros(0).requires_grad_()
    y = fastnn.cat([nothing, x, nothing, x], dim=1)
    assert y.shape == (2, 6)
    y.backward(fastnn.ones(2, 6))
    assert x.grad.tolist() == [[2.0] * 3] * 2 and nothing.grad.shape == (0,)
    assert fastnn.cat([nothing, nothing]).shape == (0,)
    with pytest.raises(TypeError, match="cat: tensors 0 and 1 have dtypes"):
        fastnn.cat([fastnn.zeros(0, dtype=np.int64), x])
