"""The float64 reference against torch in float64, so that everything else can lean on it."""

import inspect
import itertools
import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest
from fastnn import reference as R

torch = pytest.importorskip("torch")
F = torch.nn.functional

SPECIAL = np.array(
    [np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-300, -1e-300, 700.0, -700.0, 40.0, -40.0, -8.5, 3.0, -3.0, 6.0]
)


def randn(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape)


def to_torch(value):
    if isinstance(value, np.ndarray | np.generic):
        return torch.from_numpy(np.array(value))
    return value


def assert_same(actual, expected, rtol=1e-12, atol=1e-13):
    expected = expected.numpy()
    assert np.shape(actual) == expected.shape
    assert np.asarray(actual).dtype == expected.dtype
    np.testing.assert_allclose(actual, expected, rtol=rtol, atol=atol)


def check(name, *args, torch_function=None, **kwargs):
    """Run both on the same arguments; the reference must not write to its inputs."""
    before = [np.copy(a) if isinstance(a, np.ndarray) else a for a in args]
    actual = getattr(R, name)(*args, **kwargs)
    for old, new in zip(before, args, strict=True):
        np.testing.assert_array_equal(old, new)
    torch_function = torch_function or getattr(F, name)
    expected = torch_function(*map(to_torch, args), **{key: to_torch(value) for key, value in kwargs.items()})
    if isinstance(actual, tuple):
        for a, e in zip(actual, expected, strict=True):
            assert_same(a, e)
    else:
        assert_same(actual, expected)
    return actual


# ---- signatures and dtypes -------------------------------------------------------------------------------------------


OTHERS = {"adagrad", "adam", "adamw", "lion", "rmsprop", "sgd", "matmul", "numerical_gradient"}
OTHERS |= {"gru_layer", "lstm_layer", "rnn_layer"}  # tests/test_rnn.py
OTHERS |= {"rotary_embedding"}  # tests/test_attention_window.py


@pytest.mark.parametrize("name", sorted(set(R.__all__) - OTHERS))
def test_parameters_are_those_of_torch(name):
    function = getattr(F, f"{name}_with_indices", getattr(F, name))
    if inspect.isbuiltin(function):  # has no signature, but its docstring begins with one
        namespace = {}
        exec(f"def {function.__doc__.strip().split(' ->')[0]}: pass", namespace)
        function = namespace[name]
    theirs = inspect.signature(function).parameters
    ours = dict(inspect.signature(getattr(R, name)).parameters)
    if name == "dropout":
        assert ours.pop("mask").kind is inspect.Parameter.KEYWORD_ONLY
    if name == "scaled_dot_product_attention":
        for more in ("dropout_mask", "window_size", "softcap"):
            assert ours.pop(more).kind is inspect.Parameter.KEYWORD_ONLY
    assert [(p.name, p.default) for p in ours.values()] == [(p.name, p.default) for p in theirs.values()]


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16, np.int32, np.uint8, np.bool_])
def test_inputs_of_any_dtype_are_upcast_first(dtype):
    x, w = (np.abs(randn(1, 2, 5, 5)) * 3).astype(dtype), (np.abs(randn(3, 2, 3, 3)) * 3).astype(dtype)
    wide = R.conv2d(x.astype(np.float64), w.astype(np.float64))
    assert wide.dtype == np.float64
    np.testing.assert_array_equal(R.conv2d(x, w), wide)
    np.testing.assert_array_equal(R.gelu(x), R.gelu(x.astype(np.float64)))


def test_complex_input_is_an_error():
    with pytest.raises(TypeError):
        R.relu(np.ones(3, np.complex64))


# ---- conv2d, linear, matmul ------------------------------------------------------------------------------------------

CONV_ARGUMENTS = [
    dict(stride=stride, padding=padding, dilation=dilation, groups=groups)
    for stride, padding, dilation, groups in itertools.product(
        (1, (2, 3)), (0, (2, 1), "valid"), (1, (2, 1)), (1, 2, 4)
    )
] + [
    dict(padding="same", dilation=dilation, groups=groups)
    for dilation, groups in itertools.product((1, (2, 3)), (1, 4))
]


