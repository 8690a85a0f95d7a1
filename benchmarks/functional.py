"""Builds a Case from a function that fastnn, torch and the reference share by name, as most ops do."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from math import prod
from typing import Any, Literal

import numpy as np

from .cases import Arrays, Case, Run, Work, normal

Direction = Literal["fwd", "bwd"]
GRAD = "grad_output"


def functional(
    op: str,
    name: str,
    direction: Direction,
    shapes: Mapping[str, tuple[int, ...]],
    out: tuple[int, ...],
    *,
    kwargs: Mapping[str, Any] | None = None,
    family: str | None = None,
    make: Callable[[np.random.Generator], Arrays] | None = None,
    labels: tuple[str, ...] = (),
    constants: tuple[str, ...] = ("weight", "bias"),
    flops: int = 0,
    saved: bool = True,
    layouts: bool = False,
    by_name: bool = False,
    onnx: Callable[[Any], list[Any]] | None = None,
    jax: Callable[..., Any] | None = None,
) -> Case:
    """The case of calling F.<op>(*arrays, **kwargs); "bwd" adds the gradients of all arrays but the labels.

    Args:
      shapes: the positional arguments in order.
      out: the output's shape; () for a loss, which is then differentiated with gradient 1.
      make: the arrays where standard normal ones will not do.
      labels: arguments without a gradient (int64).
      constants: arguments that ONNX Runtime may take as initializers.
      flops: of the forward.
      saved: the backward must read the arguments (or the output) a second time.
      by_name: fastnn, torch and the reference take the arrays as keywords, because other arguments stand between them.
      layouts: images: torch and fastnn are timed in NCHW and in channels_last.
      onnx: onnx.helper -> nodes from the arguments' names to "y"; forward only.
      jax: function of (jax, *arrays, **kwargs), which is jitted.
    """
    kwargs = dict(kwargs or {})
    leaves = tuple(argument for argument in shapes if argument not in labels)
    backward = direction == "bwd"
    needs_grad_output = backward and out != ()
    if make is None:
        make = normal(**shapes)
    if needs_grad_output:
        make = _with_grad_output(make, out)
    details = {"arguments": tuple(shapes), "leaves": leaves, "kwargs": kwargs, "backward": backward}
    builder = partial(_torch_like, op=op, by_name=by_name, **details)
    forms = ("NCHW", "channels_last") if layouts else ("",)
    torch_forms = ("eager", "channels_last", "compiled") if layouts else ("eager", "compiled")
    runs = {"fastnn": Run(forms, builder), "torch": Run(torch_forms, builder)}
    if onnx is not None and not backward:
        runs["onnxruntime"] = Run(("",), partial(_onnxruntime, nodes=onnx, constants=constants))
    if jax is not None:
        runs["jax"] = Run(("jit",), partial(_jax, function=jax, **details))

    def reference(arrays: Arrays) -> list[np.ndarray]:
        from fastnn import reference

        arguments = [arrays[argument] for argument in shapes]
        function = getattr(reference, op)
        if by_name:
            function = _by_name(function, tuple(shapes))
        result = [np.asarray(function(*arguments, **kwargs))]
        if backward:
            from .gradients import gradient

            result += gradient(op)(arrays[GRAD] if needs_grad_output else np.ones(()), *arguments, **kwargs)
        return result

    def traffic(itemsize: int) -> tuple[int, int]:
        ints = sum(prod(shapes[label]) for label in labels) * 8
        inputs = sum(prod(shapes[leaf]) for leaf in leaves)
        if not backward:
            return inputs * itemsize + ints, prod(out) * itemsize
        read = inputs * (1 + saved) + prod(out)
        return read * itemsize + ints, (prod(out) + inputs) * itemsize

    return Case(
        op=family or op,
        name=name,
        direction=direction,
        make=make,
        reference=reference,
        runs=runs,
        # A product of two arguments is differentiated by two products of the same size.
        flops=flops * 3 if backward else flops,
        traffic=traffic,
    )


def _by_name(function: Callable[..., Any], names: tuple[str, ...]) -> Callable[..., Any]:
    return lambda *arrays, **kwargs: function(**dict(zip(names, arrays, strict=True)), **kwargs)


def _with_grad_output(make: Callable[[np.random.Generator], Arrays], out: tuple[int, ...]) -> Any:
    return lambda rng: {**make(rng), GRAD: rng.standard_normal(out, dtype=np.float32)}


def _torch_like(
    library: Any,
    arrays: Arrays,
    variant: str,
    *,
    op: str,
    arguments: tuple[str, ...],
    leaves: tuple[str, ...],
    kwargs: dict[str, Any],
    backward: bool,
    by_name: bool,
) -> Work:
    """The call in fastnn or torch: the two have the same functions and the same autograd."""
    last = variant == "channels_last"
    tensors = [library.tensor(arrays[name], backward and name in leaves, last) for name in arguments]
    function = library.function(op)
    if by_name:
        function = _by_name(function, arguments)
    if variant == "compiled":
        eager = function
        function = library.compiled(lambda *args: eager(*args, **kwargs))
    elif kwargs:
        function = partial(function, **kwargs)
    if not backward:
        return Work(partial(function, *tensors), lambda out: [library.numpy(out)])

    wanted = [tensor for tensor, name in zip(tensors, arguments, strict=True) if name in leaves]
    gradient = library.tensor(arrays[GRAD], False, last) if GRAD in arrays else None

    def step() -> Any:
        for tensor in wanted:
            tensor.grad = None
        out = function(*tensors)
        out.backward(gradient)
        return out

    return Work(step, lambda out: [library.numpy(out), *(library.numpy(tensor.grad) for tensor in wanted)])


def _onnxruntime(library: Any, arrays: Arrays, variant: str, *, nodes: Any, constants: tuple[str, ...]) -> Work:
    if any(a.dtype.name == "bfloat16" for a in arrays.values()):
        raise NotImplementedError("its CPU kernels have no bfloat16")
    inputs = {name: a for name, a in arrays.items() if name not in constants}
    fixed = {name: a for name, a in arrays.items() if name in constants}
    session = library.session(nodes(library.onnx.helper), inputs, fixed)
    return Work(partial(session.run, None, inputs), lambda outputs: outputs)


def _jax(
    library: Any,
    arrays: Arrays,
    variant: str,
    *,
    function: Callable[..., Any],
    arguments: tuple[str, ...],
    leaves: tuple[str, ...],
    kwargs: dict[str, Any],
    backward: bool,
) -> Work:
    jax = library.lib
    tensors = [library.tensor(arrays[name]) for name in arguments]
    forward = partial(function, jax, **kwargs)
    if not backward:
        jitted = jax.jit(forward)
        return Work(lambda: jitted(*tensors).block_until_ready(), lambda out: [library.numpy(out)])

    wanted = [index for index, name in enumerate(arguments) if name in leaves]

    def both(gradient: Any, *args: Any) -> Any:
        def of_leaves(*values: Any) -> Any:
            full = list(args)
            for index, value in zip(wanted, values, strict=True):
                full[index] = value
            return forward(*full)

        out, pullback = jax.vjp(of_leaves, *(args[index] for index in wanted))
        return out, *pullback(jax.numpy.ones_like(out) if gradient is None else gradient)

    jitted = jax.jit(both)
    gradient = library.tensor(arrays[GRAD]) if GRAD in arrays else None
    return Work(
        lambda: jax.block_until_ready(jitted(gradient, *tensors)), lambda outs: [library.numpy(out) for out in outs]
    )
