"""Arguments for every operator of torch.ops.fastnn: what tests of registration, autograd and compilation go through."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

CHANNELS_LAST = torch.channels_last


def _tensor(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return values.to(dtype)


def _positive(*shape: int) -> torch.Tensor:
    return _tensor(*shape).abs() + 0.5


def _grad(x: torch.Tensor) -> torch.Tensor:
    return x.detach().clone(memory_format=torch.preserve_format).requires_grad_()


_UNARY = (
    "relu sigmoid tanh relu6 gelu gelu_tanh silu mish hardswish hardsigmoid softsign exp expm1 sqrt log log1p abs neg "
    "selu logsigmoid"
).split()
_BINARY = "add sub mul div pow maximum minimum".split()
_COMPARISONS = "eq ne lt le gt ge".split()
_LOSSES = "mse_loss l1_loss smooth_l1_loss huber_loss binary_cross_entropy_with_logits".split()


def samples() -> Iterator[tuple[str, tuple[Any, ...]]]:
    """(name, arguments) of calls of torch.ops.fastnn.<name>; tensors that can have a gradient require one."""
    for name in _UNARY:
        yield name, (_grad(_positive(3, 5)),)
        yield name, (_grad(_positive(2, 3, 4, 2).to(memory_format=CHANNELS_LAST)), 0.0, 0.0)
    yield "relu", (_grad(_tensor(4, 6))[:, ::2],)
    yield "leaky_relu", (_grad(_tensor(7)), 0.1, 0.0)
    yield "elu", (_grad(_tensor(7)), 1.5, 0.0)
    yield "hardtanh", (_grad(_tensor(7)), -0.5, 0.5)
    yield "softplus", (_grad(_tensor(7)), 2.0, 3.0)
    yield "celu", (_grad(_tensor(7)), 1.5, 0.0)
    yield "hardshrink", (_grad(_tensor(7)), 0.5, 0.0)
    yield "softshrink", (_grad(_tensor(7)), 0.5, 0.0)
    yield "threshold", (_grad(_tensor(7)), 0.1, 0.5)
    yield "prelu", (_grad(_tensor(2, 3, 4)), _grad(_positive(3)))
    yield "clone", (_grad(_tensor(3, 4).t()),)
    yield "dropout", (_grad(_tensor(3, 4)), 0.5, torch.tensor([3, 4]))
    for name in _BINARY:
        yield name, (_grad(_positive(3, 4)), _grad(_positive(4) + 0.1))
        yield f"{name}.Scalar", (_grad(_positive(3, 4)), 2)
        yield f"{name}.Scalar_Tensor", (2.5, _grad(_positive(3, 4)))
    for name in _COMPARISONS:
        yield name, (_tensor(3, 4), _tensor(3, 4, seed=1))
        yield f"{name}.Scalar", (_tensor(3, 4), 0.5)
        yield f"{name}.Scalar_Tensor", (0.5, _tensor(3, 4))
    for name in ("bitwise_and", "bitwise_or", "bitwise_xor"):
        mask = _tensor(3, 4) > 0
        yield name, (mask, ~mask)
        yield f"{name}.Scalar", (mask.int(), 3)
        yield f"{name}.Scalar_Tensor", (3, mask.int())
    condition = _tensor(3, 4) > 0
    yield "where", (condition, _grad(_tensor(3, 4)), _grad(_tensor(4)))
    yield "where.Scalar", (condition, _grad(_tensor(3, 4)), 0)
    yield "where.Scalar_Tensor", (condition, 1.5, _grad(_tensor(3, 4)))
    yield "clamp", (_grad(_tensor(3, 4)), -0.5, None)
    yield "clamp.Tensor", (_grad(_tensor(3, 4)), _grad(_tensor(3, 4, seed=1)), None)
    for name in ("sum", "mean", "amax", "amin"):
        yield name, (_grad(_tensor(3, 4, 2)), [1], False)
        yield name, (_grad(_tensor(3, 4)), [0, -1], True)
    for name in ("max", "min"):
        yield name, (_grad(_tensor(3, 4)), 1, False)
    for name in ("argmax", "argmin"):
        yield name, (_tensor(3, 4), -1, True)
    yield "penalty", ([_grad(_tensor(3, 4)), _grad(_tensor(5))], 2.0, 0.5)
    yield "cat", ([_grad(_tensor(2, 3)), _tensor(1, 3), _grad(_tensor(2, 3))], 0)
    for name in ("softmax", "log_softmax"):
        yield name, (_grad(_tensor(3, 5)), -1)
        yield name, (_grad(_tensor(2, 3, 4)), 1)
    for name in _LOSSES:
        pos_weight = _positive(4) if name == "binary_cross_entropy_with_logits" else None
        weight = None if name == "smooth_l1_loss" else _positive(3, 4)
        yield name, (_grad(_tensor(3, 4)), _tensor(3, 4, seed=1).sigmoid(), weight, pos_weight, "mean", 1.0)
        yield name, (_grad(_tensor(3, 4)), _grad(_tensor(3, 4, seed=1)), None, None, "none", 1.0)
    probabilities = _tensor(3, 4).sigmoid()
    yield "binary_cross_entropy", (_grad(probabilities), probabilities.flip(0), None, None, "sum", 0.0)
    yield "kl_div", (_grad(_tensor(3, 4)), probabilities, None, None, "batchmean", 0.0)
    labels = torch.tensor([1, 0, -100, 3])
    yield "cross_entropy", (_grad(_tensor(4, 5)), labels, _positive(5), -100, "mean", 0.1)
    yield "cross_entropy", (_grad(_tensor(4, 5)), _grad(_tensor(4, 5, seed=1).softmax(1)), None, -100, "none", 0.0)
    for reduction in ("mean", "none"):
        x, w, b = _grad(_tensor(4, 3)), _grad(_tensor(5, 3, seed=1)), _grad(_tensor(5, seed=2))
        yield "linear_cross_entropy", (x, w, b, labels, None, -100, reduction, 0.1)
    yield "nll_loss", (_grad(_tensor(4, 5)), labels, None, -100, "sum")
    yield "matmul", (_grad(_tensor(2, 3, 4)), _grad(_tensor(4, 5)))
    yield "matmul", (_grad(_tensor(4)), _grad(_tensor(4, 5)))
    for activation in ("none", "relu", "gelu"):
        x, w, b = _grad(_tensor(2, 3, 4)), _grad(_tensor(5, 4)), _grad(_tensor(5))
        yield "linear", (x, w, b, activation, _grad(_tensor(2, 3, 5)))
        image, kernel = _tensor(2, 4, 6, 5), _grad(_tensor(6, 2, 3, 3))
        if activation == "relu":
            image = image.to(memory_format=CHANNELS_LAST)
        yield "conv2d", (_grad(image), kernel, _grad(_tensor(6)), (1, 1), (1, 2, 0, 1), (1, 1), 2, activation, None)
    image = _grad(_tensor(2, 3, 6, 8).to(memory_format=CHANNELS_LAST))
    kernel = _grad(_tensor(4, 3, 3, 3))
    yield "conv2d", (image, kernel, None, (2, 2), (0, 0, 0, 0), (1, 1), 1, "none", _grad(_tensor(2, 4, 2, 3)))
    yield "conv2d_pool", (image, kernel, _grad(_tensor(4)), (1, 1), (1, 1, 1, 1), (1, 1), 1, "relu")
    for x in (_grad(_tensor(2, 3, 7, 6)), image):
        for suffix in ("", "_with_indices"):
            yield f"max_pool2d{suffix}", (x, (3, 2), (2, 2), (1, 0), (1, 1), False)
            yield f"adaptive_max_pool2d{suffix}", (x, (3, -1))
        yield "avg_pool2d", (x, (3, 2), (2, 2), (1, 0), True, False, 0)
        yield "adaptive_avg_pool2d", (x, (2, 3))


def layer_samples() -> Iterator[tuple[str, tuple[Any, ...]]]:
    """Those of table_layers.py."""
    x, w, b = _tensor(3, 4, 6), _tensor(6), _tensor(6, seed=1)
    yield "layer_norm", (_grad(x), [6], _grad(w), _grad(b), 1e-5)
    yield "layer_norm", (_grad(x.transpose(0, 1)), [4, 6][1:], None, None)
    yield "rms_norm", (_grad(x), [4, 6], _grad(_tensor(4, 6)), 1e-5)
    images = [_tensor(3, 4, 5, 2), _tensor(3, 4, 5, 2).to(memory_format=CHANNELS_LAST), _tensor(3, 4, 6)]
    scale, shift = _tensor(4), _tensor(4, seed=1)
    for image in images:
        yield "batch_norm", (_grad(image), _grad(scale), _grad(shift), torch.zeros(4), torch.ones(4), True, 0.1, 1e-5)
        yield "batch_norm", (_grad(image), _grad(scale), None, torch.zeros(4), torch.ones(4) * 2, False, 0.1, 1e-5)
        yield "group_norm", (_grad(image), 2, _grad(scale), _grad(shift), 1e-5)
        yield "instance_norm", (_grad(image), _grad(scale), _grad(shift), None, None, 0.1, 1e-5)
    yield "instance_norm", (_grad(images[0]), None, None, torch.zeros(4), torch.ones(4), 0.1, 1e-5)
    for p in (2.0, 1.0):
        yield "normalize", (_grad(_positive(3, 4)), p, [1], 1e-12)
    q, k, v = (_grad(_tensor(2, 3, 5, 4, seed=i)) for i in range(3))
    mask = _tensor(5, 5) > -1
    yield "scaled_dot_product_attention", (q, k, v, None, True, 0.5, 0.0, [0, 0])
    yield "scaled_dot_product_attention", (q, k, v, mask | torch.eye(5).bool(), False, 0.5, 0.0, [0, 0])
    yield "scaled_dot_product_attention", (q, k, v, None, False, 0.5, 0.0, [0, 0], 2.0, 2, 1)
    angles = _tensor(5, 2)
    for interleaved in (False, True):
        yield "rotary_embedding", (_grad(_tensor(2, 3, 5, 6)), angles.cos(), angles.sin(), interleaved)
    yield "scaled_dot_product_attention.Tensor", (q, k, v, _grad(_tensor(5, 5)), False, 0.5, 0.0, torch.tensor([3, 4]))
    indices = torch.tensor([[0, 2], [5, 2]])
    yield "embedding", (_grad(_tensor(6, 3)), indices, -1, False)
    yield "embedding", (_grad(_tensor(6, 3)), indices, 2, True)
    yield "embedding_renorm", (_tensor(6, 3), indices, 1.0, 2.0)
    yield "one_hot", (indices, 7)
    flat, starts = torch.tensor([0, 2, 5, 2, 1]), torch.tensor([0, 2, 2])
    for mode in ("sum", "mean", "max"):
        samples = _grad(_tensor(5)) if mode == "sum" else None
        yield "embedding_bag", (_grad(_tensor(6, 3)), flat, starts, samples, mode, False, 5, False)
    yield "embedding_bag", (_grad(_tensor(6, 3)), flat, starts, None, "mean", False, 5, True)
    yield "pad", (_grad(_tensor(2, 3, 4)), [0, 0, 0, 0, 1, 2], "constant", 1.5)
    yield "pad", (_grad(images[1]), [0, 0, 0, 0, 1, 0, 1, 1], "reflect", 0.0)
    for image in images[:2]:
        yield "interpolate", (_grad(image), [7, 5], "bilinear", False, [])
        yield "interpolate", (_grad(image), [10, 3], "nearest", False, [2.0, 1.5])
    yield "interpolate", (_grad(images[2]), [4], "linear", True, [])
    yield "pixel_shuffle", (_grad(_tensor(2, 8, 3, 2)), 2)
    yield "pixel_unshuffle", (_grad(_tensor(2, 2, 6, 4)), 2)
    yield "max_pool3d_indices", (torch.randint(6, (2, 3, 4, 5)), torch.randint(20, (2, 3, 2, 5)), 6)
    kernel = _grad(_tensor(4, 3, 3, 2))
    for image in images[:2]:
        geometry = ((2, 1), (1, 1, 0, 0), (1, 1))
        yield "conv_transpose2d", (_grad(image), kernel, _grad(_tensor(3)), *geometry[:2], (10, 3), geometry[2], 1)
    for cell, gates in (("rnn_tanh", 1), ("rnn_relu", 1), ("gru", 3), ("lstm", 4)):
        x, h = _grad(_tensor(4, 2, 3)), _grad(_tensor(2, 5))
        c = _grad(_tensor(2, 5, seed=1)) if cell == "lstm" else None
        weights = [_grad(_tensor(gates * 5, n, seed=n)) for n in (3, 5)]
        biases = [_grad(_tensor(gates * 5, seed=n)) for n in (1, 2)]
        yield cell, (x, h, c, *weights, *biases, False)
        yield cell, (x, None, None, *weights, None, None, True)


def operator(name: str) -> Any:
    base, _, overload = name.partition(".")
    return getattr(getattr(torch.ops.fastnn, base), overload or "default")
