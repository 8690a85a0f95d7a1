"""The table of operators: one row for each `torch.ops.fastnn.<name>`.

A row says what cannot be derived from the Op: the schema, the same function written with torch's own ops (for shapes
and dtypes of fake tensors, for transforms, and for devices without a kernel of ours), the layout of the result, and
what autocast does. The gradient operator `<name>_backward`, its fake kernel and the autograd formula follow from it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
import torch.nn.functional as F

from .. import _C, utils
from ..ops import (
    activation,
    activation_composed,
    arithmetic,
    conv2d,
    cross_entropy,
    dropout,
    linear_cross_entropy,
    loss,
    matmul,
    pooling,
    reduction,
    shape,
    unary,
)
from ..ops import softmax as softmax_ops
from ..ops._epilogue import EPILOGUES

Args = tuple[Any, ...]


def _tuples(*args: Any) -> Args:
    """The dispatcher's arguments as an Op takes them: its lists of int are tuples."""
    return tuple(tuple(a) if isinstance(a, (list, torch.Size)) else a for a in args)


def _same(*args: Any) -> Args:
    return args


@dataclass(frozen=True)
class Row:
    """One operator.

    Attributes:
        name: with an overload after a dot where numbers stand in place of tensors.
        arguments, returns: of the schema. Arguments are those of the Op in its order, unless to_op and from_op say how.
        composite: the same function of the operator's arguments in torch's ops.
        layout: of the results: "like" the first argument of that shape which is dense, an "image" (channels_last where
            the first argument is), or "contiguous".
        saves: what the gradient needs: the "inputs", or the "output" in place of the first one.
        uses_output: (Op's arguments) -> whether it needs the output besides the inputs; None: never.
        saved: (Op's arguments, output) -> what the Op's record() saves, or None where that has to be computed again,
            as without it.
        again: the Op's arguments with which record() may run again: those that it changes left out.
        autocast: what autocast does to the arguments: "lower" precision, "float32", "promote" to the widest, nothing.
    """

    name: str
    op: _C.Op
    arguments: str
    composite: Callable[..., Any]
    returns: str = "Tensor"
    layout: str = "like"
    saves: str = "inputs"
    uses_output: Callable[[Args], bool] | None = None
    saved: Callable[[Args, Any], Args | None] | None = None
    again: Callable[[Args], Args] | None = None
    autocast: str | None = None
    to_op: Callable[..., Args] = _tuples
    from_op: Callable[..., Args] = _same

    @property
    def differentiable(self) -> bool:
        return self.op.record is not None

    def fits(self, args: Args) -> bool:
        """Whether this is the overload for these arguments: tensors and others where the schema has them."""
        for kind, arg in zip(self.kinds, args, strict=True):
            if arg is not None and isinstance(arg, torch.Tensor) != (kind == "Tensor"):
                return False
        return True

    @property
    def kinds(self) -> tuple[str, ...]:
        """The types of the arguments, as far as overloads differ in them."""
        return tuple("Tensor" if a.startswith("Tensor") else "" for a in self.arguments.split(", "))

    @property
    def several(self) -> bool:
        """Whether there are several results."""
        return self.returns.startswith("(")


# ---- elementwise -----------------------------------------------------------------------------------------------------

_FROM_OUTPUT = {"relu", "sigmoid", "tanh", "exp", "expm1", "sqrt"}
_ELEMENTWISE: dict[str, Callable[..., torch.Tensor]] = {
    "relu": lambda x, a, b: F.relu(x),
    "sigmoid": lambda x, a, b: torch.sigmoid(x),
    "tanh": lambda x, a, b: torch.tanh(x),
    "relu6": lambda x, a, b: F.relu6(x),
    "leaky_relu": lambda x, a, b: F.leaky_relu(x, a),
    "elu": lambda x, a, b: F.elu(x, a),
    "gelu": lambda x, a, b: F.gelu(x),
    "gelu_tanh": lambda x, a, b: F.gelu(x, approximate="tanh"),
    "silu": lambda x, a, b: F.silu(x),
    "mish": lambda x, a, b: F.mish(x),
    "hardswish": lambda x, a, b: F.hardswish(x),
    "hardsigmoid": lambda x, a, b: F.hardsigmoid(x),
    "hardtanh": lambda x, a, b: F.hardtanh(x, a, b),
    "softplus": lambda x, a, b: F.softplus(x, a, b),
    "softsign": lambda x, a, b: F.softsign(x),
    "selu": lambda x, a, b: F.selu(x),
    "celu": lambda x, a, b: F.celu(x, a),
    "logsigmoid": lambda x, a, b: F.logsigmoid(x),
    "hardshrink": lambda x, a, b: F.hardshrink(x, a),
    "softshrink": lambda x, a, b: F.softshrink(x, a),
    "threshold": lambda x, a, b: F.threshold(x, a, b),
    "exp": lambda x, a, b: torch.exp(x),
    "expm1": lambda x, a, b: torch.expm1(x),
    "sqrt": lambda x, a, b: torch.sqrt(x),
    "log": lambda x, a, b: torch.log(x),
    "log1p": lambda x, a, b: torch.log1p(x),
    "abs": lambda x, a, b: torch.abs(x),
    "neg": lambda x, a, b: torch.neg(x),
}


