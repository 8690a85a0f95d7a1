"""Module and what it registers, walks, saves and loads, against torch.nn.Module."""

import copy
import pickle

import fastnn
import numpy as np
import pytest
from fastnn import Module, Parameter

torch = pytest.importorskip("torch")
nn = torch.nn


class Scale(Module):
    """y = x with what it saw noted; needs no kernels."""

    def __init__(self, size=3):
        super().__init__()
        self.weight = Parameter(np.arange(size, dtype=np.float32))
        self.register_parameter("bias", None)
        self.register_buffer("mean", fastnn.tensor(np.zeros(size, np.float32)))
        self.register_buffer("cache", fastnn.tensor(np.ones(1, np.float32)), persistent=False)
        self.register_buffer("none", None)
        self.seen = None

    def forward(self, input, *rest, **options):
        self.seen = (type(input), *map(type, rest), *map(type, options.values()))
        return input


class Net(Module):
    def __init__(self):
        super().__init__()
        self.first = Scale()
        self.pair = fastnn.Sequential(Scale(2), fastnn.Identity())
        self.again = self.first
        self.extra = Parameter(np.ones(2, np.float32))
        self.nothing = None

    def forward(self, input):
        return self.pair(self.first(input))


class TorchScale(nn.Module):
    def __init__(self, size=3):
        super().__init__()
        self.weight = nn.Parameter(torch.arange(size, dtype=torch.float32))
        self.register_parameter("bias", None)
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("cache", torch.ones(1), persistent=False)
        self.register_buffer("none", None)


class TorchNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = TorchScale()
        self.pair = nn.Sequential(TorchScale(2), nn.Identity())
        self.again = self.first
        self.extra = nn.Parameter(torch.ones(2))
        self.nothing = None


# ---- registration and walking


@pytest.mark.parametrize(
    "walk",
    ["named_parameters", "named_buffers", "named_modules", "named_children"],
)
def test_names_are_those_of_torch(walk):
    options = [{}]
    if walk in ("named_parameters", "named_buffers"):
        options = [
            {},
            {"recurse": False},
            {"prefix": "p"},
            {"remove_duplicate": False},
            {"prefix": "p", "recurse": False},
        ]
    elif walk == "named_modules":
        options = [{}, {"prefix": "p"}, {"remove_duplicate": False}]
    for o in options:
        ours, theirs = getattr(Net(), walk)(**o), getattr(TorchNet(), walk)(**o)
        assert [name for name, _ in ours] == [name for name, _ in theirs], o


def test_state_dict_keys_are_those_of_torch():
    for o in ({}, {"prefix": "p."}, {"prefix": "q"}):
        assert list(Net().state_dict(**o)) == list(TorchNet().state_dict(**o))


def test_walks_give_the_objects():
    net = Net()
    assert [id(p) for p in net.parameters()] == [id(p) for _, p in net.named_parameters()]
    assert [id(b) for b in net.buffers()] == [id(b) for _, b in net.named_buffers()]
    assert list(net.children()) == [net.first, net.pair]
    assert list(net.modules()) == [net, net.first, net.pair, net.pair[0], net.pair[1]]
    assert net.get_submodule("pair.0") is net.pair[0]
    assert net.get_submodule("") is net
    for bad in ("pair.7", "extra", "first.weight", "nothing"):
        with pytest.raises(AttributeError, match=bad):
            net.get_submodule(bad)


def test_assignment_registers_and_reregisters():
    m = Module()
    m.a = Parameter(np.ones(2, np.float32))
    m.b = Module()
    m.b = Parameter(np.ones(3, np.float32))
    m.c = 3
    m.c = Module()
    assert [n for n, _ in m.named_parameters()] == ["a", "b"]
    assert [n for n, _ in m.named_children()] == ["c"]
    m.a = None
    assert [n for n, _ in m.named_parameters()] == ["b"] and m.a is None
    m.a = Parameter(np.ones(2, np.float32))
    assert [n for n, _ in m.named_parameters()] == ["a", "b"]
    del m.a
    assert [n for n, _ in m.named_parameters()] == ["b"]
    with pytest.raises(AttributeError):
        m.a  # noqa: B018
    with pytest.raises(AttributeError):
        del m.a
    m.plain = fastnn.tensor(np.ones(2, np.float32))
    assert not list(m.buffers())


