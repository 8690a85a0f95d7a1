"""layer_norm and rms_norm in Triton beside float64."""

import pytest
from triton_support import DTYPES, REDUCTION, close, gradients, pytestmark, randn, torch  # noqa: F401

# isort: split
from fastnn.kernels import normalization as kernels

F = torch.nn.functional


def reference(rms, columns, eps):
    def function(x, weight, bias, residual):
        z = x if residual is None else x + residual
        if rms:
            return F.rms_norm(z, (columns,), weight, eps)
        return F.layer_norm(z, (columns,), weight, bias, eps)

    return function


# 8200 is past the registers of backward, 16400 past those of forward; 270 rows make programs of one and two rows.
SHAPES = [(3, 1), (5, 7), (2, 3, 64), (1, 1000), (3, 1025)]
SHAPES += [pytest.param(shape, marks=pytest.mark.full) for shape in ((270, 24), (2, 8200), (2, 16400))]


@pytest.mark.parametrize("with_residual", [False, True])
@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("rms", [False, True])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_float32(shape, rms, affine, with_residual):
    check(shape, torch.float32, rms, affine, with_residual)


@pytest.mark.parametrize("rms", [False, True])
@pytest.mark.parametrize("dtype", DTYPES[1:], ids=str)
def test_half(dtype, rms):
    check((9, 200), dtype, rms, True, True)


@pytest.mark.parametrize("rms", [False, True])
def test_long_rows(rms):
    check((1, 16400), torch.float16, rms, True, True)
    check((600, 20), torch.float32, rms, True, False)


def check(shape, dtype, rms, affine, with_residual):
    columns = shape[-1]
    x = randn(*shape, dtype=dtype) + 0.5
    weight = randn(columns, dtype=dtype, seed=1) if affine else None
    bias = randn(columns, dtype=dtype, seed=2) if affine and not rms else None
    residual = randn(*shape, dtype=dtype, seed=3) if with_residual else None
    eps = 1e-3 if columns > 1 else 0.1  # of one column all gradient comes from eps
    y, z, mean, rstd = kernels.norm(x, weight, bias, residual, eps, rms)
    function = reference(rms, columns, eps)
    inputs = [None if v is None else v.cpu().double() for v in (x, weight, bias, residual)]
    close(y, function(*inputs), REDUCTION[dtype])
    if with_residual:
        close(z, inputs[0] + inputs[3], REDUCTION[dtype])
    dy = randn(*shape, dtype=dtype, seed=4)
    dz = randn(*shape, dtype=dtype, seed=5) if with_residual else None
    dx, dweight, dbias = kernels.norm_backward(dy, dz, z, weight, mean, rstd, bias is not None, rms)
    expected = list(gradients(function, dy, z, weight, bias, None))
    close(dx, expected[0] + (0 if dz is None else dz.cpu().double()), 2 * REDUCTION[dtype])
    assert (dweight is None) == (weight is None) and (dbias is None) == (bias is None)
    if weight is not None:
        close(dweight, expected[1], 2 * REDUCTION[dtype])
    if bias is not None:
        close(dbias, expected[2], 2 * REDUCTION[dtype])


def test_strides_and_empty():
    x = randn(4, 2, 6).transpose(0, 1)[..., ::2]
    close(kernels.layer_norm(x), F.layer_norm(x.cpu().double(), (3,)), 1e-5)
    rows = randn(5, 40)[:, :33]  # rows with a gap between them, read in place
    close(kernels.rms_norm(rows), F.rms_norm(rows.cpu().double(), (33,), eps=torch.finfo(torch.float32).eps), 1e-5)
    dy = randn(1, 33).expand(5, 33)
    y, z, mean, rstd = kernels.norm(rows, None, None, None, 1e-5, False)
    expected = gradients(lambda v: F.layer_norm(v, (33,)), dy, rows)[0]
    close(kernels.norm_backward(dy, None, z, None, mean, rstd, False, False)[0], expected, 2e-5)
    for shape in ((0, 5), (5, 0)):
        w = randn(shape[1])
        y, z, mean, rstd = kernels.norm(randn(*shape), w, w, None, 1e-5, False)
        dx, dweight, dbias = kernels.norm_backward(y, None, z, w, mean, rstd, True, False)
        assert y.shape == dx.shape == shape and not dweight.any() and not dbias.any()


def test_large_mean():
    x = randn(4, 512) + 1000.0
    close(kernels.layer_norm(x), F.layer_norm(x.cpu().double(), (512,)), 2e-4)


def test_nan_and_infinity_stay_in_their_row():
    x = randn(3, 20)
    x[1, 4] = float("nan")
    y = kernels.layer_norm(x)
    assert y[1].isnan().all() and y[[0, 2]].isfinite().all()


def test_weight_gradient_has_the_same_bits_again():
    x, dy = randn(300, 24), randn(300, 24, seed=1)
    w = randn(24, seed=2)
    _, z, mean, rstd = kernels.norm(x, w, w, None, 1e-5, False)
    first = kernels.norm_backward(dy, None, z, w, mean, rstd, True, False)
    second = kernels.norm_backward(dy, None, z, w, mean, rstd, True, False)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_errors():
    x = randn(2, 3)
    with pytest.raises(ValueError, match="layer_norm: weight has shape"):
        kernels.layer_norm(x, randn(4))
    with pytest.raises(ValueError, match="rms_norm: residual has shape"):
        kernels.norm(x, None, None, randn(3, 2), 1e-5, True)
    with pytest.raises(ValueError, match="rms_norm: weight has dtype"):
        kernels.rms_norm(x, randn(3, dtype=torch.float16))