@pytest.mark.parametrize("kernel", [(1, 1), (3, 3), (2, 3), (4, 2)], ids=str)
@pytest.mark.parametrize("kwargs", CONV_ARGUMENTS, ids=str)
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
def test_conv2d(kwargs, kernel):
    x, w, b = randn(2, 4, 9, 8), randn(8, 4 // kwargs["groups"], *kernel), randn(8)
    check("conv2d", x, w, b, **kwargs)
    check("conv2d", x[0], w, **kwargs)


@pytest.mark.parametrize("shape", [(0, 3, 5, 5), (1, 3, 1, 1), (2, 3, 1, 7)], ids=str)
def test_conv2d_small(shape):
    check("conv2d", randn(*shape), randn(4, 3, 3, 3), randn(4), padding=1)


def test_conv2d_strided_memory():
    x = randn(2, 9, 8, 4).transpose(0, 3, 1, 2)
    check("conv2d", x, randn(3, 3, 6, 4).transpose(3, 2, 0, 1)[:, :4], randn(8)[::2], 1, 1)


def test_conv2d_depthwise_multiplier():
    check("conv2d", randn(2, 3, 6, 6), randn(6, 1, 3, 3), randn(6), 1, 1, 1, 3)


@pytest.mark.parametrize(
    "x, w, kwargs",
    [
        ((1, 4, 5, 5), (8, 3, 3, 3), {}),
        ((1, 4, 5, 5), (8, 4, 3, 3), dict(groups=0)),
        ((1, 4, 5, 5), (7, 2, 3, 3), dict(groups=2)),
        ((1, 4, 2, 5), (8, 4, 3, 3), {}),
        ((4, 5), (8, 4, 3, 3), {}),
        ((1, 4, 5, 5), (8, 4, 3, 3), dict(stride=0)),
        ((1, 4, 5, 5), (8, 4, 3, 3), dict(dilation=0)),
        ((1, 4, 5, 5), (8, 4, 3, 3), dict(padding=-1)),
        ((1, 4, 5, 5), (8, 4, 3, 3), dict(padding=(1, 1, 1))),
        ((1, 4, 5, 5), (8, 4, 3, 3), dict(padding="full")),
        ((1, 4, 5, 5), (8, 4, 3, 3), dict(padding="same", stride=2)),
    ],
    ids=str,
)
def test_conv2d_errors(x, w, kwargs):
    with pytest.raises(ValueError, match="conv2d"):
        R.conv2d(randn(*x), randn(*w), **kwargs)


@pytest.mark.parametrize("shape", [(5,), (3, 5), (2, 3, 5), (0, 5), (2, 0, 5)], ids=str)
def test_linear(shape):
    check("linear", randn(*shape), randn(4, 5), randn(4))
    check("linear", randn(*shape), randn(4, 5))
    check("linear", randn(*shape), randn(5))


@pytest.mark.parametrize(
    "a, b",
    [((4,), (4,)), ((4,), (4, 3)), ((2, 4), (4,)), ((2, 4), (4, 3)), ((5, 2, 4), (4, 3)), ((5, 1, 2, 4), (6, 4, 3))]
    + [((4,), (5, 4, 3)), ((5, 2, 4), (4,)), ((0, 4), (4, 3)), ((2, 0), (0, 3))],
    ids=str,
)
def test_matmul(a, b):
    check("matmul", randn(*a), randn(*b), torch_function=torch.matmul)


# ---- pooling ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ceil_mode", [False, True])
@pytest.mark.parametrize("kernel_size, padding", [(2, 0), (2, 1), (3, 1), ((3, 2), (1, 0)), (1, 0)], ids=str)
@pytest.mark.parametrize("stride", [None, 1, (2, 3)], ids=str)
@pytest.mark.parametrize("dilation", [1, (2, 1)], ids=str)
def test_max_pool2d(kernel_size, padding, stride, dilation, ceil_mode):
    for shape in ((2, 3, 8, 9), (3, 7, 5), (0, 2, 6, 6)):
        args = (randn(*shape), kernel_size, stride, padding, dilation, ceil_mode)
        check("max_pool2d", *args)
        check("max_pool2d", *args, return_indices=True)


@pytest.mark.parametrize("ceil_mode", [False, True])
def test_max_pool2d_nan_infinity_and_ties(ceil_mode):
    choices = np.array([np.nan, -np.inf, -np.inf, -np.inf, -np.inf, np.inf, 1.0, 1.0, 2.0])
    x = np.random.default_rng(0).choice(choices, (4, 3, 9, 9))
    _, index = check("max_pool2d", x, 3, 2, 1, ceil_mode=ceil_mode, return_indices=True)
    assert index.min() >= 0
    check("max_pool2d", np.full((1, 1, 5, 5), -np.inf), 3, 2, 1, ceil_mode=ceil_mode, return_indices=True)
    check("max_pool2d", np.full((1, 1, 5, 5), np.nan), 3, 2, 1, ceil_mode=ceil_mode, return_indices=True)


def test_max_pool2d_window_outside_of_the_image():
    value, index = R.max_pool2d(np.ones((1, 1, 1, 1)), 2, 1, 2, 3, return_indices=True)
    assert value.shape == (1, 1, 2, 2) and (value == -np.inf).all() and (index == -1).all()


@pytest.mark.parametrize(
    "size, kernel, stride, padding", [(3, 1, 2, 0), (4, 2, 3, 1), (2, 2, 3, 1), (1, 2, 2, 1), (5, 3, 4, 1)]
)
def test_ceil_mode_drops_windows_that_start_in_the_padding(size, kernel, stride, padding):
    x = randn(1, 2, size, size)
    check("max_pool2d", x, kernel, stride, padding, ceil_mode=True, return_indices=True)
    for count_include_pad in (False, True):
        check("avg_pool2d", x, kernel, stride, padding, True, count_include_pad)


@pytest.mark.parametrize("ceil_mode", [False, True])
@pytest.mark.parametrize("count_include_pad", [False, True])
@pytest.mark.parametrize("divisor_override", [None, 1, 7, -2])
@pytest.mark.parametrize(
    "kernel_size, stride, padding", [(2, None, 0), (2, 1, 1), (3, 2, 1), ((3, 2), (2, 3), (1, 0))], ids=str
)
def test_avg_pool2d(kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override):
    for shape in ((2, 3, 8, 9), (3, 7, 5), (0, 2, 6, 6)):
        check("avg_pool2d", randn(*shape), kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)


def test_avg_pool2d_nan_and_infinity_stay_in_their_windows():
    x = randn(1, 1, 9, 9)
    x[0, 0, 0, 0], x[0, 0, 4, 4], x[0, 0, 8, 8] = np.nan, np.inf, -np.inf
    check("avg_pool2d", x, 3, 2, 1)
    check("adaptive_avg_pool2d", x, 4)


@pytest.mark.parametrize("output_size", [1, 3, 7, 10, (2, 5), (None, 3), (4, None), (0, 2)], ids=str)
def test_adaptive_pooling(output_size):
    for shape in ((2, 3, 7, 9), (3, 7, 5), (0, 2, 6, 6), (1, 1, 1, 1)):
        x = randn(*shape)
        check("adaptive_avg_pool2d", x, output_size)
        check("adaptive_max_pool2d", x, output_size)
        check("adaptive_max_pool2d", x, output_size, return_indices=True)


def test_adaptive_max_pool2d_nan_infinity_and_ties():
    choices = np.array([np.nan, -np.inf, -np.inf, -np.inf, np.inf, 1.0, 1.0, 2.0, 2.0])
    x = np.random.default_rng(1).choice(choices, (4, 3, 9, 9))
    for output_size in (1, 4, (3, 9)):
        check("adaptive_max_pool2d", x, output_size, return_indices=True)


@pytest.mark.parametrize(
    "call",
    [
        lambda x: R.max_pool2d(x, 0),
        lambda x: R.max_pool2d(x, 2, 0),
        lambda x: R.max_pool2d(x, 2, 1, 2),
        lambda x: R.max_pool2d(x, 2, dilation=0),
        lambda x: R.max_pool2d(x, 9),
        lambda x: R.max_pool2d(x[0, 0], 2),
        lambda x: R.max_pool2d(x[..., :0], 2),
        lambda x: R.avg_pool2d(x, 2, divisor_override=0),
        lambda x: R.avg_pool2d(x, 2, padding=-1),
        lambda x: R.adaptive_avg_pool2d(x, -1),
        lambda x: R.adaptive_max_pool2d(x, (1, 2, 3)),
    ],
)
def test_pooling_errors(call):
    with pytest.raises(ValueError, match="pool2d"):
        call(randn(1, 2, 6, 6))


# ---- activations -----------------------------------------------------------------------------------------------------

ACTIVATIONS = [
    ("relu", {}),
    ("relu6", {}),
    ("leaky_relu", {}),
    ("leaky_relu", dict(negative_slope=-0.3)),
    ("elu", {}),
    ("elu", dict(alpha=0.7)),
    ("gelu", {}),
    ("gelu", dict(approximate="tanh")),
    ("silu", {}),
    ("mish", {}),
    ("sigmoid", {}),
    ("tanh", {}),
    ("hardswish", {}),
    ("hardsigmoid", {}),
    ("hardtanh", {}),
    ("hardtanh", dict(min_val=-0.5, max_val=2.5)),
    ("softplus", {}),
    ("softplus", dict(beta=2.0, threshold=3.0)),
    ("softplus", dict(beta=0.5)),
    ("softsign", {}),
]


@pytest.mark.parametrize("name, kwargs", ACTIVATIONS, ids=str)
def test_activation(name, kwargs):
    for x in (4.0 * randn(1000), SPECIAL, randn(2, 0, 3), randn(2, 3, 4).transpose(2, 0, 1), np.array(-0.25)):
        check(name, x, **kwargs)


def test_activations_keep_relative_precision():
    """Where the plain formula cancels; values to 12 digits from 40-digit arithmetic."""
    np.testing.assert_allclose(R.gelu(-10.0), -7.61985302416053e-23, rtol=1e-12)
    np.testing.assert_allclose(R.sigmoid(-50.0), 1.92874984796392e-22, rtol=1e-12)
    np.testing.assert_allclose(R.softplus(-50.0), 1.92874984796392e-22, rtol=1e-12)
    np.testing.assert_allclose(R.elu(-1e-10), -9.99999999950000e-11, rtol=1e-12)
    np.testing.assert_allclose(R.mish(-50.0), -9.64374923981959e-21, rtol=1e-12)


@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
@pytest.mark.parametrize("shape", [(), (5,), (3, 5), (2, 3, 4), (2, 3, 4, 5), (0, 5), (3, 1)], ids=str)
@pytest.mark.filterwarnings("ignore:Implicit dimension choice")
def test_softmax(name, shape):
    x = 5.0 * randn(*shape) + 100.0
    for dim in (None, *range(-max(1, len(shape)), max(1, len(shape)))):
        if shape != (0, 5) or dim != 0:
            check(name, np.asarray(x), dim)
    if x.size:
        actual = getattr(R, name)(x, -1, dtype=np.float32)
        assert_same(actual, getattr(F, name)(torch.from_numpy(np.asarray(x)).float().double(), -1))


@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_softmax_nan_and_infinity(name):
    inf, nan = np.inf, np.nan
    x = np.array([[-inf, 1.0, 2.0], [inf, 1.0, 2.0], [-inf, -inf, -inf], [nan, 1.0, 2.0], [1e308, -1e308, 0.0]])
    check(name, x, 1)


@pytest.mark.parametrize("p", [0.0, 0.25, 0.5])
def test_dropout(p):
    x = randn(64, 64)
    torch.manual_seed(0)
    expected = F.dropout(torch.from_numpy(x), p).numpy()
    np.testing.assert_allclose(R.dropout(x, p, mask=expected != 0.0), expected, rtol=1e-15)
    np.testing.assert_array_equal(R.dropout(x, p, False), x)


def test_dropout_edges():
    x = np.array([1.0, -2.0, np.nan, np.inf])
    assert_same(R.dropout(x, 1.0, mask=np.zeros(4)), F.dropout(torch.from_numpy(x), 1.0))
    for kwargs in (dict(p=-0.1), dict(p=1.1), dict(p=0.5), dict(p=np.nan)):
        with pytest.raises(ValueError, match="dropout"):
            R.dropout(x, **kwargs)


@pytest.mark.parametrize("call", [lambda: R.gelu(1.0, "erf"), lambda: R.hardtanh(1.0, 2.0, 1.0)])
def test_activation_errors(call):
    with pytest.raises(ValueError):
        call()


# ---- losses ----------------------------------------------------------------------------------------------------------

REDUCTIONS = ["none", "mean", "sum"]
CLASS_SHAPES = [(5,), (6, 5), (1, 1), (0, 5), (3, 4, 7), (2, 4, 3, 5), (2, 3, 2, 2, 2)]


def class_indices(shape, ignored=None):
    rng = np.random.default_rng(3)
    axis = 0 if len(shape) == 1 else 1
    labels = rng.integers(0, shape[axis], shape[:axis] + shape[axis + 1 :])
    if ignored is not None:
        labels = np.where(rng.random(labels.shape) < 0.4, ignored, labels)
    return np.asarray(labels)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("shape", CLASS_SHAPES, ids=str)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("ignore_index", [-100, 2, -1])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.3, 1.0])
