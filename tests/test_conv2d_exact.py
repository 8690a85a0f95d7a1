"""conv2d of small integers, where float32 sums are exact: equal to int64 arithmetic on every path but Winograd's. And
how much memory layers take beside their input and output."""

import subprocess
import sys

import fastnn
import fastnn.functional as F
import numpy as np
import pytest
from fastnn import _C
from guarded import channels_last

SEEDS, SHAPES = 8, 250  # 2,000 shapes


@pytest.fixture(autouse=True)
def _exact():
    before = _C.get_precision()
    fastnn.set_precision("exact")
    yield
    fastnn.set_precision(before)


def convolve(x, w, b, grad, stride, padding, dilation, groups):
    """y, and the gradients of x, w and b for the gradient `grad(shape of y)`, in int64."""
    (n, _, h, width), (filters, per_group, kh, kw) = x.shape, w.shape
    x = np.pad(x, [(0, 0), (0, 0), *[(p, p) for p in padding]]).reshape(n, groups, per_group, h + 2 * padding[0], -1)
    w = w.reshape(groups, -1, per_group, kh, kw)
    rows, cols = ((x.shape[3 + i] - dilation[i] * (k - 1) - 1) // stride[i] + 1 for i, k in enumerate((kh, kw)))
    y = np.zeros((n, groups, filters // groups, rows, cols), np.int64)
    taps = {
        (u, v): np.s_[
            ...,
            u * dilation[0] : u * dilation[0] + (rows - 1) * stride[0] + 1 : stride[0],
            v * dilation[1] : v * dilation[1] + (cols - 1) * stride[1] + 1 : stride[1],
        ]
        for u in range(kh)
        for v in range(kw)
    }
    for (u, v), at in taps.items():
        y += np.einsum("goc,ngchw->ngohw", w[..., u, v], x[at])
    g = grad((n, filters, rows, cols))
    dy, dx, dw = g.reshape(y.shape), np.zeros_like(x), np.zeros_like(w)
    for (u, v), at in taps.items():
        dx[at] += np.einsum("goc,ngohw->ngchw", w[..., u, v], dy)
        dw[..., u, v] = np.einsum("ngohw,ngchw->goc", dy, x[at])
    dx = dx[..., padding[0] : padding[0] + h, padding[1] : padding[1] + width]
    y = y.reshape(g.shape) + b[:, None, None]
    return g, y, dx.reshape(n, -1, h, width), dw.reshape(filters, per_group, kh, kw), g.sum((0, 2, 3))


def draw(rng):
    """A shape that reaches one of the paths: any, 1x1, depthwise, groups of many channels, few channels."""
    kind = rng.integers(6)
    kernel = (1, 1) if kind == 1 else tuple(rng.integers(1, 6, 2))
    stride, dilation = tuple(rng.integers(1, 4, 2)), tuple(rng.integers(1, 3, 2))
    if rng.random() < 0.5:
        kernel, stride, dilation = (kernel[0],) * 2, (stride[0],) * 2, (1, 1)
    padding = (0, 0) if kind == 1 and rng.random() < 0.7 else tuple(rng.integers(0, 4, 2))
    size = [
        int(rng.integers(max(1, d * (k - 1) + 1 - 2 * p), 24))
        for k, d, p in zip(kernel, dilation, padding, strict=True)
    ]
    groups, per_group, filters = 1, int(rng.integers(1, 40)), int(rng.integers(1, 40))
    if kind == 2:
        groups, per_group, filters = int(rng.integers(1, 40)), 1, 1
    elif kind == 3:
        groups, per_group, filters = 2, int(rng.integers(1, 20)), int(rng.integers(1, 24))
    elif kind == 4:
        groups, per_group, filters = int(rng.integers(2, 5)), int(rng.integers(1, 4)), int(rng.integers(1, 4))
    elif kind == 5:
        per_group = int(rng.integers(1, 4))
    shape = (int(rng.integers(1, 4)), groups * per_group, *size)
    return shape, (groups * filters, per_group, *kernel), (stride, padding, dilation, groups)


@pytest.mark.parametrize("seed", range(SEEDS))
def test_random_shapes(isa, seed):
    rng = np.random.default_rng(seed)

    def integers(shape):
        return rng.integers(-4, 5, shape)

    for _ in range(SHAPES):
        shape, weight, arguments = draw(rng)
        x, w, b = integers(shape), integers(weight), integers(weight[:1])
        grad, *wanted = convolve(x, w, b, integers, *arguments)
        for layout in (np.ascontiguousarray, channels_last):
            leaves = [fastnn.tensor(a.astype(np.float32), requires_grad=True) for a in (x, w, b)]
            leaves[0] = fastnn.tensor(layout(x.astype(np.float32)), requires_grad=True)
            y = F.conv2d(*leaves, *arguments)
            y.backward(fastnn.tensor(grad.astype(np.float32)))
            for name, got, value in zip("y x w b".split(), (y, *(leaf.grad for leaf in leaves)), wanted, strict=True):
                np.testing.assert_array_equal(got.numpy(), value, f"{name} of {shape} * {weight}, {arguments}")


@pytest.mark.parametrize("layout", [np.ascontiguousarray, channels_last], ids=["row major", "channels last"])
@pytest.mark.parametrize(
    ("shape", "weight", "arguments"),
    [
        ((2, 70, 28, 28), (77, 70, 1, 1), ((1, 1), (0, 0), (1, 1), 1)),
        ((2, 33, 42, 41), (40, 33, 1, 1), ((2, 2), (0, 0), (1, 1), 1)),
        ((1, 512, 23, 23), (48, 512, 1, 1), ((1, 1), (0, 0), (1, 1), 1)),
        ((1, 64, 40, 40), (64, 32, 1, 1), ((2, 2), (0, 0), (1, 1), 2)),
        ((2, 37, 57, 60), (37, 1, 3, 3), ((1, 1), (1, 1), (1, 1), 37)),
        ((2, 37, 57, 60), (37, 1, 3, 3), ((2, 2), (1, 1), (1, 1), 37)),
        ((1, 70, 30, 100), (70, 1, 5, 5), ((1, 1), (2, 2), (1, 1), 70)),
        ((2, 3, 61, 64), (64, 3, 7, 7), ((2, 2), (3, 3), (1, 1), 1)),
        ((1, 512, 9, 9), (64, 512, 3, 3), ((2, 2), (1, 1), (1, 1), 1)),
    ],
    ids=str,
)
def test_layers(isa, rng, layout, shape, weight, arguments):
    x, w, b = (rng.integers(-3, 4, s) for s in (shape, weight, weight[:1]))
    grad, *wanted = convolve(x, w, b, lambda s: rng.integers(-3, 4, s), *arguments)
    leaves = [fastnn.tensor(a.astype(np.float32), requires_grad=True) for a in (layout(x), w, b)]
    leaves[0] = fastnn.tensor(layout(x.astype(np.float32)), requires_grad=True)
    residual = rng.integers(-3, 4, grad.shape)
    y = F.conv2d(*leaves, *arguments)
    y.backward(fastnn.tensor(grad.astype(np.float32)))
    for got, value in zip((y, *(leaf.grad for leaf in leaves)), wanted, strict=True):
        np.testing.assert_array_equal(got.numpy(), value)
    with fastnn.no_grad():
        for threads in (1, 3):
            fastnn.set_num_threads(threads)
            r = fastnn.tensor(residual.astype(np.float32))
            y = F.conv2d(*leaves, *arguments, activation="relu", residual=r)
            np.testing.assert_array_equal(y.numpy(), np.maximum(wanted[0] + residual, 0))


# What a layer takes at most, in a process of its own, beside input, output and weights in another layout.
MEMORY = """
import sys
import numpy as np
import fastnn
from fastnn import _C

n, c, size, filters, kernel, stride, groups, last, backward = map(int, sys.argv[1:])
x, w = np.ones((n, c, size, size), "float32"), np.ones((filters, c // groups, kernel, kernel), "float32")
if last:
    x = np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
x, w, pad = fastnn.tensor(x), fastnn.tensor(w), kernel // 2
y = fastnn.zeros((n, filters, *[(size + 2 * pad - kernel) // stride + 1] * 2))
if last:
    y = fastnn.tensor(np.ascontiguousarray(y.numpy().transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2))
start = fastnn.memory_stats()["in_use"]
arguments = (stride, stride), (pad,) * 4, (1, 1), groups
if backward:
    result = _C.conv2d_backward(y, x, w, *arguments, True, True, False)
else:
    result = _C.conv2d(x, w, None, *arguments, "none", None)
made = 4 * (x.numel() + w.numel() if backward else y.numel())
print(fastnn.memory_stats()["peak"] - start - made - 5 * 4 * w.numel(), 4 * max(x.numel(), y.numel()))
"""


@pytest.mark.parametrize("backward", [0, 1], ids=["forward", "backward"])
@pytest.mark.parametrize("last", [0, 1], ids=["row major", "channels last"])
@pytest.mark.parametrize(
    "layer",
    [
        (4, 64, 112, 64, 3, 1, 1),
        (8, 64, 56, 256, 1, 1, 1),
        (8, 256, 56, 512, 1, 2, 1),
        (4, 3, 224, 64, 7, 2, 1),
        (8, 96, 112, 96, 3, 2, 96),
        (8, 64, 27, 192, 5, 1, 1),
    ],
    ids=str,
)
def test_memory(layer, last, backward):
    command = [sys.executable, "-c", MEMORY, *map(str, (*layer, last, backward))]
    taken, largest = map(int, subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())
    assert taken <= largest // 4 + (32 << 20)
