"""Activations that conv2d and linear apply while their output is still in registers (`activation=`)."""

from __future__ import annotations

from .. import _C

# What the derivative needs: the output "y", which the next op keeps anyway, or the value before the activation "x".
EPILOGUES = {
    "relu": "y",
    "sigmoid": "y",
    "tanh": "y",
    "relu6": "x",
    "gelu": "x",
    "gelu_tanh": "x",
    "silu": "x",
    "mish": "x",
    "hardswish": "x",
    "hardsigmoid": "x",
    "softsign": "x",
}


def check_epilogue(op: str, activation: str | None) -> str:
    """The kernel's name of an activation; NotImplementedError for one that cannot be fused."""
    if activation is None:
        return "none"
    if activation not in EPILOGUES:
        raise NotImplementedError(f"{op}: activation is {activation!r}; expected None or one of {', '.join(EPILOGUES)}")
    return activation


def record_epilogue(product, activation: str):
    """(y, what its backward needs) of y = activation(product); product(name) runs with that epilogue."""
    if activation == "none":
        return product("none"), None
    if EPILOGUES[activation] == "y":
        y = product(activation)
        return y, y
    x = product("none")
    return _C.activation(activation, x, 0.0, 0.0), x


def epilogue_backward(activation: str, saved, grad):
    """The gradient of the product from the gradient of y."""
    return grad if saved is None else _C.activation_backward(activation, saved, grad, 0.0, 0.0)
