"""conv2d: LeNet's two layers, layers of ResNet and VGG, depthwise, grouped and dilated ones."""

from __future__ import annotations

from functools import partial
from math import prod
from typing import Any, NamedTuple

from .cases import Case
from .functional import functional


class Shape(NamedTuple):
    name: str
    batch: int
    channels: int
    size: int  # height = width
    filters: int
    kernel: int
    stride: int = 1
    padding: int = 0
    dilation: int = 1
    groups: int = 1


SHAPES = (
    Shape("tiny 3x3", 2, 8, 12, 16, 3, padding=1),
    Shape("lenet 5x5 1-6", 100, 1, 28, 6, 5, padding=2),
    Shape("lenet 5x5 6-16", 100, 6, 14, 16, 5),
    Shape("resnet 7x7/2 3-64", 16, 3, 224, 64, 7, stride=2, padding=3),
    Shape("resnet 3x3 64 56", 32, 64, 56, 64, 3, padding=1),
    Shape("resnet 3x3 128 28", 32, 128, 28, 128, 3, padding=1),
    Shape("resnet 3x3 256 14", 32, 256, 14, 256, 3, padding=1),
    Shape("resnet 3x3 512 7", 32, 512, 7, 512, 3, padding=1),
    Shape("resnet 3x3/2 128 56", 32, 128, 56, 128, 3, stride=2, padding=1),
    Shape("resnet 1x1 256-64 56", 32, 256, 56, 64, 1),
    Shape("resnet 1x1 64-256 56", 32, 64, 56, 256, 1),
    Shape("resnet 3x3 64 56 batch 1", 1, 64, 56, 64, 3, padding=1),
    Shape("resnet 3x3 128 28 batch 1", 1, 128, 28, 128, 3, padding=1),
    Shape("resnet 3x3 256 14 batch 1", 1, 256, 14, 256, 3, padding=1),
    Shape("resnet 3x3 512 7 batch 1", 1, 512, 7, 512, 3, padding=1),
    Shape("vgg 3x3 64 224 batch 1", 1, 64, 224, 64, 3, padding=1),
    Shape("vgg 3x3 64-128 112", 16, 64, 112, 128, 3, padding=1),
    Shape("vgg 3x3 128-256 56", 16, 128, 56, 256, 3, padding=1),
    Shape("vgg 3x3 256-512 28", 16, 256, 28, 512, 3, padding=1),
    Shape("vgg 3x3 512 14", 16, 512, 14, 512, 3, padding=1),
    Shape("depthwise 3x3 32 112", 32, 32, 112, 32, 3, padding=1, groups=32),
    Shape("grouped 3x3 128/32 28", 32, 128, 28, 128, 3, padding=1, groups=32),
    Shape("dilated 3x3 64 28", 16, 64, 28, 64, 3, padding=2, dilation=2),
)


def _onnx(helper: Any, s: Shape) -> list[Any]:
    attributes = {"strides": [s.stride] * 2, "pads": [s.padding] * 4, "dilations": [s.dilation] * 2, "group": s.groups}
    return [helper.make_node("Conv", ["input", "weight", "bias"], ["y"], **attributes)]


def _jax(jax: Any, x: Any, w: Any, b: Any, stride: int, padding: int, dilation: int, groups: int) -> Any:
    convolve = jax.lax.conv_general_dilated
    return convolve(
        x,
        w,
        window_strides=(stride, stride),
        padding=[(padding, padding)] * 2,
        rhs_dilation=(dilation, dilation),
        feature_group_count=groups,
    ) + b.reshape(-1, 1, 1)


def conv2d_case(s: Shape, direction: str, family: str = "conv2d") -> Case:
    """The case of one layer."""
    out_size = (s.size + 2 * s.padding - s.dilation * (s.kernel - 1) - 1) // s.stride + 1
    out = (s.batch, s.filters, out_size, out_size)
    weight = (s.filters, s.channels // s.groups, s.kernel, s.kernel)
    return functional(
        "conv2d",
        s.name,
        direction,
        {"input": (s.batch, s.channels, s.size, s.size), "weight": weight, "bias": (s.filters,)},
        out,
        kwargs={"stride": s.stride, "padding": s.padding, "dilation": s.dilation, "groups": s.groups},
        flops=2 * prod(out) * prod(weight[1:]),
        layouts=True,
        onnx=partial(_onnx, s=s),
        jax=_jax,
        family=family,
    )


CASES = [conv2d_case(shape, direction) for shape in SHAPES for direction in ("fwd", "bwd")]
