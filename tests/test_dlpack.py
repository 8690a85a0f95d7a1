"""DLPack and numpy: zero-copy both ways, lifetimes, read-only memory, foreign arrays as arguments."""

import gc
import subprocess
import sys
import weakref

import fastnn
import fastnn.functional as F
import ml_dtypes
import numpy as np
import pytest
from fastnn import _C

torch = pytest.importorskip("torch")

BF16 = np.dtype(ml_dtypes.bfloat16)
TORCH = {
    np.dtype(np.float32): torch.float32,
    BF16: torch.bfloat16,
    np.dtype(np.float16): torch.float16,
    np.dtype(np.float64): torch.float64,
    np.dtype(np.int64): torch.int64,
    np.dtype(np.int32): torch.int32,
    np.dtype(np.int8): torch.int8,
    np.dtype(np.uint8): torch.uint8,
    np.dtype(np.bool_): torch.bool,
}


@pytest.mark.parametrize("dtype", TORCH, ids=str)
def test_torch_both_ways(dtype):
    x = fastnn.tensor([[1, 0, 1], [0, 1, 1]]).to(dtype)
    t = torch.from_dlpack(x)
    assert t.dtype == TORCH[dtype] and t.data_ptr() == x.data_ptr() and t.tolist() == x.tolist()
    back = fastnn.from_dlpack(t.T)
    assert back.dtype == dtype and back.shape == (3, 2) and back.strides == (1, 3) and back.data_ptr() == x.data_ptr()
    t[0, 1] = 1
    assert back.tolist() == [[1, 0], [1, 1], [1, 1]]


def test_numpy_both_ways():
    a = np.arange(6, dtype=np.float32).reshape(2, 3)
    x = fastnn.from_numpy(a)
    assert x.data_ptr() == a.ctypes.data and np.from_dlpack(x).ctypes.data == a.ctypes.data
    assert fastnn.from_dlpack(a[:, ::2]).tolist() == [[0, 2], [3, 5]]
    n = x.numpy()
    assert n.ctypes.data == a.ctypes.data and n.flags.writeable
    n[0, 0] = 9
    assert a[0, 0] == 9 and x[0, 0].item() == 9
    assert np.asarray(x) is not None and np.asarray(x).ctypes.data == a.ctypes.data
    assert np.asarray(x, np.float64).dtype == np.float64 and np.array(x).ctypes.data != a.ctypes.data
    with pytest.raises(ValueError, match="needs a copy"):
        x.__array__(np.float64, copy=False)
    assert np.exp(x).dtype == np.float32


@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (1,), (2, 1, 3)])
def test_shapes(shape):
    a = np.ones(shape, np.float32)
    for x in (fastnn.from_numpy(a), fastnn.from_dlpack(a), fastnn.from_dlpack(torch.from_numpy(a)), fastnn.tensor(a)):
        assert x.shape == shape and x.numpy().shape == shape
        assert torch.from_dlpack(x).shape == shape and np.from_dlpack(x).shape == shape


def test_memory_lives_as_long_as_its_last_owner():
    x = fastnn.ones(1000, 1000)
    base = _C.memory_stats()["in_use"]
    views = [x.numpy(), torch.from_dlpack(x), np.from_dlpack(x), x.__dlpack__(), x.__dlpack__(max_version=(1, 0))]
    del x
    while views:
        assert _C.memory_stats()["in_use"] == base
        views.pop()
        gc.collect()
    assert _C.memory_stats()["in_use"] < base

    class Array(np.ndarray):
        pass

    a = np.ones(5, np.float32).view(Array)
    watch = weakref.ref(a)
    x = fastnn.from_numpy(a)
    n = x.numpy()
    del a, x
    assert watch() is not None
    del n
    assert watch() is None
    t = torch.ones(3)
    x = fastnn.from_dlpack(t)
    del t
    assert x.tolist() == [1, 1, 1]


def test_capsules():
    x = fastnn.ones(2)
    for version in (None, (1, 0), (1, 5)):
        capsule = x.__dlpack__(max_version=version)
        assert ("dltensor_versioned" in repr(capsule)) == (version is not None)
        y = fastnn.from_dlpack(capsule)
        assert y.data_ptr() == x.data_ptr()
        with pytest.raises(TypeError, match="nobody has consumed"):
            fastnn.from_dlpack(capsule)
    assert fastnn.from_dlpack(x.__dlpack__(copy=True)).data_ptr() != x.data_ptr()
    assert x.__dlpack_device__() == (1, 0)
    with pytest.raises(BufferError, match="dl_device"):
        x.__dlpack__(dl_device=(2, 0))
    with pytest.raises(BufferError, match="stream"):
        x.__dlpack__(stream=5)
    with pytest.raises(BufferError, match="detach"):
        x.requires_grad_().__dlpack__()


