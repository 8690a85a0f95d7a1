"""int_mm and linear_int8 against int64 arithmetic: exact on every ISA, size, stride and number of threads."""

import fastnn
import fastnn.functional as F
import numpy as np
import pytest
from fastnn import reference
from guarded import guarded, poison

SIZES = [(1, 1, 1), (3, 5, 7), (14, 32, 16), (15, 33, 17), (29, 63, 130), (2, 300, 64), (13, 9, 601), (40, 20, 9000)]


def integers(rng, dtype, shape):
    info = np.iinfo(dtype)
    return rng.integers(info.min, info.max + 1, shape, dtype=dtype)


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
@pytest.mark.parametrize("transposed", ["", "a", "b", "ab"])
def test_int_mm_is_exact(isa, rng, dtype, transposed):
    for m, n, k in SIZES:
        a = integers(rng, dtype, (k, m)).T if "a" in transposed else integers(rng, dtype, (m, k))
        b = integers(rng, "int8", (n, k)).T if "b" in transposed else integers(rng, "int8", (k, n))
        poison((m, n), dtype="int32")
        wanted = a.astype(np.int64) @ b.astype(np.int64)
        assert (F.int_mm(a, b) == wanted).all(), (m, n, k)
        assert (F.int_mm(a[::-1], b[:, ::-1]) == wanted[::-1, ::-1]).all(), (m, n, k)


def test_largest_products(isa):
    for k in (1, 2, 3, 4, 5, 64, 127):
        for dtype, value in (("uint8", 255), ("int8", -128), ("int8", 127)):
            a, b = np.full((15, k), value, dtype), np.full((k, 33), -128, "int8")
            assert (F.int_mm(a, b) == value * -128 * k).all()


def test_guarded_memory(isa, rng):
    for at in ("start", "end"):
        for m, n, k in SIZES[:-1]:
            a, b = integers(rng, "uint8", (m, k)), integers(rng, "int8", (k, n))
            wanted = a.astype(np.int64) @ b.astype(np.int64)
            assert (F.int_mm(guarded(a, at), guarded(b, at)) == wanted).all()
            assert (F.int_mm(guarded(a, at), guarded(np.ascontiguousarray(b.T), at).T) == wanted).all()


def test_leading_axes_and_empty_sizes(rng):
    b = integers(rng, "int8", (7, 5))
    assert F.int_mm(integers(rng, "int8", (2, 3, 7)), b).shape == (2, 3, 5)
    assert F.int_mm(integers(rng, "int8", (7,)), b).shape == (5,)
    assert F.int_mm(np.zeros((0, 7), "int8"), b).shape == (0, 5)
    assert (F.int_mm(np.zeros((3, 0), "int8"), np.zeros((0, 5), "int8")) == 0).all()
    assert isinstance(F.int_mm(fastnn.tensor(b.T), fastnn.tensor(b)), fastnn.Tensor)


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
@pytest.mark.parametrize("activation", [None, "relu", "gelu"])
def test_linear_int8(isa, rng, dtype, activation):
    for m, n, k in SIZES:
        x, w = integers(rng, dtype, (m, k)), integers(rng, "int8", (n, k))
        scale, bias = rng.uniform(0.5, 2, n).astype("float32"), rng.standard_normal(n).astype("float32")
        zero = 3 if dtype == "int8" else 131
        sums = (x.astype(np.int64) - zero) @ w.T.astype(np.int64)
        wanted = 0.01 / k * scale.astype(np.float64) * sums + bias
        if activation:
            wanted = getattr(reference, activation)(wanted)
        options = {"input_zero_point": zero, "activation": activation}
        y = F.linear_int8(x, w, 0.01 / k, scale, bias, **options)
        assert y.dtype == np.float32 and np.abs(y - wanted).max() <= 2e-6 * max(1, np.abs(wanted).max())
        rounded = F.linear_int8(x, w, 0.01 / k, scale, bias, output_scale=0.02, output_zero_point=7, **options)
        assert rounded.dtype == dtype
        info = np.iinfo(dtype)
        # Both neighbours are right where the value lies between them.
        gap = np.abs(rounded - np.clip(wanted / 0.02 + 7, info.min, info.max))
        assert gap.max() <= 0.5 + 1e-3


def test_kept_weights_are_exact_and_their_changes_seen(isa, rng):
    weight = fastnn.tensor(integers(rng, "int8", (70, 2100)))
    x = integers(rng, "int8", (40, 2100))
    for _ in range(2):
        values = weight.numpy().astype(np.int64)
        for _ in range(3):
            for m in (1, 9, 40):
                wanted = x[:m].astype(np.int64) @ values.T
                assert (F.int_mm(fastnn.tensor(x[:m]), weight.T).numpy() == wanted).all()
                y = F.linear_int8(fastnn.tensor(x[:m]), weight, 0.5, 0.25, input_zero_point=-3).numpy()
                assert (y == np.float32(0.125) * (wanted + 3 * values.sum(1)).astype(np.float32)).all()
        weight.copy_(fastnn.tensor(integers(rng, "int8", (70, 2100))))


def test_rounded_outputs_hit_every_byte(isa):
    """Both ends and every value between, for whole vectors and a rest."""
    for dtype in ("int8", "uint8"):
        info = np.iinfo(dtype)
        wanted = np.arange(info.min - 5, info.max + 6)  # beyond the ends: clamped
        x, weight = np.array([[1]], dtype), np.ones((wanted.size, 1), "int8")
        y = F.linear_int8(x, weight, 1.0, 1.0, (wanted - 1).astype("float32"), output_scale=1.0)
        assert (y[0] == wanted.clip(info.min, info.max)).all()


def test_same_bits_for_any_number_of_threads(rng):
    for m, n, k in [(100, 120, 400), (257, 130, 5000)]:
        x, w = integers(rng, "int8", (m, k)), integers(rng, "int8", (n, k))
        bits = set()
        for threads in (1, 2, 3, 8):
            fastnn.set_num_threads(threads)
            bits.add(F.linear_int8(x, w, 0.01, 0.3).tobytes())
        assert len(bits) == 1


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda i, f: F.int_mm(f, i), TypeError, "int_mm: input is float32"),
        (lambda i, f: F.int_mm(i, i.astype("uint8")), TypeError, "int_mm: other is uint8"),
        (lambda i, f: F.int_mm(i, i[:2]), ValueError, r"int_mm: shapes \(3, 3\) and \(2, 3\)"),
        (lambda i, f: F.int_mm(i, i[0]), ValueError, "2 dimensions"),
        (lambda i, f: F.linear_int8(i, i[:, :2], 1, 1), ValueError, "linear_int8: input has shape"),
        (lambda i, f: F.linear_int8(i, i, 1, f[0, :2]), ValueError, "weight_scale has shape"),
        (lambda i, f: F.linear_int8(i, i, 1, 1, f), ValueError, "bias has shape"),
        (lambda i, f: F.linear_int8(i, i, 1, 1, input_zero_point=200), ValueError, "input_zero_point is 200"),
        (lambda i, f: F.linear_int8(i, i, 1, 1, output_scale=0), ValueError, "output_scale is 0"),
        (lambda i, f: F.linear_int8(i, i, float("nan"), 1), ValueError, "input_scale is nan"),
        (lambda i, f: F.linear_int8(i, i, 1, 1, activation="softmax"), NotImplementedError, "softmax"),
    ],
)
def test_errors(call, error, words):
    with pytest.raises(error, match=words):
        call(np.ones((3, 3), "int8"), np.ones((3, 3), "float32"))
