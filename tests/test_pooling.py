"""Pooling against the float64 reference, and its gradients against torch and finite differences."""

import fractions

import fastnn
import fastnn.functional as F
import ml_dtypes
import numpy as np
import pytest
from fastnn import _C, reference
from guarded import channels_last, guarded, poison

ON_CUDA = True

BF16 = ml_dtypes.bfloat16
TOLERANCE = {np.float32: 1e-5, np.float64: 1e-12, BF16: 1e-2, np.float16: 2e-3}
DTYPES = list(TOLERANCE)
LAYOUTS = ["nchw", "channels_last", "strided"]
SIZES = [1, 7, 8, 9, 15, 16, 17, 31, 33]


def images(rng, shape, dtype=np.float32, layout="nchw", ties=True):
    """Small multiples of 1/4, exact in every dtype, so that a maximum often occurs twice; or normal values."""
    x = rng.integers(-6, 7, shape) / 4 if ties else rng.standard_normal(shape)
    x = x.astype(dtype)
    if layout == "channels_last" and len(shape) == 4:
        x = channels_last(x)
    elif layout == "strided":
        wide = np.zeros((*shape[:-1], 2 * shape[-1]), dtype)
        wide[..., ::2] = x
        x = wide[..., ::2]
    return x


def leaf(x):
    t = fastnn.from_numpy(x)
    t.requires_grad = True
    return t


def close(got, want, dtype):
    tolerance = TOLERANCE[dtype]
    np.testing.assert_allclose(np.asarray(got, np.float64), want, rtol=tolerance, atol=tolerance)


def check(rng, op, x, *args, dtype=np.float32, indices=False):
    """On every ISA: the forward against the reference, recorded or not; the gradient against torch in float64.

    The reference is computed once. Outputs lie where NaN was before.
    """
    truth = getattr(reference, op)(x, *args, **({"return_indices": True} if indices else {}))
    want, want_indices = truth if indices else (truth, None)
    gradient = images(rng, want.shape, dtype, ties=False)
    want_gradient = None
    if want.size:
        torch = pytest.importorskip("torch")
        u = torch.tensor(np.asarray(x, np.float64), requires_grad=True)
        getattr(torch.nn.functional, op)(u, *args).backward(torch.tensor(gradient.astype(np.float64)))
        want_gradient = u.grad.numpy()
    before = _C.get_isa()
    for isa in _C.available_isas():
        _C.set_isa(isa)
        try:
            check_on_current_isa(getattr(F, op), x, args, dtype, want, want_indices, gradient, want_gradient)
        finally:
            _C.set_isa(before)


def check_on_current_isa(function, x, args, dtype, want, want_indices, gradient, want_gradient):
    t = leaf(x)
    poison(x.shape, want.shape, dtype=dtype)
    if want_indices is None:
        got = function(t, *args)
    else:
        got, got_indices = function(t, *args, return_indices=True)
        assert got_indices.dtype == np.int64
        np.testing.assert_array_equal(got_indices.numpy(), want_indices)
        np.testing.assert_array_equal(function(x, *args, return_indices=True)[1], want_indices)
    plain = function(x, *args)
    assert isinstance(plain, np.ndarray) and plain.dtype == got.dtype == np.dtype(dtype)
    assert got.shape == plain.shape == want.shape
    close(got.numpy(), want, dtype)
    np.testing.assert_array_equal(got.numpy(), plain)
    last = _C.is_channels_last(fastnn.from_numpy(x))
    if last and min(want.shape) > 1:
        assert _C.is_channels_last(got)
    if want_gradient is None:
        return
    poison(x.shape, dtype=dtype)
    got.backward(fastnn.from_numpy(gradient))
    assert t.grad.dtype == np.dtype(dtype)
    close(t.grad.numpy(), want_gradient, dtype)
    assert _C.is_channels_last(t.grad) or not last


# ---- 2x2 windows side by side ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.__name__)
@pytest.mark.parametrize("op", ["max_pool2d", "avg_pool2d"])
def test_2x2(rng, op, dtype):
    for width in (2, 3, 10, 14, 16, 18, 33, 66):
        for height in (2, 5):
            check(rng, op, images(rng, (3, 2, height, width), dtype), 2, dtype=dtype, indices=op == "max_pool2d")


def test_2x2_of_lenet(rng):
    for shape in ((100, 6, 28, 28), (100, 16, 10, 10)):  # many blocks of narrow rows
        check(rng, "max_pool2d", images(rng, shape), 2, 2, indices=True)


