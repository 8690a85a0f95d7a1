"""What a benchmark case is, where the cases come from, and how far an output may be from the reference."""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

Arrays = dict[str, np.ndarray]
DTYPES = ("float32", "bfloat16")

# Largest error (see `error`) that counts as the same result. The tests of each op are stricter; this one keeps a wrong
# kernel from winning a benchmark: sums of up to some 10^5 terms, or 1 - y^2 of a bfloat16 y near 1.
TOLERANCE = {"float32": 5e-5, "bfloat16": 5e-2}


class Work(NamedTuple):
    """What one library runs for one case: `call` is timed, `outputs(call())` are the arrays to compare."""

    call: Callable[[], Any]
    outputs: Callable[[Any], list[np.ndarray]]


class Run(NamedTuple):
    """How one library does a case: the forms worth timing, and `build(library, arrays, variant)` for one of them."""

    variants: tuple[str, ...]
    build: Callable[[Any, Arrays, str], Work]


@dataclass(frozen=True)
class Case:
    """One piece of work that every library does on the same inputs.

    Attributes:
      op: family, the stem of the file that holds the table ("conv2d").
      name: the shape in words, unique within (op, direction).
      direction: "fwd", or "bwd" for forward and backward through autograd.
      make: float32 arrays (and integer ones for labels) from a seeded generator; floats are then rounded to the dtype.
      reference: the outputs in float64 from those arrays in float64.
      runs: library name -> Run. Always has "fastnn".
      flops: floating-point operations of the direct algorithm (a multiply-add counts two).
      traffic: item size -> bytes (read, written) that any implementation must move.
      stateful: a call changes what the next one sees (an optimizer step): only the first call is compared.
      dtypes: those that the case exists in.
    """

    op: str
    name: str
    direction: Literal["fwd", "bwd"]
    make: Callable[[np.random.Generator], Arrays]
    reference: Callable[[Arrays], list[np.ndarray]]
    runs: Mapping[str, Run]
    flops: int
    traffic: Callable[[int], tuple[int, int]]
    stateful: bool = False
    dtypes: tuple[str, ...] = DTYPES

    def __str__(self) -> str:
        return f"{self.op} {self.name} {self.direction}"

    def inputs(self, dtype: str, seed: int = 0) -> Arrays:
        """The case's arrays with every floating-point one rounded to `dtype`."""
        kind = numpy_dtype(dtype)
        arrays = self.make(np.random.default_rng(seed))
        return {name: a.astype(kind) if a.dtype.kind == "f" else a for name, a in arrays.items()}

    def expected(self, arrays: Arrays) -> list[np.ndarray]:
        """The reference outputs for what `inputs` returned: rounding the inputs is not an error of the kernel."""
        integer = {name for name, a in arrays.items() if a.dtype.kind in "iub"}
        return self.reference({name: a if name in integer else a.astype(np.float64) for name, a in arrays.items()})


def numpy_dtype(name: str) -> np.dtype:
    """The numpy dtype of "float32" or "bfloat16"."""
    if name == "bfloat16":
        import ml_dtypes

        return np.dtype(ml_dtypes.bfloat16)
    return np.dtype(name)


def normal(**shapes: tuple[int, ...]) -> Callable[[np.random.Generator], Arrays]:
    """A `Case.make` of standard normal float32 arrays with these names and shapes."""
    return lambda rng: {name: rng.standard_normal(shape, dtype=np.float32) for name, shape in shapes.items()}


def error(outputs: list[np.ndarray], expected: list[np.ndarray]) -> float:
    """Largest |out - ref| / (|ref| + rms(ref)) over all elements of all outputs; infinite on a wrong shape or a NaN.

    Relative for large elements, and measured by the size of its neighbours for one that cancelled to nearly nothing.
    """
    if len(outputs) != len(expected):
        return float("inf")
    worst = 0.0
    for out, ref in zip(outputs, expected, strict=True):
        if out.shape != ref.shape:
            return float("inf")
        out, ref = out.reshape(-1), ref.reshape(-1)
        rms = float(np.sqrt(np.dot(ref, ref) / max(ref.size, 1))) or 1.0
        for start in range(0, ref.size, 1 << 20):  # in blocks: a gradient of cross-entropy has 10^8 elements
            r = ref[start : start + (1 << 20)]
            gap = np.abs(out[start : start + (1 << 20)].astype(np.float64) - r) / (np.abs(r) + rms)
            peak = float(gap.max())
            if not np.isfinite(peak):
                return float("inf")
            worst = max(worst, peak)
    return worst


def families() -> list[str]:
    """The op families that have a table, from the names of the bench_*.py files beside this one."""
    package = importlib.import_module(__package__)
    names = [module.name for module in pkgutil.iter_modules(package.__path__)]
    return sorted(name.removeprefix("bench_") for name in names if name.startswith("bench_"))


def load(ops: list[str] | None = None, pattern: str = "") -> list[Case]:
    """The cases of these families or ops (default: all but those of tables that say `DEFAULT = False`).

    Args:
      pattern: a regular expression that str(case) must contain.

    Raises:
      ValueError: a name is neither a family nor an op.
    """
    cases: list[Case] = []
    known = families()
    found: set[str] = set()
    for family in known:
        module = importlib.import_module(f"{__package__}.bench_{family}")
        table: list[Case] = module.CASES
        if ops is None:
            chosen = table if getattr(module, "DEFAULT", True) else []
        else:
            chosen = table if family in ops else [case for case in table if case.op in ops]
        cases += chosen
        found |= {family, *(case.op for case in table)}
    unknown = sorted(set(ops or ()) - found)
    if unknown:
        raise ValueError(f"--op: no cases for {', '.join(unknown)}; expected some of {', '.join(sorted(found))}")
    return [case for case in cases if re.search(pattern, str(case))]
