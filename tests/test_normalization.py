"""Normalization: values and gradients against the reference and torch, running statistics, accuracy, layouts."""

import fastnn
import fastnn.functional as F
import ml_dtypes
import numpy as np
import pytest
from fastnn import _C, reference
from guarded import guarded, poison

ON_CUDA = True
BF16 = np.dtype(ml_dtypes.bfloat16)
F32 = np.dtype(np.float32)
TOLERANCE = {F32: 1e-5, np.dtype(np.float64): 1e-12, BF16: 1e-2, np.dtype(np.float16): 2e-3}
SIZES = [1, 7, 8, 9, 15, 16, 17, 31, 33, 70]


def leaf(x):
    t = fastnn.from_numpy(x)
    t.requires_grad = True
    return t


def close(got, want, dtype, factor=1.0):
    """Element-wise, by the size of the element and of the whole."""
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    tolerance = factor * TOLERANCE[np.dtype(dtype)]
    scale = np.sqrt(np.mean(want[np.isfinite(want)] ** 2)) if want.size and np.isfinite(want).any() else 1
    np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance * max(scale, 1e-3))


class Call:
    """One call of an op: its arrays are the positional arguments with a gradient."""

    def __init__(self, op, x, w, b, **kwargs):
        self.op, self.arrays, self.kwargs = op, [a for a in (x, w, b) if a is not None], kwargs
        self.given = [a is not None for a in (x, w, b)]

    def __call__(self, library, *arrays, **more):
        it = iter(arrays)
        x, w, b = (next(it) if given else None for given in self.given)
        parameters = {} if self.op == "rms_norm" else {"bias": b}
        kwargs = {k: v() if callable(v) else v for k, v in self.kwargs.items()}
        return getattr(library, self.op)(x, weight=w, **parameters, **kwargs, **more)


def calls(rng, x, dtype, parameter_dtype=None):
    """Every op that takes x of shape (N, C, ...), with and without parameters.

    Not with one or two values to a mean: the derivative is nearly 0 then, a difference of large numbers.
    """
    kind = parameter_dtype or dtype

    def p(*shape):
        return (1 + 0.5 * rng.standard_normal(shape)).astype(kind)

    c = x.shape[1]
    last, two = x.shape[-1:], x.shape[-2:]
    spatial = int(np.prod(x.shape[2:]))
    mean, var = rng.standard_normal(c).astype(kind), (0.5 + rng.random(c)).astype(kind)
    found = [
        Call("batch_norm", x, p(c), p(c), running_mean=mean, running_var=var),
        Call("batch_norm", x, None, None, running_mean=mean, running_var=var, eps=1e-3),
    ]
    if last[0] > 2:
        found += [
            Call("layer_norm", x, p(*last), p(*last), normalized_shape=last),
            Call("layer_norm", x, None, p(*last), normalized_shape=last, eps=1e-3),
            Call("rms_norm", x, p(*last), None, normalized_shape=last),
        ]
    if np.prod(two) > 2:
        found += [
            Call("layer_norm", x, None, None, normalized_shape=two),
            Call("layer_norm", x, p(*two), None, normalized_shape=two),
            Call("rms_norm", x, None, None, normalized_shape=two, eps=1e-3),
        ]
    if x.shape[0] * spatial > 2:
        found += [
            Call("batch_norm", x, p(c), p(c), running_mean=None, running_var=None, training=True),
            Call("batch_norm", x, None, p(c), running_mean=None, running_var=None, training=True),
        ]
    groups = next((g for g in (4, 3, 2, 7, 5, 1) if c % g == 0 and c // g * spatial > 2), None)
    if groups:
        found.append(Call("group_norm", x, p(c), p(c), num_groups=groups))
        found.append(Call("group_norm", x, None, None, num_groups=1, eps=1e-3))
    if spatial > 2:
        found.append(Call("instance_norm", x, p(c), p(c)))
    return found


def torch_result(call, gradient):
    """Output and gradients in float64."""
    torch = pytest.importorskip("torch")
    leaves = [torch.tensor(np.array(a, np.float64, order="C"), requires_grad=True) for a in call.arrays]
    kwargs = dict(call.kwargs)
    for name in ("running_mean", "running_var"):
        if kwargs.get(name) is not None:
            kwargs[name] = torch.tensor(np.asarray(kwargs[name], np.float64))
    if call.op == "rms_norm" and kwargs.get("eps") is None and call.arrays[0].dtype != np.float64:
        kwargs["eps"] = 2.0**-23
    same = Call(call.op, *[None] * 3, **kwargs)
    same.given = call.given
    y = same(torch.nn.functional, *leaves)
    y.backward(torch.tensor(np.asarray(gradient, np.float64)))
    return y.detach().numpy(), [t.grad.numpy() for t in leaves]


def check(rng, call, gradient=None):
    """Forward, recorded or not, and gradients, against float64 torch, and that against the reference."""
    x = call.arrays[0]
    dtype = x.dtype
    if gradient is None:
        gradient = rng.standard_normal(x.shape).astype(dtype)
    want, want_gradients = torch_result(call, gradient)
    close(call(reference, *call.arrays), want, np.float64)
    poison(x.shape, dtype=dtype)
    plain = call(F, *call.arrays)
    assert isinstance(plain, np.ndarray) and plain.dtype == dtype and plain.shape == x.shape
    close(plain, want, dtype)
    leaves = [leaf(a) for a in call.arrays]
    y = call(F, *leaves)
    np.testing.assert_array_equal(y.numpy(), plain)
    y.backward(fastnn.from_numpy(gradient))
    for t, a, g in zip(leaves, call.arrays, want_gradients, strict=True):
        assert t.grad.dtype == a.dtype and t.grad.shape == a.shape
        close(t.grad.numpy(), g, dtype, factor=2)


def channels_last(x):
    """The same array with C innermost."""
    return np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 1, -1)), -1, 1)


