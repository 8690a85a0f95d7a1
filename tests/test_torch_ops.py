"""torch.ops.fastnn.*: registration, fake kernels, autograd, autocast, transforms, torch.compile and torch.export."""

import subprocess
import sys

import pytest

torch = pytest.importorskip("torch")

import fastnn.functional as F  # noqa: E402
import torch_samples  # noqa: E402
from fastnn import _C  # noqa: E402
from fastnn.ops import _torch  # noqa: E402
from fastnn.torch import registration  # noqa: E402

SAMPLES = [*torch_samples.samples(), *torch_samples.layer_samples()]
NAMES = [f"{i}-{name}" for i, (name, _) in enumerate(SAMPLES)]
ROWS = {row.name: row for row in registration.ROWS}
each_sample = pytest.mark.parametrize("name, args", SAMPLES, ids=NAMES)


def leaves(value):
    if isinstance(value, (list, tuple)):
        return [leaf for item in value for leaf in leaves(item)]
    return [value] if isinstance(value, torch.Tensor) else []


def as_dtype(value, dtype):
    if isinstance(value, list):
        return [as_dtype(v, dtype) for v in value]
    return value.detach().to(dtype) if isinstance(value, torch.Tensor) and value.is_floating_point() else value


def filled(name, args):
    """All arguments of the operator."""
    schema = torch_samples.operator(name)._schema.arguments
    return (*args, *(a.default_value for a in schema[len(args) :]))


def test_every_op_is_registered_or_torchs_own():
    import importlib
    import pkgutil

    import fastnn.ops
    from fastnn import utils

    modules = [importlib.import_module(f"fastnn.ops.{m.name}") for m in pkgutil.iter_modules(fastnn.ops.__path__)]
    values = [v for m in [*modules, utils] for v in vars(m).values()]
    values += [item for v in values if isinstance(v, dict) for item in v.values()]
    ops = {id(v): v for v in values if isinstance(v, _C.Op)}
    registered = {id(row.op) for row in registration.ROWS}
    replaced = {"dropout", "embedding_renorm_"}  # torch tensors go to ops that take random words, or return a copy
    missing = [
        op.name
        for key, op in ops.items()
        if key not in registered and op.name not in _torch.NATIVE and op.name not in replaced
    ]
    assert not missing, f"add a row to fastnn/torch/table.py for {missing}"


def test_every_row_has_a_sample():
    assert {name for name, _ in SAMPLES} == set(ROWS)


@each_sample
def test_opcheck(name, args):
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(torch_samples.operator(name), args, test_utils=checks)


@pytest.mark.full
@each_sample
def test_opcheck_of_compilation(name, args):
    torch.library.opcheck(torch_samples.operator(name), args, test_utils="test_aot_dispatch_dynamic")


@each_sample
def test_results_and_gradients_are_those_of_torch(name, args):
    """The operator, the Op in eager mode, and the same function of torch's own ops."""
    row = ROWS[name]
    if name == "dropout":
        pytest.skip("random")
    everything = filled(name, args)
    inputs = [x for x in leaves(args) if x.requires_grad]
    results = []
    for call in (torch_samples.operator(name), lambda *a: row.op(*row.to_op(*a)), row.composite):
        outputs = leaves(call(*everything))
        floating = [o for o in outputs if o.requires_grad]
        gradients = []
        if inputs:
            weights = [torch.linspace(0.5, 1.5, o.numel()).reshape(o.shape) for o in floating]
            gradients = torch.autograd.grad(floating, inputs, weights)
        results.append([*outputs, *gradients])
    for got in results[:2]:
        for a, b in zip(got, results[2], strict=True):
            torch.testing.assert_close(a, b, rtol=2e-5, atol=2e-5, check_stride=False)


