"""The normalization layers against torch.nn: arguments, text, state, modes, values, training."""

import copy
import inspect
import pickle

import fastnn
import ml_dtypes
import numpy as np
import pytest

torch = pytest.importorskip("torch")

LAYERS = [
    ("BatchNorm1d", (6,), {}, (5, 6)),
    ("BatchNorm1d", (6,), {"eps": 1e-3, "momentum": 0.3}, (5, 6, 7)),
    ("BatchNorm2d", (6,), {}, (3, 6, 5, 4)),
    ("BatchNorm2d", (6,), {"momentum": None}, (3, 6, 5, 4)),
    ("BatchNorm2d", (6,), {"affine": False}, (3, 6, 5, 4)),
    ("BatchNorm2d", (6,), {"bias": False}, (3, 6, 5, 4)),
    ("BatchNorm2d", (6,), {"track_running_stats": False}, (3, 6, 5, 4)),
    ("BatchNorm3d", (6,), {}, (3, 6, 2, 5, 4)),
    ("InstanceNorm1d", (6,), {}, (3, 6, 8)),
    ("InstanceNorm1d", (6,), {"affine": True}, (6, 8)),
    ("InstanceNorm2d", (6,), {"affine": True, "track_running_stats": True}, (3, 6, 5, 4)),
    ("InstanceNorm2d", (6,), {}, (6, 5, 4)),
    ("GroupNorm", (3, 6), {}, (4, 6, 5, 4)),
    ("GroupNorm", (2, 6), {"affine": False, "eps": 1e-3}, (4, 6)),
    ("GroupNorm", (2, 6), {"bias": False}, (4, 6, 3)),
    ("LayerNorm", (8,), {}, (3, 5, 8)),
    ("LayerNorm", ([5, 8],), {"bias": False}, (3, 5, 8)),
    ("LayerNorm", ((5, 8),), {"elementwise_affine": False, "eps": 1e-3}, (3, 5, 8)),
    ("RMSNorm", (8,), {}, (3, 5, 8)),
    ("RMSNorm", ((5, 8),), {"eps": 1e-3, "elementwise_affine": False}, (3, 5, 8)),
]
IDS = [f"{name}-{kwargs}" for name, _, kwargs, _ in LAYERS]


def both(name, args, kwargs):
    return getattr(fastnn, name)(*args, **kwargs), getattr(torch.nn, name)(*args, **kwargs)


