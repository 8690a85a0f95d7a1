"""fastnn.torch.nn: every class against torch's, forward and backward."""

import copy
import pickle

import pytest

torch = pytest.importorskip("torch")
from fastnn.torch import functional, nn  # noqa: E402

image, sequence, matrix = (2, 4, 9, 8), (2, 4, 11), (5, 6)

# class, arguments, input shape; every class of the table is here.
CASES = [
    ("Linear", (6, 3), {}, matrix),
    ("Linear", (6, 3), {"bias": False}, (2, 3, 6)),
    ("Conv1d", (4, 5, 3), {"padding": 1}, sequence),
    ("Conv2d", (4, 6, 3), {}, image),
    ("Conv2d", (4, 6, 3), {"stride": 2, "padding": 1, "groups": 2, "bias": False}, image),
    ("Conv2d", (4, 6, (3, 2)), {"padding": "same", "dilation": (1, 2)}, image),
    ("Conv2d", (4, 6, 3), {"padding": 2, "padding_mode": "reflect"}, image),
    ("Conv2d", (4, 6, 3), {"padding": (1, 2), "padding_mode": "circular"}, image),
    ("Conv2d", (4, 6, 3), {"padding": "same", "padding_mode": "replicate"}, image),
    ("Conv2d", (4, 6, 3), {}, image[1:]),
    ("Conv3d", (4, 2, 2), {}, (1, 4, 5, 4, 3)),
    *[
        (name, (), {}, matrix)
        for name in (
            "ReLU ReLU6 SiLU Mish SELU Hardswish Hardsigmoid Sigmoid Tanh Softsign LogSigmoid GELU ELU CELU LeakyReLU "
            "Hardtanh Softplus PReLU"
        ).split()
    ],
    *[(name, (), {"inplace": True}, matrix) for name in "ReLU ReLU6 SiLU Hardswish ELU LeakyReLU Hardtanh".split()],
    ("GELU", (), {"approximate": "tanh"}, matrix),
    ("ELU", (0.7,), {}, matrix),
    ("PReLU", (4,), {}, image),
    ("Softplus", (2.0, 1.0), {}, matrix),
    ("Softmax", (), {"dim": 1}, image),
    ("Softmax", (-1,), {}, matrix),
    ("LogSoftmax", (), {"dim": -1}, matrix),
    ("MaxPool1d", (3,), {"stride": 2}, sequence),
    ("MaxPool2d", (2,), {}, image),
    ("MaxPool2d", (3, 2, 1), {"ceil_mode": True}, image),
    ("MaxPool2d", (3,), {"return_indices": True}, image),
    ("AvgPool1d", (3,), {}, sequence),
    ("AvgPool2d", (2,), {"padding": 1, "count_include_pad": False}, image),
    ("AvgPool2d", (3,), {"stride": (2, 1), "divisor_override": 5}, image),
    ("AdaptiveAvgPool1d", (3,), {}, sequence),
    ("AdaptiveAvgPool2d", ((1, None),), {}, image),
    ("AdaptiveMaxPool2d", (3,), {}, image),
    ("BatchNorm1d", (6,), {}, matrix),
    ("BatchNorm1d", (4,), {"momentum": None}, sequence),
    ("BatchNorm2d", (4,), {}, image),
    ("BatchNorm2d", (4,), {"affine": False}, image),
    ("BatchNorm2d", (4,), {"track_running_stats": False}, image),
    ("BatchNorm3d", (4,), {"momentum": 0.3, "eps": 1e-3}, (2, 4, 3, 2, 3)),
    ("LayerNorm", ((9, 8),), {}, image),
    ("LayerNorm", (6,), {"bias": False, "eps": 1e-3}, matrix),
    ("LayerNorm", (6,), {"elementwise_affine": False}, matrix),
    ("RMSNorm", (6,), {}, matrix),
    ("RMSNorm", (6,), {"eps": 1e-4, "elementwise_affine": False}, matrix),
    ("GroupNorm", (2, 4), {}, image),
    ("Dropout", (0.0,), {}, matrix),
    ("ConvTranspose1d", (4, 3, 3), {"stride": 2}, sequence),
    ("ConvTranspose2d", (4, 6, 3), {"stride": 2, "padding": 1, "output_padding": 1, "groups": 2}, image),
    ("ConvTranspose3d", (4, 2, 2), {"bias": False}, (1, 4, 3, 3, 3)),
    ("GLU", (1,), {}, image),
    ("Hardshrink", (), {}, matrix),
    ("Softshrink", (0.3,), {}, matrix),
    ("Tanhshrink", (), {}, matrix),
    ("Threshold", (0.1, 2.0), {}, matrix),
    ("AdaptiveMaxPool1d", (4,), {}, sequence),
    ("InstanceNorm1d", (4,), {}, sequence),
    ("InstanceNorm2d", (4,), {"affine": True, "track_running_stats": True}, image),
    ("InstanceNorm2d", (4,), {"affine": True}, image[1:]),
    ("InstanceNorm3d", (4,), {}, (2, 4, 3, 2, 3)),
    ("LocalResponseNorm", (3,), {}, image),
]
LOSSES = [
    ("CrossEntropyLoss", {}),
    ("CrossEntropyLoss", {"weight": torch.arange(6.0), "ignore_index": 2, "label_smoothing": 0.1}),
    ("CrossEntropyLoss", {"reduction": "none"}),
    ("NLLLoss", {"ignore_index": 1}),
    ("MSELoss", {}),
    ("MSELoss", {"reduction": "sum"}),
    ("L1Loss", {}),
    ("SmoothL1Loss", {"beta": 0.5}),
    ("HuberLoss", {"delta": 0.5, "reduction": "none"}),
    ("BCELoss", {"weight": torch.rand(6)}),
    ("BCEWithLogitsLoss", {"pos_weight": torch.rand(6)}),
    ("KLDivLoss", {"reduction": "batchmean", "log_target": True}),
]


