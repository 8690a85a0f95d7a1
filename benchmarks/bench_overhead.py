"""What a call costs when there is nothing to compute: relu, linear and conv2d of 8x8 values.

On Tensors relu, without and with a gradient to record. On torch tensors, where a call enters and leaves through torch,
the three without and with gradient, and forward and backward.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from functools import partial
from typing import Any

from .bench_activation import away_from_kinks
from .cases import Arrays, Case, Run, Work, normal

SHAPE = (8, 8)


def _reference(arrays: Arrays) -> list[Any]:
    from fastnn import reference

    return [reference.relu(arrays["input"])]


def _build(library: Any, arrays: Arrays, variant: str, requires_grad: bool) -> Work:
    call = partial(library.function("relu"), library.tensor(arrays["input"], requires_grad))
    return Work(call, lambda out: [library.numpy(out)])


def _case(name: str, requires_grad: bool) -> Case:
    build = partial(_build, requires_grad=requires_grad)
    return Case(
        op="overhead",
        name=name,
        direction="fwd",
        make=away_from_kinks(SHAPE),
        reference=_reference,
        runs={"fastnn": Run(("",), build), "torch": Run(("eager",), build)},
        flops=0,
        traffic=lambda itemsize: (64 * itemsize, 64 * itemsize),
    )


# ---- on torch tensors ------------------------------------------------------------------------------------------------

_TORCH: dict[str, Callable[..., list[Any]]] = {
    "relu": lambda reference, x: reference.relu(x["input"]),
    "linear": lambda reference, x: reference.linear(x["input"], x["weight"], x["bias"]),
    "conv2d": lambda reference, x: reference.conv2d(x["input"], x["weight"], x["bias"], padding=1),
}
_SHAPES = {
    "relu": {"input": SHAPE},
    "linear": {"input": SHAPE, "weight": SHAPE, "bias": (8,)},
    "conv2d": {"input": (1, 1, 8, 8), "weight": (1, 1, 3, 3), "bias": (1,)},
}


def _torch_reference(arrays: Arrays, op: str) -> list[Any]:
    from fastnn import reference

    return [_TORCH[op](reference, arrays)]


def _build_torch(library: Any, arrays: Arrays, variant: str, op: str, mode: str, ours: bool) -> Work:
    import torch

    if ours:
        from fastnn import functional
    else:
        functional = torch.nn.functional
    function = getattr(functional, op)
    tensors = [torch.tensor(a.astype("float32")) for a in arrays.values()]
    extra = (1, 1) if op == "conv2d" else ()
    if mode != "no grad":
        for t in tensors:
            t.requires_grad_()
    seed = torch.ones_like(function(*tensors, *extra))

    def backward() -> Any:
        out = function(*tensors, *extra)
        out.backward(seed)
        return out

    call = backward if mode == "backward" else partial(function, *tensors, *extra)
    return Work(call, lambda out: [out.detach().numpy()])


def _torch_case(op: str, mode: str) -> Case:
    build = partial(_build_torch, op=op, mode=mode)
    return Case(
        op="overhead",
        name=f"{op} 8x8 torch tensors{' with grad' if mode == 'grad' else ''}",
        direction="bwd" if mode == "backward" else "fwd",
        make=normal(**_SHAPES[op]),
        reference=partial(_torch_reference, op=op),
        runs={
            "fastnn": Run(("",), partial(build, ours=True)),
            "torch": Run(("eager",), partial(build, ours=False)),
        },
        flops=0,
        traffic=lambda itemsize: (64 * itemsize, 64 * itemsize),
        dtypes=("float32",),
    )


CASES = [_case("relu 8x8", False), _case("relu 8x8 with grad", True)]
if importlib.util.find_spec("torch") is not None:
    CASES += [_torch_case(op, mode) for op in _TORCH for mode in ("no grad", "grad", "backward")]
