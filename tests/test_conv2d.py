"""conv2d against float64: every ISA, dtype, layout and algorithm, forward and backward."""

import fastnn
import fastnn.functional as F
import ml_dtypes
import numpy as np
import pytest
from fastnn import _C, reference
from guarded import channels_last, guarded, poison

torch = pytest.importorskip("torch")
ON_CUDA = True
BF16 = np.dtype(ml_dtypes.bfloat16)
TOLERANCE = {"float32": 3e-6, "bfloat16": 1e-2, "float16": 2e-3, "float64": 1e-13}

# (N, C, H, W), (O, C / groups, kh, kw), stride, padding, dilation, groups
CASES = {
    "lenet conv1": ((3, 1, 28, 28), (6, 1, 5, 5), 1, 2, 1, 1),
    "lenet conv2": ((3, 6, 14, 14), (16, 6, 5, 5), 1, 0, 1, 1),
    "1x1": ((2, 17, 9, 7), (33, 17, 1, 1), 1, 0, 1, 1),
    "3x3": ((2, 8, 15, 17), (40, 8, 3, 3), 1, 1, 1, 1),
    "stride": ((2, 5, 13, 18), (7, 5, 3, 4), (2, 3), (1, 2), 1, 1),
    "stride beyond kernel": ((2, 3, 11, 11), (4, 3, 2, 2), 3, 0, 1, 1),
    "dilation": ((1, 4, 16, 15), (9, 4, 3, 3), 1, (2, 3), (2, 3), 1),
    "7x7 stride 2": ((1, 3, 32, 30), (16, 3, 7, 7), 2, 3, 1, 1),
    "depthwise": ((2, 6, 12, 19), (6, 1, 3, 3), 1, 1, 1, 6),
    "groups": ((2, 6, 10, 10), (9, 2, 3, 3), 2, 1, 1, 3),
    "single pixel": ((2, 3, 1, 1), (4, 3, 1, 1), 1, 0, 1, 1),
    "padding beyond kernel": ((1, 2, 4, 5), (3, 2, 2, 2), 1, 4, 1, 1),
    "rows only": ((2, 3, 1, 40), (5, 3, 1, 5), 1, (0, 2), 1, 1),
    "large image": ((1, 9, 90, 70), (18, 9, 3, 3), 1, 1, 1, 1),
    "many images": ((21, 4, 8, 8), (8, 4, 3, 3), 1, 1, 1, 1),
}


def relative_error(got, wanted):
    got = np.asarray(got, np.float64)
    assert got.shape == wanted.shape
    assert np.isfinite(got).all()
    return np.abs(got - wanted).max() / np.abs(wanted).max() if wanted.size else 0.0


def make(rng, case, dtype):
    shape, weight_shape, *arguments = CASES[case]
    x, w, b = (rng.standard_normal(s).astype(dtype) for s in (shape, weight_shape, weight_shape[:1]))
    return x, w, b, arguments


def torch_gradients(x, w, b, arguments, grad):
    leaves = [torch.tensor(a.astype(np.float64), requires_grad=True) for a in (x, w, b)]
    torch.nn.functional.conv2d(*leaves, *arguments).backward(torch.tensor(grad.astype(np.float64)))
    return [leaf.grad.numpy() for leaf in leaves]


@pytest.mark.parametrize("layout", ["row major", "channels last"])
@pytest.mark.parametrize("case", CASES)
def test_forward_and_backward(isa, rng, case, layout):
    x, w, b, arguments = make(rng, case, "float32")
    wanted = reference.conv2d(x, w, b, *arguments)
    grad = rng.standard_normal(wanted.shape).astype("float32")
    if layout == "channels last":
        x = channels_last(x)
    leaves = [fastnn.tensor(a, requires_grad=True) for a in (x, w, b)]
    poison(wanted.shape, x.shape, w.shape)
    y = F.conv2d(*leaves, *arguments)
    assert relative_error(y.numpy(), wanted) < TOLERANCE["float32"]
    y.backward(fastnn.tensor(grad))
    for leaf, gradient in zip(leaves, torch_gradients(x, w, b, arguments, grad), strict=True):
        assert relative_error(leaf.grad.numpy(), gradient) < TOLERANCE["float32"]


