"""matmul and linear: square products, LeNet's, BERT-base's and GPT-2's layers, single rows, batches."""

from __future__ import annotations

from math import prod
from typing import Any

from .cases import Case
from .functional import functional

# Shapes of the two operands.
MATMUL = (
    ("64", (64, 64), (64, 64)),
    ("128", (128, 128), (128, 128)),
    ("256", (256, 256), (256, 256)),
    ("512", (512, 512), (512, 512)),
    ("1024", (1024, 1024), (1024, 1024)),
    ("2048", (2048, 2048), (2048, 2048)),
    ("997", (997, 997), (997, 997)),
    ("1001", (1001, 1001), (1001, 1001)),
    ("1x4096x4096", (1, 4096), (4096, 4096)),
    ("128x4096x1024", (128, 4096), (4096, 1024)),
    ("33x65x129", (33, 65), (65, 129)),
    ("48 x 128x64x128", (48, 128, 64), (48, 64, 128)),
)
# Rows, in_features, out_features.
LINEAR = (
    ("lenet 100x400x120", 100, 400, 120),
    ("lenet 100x120x84", 100, 120, 84),
    ("lenet 100x84x10", 100, 84, 10),
    ("lenet 1x400x120", 1, 400, 120),
    ("1x4096x4096", 1, 4096, 4096),
    ("4x4096x4096", 4, 4096, 4096),
    ("8x768x768", 8, 768, 768),
    ("16x768x3072", 16, 768, 3072),
    ("128x1024x4096", 128, 1024, 4096),
    ("128x4096x1024", 128, 4096, 1024),
    ("2048x768x768", 2048, 768, 768),
    # BERT-base: query, key, value and output; the two of the feed-forward. GPT-2: query, key and value at once; logits.
    *(
        (f"{name} {rows}x{inputs}x{outputs}", rows, inputs, outputs)
        for name, inputs, outputs in (
            ("bert", 768, 768),
            ("bert", 768, 3072),
            ("bert", 3072, 768),
            ("gpt2", 768, 2304),
            ("gpt2", 768, 50257),
        )
        for rows in (1, 128, 1024)
        if (rows, outputs) != (1024, 50257)  # 200 MB of logits
    ),
)


def _matmul_onnx(helper: Any) -> list[Any]:
    return [helper.make_node("MatMul", ["input", "other"], ["y"])]


def _linear_onnx(helper: Any) -> list[Any]:
    return [helper.make_node("Gemm", ["input", "weight", "bias"], ["y"], transB=1)]


def _matmul(name: str, left: tuple[int, ...], right: tuple[int, ...], direction: str) -> Case:
    out = (*left[:-1], right[-1])
    return functional(
        "matmul",
        name,
        direction,
        {"input": left, "other": right},
        out,
        flops=2 * prod(out) * left[-1],
        onnx=_matmul_onnx,
        jax=lambda jax, a, b: a @ b,
    )


def _linear(name: str, rows: int, inputs: int, outputs: int, direction: str) -> Case:
    return functional(
        "linear",
        name,
        direction,
        {"input": (rows, inputs), "weight": (outputs, inputs), "bias": (outputs,)},
        (rows, outputs),
        flops=2 * rows * inputs * outputs,
        onnx=_linear_onnx,
        jax=lambda jax, x, w, b: x @ w.T + b,
    )


CASES = [
    *(_matmul(*row, direction) for row in MATMUL for direction in ("fwd", "bwd")),
    *(_linear(*row, direction) for row in LINEAR for direction in ("fwd", "bwd")),
]
