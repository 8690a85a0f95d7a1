"""Rewrites a graph of torch's functions: fastnn's functions in their place, and neighbours as one call.

The graph comes from torch.fx (fold.py) or from torch.compile (compile.py); parameters are inputs of it. What is fused:
conv2d + batch_norm (with the running statistics, where nothing is differentiated) + residual + activation + max_pool2d,
and linear + residual + activation.
"""

from __future__ import annotations

import inspect
import operator
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch.fx import Graph, Node

from .. import functional as _fastnn
from ..ops._epilogue import EPILOGUES
from . import functional

_torch_F = torch.nn.functional


class Unsupported(Exception):
    """Why a graph stays as it is."""


@dataclass
class Piece:
    """One call of the rewritten graph that fastnn computes.

    modules: names of the modules it stands for (empty strings: functions called in a forward()).
    before: the calls of torch that it replaces, as (node, function, args, kwargs).
    """

    key: str  # of its first call; see _keys
    function: str
    modules: list[str]
    node: Node
    before: list[tuple[Node, Callable[..., Any], Any, Any]]


@dataclass
class Rewritten:
    pieces: list[Piece] = field(default_factory=list)
    alias: dict[Node, Node] = field(default_factory=dict)  # erased node -> the one that has its value
    folded: list[FoldedWeights] = field(default_factory=list)
    modules: dict[str, str] = field(default_factory=dict)  # key of a call -> name of the module that makes it

    def current(self, node: Node) -> Node:
        while node in self.alias:
            node = self.alias[node]
        return node


# ---- torch's names ---------------------------------------------------------------------------------------------------

# Functions of torch and methods of Tensor with the signature of torch.nn.functional's.
_TORCH = ("conv1d", "conv2d", "conv3d", "relu", "sigmoid", "tanh", "matmul", "selu", "celu", "prelu", "rms_norm")
_METHODS = ("relu", "sigmoid", "tanh", "matmul")
_INPLACE = {"relu_": "relu", "sigmoid_": "sigmoid", "tanh_": "tanh"}  # methods and functions of torch alike


@cache
def _functions() -> dict[Any, tuple[str, bool]]:
    """torch's function -> (name in fastnn.functional, whether it works in place)."""
    table: dict[Any, tuple[str, bool]] = {}
    for name in functional.NAMES:
        for space in (_torch_F, torch._C._nn):
            if hasattr(space, name):
                table[getattr(space, name)] = (name, False)
        if name in _TORCH and hasattr(torch, name):
            table[getattr(torch, name)] = (name, False)
    for method, name in _INPLACE.items():
        table[getattr(torch, method)] = (name, True)
    return table


@cache
def _signature(name: str) -> inspect.Signature:
    return inspect.signature(getattr(_fastnn, name))


_ADD = (operator.add, torch.add)
_ADD_INPLACE = (operator.iadd,)
# Calls whose result is new memory.
_PURE = (
    *_ADD,
    operator.mul,
    operator.sub,
    operator.truediv,
    operator.matmul,
    torch.mul,
    torch.sub,
    torch.div,
    torch.cat,
    torch.stack,
    torch.mean,
    torch.sum,
    torch.matmul,
    torch.bmm,
    _torch_F.scaled_dot_product_attention,
    _torch_F.batch_norm,
    _torch_F.layer_norm,
    _torch_F.embedding,
)


class _Call:
    """A node read as a function of fastnn.functional, with its arguments by name."""

    def __init__(self, name: str, arguments: dict[str, Any]) -> None:
        self.name, self.arguments = name, arguments

    def __getitem__(self, key: str) -> Any:
        return self.arguments[key]

    def substitute(self, old: Node, new: Node) -> None:
        self.arguments = {key: new if value is old else value for key, value in self.arguments.items()}


def _read(node: Node) -> tuple[_Call | None, bool]:
    """(the call that a node is, if fastnn has the function; whether it works in place)."""
    if node.op == "call_function":
        name, inplace = _functions().get(node.target, (None, False))
    elif node.op == "call_method":
        name = node.target if node.target in _METHODS else _INPLACE.get(node.target)
        inplace = node.target in _INPLACE
    else:
        return None, False
    if name is None or name not in functional.NAMES:
        return None, False
    try:
        bound = _signature(name).bind(*node.args, **node.kwargs)
    except TypeError:
        return None, False
    bound.apply_defaults()
    arguments = dict(bound.arguments)
    inplace = bool(arguments.get("inplace", False)) or inplace
    if "inplace" in arguments:
        arguments["inplace"] = False
    return _Call(name, arguments), inplace


