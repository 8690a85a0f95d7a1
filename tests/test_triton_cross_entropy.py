"""Cross-entropy in Triton beside float64."""

import pytest
from triton_support import DEVICE, DTYPES, REDUCTION, close, gradients, pytestmark, randn, torch  # noqa: F401

# isort: split
from fastnn.kernels import cross_entropy as kernels
from fastnn.kernels.linear_cross_entropy import linear_cross_entropy

F = torch.nn.functional


def labels(rows, classes, seed=7):
    return torch.randint(classes, (rows,), generator=torch.Generator().manual_seed(seed)).to(DEVICE)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(
    "shape", [(1, 1), (7, 10), (3, 1030), pytest.param((2, 17000), marks=pytest.mark.full)], ids=str
)
def test_float32(shape, weighted, smoothing, reduction):
    check(shape, torch.float32, weighted, smoothing, reduction)


@pytest.mark.parametrize("dtype", DTYPES[1:], ids=str)
def test_half(dtype):
    check((5, 130), dtype, True, 0.1, "mean")
    check((3, 17000), dtype, False, 0.0, "sum")


def check(shape, dtype, weighted, smoothing, reduction):
    rows, classes = shape
    x = randn(*shape, dtype=dtype, scale=2.0)
    target = labels(rows, classes)
    ignored = 0 if classes > 1 else -100
    weight = randn(classes, dtype=torch.float32, seed=3).abs() + 0.1 if weighted else None

    def function(x):
        w = None if weight is None else weight.cpu().double()
        return F.cross_entropy(x, target.cpu(), w, None, ignored, None, reduction, smoothing)

    expected = function(x.cpu().double())
    loss, none = kernels.cross_entropy(x, target, weight, ignored, reduction, smoothing)
    assert none is None and loss.dtype == dtype
    close(loss, expected, REDUCTION[dtype])
    loss, dx = kernels.cross_entropy(x, target, weight, ignored, reduction, smoothing, gradient=True)
    close(loss, expected, REDUCTION[dtype])
    if expected.isfinite().all():
        close(dx, gradients(function, torch.ones_like(expected), x)[0], 2 * REDUCTION[dtype])
    own = x.clone()
    loss, dx_in_place = kernels.cross_entropy(own, target, weight, ignored, reduction, smoothing, True, in_place=True)
    assert dx_in_place.data_ptr() == own.data_ptr() and torch.equal(dx_in_place, dx)


def test_row_stride_and_empty():
    x = randn(6, 40)[:, 3:20]
    target = labels(6, 17)
    loss, dx = kernels.cross_entropy(x, target, gradient=True)
    close(loss, F.cross_entropy(x.cpu().double(), target.cpu()), 1e-5)
    close(dx, gradients(lambda v: F.cross_entropy(v, target.cpu()), torch.tensor(1.0), x)[0], 1e-5)
    x = randn(17, 6).T
    close(kernels.cross_entropy(x, target)[0], F.cross_entropy(x.cpu().double(), target.cpu()), 1e-5)
    assert kernels.cross_entropy(randn(0, 4), labels(0, 4), reduction="sum")[0].item() == 0
    assert kernels.cross_entropy(randn(0, 4), labels(0, 4))[0].isnan()


def test_special_values():
    inf = float("inf")
    x = torch.tensor([[1.0, -inf, 2.0], [1.0, -inf, 2.0], [inf, 1.0, 2.0], [-inf, -inf, -inf], [float("nan"), 1, 2]])
    target = torch.tensor([0, 1, 1, 0, 1])
    expected = F.cross_entropy(x.double(), target, reduction="none")
    loss, dx = kernels.cross_entropy(x.to(DEVICE), target.to(DEVICE), reduction="none", gradient=True)
    close(loss, expected, 1e-5)
    assert dx[0].isfinite().all() and dx[1].isfinite().all()


