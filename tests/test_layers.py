"""Layers, losses and LeNet: arguments, names, repr, forward and backward of torch.nn with the same weights."""

import inspect

import fastnn
import numpy as np
import pytest
from fastnn import _C

torch = pytest.importorskip("torch")
nn = torch.nn


# ---- text and signatures


LAYERS = [
    ("Linear", (3, 4)),
    ("Linear", (3, 4, False)),
    ("Identity", ()),
    ("Flatten", (0, 2)),
    ("Unflatten", (1, (2, 3))),
    ("Conv2d", (2, 4, 3)),
    ("Conv2d", (2, 4, (3, 2), 2, 1, 2, 2, False)),
    ("Conv2d", (2, 4, 3, 1, "same")),
    ("MaxPool2d", (2,)),
    ("MaxPool2d", ((3, 2), 2, 1, 2, False, True)),
    ("AvgPool2d", (3, 2, 1)),
    ("AdaptiveAvgPool2d", ((None, 3),)),
    ("AdaptiveMaxPool2d", (2,)),
    ("ReLU", ()),
    ("ReLU", (True,)),
    ("ReLU6", ()),
    ("LeakyReLU", (0.2,)),
    ("LeakyReLU", (0.2, True)),
    ("ELU", ()),
    ("GELU", ("tanh",)),
    ("SiLU", ()),
    ("Mish", (True,)),
    ("Sigmoid", ()),
    ("Tanh", ()),
    ("Hardswish", ()),
    ("Hardsigmoid", ()),
    ("Hardtanh", (-2.0, 3.0, True)),
    ("Softplus", (2.0,)),
    ("Softsign", ()),
    ("Softmax", (1,)),
    ("LogSoftmax", (-1,)),
    ("SELU", ()),
    ("CELU", (2.0,)),
    ("GLU", (1,)),
    ("PReLU", (3,)),
    ("Hardshrink", (0.3,)),
    ("Softshrink", (0.3,)),
    ("Tanhshrink", ()),
    ("Threshold", (0.1, 20.0, True)),
    ("LogSigmoid", ()),
    ("Conv1d", (2, 4, 3)),
    ("Conv1d", (2, 4, 3, 2, 1, 2, 2, False)),
    ("Conv1d", (2, 4, 3, 1, "same")),
    ("MaxPool1d", (2,)),
    ("AvgPool1d", (3, 2, 1)),
    ("AdaptiveAvgPool1d", (3,)),
    ("AdaptiveMaxPool1d", (2,)),
    ("Embedding", (5, 3, 1)),
    ("Embedding", (5, 3, None, 2.0, 1.0, True)),
    ("Dropout", (0.3,)),
    ("CrossEntropyLoss", ()),
    ("NLLLoss", ()),
    ("MSELoss", ()),
    ("L1Loss", ()),
    ("SmoothL1Loss", ()),
    ("HuberLoss", ()),
    ("BCELoss", ()),
    ("BCEWithLogitsLoss", ()),
    ("KLDivLoss", ()),
]


@pytest.mark.parametrize("name, args", LAYERS, ids=str)
def test_layers_look_like_torch(name, args):
    ours, theirs = getattr(fastnn, name), getattr(nn, name)
    a, b = ours(*args), theirs(*args)
    if name != "ReLU6":  # a Hardtanh there, which shows in repr only for its inplace
        assert repr(a) == repr(b)
    for key, value in vars(b).items():
        if not key.startswith("_") and key not in ("transposed", "output_padding"):
            if name == "ReLU6" and key in ("min_val", "max_val"):
                continue
            assert getattr(a, key) == value, key
    assert {k: v.shape for k, v in a.state_dict().items()} == {k: tuple(v.shape) for k, v in b.state_dict().items()}
    mine, yours = inspect.signature(ours).parameters, inspect.signature(theirs).parameters
    if "args" not in yours:
        left_out = {"min_value", "max_value"} if name == "Hardtanh" else set()
        assert {n: p.default for n, p in mine.items()} == {n: p.default for n, p in yours.items() if n not in left_out}
        assert list(mine) == [n for n in yours if n not in left_out]


def test_nested_repr_is_that_of_torch():
    def build(lib):
        inner = lib.Sequential(lib.Conv2d(1, 2, 3), lib.ReLU())
        return lib.Sequential(inner, lib.ModuleDict({"a": lib.Linear(2, 3), "b": lib.ModuleList([])}), lib.Flatten())

    assert repr(build(fastnn)) == repr(build(nn))


