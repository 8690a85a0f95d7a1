"""Makes python/fastnn/mnist_sample.npz, which `fastnn.datasets.mnist` falls back to without a network.

Of each digit it takes the first 300 training and the first 100 test images, in the order of the full set, so that the
sample is balanced and running this again makes the same file. It needs the full set:

    FASTNN_DATA_DIR=FOLDER python tools/make_mnist_sample.py
"""

from pathlib import Path

import numpy as np
from fastnn.datasets import mnist

PER_CLASS = {"train": 300, "test": 100}
FULL_SIZE = {"train": 60_000, "test": 10_000}
TARGET = Path(__file__).resolve().parents[1] / "python" / "fastnn" / "mnist_sample.npz"


def main() -> None:
    sample = {}
    for split, count in PER_CLASS.items():
        images, labels = mnist(split)
        if len(images) != FULL_SIZE[split]:
            raise SystemExit(f"need the full {split} set of {FULL_SIZE[split]} images but have {len(images)}")
        rows = np.sort(np.concatenate([np.flatnonzero(labels == digit)[:count] for digit in range(10)]))
        sample[f"{split}_images"] = images[rows]
        sample[f"{split}_labels"] = labels[rows].astype(np.uint8)
    np.savez_compressed(TARGET, **sample)
    print(f"{TARGET}: {TARGET.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