def _elementwise() -> Iterator[Row]:
    for name, composite in _ELEMENTWISE.items():
        yield Row(
            name,
            getattr(activation, f"_{name}", None) or getattr(unary, f"_{name}"),
            "Tensor input, float a=0., float b=0.",
            composite,
            saves="output" if name in _FROM_OUTPUT else "inputs",
            saved=(lambda args, y: (y, *args[1:])) if name in _FROM_OUTPUT else (lambda args, y: args),
        )
    yield Row(
        "prelu",
        activation_composed._prelu,
        "Tensor input, Tensor weight",
        F.prelu,
        saved=lambda args, y: args,
        autocast="lower",
    )
    yield Row("clone", shape._clone, "Tensor input", lambda x: x.clone(), saved=lambda args, y: ())
    yield Row(
        "dropout",
        dropout._keyed_dropout,
        "Tensor input, float p, Tensor key",
        lambda x, p, key: F.dropout(x, p),
        saved=lambda args, y: (args[1], *args[2].tolist(), _is_channels_last(args[0])),
    )


def _is_channels_last(x: torch.Tensor) -> bool:
    return x.ndim == 4 and not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)


# ---- arithmetic: each operand a tensor or a number -------------------------------------------------------------------

_BINARY: dict[str, Callable[..., torch.Tensor]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "div": lambda a, b: a / b,
    "pow": lambda a, b: a**b,
    "maximum": lambda a, b: torch.maximum(*_tensors(a, b)),
    "minimum": lambda a, b: torch.minimum(*_tensors(a, b)),
    "bitwise_and": lambda a, b: a & b,
    "bitwise_or": lambda a, b: a | b,
    "bitwise_xor": lambda a, b: a ^ b,
    "eq": lambda a, b: a == b,
    "ne": lambda a, b: a != b,
    "lt": lambda a, b: a < b,
    "le": lambda a, b: a <= b,
    "gt": lambda a, b: a > b,
    "ge": lambda a, b: a >= b,
}
_KINDS = {("Tensor", "Tensor"): "", ("Tensor", "Scalar"): ".Scalar", ("Scalar", "Tensor"): ".Scalar_Tensor"}


