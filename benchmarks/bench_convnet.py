"""Every distinct convolution of six networks, at batch 1 and 16: `--op convnet --case "vgg16 .* batch 1$"`.

ResNet-50 (He et al. 2015, with the stride in the 3x3), VGG-16 (Simonyan & Zisserman 2014), AlexNet (one tower,
Krizhevsky 2014), GoogLeNet (Szegedy et al. 2014), MobileNetV2 (Sandler et al. 2018), all at 224x224, and LeNet-5
(LeCun et al. 1998) at 28x28.
"""

from __future__ import annotations

from .bench_conv2d import Shape, conv2d_case

DEFAULT = False  # some hundred cases: only where --op names them
BATCHES = (1, 16)

# Input channels, output channels, kernel, stride, padding, groups, input size. A layer stands under the first network
# that has it.
Layer = tuple[int, int, int, int, int, int, int]


def _pointwise(size: int, *channels: tuple[int, int]) -> list[Layer]:
    return [(c, o, 1, 1, 0, 1, size) for c, o in channels]


def _same(kernel: int, size: int, *channels: tuple[int, int]) -> list[Layer]:
    return [(c, o, kernel, 1, kernel // 2, 1, size) for c, o in channels]


def _halving(kernel: int, size: int, *channels: tuple[int, int]) -> list[Layer]:
    return [(c, o, kernel, 2, kernel // 2, 1, size) for c, o in channels]


def _depthwise(size: int, stride: int, *channels: int) -> list[Layer]:
    return [(c, c, 3, stride, 1, c, size) for c in channels]


def _inception(
    size: int, c: int, one: int, reduce3: int, three: int, reduce5: int, five: int, pool: int
) -> list[Layer]:
    """The convolutions of one Inception module of GoogLeNet's table 1."""
    reductions = _pointwise(size, (c, one), (c, reduce3), (c, reduce5), (c, pool))
    return reductions + _same(3, size, (reduce3, three)) + _same(5, size, (reduce5, five))


NETWORKS: dict[str, list[Layer]] = {
    "resnet50": _halving(7, 224, (3, 64))
    + _pointwise(56, (64, 64), (64, 256), (256, 64), (256, 128))
    + _same(3, 56, (64, 64))
    + _halving(3, 56, (128, 128))
    + _halving(1, 56, (256, 512))
    + _pointwise(28, (128, 512), (512, 128), (512, 256))
    + _same(3, 28, (128, 128))
    + _halving(3, 28, (256, 256))
    + _halving(1, 28, (512, 1024))
    + _pointwise(14, (256, 1024), (1024, 256), (1024, 512))
    + _same(3, 14, (256, 256))
    + _halving(3, 14, (512, 512))
    + _halving(1, 14, (1024, 2048))
    + _pointwise(7, (512, 2048), (2048, 512))
    + _same(3, 7, (512, 512)),
    "vgg16": _same(3, 224, (3, 64), (64, 64))
    + _same(3, 112, (64, 128), (128, 128))
    + _same(3, 56, (128, 256), (256, 256))
    + _same(3, 28, (256, 512), (512, 512))
    + _same(3, 14, (512, 512)),
    "alexnet": [(3, 64, 11, 4, 2, 1, 224)] + _same(5, 27, (64, 192)) + _same(3, 13, (192, 384), (384, 256), (256, 256)),
    "googlenet": _same(3, 56, (64, 192))
    + _inception(28, 192, 64, 96, 128, 16, 32, 32)
    + _inception(28, 256, 128, 128, 192, 32, 96, 64)
    + _inception(14, 480, 192, 96, 208, 16, 48, 64)
    + _inception(14, 512, 160, 112, 224, 24, 64, 64)
    + _inception(14, 512, 128, 128, 256, 24, 64, 64)
    + _inception(14, 512, 112, 144, 288, 32, 64, 64)
    + _inception(14, 528, 256, 160, 320, 32, 128, 128)
    + _inception(7, 832, 256, 160, 320, 32, 128, 128)
    + _inception(7, 832, 384, 192, 384, 48, 128, 128),
    "mobilenetv2": _halving(3, 224, (3, 32))
    + _depthwise(112, 1, 32)
    + _pointwise(112, (32, 16), (16, 96))
    + _depthwise(112, 2, 96)
    + _pointwise(56, (96, 24), (24, 144), (144, 24))
    + _depthwise(56, 1, 144)
    + _depthwise(56, 2, 144)
    + _pointwise(28, (144, 32), (32, 192), (192, 32))
    + _depthwise(28, 1, 192)
    + _depthwise(28, 2, 192)
    + _pointwise(14, (192, 64), (64, 384), (384, 64), (384, 96), (96, 576), (576, 96))
    + _depthwise(14, 1, 384, 576)
    + _depthwise(14, 2, 576)
    + _pointwise(7, (576, 160), (160, 960), (960, 160), (960, 320), (320, 1280))
    + _depthwise(7, 1, 960),
    "lenet": [(1, 6, 5, 1, 2, 1, 28), (6, 16, 5, 1, 0, 1, 14)],
}


def _shape(network: str, layer: Layer, batch: int) -> Shape:
    c, o, kernel, stride, padding, groups, size = layer
    text = f"{kernel}x{kernel}" + (f"/{stride}" if stride > 1 else "") + (" depthwise" if groups > 1 else "")
    name = f"{network} {text} {c}-{o} {size} batch {batch}"
    return Shape(name, batch, c, size, o, kernel, stride, padding, groups=groups)


def _distinct() -> dict[Layer, str]:
    return {layer: network for network, layers in reversed(NETWORKS.items()) for layer in reversed(layers)}


SHAPES = [_shape(network, layer, batch) for batch in BATCHES for layer, network in reversed(_distinct().items())]
CASES = [conv2d_case(shape, direction, "convnet") for shape in SHAPES for direction in ("fwd", "bwd")]
