"""Sequences of different lengths, packed without padding, as torch.nn.utils.rnn has them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from .. import functional as F
from .._arrays import as_tensor
from ..tensor import Tensor


class PackedSequence(NamedTuple):
    """Steps of sequences, sorted by falling length: those of time 0, then of time 1, and so on.

    Attributes:
        data: (sum of lengths, ...). batch_sizes: how many sequences reach each time, int64.
        sorted_indices: which sequence stands at each place, unsorted_indices: where each sequence stands; or None.
    """

    data: Tensor
    batch_sizes: Tensor
    sorted_indices: Tensor | None = None
    unsorted_indices: Tensor | None = None


def _order(op: str, lengths: np.ndarray, enforce_sorted: bool) -> np.ndarray | None:
    if not enforce_sorted:
        return np.argsort(-lengths, kind="stable")
    if (np.diff(lengths) > 0).any():
        raise ValueError(f"{op}: lengths are {lengths.tolist()}; expected falling ones, or enforce_sorted=False")
    return None


def _integers(op: str, value: Any) -> np.ndarray:
    values = value.numpy() if hasattr(value, "numpy") else np.asarray(value)
    if values.ndim != 1 or values.dtype.kind not in "iu":
        raise TypeError(f"{op}: lengths is {value!r}; expected ints")
    return values.astype(np.int64)


def _gather(x: Tensor, rows: np.ndarray, trailing: tuple[int, ...]) -> Tensor:
    """(len(rows), *trailing): rows of x (..., *trailing), which embedding gathers and whose gradient it sums."""
    width = int(np.prod(trailing))
    return F.reshape(F.embedding(rows, F.reshape(x, (-1, width) if width else (x.shape[0], 0))), (len(rows), *trailing))


def pack_padded_sequence(
    input: Tensor, lengths: Any, batch_first: bool = False, enforce_sorted: bool = True
) -> PackedSequence:
    """The steps of sequences in input (T, N, ...), with batch_first (N, T, ...), without those from their length on.

    Raises:
        ValueError: lengths are not N numbers from 1 to T, or, with enforce_sorted, rise.
    """
    op = "pack_padded_sequence"
    lengths = _integers(op, lengths)
    order = _order(op, lengths, enforce_sorted)
    n, steps = (input.shape[0], input.shape[1]) if batch_first else (input.shape[1], input.shape[0])
    if len(lengths) != n or n == 0 or lengths.min() < 1 or lengths.max() > steps:
        raise ValueError(f"{op}: lengths are {lengths.tolist()}; expected {n} numbers from 1 to {steps}, one or more")
    place = np.arange(n) if order is None else order
    here = np.arange(lengths.max())[:, None] < lengths[place]  # (T, N)
    time, rank = np.nonzero(here)
    rows = place[rank] * steps + time if batch_first else time * n + place[rank]
    data = _gather(input, rows, tuple(input.shape[2:]))
    return PackedSequence(data, as_tensor(here.sum(1).astype(np.int64), op), *_indices(order))


def _indices(order: np.ndarray | None) -> tuple[Tensor | None, Tensor | None]:
    if order is None:
        return None, None
    return as_tensor(order, "order"), as_tensor(np.argsort(order), "order")


def pad_packed_sequence(
    sequence: PackedSequence, batch_first: bool = False, padding_value: float = 0.0, total_length: int | None = None
) -> tuple[Tensor, Tensor]:
    """(padded, lengths): (T, N, ...), with batch_first (N, T, ...), in the order before packing, and int64 lengths.

    Args:
        total_length: T; by default that of the longest sequence.
    """
    op = "pad_packed_sequence"
    data, sizes = sequence.data, sequence.batch_sizes.numpy()
    steps = len(sizes) if total_length is None else total_length
    if steps < len(sizes):
        raise ValueError(f"{op}: total_length is {total_length}; expected at least {len(sizes)}, the longest length")
    n, trailing = int(sizes[0]), tuple(data.shape[1:])
    begin = np.concatenate(([0], np.cumsum(sizes)))
    rows = np.full((steps, n), begin[-1])  # the row of padding
    for t, size in enumerate(sizes):
        rows[t, :size] = begin[t] + np.arange(size)
    lengths = (sizes[:, None] > np.arange(n)).sum(0)
    if sequence.unsorted_indices is not None:
        back = sequence.unsorted_indices.numpy()
        rows, lengths = rows[:, back], lengths[back]
    if batch_first:
        rows = rows.T
    padding = as_tensor(np.full((1, *trailing), padding_value, data.dtype), op)
    out = _gather(F.cat((data, padding), 0), np.ascontiguousarray(rows).ravel(), trailing)
    return F.reshape(out, (*rows.shape, *trailing)), as_tensor(lengths.astype(np.int64), op)


def pad_sequence(
    sequences: Sequence[Tensor], batch_first: bool = False, padding_value: float = 0.0, padding_side: str = "right"
) -> Tensor:
    """Sequences (T_i, ...) as (T, N, ...), with batch_first (N, T, ...), T the largest length."""
    op = "pad_sequence"
    if padding_side not in ("left", "right"):
        raise ValueError(f"{op}: padding_side is {padding_side!r}; expected 'left' or 'right'")
    if not len(sequences):
        raise ValueError(f"{op}: sequences is empty; expected at least one")
    steps = max(s.shape[0] for s in sequences)
    padded = []
    for s in sequences:
        short = steps - s.shape[0]
        edge = (0, 0) * (s.ndim - 1) + ((short, 0) if padding_side == "left" else (0, short))
        padded.append(F.pad(s, edge, value=padding_value) if short else s)
    return F.stack(padded, 0 if batch_first else 1)


def unpad_sequence(padded_sequences: Tensor, lengths: Any, batch_first: bool = False) -> list[Tensor]:
    """The sequences of pad_sequence again."""
    x = padded_sequences if batch_first else F.transpose(padded_sequences, 0, 1)
    return [x[i, :length] for i, length in enumerate(_integers("unpad_sequence", lengths).tolist())]


def pack_sequence(sequences: Sequence[Tensor], enforce_sorted: bool = True) -> PackedSequence:
    """Sequences (T_i, ...), packed; in falling order of length, or with enforce_sorted=False in any."""
    lengths = np.array([s.shape[0] for s in sequences])
    return pack_padded_sequence(pad_sequence(sequences), lengths, enforce_sorted=enforce_sorted)


def unpack_sequence(packed_sequences: PackedSequence) -> list[Tensor]:
    """The sequences of pack_sequence again."""
    return unpad_sequence(*pad_packed_sequence(packed_sequences))