@pytest.mark.parametrize(
    "change, error, words",
    [
        (lambda m: setattr(m, "weight", 3), TypeError, "weight is a registered Parameter; got int"),
        (lambda m: setattr(m, "weight", fastnn.tensor(np.ones(2))), TypeError, "expected a Parameter or None"),
        (lambda m: setattr(m, "mean", np.ones(2)), TypeError, "expected a Tensor or None"),
        (lambda m: m.register_buffer("weight", None), KeyError, "already"),
        (lambda m: m.register_buffer("x", np.ones(2)), TypeError, "expected a fastnn.Tensor or None"),
        (lambda m: m.register_buffer("x.y", None), KeyError, "has a dot"),
        (lambda m: m.register_buffer("", None), KeyError, "empty"),
        (lambda m: m.register_buffer(3, None), TypeError, "expected str"),
        (lambda m: m.register_parameter("x", fastnn.tensor(np.ones(2))), TypeError, "expected a fastnn.Parameter"),
        (lambda m: m.register_parameter("forward", None), KeyError, "already"),
        (lambda m: m.add_module("x", 3), TypeError, "expected a fastnn.Module"),
        (lambda m: m.add_module("training", Module()), KeyError, "already"),
        (lambda m: m.train("yes"), ValueError, "mode is 'yes'"),
        (lambda m: m.to("cuda:99"), RuntimeError, "cuda:99"),
        (lambda m: m.to(np.int64), NotImplementedError, "int64"),
        (lambda m: Module()(3), NotImplementedError, "no forward"),
        (lambda m: fastnn.ModuleList()(3), NotImplementedError, "ModuleList has no forward"),
    ],
)
def test_errors(change, error, words):
    with pytest.raises(error, match=words):
        change(Scale())


def test_forgotten_init():
    class Bad(Module):
        def __init__(self):
            self.weight = Parameter(np.ones(2, np.float32))

    with pytest.raises(AttributeError, match="call super"):
        Bad()


def test_modes_and_apply():
    net = Net()
    assert net.training
    assert net.eval() is net and not any(m.training for m in net.modules())
    assert net.train() is net and all(m.training for m in net.modules())
    order = []
    assert net.apply(order.append) is net
    assert order == [net.first, net.pair[0], net.pair[1], net.pair, net]
    assert net.requires_grad_(False) is net and not any(p.requires_grad for p in net.parameters())
    net.requires_grad_()
    for p in net.parameters():
        p.grad = fastnn.tensor(np.ones(p.shape, np.float32))
    grads = [p.grad for p in net.parameters()]
    net.zero_grad(set_to_none=False)
    assert all(p.grad is g and not g.numpy().any() for p, g in zip(net.parameters(), grads, strict=True))
    net.zero_grad()
    assert all(p.grad is None for p in net.parameters())


# ---- the call


def test_numpy_becomes_tensors_once():
    net = Net()
    x = np.ones((2, 3), np.float32)
    y = net(x)
    assert isinstance(y, np.ndarray) and np.shares_memory(x, y)
    assert net.first.seen == net.pair[0].seen == (fastnn.Tensor,)
    m = Scale()
    assert isinstance(m(x, np.array([1, 2]), key=np.ones(2)), np.ndarray)
    assert m.seen == (fastnn.Tensor,) * 3
    t = fastnn.from_numpy(x)
    assert m(t) is t
    assert m(t, np.array([1, 2])) is t and m.seen == (fastnn.Tensor,) * 2
    assert m(3) == 3
    with pytest.raises(NotImplementedError, match="complex64"):
        m(np.ones(2, np.complex64))


def test_outputs_become_numpy_unless_they_require_a_gradient():
    class Several(Module):
        def forward(self, x, w):
            return x, {"w": w}, [x, "text"], None

    m = Several()
    w = np.ones(2, np.float32)
    x, d, items, nothing = m(w, w)
    assert all(isinstance(a, np.ndarray) for a in (x, d["w"], items[0])) and items[1] == "text" and nothing is None
    p = Parameter(w)
    x, d, items, _ = m(w, p)
    assert isinstance(x, np.ndarray) and d["w"] is p


def test_hooks():
    m, calls = Scale(), []

    def note(name, result=None):
        def hook(*args):
            calls.append((name, args[1:]))
            return result

        return hook

    handles = [
        m.register_forward_pre_hook(note("pre")),
        m.register_forward_pre_hook(note("first"), prepend=True),
        m.register_forward_pre_hook(note("kwargs", ((5,), {})), with_kwargs=True),
        m.register_forward_hook(note("post")),
        m.register_forward_hook(note("change", 7), with_kwargs=True),
    ]
    assert m(1, key=2) == 7
    assert calls == [
        ("first", ((1,),)),
        ("pre", ((1,),)),
        ("kwargs", ((1,), {"key": 2})),
        ("post", ((5,), 5)),
        ("change", ((5,), {}, 5)),
    ]
    for handle in handles:
        handle.remove()
        handle.remove()
    assert m(1) == 1 and len(calls) == 5
    with m.register_forward_pre_hook(lambda module, args: 9):
        assert m(1) == 9
    assert m(1) == 1


