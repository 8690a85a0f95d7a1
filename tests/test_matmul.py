"""matmul and linear against float64: every ISA, dtype, transpose and size, forward and backward."""

import fastnn
import fastnn.functional as F
import ml_dtypes
import numpy as np
import pytest
from fastnn import reference
from guarded import guarded, poison

torch = pytest.importorskip("torch")
ON_CUDA = True
BF16 = np.dtype(ml_dtypes.bfloat16)
TOLERANCE = {"float32": 3e-6, "bfloat16": 1e-2, "float16": 2e-3, "float64": 1e-13}
SIZES = [(1, 1, 1), (3, 5, 7), (14, 32, 16), (15, 33, 17), (100, 120, 400), (5, 17, 1000), (2, 300, 64), (13, 9, 601)]
SIZES += [(4, 41, 700), (1, 200, 3001), (3, 2, 5), (300, 1, 77), (70, 1, 1)]  # few rows, one column


def error(got, wanted):
    got = np.asarray(got, np.float64)
    assert got.shape == wanted.shape and np.isfinite(got).all()
    return np.abs(got - wanted).max() / max(np.abs(wanted).max(), 1e-30) if wanted.size else 0.0


@pytest.mark.parametrize("dtype", ["float32", BF16, "float16", "float64"], ids=str)
@pytest.mark.parametrize("transposed", ["", "a", "b", "ab"])
def test_products_of_any_strides(isa, rng, dtype, transposed):
    tolerance = TOLERANCE[np.dtype(dtype).name]
    for m, n, k in SIZES:
        a = (
            rng.standard_normal((k, m)).astype(dtype).T
            if "a" in transposed
            else rng.standard_normal((m, k)).astype(dtype)
        )
        b = (
            rng.standard_normal((n, k)).astype(dtype).T
            if "b" in transposed
            else rng.standard_normal((k, n)).astype(dtype)
        )
        wanted = a.astype(np.float64) @ b.astype(np.float64)
        poison((m, n), dtype=dtype)
        assert error(F.matmul(a, b), wanted) < tolerance, (m, n, k)
        assert error(F.matmul(a[::-1], b[:, ::-1]), wanted[::-1, ::-1]) < tolerance, (m, n, k)


@pytest.mark.parametrize("at", ["start", "end"])
def test_guarded_memory(isa, rng, at):
    for m, n, k in SIZES:
        a, b = rng.standard_normal((m, k)).astype("float32"), rng.standard_normal((n, k)).astype("float32")
        wanted = a.astype(np.float64) @ b.T.astype(np.float64)
        assert error(F.matmul(guarded(a, at), guarded(b, at).T), wanted) < 3e-6
        assert error(F.matmul(guarded(a.T, at).T, guarded(np.ascontiguousarray(b.T), at)), wanted) < 3e-6
        assert error(F.linear(guarded(a, at), guarded(b, at), guarded(b[:, 0], at)), wanted + b[:, 0]) < 3e-6


@pytest.mark.parametrize(
    "shapes",
    [((4,), (4,)), ((4,), (4, 3)), ((2, 4), (4,)), ((5, 2, 4), (4,)), ((4,), (5, 4, 2)), ((5, 2, 4), (4, 3)),
     ((5, 2, 4), (5, 4, 3)), ((2, 1, 3, 4), (5, 4, 2)), ((3, 4), (2, 5, 4, 6)), ((0, 4), (4, 3)), ((2, 0), (0, 3)),
     ((7, 0, 4), (4, 2))],
)  # fmt: skip
def test_batches_and_vectors(isa, rng, shapes):
    a, b = (rng.standard_normal(s).astype("float32") for s in shapes)
    leaves = [torch.tensor(x.astype(np.float64), requires_grad=True) for x in (a, b)]
    wanted = torch.matmul(*leaves)
    grad = rng.standard_normal(tuple(wanted.shape)).astype("float32")
    wanted.backward(torch.tensor(grad.astype(np.float64)))
    tensors = [fastnn.tensor(x, requires_grad=True) for x in (a, b)]
    got = F.matmul(*tensors)
    assert error(got.numpy(), wanted.detach().numpy()) < 3e-6
    got.backward(fastnn.tensor(grad))
    for tensor, leaf in zip(tensors, leaves, strict=True):
        assert error(tensor.grad.numpy(), leaf.grad.numpy()) < 3e-6