def test_cross_entropy_and_nll_loss_class_indices(shape, weighted, ignore_index, label_smoothing, reduction):
    x, target = 3.0 * randn(*shape), class_indices(shape, ignore_index)
    classes = shape[0] if len(shape) == 1 else shape[1]
    kwargs = dict(weight=np.abs(randn(classes)) if weighted else None, ignore_index=ignore_index, reduction=reduction)
    check("cross_entropy", x, target, label_smoothing=label_smoothing, **kwargs)
    if label_smoothing == 0.0:
        check("nll_loss", x, target, **kwargs)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("shape", CLASS_SHAPES, ids=str)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.3])
def test_cross_entropy_probabilities(shape, weighted, label_smoothing, reduction):
    x, classes = randn(*shape), shape[0] if len(shape) == 1 else shape[1]
    target = R.softmax(randn(*shape, seed=1), 0 if len(shape) == 1 else 1)
    weight = np.abs(randn(classes)) if weighted else None
    check("cross_entropy", x, target, weight, reduction=reduction, label_smoothing=label_smoothing)


@pytest.mark.parametrize("name", ["cross_entropy", "nll_loss"])
def test_mean_over_no_target_is_nan(name):
    for shape in ((3, 4), (2, 4, 3), (0, 4)):
        x = randn(*shape)
        target = np.full(shape[:1] + shape[2:], -100)
        assert np.isnan(check(name, x, target))
        assert check(name, x, target, reduction="sum") == 0.0
        assert (check(name, x, target, reduction="none") == 0.0).all()
    check("cross_entropy", randn(3, 4), np.full(3, -100), label_smoothing=0.1)
    check(name, randn(3, 4), np.array([0, 1, 1]), np.array([0.0, 0.0, 1.0, 1.0]))


