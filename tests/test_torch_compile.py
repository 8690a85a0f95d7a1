"""torch.compile(model, backend="fastnn"), and swapped models under plain torch.compile and torch.export."""

import copy
import subprocess
import sys
from importlib.metadata import entry_points

import fastnn
import pytest

torch = pytest.importorskip("torch")
from fastnn.torch import backend, functional  # noqa: E402
from torch import nn  # noqa: E402
from torch_models import MODELS, make  # noqa: E402


@pytest.fixture(autouse=True)
def _fresh():
    torch._dynamo.reset()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def graphs(monkeypatch):
    """The results of rewriting, one per compiled graph."""
    results = []
    real = backend.rewrite

    def rewrite(graph, **kwargs):
        results.append(real(graph, **kwargs))
        return results[-1]

    monkeypatch.setattr(backend, "rewrite", rewrite)
    return results


def close(ours, theirs, tolerance=1e-4):
    theirs = theirs.detach()
    torch.testing.assert_close(ours.detach(), theirs, rtol=tolerance, atol=tolerance * float(theirs.abs().max() + 1e-3))


def step(model, run, inputs):
    model.zero_grad()
    out = run(inputs)
    out.square().mean().backward()
    return [out, *(p.grad for p in model.parameters()), *(b for b in model.buffers() if b.is_floating_point())]


@pytest.mark.parametrize("name", MODELS)
def test_training(name, graphs):
    model, inputs = make(name)
    original = copy.deepcopy(model)
    compiled = torch.compile(model, backend="fastnn", fullgraph=True)
    for _ in range(2):
        for a, b in zip(step(model, compiled, inputs), step(original, original, inputs), strict=True):
            close(a, b)
    (result,) = graphs
    assert result.pieces and not result.folded
    if name in ("lenet", "bert", "gpt"):  # where no norm stands before the activation
        assert any(len(piece.modules) > 1 for piece in result.pieces)


@pytest.mark.parametrize("name", MODELS)
def test_inference(name, graphs):
    model, inputs = make(name)
    model.eval()
    compiled = torch.compile(model, backend="fastnn", fullgraph=True)
    norms = sum(isinstance(m, nn.BatchNorm2d) for m in model.modules())
    functional.fallbacks.clear()
    with torch.no_grad():
        for _ in range(2):
            close(compiled(inputs), model(inputs))
        assert len(graphs[0].folded) == norms
        if norms:
            next(m for m in model.modules() if isinstance(m, nn.BatchNorm2d)).weight.mul_(2)
            close(compiled(inputs), model(inputs))
    assert not functional.fallbacks


def test_gradients_in_eval_mode_are_not_folded(graphs):
    model, inputs = make("resnet")
    model.eval()
    original = copy.deepcopy(model)
    compiled = torch.compile(model, backend="fastnn")
    for a, b in zip(step(model, compiled, inputs), step(original, original, inputs), strict=True):
        close(a, b)
    assert not graphs[0].folded


@pytest.mark.parametrize(
    "function",
    [
        lambda x: torch.relu_(x + 1) * 2,
        lambda x: (x + 1).add_(x).relu_(),
        lambda x: nn.functional.silu(x * 2, inplace=True),
        lambda x: nn.functional.linear(x, x.new_ones(3, 4), None) + 1,
        lambda x: nn.functional.gelu(nn.functional.linear(x, x.new_ones(5, 4)), approximate="tanh"),
        lambda x: nn.functional.linear(x, x.new_ones(4, 4)) + x.sum(),  # a residual that broadcasts
        lambda x: nn.functional.linear(x, x.new_ones(4, 4)) + x.double(),  # of another dtype
        lambda x: (lambda y: nn.functional.relu(y) + y)(nn.functional.linear(x, x.new_ones(4, 4))),
        lambda x: (lambda y: (y.view(-1), y.relu_())[0] + 1)(x * 3),  # a view of what is changed in place
        lambda x: nn.functional.softmax(x, -1) + torch.softmax(x, -1, torch.float64),
        lambda x: nn.functional.dropout(nn.functional.linear(x, x.new_ones(4, 4)), 0.5, training=False),
        lambda x: x.relu().sum(0) @ x.sigmoid().t(),
    ],
)
def test_functions(function):
    x = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    for grad in (False, True):
        torch._dynamo.reset()
        a, b = x.clone().requires_grad_(grad), x.clone().requires_grad_(grad)
        ours, theirs = torch.compile(function, backend="fastnn")(a), function(b)
        torch.testing.assert_close(ours, theirs)
        if grad:
            ours.double().sin().sum().backward()
            theirs.double().sin().sum().backward()
            torch.testing.assert_close(a.grad, b.grad)


def test_changed_inputs_stay_changed():
    def function(x, y):
        x.add_(1)
        return nn.functional.relu(y @ x)

    x, y = torch.randn(3, 3), torch.randn(3, 3)
    a, b = x.clone(), x.clone()
    torch.testing.assert_close(torch.compile(function, backend="fastnn")(a, y), function(b, y))
    torch.testing.assert_close(a, b)


@pytest.mark.parametrize("name", ["lenet", "bert"])
def test_swapped_models_have_no_graph_breaks(name):
    model, inputs = make(name)
    original = copy.deepcopy(model)
    fastnn.swap(model)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    for a, b in zip(step(model, compiled, inputs), step(original, original, inputs), strict=True):
        close(a, b)


def test_swapped_models_export():
    model, inputs = make("resnet")
    model.eval()
    expected = model(inputs)
    fastnn.swap(model, mode="inference")
    program = torch.export.export(model, (inputs,), strict=False)
    assert any("fastnn" in str(node.target) for node in program.graph.nodes)
    close(program.module()(inputs), expected)


@pytest.mark.full
@pytest.mark.parametrize("name", ["resnet", "gpt"])
def test_swapped_models_in_inductor(name):
    model, inputs = make(name)
    original = copy.deepcopy(model)
    fastnn.swap(model)
    compiled = torch.compile(model, fullgraph=True)
    for a, b in zip(step(model, compiled, inputs), step(original, original, inputs), strict=True):
        close(a, b)


def test_a_folded_model_compiles():
    model, inputs = make("resnet")
    model.eval()
    with torch.no_grad():
        expected = model(inputs)
        fastnn.swap(model, mode="inference")
        close(torch.compile(model, backend="eager", fullgraph=True)(inputs), expected)


def test_entry_point():
    points = [p for p in entry_points(group="torch_dynamo_backends") if p.name == "fastnn"]
    if not points:
        pytest.skip("fastnn is not installed as a package")
    assert points[0].load() is backend.backend


def test_the_name_is_known_after_import():
    code = (
        "import torch, fastnn, sys\n"
        "assert 'torch._dynamo' not in sys.modules\n"
        "assert 'fastnn' in torch._dynamo.list_backends()\n"
        "f = torch.compile(lambda x: torch.relu(x) + 1, backend='fastnn')\n"
        "assert f(torch.tensor([-1.0, 2.0])).tolist() == [1.0, 3.0]\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
