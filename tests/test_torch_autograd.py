"""torch's autograd through fastnn's functions in eager mode."""

import gc
import weakref

import pytest

torch = pytest.importorskip("torch")

import fastnn  # noqa: E402
import fastnn.functional as F  # noqa: E402
import torch_samples  # noqa: E402
from fastnn.torch import registration  # noqa: E402
from torch.utils.checkpoint import checkpoint  # noqa: E402

ROWS = {row.name: row for row in registration.ROWS}
SAMPLES = [*torch_samples.samples(), *torch_samples.layer_samples()]
SCALES_BY_FREQUENCY = {"embedding": 3, "embedding_bag": 7}  # argument that makes the gradient no true one
DIFFERENTIABLE = [
    (n, a)
    for n, a in SAMPLES
    if ROWS[n].differentiable and not (n in SCALES_BY_FREQUENCY and a[SCALES_BY_FREQUENCY[n]])
]


def to_double(value):
    if isinstance(value, torch.Tensor) and value.is_floating_point():
        return value.detach().double().requires_grad_(value.requires_grad)
    return [to_double(v) for v in value] if isinstance(value, list) else value


@pytest.mark.parametrize("name, args", DIFFERENTIABLE, ids=[f"{i}-{n}" for i, (n, _) in enumerate(DIFFERENTIABLE)])
def test_gradcheck(name, args):
    row = ROWS[name]
    schema = torch_samples.operator(name)._schema.arguments
    full = row.to_op(*(*args, *(a.default_value for a in schema[len(args) :])))
    full = tuple(to_double(a) for a in full)

    def call(*a):
        out = row.op(*a)
        return tuple(o for o in out if o.is_floating_point()) if isinstance(out, tuple) else out

    assert torch.autograd.gradcheck(call, full, fast_mode=True, atol=1e-4)


def test_only_needed_gradients_are_computed():
    x, w, b = torch.randn(3, 4), torch.randn(5, 4, requires_grad=True), torch.randn(5)
    F.linear(x, w, b).sum().backward()
    assert x.grad is None and b.grad is None and w.grad.shape == (5, 4)
    y = F.linear(x, w, b)
    assert y.grad_fn.next_functions[0][0] is None and y.grad_fn.next_functions[1][0] is not None


def test_saved_tensors_know_of_changes():
    x = torch.randn(4, requires_grad=True)
    y = F.sigmoid(x)  # saves its output
    y.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()
    z = x * 1
    out = F.gelu(z)  # saves its input
    z.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.sum().backward()
    z = x * 1
    out = F.avg_pool2d(z.reshape(1, 1, 2, 2), 2)  # saves nothing
    z.add_(1)
    out.sum().backward()


def test_retained_and_freed_graphs():
    x = torch.randn(4, 4, requires_grad=True)
    y = F.max_pool2d(F.gelu(x)[None, None], 2).sum()
    y.backward(retain_graph=True)
    first = x.grad.clone()
    y.backward()
    torch.testing.assert_close(x.grad, 2 * first)
    with pytest.raises(RuntimeError, match="second time"):
        y.backward()


def test_gradients_of_any_layout():
    x = torch.randn(2, 3, 4, 4, requires_grad=True)
    for seed in (torch.ones(()).expand(2, 3, 4, 4), torch.randn(4, 4, 3, 2).permute(3, 2, 0, 1)):
        got = torch.autograd.grad(F.silu(x), x, seed)[0]
        torch.testing.assert_close(got, torch.autograd.grad(torch.nn.functional.silu(x), x, seed)[0])
    seed = torch._neg_view(torch.randn(2, 3, 4, 4))
    torch.testing.assert_close(torch.autograd.grad(F.relu(x), x, seed)[0], (x > 0) * seed)

    class Mine(torch.Tensor):
        pass

    y = F.relu(x)
    y.register_hook(lambda g: g.as_subclass(Mine))
    torch.testing.assert_close(torch.autograd.grad(y.sum(), x)[0].as_subclass(torch.Tensor), (x > 0).float())


def test_several_outputs():
    x = torch.randn(1, 1, 4, 4, requires_grad=True)
    y, index = F.max_pool2d(x, 2, return_indices=True)
    assert index.dtype is torch.int64 and not index.requires_grad
    y.sum().backward()
    assert torch.equal(x.grad.flatten().nonzero().flatten(), index.flatten().sort().values)