def _is_add(node: Node) -> bool:
    if node.op == "call_function":
        plain = node.target in _ADD or node.target in _ADD_INPLACE
    else:
        plain = node.op == "call_method" and node.target in ("add", "add_")
    return plain and len(node.args) == 2 and not node.kwargs and all(isinstance(a, Node) for a in node.args)


def _changes_first(node: Node) -> bool:
    if node.op == "call_method":
        return node.target.endswith("_") and not node.target.endswith("__")
    if node.op == "call_function":
        name = getattr(node.target, "__name__", "")
        return node.target in _INPLACE_OPERATORS or (name.endswith("_") and not name.endswith("__"))
    return False


_INPLACE_OPERATORS = (
    operator.iadd,
    operator.isub,
    operator.imul,
    operator.itruediv,
    operator.setitem,
    operator.iand,
    operator.ior,
)

# ---- rewriting -------------------------------------------------------------------------------------------------------


def rewrite(graph: Graph, inference: bool, refused: Iterable[str] = ()) -> Rewritten:
    """Rewrites `graph` in place.

    Args:
        inference: nothing is differentiated: batch norms may be folded into weights.
        refused: keys of calls that stay torch's.

    Raises: Unsupported, with the graph unchanged, for changes in place that fusing could reorder.
    """
    calls = {node: _read(node) for node in graph.nodes}
    order = {node: i for i, node in enumerate(graph.nodes)}
    _check_inplace(order, calls)
    refused = frozenset(refused)
    keys = _keys(calls)
    result = Rewritten(modules={key: str(node.meta.get("module", "")) for node, key in keys.items()})
    kept = {node for node, key in keys.items() if key in refused}
    known = {node: call for node, (call, _) in calls.items() if call is not None and node not in kept}
    for node, call in list(known.items()):
        if call.name == "dropout" and call["training"] is not False:
            del known[node]  # the same random numbers as without rewriting
    _make_out_of_place(graph, order, calls)
    _drop_dropouts(graph, known, result)
    done: set[Node] = set()
    for node in list(graph.nodes):
        if node not in known or node in done:
            continue
        call = known[node]
        chain = _Chain(node, kept)
        if call.name == "conv2d":
            _extend_convolution(chain, known, inference)
        elif call.name == "linear":
            chain.extend(known)
        done.update(chain.nodes)
        _replace(graph, chain, call, known, keys[node], result)
    return result


def _keys(calls: dict[Node, tuple[_Call | None, bool]]) -> dict[Node, str]:
    """Names of calls that stay the same when other parts of the graph change: module, function, which of them."""
    counts: Counter[tuple[str, str]] = Counter()
    keys = {}
    for node, (call, _) in calls.items():
        if node.op.startswith("call"):
            name = call.name if call is not None else str(getattr(node.target, "__name__", node.target))
            module = str(node.meta.get("module", ""))
            keys[node] = f"{module}:{name}:{counts[module, name]}"
            counts[module, name] += 1
    return keys


def _check_inplace(order: dict[Node, int], calls: dict[Node, tuple[_Call | None, bool]]) -> None:
    for node in order:
        call, inplace = calls[node]
        if not (inplace or _changes_first(node)):
            continue
        if _is_counter(node):
            continue
        if not (inplace or _is_add(node)):
            raise Unsupported(f"{getattr(node.target, '__name__', node.target)} changes a tensor in place")
        target = call["input"] if call is not None else node.args[0]
        if not isinstance(target, Node) or not _is_new(target, calls):
            raise Unsupported(f"{node.name} changes an input, a view or a parameter in place")
        for user in target.users:
            if order[user] < order[node] and not _is_new(user, calls):
                raise Unsupported(f"{node.name} changes a tensor in place of which {user.name} may be a view")


def _is_counter(node: Node) -> bool:
    """Whether the node changes an input of the graph that nothing else reads, such as a norm's count of batches."""
    target = node.args[0] if node.args else None
    return (
        isinstance(target, Node)
        and target.op in ("placeholder", "get_attr")
        and all(user is node or user.op == "output" for user in target.users)
        and all(user.op == "output" for user in node.users)
    )


def _is_new(node: Node, calls: dict[Node, tuple[_Call | None, bool]]) -> bool:
    """Whether the node's value is memory of its own."""
    call, _ = calls[node]
    if call is not None:
        return call.name != "dropout"
    return (node.op == "call_function" and node.target in _PURE) or _is_add(node)


