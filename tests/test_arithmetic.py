"""Elementwise arithmetic: values on every ISA, broadcasting, layouts, dtypes, gradients, in-place changes, errors."""

import fastnn
import ml_dtypes
import numpy as np
import pytest
from fastnn import _C
from fastnn.ops import arithmetic

torch = pytest.importorskip("torch")

ON_CUDA = True

BF16 = np.dtype(ml_dtypes.bfloat16)
DTYPES = [np.dtype(np.float32), BF16, np.dtype(np.float16), np.dtype(np.float64)]
TOLERANCE = {"float32": 1e-6, "bfloat16": 8e-3, "float16": 1e-3, "float64": 1e-14}
BINARY = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.divide,
    "pow": np.power,
    "maximum": np.maximum,
    "minimum": np.minimum,
}
SIZES = [0, 1, 7, 8, 9, 15, 16, 17, 31, 33, 70000]


def close(out, expected, dtype):
    out = np.asarray(out).astype(np.float64)
    np.testing.assert_allclose(out, expected, rtol=TOLERANCE[dtype.name], atol=TOLERANCE[dtype.name], equal_nan=True)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("op", BINARY)
def test_values(op, dtype, isa, rng):
    for n in SIZES:
        a, b = (rng.uniform(0.3, 2, n).astype(dtype) for _ in "ab")
        out = getattr(fastnn.tensor(a), op)(fastnn.tensor(b))
        assert out.dtype == dtype and out.shape == (n,)
        with np.errstate(all="ignore"):
            close(out.numpy(), BINARY[op](a.astype(np.float64), b.astype(np.float64)), dtype)


SHAPES = [
    ((3, 4), (3, 4)),
    ((3, 4), (4,)),
    ((3, 4), (3, 1)),
    ((3, 1), (1, 4)),
    ((2, 3, 4), (3, 1)),
    ((2, 3, 5, 7), (3, 1, 1)),
    ((5, 1), (4, 1, 6)),
    ((), (3, 4)),
    ((2, 0, 3), (1, 3)),
    ((1, 1), (1,)),
    ((17, 33), (33,)),
    ((40, 1000), (40, 1)),
]


@pytest.mark.parametrize("shapes", SHAPES, ids=str)
@pytest.mark.parametrize("op", ["sub", "div", "maximum"])
def test_broadcasting_and_gradients(op, shapes, isa, rng):
    arrays = [rng.uniform(0.5, 2, s) for s in shapes]
    for order in (arrays, arrays[::-1]):
        for dtype in (np.float32, np.float64):
            x = [fastnn.tensor(a.astype(dtype), requires_grad=True) for a in order]
            t = [torch.tensor(a, requires_grad=True) for a in order]
            name = "true_divide" if op == "div" else op
            out, expected = getattr(x[0], op)(x[1]), getattr(torch, name)(t[0], t[1])
            close(out.detach().numpy(), expected.detach().numpy(), out.dtype)
            grad = rng.standard_normal(out.shape)
            out.backward(fastnn.tensor(grad.astype(dtype)))
            expected.backward(torch.tensor(grad))
            for mine, theirs in zip(x, t, strict=True):
                np.testing.assert_allclose(mine.grad.numpy(), theirs.grad.numpy(), rtol=3e-5, atol=3e-5)


def layouts(a):
    """The same values in different memory layouts."""
    yield fastnn.tensor(a)
    yield fastnn.tensor(np.ascontiguousarray(a.transpose())).permute(*range(a.ndim)[::-1])
    wide = np.zeros(a.shape[:-1] + (a.shape[-1] * 2,), a.dtype)
    wide[..., ::2] = a
    yield fastnn.from_numpy(wide)[..., ::2]
    yield fastnn.from_numpy(np.ascontiguousarray(a[..., ::-1])[..., ::-1])
    if a.ndim == 4:
        yield fastnn.tensor(a).contiguous(fastnn.channels_last)


