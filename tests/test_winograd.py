"""Winograd's F(4x4, 3x3) against float64 and against the direct sums, which set_precision("exact") asks for."""

import os
import subprocess
import sys

import fastnn
import fastnn.functional as F
import numpy as np
import pytest
from fastnn import _C, reference
from fastnn.ops.conv2d import _conv2d_max_pool
from guarded import channels_last, guarded, poison

torch = pytest.importorskip("torch")

LAYOUTS = pytest.mark.parametrize("layout", ["row major", "channels last"])
TOLERANCE = 5e-6  # of the largest output; direct sums of 512 channels reach 3e-6

# (N, C, H, W), output channels, padding; all are taken by worth_winograd().
CASES = {
    "padding 1": ((2, 16, 29, 30), 16, 1),
    "no padding": ((2, 32, 13, 31), 16, 0),
    "padding beyond the kernel": ((1, 19, 10, 15), 22, (2, 3)),
    "channels beside the lanes": ((2, 17, 14, 14), 37, 1),
    "one vector of channels in the last panel": ((1, 24, 8, 13), 40, "same"),
    "smallest output": ((3, 16, 4, 4), 33, 1),
    "many images": ((19, 16, 14, 14), 16, 1),
    "tiles of one row in two tasks": ((1, 16, 8, 470), 16, 1),
    "few tiles": ((3, 33, 9, 13), 130, 1),
    "few tiles of many channels": ((1, 130, 7, 7), 130, 0),
}


@pytest.fixture(autouse=True)
def _precision():
    before = _C.get_precision()
    yield
    fastnn.set_precision(before)


def data(rng, shape, filters, layout="row major"):
    x, w, b = (rng.standard_normal(s).astype("float32") for s in (shape, (filters, shape[1], 3, 3), (filters,)))
    return channels_last(x) if layout == "channels last" else x, w, b


def exactly(fn, *arguments, **options):
    fastnn.set_precision("exact")
    result = fn(*arguments, **options)
    fastnn.set_precision("fast")
    return result


def error(got, wanted):
    got = np.asarray(got, np.float64)
    assert got.shape == wanted.shape and np.isfinite(got).all()
    return np.abs(got - wanted).max() / np.abs(wanted).max()


def float64(x, w, b, padding, grad=None):
    """The output and, given its gradient, the gradients of x, w and b, by torch in float64."""
    leaves = [torch.tensor(np.ascontiguousarray(a), dtype=torch.float64, requires_grad=True) for a in (x, w, b)]
    y = torch.nn.functional.conv2d(*leaves, padding=padding)
    if grad is None:
        return y.detach().numpy()
    y.backward(torch.tensor(np.ascontiguousarray(grad), dtype=torch.float64))
    return [y.detach().numpy(), *(leaf.grad.numpy() for leaf in leaves)]


@LAYOUTS
@pytest.mark.parametrize("case", CASES)
def test_forward_and_backward(isa, rng, case, layout):
    shape, filters, padding = CASES[case]
    x, w, b = data(rng, shape, filters, layout)
    leaves = [fastnn.tensor(a, requires_grad=True) for a in (x, w, b)]
    size = float64(x, w, b, padding).shape
    grad = rng.standard_normal(size).astype("float32")
    wanted = float64(x, w, b, padding, grad)
    poison(size, x.shape)
    y = F.conv2d(*leaves, padding=padding)
    y.backward(fastnn.tensor(grad))
    for got, value in zip((y, *(leaf.grad for leaf in leaves)), wanted, strict=True):
        assert error(got.numpy(), value) < TOLERANCE
    assert not np.array_equal(y.numpy(), exactly(F.conv2d, x, w, b, padding=padding))  # it was Winograd


@LAYOUTS
@pytest.mark.parametrize(("shape", "filters", "padding"), [((2, 17, 13, 16), 37, 2), ((1, 64, 7, 7), 130, (2, 1))])
def test_5x5(isa, rng, shape, filters, padding, layout):
    x, _, b = data(rng, shape, filters, layout)
    w = rng.standard_normal((filters, shape[1], 5, 5)).astype("float32")
    leaves = [fastnn.tensor(a, requires_grad=True) for a in (x, w, b)]
    grad = rng.standard_normal(float64(x, w, b, padding).shape).astype("float32")
    wanted = float64(x, w, b, padding, grad)
    y = F.conv2d(*leaves, padding=padding)
    y.backward(fastnn.tensor(grad))
    for got, value in zip((y, *(leaf.grad for leaf in leaves)), wanted, strict=True):
        assert error(got.numpy(), value) < TOLERANCE
    assert not np.array_equal(y.numpy(), exactly(F.conv2d, x, w, b, padding=padding))
    with fastnn.no_grad():
        pooled = _conv2d_max_pool(*leaves, (1, 1), padding, (1, 1), 1, "relu").numpy()
    np.testing.assert_array_equal(pooled, F.max_pool2d(np.maximum(y.numpy(), 0), 2))