@pytest.mark.parametrize("name", ["cross_entropy", "nll_loss"])
def test_class_losses_nan_and_infinity(name):
    inf, nan = np.inf, np.nan
    x = np.array(
        [[-inf, 1.0, 2.0], [-inf, 1.0, 2.0], [nan, 1.0, 2.0], [inf, 0.0, 0.0], [nan, nan, nan], [1e4, -1e4, 0.0]]
    )
    check(name, x, np.array([0, 1, 2, 0, -100, 1]), reduction="none")
    check(name, x, np.array([0, 1, 2, 0, -100, 1]), np.array([0.0, 1.0, 2.0]), reduction="none")


@pytest.mark.parametrize("name", ["cross_entropy", "nll_loss"])
@pytest.mark.parametrize(
    "shape, target, kwargs, error",
    [
        ((2, 3), np.array([0, 3]), {}, IndexError),
        ((2, 3), np.array([0, -1]), {}, IndexError),
        ((2, 3), np.array([0.0, 1.0]), {}, TypeError),
        ((2, 3), np.array([0, 1, 2]), {}, ValueError),
        ((2, 3), np.array([0, 1]), dict(weight=np.ones(2)), ValueError),
        ((2, 3), np.array([0, 1]), dict(reduction="average"), ValueError),
        ((), np.array(0), {}, (TypeError, ValueError)),
    ],
    ids=str,
)
def test_class_loss_errors(name, shape, target, kwargs, error):
    with pytest.raises(error, match=name):
        getattr(R, name)(randn(*shape), target, **kwargs)