@pytest.mark.parametrize("dtype", [np.float32, BF16, np.int64], ids=str)
def test_layouts(dtype, isa, rng):
    a, b = (rng.integers(1, 9, (2, 3, 5, 4)).astype(dtype) for _ in "ab")
    for x in layouts(a):
        for y in layouts(b):
            np.testing.assert_array_equal((x - y).numpy(), a - b)
            np.testing.assert_array_equal((x < y).numpy(), a < b)
        for y in layouts(b[:, :1]):
            np.testing.assert_array_equal((y - x).numpy(), b[:, :1] - a)
        np.testing.assert_array_equal((x * 3).numpy(), a * 3)
        np.testing.assert_array_equal((7 - x).numpy(), 7 - a)
        np.testing.assert_array_equal((x.expand(2, 2, 3, 5, 4) + x).numpy(), (a + a)[None].repeat(2, 0))


def test_expanded_operands_beside_each_other(isa):
    a, b = fastnn.tensor([[1.0], [2.0]]).expand(2, 5), fastnn.tensor([[10.0], [20.0]]).expand(2, 5)
    np.testing.assert_array_equal((a + b).numpy(), [[11] * 5, [22] * 5])
    assert (fastnn.tensor(1.0).expand(3) + fastnn.tensor([2.0]).expand(3)).tolist() == [3, 3, 3]


def test_layout_of_the_result_is_the_operands(rng):
    a = fastnn.tensor(rng.standard_normal((2, 3, 4, 5)).astype(np.float32)).contiguous(fastnn.channels_last)
    assert (a + 1).strides == a.strides
    assert (a + fastnn.ones(3, 1, 1)).strides == a.strides
    assert (fastnn.ones(3, 1, 1) * a).strides == a.strides
    assert (a > 0).strides == a.strides


def test_special_values(isa):
    v = np.array([0.0, -0.0, 1, -1, np.inf, -np.inf, np.nan, 1e-40, 3e38] * 4, np.float32)
    a, b = (m.ravel() for m in np.meshgrid(v, v))
    x, y = fastnn.from_numpy(a), fastnn.from_numpy(b)
    with np.errstate(all="ignore"):
        for op, reference in BINARY.items():
            if op == "pow":
                continue
            out, expected = getattr(x, op)(y).numpy(), reference(a, b)
            np.testing.assert_array_equal(np.isnan(out), np.isnan(expected), err_msg=op)
            np.testing.assert_array_equal(out, expected, err_msg=op)
            if op in ("add", "sub", "mul", "div"):
                np.testing.assert_array_equal(np.signbit(out[~np.isnan(out)]), np.signbit(expected[~np.isnan(out)]))
        np.testing.assert_allclose((x**y).numpy(), torch.pow(torch.tensor(a), torch.tensor(b)).numpy(), rtol=1e-6)
        for e in (2, 3, 0.5, 0, 1, -1, -2.5):
            np.testing.assert_allclose((x**e).numpy(), (torch.tensor(a) ** e).numpy(), rtol=1e-6)


def test_numbers_keep_the_dtype_and_are_not_rounded_to_it(isa):
    for dtype in DTYPES:
        x = fastnn.ones(5, dtype=dtype)
        for out in (x + 2.0, 2.0 * x, x / 3, 3 - x, x**2, 2**x, x + True):
            assert out.dtype == dtype
    x = fastnn.full((20,), 1.0, dtype=BF16)
    np.testing.assert_array_equal((x * 1.00390625 * 256).numpy().astype(float), 256)  # 1 + 2^-8 times 1 rounds to even
    third = fastnn.full((3,), 3.0, dtype=BF16) * (1 / 3)  # bfloat16(1/3) * 3 would be 1.002 -> 1.0
    np.testing.assert_array_equal(third.numpy().astype(float), 1)
    assert ((fastnn.arange(3) + 2) * 3).dtype == np.int64


