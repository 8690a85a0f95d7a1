"""Cross-entropy of logits and class labels: the loss and its gradient in one pass over each row."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from ._compile import Variant
from ._launch import cdiv, check_device, check_shape, check_tensors, next_power_of_2, on_device, wrap_triton

# Longer rows go by blocks, and are read twice. 32 warps keep the rows in flight on an H100 to 264: 17 MB of 32000
# float16 logits, which its L2 of 50 MB holds until the second reading.
_BLOCK = 16384

# ---- kernels ---------------------------------------------------------------------------------------------------------


@triton.jit
def _cross_entropy_kernel(
    x, target, weight, weight_sum, divisor, losses, dx, columns, x_row, dx_row, ignore_index, smoothing,
    WEIGHTED: tl.constexpr, SMOOTHED: tl.constexpr, DIVIDED: tl.constexpr, GRADIENT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One row. With l = log sum_j exp(x_j), t the label, s the smoothing, w the weights (ones), W their sum:

    loss = (1 - s) w_t (l - x_t) + s / C (W l - sum_j w_j x_j)
    dx_j = (1 - s) w_t (p_j - [j = t]) + s / C (W p_j - w_j), over the divisor
    """
    row = tl.program_id(0).to(tl.int64)
    label = tl.load(target + row)
    x += row * x_row
    dx += row * dx_row
    if label == ignore_index:
        tl.store(losses + row, 0.0)
        if GRADIENT:
            for start in range(0, columns, BLOCK):
                cols = start + tl.arange(0, BLOCK)
                tl.store(dx + cols, tl.zeros((BLOCK,), dx.dtype.element_ty), mask=cols < columns)
    else:
        top = float("-inf")
        total = 0.0
        weighted = 0.0
        for start in range(0, columns, BLOCK):
            cols = start + tl.arange(0, BLOCK)
            v = tl.load(x + cols, mask=cols < columns, other=float("-inf"), eviction_policy="evict_last").to(tl.float32)
            new = tl.maximum(top, tl.max(v, 0))
            shift = tl.where(new == float("-inf"), 0.0, new)  # nothing but -inf so far: the sum stays 0
            total = total * tl.exp(top - shift) + tl.sum(tl.exp(v - shift), 0)
            top = new
            if SMOOTHED:
                known = tl.where(cols < columns, v, 0.0)
                if WEIGHTED:
                    known = known * tl.load(weight + cols, mask=cols < columns, other=0.0).to(tl.float32)
                weighted += tl.sum(known, 0)
        log_sum = top + tl.log(total)
        classes = columns.to(tl.float32)
        valid = (label >= 0) & (label < columns)
        # A label that is no class cannot raise from here: its loss is NaN.
        logit = tl.load(x + label, mask=valid, other=float("nan")).to(tl.float32)
        own = 1.0
        if WEIGHTED:
            own = tl.load(weight + label, mask=valid, other=0.0).to(tl.float32)
        loss = own * (log_sum - logit)
        whole = 0.0
        if SMOOTHED:
            whole = tl.load(weight_sum) if WEIGHTED else classes
            loss = (1.0 - smoothing) * loss + smoothing / classes * (whole * log_sum - weighted)
        tl.store(losses + row, loss)
        if GRADIENT:
            scale = 1.0
            if DIVIDED:
                scale = 1.0 / tl.load(divisor)
            for start in range(0, columns, BLOCK):
                cols = start + tl.arange(0, BLOCK)
                v = tl.load(x + cols, mask=cols < columns, other=0.0, eviction_policy="evict_first").to(tl.float32)
                p = tl.exp(v - log_sum)
                one = tl.where(cols == label, 1.0, 0.0)
                if SMOOTHED:
                    g = (1.0 - smoothing) * own * (p - one)
                    each = 1.0
                    if WEIGHTED:
                        each = tl.load(weight + cols, mask=cols < columns, other=0.0).to(tl.float32)
                    g += smoothing / classes * (whole * p - each)
                else:
                    g = own * (p - one)
                g = tl.where(valid, g * scale, float("nan"))
                tl.store(dx + cols, g.to(dx.dtype.element_ty), mask=cols < columns)


@triton.jit
def _scale_rows_kernel(x, factor, columns, PER_ROW: tl.constexpr, BLOCK: tl.constexpr):
    """x[r, :] *= factor[r], or factor[0]. A factor of one, which a loss at the end of a graph has, costs no traffic."""
    row = tl.program_id(0).to(tl.int64)
    f = tl.load(factor + row) if PER_ROW else tl.load(factor)
    f = f.to(tl.float32)
    if f != 1.0:
        cols = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
        at = x + row * columns + cols
        v = tl.load(at, mask=cols < columns, other=0.0).to(tl.float32)
        tl.store(at, (v * f).to(x.dtype.element_ty), mask=cols < columns)


