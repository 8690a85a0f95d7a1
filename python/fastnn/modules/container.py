"""Modules that hold modules."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from operator import index
from typing import Any, TypeVar, overload

from .fusion import run
from .module import Module

Self = TypeVar("Self", bound="_Numbered")


class _Numbered(Module):
    """Modules under the names "0", "1", ...; what Sequential and ModuleList share."""

    def _replace(self, modules: Iterable[Module]) -> None:
        """Holds `modules` and no others, numbered from 0."""
        modules = list(modules)
        for name in list(self._module_names):
            delattr(self, name)
        for i, module in enumerate(modules):
            self.add_module(str(i), module)

    def _name(self, i: int) -> str:
        names = list(self._module_names)
        i = index(i)
        if not -len(names) <= i < len(names):
            raise IndexError(f"{type(self).__name__}: index {i} is out of range for {len(names)} modules")
        return names[i]

    @overload
    def __getitem__(self, i: int) -> Module: ...
    @overload
    def __getitem__(self: Self, i: slice) -> Self: ...
    def __getitem__(self, i: int | slice) -> Module:
        if isinstance(i, slice):
            return self._of(list(self._module_names)[i])
        return self.__dict__[self._name(i)]

    def _of(self: Self, names: list[str]) -> Self:
        raise NotImplementedError

    def __setitem__(self, i: int, module: Module) -> None:
        setattr(self, self._name(i), module)

    def __delitem__(self, i: int | slice) -> None:
        names = list(self._module_names)
        gone = set(names[i]) if isinstance(i, slice) else {self._name(i)}
        self._replace([self.__dict__[name] for name in names if name not in gone])

    def __len__(self) -> int:
        return len(self._module_names)

    def __iter__(self) -> Iterator[Module]:
        return iter([self.__dict__[name] for name in self._module_names])

    def append(self: Self, module: Module) -> Self:
        """Adds a module at the end; returns itself."""
        self.add_module(str(len(self)), module)
        return self

    def extend(self: Self, modules: Iterable[Module]) -> Self:
        """Adds modules at the end; returns itself."""
        for module in list(modules):
            self.append(module)
        return self

    def insert(self, i: int, module: Module) -> None:
        """Adds a module before the one of index i."""
        modules = list(self)
        modules.insert(i, module)
        self._replace(modules)


class Sequential(_Numbered):
    """y = fn(... f1(f0(x))). Takes modules, which become "0", "1", ..., or one mapping from names to modules.

    Neighbours run as one kernel call where no hook looks at them: convolution or linear, activation, 2x2 max-pool.
    """

    def __init__(self, *args: Module | Mapping[str, Module]) -> None:
        super().__init__()
        if len(args) == 1 and isinstance(args[0], Mapping):
            for name, module in args[0].items():
                self.add_module(name, module)
        else:
            for i, module in enumerate(args):
                self.add_module(str(i), module)

    def _of(self, names: list[str]) -> Sequential:
        return type(self)({name: self.__dict__[name] for name in names})

    def forward(self, input: Any) -> Any:
        return run([self.__dict__[name] for name in self._module_names], input)


class ModuleList(_Numbered):
    """A list of modules that is no module to call: index it, or loop over it."""

    def __init__(self, modules: Iterable[Module] | None = None) -> None:
        super().__init__()
        self.extend(modules or ())

    def _of(self, names: list[str]) -> ModuleList:
        return type(self)(self.__dict__[name] for name in names)


class ModuleDict(Module):
    """A dict from names to modules that is no module to call."""

    def __init__(self, modules: Mapping[str, Module] | Iterable[tuple[str, Module]] | None = None) -> None:
        super().__init__()
        self.update(modules or {})

    def __getitem__(self, key: str) -> Module:
        if key not in self._module_names:
            raise KeyError(key)
        return self.__dict__[key]

    def __setitem__(self, key: str, module: Module) -> None:
        self.add_module(key, module)

    def __delitem__(self, key: str) -> None:
        self[key]
        delattr(self, key)

    def __contains__(self, key: str) -> bool:
        return key in self._module_names

    def __len__(self) -> int:
        return len(self._module_names)

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._module_names))

    def keys(self) -> Iterable[str]:
        """The names."""
        return list(self._module_names)

    def values(self) -> Iterable[Module]:
        """The modules."""
        return [self.__dict__[name] for name in self._module_names]

    def items(self) -> Iterable[tuple[str, Module]]:
        """(name, module) pairs."""
        return [(name, self.__dict__[name]) for name in self._module_names]

    def update(self, modules: Mapping[str, Module] | Iterable[tuple[str, Module]]) -> None:
        """Adds or replaces modules."""
        for key, module in dict(modules).items():
            self[key] = module

    def pop(self, key: str) -> Module:
        """Removes a module and returns it."""
        module = self[key]
        del self[key]
        return module

    def clear(self) -> None:
        """Removes all modules."""
        for key in self.keys():
            del self[key]
