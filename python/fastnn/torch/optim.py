"""torch.optim's SGD, Adam and AdamW, each step one native call per parameter group.

Arguments, param_groups, state and state_dict are torch's, so that a checkpoint goes from one to the other. Groups that
the call does not take run torch's own step, with a warning that says why: parameters or gradients that are sparse, not on
the CPU, tensor subclasses, or of another dtype than float32 and float64 (torch keeps the state of shorter types in
that type), a learning rate or betas in a tensor, differentiable=True, a GradScaler with fused=True.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch

from .. import _C

Tensor = torch.Tensor
Group = dict[str, Any]
_DTYPES = (torch.float32, torch.float64)


def _ours(tensors: Sequence[Tensor]) -> list[Any]:
    """fastnn Tensors on the same memory."""
    return [_C.from_dlpack(tensor.detach()) for tensor in tensors]


def _is_plain(tensor: Tensor) -> bool:
    return (
        type(tensor) in (Tensor, torch.nn.Parameter)
        and tensor.layout is torch.strided
        and tensor.dtype in _DTYPES
        and tensor.device.type == "cpu"
    )


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
        groups = self.param_groups
        for group in groups:
            params = [p for p in group["params"] if p.grad is not None]
            obstacle = self._obstacle(group, params)
            if not obstacle:
                with torch.no_grad():
                    self._update(group, params, [p.grad for p in params])
                torch.autograd.graph.increment_version(params)  # autograd and folded weights look at it
                continue
            if obstacle not in self.__dict__.setdefault("_warned", set()):
                self._warned.add(obstacle)
                warnings.warn(f"{type(self).__name__}: torch's own step runs: {obstacle}", stacklevel=3)
            try:
                self.param_groups = [group]
                with torch.set_grad_enabled(bool(self.defaults["differentiable"])):
                    self._torch_step()
            finally:
                self.param_groups = groups
        return loss

    def _obstacle(self: Any, group: Group, params: list[Tensor]) -> str:
        """Why the native call does not take these parameters; "" if it does."""
        for option in ("lr", "weight_decay", "betas"):
            values = group.get(option, 0.0)
            if any(isinstance(v, Tensor) for v in (values if isinstance(values, tuple) else (values,))):
                return f"{option} is a tensor"
        if group["differentiable"]:
            return "differentiable=True"
        if getattr(self, "grad_scale", None) is not None or getattr(self, "found_inf", None) is not None:
            return "a GradScaler scales inside of the step"
        for p in params:
            for what, tensor in (("parameter", p), ("gradient", p.grad)):
                if not _is_plain(tensor):
                    return f"a {what} is a {type(tensor).__name__}, {tensor.dtype}, {tensor.layout}, {tensor.device}"
            if p.grad.dtype != p.dtype:
                return f"a parameter is {p.dtype} and its gradient {p.grad.dtype}"
            for name, tensor in self.state.get(p, {}).items():
                if isinstance(tensor, Tensor) and not (_is_plain(tensor) and (tensor.ndim == 0 or _fits(tensor, p))):
                    return f"state {name!r} differs in layout or dtype from its parameter"
        return ""


def _fits(state: Tensor, parameter: Tensor) -> bool:
    return state.dtype == parameter.dtype and state.shape == parameter.shape and state.stride() == parameter.stride()


class SGD(_Step, torch.optim.SGD):
    """torch.optim.SGD in one native call per group; fastnn.optim.SGD has the equations."""

    _torch_step = inspect.unwrap(torch.optim.SGD.step)

    def _update(self, group: Group, params: list[Tensor], grads: list[Tensor]) -> None:
        momentum, buffers, fresh = group["momentum"], [], []
        if momentum:
            for i, p in enumerate(params):
                buffer = self.state[p].get("momentum_buffer")
                if buffer is None:
                    buffer = self.state[p]["momentum_buffer"] = torch.empty_like(p)
                    fresh.append(i)
                buffers.append(buffer)
        _C.sgd_step(
            _ours(params),
            _ours(grads),
            _ours(buffers),
            fresh,
            group["lr"],
            momentum,
            group["dampening"],
            group["weight_decay"],
            group["nesterov"],
            group["maximize"],
        )


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
        moments = [_ours([s[name] for s in states]) for name in names]
        beta1, beta2 = group["betas"]
        _C.adam_step(
            _ours(params),
            _ours(grads),
            moments[0],
            moments[1],
            moments[2] if group["amsgrad"] else (),
            _ours([s["step"] for s in states]),
            group["lr"],
            beta1,
            beta2,
            group["eps"],
            group["weight_decay"],
            group["decoupled_weight_decay"],
            group["maximize"],
        )


class AdamW(Adam, torch.optim.AdamW):
    """torch.optim.AdamW in one native call per group; fastnn.optim.AdamW has the equations."""


def __getattr__(name: str) -> Any:
    """Everything else is torch.optim's."""
    return getattr(torch.optim, name)
