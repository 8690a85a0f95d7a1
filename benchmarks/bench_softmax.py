"""softmax and log_softmax: LeNet's logits, attention rows, a vocabulary, and a dimension that is not the last."""

from __future__ import annotations

from typing import Any

from .cases import Case
from .functional import functional

# Shape, dim.
SHAPES = (
    ((100, 10), -1),
    ((4096, 1024), -1),
    ((48, 512, 512), -1),
    ((256, 32000), -1),
    ((8, 21, 256, 256), 1),
)
OPS = {"softmax": "Softmax", "log_softmax": "LogSoftmax"}


def _case(op: str, shape: tuple[int, ...], dim: int, direction: str) -> Case:
    def onnx(helper: Any) -> list[Any]:
        return [helper.make_node(OPS[op], ["input"], ["y"], axis=dim)]

    return functional(
        op,
        f"{op} {'x'.join(map(str, shape))} dim {dim}",
        direction,
        {"input": shape},
        shape,
        kwargs={"dim": dim},
        family="softmax",
        onnx=onnx,
        jax=lambda jax, x, dim: getattr(jax.nn, op)(x, axis=dim),
    )


CASES = [_case(op, shape, dim, direction) for op in OPS for shape, dim in SHAPES for direction in ("fwd", "bwd")]