def test_integers_and_bool():
    for dtype in (np.int64, np.int32, np.uint8, np.int8):
        a, b = np.array([1, 2, 100, 7], dtype), np.array([3, 2, 100, 1], dtype)
        x, y = fastnn.tensor(a), fastnn.tensor(b)
        with np.errstate(over="ignore"):
            for mine, expected in (
                (x + y, a + b),
                (x - y, a - b),
                (x * y, a * b),
                (x**2, a**2),
                (x & y, a & b),
                (x | y, a | b),
                (x ^ y, a ^ b),
                (-x, -a),
                (~x, ~a),
                (x.maximum(y), np.maximum(a, b)),
                (x.minimum(5), np.minimum(a, dtype(5))),
            ):
                assert mine.dtype == dtype
                np.testing.assert_array_equal(mine.numpy(), expected)
    np.testing.assert_array_equal(abs(fastnn.tensor([-3, 4])).numpy(), [3, 4])
    a, b = fastnn.tensor([True, False, True]), fastnn.tensor([True, True, False])
    assert (a & b).tolist() == [True, False, False]
    assert (a | b).tolist() == [True, True, True]
    assert (a ^ b).tolist() == [False, True, True]
    assert (~a).tolist() == [False, True, False]


COMPARISONS = {"eq": np.equal, "ne": np.not_equal, "lt": np.less, "le": np.less_equal, "gt": np.greater,
               "ge": np.greater_equal}  # fmt: skip


@pytest.mark.parametrize("dtype", [*DTYPES, np.int64, np.int32, np.uint8, np.int8, np.bool_], ids=str)
def test_comparisons(dtype, rng):
    a, b = rng.integers(0, 4, (2, 5, 7)).astype(dtype)
    for name, reference in COMPARISONS.items():
        method = f"__{name}__"
        out = getattr(fastnn.tensor(a), method)(fastnn.tensor(b))
        assert out.dtype == np.bool_
        np.testing.assert_array_equal(out.numpy(), reference(a, b))
        np.testing.assert_array_equal(getattr(fastnn.tensor(a), method)(1).numpy(), reference(a, np.array(1, dtype)))
    if np.dtype(dtype).kind == "f":
        nan = fastnn.full((3,), float("nan"), dtype=dtype)
        assert not (nan == nan).any() and (nan != nan).all()


def test_comparison_with_a_number_rounds_it_to_the_dtype():
    assert (fastnn.full((2,), 0.1) == 0.1).all()
    assert (fastnn.full((2,), 0.1, dtype=BF16) == 0.1).all()
    assert (fastnn.tensor([1]) != None).__class__ is bool  # noqa: E711
    assert not fastnn.tensor([1]) == "a"


def test_accuracy_of_a_classifier():
    out = fastnn.tensor([[0.1, 0.9], [0.8, 0.2], [0.4, 0.6]])
    assert (out.argmax(1) == np.array([1, 0, 0])).float().mean().item() == pytest.approx(2 / 3)
    assert (out.argmax(1) == fastnn.tensor([1, 0, 0])).sum().item() == 2


def test_where_and_clamp(rng):
    a, b = rng.standard_normal((2, 4, 5))
    c = rng.random((4, 1)) > 0.5
    x, y = (fastnn.tensor(v, requires_grad=True) for v in (a, b))
    out = fastnn.where(c, x, y)
    np.testing.assert_array_equal(out.detach().numpy(), np.where(c, a, b))
    out.sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), np.broadcast_to(c, a.shape))
    np.testing.assert_array_equal(y.grad.numpy(), np.broadcast_to(~c, a.shape))
    np.testing.assert_array_equal(fastnn.where(c, x, 0.0).detach().numpy(), np.where(c, a, 0))
    for low, high in ((-0.5, 0.5), (None, 0.1), (0.0, None)):
        x.grad = None
        out = x.clamp(low, high)
        np.testing.assert_array_equal(out.detach().numpy(), np.clip(a, low, high))
        out.sum().backward()
        inside = (a >= (-np.inf if low is None else low)) & (a <= (np.inf if high is None else high))
        np.testing.assert_array_equal(x.grad.numpy(), inside)


