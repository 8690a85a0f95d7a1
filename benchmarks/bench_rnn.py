"""LSTM, GRU and RNN: two layers of 512 units over 100 steps, and a small LSTM."""

from __future__ import annotations

from functools import partial
from typing import Any, Literal, NamedTuple

import numpy as np

from .cases import Arrays, Case, Run, Work


class Net(NamedTuple):
    cls: str  # in fastnn and torch.nn
    gates: int
    layers: int
    hidden: int  # also the size of the input
    batch: int
    steps: int


NETS = (
    Net("LSTM", 4, 2, 512, 32, 100),
    Net("GRU", 3, 2, 512, 32, 100),
    Net("RNN", 1, 2, 512, 32, 100),
    Net("LSTM", 4, 1, 64, 8, 50),
)
KINDS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


def _make(rng: np.random.Generator, net: Net) -> Arrays:
    rows, bound = net.gates * net.hidden, net.hidden**-0.5  # as torch initialises
    shapes = {"weight_ih": (rows, net.hidden), "weight_hh": (rows, net.hidden), "bias_ih": (rows,), "bias_hh": (rows,)}
    arrays = {
        f"{kind}_l{layer}": rng.uniform(-bound, bound, shapes[kind]).astype(np.float32)
        for layer in range(net.layers)
        for kind in KINDS
    }
    for name in ("x", "grad"):
        arrays[name] = rng.standard_normal((net.steps, net.batch, net.hidden), dtype=np.float32)
    return arrays


def _torch_like(library: Any, arrays: Arrays, variant: str, net: Net, backward: bool) -> Work:
    nn = library.lib.nn if library.name == "torch" else library.lib
    x = library.tensor(arrays["x"], backward)
    model = getattr(nn, net.cls)(net.hidden, net.hidden, net.layers)
    model.load_state_dict({name: library.tensor(a) for name, a in arrays.items() if name not in ("x", "grad")})
    parameters = list(model.parameters())
    for parameter in parameters:
        parameter.requires_grad = backward
    if not backward:
        return Work(lambda: model(x)[0], lambda y: [library.numpy(y)])
    gradient = library.tensor(arrays["grad"])

    def step() -> Any:
        for tensor in (x, *parameters):
            tensor.grad = None
        y, _ = model(x)
        y.backward(gradient)
        return y

    return Work(step, lambda y: [library.numpy(y), *(library.numpy(t.grad) for t in (x, *parameters))])


def _reference(arrays: Arrays, net: Net, backward: bool) -> list[np.ndarray]:
    from fastnn import reference

    layer = getattr(reference, f"{net.cls.lower()}_layer")
    zeros = [np.zeros((net.batch, net.hidden))] * (2 if net.cls == "LSTM" else 1)
    inputs = [arrays["x"]]
    weights = [[arrays[f"{kind}_l{i}"] for kind in KINDS] for i in range(net.layers)]
    for w in weights:
        inputs.append(layer(inputs[-1], *zeros, *w)[0])
    if not backward:
        return inputs[-1:]
    from .gradients import recurrent

    grad, gradients = arrays["grad"], []
    for x, w in zip(inputs[-2::-1], weights[::-1], strict=True):
        grad, *of_weights = recurrent(net.cls, grad, x, *w)
        gradients = of_weights + gradients
    return [inputs[-1], grad, *gradients]


def _case(net: Net, direction: Literal["fwd", "bwd"]) -> Case:
    backward = direction == "bwd"
    build = partial(_torch_like, net=net, backward=backward)
    weights = net.layers * 2 * net.gates * net.hidden * (net.hidden + 1)
    states = net.steps * net.batch * net.hidden
    flops = 4 * net.layers * net.gates * net.hidden * states
    return Case(
        op="rnn",
        name=f"{net.cls} {net.layers}x{net.hidden} batch {net.batch} steps {net.steps}",
        direction=direction,
        make=partial(_make, net=net),
        reference=partial(_reference, net=net, backward=backward),
        runs={"fastnn": Run(("",), build), "torch": Run(("eager",), build)},
        flops=3 * flops if backward else flops,
        traffic=lambda itemsize: (
            (weights + states) * (1 + backward) * itemsize,
            (states + backward * (weights + states)) * itemsize,
        ),
        dtypes=("float32",),
    )


CASES = [_case(net, direction) for net in NETS for direction in ("fwd", "bwd")]
