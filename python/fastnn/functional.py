"""The public functions, with the names, positions, keywords and defaults of torch.nn.functional."""

from .ops.activation import relu

__all__ = ["relu"]