# ---- state


def as_kind(array, kind):
    if kind == "torch":
        return torch.from_numpy(array.copy())
    if kind == "parameter":
        return nn.Parameter(torch.from_numpy(array.copy()))
    return {"numpy": np.array, "tensor": fastnn.tensor}[kind](array)


@pytest.mark.parametrize("kind", ["numpy", "tensor", "torch", "parameter"])
def test_load_state_dict(kind):
    net = Net()
    parameters, versions = list(net.parameters()), [p._version for p in net.parameters()]
    values = {
        k: np.asarray(np.random.default_rng(1).standard_normal(v.shape), v.dtype) for k, v in net.state_dict().items()
    }
    values["again.weight"], values["again.mean"] = values["first.weight"], values["first.mean"]
    result = net.load_state_dict({k: as_kind(v, kind) for k, v in values.items()})
    assert result.missing_keys == result.unexpected_keys == []
    for k, v in net.state_dict().items():
        np.testing.assert_array_equal(v.numpy(), values[k])
    assert all(p is q for p, q in zip(net.parameters(), parameters, strict=True))
    assert all(p._version > v for p, v in zip(parameters, versions, strict=True))


def test_state_dict_shares_memory_and_carries_no_gradient():
    net = Net()
    state = net.state_dict()
    assert type(state["extra"]) is fastnn.Tensor and not state["extra"].requires_grad
    state["extra"].numpy()[0] = 5
    assert net.extra.detach().numpy()[0] == 5
    assert net.state_dict(keep_vars=True)["extra"] is net.extra
    assert net.state_dict(destination={"x": 1})["x"] == 1


def test_load_state_dict_is_strict_and_writes_nothing_on_errors():
    net = Net()
    state = {k: v.numpy() + 1 for k, v in net.state_dict().items()}
    before = {k: v.numpy().copy() for k, v in net.state_dict().items()}
    del state["pair.0.mean"]
    state["odd"] = np.ones(2)
    state["first.weight"] = np.ones((3, 1), np.float32)
    with pytest.raises(ValueError) as error:
        net.load_state_dict(state)
    text = str(error.value)
    assert "unexpected keys: 'odd'" in text and "missing keys: 'pair.0.mean'" in text
    assert "size mismatch for 'first.weight': got shape (3, 1), expected (3,)" in text
    with pytest.raises(ValueError, match="size mismatch"):
        net.load_state_dict(state, strict=False)
    for k, v in net.state_dict().items():
        np.testing.assert_array_equal(v.numpy(), before[k])
    del state["first.weight"]
    result = net.load_state_dict(state, strict=False)
    assert result == (["first.weight", "pair.0.mean"], ["odd"])
    np.testing.assert_array_equal(net.extra.detach().numpy(), before["extra"] + 1)
    with pytest.raises(TypeError, match="'extra' is a list"):
        net.load_state_dict({"extra": [1, 2]}, strict=False)
    with pytest.raises(TypeError, match="state_dict is a list"):
        net.load_state_dict([1])


def test_load_converts_dtype():
    m = fastnn.Linear(3, 2).bfloat16()
    m.load_state_dict({"weight": np.full((2, 3), 1.003, np.float64), "bias": torch.ones(2, dtype=torch.float16)})
    assert m.weight.dtype.name == "bfloat16" and float(m.weight.detach().numpy()[0, 0]) == 1.0
    n = fastnn.Linear(3, 2)
    n.load_state_dict({k: torch.ones(v.shape, dtype=torch.bfloat16) for k, v in n.state_dict().items()})
    np.testing.assert_array_equal(n.weight.detach().numpy(), np.ones((2, 3), np.float32))


