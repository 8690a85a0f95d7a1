"""Registers the rows of table.py as `torch.ops.fastnn.*`, each with its gradient operator.

    fastnn::f(arguments) -> results
    fastnn::f_backward(grads, [Tensor? output,] arguments, bool[] needs) -> Tensor[]

`needs` has one bool per argument of the Op, and the gradients of those that are needed come back in their order. These
operators are what torch.compile, torch.export, modes and subclasses see; plain eager calls do not come here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.autograd import forward_ad

from .. import _C
from ..ops._torch import only_once
from . import table, table_layers
from .table import Args, Row

ROWS = [*table.ROWS, *table_layers.ROWS]
_library = torch.library.Library("fastnn", "DEF")
_TAGS = (torch.Tag.pt2_compliant_tag,)


# ---- layout ----------------------------------------------------------------------------------------------------------


def _is_dense(x: torch.Tensor) -> bool:
    """Whether the elements lie in memory without gaps, in any order of the dimensions."""
    if x.is_contiguous() or (x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last)):
        return True
    run = 1
    for size, stride in sorted(zip(x.shape, x.stride(), strict=True), key=lambda pair: pair[1]):
        if size != 1:
            if stride != run:
                return False
            run = run * size
    return True


def _contiguous_strides(shape: Sequence[int]) -> list[int]:
    strides, run = [], 1
    for size in reversed(shape):
        strides.append(run)
        run = run * torch.sym_max(size, 1)
    return strides[::-1]


def _strides(layout: str, shape: Sequence[int], tensors: Sequence[torch.Tensor]) -> list[int]:
    """Strides of a result of that shape: see Row.layout."""
    if layout == "like":
        for x in tensors:
            if tuple(x.shape) == tuple(shape):
                if _is_dense(x):
                    return list(x.stride())
                break
    elif layout == "image" and len(shape) == 4 and tensors:
        if all(
            x.ndim == 4 and not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)
            for x in tensors
        ):
            n, c, h, w = shape
            return [c * h * w, 1, w * c, c]
    return _contiguous_strides(shape)


def _leaves(args: Args) -> list[torch.Tensor]:
    return [a for a in args if isinstance(a, torch.Tensor)]


def _layout_tensors(row: Row, args: Args) -> list[torch.Tensor]:
    """The tensors that a result's layout follows: the first, or all that cat joins."""
    tensors = _leaves(args)
    return tensors if row.layout == "like" or row.arguments.startswith("Tensor[]") else tensors[:1]


def _laid_out(x: torch.Tensor, strides: list[int], inputs: Sequence[torch.Tensor]) -> torch.Tensor:
    """x with those strides on memory of its own, as the fake kernel said; a copy only where it is not so already."""
    same = all(size == 1 or stride == wanted for size, stride, wanted in zip(x.shape, x.stride(), strides, strict=True))
    address = x.untyped_storage().data_ptr()
    if (same or not x.numel()) and not any(address == i.untyped_storage().data_ptr() for i in inputs):
        return x
    return x.new_empty_strided(x.shape, strides).copy_(x)


# ---- kernels ---------------------------------------------------------------------------------------------------------


def _forward_kernel(row: Row) -> Callable[..., Any]:
    def forward(*args: Any) -> Any:
        args = tuple(map(_exact, row.to_op(*args)))
        out = row.op.torch_run(*args)
        inputs, following = _leaves(args), _layout_tensors(row, args)
        if row.several:
            results: list[torch.Tensor] = []
            for o in out:
                results.append(_laid_out(o, _strides(row.layout, o.shape, following), [*inputs, *results]))
            return tuple(results)
        return _laid_out(out, _strides(row.layout, out.shape, following), inputs)

    return forward


def _exact(value: Any) -> Any:
    """A subclass that leaves the work to the kernels (it has no __torch_dispatch__) as a plain tensor."""
    if isinstance(value, torch.Tensor) and type(value) is not torch.Tensor:
        return value.as_subclass(torch.Tensor)
    return value


def _forward_fake(row: Row) -> Callable[..., Any]:
    def fake(*args: Any) -> Any:
        out = row.composite(*args)
        following = _layout_tensors(row, row.to_op(*args))

        def empty(o: torch.Tensor) -> torch.Tensor:
            return o.new_empty_strided(o.shape, _strides(row.layout, o.shape, following))

        return tuple(map(empty, out)) if row.several else empty(out)

    return fake


class _Context:
    """Stands for the ctx of a torch.autograd.Function: what Op.torch_forward saves on it."""

    to_save: tuple[torch.Tensor, ...]
    saved_values: Args
    arguments: int
    materialize_grads: bool


def _results(row: Row) -> int:
    return row.returns.count("Tensor")


