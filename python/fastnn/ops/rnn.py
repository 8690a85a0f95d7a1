"""Recurrent networks: layers over sequences, and single steps, as torch.lstm and torch.lstm_cell have them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .. import _C
from . import shape
from .dropout import dropout as _dropout

if TYPE_CHECKING:
    import numpy as np

    from ..tensor import Tensor

    Array = Tensor | np.ndarray


def _op(cell: str) -> _C.Op:
    """(input, h0, c0, weight_ih, weight_hh, bias_ih, bias_hh, reverse) -> (y, h_n), for an LSTM (y, h_n, c_n)."""
    outputs = 3 if cell == "lstm" else 2

    def record(input, h0, c0, weight_ih, weight_hh, bias_ih, bias_hh, reverse):
        results = _C.rnn_layer(cell, input, h0, c0, weight_ih, weight_hh, bias_ih, bias_hh, reverse)
        return results[:outputs], (input, weight_ih, weight_hh, *results[3:], reverse)

    def backward(ctx, grads):
        grad_c = grads[2] if outputs == 3 else None
        return _C.rnn_layer_backward(
            cell, grads[0], grads[1], grad_c, *ctx.saved, tuple(map(int, ctx.needs_input_grad[:7]))
        )

    return _C.Op(cell, lambda *arguments: _C.rnn_layer(cell, *arguments)[:outputs], record, backward)


_ops = {cell: _op(cell) for cell in ("rnn_tanh", "rnn_relu", "lstm", "gru")}


def _layers(
    cell: str,
    input: Array,
    hx: Sequence[Array | None],
    params: Sequence[Array],
    has_biases: bool,
    num_layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
    batch_first: bool,
) -> tuple[Tensor, ...]:
    """(y, h_n[, c_n]) of stacked layers; hx holds h0 and c0 (num_layers * directions, N, H), None for zeros."""
    op = _ops[cell]
    each = 4 if has_biases else 2
    directions = 2 if bidirectional else 1
    if len(params) != each * directions * num_layers:
        raise ValueError(
            f"{cell}: got {len(params)} parameters; expected {each} for each of {directions * num_layers} layers and "
            "directions"
        )
    hx = tuple(hx) if cell == "lstm" else (*hx, None)
    for name, state in zip(("h0", "c0"), hx, strict=True):
        if state is not None and (state.ndim != 3 or state.shape[0] != directions * num_layers):
            raise ValueError(
                f"{cell}: {name} has shape {tuple(state.shape)}; expected ({directions * num_layers}, batch, hidden)"
            )
    x = shape.transpose(input, 0, 1) if batch_first else input
    states = []
    for layer in range(num_layers):
        outputs = []
        for direction in range(directions):
            i = layer * directions + direction
            first = [None if state is None else state[i] for state in hx]
            weights = params[i * each : (i + 1) * each]
            y, *last = op(x, *first, *weights, *(() if has_biases else (None, None)), direction == 1)
            outputs.append(y)
            states.append(last)
        x = outputs[0] if len(outputs) == 1 else shape.cat(outputs, -1)
        if dropout and train and layer < num_layers - 1:
            x = _dropout(x, dropout, True)
    y = shape.transpose(x, 0, 1) if batch_first else x
    return y, *(shape.stack(state) for state in zip(*states, strict=True))


def lstm(
    input: Array,
    hx: Sequence[Array | None],
    params: Sequence[Array],
    has_biases: bool,
    num_layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
    batch_first: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Long short-term memory; for each time step, with x the input or the layer below's h, and * element by element:

        i, f, g, o = sigma(a_i), sigma(a_f), tanh(a_g), sigma(a_o),   a = W_ih x + b_ih + W_hh h + b_hh
        c = f * c + i * g;   h = o * tanh(c)

    Hochreiter & Schmidhuber 1997, Neural Computation 9(8); with the forget gate of Gers et al. 2000.

    Args:
        input: (T, N, I), with batch_first (N, T, I); float32, bfloat16, float16 or float64. 16-bit types are computed
            in float32 throughout.
        hx: (h_0, c_0), each (num_layers D, N, H), D directions; None stands for zeros.
        params: weight_ih (4 H, I), later layers (4 H, D H), weight_hh (4 H, H), if has_biases bias_ih and bias_hh
            (4 H,), rows in the order i, f, g, o; for every layer and its directions in turn.
        dropout: probability, between layers, where train is True.
        bidirectional: each layer also goes from the last step to the first; both h are joined.

    Returns: (y, h_n, c_n): y (T, N, D H), with batch_first (N, T, D H); h_n and c_n like hx.

    Raises:
        ValueError: shapes or the number of parameters do not fit, T is 0.
        TypeError, NotImplementedError: dtypes differ, or are no floating type.
    """
    return _layers("lstm", input, hx, params, has_biases, num_layers, dropout, train, bidirectional, batch_first)


