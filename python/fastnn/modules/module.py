"""Module: parameters, buffers and modules under names, as torch.nn.Module has them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import count
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy import ndarray

from .. import _C
from .._arrays import as_tensor, floating_dtype
from ..backends import _device
from ..parameter import Parameter
from ..tensor import Tensor, from_numpy

Self = TypeVar("Self", bound="Module")
_hook_ids = count()


class LoadResult(NamedTuple):
    """What load_state_dict(strict=False) left out: keys that the module has, and keys that only the state has."""

    missing_keys: list[str]
    unexpected_keys: list[str]


class HookHandle:
    """Takes a hook away again: `handle.remove()`, or at the end of a `with` block."""

    def __init__(self, hooks: dict[int, Any], hook: Any, prepend: bool) -> None:
        self._hooks = hooks
        self._id = next(_hook_ids)
        hooks[self._id] = hook
        if prepend:
            for key in [k for k in hooks if k != self._id]:
                hooks[key] = hooks.pop(key)

    def remove(self) -> None:
        self._hooks.pop(self._id, None)

    def __enter__(self) -> HookHandle:
        return self

    def __exit__(self, *exception: Any) -> None:
        self.remove()


class Module:
    """Base class of all layers and models.

    A Parameter, Module or (through register_buffer) Tensor that is assigned to an attribute is registered under that
    name and is part of parameters(), buffers(), modules() and state_dict(); the names are torch's. Subclasses call
    super().__init__() first and define forward().

    Calling a module runs forward(). Where the first array among the arguments is a numpy array, all of them become
    Tensors before forward(), so that the inside of a model sees Tensors only, and Tensors that forward() returns come
    back as numpy arrays, except those that require a gradient.
    """

    training: bool

    # A registered value is an ordinary attribute in __dict__, found as fast as any; the registries hold names in order.
    def __init__(self) -> None:
        self.__dict__.update(
            training=True,
            _parameter_names={},  # name -> None
            _buffer_names={},  # name -> whether state_dict() has it
            _module_names={},  # name -> None
            _forward_hooks={},  # id -> (hook, with_kwargs)
            _forward_pre_hooks={},
        )

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Computes the output; every subclass defines it."""
        raise NotImplementedError(f"{type(self).__name__} has no forward(); define it in the class")

    # ---- the call

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        for a in args:
            if isinstance(a, ndarray):
                return self._call_with_numpy(args, kwargs)
        if self._forward_hooks or self._forward_pre_hooks:
            return self._call_with_hooks(args, kwargs)
        return self.forward(*args, **kwargs)

    def _call_with_numpy(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        for first in args:
            if isinstance(first, (ndarray, Tensor)):
                break
        tensors = [from_numpy(a) if isinstance(a, ndarray) else a for a in args]
        if kwargs:
            kwargs = {key: from_numpy(a) if isinstance(a, ndarray) else a for key, a in kwargs.items()}
        output = self(*tensors, **kwargs)
        return _to_numpy(output) if isinstance(first, ndarray) else output

    def _call_with_hooks(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        for hook, with_kwargs in tuple(self._forward_pre_hooks.values()):
            if with_kwargs:
                changed = hook(self, args, kwargs)
                if changed is not None:
                    args, kwargs = changed
            else:
                changed = hook(self, args)
                if changed is not None:
                    args = changed if isinstance(changed, tuple) else (changed,)
        output = self.forward(*args, **kwargs)
        for hook, with_kwargs in tuple(self._forward_hooks.values()):
            changed = hook(self, args, kwargs, output) if with_kwargs else hook(self, args, output)
            if changed is not None:
                output = changed
        return output

    def register_forward_pre_hook(
        self, hook: Callable[..., Any], *, prepend: bool = False, with_kwargs: bool = False
    ) -> HookHandle:
        """Calls hook(module, args) before forward(); what it returns, unless None, replaces the positional arguments.

        with_kwargs: hook(module, args, kwargs), which returns None or (args, kwargs). prepend: before the other hooks.
        """
        return HookHandle(self._forward_pre_hooks, (hook, with_kwargs), prepend)

    def register_forward_hook(
        self, hook: Callable[..., Any], *, prepend: bool = False, with_kwargs: bool = False
    ) -> HookHandle:
        """Calls hook(module, args, output) after forward(); what it returns, unless None, replaces the output.

        with_kwargs: hook(module, args, kwargs, output). prepend: before the other hooks.
        """
        return HookHandle(self._forward_hooks, (hook, with_kwargs), prepend)

    # ---- registration

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, Parameter):
            self._register("_parameter_names", name, value)
        elif isinstance(value, Module):
            self._register("_module_names", name, value)
        else:
            for registry, kind in (
                ("_parameter_names", Parameter),
                ("_module_names", Module),
                ("_buffer_names", Tensor),
            ):
                if name in self.__dict__.get(registry, ()) and value is not None and not isinstance(value, kind):
                    raise TypeError(
                        f"{type(self).__name__}.{name} is a registered {kind.__name__}; got {type(value).__name__}, "
                        f"expected a {kind.__name__} or None; delete the attribute first to make it something else"
                    )
            super().__setattr__(name, value)

    def __delattr__(self, name: str) -> None:
        super().__delattr__(name)
        for registry in (self._parameter_names, self._buffer_names, self._module_names):
            registry.pop(name, None)

    def _register(self, registry: str, name: str, value: Any, mark: Any = None) -> None:
        if registry not in self.__dict__:
            raise AttributeError(
                f"{type(self).__name__}.{name} is assigned before Module.__init__(); call super().__init__() first"
            )
        if not isinstance(name, str):
            raise TypeError(f"{type(self).__name__}: the name {name!r} is a {type(name).__name__}; expected str")
        if not name or "." in name:
            raise KeyError(
                f"{type(self).__name__}: the name {name!r} is empty or has a dot; expected an attribute name"
            )
        for other in ("_parameter_names", "_buffer_names", "_module_names"):
            if other != registry:
                self.__dict__[other].pop(name, None)
        self.__dict__[registry][name] = mark
        self.__dict__[name] = value

    def _register_new(self, registry: str, name: str, value: Any, mark: Any = None) -> None:
        if isinstance(name, str) and name not in self.__dict__.get(registry, ()) and hasattr(self, name):
            raise KeyError(f"{type(self).__name__}: there is an attribute {name!r} already; choose another name")
        self._register(registry, name, value, mark)

    def register_parameter(self, name: str, param: Parameter | None) -> None:
        """Adds a parameter; None keeps the name for an absent one, such as the bias of a layer without bias."""
        if param is not None and not isinstance(param, Parameter):
            raise TypeError(
                f"register_parameter: {name!r} is a {type(param).__name__}; expected a fastnn.Parameter or None"
            )
        self._register_new("_parameter_names", name, param)

    def register_buffer(self, name: str, tensor: Tensor | None, persistent: bool = True) -> None:
        """Adds a Tensor that is state but no parameter; state_dict() has it if `persistent`."""
        if tensor is not None and not isinstance(tensor, Tensor):
            raise TypeError(f"register_buffer: {name!r} is a {type(tensor).__name__}; expected a fastnn.Tensor or None")
        self._register_new("_buffer_names", name, tensor, persistent)

    def add_module(self, name: str, module: Module | None) -> None:
        """Adds a module as an attribute."""
        if module is not None and not isinstance(module, Module):
            raise TypeError(f"add_module: {name!r} is a {type(module).__name__}; expected a fastnn.Module or None")
        self._register_new("_module_names", name, module)

    register_module = add_module

    # ---- walking

    def _members(self, registry: str, prefix: str, recurse: bool, remove_duplicate: bool) -> Iterator[tuple[str, Any]]:
        seen: set[int] = set()
        modules = self.named_modules(prefix=prefix, remove_duplicate=remove_duplicate) if recurse else [(prefix, self)]
        for path, module in modules:
            for name in module.__dict__[registry]:
                value = module.__dict__[name]
                if value is None or id(value) in seen:
                    continue
                if remove_duplicate:
                    seen.add(id(value))
                yield f"{path}.{name}" if path else name, value

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Parameter]]:
        """(name, parameter) of this module and, with `recurse`, of those inside it; shared ones once."""
        return self._members("_parameter_names", prefix, recurse, remove_duplicate)

    def named_buffers(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Tensor]]:
        """(name, buffer) of this module and, with `recurse`, of those inside it; shared ones once."""
        return self._members("_buffer_names", prefix, recurse, remove_duplicate)

    def parameters(self, recurse: bool = True) -> Iterator[Parameter]:
        """The parameters, shared ones once."""
        return (parameter for _, parameter in self.named_parameters(recurse=recurse))

    def buffers(self, recurse: bool = True) -> Iterator[Tensor]:
        """The buffers, shared ones once."""
        return (buffer for _, buffer in self.named_buffers(recurse=recurse))

    def named_children(self) -> Iterator[tuple[str, Module]]:
        """(name, module) of the modules directly inside this one, shared ones once."""
        seen: set[int] = set()
        for name in self._module_names:
            module = self.__dict__[name]
            if module is not None and id(module) not in seen:
                seen.add(id(module))
                yield name, module

    def children(self) -> Iterator[Module]:
        """The modules directly inside this one."""
        return (module for _, module in self.named_children())

    def named_modules(
        self, memo: set[int] | None = None, prefix: str = "", remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Module]]:
        """(name, module) of this module, under `prefix`, and of all modules inside it, parents first."""
        memo = set() if memo is None else memo
        if id(self) in memo:
            return
        if remove_duplicate:
            memo.add(id(self))
        yield prefix, self
        for name in self._module_names:
            module = self.__dict__[name]
            if module is not None:
                yield from module.named_modules(memo, f"{prefix}.{name}" if prefix else name, remove_duplicate)

    def modules(self) -> Iterator[Module]:
        """This module and all modules inside it, shared ones once."""
        return (module for _, module in self.named_modules())

    def get_submodule(self, target: str) -> Module:
        """The module of a qualified name such as "features.0". Raises AttributeError where there is none."""
        module = self
        for name in target.split(".") if target else ():
            if name not in module._module_names or module.__dict__[name] is None:
                raise AttributeError(
                    f"{type(self).__name__} has no module {target!r}: {type(module).__name__} has "
                    f"{list(module._module_names)}, not {name!r}"
                )
            module = module.__dict__[name]
        return module

    def apply(self: Self, fn: Callable[[Module], Any]) -> Self:
        """Calls fn(module) for all modules inside this one, then for itself; returns itself."""
        for child in self.children():
            child.apply(fn)
        fn(self)
        return self

    # ---- modes

    def train(self: Self, mode: bool = True) -> Self:
        """Turns training mode, which dropout and batch norm look at, on or off everywhere; returns itself."""
        if not isinstance(mode, bool):
            raise ValueError(f"train: mode is {mode!r}; expected True or False")
        for module in self.modules():
            module.training = mode
        return self

    def eval(self: Self) -> Self:
        """train(False)."""
        return self.train(False)

    def requires_grad_(self: Self, requires_grad: bool = True) -> Self:
        """Sets requires_grad of all parameters; returns itself."""
        for parameter in self.parameters():
            parameter.requires_grad = requires_grad
        return self

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forgets the gradients of all parameters, or fills them with zeros."""
        for parameter in self.parameters():
            clear_grad(parameter, set_to_none)

    def to(self: Self, *args: Any, device: Any = None, dtype: Any = None) -> Self:
        """to(dtype), to(device) or to(device, dtype): moves the parameters and buffers to a device and converts the
        floating ones to a dtype; returns itself.

        What changes is a new Parameter or Tensor without gradient: make optimizers after the conversion.
        """
        for a in args:
            if str(a).partition(":")[0] in ("cpu", "cuda"):
                device = a
            elif a is not None:
                dtype = a
        device = None if device is None else _device("to", device)
        dtype = floating_dtype("to", None, dtype, default=None)
        converted: dict[int, Tensor] = {}  # what is shared stays shared
        for module in self.modules():
            for name in (*module._parameter_names, *module._buffer_names):
                value = module.__dict__[name]
                if value is None:
                    continue
                if id(value) not in converted:
                    new = value.detach().to(dtype if is_floating(value) else None, device=device)
                    same = new.dtype == value.dtype and new.device == value.device
                    if isinstance(value, Parameter) and not same:
                        new = Parameter(new, value.requires_grad)
                    converted[id(value)] = value if same else new
                module.__dict__[name] = converted[id(value)]
        return self

    def _place(self, device: Any) -> None:
        """What constructors do last: initial values are drawn on the CPU, the same for every device."""
        if device is not None:
            self.to(device=device)

    def cuda(self: Self, device: int | str = 0) -> Self:
        """to("cuda")."""
        return self.to(device=f"cuda:{device}" if isinstance(device, int) else device)

    def cpu(self: Self) -> Self:
        """to("cpu")."""
        return self.to(device="cpu")

    def float(self: Self) -> Self:
        """to(float32)."""
        return self.to(np.float32)

    def double(self: Self) -> Self:
        """to(float64)."""
        return self.to(np.float64)

    def half(self: Self) -> Self:
        """to(float16)."""
        return self.to(np.float16)

    def bfloat16(self: Self) -> Self:
        """to(bfloat16)."""
        return self.to("bfloat16")

    # ---- state

    def state_dict(
        self, *, destination: dict[str, Tensor] | None = None, prefix: str = "", keep_vars: bool = False
    ) -> dict[str, Tensor]:
        """Parameters and persistent buffers under torch's names, on the same memory.

        With keep_vars the Parameters themselves, else Tensors that do not require gradients. `fastnn.save` writes it.
        """
        state = {} if destination is None else destination
        for name, value in self._state(prefix):
            state[name] = value if keep_vars else value.detach()
        return state

    def _state(self, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
        for path, module in self.named_modules(remove_duplicate=False):
            for name in (
                *module._parameter_names,
                *(b for b, persistent in module._buffer_names.items() if persistent),
            ):
                if module.__dict__[name] is not None:
                    yield prefix + (f"{path}.{name}" if path else name), module.__dict__[name]

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True) -> LoadResult:
        """Copies values into the parameters and persistent buffers of the same names, converting to their dtypes.

        Args:
            state_dict: names to Tensors, numpy arrays, torch tensors or other arrays (__dlpack__, __array__).
            strict: whether it is an error if a name is missing or unexpected.

        Returns (missing_keys, unexpected_keys).

        Raises:
            TypeError: state_dict is no mapping, or a value is no array.
            ValueError: shapes differ, or names do with strict=True; the message lists all. Nothing is changed then.
        """
        if not isinstance(state_dict, Mapping):
            raise TypeError(
                f"load_state_dict: state_dict is a {type(state_dict).__name__}; expected a mapping from names to arrays"
            )
        own = dict(self._state())
        missing = [key for key in own if key not in state_dict]
        unexpected = [key for key in state_dict if key not in own]
        errors = []
        if strict and unexpected:
            errors.append("unexpected keys: " + ", ".join(map(repr, unexpected)))
        if strict and missing:
            errors.append("missing keys: " + ", ".join(map(repr, missing)))
        copies = []
        for key, target in own.items():
            if key not in state_dict:
                continue
            source = as_tensor(state_dict[key], f"load_state_dict: {key!r}")
            if source.shape != target.shape:
                errors.append(f"size mismatch for {key!r}: got shape {source.shape}, expected {target.shape}")
            copies.append((target, source))
        if errors:
            raise ValueError(f"load_state_dict: error(s) for {type(self).__name__}:\n  " + "\n  ".join(errors))
        for target, source in copies:
            _C.assign(target, source)
        return LoadResult(missing, unexpected)

    # ---- text

    def extra_repr(self) -> str:
        """What repr() says of the module itself; subclasses define it."""
        return ""

    def __repr__(self) -> str:
        extra = self.extra_repr()
        lines = extra.split("\n") if extra else []
        children = [f"({n}): " + repr(self.__dict__[n]).replace("\n", "\n  ") for n in self._module_names]
        if not children and len(lines) <= 1:
            return f"{type(self).__name__}({extra})"
        return f"{type(self).__name__}(\n  " + "\n  ".join(lines + children) + "\n)"


def is_floating(value: Tensor) -> bool:
    """Whether the dtype is float16, bfloat16, float32 or float64."""
    return value.dtype.kind == "f" or value.dtype.name == "bfloat16"


def clear_grad(parameter: Tensor, set_to_none: bool) -> None:
    """Sets parameter.grad to None, or fills it with zeros."""
    if set_to_none or parameter.grad is None:
        parameter.grad = None
    else:
        _C.fill(parameter.grad, 0)


def _to_numpy(value: Any) -> Any:
    """`value` with its Tensors, also inside tuples, lists and dicts, as numpy arrays where no gradient is required."""
    if isinstance(value, Tensor):
        return value if value.requires_grad or value.device != _C.get_implicit_device() else value.numpy()
    if isinstance(value, tuple):
        items = map(_to_numpy, value)
        return type(value)(*items) if hasattr(value, "_fields") else tuple(items)
    if isinstance(value, list):
        return [_to_numpy(item) for item in value]
    if isinstance(value, dict):
        return {key: _to_numpy(item) for key, item in value.items()}
    return value