def _split(row: Row, args: Args) -> tuple[list[Any], Any, Args, list[bool]]:
    """(gradients, output or None, arguments of the Op, needs) of a call of the gradient operator."""
    n = _results(row)
    grads, rest, needs = list(args[:n]), args[n:-1], list(args[-1])
    output = None
    if row.uses_output is not None:
        output, rest = rest[0], rest[1:]
    elif row.saves == "output":
        output = rest[0]
    return grads, output, row.to_op(*rest), needs


def _backward_kernel(row: Row) -> Callable[..., list[torch.Tensor]]:
    op = row.op

    def backward(*all_args: Any) -> list[torch.Tensor]:
        all_args = tuple(map(_exact, all_args))
        grads, output, args, needs = _split(row, all_args)
        saved = row.saved(args, output) if row.saved is not None else None
        with torch.no_grad():
            if saved is not None:
                tensors = tuple(_leaves(saved))
                values = tuple(... if isinstance(s, torch.Tensor) else s for s in saved)
            else:  # what record() computes on the way is not among the arguments
                ctx = _Context()
                op.torch_forward(ctx, *map(_requiring, args, needs))
                tensors, values = ctx.to_save, ctx.saved_values
            result = op.torch_run_backward(tuple(needs), values, tensors, *grads)
        inputs = _leaves(all_args)
        out = []
        for arg, grad, need in zip(args, result, needs, strict=True):
            if need:
                if grad is None:
                    grad = torch.zeros_like(arg)
                out.append(_laid_out(grad, _strides("like", arg.shape, [arg]), [*inputs, *out]))
        return out

    return backward


def _requiring(arg: Any, need: bool) -> Any:
    """The argument as record() looks at it: requiring a gradient or not."""
    return arg.detach().requires_grad_(need) if isinstance(arg, torch.Tensor) else arg


def _backward_fake(row: Row) -> Callable[..., list[torch.Tensor]]:
    def fake(*all_args: Any) -> list[torch.Tensor]:
        _, _, args, needs = _split(row, all_args)
        return [
            arg.new_empty_strided(arg.shape, _strides("like", arg.shape, [arg]))
            for arg, need in zip(args, needs, strict=True)
            if need
        ]

    return fake


# ---- autograd --------------------------------------------------------------------------------------------------------


def _is_transformed() -> bool:
    """Whether a functorch transform or forward-mode AD is active: then torch's own ops are differentiated."""
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def _below_autograd(operator: Any, keyset: Any, args: Args) -> Any:
    with torch._C._AutoDispatchBelowAutograd():
        return operator.redispatch(keyset & torch._C._after_autograd_keyset, *args)


def _autograd_kernel(row: Row, operator: Any, backward_operator: Any) -> Callable[..., Any]:
    """The kernel of the dispatcher's Autograd key. The Function sees the Op's arguments, where lists are flat."""

    def forward(ctx: Any, keyset: Any, *args: Any) -> Any:
        output = _below_autograd(operator, keyset, row.from_op(*args))
        kept = list(args if row.again is None else row.again(args))
        if row.saves == "output":
            kept[0] = output
        if row.uses_output is not None:
            kept.append(output if row.uses_output(args) else None)
        ctx.save_for_backward(*_leaves(kept))
        ctx.values = tuple(... if isinstance(a, torch.Tensor) else a for a in kept)
        ctx.set_materialize_grads(not row.several)
        return output

    def backward(ctx: Any, *grads: Any) -> Any:
        tensors = iter(ctx.saved_tensors)
        args = [next(tensors) if v is ... else v for v in ctx.values]
        output = [] if row.uses_output is None else [args.pop()]
        needs = list(ctx.needs_input_grad[1:])
        if all(g is None for g in grads):
            return (None,) * (1 + len(needs))
        computed = iter(backward_operator(*grads, *output, *row.from_op(*args), needs))
        return None, *(next(computed) if need else None for need in needs)

    function = type(
        f"fastnn_{row.name}",
        (torch.autograd.Function,),
        {"forward": staticmethod(forward), "backward": staticmethod(backward)},
    )
    apply = super(torch.autograd.Function, function).apply

    def kernel(keyset: Any, *args: Any) -> Any:
        if _is_transformed():
            return row.composite(*args)
        if torch.is_grad_enabled() and torch._C._any_requires_grad(*args):
            return apply(keyset, *row.to_op(*args))
        return _below_autograd(operator, keyset, args)

    return kernel


def _second_autograd_kernel(row: Row, operator: Any) -> Callable[..., Any]:
    """The Autograd kernel of the gradient operator: its results raise when they are differentiated."""

    def kernel(keyset: Any, *args: Any) -> Any:
        if _is_transformed():
            raise NotImplementedError(f"{row.op.name}: the gradient operator cannot be transformed; transform the op")
        grads = _below_autograd(operator, keyset, args)
        if torch.is_grad_enabled() and torch._C._any_requires_grad(*args):
            return list(only_once(row.op, grads))
        return grads

    return kernel


# ---- autocast --------------------------------------------------------------------------------------------------------