def same_state(ours, theirs, tolerance=2e-6):
    ours, theirs = ours.state_dict(), theirs.state_dict()
    assert list(ours) == list(theirs)
    for key in ours:
        want = theirs[key].numpy()
        assert ours[key].dtype == want.dtype and ours[key].shape == want.shape
        np.testing.assert_allclose(ours[key].numpy(), want, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name, args, kwargs, shape", LAYERS, ids=IDS)
def test_as_torch(name, args, kwargs, shape):
    rng = np.random.default_rng(0)
    ours, theirs = both(name, args, kwargs)
    assert repr(ours) == repr(theirs)
    same_state(ours, theirs)
    for parameter, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        value = rng.standard_normal(parameter.shape).astype(np.float32)
        parameter.numpy()[...] = value
        other.data.copy_(torch.from_numpy(value))
    for training in (True, True, True, False, True, False):
        ours.train(training)
        theirs.train(training)
        x = (2 * rng.standard_normal(shape) + 1).astype(np.float32)
        g = rng.standard_normal(shape).astype(np.float32)
        a, b = fastnn.tensor(x, requires_grad=True), torch.tensor(x, requires_grad=True)
        y, z = ours(a), theirs(b)
        np.testing.assert_allclose(y.numpy(), z.detach().numpy(), rtol=1e-5, atol=2e-6)
        y.backward(fastnn.tensor(g))
        z.backward(torch.from_numpy(g))
        np.testing.assert_allclose(a.grad.numpy(), b.grad.numpy(), rtol=1e-4, atol=1e-5)
        for parameter, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            np.testing.assert_allclose(parameter.grad.numpy(), other.grad.numpy(), rtol=1e-4, atol=1e-5)
        same_state(ours, theirs)
    np.testing.assert_array_equal(np.asarray(ours.eval()(x)), y.numpy())  # numpy in, numpy out


@pytest.mark.parametrize("name, args, kwargs, shape", LAYERS, ids=IDS)
def test_state_round_trip(name, args, kwargs, shape, tmp_path):
    rng = np.random.default_rng(0)
    ours, theirs = both(name, args, kwargs)
    for _ in range(2):
        x = (2 * rng.standard_normal(shape) + 1).astype(np.float32)
        ours(x)
        theirs(torch.from_numpy(x))
    fresh = getattr(fastnn, name)(*args, **kwargs)
    fresh.load_state_dict(theirs.state_dict())
    same_state(fresh, theirs)
    fastnn.save(ours.state_dict(), tmp_path / "state.safetensors")
    fresh = getattr(fastnn, name)(*args, **kwargs)
    fresh.load_state_dict(fastnn.load(tmp_path / "state.safetensors"))
    for other in (fresh, copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        assert list(other.state_dict()) == list(ours.state_dict())
        for key, value in other.state_dict().items():
            np.testing.assert_array_equal(value.numpy(), ours.state_dict()[key].numpy())
        np.testing.assert_array_equal(np.asarray(other.eval()(x)), np.asarray(ours.eval()(x)))


@pytest.mark.parametrize("name", sorted({layer[0] for layer in LAYERS}))
def test_signature(name):
    def parameters(cls):
        found = inspect.signature(cls).parameters.values()
        return [(p.name, p.default, p.kind) for p in found]

    assert parameters(getattr(fastnn, name)) == parameters(getattr(torch.nn, name))


@pytest.mark.parametrize("name, args, shape", [(n, a, s) for n, a, k, s in LAYERS if not k])
def test_16_bit(name, args, shape):
    x = np.random.default_rng(0).standard_normal(shape)
    for dtype in (ml_dtypes.bfloat16, np.float16):
        layer = getattr(fastnn, name)(*args, dtype=dtype)
        y = layer(fastnn.tensor(x.astype(dtype)))
        assert y.dtype == dtype
        mixed = getattr(fastnn, name)(*args)
        z = mixed(fastnn.tensor(x.astype(dtype)))
        assert z.dtype == dtype
        np.testing.assert_array_equal(y.numpy(), z.numpy())
    assert {str(b.dtype) for b in layer.buffers()} <= {"float16", "int64"}
    assert {str(b.dtype) for b in layer.float().buffers()} <= {"float32", "int64"}


def test_reset():
    layer = fastnn.BatchNorm2d(3)
    layer(np.random.default_rng(0).standard_normal((4, 3, 5, 5)).astype(np.float32))
    layer.weight.numpy()[...] = 7
    assert layer.num_batches_tracked.item() == 1
    layer.reset_parameters()
    same_state(layer, torch.nn.BatchNorm2d(3), 0)


def test_frozen_batch_norm_in_training():
    """In eval mode inside of a model that trains, the statistics stay and gradients flow."""
    model = fastnn.Sequential(fastnn.Conv2d(3, 4, 3), fastnn.BatchNorm2d(4), fastnn.ReLU())
    model[1].eval()
    before = {k: v.numpy().copy() for k, v in model[1].state_dict().items()}
    y = model(fastnn.tensor(np.random.default_rng(0).standard_normal((2, 3, 6, 6)).astype(np.float32)))
    y.sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    for key, value in model[1].state_dict().items():
        np.testing.assert_array_equal(value.numpy(), before[key])


def test_training_as_torch():
    """The same weights, data and steps give the same losses."""
    rng = np.random.default_rng(0)

    def model(nn):
        return nn.Sequential(
            nn.Conv2d(1, 8, 3),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.GroupNorm(2, 8),
            nn.Flatten(),
            nn.Linear(8 * 36, 16),
            nn.LayerNorm(16),
            nn.Linear(16, 16),
            nn.BatchNorm1d(16),
            nn.RMSNorm(16),
            nn.Linear(16, 4),
        )

    theirs, ours = model(torch.nn), model(fastnn)
    ours.load_state_dict(theirs.state_dict())
    optimizers = fastnn.optim.SGD(ours.parameters(), lr=0.05), torch.optim.SGD(theirs.parameters(), lr=0.05)
    losses = []
    for _ in range(10):
        x, labels = rng.standard_normal((16, 1, 8, 8)).astype(np.float32), rng.integers(0, 4, 16)
        one = fastnn.functional.cross_entropy(ours(fastnn.tensor(x)), labels)
        two = torch.nn.functional.cross_entropy(theirs(torch.from_numpy(x)), torch.from_numpy(labels))
        for loss, optimizer in zip((one, two), optimizers, strict=True):
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        losses.append((one.item(), two.item()))
    np.testing.assert_allclose(*np.array(losses).T, rtol=1e-4)
    same_state(ours, theirs, 1e-3)


BAD = [
    (
        lambda: fastnn.BatchNorm1d(3)(np.ones((2, 3, 4, 5), "f4")),
        ValueError,
        r"expected 2D or 3D input \(got 4D input\)",
    ),
    (lambda: fastnn.BatchNorm2d(3)(np.ones((2, 3), "f4")), ValueError, r"expected 4D input \(got 2D input\)"),
    (lambda: fastnn.BatchNorm3d(3)(np.ones((2, 3, 4, 4), "f4")), ValueError, r"expected 5D input \(got 4D input\)"),
    (lambda: fastnn.InstanceNorm2d(3)(np.ones((3, 4), "f4")), ValueError, r"expected 3D or 4D input \(got 2D input\)"),
    (lambda: fastnn.BatchNorm2d(3)(np.ones((2, 4, 5, 5), "f4")), ValueError, "batch_norm: running_mean has shape"),
    (lambda: fastnn.BatchNorm1d(3)(np.ones((1, 3), "f4")), ValueError, "Expected more than 1 value per channel"),
    (lambda: fastnn.BatchNorm1d(-1), ValueError, "BatchNorm1d: num_features is -1"),
    (lambda: fastnn.BatchNorm1d(2.5), TypeError, "BatchNorm1d: num_features is 2.5"),
    (lambda: fastnn.GroupNorm(3, 4), ValueError, r"num_channels \(4\) must be divisible by num_groups \(3\)"),
    (lambda: fastnn.GroupNorm(0, 4), ValueError, "GroupNorm: num_groups is 0"),
    (lambda: fastnn.LayerNorm(2.5), TypeError, "LayerNorm: normalized_shape is 2.5"),
    (lambda: fastnn.LayerNorm(3, dtype=np.int32), NotImplementedError, "LayerNorm: dtype is int32"),
    (lambda: fastnn.RMSNorm(3, device="tpu"), ValueError, "RMSNorm: device"),
    (
        lambda: fastnn.InstanceNorm1d(3, affine=True)(np.ones((2, 4, 5), "f4")),
        ValueError,
        "InstanceNorm1d: input of shape .* has 4 channels; expected 3",
    ),
]


@pytest.mark.parametrize("call, error, text", BAD)
def test_errors(call, error, text):
    with pytest.raises(error, match=text):
        call()


def test_errors_change_nothing():
    layer = fastnn.BatchNorm1d(3)
    with pytest.raises(ValueError):
        layer(np.ones((1, 3), "f4"))
    same_state(layer, torch.nn.BatchNorm1d(3), 0)
    with pytest.warns(UserWarning, match="has 4 channels; expected 3"):
        fastnn.InstanceNorm1d(3)(np.ones((2, 4, 5), "f4"))