def ids(cases):
    return [f"{case[0]}-{i}" for i, case in enumerate(cases)]


def pair(name, args=(), kwargs=None):
    """The layer of fastnn and torch's, with the same parameters."""
    torch.manual_seed(0)
    theirs = getattr(torch.nn, name)(*args, **(kwargs or {}))
    ours = getattr(nn, name)(*args, **(kwargs or {}))
    for p in theirs.parameters():
        p.data.add_(torch.rand_like(p) / 2)
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


def run(module, *inputs):
    first = inputs[0].clone().requires_grad_() if inputs[0].is_floating_point() else inputs[0]
    y = module(first.clone() if getattr(module, "inplace", False) else first, *inputs[1:])
    outputs = y if isinstance(y, tuple) else (y,)
    if outputs[0].requires_grad:
        generator = torch.Generator().manual_seed(1)
        outputs[0].backward(torch.randn(outputs[0].shape, generator=generator).to(outputs[0].dtype))
    return [*outputs, *([first.grad] if first.grad is not None else []), *(p.grad for p in module.parameters())]


def assert_same(ours, theirs, tolerance=1e-5):
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance * max(1.0, float(b.detach().abs().max())))


@pytest.mark.parametrize("case", CASES, ids=ids(CASES))
def test_layers(case):
    name, args, kwargs, shape = case
    ours, theirs = pair(name, args, kwargs)
    functional.fallbacks.clear()
    x = 2 * torch.randn(shape, generator=torch.Generator().manual_seed(2))
    for training in (True, False):
        ours.train(training)
        theirs.train(training)
        for m in (ours, theirs):
            m.zero_grad()
        assert_same(run(ours, x), run(theirs, x))
        with torch.no_grad():
            assert_same([t for t in run(ours, x)[:1]], [t for t in run(theirs, x)[:1]])
    assert not functional.fallbacks or kwargs.get("padding_mode")
    for (key, a), b in zip(ours.state_dict().items(), theirs.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, msg=key)
    assert repr(ours) == repr(theirs)


def test_every_class_is_tested():
    tested = {case[0] for case in CASES} | {case[0] for case in LOSSES} | {"Embedding"}
    assert {c.__name__ for c in nn.ORIGINALS} <= tested


@pytest.mark.parametrize("case", LOSSES, ids=ids(LOSSES))
def test_losses(case):
    name, kwargs = case
    ours, theirs = pair(name, (), kwargs)
    generator = torch.Generator().manual_seed(3)
    x = torch.rand(5, 6, generator=generator)
    target = torch.rand(5, 6, generator=generator)
    if name in ("CrossEntropyLoss", "NLLLoss"):
        target = torch.tensor([0, 1, 2, 3, 5])
    functional.fallbacks.clear()
    assert_same(run(ours, x, target), run(theirs, x, target))
    assert not functional.fallbacks


@pytest.mark.parametrize("kwargs", [{}, {"padding_idx": 1}, {"scale_grad_by_freq": True}, {"max_norm": 0.5}], ids=str)
def test_embedding(kwargs):
    ours, theirs = pair("Embedding", (7, 3), kwargs)
    index = torch.tensor([[1, 2, 2], [6, 0, 1]])
    assert_same(run(ours, index), run(theirs, index))
    sparse, reference = pair("Embedding", (7, 3), {"sparse": True})
    a, b = run(sparse, index), run(reference, index)
    assert a[1].is_sparse
    assert_same([a[0], a[1].to_dense()], [b[0], b[1].to_dense()])


def test_max_norm_uses_the_same_row_lengths():
    ours, theirs = pair("Embedding", (4, 3), {"max_norm": 0.1})
    index = torch.tensor([0, 2])
    ours(index), theirs(index)
    torch.testing.assert_close(ours.weight, theirs.weight)


def test_classes():
    layer = nn.Conv2d(1, 2, 3)
    assert isinstance(layer, torch.nn.Conv2d) and type(layer).__module__ == "fastnn.torch.nn"
    assert pickle.loads(pickle.dumps(nn.Conv2d)) is nn.Conv2d
    assert type(copy.deepcopy(layer)) is nn.Conv2d
    assert nn.Conv2d.forward.__qualname__ == "Conv2d.forward" and "torch.nn.Conv2d" in nn.Conv2d.__doc__
    assert nn.Sequential is torch.nn.Sequential and nn.Module is torch.nn.Module
    with pytest.raises(AttributeError):
        nn.NoSuchLayer  # noqa: B018


def test_no_kernel_runs_torchs_function():
    functional.fallbacks.clear()
    x = torch.randint(0, 5, (3, 4))
    assert torch.equal(nn.ReLU()(x), x)
    ((name, reason),) = functional.fallbacks
    assert name == "relu" and "int64" in reason


def test_double_backward_raises_or_works():
    x = torch.randn(3, 6, requires_grad=True)
    y = nn.GELU()(x)
    (grad,) = torch.autograd.grad(y.sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="second derivative"):
        grad.sum().backward()
