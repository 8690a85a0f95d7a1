"""Transformer layers: attention and a network at each position, with residual connections and layer normalization."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np

from .. import functional as F
from .. import init
from .._arrays import as_tensor
from ..tensor import Tensor
from .attention import MultiheadAttention
from .container import ModuleList
from .dropout import Dropout
from .linear import Linear, size
from .module import Module
from .normalization import LayerNorm

Activation = str | Callable[[Tensor], Tensor]
_EPILOGUES = {F.relu: "relu", F.gelu: "gelu"}


class _Layer(Module):
    """What the layers of encoder and decoder share: x + block(norm(x)) with norm_first, else norm(x + block(x))."""

    activation: Callable[[Tensor], Tensor]

    def _add_feedforward(
        self, d_model: int, dim_feedforward: int, dropout: float, activation: Activation, bias: bool, factory: Any
    ) -> None:
        self.linear1 = Linear(d_model, dim_feedforward, bias, **factory)
        self.dropout = Dropout(dropout)
        self.linear2 = Linear(dim_feedforward, d_model, bias, **factory)
        if isinstance(activation, str):
            if activation not in ("relu", "gelu"):
                raise ValueError(f"{type(self).__name__}: activation is {activation!r}; expected 'relu' or 'gelu'")
            activation = getattr(F, activation)
        self.activation = activation

    def _feedforward(self, x: Tensor) -> Tensor:
        linear = self.linear1
        epilogue = None if isinstance(self.activation, Module) else _EPILOGUES.get(self.activation)
        if epilogue and type(linear) is Linear and not (linear._forward_hooks or linear._forward_pre_hooks):
            hidden = F.linear(x, linear.weight, linear.bias, activation=epilogue)
        else:
            hidden = self.activation(linear(x))
        return self.linear2(self.dropout(hidden))

    def _residual(self, x: Tensor, norm: Module, dropout: Module, block: Callable[[Tensor], Tensor]) -> Tensor:
        if self.norm_first:
            return x + dropout(block(norm(x)))
        return norm(x + dropout(block(x)))


def _attend(attention: Module, x: Tensor, memory: Tensor, mask: Any, padding: Any, is_causal: bool) -> Tensor:
    return attention(
        x, memory, memory, key_padding_mask=padding, need_weights=False, attn_mask=mask, is_causal=is_causal
    )[0]


class TransformerEncoderLayer(_Layer):
    """norm2(x + f(x)) of x = norm1(src + self_attn(src)), with f(x) = linear2(activation(linear1(x))), each behind a
    dropout; with norm_first the norms stand before self_attn and f. Vaswani et al. 2017, arXiv:1706.03762.

    Args:
        d_model: features of the input. nhead: heads. dim_feedforward: features inside of f.
        dropout: probability, also of attention weights, in training. activation: "relu", "gelu" or a function.
        batch_first: the input is (N, S, d_model) instead of (S, N, d_model); (S, d_model) is taken too.
    """

    def __init__(
        self,
        d_model: int,
        nhead: int,
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        activation: Activation = F.relu,
        layer_norm_eps: float = 1e-5,
        batch_first: bool = False,
        norm_first: bool = False,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        factory = {"device": device, "dtype": dtype}
        self.self_attn = MultiheadAttention(d_model, nhead, dropout, bias, batch_first=batch_first, **factory)
        self._add_feedforward(d_model, dim_feedforward, dropout, activation, bias, factory)
        self.norm_first = norm_first
        self.norm1 = LayerNorm(d_model, layer_norm_eps, bias=bias, **factory)
        self.norm2 = LayerNorm(d_model, layer_norm_eps, bias=bias, **factory)
        self.dropout1 = Dropout(dropout)
        self.dropout2 = Dropout(dropout)

    def forward(
        self, src: Tensor, src_mask: Any = None, src_key_padding_mask: Any = None, is_causal: bool = False
    ) -> Tensor:
        """The output, of the shape of src. Masks are those of MultiheadAttention; is_causal: src_mask is causal."""

        def attend(x: Tensor) -> Tensor:
            return _attend(self.self_attn, x, x, src_mask, src_key_padding_mask, is_causal)

        x = self._residual(src, self.norm1, self.dropout1, attend)
        return self._residual(x, self.norm2, self.dropout2, self._feedforward)


class TransformerDecoderLayer(_Layer):
    """An encoder layer with multihead_attn, whose keys and values are the encoder's output, after self_attn.

    Arguments as TransformerEncoderLayer.
    """

    def __init__(
        self,
        d_model: int,
        nhead: int,
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        activation: Activation = F.relu,
        layer_norm_eps: float = 1e-5,
        batch_first: bool = False,
        norm_first: bool = False,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        factory = {"device": device, "dtype": dtype}
        self.self_attn = MultiheadAttention(d_model, nhead, dropout, bias, batch_first=batch_first, **factory)
        self.multihead_attn = MultiheadAttention(d_model, nhead, dropout, bias, batch_first=batch_first, **factory)
        self._add_feedforward(d_model, dim_feedforward, dropout, activation, bias, factory)
        self.norm_first = norm_first
        for i in (1, 2, 3):
            self.add_module(f"norm{i}", LayerNorm(d_model, layer_norm_eps, bias=bias, **factory))
        for i in (1, 2, 3):
            self.add_module(f"dropout{i}", Dropout(dropout))

    def forward(
        self,
        tgt: Tensor,
        memory: Tensor,
        tgt_mask: Any = None,
        memory_mask: Any = None,
        tgt_key_padding_mask: Any = None,
        memory_key_padding_mask: Any = None,
        tgt_is_causal: bool = False,
        memory_is_causal: bool = False,
    ) -> Tensor:
        """The output, of the shape of tgt; memory is the encoder's. Masks as in TransformerEncoderLayer."""

        def attend(x: Tensor) -> Tensor:
            return _attend(self.self_attn, x, x, tgt_mask, tgt_key_padding_mask, tgt_is_causal)

        def look_up(x: Tensor) -> Tensor:
            return _attend(self.multihead_attn, x, memory, memory_mask, memory_key_padding_mask, memory_is_causal)

        x = self._residual(tgt, self.norm1, self.dropout1, attend)
        x = self._residual(x, self.norm2, self.dropout2, look_up)
        return self._residual(x, self.norm3, self.dropout3, self._feedforward)


