"""Makes two PyTorch models faster with one line each, and draws what it gained.

    python examples/swap_torch.py [--out swap_torch.png] [--small]

A ResNet and a small GPT, written in plain torch, are swapped for training and for inference; the report of each is
printed. Needs torch and matplotlib.
"""

from __future__ import annotations

import argparse

import fastnn
import torch
from torch import nn
from torch.nn import functional as F


class Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU()
        self.shortcut = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y)) + self.shortcut(x)
        return self.relu(y)


class ResNet(nn.Sequential):
    """He et al. 2015 (ResNet-18 with width 64)."""

    def __init__(self, width: int) -> None:
        stages = [(width * 2**i, 1 if i == 0 else 2) for i in range(4)]
        blocks, inputs = [], width
        for outputs, stride in stages:
            blocks += [Block(inputs, outputs, stride), Block(outputs, outputs, 1)]
            inputs = outputs
        super().__init__(
            nn.Conv2d(3, width, 7, 2, 3, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.MaxPool2d(3, 2, 1),
            *blocks,
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(inputs, 1000),
        )


class Layer(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(approximate="tanh"), nn.Linear(4 * width, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, length, width = x.shape
        q, k, v = (
            y.view(batch, length, self.heads, width // self.heads).transpose(1, 2)
            for y in self.qkv(self.norm1(x)).chunk(3, dim=-1)
        )
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(y.transpose(1, 2).reshape(batch, length, width))
        return x + self.mlp(self.norm2(x))


class GPT(nn.Module):
    """Radford et al. 2019 (GPT-2), few layers."""

    def __init__(self, width: int, layers: int, vocabulary: int = 1000, length: int = 128) -> None:
        super().__init__()
        self.token, self.position = nn.Embedding(vocabulary, width), nn.Embedding(length, width)
        self.layers = nn.Sequential(*(Layer(width, width // 32) for _ in range(layers)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, vocabulary, bias=False)
        self.head.weight = self.token.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.token(ids) + self.position.weight[: ids.shape[1]]
        return self.head(self.norm(self.layers(x)))


def draw(times: dict[str, tuple[float, float]], path: str) -> None:
    """Bars of milliseconds: torch, and after the swap."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(times), figsize=(2.6 * len(times), 3.4), layout="constrained")
    for axis, (name, pair) in zip(axes, times.items(), strict=True):
        milliseconds = [us / 1000 for us in pair]
        bars = axis.bar(["torch", "fastnn"], milliseconds, color=["#b8b8b8", "#4a8a5c"])
        axis.bar_label(bars, fmt="%.3g")
        axis.set_title(f"{name}\n{pair[0] / pair[1]:.2f} times as fast", fontsize=10)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("ms, the whole model")
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", default="swap_torch.png", help="the chart")
    parser.add_argument("--small", action="store_true", help="narrow models, for a first look")
    arguments = parser.parse_args()

    torch.manual_seed(0)
    size = 32 if arguments.small else 112
    models = {
        "ResNet": (ResNet(8 if arguments.small else 32), torch.randn(2, 3, size, size)),
        "GPT": (GPT(64 if arguments.small else 256, 2), torch.randint(1000, (2, 32 if arguments.small else 128))),
    }
    times = {}
    for name, (model, sample) in models.items():
        for mode in ("training", "inference"):
            with fastnn.swapped(model, sample, mode=mode) as report:
                print(f"\n{name}, {mode}\n{report}")
                # ... train or run the model here; it is torch's again after the block
            if report.before_us and report.after_us:
                times[f"{name}, {mode}"] = (report.before_us, report.after_us)
    if times:
        draw(times, arguments.out)
        print(f"\nwrote {arguments.out}")


if __name__ == "__main__":
    main()