def test_hooks():
    x = torch.randn(3, requires_grad=True)
    seen = []
    y = F.tanh(x)
    y.register_hook(lambda g: seen.append(g) or g * 3)
    y.grad_fn.register_hook(lambda inputs, outputs: seen.append(inputs[0]))
    y.sum().backward()
    torch.testing.assert_close(x.grad, 3 * (1 - torch.tanh(x.detach()) ** 2))
    assert len(seen) == 2


def test_hooks_of_saved_tensors():
    x = torch.randn(1, 2, 4, 4, requires_grad=True)
    packed = []

    def pack(t):
        packed.append(t.shape)
        return t.clone()

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        y = F.max_pool2d(F.gelu(x), 2)  # saves its input, and a tensor of positions
    assert len(packed) == 2
    y.sum().backward()
    wanted = torch.autograd.grad(torch.nn.functional.max_pool2d(torch.nn.functional.gelu(x), 2).sum(), x)[0]
    torch.testing.assert_close(x.grad, wanted)
    with torch.autograd.graph.save_on_cpu():
        z = F.sigmoid(x)
    assert torch.autograd.grad(z.sum(), x)[0].shape == x.shape


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointing(reentrant):
    x, w = torch.randn(6, 8, requires_grad=True), torch.randn(8, 8, requires_grad=True)

    def block(v):
        return F.dropout(F.gelu(F.linear(v, w)), 0.5)

    results = []
    for call in (block, lambda v: checkpoint(block, v, use_reentrant=reentrant)):
        torch.manual_seed(5)
        results.append(torch.autograd.grad(call(x * 1).square().sum(), (x, w)) if not reentrant else None)
        if reentrant:
            x.grad = w.grad = None
            torch.manual_seed(5)
            call(x * 1).square().sum().backward()
            results[-1] = (x.grad, w.grad)
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b)


def test_accumulation():
    w = torch.nn.Parameter(torch.randn(3, 4))
    x = torch.randn(5, 4)
    for _ in range(3):
        F.linear(x, w).sum().backward()
    torch.testing.assert_close(w.grad, 3 * x.sum(0).expand(3, 4))


def test_second_derivatives_raise():
    for function in (F.relu, F.gelu, lambda v: F.softmax(v, 0), lambda v: F.linear(v[None], v[None])):
        x = torch.randn(3, requires_grad=True)
        y = function(x)
        (g,) = torch.autograd.grad(y.sum(), x, create_graph=True)
        with pytest.raises(RuntimeError, match="second derivative"):
            g.sum().backward()
        with pytest.raises(RuntimeError, match="second derivative"):  # also beside terms that have one
            (y.detach() * x + g).sum().backward()


def test_batched_gradients_raise():
    x = torch.randn(3, requires_grad=True)
    with pytest.raises((NotImplementedError, RuntimeError)):
        torch.autograd.grad(F.relu(x), x, torch.eye(3), is_grads_batched=True)


def test_no_leaks():
    def step():
        x, w = torch.randn(64, 64, requires_grad=True), torch.nn.Parameter(torch.randn(64, 64))
        loss = F.cross_entropy(F.linear(F.gelu(F.linear(x, w)), w, activation="relu"), torch.arange(64))
        loss.backward()
        F.softmax(x, 1)  # a graph that nobody runs
        return [weakref.ref(t) for t in (x, w, loss)]

    step()
    gc.collect()
    before = fastnn.memory_stats()["in_use"]
    for _ in range(5):
        alive = step()
    assert all(r() is None for r in alive)  # also without the cycle collector
    gc.collect()
    assert fastnn.memory_stats()["in_use"] == before


def test_autograd_of_inference_tensors():
    with torch.inference_mode():
        x = torch.randn(3)
    assert torch.equal(F.relu(x), x.relu())
    w = torch.randn(2, 3, requires_grad=True)
    with pytest.raises(RuntimeError, match="[Ii]nference"):
        F.linear(x, w)
    assert torch.equal(F.relu(x.clone()), x.relu())


def test_anomaly_mode():
    x = torch.full((2,), -1.0, requires_grad=True)
    with pytest.warns(UserWarning), torch.autograd.detect_anomaly(), pytest.raises(RuntimeError, match="nan"):
        F.sqrt(x).sum().backward()
