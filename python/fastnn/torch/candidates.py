"""Which modules of a model can be swapped, which the caller wants, and the change of a module's class."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase
from typing import Any

import torch

from .. import _C
from . import nn
from .report import Row, type_name

Pattern = str | type
_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
# Modules that hold others, or only change a shape: nothing in them can be faster.
_NEUTRAL = (
    torch.nn.Identity,
    torch.nn.Flatten,
    torch.nn.Unflatten,
    torch.nn.Sequential,
    torch.nn.ModuleList,
    torch.nn.ModuleDict,
    torch.nn.ParameterList,
    torch.nn.ParameterDict,
    torch.nn.Transformer,
    torch.nn.TransformerEncoder,
    torch.nn.TransformerDecoder,
    torch.nn.TransformerEncoderLayer,
    torch.nn.TransformerDecoderLayer,
)
# ---- classes ---------------------------------------------------------------------------------------------------------


def _is_dynamic(cls: type) -> bool:
    """Whether torch made this class for one module: by a parametrization, or by FSDP's fully_shard."""
    return cls.__name__.startswith(("Parametrized", "FSDP")) and cls.__module__.startswith("torch.")


def layer_of(cls: type) -> type:
    """The layer's class under what torch put around it."""
    while _is_dynamic(cls):
        cls = cls.__bases__[-1]
    return cls


def _with_layer(cls: type, layer: type) -> type:
    """`cls` with another layer's class at its base."""
    if not _is_dynamic(cls):
        return layer
    bases = (*cls.__bases__[:-1], _with_layer(cls.__bases__[-1], layer))
    members = {key: value for key, value in vars(cls).items() if key not in ("__dict__", "__weakref__")}
    return type(cls.__name__, bases, members)


def _set_layer(module: torch.nn.Module, layer: type) -> None:
    if layer_of(type(module)) is not layer:
        module.__class__ = _with_layer(type(module), layer)


# ---- what can be swapped ---------------------------------------------------------------------------------------------


def obstacle(module: torch.nn.Module) -> str:
    """Why a module cannot be swapped; "" if it can be."""
    layer = layer_of(type(module))
    if layer in nn.ORIGINALS:
        return "already swapped"
    if layer not in nn.COUNTERPARTS:
        if isinstance(module, torch.jit.ScriptModule):
            return "a TorchScript module has no class that could be changed; swap the model before scripting it"
        if isinstance(module, torch.nn.modules.lazy.LazyModuleMixin):
            return "not initialized yet; run the model once, then swap"
        base = next((base for base in layer.__mro__ if base in nn.COUNTERPARTS), None)
        if base is None:
            return f"fastnn has no {layer.__name__}"
        own = "has its own forward()" if layer.forward is not base.forward else "may differ"
        return f"a subclass of torch.nn.{base.__name__}, which {own}; only torch's own classes are swapped"
    if "forward" in vars(module):
        return "its forward() was replaced on the instance"
    for tensor in (*module._parameters.values(), *module._buffers.values()):
        if tensor is None:
            continue
        if tensor.device.type not in ("cpu", "meta"):
            return f"on {tensor.device.type}, where torch's own kernels run; fastnn has kernels for the CPU"
        if tensor.is_floating_point() and tensor.dtype not in _DTYPES:
            return f"{tensor.dtype} is not supported"
    return ""


def is_neutral(module: torch.nn.Module) -> bool:
    """Whether the module itself computes nothing that could be swapped."""
    if type(module) in _NEUTRAL:
        return True
    known = any(base in nn.COUNTERPARTS or base in nn.ORIGINALS for base in type(module).__mro__)
    return not known and len(module._modules) > 0 and not type(module).__module__.startswith("torch.nn.modules.")


def _as_patterns(argument: str, value: Any) -> tuple[Pattern, ...] | None:
    if value is None:
        return None
    patterns = tuple(value) if isinstance(value, Iterable) and not isinstance(value, (str, type)) else (value,)
    for pattern in patterns:
        if not isinstance(pattern, (str, type)):
            raise TypeError(
                f"swap: {argument} holds a {type(pattern).__name__}; expected names, patterns such as 'layer1.*', or "
                "classes"
            )
    return patterns


def _matches(name: str, module: torch.nn.Module, patterns: tuple[Pattern, ...]) -> bool:
    return any(isinstance(module, p) if isinstance(p, type) else fnmatchcase(name, p) for p in patterns)


class Selection:
    """The arguments include, exclude and filter_fn of swap."""

    def __init__(self, include: Any, exclude: Any, filter_fn: Callable[[torch.nn.Module, str], bool] | None) -> None:
        self.include = _as_patterns("include", include)
        self.exclude = _as_patterns("exclude", exclude)
        if filter_fn is not None and not callable(filter_fn):
            raise TypeError(f"swap: filter_fn is a {type(filter_fn).__name__}; expected a function of (module, name)")
        self.filter_fn = filter_fn

    def refusal(self, name: str, module: torch.nn.Module) -> str:
        if self.include is not None and not _matches(name, module, self.include):
            return "not in include"
        if self.exclude is not None and _matches(name, module, self.exclude):
            return "excluded"
        if self.filter_fn is not None and not self.filter_fn(module, name):
            return "refused by filter_fn"
        return ""


# ---- candidates -----------------------------------------------------------------------------------------------------


class Candidate:
    """A module that can be swapped, with its row of the report."""

    def __init__(self, module: torch.nn.Module, row: Row) -> None:
        self.module, self.row = module, row
        self.original = layer_of(type(module))
        self.target = nn.COUNTERPARTS[self.original]
        self.active = False

    def set(self, on: bool) -> None:
        _set_layer(self.module, self.target if on else self.original)

    def keep(self) -> None:
        self.active = True
        self.row.replacement = type_name(self.target)
        self.row.kernel = f"{nn.FUNCTIONS[self.target]} {_C.get_isa()}"
        if getattr(self.module, "inplace", False):
            self.row.reason = "inplace=True: torch's own kernel where a gradient is recorded"

    def drop(self, reason: str) -> None:
        self.active = False
        self.row.replacement = self.row.kernel = None
        self.row.reason = reason

    @property
    def saved(self) -> float:
        return (self.row.before_us or 0.0) - (self.row.after_us or 0.0)

    @property
    def is_random(self) -> bool:
        return nn.FUNCTIONS[self.target] == "dropout" and self.module.training and self.module.p > 0


def signature(candidate: Candidate) -> Any:
    """Equal for modules that do the same to inputs of the same shape."""
    module = candidate.module
    tensors = (*module._parameters.values(), *module._buffers.values())
    return (
        type(module) if not hasattr(module, "parametrizations") else id(module),
        module.extra_repr(),
        module.training,
        tuple(None if t is None else (t.shape, t.dtype, t.requires_grad) for t in tensors),
    )
