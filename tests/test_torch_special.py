"""fastnn.functional against torch where OpInfo's samples do not reach: large and odd sizes, which are blocked and
threaded, random arguments, and NaN, infinities and extreme numbers; values and gradients."""

import warnings

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import conformance  # noqa: E402
import fastnn.functional as F  # noqa: E402
import torch.nn.functional as T  # noqa: E402

DTYPES = (torch.float32, torch.bfloat16)
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype)[6:])

# name: (torch's function, further arguments)
ELEMENTWISE = {
    "abs": (torch.abs,),
    "celu": (T.celu, 1.3),
    "elu": (T.elu, 0.7),
    "exp": (torch.exp,),
    "expm1": (torch.expm1,),
    "gelu": (T.gelu,),
    "hardshrink": (T.hardshrink,),
    "hardsigmoid": (T.hardsigmoid,),
    "hardswish": (T.hardswish,),
    "hardtanh": (T.hardtanh, -0.5, 2.0),
    "leaky_relu": (T.leaky_relu, 0.2),
    "log": (torch.log,),
    "log1p": (torch.log1p,),
    "logsigmoid": (T.logsigmoid,),
    "mish": (T.mish,),
    "neg": (torch.neg,),
    "relu": (T.relu,),
    "relu6": (T.relu6,),
    "selu": (T.selu,),
    "sigmoid": (torch.sigmoid,),
    "silu": (T.silu,),
    "softplus": (T.softplus, 1.5, 10.0),
    "softshrink": (T.softshrink,),
    "softsign": (T.softsign,),
    "sqrt": (torch.sqrt,),
    "tanh": (torch.tanh,),
    "tanhshrink": (T.tanhshrink,),
    "threshold": (T.threshold, 0.3, -1.0),
}
BINARY = {
    "add": torch.add,
    "sub": torch.sub,
    "mul": torch.mul,
    "div": torch.div,
    "maximum": torch.maximum,
    "minimum": torch.minimum,
    "mse_loss": T.mse_loss,
    "l1_loss": T.l1_loss,
    "smooth_l1_loss": T.smooth_l1_loss,
    "huber_loss": T.huber_loss,
    "binary_cross_entropy_with_logits": T.binary_cross_entropy_with_logits,
}
REDUCTIONS = {
    "sum": torch.sum,
    "mean": torch.mean,
    "amax": torch.amax,
    "amin": torch.amin,
    "softmax": T.softmax,
    "log_softmax": T.log_softmax,
}


def rand(rng, shape, dtype, grad=True):
    x = torch.tensor(rng.standard_normal(shape), dtype=torch.float32).mul(2).to(dtype)
    return x.requires_grad_(grad)


def check(ours, theirs, *args, layouts=("given", "scattered"), ulps=1, **kwargs):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        conformance.check(ours, theirs, (args, kwargs), layouts=layouts, ulps=ulps)


# ---- large -----------------------------------------------------------------------------------------------------------


@dtypes
@pytest.mark.parametrize("name", ELEMENTWISE)
def test_large_elementwise(name, dtype, rng):
    theirs, *extra = ELEMENTWISE[name]
    x = rand(rng, 100_003, dtype)
    if name in ("log", "sqrt", "log1p"):
        x = x.detach().abs().add(0.01).requires_grad_()
    check(getattr(F, name), theirs, x, *extra)
    image = rand(rng, (2, 3, 129, 131), dtype, grad=False).contiguous(memory_format=torch.channels_last)
    check(getattr(F, name), theirs, image.abs().requires_grad_(), *extra, layouts=("given",))


@dtypes
@pytest.mark.parametrize("name", BINARY)
def test_large_binary(name, dtype, rng):
    loss = name.endswith(("loss", "logits"))
    for shapes in (((317, 331), (317, 331)), ((317, 331), (331,)), ((317, 1, 7), (1, 47, 7))):
        a, b = (rand(rng, shape, dtype) for shape in shapes)
        if loss and a.shape != b.shape:
            continue
        kwargs = {"reduction": "none"} if loss else {}
        check(getattr(F, name), BINARY[name], a, b, **kwargs)
        if loss:
            check(getattr(F, name), BINARY[name], a, b)


@dtypes
@pytest.mark.parametrize("name", REDUCTIONS)
def test_large_reductions(name, dtype, rng):
    for shape, dim in (((317, 331), 0), ((317, 331), 1), ((7, 129, 131), 1), ((3, 40_001), -1), ((40_001, 3), 0)):
        check(getattr(F, name), REDUCTIONS[name], rand(rng, shape, dtype), dim, layouts=("given",), ulps=4)
    if name in ("sum", "mean", "amax", "amin"):
        check(getattr(F, name), REDUCTIONS[name], rand(rng, (7, 129, 131), dtype), (0, 2), True)


