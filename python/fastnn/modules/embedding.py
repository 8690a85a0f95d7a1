"""Tables of vectors."""

from __future__ import annotations

from typing import Any

from .. import functional as F
from .. import init
from .._arrays import as_tensor, floating_dtype
from ..autograd import no_grad
from ..parameter import Parameter
from ..tensor import Tensor
from .linear import empty_parameter, size
from .module import Module


class Embedding(Module):
    """Rows of a table: indices (...) -> (..., embedding_dim); see functional.embedding.

    weight (num_embeddings, embedding_dim) begins as N(0, 1), its row padding_idx as 0. That row gets no gradient.

    Args:
        _weight: initial values, of which the parameter is a copy. _freeze: it requires no gradient.
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        padding_idx: int | None = None,
        max_norm: float | None = None,
        norm_type: float = 2.0,
        scale_grad_by_freq: bool = False,
        sparse: bool = False,
        _weight: Any = None,
        _freeze: bool = False,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        dtype = floating_dtype("Embedding", device, dtype)
        if sparse:
            raise NotImplementedError("Embedding: sparse=True is not supported; the gradient of weight is dense")
        self.num_embeddings = size("Embedding", "num_embeddings", num_embeddings, 0)
        self.embedding_dim = size("Embedding", "embedding_dim", embedding_dim, 0)
        if padding_idx is not None:
            padding_idx = size("Embedding", "padding_idx", padding_idx, -self.num_embeddings)
            if padding_idx >= self.num_embeddings:
                raise ValueError(
                    f"Embedding: padding_idx is {padding_idx}; expected less than num_embeddings, {self.num_embeddings}"
                )
            padding_idx %= self.num_embeddings
        self.padding_idx = padding_idx
        self.max_norm = max_norm
        self.norm_type = norm_type
        self.scale_grad_by_freq = scale_grad_by_freq
        self.sparse = sparse
        shape = (self.num_embeddings, self.embedding_dim)
        if _weight is None:
            self.weight = empty_parameter(shape, dtype)
            self.reset_parameters()
        else:
            values = as_tensor(_weight, "Embedding: _weight")
            if values.shape != shape:
                raise ValueError(f"Embedding: _weight has shape {values.shape}; expected {shape}")
            self.weight = Parameter(values.clone())
        self._place(device)
        if _freeze:
            self.weight.requires_grad = False

    def reset_parameters(self) -> None:
        """Draws new initial values."""
        init.normal_(self.weight)
        if self.padding_idx is not None:
            with no_grad():
                self.weight[self.padding_idx] = 0.0

    @classmethod
    def from_pretrained(
        cls,
        embeddings: Any,
        freeze: bool = True,
        padding_idx: int | None = None,
        max_norm: float | None = None,
        norm_type: float = 2.0,
        scale_grad_by_freq: bool = False,
        sparse: bool = False,
    ) -> Embedding:
        """A table with a copy of the given values (num_embeddings, embedding_dim), frozen unless freeze=False."""
        embeddings = as_tensor(embeddings, "Embedding.from_pretrained: embeddings")
        if embeddings.ndim != 2:
            raise ValueError(
                f"Embedding.from_pretrained: embeddings has shape {embeddings.shape}; expected two dimensions"
            )
        return cls(
            *embeddings.shape, padding_idx, max_norm, norm_type, scale_grad_by_freq, sparse, embeddings, bool(freeze)
        )

    def forward(self, input: Tensor) -> Tensor:
        return F.embedding(
            input,
            self.weight,
            self.padding_idx,
            self.max_norm,
            self.norm_type,
            self.scale_grad_by_freq,
            self.sparse,
        )

    def extra_repr(self) -> str:
        text = f"{self.num_embeddings}, {self.embedding_dim}"
        if self.padding_idx is not None:
            text += f", padding_idx={self.padding_idx}"
        if self.max_norm is not None:
            text += f", max_norm={self.max_norm}"
        if self.norm_type != 2:
            text += f", norm_type={self.norm_type}"
        return text + (", scale_grad_by_freq=True" if self.scale_grad_by_freq else "")