def test_2x2_divisor_override(rng):
    check(rng, "avg_pool2d", images(rng, (2, 3, 10, 34)), 2, None, 0, False, True, 3)


# ---- all windows -----------------------------------------------------------------------------------------------------

MAX_WINDOWS = [
    (3, 2, 1, 1, False),
    (3, 2, 1, 1, True),
    (3, 1, 1, 1, False),
    (2, 1, 0, 1, False),
    ((2, 3), (1, 2), (1, 0), 1, True),
    (2, 3, 1, 2, True),
    ((3, 2), (2, 1), (1, 1), (1, 3), False),
    (5, 3, 2, (2, 1), True),
    (1, 2, 0, 1, True),
    (16, 3, 8, 1, False),  # 256 taps: positions in int32
]
AVG_WINDOWS = [
    (3, 2, 1, False, True, None),
    (3, 2, 1, True, True, None),
    (3, 2, 1, True, False, None),
    (3, 1, 1, False, False, None),
    (5, 1, 2, False, True, None),
    ((2, 3), (1, 2), (1, 0), True, True, -7),
    (7, 7, 0, True, True, None),
    (2, 3, 1, True, False, None),
    (1, 2, 0, True, True, None),
]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("window", MAX_WINDOWS, ids=str)
def test_max_pool2d(rng, window, layout):
    for shape in ((2, 3, 11, 8), (1, 17, 9, 40)):
        check(rng, "max_pool2d", images(rng, shape, layout=layout), *window, indices=True)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("window", AVG_WINDOWS, ids=str)
def test_avg_pool2d(rng, window, layout):
    for shape in ((2, 3, 11, 8), (1, 17, 9, 40)):
        check(rng, "avg_pool2d", images(rng, shape, layout=layout), *window)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("output_size", [1, 3, (2, 5), (None, 3), (20, 45), (0, 2), None], ids=str)
def test_adaptive(rng, output_size, layout):
    for shape in ((2, 3, 7, 9), (1, 17, 10, 20)):
        x = images(rng, shape, layout=layout)
        size = output_size if output_size is not None else (None, None)
        check(rng, "adaptive_avg_pool2d", x, size)
        check(rng, "adaptive_max_pool2d", x, size, indices=True)
    np.testing.assert_array_equal(F.adaptive_max_pool2d(x, None), x)


@pytest.mark.parametrize("dtype", [d for d in DTYPES if d is not np.float32], ids=lambda d: d.__name__)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_dtypes(rng, dtype, layout):
    x = images(rng, (1, 19, 15, 37), dtype, layout)
    check(rng, "max_pool2d", x, 3, 2, 1, dtype=dtype, indices=True)
    check(rng, "max_pool2d", x, 3, 1, 1, dtype=dtype, indices=True)
    check(rng, "max_pool2d", x, 16, 1, 8, dtype=dtype, indices=True)
    check(rng, "avg_pool2d", x, 3, 2, 1, dtype=dtype)
    check(rng, "avg_pool2d", x, 3, 1, 1, dtype=dtype)
    check(rng, "avg_pool2d", x, (15, 37), dtype=dtype)
    check(rng, "adaptive_avg_pool2d", x, (4, 5), dtype=dtype)
    check(rng, "avg_pool2d", images(rng, (1, 79, 5, 6), dtype, layout), 2, 1, 1, dtype=dtype)
    check(rng, "avg_pool2d", images(rng, (1, 5, 13, 20), dtype, layout), (4, 9), dtype=dtype)
    check(rng, "adaptive_max_pool2d", x, (4, 5), dtype=dtype, indices=True)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_sizes(rng, layout):
    for n in SIZES:
        for shape in ((1, 2, 3, n), (1, n, 3, 4)):
            x = images(rng, shape, layout=layout)
            check(rng, "max_pool2d", x, 3, 1, 1, indices=True)
            check(rng, "max_pool2d", x, 3, 2, 1, indices=True)
            check(rng, "avg_pool2d", x, 3, 1, 1)
            check(rng, "avg_pool2d", x, 3, 2, 1)


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.__name__)
def test_unbatched_and_empty(rng, dtype):
    for shape in ((3, 9, 8), (0, 3, 9, 8)):
        x = images(rng, shape, dtype)
        check(rng, "max_pool2d", x, 2, dtype=dtype, indices=True)
        check(rng, "max_pool2d", x, 3, 2, 1, dtype=dtype, indices=True)
        check(rng, "avg_pool2d", x, 3, 1, dtype=dtype)
        check(rng, "adaptive_avg_pool2d", x, 2, dtype=dtype)
        check(rng, "adaptive_max_pool2d", x, 2, dtype=dtype, indices=True)


