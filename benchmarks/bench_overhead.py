"""What a call costs when there is nothing to compute: relu of an 8x8 Tensor, without and with a gradient to record."""

from __future__ import annotations

from functools import partial
from typing import Any

from .bench_activation import away_from_kinks
from .cases import Arrays, Case, Run, Work

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


CASES = [_case("relu 8x8", False), _case("relu 8x8 with grad", True)]
