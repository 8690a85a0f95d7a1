"""scaled_dot_product_attention: causal and not, as in GPT-2 and BERT, grouped queries, one query of a long cache."""

from __future__ import annotations

from typing import Any

from .cases import Case
from .functional import functional

# Name, shape of query, heads and length of key and value, arguments.
SHAPES: tuple[tuple[str, tuple[int, ...], tuple[int, int], dict[str, Any]], ...] = (
    ("causal 4x12x512x64", (4, 12, 512, 64), (12, 512), {"is_causal": True}),
    ("4x12x128x64", (4, 12, 128, 64), (12, 128), {}),
    ("causal 1x16x1024x128", (1, 16, 1024, 128), (16, 1024), {"is_causal": True}),
    ("grouped causal 1x8x512x64 of 2", (1, 8, 512, 64), (2, 512), {"is_causal": True, "enable_gqa": True}),
    ("one query 1x12x1x64 of 1024", (1, 12, 1, 64), (12, 1024), {}),
    ("one query 1x32x1x128 of 4096", (1, 32, 1, 128), (32, 4096), {}),
)


def _jax(jax: Any, q: Any, k: Any, v: Any, is_causal: bool = False, enable_gqa: bool = False) -> Any:
    q, k, v = (x.swapaxes(1, 2) for x in (q, k, v))
    return jax.nn.dot_product_attention(q, k, v, is_causal=is_causal).swapaxes(1, 2)


def _case(name: str, query: tuple[int, ...], kv: tuple[int, int], kwargs: dict[str, Any], direction: str) -> Case:
    batch, heads, length, width = query
    key = (batch, *kv, width)
    seen = length * (length + 1) // 2 if "is_causal" in kwargs else length * kv[1]
    return functional(
        "scaled_dot_product_attention",
        name,
        direction,
        {"query": query, "key": key, "value": key},
        query,
        kwargs=kwargs,
        family="attention",
        flops=4 * batch * heads * seen * width,
        jax=_jax,
    )


CASES = [_case(*row, direction) for row in SHAPES for direction in ("fwd", "bwd")]