@pytest.mark.parametrize("dtype", [BF16, "float16", "float64"], ids=str)
@pytest.mark.parametrize("case", ["lenet conv1", "3x3", "stride", "groups", "1x1"])
def test_dtypes(isa, rng, case, dtype):
    x, w, b, arguments = make(rng, case, dtype)
    wanted = reference.conv2d(x, w, b, *arguments)
    grad = rng.standard_normal(wanted.shape).astype(dtype)
    leaves = [fastnn.tensor(a, requires_grad=True) for a in (x, w, b)]
    y = F.conv2d(*leaves, *arguments)
    assert y.dtype == x.dtype
    tolerance = TOLERANCE[np.dtype(dtype).name]
    assert relative_error(y.numpy(), wanted) < tolerance
    y.backward(fastnn.tensor(grad))
    for leaf, gradient in zip(leaves, torch_gradients(x, w, b, arguments, grad), strict=True):
        assert relative_error(leaf.grad.numpy(), gradient) < tolerance


@pytest.mark.parametrize("layout", ["row major", "channels last"])
@pytest.mark.parametrize("case", CASES)
def test_bfloat16_of_small_integers(isa, rng, case, layout):
    """Sums that float32 holds exactly, on every path, with the epilogue, for any number of threads."""
    shape, weight_shape, *arguments = CASES[case]
    x, w, b = (rng.integers(-2, 3, s).astype(BF16) for s in (shape, weight_shape, weight_shape[:1]))
    x = channels_last(x) if layout == "channels last" else x
    plain = reference.conv2d(x, w, b, *arguments)
    residual = rng.integers(-2, 3, plain.shape).astype(BF16)
    wanted = np.maximum(plain + residual.astype(np.float64), 0).astype(BF16)
    for threads in (1, 3):
        fastnn.set_num_threads(threads)
        poison(plain.shape, x.shape, w.shape)
        np.testing.assert_array_equal(F.conv2d(x, w, b, *arguments), plain.astype(BF16))
        got = F.conv2d(x, w, b, *arguments, activation="relu", residual=residual)
        np.testing.assert_array_equal(got, wanted)


@pytest.mark.parametrize("layout", ["row major", "channels last"])
@pytest.mark.parametrize("channels", [2, 3, 6, 17, 33])
def test_bfloat16_on_guarded_memory(isa, rng, channels, layout):
    x = rng.standard_normal((2, channels, 5, 19)).astype(BF16)
    w = rng.standard_normal((channels, channels, 3, 3)).astype(BF16)
    wanted = reference.conv2d(x, w, None, 1, 1)
    x = channels_last(x) if layout == "channels last" else x
    for at in ("end", "start"):
        assert relative_error(F.conv2d(guarded(x, at), guarded(w, at), padding=1), wanted) < TOLERANCE["bfloat16"]


@pytest.mark.parametrize("layout", ["row major", "channels last"])
@pytest.mark.parametrize(
    "case", ["lenet conv1", "lenet conv2", "3x3", "stride", "padding beyond kernel", "many images"]
)
def test_gradient_that_is_mostly_zero(isa, rng, case, layout):
    x, w, b, arguments = make(rng, case, "float32")
    x = channels_last(x) if layout == "channels last" else x
    shape = reference.conv2d(x, w, b, *arguments).shape
    grad = (rng.standard_normal(shape) * (rng.random(shape) < 0.2)).astype("float32")
    leaves = [fastnn.tensor(a, requires_grad=True) for a in (x, w, b)]
    F.conv2d(*leaves, *arguments).backward(fastnn.tensor(grad))
    for leaf, gradient in zip(leaves, torch_gradients(x, w, b, arguments, grad), strict=True):
        assert relative_error(leaf.grad.numpy(), gradient) < TOLERANCE["float32"]


def test_infinity_times_zero_in_a_sparse_gradient(isa, rng):
    x, w, b, arguments = make(rng, "lenet conv2", "float32")
    x[1, 2, 3, 4] = np.inf
    grad = np.zeros((3, 16, 10, 10), "float32")
    grad[1, 2, 3, 3] = 1.0
    leaves = [fastnn.tensor(a, requires_grad=True) for a in (x, w, b)]
    F.conv2d(*leaves, *arguments).backward(fastnn.tensor(grad))
    _, dw, _ = torch_gradients(x, w, b, arguments, grad)
    np.testing.assert_array_equal(np.isnan(leaves[1].grad.numpy()), np.isnan(dw))


