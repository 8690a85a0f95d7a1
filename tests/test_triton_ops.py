"""torch.ops.fastnn_triton: schemas, fake kernels, gradients, torch.compile."""

import os
import subprocess
import sys

import pytest
from triton_support import DEVICE, close, pytestmark, randn, torch  # noqa: F401

# isort: split
from fastnn.torch import triton_ops as ops

F = torch.nn.functional
TESTS = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_static")


def leaf(*shape, seed=0):
    return randn(*shape, seed=seed).requires_grad_()


def labels(n, classes):
    return torch.arange(n, device=DEVICE) % classes


def angles(length, pairs):
    a = torch.arange(length, device=DEVICE)[:, None] * 0.1 * torch.arange(1, pairs + 1, device=DEVICE)
    return a.cos(), a.sin()


def turned(x, cos, sin):
    u, v = x.chunk(2, -1)
    return torch.cat((u * cos - v * sin, v * cos + u * sin), -1)


# name -> (ours, torch's, arguments that need gradients, other arguments)
OPS = {
    "activation": (lambda x: ops.activation(x, "gelu"), F.gelu, [(3, 5)]),
    "activation from output": (lambda x: ops.activation(x, "tanh"), torch.tanh, [(3, 5)]),
    "gated": (lambda g, u: ops.gated(g, u), lambda g, u: F.silu(g) * u, [(3, 5), (3, 5)]),
    "softmax": (lambda x: ops.softmax(x, 1), lambda x: x.softmax(1), [(3, 5, 2)]),
    "log_softmax": (lambda x: ops.softmax(x, -1, True), lambda x: x.log_softmax(-1), [(3, 5)]),
    "cross_entropy": (
        lambda x: ops.cross_entropy(x, labels(6, 5).to(x.device), None, 1, "mean", 0.1),
        lambda x: F.cross_entropy(x, labels(6, 5).cpu(), None, None, 1, None, "mean", 0.1),
        [(6, 5)],
    ),
    "cross_entropy none": (
        lambda x: ops.cross_entropy(x, labels(6, 5).to(x.device), reduction="none"),
        lambda x: F.cross_entropy(x, labels(6, 5).cpu(), reduction="none"),
        [(6, 5)],
    ),
    "linear_cross_entropy": (
        lambda x, w, b: ops.linear_cross_entropy(x, w, labels(6, 5).to(x.device), b),
        lambda x, w, b: F.cross_entropy(F.linear(x, w, b), labels(6, 5).cpu()),
        [(6, 4), (5, 4), (5,)],
    ),
    "layer_norm": (ops.layer_norm, lambda x, w, b: F.layer_norm(x, (6,), w, b), [(3, 6), (6,), (6,)]),
    "rms_norm": (
        lambda x, w: ops.rms_norm(x, w, 1e-5), lambda x, w: F.rms_norm(x, (6,), w, 1e-5), [(3, 6), (6,)]
    ),
    "add_rms_norm": (
        lambda x, r, w: sum(ops.add_rms_norm(x, r, w, 1e-5)),
        lambda x, r, w: F.rms_norm(x + r, (6,), w, 1e-5) + x + r,
        [(3, 6), (3, 6), (6,)],
    ),
    "add_layer_norm, only z": (
        lambda x, r, w, b: ops.add_layer_norm(x, r, w, b)[1] * 2.0,
        lambda x, r, w, b: (x + r) * 2.0 + 0.0 * (w.sum() + b.sum()),
        [(3, 6), (3, 6), (6,), (6,)],
    ),
    "linear": (ops.linear, F.linear, [(2, 3, 5), (4, 5), (4,)]),
    "linear relu residual": (
        lambda x, w, b, r: ops.linear(x, w, b, "relu", r),
        lambda x, w, b, r: F.relu(F.linear(x, w, b) + r),
        [(3, 5), (4, 5), (4,), (3, 4)],
    ),
    "linear gelu": (
        lambda x, w: ops.linear(x, w, None, "gelu"), lambda x, w: F.gelu(F.linear(x, w)), [(3, 5), (4, 5)]
    ),
    "conv2d": (
        lambda x, w, b: ops.conv2d(x, w, b, (2, 1), (1, 1)),
        lambda x, w, b: F.conv2d(x, w, b, (2, 1), (1, 1)),
        [(2, 3, 5, 6), (4, 3, 3, 3), (4,)],
    ),
    "conv2d sigmoid residual": (
        lambda x, w, r: ops.conv2d(x, w, activation_name="sigmoid", residual=r),
        lambda x, w, r: torch.sigmoid(F.conv2d(x, w) + r),
        [(2, 3, 5, 6), (4, 3, 3, 3), (2, 4, 3, 4)],
    ),
    "attention": (
        lambda q, k, v: ops.attention(q, k, v, causal=True),
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True),
        [(1, 4, 5, 8), (1, 2, 5, 8), (1, 2, 5, 8)],
    ),
    "rotary": (
        lambda x: ops.rotary(x, *(v.to(x.device) for v in angles(5, 4))),
        lambda x: turned(x, *(v.cpu().double() for v in angles(5, 4))),
        [(1, 2, 5, 8)],
    ),
    "embedding": (
        lambda w: ops.embedding(labels(9, 4).to(w.device), w, 1),
        lambda w: F.embedding(labels(9, 4).cpu(), w, 1),
        [(4, 6)],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", OPS)
def test_values_and_gradients(name):
    ours, torchs, shapes = OPS[name]
    inputs = [leaf(*shape, seed=i) for i, shape in enumerate(shapes)]
    wide = [x.detach().cpu().double().requires_grad_() for x in inputs]
    y, expected = ours(*inputs), torchs(*wide)
    close(y, expected, 1e-5)
    dy = randn(*y.shape, seed=9)
    for out, reference in zip(
        torch.autograd.grad(y, inputs, dy), torch.autograd.grad(expected, wide, dy.cpu().double()), strict=True
    ):
        close(out, reference, 3e-5)


@pytest.mark.parametrize("name", ["linear gelu", "add_rms_norm", "cross_entropy", "conv2d", "attention", "embedding"])
def test_compiled(name):
    ours, _, shapes = OPS[name]
    inputs = [leaf(*shape, seed=i) for i, shape in enumerate(shapes)]
    compiled = torch.compile(ours, backend="aot_eager", fullgraph=True)
    y, z = ours(*inputs), compiled(*inputs)
    assert torch.equal(y, z)
    dy = randn(*y.shape, seed=9)
    assert all(map(torch.equal, torch.autograd.grad(y, inputs, dy), torch.autograd.grad(z, inputs, dy)))


def cases():
    x, w, b = leaf(3, 6), leaf(6, seed=1), leaf(6, seed=2)
    image, filters = leaf(2, 3, 5, 6), leaf(4, 3, 3, 3, seed=1)
    q = leaf(1, 2, 5, 8)
    key = torch.tensor([1, 2], device=DEVICE)
    last = image.detach().to(memory_format=torch.channels_last).requires_grad_()
    return {
        "activation": (x, "silu"),
        "gated": (x, leaf(3, 6, seed=1), "gelu"),
        "softmax": (x, 0, True),
        "cross_entropy_with_gradient": (x, labels(3, 6), w.detach(), -100, "sum", 0.1, True),
        "linear_cross_entropy_with_gradient": (x, leaf(4, 6), labels(3, 4), None, -100, "mean", 0.0, "ieee", True),
        "norm": (x, w, b, leaf(3, 6, seed=3), 1e-5, False),
        "norm without a residual": (x, w, None, None, 1e-5, True),
        "linear_fused": (x, leaf(4, 6), None, "relu", None, "ieee"),
        "conv2d_fused": (image, filters, leaf(4), [1, 2], [1, 0], [1, 1], 1, "none", None, "ieee"),
        "conv2d_fused channels_last": (last, filters, None, [1, 1], [1, 1], [1, 1], 1, "relu", None, "ieee"),
        "attention_with_sums": (q, leaf(1, 1, 4, 8), leaf(1, 1, 4, 6), None, False, 0.3, "ieee"),
        "rotary": (q, *angles(5, 4), False, False),
        "dropout_keyed": (last, 0.3, key),
        "embedding": (labels(5, 3), leaf(3, 6), None, False),
        "sgd_step": ([x.detach()], [b.detach().expand(3, 6).clone()], [], 0.1),
        "adam_step": ([x.detach()], [torch.ones(3, 6, device=DEVICE)], [torch.zeros(3, 6, device=DEVICE)],
                      [torch.zeros(3, 6, device=DEVICE)], [], 1, 0.1, 0.9, 0.99, 1e-6),
    }  # fmt: skip


@pytest.mark.parametrize("name", cases())
def test_operator_check(name):
    operator = getattr(torch.ops.fastnn_triton, name.split()[0]).default
    torch.library.opcheck(operator, cases()[name], test_utils=TESTS)


def test_dropout():
    torch.manual_seed(3)
    x = torch.ones(1000, device=DEVICE, requires_grad=True)
    y = ops.dropout(x, 0.4)
    (dx,) = torch.autograd.grad(y, x, torch.ones_like(y))
    assert torch.equal(dx, y) and 0.3 < float((y == 0).float().mean()) < 0.5
    assert ops.dropout(x, 0.4, training=False) is x and not torch.equal(ops.dropout(x, 0.4), y)


def test_no_wrong_gradient_twice():
    x = leaf(4, 5)
    loss = ops.cross_entropy(x, labels(4, 5))
    loss.backward(torch.tensor(2.0, device=DEVICE), retain_graph=True)
    with pytest.raises(RuntimeError, match="cross_entropy: its gradient was taken before"):
        loss.backward()


_VISIBLE = """
import torch
from torch._subclasses import FakeTensorMode
from torch._subclasses.functional_tensor import dispatch_functionalize
from torch.fx.experimental.proxy_tensor import make_fx
import fastnn.torch.triton_ops as ops

def step(x, w, b):
    y = ops.linear(x, w, b, "relu")
    return ops.layer_norm(ops.activation(y, "silu"))

with FakeTensorMode():
    x, w, b = (torch.empty(s, device="cuda", dtype=torch.bfloat16) for s in ((64, 32), (48, 32), (48,)))
    graph = make_fx(dispatch_functionalize(step))(x, w, b)
print(graph.code)
"""


def test_kernels_are_visible_to_tracing():
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    run = subprocess.run([sys.executable, "-c", _VISIBLE], capture_output=True, text=True, env=environment)
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("triton_kernel_wrapper") >= 3 and "fastnn_triton" not in run.stdout
