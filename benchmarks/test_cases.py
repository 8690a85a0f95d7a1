"""The benchmark cases under pytest-benchmark: `pytest benchmarks [-k conv2d] --benchmark-group-by=group`.

These time one library after the other, so compare them only on an idle machine, or use `python -m fastnn.benchmarks`,
which interleaves.
"""

from __future__ import annotations

import importlib.util
from functools import cache
from typing import Any

import pytest
from fastnn.benchmarks.cases import TOLERANCE, Case, error, load
from fastnn.benchmarks.peers import PEERS, Fastnn, Unavailable

LIBRARIES = {"fastnn": Fastnn, **{name: cls for name, cls in PEERS.items() if importlib.util.find_spec(name)}}
RUNS = [
    pytest.param(case, name, variant, id=" ".join(filter(None, (str(case), name, variant))))
    for case in load()
    for name in LIBRARIES
    if name in case.runs
    for variant in case.runs[name].variants
]


@cache
def library(name: str) -> Any:
    import fastnn

    try:
        found = LIBRARIES[name]()
        found.set_threads(fastnn.get_num_threads())
    except Unavailable as reason:
        pytest.skip(str(reason))
    return found


@pytest.mark.parametrize(("case", "name", "variant"), RUNS)
def test_case(benchmark: Any, case: Case, name: str, variant: str) -> None:
    arrays = case.inputs("float32")
    work = case.runs[name].build(library(name), arrays, variant)
    gap = error(work.outputs(work.call()), case.expected(arrays))
    benchmark.group = str(case)
    benchmark.extra_info["error"] = gap
    benchmark(work.call)
    if name == "fastnn":
        assert gap <= TOLERANCE["float32"]