@pytest.mark.parametrize(
    "sizes", [(5, 5), (4, 9), (5, 10), (3, 11), (8, 17), (5, 18), (4, 19), (5, 33), (3, 34), (4, 35)]
)
@pytest.mark.parametrize("channels", [1, 6, 17, 33])
def test_edge_sizes_on_guarded_memory(isa, rng, sizes, channels):
    x = rng.standard_normal((2, 3, *sizes)).astype("float32")
    w = rng.standard_normal((channels, 3, 3, 3)).astype("float32")
    wanted = reference.conv2d(x, w, None)
    grad = rng.standard_normal(wanted.shape).astype("float32")
    for at in ("end", "start"):
        gx, gw, gg = guarded(x, at), guarded(w, at), guarded(grad, at)
        assert relative_error(F.conv2d(gx, gw), wanted) < TOLERANCE["float32"]
        arguments = ((1, 1), (0, 0, 0, 0), (1, 1), 1, True, True, True)
        found = _C.conv2d_backward(_C.from_numpy(gg), _C.from_numpy(gx), _C.from_numpy(gw), *arguments)
        for got, gradient in zip(found, torch_gradients(x, w, np.zeros(channels), (1, 0, 1, 1), grad), strict=True):
            assert relative_error(got.numpy(), gradient) < TOLERANCE["float32"]


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("kernel", [(3, 3), (2, 4), (1, 5)])
def test_named_padding(rng, kernel, padding):
    x = rng.standard_normal((2, 3, 9, 10)).astype("float32")
    w = rng.standard_normal((4, 3, *kernel)).astype("float32")
    wanted = torch.nn.functional.conv2d(torch.tensor(x), torch.tensor(w), padding=padding, dilation=(1, 2)).numpy()
    assert relative_error(F.conv2d(x, w, padding=padding, dilation=(1, 2)), wanted.astype(np.float64)) < 3e-6


@pytest.mark.parametrize(("activation", "top"), [("relu", np.inf), ("relu6", 6)])
@pytest.mark.parametrize("layout", ["row major", "channels last"])
@pytest.mark.parametrize("case", ["3x3", "1x1", "lenet conv1", "depthwise"])
def test_fused_activation_and_residual(isa, rng, case, layout, activation, top):
    x, w, b, arguments = make(rng, case, "float32")
    x = channels_last(x) if layout == "channels last" else x
    plain = reference.conv2d(x, w, b, *arguments)
    r = rng.standard_normal(plain.shape).astype("float32")
    leaves = [fastnn.tensor(a, requires_grad=True) for a in (x, w, b, r)]
    y = F.conv2d(*leaves[:3], *arguments, activation=activation, residual=leaves[3])
    assert relative_error(y.numpy(), np.clip(plain + r, 0, top)) < TOLERANCE["float32"]
    grad = rng.standard_normal(plain.shape).astype("float32")
    y.backward(fastnn.tensor(grad))
    masked = grad * (plain + r > 0) * (plain + r < top)
    for leaf, gradient in zip(leaves, [*torch_gradients(x, w, b, arguments, masked), masked], strict=True):
        assert relative_error(leaf.grad.numpy(), gradient.astype(np.float64)) < TOLERANCE["float32"]


def test_layouts_and_types_of_the_result(rng):
    x, w, b, arguments = make(rng, "3x3", "float32")
    y = F.conv2d(channels_last(x), w, b, *arguments)
    assert isinstance(y, np.ndarray) and y.transpose(0, 2, 3, 1).flags.c_contiguous
    assert isinstance(F.conv2d(fastnn.tensor(x), w, b, *arguments), fastnn.Tensor)
    assert isinstance(F.conv2d(x, fastnn.tensor(w, requires_grad=True)), fastnn.Tensor)
    wanted = reference.conv2d(x, w, b, *arguments)
    assert relative_error(F.conv2d(x[0], w, b, *arguments), wanted[0]) < 3e-6
    strided = np.repeat(x, 2, axis=3)[:, :, :, ::2][::-1]
    assert (
        relative_error(
            F.conv2d(strided, w[::-1, :, ::-1], b, *arguments),
            reference.conv2d(strided, w[::-1, :, ::-1], b, *arguments),
        )
        < 3e-6
    )