@pytest.mark.parametrize("dtype", ["float32", BF16, "float64"], ids=str)
@pytest.mark.parametrize("rows", [(), (1,), (3,), (100,), (2, 3, 5), (0,)])
def test_linear(isa, rng, rows, dtype):
    x, w, b = (rng.standard_normal(s).astype(dtype) for s in ((*rows, 37), (41, 37), (41,)))
    leaves = [torch.tensor(a.astype(np.float64), requires_grad=True) for a in (x, w, b)]
    grad = rng.standard_normal((*rows, 41)).astype(dtype)
    torch.nn.functional.linear(*leaves).backward(torch.tensor(grad.astype(np.float64)))
    tensors = [fastnn.tensor(a, requires_grad=True) for a in (x, w, b)]
    y = F.linear(*tensors)
    tolerance = TOLERANCE[np.dtype(dtype).name]
    assert error(y.numpy(), reference.linear(x, w, b)) < tolerance
    y.backward(fastnn.tensor(grad))
    for tensor, leaf in zip(tensors, leaves, strict=True):
        assert error(tensor.grad.numpy(), leaf.grad.numpy()) < tolerance


@pytest.mark.parametrize("activation", ["relu", "gelu", "tanh", "silu", "sigmoid", "hardswish"])
def test_fused_activation_and_residual(isa, rng, activation):
    x, w, b, r = (rng.standard_normal(s).astype("float32") for s in ((9, 20), (33, 20), (33,), (9, 33)))
    leaves = [torch.tensor(a.astype(np.float64), requires_grad=True) for a in (x, w, b, r)]
    wanted = getattr(torch.nn.functional, activation)(torch.nn.functional.linear(*leaves[:3]) + leaves[3])
    grad = rng.standard_normal((9, 33)).astype("float32")
    wanted.backward(torch.tensor(grad.astype(np.float64)))
    tensors = [fastnn.tensor(a, requires_grad=True) for a in (x, w, b, r)]
    y = F.linear(*tensors[:3], activation=activation, residual=tensors[3])
    assert error(y.numpy(), wanted.detach().numpy()) < 3e-6
    assert error(F.linear(x, w, b, activation=activation, residual=r), wanted.detach().numpy()) < 3e-6
    y.backward(fastnn.tensor(grad))
    for tensor, leaf in zip(tensors, leaves, strict=True):
        assert error(tensor.grad.numpy(), leaf.grad.numpy()) < 3e-6


def test_same_bits_for_any_number_of_threads(rng):
    for m, n, k in [(100, 120, 400), (257, 130, 1025), (3, 5000, 200), (700, 3, 64), (2, 3000, 900)]:
        a, b = (fastnn.tensor(rng.standard_normal(s).astype("float32"), requires_grad=True) for s in ((m, k), (n, k)))
        bits = set()
        for threads in (1, 2, 3, 8):
            fastnn.set_num_threads(threads)
            a.grad = b.grad = None
            y = F.linear(a, b)
            y.backward(y.detach())
            bits.add((y.numpy().tobytes(), a.grad.numpy().tobytes(), b.grad.numpy().tobytes()))
        assert len(bits) == 1


def test_small_integers_are_exact(isa, rng):
    """Every path against int64, rounded once: random sizes, transposes and strides, forward and backward."""
    limit = 40 if isa == "generic" else 200
    for _ in range(limit):
        m, n, k = (int(2 ** rng.uniform(0, 7)) for _ in range(3))
        if rng.random() < 0.1:
            k = int(rng.integers(500, 5000))
        dtype = rng.choice([np.dtype("float32"), BF16])
        x, w, g = (rng.integers(-3, 4, s) for s in ((m, k), (n, k), (m, n)))
        wanted = x @ w.T
        layout = [(lambda a: a), (lambda a: np.asfortranarray(a)), (lambda a: np.repeat(a, 2, 1)[:, ::2])]
        a, b = (layout[rng.integers(3)](v.astype(dtype)) for v in (x, w))
        poison((m, n), dtype=dtype)
        assert (F.matmul(a, b.T).astype(np.int64) == wanted.astype(dtype).astype(np.int64)).all(), (m, n, k, dtype)
        tensors = [fastnn.tensor(v, requires_grad=True) for v in (a, b)]
        y = F.linear(*tensors)
        assert (y.numpy().astype(np.int64) == wanted.astype(dtype).astype(np.int64)).all(), (m, n, k, dtype)
        y.backward(fastnn.tensor(g.astype(dtype)))
        for tensor, gradient in zip(tensors, (g @ w, g.T @ x), strict=True):
            got = tensor.grad.numpy().astype(np.int64)
            assert (got == gradient.astype(dtype).astype(np.int64)).all(), (m, n, k, dtype)


