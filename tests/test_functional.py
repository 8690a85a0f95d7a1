"""Functions made of others: arithmetic and shapes by name, prelu, glu, one_hot, pad, 1-d convolution and pooling.

Compared with torch's functions of the same names in float64, forward and backward, and in every dtype with themselves
in float64.
"""

import inspect

import fastnn
import fastnn.functional as F
import ml_dtypes
import numpy as np
import pytest

torch = pytest.importorskip("torch")

BF16 = np.dtype(ml_dtypes.bfloat16)
TOLERANCE = {np.dtype(np.float32): 1e-5, BF16: 2e-2, np.dtype(np.float16): 4e-3, np.dtype(np.float64): 1e-12}
SHAPE = (2, 6, 9)

# Function, other positional arguments, keywords. Arrays stand for themselves, shapes for normal arrays.
CASES = [
    ("add", [(6, 1)], {}),
    ("add", [(6, 1)], {"alpha": 2.5}),
    ("add", [3], {"alpha": 2}),
    ("sub", [(2, 1, 9)], {"alpha": -1.5}),
    ("mul", [(9,)], {}),
    ("mul", [-2], {}),
    ("div", [(6, 9)], {}),
    ("pow", [2], {}),
    ("maximum", [(6, 9)], {}),
    ("minimum", [(6, 9)], {}),
    ("clamp", [-0.5, 1.0], {}),
    ("matmul", [(9, 4)], {}),
    ("bmm", [(2, 9, 4)], {}),
    ("transpose", [0, -1], {}),
    ("permute", [[2, 0, 1]], {}),
    ("reshape", [[3, -1]], {}),
    ("flatten", [1], {}),
    ("unsqueeze", [1], {}),
    ("squeeze", [1], {}),
    ("sum", [], {}),
    ("sum", [1], {"keepdim": True}),
    ("mean", [[0, 2]], {}),
    ("amax", [-1], {}),
    ("amin", [0, True], {}),
    ("max", [], {}),
    ("tanhshrink", [], {}),
    ("prelu", [(1,)], {}),
    ("prelu", [(6,)], {}),
    ("glu", [1], {}),
    ("pad", [[1, 2]], {}),
    ("pad", [[-1, 2, 3, -2]], {"value": 1.5}),
    ("pad", [[0, 0, 1, 0, -1, 2]], {}),
    ("pad", [[3, 2], "reflect"], {}),
    ("pad", [[8, 8], "reflect"], {}),
    ("pad", [[3, 12], "replicate"], {}),
    ("pad", [[9, 4], "circular"], {}),
    ("pad", [[0, 2], "circular"], {}),
    ("conv1d", [(5, 6, 3), (5,)], {}),
    ("conv1d", [(4, 3, 2)], {"stride": 2, "padding": 1, "dilation": 2, "groups": 2}),
    ("conv1d", [(4, 6, 4)], {"padding": "same"}),
    ("conv1d", [(4, 6, 4)], {"padding": "valid", "stride": [3]}),
    ("max_pool1d", [3], {}),
    ("max_pool1d", [3, 2, 1, 2, True], {}),
    ("avg_pool1d", [[3], [2], [1]], {"ceil_mode": True, "count_include_pad": False}),
    ("adaptive_avg_pool1d", [4], {}),
    ("adaptive_max_pool1d", [4], {}),
]
IDS = [f"{name} {args} {kwargs}" for name, args, kwargs in CASES]


def torch_function(name):
    return getattr(torch.nn.functional, name, None) or getattr(torch, name)


def arrays_of(name, args, rng, dtype):
    x = rng.standard_normal(SHAPE)
    rest = [rng.standard_normal(a) + (3 if name == "div" else 0) if isinstance(a, tuple) else a for a in args]
    return [a.astype(dtype) if isinstance(a, np.ndarray) else a for a in (x, *rest)]


def gradients(function, arguments, kwargs, make, grad):
    given = [make(a) if isinstance(a, np.ndarray) else a for a in arguments]
    y = function(*given, **kwargs)
    y.backward(make(grad(tuple(y.shape)), False))
    return [y.detach().numpy(), *(g.grad.numpy() for g, a in zip(given, arguments, strict=True) if a is not g)]


def in_fastnn(array, requires_grad=True):
    return fastnn.tensor(array, requires_grad=requires_grad)


def in_torch(array, requires_grad=True):
    return torch.tensor(array.astype(np.float64), requires_grad=requires_grad)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("name, args, kwargs", CASES, ids=IDS)