_SIGNATURE = {
    **{"x": "*T:16", "target": "*i64:16", "weight": "*fp32:16", "weight_sum": "*fp32:16", "divisor": "*fp32:16"},
    **{"losses": "*fp32:16", "dx": "*T:16", "columns": "i32:16", "x_row": "i64:16", "dx_row": "i64:16"},
    **{"ignore_index": "i32", "smoothing": "fp32"},
}
VARIANTS = (
    Variant(
        _cross_entropy_kernel, _SIGNATURE,
        {"WEIGHTED": False, "SMOOTHED": False, "DIVIDED": True, "GRADIENT": True, "BLOCK": _BLOCK},
        "32000", 32, 2, 64, 512, wide=(2, 2),
    ),
    Variant(
        _cross_entropy_kernel, _SIGNATURE,
        {"WEIGHTED": True, "SMOOTHED": True, "DIVIDED": True, "GRADIENT": True, "BLOCK": 1024},
        "1024 smoothed", 4, 2, 64, 512, wide=(4, 1),
    ),
    Variant(
        _scale_rows_kernel, {"x": "*T:16", "factor": "*fp32:16", "columns": "i32:16"},
        {"PER_ROW": False, "BLOCK": 2048}, registers=40, wide=(2, 2),
    ),
)  # fmt: skip

# ---- launchers -------------------------------------------------------------------------------------------------------


def cross_entropy(
    x: torch.Tensor,
    target: torch.Tensor,
    weight: torch.Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
    gradient: bool = False,
    in_place: bool = False,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """(loss, gradient of the loss in x or None). `row_losses` has the equations; "mean" divides by the labels' weights.

    Args:
        x: (rows, classes) logits, floating.
        target: (rows,) int64. A label that is neither a class nor `ignore_index` gives NaN.
        weight: (classes,) float32 or the dtype of x.
        reduction: "mean", "sum" or "none"; the loss is float32 as a sum inside and has the dtype of x.
        gradient: whether to compute it; for "none" it is that of the sum.
        in_place: writes the gradient over x.

    Raises:
        ValueError: shapes, dtypes or arguments that do not fit.
    """
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f"cross_entropy: reduction is {reduction!r}; expected 'mean', 'sum' or 'none'")
    divisor = label_weight(target, weight, ignore_index) if reduction == "mean" else None
    losses, dx = row_losses(x, target, weight, divisor, ignore_index, label_smoothing, gradient, in_place)
    if reduction == "none":
        return losses.to(x.dtype), dx
    loss = losses.sum()
    return (loss if divisor is None else loss / divisor).to(x.dtype), dx


def label_weight(target: torch.Tensor, weight: torch.Tensor | None, ignore_index: int) -> torch.Tensor:
    """What "mean" divides by, a float32 scalar on the device: no copy to the host waits for it."""
    counted = target != ignore_index
    if weight is None:
        return counted.sum().to(torch.float32)
    labels = torch.where(counted, target, 0).clamp(0, weight.shape[0] - 1)
    return torch.where(counted, weight.float()[labels], 0.0).sum()


def row_losses(
    x: torch.Tensor,
    target: torch.Tensor,
    weight: torch.Tensor | None,
    divisor: torch.Tensor | None,
    ignore_index: int,
    label_smoothing: float,
    gradient: bool,
    in_place: bool = False,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """(float32 losses of the rows, gradient of their sum / divisor in x); `_cross_entropy_kernel` has the equations."""
    check_tensors("cross_entropy", "x", x)
    check_device("cross_entropy", "x", x, target=target, weight=weight)
    if x.ndim != 2:
        raise ValueError(f"cross_entropy: x has shape {tuple(x.shape)}; expected (rows, classes)")
    rows, columns = x.shape
    check_shape("cross_entropy", "target", target, (rows,))
    check_shape("cross_entropy", "weight", weight, (columns,))
    if target.dtype != torch.int64:
        raise NotImplementedError(f"cross_entropy: target has dtype {target.dtype}; expected int64 labels")
    if not 0.0 <= label_smoothing <= 1.0:
        raise ValueError(f"cross_entropy: label_smoothing is {label_smoothing}; expected 0 to 1")
    if x.stride(1) != 1:
        x = x.contiguous()
    losses = torch.empty(rows, dtype=torch.float32, device=x.device)
    dx = (x if in_place else torch.empty((rows, columns), dtype=x.dtype, device=x.device)) if gradient else None
    if weight is not None:
        weight = weight.float().contiguous()
    if rows and columns:
        block = min(next_power_of_2(columns), _BLOCK)
        with on_device(x):
            wrap_triton(_cross_entropy_kernel)[(rows,)](
                x,
                target.contiguous(),
                losses if weight is None else weight,  # pointers that the kernel does not follow
                losses if weight is None else weight.sum(),
                losses if divisor is None else divisor,
                *(losses, x if dx is None else dx, columns, x.stride(0), x.stride(0) if dx is None else dx.stride(0)),
                *(ignore_index, label_smoothing),
                WEIGHTED=weight is not None,
                SMOOTHED=label_smoothing > 0,
                DIVIDED=divisor is not None,
                GRADIENT=gradient,
                BLOCK=block,
                num_warps=min(32, max(1, block // 512)),
            )
    return losses, dx


def scale_rows_(x: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """x *= factor in place: x (rows, columns) contiguous, factor () or (rows,)."""
    check_tensors("scale_rows_", "x", x)
    rows, columns = x.shape
    if factor.ndim:
        check_shape("scale_rows_", "factor", factor, (rows,))
    if x.numel():
        block = min(next_power_of_2(columns), 2048)
        with on_device(x):
            wrap_triton(_scale_rows_kernel)[(rows, cdiv(columns, block))](
                x, factor.contiguous(), columns, PER_ROW=factor.ndim == 1, BLOCK=block
            )
    return x
