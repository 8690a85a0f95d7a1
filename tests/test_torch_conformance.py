"""fastnn.functional against torch on torch's own sample inputs (OpInfo): values, gradients, layouts, errors.

The plain run takes a few samples of each operation; `pytest -m full` takes all of them.
"""

import warnings

import pytest

torch = pytest.importorskip("torch")
database = pytest.importorskip("torch.testing._internal.common_methods_invocations")

import conformance  # noqa: E402
import fastnn.functional as F  # noqa: E402

DTYPES = (torch.float32, torch.bfloat16)
FEW = 4

# OpInfo's name: our function, where it is not functional.<last part of the name>.
OTHER_NAMES = {
    "true_divide": F.div,
    "where": lambda input, condition, other: F.where(condition, input, other),
    "mm": F.matmul,
    "mv": F.matmul,
    "dot": F.matmul,
    "split_with_sizes": F.split,
    "nn.functional.embedding_bag": lambda weight, input, **kwargs: F.embedding_bag(input, weight, **kwargs),
    "nn.functional.embedding": lambda weight, input, **kwargs: F.embedding(input, weight, **kwargs),
}
# What raises NotImplementedError, and why.
NOT_SUPPORTED = {
    ("div", "floor_rounding"): "rounding modes",
    ("div", "trunc_rounding"): "rounding modes",
}
# Of the largest value, beside twice torch's own error, where it is not one. Logits of these samples reach 12: the last
# bit is 8 ulps of a probability, and which of two orders of their sums is nearer is chance.
ULPS = {"nn.functional.linear_cross_entropy": 4}


def function_of(op):
    if op.name in OTHER_NAMES:
        return OTHER_NAMES[op.name]
    prefix, _, last = op.name.rpartition(".")
    return getattr(F, last, None) if last in F.__all__ and prefix in ("", "nn.functional") else None


def theirs_of(op):
    if op.name != "nn.functional.linear_cross_entropy":
        return op.op

    def theirs(input, *args, options=None, **kwargs):  # the reference in float64 takes no type of sums
        return op.op(input, *args, options=None if input.dtype == torch.float64 else options, **kwargs)

    return theirs


OPS = [op for op in database.op_db if function_of(op)]
CASES = [(op, dtype) for op in OPS for dtype in DTYPES if dtype in op.supported_dtypes("cpu")]
ids = [f"{op.formatted_name}-{str(dtype)[6:]}" for op, dtype in CASES]


def samples_of(op, dtype, few):
    grad = op.supports_autograd and dtype in op.supported_backward_dtypes("cpu")
    samples = list(op.sample_inputs("cpu", dtype, requires_grad=grad))
    return samples[:: max(1, len(samples) // FEW)] if few else samples


def is_random(op, kwargs):
    """Whether the result depends on torch's generator, which ours does not follow."""
    if op.name == "nn.functional.dropout":
        return kwargs.get("training", True) and 0 < kwargs.get("p", 0.5) < 1
    return 0 < kwargs.get("dropout_p", 0) < 1


def conform(op, dtype, few):
    ours, checked = function_of(op), 0
    layouts = conformance.LAYOUTS[:2] if few else conformance.LAYOUTS
    for sample in samples_of(op, dtype, few):
        call = ((sample.input, *sample.args), sample.kwargs)
        if is_random(op, sample.kwargs):
            continue
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                conformance.check(
                    ours, theirs_of(op), call, sample.output_process_fn_grad, layouts, ULPS.get(op.name, 1)
                )
        except NotImplementedError as error:
            if (op.name, op.variant_test_name) not in NOT_SUPPORTED:
                raise AssertionError(f"{sample.summary()}: {error}") from error
        except Exception as error:
            raise AssertionError(f"{sample.summary()}: {type(error).__name__}: {error}") from error
        checked += 1
    assert checked or "dropout" in op.name


@pytest.mark.parametrize(("op", "dtype"), CASES, ids=ids)
def test_samples(op, dtype):
    conform(op, dtype, few=True)


@pytest.mark.full
@pytest.mark.parametrize(("op", "dtype"), CASES, ids=ids)
def test_all_samples(op, dtype):
    conform(op, dtype, few=False)


@pytest.mark.parametrize("op", [op for op in OPS if op.error_inputs_func], ids=lambda op: op.formatted_name)
def test_bad_arguments_raise(op):
    for case in op.error_inputs("cpu"):
        sample = case.sample_input
        with pytest.raises((ValueError, TypeError, IndexError, RuntimeError, NotImplementedError)):
            function_of(op)(sample.input, *sample.args, **sample.kwargs)
            pytest.fail(f"accepted: {sample.summary()}")


def test_coverage():
    assert len({op.name for op in OPS}) >= 100
    # torch has no samples of 8-bit integers, see test_quantized.py, of lp_pool, see test_interpolate.py, nor such a
    # function, see test_attention_window.py.
    without = {"int_mm", "linear_int8", "lp_pool1d", "lp_pool2d", "lp_pool3d", "rotary_embedding"}
    assert set(F.__all__) - without <= {op.name.rpartition(".")[2] for op in OPS}, "no samples: say why in docs"
