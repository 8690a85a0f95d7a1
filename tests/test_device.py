"""Tensors on a GPU (emulated where there is none): moves, views, gradients, errors, DLPack, modules."""

import copy
import pickle

import fastnn
import fastnn.functional as F
import numpy as np
import pytest
from fastnn import _C, backends

pytestmark = [pytest.mark.full, pytest.mark.usefixtures("gpu")]


def test_there_and_back(rng):
    x = rng.standard_normal((3, 5, 4)).astype(np.float32)
    t = fastnn.tensor(x, device="cuda")
    assert t.device == "cuda:0" and t.is_cuda and t.shape == x.shape and t.to("cuda:0") is t
    np.testing.assert_array_equal(t.cpu().numpy(), x)
    assert t.tolist() == x.tolist() and t[1, 2, 3].item() == x[1, 2, 3]
    assert "device='cuda:0'" in repr(t)
    for view in (t.transpose(0, 2), t[1:, ::2], t[:, 1:2].expand(3, 4, 4), t[:, :0]):
        host = np.asarray(view.cpu())
        assert host.shape == view.shape
        np.testing.assert_array_equal(view.clone().cpu().numpy(), host)
        np.testing.assert_array_equal(view.contiguous().cpu().numpy(), host)
    np.testing.assert_array_equal(t.transpose(0, 2).cpu().numpy(), x.T)
    np.testing.assert_array_equal(fastnn.tensor(x.T, device="cuda")[1:].cpu().numpy(), x.T[1:])
    images = fastnn.tensor(rng.standard_normal((2, 3, 4, 5)).astype(np.float32))
    layout = images.cuda().contiguous(fastnn.channels_last)
    assert layout.cpu().is_contiguous(fastnn.channels_last)
    np.testing.assert_array_equal(layout.cpu().numpy(), images.numpy())


@pytest.mark.parametrize(
    "dtype", ["float32", "bfloat16", "float16", "float64", "int8", "uint8", "int32", "int64", "bool"]
)
def test_dtypes(dtype, rng):
    for n in (0, 1, 15, 33, 1000):
        x = fastnn.tensor(rng.uniform(0, 100, n)).to(dtype)
        t = x.cuda()
        assert t.dtype == x.dtype
        for other in ("float32", "bfloat16", "float16", "float64", "int8", "uint8", "int32", "int64", "bool"):
            np.testing.assert_array_equal(t.to(other).cpu().numpy(), x.to(other).numpy())
            np.testing.assert_array_equal(t[1::2].to(other).cpu().numpy(), x[1::2].to(other).numpy())
        t.fill_(1)
        t[3:].zero_()
        assert t.cpu().float().tolist() == [1.0] * min(n, 3) + [0.0] * max(n - 3, 0)


def test_creation():
    assert fastnn.zeros(2, 3, device="cuda").cpu().tolist() == [[0, 0, 0]] * 2
    assert fastnn.ones(3, dtype=np.int64, device="cuda").tolist() == [1, 1, 1]
    assert fastnn.full((2,), 2.5, device="cuda:0").tolist() == [2.5, 2.5]
    assert fastnn.arange(3, device="cuda").tolist() == [0, 1, 2]
    assert fastnn.zeros_like(fastnn.ones(2, device="cuda")).device == "cuda:0"
    fastnn.manual_seed(3)
    a = fastnn.randn(4, device="cuda")
    fastnn.manual_seed(3)
    assert a.tolist() == fastnn.randn(4).tolist()
    assert fastnn.empty(0, 3, device="cuda").shape == (0, 3)


def test_gradients_cross(rng):
    x = rng.standard_normal((4, 6)).astype(np.float32)
    host = fastnn.tensor(x, requires_grad=True)
    F.gelu(F.tanh(host.cuda()).transpose(0, 1)).cpu().sum().backward()
    assert host.grad.device == "cpu"
    expected = fastnn.tensor(x, requires_grad=True)
    F.gelu(F.tanh(expected)).sum().backward()
    np.testing.assert_allclose(host.grad.numpy(), expected.grad.numpy(), rtol=1e-5, atol=1e-6)
    t = fastnn.tensor(x, device="cuda", requires_grad=True)
    F.relu(t[1:]).backward(fastnn.ones(3, 6, device="cuda"))
    assert t.grad.device == "cuda:0"
    np.testing.assert_array_equal(t.grad.cpu().numpy(), np.where(np.arange(4)[:, None] > 0, x > 0, 0))


