"""The class Tensor and what makes one: construction, conversion, Python protocols, printing, copies."""

import copy
import pickle

import fastnn
import ml_dtypes
import numpy as np
import pytest
from fastnn import _C

ON_CUDA = True

BF16 = np.dtype(ml_dtypes.bfloat16)


def test_tensor_copies_and_keeps_numpy_dtypes():
    for dtype in (np.float32, BF16, np.float16, np.float64, np.int64, np.int32, np.int8, np.uint8, np.bool_):
        a = np.array([[1, 0], [0, 1]], dtype)
        x = fastnn.tensor(a)
        a[0, 0] = 0
        assert x.dtype == dtype and x.numpy()[0, 0] == 1 and x.shape == (2, 2)
    assert fastnn.tensor(np.ones(2, ">f4")).dtype == np.float32
    assert fastnn.tensor(np.float64(1)).dtype == np.float64


def test_tensor_of_python_numbers():
    for data, dtype, values in (
        (1.5, np.float32, 1.5),
        (2, np.int64, 2),
        (True, np.bool_, True),
        ([1, 2.5], np.float32, [1, 2.5]),
        ([[1, 2], [3, 4]], np.int64, [[1, 2], [3, 4]]),
        ([], np.float32, []),
        ([[], []], np.float32, [[], []]),
        (((1.0,), (2.0,)), np.float32, [[1], [2]]),
        ([np.float64(1)], np.float64, [1]),
        ([np.ones(2), np.ones(2)], np.float64, [[1, 1], [1, 1]]),
    ):
        x = fastnn.tensor(data)
        assert x.dtype == dtype and x.tolist() == values
    assert fastnn.tensor([1, 2], dtype="bfloat16").dtype == BF16
    assert fastnn.tensor([1.0], np.float64).dtype == np.float64
    assert fastnn.tensor([fastnn.tensor(1.0), fastnn.tensor(2.0)]).tolist() == [1, 2]
    x = fastnn.tensor([1.0], requires_grad=True)
    assert x.requires_grad and fastnn.tensor(x).requires_grad is False
    for bad, error in (
        (lambda: fastnn.tensor([[1], [1, 2]]), ValueError),
        (lambda: fastnn.tensor("a"), NotImplementedError),
        (lambda: fastnn.tensor([1j]), NotImplementedError),
        (lambda: fastnn.tensor(None), NotImplementedError),
        (lambda: fastnn.tensor([1], requires_grad=True), ValueError),
        (lambda: fastnn.tensor([1.0], device="cuda:99"), RuntimeError),
        (lambda: fastnn.tensor([1.0], dtype="complex64"), NotImplementedError),
        (lambda: fastnn.Tensor(), TypeError),
        (lambda: fastnn.Tensor([1.0]), TypeError),
    ):
        with pytest.raises(error):
            bad()


