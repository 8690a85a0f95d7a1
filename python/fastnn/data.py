"""Mini-batches from arrays in memory."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Sequence

import numpy as np


class DataLoader:
    """Iterates over arrays in mini-batches, in a new random order each epoch if `shuffle`.

        loader = DataLoader(images, labels, batch_size=100, shuffle=True, transform=lambda x: normalize(x, 0.13, 0.31))
        for image_batch, label_batch in loader: ...

    Args:
        *arrays: numpy arrays of shape (N, ...) of any dtype, memory maps too; or one tuple or list of them, as
            `datasets.mnist` returns.
        batch_size: samples per batch.
        shuffle: permute the samples, anew in each epoch.
        drop_last: leave out the last batch if it has fewer than batch_size samples.
        seed: makes the orders of all epochs a function of it; None takes them from `fastnn.manual_seed`'s generator.
        transform: called with the first array of each batch (the images); its result takes that array's place.

    Each iteration yields tuples with one array per array given, of shape (batch_size, ...): copies, so that they may be
    changed in place. `len(loader)` is the number of batches.

    Raises:
        TypeError: no arrays, something that is not a numpy array, or a batch_size or seed that is no integer.
        ValueError: a 0-d array, different first dimensions, batch_size < 1, or a negative seed.
    """

    def __init__(
        self,
        *arrays: np.ndarray | Sequence[np.ndarray],
        batch_size: int = 1,
        shuffle: bool = False,
        drop_last: bool = False,
        seed: int | None = None,
        transform: Callable[[np.ndarray], np.ndarray] | None = None,
    ) -> None:
        if len(arrays) == 1 and isinstance(arrays[0], (tuple, list)):
            arrays = tuple(arrays[0])
        self.arrays = _check_arrays(arrays)
        self.batch_size = check_integer("DataLoader", "batch_size", batch_size, minimum=1)
        self.shuffle = bool(shuffle)
        self.drop_last = bool(drop_last)
        if transform is not None and not callable(transform):
            raise TypeError(f"DataLoader: transform is a {type(transform).__name__}; expected a callable or None")
        self.transform = transform
        self._generator = (
            None if seed is None else np.random.default_rng(check_integer("DataLoader", "seed", seed, minimum=0))
        )

    def __len__(self) -> int:
        samples = len(self.arrays[0])
        return samples // self.batch_size if self.drop_last else -(-samples // self.batch_size)

    def __iter__(self) -> Iterator[tuple[np.ndarray, ...]]:
        # The order is drawn here and not in the generator below, so that iterators made one after the other have
        # the same orders however their steps interleave.
        order = self._draw_order() if self.shuffle else None
        return self._batches(order)

    def _draw_order(self) -> np.ndarray:
        generator = self._generator
        if generator is None:
            from . import random

            generator = random.generator()
        return generator.permutation(len(self.arrays[0]))

    def _batches(self, order: np.ndarray | None) -> Iterator[tuple[np.ndarray, ...]]:
        for start in range(0, len(self) * self.batch_size, self.batch_size):
            rows = slice(start, start + self.batch_size)
            if order is None:
                batch = [array[rows].copy() for array in self.arrays]
            else:
                batch = [array[order[rows]] for array in self.arrays]
            if self.transform is not None:
                batch[0] = self.transform(batch[0])
            yield tuple(batch)


def _check_arrays(arrays: Sequence[object]) -> tuple[np.ndarray, ...]:
    if not arrays:
        raise TypeError("DataLoader: got no arrays; expected at least one numpy array of shape (N, ...)")
    for i, array in enumerate(arrays):
        if not isinstance(array, np.ndarray):
            raise TypeError(
                f"DataLoader: array {i} is a {type(array).__name__}; expected a numpy array; convert it "
                "with numpy.asarray or its .numpy()"
            )
        if array.ndim == 0:
            raise ValueError(f"DataLoader: array {i} is 0-d; expected shape (N, ...)")
        if len(array) != len(arrays[0]):
            raise ValueError(
                f"DataLoader: array {i} has {len(array)} samples but array 0 has {len(arrays[0])}; expected the "
                "same first dimension"
            )
    return tuple(np.asarray(array) for array in arrays)  # plain views: batches of a memory map are plain arrays


def check_integer(op: str, name: str, value: int, minimum: int) -> int:
    """value as an int of at least minimum, or an error that names op and argument."""
    try:
        if isinstance(value, (bool, np.bool_)):
            raise TypeError
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{op}: {name} is {value!r}; expected an integer") from None
    if number < minimum:
        raise ValueError(f"{op}: {name} is {number}; expected at least {minimum}")
    return number
