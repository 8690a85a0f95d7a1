"""Steps as CUDA graphs: what a function launches on a GPU is recorded once, then launched as a whole."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Hashable
from typing import Any

import numpy as np

from . import _C
from .backends import _device
from .tensor import Tensor, as_tensor


class _Dependencies(threading.local):
    def __init__(self) -> None:
        self.list: list[tuple[Callable[[], Any], Any]] = []


_dependencies = _Dependencies()  # of the capture that runs


def depends_on(value: Callable[[], Any]) -> None:
    """While a step is captured: where value() is another one later, the step is captured anew."""
    _dependencies.list.append((value, value()))


def graph(function: Callable[..., Any], device: str = "cuda") -> Callable[..., Any]:
    """`function`, a step on a GPU, as a CUDA graph: calls cost one launch instead of one for each kernel.

        @fastnn.graph
        def step(images, labels):
            optimizer.zero_grad()
            loss = criterion(model(images), labels)
            loss.backward()
            optimizer.step()
            return loss

        for images, labels in loader:
            loss = step(images, labels)

    The first call with arguments of new shapes, dtypes or values (of those that are no arrays) runs as usual; the
    second one captures the step and launches it; later ones copy their arrays into the captured arguments and launch
    it. It is captured anew where options of an optimizer that it steps change (a scheduler), or where gradients that it
    adds to are others.

    Args:
        function: takes Tensors or numpy arrays, also inside tuples, lists and dicts, which go to the device first. It
            runs only when it is captured: everything else that it does in Python is done then only, and modes
            (training, no_grad of its own) and numbers stay as they were. What changes from call to call must be an
            argument, or a Tensor that is changed in place. It reads nothing back (`item`, `cpu`, clip_grad_norm_):
            RuntimeError. dropout, and the steps of optimizers that count them (Adam, AdamW, RMSprop, Adagrad), are a
            NotImplementedError: call optimizer.step() after the captured forward and backward.
        device: where it runs, "cuda" or "cuda:<index>".

    Results are Tensors without history, in memory of the graph: the next call with arguments of the same shapes writes
    them again, and gradients too. Where eager ops raise an IndexError for labels or indices, the loss, or the row of
    the embedding, is NaN.

    The memory of a captured step stays its own until the returned function is deleted.
    """
    steps: dict[Hashable, _Known] = {}

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        if _C.cuda_capturing():  # a part of another graph
            return function(*args, **kwargs)
        place = _device("graph", device)
        arrays: list[Tensor] = []
        key = _key((args, kwargs), arrays), _C.grad_enabled(), place
        known = steps.get(key)
        if known is None:
            args, kwargs = _replaced((args, kwargs), iter([a.to(device=place) for a in arrays]))
            leaves: list[tuple[Tensor, bool]] = []
            results = _recording(leaves, lambda: function(*args, **kwargs))
            steps[key] = _Known([leaf for leaf, _ in leaves])
            return _results(results)
        if known.step is None or not known.step.holds():
            known.step = None  # its memory first
            known.step = _Step(function, args, kwargs, arrays, place, known.leaves)
        return known.step(arrays)

    return call


class _Known:
    """Arguments that were seen: the leaves whose gradients the step makes, and what was captured."""

    def __init__(self, leaves: list[Tensor]) -> None:
        self.leaves = leaves
        self.step: _Step | None = None


class _Step:
    """A captured step."""

    def __init__(
        self,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        arrays: list[Tensor],
        device: str,
        leaves: list[Tensor],
    ) -> None:
        self.inputs = [a.to(device=device).clone() for a in arrays]
        args, kwargs = _replaced((args, kwargs), iter(self.inputs))
        before = {id(leaf): leaf.grad for leaf in leaves}
        reached: list[tuple[Tensor, bool]] = []
        _dependencies.list = []
        self.graph = _C.CudaGraph(device)
        try:
            self.results = _results(_recording(reached, lambda: function(*args, **kwargs)))
            self.graph.end()
        except BaseException:
            self.graph.abandon()
            for leaf in leaves:
                leaf.grad = before[id(leaf)]
            raise
        self.dependencies = _dependencies.list
        first: dict[int, tuple[Tensor, bool]] = {}
        for leaf, had_grad in reached:
            first.setdefault(id(leaf), (leaf, had_grad))
        # Leaf, its gradient now, and the one that a call must find: that, None, or, where the step resets it, any.
        self.leaves = [
            (leaf, leaf.grad, leaf.grad if had_grad else None, had_grad or before.get(id(leaf)) is None)
            for leaf, had_grad in first.values()
        ]

    def holds(self) -> bool:
        """Whether a call now would record the same."""
        return all(value() == was for value, was in self.dependencies) and all(
            leaf.grad is found for leaf, _, found, matters in self.leaves if matters
        )

    def __call__(self, arrays: list[Tensor]) -> Any:
        for to, value in zip(self.inputs, arrays, strict=True):
            _C.assign(to, value)
        self.graph.replay()
        for leaf, grad, *_ in self.leaves:
            leaf.grad = grad
        return self.results


def _recording(leaves: list[tuple[Tensor, bool]], function: Callable[[], Any]) -> Any:
    before = _C.record_leaves(leaves)
    try:
        return function()
    finally:
        _C.record_leaves(before)


def _key(value: Any, arrays: list[Tensor]) -> Hashable:
    """What a capture depends on in the arguments; appends their arrays."""
    if isinstance(value, (Tensor, np.ndarray)):
        array = as_tensor(value)
        if array.requires_grad:
            raise ValueError("graph: an argument requires a gradient; parameters belong to the function")
        arrays.append(array)
        return array.shape, array.dtype.name, array.strides
    if isinstance(value, (tuple, list)):
        return type(value).__name__, tuple(_key(v, arrays) for v in value)
    if isinstance(value, dict):
        return tuple((k, _key(v, arrays)) for k, v in value.items())
    try:
        hash(value)
    except TypeError:
        raise TypeError(
            f"graph: an argument is a {type(value).__name__}; expected arrays, or hashable values"
        ) from None
    return type(value).__name__, value


def _replaced(value: Any, arrays: Any) -> Any:
    """`value` with these arrays in place of its own, in the order of _key()."""
    if isinstance(value, (Tensor, np.ndarray)):
        return next(arrays)
    if isinstance(value, (tuple, list)):
        items = [_replaced(v, arrays) for v in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    if isinstance(value, dict):
        return {k: _replaced(v, arrays) for k, v in value.items()}
    return value


def _results(value: Any) -> Any:
    """Without history."""
    if isinstance(value, Tensor):
        return value.detach()
    if isinstance(value, (tuple, list)):
        items = [_results(v) for v in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    if isinstance(value, dict):
        return {k: _results(v) for k, v in value.items()}
    return value
