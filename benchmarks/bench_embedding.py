"""embedding: tokens of GPT-2 and of a small vocabulary. A dense gradient has the size of the table."""

from __future__ import annotations

from typing import Any

import numpy as np

from .cases import Arrays, Case
from .functional import functional

# Rows of the table, its width, indices.
SHAPES = ((50257, 768, (8, 1024)), (1000, 64, (64, 128)), (100, 16, (32,)))


def _onnx(helper: Any) -> list[Any]:
    return [helper.make_node("Gather", ["weight", "input"], ["y"], axis=0)]


def _case(rows: int, width: int, shape: tuple[int, ...], direction: str) -> Case:
    def make(rng: np.random.Generator) -> Arrays:
        return {
            "input": rng.integers(0, rows, shape),
            "weight": rng.standard_normal((rows, width), dtype=np.float32),
        }

    return functional(
        "embedding",
        f"{rows}x{width}, {'x'.join(map(str, shape))} indices",
        direction,
        {"input": shape, "weight": (rows, width)},
        (*shape, width),
        make=make,
        labels=("input",),
        saved=False,
        onnx=_onnx,
        jax=lambda jax, index, weight: weight[index],
    )


CASES = [_case(*row, direction) for row in SHAPES for direction in ("fwd", "bwd")]