def _copies(layer: Module, num_layers: int, name: str) -> ModuleList:
    return ModuleList(copy.deepcopy(layer) for _ in range(size(name, "num_layers", num_layers, 0)))


def _is_causal(mask: Any, is_causal: bool | None, length: int) -> bool:
    """is_causal, or, where that is None, whether mask is the causal one of that length."""
    if is_causal is not None or mask is None:
        return bool(is_causal)
    if tuple(mask.shape) != (length, length):
        return False
    values = (mask if isinstance(mask, Tensor) else as_tensor(mask, "mask")).numpy()
    hidden = ~np.tri(length, dtype=bool)
    return bool(np.array_equal(values, hidden if values.dtype == bool else np.where(hidden, -np.inf, 0)))


class TransformerEncoder(Module):
    """num_layers copies of encoder_layer, one after the other, then norm.

    Args:
        enable_nested_tensor, mask_check: for torch's signature; padding is masked, not removed.
    """

    def __init__(
        self,
        encoder_layer: TransformerEncoderLayer,
        num_layers: int,
        norm: Module | None = None,
        enable_nested_tensor: bool = True,
        mask_check: bool = True,
    ) -> None:
        super().__init__()
        self.layers = _copies(encoder_layer, num_layers, "TransformerEncoder")
        self.num_layers = num_layers
        self.norm = norm
        self.enable_nested_tensor = enable_nested_tensor
        self.mask_check = mask_check

    def forward(
        self, src: Tensor, mask: Any = None, src_key_padding_mask: Any = None, is_causal: bool | None = None
    ) -> Tensor:
        """The last layer's output. is_causal: mask is causal; None: see whether it is."""
        if len(self.layers):
            causal = _is_causal(mask, is_causal, _length(src, self.layers[0]))
        for layer in self.layers:
            src = layer(src, src_mask=mask, src_key_padding_mask=src_key_padding_mask, is_causal=causal)
        return src if self.norm is None else self.norm(src)