@each_sample
def test_autocast_does_what_it_does_to_torch(name, args):
    row = ROWS[name]
    if name in ("mse_loss", "l1_loss") and args[2] is not None:
        pytest.skip("torch computes weighted losses from other ops")
    if name == "pad" and args[2] != "constant":
        pytest.skip("torch computes the other modes in float32, which gains nothing")
    for dtype in (torch.float32, torch.bfloat16):
        cast = tuple(as_dtype(x, dtype) for x in filled(name, args))
        if name in ("conv2d", "linear"):
            cast = (*cast[:-1], None)  # torch adds a residual outside of the op
        with torch.autocast("cpu", torch.bfloat16):
            wanted = [x.dtype for x in leaves(row.composite(*cast))]
            assert [x.dtype for x in leaves(torch_samples.operator(name)(*cast))] == wanted
            assert [x.dtype for x in leaves(row.op(*row.to_op(*cast)))] == wanted


@each_sample
def test_layouts_need_no_copy(name, args, monkeypatch):
    """Fake kernels tell the layout that the op gives: results are never copied into it."""
    copies = []
    monkeypatch.setattr(torch.Tensor, "new_empty_strided", lambda *a, **k: copies.append(1))
    torch_samples.operator(name)(*args)
    assert not copies


def test_vmap_and_gradients_of_functions():
    x = torch.randn(4, 3, 5)
    w = torch.randn(2, 5)
    for function, theirs in [
        (F.relu, torch.relu),
        (torch.ops.fastnn.relu, torch.relu),
        (lambda v: F.linear(v, w), lambda v: torch.nn.functional.linear(v, w)),
        (lambda v: F.softmax(v, -1), lambda v: v.softmax(-1)),
    ]:
        torch.testing.assert_close(torch.func.vmap(function)(x), torch.func.vmap(theirs)(x))
        gradient, wanted = (
            torch.func.vmap(torch.func.grad(lambda v, f=f: f(v).square().sum()))(x) for f in (function, theirs)
        )
        torch.testing.assert_close(gradient, wanted)
        torch.testing.assert_close(torch.func.jvp(function, (x,), (x,)), torch.func.jvp(theirs, (x,), (x,)))
        hessian, wanted = (torch.func.hessian(lambda v, f=f: f(v).square().sum())(x[0]) for f in (function, theirs))
        torch.testing.assert_close(hessian, wanted)


def test_forward_mode():
    from torch.autograd import forward_ad

    x = torch.randn(5)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(x, torch.ones(5))
        for f in (F.tanh, torch.ops.fastnn.tanh):
            torch.testing.assert_close(forward_ad.unpack_dual(f(dual)).tangent, 1 - x.tanh() ** 2)


def test_second_derivative_of_the_operator_raises():
    x = torch.randn(3, requires_grad=True)
    (g,) = torch.autograd.grad(torch.ops.fastnn.sigmoid(x).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="sigmoid: .*second derivative"):
        g.sum().backward()


