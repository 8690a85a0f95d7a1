"""Elementwise arithmetic, comparison and selection with broadcasting.

Operands are Tensors, numpy arrays beside them, and Python numbers, which adapt to the dtype of the tensor without
rounding to it first. Two tensors must have one dtype; an integer tensor takes no float. Shapes broadcast as numpy's.
float32, bfloat16 and float16 compute in float32, float64 in float64; integers wrap around.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .. import _C
from . import unary

if TYPE_CHECKING:
    import numpy as np

    from ..tensor import Tensor

    Operand = Tensor | np.ndarray | float

_Base = _C.TensorBase


def _shape(x: Any) -> tuple[int, ...] | None:
    return x.shape if isinstance(x, _Base) else None


def _tracked(x: Any) -> bool:
    return isinstance(x, _Base) and x.requires_grad


# ---- binary ----------------------------------------------------------------------------------------------------------


def _add_backward(ctx, grad):
    (need_a, need_b), (a, b) = ctx.needs_input_grad, ctx.saved
    return (_C.sum_to(grad, a) if need_a else None, _C.sum_to(grad, b) if need_b else None)


def _sub_backward(ctx, grad):
    (need_a, need_b), (a, b) = ctx.needs_input_grad, ctx.saved
    return (_C.sum_to(grad, a) if need_a else None, _C.mul(_C.sum_to(grad, b), -1) if need_b else None)


def _mul_saved(a, b):
    # Each operand is kept for the gradient of the other one only.
    return (a if _tracked(b) else None, b if _tracked(a) else None, _shape(a), _shape(b))


def _mul_backward(ctx, grad):
    (need_a, need_b), (a, b, shape_a, shape_b) = ctx.needs_input_grad, ctx.saved
    return (
        _C.sum_to(_C.mul(grad, b), shape_a) if need_a else None,
        _C.sum_to(_C.mul(grad, a), shape_b) if need_b else None,
    )


def _div_saved(a, b, out):
    return (b, out if _tracked(b) else None, _shape(a), _shape(b))


def _div_backward(ctx, grad):
    (need_a, need_b), (b, out, shape_a, shape_b) = ctx.needs_input_grad, ctx.saved
    return (  # d/da = 1 / b, d/db = -(a / b) / b
        _C.sum_to(_C.div(grad, b), shape_a) if need_a else None,
        _C.mul(_C.sum_to(_C.mul(grad, _C.div(out, b)), shape_b), -1) if need_b else None,
    )


def _pow_backward(ctx, grad):
    (need_a, need_b), (a, b, out) = ctx.needs_input_grad, ctx.saved
    grad_a = grad_b = None
    if need_a:  # b * a^(b - 1), and 0 where b is 0, also at a = 0
        slope = _C.mul(_C.pow(a, _C.sub(b, 1) if isinstance(b, _Base) else b - 1), b) if _any_nonzero(b) else None
        if slope is None:
            grad_a = _C.full(a.shape, 0, a.dtype, a.device)
        else:
            if isinstance(b, _Base):
                slope = _C.where(_C.eq(b, 0), 0, slope)
            grad_a = _C.sum_to(_C.mul(grad, slope), a.shape)
    if need_b:  # out * log(a), and 0 where a is 0 and b is not negative
        if isinstance(a, _Base):
            slope = _C.mul(out, _logarithm(a))
            zero = _C.bitwise_and(_C.eq(a, 0), _C.ge(b, 0))
        else:
            slope = _C.mul(out, _logarithm(_C.full((), a, b.dtype, b.device)))
            zero = _C.ge(b, 0) if a == 0 else None
        if zero is not None:
            slope = _C.where(zero, 0, slope)
        grad_b = _C.sum_to(_C.mul(grad, slope), b.shape)
    return grad_a, grad_b


def _logarithm(x):
    return _C.activation("log", x, 0.0, 0.0)


def _any_nonzero(b: Any) -> bool:
    return isinstance(b, _Base) or b != 0


def _extremum_backward(loses):
    def backward(ctx, grad):
        (need_a, need_b), (a, b) = ctx.needs_input_grad, ctx.saved
        # Equal operands share the gradient; beside a NaN both get it, as in torch.
        shared = _C.where(_C.eq(a, b), _C.mul(grad, 0.5), grad)
        return (
            _C.sum_to(_C.where(loses(a, b), 0, shared), _shape(a)) if need_a else None,
            _C.sum_to(_C.where(loses(b, a), 0, shared), _shape(b)) if need_b else None,
        )

    return backward


_add = _C.Op("add", _C.add, lambda a, b: (_C.add(a, b), (_shape(a), _shape(b))), _add_backward)
_sub = _C.Op("sub", _C.sub, lambda a, b: (_C.sub(a, b), (_shape(a), _shape(b))), _sub_backward)
_mul = _C.Op("mul", _C.mul, lambda a, b: (_C.mul(a, b), _mul_saved(a, b)), _mul_backward)
_div = _C.Op("div", _C.div, lambda a, b: ((out := _C.div(a, b)), _div_saved(a, b, out)), _div_backward)
_pow = _C.Op("pow", _C.pow, lambda a, b: ((out := _C.pow(a, b)), (a, b, out if _tracked(b) else None)), _pow_backward)
_maximum = _C.Op("maximum", _C.maximum, lambda a, b: (_C.maximum(a, b), (a, b)), _extremum_backward(_C.lt))
_minimum = _C.Op("minimum", _C.minimum, lambda a, b: (_C.minimum(a, b), (a, b)), _extremum_backward(_C.gt))
_bitwise_and = _C.Op("bitwise_and", _C.bitwise_and)
_bitwise_or = _C.Op("bitwise_or", _C.bitwise_or)
_bitwise_xor = _C.Op("bitwise_xor", _C.bitwise_xor)

_eq = _C.Op("eq", _C.eq)
_ne = _C.Op("ne", _C.ne)
_lt = _C.Op("lt", _C.lt)
_le = _C.Op("le", _C.le)
_gt = _C.Op("gt", _C.gt)
_ge = _C.Op("ge", _C.ge)


# ---- sign ------------------------------------------------------------------------------------------------------------


def negative(x: Tensor) -> Tensor:
    """-x; integers too, which wrap around."""
    return unary.neg(x) if _is_floating(x) else _sub(0, x)


def absolute(x: Tensor) -> Tensor:
    """|x|; integers too."""
    if _is_floating(x) or x.dtype.kind == "u":
        return unary.abs(x) if _is_floating(x) else x
    return _maximum(x, _sub(0, x))


def _is_floating(x: Tensor) -> bool:
    return x.dtype.kind not in "iub"


# ---- selection -------------------------------------------------------------------------------------------------------


def _where_backward(ctx, grad):
    condition, a, b = ctx.saved
    _, need_a, need_b = ctx.needs_input_grad
    return (
        None,
        _C.sum_to(_C.where(condition, grad, 0), a) if need_a else None,
        _C.sum_to(_C.where(condition, 0, grad), b) if need_b else None,
    )


_where = _C.Op("where", _C.where, lambda c, a, b: (_C.where(c, a, b), (c, _shape(a), _shape(b))), _where_backward)


def _clamp_forward(x, low, high):
    if low is not None:
        x = _C.maximum(x, low)
    return x if high is None else _C.minimum(x, high)


def _clamp_backward(ctx, grad):
    x, low, high = ctx.saved
    need_x, need_low, need_high = ctx.needs_input_grad
    dx = grad
    if need_x and low is not None:
        dx = _C.where(_C.ge(x, low), dx, 0)
    if need_x and high is not None:
        dx = _C.where(_C.le(x, high), dx, 0)
    dlow = dhigh = None
    if need_low:
        taken = _C.lt(x, low)
        if high is not None:  # the upper bound wins where the bounds cross
            taken = _C.bitwise_and(taken, _C.lt(low, high))
        dlow = _C.sum_to(_C.where(taken, grad, 0), low.shape)
    if need_high:
        taken = _C.gt(x, high)
        if low is not None:
            taken = _C.bitwise_or(taken, _C.lt(high, low))
        dhigh = _C.sum_to(_C.where(taken, grad, 0), high.shape)
    return _C.sum_to(dx, x.shape) if need_x else None, dlow, dhigh


def _bound(x, bound):
    """An integer tensor beside a floating one takes part in its dtype."""
    if isinstance(bound, _Base) and _is_floating(x) and not _is_floating(bound):
        return _C.astype(bound, x.dtype)
    return bound


def _clamp_record(x, low, high):
    low, high = _bound(x, low), _bound(x, high)
    return _clamp_forward(x, low, high), (x, low, high)


_clamp = _C.Op("clamp", lambda x, *bounds: _clamp_record(x, *bounds)[0], _clamp_record, _clamp_backward)


# ---- public functions ------------------------------------------------------------------------------------------------


def _require_array(op: str, name: str, value: Any) -> None:
    if isinstance(value, (int, float, str, type(None))):
        raise TypeError(f"{op}: {name} is {value!r}; expected a Tensor or a numpy array")


def _scaled(x: Operand, factor: float) -> Operand:
    return x * factor if isinstance(x, (int, float)) else _mul(x, factor)


def add(input: Tensor | np.ndarray, other: Operand, *, alpha: float = 1) -> Tensor:
    """input + alpha other"""
    _require_array("add", "input", input)
    return _add(input, other if alpha == 1 else _scaled(other, alpha))


def sub(input: Tensor | np.ndarray, other: Operand, *, alpha: float = 1) -> Tensor:
    """input - alpha other"""
    _require_array("sub", "input", input)
    return _sub(input, other if alpha == 1 else _scaled(other, alpha))


def mul(input: Tensor | np.ndarray, other: Operand) -> Tensor:
    """input other, elementwise."""
    _require_array("mul", "input", input)
    return _mul(input, other)


def div(input: Tensor | np.ndarray, other: Operand, *, rounding_mode: None = None) -> Tensor:
    """input / other, elementwise; floating dtypes. NotImplementedError for a rounding_mode."""
    _require_array("div", "input", input)
    if rounding_mode is not None:
        raise NotImplementedError(f"div: rounding_mode is {rounding_mode!r}; expected None")
    return _div(input, other)


true_divide = div


def pow(input: Operand, exponent: Operand) -> Tensor:
    """input^exponent, elementwise; one of them may be a number. The derivative by the exponent at 0^0 is 0."""
    return _pow(input, exponent)


def eq(input: Tensor | np.ndarray, other: Operand) -> Tensor:
    """input == other, elementwise; bool. NaN equals nothing."""
    _require_array("eq", "input", input)
    return _eq(input, other)


def ne(input: Tensor | np.ndarray, other: Operand) -> Tensor:
    """input != other, elementwise; bool."""
    _require_array("ne", "input", input)
    return _ne(input, other)


def lt(input: Tensor | np.ndarray, other: Operand) -> Tensor:
    """input < other, elementwise; bool."""
    _require_array("lt", "input", input)
    return _lt(input, other)


def le(input: Tensor | np.ndarray, other: Operand) -> Tensor:
    """input <= other, elementwise; bool."""
    _require_array("le", "input", input)
    return _le(input, other)


def gt(input: Tensor | np.ndarray, other: Operand) -> Tensor:
    """input > other, elementwise; bool."""
    _require_array("gt", "input", input)
    return _gt(input, other)


def ge(input: Tensor | np.ndarray, other: Operand) -> Tensor:
    """input >= other, elementwise; bool."""
    _require_array("ge", "input", input)
    return _ge(input, other)


def maximum(input: Tensor | np.ndarray, other: Tensor | np.ndarray) -> Tensor:
    """max(input, other) elementwise; NaN where either is NaN. Where they are equal, each takes half of the gradient.

    TypeError for a number: use clamp.
    """
    _require_array("maximum", "input", input)
    _require_array("maximum", "other", other)
    return _maximum(input, other)


def minimum(input: Tensor | np.ndarray, other: Tensor | np.ndarray) -> Tensor:
    """min(input, other) elementwise; NaN where either is NaN. Where they are equal, each takes half of the gradient.

    TypeError for a number: use clamp.
    """
    _require_array("minimum", "input", input)
    _require_array("minimum", "other", other)
    return _minimum(input, other)


def where(condition: Tensor | np.ndarray, input: Operand, other: Operand) -> Tensor:
    """condition ? input : other elementwise.

    Args:
        condition: bool; the three shapes broadcast.
        input, other: tensors of one dtype, or a tensor and a number.

    Raises:
        TypeError: condition is not bool, or the dtypes differ.
        ValueError: the shapes do not broadcast.
    """
    return _where(condition, input, other)


def clamp(input: Tensor | np.ndarray, min: Operand | None = None, max: Operand | None = None) -> Tensor:
    """min(max(input, min), max); the bounds are numbers or tensors, which broadcast.

    The gradient goes to input where min <= input <= max, to min where input < min < max, to max where input or min is
    over max.

    Raises:
        ValueError: both bounds are None.
        TypeError: a bound is a tensor of another floating dtype.
    """
    if min is None and max is None:
        raise ValueError("clamp: min and max are both None; expected at least one bound")
    _require_array("clamp", "input", input)
    for name, bound in (("min", min), ("max", max)):
        if isinstance(bound, str):
            raise TypeError(f"clamp: {name} is a str; expected a number or a tensor")
    return _clamp(input, min, max)


# ---- in place --------------------------------------------------------------------------------------------------------
# record() changes the target and returns it: the tape gets a new node, fed by what the target was and by `other`.


def _separate(target, other):
    """other, or a copy of it if the change of target would change it: x.mul_(x)."""
    return _C.clone(other) if isinstance(other, _Base) and _C.may_overlap(target, other) else other


def _record_add_in_place(change):
    def record(target, other):
        change(target, other)
        return target, (target.shape, _shape(other))

    return record


def _record_mul_in_place(target, other):
    before = _C.clone(target) if _tracked(other) else None
    factor = _separate(target, other) if _tracked(target) else None
    _C.mul_in_place(target, other)
    return target, (before, factor, target.shape, _shape(other))


def _record_div_in_place(target, other):
    divisor = _separate(target, other)
    _C.div_in_place(target, other)
    return target, (divisor, _C.clone(target) if _tracked(other) else None, target.shape, _shape(other))


_add_ = _C.Op("add_", _C.add_in_place, _record_add_in_place(_C.add_in_place), _add_backward)
_sub_ = _C.Op("sub_", _C.sub_in_place, _record_add_in_place(_C.sub_in_place), _sub_backward)
_mul_ = _C.Op("mul_", _C.mul_in_place, _record_mul_in_place, _mul_backward)
_div_ = _C.Op("div_", _C.div_in_place, _record_div_in_place, _div_backward)
_copy_ = _C.Op(
    "copy_",
    _C.assign,
    lambda target, source: (_C.assign(target, source), (target, (source.shape, source.dtype)))[1],
    lambda ctx, grad: (None, _C.astype(_C.sum_to(grad, ctx.saved[0]), ctx.saved[1])),
)
_fill_ = _C.Op(
    "fill_",
    _C.fill,
    lambda target, value: (_C.fill(target, value), (target, ()))[1],
    lambda ctx, grad: None,
)


def in_place(op: _C.Op, target: Tensor, *args: Any) -> Tensor:
    """Runs an in-place op and keeps the tape right.

    While recording, other tensors on the same memory (views, aliases that a node saved) would keep a history that the
    change makes wrong; so the target must be the only one.

    Raises:
        RuntimeError: the change would be recorded, and the target is a leaf that requires a gradient or shares memory.
    """
    if _C.grad_enabled() and (target.requires_grad or any(map(_tracked, args))):
        if target.requires_grad and target.is_leaf:
            raise RuntimeError(
                f"{op.name}: a leaf tensor that requires a gradient cannot be changed in place while recording; "
                "use `with fastnn.no_grad():`"
            )
        if not target._is_sole_owner():
            raise RuntimeError(
                f"{op.name}: the target shares its memory with another tensor (a view, its base, or a value that the "
                "tape saved), so the change in place cannot be recorded; use the operation that makes a new tensor, or "
                "assign to the base, x[index] = value"
            )
        target._take_history(op(target, *args))
    else:
        op(target, *args)
    return target


def augmented(op: _C.Op, out_of_place: _C.Op, target: Tensor, other: Operand) -> Tensor:
    """x += y: in place where it can be; while recording a tensor that shares memory, x becomes a new tensor."""
    if (
        not target._is_sole_owner()
        and _C.grad_enabled()
        and not (target.requires_grad and target.is_leaf)
        and (target.requires_grad or _tracked(other))
    ):
        return out_of_place(target, other)
    return in_place(op, target, other)
