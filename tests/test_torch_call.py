"""Plain calls with torch tensors: dtypes, layouts, memory, errors, threads, changes in place."""

import gc
import threading
import weakref

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import fastnn  # noqa: E402
import fastnn.functional as F  # noqa: E402
import torch.nn.functional as T  # noqa: E402
from fastnn.ops import reduction, shape  # noqa: E402

FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def in_use():
    gc.collect()
    return fastnn.memory_stats()["in_use"]


@pytest.mark.parametrize("dtype", FLOATS)
def test_dtypes(dtype):
    x = torch.linspace(-2, 2, 35).reshape(5, 7).to(dtype)
    for ours, theirs in ((F.relu, T.relu), (F.gelu, T.gelu), (lambda v: F.softmax(v, 1), lambda v: T.softmax(v, 1))):
        y = ours(x)
        assert type(y) is torch.Tensor and y.dtype is dtype and y.device.type == "cpu"
        torch.testing.assert_close(y, theirs(x), rtol=1.6e-2 if dtype is torch.bfloat16 else 2e-3, atol=1e-3)


def test_labels_masks_and_scalars():
    x = torch.randn(4, 6)
    for labels in (torch.tensor([0, 5, 2, 1]), torch.tensor([0, 5, 2, 1], dtype=torch.uint8)):
        torch.testing.assert_close(F.cross_entropy(x, labels), T.cross_entropy(x, labels.long()))
    assert torch.equal(fastnn.where(x > 0, x, 0.0), x.relu())
    index = reduction.argmax(x, 1)
    assert index.dtype is torch.int64 and torch.equal(index, x.argmax(1))
    zero_d = F.relu(torch.tensor(-3.0))
    assert zero_d.shape == () and zero_d.item() == 0
    assert F.relu(torch.empty(0, 3)).shape == (0, 3)
    assert torch.equal(fastnn.maximum(x, np.float32(0.25)), x.clamp(min=0.25))
    assert torch.equal(F.leaky_relu(x, np.float64(0.5)), T.leaky_relu(x, 0.5))


def test_strided_views_and_channels_last():
    base = torch.randn(6, 8, 10)
    for x in (base.t() if base.ndim == 2 else base.permute(2, 0, 1), base[::2, 1:, ::3], base[:1].expand(4, 8, 10)):
        assert torch.equal(F.relu(x), x.relu())
        torch.testing.assert_close(reduction.sum(x, 1), x.sum(1))
    image = torch.randn(2, 8, 9, 7).to(memory_format=torch.channels_last)
    weight = torch.randn(4, 8, 3, 3)
    y = F.conv2d(image, weight, padding=1)
    assert y.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(y, T.conv2d(image, weight, padding=1), rtol=1e-5, atol=1e-5)


def test_parameters_without_gradient():
    w, b = torch.nn.Parameter(torch.randn(5, 3)), torch.nn.Parameter(torch.randn(5))
    x = torch.randn(2, 3)
    for context in (torch.no_grad, torch.inference_mode):
        with context():
            y = F.linear(x, w, b)
            torch.testing.assert_close(y, T.linear(x, w, b))
            assert not y.requires_grad and y.is_inference() == (context is torch.inference_mode)


def test_results_use_our_memory_and_give_it_back():
    x = torch.ones(1 << 16)
    before = in_use()
    y = F.relu(x)
    assert in_use() == before + y.nbytes
    view = y[5:]
    del y
    assert in_use() > before and view.sum() == (1 << 16) - 5
    worker = threading.Thread(target=lambda v: v.add_(1), args=(view,))
    worker.start()
    worker.join()
    del view, worker
    assert in_use() == before


def test_inputs_are_not_kept():
    x = torch.randn(100)
    alive = weakref.ref(x)
    y = F.sigmoid(x)
    del x
    gc.collect()
    assert alive() is None and y.shape == (100,)


def test_views_are_torchs():
    x = torch.randn(4, 6)
    y = shape.reshape(x, (6, 4))
    assert y.data_ptr() == x.data_ptr() and y._base is x
    x.zero_()
    assert y.eq(0).all() and y._version == x._version
    assert shape.flatten(x).data_ptr() == x.data_ptr()
    assert shape.get_item(x, (slice(1, 3),))._base is x


