"""Optimizer steps for many parameters in one launch, with state in float32. Equations: fastnn.optim."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
import triton
import triton.language as tl

from ._compile import Variant
from ._launch import FLOATS, cdiv, dense, like, on_device

_BLOCK = 1024  # elements of 4 warps: 8 per thread
_CHUNK = 8192  # elements of a program

# ---- kernels ---------------------------------------------------------------------------------------------------------
# rest, rest1, ... are 1 - alpha, 1 - beta1, ...: in float32 the difference from here would keep few bits of it.
# table: addresses, int64 (slots, tensors): parameter, gradient, states. places: int32 (programs, 2): tensor, chunk.


@triton.jit
def _address(table, slot, tensors, tensor, TYPE: tl.constexpr, ALIGN: tl.constexpr):
    return tl.multiple_of(tl.load(table + slot * tensors + tensor).to(tl.pointer_type(TYPE)), ALIGN)


@triton.jit
def _gradient(g, p, sign, decay):
    return g * sign + tl.where(decay != 0.0, decay * p, 0.0)  # p may be infinite


@triton.jit
def _sgd_part(
    p, g, m, at, mask, lr, momentum, rest, decay, sign, MOMENTUM: tl.constexpr, NESTEROV: tl.constexpr,
    FIRST: tl.constexpr,
):  # fmt: skip
    x = tl.load(p + at, mask=mask).to(tl.float32)
    d = _gradient(tl.load(g + at, mask=mask).to(tl.float32), x, sign, decay)
    if MOMENTUM:
        # the first step starts from the gradient itself, without dampening
        v = d if FIRST else momentum * tl.load(m + at, mask=mask) + rest * d
        tl.store(m + at, v, mask=mask)
        d = d + momentum * v if NESTEROV else v
    tl.store(p + at, (x - lr * d).to(p.dtype.element_ty), mask=mask)


@triton.jit
def _sgd_kernel(
    table, sizes, places, tensors, lr, momentum, rest, decay, sign, MOMENTUM: tl.constexpr,
    NESTEROV: tl.constexpr, FIRST: tl.constexpr, TYPE: tl.constexpr, ALIGN: tl.constexpr, CHUNK: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    tensor = tl.load(places + 2 * tl.program_id(0))
    first = tl.load(places + 2 * tl.program_id(0) + 1).to(tl.int64) * CHUNK
    n = tl.load(sizes + tensor)
    p = _address(table, 0, tensors, tensor, TYPE, ALIGN) + first
    g = _address(table, 1, tensors, tensor, TYPE, ALIGN) + first
    m = _address(table, 2, tensors, tensor, tl.float32, ALIGN) + first if MOMENTUM else p
    for start in range(0, tl.minimum(CHUNK, n - first).to(tl.int32), BLOCK):
        at = start + tl.arange(0, BLOCK)
        if first + start + BLOCK <= n:
            _sgd_part(p, g, m, at, None, lr, momentum, rest, decay, sign, MOMENTUM, NESTEROV, FIRST)
        else:
            _sgd_part(p, g, m, at, at < n - first, lr, momentum, rest, decay, sign, MOMENTUM, NESTEROV, FIRST)


@triton.jit
def _adam_part(
    p,
    g,
    m,
    v,
    u,
    at,
    mask,
    step_size,
    root_scale,
    beta1,
    rest1,
    beta2,
    rest2,
    eps,
    decay,
    shrink,
    sign,
    AMSGRAD: tl.constexpr,
):
    x = tl.load(p + at, mask=mask).to(tl.float32)
    d = _gradient(tl.load(g + at, mask=mask).to(tl.float32), x, sign, decay)
    m1 = beta1 * tl.load(m + at, mask=mask) + rest1 * d
    v1 = beta2 * tl.load(v + at, mask=mask) + rest2 * d * d
    tl.store(m + at, m1, mask=mask)
    tl.store(v + at, v1, mask=mask)
    if AMSGRAD:
        u0 = tl.load(u + at, mask=mask)
        v1 = tl.where((v1 > u0) | (v1 != v1), v1, u0)  # NaN stays
        tl.store(u + at, v1, mask=mask)
    x = x * shrink - step_size * m1 / (tl.sqrt(v1) * root_scale + eps)
    tl.store(p + at, x.to(p.dtype.element_ty), mask=mask)


@triton.jit
def _adam_kernel(
    table, sizes, places, tensors, step_size, root_scale, beta1, rest1, beta2, rest2, eps, decay, shrink, sign,
    AMSGRAD: tl.constexpr, TYPE: tl.constexpr, ALIGN: tl.constexpr, CHUNK: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """step_size = lr / (1 - beta1^t), root_scale = 1 / sqrt(1 - beta2^t), shrink = 1 - lr weight_decay for AdamW."""
    tensor = tl.load(places + 2 * tl.program_id(0))
    first = tl.load(places + 2 * tl.program_id(0) + 1).to(tl.int64) * CHUNK
    n = tl.load(sizes + tensor)
    p = _address(table, 0, tensors, tensor, TYPE, ALIGN) + first
    g = _address(table, 1, tensors, tensor, TYPE, ALIGN) + first
    m = _address(table, 2, tensors, tensor, tl.float32, ALIGN) + first
    v = _address(table, 3, tensors, tensor, tl.float32, ALIGN) + first
    u = _address(table, 4, tensors, tensor, tl.float32, ALIGN) + first if AMSGRAD else v
    for start in range(0, tl.minimum(CHUNK, n - first).to(tl.int32), BLOCK):
        at = start + tl.arange(0, BLOCK)
        if first + start + BLOCK <= n:
            _adam_part(
                p,
                g,
                m,
                v,
                u,
                at,
                None,
                step_size,
                root_scale,
                beta1,
                rest1,
                beta2,
                rest2,
                eps,
                decay,
                shrink,
                sign,
                AMSGRAD,
            )
        else:
            _adam_part(
                p, g, m, v, u, at, at < n - first, step_size, root_scale, beta1, rest1, beta2, rest2, eps, decay,
                shrink, sign, AMSGRAD,
            )  # fmt: skip


@triton.jit
def _rmsprop_part(
    p, g, v, m, b, at, mask, lr, alpha, rest, eps, decay, momentum, sign, CENTERED: tl.constexpr, MOMENTUM: tl.constexpr
):
    x = tl.load(p + at, mask=mask).to(tl.float32)
    d = _gradient(tl.load(g + at, mask=mask).to(tl.float32), x, sign, decay)
    v1 = alpha * tl.load(v + at, mask=mask) + rest * d * d
    tl.store(v + at, v1, mask=mask)
    if CENTERED:
        m0 = tl.load(m + at, mask=mask)
        m1 = m0 + (d - m0) * rest
        tl.store(m + at, m1, mask=mask)
        v1 = v1 - m1 * m1
        v1 = tl.where(v1 < 0.0, 0.0, v1)  # rounding must not make it negative
    d = d / (tl.sqrt(v1) + eps)
    if MOMENTUM:
        d = momentum * tl.load(b + at, mask=mask) + d
        tl.store(b + at, d, mask=mask)
    tl.store(p + at, (x - lr * d).to(p.dtype.element_ty), mask=mask)


@triton.jit
def _rmsprop_kernel(
    table, sizes, places, tensors, lr, alpha, rest, eps, decay, momentum, sign, CENTERED: tl.constexpr,
    MOMENTUM: tl.constexpr, TYPE: tl.constexpr, ALIGN: tl.constexpr, CHUNK: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    tensor = tl.load(places + 2 * tl.program_id(0))
    first = tl.load(places + 2 * tl.program_id(0) + 1).to(tl.int64) * CHUNK
    n = tl.load(sizes + tensor)
    p = _address(table, 0, tensors, tensor, TYPE, ALIGN) + first
    g = _address(table, 1, tensors, tensor, TYPE, ALIGN) + first
    v = _address(table, 2, tensors, tensor, tl.float32, ALIGN) + first
    m = _address(table, 3, tensors, tensor, tl.float32, ALIGN) + first if CENTERED else v
    b = _address(table, 3 + CENTERED, tensors, tensor, tl.float32, ALIGN) + first if MOMENTUM else v
    for start in range(0, tl.minimum(CHUNK, n - first).to(tl.int32), BLOCK):
        at = start + tl.arange(0, BLOCK)
        if first + start + BLOCK <= n:
            _rmsprop_part(p, g, v, m, b, at, None, lr, alpha, rest, eps, decay, momentum, sign, CENTERED, MOMENTUM)
        else:
            _rmsprop_part(
                p, g, v, m, b, at, at < n - first, lr, alpha, rest, eps, decay, momentum, sign, CENTERED, MOMENTUM
            )


@triton.jit
def _adagrad_part(p, g, v, at, mask, step_size, eps, decay, sign):
    x = tl.load(p + at, mask=mask).to(tl.float32)
    d = _gradient(tl.load(g + at, mask=mask).to(tl.float32), x, sign, decay)
    v1 = tl.load(v + at, mask=mask) + d * d
    tl.store(v + at, v1, mask=mask)
    tl.store(p + at, (x - step_size * d / (tl.sqrt(v1) + eps)).to(p.dtype.element_ty), mask=mask)


@triton.jit
def _adagrad_kernel(
    table, sizes, places, tensors, step_size, eps, decay, sign, TYPE: tl.constexpr, ALIGN: tl.constexpr,
    CHUNK: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """step_size = lr / (1 + (t - 1) lr_decay)."""
    tensor = tl.load(places + 2 * tl.program_id(0))
    first = tl.load(places + 2 * tl.program_id(0) + 1).to(tl.int64) * CHUNK
    n = tl.load(sizes + tensor)
    p = _address(table, 0, tensors, tensor, TYPE, ALIGN) + first
    g = _address(table, 1, tensors, tensor, TYPE, ALIGN) + first
    v = _address(table, 2, tensors, tensor, tl.float32, ALIGN) + first
    for start in range(0, tl.minimum(CHUNK, n - first).to(tl.int32), BLOCK):
        at = start + tl.arange(0, BLOCK)
        if first + start + BLOCK <= n:
            _adagrad_part(p, g, v, at, None, step_size, eps, decay, sign)
        else:
            _adagrad_part(p, g, v, at, at < n - first, step_size, eps, decay, sign)


@triton.jit
def _lion_part(p, g, m, at, mask, lr, beta1, rest1, beta2, rest2, shrink, sign):
    x = tl.load(p + at, mask=mask).to(tl.float32) * shrink
    d = tl.load(g + at, mask=mask).to(tl.float32) * sign
    m0 = tl.load(m + at, mask=mask)
    c = beta1 * m0 + rest1 * d
    tl.store(m + at, beta2 * m0 + rest2 * d, mask=mask)
    step = tl.where(c > 0.0, lr, tl.where(c < 0.0, -lr, c))  # 0 for 0, NaN for NaN
    tl.store(p + at, (x - step).to(p.dtype.element_ty), mask=mask)


@triton.jit
def _lion_kernel(
    table, sizes, places, tensors, lr, beta1, rest1, beta2, rest2, shrink, sign, TYPE: tl.constexpr,
    ALIGN: tl.constexpr, CHUNK: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """shrink = 1 - lr weight_decay."""
    tensor = tl.load(places + 2 * tl.program_id(0))
    first = tl.load(places + 2 * tl.program_id(0) + 1).to(tl.int64) * CHUNK
    n = tl.load(sizes + tensor)
    p = _address(table, 0, tensors, tensor, TYPE, ALIGN) + first
    g = _address(table, 1, tensors, tensor, TYPE, ALIGN) + first
    m = _address(table, 2, tensors, tensor, tl.float32, ALIGN) + first
    for start in range(0, tl.minimum(CHUNK, n - first).to(tl.int32), BLOCK):
        at = start + tl.arange(0, BLOCK)
        if first + start + BLOCK <= n:
            _lion_part(p, g, m, at, None, lr, beta1, rest1, beta2, rest2, shrink, sign)
        else:
            _lion_part(p, g, m, at, at < n - first, lr, beta1, rest1, beta2, rest2, shrink, sign)


def _variant(kernel, scalars: str, label: str, wide: tuple[int, int], **flags) -> Variant:
    signature = {"table": "*i64:16", "sizes": "*i64:16", "places": "*i32:16", "tensors": "i32"}
    signature |= {name: "fp32" for name in scalars.split()}
    constants = {**flags, "TYPE": tl.bfloat16, "ALIGN": 16, "CHUNK": _CHUNK, "BLOCK": _BLOCK}
    return Variant(kernel, signature, constants, label, 4, 2, 96, 4096, wide=wide, dtypes=("bfloat16",))


# The 4096 bytes are for the last block, whose mask takes another layout.
# A block reads one access of 16 bytes of the parameter and gradient and two of each state per thread.
VARIANTS = (
    _variant(
        _sgd_kernel, "lr momentum rest decay sign", "momentum", (4, 3), MOMENTUM=True, NESTEROV=False, FIRST=False
    ),
    _variant(
        _adam_kernel, "step_size root_scale beta1 rest1 beta2 rest2 eps decay shrink sign", "", (6, 5), AMSGRAD=False
    ),
    _variant(
        _rmsprop_kernel, "lr alpha rest eps decay momentum sign", "centered", (8, 7), CENTERED=True, MOMENTUM=True
    ),
    _variant(_adagrad_kernel, "step_size eps decay sign", "", (4, 3)),
    _variant(_lion_kernel, "lr beta1 rest1 beta2 rest2 shrink sign", "", (4, 3)),
)  # fmt: skip

# ---- launchers -------------------------------------------------------------------------------------------------------

_TYPES = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}
# Tables of addresses by the addresses: gradients come back to the same memory step after step.
_tables: OrderedDict[tuple, tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = OrderedDict()
_TABLES = 16

Tensors = Sequence[torch.Tensor]


def _check(op: str, params: Tensors, grads: Tensors, states: dict[str, Tensors]) -> None:
    for name, tensors in {"grads": grads, **states}.items():
        if len(tensors) != len(params):
            raise ValueError(f"{op}: {name} has {len(tensors)} tensors but params {len(params)}; expected as many")
    for i, (p, g) in enumerate(zip(params, grads, strict=True)):
        if p.dtype not in FLOATS:
            raise NotImplementedError(f"{op}: params[{i}] has dtype {p.dtype}; expected float32, bfloat16 or float16")
        if g.dtype != p.dtype or g.shape != p.shape or g.device != p.device:
            raise ValueError(
                f"{op}: grads[{i}] is {g.dtype} {tuple(g.shape)} on {g.device}; expected {p.dtype} {tuple(p.shape)} on "
                f"{p.device} as params[{i}]"
            )
        for name, tensors in states.items():
            s = tensors[i]
            if s.dtype != torch.float32 or s.shape != p.shape or s.device != p.device or s.stride() != p.stride():
                raise ValueError(
                    f"{op}: {name}[{i}] is {s.dtype} {tuple(s.shape)} {s.stride()} on {s.device}; expected float32 "
                    f"{tuple(p.shape)} {p.stride()} on {p.device}"
                )
        if dense(p) is not p:
            raise NotImplementedError(
                f"{op}: params[{i}] has strides {p.stride()}; expected contiguous or channels_last"
            )


def _run(kernel, op: str, params: Tensors, grads: Tensors, states: dict[str, Tensors], scalars: tuple, flags: dict):
    """One launch per dtype and device among params."""
    _check(op, params, grads, states)
    groups: dict[tuple, list[int]] = {}
    for i, p in enumerate(params):
        if p.numel():
            groups.setdefault((p.dtype, p.device), []).append(i)
    for (dtype, device), members in groups.items():
        # kept alive until the launch: a copy where the gradient has other strides than the parameter
        laid_out = [like(grads[i], params[i]) for i in members]
        slots = [[params[i] for i in members], laid_out, *([s[i] for i in members] for s in states.values())]
        addresses = tuple(tuple(t.data_ptr() for t in slot) for slot in slots)
        sizes = tuple(params[i].numel() for i in members)
        table, counts, places = _table(addresses, sizes, device)
        aligned = all(a % 16 == 0 for slot in addresses for a in slot)
        with on_device(params[members[0]]):
            kernel[(places.shape[0],)](
                *(table, counts, places, len(members), *scalars),
                **flags,
                TYPE=_TYPES[dtype],
                ALIGN=16 if aligned else dtype.itemsize,
                CHUNK=_CHUNK,
                BLOCK=_BLOCK,
            )


def _table(addresses: tuple, sizes: tuple, device: torch.device) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    key = (addresses, sizes, device)
    found = _tables.get(key)
    if found is None:
        places = [(t, c) for t, n in enumerate(sizes) for c in range(cdiv(n, _CHUNK))]
        found = (
            torch.tensor(addresses, dtype=torch.int64).to(device),
            torch.tensor(sizes, dtype=torch.int64).to(device),
            torch.tensor(places, dtype=torch.int32).to(device),
        )
        _tables[key] = found
        while len(_tables) > _TABLES:
            _tables.popitem(last=False)
    _tables.move_to_end(key)
    return found


def sgd_step(
    params: Tensors, grads: Tensors, momentum_buffers: Tensors, lr: float, momentum: float = 0.0,
    dampening: float = 0.0, weight_decay: float = 0.0, nesterov: bool = False, maximize: bool = False,
    first: bool = False,
) -> None:  # fmt: skip
    """One step of SGD in place. `first`: the buffers take the gradient; without momentum they are not used."""
    states = {"momentum_buffers": momentum_buffers} if momentum else {}
    scalars = (lr, momentum, 1.0 - dampening, weight_decay, -1.0 if maximize else 1.0)
    flags = {"MOMENTUM": momentum != 0, "NESTEROV": nesterov, "FIRST": first}
    _run(_sgd_kernel, "sgd_step", params, grads, states, scalars, flags)


def adam_step(
    params: Tensors, grads: Tensors, exp_avgs: Tensors, exp_avg_sqs: Tensors, max_exp_avg_sqs: Tensors, step: int,
    lr: float, beta1: float, beta2: float, eps: float, weight_decay: float = 0.0, decoupled: bool = False,
    maximize: bool = False,
) -> None:  # fmt: skip
    """Step number `step` (from 1) of Adam, or AdamW if decoupled, in place; amsgrad with max_exp_avg_sqs, else ()."""
    states = {"exp_avgs": exp_avgs, "exp_avg_sqs": exp_avg_sqs}
    if max_exp_avg_sqs:
        states["max_exp_avg_sqs"] = max_exp_avg_sqs
    decay, shrink = (0.0, 1.0 - lr * weight_decay) if decoupled else (weight_decay, 1.0)
    scalars = (lr / (1.0 - beta1**step), (1.0 - beta2**step) ** -0.5, beta1, 1.0 - beta1, beta2, 1.0 - beta2, eps)
    scalars += (decay, shrink, -1.0 if maximize else 1.0)
    _run(_adam_kernel, "adam_step", params, grads, states, scalars, {"AMSGRAD": bool(max_exp_avg_sqs)})


def rmsprop_step(
    params: Tensors, grads: Tensors, square_avgs: Tensors, grad_avgs: Tensors, momentum_buffers: Tensors, lr: float,
    alpha: float = 0.99, eps: float = 1e-8, weight_decay: float = 0.0, momentum: float = 0.0, maximize: bool = False,
) -> None:  # fmt: skip
    """One step of RMSprop in place; centered with grad_avgs, else ()."""
    states = {"square_avgs": square_avgs}
    if grad_avgs:
        states["grad_avgs"] = grad_avgs
    if momentum:
        states["momentum_buffers"] = momentum_buffers
    scalars = (lr, alpha, 1.0 - alpha, eps, weight_decay, momentum, -1.0 if maximize else 1.0)
    flags = {"CENTERED": bool(grad_avgs), "MOMENTUM": momentum != 0}
    _run(_rmsprop_kernel, "rmsprop_step", params, grads, states, scalars, flags)


def adagrad_step(
    params: Tensors, grads: Tensors, sums: Tensors, step: int, lr: float, lr_decay: float = 0.0,
    weight_decay: float = 0.0, eps: float = 1e-10, maximize: bool = False,
) -> None:  # fmt: skip
    """Step number `step` (from 1) of Adagrad in place."""
    scalars = (lr / (1.0 + (step - 1) * lr_decay), eps, weight_decay, -1.0 if maximize else 1.0)
    _run(_adagrad_kernel, "adagrad_step", params, grads, {"sums": sums}, scalars, {})


def lion_step(
    params: Tensors, grads: Tensors, exp_avgs: Tensors, lr: float, beta1: float = 0.9, beta2: float = 0.99,
    weight_decay: float = 0.0, maximize: bool = False,
) -> None:  # fmt: skip
    """One step of Lion in place."""
    scalars = (lr, beta1, 1.0 - beta1, beta2, 1.0 - beta2, 1.0 - lr * weight_decay, -1.0 if maximize else 1.0)
    _run(_lion_kernel, "lion_step", params, grads, {"exp_avgs": exp_avgs}, scalars, {})
