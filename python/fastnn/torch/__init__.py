"""The adapter to PyTorch: torch tensors as arguments of fastnn's functions.

Importing it needs torch 2.10 or later; `import fastnn` never imports torch. The first call of a fastnn function with a
torch tensor imports this package.
"""

from . import dispatch as dispatch
