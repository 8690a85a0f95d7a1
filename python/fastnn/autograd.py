"""Switches for recording: whether operations on tensors that require a gradient are put on the tape. Per thread."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from . import _C

is_grad_enabled = _C.grad_enabled


class set_grad_enabled:
    """Turns recording on or off: at once as a call, for a block in a with statement, for a function as a decorator.

    set_grad_enabled(training)
    with set_grad_enabled(training): ...
    """

    __slots__ = ("_before", "_mode")

    def __init__(self, mode: bool) -> None:
        self._mode = bool(mode)
        self._before = _C.set_grad_enabled(self._mode)

    def __enter__(self) -> None:
        _C.set_grad_enabled(self._mode)

    def __exit__(self, *exception: object) -> None:
        _C.set_grad_enabled(self._before)

    def __call__(self, function: Callable[..., Any]) -> Callable[..., Any]:
        _C.set_grad_enabled(self._before)  # a decorator changes nothing until the function runs
        return _decorate(function, self._mode)


class no_grad:
    """Context manager and decorator: nothing inside is recorded.

    with no_grad(): ...

    @no_grad()
    def evaluate(model, images): ...
    """

    __slots__ = ("_before",)
    _mode = False

    def __new__(cls, function: Callable[..., Any] | None = None) -> Any:
        return object.__new__(cls) if function is None else _decorate(function, cls._mode)

    def __enter__(self) -> None:
        self._before = _C.set_grad_enabled(self._mode)

    def __exit__(self, *exception: object) -> None:
        _C.set_grad_enabled(self._before)

    def __call__(self, function: Callable[..., Any]) -> Callable[..., Any]:
        return _decorate(function, self._mode)


class enable_grad(no_grad):
    """Context manager and decorator: recording is on inside, also within no_grad."""

    __slots__ = ()
    _mode = True


def _decorate(function: Callable[..., Any], mode: bool) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapped(*args: Any, **keywords: Any) -> Any:
        before = _C.set_grad_enabled(mode)
        try:
            return function(*args, **keywords)
        finally:
            _C.set_grad_enabled(before)

    return wrapped
