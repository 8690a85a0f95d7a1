"""fastnn: hand-written kernels for neural networks behind a thin Python layer."""

from typing import Any

from . import datasets, functional, init, modules, optim, transforms, utils
from ._C import (
    empty_cache,
    get_isa,
    get_num_threads,
    get_precision,
    memory_stats,
    set_isa,
    set_num_threads,
    set_precision,
)
from ._import_hook import after_import
from .autograd import enable_grad, is_grad_enabled, no_grad, set_grad_enabled
from .creation import arange, empty, full, ones, ones_like, rand, randn, zeros, zeros_like
from .cuda_graph import graph
from .data import DataLoader
from .modules import *  # noqa: F403
from .ops.arithmetic import maximum, minimum, where
from .ops.shape import cat, stack
from .parameter import Parameter
from .random import manual_seed
from .serialization import load, save
from .tensor import Tensor, as_tensor, channels_last, from_dlpack, from_numpy, tensor

__all__ = [
    "DataLoader",
    "Parameter",
    "Tensor",
    "arange",
    "as_tensor",
    "cat",
    "channels_last",
    "datasets",
    "empty",
    "empty_cache",
    "enable_grad",
    "from_dlpack",
    "from_numpy",
    "full",
    "functional",
    "get_isa",
    "get_num_threads",
    "get_precision",
    "graph",
    "init",
    "is_grad_enabled",
    "load",
    "manual_seed",
    "maximum",
    "memory_stats",
    "minimum",
    "no_grad",
    "ones",
    "ones_like",
    "optim",
    "rand",
    "randn",
    "save",
    "set_grad_enabled",
    "set_isa",
    "set_num_threads",
    "set_precision",
    "stack",
    "tensor",
    "transforms",
    "utils",
    "where",
    "zeros",
    "zeros_like",
]
__all__ += modules.__all__


def _support_torch_compile() -> None:
    from .torch import backend, compile

    compile.register()
    backend.register()


after_import("torch._dynamo", _support_torch_compile)  # what torch.compile imports, over a second


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("fastnn")
    # These need torch, which `import fastnn` does not.
    if name == "torch":
        from importlib import import_module

        return import_module("fastnn.torch")
    if name in ("swap", "swapped"):
        from .torch import swap as module

        return getattr(module, name)
    raise AttributeError(f"module 'fastnn' has no attribute {name!r}")
