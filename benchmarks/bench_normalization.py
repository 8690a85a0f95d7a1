"""Normalization: transformer widths, ResNet's batch norms in training and inference, a diffusion model's group norm."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from .cases import Arrays, Case, normal
from .functional import Direction, functional

DIRECTIONS: tuple[Direction, ...] = ("fwd", "bwd")
ROWS = ((4096, 768), (4096, 1024), (2048, 4096), (65536, 64))
BATCHES = ((100, 6, 28, 28), (32, 64, 112, 112), (32, 256, 14, 14), (32, 2048, 7, 7), (1024, 512))
GROUPS = (((8, 320, 64, 64), 32), ((8, 1280, 16, 16), 32))
EPS = 1e-5


def _name(op: str, shape: tuple[int, ...]) -> str:
    return f"{op} {'x'.join(map(str, shape))}"


def _jax(jax: Any, x: Any, weight: Any, bias: Any, *, axes: tuple[int, ...], channel: int) -> Any:
    mean, var = x.mean(axes, keepdims=True), x.var(axes, keepdims=True)
    shape = [1] * x.ndim
    shape[channel] = -1
    return (x - mean) * jax.lax.rsqrt(var + EPS) * weight.reshape(shape) + bias.reshape(shape)


def _layer_norm(shape: tuple[int, ...], direction: Direction) -> Case:
    width = shape[-1:]
    return functional(
        "layer_norm",
        _name("layer_norm", shape),
        direction,
        {"input": shape, "weight": width, "bias": width},
        shape,
        kwargs={"normalized_shape": width},
        family="normalization",
        by_name=True,
        onnx=lambda helper: [
            helper.make_node("LayerNormalization", ["input", "weight", "bias"], ["y"], axis=-1, epsilon=EPS)
        ],
        jax=lambda jax, x, weight, bias, normalized_shape: _jax(jax, x, weight, bias, axes=(-1,), channel=-1),
    )


def _rms_norm(shape: tuple[int, ...], direction: Direction) -> Case:
    width = shape[-1:]
    return functional(
        "rms_norm",
        _name("rms_norm", shape),
        direction,
        {"input": shape, "weight": width},
        shape,
        kwargs={"normalized_shape": width, "eps": EPS},
        family="normalization",
        by_name=True,
        jax=lambda jax, x, weight, normalized_shape, eps: (
            x * jax.lax.rsqrt((x * x).mean(-1, keepdims=True) + eps) * weight
        ),
    )


def _batch_norm(shape: tuple[int, ...], direction: Direction) -> Case:
    channels = shape[1:2]
    axes = (0, *range(2, len(shape)))
    return functional(
        "batch_norm",
        _name("batch_norm", shape),
        direction,
        {"input": shape, "weight": channels, "bias": channels},
        shape,
        kwargs={"running_mean": None, "running_var": None, "training": True},
        family="normalization",
        by_name=True,
        layouts=len(shape) == 4,
        jax=lambda jax, x, weight, bias, **_: _jax(jax, x, weight, bias, axes=axes, channel=1),
    )


def _inference_arrays(shapes: dict[str, tuple[int, ...]], rng: np.random.Generator) -> Arrays:
    arrays = normal(**shapes)(rng)
    arrays["running_var"] = np.abs(arrays["running_var"]) + np.float32(0.5)
    return arrays


def _batch_norm_inference(shape: tuple[int, ...]) -> Case:
    statistics = ("running_mean", "running_var")
    shapes = {"input": shape, **dict.fromkeys((*statistics, "weight", "bias"), shape[1:2])}
    return functional(
        "batch_norm",
        f"{_name('batch_norm', shape)} inference",
        "fwd",
        shapes,
        shape,
        family="normalization",
        make=partial(_inference_arrays, shapes),
        constants=(*statistics, "weight", "bias"),
        layouts=True,
        onnx=lambda helper: [
            helper.make_node("BatchNormalization", ["input", "weight", "bias", *statistics], ["y"], epsilon=EPS)
        ],
    )


def _group_norm(shape: tuple[int, ...], groups: int, direction: Direction) -> Case:
    channels = shape[1:2]
    return functional(
        "group_norm",
        _name("group_norm", shape),
        direction,
        {"input": shape, "weight": channels, "bias": channels},
        shape,
        kwargs={"num_groups": groups},
        family="normalization",
        by_name=True,
        layouts=True,
    )


CASES = [_layer_norm(shape, direction) for shape in ROWS for direction in DIRECTIONS]
CASES += [_rms_norm(shape, direction) for shape in ROWS for direction in DIRECTIONS]
CASES += [_batch_norm(shape, direction) for shape in BATCHES for direction in DIRECTIONS]
CASES += [_batch_norm_inference((32, 64, 112, 112))]
CASES += [_group_norm(shape, groups, direction) for shape, groups in GROUPS for direction in DIRECTIONS]
