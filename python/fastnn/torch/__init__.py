"""The adapter to PyTorch, for torch 2.10 and later. Importing it registers `torch.ops.fastnn.*`.

fastnn's functions take torch tensors also without this import, and `import fastnn` never imports torch.
"""

from . import functional, nn, optim, registration

__all__ = ["functional", "nn", "optim", "registration"]
