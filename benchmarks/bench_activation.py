"""Activations: the common ones in cache and in memory, every other one in memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .cases import Arrays, Case
from .functional import functional

CACHED = (100, 6, 28, 28)  # LeNet's first layer, 1.9 MB
LARGE = (32, 64, 112, 112)  # ResNet's first layer, 103 MB
TRANSFORMER = (4096, 3072)  # 50 MB


def _node(op_type: str, **attributes: Any) -> Callable[[Any], list[Any]]:
    return lambda helper: [helper.make_node(op_type, ["input"], ["y"], **attributes)]


def _silu_onnx(helper: Any) -> list[Any]:
    return [helper.make_node("Sigmoid", ["input"], ["s"]), helper.make_node("Mul", ["input", "s"], ["y"])]


def _hardtanh_onnx(helper: Any) -> list[Any]:
    constants = [
        helper.make_node("Constant", [], [name], value_float=value) for name, value in (("low", -1.0), ("high", 1.0))
    ]
    return [*constants, helper.make_node("Clip", ["input", "low", "high"], ["y"])]


# Function, arguments, shapes, ONNX nodes, the same in jax.nn.
TABLE: tuple[tuple[str, dict[str, Any], tuple[tuple[int, ...], ...], Any, Any], ...] = (
    ("relu", {}, (CACHED, LARGE), _node("Relu"), lambda jax, x: jax.nn.relu(x)),
    ("gelu", {}, (CACHED, TRANSFORMER), _node("Gelu"), lambda jax, x: jax.nn.gelu(x, approximate=False)),
    (
        "gelu",
        {"approximate": "tanh"},
        (TRANSFORMER,),
        _node("Gelu", approximate="tanh"),
        lambda jax, x, approximate: jax.nn.gelu(x, approximate=True),
    ),
    ("silu", {}, (CACHED, TRANSFORMER), _silu_onnx, lambda jax, x: jax.nn.silu(x)),
    ("sigmoid", {}, (CACHED, LARGE), _node("Sigmoid"), lambda jax, x: jax.nn.sigmoid(x)),
    ("tanh", {}, (CACHED, LARGE), _node("Tanh"), lambda jax, x: jax.numpy.tanh(x)),
    ("leaky_relu", {}, (LARGE,), _node("LeakyRelu"), lambda jax, x: jax.nn.leaky_relu(x)),
    ("relu6", {}, (LARGE,), None, lambda jax, x: jax.nn.relu6(x)),
    ("elu", {}, (LARGE,), _node("Elu"), lambda jax, x: jax.nn.elu(x)),
    ("mish", {}, (TRANSFORMER,), _node("Mish"), lambda jax, x: jax.nn.mish(x)),
    ("hardswish", {}, (LARGE,), _node("HardSwish"), lambda jax, x: jax.nn.hard_swish(x)),
    ("hardsigmoid", {}, (LARGE,), _node("HardSigmoid", alpha=1 / 6), lambda jax, x: jax.nn.hard_sigmoid(x)),
    ("hardtanh", {}, (LARGE,), _hardtanh_onnx, lambda jax, x: jax.nn.hard_tanh(x)),
    ("softplus", {}, (TRANSFORMER,), _node("Softplus"), lambda jax, x: jax.nn.softplus(x)),
    ("softsign", {}, (LARGE,), _node("Softsign"), lambda jax, x: jax.nn.soft_sign(x)),
)


def away_from_kinks(shape: tuple[int, ...]) -> Callable[[np.random.Generator], Arrays]:
    """Normal values, moved off the points where some activation has no derivative (and bfloat16 often lands)."""

    def make(rng: np.random.Generator) -> Arrays:
        x = rng.standard_normal(shape, dtype=np.float32)
        for kink in (-3, -1, 0, 1, 3, 6):
            x[np.abs(x - kink) < 0.03] = kink + 0.04
        return {"input": x}

    return make


def _case(op: str, kwargs: dict[str, Any], shape: tuple[int, ...], onnx: Any, jax: Any, direction: str) -> Case:
    name = " ".join([op, *kwargs.values(), "x".join(map(str, shape))])
    return functional(
        op,
        name,
        direction,
        {"input": shape},
        shape,
        kwargs=kwargs,
        family="activation",
        make=away_from_kinks(shape),
        onnx=onnx,
        jax=jax,
    )


CASES = [
    _case(op, kwargs, shape, onnx, jax, direction)
    for op, kwargs, shapes, onnx, jax in TABLE
    for shape in shapes
    for direction in ("fwd", "bwd")
]