@pytest.mark.parametrize("copier", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies(copier):
    net = Net()
    net.extra.requires_grad = False
    net.eval()
    net.first.seen = 3
    other = copier(net)
    assert other.again is other.first and other.first.seen == 3 and not other.training
    assert type(other.extra) is Parameter and not other.extra.requires_grad and other.first.weight.requires_grad
    for (a, x), (b, y) in zip(net.state_dict().items(), other.state_dict().items(), strict=True):
        assert a == b and not np.shares_memory(x.numpy(), y.numpy())
        np.testing.assert_array_equal(x.numpy(), y.numpy())
    other.first.weight = None
    assert net.first.weight is not None


def test_deepcopy_keeps_gradients_and_layout():
    last = fastnn.from_numpy(np.zeros((2, 4, 4, 3), np.float32).transpose(0, 3, 1, 2))
    p = Parameter(last)
    p.grad = fastnn.tensor(np.ones(p.shape, np.float32))
    q = copy.deepcopy(p)
    assert q.strides == p.strides and q.grad is not p.grad
    np.testing.assert_array_equal(q.grad.numpy(), p.grad.numpy())


def test_conversion():
    net = Net()
    net.register_buffer("steps", fastnn.tensor(np.array(3)))
    assert net.to("cpu") is net and net.to(np.float32).extra.dtype == np.float32
    assert net.bfloat16() is net
    assert {p.dtype.name for p in net.parameters()} == {"bfloat16"}
    assert net.first.mean.dtype.name == "bfloat16" and net.steps.dtype == np.int64
    assert net.again.weight is net.first.weight and isinstance(net.extra, Parameter) and net.extra.requires_grad
    shared = fastnn.Linear(2, 2)
    shared.other = shared.weight
    assert shared.double().other is shared.weight and shared.weight.dtype == np.float64
    assert net.half().extra.dtype == np.float16
    assert net.float().extra.dtype == np.float32
    assert net.to("cpu", np.float64).extra.dtype == net.to(dtype="float64").extra.dtype == np.float64


def test_parameter():
    array = np.ones(3, np.float32)
    p = Parameter(array)
    assert p.requires_grad and p.is_leaf and not np.shares_memory(p.detach().numpy(), array)
    t = fastnn.from_numpy(array)
    assert np.shares_memory(Parameter(t).detach().numpy(), array)
    assert Parameter().shape == (0,)
    assert not Parameter(np.ones(2, np.int64), requires_grad=False).requires_grad
    with pytest.raises(ValueError, match="floating"):
        Parameter(np.ones(2, np.int64))
    assert repr(p).startswith("Parameter containing:")


# ---- containers


def test_containers():
    layers = [Scale(i + 1) for i in range(5)]
    s = fastnn.Sequential(*layers)
    assert list(s) == layers and len(s) == 5 and s[-1] is layers[4] and s[1] is layers[1]
    assert list(s[1:3]) == layers[1:3] and list(s[1:3].state_dict())[0] == "1.weight"
    del s[1]
    assert list(s) == [layers[0], *layers[2:]] and [n for n, _ in s.named_children()] == ["0", "1", "2", "3"]
    s.insert(1, layers[1])
    assert list(s) == layers
    s[2] = extra = Scale(9)
    assert s[2] is extra and list(s.named_children())[2] == ("2", extra)
    del s[1:3]
    assert list(s) == [layers[0], *layers[3:]]
    assert s.append(layers[1]) is s and s.extend(layers[1:2])[4] is layers[1]
    named = fastnn.Sequential({"a": layers[0], "b": layers[1]})
    assert list(named.state_dict()) == ["a.weight", "a.mean", "b.weight", "b.mean"] and named.a is layers[0]
    x = fastnn.tensor(np.ones(1, np.float32))
    assert fastnn.Sequential()(x) is x and named(x) is x

    m = fastnn.ModuleList(layers[:2])
    assert list(m[:1]) == layers[:1] and isinstance(m[:1], fastnn.ModuleList)

    d = fastnn.ModuleDict({"a": layers[0]})
    d["b"] = layers[1]
    d.update([("a", layers[2])])
    assert list(d) == list(d.keys()) == ["a", "b"] and d.values() == [layers[2], layers[1]] and "a" in d and len(d) == 2
    assert d.pop("a") is layers[2] and d.items() == [("b", layers[1])]
    d.clear()
    assert not list(d.modules())[1:]


def test_flatten_and_unflatten():
    x = np.arange(2 * 3 * 4, dtype=np.float32).reshape(2, 3, 4)
    np.testing.assert_array_equal(fastnn.Flatten()(x), x.reshape(2, 12))
    np.testing.assert_array_equal(fastnn.Flatten(0, 1)(x), x.reshape(6, 4))
    np.testing.assert_array_equal(fastnn.Flatten(0)(np.float32(3) * np.ones((), np.float32)), [3])
    np.testing.assert_array_equal(fastnn.Unflatten(-1, (2, -1))(x), x.reshape(2, 3, 2, 2))
    assert fastnn.Flatten()(np.zeros((0, 3, 4), np.float32)).shape == (0, 12)
    for bad, error in (
        (fastnn.Flatten(3), IndexError),
        (fastnn.Flatten(2, 1), ValueError),
        (fastnn.Unflatten(1, (2, -1)), ValueError),
        (fastnn.Unflatten(1, (-1, -1)), ValueError),
    ):
        with pytest.raises(error, match="Flatten|Unflatten"):
            bad(x)
