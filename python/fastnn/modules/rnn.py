"""Recurrent layers."""

from __future__ import annotations

import math
import warnings
from typing import Any

from .. import functional as F
from .. import init
from .._arrays import floating_dtype
from ..creation import zeros
from ..ops import rnn as ops
from ..ops.packed import packed_layers
from ..parameter import Parameter
from ..tensor import Tensor
from ..utils.rnn import PackedSequence
from .linear import empty_parameter, size
from .module import Module

_GATES = {"RNN_TANH": 1, "RNN_RELU": 1, "LSTM": 4, "GRU": 3}


class RNNBase(Module):
    """What RNN, LSTM and GRU share.

    Parameters of layer k: weight_ih_lk (G H, I; later D H), weight_hh_lk (G H, H), with bias bias_ih_lk and bias_hh_lk
    (G H,), G gates, D directions; those of the other direction end in _reverse. All begin as U(-k, k), k = 1 / sqrt(H).
    """

    def __init__(
        self,
        mode: str,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        dtype = floating_dtype(name, device, dtype)
        if mode not in _GATES:
            raise ValueError(f"{name}: mode is {mode!r}; expected one of {', '.join(_GATES)}")
        if proj_size:
            raise NotImplementedError(f"{name}: proj_size is {proj_size}; expected 0, projections are not supported")
        self.mode = mode
        self.input_size = size(name, "input_size", input_size, 0)
        self.hidden_size = size(name, "hidden_size", hidden_size, 1)
        self.num_layers = size(name, "num_layers", num_layers, 1)
        self.bias = bias
        self.batch_first = batch_first
        if isinstance(dropout, bool) or not isinstance(dropout, (int, float)) or not 0 <= dropout <= 1:
            raise ValueError(f"{name}: dropout is {dropout!r}; expected a probability, 0 to 1")
        self.dropout = float(dropout)
        self.bidirectional = bidirectional
        self.proj_size = proj_size
        if dropout and num_layers == 1:
            warnings.warn(
                f"{name}: dropout={dropout} is between layers, and num_layers=1 has one: nothing is dropped",
                stacklevel=3,
            )
        directions = 2 if bidirectional else 1
        rows = _GATES[mode] * self.hidden_size
        self._all_weight_names: list[list[str]] = []
        for layer in range(self.num_layers):
            columns = self.input_size if layer == 0 else directions * self.hidden_size
            for suffix in ("", "_reverse")[:directions]:
                shapes = {"weight_ih": (rows, columns), "weight_hh": (rows, self.hidden_size)}
                if bias:
                    shapes.update({"bias_ih": (rows,), "bias_hh": (rows,)})
                self._all_weight_names.append([f"{kind}_l{layer}{suffix}" for kind in shapes])
                for kind, shape in shapes.items():
                    self.register_parameter(f"{kind}_l{layer}{suffix}", empty_parameter(shape, dtype))
        self.reset_parameters()
        self._place(device)

    def reset_parameters(self) -> None:
        """Draws new initial values."""
        bound = 1 / math.sqrt(self.hidden_size)
        for weight in self.parameters():
            init.uniform_(weight, -bound, bound)

    @property
    def all_weights(self) -> list[list[Parameter]]:
        """The parameters of each layer and direction."""
        return [[getattr(self, name) for name in names] for names in self._all_weight_names]

    def flatten_parameters(self) -> None:
        """Does nothing: weights are packed in every call. It is here because torch's has it."""

    def _run(self, input: Tensor, states: tuple[Tensor | None, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """(y, (h_n[, c_n])) for a checked number of states; without a batch axis where input has none."""
        name = type(self).__name__
        if isinstance(input, PackedSequence):
            return self._run_packed(input, states)
        if type(input).__name__ == "PackedSequence":
            raise NotImplementedError(
                f"{name}: a PackedSequence of {type(input).__module__} is not supported; expected one of "
                "fastnn.utils.rnn, or a padded (T, N, I) input"
            )
        if input.ndim not in (2, 3) or input.shape[-1] != self.input_size:
            raise ValueError(
                f"{name}: input has shape {tuple(input.shape)}; expected 2 or 3 dimensions, the last of size "
                f"{self.input_size}"
            )
        batched = input.ndim == 3
        batch = input.shape[0 if self.batch_first else 1] if batched else 1
        count = self.num_layers * (2 if self.bidirectional else 1)
        expected = (count, batch, self.hidden_size) if batched else (count, self.hidden_size)
        for label, state in zip(("h_0", "c_0"), states, strict=False):
            if state is not None and tuple(state.shape) != expected:
                raise ValueError(f"{name}: {label} has shape {tuple(state.shape)}; expected {expected}")
        if not batched:
            input = F.unsqueeze(input, 0 if self.batch_first else 1)
            states = tuple(None if state is None else F.unsqueeze(state, 1) for state in states)
        y, *last = getattr(ops, self.mode.lower())(
            input,
            states if self.mode == "LSTM" else states[0],
            [weight for weights in self.all_weights for weight in weights],
            bool(self.bias),
            self.num_layers,
            self.dropout,
            self.training,
            bool(self.bidirectional),
            bool(self.batch_first),
        )
        if not batched:
            return F.squeeze(y, 0 if self.batch_first else 1), tuple(F.squeeze(state, 1) for state in last)
        return y, tuple(last)

    def _run_packed(
        self, input: PackedSequence, states: tuple[Tensor | None, ...]
    ) -> tuple[PackedSequence, tuple[Tensor, ...]]:
        name, data = type(self).__name__, input.data
        if data.ndim != 2 or data.shape[1] != self.input_size:
            raise ValueError(f"{name}: packed data has shape {tuple(data.shape)}; expected (steps, {self.input_size})")
        batch_sizes = input.batch_sizes.numpy()
        expected = (self.num_layers * (2 if self.bidirectional else 1), int(batch_sizes[0]), self.hidden_size)
        order = input.sorted_indices
        given = []
        for label, state in zip(("h_0", "c_0"), states, strict=False):
            if state is None:
                state = zeros(expected, dtype=data.dtype)
            elif tuple(state.shape) != expected:
                raise ValueError(f"{name}: {label} has shape {tuple(state.shape)}; expected {expected}")
            elif order is not None:
                state = state[:, order.numpy()]
            given.append(state)
        y, *last = packed_layers(
            self.mode.lower(),
            data,
            batch_sizes,
            given,
            [weight for weights in self.all_weights for weight in weights],
            bool(self.bias),
            self.num_layers,
            self.dropout,
            self.training,
            bool(self.bidirectional),
        )
        if order is not None:
            last = [state[:, input.unsorted_indices.numpy()] for state in last]
        return input._replace(data=y), tuple(last)

    def forward(self, input: Tensor, hx: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(y, h_n): input (T, N, I), with batch_first (N, T, I), or (T, I) without a batch; y has D H in place of I.

        input may be a PackedSequence of fastnn.utils.rnn; then y is one too.

        hx: h_0 (num_layers D, N, H), or (num_layers D, H), default zeros. h_n has its shape.
        """
        y, (h,) = self._run(input, (hx,))
        return y, h

    def extra_repr(self) -> str:
        text = f"{self.input_size}, {self.hidden_size}"
        for name, default in (
            ("num_layers", 1),
            ("bias", True),
            ("batch_first", False),
            ("dropout", 0),
            ("bidirectional", False),
        ):
            value = getattr(self, name)
            if value != default:
                text += f", {name}={value}"
        return text


class RNN(RNNBase):
    """h = f(W_ih x + b_ih + W_hh h + b_hh) over time, with f tanh or, nonlinearity="relu", max(0, x).

    See ops.rnn.rnn_tanh; RNNBase has the parameters.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        nonlinearity: str = "tanh",
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        _check_nonlinearity("RNN", nonlinearity)
        super().__init__(
            f"RNN_{nonlinearity.upper()}",
            input_size,
            hidden_size,
            num_layers,
            bias,
            batch_first,
            dropout,
            bidirectional,
            0,
            device,
            dtype,
        )
        self.nonlinearity = nonlinearity


class LSTM(RNNBase):
    """Long short-term memory over time; see ops.rnn.lstm for the equations, RNNBase for the parameters.

    Args:
        dropout: between layers, in training. proj_size: only 0.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(
            "LSTM",
            input_size,
            hidden_size,
            num_layers,
            bias,
            batch_first,
            dropout,
            bidirectional,
            proj_size,
            device,
            dtype,
        )

    def forward(self, input: Tensor, hx: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """(y, (h_n, c_n)), with hx = (h_0, c_0); see RNNBase.forward."""
        y, (h, c) = self._run(input, _two_states("LSTM", hx))
        return y, (h, c)


class GRU(RNNBase):
    """Gated recurrent unit over time; see ops.rnn.gru for the equations, RNNBase for the parameters.

    Args:
        dropout: between layers, in training.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(
            "GRU", input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, 0, device, dtype
        )


def _check_nonlinearity(name: str, nonlinearity: str) -> None:
    if nonlinearity not in ("tanh", "relu"):
        raise ValueError(f"{name}: nonlinearity is {nonlinearity!r}; expected 'tanh' or 'relu'")


def _two_states(name: str, hx: Any) -> tuple[Any, Any]:
    if hx is None:
        return None, None
    if not isinstance(hx, (tuple, list)) or len(hx) != 2:
        raise TypeError(f"{name}: hx is a {type(hx).__name__}; expected (h_0, c_0)")
    return tuple(hx)


class RNNCellBase(Module):
    """What RNNCell, LSTMCell and GRUCell share: weight_ih (G H, I), weight_hh (G H, H), with bias bias_ih and bias_hh
    (G H,). All begin as U(-k, k), k = 1 / sqrt(H)."""

    def __init__(
        self, input_size: int, hidden_size: int, bias: bool, num_chunks: int, device: Any = None, dtype: Any = None
    ) -> None:
        super().__init__()
        name = type(self).__name__
        dtype = floating_dtype(name, device, dtype)
        self.input_size = size(name, "input_size", input_size, 0)
        self.hidden_size = size(name, "hidden_size", hidden_size, 1)
        self.bias = bias
        rows = num_chunks * self.hidden_size
        self.weight_ih = empty_parameter((rows, self.input_size), dtype)
        self.weight_hh = empty_parameter((rows, self.hidden_size), dtype)
        self.register_parameter("bias_ih", empty_parameter((rows,), dtype) if bias else None)
        self.register_parameter("bias_hh", empty_parameter((rows,), dtype) if bias else None)
        self.reset_parameters()
        self._place(device)

    def reset_parameters(self) -> None:
        """Draws new initial values."""
        bound = 1 / math.sqrt(self.hidden_size)
        for weight in self.parameters():
            init.uniform_(weight, -bound, bound)

    @property
    def _weights(self) -> tuple[Parameter | None, ...]:
        return self.weight_ih, self.weight_hh, self.bias_ih, self.bias_hh

    def extra_repr(self) -> str:
        return f"{self.input_size}, {self.hidden_size}" + ("" if self.bias else f", bias={self.bias}")


class RNNCell(RNNCellBase):
    """One step of RNN: input (N, I) and hx (N, H), or (I,) and (H,), to h."""

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        nonlinearity: str = "tanh",
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        _check_nonlinearity("RNNCell", nonlinearity)
        super().__init__(input_size, hidden_size, bias, 1, device, dtype)
        self.nonlinearity = nonlinearity

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        return getattr(ops, f"rnn_{self.nonlinearity}_cell")(input, hx, *self._weights)

    def extra_repr(self) -> str:
        return super().extra_repr() + ("" if self.nonlinearity == "tanh" else f", nonlinearity={self.nonlinearity}")


class LSTMCell(RNNCellBase):
    """One step of LSTM: input (N, I) and hx = (h, c), each (N, H), or (I,) and (H,), to (h, c)."""

    def __init__(
        self, input_size: int, hidden_size: int, bias: bool = True, device: Any = None, dtype: Any = None
    ) -> None:
        super().__init__(input_size, hidden_size, bias, 4, device, dtype)

    def forward(self, input: Tensor, hx: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, Tensor]:
        return ops.lstm_cell(input, _two_states("LSTMCell", hx), *self._weights)


class GRUCell(RNNCellBase):
    """One step of GRU: input (N, I) and hx (N, H), or (I,) and (H,), to h."""

    def __init__(
        self, input_size: int, hidden_size: int, bias: bool = True, device: Any = None, dtype: Any = None
    ) -> None:
        super().__init__(input_size, hidden_size, bias, 3, device, dtype)

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        return ops.gru_cell(input, hx, *self._weights)
