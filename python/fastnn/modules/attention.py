"""Attention layers."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import functional as F
from .. import init
from .._arrays import as_tensor, floating_dtype
from ..tensor import Tensor
from .linear import Linear, empty_parameter, size
from .module import Module


class MultiheadAttention(Module):
    """concat(head_1, ..., head_H) W_O^T + b_O with head_h = attention(Q W_Q^T + b_Q, K W_K^T + b_K, V W_V^T + b_V), of
    embed_dim / H columns each; see functional.scaled_dot_product_attention. Vaswani et al. 2017, arXiv:1706.03762.

    in_proj_weight (3 embed_dim, embed_dim) holds W_Q, W_K and W_V, or q_proj_weight, k_proj_weight and v_proj_weight do
    where kdim or vdim differ from embed_dim. They begin as Xavier's uniform distribution, biases as 0.

    Args:
        dropout: of the attention weights, in training.
        batch_first: inputs and output are (N, L, embed_dim) instead of (L, N, embed_dim); (L, embed_dim) is taken too.
        add_bias_kv, add_zero_attn: only False.
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        dropout: float = 0.0,
        bias: bool = True,
        add_bias_kv: bool = False,
        add_zero_attn: bool = False,
        kdim: int | None = None,
        vdim: int | None = None,
        batch_first: bool = False,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        op = "MultiheadAttention"
        dtype = floating_dtype(op, device, dtype)
        if add_bias_kv or add_zero_attn:
            raise NotImplementedError(f"{op}: add_bias_kv and add_zero_attn are not supported; expected False")
        self.embed_dim = size(op, "embed_dim", embed_dim, 1)
        self.num_heads = size(op, "num_heads", num_heads, 1)
        if embed_dim % num_heads:
            raise ValueError(f"{op}: embed_dim is {embed_dim}; expected a multiple of num_heads, {num_heads}")
        self.kdim = embed_dim if kdim is None else size(op, "kdim", kdim, 1)
        self.vdim = embed_dim if vdim is None else size(op, "vdim", vdim, 1)
        self.dropout = dropout
        self.batch_first = batch_first
        self.head_dim = embed_dim // num_heads
        self._qkv_same_embed_dim = self.kdim == embed_dim and self.vdim == embed_dim
        if self._qkv_same_embed_dim:
            self.in_proj_weight = empty_parameter((3 * embed_dim, embed_dim), dtype)
            for name in ("q_proj_weight", "k_proj_weight", "v_proj_weight"):
                self.register_parameter(name, None)
        else:
            self.q_proj_weight = empty_parameter((embed_dim, embed_dim), dtype)
            self.k_proj_weight = empty_parameter((embed_dim, self.kdim), dtype)
            self.v_proj_weight = empty_parameter((embed_dim, self.vdim), dtype)
            self.register_parameter("in_proj_weight", None)
        self.register_parameter("in_proj_bias", empty_parameter((3 * embed_dim,), dtype) if bias else None)
        self.out_proj = Linear(embed_dim, embed_dim, bias, device, dtype)
        self.reset_parameters()
        self._place(device)

    def reset_parameters(self) -> None:
        """Draws new initial values of the projections of query, key and value."""
        for weight in (self.in_proj_weight, self.q_proj_weight, self.k_proj_weight, self.v_proj_weight):
            if weight is not None:
                init.xavier_uniform_(weight)
        if self.in_proj_bias is not None:
            init.zeros_(self.in_proj_bias)
            init.zeros_(self.out_proj.bias)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Any = None,
        need_weights: bool = True,
        attn_mask: Any = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """(output, weights): weights (N, L, S), or (N, H, L, S) unless average_attn_weights; None unless need_weights.

        Args:
            query: (L, N, embed_dim). key: (S, N, kdim). value: (S, N, vdim). See batch_first.
            key_padding_mask: (N, S), attn_mask: (L, S) or (N H, L, S); bool, True = not seen, or floating, added.
            need_weights: the weights are wanted, which holds all of them and is slower.
            is_causal: attn_mask is causal. A hint, as in torch: without key_padding_mask and need_weights the mask is
                not read.
        """
        batched = query.ndim == 3
        if query.ndim not in (2, 3) or key.ndim != query.ndim or value.ndim != query.ndim:
            raise ValueError(
                f"MultiheadAttention: query, key and value have shapes {tuple(query.shape)}, {tuple(key.shape)} and "
                f"{tuple(value.shape)}; expected three or two dimensions in each"
            )
        if is_causal and attn_mask is None:
            raise ValueError("MultiheadAttention: is_causal=True needs attn_mask, as in torch; got None")
        heads = [self._heads(x, batched) for x in self._project(query, key, value)]
        is_causal = is_causal and key_padding_mask is None and not need_weights
        mask = None if is_causal else self._mask(key_padding_mask, attn_mask, heads[0], heads[1].shape[-2])
        dropout = self.dropout if self.training else 0.0
        weights = None
        if need_weights:
            q, k, v = heads
            scores = F.mul(F.matmul(q, F.transpose(k, -2, -1)), self.head_dim**-0.5)
            weights = F.dropout(F.softmax(scores if mask is None else F.add(scores, mask), -1), dropout)
            out = F.matmul(weights, v)
        else:
            out = F.scaled_dot_product_attention(*heads, mask, dropout, is_causal)
        out = F.permute(out, (0, 2, 1, 3) if self.batch_first or not batched else (2, 0, 1, 3))
        out = self.out_proj(F.flatten(out, -2))
        if weights is not None and average_attn_weights:
            weights = F.mean(weights, 1)
        if not batched:
            return F.squeeze(out, 0), None if weights is None else F.squeeze(weights, 0)
        return out, weights

    def _project(self, query: Tensor, key: Tensor, value: Tensor) -> list[Tensor]:
        if self._qkv_same_embed_dim:
            if query is key and key is value:
                return list(F.chunk(F.linear(query, self.in_proj_weight, self.in_proj_bias), 3, -1))
            weights = F.chunk(self.in_proj_weight, 3)
        else:
            weights = (self.q_proj_weight, self.k_proj_weight, self.v_proj_weight)
        biases = (None,) * 3 if self.in_proj_bias is None else F.chunk(self.in_proj_bias, 3)
        return [F.linear(x, w, b) for x, w, b in zip((query, key, value), weights, biases, strict=True)]

    def _heads(self, x: Tensor, batched: bool) -> Tensor:
        """(N, H, L, head_dim), a view."""
        x = F.reshape(x, (*x.shape[:-1], self.num_heads, self.head_dim))
        if not batched:
            return F.unsqueeze(F.transpose(x, 0, 1), 0)
        return F.permute(x, (0, 2, 1, 3) if self.batch_first else (1, 2, 0, 3))

    def _mask(self, padding: Any, mask: Any, query: Tensor, keys: int) -> Tensor | None:
        """Both masks as one that is added to the scores (N, H, L, S), or None."""
        batch, heads, queries, _ = query.shape
        parts = []
        if padding is not None:
            padding = _added("key_padding_mask", padding, query.dtype)
            parts.append(F.reshape(padding, (-1, 1, 1, keys)))
        if mask is not None:
            mask = _added("attn_mask", mask, query.dtype)
            parts.append(F.reshape(mask, (batch, heads, queries, keys)) if mask.ndim == 3 else mask)
        if not parts:
            return None
        return parts[0] if len(parts) == 1 else F.add(*parts)


def _added(name: str, mask: Any, dtype: np.dtype) -> Tensor:
    """A bool mask (True = not seen) as one to add, in dtype; another one as it is."""
    if not isinstance(mask, Tensor):
        mask = as_tensor(mask, f"MultiheadAttention: {name}")
    if mask.dtype == bool:
        return as_tensor(np.where(mask.numpy(), -np.inf, 0.0).astype(dtype), name)
    return mask
