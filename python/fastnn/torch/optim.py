"""torch.optim's SGD, Adam and AdamW, each step one native call per parameter group.

Arguments, param_groups, state and state_dict are torch's, so that a checkpoint goes from one to the other. Groups that
the call does not take run torch's own step, with a warning that says why: parameters or gradients that are sparse, not
on the CPU, tensor subclasses, or of another dtype than float32 and float64 (torch keeps the state of shorter types in
that type, fastnn in float32); a learning rate or betas in a tensor, differentiable=True, a GradScaler with fused=True.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
from typing import Any

import torch

from .. import _C
from ..ops import _torch  # noqa: F401  attaches torch to the ops
from ..tensor import from_dlpack

Tensor = torch.Tensor
Group = dict[str, Any]


def _sgd_step(params: Any, momenta: Any, fresh: Any, options: tuple[Any, ...], *grads: Any) -> None:
    _C.sgd_step(params, grads, momenta, fresh, *options)


def _adam_step(params: Any, steps: Any, moments: tuple[Any, ...], options: tuple[Any, ...], *grads: Any) -> None:
    _C.adam_step(params, grads, *moments, steps, *options)


# Op.torch_run lends torch's tensors, here the gradients, to a function: as fastnn Tensors that it may read.
_sgd = _C.Op("sgd_step", _sgd_step, None, None).torch_run
_adam = _C.Op("adam_step", _adam_step, None, None).torch_run


class _Step:
    """step() of torch's optimizers; what a class adds is _update."""

    _warned: set[str]
    _torch_step: Callable[[Any], Any]

    def step(self: Any, closure: Callable[[], Any] | None = None) -> Any:
        """Changes the parameters by their gradients; parameters whose grad is None stay as they are.

        closure: computes the loss and its gradients first; its result is returned.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            obstacle = self._obstacle(group)
            if not obstacle and params:
                try:
                    with torch.no_grad():
                        self._update(group, params, [p.grad for p in params])
                except (NotImplementedError, TypeError, ValueError) as error:  # raised before anything is written
                    obstacle = str(error)
                else:
                    torch.autograd.graph.increment_version(params)  # autograd and folded weights look at it
            if obstacle:
                self._run_torch(group, obstacle)
        return loss

    def _views(self: Any, name: str, params: list[Tensor], tensors: list[Tensor]) -> tuple[Any, ...]:
        """fastnn Tensors on the memory of `tensors`, which are a state, or themselves, of params.

        They cost microseconds each and are kept as long as the tensors and their memory are the same.
        """
        cache = self.__dict__.setdefault("_view_cache", {})
        views = []
        for p, tensor in zip(params, tensors, strict=True):
            key, address = (id(p), name), tensor.data_ptr()
            known = cache.get(key)
            if known is None or known[0] is not tensor or known[1] != address:
                if type(tensor) not in (Tensor, torch.nn.Parameter) or tensor.layout is not torch.strided:
                    raise NotImplementedError(f"a parameter is a {type(tensor).__name__}, {tensor.layout}")
                known = cache[key] = (tensor, address, from_dlpack(tensor.detach()))
            views.append(known[2])
        return tuple(views)

    def _obstacle(self: Any, group: Group) -> str:
        """Which option the native call does not take; "" if it takes them all."""
        for option in ("lr", "weight_decay", "betas"):
            value = group.get(option, 0.0)
            if isinstance(value, Tensor) or (type(value) is tuple and any(isinstance(v, Tensor) for v in value)):
                return f"{option} is a tensor"
        if group["differentiable"]:
            return "differentiable=True"
        if getattr(self, "grad_scale", None) is not None or getattr(self, "found_inf", None) is not None:
            return "a GradScaler scales inside of the step"
        return ""

    def _run_torch(self: Any, group: Group, reason: str) -> None:
        if reason not in self.__dict__.setdefault("_warned", set()):
            self._warned.add(reason)
            warnings.warn(f"{type(self).__name__}: torch's own step runs: {reason}", stacklevel=5)
        groups = self.param_groups
        try:
            self.param_groups = [group]
            with torch.set_grad_enabled(bool(group["differentiable"])):
                self._torch_step()
        finally:
            self.param_groups = groups


class SGD(_Step, torch.optim.SGD):
    """torch.optim.SGD in one native call per group; fastnn.optim.SGD has the equations."""

    _torch_step = inspect.unwrap(torch.optim.SGD.step)

    def _update(self, group: Group, params: list[Tensor], grads: list[Tensor]) -> None:
        momentum, buffers, fresh, made = group["momentum"], [], [], []
        if momentum:
            for i, p in enumerate(params):
                buffer = self.state[p].get("momentum_buffer")
                if buffer is None:
                    buffer = torch.empty_like(p)
                    fresh.append(i)
                    made.append((p, buffer))
                elif buffer.stride() != p.stride():  # torch gives it the gradient's layout
                    buffer = torch.empty_like(p).copy_(buffer)
                    made.append((p, buffer))
                buffers.append(buffer)
        names = ("lr", "momentum", "dampening", "weight_decay", "nesterov", "maximize")
        views = self._views("", params, params)
        momenta = self._views("momentum_buffer", params, buffers) if momentum else ()
        _sgd(views, momenta, tuple(fresh), tuple(group[name] for name in names), *grads)
        for p, buffer in made:
            self.state[p]["momentum_buffer"] = buffer


class Adam(_Step, torch.optim.Adam):
    """torch.optim.Adam in one native call per group; fastnn.optim.Adam has the equations."""

    _torch_step = inspect.unwrap(torch.optim.Adam.step)

    def _update(self, group: Group, params: list[Tensor], grads: list[Tensor]) -> None:
        names = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq") if group["amsgrad"] else ("exp_avg", "exp_avg_sq")
        for p in params:
            if not self.state[p]:
                self.state[p]["step"] = torch.zeros((), dtype=torch.float32)
            for name in names:
                if name not in self.state[p]:
                    self.state[p][name] = torch.zeros_like(p)
        states = [self.state[p] for p in params]
        options = (group["lr"], *group["betas"])
        options += tuple(group[name] for name in ("eps", "weight_decay", "decoupled_weight_decay", "maximize"))
        steps = self._views("step", params, [s["step"] for s in states])
        moments = [self._views(name, params, [s[name] for s in states]) for name in names]
        if len(moments) == 2:
            moments.append(())
        _adam(self._views("", params, params), steps, tuple(moments), options, *grads)


class AdamW(Adam, torch.optim.AdamW):
    """torch.optim.AdamW in one native call per group; fastnn.optim.AdamW has the equations."""


def __getattr__(name: str) -> Any:
    """Everything else is torch.optim's."""
    return getattr(torch.optim, name)
