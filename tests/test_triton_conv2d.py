"""2-d convolution in Triton beside float64."""

import pytest
from triton_support import DTYPES, REDUCTION, close, gradients, pytestmark, randn, torch  # noqa: F401

# isort: split
from fastnn.kernels import conv2d as kernels
from fastnn.kernels.conv2d import ConvConfig

F = torch.nn.functional
SMALL = ConvConfig(32, 16, 16, 4, 1)

# (x, weight, stride, padding, dilation, groups)
CASES = [
    ((1, 1, 1, 1), (1, 1, 1, 1), (1, 1), (0, 0), (1, 1), 1),
    ((2, 3, 7, 9), (5, 3, 3, 3), (1, 1), (1, 1), (1, 1), 1),
    ((1, 40, 6, 5), (20, 40, 3, 3), (1, 1), (1, 1), (1, 1), 1),
    ((2, 33, 5, 6), (17, 33, 1, 1), (1, 1), (0, 0), (1, 1), 1),
    ((1, 3, 11, 13), (4, 3, 5, 3), (2, 3), (2, 0), (1, 1), 1),
    ((1, 34, 8, 7), (6, 34, 3, 2), (2, 1), (1, 1), (1, 2), 1),
    ((2, 4, 9, 9), (6, 4, 3, 3), (2, 2), (1, 1), (2, 2), 1),
    ((1, 4, 9, 10), (6, 4, 3, 3), (3, 2), (0, 2), (2, 3), 1),
    ((1, 3, 6, 6), (4, 3, 1, 1), (2, 2), (0, 0), (1, 1), 1),
    ((1, 3, 4, 5), (4, 3, 1, 1), (3, 3), (1, 1), (1, 1), 1),
    ((2, 6, 5, 5), (9, 2, 3, 3), (1, 1), (1, 1), (1, 1), 3),
    ((1, 5, 6, 7), (10, 1, 3, 3), (2, 1), (1, 1), (1, 1), 5),
    ((1, 2, 3, 3), (2, 2, 5, 5), (1, 1), (2, 2), (1, 1), 1),
]


def check(case, dtype, config, channels_last=False):
    shape, weight_shape, *arguments = case
    x, w = randn(*shape, dtype=dtype), randn(*weight_shape, dtype=dtype, seed=1)
    bias = randn(weight_shape[0], dtype=dtype, seed=2)
    if channels_last:
        x = x.to(memory_format=torch.channels_last)
    y = kernels.conv2d(x, w, bias, *arguments, config=config)
    close(y, F.conv2d(x.cpu().double(), w.cpu().double(), bias.cpu().double(), *arguments), REDUCTION[dtype])
    dy = randn(*y.shape, dtype=dtype, seed=3)
    dx, dw, db = gradients(lambda x, w, b: F.conv2d(x, w, b, *arguments), dy, x, w, bias)
    close(kernels.conv2d_input_backward(dy, w, shape, *arguments, config=config), dx, 2 * REDUCTION[dtype])
    close(kernels.conv2d_weight_backward(dy, x, weight_shape, *arguments, config=config), dw, 2 * REDUCTION[dtype])
    close(kernels.conv2d_bias_backward(dy), db, 2 * REDUCTION[dtype])


@pytest.mark.parametrize("case", [c if i in (1, 2, 7, 10) else pytest.param(c, marks=pytest.mark.full)
                                  for i, c in enumerate(CASES)], ids=str)  # fmt: skip
def test_float32(case):
    check(case, torch.float32, SMALL)


@pytest.mark.parametrize("dtype", DTYPES[1:], ids=str)
@pytest.mark.parametrize("case", [CASES[1], pytest.param(CASES[2], marks=pytest.mark.full), CASES[6]], ids=str)
def test_half(case, dtype):
    check(case, dtype, SMALL, channels_last=True)


@pytest.mark.full
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", [CASES[4], ((2, 64, 14, 14), (96, 64, 3, 3), (2, 2), (1, 1), (1, 1), 1)], ids=str)
def test_every_config(case, dtype):
    table = kernels.CONFIGS_FLOAT32 if dtype == torch.float32 else kernels.CONFIGS + kernels.CONFIGS_FLAT
    for config in (*table, None):
        check(case, dtype, config)


def test_sums_over_pixels_in_parts():
    case = ((1, 2, 25, 25), (3, 2, 1, 1), (1, 1), (0, 0), (1, 1), 1)
    check(case, torch.float32, SMALL)
    dy, x = randn(1, 3, 25, 25), randn(1, 2, 25, 25)
    first = kernels.conv2d_weight_backward(dy, x, (3, 2, 1, 1), config=SMALL)
    assert torch.equal(first, kernels.conv2d_weight_backward(dy, x, (3, 2, 1, 1), config=SMALL))


@pytest.mark.parametrize("channels_last", [False, True])
def test_epilogue_and_layout(channels_last):
    x, w, bias, residual = randn(2, 5, 6, 7), randn(20, 5, 3, 3, seed=1), randn(20, seed=2), randn(2, 20, 4, 5, seed=3)
    if channels_last:
        x = x.to(memory_format=torch.channels_last)
    y = kernels.conv2d(x, w, bias, activation="gelu", residual=residual, config=SMALL)
    expected = F.conv2d(*(v.cpu().double() for v in (x, w, bias))) + residual.cpu().double()
    close(y, F.gelu(expected), 1e-5)
    assert y.is_contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
    strided = randn(2, 5, 12, 14)[:, :, ::2, ::2]
    close(kernels.conv2d(strided, w, config=SMALL), F.conv2d(strided.cpu().double(), w.cpu().double()), 1e-5)


def test_empty():
    w = randn(4, 3, 3, 3)
    assert kernels.conv2d(randn(0, 3, 5, 5), w).shape == (0, 4, 3, 3)
    assert not kernels.conv2d_weight_backward(randn(0, 4, 3, 3), randn(0, 3, 5, 5), w.shape).any()
    assert kernels.conv2d_input_backward(randn(0, 4, 3, 3), w, (0, 3, 5, 5)).shape == (0, 3, 5, 5)


def test_nan_stays_within_the_kernel():
    x = randn(1, 2, 6, 6)
    x[0, 1, 0, 0] = float("nan")
    y = kernels.conv2d(x, randn(3, 2, 3, 3, seed=1), padding=(1, 1), config=SMALL)
    assert y[0, :, :2, :2].isnan().all() and y[0, :, 2:].isfinite().all() and y[0, :, :, 2:].isfinite().all()


def test_errors():
    x, w = randn(1, 4, 5, 5), randn(8, 3, 3, 3)
    with pytest.raises(ValueError, match="conv2d: weight has 8 filters of 3 channels but input has 4 channels"):
        kernels.conv2d(x, w)
    with pytest.raises(ValueError, match="conv2d: the kernel"):
        kernels.conv2d(randn(1, 3, 2, 2), w)
    with pytest.raises(ValueError, match="conv2d: stride is"):
        kernels.conv2d(randn(1, 3, 5, 5), w, stride=(0, 1))
    with pytest.raises(NotImplementedError, match="conv2d: activation is 'elu'"):
        kernels.conv2d(randn(1, 3, 5, 5), w, activation="elu")