@pytest.mark.parametrize(
    "make, error, words",
    [
        (lambda: fastnn.Conv2d(3, 4, 0), ValueError, "kernel_size is 0"),
        (lambda: fastnn.Conv2d(3, 4, 3, stride=0), ValueError, "stride is 0"),
        (lambda: fastnn.Conv2d(3, 4, 3, padding=-1), ValueError, "padding is -1"),
        (lambda: fastnn.Conv2d(3, 4, 3, padding="full"), ValueError, "padding is 'full'"),
        (lambda: fastnn.Conv2d(3, 4, 3, 2, padding="same"), ValueError, "stride"),
        (lambda: fastnn.Conv2d(3, 4, 3, groups=2), ValueError, "in_channels is 3"),
        (lambda: fastnn.Conv2d(4, 3, 3, groups=2), ValueError, "out_channels is 3"),
        (lambda: fastnn.Conv2d(3, 4, (3, 3, 3)), ValueError, "kernel_size"),
        (lambda: fastnn.Conv2d(3, 4, 2.5), TypeError, "kernel_size is 2.5"),
        (lambda: fastnn.Conv2d(3.0, 4, 2), TypeError, "in_channels is 3.0"),
        (lambda: fastnn.Conv2d(3, 4, 3, padding_mode="x"), ValueError, "padding_mode is 'x'"),
        (lambda: fastnn.Linear(3, -4), ValueError, "out_features is -4"),
        (lambda: fastnn.Linear(2**40, 2**40), (ValueError, MemoryError), ""),
        (lambda: fastnn.Linear(3, 4, device="gpu"), ValueError, "Linear: device is 'gpu'"),
        (lambda: fastnn.Linear(3, 4, dtype=np.int32), NotImplementedError, "dtype is int32"),
        (lambda: fastnn.Dropout(1.5), ValueError, "p is 1.5"),
        (lambda: fastnn.Hardtanh(1.0, -1.0), ValueError, "min_val"),
        (lambda: fastnn.Unflatten(1, 3), TypeError, "unflattened_size"),
        (lambda: fastnn.CrossEntropyLoss(weight="x"), TypeError, "CrossEntropyLoss: weight is a str"),
        (lambda: fastnn.Sequential(3), TypeError, "expected a fastnn.Module"),
        (lambda: fastnn.ModuleList([fastnn.ReLU()])[1], IndexError, "index 1"),
        (lambda: fastnn.ModuleDict({"a": fastnn.ReLU()})["b"], KeyError, "b"),
        (lambda: fastnn.ModuleDict({"keys": fastnn.ReLU()}), KeyError, "already"),
    ],
)
def test_bad_layers(make, error, words):
    with pytest.raises(error, match=words):
        make()


# ---- layers with kernels, against torch with the same weights