def test_creation():
    assert fastnn.zeros(2, 3).tolist() == [[0] * 3] * 2 and fastnn.zeros((2, 3)).shape == (2, 3)
    assert fastnn.ones([2], dtype=np.int64).tolist() == [1, 1] and fastnn.zeros().shape == ()
    assert fastnn.empty(3, 4).shape == (3, 4)
    assert fastnn.full((2,), 3).dtype == np.int64 and fastnn.full((2,), 3.0).dtype == np.float32
    assert fastnn.full((2,), True).tolist() == [True, True]
    x = fastnn.ones(2, dtype=BF16)
    assert fastnn.zeros_like(x).dtype == BF16 and fastnn.ones_like(x, dtype=np.float32).dtype == np.float32
    assert fastnn.arange(3).tolist() == [0, 1, 2] and fastnn.arange(1, 7, 2).tolist() == [1, 3, 5]
    assert fastnn.arange(0, 1, 0.25).tolist() == [0, 0.25, 0.5, 0.75] and fastnn.arange(0.0).shape == (0,)
    a = np.ones(2, np.float32)
    assert fastnn.as_tensor(a).data_ptr() == a.ctypes.data and fastnn.as_tensor([1.0]).dtype == np.float32
    assert fastnn.as_tensor(x) is x and fastnn.as_tensor(x, np.float32).dtype == np.float32
    fastnn.manual_seed(3)
    first = fastnn.randn(4, 5), fastnn.rand(3), fastnn.randn(2, dtype=BF16)
    fastnn.manual_seed(3)
    second = fastnn.randn(4, 5), fastnn.rand(3), fastnn.randn(2, dtype=BF16)
    assert all((p == q).all() for p, q in zip(first, second, strict=True))
    assert first[0].dtype == np.float32 and first[2].dtype == BF16
    for bad, error in (
        (lambda: fastnn.zeros(-1), ValueError),
        (lambda: fastnn.zeros(2**40, 2**40), ValueError),
        (lambda: fastnn.zeros(2**45), (MemoryError, ValueError)),
        (lambda: fastnn.zeros(1.5), TypeError),
        (lambda: fastnn.zeros(True), TypeError),
        (lambda: fastnn.zeros(*[1] * 9), ValueError),
        (lambda: fastnn.full((2,), "a"), (TypeError, NotImplementedError)),
        (lambda: fastnn.arange(0, 1, 0), ValueError),
        (lambda: fastnn.zeros(2, dtype="U4"), NotImplementedError),
        (lambda: fastnn.zeros(2, device="cuda:99"), RuntimeError),
    ):
        with pytest.raises(error):
            bad()


def test_attributes():
    x = fastnn.zeros(2, 3, 4)
    assert x.shape == (2, 3, 4) == x.size() and x.size(-1) == 4 and x.ndim == x.dim() == 3 and x.numel() == 24
    assert x.stride() == (12, 4, 1) and x.stride(0) == 12 and x.element_size() == 4 and x.nbytes == 96
    assert x.device == "cpu" and x.is_contiguous() and not x.mT.is_contiguous() and x.data_ptr() % 64 == 0
    assert x.cpu() is x and x.grad is None and x.grad_fn is None


def test_conversion():
    x = fastnn.tensor([1.5, -2.5, 0.0])
    for name, dtype in (("float", np.float32), ("double", np.float64), ("half", np.float16), ("bfloat16", BF16),
                        ("long", np.int64), ("int", np.int32), ("bool", np.bool_)):  # fmt: skip
        y = getattr(x, name)()
        assert y.dtype == dtype and y.tolist() == np.asarray(x).astype(dtype).tolist()
    assert x.to(np.float32) is x and x.to("cpu") is x and x.to(device="cpu") is x and x.float() is x
    assert x.to(np.float32, copy=True).data_ptr() != x.data_ptr() and x.astype("float64").dtype == np.float64
    for move in (lambda: x.to(device="cuda:99"), lambda: x.to("cuda:99"), lambda: x.cuda(99)):
        with pytest.raises(RuntimeError, match="to: device 'cuda:99'"):
            move()
    with pytest.raises(ValueError, match="to: device is 'tpu'; expected 'cpu'"):
        x.to(device="tpu")


@pytest.mark.parametrize("dtype", [BF16, np.float16], ids=str)
def test_rounding_to_nearest_even(dtype, rng):
    bits = rng.integers(0, 2**32, 20000, dtype=np.uint64).astype(np.uint32)
    a = np.concatenate([bits.view(np.float32), np.array([0.0, -0.0, np.inf, -np.inf, np.nan], np.float32)])
    with np.errstate(over="ignore", invalid="ignore"):
        expected = a.astype(dtype)
    ours = fastnn.from_numpy(a).to(dtype).numpy()
    nan = np.isnan(a)
    np.testing.assert_array_equal(ours.view(np.uint16)[~nan], expected.view(np.uint16)[~nan])
    assert np.isnan(ours[nan].astype(float)).all()
    every = np.arange(2**16, dtype=np.uint16).view(dtype)
    np.testing.assert_array_equal(fastnn.from_numpy(every).float().numpy(), every.astype(np.float32))