def _make_out_of_place(graph: Graph, order: dict[Node, int], calls: dict[Node, tuple[_Call | None, bool]]) -> None:
    """y = f_(x) becomes y = f(x), and whoever reads x later reads y."""
    for node in list(graph.nodes):
        call, inplace = calls[node]
        if inplace and call is not None:
            target = call["input"]
        elif _is_add(node) and _changes_first(node) and not _is_counter(node):
            target = node.args[0]
        else:
            continue
        for user in list(target.users):
            if user is not node and order[user] > order[node]:
                user.replace_input_with(target, node)
                if calls[user][0] is not None:
                    calls[user][0].substitute(target, node)
        if call is None:
            node.op, node.target = "call_function", operator.add


def _drop_dropouts(graph: Graph, known: dict[Node, _Call], result: Rewritten) -> None:
    for node, call in list(known.items()):
        if call.name == "dropout" and call["training"] is False and isinstance(call["input"], Node):
            _alias(graph, node, call["input"], known, result)
            del known[node]


def _alias(graph: Graph, node: Node, value: Node, known: dict[Node, _Call], result: Rewritten) -> None:
    """Erases `node`, whose users take `value`."""
    users = list(node.users)
    node.replace_all_uses_with(value)
    graph.erase_node(node)
    result.alias[node] = value
    for user in users:
        if user in known:
            known[user].substitute(node, value)


class _Chain:
    """Nodes that run as one call, each the only reader of the one before."""

    def __init__(self, head: Node, kept: set[Node]) -> None:
        self.nodes = [head]
        self.kept = kept  # nodes that it may not take
        self.norm: Node | None = None
        self.residual: Node | None = None
        self.activation: str | None = None
        self.pool = False

    @property
    def last(self) -> Node:
        return self.nodes[-1]

    def reader(self) -> Node | None:
        users = list(self.last.users)
        return users[0] if len(users) == 1 and users[0] not in self.kept else None

    def extend(self, known: dict[Node, _Call]) -> None:
        """Takes a residual and an activation."""
        reader = self.reader()
        if reader is not None and _is_add(reader):
            first, second = reader.args
            other = second if first is self.last else first
            if other is not self.last:
                self.nodes.append(reader)
                self.residual = other
                reader = self.reader()
        name = _activation(known.get(reader), self.last) if reader is not None else None
        if name is not None:
            self.nodes.append(reader)
            self.activation = name


def _activation(call: _Call | None, input: Node) -> str | None:
    if call is None or call.arguments.get("input") is not input:
        return None
    if call.name == "gelu":
        return {"none": "gelu", "tanh": "gelu_tanh"}.get(call["approximate"])
    return call.name if call.name in EPILOGUES else None


def _extend_convolution(chain: _Chain, known: dict[Node, _Call], inference: bool) -> None:
    reader = chain.reader()
    norm = reader if inference and reader is not None and _is_frozen_norm(reader, chain.last) else None
    if norm is not None:
        chain.nodes.append(norm)
        chain.norm = norm
    chain.extend(known)
    reader = chain.reader()
    if chain.residual is None and chain.activation in (None, "relu") and reader is not None:
        if _is_pool_2x2(known.get(reader), chain.last):
            chain.nodes.append(reader)
            chain.pool = True
            reader = chain.reader()
            if chain.activation is None and reader is not None:
                if _activation(known.get(reader), chain.last) == "relu":  # relu after the maximum is the same
                    chain.nodes.append(reader)
                    chain.activation = "relu"


_BATCH_NORM = inspect.signature(_torch_F.batch_norm)


def _norm_arguments(node: Node) -> dict[str, Any] | None:
    if node.op != "call_function" or node.target not in (_torch_F.batch_norm, getattr(functional, "batch_norm", None)):
        return None
    bound = _BATCH_NORM.bind(*node.args, **node.kwargs)
    bound.apply_defaults()
    return bound.arguments


def _is_frozen_norm(node: Node, input: Node) -> bool:
    a = _norm_arguments(node)
    return a is not None and a["training"] is False and a["running_mean"] is not None and a["input"] is input


def _is_pool_2x2(call: _Call | None, input: Node) -> bool:
    if call is None or call.name != "max_pool2d" or call["input"] is not input:
        return False
    two, stride = (2, (2, 2), [2, 2]), call["stride"]
    return (
        call["kernel_size"] in two
        and (stride is None or stride in (*two, [], ()))
        and call["padding"] in (0, (0, 0), [0, 0])
        and call["dilation"] in (1, (1, 1), [1, 1])
        and not call["ceil_mode"]
        and not call["return_indices"]
    )