def autocast_arguments(row: Row, args: Args) -> Args:
    """The arguments after what autocast on the CPU does to them."""
    if row.autocast == "lower":
        dtype = torch.get_autocast_dtype("cpu")
    elif row.autocast == "float32":
        dtype = torch.float32
    elif row.autocast == "promote":
        dtypes = [a.dtype for a in args if _is_eligible(a)]
        dtype = torch.float32 if torch.float32 in dtypes or len(set(dtypes)) > 1 else (dtypes or [torch.float32])[0]
    else:
        return args
    return tuple(a.to(dtype) if _is_eligible(a) and a.dtype is not dtype else a for a in args)


def _is_eligible(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.is_floating_point() and value.dtype is not torch.float64


def _autocast_kernel(row: Row, operator: Callable[..., Any]) -> Callable[..., Any]:
    key = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastCPU)

    def kernel(*args: Any) -> Any:
        with torch._C._ExcludeDispatchKeyGuard(key):
            return operator(*row.from_op(*autocast_arguments(row, row.to_op(*args))))

    return kernel


# ---- all of it -------------------------------------------------------------------------------------------------------


def _filled(operator: Any, function: Callable[..., Any], before: int = 0) -> Callable[..., Any]:
    """function with all arguments, after `before` others: the dispatcher leaves out those that equal their default."""
    defaults = tuple(a.default_value if a.has_default_value() else None for a in operator._schema.arguments)

    def filled(*args: Any) -> Any:
        return function(*args, *defaults[len(args) - before :])

    return filled


def _overload(name: str) -> Callable[..., Any]:
    base, _, overload = name.partition(".")
    return getattr(getattr(torch.ops.fastnn, base), overload or "default")


def _backward_name(name: str) -> str:
    base, dot, overload = name.partition(".")
    return f"{base}_backward{dot}{overload}"


def _backward_arguments(arguments: str) -> str:
    """The arguments without defaults, and without what the forward operator changes."""
    plain = arguments.replace("(a!)", "").replace("(b!)", "")
    return ", ".join(a.partition("=")[0] for a in plain.split(", "))


def _register(row: Row) -> Callable[..., Any]:
    _library.define(f"{row.name}({row.arguments}) -> {row.returns}", tags=_TAGS)
    operator = _overload(row.name)
    composite = _filled(operator, row.composite)
    _library.impl(row.name, _filled(operator, _forward_kernel(row)), "CPU")
    torch.library.register_fake(f"fastnn::{row.name}", _filled(operator, _forward_fake(row)), lib=_library)
    # torch's own ops, where they decompose under vmap, and on CUDA, where torch differentiates them as well
    for key in ("FuncTorchBatched", "CUDA", "AutogradCUDA"):
        _library.impl(row.name, composite, key)
    if row.autocast is not None:
        _library.impl(row.name, _filled(operator, _autocast_kernel(row, operator)), "AutocastCPU")
    if row.differentiable:
        kernel = _autograd_kernel(row, operator, _register_backward(row))
        _library.impl(row.name, _filled(operator, kernel, before=1), "Autograd", with_keyset=True)
    return operator


def _register_backward(row: Row) -> Callable[..., Any]:
    name = _backward_name(row.name)
    grads = "Tensor grad, " if not row.several else "".join(f"Tensor? grad{i}, " for i in range(_results(row)))
    output = "Tensor? output, " if row.uses_output is not None else ""
    arguments = _backward_arguments(row.arguments)
    _library.define(f"{name}({grads}{output}{arguments}, bool[] needs) -> Tensor[]", tags=_TAGS)
    operator = _overload(name)
    _library.impl(name, _backward_kernel(row), "CPU")
    torch.library.register_fake(f"fastnn::{name}", _backward_fake(row), lib=_library)
    _library.impl(name, _second_autograd_kernel(row, operator), "Autograd", with_keyset=True)
    return operator


def _register_all() -> dict[int, list[tuple[Row, Callable[..., Any]]]]:
    found: dict[int, list[tuple[Row, Callable[..., Any]]]] = {}
    for row in ROWS:
        found.setdefault(id(row.op), []).append((row, _register(row)))
    return found


_operators = _register_all()


def rows(op: _C.Op) -> list[tuple[Row, Callable[..., Any]]]:
    """The rows of op, one per overload, each with its operator.

    Raises:
        NotImplementedError: the op is not in the table.
    """
    found = _operators.get(id(op))
    if found is None:
        raise NotImplementedError(
            f"{op.name}: not among torch.ops.fastnn, so it takes plain CPU tensors only, outside of modes, transforms, "
            "tracing, autocast and torch.compile"
        )
    return found


def find(op: _C.Op, args: Args) -> tuple[Row, Callable[..., Any]]:
    """The row and operator of op for these arguments of the Op."""
    found = rows(op)
    for row, operator in found[:-1]:
        if row.fits(args):
            return row, operator
    return found[-1]
