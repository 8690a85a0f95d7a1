"""Derivatives without calculus, to check those that were written by hand."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ._common import as_float64


def numerical_gradient(
    f: Callable[..., ArrayLike],
    args: Sequence[Any],
    index: int = 0,
    grad_output: ArrayLike | None = None,
    eps: float = 1e-6,
) -> np.ndarray:
    """Gradient of sum(f(*args) * grad_output) with respect to args[index], by central differences in float64:

        g[k] = sum((f(.., x + eps e_k, ..) - f(.., x - eps e_k, ..)) * grad_output) / (2 eps)

    `f` takes the arguments and returns one array; args[index] reaches it as a float64 array, the others as they are.
    `grad_output` has the shape of the output, or broadcasts to it; None stands for ones. The error is about
    eps^2 |f'''| / 6 + 1e-16 |f| / eps; keep the argument more than eps away from kinks, such as 0 of relu.
    """
    arguments = list(args)
    x = as_float64(args[index]).copy()
    arguments[index] = x
    weight = np.float64(1.0) if grad_output is None else as_float64(grad_output)
    gradient = np.empty_like(x)
    # The difference of what x could hold, above - below, is a more exact step than 2 eps.
    for position in np.ndindex(x.shape):
        value = x[position]
        # np.array copies: f may return a view of its argument, which changes again below.
        x[position] = above = value + eps
        output_above = np.array(f(*arguments), dtype=np.float64)
        x[position] = below = value - eps
        output_below = np.array(f(*arguments), dtype=np.float64)
        x[position] = value
        # Subtracting before the sum cancels exactly every output that does not depend on this entry.
        gradient[position] = ((output_above - output_below) * weight).sum() / (above - below)
    return gradient
