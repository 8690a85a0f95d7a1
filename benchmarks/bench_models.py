"""Whole networks at inference, batch norm folded into the convolutions: ResNet-50 and MobileNetV2 at 224x224.

ResNet-50 (He et al. 2015) with the stride in the 3x3, MobileNetV2 (Sandler et al. 2018). Every library runs the same
list of steps; fastnn takes activations and shortcuts as epilogues of the convolutions.
"""

from __future__ import annotations

from functools import partial
from math import prod, sqrt
from typing import Any, NamedTuple

import numpy as np

from .cases import Arrays, Case, Run, Work

DEFAULT = False  # the reference of batch 16 takes minutes
SIZE = 224


class Conv(NamedTuple):
    """out = activation(conv2d(source) + shortcut)."""

    source: str
    out: str
    channels: int
    filters: int
    kernel: int = 1
    stride: int = 1
    groups: int = 1
    activation: str | None = "relu"
    shortcut: str | None = None


class MaxPool(NamedTuple):
    """3x3 with stride 2 and padding 1."""

    source: str
    out: str


class Head(NamedTuple):
    """The mean over the pixels, and a linear layer to 1000 classes."""

    source: str
    channels: int


Step = Conv | MaxPool | Head


def resnet50() -> list[Step]:
    steps: list[Step] = [Conv("images", "stem", 3, 64, 7, 2), MaxPool("stem", "x")]
    x, channels = "x", 64
    for stage, (width, blocks) in enumerate(((64, 3), (128, 4), (256, 6), (512, 3))):
        for block in range(blocks):
            name, stride = f"{stage}.{block}", 2 if stage and not block else 1
            shortcut = x
            if block == 0:
                shortcut = f"{name}.shortcut"
                steps.append(Conv(x, shortcut, channels, 4 * width, 1, stride, activation=None))
            steps += [
                Conv(x, f"{name}.a", channels, width),
                Conv(f"{name}.a", f"{name}.b", width, width, 3, stride),
                Conv(f"{name}.b", name, width, 4 * width, shortcut=shortcut),
            ]
            x, channels = name, 4 * width
    return [*steps, Head(x, channels)]


def mobilenetv2() -> list[Step]:
    relu6 = {"activation": "relu6"}
    steps: list[Step] = [
        Conv("images", "stem", 3, 32, 3, 2, **relu6),
        Conv("stem", "depthwise", 32, 32, 3, groups=32, **relu6),
        Conv("depthwise", "x", 32, 16, activation=None),
    ]
    x, channels = "x", 16
    stages = ((24, 2, 2), (32, 3, 2), (64, 4, 2), (96, 3, 1), (160, 3, 2), (320, 1, 1))
    for stage, (width, blocks, first) in enumerate(stages):
        for block in range(blocks):
            name, stride, wide = f"{stage}.{block}", first if block == 0 else 1, 6 * channels
            steps += [
                Conv(x, f"{name}.a", channels, wide, **relu6),
                Conv(f"{name}.a", f"{name}.b", wide, wide, 3, stride, wide, **relu6),
                Conv(f"{name}.b", name, wide, width, activation=None, shortcut=x if block else None),
            ]
            x, channels = name, width
    return [*steps, Conv(x, "last", channels, 1280, **relu6), Head("last", 1280)]