# ---- values and gradients --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("layout", ["nchw", "channels_last", "strided"])
def test_all_ops(isa, rng, dtype, layout):
    shapes = ((3, 12, 5, 7), (2, 6, 3), (4, 20), (2, 3, 2, 3, 5))
    for shape in shapes if dtype == F32 else shapes[:2]:
        x = rng.standard_normal(shape).astype(dtype)
        if layout == "channels_last":
            x = channels_last(x)
        elif layout == "strided":
            x = np.repeat(x, 2, -1)[..., ::2][::-1]
        for call in calls(rng, x, dtype):
            check(rng, call)


@pytest.mark.parametrize("dtype", [BF16, np.dtype(np.float16)], ids=str)
def test_float32_parameters_beside_16_bit_inputs(isa, rng, dtype):
    for x in (rng.standard_normal((3, 6, 5, 7)), channels_last(rng.standard_normal((3, 6, 5, 7)))):
        for call in calls(rng, x.astype(dtype), dtype, F32):
            check(rng, call)


@pytest.mark.parametrize("n", SIZES)
def test_sizes(isa, rng, n):
    for shape in ((2, 2, n), (3, n, 2), (n, 4)):
        x = rng.standard_normal(shape).astype(F32)
        for y in (x, channels_last(x)) if x.ndim > 2 else (x,):
            for call in calls(rng, y, F32):
                check(rng, call)


def test_large_parts(isa, rng):
    """More elements than one task, block or tile has."""
    for shape in ((1, 3, 40001), (70, 2, 30, 31), (3000, 40), (20, 5000)):
        x = (rng.standard_normal(shape) * 2 + 0.5).astype(F32)
        for y in (x, channels_last(x)) if x.ndim > 2 else (x,):
            c = y.shape[1]
            w, b = rng.standard_normal(c).astype(F32), rng.standard_normal(c).astype(F32)
            check(rng, Call("batch_norm", y, w, b, running_mean=None, running_var=None, training=True))
            check(rng, Call("group_norm", y, w, b, num_groups=1))
            check(rng, Call("layer_norm", y, None, None, normalized_shape=y.shape[-1:]))
            check(rng, Call("rms_norm", y, None, None, normalized_shape=y.shape[1:]))


