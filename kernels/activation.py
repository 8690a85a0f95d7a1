"""Elementwise activations and gated products (SwiGLU, GeGLU), forward and backward."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from ._compile import Variant
from ._functors import ACTIVATIONS, FROM_OUTPUT, activate, activation_gradient
from ._launch import cdiv, check_shape, check_tensors, dense, like, next_power_of_2, on_device, rows_of, wrap_triton

BLOCK_BYTES = 4096  # of each operand in a block of 4 warps: two accesses of 16 bytes per thread

# ---- kernels ---------------------------------------------------------------------------------------------------------


@triton.jit
def _activation_kernel(x, y, n, a, b, ACTIVATION: tl.constexpr, BLOCK: tl.constexpr):
    start = tl.program_id(0).to(tl.int64) * BLOCK
    lanes = tl.arange(0, BLOCK)
    # Only the last block is masked: a mask that depends on n would forbid accesses of 16 bytes where n is odd.
    if start + BLOCK <= n:
        v = tl.load(x + start + lanes).to(tl.float32)
        tl.store(y + start + lanes, activate(v, ACTIVATION, a, b).to(y.dtype.element_ty))
    else:
        mask = lanes < n - start
        v = tl.load(x + start + lanes, mask=mask, other=0.0).to(tl.float32)
        tl.store(y + start + lanes, activate(v, ACTIVATION, a, b).to(y.dtype.element_ty), mask=mask)


@triton.jit
def _activation_backward_kernel(saved, dy, dx, n, a, b, ACTIVATION: tl.constexpr, BLOCK: tl.constexpr):
    start = tl.program_id(0).to(tl.int64) * BLOCK
    lanes = tl.arange(0, BLOCK)
    if start + BLOCK <= n:
        s = tl.load(saved + start + lanes).to(tl.float32)
        g = tl.load(dy + start + lanes).to(tl.float32)
        tl.store(dx + start + lanes, (g * activation_gradient(s, ACTIVATION, a, b)).to(dx.dtype.element_ty))
    else:
        mask = lanes < n - start
        s = tl.load(saved + start + lanes, mask=mask, other=0.0).to(tl.float32)
        g = tl.load(dy + start + lanes, mask=mask, other=0.0).to(tl.float32)
        tl.store(dx + start + lanes, (g * activation_gradient(s, ACTIVATION, a, b)).to(dx.dtype.element_ty), mask=mask)


@triton.jit
def _gated_kernel(
    gate, up, y, columns, gate_row, up_row, ACTIVATION: tl.constexpr, BLOCK: tl.constexpr, EVEN: tl.constexpr
):
    """y[r, c] = f(gate[r, c]) up[r, c]; one row and one block of columns per program."""
    row = tl.program_id(0).to(tl.int64)
    cols = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mask = None if EVEN else cols < columns
    g = tl.load(gate + row * gate_row + cols, mask=mask).to(tl.float32)
    u = tl.load(up + row * up_row + cols, mask=mask).to(tl.float32)
    tl.store(y + row * columns + cols, (activate(g, ACTIVATION, 0.0, 0.0) * u).to(y.dtype.element_ty), mask=mask)


@triton.jit
def _gated_backward_kernel(
    gate, up, dy, dgate, dup, columns, gate_row, up_row, dy_row, ACTIVATION: tl.constexpr, BLOCK: tl.constexpr,
    EVEN: tl.constexpr
):  # fmt: skip
    """dgate = dy up f'(gate), dup = dy f(gate): f is computed again rather than kept."""
    row = tl.program_id(0).to(tl.int64)
    cols = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mask = None if EVEN else cols < columns
    g = tl.load(gate + row * gate_row + cols, mask=mask).to(tl.float32)
    u = tl.load(up + row * up_row + cols, mask=mask).to(tl.float32)
    d = tl.load(dy + row * dy_row + cols, mask=mask).to(tl.float32)
    dg = d * u * activation_gradient(g, ACTIVATION, 0.0, 0.0)
    tl.store(dgate + row * columns + cols, dg.to(dgate.dtype.element_ty), mask=mask)
    tl.store(dup + row * columns + cols, (d * activate(g, ACTIVATION, 0.0, 0.0)).to(dup.dtype.element_ty), mask=mask)


VARIANTS = (
    *(
        Variant(
            _activation_kernel,
            {"x": "*T:16", "y": "*T:16", "n": "i32", "a": "fp32", "b": "fp32"},
            {"ACTIVATION": name, "BLOCK": 2048},
            label=name,
            registers=72,
            wide=(2, 2),
        )
        for name in ("relu", "gelu", "silu", "softplus")
    ),
    *(
        Variant(
            _activation_backward_kernel,
            {"saved": "*T:16", "dy": "*T:16", "dx": "*T:16", "n": "i32", "a": "fp32", "b": "fp32"},
            {"ACTIVATION": name, "BLOCK": 1024},
            label=name,
            registers=80,
            wide=(2, 1),
        )
        for name in ("gelu", "silu")
    ),
    *(
        Variant(
            _gated_kernel,
            {
                "gate": "*T:16",
                "up": "*T:16",
                "y": "*T:16",
                "columns": "i32:16",
                "gate_row": "i32:16",
                "up_row": "i32:16",
            },
            {"ACTIVATION": name, "BLOCK": 1024, "EVEN": False},
            label=name,
            registers=64,
            wide=(2, 1),
        )
        for name in ("silu", "gelu")
    ),
    Variant(
        _gated_backward_kernel,
        {
            **{name: "*T:16" for name in ("gate", "up", "dy", "dgate", "dup")},
            **{name: "i32:16" for name in ("columns", "gate_row", "up_row", "dy_row")},
        },
        {"ACTIVATION": "silu", "BLOCK": 1024, "EVEN": False},
        label="silu",
        registers=80,
        wide=(3, 2),
    ),
)