def _replace(graph: Graph, chain: _Chain, call: _Call, known: dict[Node, _Call], key: str, result: Rewritten) -> None:
    before = [(n, *_own(n, known)) for n in chain.nodes]
    with graph.inserting_before(chain.last):
        if len(chain.nodes) == 1:
            new = graph.call_function(getattr(functional, call.name), *_arguments(call))
        else:
            a = call.arguments
            weight, bias = a["weight"], a["bias"]
            if chain.norm is not None:
                folded = FoldedWeights()
                result.folded.append(folded)
                n = _norm_arguments(chain.norm)
                inputs = (weight, bias, n["running_mean"], n["running_var"], n["weight"], n["bias"], n["eps"])
                both = graph.call_function(folded, inputs)
                weight, bias = (graph.call_function(operator.getitem, (both, i)) for i in (0, 1))
            epilogue = {"activation": chain.activation, "residual": chain.residual}
            if call.name == "conv2d":
                geometry = tuple(a[key] for key in ("stride", "padding", "dilation", "groups"))
                epilogue |= {"pool": True} if chain.pool else {}
                new = graph.call_function(functional.conv2d_fused, (a["input"], weight, bias, *geometry), epilogue)
            else:
                new = graph.call_function(functional.linear_fused, (a["input"], weight, bias), epilogue)
    last = chain.last
    new.meta = dict(last.meta)
    modules = [str(n.meta.get("module", "")) for n in chain.nodes]
    _alias(graph, last, new, known, result)
    for n in reversed(chain.nodes[:-1]):
        graph.erase_node(n)
    result.pieces.append(Piece(key, call.name, modules, new, before))


_BY_NAME = ("approximate",)  # what torch's namesake takes by name only


def _arguments(call: _Call) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """(positional, keyword) arguments, without those that have their default."""
    parameters = _signature(call.name).parameters
    args, kwargs, positional = [], {}, True
    for name, value in call.arguments.items():
        parameter = parameters[name]
        if parameter.default is not inspect.Parameter.empty and value is parameter.default:
            positional = False
        elif positional and parameter.kind is not inspect.Parameter.KEYWORD_ONLY and name not in _BY_NAME:
            args.append(value)
        else:
            kwargs[name] = value
    return tuple(args), kwargs


def _own(node: Node, known: dict[Node, _Call]) -> tuple[Callable[..., Any], Any, Any]:
    """(torch's function, args, kwargs) of a node."""
    if node in known:
        return getattr(_torch_F, known[node].name, None) or getattr(torch, known[node].name), *_arguments(known[node])
    function = getattr(torch.Tensor, node.target) if node.op == "call_method" else node.target
    return function, node.args, node.kwargs


# ---- folded weights --------------------------------------------------------------------------------------------------


class FoldedWeights:
    """(weight, bias) of a convolution that does what convolution and batch norm do; made again when an input changes.

    weight' = weight gamma / sqrt(var + eps);   bias' = beta + (bias - mean) gamma / sqrt(var + eps)

    A change is seen by a tensor's version, address and identity; writes through `.data` are not.
    """

    __name__ = "folded_weights"
    __qualname__ = "FoldedWeights"

    def __init__(self) -> None:
        self._tensors: tuple[Any, ...] = ()
        self._state: tuple[Any, ...] = ()
        self._value: tuple[torch.Tensor, torch.Tensor] | None = None

    def refresh(self) -> None:
        self._value = None

    def __call__(self, *inputs: Any) -> tuple[torch.Tensor, torch.Tensor]:
        state = tuple((id(t), _version(t), t.data_ptr()) for t in inputs[:-1] if t is not None)
        if self._value is None or state != self._state:
            self._value = _fold(*inputs)
            self._tensors, self._state = inputs, state  # the tensors, so that no id is used again
        return self._value


def _version(tensor: torch.Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version  # inference tensors have none


@torch.no_grad()
def _fold(weight: Any, bias: Any, mean: Any, var: Any, gamma: Any, beta: Any, eps: float) -> Any:
    scale = torch.rsqrt(var.double() + eps)
    if gamma is not None:
        scale = scale * gamma.double()
    shift = -mean.double() * scale
    if bias is not None:
        shift = shift + bias.double() * scale
    if beta is not None:
        shift = shift + beta.double()
    folded = weight.double() * scale.view(-1, *[1] * (weight.ndim - 1))
    layout = (
        torch.channels_last if weight.ndim == 4 and weight.is_contiguous(memory_format=torch.channels_last) else None
    )
    folded = folded.to(weight.dtype)
    folded = folded.contiguous() if layout is None else folded.contiguous(memory_format=layout)
    return folded, shift.to(weight.dtype)