def test_gradient_by_finite_differences(rng):
    x = rng.standard_normal((3, 4, 2, 3))
    for call in calls(rng, x, np.float64):
        g = rng.standard_normal(x.shape)
        leaves = [leaf(a.copy()) for a in call.arrays]
        call(F, *leaves).backward(fastnn.from_numpy(g))
        for i, t in enumerate(leaves):
            want = reference.numerical_gradient(lambda *a, call=call: call(reference, *a), call.arrays, i, g)
            np.testing.assert_allclose(t.grad.numpy(), want, rtol=1e-6, atol=1e-7)


def test_gradients_only_where_asked(isa, rng):
    x = rng.standard_normal((2, 4, 3)).astype(F32)
    w, b = np.ones(4, F32), np.zeros(4, F32)
    for op, kwargs in (
        ("batch_norm", {"running_mean": None, "running_var": None, "training": True}),
        ("batch_norm", {"running_mean": w, "running_var": w}),
        ("group_norm", {"num_groups": 2}),
        ("instance_norm", {}),
        ("layer_norm", {"normalized_shape": (3,)}),
    ):
        p, q = (w[:3], b[:3]) if op == "layer_norm" else (w, b)
        full = [leaf(x), leaf(p), leaf(q)]
        g = rng.standard_normal(x.shape).astype(F32)
        getattr(F, op)(full[0], weight=full[1], bias=full[2], **kwargs).backward(fastnn.from_numpy(g))
        for wanted in range(1, 7):
            some = [leaf(a) if wanted >> i & 1 else fastnn.from_numpy(a) for i, a in enumerate((x, p, q))]
            getattr(F, op)(some[0], weight=some[1], bias=some[2], **kwargs).backward(fastnn.from_numpy(g))
            for i in range(3):
                if wanted >> i & 1:
                    np.testing.assert_array_equal(some[i].grad.numpy(), full[i].grad.numpy())
                else:
                    assert some[i].grad is None


def test_gradient_of_any_strides(isa, rng):
    for x in (rng.standard_normal((2, 4, 3, 5)), channels_last(rng.standard_normal((2, 4, 3, 5)))):
        for call in calls(rng, x.astype(F32), F32):
            for g in (np.broadcast_to(np.float32(2), x.shape), rng.standard_normal(x.shape[::-1]).astype(F32).T):
                results = []
                for gradient in (g, np.array(g, order="C")):
                    leaves = [leaf(a) for a in call.arrays]
                    call(F, *leaves).backward(fastnn.from_numpy(gradient))
                    results.append([t.grad.numpy() for t in leaves])
                for one, other in zip(*results, strict=True):
                    np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("dtype", [F32, BF16], ids=str)
def test_layout_is_kept(isa, rng, dtype):
    for shape in ((2, 6, 3, 5), (2, 6, 3, 2, 2), (1, 6, 4, 4)):
        x = channels_last(rng.standard_normal(shape).astype(dtype))
        for call in calls(rng, x, dtype):
            if call.op in ("layer_norm", "rms_norm"):
                continue
            leaves = [leaf(a) for a in call.arrays]
            y = call(F, *leaves)
            assert y.numpy().strides == x.strides
            y.backward(y.detach())
            assert leaves[0].grad.numpy().strides == x.strides


@pytest.mark.parametrize("at", ["start", "end"])
def test_nothing_is_read_outside(isa, rng, at):
    for dtype in (F32, BF16):
        for shape in ((2, 3, 11), (3, 5, 2, 3), (2, 33)):
            for x in (rng.standard_normal(shape), channels_last(rng.standard_normal(shape))):
                for call in calls(rng, guarded(x.astype(dtype), at), dtype):
                    leaves = [leaf(guarded(a, at)) for a in call.arrays]
                    y = call(F, *leaves)
                    y.backward(fastnn.from_numpy(guarded(y.numpy(), at)))