@pytest.mark.parametrize(
    "target, kwargs, error",
    [
        (np.ones((2, 3), int), {}, TypeError),
        (np.ones((2, 3)), dict(ignore_index=1), ValueError),
        (np.array([0, 1]), dict(label_smoothing=1.5), ValueError),
    ],
    ids=str,
)
def test_cross_entropy_errors(target, kwargs, error):
    with pytest.raises(error, match="cross_entropy"):
        R.cross_entropy(randn(2, 3), target, **kwargs)


ELEMENTWISE_LOSSES = [
    ("mse_loss", {}),
    ("l1_loss", {}),
    ("smooth_l1_loss", {}),
    ("smooth_l1_loss", dict(beta=0.3)),
    ("smooth_l1_loss", dict(beta=0.0)),
    ("huber_loss", {}),
    ("huber_loss", dict(delta=0.4)),
    ("kl_div", {}),
    ("kl_div", dict(log_target=True)),
]


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("name, kwargs", ELEMENTWISE_LOSSES, ids=str)
@pytest.mark.filterwarnings("ignore:reduction. 'mean' divides", "ignore:Using a target size")
def test_elementwise_loss(name, kwargs, reduction):
    for shape, target_shape in (((4, 5), (4, 5)), ((2, 3, 4), (3, 1)), ((), ()), ((0, 3), (0, 3))):
        x, target = np.array(randn(*shape)), np.array(randn(*target_shape, seed=1))
        if name == "kl_div" and not kwargs:
            target = np.maximum(target, 0.0)
        check(name, x, target, reduction=reduction, **kwargs)
    special = np.array([0.0, np.nan, np.inf, -np.inf, 1.0, 0.0, 1e-300, 0.0])
    check(name, special, np.array([0.0, 1.0, 1.0, 1.0, np.inf, np.nan, 0.0, 1.0]), reduction="none", **kwargs)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("name", ["mse_loss", "l1_loss", "huber_loss"])