def test_like_torch(name, args, kwargs, dtype, isa):
    arguments = arrays_of(name, args, np.random.default_rng(5), dtype)

    def grad(shape):
        return np.random.default_rng(6).standard_normal(shape).astype(dtype)

    function = torch_function(name)
    if name in ("permute", "mean"):  # (x, *dims) as a tuple
        arguments[1] = tuple(arguments[1])
    got = gradients(getattr(F, name), arguments, kwargs, in_fastnn, grad)
    want = gradients(function, arguments, kwargs, in_torch, grad)
    assert len(got) == len(want)
    for a, b in zip(got, want, strict=True):
        assert a.dtype == dtype and a.shape == b.shape
        np.testing.assert_allclose(a.astype(np.float64), b, rtol=TOLERANCE[dtype], atol=2 * TOLERANCE[dtype])
    plain = getattr(F, name)(*arguments, **kwargs)
    assert isinstance(plain, np.ndarray | np.generic)
    np.testing.assert_array_equal(plain, got[0])


@pytest.mark.parametrize("name, args, kwargs", CASES, ids=IDS)
def test_torch_tensors(name, args, kwargs):
    """torch tensors in, torch tensors out, differentiated by torch."""
    arguments = arrays_of(name, args, np.random.default_rng(5), np.float32)
    if name in ("permute", "mean"):
        arguments[1] = tuple(arguments[1])

    def grad(shape):
        return np.random.default_rng(6).standard_normal(shape).astype(np.float32)

    def make(array, requires_grad=True):
        return torch.tensor(array, requires_grad=requires_grad)

    got = gradients(getattr(F, name), arguments, kwargs, make, grad)
    for a, b in zip(got, gradients(getattr(F, name), arguments, kwargs, in_fastnn, grad), strict=True):
        np.testing.assert_array_equal(a, b)


def test_several_inputs(rng):
    a, b, c = (rng.standard_normal(SHAPE).astype(np.float32) for _ in range(3))
    np.testing.assert_array_equal(F.cat([a, b], 1), np.concatenate([a, b], 1))
    np.testing.assert_array_equal(F.stack([a, b, c], -1), np.stack([a, b, c], -1))
    t = fastnn.tensor(a)
    for ours, theirs in zip(F.split(t, 4, 2), torch.tensor(a).split(4, 2), strict=True):
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy())
    assert [p.shape for p in F.chunk(t, 2, 1)] == [(2, 3, 9)] * 2
    np.testing.assert_array_equal(F.where(a > 0, a, 0.0), np.where(a > 0, a, 0))
    assert F.argmax(a, 1).shape == (2, 9) and F.max(t, 1).indices.numpy().tolist() == F.argmax(a, 1).tolist()


@pytest.mark.parametrize("name", sorted({case[0] for case in CASES} & set(dir(torch.nn.functional))))
def test_signatures(name):
    try:
        theirs = list(inspect.signature(getattr(torch.nn.functional, name)).parameters)
    except ValueError:  # a builtin
        return
    ours = list(inspect.signature(getattr(F, name)).parameters)
    if theirs[:2] != ["args", "kwargs"]:
        assert [n for n in ours if n not in ("activation", "residual")] == theirs


def test_indices_of_pools(rng):
    x = rng.standard_normal(SHAPE)
    for name, args in (("max_pool1d", (3, 2, 1)), ("adaptive_max_pool1d", (4,))):
        y, at = getattr(F, name)(x, *args, return_indices=True)
        want, want_at = getattr(torch.nn.functional, name)(torch.tensor(x), *args, return_indices=True)
        np.testing.assert_array_equal(y, want.numpy())
        np.testing.assert_array_equal(at, want_at.numpy())


def test_unbatched_sequences(rng):
    x, w = rng.standard_normal((6, 9)), rng.standard_normal((4, 6, 3))
    np.testing.assert_allclose(F.conv1d(x, w), F.conv1d(x[None], w)[0], rtol=1e-13)
    np.testing.assert_array_equal(F.max_pool1d(x, 2), F.max_pool1d(x[None], 2)[0])
    assert F.conv1d(x, w, activation="relu", residual=np.ones((4, 7))).min() >= 0


def test_prelu_limits():
    x = np.array([[np.nan, np.inf, -np.inf, 0.0, -2.0]] * 2, np.float32)
    for weight in (np.array([0.25], np.float32), np.array(0.25, np.float32)):
        t, w = fastnn.tensor(x, requires_grad=True), fastnn.tensor(weight, requires_grad=True)
        y = F.prelu(t, w)
        np.testing.assert_array_equal(y.numpy(), [[np.nan, np.inf, -np.inf, 0, -0.5]] * 2)
        y[:, 1:].sum().backward()
        np.testing.assert_array_equal(t.grad.numpy()[0, 1:], [1, 0.25, 0.25, 0.25])
        assert w.grad.shape == w.shape
    t, w = fastnn.tensor(x[:, [1, 4]], requires_grad=True), fastnn.tensor(np.float32([0.5, 0.25]), requires_grad=True)
    F.prelu(t, w).sum().backward()
    np.testing.assert_array_equal(w.grad.numpy(), [0, -4])  # +inf does not reach the slope


