"""Matrix products: matmul and linear."""

from __future__ import annotations

from .. import _C
from ._epilogue import check_epilogue, epilogue_backward, record_epilogue


def _matmul_backward(ctx, grad):
    a, b = ctx.saved
    need_a, need_b = ctx.needs_input_grad
    # A vector counts as a row on the left and as a column on the right; the gradient lacks its axis.
    rows = _C.reshape(a, (1, *a.shape)) if a.ndim == 1 else a
    columns = _C.reshape(b, (*b.shape, 1)) if b.ndim == 1 else b
    if b.ndim == 1:
        grad = _C.reshape(grad, (*grad.shape, 1))
    if a.ndim == 1:
        grad = _C.reshape(grad, (*grad.shape[:-1], 1, grad.shape[-1]))
    da = db = None
    if need_a:
        da = _C.reshape(_C.sum_to(_C.matmul(grad, _C.transpose(columns, -2, -1)), rows.shape), a.shape)
    if need_b:
        db = _C.reshape(_C.sum_to(_C.matmul(_C.transpose(rows, -2, -1), grad), columns.shape), b.shape)
    return da, db


_matmul = _C.Op("matmul", _C.matmul, lambda a, b: (_C.matmul(a, b), (a, b)), _matmul_backward)


def matmul(input, other):
    """Matrix product with torch.matmul's rules.

    c[..., i, j] = sum_k input[..., i, k] * other[..., k, j]

    Leading axes broadcast; a vector on the left is a row, on the right a column, and its axis is missing in the result.
    Operands may have any strides (transposes are not copied). Sums are accumulated in float32 (float64 for float64).

    Raises: ValueError for shapes that do not fit, TypeError for mixed dtypes, NotImplementedError for dtypes that
    are not floating.
    """
    return _matmul(input, other)


def bmm(input, mat2):
    """matmul of two batches of matrices, (B, n, m) and (B, m, p), without broadcasting.

    Raises: as matmul; ValueError also for another number of dimensions.
    """
    if input.ndim != 3 or mat2.ndim != 3 or input.shape[0] != mat2.shape[0]:
        raise ValueError(
            f"bmm: input has shape {tuple(input.shape)} and mat2 {tuple(mat2.shape)}; expected (B, n, m) and (B, m, p)"
        )
    return _matmul(input, mat2)


def _linear_record(input, weight, bias, activation, residual):
    y, kept = record_epilogue(lambda f: _C.linear(input, weight, bias, f, residual), activation)
    return y, (input, weight, kept, activation)


def _linear_backward(ctx, grad):
    input, weight, kept, activation = ctx.saved
    grad = epilogue_backward(activation, kept, grad)
    gradients = _C.linear_backward(grad, input, weight, *ctx.needs_input_grad[:3])
    return (*gradients, None, grad) if ctx.needs_input_grad[4] else gradients


_linear = _C.Op("linear", _C.linear, _linear_record, _linear_backward)


def linear(input, weight, bias=None, *, activation=None, residual=None):
    """y = f(input @ weight.T + bias + residual).

    Args:
        input: (..., in_features). weight: (out_features, in_features). bias: (out_features,) or None.
        activation: None or the name of an activation, as in conv2d. residual: (..., out_features) or None.

    Returns: (..., out_features) in the dtype of the input: float32, bfloat16, float16 or float64.

    Raises: ValueError for shapes that do not fit, TypeError for mixed dtypes, NotImplementedError for other dtypes.
    """
    return _linear(input, weight, bias, check_epilogue("linear", activation), residual)