def test_read_only_memory():
    a = np.ones(3, np.float32)
    a.flags.writeable = False
    for x in (fastnn.from_numpy(a), fastnn.from_dlpack(a)):
        assert not x.numpy().flags.writeable and not x[1:].numpy().flags.writeable
        assert (x + 1).tolist() == [2, 2, 2]
        with pytest.raises(ValueError, match="read-only"):
            x.add_(1)
        with pytest.raises(ValueError, match="read-only"):
            x[0] = 5.0
        with pytest.raises(BufferError, match="read-only"):
            x.__dlpack__()
        assert not np.from_dlpack(x).flags.writeable
    assert a.tolist() == [1, 1, 1]


def test_unusual_numpy_arrays():
    odd = np.zeros(17, np.uint8)[1:].view(np.float32)  # misaligned: copied
    assert fastnn.from_numpy(odd).tolist() == [0] * 4
    packed = np.zeros(3, np.dtype([("a", "i1"), ("b", "<f4")], align=False))["b"]  # strides of 5 bytes
    assert fastnn.from_numpy(packed).tolist() == [0] * 3
    assert fastnn.from_numpy(np.arange(4.0)[::-1]).tolist() == [3, 2, 1, 0]
    for bad in (
        np.zeros(2, np.complex64),
        np.zeros(2, ">f4"),
        np.array(["a"]),
        np.zeros(2, "M8[s]"),
        np.zeros(2, object),
    ):
        with pytest.raises(NotImplementedError, match="dtype"):
            fastnn.from_numpy(bad)
    with pytest.raises(ValueError, match="at most 8"):
        fastnn.from_numpy(np.zeros((1,) * 9))
    for bad in ([1.0], 1.0, None, "a", torch.ones(2)):
        with pytest.raises(TypeError, match="from_numpy"):
            fastnn.from_numpy(bad)
    for bad in ([1.0], 1.0, None, "a"):
        with pytest.raises(TypeError, match="from_dlpack"):
            fastnn.from_dlpack(bad)
    for bad in (torch.ones(2, dtype=torch.complex64), torch.ones((1,) * 9)):
        with pytest.raises((NotImplementedError, ValueError)):
            fastnn.from_dlpack(bad)


# ---- foreign arrays as arguments of ops ------------------------------------------------------------------------------


def test_torch_tensors_as_arguments():
    t = torch.tensor([[-1.0, 2.0]])
    out = F.relu(t)
    assert isinstance(out, torch.Tensor) and out.tolist() == [[0, 2]]
    assert isinstance(fastnn.maximum(t, t * 2), torch.Tensor)
    bf = F.relu(t.bfloat16())
    assert bf.dtype == torch.bfloat16
    w = t.clone().requires_grad_()
    assert F.relu(w).requires_grad
    with torch.no_grad():
        assert F.relu(w).tolist() == [[0, 2]]
    assert F.relu(w.detach()).tolist() == [[0, 2]]


def test_mixed_libraries_are_an_error():
    t, x = torch.ones(2), fastnn.ones(2)
    for call in (lambda: x + t, lambda: fastnn.maximum(t, x), lambda: fastnn.maximum(np.ones(2, np.float32), t)):
        with pytest.raises(TypeError, match="torch.Tensor"):
            call()
    assert t.tolist() == x.tolist() == [1, 1]


def test_other_dlpack_arrays():
    class Theirs:  # a library with an array namespace, as JAX and CuPy
        def __init__(self, array):
            self.array = array

        def __dlpack__(self, **keywords):
            return self.array.__dlpack__(**keywords)

        def __dlpack_device__(self):
            return self.array.__dlpack_device__()

        def __array_namespace__(self):
            return Namespace

    class Namespace:
        @staticmethod
        def from_dlpack(x):
            return Theirs(np.from_dlpack(x))

    out = F.relu(Theirs(np.array([-1.0, 2.0], np.float32)))
    assert isinstance(out, Theirs) and out.array.tolist() == [0, 2]

    class Device(Theirs):
        def __dlpack_device__(self):
            return (10, 0)  # ROCm

    with pytest.raises(NotImplementedError, match="device"):
        F.relu(Device(np.ones(2)))


def test_jax_arrays():
    jax = pytest.importorskip("jax")
    out = F.relu(jax.numpy.array([-1.0, 2.0]))
    assert isinstance(out, jax.Array) and out.tolist() == [0, 2]


def test_numpy_scalars_are_numbers():
    x = fastnn.ones(2)
    for s in (np.float32(2), np.float64(2), np.int64(2), np.float16(2)):
        for out in (x * s, s * x, x + s):
            assert isinstance(out, fastnn.Tensor) and out.dtype == np.float32
    for bad in ([1.0, 2.0], {1}, object(), lambda: 1, np.str_("a")):
        with pytest.raises(TypeError):
            x + bad


def test_a_capsule_that_outlives_the_interpreter():
    code = (
        "import fastnn, numpy as np; c = fastnn.ones(3).__dlpack__(); a = fastnn.from_numpy(np.ones(3)); b = a.numpy()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