def test_wrong_label_is_nan():
    x, target = randn(4, 5), torch.tensor([0, 5, -1, 4], device=DEVICE)
    loss, dx = kernels.cross_entropy(x, target, reduction="none", gradient=True)
    assert loss.isnan().tolist() == dx.isnan().all(1).tolist() == [False, True, True, False]


@pytest.mark.parametrize("shape", [(3, 5), (2, 2049)], ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_scale_rows(dtype, shape):
    x = randn(*shape, dtype=dtype)
    for factor in (torch.tensor(1.0), torch.tensor(0.5), torch.arange(shape[0]) + 0.25):
        factor = factor.to(DEVICE)
        expected = x.cpu().double() * factor.cpu().double().reshape(-1, 1)
        close(kernels.scale_rows_(x.clone(), factor), expected, REDUCTION[dtype])


def test_errors():
    x, target = randn(4, 5), labels(4, 5)
    with pytest.raises(ValueError, match="cross_entropy: reduction is 'max'"):
        kernels.cross_entropy(x, target, reduction="max")
    with pytest.raises(ValueError, match="cross_entropy: target has shape"):
        kernels.cross_entropy(x, target[:3])
    with pytest.raises(NotImplementedError, match="cross_entropy: target has dtype"):
        kernels.cross_entropy(x, target.float())
    with pytest.raises(ValueError, match="label_smoothing is 2"):
        kernels.cross_entropy(x, target, label_smoothing=2)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize(
    "shape", [(1, 3, 2), (150, 20, 70), pytest.param((140, 8, 300), marks=pytest.mark.full)], ids=str
)
def test_linear_cross_entropy(shape, with_bias, smoothing, reduction):
    check_linear(shape, torch.float32, with_bias, smoothing, reduction)


@pytest.mark.parametrize("dtype", DTYPES[1:], ids=str)
def test_linear_cross_entropy_half(dtype):
    check_linear((150, 32, 70), dtype, True, 0.1, "mean")


def check_linear(shape, dtype, with_bias, smoothing, reduction):
    rows, size, classes = shape
    x, w = randn(rows, size, dtype=dtype), randn(classes, size, dtype=dtype, seed=1)
    bias = randn(classes, dtype=dtype, seed=2) if with_bias else None
    target = labels(rows, classes)
    ignored = 1

    def function(x, w, bias):
        return F.cross_entropy(F.linear(x, w, bias), target.cpu(), None, None, ignored, None, reduction, smoothing)

    leaves = [None if v is None else v.cpu().double() for v in (x, w, bias)]
    expected = function(*leaves)
    options = dict(bias=bias, ignore_index=ignored, reduction=reduction, label_smoothing=smoothing)
    loss, *none = linear_cross_entropy(x, w, target, **options)
    assert none == [None] * 3 and loss.dtype == dtype
    close(loss, expected, REDUCTION[dtype])
    loss, *found = linear_cross_entropy(x, w, target, **options, gradient=True)
    close(loss, expected, REDUCTION[dtype])
    wanted = gradients(function, torch.ones(()), x, w, bias)
    for out, reference in zip([g for g in found if g is not None], wanted, strict=True):
        close(out, reference, 3 * REDUCTION[dtype])


def test_linear_cross_entropy_edges():
    x, w = randn(4, 3), randn(5, 3, seed=1)
    target = torch.tensor([0, 5, -1, 4], device=DEVICE)
    assert linear_cross_entropy(x, w, target)[0].isnan()
    assert linear_cross_entropy(x, w, target, gradient=True)[0].isnan()
    loss, dx, dw, _ = linear_cross_entropy(x[:0], w, target[:0], reduction="sum", gradient=True)
    assert loss.item() == 0 and dx.shape == (0, 3) and not dw.any()
    assert linear_cross_entropy(x[:0], w, target[:0], reduction="sum")[0].item() == 0
    with pytest.raises(ValueError, match="linear_cross_entropy: x has shape"):
        linear_cross_entropy(x, w.T, target)
    with pytest.raises(ValueError, match="reduction is 'none'"):
        linear_cross_entropy(x, w, target, reduction="none")