def _tensors(a: Any, b: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Both as tensors, a number in the dtype of the tensor."""
    if not isinstance(a, torch.Tensor):
        a = torch.full((), a, dtype=b.dtype, device=b.device)
    if not isinstance(b, torch.Tensor):
        b = torch.full((), b, dtype=a.dtype, device=a.device)
    return a, b


def _where(condition: torch.Tensor, a: Any, b: Any) -> torch.Tensor:
    return torch.where(condition, *_tensors(a, b))


def _arithmetic() -> Iterator[Row]:
    for (name, composite), (kinds, overload) in product(_BINARY.items(), _KINDS.items()):
        op = getattr(arithmetic, f"_{name}")
        yield Row(name + overload, op, f"{kinds[0]} input, {kinds[1]} other", composite)
    for (a, b), overload in _KINDS.items():
        yield Row(f"where{overload}", arithmetic._where, f"Tensor condition, {a} input, {b} other", _where)
    for bound, overload in (("Scalar", ""), ("Tensor", ".Tensor")):
        yield Row(
            f"clamp{overload}",
            arithmetic._clamp,
            f"Tensor input, {bound}? min=None, {bound}? max=None",
            _clamp,
            saved=lambda args, y: args,
        )


def _clamp(x: torch.Tensor, low: Any, high: Any) -> torch.Tensor:
    return torch.clamp(x, low, high)


# ---- reductions ------------------------------------------------------------------------------------------------------


def _along(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda x, dim, keepdim: tuple(function(x, dim, keepdim))


def _reductions() -> Iterator[Row]:
    dims = "Tensor input, int[] dim=[], bool keepdim=False"
    over = {
        "sum": lambda x, dim, keepdim: x.sum(list(dim) or None, keepdim=keepdim),
        "mean": lambda x, dim, keepdim: x.mean(list(dim) or None, keepdim=keepdim),
        "amax": lambda x, dim, keepdim: x.amax(list(dim), keepdim=keepdim),
        "amin": lambda x, dim, keepdim: x.amin(list(dim), keepdim=keepdim),
    }
    for name, composite in over.items():
        yield Row(name, getattr(reduction, f"_{name}"), dims, composite, layout="contiguous")
    along = "Tensor input, int dim, bool keepdim=False"
    for name in ("max", "min"):
        yield Row(
            name,
            getattr(reduction, f"_{name}_along"),
            along,
            _along(getattr(torch, name)),
            returns="(Tensor, Tensor)",
            layout="contiguous",
        )
    for name in ("argmax", "argmin"):
        yield Row(name, getattr(reduction, f"_{name}"), along, getattr(torch, name), layout="contiguous")
    yield Row(
        "penalty",
        utils._penalty,
        "Tensor[] params, float p, float weight",
        lambda params, p, weight: weight * sum((x.abs() ** p).sum() for x in params),
        layout="contiguous",
        to_op=lambda params, p, weight: (*params, p, weight),
        from_op=lambda *args: (list(args[:-2]), *args[-2:]),
    )
    yield Row(
        "cat",
        shape._cat,
        "Tensor[] tensors, int dim=0",
        lambda tensors, dim: torch.cat(tensors, dim),
        layout="image",
        autocast="promote",
        to_op=lambda tensors, dim: (dim, *tensors),
        from_op=lambda dim, *tensors: (list(tensors), dim),
    )


# ---- softmax and losses ----------------------------------------------------------------------------------------------


def _weighted(function: Callable[..., torch.Tensor], parameter: str | None = None) -> Callable[..., torch.Tensor]:
    def composite(input, target, weight, pos_weight, reduction, a):
        extra = {} if parameter is None else {parameter: a}
        if weight is not None:
            extra["weight"] = weight
        if pos_weight is not None:
            extra["pos_weight"] = pos_weight
        return function(input, target, reduction=reduction, **extra)

    return composite


def _losses() -> Iterator[Row]:
    for name in ("softmax", "log_softmax"):
        yield Row(
            name,
            getattr(softmax_ops, f"_{name}"),
            "Tensor input, int dim",
            getattr(torch, name),
            saves="output",
            saved=lambda args, y: (y, args[1]),
        )
    pointwise = {
        "mse_loss": (_weighted(F.mse_loss), "float32"),
        "l1_loss": (_weighted(F.l1_loss), "float32"),
        "smooth_l1_loss": (_weighted(F.smooth_l1_loss, "beta"), "float32"),
        "huber_loss": (_weighted(F.huber_loss, "delta"), "float32"),
        "binary_cross_entropy": (_weighted(F.binary_cross_entropy), "float32"),
        "binary_cross_entropy_with_logits": (_weighted(F.binary_cross_entropy_with_logits), "float32"),
        "kl_div": (
            lambda x, t, w, p, reduction, a: F.kl_div(x, t, reduction=reduction, log_target=bool(a)),
            "float32",
        ),
    }
    for name, (composite, autocast) in pointwise.items():
        yield Row(
            name,
            getattr(loss, f"_{name}"),
            "Tensor input, Tensor target, Tensor? weight=None, Tensor? pos_weight=None, str reduction='mean', "
            "float a=0.",
            composite,
            saved=lambda args, y: args,
            autocast=autocast,
        )
    yield Row(
        "cross_entropy",
        cross_entropy._cross_entropy,
        "Tensor input, Tensor target, Tensor? weight=None, int ignore_index=-100, str reduction='mean', "
        "float label_smoothing=0.",
        lambda x, t, w, i, r, s: F.cross_entropy(x, t, w, ignore_index=i, reduction=r, label_smoothing=s),
        layout="contiguous",
        autocast="float32",
    )
    yield Row(
        "linear_cross_entropy",
        linear_cross_entropy._linear_cross_entropy,
        "Tensor input, Tensor linear_weight, Tensor? linear_bias, Tensor target, Tensor? weight=None, "
        "int ignore_index=-100, str reduction='mean', float label_smoothing=0.",
        lambda x, lw, lb, t, w, i, r, s: F.cross_entropy(
            F.linear(x, lw, lb), t, w, ignore_index=i, reduction=r, label_smoothing=s
        ),
        layout="contiguous",
        autocast="float32",
    )
    yield Row(
        "nll_loss",
        cross_entropy._nll_loss,
        "Tensor input, Tensor target, Tensor? weight=None, int ignore_index=-100, str reduction='mean'",
        lambda x, t, w, i, r: F.nll_loss(x, t, w, ignore_index=i, reduction=r),
        layout="contiguous",
        saved=lambda args, y: args,
        autocast="float32",
    )


# ---- products --------------------------------------------------------------------------------------------------------

_OF_OUTPUT = tuple(name for name, kept in EPILOGUES.items() if kept == "y")


def _finish(y: torch.Tensor, activation: str, residual: torch.Tensor | None) -> torch.Tensor:
    y = y if residual is None else y + residual
    return y if activation == "none" else _ELEMENTWISE[activation](y, 0.0, 0.0)


def _conv2d(input, weight, bias, stride, padding, dilation, groups, activation, residual=None):
    top, bottom, left, right = padding
    if top != bottom or left != right:
        input = F.pad(input, (left, right, top, bottom))
        top = left = 0
    return _finish(F.conv2d(input, weight, bias, stride, (top, left), dilation, groups), activation, residual)


def _conv2d_saved(args: Args, y: torch.Tensor) -> Args | None:
    input, weight, _, stride, padding, dilation, groups, activation, _ = args
    if activation in EPILOGUES and activation not in _OF_OUTPUT:
        return None
    return input, weight, y, stride, padding, dilation, groups, activation


def _linear_saved(args: Args, y: torch.Tensor) -> Args | None:
    input, weight, _, activation, _ = args
    if activation in EPILOGUES and activation not in _OF_OUTPUT:
        return None
    return input, weight, y, activation


def _products() -> Iterator[Row]:
    yield Row(
        "matmul",
        matmul._matmul,
        "Tensor input, Tensor other",
        torch.matmul,
        layout="contiguous",
        saved=lambda args, y: args,
        autocast="lower",
    )
    yield Row(
        "linear",
        matmul._linear,
        "Tensor input, Tensor weight, Tensor? bias=None, str activation='none', Tensor? residual=None",
        lambda x, w, b, f, residual: _finish(F.linear(x, w, b), f, residual),
        layout="contiguous",
        uses_output=lambda args: args[3] in _OF_OUTPUT,
        saved=_linear_saved,
        autocast="lower",
    )
    window = "SymInt[2] stride, SymInt[4] padding, SymInt[2] dilation, SymInt groups, str activation='none'"
    yield Row(
        "conv2d",
        conv2d._conv2d,
        f"Tensor input, Tensor weight, Tensor? bias, {window}, Tensor? residual=None",
        _conv2d,
        layout="image",
        uses_output=lambda args: args[7] in _OF_OUTPUT,
        saved=_conv2d_saved,
        autocast="lower",
    )
    yield Row(
        "conv2d_pool",
        conv2d._conv2d_pool,
        f"Tensor input, Tensor weight, Tensor? bias, {window}",
        lambda *args: F.max_pool2d(_conv2d(*args), 2),
        layout="image",
        autocast="lower",
    )


# ---- pooling ---------------------------------------------------------------------------------------------------------


def _sizes(output_size: Args) -> list[int | None]:
    return [None if size < 0 else size for size in output_size]


def _pooling() -> Iterator[Row]:
    window = "SymInt[2] kernel_size, SymInt[2] stride, SymInt[2] padding"
    kinds: list[tuple[str, str, Callable[..., Any]]] = [
        ("max_pool2d", f"{window}, SymInt[2] dilation, bool ceil_mode", F.max_pool2d),
        ("adaptive_max_pool2d", "SymInt[2] output_size", lambda x, size: F.adaptive_max_pool2d(x, _sizes(size))),
    ]
    for name, arguments, function in kinds:
        yield Row(name, getattr(pooling, f"_{name}"), f"Tensor input, {arguments}", function, layout="image")
        yield Row(
            f"{name}_with_indices",
            getattr(pooling, f"_{name}_with_indices"),
            f"Tensor input, {arguments}",
            F.max_pool2d_with_indices
            if name == "max_pool2d"
            else lambda x, size: F.adaptive_max_pool2d_with_indices(x, _sizes(size)),
            returns="(Tensor, Tensor)",
            layout="image",
        )
    yield Row(
        "avg_pool2d",
        pooling._avg_pool2d,
        f"Tensor input, {window}, bool ceil_mode, bool count_include_pad, int divisor_override",
        lambda x, k, s, p, ceil, pad, divisor: F.avg_pool2d(x, k, s, p, ceil, pad, divisor or None),
        layout="image",
        saved=lambda args, y: (tuple(args[0].shape), _is_channels_last(args[0]), *args[1:]),
    )
    yield Row(
        "adaptive_avg_pool2d",
        pooling._adaptive_avg_pool2d,
        "Tensor input, SymInt[2] output_size",
        lambda x, size: F.adaptive_avg_pool2d(x, _sizes(size)),
        layout="image",
        saved=lambda args, y: (tuple(args[0].shape), _is_channels_last(args[0]), *args[1:]),
    )


ROWS: list[Row] = [
    *_elementwise(),
    *_arithmetic(),
    *_reductions(),
    *_losses(),
    *_products(),
    *_pooling(),
]
