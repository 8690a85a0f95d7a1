"""cross_entropy with class indices: LeNet's logits, ImageNet's, and vocabularies."""

from __future__ import annotations

from typing import Any

import numpy as np

from .cases import Arrays, Case
from .functional import functional

# Rows, classes.
SHAPES = ((100, 10), (256, 1000), (1024, 32000), (4096, 32000))


def _onnx(helper: Any) -> list[Any]:
    return [helper.make_node("SoftmaxCrossEntropyLoss", ["input", "target"], ["y"], reduction="mean")]


def _jax(jax: Any, x: Any, target: Any) -> Any:
    chosen = jax.numpy.take_along_axis(x, target[:, None], axis=1)[:, 0]
    return (jax.nn.logsumexp(x, axis=1) - chosen).mean()


def _case(rows: int, classes: int, direction: str) -> Case:
    def make(rng: np.random.Generator) -> Arrays:
        logits = rng.standard_normal((rows, classes), dtype=np.float32)
        return {"input": logits, "target": rng.integers(0, classes, rows)}

    return functional(
        "cross_entropy",
        f"{rows}x{classes}",
        direction,
        {"input": (rows, classes), "target": (rows,)},
        (),
        make=make,
        labels=("target",),
        # Loss and gradient can come from one pass over the logits.
        saved=False,
        onnx=_onnx,
        jax=_jax,
    )


CASES = [_case(rows, classes, direction) for rows, classes in SHAPES for direction in ("fwd", "bwd")]