def test_results_that_are_the_input():
    x = torch.randn(4)
    assert F.dropout(x, 0.5, training=False) is x and F.dropout(x, 0.0) is x
    assert F.softmax(x.double(), 0, dtype=torch.float32).dtype is torch.float32
    assert F.softmax(x, 0, dtype="float64").dtype is torch.float64


def test_changes_in_place():
    x = torch.randn(5)
    copy, version = x.clone(), x._version
    assert F.relu(x, inplace=True) is x and x._version == version + 1
    assert torch.equal(x, copy.relu())
    for function in (F.relu, F.leaky_relu, F.elu, F.silu, F.mish, F.hardswish, F.hardsigmoid, F.hardtanh, F.relu6):
        leaf = torch.randn(6, requires_grad=True)
        grads = []
        for f in (function, getattr(T, function.__name__)):
            y = f(leaf * 2, inplace=True)
            grads.append(torch.autograd.grad(y.sum(), leaf)[0])
        torch.testing.assert_close(grads[0], grads[1])
        with pytest.raises(RuntimeError, match="leaf"):
            function(leaf, inplace=True)


def test_dropout_follows_torchs_generator():
    x = torch.ones(200)
    torch.manual_seed(1)
    a, b = F.dropout(x, 0.5), F.dropout(x, 0.5)
    torch.manual_seed(1)
    assert torch.equal(F.dropout(x, 0.5), a) and not torch.equal(a, b)
    assert set(a.tolist()) == {0.0, 2.0}


def test_errors():
    x = torch.ones(2, 3)
    with pytest.raises(ValueError, match="linear"):
        F.linear(x, torch.ones(4, 5))
    with pytest.raises(TypeError, match="torch.Tensor"):
        F.linear(x, fastnn.ones(4, 3))
    with pytest.raises(TypeError, match="torch.Tensor"):
        F.linear(np.ones((2, 3), np.float32), torch.ones(4, 3))
    with pytest.raises(NotImplementedError):
        F.relu(torch.ones(2, dtype=torch.int32))
    with pytest.raises((NotImplementedError, RuntimeError, TypeError)):
        F.relu(torch.ones(2, dtype=torch.complex64))
    with pytest.raises((ValueError, RuntimeError, NotImplementedError)):
        F.relu(torch.ones((1,) * 9))


def test_many_arguments():
    pieces = [torch.randn(2, 3) for _ in range(40)]
    assert torch.equal(fastnn.cat(pieces), torch.cat(pieces))
    assert torch.equal(fastnn.stack(pieces, 1), torch.stack(pieces, 1))


def test_threads():
    x, w = torch.randn(16, 32), torch.randn(8, 32, requires_grad=True)
    wanted = torch.autograd.grad(F.linear(x, w, activation="relu").sum(), w)[0]
    failures = []

    def work():
        for i in range(50):
            with torch.no_grad():
                y = F.linear(x, w)
            if y.requires_grad:
                failures.append("no_grad")
            if i % 5 == 0 and not torch.equal(
                torch.autograd.grad(F.linear(x, w, activation="relu").sum(), w)[0], wanted
            ):
                failures.append("gradient")

    threads = [threading.Thread(target=work) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not failures


def test_autocast():
    x, w = torch.randn(3, 4), torch.randn(5, 4, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        y = F.linear(x, w)
        assert y.dtype is torch.bfloat16 and F.relu(x).dtype is torch.float32
        loss = F.mse_loss(y, torch.zeros_like(y))
        assert loss.dtype is torch.float32
    loss.backward()
    assert w.grad.dtype is torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        wanted = T.mse_loss(T.linear(x, w), torch.zeros(3, 5))
    torch.testing.assert_close(loss, wanted, rtol=1e-2, atol=1e-2)


def test_profiler_sees_the_ops():
    x = torch.randn(3, 4)
    F.relu(x)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        F.relu(x)
    assert any(event.key == "fastnn::relu" for event in profile.key_averages())
