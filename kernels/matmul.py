"""Matrix products with bias, residual and activation on the result while it is in registers."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from ._compile import Variant
from ._functors import EPILOGUES, activate
from ._launch import autotuned, cdiv, check_shape, check_tensors, next_power_of_2, on_device, wrap_triton
from .reduction import sum_rows


@dataclass(frozen=True)
class MatmulConfig:
    """A tile of the result, the depth of a step, how many rows of tiles are neighbours in time, and the launch."""

    block_m: int
    block_n: int
    block_k: int
    warps: int
    stages: int
    group: int = 8

    def keywords(self) -> dict[str, int]:
        return {
            **{"BLOCK_M": self.block_m, "BLOCK_N": self.block_n, "BLOCK_K": self.block_k, "GROUP": self.group},
            **{"num_warps": self.warps, "num_stages": self.stages},
        }


# Tried in turns on the first call of a shape; the first is for large products on sm_90: 64 KiB of operands per step and
# stage feed two warp groups of wgmma. None was measured yet.
CONFIGS = (
    MatmulConfig(128, 256, 64, 8, 4),
    MatmulConfig(256, 128, 64, 8, 4),
    MatmulConfig(128, 128, 64, 8, 4),
    MatmulConfig(128, 128, 32, 4, 4),
    MatmulConfig(128, 64, 64, 4, 4),
    MatmulConfig(64, 128, 64, 4, 4),
    MatmulConfig(64, 64, 64, 4, 5),
    MatmulConfig(64, 32, 128, 4, 4),
)
# float32: twice the bytes of an operand. "ieee" products run on the float units, which want small tiles.
CONFIGS_FLOAT32 = (
    MatmulConfig(128, 128, 32, 8, 4),
    MatmulConfig(128, 64, 32, 4, 4),
    MatmulConfig(64, 64, 32, 4, 4),
    MatmulConfig(64, 32, 32, 4, 3),
)
CONFIGS_IEEE = (
    MatmulConfig(64, 64, 16, 4, 3),
    MatmulConfig(64, 32, 32, 4, 3),
    MatmulConfig(32, 32, 32, 4, 3),
)

# ---- kernels ---------------------------------------------------------------------------------------------------------


@triton.jit
def _place(tile, M, N, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, GROUP: tl.constexpr):
    """(row, column) of a tile: GROUP rows of tiles go together, so that their operands are in L2 at the same time."""
    rows = tl.cdiv(M, BLOCK_M)
    in_group = GROUP * tl.cdiv(N, BLOCK_N)
    first = tile // in_group * GROUP
    size = tl.minimum(rows - first, GROUP)
    return first + tile % in_group % size, tile % in_group // size


@triton.jit
def _tile(
    a, b, c, bias, residual, m0, n0, M, N, k_first, k_last, a_m, a_k, b_k, b_n, c_m, c_n, r_m, r_n,
    ACTIVATION: tl.constexpr, BIAS: tl.constexpr, RESIDUAL: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, EVEN_K: tl.constexpr,
):  # fmt: skip
    """c[m, n] = f(sum_k a[m, k] b[k, n] + bias[n] + residual[m, n]) for the tile from (m0, n0) on."""
    m = m0 + tl.arange(0, BLOCK_M)
    n = n0 + tl.arange(0, BLOCK_N)
    # Rows past the end read the first ones again: cheaper than a mask, and their results are not stored.
    m_in = tl.max_contiguous(tl.multiple_of(tl.where(m < M, m, 0), BLOCK_M), BLOCK_M).to(tl.int64)
    n_in = tl.max_contiguous(tl.multiple_of(tl.where(n < N, n, 0), BLOCK_N), BLOCK_N).to(tl.int64)
    k = k_first + tl.arange(0, BLOCK_K)
    a += m_in[:, None] * a_m + k.to(tl.int64)[None, :] * a_k
    b += k.to(tl.int64)[:, None] * b_k + n_in[None, :] * b_n
    total = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for start in range(k_first, k_last, BLOCK_K):
        if EVEN_K:
            u = tl.load(a)
            v = tl.load(b)
        else:
            rest = tl.arange(0, BLOCK_K) < k_last - start
            u = tl.load(a, mask=rest[None, :], other=0.0)
            v = tl.load(b, mask=rest[:, None], other=0.0)
        total = tl.dot(u, v, total, input_precision=PRECISION)
        a += BLOCK_K * a_k
        b += BLOCK_K * b_k
    if BIAS:
        total += tl.load(bias + n_in).to(tl.float32)[None, :]
    mask = (m < M)[:, None] & (n < N)[None, :]
    row = m.to(tl.int64)[:, None]
    col = n.to(tl.int64)[None, :]
    if RESIDUAL:
        total += tl.load(residual + row * r_m + col * r_n, mask=mask, other=0.0).to(tl.float32)
    total = activate(total, ACTIVATION, 0.0, 0.0)
    tl.store(c + row * c_m + col * c_n, total.to(c.dtype.element_ty), mask=mask)


@triton.jit
def _matmul_kernel(
    a, b, c, bias, residual, M, N, K, bucket, k_step, a_batch, a_m, a_k, b_batch, b_k, b_n, c_batch, c_m, c_n,
    r_batch, r_m, r_n, c_split,
    ACTIVATION: tl.constexpr, BIAS: tl.constexpr, RESIDUAL: tl.constexpr, PRECISION: tl.constexpr,
    EVEN_K: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """One tile per program. Axes of the grid: tiles, parts of K (k_step each), batch."""
    row, col = _place(tl.program_id(0), M, N, BLOCK_M, BLOCK_N, GROUP)
    part = tl.program_id(1)
    batch = tl.program_id(2).to(tl.int64)
    k_first = part * k_step
    _tile(
        a + batch * a_batch, b + batch * b_batch, c + batch * c_batch + part.to(tl.int64) * c_split, bias,
        residual + batch * r_batch, row * BLOCK_M, col * BLOCK_N, M, N, k_first, tl.minimum(K, k_first + k_step),
        a_m, a_k, b_k, b_n, c_m, c_n, r_m, r_n,
        ACTIVATION, BIAS, RESIDUAL, PRECISION, BLOCK_M, BLOCK_N, BLOCK_K, EVEN_K,
    )  # fmt: skip


@triton.jit
def _matmul_persistent_kernel(
    a, b, c, bias, residual, M, N, K, bucket, a_m, a_k, b_k, b_n, c_m, c_n, r_m, r_n,
    ACTIVATION: tl.constexpr, BIAS: tl.constexpr, RESIDUAL: tl.constexpr, PRECISION: tl.constexpr,
    EVEN_K: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """One program per multiprocessor; each does every num_programs-th tile."""
    tiles = tl.cdiv(M, BLOCK_M) * tl.cdiv(N, BLOCK_N)
    for tile in range(tl.program_id(0), tiles, tl.num_programs(0)):
        row, col = _place(tile, M, N, BLOCK_M, BLOCK_N, GROUP)
        _tile(
            a, b, c, bias, residual, row * BLOCK_M, col * BLOCK_N, M, N, 0, K,
            a_m, a_k, b_k, b_n, c_m, c_n, r_m, r_n,
            ACTIVATION, BIAS, RESIDUAL, PRECISION, BLOCK_M, BLOCK_N, BLOCK_K, EVEN_K,
        )  # fmt: skip


_KEY = ["bucket", "N", "K"]
_matmul_tuned = autotuned(_matmul_kernel, CONFIGS, _KEY)
_matmul_tuned_float32 = autotuned(_matmul_kernel, CONFIGS_FLOAT32, _KEY)
_matmul_tuned_ieee = autotuned(_matmul_kernel, CONFIGS_IEEE, _KEY)
_persistent_tuned = autotuned(_matmul_persistent_kernel, CONFIGS, _KEY)


def _variant(config: MatmulConfig, label: str, shared: int, registers: int, *, order: str = "nt", **options) -> Variant:
    """The form for a config; order "nt": a (M, K), b (N, K) both contiguous in k, as linear has them."""
    constants = config.keywords()
    warps, stages = constants.pop("num_warps"), constants.pop("num_stages")
    kernel = options.pop("kernel", _matmul_kernel)
    a_k, b_k = ("1" if order[0] == "n" else "16"), ("1" if order[1] == "t" else "16")
    strides = {
        **{"a_m": "i32:1" if a_k == "16" else "i32:16", "a_k": f"i32:{a_k}", "b_k": f"i32:{b_k}"},
        **{"b_n": "i32:1" if b_k == "16" else "i32:16", "c_m": "i32:16", "c_n": "i32:1", "r_m": "i32:16"},
        **{"r_n": "i32:1", "a_batch": "i32:16", "b_batch": "i32:16", "c_batch": "i32:16", "r_batch": "i32:16"},
    }
    signature = {
        **{name: "*T:16" for name in ("a", "b", "c", "bias", "residual")},
        **{name: "i32:16" for name in ("M", "N", "K", "bucket", "k_step", "c_split")},
        **strides,
    }
    dtypes = options.pop("dtypes", ("bfloat16", "float16"))
    constants |= {"ACTIVATION": "none", "BIAS": False, "RESIDUAL": False, "PRECISION": "ieee", "EVEN_K": True}
    constants |= options
    names = kernel.arg_names
    dots = "" if dtypes == ("float32",) and constants["PRECISION"] == "ieee" else "wgmma"
    return Variant(
        kernel, {k: v for k, v in signature.items() if k in names}, constants, label, warps, stages,
        registers, shared, dots=dots, wide=(2, 0), dtypes=dtypes,
    )  # fmt: skip


_BF16, _F32 = ("bfloat16",), ("float32",)
VARIANTS = (
    # 8 warps of a 128x256 tile hold 128 sums each: one block per multiprocessor, 4 stages deep
    _variant(CONFIGS[0], "128x256", 200 << 10, 255, dtypes=("bfloat16", "float16")),
    _variant(CONFIGS[0], "128x256 nn", 200 << 10, 255, order="nn", dtypes=_BF16),
    _variant(CONFIGS[0], "128x256 tn", 200 << 10, 255, order="tn", dtypes=_BF16),
    _variant(
        CONFIGS[2], "128x128 gelu", 144 << 10, 255, ACTIVATION="gelu", BIAS=True, RESIDUAL=True, EVEN_K=False,
        dtypes=_BF16,
    ),
    _variant(CONFIGS[4], "128x64", 100 << 10, 168, dtypes=_BF16),
    _variant(CONFIGS[6], "64x64", 84 << 10, 128, dtypes=_BF16),
    _variant(CONFIGS_FLOAT32[0], "128x128 tf32", 132 << 10, 255, PRECISION="tf32", dtypes=_F32),
    _variant(CONFIGS_IEEE[0], "64x64 ieee", 36 << 10, 168, dtypes=_F32),
    _variant(CONFIGS[0], "128x256", 200 << 10, 255, kernel=_matmul_persistent_kernel, dtypes=_BF16),
)  # fmt: skip

# ---- launchers -------------------------------------------------------------------------------------------------------


def _check_product(op: str, a: torch.Tensor, b: torch.Tensor, activation: str | None, precision: str) -> None:
    check_tensors(op, "a", a, b=b)
    if a.ndim not in (2, 3) or b.ndim != a.ndim or a.shape[-1] != b.shape[-2]:
        raise ValueError(
            f"{op}: a has shape {tuple(a.shape)} and b {tuple(b.shape)}; expected (M, K) and (K, N), or (B, M, K) and "
            "(B, K, N)"
        )
    if a.ndim == 3 and a.shape[0] != b.shape[0]:
        raise ValueError(f"{op}: a has {a.shape[0]} matrices but b {b.shape[0]}; expected as many")
    if activation is not None and activation not in EPILOGUES:
        raise NotImplementedError(f"{op}: activation is {activation!r}; expected None or one of {', '.join(EPILOGUES)}")
    if precision not in ("ieee", "tf32"):
        raise ValueError(f"{op}: precision is {precision!r}; expected 'ieee' or 'tf32'")


def _parts(batch: int, m: int, n: int, k: int) -> int:
    """Into how many parts K is split: long sums of few tiles, as weight gradients are, would leave a card idle."""
    tiles = batch * cdiv(m, 128) * cdiv(n, 128)
    return max(1, min(k // 1024, 132 // tiles))


def matmul(
    a: torch.Tensor,
    b: torch.Tensor,
    bias: torch.Tensor | None = None,
    activation: str | None = None,
    residual: torch.Tensor | None = None,
    precision: str = "ieee",
    persistent: bool = False,
    out_dtype: torch.dtype | None = None,
    config: MatmulConfig | None = None,
) -> torch.Tensor:
    """c = f(a b + bias + residual).

    Args:
        a: (M, K) or (B, M, K), floating, any strides.
        b: (K, N) or (B, K, N).
        bias: (N,).
        activation: of EPILOGUES, or None.
        residual: of the shape and dtype of c.
        precision: of float32 products: "ieee", or "tf32" on tensor cores with 10 bits of mantissa.
        persistent: one program per multiprocessor (not with a batch) instead of one per tile.
        out_dtype: of c, that of a by default.
        config: instead of the best of the table.
    """
    _check_product("matmul", a, b, activation, precision)
    m, k, n = a.shape[-2], a.shape[-1], b.shape[-1]
    batch = a.shape[0] if a.ndim == 3 else 1
    shape = (*a.shape[:-1], n)
    check_tensors("matmul", "a", a, bias=bias)
    check_shape("matmul", "bias", bias, (n,))
    check_shape("matmul", "residual", residual, shape)
    if persistent and a.ndim == 3:
        raise NotImplementedError("matmul: persistent with a batch; expected 2-d matrices")
    c = torch.empty(shape, dtype=out_dtype or a.dtype, device=a.device)
    check_tensors("matmul", "the result", c, residual=residual)
    if c.numel() == 0:
        return c
    r = c if residual is None else residual
    if bias is not None:
        bias = bias.contiguous()
    plain = bias is None and residual is None and activation is None
    parts = _parts(batch, m, n, k) if plain and not persistent else 1
    step = cdiv(cdiv(k, parts), 128) * 128 if parts > 1 else k
    parts = max(1, cdiv(k, max(step, 1)))
    out = c if parts == 1 else torch.empty((parts, *shape), dtype=torch.float32, device=a.device)
    bucket = next_power_of_2(m)
    flags = {
        **{"ACTIVATION": activation or "none", "BIAS": bias is not None, "RESIDUAL": residual is not None},
        **{"PRECISION": precision, "EVEN_K": k % 128 == 0 or config is not None and k % config.block_k == 0},
    }
    strides = (*a.stride()[-2:], *b.stride()[-2:])

    def tiles(meta: dict[str, int]) -> int:
        return cdiv(m, meta["BLOCK_M"]) * cdiv(n, meta["BLOCK_N"])

    with on_device(a):
        if persistent:
            programs = torch.cuda.get_device_properties(a.device).multi_processor_count if a.is_cuda else 3
            arguments = (a, b, c, c if bias is None else bias, r, m, n, k, bucket, *strides)
            arguments += (*c.stride(), *r.stride())

            def grid(meta: dict[str, int]) -> tuple[int]:
                return (min(programs, tiles(meta)),)

            if config is not None:
                wrap_triton(_matmul_persistent_kernel)[grid](*arguments, **flags, **config.keywords())
            else:
                wrap_triton(_persistent_tuned)[grid](*arguments, **flags)
            return c

        def batch_grid(meta: dict[str, int]) -> tuple[int, int, int]:
            return (tiles(meta), parts, batch)

        arguments = (a, b, out, c if bias is None else bias, r, m, n, k, bucket, step)
        arguments += (_batch_stride(a), *strides[:2], _batch_stride(b), *strides[2:])
        arguments += (_batch_stride(c), *c.stride()[-2:], _batch_stride(r), *r.stride()[-2:], c.numel())
        if config is not None:
            wrap_triton(_matmul_kernel)[batch_grid](*arguments, **flags, **config.keywords())
        elif a.dtype != torch.float32:
            wrap_triton(_matmul_tuned)[batch_grid](*arguments, **flags)
        elif precision == "tf32":
            wrap_triton(_matmul_tuned_float32)[batch_grid](*arguments, **flags)
        else:
            wrap_triton(_matmul_tuned_ieee)[batch_grid](*arguments, **flags)
    if parts > 1:
        c = sum_rows(out.view(parts, -1), c.dtype).view(shape)
    return c


def _batch_stride(x: torch.Tensor) -> int:
    return x.stride(0) if x.ndim == 3 else 0


def linear(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    activation: str | None = None,
    residual: torch.Tensor | None = None,
    precision: str = "ieee",
) -> torch.Tensor:
    """y = f(x weight^T + bias + residual) for x (..., in), weight (out, in)."""
    if weight.ndim != 2 or x.ndim == 0 or x.shape[-1] != weight.shape[1]:
        raise ValueError(
            f"linear: x has shape {tuple(x.shape)} and weight {tuple(weight.shape)}; expected (..., in) and (out, in)"
        )
    shape = (*x.shape[:-1], weight.shape[0])
    check_shape("linear", "residual", residual, shape)
    rows = x.numel() // x.shape[-1] if x.shape[-1] else _product(x.shape[:-1])
    flat = None if residual is None else residual.reshape(rows, shape[-1])
    return matmul(x.reshape(rows, x.shape[-1]), weight.t(), bias, activation, flat, precision).view(shape)


def _product(sizes: tuple[int, ...]) -> int:
    result = 1
    for size in sizes:
        result *= size
    return result


def linear_backward(
    dy: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, precision: str = "ieee"
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(dx, dweight, dbias) of `linear` from the gradient of what its activation is applied to."""
    rows = _product(x.shape[:-1])
    d, v = dy.reshape(rows, weight.shape[0]), x.reshape(rows, weight.shape[1])
    if d.numel() and d.stride(1) != 1:
        d = d.contiguous()
    dx = matmul(d, weight, precision=precision).view(x.shape)
    return dx, matmul(d.t(), v, precision=precision), sum_rows(d, dy.dtype)
