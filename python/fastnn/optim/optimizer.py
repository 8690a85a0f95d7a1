"""Optimizer: what all optimizers share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from itertools import count
from typing import Any

import numpy as np

from .. import _C
from .._arrays import as_tensor
from ..modules.module import clear_grad
from ..tensor import Tensor

Group = dict[str, Any]


class Optimizer:
    """Base class of optimizers. A step is one native call per parameter group.

    Args:
        params: Tensors, or groups: dicts with "params" and, where it differs from the keywords, their options.
        defaults: the options of groups that do not say otherwise.

    Attributes:
        param_groups: list of dicts; options such as group["lr"] may be changed between steps.
        state: a dict per parameter, filled by the first step that finds a gradient.
    """

    _counts_steps = False  # whether the state of a parameter has `step`, a float32 scalar, beside its arrays

    def __init__(self, params: Iterable[Tensor] | Iterable[Group], defaults: dict[str, Any]) -> None:
        self._name = type(self).__name__
        if isinstance(params, (Tensor, Mapping)):
            raise TypeError(
                f"{self._name}: params is a {type(params).__name__}; expected an iterable of Tensors or dicts"
            )
        groups = list(params)
        if not groups:
            raise ValueError(f"{self._name}: params is empty; expected at least one parameter")
        if not isinstance(groups[0], Mapping):
            groups = [{"params": groups}]
        self.defaults = defaults
        self.param_groups: list[Group] = []
        self.state: dict[Tensor, dict[str, Any]] = {}
        for group in groups:
            self.add_param_group(group)

    def add_param_group(self, param_group: Group) -> None:
        """Adds a dict with "params", a Tensor or an iterable of them, and options that replace the defaults."""
        if not isinstance(param_group, Mapping) or "params" not in param_group:
            raise TypeError(f"{self._name}: a parameter group is a dict with a key 'params'; got {param_group!r}")
        params = param_group["params"]
        if isinstance(params, (set, frozenset)):
            raise TypeError(f"{self._name}: params is a set, which has no order; expected a list")
        params = [params] if isinstance(params, Tensor) else list(params)
        known = {id(p) for group in self.param_groups for p in group["params"]}
        for p in params:
            if not isinstance(p, Tensor):
                raise TypeError(f"{self._name}: params holds a {type(p).__name__}; expected Tensors")
            if not p.is_leaf:
                raise ValueError(f"{self._name}: params holds the result of an operation; expected leaves")
            if id(p) in known:
                raise ValueError(f"{self._name}: a parameter of shape {p.shape} comes twice; list each one once")
            known.add(id(p))
        group = {**self.defaults, **param_group, "params": params}
        self._check(group)
        self.param_groups.append(group)

    def _check(self, group: Group) -> None:
        """Raises ValueError for options that make no sense."""
        raise NotImplementedError

    def _state_names(self, group: Group) -> tuple[str, ...]:
        """Names of the state arrays of one parameter, without the counter `step`."""
        raise NotImplementedError

    def _new_state(self, param: Tensor, group: Group) -> dict[str, Tensor]:
        """The state of one parameter before its first step: zeros."""
        state = {"step": _C.from_numpy(np.zeros((), np.float32))} if self._counts_steps else {}
        state.update((name, _C.optimizer_state(param)) for name in self._state_names(group))
        return state

    def _states(self, group: Group, params: list[Tensor]) -> tuple[dict[Tensor, Any], list[dict[str, Tensor]]]:
        """What the parameters without a state get, to be put into self.state after the step, and all their states."""
        state = self.state
        new = {p: self._new_state(p, group) for p in params if p not in state}
        return new, [state.get(p) or new[p] for p in params]

    def _update(self, group: Group, params: list[Tensor], grads: list[Tensor]) -> None:
        """Makes the step of the parameters that have gradients."""
        raise NotImplementedError

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Changes the parameters in place by their gradients; parameters whose grad is None stay as they are.

        closure: computes the loss and its gradients first; its result is returned.

        Raises ValueError or NotImplementedError for gradients and states that do not fit, before a group is changed.
        """
        if _C.cuda_capturing():
            self._record_options()
        loss = None
        if closure is not None:
            recording = _C.set_grad_enabled(True)
            try:
                loss = closure()
            finally:
                _C.set_grad_enabled(recording)
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if params:
                self._update(group, params, [p.grad for p in params])
        return loss

    def _options(self) -> list[dict[str, Any]]:
        return [{name: value for name, value in group.items() if name != "params"} for group in self.param_groups]

    def _record_options(self) -> None:
        """In a step that is captured (fastnn.graph): the options are a part of it."""
        from ..cuda_graph import depends_on

        if self._counts_steps:
            raise NotImplementedError(
                f"{self._name}.step: a captured step would repeat numbers that depend on the count of steps; capture "
                "forward and backward, and call step() after it"
            )
        new = [p for g in self.param_groups for p in g["params"] if p.grad is not None and p not in self.state]
        if new and any(self._state_names(g) and g.get("momentum", 1) for g in self.param_groups):
            raise RuntimeError(
                f"{self._name}.step: a parameter of shape {new[0].shape} has no state yet, which a captured step "
                "cannot begin; make one step before"
            )
        depends_on(self._options)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forgets the gradients of all parameters, or fills them with zeros."""
        for group in self.param_groups:
            for p in group["params"]:
                if set_to_none:
                    p.grad = None
                else:
                    clear_grad(p, set_to_none)

    def state_dict(self) -> dict[str, Any]:
        """{"state": {number: {name: Tensor}}, "param_groups": [{option: value, "params": [number, ...]}]}, as torch's.

        Parameters are numbered in the order of the groups. The Tensors are on the memory of the state.
        """
        numbers = count()
        order: dict[int, int] = {}
        groups = []
        for group in self.param_groups:
            for p in group["params"]:
                order[id(p)] = next(numbers)
            groups.append({**group, "params": [order[id(p)] for p in group["params"]]})
        state = {order[id(p)]: dict(values) for p, values in self.state.items() if id(p) in order}
        return {"state": dict(sorted(state.items())), "param_groups": groups}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Takes over the options and a copy of the state of state_dict(), ours or torch's.

        State arrays may be Tensors, numpy arrays or torch tensors; they are converted to the dtype that the state has.

        Raises:
            TypeError: state_dict lacks "state" or "param_groups", or a state value is no array.
            ValueError: groups, numbers of parameters, names or shapes differ. Nothing is changed then.
        """
        op = f"{self._name}.load_state_dict"
        if not isinstance(state_dict, Mapping) or not {"state", "param_groups"} <= state_dict.keys():
            raise TypeError(f"{op}: expected a dict with 'state' and 'param_groups', as state_dict() returns it")
        saved, own = state_dict["param_groups"], self.param_groups
        if [len(g["params"]) for g in saved] != [len(g["params"]) for g in own]:
            raise ValueError(
                f"{op}: got groups of {[len(g['params']) for g in saved]} parameters; "
                f"expected {[len(g['params']) for g in own]}"
            )
        groups = [{**mine, **theirs, "params": mine["params"]} for mine, theirs in zip(own, saved, strict=True)]
        state = {}
        for group, theirs in zip(groups, saved, strict=True):
            self._check(group)
            for p, number in zip(group["params"], theirs["params"], strict=True):
                values = {k: v for k, v in state_dict["state"].get(number, {}).items() if v is not None}
                if values:
                    state[p] = self._load_state(f"{op}: parameter {number}", p, group, values)
        self.param_groups = groups
        self.state = state

    def _load_state(self, what: str, param: Tensor, group: Group, values: dict[str, Any]) -> dict[str, Tensor]:
        """Copies of the state arrays of one parameter."""
        loaded = {}
        if self._counts_steps:
            step = values.get("step")
            count = as_tensor(step, f"{what}: 'step'").numpy() if hasattr(step, "shape") else np.asarray(step)
            if count.size != 1 or count.dtype == object:
                raise ValueError(f"{what}: 'step' is {step!r}; expected one number")
            loaded["step"] = _C.from_numpy(np.array(count.item(), np.float32))
        for name in self._state_names(group):
            if name not in values:
                raise ValueError(f"{what} has no {name!r} among {list(values)}; expected a state of {self._name}")
            source = as_tensor(values[name], f"{what}: {name!r}")
            if source.shape != param.shape:
                raise ValueError(f"{what}: {name!r} has shape {source.shape}; expected {param.shape}")
            loaded[name] = _C.optimizer_state(param)
            _C.assign(loaded[name], source)
        return loaded

    def __repr__(self) -> str:
        lines = [f"{self._name} ("]
        for i, group in enumerate(self.param_groups):
            lines.append(f"Parameter Group {i}")
            lines += [f"    {key}: {group[key]}" for key in sorted(group) if key != "params"]
        return "\n".join([*lines, ")"])


def check_options(name: str, group: Group, *options: str) -> None:
    """Raises ValueError unless each option is a number, 0 or more."""
    for option in options:
        if not group[option] >= 0:
            raise ValueError(f"{name}: {option} is {group[option]}; expected 0 or more")


def check_betas(name: str, group: Group) -> None:
    """Raises ValueError unless betas are two numbers in [0, 1)."""
    betas = group["betas"]
    if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
        raise ValueError(f"{name}: betas is {betas}; expected two numbers in [0, 1)")