def test_copies():
    t = fastnn.tensor([1.0, 2.0], device="cuda", requires_grad=True)
    for other in (copy.deepcopy(t), pickle.loads(pickle.dumps(t))):
        assert other.device == "cuda:0" and other.requires_grad and other.tolist() == [1, 2]
        assert other.data_ptr() != t.data_ptr()
    target = fastnn.zeros(2, 2)
    target.copy_(t.detach())  # between devices
    assert target.tolist() == [[1, 2], [1, 2]]
    back = fastnn.zeros(2, device="cuda")
    back.copy_(fastnn.tensor([5.0]))
    assert back.tolist() == [5, 5]


def test_errors():
    t, host = fastnn.ones(3, device="cuda"), fastnn.ones(3)
    for read in (lambda: t.numpy(), lambda: np.asarray(t)):
        with pytest.raises(TypeError, match=r"on cuda:0.*\.cpu\(\)"):
            read()
    with pytest.raises(NotImplementedError, match="embedding_renorm: argument 'weight' is on cuda:0"):
        _C.embedding_renorm(t.reshape(1, 3), host, 1.0, 2.0)
    with pytest.raises(ValueError, match="'saved' is on cuda:0 and 'grad' on cpu"):
        _C.activation_backward("relu", t, host, 0.0, 0.0)
    with pytest.raises(ValueError, match="grad: .* device cpu; expected .* cuda:0"):
        t.grad = host
    with pytest.raises(RuntimeError, match="cuda:99"):
        fastnn.ones(3, device="cuda:99")
    for wrong in ("gpu", "cuda:", "cuda:x", "cuda:-1"):
        with pytest.raises(ValueError, match="expected 'cpu'"):
            fastnn.ones(3, device=wrong)


def test_dlpack():
    t = fastnn.tensor(np.arange(6, dtype=np.float32).reshape(2, 3), device="cuda").transpose(0, 1)
    assert t.__dlpack_device__() == (2, 0)
    back = fastnn.from_dlpack(t)
    assert back.device == "cuda:0" and back.data_ptr() == t.data_ptr() and back.strides == t.strides
    del t
    assert back.tolist() == [[0, 3], [1, 4], [2, 5]]
    np.testing.assert_array_equal(np.from_dlpack(back, device="cpu", copy=True), [[0, 3], [1, 4], [2, 5]])

    class Foreign:  # as CuPy's arrays: another type whose memory is on the GPU
        asked = None

        def __dlpack_device__(self):
            return (2, 0)

        def __dlpack__(self, *, stream=None, max_version=None, dl_device=None, copy=None):
            Foreign.asked = stream
            return back.__dlpack__(stream=stream, max_version=max_version)

        def __array_namespace__(self):
            class Library:
                from_dlpack = staticmethod(fastnn.from_dlpack)

            return Library

    y = F.relu(Foreign())
    assert y.device == "cuda:0" and y.tolist() == [[0, 3], [1, 4], [2, 5]] and Foreign.asked == 1
    with pytest.raises(ValueError, match="stream is 0"):
        back.__dlpack__(stream=0)
    back.__dlpack__(stream=-1)


def test_modules():
    model = fastnn.Sequential(fastnn.Linear(3, 4), fastnn.BatchNorm1d(4))
    state = {name: value.numpy().copy() for name, value in model.state_dict().items()}
    assert model.cuda() is model
    assert {t.device for t in (*model.parameters(), *model.buffers())} == {"cuda:0"}
    for name, value in model.state_dict().items():
        np.testing.assert_array_equal(value.cpu().numpy(), state[name])
    model.load_state_dict(state)
    assert model.to(np.float16)[0].weight.dtype == np.float16 and model[0].weight.device == "cuda:0"
    assert model.to("cpu", np.float32)[0].bias.device == "cpu" and model[1].num_batches_tracked.dtype == np.int64


def test_memory_is_given_back():
    before = backends.memory_stats()["in_use"]
    t = fastnn.ones(1000, device="cuda")
    assert backends.memory_stats()["in_use"] >= before + 4000
    del t
    assert backends.memory_stats()["in_use"] == before
    backends.synchronize()
    assert backends.backend("activation").backend == "cuda"
    assert backends.backend("activation", np.int64) == (
        None,
        "activation has no GPU kernel for int64, only for float32, bfloat16, float16, float64",
    )