class TransformerDecoder(Module):
    """num_layers copies of decoder_layer, one after the other, then norm."""

    def __init__(self, decoder_layer: TransformerDecoderLayer, num_layers: int, norm: Module | None = None) -> None:
        super().__init__()
        self.layers = _copies(decoder_layer, num_layers, "TransformerDecoder")
        self.num_layers = num_layers
        self.norm = norm

    def forward(
        self,
        tgt: Tensor,
        memory: Tensor,
        tgt_mask: Any = None,
        memory_mask: Any = None,
        tgt_key_padding_mask: Any = None,
        memory_key_padding_mask: Any = None,
        tgt_is_causal: bool | None = None,
        memory_is_causal: bool = False,
    ) -> Tensor:
        """The last layer's output. tgt_is_causal: tgt_mask is causal; None: see whether it is."""
        if len(self.layers):
            causal = _is_causal(tgt_mask, tgt_is_causal, _length(tgt, self.layers[0]))
        for layer in self.layers:
            tgt = layer(
                tgt,
                memory,
                tgt_mask=tgt_mask,
                memory_mask=memory_mask,
                tgt_key_padding_mask=tgt_key_padding_mask,
                memory_key_padding_mask=memory_key_padding_mask,
                tgt_is_causal=causal,
                memory_is_causal=memory_is_causal,
            )
        return tgt if self.norm is None else self.norm(tgt)


def _length(x: Tensor, layer: Module) -> int:
    return x.shape[1 if x.ndim == 3 and layer.self_attn.batch_first else 0]


class Transformer(Module):
    """decoder(tgt, encoder(src)), each of its layers behind the other and a last LayerNorm. Matrices begin as Xavier's
    uniform distribution. Vaswani et al. 2017, arXiv:1706.03762.

    Args:
        custom_encoder, custom_decoder: modules in place of TransformerEncoder and TransformerDecoder.
        Others as TransformerEncoderLayer.
    """

    def __init__(
        self,
        d_model: int = 512,
        nhead: int = 8,
        num_encoder_layers: int = 6,
        num_decoder_layers: int = 6,
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        activation: Activation = F.relu,
        custom_encoder: Module | None = None,
        custom_decoder: Module | None = None,
        layer_norm_eps: float = 1e-5,
        batch_first: bool = False,
        norm_first: bool = False,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        factory = {"device": device, "dtype": dtype}
        layer = (d_model, nhead, dim_feedforward, dropout, activation, layer_norm_eps, batch_first, norm_first, bias)

        def norm() -> LayerNorm:
            return LayerNorm(d_model, layer_norm_eps, bias=bias, **factory)

        if custom_encoder is None:
            custom_encoder = TransformerEncoder(TransformerEncoderLayer(*layer, **factory), num_encoder_layers, norm())
        if custom_decoder is None:
            custom_decoder = TransformerDecoder(TransformerDecoderLayer(*layer, **factory), num_decoder_layers, norm())
        self.encoder = custom_encoder
        self.decoder = custom_decoder
        for parameter in self.parameters():
            if parameter.ndim > 1:
                init.xavier_uniform_(parameter)
        self.d_model = d_model
        self.nhead = nhead
        self.batch_first = batch_first

    def forward(
        self,
        src: Tensor,
        tgt: Tensor,
        src_mask: Any = None,
        tgt_mask: Any = None,
        memory_mask: Any = None,
        src_key_padding_mask: Any = None,
        tgt_key_padding_mask: Any = None,
        memory_key_padding_mask: Any = None,
        src_is_causal: bool | None = None,
        tgt_is_causal: bool | None = None,
        memory_is_causal: bool = False,
    ) -> Tensor:
        """The decoder's output, of the shape of tgt."""
        batch = 0 if self.batch_first else 1
        if src.ndim != tgt.ndim or (src.ndim == 3 and src.shape[batch] != tgt.shape[batch]):
            raise ValueError(
                f"Transformer: src has shape {tuple(src.shape)} and tgt {tuple(tgt.shape)}; expected one batch"
            )
        if src.shape[-1] != self.d_model or tgt.shape[-1] != self.d_model:
            raise ValueError(
                f"Transformer: src has shape {tuple(src.shape)} and tgt {tuple(tgt.shape)}; expected last sizes of "
                f"{self.d_model}"
            )
        memory = self.encoder(src, src_mask, src_key_padding_mask, src_is_causal)
        return self.decoder(
            tgt,
            memory,
            tgt_mask,
            memory_mask,
            tgt_key_padding_mask,
            memory_key_padding_mask,
            tgt_is_causal,
            memory_is_causal,
        )

    @staticmethod
    def generate_square_subsequent_mask(sz: int, device: Any = None, dtype: Any = None) -> Tensor:
        """(sz, sz) with -inf above the diagonal and 0 elsewhere, float32 by default."""
        return as_tensor(np.where(np.tri(sz, dtype=bool), 0.0, -np.inf).astype(dtype or np.float32), "mask")
