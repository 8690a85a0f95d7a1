"""Recurrent layers over packed sequences of different lengths: the steps of all that reach a time stand together.

Times that equally many sequences reach are one run of the layer; no step of padding is computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from . import shape
from .dropout import dropout as _dropout
from .rnn import _ops

if TYPE_CHECKING:
    from ..tensor import Tensor

    Array = Tensor | np.ndarray


def runs(batch_sizes: np.ndarray) -> list[tuple[int, int, int]]:
    """(begin in the data, steps, sequences) of each run of times with equally many sequences."""
    edges = [0, *(np.flatnonzero(np.diff(batch_sizes)) + 1).tolist(), len(batch_sizes)]
    out, begin = [], 0
    for first, last in zip(edges, edges[1:], strict=False):
        count = int(batch_sizes[first])
        out.append((begin, last - first, count))
        begin += (last - first) * count
    return out


def _rows(x: Any, begin: int, end: int) -> Any:
    return x if begin == 0 and end == x.shape[0] else shape.get_item(x, slice(begin, end))


def _joined(parts: list[Any]) -> Any:
    return parts[0] if len(parts) == 1 else shape.cat(parts, 0)


def _forward(step: Any, x: Any, states: list[Any], parts: list[tuple[int, int, int]]) -> tuple[Any, list[Any]]:
    """The data of all steps, and the last states: those of a sequence are final when it has no more steps."""
    outputs, final = [], []
    for begin, steps, count in parts:
        final.append([_rows(s, count, s.shape[0]) for s in states] if states[0].shape[0] > count else None)
        states = [_rows(s, 0, count) for s in states]
        y, states = step(_rows(x, begin, begin + steps * count), steps, count, states, False)
        outputs.append(y)
    ends = [states, *(f for f in reversed(final) if f is not None)]
    return _joined(outputs), [_joined([end[i] for end in ends]) for i in range(len(states))]


def _backward(step: Any, x: Any, first: list[Any], parts: list[tuple[int, int, int]]) -> tuple[Any, list[Any]]:
    """From the last step to the first: sequences begin where they have their last one."""
    outputs, states = [], []
    for begin, steps, count in reversed(parts):
        have = states[0].shape[0] if states else 0
        new = [_rows(s, have, count) for s in first]
        states = [_joined([s, n]) for s, n in zip(states, new, strict=True)] if states else new
        y, states = step(_rows(x, begin, begin + steps * count), steps, count, states, True)
        outputs.append(y)
    return _joined(outputs[::-1]), states


def packed_layers(
    cell: str,
    data: Array,
    batch_sizes: np.ndarray,
    hx: Sequence[Array],
    params: Sequence[Array],
    has_biases: bool,
    num_layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
) -> tuple[Tensor, ...]:
    """(y, h_n[, c_n]) of stacked layers; see rnn.lstm for the arguments.

    Args:
        data: (sum of batch_sizes, I), the steps of time 0, then of time 1, and so on.
        batch_sizes: how many sequences reach each time, not rising.
        hx: h0 and, for an LSTM, c0 (num_layers * directions, N, H).
    """
    op, each, directions = _ops[cell], 4 if has_biases else 2, 2 if bidirectional else 1
    parts = runs(batch_sizes)
    x, last = data, []
    for layer in range(num_layers):
        outputs = []
        for direction in range(directions):
            i = layer * directions + direction
            weights = (*params[i * each : (i + 1) * each], *(() if has_biases else (None, None)))

            def step(
                piece: Any, steps: int, count: int, states: list[Any], reverse: bool, weights: Any = weights
            ) -> tuple[Any, list[Any]]:
                piece = shape.reshape(piece, (steps, count, piece.shape[-1]))
                y, *states = op(piece, *states, *(() if cell == "lstm" else (None,)), *weights, reverse)
                return shape.reshape(y, (steps * count, y.shape[-1])), states

            y, states = (_backward if direction else _forward)(step, x, [state[i] for state in hx], parts)
            outputs.append(y)
            last.append(states)
        x = outputs[0] if directions == 1 else shape.cat(outputs, -1)
        if dropout and train and layer < num_layers - 1:
            x = _dropout(x, dropout, True)
    return x, *(shape.stack(state) for state in zip(*last, strict=True))