def _make(rng: np.random.Generator, steps: list[Step], batch: int) -> Arrays:
    arrays: Arrays = {"images": rng.standard_normal((batch, 3, SIZE, SIZE), dtype=np.float32)}
    for step in steps:
        if isinstance(step, Conv):
            shape = (step.filters, step.channels // step.groups, step.kernel, step.kernel)
            # Halved before a shortcut, so that sums of many blocks stay near 1.
            scale = sqrt(2 / prod(shape[1:])) * (0.5 if step.shortcut else 1)
            arrays[f"{step.out}.weight"] = rng.standard_normal(shape, dtype=np.float32) * np.float32(scale)
            arrays[f"{step.out}.bias"] = rng.standard_normal(step.filters, dtype=np.float32) * np.float32(0.1)
        elif isinstance(step, Head):
            shape = (1000, step.channels)
            arrays["head.weight"] = rng.standard_normal(shape, dtype=np.float32) / np.float32(sqrt(step.channels))
            arrays["head.bias"] = rng.standard_normal(1000, dtype=np.float32)
    return arrays


def _forward(functions: Any, steps: list[Step], values: dict[str, Any], arrays: Any, fused: bool) -> Any:
    """The steps in fastnn (fused), torch or the reference, which share the functions' names."""
    last_use = {name: i for i, step in enumerate(steps) for name in (step.source, getattr(step, "shortcut", None))}
    for i, step in enumerate(steps):
        if isinstance(step, Head):
            x = values[step.source].mean((2, 3))
            return functions.linear(x, arrays["head.weight"], arrays["head.bias"])
        if isinstance(step, MaxPool):
            y = functions.max_pool2d(values[step.source], 3, 2, 1)
        else:
            weight, bias = arrays[f"{step.out}.weight"], arrays[f"{step.out}.bias"]
            shortcut = values[step.shortcut] if step.shortcut else None
            call = partial(
                functions.conv2d, values[step.source], weight, bias, step.stride, step.kernel // 2, 1, step.groups
            )
            if fused:
                y = call(activation=step.activation, residual=shortcut)
            else:
                y = call()
                if shortcut is not None:
                    y += shortcut
                if step.activation:
                    y = getattr(functions, step.activation)(y)
            del call, shortcut
        values[step.out] = y
        # As a module's forward and ONNX Runtime do, so that memory is warm when it is used again.
        values = {name: value for name, value in values.items() if last_use[name] > i}
    raise ValueError("a network ends with its head")


def _infer(library: Any, arrays: Arrays, variant: str, *, steps: list[Step]) -> Work:
    last = variant == "channels_last"
    functions = library.lib.functional if library.name == "fastnn" else library.lib.nn.functional
    weights = {
        name: library.tensor(a, False, last and library.name == "torch") for name, a in arrays.items() if "." in name
    }
    images = library.tensor(arrays["images"], False, last)
    forward = partial(_forward, functions, steps, arrays=weights, fused=library.name == "fastnn")
    if variant == "compiled":
        eager = forward
        forward = library.compiled(lambda values: eager(values))

    def call() -> Any:
        with library.lib.no_grad():
            return forward({"images": images})

    return Work(call, lambda out: [library.numpy(out)])


def _infer_onnx(library: Any, arrays: Arrays, variant: str, *, steps: list[Step]) -> Work:
    node = library.onnx.helper.make_node
    nodes = []
    for step in steps:
        if isinstance(step, Head):
            nodes += [
                node("GlobalAveragePool", [step.source], ["mean"]),
                node("Flatten", ["mean"], ["features"]),
                node("Gemm", ["features", "head.weight", "head.bias"], ["y"], transB=1),
            ]
        elif isinstance(step, MaxPool):
            nodes.append(
                node("MaxPool", [step.source], [step.out], kernel_shape=[3] * 2, strides=[2] * 2, pads=[1] * 4)
            )
        else:
            names = [step.out]
            if step.activation:
                names.append(f"{step.out}.sum")
            if step.shortcut:
                names.append(f"{step.out}.conv")
            attributes = {"strides": [step.stride] * 2, "pads": [step.kernel // 2] * 4, "group": step.groups}
            sources = [step.source, f"{step.out}.weight", f"{step.out}.bias"]
            nodes.append(node("Conv", sources, [names[-1]], **attributes))
            if step.shortcut:
                nodes.append(node("Add", [names.pop(), step.shortcut], [names[-1]]))
            if step.activation == "relu":
                nodes.append(node("Relu", [names.pop()], [names[-1]]))
            elif step.activation:
                nodes.append(node("Clip", [names.pop(), "zero", "six"], [names[-1]]))
    constants = {name: a for name, a in arrays.items() if name != "images"}
    constants |= {"zero": np.float32(0), "six": np.float32(6)}
    inputs = {"images": arrays["images"]}
    session = library.session(nodes, inputs, {name: np.asarray(a) for name, a in constants.items()})
    return Work(partial(session.run, None, inputs), lambda outputs: outputs)


def _reference(arrays: Arrays, *, steps: list[Step]) -> list[np.ndarray]:
    from fastnn import reference

    return [_forward(reference, steps, {"images": arrays["images"]}, arrays, False)]


def _flops(steps: list[Step]) -> int:
    """Of one image."""
    sizes, total = {"images": SIZE}, 0
    for step in steps:
        if isinstance(step, Head):
            total += 2 * 1000 * step.channels
        elif isinstance(step, MaxPool):
            sizes[step.out] = sizes[step.source] // 2
        else:
            sizes[step.out] = size = sizes[step.source] // step.stride
            total += 2 * size * size * step.filters * step.channels // step.groups * step.kernel**2
    return total


def _case(name: str, steps: list[Step], batch: int) -> Case:
    weights = sum(
        step.filters * (step.channels // step.groups * step.kernel**2 + 1) if isinstance(step, Conv) else 0
        for step in steps
    )
    return Case(
        op="models",
        name=f"{name} batch {batch}",
        direction="fwd",
        make=partial(_make, steps=steps, batch=batch),
        reference=partial(_reference, steps=steps),
        runs={
            "fastnn": Run(("NCHW", "channels_last"), partial(_infer, steps=steps)),
            "torch": Run(("eager", "channels_last", "compiled"), partial(_infer, steps=steps)),
            "onnxruntime": Run(("",), partial(_infer_onnx, steps=steps)),
        },
        flops=batch * _flops(steps),
        traffic=lambda itemsize: ((batch * 3 * SIZE * SIZE + weights) * itemsize, batch * 1000 * itemsize),
        dtypes=("float32",),
    )


CASES = [
    _case(name, steps, batch)
    for name, steps in (("resnet50", resnet50()), ("mobilenetv2", mobilenetv2()))
    for batch in (1, 16)
]