def gru(
    input: Array,
    hx: Array | None,
    params: Sequence[Array],
    has_biases: bool,
    num_layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
    batch_first: bool,
) -> tuple[Tensor, Tensor]:
    """Gated recurrent unit; for each time step:

        r = sigma(W_ir x + b_ir + W_hr h + b_hr);   z = sigma(W_iz x + b_iz + W_hz h + b_hz)
        n = tanh(W_in x + b_in + r * (W_hn h + b_hn));   h = (1 - z) * n + z * h

    Cho et al. 2014, arXiv:1406.1078, with the reset gate as in cuDNN and torch. Arguments, results and errors are
    lstm's, but for hx = h_0, no c, and rows of the weights in the order r, z, n.
    """
    return _layers("gru", input, (hx,), params, has_biases, num_layers, dropout, train, bidirectional, batch_first)


def rnn_tanh(
    input: Array,
    hx: Array | None,
    params: Sequence[Array],
    has_biases: bool,
    num_layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
    batch_first: bool,
) -> tuple[Tensor, Tensor]:
    """h = tanh(W_ih x + b_ih + W_hh h + b_hh) for each time step. Elman 1990, Cognitive Science 14(2).

    Arguments, results and errors are gru's, with weights of H rows.
    """
    return _layers("rnn_tanh", input, (hx,), params, has_biases, num_layers, dropout, train, bidirectional, batch_first)


def rnn_relu(
    input: Array,
    hx: Array | None,
    params: Sequence[Array],
    has_biases: bool,
    num_layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
    batch_first: bool,
) -> tuple[Tensor, Tensor]:
    """h = max(0, W_ih x + b_ih + W_hh h + b_hh) for each time step; otherwise rnn_tanh."""
    return _layers("rnn_relu", input, (hx,), params, has_biases, num_layers, dropout, train, bidirectional, batch_first)


def _cell(cell: str, input: Array, hx: Sequence[Array | None], *weights: Array | None) -> list[Tensor]:
    """The states after one step, of (N, I) or (I,)."""
    if input.ndim not in (1, 2):
        raise ValueError(
            f"{cell}_cell: input has shape {tuple(input.shape)}; expected (batch, features) or (features,)"
        )
    for name, state in zip(("h0", "c0"), hx, strict=False):
        if state is not None and state.ndim != input.ndim:
            raise ValueError(
                f"{cell}_cell: {name} has shape {tuple(state.shape)}; expected {input.ndim} dimensions, as input has"
            )
    single = input.ndim == 1
    if single:
        input = shape.unsqueeze(input, 0)
        hx = [None if state is None else shape.unsqueeze(state, 0) for state in hx]
    _, *states = _ops[cell](shape.unsqueeze(input, 0), *hx, *weights, False)
    return [shape.squeeze(state, 0) for state in states] if single else states


def lstm_cell(
    input: Array,
    hx: Sequence[Array | None],
    w_ih: Array,
    w_hh: Array,
    b_ih: Array | None = None,
    b_hh: Array | None = None,
) -> tuple[Tensor, Tensor]:
    """(h, c) after one step of lstm from hx = (h, c): input (N, I), states (N, H); or (I,) and (H,)."""
    h, c = _cell("lstm", input, hx, w_ih, w_hh, b_ih, b_hh)
    return h, c


def gru_cell(
    input: Array, hx: Array | None, w_ih: Array, w_hh: Array, b_ih: Array | None = None, b_hh: Array | None = None
) -> Tensor:
    """h after one step of gru: input (N, I), h (N, H); or (I,) and (H,)."""
    return _cell("gru", input, (hx, None), w_ih, w_hh, b_ih, b_hh)[0]


def rnn_tanh_cell(
    input: Array, hx: Array | None, w_ih: Array, w_hh: Array, b_ih: Array | None = None, b_hh: Array | None = None
) -> Tensor:
    """h after one step of rnn_tanh: input (N, I), h (N, H); or (I,) and (H,)."""
    return _cell("rnn_tanh", input, (hx, None), w_ih, w_hh, b_ih, b_hh)[0]


def rnn_relu_cell(
    input: Array, hx: Array | None, w_ih: Array, w_hh: Array, b_ih: Array | None = None, b_hh: Array | None = None
) -> Tensor:
    """h after one step of rnn_relu: input (N, I), h (N, H); or (I,) and (H,)."""
    return _cell("rnn_relu", input, (hx, None), w_ih, w_hh, b_ih, b_hh)[0]
