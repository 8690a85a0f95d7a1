"""Times and compares two ways to run the same module, and leaves no trace of it in the model."""

from __future__ import annotations

import contextlib
import gc
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import inf
from typing import Any

import torch
from torch.utils._pytree import tree_flatten, tree_unflatten

from .. import random as _random

Run = Callable[[], Any]

# Relative to the largest element: what sums in another order may differ by, through a layer or a whole model.
RTOL = {torch.float64: 1e-9, torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}
ATOL = {torch.float64: 1e-11, torch.float32: 1e-5, torch.float16: 1e-3, torch.bfloat16: 1e-2}


@dataclass
class Call:
    """The arguments of one call of a module."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    @staticmethod
    def of(sample: Any) -> Call:
        """A sample as a user gives it: an input, a tuple of inputs, or a mapping of keyword arguments."""
        if isinstance(sample, Mapping):
            return Call((), dict(sample))
        return Call(tuple(sample) if isinstance(sample, (tuple, list)) else (sample,), {})

    def detached(self) -> Call:
        """The same values as leaves of a graph of its own."""
        leaves, spec = tree_flatten((self.args, self.kwargs))
        args, kwargs = tree_unflatten([_leaf(x) if isinstance(x, torch.Tensor) else x for x in leaves], spec)
        return Call(args, kwargs)

    def copied(self) -> Call:
        """The same as detached(), in memory of its own: for modules that work in place."""
        leaves, spec = tree_flatten((self.args, self.kwargs))
        args, kwargs = tree_unflatten([_leaf(x.clone()) if isinstance(x, torch.Tensor) else x for x in leaves], spec)
        return Call(args, kwargs)

    def tensors(self) -> list[torch.Tensor]:
        return [x for x in tree_flatten((self.args, self.kwargs))[0] if isinstance(x, torch.Tensor)]

    def key(self) -> Any:
        """Equal for calls that take the same time."""
        leaves, spec = tree_flatten((self.args, self.kwargs))
        return str(spec), tuple(
            (x.shape, x.stride(), x.dtype, x.device, x.requires_grad) if isinstance(x, torch.Tensor) else repr(x)
            for x in leaves
        )


def _leaf(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().requires_grad_(tensor.requires_grad)


# ---- running ---------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def preserved(model: torch.nn.Module) -> Iterator[None]:
    """Restores buffers, modes and gradients of the model and the state of all random numbers."""
    buffers = [
        (m._buffers, key, b, b.clone()) for m in model.modules() for key, b in m._buffers.items() if b is not None
    ]
    training = [(m, m.training) for m in model.modules()]
    grads = [(p, p.grad, None if p.grad is None else p.grad.clone()) for p in model.parameters()]
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    ours = _random.get_state()
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        _random.set_state(ours)
        with torch.no_grad():
            for owner, key, buffer, value in buffers:
                owner[key] = buffer
                if not torch.equal(buffer, value):
                    buffer.copy_(value)
            for parameter, grad, value in grads:
                if grad is not None and not torch.equal(grad, value):
                    grad.copy_(value)
                parameter.grad = grad
        for module, mode in training:
            module.training = mode


def capture(model: torch.nn.Module, names: Mapping[torch.nn.Module, str], call: Call) -> dict[str, list[Call]]:
    """Runs the model once and returns the distinct calls of each module."""
    calls: dict[str, list[Call]] = {}

    def hook(module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen = calls.setdefault(names[module], [])
        call = Call(args, kwargs)
        if all(call.key() != other.key() for other in seen):
            seen.append(call.detached())

    handles = [module.register_forward_pre_hook(hook, with_kwargs=True) for module in names]
    try:
        model(*call.args, **call.kwargs)
    finally:
        for handle in handles:
            handle.remove()
    return calls


def outputs_of(value: Any) -> list[torch.Tensor]:
    """The tensors in the output of a model: in a tensor, tuple, list, dict or dataclass."""
    if isinstance(value, Mapping):
        value = list(value.values())
    elif hasattr(value, "__dataclass_fields__"):
        value = [getattr(value, name) for name in value.__dataclass_fields__]
    if isinstance(value, (tuple, list)):
        return [t for item in value for t in outputs_of(item)]
    return [value] if isinstance(value, torch.Tensor) else []


def runner(
    function: Callable[..., Any],
    call: Call,
    parameters: list[torch.nn.Parameter],
    training: bool,
    inplace: bool = False,
) -> Run:
    """A function that runs function(*call) and, in training, its backward; it returns outputs and gradients.

    inplace: the function may change its inputs, which leaves of a graph do not allow: it gets copies.
    """
    args, kwargs = call.args, call.kwargs
    own = torch.clone if inplace else lambda value: value
    if not training:

        def infer() -> list[torch.Tensor]:
            with torch.no_grad():
                return outputs_of(function(*args, **kwargs))

        return infer
    leaves = [t for t in (*call.tensors(), *parameters) if t.requires_grad]
    seeds: list[torch.Tensor] = []

    def train() -> list[torch.Tensor]:
        out = outputs_of(function(*map(own, args), **kwargs))
        roots = [t for t in out if t.requires_grad]
        if not (roots and leaves):
            return out
        if not seeds:
            generator = torch.Generator().manual_seed(0)
            seeds.extend(torch.randn(t.shape, generator=generator).to(t) for t in roots)
        return [*out, *(g for g in torch.autograd.grad(roots, leaves, seeds, allow_unused=True) if g is not None)]

    return train


# ---- comparing and timing --------------------------------------------------------------------------------------------


_CHUNK = 1 << 20  # elements that are compared at a time: the copies in float64 are no larger than 8 MB


def difference(
    ours: list[torch.Tensor], theirs: list[torch.Tensor], rtol: float | None, atol: float | None, factor: float = 1.0
) -> tuple[float, bool]:
    """(largest absolute difference, whether each tensor is within atol + rtol max |theirs|).

    Tolerances of None are those of the dtype, times `factor`. NaN equals NaN, and infinity itself.
    """
    if len(ours) != len(theirs):
        return inf, False
    largest, within = 0.0, True
    for a, b in zip(ours, theirs, strict=True):
        if a.shape != b.shape or a.dtype != b.dtype:
            return inf, False
        if a.numel() == 0:
            continue
        error, scale = 0.0, 0.0
        a, b = a.detach().flatten(), b.detach().flatten()
        for x, y in zip(a.split(_CHUNK), b.split(_CHUNK), strict=True):
            x, y = x.double(), y.double()
            part = torch.where((x == y) | (x.isnan() & y.isnan()), 0.0, (x - y).abs())
            error = max(error, float(part.nan_to_num(nan=inf, posinf=inf).max()))
            scale = max(scale, float(y.abs().nan_to_num(nan=0.0, posinf=0.0).max()))
        r = factor * RTOL.get(b.dtype, 0.0) if rtol is None else rtol
        limit = (factor * ATOL.get(b.dtype, 0.0) if atol is None else atol) + r * scale
        largest, within = max(largest, error), within and error <= limit
    return largest, within


def compare_times(first: Run, second: Run, seconds: float, rounds: int = 7) -> tuple[float, float]:
    """Medians in microseconds of both, run in turn, so that whatever disturbs the machine disturbs both."""
    for run in (first, second, first, second):
        run()
    start = time.perf_counter()
    first()
    second()
    once = max(time.perf_counter() - start, 1e-7)
    repeat = max(1, int(2e-4 / once))
    times: tuple[list[float], list[float]] = ([], [])
    collecting = gc.isenabled()
    gc.disable()
    try:
        end = time.perf_counter() + seconds
        i = 0
        while i < rounds or (time.perf_counter() < end and i < 200):
            for which in ((0, 1), (1, 0))[i % 2]:
                run = (first, second)[which]
                start = time.perf_counter()
                for _ in range(repeat):
                    run()
                times[which].append((time.perf_counter() - start) / repeat * 1e6)
            i += 1
    finally:
        if collecting:
            gc.enable()
    return statistics.median(times[0]), statistics.median(times[1])
