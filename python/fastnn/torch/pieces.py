"""Times and compares each call of a folded graph with the calls of torch that it replaces."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.fx import Node
from torch.fx.node import map_arg

from . import functional
from .fold import FoldedForward, Plan
from .measure import Call, compare_times, difference, outputs_of, runner
from .rewrite import Piece

_PREVIOUS = object()


@dataclass
class Measured:
    piece: Piece
    before_us: float
    after_us: float
    error: float
    problem: str


def measure_pieces(
    fold: FoldedForward, call: Call, rtol: float | None, atol: float | None, seconds: float
) -> list[Measured]:
    """Runs the plan for such a call node by node. Empty where there is no plan.

    Unless the plan is for inference, gradients are computed and compared too.
    """
    plan = fold.plan(call.args, call.kwargs)
    if plan is None:
        return []
    values: dict[Node, Any] = {}
    inputs = iter([*call.tensors(), *plan.tensors()])
    pieces = {piece.node: piece for piece in plan.pieces}
    measured = []
    known: dict[Any, Measured] = {}
    with torch.no_grad():
        for node in plan.graph.nodes:
            if node.op == "placeholder":
                values[node] = next(inputs)
            elif node.op == "get_attr":
                values[node] = getattr(plan.values, node.target)
            elif node.op != "output":
                if node in pieces:
                    key = _signature(pieces[node], values)
                    if key not in known:
                        known[key] = _measure(plan, pieces[node], values, not fold.inference, rtol, atol, seconds)
                    measured.append(replace(known[key], piece=pieces[node]))
                values[node] = _run(plan, node, values)()
    return measured


def _signature(piece: Piece, values: dict[Node, Any]) -> Any:
    """Equal for pieces that do the same to inputs of the same layout."""

    def describe(node: Node) -> Any:
        value = values[node]
        if not isinstance(value, torch.Tensor):
            return value if isinstance(value, (int, float, str)) else type(value).__name__
        return str((tuple(value.shape), value.stride(), value.dtype, value.requires_grad))

    functions = tuple(str(call[1]) for call in piece.before)
    return functions, str(map_arg((piece.node.args, piece.node.kwargs), describe))


class _Leaves:
    """The values of nodes as leaves of a graph of their own."""

    def __init__(self, values: dict[Node, Any]) -> None:
        self._values = values
        self._leaves: dict[Node, Any] = {}

    def __getitem__(self, node: Node) -> Any:
        if node not in self._leaves:
            value = self._values[node]
            if isinstance(value, torch.Tensor) and value.is_floating_point():
                needs = value.requires_grad or not isinstance(value, torch.nn.Parameter)
                value = value.detach().requires_grad_(needs)
            self._leaves[node] = value
        return self._leaves[node]

    def made(self) -> list[torch.Tensor]:
        return [value for value in self._leaves.values() if isinstance(value, torch.Tensor)]


def _run(plan: Plan, node: Node, values: dict[Node, Any]) -> Callable[[], Any]:
    args, kwargs = map_arg((node.args, node.kwargs), values.__getitem__)
    if node.op == "call_method":
        return lambda: getattr(args[0], node.target)(*args[1:], **kwargs)
    function = getattr(plan.values, node.target) if node.op == "call_module" else node.target
    return lambda: function(*args, **kwargs)


def _measure(
    plan: Plan,
    piece: Piece,
    values: dict[Node, Any],
    training: bool,
    rtol: float | None,
    atol: float | None,
    seconds: float,
) -> Measured:
    leaves = _Leaves(values) if training else values
    ours, theirs = _run(plan, piece.node, leaves), _before(plan, piece, leaves)
    if training:
        call = Call(tuple(leaves.made()), {})  # what is differentiated; the functions have it already
        ours, theirs = (runner(lambda *_, run=run: run(), call, [], True) for run in (ours, theirs))
    fallbacks = functional.fallbacks.copy()
    with torch.set_grad_enabled(training):
        error, within = difference(outputs_of(ours()), outputs_of(theirs()), rtol, atol)
        before, after = compare_times(theirs, ours, seconds)
    new = functional.fallbacks - fallbacks
    problem = "" if within else f"differs from torch by {error:.1e}"
    if new and not problem:
        problem = f"torch's own function runs: {next(iter(new))[1]}"
    return Measured(piece, before, after, error, problem)


def _before(plan: Plan, piece: Piece, values: dict[Node, Any]) -> Callable[[], Any]:
    """The calls of torch, each on the result of the one before."""
    steps = []
    previous: Node | None = None
    for node, function, args, kwargs in piece.before:

        def value(n: Node, previous: Node | None = previous) -> Any:
            return _PREVIOUS if n is previous else values[plan.rewritten.current(n)]

        steps.append((function, *map_arg((args, kwargs), value)))
        previous = node

    def run() -> Any:
        result = None
        for function, args, kwargs in steps:
            result = function(
                *[result if a is _PREVIOUS else a for a in args],
                **{key: result if a is _PREVIOUS else a for key, a in kwargs.items()},
            )
        return result

    return run