# ---- accuracy --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mean", [1e4, -1e6])
def test_large_mean(isa, rng, mean):
    """float32 x holds steps of 1e-3 at 1e4, and a float32 mean would be off by half of that."""
    for shape in ((4, 6, 50, 30), (300, 20), (2, 4, 5000)):
        base = (mean + rng.standard_normal(shape) * 1e-5 * abs(mean)).astype(F32)
        for x in (base, channels_last(base)):
            g = rng.standard_normal(shape).astype(F32)
            c = shape[1]
            w, b = rng.standard_normal(c).astype(F32), rng.standard_normal(c).astype(F32)
            for call in (
                Call("batch_norm", x, w, b, running_mean=None, running_var=None, training=True),
                Call("group_norm", x, w, b, num_groups=2),
                Call("layer_norm", x, None, None, normalized_shape=shape[-1:]),
                Call("layer_norm", x, None, None, normalized_shape=shape[1:]),
            ):
                want, gradients = torch_result(call, g)
                leaves = [leaf(a) for a in call.arrays]
                y = call(F, *leaves)
                close(y.numpy(), want, F32)
                y.backward(fastnn.from_numpy(g))
                for t, gradient in zip(leaves, gradients, strict=True):
                    close(t.grad.numpy(), gradient, F32)


def test_one_outlier(isa, rng):
    """A first value far away from the rest must not be what the variance is taken about."""
    x = rng.standard_normal((4, 8, 700)).astype(F32)
    x[0, :, 0] = x[:, :, 1] = 1e5
    for y in (x, channels_last(x)):
        close(F.batch_norm(y, None, None, training=True), reference.batch_norm(x, None, None, training=True), F32)
        close(F.group_norm(y, 4), reference.group_norm(x, 4), F32)
        close(F.layer_norm(y, (700,)), reference.layer_norm(x, (700,)), F32)


def test_constant_input(isa):
    for value in (0.1, 1e10, -3e-30):
        x = np.full((4, 6, 10, 13), value, F32)
        for y in (x, channels_last(x)):
            for out in (F.batch_norm(y, None, None, training=True), F.group_norm(y, 2), F.layer_norm(y, (10, 13))):
                assert np.abs(out).max() <= 1e-3


def test_half_sums_are_float32(isa):
    x = np.ones((2, 4, 5000), BF16)
    x[..., 0] = 256
    w, b, t = leaf(np.ones(4, BF16)), leaf(np.zeros(4, BF16)), leaf(x)
    y = F.batch_norm(t, None, None, w, b, True)
    y.backward(fastnn.from_numpy(x))
    np.testing.assert_array_equal(b.grad.numpy().astype(np.float64), float(BF16.type(2 * (4999 + 256))))