@dtypes
def test_large_products(dtype, rng):
    for m, k, n in ((129, 257, 65), (1, 4097, 33), (300, 3, 511), (63, 1025, 1)):
        a, b = rand(rng, (m, k), dtype), rand(rng, (k, n), dtype)
        check(F.matmul, torch.matmul, a, b, ulps=4)
        check(F.linear, T.linear, a, rand(rng, (n, k), dtype), rand(rng, n, dtype), ulps=4)
    check(F.matmul, torch.matmul, rand(rng, (5, 67, 129), dtype), rand(rng, (5, 129, 35), dtype), ulps=4)
    check(F.matmul, torch.matmul, rand(rng, (3, 1, 67, 31), dtype), rand(rng, (5, 31, 35), dtype), ulps=4)


@dtypes
def test_large_images(dtype, rng):
    for layout in (torch.contiguous_format, torch.channels_last):
        x = rand(rng, (3, 19, 45, 47), dtype, grad=False).contiguous(memory_format=layout).requires_grad_()
        for groups, stride, padding, dilation in ((1, 1, 1, 1), (1, 2, 3, 2), (19, 1, 1, 1)):
            w = rand(rng, (38, 19 // groups, 3, 3), dtype)
            bias = rand(rng, 38, dtype)  # Winograd costs digits
            check(F.conv2d, T.conv2d, x, w, bias, stride, padding, dilation, groups, layouts=("given",), ulps=32)
        check(F.max_pool2d, T.max_pool2d, x, 3, 2, 1, layouts=("given",))
        check(F.avg_pool2d, T.avg_pool2d, x, (3, 2), 2, 1, layouts=("given",))
        check(F.adaptive_avg_pool2d, T.adaptive_avg_pool2d, x, (7, 5), layouts=("given",))
        check(F.adaptive_max_pool2d, T.adaptive_max_pool2d, x, (7, 5), layouts=("given",))
        mean, var = rng.standard_normal(19), rng.uniform(0.5, 2, 19)
        mean, var = (torch.tensor(a, dtype=torch.float32).to(dtype) for a in (mean, var))
        scale = rand(rng, 19, dtype), rand(rng, 19, dtype)
        for training in (True, False):
            check(F.batch_norm, T.batch_norm, x, mean, var, *scale, training, layouts=("given",))
        check(F.group_norm, T.group_norm, x, 19, *scale, layouts=("given",))


@dtypes
def test_large_rows(dtype, rng):
    x = rand(rng, (257, 1031), dtype)
    check(F.layer_norm, T.layer_norm, x, (1031,), rand(rng, 1031, dtype), rand(rng, 1031, dtype))
    check(F.rms_norm, T.rms_norm, x, (1031,), rand(rng, 1031, dtype))
    labels = torch.tensor(rng.integers(0, 1031, 257))
    labels[::5] = -100
    for reduction in ("mean", "sum", "none"):
        check(F.cross_entropy, T.cross_entropy, x, labels, reduction=reduction, label_smoothing=0.1)
        check(F.nll_loss, T.nll_loss, x, labels, reduction=reduction)
    index = torch.tensor(rng.integers(0, 257, (33, 41)))
    check(F.embedding, T.embedding, index, x)
    check(lambda *t: F.cat(t, 1), lambda *t: torch.cat(t, 1), x, rand(rng, (257, 33), dtype))


@dtypes
def test_large_attention(dtype, rng):
    q, k, v = (rand(rng, (2, 3, n, 32), dtype) for n in (67, 131, 131))
    check(F.scaled_dot_product_attention, T.scaled_dot_product_attention, q, k, v)
    q, k, v = (rand(rng, (2, 3, 131, 32), dtype) for _ in range(3))
    check(F.scaled_dot_product_attention, T.scaled_dot_product_attention, q, k, v, is_causal=True)


# ---- random arguments ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(12))
def test_random_convolutions(seed):
    rng = np.random.default_rng(seed)
    dtype = DTYPES[seed % 2]
    for _ in range(4):
        groups = int(rng.choice([1, 1, 2, 3]))
        n, c, o = int(rng.integers(0, 4)), groups * int(rng.integers(1, 7)), groups * int(rng.integers(1, 7))
        size, kernel = rng.integers(5, 14, 2), rng.integers(1, 5, 2)
        stride, padding, dilation = ([int(v) for v in rng.integers(low, 4, 2)] for low in (1, 0, 1))
        extent = [d * (int(k) - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
        if any(e > s + 2 * p for e, s, p in zip(extent, size, padding, strict=True)):
            continue
        x, w = rand(rng, (n, c, *size), dtype), rand(rng, (o, c // groups, *kernel), dtype)
        bias = rand(rng, o, dtype) if rng.random() < 0.7 else None
        check(F.conv2d, T.conv2d, x, w, bias, tuple(stride), tuple(padding), tuple(dilation), groups)


@pytest.mark.parametrize("seed", range(8))
def test_random_windows(seed):
    rng = np.random.default_rng(seed)
    dtype = DTYPES[seed % 2]
    for _ in range(4):
        kernel = [int(k) for k in rng.integers(1, 5, 2)]
        stride, padding = [int(s) for s in rng.integers(1, 4, 2)], [int(rng.integers(0, k // 2 + 1)) for k in kernel]
        x = rand(rng, (2, 3, *rng.integers(5, 40, 2)), dtype)
        ceil = bool(rng.random() < 0.5)
        dilation = int(rng.integers(1, 3)) if max(kernel) < 3 else 1
        check(F.max_pool2d, T.max_pool2d, x, kernel, stride, padding, dilation, ceil, True)
        check(F.avg_pool2d, T.avg_pool2d, x, kernel, stride, padding, ceil, bool(rng.random() < 0.5))
        size = [int(s) for s in rng.integers(1, 6, 2)]
        check(F.adaptive_avg_pool2d, T.adaptive_avg_pool2d, x, size)
        check(F.adaptive_max_pool2d, T.adaptive_max_pool2d, x, size, True)


@pytest.mark.parametrize("seed", range(8))
def test_random_broadcasts(seed):
    rng = np.random.default_rng(seed)
    dtype = DTYPES[seed % 2]
    for _ in range(4):
        full = rng.integers(0 if seed == 7 else 1, 12, int(rng.integers(1, 5)))
        cut = [[int(s) if rng.random() < 0.6 else 1 for s in full][int(rng.integers(0, len(full))) :] for _ in range(3)]
        a, b, c = (rand(rng, tuple(shape), dtype) for shape in cut)
        for name in ("add", "sub", "mul", "maximum"):
            check(getattr(F, name), BINARY[name], a, b, ulps=4)
        mask = torch.tensor(rng.random(tuple(cut[2])) < 0.5)
        check(F.where, torch.where, mask, a, b, ulps=4)
        check(F.clamp, torch.clamp, rand(rng, tuple(full), dtype), a, b, ulps=4)
        check(F.lt, torch.lt, a.detach(), b.detach())


# ---- NaN, infinities, extremes ---------------------------------------------------------------------------------------

NAN, INF = float("nan"), float("inf")
# Without subnormal numbers, which count as zero here: leaky_relu has another slope there.
SPECIAL = [NAN, INF, -INF, 0.0, -0.0, 1e-30, -1e-30, 3e38, -3e38, 1e20, -1e20, 88.0, -88.0, 105.0, -105.0]
SPECIAL += [0.5, -0.5, 1.0, -1.0, 3.0, -3.0, 6.0, 20.0, -20.0]
# Where torch's gradient is NaN and ours is the limit.
LIMITS = {"mish": (INF,), "softsign": (INF, -INF)}


@dtypes
@pytest.mark.parametrize("name", ELEMENTWISE)
def test_special_elementwise(name, dtype):
    theirs, *extra = ELEMENTWISE[name]
    values = [v for v in SPECIAL if v not in LIMITS.get(name, ())]
    for count in (1, 7):  # among vectors and in tails
        x = torch.tensor(values * count, dtype=dtype, requires_grad=True)
        check(getattr(F, name), theirs, x, *extra)


@dtypes
@pytest.mark.parametrize("name", ["add", "sub", "mul", "div", "maximum", "minimum"])
def test_special_binary(name, dtype):
    a, b = torch.meshgrid(*[torch.tensor(SPECIAL, dtype=dtype)] * 2, indexing="ij")
    check(getattr(F, name), BINARY[name], a.clone().requires_grad_(), b.clone().requires_grad_())
    for compare in ("eq", "ne", "lt", "le", "gt", "ge"):
        check(getattr(F, compare), getattr(torch, compare), a, b)


def poisoned(rng, shape, dtype, values=(NAN, INF, -INF), count=3):
    x = rand(rng, shape, dtype, grad=False)
    flat = x.view(-1)
    for value in values:
        flat[torch.tensor(rng.integers(0, flat.numel(), count))] = value
    return x.requires_grad_()


@dtypes
@pytest.mark.parametrize("name", REDUCTIONS)
def test_special_reductions(name, dtype, rng):
    for values in ((NAN,), (INF,), (-INF,), (INF, -INF), (NAN, INF, -INF)):
        x = poisoned(rng, (23, 37), dtype, values)
        if name in ("amax", "amin") and NAN in values:  # the gradient goes to the NaN; torch's is NaN everywhere
            x = x.detach()
        for dim in (0, 1):
            check(getattr(F, name), REDUCTIONS[name], x, dim)
    row = torch.full((3, 17), -INF, dtype=dtype)
    row[0, 3] = row[1] = 1.0
    check(getattr(F, name), REDUCTIONS[name], row.requires_grad_(), 1)


@dtypes
def test_special_max(dtype, rng):
    for values in ((NAN,), (INF,), (NAN, INF, -INF)):
        x = poisoned(rng, (23, 37), dtype, values)
        for dim in (0, 1):
            check(F.max, torch.max, x, dim)
            check(F.min, torch.min, x, dim)
            check(F.argmax, torch.argmax, x, dim)


@dtypes
def test_special_products_and_images(dtype, rng):
    for values in ((NAN,), (INF,), (INF, -INF)):
        a, b = poisoned(rng, (33, 65), dtype, values), poisoned(rng, (65, 17), dtype, values)
        check(F.matmul, torch.matmul, a, b)
        check(F.linear, T.linear, a, rand(rng, (9, 65), dtype), rand(rng, 9, dtype))
        x, w = poisoned(rng, (2, 4, 12, 13), dtype, values), rand(rng, (6, 4, 3, 3), dtype)
        check(F.conv2d, T.conv2d, x, w, None, 1, 1)
        check(F.max_pool2d, T.max_pool2d, x, 3, 2, 1)
        check(F.max_pool2d, T.max_pool2d, x, 2, return_indices=True)
        check(F.avg_pool2d, T.avg_pool2d, x, 3, 2, 1)
        check(F.adaptive_avg_pool2d, T.adaptive_avg_pool2d, x, (3, 4))
        check(F.adaptive_max_pool2d, T.adaptive_max_pool2d, x, (3, 4))


@dtypes
def test_special_norms(dtype, rng):
    for values in ((NAN,), (INF,), (-INF,)):
        x = poisoned(rng, (6, 4, 5), dtype, values, count=1)
        scale = rand(rng, 4, dtype), rand(rng, 4, dtype)
        check(F.layer_norm, T.layer_norm, x, (5,), rand(rng, 5, dtype), rand(rng, 5, dtype))
        check(F.rms_norm, T.rms_norm, x, (5,), rand(rng, 5, dtype))
        check(F.group_norm, T.group_norm, x, 2, *scale)
        check(F.batch_norm, T.batch_norm, x, None, None, *scale, True)
    constant = torch.full((4, 33), 7.0, dtype=dtype, requires_grad=True)
    check(F.layer_norm, T.layer_norm, constant, (33,))
    check(F.batch_norm, T.batch_norm, constant, None, None, None, None, True)


@dtypes
def test_special_losses(dtype, rng):
    labels = torch.tensor(rng.integers(0, 11, 9))
    for values in ((NAN,), (INF,), (-INF,)):
        x = poisoned(rng, (9, 11), dtype, values, count=1)
        for reduction in ("mean", "none"):
            check(F.cross_entropy, T.cross_entropy, x, labels, reduction=reduction)
            check(F.mse_loss, T.mse_loss, x, rand(rng, (9, 11), dtype), reduction=reduction)
            check(F.l1_loss, T.l1_loss, x, rand(rng, (9, 11), dtype), reduction=reduction)
    ignored = torch.full((9,), -100)
    check(F.cross_entropy, T.cross_entropy, rand(rng, (9, 11), dtype), ignored)
    sure = torch.tensor([0.0, 1.0, 0.5, 1e-30], dtype=dtype).requires_grad_()
    check(F.binary_cross_entropy, T.binary_cross_entropy, sure, torch.tensor([1.0, 0.0, 0.5, 1.0], dtype=dtype))
    logits = torch.tensor([1e4, -1e4, 0.0, 200.0], dtype=dtype).requires_grad_()
    target = torch.tensor([0.0, 1.0, 0.5, 1.0], dtype=dtype)
    check(F.binary_cross_entropy_with_logits, T.binary_cross_entropy_with_logits, logits, target)
    check(F.kl_div, T.kl_div, rand(rng, (4, 5), dtype), torch.eye(4, 5, dtype=dtype), reduction="batchmean")


@dtypes
def test_special_attention(dtype, rng):
    q, k, v = (rand(rng, (2, 2, 9, 8), dtype) for _ in range(3))
    mask = torch.tensor(rng.random((9, 9)) < 0.6)
    mask[:, 0] = True
    check(F.scaled_dot_product_attention, T.scaled_dot_product_attention, q, k, v, mask)