def test_modes_see_the_operators():
    from torch.overrides import TorchFunctionMode
    from torch.utils._python_dispatch import TorchDispatchMode

    class Dispatched(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            seen.append(str(function))
            return function(*args, **(kwargs or {}))

    class Called(TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            seen.append(str(function))
            return function(*args, **(kwargs or {}))

    for mode in (Dispatched, Called):
        seen = []
        with mode():
            F.relu(torch.ones(2))
        assert any("fastnn" in s and "relu" in s for s in seen), (mode, seen)


def test_subclasses_come_back():
    class Mine(torch.Tensor):
        pass

    x = torch.randn(3).as_subclass(Mine)
    y = F.relu(x)
    assert type(y) is Mine and torch.equal(y.as_subclass(torch.Tensor), x.as_subclass(torch.Tensor).relu())


def test_unusual_tensors():
    x = torch.randn(4, 3)
    torch.testing.assert_close(F.relu(torch._neg_view(x)), (-x).relu())
    assert F.relu(x.to("meta")).is_meta and F.relu(x.to("meta")).shape == (4, 3)
    assert torch.equal(F.relu(torch._efficientzerotensor((2,))), torch.zeros(2))
    with pytest.raises((NotImplementedError, RuntimeError)):
        F.relu(x.to_sparse())
    with pytest.raises((NotImplementedError, RuntimeError, TypeError)):
        F.relu(x.to(torch.complex64))


def test_tracing():
    from torch._subclasses import FakeTensorMode
    from torch.fx.experimental.proxy_tensor import make_fx

    x = torch.randn(3, 4)
    graph = make_fx(lambda v: F.softmax(F.relu(v), 1))(x)
    assert [str(n.target) for n in graph.graph.nodes if n.op == "call_function"][0] == "fastnn.relu.default"
    torch.testing.assert_close(graph(x + 1), (x + 1).relu().softmax(1))
    with pytest.warns(DeprecationWarning):
        traced = torch.jit.trace(lambda v: F.relu(v) * 2, x)
    torch.testing.assert_close(traced(x - 1), (x - 1).relu() * 2)
    with FakeTensorMode() as mode:
        out = F.conv2d(mode.from_tensor(torch.randn(2, 3, 8, 8)), torch.empty(4, 3, 3, 3))
        assert out.shape == (2, 4, 6, 6)


# ---- torch.compile and torch.export ----------------------------------------------------------------------------------


def network(x, target, w, v):
    y = F.conv2d(x, w, padding="same", activation="relu")
    y = F.dropout(F.max_pool2d(F.relu(y), 2), 0.5, training=False)
    y = F.leaky_relu(F.linear(y.flatten(1), v), 0.1, inplace=True)
    return F.cross_entropy(y, target) + F.softmax(y, 1).square().sum()


def check_compiled(backend):
    torch.manual_seed(0)
    w, v = torch.randn(4, 3, 3, 3, requires_grad=True), torch.randn(5, 36, requires_grad=True)
    compiled = torch.compile(network, backend=backend, fullgraph=True)
    for batch in (2, 3, 4):  # the second shape makes the first dimension symbolic
        x, target = torch.randn(batch, 3, 6, 6), torch.arange(batch)
        wanted, got = network(x, target, w, v), compiled(x, target, w, v)
        torch.testing.assert_close(got, wanted)
        gradients = [torch.autograd.grad(out, (w, v)) for out in (wanted, got)]
        torch.testing.assert_close(gradients[1], gradients[0])


def test_compile_without_graph_break():
    torch._dynamo.reset()
    check_compiled("aot_eager")


@pytest.mark.full
def test_inductor():
    torch._dynamo.reset()
    check_compiled("inductor")


def test_compiled_dropout_draws_from_torch():
    compiled = torch.compile(lambda x: F.dropout(x, 0.5), backend="aot_eager", fullgraph=True)
    results = []
    for function in (compiled, lambda x: F.dropout(x, 0.5), compiled):
        torch.manual_seed(3)
        results.append(function(torch.ones(64)))
    assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])
    assert 0 < results[0].count_nonzero() < 64 and not torch.equal(results[0], compiled(torch.ones(64)))


@pytest.mark.parametrize("strict", [False, True])
def test_export(strict):
    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.w = torch.nn.Parameter(torch.randn(4, 6))

        def forward(self, x):
            return F.log_softmax(F.linear(x, self.w), -1)

    model, x = Model(), torch.randn(3, 6)
    batch = torch.export.Dim("batch", min=2, max=64)
    exported = torch.export.export(model, (x,), dynamic_shapes={"x": {0: batch}}, strict=strict)
    assert {"fastnn.linear.default", "fastnn.log_softmax.default"} <= {str(n.target) for n in exported.graph.nodes}
    x = torch.randn(7, 6)
    torch.testing.assert_close(exported.module()(x), model(x))


def test_compile_of_a_program_that_never_called_us_before():
    program = (
        "import sys, torch, fastnn.functional as F\n"
        "assert 'fastnn.torch' not in sys.modules and 'torch._dynamo' not in sys.modules\n"
        "f = torch.compile(lambda x: F.relu(x) + 1, backend='eager', fullgraph=True)\n"
        "assert f(torch.tensor([-1.0, 2.0])).tolist() == [1, 3]\n"
    )
    child = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300)
    assert child.returncode == 0, child.stderr


def test_registration_does_not_import_the_compiler():
    program = (
        "import sys, torch\n"
        "import fastnn.functional as F\n"
        "F.relu(torch.ones(2))\n"
        "assert 'fastnn.torch' not in sys.modules\n"
        "import fastnn\n"
        "fastnn.torch, torch.ops.fastnn.relu(torch.ones(2))\n"
        "assert 'torch._dynamo' not in sys.modules\n"
    )
    child = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert child.returncode == 0, child.stderr