def values(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


IMAGE = values(2, 4, 7, 9)
SEQUENCE = IMAGE[0]  # (N, C, L)
FORWARD = [
    *[(name, args, IMAGE) for name, args in LAYERS if name in ("MaxPool2d", "AvgPool2d", "ReLU6", "ELU", "GELU")],
    *[
        (name, args, IMAGE)
        for name, args in LAYERS
        if name.startswith(("Adaptive", "Hard", "Soft", "Log", "Leaky")) and "1d" not in name
    ],
    *[(name, (), IMAGE) for name in ("ReLU", "SiLU", "Mish", "Sigmoid", "Tanh", "SELU", "Tanhshrink", "PReLU")],
    ("CELU", (2.0,), IMAGE),
    ("GLU", (1,), IMAGE),
    ("PReLU", (4,), IMAGE),
    ("Threshold", (0.1, 20.0), IMAGE),
    ("Conv1d", (7, 6, 3), SEQUENCE),
    ("Conv1d", (7, 7, 2, 2, 1, 2, 7, False), SEQUENCE),
    ("Conv1d", (7, 6, 4, 1, "same"), SEQUENCE[0]),
    ("MaxPool1d", (2,), SEQUENCE),
    ("AvgPool1d", (3, 2, 1), SEQUENCE[0]),
    ("AdaptiveAvgPool1d", (4,), SEQUENCE),
    ("AdaptiveMaxPool1d", (4,), SEQUENCE),
    ("Linear", (9, 5), IMAGE),
    ("Linear", (9, 5, False), IMAGE),
    ("Conv2d", (4, 6, 3), IMAGE),
    ("Conv2d", (4, 6, (3, 2), 2, 1, 2, 2, False), IMAGE),
    ("Conv2d", (4, 6, 3, 1, "same"), IMAGE),
    ("Conv2d", (4, 6, 3, 1, "valid"), IMAGE[0]),
]


@pytest.mark.parametrize("name, args, x", FORWARD, ids=lambda v: "x" if isinstance(v, np.ndarray) else str(v))
def test_forward_and_backward(name, args, x):
    if name in ("Hardtanh", "LeakyReLU"):
        args = args[:-1] if args[-1] is True else args  # not in place
    ours, theirs = getattr(fastnn, name)(*args), getattr(nn, name)(*args)
    ours.load_state_dict(theirs.state_dict())
    a = fastnn.tensor(x, requires_grad=True)
    b = torch.from_numpy(x.copy()).requires_grad_()
    y, z = ours(a), theirs(b)
    np.testing.assert_allclose(y.detach().numpy(), z.detach().numpy(), rtol=1e-5, atol=1e-5)
    g = values(*y.shape, seed=1)
    y.backward(fastnn.tensor(g))
    z.backward(torch.from_numpy(g))
    np.testing.assert_allclose(a.grad.numpy(), b.grad.numpy(), rtol=1e-4, atol=1e-5)
    for (n, p), q in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        np.testing.assert_allclose(p.grad.numpy(), q.grad.numpy(), rtol=1e-4, atol=1e-4, err_msg=n)


LABELS = np.array([0, 3, 2, 1, -100, 3])
LOGITS = values(6, 4)
PROBABILITIES = 1 / (1 + np.exp(-LOGITS))
CLASS_WEIGHT = np.array([0.5, 1, 2, 0.1], np.float32)
LOSSES = [
    ("CrossEntropyLoss", {}, LOGITS, LABELS),
    ("CrossEntropyLoss", dict(weight=CLASS_WEIGHT, ignore_index=3, label_smoothing=0.1), LOGITS, np.abs(LABELS) % 4),
    ("NLLLoss", dict(weight=CLASS_WEIGHT, reduction="sum"), LOGITS, LABELS),
    ("MSELoss", {}, LOGITS, PROBABILITIES),
    ("MSELoss", dict(size_average=False), LOGITS, PROBABILITIES),
    ("L1Loss", dict(reduce=False), LOGITS, PROBABILITIES),
    ("SmoothL1Loss", dict(beta=0.5), LOGITS, PROBABILITIES),
    ("HuberLoss", dict(delta=0.5, reduction="sum"), LOGITS, PROBABILITIES),
    ("BCELoss", dict(weight=CLASS_WEIGHT), PROBABILITIES, PROBABILITIES[::-1].copy()),
    ("BCEWithLogitsLoss", dict(weight=CLASS_WEIGHT, pos_weight=CLASS_WEIGHT), LOGITS, PROBABILITIES),
    ("KLDivLoss", dict(reduction="batchmean"), np.log(PROBABILITIES), PROBABILITIES),
    ("KLDivLoss", dict(log_target=True), np.log(PROBABILITIES), LOGITS),
]


@pytest.mark.filterwarnings("ignore:size_average and reduce")
@pytest.mark.parametrize("name, options, x, target", LOSSES, ids=lambda v: "x" if isinstance(v, np.ndarray) else str(v))
def test_losses(name, options, x, target):
    in_torch = {k: torch.from_numpy(v) if isinstance(v, np.ndarray) else v for k, v in options.items()}
    ours, theirs = getattr(fastnn, name)(**options), getattr(nn, name)(**in_torch)
    assert list(ours.state_dict()) == list(theirs.state_dict()) and ours.reduction == theirs.reduction
    a = fastnn.tensor(x, requires_grad=True)
    b = torch.from_numpy(x.copy()).requires_grad_()
    y, z = ours(a, target), theirs(b, torch.from_numpy(target))
    np.testing.assert_allclose(y.detach().numpy(), z.detach().numpy(), rtol=1e-5, atol=1e-6)
    y.backward(fastnn.tensor(np.ones(y.shape, np.float32)))
    z.backward(torch.ones_like(z))
    np.testing.assert_allclose(a.grad.numpy(), b.grad.numpy(), rtol=1e-5, atol=1e-6)
    assert isinstance(ours(x, target), np.ndarray)


def test_dropout_looks_at_training():
    m = fastnn.Dropout(0.5)
    x = np.ones((64, 64), np.float32)
    assert set(np.unique(m(x))) == {0.0, 2.0}
    np.testing.assert_array_equal(m.eval()(x), x)


def lenet(lib):
    return lib.Sequential(
        lib.Conv2d(1, 6, 5, padding=2),
        lib.ReLU(),
        lib.MaxPool2d(2),
        lib.Conv2d(6, 16, 5),
        lib.ReLU(),
        lib.MaxPool2d(2),
        lib.Flatten(),
        lib.Linear(400, 120),
        lib.ReLU(),
        lib.Linear(120, 84),
        lib.ReLU(),
        lib.Linear(84, 10),
    )


def test_lenet_trains_like_torch():
    ours, theirs = lenet(fastnn), lenet(nn)
    ours.load_state_dict(theirs.state_dict())
    a = fastnn.optim.SGD(ours.parameters(), lr=0.05, momentum=0.9)
    b = torch.optim.SGD(theirs.parameters(), lr=0.05, momentum=0.9)
    for step in range(5):
        x = values(8, 1, 28, 28, seed=step)
        labels = np.random.default_rng(step).integers(0, 10, 8)
        loss = fastnn.CrossEntropyLoss()(ours(x), labels)
        expected = nn.CrossEntropyLoss()(theirs(torch.from_numpy(x)), torch.from_numpy(labels))
        np.testing.assert_allclose(loss.detach().numpy(), expected.detach().numpy(), rtol=1e-4)
        a.zero_grad()
        b.zero_grad()
        loss.backward()
        expected.backward()
        a.step()
        b.step()
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        np.testing.assert_allclose(p.detach().numpy(), q.detach().numpy(), rtol=1e-3, atol=1e-5)
    theirs.load_state_dict({k: torch.from_numpy(v.numpy().copy()) for k, v in ours.state_dict().items()})
    was = _C.set_grad_enabled(False)
    try:
        y = ours(x)
    finally:
        _C.set_grad_enabled(was)
    assert isinstance(y, np.ndarray)
    np.testing.assert_allclose(y, theirs(torch.from_numpy(x)).detach().numpy(), rtol=1e-4, atol=1e-5)
