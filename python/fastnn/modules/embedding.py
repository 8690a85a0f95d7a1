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
        self.padding_idx = _padding_idx("Embedding", padding_idx, self.num_embeddings)
        self.max_norm = max_norm
        self.norm_type = norm_type
        self.scale_grad_by_freq = scale_grad_by_freq
        self.sparse = sparse
        shape = (self.num_embeddings, self.embedding_dim)
        if _weight is None:
            self.weight = empty_parameter(shape, dtype)
            self.reset_parameters()
        else:
            self.weight = _copied("Embedding", _weight, shape)
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


class EmbeddingBag(Module):
    """Sums, means or maxima of rows of a table; see functional.embedding_bag.

    weight (num_embeddings, embedding_dim) begins as N(0, 1), its row padding_idx as 0. That row gets no gradient.
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        max_norm: float | None = None,
        norm_type: float = 2.0,
        scale_grad_by_freq: bool = False,
        mode: str = "mean",
        sparse: bool = False,
        _weight: Any = None,
        include_last_offset: bool = False,
        padding_idx: int | None = None,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        name = "EmbeddingBag"
        dtype = floating_dtype(name, device, dtype)
        if sparse:
            raise NotImplementedError(f"{name}: sparse=True is not supported; the gradient of weight is dense")
        self.num_embeddings = size(name, "num_embeddings", num_embeddings, 0)
        self.embedding_dim = size(name, "embedding_dim", embedding_dim, 0)
        self.max_norm = max_norm
        self.norm_type = norm_type
        self.scale_grad_by_freq = scale_grad_by_freq
        self.padding_idx = _padding_idx(name, padding_idx, self.num_embeddings)
        shape = (self.num_embeddings, self.embedding_dim)
        if _weight is None:
            self.weight = empty_parameter(shape, dtype)
            self.reset_parameters()
        else:
            self.weight = _copied(name, _weight, shape)
        self._place(device)
        self.mode = mode
        self.sparse = sparse
        self.include_last_offset = include_last_offset

    reset_parameters = Embedding.reset_parameters

    @classmethod
    def from_pretrained(
        cls,
        embeddings: Any,
        freeze: bool = True,
        max_norm: float | None = None,
        norm_type: float = 2.0,
        scale_grad_by_freq: bool = False,
        mode: str = "mean",
        sparse: bool = False,
        include_last_offset: bool = False,
        padding_idx: int | None = None,
    ) -> EmbeddingBag:
        """A table with a copy of the given values (num_embeddings, embedding_dim), frozen unless freeze=False."""
        embeddings = as_tensor(embeddings, "EmbeddingBag.from_pretrained: embeddings")
        if embeddings.ndim != 2:
            raise ValueError(
                f"EmbeddingBag.from_pretrained: embeddings has shape {embeddings.shape}; expected two dimensions"
            )
        made = cls(
            *embeddings.shape,
            max_norm,
            norm_type,
            scale_grad_by_freq,
            mode,
            sparse,
            embeddings,
            include_last_offset,
            padding_idx,
        )
        made.weight.requires_grad = not freeze
        return made

    def forward(self, input: Tensor, offsets: Tensor | None = None, per_sample_weights: Tensor | None = None) -> Tensor:
        return F.embedding_bag(
            input,
            self.weight,
            offsets,
            self.max_norm,
            self.norm_type,
            self.scale_grad_by_freq,
            self.mode,
            self.sparse,
            per_sample_weights,
            self.include_last_offset,
            self.padding_idx,
        )

    def extra_repr(self) -> str:
        text = f"{self.num_embeddings}, {self.embedding_dim}"
        if self.max_norm is not None:
            text += f", max_norm={self.max_norm}"
        if self.norm_type != 2:
            text += f", norm_type={self.norm_type}"
        if self.scale_grad_by_freq:
            text += ", scale_grad_by_freq=True"
        text += f", mode={self.mode!r}"
        return text if self.padding_idx is None else text + f", padding_idx={self.padding_idx}"


def _padding_idx(name: str, padding_idx: int | None, rows: int) -> int | None:
    if padding_idx is None:
        return None
    padding_idx = size(name, "padding_idx", padding_idx, -rows)
    if padding_idx >= rows:
        raise ValueError(f"{name}: padding_idx is {padding_idx}; expected less than num_embeddings, {rows}")
    return padding_idx % rows


def _copied(name: str, weight: Any, shape: tuple[int, int]) -> Parameter:
    values = as_tensor(weight, f"{name}: _weight")
    if values.shape != shape:
        raise ValueError(f"{name}: _weight has shape {values.shape}; expected {shape}")
    return Parameter(values.clone())
