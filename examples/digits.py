"""Reads images of single digits the way that MNIST has them, and draws them in a terminal."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np


def read(path: str) -> np.ndarray:
    """A digit from a .npy, .pgm or (with Pillow) any other image file, as MNIST would have it: uint8 (28, 28)."""
    suffix = Path(path).suffix.lower()
    if suffix == ".npy":
        image = np.load(path)
    elif suffix == ".pgm":
        image = _read_pgm(path)
    else:
        try:
            from PIL import Image
        except ImportError:
            raise ImportError(f"reading {suffix} files needs Pillow: pip install pillow") from None
        image = np.asarray(Image.open(path).convert("L"))
    if image.ndim != 2 or not image.size:
        raise ValueError(f"its shape is {image.shape}; expected a gray image (height, width)")
    image = image.astype(np.float32)
    if image.mean() > (image.min() + image.max()) / 2:  # dark ink on paper: MNIST has white ink on black
        image = image.max() - image
    return image.astype(np.uint8) if image.shape == (28, 28) else _fit(image - image.min())


def draw(image: np.ndarray, probabilities: np.ndarray) -> str:
    """The image in half blocks, two rows of pixels to a line, and a bar for the probability of each digit."""
    ink = image > 96
    lines = [
        "".join(" ▀▄█"[up + 2 * low] for up, low in zip(*rows, strict=True))
        for rows in zip(ink[::2], ink[1::2], strict=True)
    ]
    for digit, p in enumerate(probabilities):
        lines[digit + 2] += f"    {digit} {'█' * round(30 * float(p)):30} {100 * p:5.1f} %"
    return "\n".join(lines)


def _read_pgm(path: str) -> np.ndarray:
    content = Path(path).read_bytes()
    header = re.match(rb"P5\s(?:\s*#.*\n)*\s*(\d+)\s+(\d+)\s+(\d+)\s", content)
    if not header or int(header[3]) > 255:
        raise ValueError("expected a binary PGM file (P5) with 8 bits for a pixel")
    width, height = int(header[1]), int(header[2])
    return np.frombuffer(content, np.uint8, width * height, header.end()).reshape(height, width)


def _fit(image: np.ndarray) -> np.ndarray:
    """As MNIST was made: the ink in a box of 20 x 20, its centre of mass in the middle of 28 x 28."""
    rows, columns = (np.flatnonzero((image > image.max() / 4).any(axis)) for axis in (1, 0))
    ink = image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    scale = 20 / max(ink.shape)
    height, width = (max(1, round(size * scale)) for size in ink.shape)
    small = _resample(height, ink.shape[0]) @ ink @ _resample(width, ink.shape[1]).T
    mass = small / small.sum()
    top = round(14 - mass.sum(1) @ np.arange(height))
    left = round(14 - mass.sum(0) @ np.arange(width))
    top, left = np.clip(top, 0, 28 - height), np.clip(left, 0, 28 - width)
    out = np.zeros((28, 28), np.uint8)
    out[top : top + height, left : left + width] = 255 * small / small.max()
    return out


def _resample(target: int, source: int) -> np.ndarray:
    """(target, source) matrix: each new pixel is the mean of the part of the old ones that it covers."""
    edges = np.arange(target + 1)[:, None] * source / target
    old = np.arange(source)
    cover = np.minimum(edges[1:], old + 1) - np.maximum(edges[:-1], old)
    return np.maximum(cover, 0) * target / source