def test_optimizer_of_many_tensors_is_one_launch_per_several_hundred(rng):
    shapes = [(int(n),) for n in rng.integers(0, 50, 500)] + [(20_000,)]
    host = [fastnn.Parameter(rng.standard_normal(s).astype(np.float32)) for s in shapes]
    there = [fastnn.Parameter(p.detach().cuda()) for p in host]
    steps = [fastnn.optim.AdamW(host, lr=0.1), fastnn.optim.AdamW(there, lr=0.1)]
    for _ in range(2):
        for p, q in zip(host, there, strict=True):
            p.grad = fastnn.tensor(rng.standard_normal(p.shape).astype(np.float32))
            q.grad = p.grad.cuda()
        for step in steps:
            step.step()
    for p, q in zip(host, there, strict=True):
        np.testing.assert_allclose(q.detach().cpu().numpy(), p.detach().numpy(), rtol=1e-5, atol=1e-6)
    there[0].grad = host[0].grad = None
    with pytest.raises(ValueError, match="parameter 1 is on cuda:0"):
        fastnn.optim.SGD([host[1], there[1]], lr=0.1).step()


def test_training(rng):
    """A step of a model that needs elementwise work, reductions and an optimizer alone, on both devices."""
    x, y = rng.standard_normal((64, 5)).astype(np.float32), rng.standard_normal(64).astype(np.float32)
    losses = {}
    for device in ("cpu", "cuda"):
        w = fastnn.Parameter(fastnn.zeros(5, device=device))
        step = fastnn.optim.Adam([w], lr=0.1)
        inputs, targets = fastnn.tensor(x, device=device), fastnn.tensor(y, device=device)
        losses[device] = []
        for _ in range(5):
            step.zero_grad()
            error = F.tanh((inputs * w).sum(1)) - targets
            loss = (error * error).mean()
            loss.backward()
            step.step()
            losses[device].append(loss.item())
    np.testing.assert_allclose(losses["cuda"], losses["cpu"], rtol=1e-5)
    assert losses["cpu"][-1] < losses["cpu"][0]


def test_indexing_by_arrays_is_refused():
    t = fastnn.ones(3, device="cuda")
    with pytest.raises(NotImplementedError, match="getitem: .*cuda:0"):
        t[[0, 1]]
    with pytest.raises(NotImplementedError, match="setitem: .*cuda:0"):
        t[np.array([True, False, True])] = 0


MODULES = [
    lambda **k: fastnn.Linear(3, 4, **k),
    lambda **k: fastnn.Conv2d(2, 4, 3, **k),
    lambda **k: fastnn.ConvTranspose2d(2, 4, 3, bias=False, **k),
    lambda **k: fastnn.Embedding(5, 3, padding_idx=1, **k),
    lambda **k: fastnn.BatchNorm2d(4, **k),
    lambda **k: fastnn.GroupNorm(2, 4, **k),
    lambda **k: fastnn.LayerNorm((2, 3), **k),
    lambda **k: fastnn.RMSNorm(4, **k),
    lambda **k: fastnn.PReLU(3, **k),
    lambda **k: fastnn.LSTM(3, 4, bidirectional=True, **k),
    lambda **k: fastnn.GRUCell(3, 4, **k),
    lambda **k: fastnn.MultiheadAttention(4, 2, **k),
]


@pytest.mark.parametrize("make", MODULES)
@pytest.mark.parametrize("device", ["cuda", "cuda:0", "cpu"])
def test_modules_are_made_on_a_device(make, device):
    """With the values that they have on the CPU."""
    for keywords in ({}, {"dtype": "float64"}):
        fastnn.manual_seed(5)
        model = make(device=device, **keywords)
        fastnn.manual_seed(5)
        other = make(**keywords)
        assert [name for name, _ in model.named_parameters()] == [name for name, _ in other.named_parameters()]
        state = other.state_dict()
        assert state
        for name, value in model.state_dict().items():
            assert value.device == ("cpu" if device == "cpu" else "cuda:0"), name
            assert value.dtype == state[name].dtype
            np.testing.assert_array_equal(value.cpu().numpy(), state[name].numpy())
        assert all(p.requires_grad and p.is_leaf and isinstance(p, fastnn.Parameter) for p in model.parameters())


def test_a_device_that_is_not_there():
    for device, error in (("gpu", ValueError), ("cuda:7", RuntimeError), (3, ValueError)):
        with pytest.raises(error, match="Linear: device"):
            fastnn.Linear(3, 4, device=device)