def test_reference_agrees(isa, rng):
    x, w, b = data(rng, (1, 16, 9, 10), 16)
    assert error(F.conv2d(x, w, b, padding=1), reference.conv2d(x, w, b, 1, 1, 1, 1)) < TOLERANCE


@LAYOUTS
@pytest.mark.parametrize("activation", [None, "relu", "gelu"])
@pytest.mark.parametrize("size", [(12, 12), (7, 13)])
def test_epilogues(isa, rng, size, activation, layout):
    x, w, b = data(rng, (2, 16, *size), 41, layout)
    r = rng.standard_normal((2, 41, *size)).astype("float32")
    r = channels_last(r) if layout == "channels last" else r
    for bias in (None, b):
        for residual in (None, r):
            y = F.conv2d(x, w, bias, padding=1, activation=activation, residual=residual)
            direct = exactly(F.conv2d, x, w, bias, padding=1, activation=activation, residual=residual)
            assert error(y, direct.astype(np.float64)) < TOLERANCE
            assert not np.array_equal(y, direct)


@LAYOUTS
@pytest.mark.parametrize("size", [(12, 12), (13, 15), (10, 18)])
def test_pool(isa, rng, size, layout):
    x, w, b = data(rng, (2, 16, *size), 41, layout)
    grad = rng.standard_normal((2, 41, size[0] // 2, size[1] // 2)).astype("float32")

    def run():
        leaves = [fastnn.tensor(a, requires_grad=True) for a in (x, w, b)]
        y = _conv2d_max_pool(*leaves, (1, 1), 1, (1, 1), 1, "relu")
        y.backward(fastnn.tensor(grad))
        with fastnn.no_grad():
            plain = _conv2d_max_pool(*leaves, (1, 1), 1, (1, 1), 1, "relu")
        np.testing.assert_array_equal(plain.numpy(), y.numpy())
        return [y.numpy(), *(leaf.grad.numpy() for leaf in leaves)]

    fused, direct = run(), exactly(run)
    assert not np.array_equal(fused[0], direct[0])
    for got, value in zip(fused, direct, strict=True):
        assert error(got, value.astype(np.float64)) < TOLERANCE


def test_positions_of_equal_maxima_and_nan(isa):
    x, w = np.zeros((1, 16, 16, 16), "float32"), np.ones((16, 16, 3, 3), "float32")
    x[0, 0, 9, 9] = np.nan
    y, position = (t.numpy() for t in pooled_with_positions(x, w))
    wanted = torch.nn.functional.conv2d(torch.tensor(x), torch.tensor(w), padding=1)
    assert np.isnan(y[torch.nn.functional.max_pool2d(wanted, 2).isnan().numpy()]).all()
    assert (position[0, :, 8:, 8:] == 0).all() and (y[0, :, 8:, 8:] == 0).all()  # the first of equal ones


def pooled_with_positions(x, w):
    y, position = _C.conv2d_pool(
        fastnn.tensor(x), fastnn.tensor(w), None, (1, 1), (1, 1, 1, 1), (1, 1), 1, "none", True
    )
    return y, position


@pytest.mark.parametrize("at", ["start", "end"])
@LAYOUTS
def test_guarded_memory(isa, rng, at, layout):
    for shape, filters, padding in (((1, 16, 7, 17), 17, 1), ((2, 22, 8, 14), 16, 0), ((1, 32, 7, 7), 130, 2)):
        x, w, b = data(rng, shape, filters, layout)
        wanted = float64(x, w, b, padding)
        grad = rng.standard_normal(wanted.shape).astype("float32")
        grad = channels_last(grad) if layout == "channels last" else grad
        leaves = [fastnn.from_numpy(guarded(a, at)) for a in (x, w, b)]
        residual = fastnn.from_numpy(guarded(grad, at))
        assert error(F.conv2d(*leaves, padding=padding, residual=residual).numpy(), wanted + grad) < TOLERANCE
        dx, *_ = _C.conv2d_backward(residual, *leaves[:2], (1, 1), (padding,) * 4, (1, 1), 1, True, False, False)
        assert error(dx.numpy(), float64(x, w, b, padding, grad)[1]) < TOLERANCE


@LAYOUTS
@pytest.mark.parametrize("shape", [(1, 16, 60, 60), (5, 33, 14, 15)])
def test_same_bits_for_any_number_of_threads(isa, rng, shape, layout):
    x, w, b = data(rng, shape, 140, layout)
    grad = rng.standard_normal((shape[0], 140, *shape[2:])).astype("float32")

    def run(threads):
        _C.set_num_threads(threads)
        leaves = [fastnn.tensor(a, requires_grad=True) for a in (x, w, b)]
        y = F.conv2d(*leaves, padding=1, activation="relu")
        y.backward(fastnn.tensor(grad))
        return [y.numpy(), leaves[0].grad.numpy()]

    first = run(1)
    for threads in (2, 3, 8):
        for a, b_ in zip(first, run(threads), strict=True):
            np.testing.assert_array_equal(a, b_)


def test_an_image_does_not_depend_on_its_batch(isa, rng):
    x, w, b = data(rng, (16, 16, 17, 19), 16)
    together = F.conv2d(x, w, b, padding=1)
    np.testing.assert_array_equal(F.conv2d(x[3:11], w, b, padding=1), together[3:11])


@pytest.mark.parametrize("channels", [16, 128, 512])
def test_error_bound(isa, rng, channels):
    x, w, b = data(rng, (1, channels, 8, 12), 32)
    w *= (9 * channels) ** -0.5
    for scale, shift in ((1, 0), (1e-3, 1), (1e4, -3e4)):
        values = (scale * x + shift).astype("float32")
        assert error(F.conv2d(values, w, b, padding=1), float64(values, w, b, 1)) < TOLERANCE


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_not_finite(isa, rng, value):
    x, w, b = data(rng, (1, 16, 29, 30), 16)
    for at in [(0, 0), (5, 9), (8, 8), (28, 29), (11, 3)]:
        bad = x.copy()
        bad[0, 7, at[0], at[1]] = value
        with np.errstate(all="ignore"):
            wanted = float64(bad, w, b, 1)
            got = F.conv2d(bad, w, b, padding=1)
        assert not np.isfinite(got[~np.isfinite(wanted)]).any()
        far = np.abs(np.arange(29)[:, None] - at[0]) > 6
        far = far | (np.abs(np.arange(30)[None] - at[1]) > 6)
        assert np.isfinite(got[:, :, far]).all()


def test_precision():
    assert fastnn.get_precision() == "fast"
    with pytest.raises(ValueError, match="set_precision.*'high'.*'fast', 'exact' or 'tf32'"):
        fastnn.set_precision("high")
    fastnn.set_precision("exact")
    assert fastnn.get_precision() == "exact"


def test_exact_precision_sums_small_integers_exactly(isa, rng):
    fastnn.set_precision("exact")
    x, w, b = (rng.integers(-4, 5, s).astype("float32") for s in ((2, 16, 28, 28), (16, 16, 3, 3), (16,)))
    np.testing.assert_array_equal(F.conv2d(x, w, b, padding=1), float64(x, w, b, 1))


def test_other_convolutions_are_direct(rng):
    x, w, b = data(rng, (1, 32, 20, 20), 32)
    others = [
        ((x, w, b), {"stride": 2}),
        ((x, w, b), {"dilation": 2}),
        ((x, w[:, :16], b), {"groups": 2}),
        ((x, w[:, :, :, :2], b), {}),
        ((x[:, :15], w[:, :15], b), {}),
        ((x, w[:15], b[:15]), {}),
        ((x[:, :, :5], w, b), {}),
        ((x.astype("float64"), w.astype("float64"), None), {"padding": 1}),
    ]
    for arguments, options in others:
        np.testing.assert_array_equal(F.conv2d(*arguments, **options), exactly(F.conv2d, *arguments, **options))


def test_log(tmp_path):
    code = (
        "import numpy as np, fastnn, fastnn.functional as F\n"
        "x, w = np.ones((2, 16, 28, 28), 'float32'), np.ones((16, 16, 3, 3), 'float32')\n"
        "F.conv2d(x, w, padding=1)\nfastnn.set_precision('exact')\nF.conv2d(x, w, padding=1)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p), "FASTNN_LOG": "dispatch"}
    run = [sys.executable, "-c", code]
    lines = subprocess.run(run, env=environment, capture_output=True, text=True, check=True).stderr.splitlines()
    assert len(lines) == 2 and all("conv2d" in line and "(2, 16, 28, 28)" in line for line in lines)
    assert "Winograd" in lines[0] and "lanes" in lines[1]
    del environment["FASTNN_LOG"]
    assert not subprocess.run(run, env=environment, capture_output=True, text=True, check=True).stderr
