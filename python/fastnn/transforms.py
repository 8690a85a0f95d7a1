"""Image transforms over a whole batch.

Images are numpy arrays of shape (N, C, H, W), or (N, H, W) for gray images without a channel axis. Each function
returns a new array and leaves its input alone. The random ones draw once per image from `generator`, or from
`fastnn.manual_seed`'s generator if it is None.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from .data import check_integer


def normalize(images: np.ndarray, mean: float | Sequence[float], std: float | Sequence[float]) -> np.ndarray:
    """(x - mean) / std per channel, where uint8 images are scaled to [0, 1] first: x = images / 255.

    Args:
        images: (N, C, H, W) or (N, H, W); uint8, float32 or float64.
        mean, std: a number, or one per channel for (N, C, H, W), on the scale of x; std > 0.

    Returns:
        An array of the same shape: float32 for uint8, else the dtype of images.

    Raises:
        TypeError, ValueError: wrong type or rank of images, wrong length of mean or std, a value not finite, std <= 0.
        NotImplementedError: images of another dtype.
    """
    _check_images("normalize", images)
    if images.dtype not in (np.uint8, np.float32, np.float64):
        raise NotImplementedError(
            f"normalize: images have dtype {images.dtype}; expected uint8, float32 or float64; convert them with astype"
        )
    shift = _per_channel("mean", mean, images)
    scale = _per_channel("std", std, images)
    if not (scale > 0).all():
        raise ValueError(f"normalize: std is {std}; expected positive values")
    dtype = images.dtype
    if dtype == np.uint8:  # (x / 255 - mean) / std = (x - 255 mean) / (255 std): one pass less over the batch
        dtype, shift, scale = np.dtype(np.float32), shift * 255, scale * 255
    out = np.subtract(images, shift.astype(dtype), dtype=dtype)
    out /= scale.astype(dtype)
    return out


def random_crop(
    images: np.ndarray,
    size: int | tuple[int, int],
    padding: int = 0,
    generator: np.random.Generator | None = None,
) -> np.ndarray:
    """Pads every side with zeros, then cuts a window at a place drawn uniformly for each image.

    Args:
        images: (N, C, H, W) or (N, H, W), any dtype.
        size: height and width of the window, or one number for both; at most H + 2 padding and W + 2 padding.
        padding: zeros added on each of the four sides.
        generator: where the places come from.

    Returns:
        (N, C, h, w) or (N, h, w), of the dtype of images.

    Raises:
        TypeError, ValueError: wrong type or rank of images, size that does not fit, negative padding.
    """
    _check_images("random_crop", images)
    height, width = size if isinstance(size, (tuple, list)) and len(size) == 2 else (size, size)
    height = check_integer("random_crop", "size", height, minimum=1)
    width = check_integer("random_crop", "size", width, minimum=1)
    padding = check_integer("random_crop", "padding", padding, minimum=0)
    *leading, image_height, image_width = images.shape
    padded_shape = (image_height + 2 * padding, image_width + 2 * padding)
    if height > padded_shape[0] or width > padded_shape[1]:
        raise ValueError(
            f"random_crop: size is {(height, width)} but the images are {padded_shape} with padding={padding}; "
            "expected a size that fits; use a smaller size or more padding"
        )
    padded = images
    if padding:
        padded = np.zeros((*leading, *padded_shape), images.dtype)
        padded[..., padding : padding + image_height, padding : padding + image_width] = images
    generator = _generator("random_crop", generator)
    top = generator.integers(0, padded_shape[0] - height + 1, len(images))
    left = generator.integers(0, padded_shape[1] - width + 1, len(images))
    windows = sliding_window_view(padded, (height, width), axis=(-2, -1))
    return windows[np.arange(len(images)), ..., top, left, :, :]


def random_flip(images: np.ndarray, p: float = 0.5, generator: np.random.Generator | None = None) -> np.ndarray:
    """Mirrors each image left to right with probability p.

    Args:
        images: (N, C, H, W) or (N, H, W), any dtype.
        p: the probability, in [0, 1].
        generator: where the choices come from.

    Returns:
        An array of the shape and dtype of images.

    Raises:
        TypeError, ValueError: wrong type or rank of images, p outside of [0, 1].
    """
    _check_images("random_flip", images)
    if not 0 <= p <= 1:
        raise ValueError(f"random_flip: p is {p}; expected a probability in [0, 1]")
    flipped = _generator("random_flip", generator).random(len(images)) < p
    out = images.copy()
    out[flipped] = images[flipped, ..., ::-1]
    return out


def _check_images(op: str, images: object) -> None:
    if not isinstance(images, np.ndarray):
        raise TypeError(f"{op}: images is a {type(images).__name__}; expected a numpy array")
    if images.ndim not in (3, 4):
        raise ValueError(
            f"{op}: images have shape {images.shape}; expected (N, C, H, W) or (N, H, W); one image is images[None]"
        )


def _per_channel(name: str, value: float | Sequence[float], images: np.ndarray) -> np.ndarray:
    """value in float64, in a shape that broadcasts over images."""
    values = np.asarray(value, np.float64)
    channels = images.shape[1] if images.ndim == 4 else 1
    if values.ndim > 1 or values.size not in (1, channels) or values.size == 0:
        raise ValueError(
            f"normalize: {name} has shape {values.shape} but images of shape {images.shape} have {channels} "
            "channel(s); expected a number or one number per channel"
        )
    if not np.isfinite(values).all():
        raise ValueError(f"normalize: {name} is {value}; expected finite values")
    return values.reshape(-1, 1, 1)


def _generator(op: str, generator: np.random.Generator | None) -> np.random.Generator:
    if generator is None:
        from . import random

        return random.generator()
    if not isinstance(generator, np.random.Generator):
        raise TypeError(
            f"{op}: generator is a {type(generator).__name__}; expected a numpy.random.Generator such as "
            "numpy.random.default_rng(0)"
        )
    return generator