@pytest.mark.parametrize("name", ["neg", "abs", "sqrt", "exp", "log"])
def test_unary(name, isa, rng):
    for dtype in DTYPES:
        a = rng.uniform(0.2, 3, 37) * (1 if name in ("sqrt", "log") else rng.choice([-1, 1], 37))
        x = fastnn.tensor(a.astype(dtype), requires_grad=True)
        t = torch.tensor(x.detach().numpy().astype(np.float64), requires_grad=True)
        out, expected = getattr(x, name)(), getattr(torch, name)(t)
        close(out.detach().numpy(), expected.detach().numpy(), dtype)
        out.sum().backward()
        expected.sum().backward()
        np.testing.assert_allclose(x.grad.numpy().astype(np.float64), t.grad, rtol=max(1e-5, 2 * TOLERANCE[dtype.name]))


def test_pow_gradients():
    a = np.array([0.0, 0.5, 1.0, 2.0, 3.0])
    for exponent in (0, 1, 2, 3, 0.5, -1.5):
        x, t = fastnn.tensor(a[1:], requires_grad=True), torch.tensor(a[1:], requires_grad=True)
        (x**exponent).sum().backward()
        (t**exponent).sum().backward()
        np.testing.assert_allclose(x.grad.numpy(), t.grad, rtol=1e-12)
    for base in (a, 2.0, 0):
        e = np.array([0.0, 1.0, 2.0, 0.5, 3.0])
        x, t = fastnn.tensor(e, requires_grad=True), torch.tensor(e, requires_grad=True)
        b = fastnn.tensor(base, requires_grad=True) if isinstance(base, np.ndarray) else base
        u = torch.tensor(base, requires_grad=True) if isinstance(base, np.ndarray) else base
        (b**x).sum().backward()
        (u**t).sum().backward()
        np.testing.assert_allclose(x.grad.numpy(), t.grad, rtol=1e-12)
        if isinstance(base, np.ndarray):
            np.testing.assert_allclose(b.grad.numpy(), u.grad, rtol=1e-12)


def test_numpy_beside_tensors():
    a = np.ones((2, 3), np.float32)
    x = fastnn.tensor(a)
    for out in (x + a, a + x, a - x, a / x, x * a, np.float32(2) * x, x * np.float64(2), a == x):
        assert isinstance(out, fastnn.Tensor) and out.shape == (2, 3)
    assert isinstance(fastnn.maximum(a, a), np.ndarray)


# ---- in place --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [*DTYPES, np.int64], ids=str)
def test_in_place(dtype, isa, rng):
    a, b = rng.integers(1, 5, (2, 3, 4, 5)).astype(dtype)
    ops = {"add_": np.add, "sub_": np.subtract, "mul_": np.multiply}
    if np.dtype(dtype) != np.int64:
        ops["div_"] = np.divide
    for name, reference in ops.items():
        for x in layouts(a):
            x = x if x.numpy().flags.writeable else x.clone()
            before, address = x._version, x.data_ptr()
            assert getattr(x, name)(fastnn.tensor(b[0])) is x
            assert x.data_ptr() == address and x._version == before + 1
            close(x.numpy(), reference(a.astype(np.float64), b[0].astype(np.float64)), np.dtype(x.dtype)) if np.dtype(
                dtype
            ) != np.int64 else np.testing.assert_array_equal(x.numpy(), reference(a, b[0]))
            getattr(x, name)(2)
    x = fastnn.zeros(3, dtype=dtype)
    assert x.fill_(2).tolist() == [2, 2, 2] and x.zero_().tolist() == [0, 0, 0]
    assert x.copy_(fastnn.tensor([1.0, 2.0, 3.0])).tolist() == [1, 2, 3]
    x += 1
    x *= fastnn.tensor([1, 2, 3]).to(dtype)
    x -= 1
    assert x.tolist() == [1, 5, 11]