def test_gradient_by_finite_differences(rng):
    x = rng.permutation(2 * 2 * 5 * 6).reshape(2, 2, 5, 6) / 10.0  # no ties
    calls = [
        (F.max_pool2d, reference.max_pool2d, (3, 2, 1)),
        (F.max_pool2d, reference.max_pool2d, (2, 1, 1, 2)),
        (F.avg_pool2d, reference.avg_pool2d, (3, 2, 1, True, False)),
        (F.avg_pool2d, reference.avg_pool2d, (3, 1, 1)),
        (F.adaptive_avg_pool2d, reference.adaptive_avg_pool2d, ((3, 4),)),
        (F.adaptive_max_pool2d, reference.adaptive_max_pool2d, ((3, 4),)),
    ]
    for function, truth, args in calls:
        t = leaf(x)
        y = function(t, *args)
        g = rng.standard_normal(y.shape)
        y.backward(fastnn.from_numpy(g))
        np.testing.assert_allclose(t.grad.numpy(), reference.numerical_gradient(truth, [x, *args], 0, g), atol=1e-8)


@pytest.mark.parametrize("at", ["start", "end"])
@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
@pytest.mark.parametrize("dtype", [np.float32, BF16], ids=lambda d: d.__name__)
def test_nothing_is_read_outside(isa, rng, dtype, layout, at):
    """A read beyond the input or the gradient would fault."""
    for shape in ((2, 3, 6, 10), (1, 17, 5, 33), (3, 2, 4, 64)):
        for op, args in (
            ("max", (2,)),
            ("max", (3, 2, 1)),
            ("max", (3, 1, 1)),
            ("avg", (2,)),
            ("avg", (3, 2, 1, True)),
        ):
            x = guarded(images(rng, shape, dtype, layout), at)
            t = leaf(x)
            y = getattr(F, f"{op}_pool2d")(t, *args)
            want = getattr(reference, f"{op}_pool2d")(x, *args)
            close(y.numpy(), want, dtype)
            y.backward(fastnn.from_numpy(guarded(images(rng, want.shape, dtype, layout), at)))


# ---- special values --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("window", [(2,), (3, 2, 1), (3, 1, 1), (2, 1, 1, 2), (16, 1, 8)], ids=str)
def test_max_of_nan_infinity_and_ties(isa, rng, window, layout):
    values = np.array([np.nan, -np.inf, -np.inf, -np.inf, np.inf, 1.0, 1.0, -0.0, 0.0], np.float32)
    for shape in ((2, 3, 10, 10), (2, 17, 9, 38)):
        x = images(rng, shape, layout=layout)
        for fill in (rng.choice(values, shape), np.full(shape, -np.inf), np.full(shape, np.nan), np.zeros(shape)):
            x[...] = fill
            want, where = reference.max_pool2d(x, *window, return_indices=True)
            got, index = F.max_pool2d(x, *window, return_indices=True)
            np.testing.assert_array_equal(got, want)
            np.testing.assert_array_equal(index, where)
            np.testing.assert_array_equal(F.max_pool2d(x, *window), want)


def test_first_zero_wins_with_its_sign(isa):
    x = np.array([[-0.0, 0.0] * 20, [0.0, -0.0] * 20], np.float32)[None]
    assert np.signbit(F.max_pool2d(x, 2)).all()
    assert np.signbit(F.max_pool2d(np.ascontiguousarray(x), 2, return_indices=True)[0]).all()