def test_python_numbers():
    assert fastnn.tensor(2.5).item() == 2.5 and type(fastnn.tensor([3]).item()) is int
    assert fastnn.tensor(True).item() is True and fastnn.tensor([[1.5]], dtype=BF16).item() == 1.5
    assert float(fastnn.tensor(2.5)) == 2.5 and int(fastnn.tensor([3])) == 3 and bool(fastnn.tensor(0.0)) is False
    assert [10, 20, 30][fastnn.tensor(1)] == 20 and list(range(fastnn.tensor(2))) == [0, 1]
    assert f"{fastnn.tensor(2.5):.2f}" == "2.50" and f"{fastnn.tensor(2.5)}" == "tensor(2.5)"
    for bad, error in (
        (lambda: fastnn.ones(2).item(), RuntimeError),
        (lambda: float(fastnn.ones(2)), RuntimeError),
        (lambda: bool(fastnn.zeros(0)), RuntimeError),
        (lambda: [1, 2][fastnn.tensor(1.0)], TypeError),
    ):
        with pytest.raises(error):
            bad()


def test_repr():
    for x, text in (
        (fastnn.tensor([1.0, 2.5]), "tensor([1. , 2.5])"),
        (fastnn.tensor([[1, 2], [3, 4]]), "tensor([[1, 2],\n        [3, 4]])"),
        (fastnn.tensor([True]), "tensor([ True])"),
        (fastnn.tensor([1.0], dtype=np.float64), "tensor([1.], dtype=float64)"),
        (fastnn.tensor([1.0], dtype="bfloat16"), "tensor([1.], dtype=bfloat16)"),
        (fastnn.tensor([1.0], requires_grad=True), "tensor([1.], requires_grad=True)"),
        (fastnn.tensor([1.0], requires_grad=True) * 2, "tensor([2.], grad_fn=<mul>)"),
        (fastnn.zeros(2, 0), "tensor([], shape=(2, 0))"),
        (fastnn.tensor(3), "tensor(3)"),
    ):
        assert repr(x) == text
    assert "..." in repr(fastnn.zeros(5000))


def test_hash_and_containers():
    x, y = fastnn.ones(2), fastnn.ones(2)
    assert hash(x) != hash(y) and len({x, y}) == 2 and {x: 1}[x] == 1 and x in [x]


def test_copy_and_pickle():
    for dtype in (np.float32, BF16, np.int64):
        x = fastnn.tensor([[1, 2], [3, 4]]).to(dtype)
        if dtype != np.int64:
            x.requires_grad_()
            x.grad = fastnn.ones(2, 2, dtype=dtype)
        for y in (copy.deepcopy(x), pickle.loads(pickle.dumps(x))):
            assert type(y) is fastnn.Tensor and y.dtype == dtype and y.requires_grad == x.requires_grad
            assert y.tolist() == x.tolist() and y.data_ptr() != x.data_ptr()
        if dtype != np.int64:
            assert copy.deepcopy(x).grad.tolist() == [[1, 1], [1, 1]]
        assert copy.copy(x).data_ptr() == x.data_ptr()
    pair = [x, x]
    a, b = copy.deepcopy(pair)
    assert a is b
    w = fastnn.tensor([1.0], requires_grad=True)
    with pytest.raises(RuntimeError, match="leaf"):
        copy.deepcopy(w * 2)


def test_public_face():
    for name in fastnn.__all__:
        assert hasattr(fastnn, name)
    stats = fastnn.memory_stats()
    assert stats["in_use"] >= 0 and set(stats) == {"in_use", "idle", "peak", "limit", "hits", "requests"}
    with pytest.raises(AttributeError, match="nothing"):
        fastnn.nothing  # noqa: B018
    with pytest.raises(ValueError, match="set_isa"):
        fastnn.set_isa("mmx")
    assert fastnn.get_isa() in _C.available_isas()