def test_in_place_with_operands_that_overlap():
    a = np.arange(16, dtype=np.float32).reshape(4, 4)
    x = fastnn.tensor(a)
    x += x.T
    np.testing.assert_array_equal(x.numpy(), a + a.T)
    x = fastnn.tensor(a)
    x[1:] += x[:-1]
    np.testing.assert_array_equal(x.numpy()[1:], a[1:] + a[:-1])
    x = fastnn.tensor(a)
    x[1:] = x[:-1]
    np.testing.assert_array_equal(x.numpy()[1:], a[:-1])
    shared = a.copy()  # two tensors that know nothing of each other
    fastnn.from_numpy(shared).add_(fastnn.from_numpy(shared.T))
    np.testing.assert_array_equal(shared, a + a.T)
    x = fastnn.tensor(a)
    x -= x[0, 0:1]
    x.sub_(x[:, :1])
    np.testing.assert_array_equal(x.numpy(), (a - a[0, 0]) - (a - a[0, 0])[:, :1])


def test_add_with_alpha():
    x = fastnn.ones(3)
    x.add_(fastnn.ones(3), alpha=-0.5)
    assert x.tolist() == [0.5] * 3
    assert x.sub_(fastnn.ones(3), alpha=2).tolist() == [-1.5] * 3


@pytest.mark.parametrize("name", ["add_", "sub_", "mul_", "div_"])
def test_in_place_gradients(name, rng):
    a, b = rng.uniform(1, 2, (2, 3, 4))
    for other in ("leaf", "broadcast", "number", "self"):
        results = []
        for make in (lambda v: fastnn.tensor(v, requires_grad=True), lambda v: torch.tensor(v, requires_grad=True)):
            x, y = make(a), make(b[:1] if other == "broadcast" else b)
            h = x * 2
            operand = {"number": 3.0, "self": h}.get(other, y)
            if isinstance(h, fastnn.Tensor):
                getattr(h, name)(operand)
            else:  # torch refuses to change what its tape saved
                h = getattr(h, name[:-1])(operand)
            (h * h).sum().backward()
            results.append([None if v.grad is None else np.asarray(v.grad) for v in (x, y)])
        for mine, theirs in zip(*results, strict=True):
            assert (mine is None) == (theirs is None)
            if mine is not None:
                np.testing.assert_allclose(mine, theirs, rtol=1e-12)


def test_in_place_on_the_tape():
    x = fastnn.tensor([1.0, 2.0], requires_grad=True)
    for change in (lambda: x.add_(1), lambda: x.zero_(), lambda: x.copy_(x.detach()), lambda: x.__setitem__(0, 1.0)):
        with pytest.raises(RuntimeError, match="leaf"):
            change()
    with fastnn.no_grad():
        x.add_(1)
    assert x.tolist() == [2, 3] and x.is_leaf and x.requires_grad
    h = x * 1
    view = h.view(2, 1)
    with pytest.raises(RuntimeError, match="shares its memory"):
        h.add_(1)
    with pytest.raises(RuntimeError, match="shares its memory"):
        view.add_(1)
    h += 1  # becomes a new tensor
    h.sum().backward()
    assert view.tolist() == [[2], [3]] and x.grad.tolist() == [1, 1]
    buffer = fastnn.zeros(2, 2)
    buffer[1] = x * 3
    assert buffer.requires_grad
    buffer.zero_()
    buffer.copy_(x * 5)
    x.grad = None
    buffer.sum().backward()
    assert x.grad.tolist() == [10, 10]


# ---- errors ----------------------------------------------------------------------------------------------------------


