"""Optimizers: one step over LeNet's ten parameters and over 10 M values."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any, NamedTuple

import numpy as np

from .cases import Arrays, Case, Run, Work

LENET = ((6, 1, 5, 5), (6,), (16, 6, 5, 5), (16,), (120, 400), (120,), (84, 120), (84,), (10, 84), (10,))
LARGE = ((1024, 1024), (1024,)) * 10


class Optimizer(NamedTuple):
    name: str
    cls: str  # in fastnn.optim and torch.optim
    reference: str  # in fastnn.reference
    kwargs: dict[str, Any]
    read: int  # arrays of the parameters' size that a step reads
    written: int


OPTIMIZERS = (
    Optimizer("sgd", "SGD", "sgd", {"lr": 0.1, "momentum": 0.9}, 3, 2),
    Optimizer("sgd nesterov", "SGD", "sgd", {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 1e-2}, 3, 2),
    Optimizer("adam", "Adam", "adam", {"lr": 0.1}, 4, 3),
    Optimizer("adamw", "AdamW", "adamw", {"lr": 0.1, "weight_decay": 1e-2}, 4, 3),
    Optimizer("rmsprop", "RMSprop", "rmsprop", {"lr": 0.1, "momentum": 0.9}, 4, 3),
    Optimizer("adagrad", "Adagrad", "adagrad", {"lr": 0.1, "eps": 1e-3}, 3, 2),
)


def _torch_like(library: Any, arrays: Arrays, variant: str, optimizer: Optimizer, count: int) -> Work:
    parameters = [library.tensor(arrays[f"p{i}"], True) for i in range(count)]
    for i, parameter in enumerate(parameters):
        parameter.grad = library.tensor(arrays[f"g{i}"])
    if variant == "fused" and optimizer.cls == "RMSprop":
        raise NotImplementedError("torch has no fused RMSprop")
    form = {"foreach": {"foreach": True}, "fused": {"fused": True}}.get(variant, {})
    step = getattr(library.lib.optim, optimizer.cls)(parameters, **optimizer.kwargs, **form).step
    if variant == "compiled":
        step = library.compiled(step)
    step()  # the state exists from now on: the call that is compared is the second step
    return Work(step, lambda _: [library.numpy(parameter) for parameter in parameters])


def _jax(library: Any, arrays: Arrays, variant: str, optimizer: Optimizer, count: int) -> Work:
    jax = library.lib
    kwargs = optimizer.kwargs
    lr, decay = kwargs["lr"], kwargs.get("weight_decay", 0.0)

    def sgd(p: Any, g: Any, state: Any, step: Any) -> Any:
        g = g + decay * p
        (buffer,) = state
        buffer = jax.numpy.where(step == 1, g, kwargs["momentum"] * buffer + g)
        return p - lr * (g + kwargs["momentum"] * buffer if kwargs.get("nesterov") else buffer), (buffer,)

    def adam(p: Any, g: Any, state: Any, step: Any) -> Any:
        p = p * (1 - lr * decay)
        m, v = 0.9 * state[0] + 0.1 * g, 0.999 * state[1] + 0.001 * g * g
        return p - lr / (1 - 0.9**step) * m / (jax.numpy.sqrt(v / (1 - 0.999**step)) + 1e-8), (m, v)

    def rmsprop(p: Any, g: Any, state: Any, step: Any) -> Any:
        v = 0.99 * state[0] + 0.01 * g * g
        buffer = kwargs["momentum"] * state[1] + g / (jax.numpy.sqrt(v) + 1e-8)
        return p - lr * buffer, (v, buffer)

    def adagrad(p: Any, g: Any, state: Any, step: Any) -> Any:
        total = state[0] + g * g
        return p - lr * g / (jax.numpy.sqrt(total) + kwargs["eps"]), (total,)

    update = {"SGD": sgd, "RMSprop": rmsprop, "Adagrad": adagrad}.get(optimizer.cls, adam)

    def steps(parameters: Any, gradients: Any, states: Any, step: Any) -> Any:
        new = [update(*row, step) for row in zip(parameters, gradients, states, strict=True)]
        return [p for p, _ in new], [state for _, state in new], step + 1

    jitted = jax.jit(steps, donate_argnums=(0, 2))
    gradients = [library.tensor(arrays[f"g{i}"]) for i in range(count)]
    parameters = [library.tensor(arrays[f"p{i}"]) for i in range(count)]
    zeros = [tuple(jax.numpy.zeros_like(p) for _ in range(optimizer.written - 1)) for p in parameters]
    held = [jax.block_until_ready(jitted(parameters, gradients, zeros, jax.numpy.float32(1)))]

    def call() -> Any:
        parameters, states, step = held[0]
        held[0] = jax.block_until_ready(jitted(parameters, gradients, states, step))
        return held[0]

    return Work(call, lambda result: [library.numpy(parameter) for parameter in result[0]])


def _case(name: str, shapes: tuple[tuple[int, ...], ...], optimizer: Optimizer) -> Case:
    count = len(shapes)
    size = sum(map(prod, shapes))

    def make(rng: np.random.Generator) -> Arrays:
        return {f"{kind}{i}": rng.standard_normal(s, dtype=np.float32) for kind in "pg" for i, s in enumerate(shapes)}

    def reference(arrays: Arrays) -> list[np.ndarray]:
        from fastnn import reference

        step = getattr(reference, optimizer.reference)
        results = []
        for i in range(count):
            p, state = arrays[f"p{i}"], {}
            for _ in range(2):
                p, state = step(p, arrays[f"g{i}"], state, **optimizer.kwargs)
            results.append(p)
        return results

    def build(function: Callable[..., Work]) -> Callable[..., Work]:
        return lambda library, arrays, variant: function(library, arrays, variant, optimizer, count)

    return Case(
        op="optimizer",
        name=f"{optimizer.name} {name}",
        direction="fwd",
        make=make,
        reference=reference,
        runs={
            "fastnn": Run(("",), build(_torch_like)),
            "torch": Run(("foreach", "fused", "compiled"), build(_torch_like)),
            "jax": Run(("jit",), build(_jax)),
        },
        flops=0,
        traffic=lambda itemsize: (optimizer.read * size * itemsize, optimizer.written * size * itemsize),
        stateful=True,
        dtypes=("float32",),
    )


CASES = [
    _case(name, shapes, optimizer) for optimizer in OPTIMIZERS for name, shapes in (("lenet", LENET), ("10M", LARGE))
]
