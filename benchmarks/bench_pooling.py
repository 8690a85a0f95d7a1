"""Pooling: LeNet's 2x2, ResNet's 3x3 stride 2, averages, and the global average."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

from .cases import Case
from .functional import functional


class Shape(NamedTuple):
    name: str
    op: str
    input: tuple[int, int, int, int]
    kernel: int
    stride: int
    padding: int = 0


SHAPES = (
    Shape("max 2x2 lenet 28", "max_pool2d", (100, 6, 28, 28), 2, 2),
    Shape("max 2x2 lenet 10", "max_pool2d", (100, 16, 10, 10), 2, 2),
    Shape("max 3x3/2 64 112", "max_pool2d", (32, 64, 112, 112), 3, 2, 1),
    Shape("max 2x2 64 112", "max_pool2d", (32, 64, 112, 112), 2, 2),
    Shape("avg 2x2 lenet 28", "avg_pool2d", (100, 6, 28, 28), 2, 2),
    Shape("avg 2x2 64 112", "avg_pool2d", (32, 64, 112, 112), 2, 2),
    Shape("avg 7x7 2048 7", "avg_pool2d", (32, 2048, 7, 7), 7, 7),
)


def _onnx(helper: Any, s: Shape) -> list[Any]:
    attributes = {"kernel_shape": [s.kernel] * 2, "strides": [s.stride] * 2, "pads": [s.padding] * 4}
    kind = "MaxPool" if s.op == "max_pool2d" else "AveragePool"
    return [helper.make_node(kind, ["input"], ["y"], **attributes)]


def _jax(jax: Any, x: Any, *, op: str, kernel_size: int, stride: int, padding: int) -> Any:
    window = (1, 1, kernel_size, kernel_size), (1, 1, stride, stride), [(0, 0)] * 2 + [(padding, padding)] * 2
    if op == "max_pool2d":
        return jax.lax.reduce_window(x, -jax.numpy.inf, jax.lax.max, *window)
    return jax.lax.reduce_window(x, 0.0, jax.lax.add, *window) / kernel_size**2


def _case(s: Shape, direction: str) -> Case:
    n, channels, size, _ = s.input
    out_size = (size + 2 * s.padding - s.kernel) // s.stride + 1
    return functional(
        s.op,
        s.name,
        direction,
        {"input": s.input},
        (n, channels, out_size, out_size),
        kwargs={"kernel_size": s.kernel, "stride": s.stride, "padding": s.padding},
        family="pooling",
        saved=s.op == "max_pool2d",
        layouts=True,
        onnx=partial(_onnx, s=s),
        jax=partial(_jax, op=s.op),
    )


CASES = [_case(shape, direction) for shape in SHAPES for direction in ("fwd", "bwd")]
