"""torch.nn's layers, computed by fastnn: each class is a subclass of torch's that differs in forward() alone.

Parameters, state_dict, hooks, repr and pickling are torch's. A call that fastnn has no kernel for runs as torch's own
function. Names that are not here are torch.nn's: `from fastnn.torch import nn` stands for `from torch import nn`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from . import functional as F

Tensor = torch.Tensor


def _convolution(name: str) -> Callable[..., Tensor]:
    """forward() of Conv1d, Conv2d, Conv3d."""

    def forward(self: Any, input: Tensor) -> Tensor:
        padding = self.padding
        if self.padding_mode != "zeros":
            input = F.pad(input, self._reversed_padding_repeated_twice, mode=self.padding_mode)
            padding = 0
        return call(input, self.weight, self.bias, self.stride, padding, self.dilation, self.groups)

    call = getattr(F, name)
    return forward


def _transposed(name: str, dims: int) -> Callable[..., Tensor]:
    """forward() of ConvTranspose1d, ConvTranspose2d, ConvTranspose3d."""

    def forward(self: Any, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        if self.padding_mode != "zeros":
            raise ValueError(f"ConvTranspose{dims}d: padding_mode is {self.padding_mode!r}; expected 'zeros'")
        extra = self._output_padding(
            input, output_size, self.stride, self.padding, self.kernel_size, dims, self.dilation
        )
        return call(input, self.weight, self.bias, self.stride, self.padding, extra, self.groups, self.dilation)

    call = getattr(F, name)
    return forward


def _instance_norm(self: Any, input: Tensor) -> Tensor:
    self._check_input_dim(input)
    unbatched = self._get_no_batch_dim()
    if input.dim() == unbatched or input.size(1) != self.num_features:
        return torch.nn.modules.instancenorm._InstanceNorm.forward(self, input)
    use_input = self.training or not self.track_running_stats
    momentum = 0.0 if self.momentum is None else self.momentum
    return F.instance_norm(
        input, self.running_mean, self.running_var, self.weight, self.bias, use_input, momentum, self.eps
    )


def _batch_norm(self: Any, input: Tensor) -> Tensor:
    self._check_input_dim(input)
    factor = 0.0 if self.momentum is None else self.momentum
    if self.training and self.track_running_stats and self.num_batches_tracked is not None:
        self.num_batches_tracked.add_(1)
        if self.momentum is None:  # the mean over all batches so far
            factor = 1.0 / float(self.num_batches_tracked)
    mean, var = self.running_mean, self.running_var
    use_batch = self.training or (mean is None and var is None)
    if self.training and not self.track_running_stats:
        mean = var = None
    return F.batch_norm(input, mean, var, self.weight, self.bias, use_batch, factor, self.eps)


def _max_pool(name: str) -> Callable[..., Tensor]:
    def forward(self: Any, input: Tensor) -> Tensor:
        return call(
            input, self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode, self.return_indices
        )

    call = getattr(F, name)
    return forward


def _inplace(name: str) -> Callable[..., Tensor]:
    """forward() of an activation without numbers that may work in place."""
    call = getattr(F, name)
    return lambda self, input: call(input, self.inplace)


def _plain(name: str) -> Callable[..., Tensor]:
    call = getattr(F, name)
    return lambda self, input: call(input)


# class -> (function, forward). A function computes exactly what its torch namesake does.
_LAYERS: dict[str, tuple[str, Callable[..., Any]]] = {
    "Linear": ("linear", lambda self, input: F.linear(input, self.weight, self.bias)),
    **{f"Conv{n}d": (f"conv{n}d", _convolution(f"conv{n}d")) for n in (1, 2, 3)},
    **{f"ConvTranspose{n}d": (f"conv_transpose{n}d", _transposed(f"conv_transpose{n}d", n)) for n in (1, 2, 3)},
    **{name: (name.lower(), _inplace(name.lower())) for name in ("ReLU", "ReLU6", "SiLU", "Mish")},
    "SELU": ("selu", _inplace("selu")),
    "Hardswish": ("hardswish", _inplace("hardswish")),
    "Hardsigmoid": ("hardsigmoid", _inplace("hardsigmoid")),
    **{
        name: (name.lower(), _plain(name.lower()))
        for name in ("Sigmoid", "Tanh", "Softsign", "LogSigmoid", "Tanhshrink")
    },
    "GELU": ("gelu", lambda self, input: F.gelu(input, approximate=self.approximate)),
    "ELU": ("elu", lambda self, input: F.elu(input, self.alpha, self.inplace)),
    "CELU": ("celu", lambda self, input: F.celu(input, self.alpha, self.inplace)),
    "LeakyReLU": ("leaky_relu", lambda self, input: F.leaky_relu(input, self.negative_slope, self.inplace)),
    "GLU": ("glu", lambda self, input: F.glu(input, self.dim)),
    "Hardshrink": ("hardshrink", lambda self, input: F.hardshrink(input, self.lambd)),
    "Softshrink": ("softshrink", lambda self, input: F.softshrink(input, self.lambd)),
    "Threshold": ("threshold", lambda self, input: F.threshold(input, self.threshold, self.value, self.inplace)),
    "PReLU": ("prelu", lambda self, input: F.prelu(input, self.weight)),
    "Hardtanh": ("hardtanh", lambda self, input: F.hardtanh(input, self.min_val, self.max_val, self.inplace)),
    "Softplus": ("softplus", lambda self, input: F.softplus(input, self.beta, self.threshold)),
    "Softmax": ("softmax", lambda self, input: F.softmax(input, self.dim, _stacklevel=6)),
    "LogSoftmax": ("log_softmax", lambda self, input: F.log_softmax(input, self.dim, _stacklevel=6)),
    **{f"MaxPool{n}d": (f"max_pool{n}d", _max_pool(f"max_pool{n}d")) for n in (1, 2)},
    "AvgPool1d": (
        "avg_pool1d",
        lambda self, input: F.avg_pool1d(
            input, self.kernel_size, self.stride, self.padding, self.ceil_mode, self.count_include_pad
        ),
    ),
    "AvgPool2d": (
        "avg_pool2d",
        lambda self, input: F.avg_pool2d(
            input,
            self.kernel_size,
            self.stride,
            self.padding,
            self.ceil_mode,
            self.count_include_pad,
            self.divisor_override,
        ),
    ),
    "AdaptiveAvgPool1d": ("adaptive_avg_pool1d", lambda self, input: F.adaptive_avg_pool1d(input, self.output_size)),
    "AdaptiveAvgPool2d": ("adaptive_avg_pool2d", lambda self, input: F.adaptive_avg_pool2d(input, self.output_size)),
    "AdaptiveMaxPool1d": (
        "adaptive_max_pool1d",
        lambda self, input: F.adaptive_max_pool1d(input, self.output_size, self.return_indices),
    ),
    "AdaptiveMaxPool2d": (
        "adaptive_max_pool2d",
        lambda self, input: F.adaptive_max_pool2d(input, self.output_size, self.return_indices),
    ),
    **{f"BatchNorm{n}d": ("batch_norm", _batch_norm) for n in (1, 2, 3)},
    **{f"InstanceNorm{n}d": ("instance_norm", _instance_norm) for n in (1, 2, 3)},
    "LocalResponseNorm": (
        "local_response_norm",
        lambda self, input: F.local_response_norm(input, self.size, self.alpha, self.beta, self.k),
    ),
    "LayerNorm": (
        "layer_norm",
        lambda self, input: F.layer_norm(input, self.normalized_shape, self.weight, self.bias, self.eps),
    ),
    "RMSNorm": ("rms_norm", lambda self, x: F.rms_norm(x, self.normalized_shape, self.weight, self.eps)),
    "GroupNorm": (
        "group_norm",
        lambda self, input: F.group_norm(input, self.num_groups, self.weight, self.bias, self.eps),
    ),
    "Embedding": (
        "embedding",
        lambda self, input: F.embedding(
            input,
            self.weight,
            self.padding_idx,
            self.max_norm,
            self.norm_type,
            self.scale_grad_by_freq,
            self.sparse,
        ),
    ),
    "Dropout": ("dropout", lambda self, input: F.dropout(input, self.p, self.training, self.inplace)),
    "CrossEntropyLoss": (
        "cross_entropy",
        lambda self, input, target: F.cross_entropy(
            input,
            target,
            weight=self.weight,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
            label_smoothing=self.label_smoothing,
        ),
    ),
    "NLLLoss": (
        "nll_loss",
        lambda self, input, target: F.nll_loss(
            input, target, weight=self.weight, ignore_index=self.ignore_index, reduction=self.reduction
        ),
    ),
    "MSELoss": ("mse_loss", lambda self, input, target: F.mse_loss(input, target, reduction=self.reduction)),
    "L1Loss": ("l1_loss", lambda self, input, target: F.l1_loss(input, target, reduction=self.reduction)),
    "SmoothL1Loss": (
        "smooth_l1_loss",
        lambda self, input, target: F.smooth_l1_loss(input, target, reduction=self.reduction, beta=self.beta),
    ),
    "HuberLoss": (
        "huber_loss",
        lambda self, input, target: F.huber_loss(input, target, reduction=self.reduction, delta=self.delta),
    ),
    "BCELoss": (
        "binary_cross_entropy",
        lambda self, input, target: F.binary_cross_entropy(input, target, weight=self.weight, reduction=self.reduction),
    ),
    "BCEWithLogitsLoss": (
        "binary_cross_entropy_with_logits",
        lambda self, input, target: F.binary_cross_entropy_with_logits(
            input, target, self.weight, pos_weight=self.pos_weight, reduction=self.reduction
        ),
    ),
    "KLDivLoss": (
        "kl_div",
        lambda self, input, target: F.kl_div(input, target, reduction=self.reduction, log_target=self.log_target),
    ),
}


def _unless_in_place(base: type, compute: Callable[..., Any]) -> Callable[..., Any]:
    """What changes its input while a gradient is recorded is torch's: its kernels do it without a copy."""

    def forward(self: Any, input: Tensor) -> Tensor:
        if self.inplace and input.requires_grad and torch.is_grad_enabled():
            return base.forward(self, input)
        return compute(self, input)

    return forward


def _layer(name: str, function: str, forward: Callable[..., Any]) -> type[torch.nn.Module]:
    base = getattr(torch.nn, name)
    if "inplace" in base.__init__.__annotations__:
        forward = _unless_in_place(base, forward)
    # Each class needs a function of its own for its name in tracebacks and profiles.
    own = type(forward)(forward.__code__, forward.__globals__, "forward", forward.__defaults__, forward.__closure__)
    own.__qualname__ = f"{name}.forward"
    doc = f"torch.nn.{name}, computed by fastnn.functional.{function}."
    return type(name, (base,), {"forward": own, "__module__": __name__, "__doc__": doc})


COUNTERPARTS: dict[type, type] = {}  # torch's class -> ours
ORIGINALS: dict[type, type] = {}
FUNCTIONS: dict[type, str] = {}  # our class -> name of its function
for _name, (_function, _forward) in _LAYERS.items():
    _class = globals()[_name] = _layer(_name, _function, _forward)
    COUNTERPARTS[getattr(torch.nn, _name)] = _class
    ORIGINALS[_class] = getattr(torch.nn, _name)
    FUNCTIONS[_class] = _function


def __getattr__(name: str) -> Any:
    return getattr(torch.nn, name)