def test_one_hot():
    for index in (np.array([[1, 3], [0, 2]]), np.array(2), np.zeros((0, 2), np.int64)):
        want = torch.nn.functional.one_hot(torch.tensor(index), 5).numpy()
        for given in (index, fastnn.tensor(index)):
            got = F.one_hot(given, 5)
            assert got.dtype == np.int64
            np.testing.assert_array_equal(np.asarray(got), want)
    np.testing.assert_array_equal(F.one_hot(np.array([0, 2])), [[1, 0, 0], [0, 0, 1]])
    for bad, classes in (([-1], 3), ([3], 3)):
        with pytest.raises(IndexError, match="one_hot: input holds"):
            F.one_hot(np.array(bad), classes)
    for classes in (0, -2):
        with pytest.raises(ValueError, match="one_hot: num_classes is"):
            F.one_hot(np.array([0]), classes)
    with pytest.raises(ValueError, match="one_hot: input is empty"):
        F.one_hot(np.zeros(0, np.int64))
    with pytest.raises(NotImplementedError, match="one_hot: input has dtype float32"):
        F.one_hot(np.zeros(2, np.float32), 3)


def test_pad_layouts_and_empty(rng):
    x = np.ascontiguousarray(rng.standard_normal((2, 5, 6, 3)).astype(np.float32)).transpose(0, 3, 1, 2)
    for mode in ("constant", "reflect", "replicate", "circular"):
        y = F.pad(x, (1, 2, 2, 1), mode)
        assert y.transpose(0, 2, 3, 1).flags.c_contiguous
        np.testing.assert_array_equal(y, torch.nn.functional.pad(torch.tensor(x), (1, 2, 2, 1), mode).numpy())
    np.testing.assert_array_equal(F.pad(np.zeros((0, 2), np.int64), (0, 1, 2, 0), value=7), np.full((2, 3), 7))
    np.testing.assert_array_equal(F.pad(np.array([True]), (1, 0)), [False, True])


@pytest.mark.parametrize(
    "call, error, words",
    [
        (lambda x: F.pad(x, (1,)), ValueError, "pad: pad is"),
        (lambda x: F.pad(x, (1, 1) * 4), ValueError, "pad: pad is"),
        (lambda x: F.pad(x, (1.5, 1)), TypeError, "pad: pad is 1.5"),
        (lambda x: F.pad(x, (-5, -5)), ValueError, "pad: .* leave nothing"),
        (lambda x: F.pad(x, (9, 0), "reflect"), ValueError, "can add at most 8"),
        (lambda x: F.pad(x, (0, 10), "circular"), ValueError, "can add at most 9"),
        (lambda x: F.pad(x[..., :0], (0, 1), "replicate"), ValueError, "can add at most 0"),
        (lambda x: F.pad(x, (1, 1), "mirror"), ValueError, "pad: mode is 'mirror'"),
        (lambda x: F.pad(x, (1, 1), "reflect", 1.0), ValueError, "pad: value"),
        (lambda x: F.glu(x), ValueError, "glu: dimension 2 of input has size 9"),
        (lambda x: F.glu(x, 3), IndexError, "glu: dim is 3"),
        (lambda x: F.glu(x[0, 0, 0]), (ValueError, AttributeError), "ndim|dimension"),
        (lambda x: F.prelu(x, x[0, :5, 0]), ValueError, "prelu: weight has 5 slopes"),
        (lambda x: F.prelu(x, x[0]), ValueError, "prelu: weight has shape"),
        (lambda x: F.prelu(x, x[0, :, 0].astype(np.float64)), TypeError, "prelu: input has dtype float32"),
        (lambda x: F.bmm(x, x), ValueError, "do not fit"),
        (lambda x: F.bmm(x, x[:1]), ValueError, "bmm: input has shape"),
        (lambda x: F.bmm(x[0], x[0]), ValueError, "bmm: input has shape"),
        (lambda x: F.conv1d(x, x[0]), ValueError, "conv1d: input has shape"),
        (lambda x: F.conv1d(x[None], x), ValueError, "conv1d: input has shape"),
        (lambda x: F.conv1d(x, x, stride=(1, 1)), ValueError, "conv1d: stride is"),
        (lambda x: F.conv1d(x, x, dilation=1.5), TypeError, "conv1d: dilation is 1.5"),
        (lambda x: F.max_pool1d(x[None], 2), ValueError, "max_pool1d: input has shape"),
        (lambda x: F.max_pool1d(x, (2, 2)), ValueError, "max_pool1d: kernel_size"),
        (lambda x: F.max_pool1d(x, 30), ValueError, "max_pool2d"),
        (lambda x: F.adaptive_avg_pool1d(x, -1), ValueError, "output_size"),
        (lambda x: F.celu(x, 0.0), ValueError, "celu: alpha is 0"),
        (lambda x: F.softshrink(x, -0.5), ValueError, "softshrink: lambd is -0.5"),
        (lambda x: F.threshold(x, "a", 0), TypeError, "threshold: threshold"),
    ],
)
def test_errors(call, error, words):
    with pytest.raises(error, match=words):
        call(np.ones(SHAPE, np.float32))