def test_unbatched_backward(rng):
    x, w, b, arguments = make(rng, "3x3", "float32")
    grad = rng.standard_normal(reference.conv2d(x, w, b, *arguments).shape).astype("float32")
    leaves = [fastnn.tensor(a, requires_grad=True) for a in (x[0], w, b)]
    F.conv2d(*leaves, *arguments).backward(fastnn.tensor(grad[0]))
    wanted = torch_gradients(x[:1], w, b, arguments, grad[:1])
    assert relative_error(leaves[0].grad.numpy(), wanted[0][0]) < 3e-6
    assert relative_error(leaves[1].grad.numpy(), wanted[1]) < 3e-6


def test_empty_batch():
    x = fastnn.tensor(np.zeros((0, 3, 8, 8), "float32"), requires_grad=True)
    w = fastnn.tensor(np.ones((4, 3, 3, 3), "float32"), requires_grad=True)
    y = F.conv2d(x, w)
    assert y.shape == (0, 4, 6, 6)
    y.backward(fastnn.tensor(np.zeros(y.shape, "float32")))
    assert x.grad.shape == x.shape and not w.grad.numpy().any()


@pytest.mark.parametrize("case", ["lenet conv1", "3x3", "stride", "many images", "large image"])
def test_same_bits_for_any_number_of_threads(rng, case):
    x, w, b, arguments = make(rng, case, "float32")
    results = []
    for threads in (1, 2, 3, 8):
        fastnn.set_num_threads(threads)
        for density in (1.0, 0.2):
            leaves = [fastnn.tensor(a, requires_grad=True) for a in (x, w, b)]
            y = F.conv2d(*leaves, *arguments)
            g = np.random.default_rng(5)
            y.backward(fastnn.tensor((g.standard_normal(y.shape) * (g.random(y.shape) < density)).astype("float32")))
            results.append([a.numpy().tobytes() for a in (y, *(leaf.grad for leaf in leaves))])
    assert all(r == results[i % 2] for i, r in enumerate(results))


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (dict(input=np.zeros((1, 4, 8, 8), "float32")), ValueError, "3 input channels per group but input has 4"),
        (dict(input=np.zeros((8, 8), "float32")), ValueError, "input has shape"),
        (dict(input=np.zeros((1, 3, 8, 8), "int32")), NotImplementedError, "int32"),
        (dict(input=np.zeros((1, 3, 8, 8), "float64")), TypeError, "same dtype"),
        (dict(weight=np.zeros((4, 3, 3), "float32")), ValueError, "weight has shape"),
        (dict(weight=np.zeros((4, 3, 9, 9), "float32")), ValueError, "padded input"),
        (dict(weight=np.zeros((4, 3, 0, 3), "float32")), ValueError, "kernel must not be empty"),
        (dict(bias=np.zeros(3, "float32")), ValueError, "bias has shape"),
        (dict(stride=0), ValueError, "stride"),
        (dict(stride=(1, 2, 3)), ValueError, "stride"),
        (dict(stride=1.5), TypeError, "stride"),
        (dict(padding=-1), ValueError, "padding"),
        (dict(padding="full"), ValueError, "padding"),
        (dict(padding="same", stride=2), ValueError, "stride 1"),
        (dict(padding=2**40), ValueError, "padding"),
        (dict(dilation=0), ValueError, "dilation"),
        (dict(groups=0), ValueError, "groups"),
        (dict(groups=2), ValueError, "groups|per group"),
        (dict(activation="softmax"), NotImplementedError, "activation"),
        (dict(residual=np.zeros((1, 4, 1, 1), "float32")), ValueError, "residual"),
        (dict(input=None), TypeError, "input"),
    ],
)
def test_errors_name_the_argument(change, error, words):
    arguments = dict(input=np.zeros((1, 3, 8, 8), "float32"), weight=np.zeros((4, 3, 3, 3), "float32")) | change
    with pytest.raises(error, match=f"conv2d.*({words})"):
        F.conv2d(**arguments)
