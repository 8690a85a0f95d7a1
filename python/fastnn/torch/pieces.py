"""Times and compares each call of a folded graph with the calls of torch that it replaces."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import Node
from torch.fx.node import map_arg

from . import functional
from .fold import FoldedForward, Plan
from .measure import Call, compare_times, difference, outputs_of
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
    """Runs the plan for such a call node by node. Empty where there is no plan."""
    plan = fold.plan(call.args, call.kwargs)
    if plan is None:
        return []
    values: dict[Node, Any] = {}
    inputs = iter([*call.tensors(), *plan.tensors()])
    pieces = {piece.node: piece for piece in plan.pieces}
    measured = []
    for node in plan.graph.nodes:
        if node.op == "placeholder":
            values[node] = next(inputs)
        elif node.op == "get_attr":
            values[node] = getattr(plan.values, node.target)
        elif node.op != "output":
            run = _run(plan, node, values)
            if node in pieces:
                measured.append(_measure(plan, pieces[node], run, values, rtol, atol, seconds))
            values[node] = run()
    return measured


def _run(plan: Plan, node: Node, values: dict[Node, Any]) -> Callable[[], Any]:
    args, kwargs = map_arg((node.args, node.kwargs), values.__getitem__)
    if node.op == "call_method":
        return lambda: getattr(args[0], node.target)(*args[1:], **kwargs)
    function = getattr(plan.values, node.target) if node.op == "call_module" else node.target
    return lambda: function(*args, **kwargs)


def _measure(
    plan: Plan,
    piece: Piece,
    ours: Callable[[], Any],
    values: dict[Node, Any],
    rtol: float | None,
    atol: float | None,
    seconds: float,
) -> Measured:
    theirs = _before(plan, piece, values)
    fallbacks = functional.fallbacks.copy()
    error, within = difference(outputs_of(ours()), outputs_of(theirs()), rtol, atol)
    new = functional.fallbacks - fallbacks
    problem = "" if within else f"differs from torch by {error:.1e}"
    if new and not problem:
        problem = f"torch's own function runs: {next(iter(new))[1]}"
    before, after = compare_times(theirs, ours, seconds)
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

    return torch.no_grad()(run) if torch.is_grad_enabled() else run