def test_errors():
    f, b, i = fastnn.ones(2, 3), fastnn.ones(2, 3, dtype=BF16), fastnn.ones(2, 3, dtype=np.int64)
    mask = f > 0
    cases = [
        (lambda: f + b, TypeError, "add: dtypes float32 and bfloat16"),
        (lambda: f + i, TypeError, "add: dtypes float32 and int64"),
        (lambda: f + np.ones((2, 3)), TypeError, "float32 and float64"),
        (lambda: f == i, TypeError, "eq: dtypes"),
        (lambda: i + 1.5, TypeError, "add: a Python float beside a tensor of dtype int64"),
        (lambda: i / 2, NotImplementedError, "div: dtype int64"),
        (lambda: i**-1, ValueError, "pow: the exponent"),
        (lambda: fastnn.ones(2, dtype=np.uint8) + 300, ValueError, "300 does not fit dtype uint8"),
        (lambda: i + 2**70, ValueError, "int64"),
        (lambda: mask + mask, NotImplementedError, "add: dtype bool"),
        (lambda: -mask, NotImplementedError, "dtype bool is not supported"),
        (lambda: f & f, NotImplementedError, "bitwise_and: dtype float32"),
        (lambda: f + fastnn.ones(4), ValueError, r"add: shapes \(2, 3\) and \(4,\)"),
        (lambda: f + "a", TypeError, "add: argument 'other' is str"),
        (lambda: f + None, TypeError, "add: argument 'other' is NoneType"),
        (lambda: f + [1, 2, 3], TypeError, "list"),
        (lambda: f + object(), TypeError, "object"),
        (lambda: f + 1j, TypeError, "complex"),
        (lambda: fastnn.ones(3).add_(f), ValueError, "add: in place"),
        (lambda: fastnn.ones(1).expand(3).add_(1), ValueError, "expanded view"),
        (lambda: fastnn.from_numpy(np.broadcast_to(np.float32(1), (3,))).add_(1), ValueError, "read-only"),
        (lambda: f.copy_(fastnn.ones(2, 4)), ValueError, "copy_: shape"),
        (lambda: f.fill_("a"), TypeError, "fill"),
        (lambda: i.fill_(1.5), TypeError, "fill_"),
        (lambda: fastnn.where(f, f, f), TypeError, "where: condition has dtype float32"),
        (lambda: fastnn.where(mask, 1.0, 2.0), TypeError, "where"),
        (lambda: f.clamp(), ValueError, "clamp: min and max"),
        (lambda: f.clamp("a"), TypeError, "clamp: min is a str"),
        (lambda: bool(f), RuntimeError, "ambiguous"),
        (lambda: _C.add(1, 2), TypeError, "add"),
        (lambda: _C.add(f), TypeError, "add: expected 2 arguments"),
    ]
    for call, error, text in cases:
        with pytest.raises(error, match=text):
            call()
    assert f.tolist() == [[1] * 3] * 2


def test_clamp_with_tensor_bounds(rng):
    a, low, high = (rng.standard_normal(shape).astype(np.float32) for shape in ((4, 5), (5,), (4, 1)))
    a[0, 0] = np.nan
    ours, theirs = [], []
    for values in (a, low, high):
        ours.append(fastnn.tensor(values, requires_grad=True))
        theirs.append(torch.tensor(values, requires_grad=True))
    y, z = arithmetic.clamp(*ours), torch.clamp(*theirs)
    np.testing.assert_array_equal(y.numpy(), z.detach().numpy())
    grad = rng.standard_normal((4, 5)).astype(np.float32)
    y.backward(grad)
    z.backward(torch.tensor(grad))
    for t, u in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(t.grad.numpy(), u.grad.numpy(), rtol=1e-6)
    whole = arithmetic.clamp(ours[0], fastnn.tensor([0, 1, 0, 1, 0]), 1)
    np.testing.assert_array_equal(whole.numpy(), np.minimum(np.maximum(a, [0, 1, 0, 1, 0]), 1).astype(np.float32))


def test_functions_take_torchs_arguments(rng):
    a, b = rng.standard_normal((2, 3)).astype(np.float32), rng.standard_normal(3).astype(np.float32)
    np.testing.assert_array_equal(arithmetic.add(a, b, alpha=2), a + 2 * b)
    np.testing.assert_array_equal(arithmetic.sub(a, 3, alpha=2), a - 6)
    np.testing.assert_array_equal(arithmetic.lt(a, 0), a < 0)
    for function in (arithmetic.add, arithmetic.eq, arithmetic.mul, arithmetic.maximum, arithmetic.clamp):
        with pytest.raises(TypeError, match="input is 2"):
            function(2, a)
    with pytest.raises(TypeError, match="other is 0"):
        arithmetic.minimum(a, 0)
    with pytest.raises(NotImplementedError, match="rounding_mode"):
        arithmetic.div(a, b, rounding_mode="floor")
