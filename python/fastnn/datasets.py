"""Datasets as numpy arrays."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

_FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
_MIRRORS = ("https://ossci-datasets.s3.amazonaws.com/mnist/", "https://storage.googleapis.com/cvdf-datasets/mnist/")
_MD5 = {  # of the .gz files as the mirrors have them
    "train-images-idx3-ubyte": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
    "train-labels-idx1-ubyte": "d53e105ee54ea40749a09fcbcd1e9432",
    "t10k-images-idx3-ubyte": "9fb629c4189551a2d022fa330f9573f3",
    "t10k-labels-idx1-ubyte": "ec29112dd5afa0611ce80d1b7f02629c",
}
_TIMEOUT_S = 10


def mnist(split: str) -> tuple[np.ndarray, np.ndarray]:
    """Handwritten digits (Y. LeCun, C. Cortes, C. J. C. Burges: The MNIST database of handwritten digits, 1998).

    The files come from the first of these that has them:
      1. the folder that the environment variable FASTNN_DATA_DIR names, or `mnist` or torchvision's `MNIST/raw` in it:
         the IDX files, as they are or as .gz; if it is set, no other place is looked at;
      2. the cache, `$XDG_CACHE_HOME/fastnn/mnist` or `~/.cache/fastnn/mnist`;
      3. a download of about 10 MB into the cache, with its checksum verified;
      4. without a network, a sample of real images that the package ships, with a warning that says so.

    Args:
        split: "train" (60,000 images) or "test" (10,000 images).

    Returns:
        images, uint8 (N, 28, 28), ink is 255; and labels, int64 (N,), 0 to 9.

    Raises:
        ValueError: another split, or a file that is truncated or corrupt.
        FileNotFoundError: FASTNN_DATA_DIR is set but lacks a file.
    """
    if split not in _FILES:
        raise ValueError(f"mnist: split is {split!r}; expected 'train' or 'test'")
    data_dir = os.environ.get("FASTNN_DATA_DIR")
    if data_dir:
        image_file, label_file = (_find_in_data_dir(Path(data_dir).expanduser(), name) for name in _FILES[split])
    else:
        cache = _cache_dir()
        try:
            image_file, label_file = (_find(cache, name) or _download(name, cache) for name in _FILES[split])
        except OSError as error:
            return _sample(split, reason=error)
    images = _read_idx(image_file, magic=0x803)
    labels = _read_idx(label_file, magic=0x801)
    if images.shape[1:] != (28, 28):
        raise _corrupt(image_file, f"its images are {images.shape[1:]}; expected (28, 28)")
    if len(labels) != len(images):
        raise _corrupt(label_file, f"it has {len(labels)} labels but {image_file} has {len(images)} images")
    if labels.max(initial=0) > 9:
        raise _corrupt(label_file, f"it has the label {labels.max()}; expected 0 to 9")
    return images, labels.astype(np.int64)


def _find(folder: Path, name: str) -> Path | None:
    candidates = (folder / name, folder / f"{name}.gz")
    return next((path for path in candidates if path.is_file()), None)


def _find_in_data_dir(data_dir: Path, name: str) -> Path:
    folders = (data_dir, data_dir / "mnist", data_dir / "MNIST" / "raw")
    for folder in folders:
        if path := _find(folder, name):
            return path
    raise FileNotFoundError(
        f"mnist: FASTNN_DATA_DIR is set, but there is no {name}.gz or {name} in {', '.join(map(str, folders))}; "
        f"get it from {_MIRRORS[0]}, or unset FASTNN_DATA_DIR to use the cache and the download"
    )


def _cache_dir() -> Path:
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path("~/.cache").expanduser()) / "fastnn" / "mnist"


def _download(name: str, folder: Path) -> Path:
    """Gets a file from the first mirror that has it intact; OSError if none has, or if the cache cannot be written."""
    import hashlib
    from http.client import HTTPException

    from .serialization import atomic_path

    folder.mkdir(parents=True, exist_ok=True)
    failures = []
    for mirror in _MIRRORS:
        url = f"{mirror}{name}.gz"
        try:
            content = _fetch(url)
        except (OSError, HTTPException) as error:
            failures.append(f"{url}: {error}")
            continue
        md5 = hashlib.md5(content, usedforsecurity=False).hexdigest()
        if md5 != _MD5[name]:
            failures.append(f"{url}: its md5 is {md5}; expected {_MD5[name]}")
            continue
        path = folder / f"{name}.gz"
        with atomic_path(path) as temporary:
            temporary.write_bytes(content)
        return path
    raise ConnectionError("; ".join(failures))


def _fetch(url: str) -> bytes:
    from urllib.request import urlopen

    chunks = []
    with urlopen(url, timeout=_TIMEOUT_S) as response:
        with _progress(url.rpartition("/")[2], response.headers.get("Content-Length")) as advance:
            while chunk := response.read(1 << 16):
                chunks.append(chunk)
                advance(len(chunk))
    return b"".join(chunks)


@contextmanager
def _progress(description: str, total: str | None) -> Iterator[Callable[[int], object]]:
    try:
        from tqdm import tqdm
    except ImportError:
        yield lambda count: None
        return
    # disable=None: no bar where stderr is not a terminal.
    with tqdm(desc=description, total=int(total) if total else None, unit="B", unit_scale=True, disable=None) as bar:
        yield bar.update


def _read_idx(path: Path, magic: int) -> np.ndarray:
    """An IDX file of unsigned bytes: magic 0x0800 + rank, the sizes (big-endian, 32 bits each), then the data."""
    content = path.read_bytes()
    if path.suffix == ".gz":
        import gzip
        import zlib

        try:
            content = gzip.decompress(content)
        except (EOFError, OSError, zlib.error) as error:
            raise _corrupt(path, f"it does not decompress ({error})") from error
    rank = magic & 0xFF
    header = np.frombuffer(content[: 4 * (1 + rank)], ">u4") if len(content) >= 4 * (1 + rank) else None
    if header is None or header[0] != magic:
        raise _corrupt(path, f"its header is {content[:4].hex() or 'empty'}; expected {magic:08x}")
    shape = tuple(map(int, header[1:]))
    size = int(np.prod(shape, dtype=object))  # exact: sizes in a corrupt header may overflow 64 bits
    if len(content) - header.nbytes != size:
        raise _corrupt(path, f"it has {len(content) - header.nbytes} bytes of data; expected {size} for shape {shape}")
    return np.frombuffer(content, np.uint8, offset=header.nbytes).reshape(shape).copy()


def _corrupt(path: Path, what: str) -> ValueError:
    return ValueError(
        f"mnist: {path} is truncated or corrupt: {what}; delete it and put an intact copy there (what is missing "
        "from the cache is downloaded again)"
    )


def _sample(split: str, reason: OSError) -> tuple[np.ndarray, np.ndarray]:
    with np.load(Path(__file__).with_name("mnist_sample.npz")) as sample:
        images, labels = sample[f"{split}_images"], sample[f"{split}_labels"].astype(np.int64)
    full = {"train": "60,000", "test": "10,000"}[split]
    warnings.warn(
        f"mnist: the {split} images cannot be downloaded, so this is the packaged SAMPLE of {len(images):,} of the "
        f"{full} images: accuracies will be lower than on the full set. To get the full set, call again with a "
        f"network, or put {', '.join(f'{name}.gz' for name in _MD5)} from {_MIRRORS[0]} into a folder and set "
        f"FASTNN_DATA_DIR to it. (The reason: {reason})",
        stacklevel=3,
    )
    return images, labels