def test_average_keeps_nan_and_infinity_in_their_windows(isa, rng):
    for layout in LAYOUTS:
        x = images(rng, (1, 3, 9, 9), layout=layout)
        x[0, 0, 0, 0], x[0, 1, 4, 4], x[0, 2, 8, 8] = np.nan, np.inf, -np.inf
        for call in (lambda m, x: m.avg_pool2d(x, 3, 2, 1), lambda m, x: m.avg_pool2d(x, 3, 1, 1)):
            np.testing.assert_allclose(call(F, x), call(reference, x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_window_without_taps(isa, layout):
    x = images(np.random.default_rng(0), (1, 3, 1, 1), layout=layout)
    t = leaf(x)
    y, index = F.max_pool2d(t, 2, 1, 2, 3, return_indices=True)
    assert (y.numpy() == -np.inf).all() and (index.numpy() == -1).all()
    y.backward(fastnn.from_numpy(np.ones(y.shape, np.float32)))
    assert (t.grad.numpy() == 0).all()


def test_huge_window_with_huge_padding(rng):
    x = images(rng, (1, 2, 5, 5))
    assert F.max_pool2d(x, 2**20, 1, 2**19).shape == (1, 2, 6, 6)
    np.testing.assert_array_equal(F.max_pool2d(x, 2**20, 2**20, 2**19)[..., 0, 0], x.max(axis=(2, 3)))
    with pytest.raises(NotImplementedError, match="max_pool2d: windows of"):
        F.max_pool2d(x, 2**20, 1, 2**19, return_indices=True)


# ---- gradients and threads -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("function", [lambda t: F.max_pool2d(t, 3, 2, 1), lambda t: F.avg_pool2d(t, 2)])
def test_gradient_of_any_strides(rng, function):
    x = images(rng, (2, 3, 8, 8))
    shape = function(x).shape
    for g in (np.broadcast_to(np.float32(2), shape), images(rng, shape, layout="channels_last")):
        one, other = leaf(x), leaf(x)
        function(one).backward(fastnn.from_numpy(g))
        function(other).backward(fastnn.from_numpy(np.ascontiguousarray(g)))
        np.testing.assert_array_equal(one.grad.numpy(), other.grad.numpy())


def test_half_gradients_add_up_in_float32(isa):
    """64 overlapping windows: 256 + 63 * 1 would stay 256 if it were summed in bfloat16."""
    for layout in ("nchw", "channels_last"):
        x = images(np.random.default_rng(0), (1, 2, 15, 15), BF16, layout)
        x[..., 7, 7] = 100
        t = leaf(x)
        y = F.max_pool2d(t, 8, 1)
        g = np.ones(y.shape, BF16)
        g[..., 0, 0] = 256
        y.backward(fastnn.from_numpy(g))
        assert (t.grad.numpy()[..., 7, 7].astype(np.float64) == BF16(319)).all()


@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
def test_same_bits_for_any_number_of_threads(rng, layout):
    x = images(rng, (8, 17, 33, 40), layout=layout, ties=False)

    def run():
        out = []
        for call in (
            lambda t: F.max_pool2d(t, 3, 2, 1),
            lambda t: F.max_pool2d(t, 2),
            lambda t: F.avg_pool2d(t, 3, 1, 1),
            lambda t: F.adaptive_avg_pool2d(t, 5),
        ):
            t = leaf(x)
            y = call(t)
            y.backward(fastnn.from_numpy(np.sin(np.arange(y.numpy().size, dtype=np.float32)).reshape(y.shape)))
            out += [y.numpy().tobytes(), t.grad.numpy().tobytes()]
        return out

    _C.set_num_threads(1)
    want = run()
    for threads in (2, 3, 8):
        _C.set_num_threads(threads)
        assert run() == want


def test_input_is_not_kept(rng):
    """Only uint8 positions are: changing the input after the call is no error and changes no gradient."""
    t = leaf(images(rng, (1, 2, 6, 6)))
    y = F.max_pool2d(t, 2)
    (position, *_rest) = y.grad_fn.saved
    assert position.dtype == np.uint8
    before = t.numpy().copy()
    _C.assign(t.detach(), fastnn.from_numpy(np.zeros((1, 2, 6, 6), np.float32)))
    y.backward(fastnn.from_numpy(np.ones(y.shape, np.float32)))
    assert ((t.grad.numpy() == 1) <= (before >= np.repeat(np.repeat(y.numpy(), 2, 2), 2, 3))).all()
    assert t.grad.numpy().sum() == 18


# ---- arguments -------------------------------------------------------------------------------------------------------


def test_forms_of_arguments(rng):
    x = images(rng, (1, 2, 9, 9))
    want = F.max_pool2d(x, (3, 3), (2, 2), (1, 1), (1, 1))
    for three, two, one in ((3, 2, 1), ([3], [2], [1]), ((3,), [2, 2], (1, 1)), (np.int64(3), np.int32(2), np.int8(1))):
        np.testing.assert_array_equal(F.max_pool2d(x, three, two, one), want)
    np.testing.assert_array_equal(F.max_pool2d(x, kernel_size=3, ceil_mode=True), reference.max_pool2d(x, 3))
    assert not F.max_pool2d(fastnn.from_numpy(x), 2).requires_grad


BAD = [
    (lambda x: F.max_pool2d(x, 0), ValueError, "max_pool2d: kernel_size is"),
    (lambda x: F.max_pool2d(x, -1), ValueError, "max_pool2d: kernel_size is"),
    (lambda x: F.max_pool2d(x, 2**70), ValueError, "max_pool2d.*kernel_size"),
    (lambda x: F.max_pool2d(x, 2**40), ValueError, "max_pool2d: kernel_size is"),
    (lambda x: F.max_pool2d(x, (2, 2, 2)), ValueError, "max_pool2d: kernel_size is"),
    (lambda x: F.max_pool2d(x, ()), ValueError, "max_pool2d: kernel_size is"),
    (lambda x: F.max_pool2d(x, 2, 0), ValueError, "max_pool2d: stride is"),
    (lambda x: F.max_pool2d(x, 2, 1, 2), ValueError, "max_pool2d: padding is"),
    (lambda x: F.max_pool2d(x, 2, 1, -1), ValueError, "max_pool2d: padding is"),
    (lambda x: F.max_pool2d(x, 2, dilation=0), ValueError, "max_pool2d: dilation is"),
    (lambda x: F.max_pool2d(x, 9), ValueError, "max_pool2d: kernel_size .* spans 9"),
    (lambda x: F.max_pool2d(x, 2, dilation=2**31 - 1), ValueError, "max_pool2d: kernel_size .* spans"),
    (lambda x: F.max_pool2d(x[0, 0], 2), ValueError, "max_pool2d: input has shape"),
    (lambda x: F.max_pool2d(x[None], 2), ValueError, "max_pool2d: input has shape"),
    (lambda x: F.max_pool2d(x[..., :0], 2), ValueError, "max_pool2d: input has shape"),
    (lambda x: F.max_pool2d(x[:, :0], 2), ValueError, "max_pool2d: input has shape"),
    (lambda x: F.max_pool2d(x, 2.0), TypeError, "max_pool2d: kernel_size is"),
    (lambda x: F.max_pool2d(x, True), TypeError, "max_pool2d: kernel_size is"),
    (lambda x: F.max_pool2d(x, "2"), TypeError, "max_pool2d: kernel_size is"),
    (lambda x: F.max_pool2d(x, (2, None)), TypeError, "max_pool2d: kernel_size is"),
    (lambda x: F.max_pool2d(x, 2, fractions.Fraction(1)), TypeError, "max_pool2d: stride is"),
    (lambda x: F.max_pool2d(x.astype(np.int64), 2), NotImplementedError, "max_pool2d: input has dtype int64"),
    (lambda x: F.avg_pool2d(x, 2, divisor_override=0), ValueError, "avg_pool2d: divisor_override is 0"),
    (lambda x: F.avg_pool2d(x, 2, divisor_override=2.0), TypeError, "avg_pool2d: divisor_override is"),
    (lambda x: F.avg_pool2d(x, 2, padding=2), ValueError, "avg_pool2d: padding is"),
    (lambda x: F.avg_pool2d(x, 7), ValueError, "avg_pool2d: kernel_size"),
    (lambda x: F.avg_pool2d(x.astype(np.uint8), 2), NotImplementedError, "avg_pool2d: input has dtype uint8"),
    (lambda x: F.adaptive_avg_pool2d(x, -1), ValueError, "adaptive_avg_pool2d: output_size is"),
    (lambda x: F.adaptive_avg_pool2d(x, (1, 2, 3)), ValueError, "adaptive_avg_pool2d: output_size is"),
    (lambda x: F.adaptive_avg_pool2d(x, 2**31), ValueError, "adaptive_avg_pool2d: output_size is"),
    (lambda x: F.adaptive_avg_pool2d(x, 2**31 - 1), ValueError, "too large"),
    (lambda x: F.adaptive_max_pool2d(x, (1, 1.5)), TypeError, "adaptive_max_pool2d: output_size is"),
    (lambda x: F.adaptive_max_pool2d(x[0, 0], 1), ValueError, "adaptive_max_pool2d: input has shape"),
]


@pytest.mark.parametrize("call, error, text", BAD)
def test_errors(call, error, text):
    with pytest.raises(error, match=text):
        call(np.ones((1, 2, 6, 6), np.float32))


def test_gradient_of_wrong_shape():
    y = F.avg_pool2d(leaf(np.ones((1, 2, 6, 6), np.float32)), 2)
    with pytest.raises(ValueError, match="gradient has shape"):
        y.backward(fastnn.from_numpy(np.ones((1, 2, 2, 3), np.float32)))