def test_weighted_elementwise_loss(name, reduction):
    check(name, randn(4, 5), randn(4, 5, seed=1), reduction=reduction, weight=np.abs(randn(4, 5, seed=2)))


@pytest.mark.parametrize("log_target", [False, True])
def test_kl_div_batchmean(log_target):
    for shape in ((4, 5), (0, 5), (3,), ()):
        x, target = np.array(randn(*shape)), np.abs(np.array(randn(*shape, seed=1)))
        check("kl_div", x, target, reduction="batchmean", log_target=log_target)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("weight_shape", [None, (4, 5), (5,), (4, 1)], ids=str)
def test_binary_cross_entropy(weight_shape, reduction):
    weight = None if weight_shape is None else np.abs(randn(*weight_shape, seed=2))
    x = R.sigmoid(4.0 * randn(4, 5))
    x[0, :2] = 0.0, 1.0
    target = np.random.default_rng(0).random((4, 5))
    target[0, :2] = 1.0, 0.0
    check("binary_cross_entropy", x, target, weight, reduction=reduction)
    for pos_weight in (None, np.abs(randn(5)), np.array(2.5), np.abs(randn(4, 5))):
        check(
            "binary_cross_entropy_with_logits",
            40.0 * randn(4, 5),
            target,
            weight,
            reduction=reduction,
            pos_weight=pos_weight,
        )


