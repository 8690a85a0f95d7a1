"""torch.compile and torch.export: the tracer sees an Op as its operator in torch.ops.fastnn, without a graph break."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch

from .. import _C
from ..ops import _torch, arithmetic, shape, softmax
from . import registration


def _ops() -> Iterator[_C.Op]:
    yield from {id(row.op): row.op for row in registration.ROWS}.values()
    for module in (shape, softmax, arithmetic):
        for value in vars(module).values():
            if isinstance(value, _C.Op) and value.name in _torch.NATIVE:
                yield value


def _substitute(op: _C.Op) -> Callable[..., Any]:
    """What the tracer runs in place of op: Op.traced."""
    native = _torch.NATIVE.get(op.name)
    if native is not None:
        return lambda *args: native(*args)
    rows = registration.rows(op)
    row, operator = rows[0]
    if len(rows) == 1:
        from_op = row.from_op
        return lambda *args: operator(*from_op(*args))
    overloads = [(row.kinds, operator) for row, operator in rows]

    def choose(*args: Any) -> Any:  # as Row.fits
        for kinds, operator in overloads:
            fits = True
            for kind, arg in zip(kinds, args, strict=True):
                if arg is not None and isinstance(arg, torch.Tensor) != (kind == "Tensor"):
                    fits = False
            if fits:
                return operator(*args)
        raise TypeError("no overload for these arguments")

    return choose


def _call(self: _C.Op, *args: Any) -> Any:
    return self.traced(*args)


def register() -> None:
    """Called once, when torch._dynamo has been imported."""
    for op in _ops():
        op.traced = _substitute(op)
    torch.compiler.substitute_in_graph(_C.Op.__call__, skip_signature_check=True)(_call)