# ---- launchers -------------------------------------------------------------------------------------------------------


def _check_name(op: str, name: str) -> None:
    if name not in ACTIVATIONS:
        raise NotImplementedError(f"{op}: activation is {name!r}; expected one of {', '.join(ACTIVATIONS)}")


def activation(x: torch.Tensor, name: str, a: float = 0.0, b: float = 0.0) -> torch.Tensor:
    """y = f(x) elementwise, for f and its parameters a and b as in _functors.py.

    Args:
        x: floating, any shape. The result has its layout where x is row-major or channels_last.
        name: of `ACTIVATIONS`.

    Raises:
        NotImplementedError: unknown name or dtype.
    """
    _check_name("activation", name)
    check_tensors("activation", "x", x)
    x = dense(x)
    y = torch.empty_like(x)
    n, block = x.numel(), BLOCK_BYTES // x.element_size()
    if n:
        with on_device(x):
            wrap_triton(_activation_kernel)[(cdiv(n, block),)](x, y, n, a, b, ACTIVATION=name, BLOCK=block)
    return y


def activation_backward(
    saved: torch.Tensor, dy: torch.Tensor, name: str, a: float = 0.0, b: float = 0.0
) -> torch.Tensor:
    """dx = dy f'(x). `saved` is y for the names in FROM_OUTPUT (relu, sigmoid, tanh), else x."""
    _check_name("activation_backward", name)
    check_tensors("activation_backward", "saved", saved, dy=dy)
    check_shape("activation_backward", "dy", dy, saved.shape)
    saved = dense(saved)
    dy = like(dy, saved)
    dx = torch.empty_like(saved)
    n, block = saved.numel(), BLOCK_BYTES // 2 // saved.element_size()  # one access of each operand
    if n:
        with on_device(saved):
            wrap_triton(_activation_backward_kernel)[(cdiv(n, block),)](
                saved, dy, dx, n, a, b, ACTIVATION=name, BLOCK=block
            )
    return dx


def _gated_block(columns: int, element_size: int) -> int:
    return min(next_power_of_2(columns), BLOCK_BYTES // element_size)


def _check_gated(op: str, gate: torch.Tensor, up: torch.Tensor, activation: str) -> None:
    if activation not in ("silu", "gelu", "gelu_tanh"):
        raise NotImplementedError(f"{op}: activation is {activation!r}; expected silu, gelu or gelu_tanh")
    check_tensors(op, "gate", gate, up=up)
    check_shape(op, "up", up, gate.shape)
    if gate.ndim == 0:
        raise ValueError(f"{op}: gate has no dimension; expected at least one")


def gated(gate: torch.Tensor, up: torch.Tensor, activation: str) -> torch.Tensor:
    """y = f(gate) up: SwiGLU for f = silu, GeGLU for gelu or gelu_tanh. Shazeer 2020, arXiv:2002.05202.

    Args:
        gate, up: (..., columns), floating. Halves of one tensor of 2 columns (`h.chunk(2, -1)`) are read in place.
    """
    _check_gated("gated", gate, up, activation)
    y = torch.empty(gate.shape, dtype=gate.dtype, device=gate.device)
    if y.numel():
        g, u = rows_of(gate), rows_of(up)
        rows, columns = g.shape
        block = _gated_block(columns, gate.element_size())
        with on_device(gate):
            wrap_triton(_gated_kernel)[(rows, cdiv(columns, block))](
                *(g, u, y, columns, g.stride(0), u.stride(0)),
                ACTIVATION=activation,
                BLOCK=block,
                EVEN=columns % block == 0,
            )
    return y


def gated_backward(
    gate: torch.Tensor, up: torch.Tensor, dy: torch.Tensor, activation: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """(dgate, dup) of `gated`."""
    _check_gated("gated_backward", gate, up, activation)
    check_tensors("gated_backward", "gate", gate, dy=dy)
    check_shape("gated_backward", "dy", dy, gate.shape)
    dgate = torch.empty(gate.shape, dtype=gate.dtype, device=gate.device)
    dup = torch.empty_like(dgate)
    if dgate.numel():
        g, u, d = rows_of(gate), rows_of(up), rows_of(dy)
        rows, columns = g.shape
        block = _gated_block(columns, gate.element_size())
        with on_device(gate):
            wrap_triton(_gated_backward_kernel)[(rows, cdiv(columns, block))](
                *(g, u, d, dgate, dup, columns, g.stride(0), u.stride(0), d.stride(0)),
                ACTIVATION=activation,
                BLOCK=block,
                EVEN=columns % block == 0,
            )
    return dgate, dup


__all__ = ["ACTIVATIONS", "FROM_OUTPUT", "activation", "activation_backward", "gated", "gated_backward"]