def test_binary_cross_entropy_edges():
    for name in ("binary_cross_entropy", "binary_cross_entropy_with_logits"):
        for reduction in REDUCTIONS:
            check(name, np.zeros((0, 3)), np.zeros((0, 3)), reduction=reduction)
        check(name, np.array(0.3), np.array(1.0))
        with pytest.raises(ValueError, match=name):
            getattr(R, name)(np.ones(3), np.ones((1, 3)))
    logits = np.repeat(SPECIAL, 3)
    check("binary_cross_entropy_with_logits", logits, np.resize([0.0, 0.5, 1.0], logits.size), reduction="none")
    for bad in (-0.1, 1.1, np.nan):
        with pytest.raises(ValueError, match="binary_cross_entropy"):
            R.binary_cross_entropy(np.array([bad]), np.array([0.0]))


@pytest.mark.parametrize(
    "size_average, reduce", [(True, None), (False, None), (None, True), (None, False), (False, False)]
)
@pytest.mark.filterwarnings(
    "ignore:size_average and reduce args will be deprecated", "ignore:reduction. 'mean' divides"
)
def test_deprecated_reduction_arguments(size_average, reduce):
    old = dict(size_average=size_average, reduce=reduce)
    for name in ("mse_loss", "l1_loss", "smooth_l1_loss", "kl_div", "binary_cross_entropy_with_logits"):
        check(name, randn(4, 5), np.abs(randn(4, 5, seed=1)), **old)
    check("binary_cross_entropy", R.sigmoid(randn(4, 5)), R.sigmoid(randn(4, 5, seed=1)), **old)
    check("cross_entropy", randn(4, 5), class_indices((4, 5)), **old)
    check("nll_loss", randn(4, 5), class_indices((4, 5)), **old)


@pytest.mark.parametrize(
    "call",
    [
        lambda x: R.mse_loss(x, x, reduction="batchmean"),
        lambda x: R.kl_div(x, x, reduction="batch"),
        lambda x: R.huber_loss(x, x, delta=0.0),
        lambda x: R.smooth_l1_loss(x, x, beta=-1.0),
    ],
)
def test_loss_errors(call):
    with pytest.raises(ValueError):
        call(randn(3))


# ---- numerical gradient ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("index", [0, 1, 2])
def test_numerical_gradient_of_conv2d(index):
    args = [randn(2, 4, 5, 6), randn(6, 2, 3, 2), randn(6)]
    kwargs = dict(stride=(1, 2), padding=(2, 1), dilation=(2, 1), groups=2)
    tensors = [torch.from_numpy(a).requires_grad_() for a in args]
    output = F.conv2d(*tensors, **kwargs)
    grad_output = randn(*output.shape)
    output.backward(torch.from_numpy(grad_output))
    gradient = R.numerical_gradient(lambda *a: R.conv2d(*a, **kwargs), args, index, grad_output)
    np.testing.assert_allclose(gradient, tensors[index].grad.numpy(), rtol=1e-8, atol=1e-8)


def test_numerical_gradient_of_a_scalar_loss_beside_labels():
    x, target = randn(4, 5), class_indices((4, 5))
    tensor = torch.from_numpy(x).requires_grad_()
    F.cross_entropy(tensor, torch.from_numpy(target)).backward()
    before = x.copy()
    gradient = R.numerical_gradient(R.cross_entropy, (x, target))
    np.testing.assert_array_equal(x, before)
    np.testing.assert_allclose(gradient, tensor.grad.numpy(), rtol=1e-8, atol=1e-9)


def test_numerical_gradient_of_a_view_and_of_float32():
    grad_output = randn(3, 2)
    gradient = R.numerical_gradient(lambda x: x.T, [randn(2, 3).astype(np.float32)], 0, grad_output)
    assert gradient.dtype == np.float64
    np.testing.assert_allclose(gradient, grad_output.T, rtol=1e-14)
    np.testing.assert_allclose(R.numerical_gradient(np.exp, [np.array(1.0)]), np.e, rtol=1e-9)


def test_importing_the_reference_imports_numpy_only():
    code = "import sys, fastnn.reference; print(*sorted({'torch', 'scipy'} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == ""