# ---- special values --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
def test_nan_and_infinity(isa, rng, layout):
    torch = pytest.importorskip("torch")
    x = rng.standard_normal((4, 6, 40)).astype(F32)
    x[0, 0, 0], x[1, 1, 1], x[2, 2, 39], x[3, 3, 3], x[3, 3, 4] = np.inf, np.nan, -np.inf, np.inf, -np.inf
    y = channels_last(x) if layout == "channels_last" else x
    mean, var = np.zeros(6, F32), np.ones(6, F32)
    theirs = torch.zeros(6, dtype=torch.float64), torch.ones(6, dtype=torch.float64)
    t = torch.tensor(x, dtype=torch.float64)
    close(F.batch_norm(y, mean, var, training=True), torch.nn.functional.batch_norm(t, *theirs, training=True), F32)
    np.testing.assert_allclose(mean, theirs[0].numpy(), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(var, theirs[1].numpy(), rtol=1e-5)
    mean, var = rng.standard_normal(6).astype(F32), rng.random(6).astype(F32)
    mean[4], var[5] = np.nan, np.inf
    want = torch.nn.functional.batch_norm(t, torch.tensor(mean).double(), torch.tensor(var).double())
    close(F.batch_norm(y, mean, var), want, F32)
    close(F.group_norm(y, 3), torch.nn.functional.group_norm(t, 3), F32)
    close(F.layer_norm(y, (40,)), torch.nn.functional.layer_norm(t, (40,)), F32)
    # rms_norm of infinity: x / inf = 0 elsewhere, NaN there
    close(F.rms_norm(y, (40,)), torch.nn.functional.rms_norm(t, (40,), eps=2.0**-23), F32)


def test_infinite_gradient_stays_in_its_place(isa):
    for x in (np.ones((2, 3, 8), F32), channels_last(np.ones((2, 3, 8), F32))):
        t, g = leaf(x), np.ones((2, 3, 8), F32)
        g[0, 1, 2] = np.inf
        F.batch_norm(t, np.zeros(3, F32), np.ones(3, F32)).backward(fastnn.from_numpy(g))
        assert np.isinf(t.grad.numpy()[0, 1, 2]) and np.isfinite(t.grad.numpy()).sum() == 47


def test_empty(isa):
    for shape in ((0, 3), (0, 4, 5), (2, 4, 0), (2, 0, 3)):
        x = np.zeros(shape, F32)
        c = shape[1]
        mean, var = np.full(c, 3, F32), np.full(c, 2, F32)
        w, b, n = np.ones(c, F32), np.ones(c, F32), shape[-1:]
        cases = [
            Call("batch_norm", x, w, b, running_mean=mean, running_var=var, training=True),
            Call("batch_norm", x, w, b, running_mean=mean, running_var=var),
            Call("layer_norm", x, np.ones(n, F32), np.ones(n, F32), normalized_shape=n),
            Call("rms_norm", x, np.ones(n, F32), None, normalized_shape=n),
            Call("group_norm", x, w, b, num_groups=1),
        ]
        if x.ndim > 2:
            cases.append(Call("instance_norm", x, w, b, running_mean=mean, running_var=var))
        for call in cases:
            leaves = [leaf(a) for a in call.arrays]
            y = call(F, *leaves)
            y.backward(fastnn.from_numpy(x))
            assert y.shape == shape and leaves[0].grad.shape == shape
            for t in leaves[1:]:
                np.testing.assert_array_equal(t.grad.numpy(), np.zeros(t.shape, F32))
        assert (mean == 3).all() and (var == 2).all()


# ---- running statistics ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("op", ["batch_norm", "instance_norm"])
def test_running_statistics(isa, rng, op, dtype):
    torch = pytest.importorskip("torch")
    flag = {"training": True} if op == "batch_norm" else {"use_input_stats": True}
    x = (3 * rng.standard_normal((5, 6, 3, 7)) + 2).astype(dtype)
    for kind in {dtype, F32} if dtype.itemsize == 2 else {dtype}:
        for momentum in (0.1, 1.0, 0.0, 0.5):
            mean, var = rng.standard_normal(6).astype(kind), rng.random(6).astype(kind)
            theirs = [torch.tensor(np.asarray(a, np.float64)) for a in (mean, var)]
            t = torch.tensor(np.asarray(x, np.float64))
            want = getattr(torch.nn.functional, op)(t, *theirs, momentum=momentum, **flag)
            for y in (x, channels_last(x)):
                ours = mean.copy(), var.copy()
                close(getattr(F, op)(y, *ours, momentum=momentum, **flag), want, dtype)
                close(ours[0], theirs[0], kind)
                close(ours[1], theirs[1], kind)
    reference_stats = [np.asarray(a, np.float64) for a in (mean, var)]
    getattr(reference, op)(x, *reference_stats, momentum=momentum, **flag)
    np.testing.assert_allclose(reference_stats[0], theirs[0].numpy(), rtol=1e-12)
    np.testing.assert_allclose(reference_stats[1], theirs[1].numpy(), rtol=1e-12)


def test_running_statistics_in_other_memory(isa, rng):
    x = rng.standard_normal((4, 3, 5)).astype(F32)
    plain = np.zeros(3, F32), np.ones(3, F32)
    F.batch_norm(x, *plain, training=True)
    spread = np.zeros(6, F32)[::2], np.ones(9, F32)[::-3]
    F.batch_norm(x, *spread, training=True)
    tensors = fastnn.tensor(np.zeros(3, F32)), fastnn.tensor(np.ones(3, F32))
    F.batch_norm(leaf(x), *tensors, training=True)
    for i in (0, 1):
        np.testing.assert_array_equal(spread[i], plain[i])
        np.testing.assert_array_equal(tensors[i].numpy(), plain[i])


def test_update_is_seen_by_the_tape(rng):
    x = fastnn.from_numpy(rng.standard_normal((4, 3)).astype(F32))
    mean, var = leaf(np.zeros(3, F32)), fastnn.tensor(np.ones(3, F32))
    y = (mean * mean).sum()
    F.batch_norm(x, mean.detach(), var, training=True)
    with pytest.raises(RuntimeError, match="changed in place"):
        y.backward()
    t = leaf(np.ones((4, 3), F32))  # the statistics of an eval call are kept, not the arrays
    y = F.batch_norm(t, mean.detach(), var)
    expected = 1 / np.sqrt(var.numpy() + 1e-5)
    F.batch_norm(x, mean.detach(), var, training=True)
    y.backward(fastnn.from_numpy(np.ones((4, 3), F32)))
    np.testing.assert_allclose(t.grad.numpy(), np.broadcast_to(expected, (4, 3)), rtol=1e-6)


# ---- threads ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
def test_same_bits_for_any_number_of_threads(isa, rng, layout):
    x = rng.standard_normal((9, 24, 40, 45)).astype(F32)
    x = channels_last(x) if layout == "channels_last" else x
    flat = rng.standard_normal((1001, 257)).astype(F32)
    w, b = rng.standard_normal(24).astype(F32), rng.standard_normal(24).astype(F32)
    v = rng.standard_normal(257).astype(F32)

    def run():
        out = []
        mean, var = np.zeros(24, F32), np.ones(24, F32)
        for call in (
            Call("batch_norm", x, w, b, running_mean=mean, running_var=var, training=True),
            Call("group_norm", x, w, b, num_groups=4),
            Call("instance_norm", x, w, b),
            Call("layer_norm", flat, v, v, normalized_shape=(257,)),
            Call("rms_norm", flat, v, None, normalized_shape=(257,)),
        ):
            leaves = [leaf(a) for a in call.arrays]
            y = call(F, *leaves)
            y.backward(fastnn.from_numpy(call.arrays[0]))
            out += [y.numpy().tobytes(), *(t.grad.numpy().tobytes() for t in leaves)]
        return [*out, mean.tobytes(), var.tobytes()]

    _C.set_num_threads(1)
    want = run()
    for threads in (2, 3, 8):
        _C.set_num_threads(threads)
        assert run() == want


# ---- torch tensors ---------------------------------------------------------------------------------------------------


def test_torch_tensors(rng):
    """The same bits, gradients by torch's autograd, and running statistics written in place."""
    torch = pytest.importorskip("torch")
    x = rng.standard_normal((3, 6, 5, 4)).astype(F32)
    g = rng.standard_normal(x.shape).astype(F32)
    for call in [*calls(rng, x, F32), *calls(rng, channels_last(x), F32)]:
        ours = [leaf(a) for a in call.arrays]
        theirs = [torch.from_numpy(a).requires_grad_() for a in call.arrays]
        y = call(F, *ours)
        same = Call(call.op, *[None] * 3, **{k: _to_torch(torch, v) for k, v in call.kwargs.items()})
        same.given = call.given
        z = same(F, *theirs)
        np.testing.assert_array_equal(y.numpy(), z.detach().numpy())
        assert z.stride() == y.strides
        y.backward(fastnn.from_numpy(g))
        z.backward(torch.from_numpy(g))
        for t, u in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(t.grad.numpy(), u.grad.numpy())
    for op, flag in (("batch_norm", "training"), ("instance_norm", "use_input_stats")):
        mean, var = np.zeros(6, F32), np.ones(6, F32)
        getattr(F, op)(x, mean, var, **{flag: True})
        other = torch.zeros(6), torch.ones(6)
        for t in (torch.from_numpy(x), torch.from_numpy(x).requires_grad_()):
            getattr(F, op)(t, *other, momentum=0.0, **{flag: True})
        getattr(F, op)(torch.from_numpy(x), *other, **{flag: True})
        np.testing.assert_array_equal(other[0].numpy(), mean)
        np.testing.assert_array_equal(other[1].numpy(), var)


def _to_torch(torch, value):
    return torch.from_numpy(value) if isinstance(value, np.ndarray) else value


# ---- arguments -------------------------------------------------------------------------------------------------------

X = np.ones((2, 4, 3), F32)
C4, C3 = np.ones(4, F32), np.ones(3, F32)
READ_ONLY = np.frombuffer(np.ones(4, F32).tobytes(), F32)
BAD = [
    (lambda: F.layer_norm(X, (4,)), ValueError, r"layer_norm: input has shape \(2, 4, 3\)"),
    (lambda: F.layer_norm(X, ()), ValueError, "layer_norm: normalized_shape is"),
    (lambda: F.layer_norm(X, 3), TypeError, "layer_norm: normalized_shape is 3"),
    (lambda: F.layer_norm(X, (3.0,)), TypeError, "layer_norm: argument 'normalized_shape'"),
    (lambda: F.layer_norm(X, (1, 2, 4, 3)), ValueError, "layer_norm: input has shape"),
    (lambda: F.layer_norm(X, (3,), C4), ValueError, r"layer_norm: weight has shape \(4,\); expected \(3,\)"),
    (lambda: F.layer_norm(X, (3,), None, C4), ValueError, "layer_norm: bias has shape"),
    (lambda: F.layer_norm(X, (3,), C3.astype(BF16)), NotImplementedError, "layer_norm: weight has dtype bfloat16"),
    (lambda: F.layer_norm(X, (3,), C3, C3.astype("f8")), NotImplementedError, "layer_norm: weight has dtype"),
    (lambda: F.layer_norm(X, (3,), eps=float("nan")), ValueError, "layer_norm: eps is"),
    (lambda: F.layer_norm(X, (3,), eps="1"), TypeError, "layer_norm: argument 'eps'"),
    (lambda: F.layer_norm(X.astype(np.int64), (3,)), NotImplementedError, "layer_norm: input has dtype int64"),
    (lambda: F.rms_norm(X, (4,)), ValueError, "rms_norm: input has shape"),
    (lambda: F.rms_norm(X, (3,), C4), ValueError, "rms_norm: weight has shape"),
    (lambda: F.group_norm(X, 3), ValueError, "group_norm: input has shape .* multiple of num_groups 3"),
    (lambda: F.group_norm(X, 0), ValueError, "group_norm: num_groups is 0"),
    (lambda: F.group_norm(X, -2), ValueError, "group_norm: num_groups is -2"),
    (lambda: F.group_norm(X, 2.0), TypeError, "group_norm: argument 'num_groups'"),
    (lambda: F.group_norm(C4, 2), ValueError, "group_norm: input has shape"),
    (lambda: F.group_norm(X, 2, C3), ValueError, "group_norm: weight has shape"),
    (lambda: F.group_norm(X[:1, :2, :1], 2), ValueError, "group_norm: Expected more than 1 value per channel"),
    (lambda: F.batch_norm(C4, C4, C4), ValueError, "batch_norm: input has shape"),
    (lambda: F.batch_norm(X, C3, C4), ValueError, r"batch_norm: running_mean has shape \(3,\); expected \(4,\)"),
    (lambda: F.batch_norm(X, C4, C3), ValueError, "batch_norm: running_var has shape"),
    (lambda: F.batch_norm(X, C4, None), ValueError, "batch_norm: only one of running_mean and running_var"),
    (lambda: F.batch_norm(X, None, None), ValueError, "batch_norm: running_mean and running_var are None"),
    (lambda: F.batch_norm(X, C4, C4.astype("f8")), NotImplementedError, "batch_norm: running_var has dtype float64"),
    (lambda: F.batch_norm(X, C4, C4, C3), ValueError, "batch_norm: weight has shape"),
    (lambda: F.batch_norm(X, C4, READ_ONLY, training=True), ValueError, "batch_norm: running_var is read-only"),
    (lambda: F.batch_norm(X[:1, :, 0], C4, C4, training=True), ValueError, "Expected more than 1 value per channel"),
    (lambda: F.batch_norm(X.astype(np.uint8), C4, C4), NotImplementedError, "batch_norm: input has dtype uint8"),
    (lambda: F.batch_norm(X, C4, C4, momentum=None), TypeError, "batch_norm: argument 'momentum'"),
    (lambda: F.instance_norm(X[..., :1]), ValueError, "instance_norm: Expected more than 1 spatial element"),
    (lambda: F.instance_norm(X[..., 0]), ValueError, "instance_norm: Expected more than 1 spatial element"),
    (lambda: F.instance_norm(X, use_input_stats=False), ValueError, "running_mean and running_var are None"),
]


@pytest.mark.parametrize("call, error, text", BAD)
def test_errors(call, error, text):
    with pytest.raises(error, match=text):
        call()
    assert (C4 == 1).all()  # nothing is written before all is checked


def test_eval_takes_read_only_statistics():
    np.testing.assert_allclose(F.batch_norm(X, READ_ONLY, READ_ONLY), 0, atol=1e-7)


def test_forms_of_arguments(rng):
    x = rng.standard_normal((2, 4, 3)).astype(F32)
    np.testing.assert_array_equal(F.layer_norm(x, [4, 3]), F.layer_norm(x, (np.int64(4), 3), None, None, 1e-5))
    np.testing.assert_array_equal(F.rms_norm(x, (3,)), F.rms_norm(x, [3], None, 2.0**-23))
    tiny = np.full((1, 4), 1e-9)
    close(F.rms_norm(tiny, (4,)), reference.rms_norm(tiny, (4,)), np.float64)
    assert not isinstance(F.layer_norm(fastnn.from_numpy(x), (3,)), np.ndarray)


def test_statistics_that_do_not_fit(rng):
    x = fastnn.from_numpy(X)
    one, other = fastnn.tensor(np.ones(8)), fastnn.tensor(np.ones(7))
    for mean, rstd in ((other, one), (one, other), (one, fastnn.tensor(np.ones(8, F32)))):
        with pytest.raises(ValueError, match="layer_norm_backward: (mean|rstd) has shape"):
            _C.layer_norm_backward(x, x, (3,), None, mean, rstd, F32, True, False, False)
    for name, arguments in (("batch_norm_backward", (True,)), ("group_norm_backward", ())):
        lead = (x, x, 2) if name.startswith("group") else (x, x)
        with pytest.raises(ValueError, match=f"{name}: mean has shape"):
            getattr(_C, name)(*lead, None, other, one, *arguments, F32, True, True, True)
        with pytest.raises(ValueError, match=f"{name}: gradient has shape"):
            getattr(_C, name)(other, *lead[1:], None, other, one, *arguments, F32, True, True, True)
