"""Pooling on a GPU (emulated where there is none) beside the CPU: windows that are not square, dilation, ceil_mode,
positions of both widths, gradients."""

from __future__ import annotations

import fastnn
import fastnn.functional as F
import ml_dtypes
import numpy as np
import pytest

pytestmark = [pytest.mark.full, pytest.mark.usefixtures("gpu")]
SHAPE = (2, 5, 13, 18)
MAX = [
    {"kernel_size": (2, 3)},
    {"kernel_size": (3, 2), "stride": (1, 2), "padding": (1, 0), "ceil_mode": True},
    {"kernel_size": (2, 4), "stride": (3, 1), "dilation": (3, 2), "padding": (1, 2)},
    {"kernel_size": (13, 18)},  # 234 taps
    {"kernel_size": (16, 17), "stride": 1, "padding": (8, 7)},  # more than uint8 tells apart
]
AVERAGE = [
    {"kernel_size": (2, 3)},
    {"kernel_size": (3, 5), "stride": (2, 1), "padding": (1, 2), "ceil_mode": True},
    {"kernel_size": 3, "stride": 2, "padding": 1, "count_include_pad": False},
    {"kernel_size": (3, 1), "divisor_override": 2},
]
ADAPTIVE = [(1, 1), (5, 7), (13, 4), (20, 3), (None, 2)]


def both(function, rng, dtype, layout, exact):
    """Runs a function and its gradient on either device."""
    x = (rng.integers(-6, 7, SHAPE) / 4).astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    results, grad = [], None
    for device in ("cpu", "cuda"):
        t = fastnn.tensor(x, device=device)
        if layout == "channels_last":
            t = t.contiguous(fastnn.channels_last)
        t = t.detach()
        t.requires_grad = True
        out = function(t)
        y, *rest = out if isinstance(out, tuple) else (out,)
        if grad is None:
            grad = (rng.integers(-9, 10, y.shape) / 4).astype(x.dtype)
        y.backward(fastnn.tensor(grad, device=device))
        assert y.is_contiguous(fastnn.channels_last) == (layout == "channels_last") or 1 in y.shape
        results.append([v.detach().cpu().numpy() for v in (y, t.grad, *rest)])
    for wanted, got in zip(*results, strict=True):
        if exact:
            np.testing.assert_array_equal(got, wanted)
        else:
            tolerance = {"float32": 1e-6, "float64": 1e-13, "bfloat16": 1e-2, "float16": 1e-3}[dtype]
            scale = np.abs(wanted.astype(np.float64)).max()
            assert np.abs(got.astype(np.float64) - wanted.astype(np.float64)).max() <= tolerance * scale


@pytest.mark.parametrize("layout", ["row-major", "channels_last"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "float64"])
@pytest.mark.parametrize("arguments", MAX, ids=str)
def test_max(rng, dtype, layout, arguments):
    exact = dtype in ("float32", "float64")  # sums of a few multiples of 1/4
    both(lambda t: F.max_pool2d(t, **arguments), rng, dtype, layout, exact)
    both(lambda t: F.max_pool2d(t, **arguments, return_indices=True), rng, dtype, layout, exact)


@pytest.mark.parametrize("layout", ["row-major", "channels_last"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "float64"])
@pytest.mark.parametrize("arguments", AVERAGE, ids=str)
def test_average(rng, dtype, layout, arguments):
    both(lambda t: F.avg_pool2d(t, **arguments), rng, dtype, layout, False)


@pytest.mark.parametrize("layout", ["row-major", "channels_last"])
@pytest.mark.parametrize("size", ADAPTIVE, ids=str)
def test_adaptive(rng, layout, size):
    both(lambda t: F.adaptive_max_pool2d(t, size), rng, "float32", layout, True)
    both(lambda t: F.adaptive_avg_pool2d(t, size), rng, "float32", layout, False)
