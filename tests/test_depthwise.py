"""Depthwise conv2d against float64 on sizes around the blocks of pixels that its kernels take."""

import fastnn
import fastnn.functional as F
import ml_dtypes
import numpy as np
import pytest
from guarded import channels_last
from test_conv2d import relative_error, torch_gradients

torch = pytest.importorskip("torch")

ACTIVATIONS = {
    None: lambda v: v,
    "relu6": lambda v: np.clip(v, 0, 6),
    "silu": lambda v: v / (1 + np.exp(-v)),
}
SIZES = [(7, 7), (9, 12), (14, 14), (5, 4), (30, 31), (23, 22), (3, 3), (2, 13), (13, 2), (1, 1)]


def make(rng, channels, size, dtype="float32"):
    x, w = rng.standard_normal((2, channels, *size)), rng.standard_normal((channels, 1, 3, 3))
    return channels_last(x.astype(dtype)), w.astype(dtype), rng.standard_normal(channels).astype(dtype)


def truth(x, w, b, stride, padding, groups):
    x, w, b = (torch.tensor(a.astype(np.float64)) for a in (x, w, b))
    return torch.nn.functional.conv2d(x, w, b, stride, padding, 1, groups).numpy()


@pytest.mark.parametrize("stride", [1, 2, 3, (2, 1)], ids=str)
@pytest.mark.parametrize("channels", [3, 16, 40])
@pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
def test_sizes_and_epilogues(isa, rng, channels, stride, activation):
    for size in SIZES:
        for padding in (1,) if min(size) < 3 else (0, 1, 2):
            x, w, b = make(rng, channels, size)
            plain = truth(x, w, b, stride, padding, channels)
            residual = rng.standard_normal(plain.shape).astype("float32")
            wanted = ACTIVATIONS[activation](plain + residual)
            arguments = (w, b, stride, padding, 1, channels)
            for values in (x, np.ascontiguousarray(x)):
                y = F.conv2d(values, *arguments, activation=activation, residual=residual)
                assert np.abs(y - wanted).max() < 2e-6 * np.abs(plain).max(), (size, padding)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("dtype", "tolerance"), [("float16", 2e-3), (ml_dtypes.bfloat16, 1e-2)], ids=str)
def test_dtypes(isa, rng, stride, dtype, tolerance):
    x, w, b = make(rng, 40, (15, 18), dtype)
    y = F.conv2d(x, w, b, stride, 1, 1, 40)
    assert y.dtype == x.dtype
    assert relative_error(y, truth(x, w, b, stride, 1, 40)) < tolerance


@pytest.mark.parametrize("stride", [1, 2])
def test_gradients_and_threads(isa, rng, stride):
    x, w, b = make(rng, 40, (19, 21))
    grad = rng.standard_normal(truth(x, w, b, stride, 1, 40).shape).astype("float32")
    results = []
    for threads in (1, 2, 5):
        fastnn.set_num_threads(threads)
        leaves = [fastnn.tensor(a, requires_grad=True) for a in (x, w, b)]
        y = F.conv2d(*leaves, stride, 1, 1, 40)
        y.backward(fastnn.tensor(grad))
        results.append([a.numpy().tobytes() for a in (y, *(leaf.grad for leaf in leaves))])
        for leaf, gradient in zip(leaves, torch_gradients(x, w, b, (stride, 1, 1, 40), grad), strict=True):
            assert relative_error(leaf.grad.numpy(), gradient) < 3e-6
    assert results[0] == results[1] == results[2]