@pytest.mark.parametrize("dtype", ["float32", BF16, "float16"], ids=str)
def test_blocks_of_depth_columns_and_rows(isa, rng, dtype):
    """Sizes beyond one block of each kind; sums of several blocks of 16-bit operands are rounded once."""
    if isa == "generic":
        pytest.skip("slow there, and the same code")
    tolerance = {"float32": 3e-6, "bfloat16": 4e-3, "float16": 1e-3}[np.dtype(dtype).name]
    for m, n, k in [(70, 1100, 1300), (1100, 70, 1300), (40, 50, 9000), (2100, 35, 40), (30, 2100, 2100)]:
        a, b = rng.standard_normal((m, k)).astype(dtype), rng.standard_normal((n, k)).astype(dtype)
        bias = rng.standard_normal(n).astype(dtype)
        wanted = a.astype(np.float32).astype(np.float64) @ b.T.astype(np.float32).astype(np.float64)
        assert error(F.matmul(a, b.T), wanted) < tolerance, (m, n, k)
        assert (
            error(F.linear(a, b, bias, activation="relu"), np.maximum(wanted + bias.astype(np.float64), 0)) < tolerance
        )


@pytest.mark.parametrize("special", [np.nan, np.inf, -np.inf])
def test_special_values_stay_in_their_rows(isa, special):
    a, b = np.ones((5, 40), "float32"), np.ones((40, 35), "float32")
    a[2, 7] = special
    y = F.matmul(a, b)
    assert (y[2] == special).all() if np.isinf(special) else np.isnan(y[2]).all()
    assert (np.delete(y, 2, 0) == 40).all()


def test_subnormal_inputs_and_the_float_mode_of_the_caller():
    tiny = np.full((40, 40), 1e-40, "float32")
    F.matmul(tiny, tiny)
    F.linear(tiny, tiny)
    assert (tiny * np.float32(0.5)).all()  # numpy still computes with subnormals


@pytest.mark.parametrize(
    ("function", "arguments", "error_type", "words"),
    [
        (F.matmul, (np.zeros((2, 3), "f4"), np.zeros((2, 3), "f4")), ValueError, r"shapes \(2, 3\) and \(2, 3\)"),
        (F.matmul, (np.zeros((), "f4"), np.zeros((2, 3), "f4")), ValueError, "at least 1 dimension"),
        (F.matmul, (np.zeros((2, 3), "f4"), np.zeros((3, 3), "f8")), TypeError, "float32.*float64"),
        (F.matmul, (np.zeros((2, 3), "i4"), np.zeros((3, 3), "i4")), NotImplementedError, "int32"),
        (F.matmul, (np.zeros((2, 2, 3), "f4"), np.zeros((5, 3, 3), "f4")), ValueError, "do not broadcast"),
        (F.matmul, (np.zeros((2, 3), "f4"), None), TypeError, "other"),
        (F.linear, (np.zeros((2, 3), "f4"), np.zeros((4, 5), "f4")), ValueError, "weight has shape"),
        (F.linear, (np.zeros((2, 3), "f4"), np.zeros(3, "f4")), ValueError, "weight has shape"),
        (F.linear, (np.zeros((2, 3), "f4"), np.zeros((4, 3), "f4"), np.zeros(3, "f4")), ValueError, "bias has shape"),
    ],
)
def test_errors_name_the_argument(function, arguments, error_type, words):
    with pytest.raises(error_type, match=f"{function.__name__}: .*{words}"):
        function(*arguments)
