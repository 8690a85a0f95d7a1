"""Trains LeNet on MNIST, then shows what it thinks of your own digits.

    python examples/train_mnist.py                          ten epochs, to about 99 % of the test images
    python examples/train_mnist.py --predict digit.png 7    an image file, and number 7 of the test images

The net is LeNet-5 (Y. LeCun et al., Gradient-based learning applied to document recognition, 1998) with ReLU and max
pooling.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import digits
import fastnn
import fastnn.functional as F
import numpy as np
from fastnn.data import DataLoader
from fastnn.optim import SGD
from fastnn.optim.lr_scheduler import CosineAnnealingLR
from fastnn.transforms import normalize
from tqdm import tqdm


def lenet() -> fastnn.Sequential:
    return fastnn.Sequential(
        fastnn.Conv2d(1, 6, 5, padding=2), fastnn.ReLU(), fastnn.MaxPool2d(2),
        fastnn.Conv2d(6, 16, 5), fastnn.ReLU(), fastnn.MaxPool2d(2),
        fastnn.Flatten(),
        fastnn.Linear(400, 120), fastnn.ReLU(),
        fastnn.Linear(120, 84), fastnn.ReLU(),
        fastnn.Linear(84, 10),
    )  # fmt: skip


def prepare(images: np.ndarray) -> np.ndarray:
    """uint8 (N, 28, 28) -> float32 (N, 1, 28, 28) with the mean and deviation of MNIST taken out."""
    return normalize(images[:, None], mean=0.1307, std=0.3081)


def train(net: fastnn.Sequential, epochs: int) -> None:
    test = fastnn.datasets.mnist("test")
    loader = DataLoader(fastnn.datasets.mnist("train"), batch_size=100, shuffle=True, transform=prepare)
    optimizer = SGD(net.parameters(), lr=0.02, momentum=0.9)
    schedule = CosineAnnealingLR(optimizer, T_max=epochs * len(loader))
    for epoch in range(1, epochs + 1):
        total = 0.0
        for images, labels in tqdm(loader, desc=f"epoch {epoch}/{epochs}", unit="batch", leave=False):
            loss = F.cross_entropy(net(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item()
        print(f"epoch {epoch}: loss {total / len(loader):.4f}, test accuracy {accuracy(net, *test):.2f} %", flush=True)


@fastnn.no_grad()
def accuracy(net: fastnn.Sequential, images: np.ndarray, labels: np.ndarray) -> float:
    """Percent of the images whose largest output is the label's."""
    batches = DataLoader(images, labels, batch_size=1000, transform=prepare)
    right = sum(int((net(images).argmax(1) == labels).sum()) for images, labels in batches)
    return 100 * right / len(images)


def find(name: str) -> np.ndarray:
    """A digit, uint8 (28, 28), from an image file, or from the test images by its number."""
    return fastnn.datasets.mnist("test")[0][int(name)] if name.isdecimal() else digits.read(name)


@fastnn.no_grad()
def predict(net: fastnn.Sequential, name: str, image: np.ndarray) -> None:
    probabilities = F.softmax(net(prepare(image[None])), dim=1)[0]
    print(f"\n{name}: this is a {probabilities.argmax()}\n{digits.draw(image, probabilities)}\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, help="default: 10; with --predict, 0 if there is a saved model")
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same model")
    parser.add_argument("--threads", type=int, default=fastnn.get_num_threads(), help="default: %(default)s")
    parser.add_argument("--out", type=Path, default=Path("lenet.safetensors"), help="the model (%(default)s)")
    parser.add_argument("--predict", nargs="+", default=[], metavar="IMAGE", help="PNG, JPEG, PGM, NPY or a number")
    arguments = parser.parse_args()
    epochs = arguments.epochs
    if epochs is None:
        epochs = 0 if arguments.predict and arguments.out.exists() else 10
    if not arguments.out.resolve().parent.is_dir():  # better said before the training than after it
        parser.error(f"--out: there is no folder {arguments.out.resolve().parent}")
    try:
        images = {name: find(name) for name in arguments.predict}
    except (ImportError, IndexError, OSError, ValueError) as error:
        parser.error(f"--predict: {error}")

    fastnn.set_num_threads(arguments.threads)
    fastnn.manual_seed(arguments.seed)
    net = lenet()
    if epochs > 0:
        train(net, epochs)
        fastnn.save(net.state_dict(), arguments.out)
        print(f"saved {arguments.out}")
    else:
        net.load_state_dict(fastnn.load(arguments.out))
    for name, image in images.items():
        predict(net, name, image)
    print(f"test accuracy: {accuracy(net, *fastnn.datasets.mnist('test')):.2f} %")


if __name__ == "__main__":
    main()
