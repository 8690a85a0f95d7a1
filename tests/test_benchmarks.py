"""The benchmark frame: its tables agree with the reference, its gradients are right, a wrong kernel cannot win."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import numpy as np
import pytest
from fastnn import reference
from fastnn.benchmarks import gradients
from fastnn.benchmarks.__main__ import main
from fastnn.benchmarks.cases import TOLERANCE, Case, Run, Work, error, families, load, normal
from fastnn.benchmarks.limits import Limits
from fastnn.benchmarks.peers import Fastnn
from fastnn.benchmarks.report import duration, summary, table, write_json, write_plot
from fastnn.benchmarks.run import run_case


def smallest(cases: list[Case], count: int) -> list[Case]:
    """Of each family and direction, the `count` cases that move the fewest bytes."""
    chosen = []
    for key in sorted({(case.op, case.direction) for case in cases}):
        group = [case for case in cases if (case.op, case.direction) == key]
        chosen += sorted(group, key=lambda case: sum(case.traffic(4)))[:count]
    return chosen


@pytest.mark.parametrize("case", smallest(load(), 2), ids=str)
def test_case_agrees_with_reference(case: Case) -> None:
    ours = Fastnn()
    for dtype in case.dtypes:
        arrays = case.inputs(dtype)
        expected = case.expected(arrays)
        for variant in case.runs["fastnn"].variants:
            work = case.runs["fastnn"].build(ours, arrays, variant)
            assert error(work.outputs(work.call()), expected) <= TOLERANCE[dtype], (dtype, variant)


def test_tables_are_consistent() -> None:
    cases = load(families())
    names = [str(case) for case in cases]
    assert len(set(names)) == len(names)
    assert set(families()) <= {case.op for case in cases}
    for case in cases:
        assert {"fastnn", "torch"} <= set(case.runs), case
        read, written = case.traffic(4)
        assert read > 0 and written > 0 and case.flops >= 0, case
    assert {case.op for case in load(["linear"])} == {"linear"}
    assert [str(case) for case in load(["convnet"], "vgg16 .* 64-64 .*batch 1 fwd")] == [
        "convnet vgg16 3x3 64-64 224 batch 1 fwd"
    ]
    assert not {"convnet", "models"} & {case.op for case in load()}  # only where they are asked for
    with pytest.raises(ValueError, match="no cases for nonsense"):
        load(["conv2d", "nonsense"])


CONV = {"stride": 2, "padding": 1, "dilation": 2, "groups": 2}
POOL = {"kernel_size": 3, "stride": 2, "padding": 1}


@pytest.mark.parametrize(
    ("op", "shapes", "kwargs"),
    [
        ("conv2d", [(2, 4, 7, 7), (6, 2, 3, 3), (6,)], CONV),
        ("conv2d", [(2, 3, 5, 5), (2, 3, 2, 2)], {}),
        ("max_pool2d", [(2, 3, 7, 7)], POOL),
        ("avg_pool2d", [(2, 3, 7, 7)], POOL),
        ("max_pool2d", [(1, 2, 4, 4)], {"kernel_size": 2}),
        ("linear", [(2, 3, 4), (5, 4), (5,)], {}),
        ("matmul", [(2, 3, 4), (2, 4, 5)], {}),
        ("scaled_dot_product_attention", [(2, 2, 3, 4), (2, 2, 5, 4), (2, 2, 5, 3)], {}),
        (
            "scaled_dot_product_attention",
            [(1, 4, 3, 2), (1, 2, 5, 2), (1, 2, 5, 2)],
            {"is_causal": True, "enable_gqa": True},
        ),
        ("softmax", [(3, 4, 2)], {"dim": 1}),
        ("log_softmax", [(3, 4)], {"dim": -1}),
        ("gelu", [(3, 4)], {"approximate": "tanh"}),
        ("leaky_relu", [(3, 4)], {}),
    ],
)
def test_gradients(op: str, shapes: list[tuple[int, ...]], kwargs: dict) -> None:
    rng = np.random.default_rng(0)
    args = [rng.standard_normal(shape) for shape in shapes]
    function = getattr(reference, op)
    grad = rng.standard_normal(function(*args, **kwargs).shape)
    found = gradients.gradient(op)(grad, *args, **kwargs)
    assert len(found) == len(args)
    for index, gradient in enumerate(found):
        expected = reference.numerical_gradient(lambda *a: function(*a, **kwargs), args, index, grad)
        np.testing.assert_allclose(gradient, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    ("op", "shapes", "kwargs"),
    [
        ("layer_norm", [(2, 3, 4), (3, 4), (3, 4)], {"normalized_shape": (3, 4)}),
        ("rms_norm", [(3, 5), (5,)], {"normalized_shape": (5,), "eps": 1e-3}),
        ("batch_norm", [(3, 4, 2), (4,), (4,)], {"running_mean": None, "running_var": None, "training": True}),
        ("group_norm", [(2, 4, 3), (4,), (4,)], {"num_groups": 2}),
    ],
)
def test_gradients_of_normalization(op: str, shapes: list[tuple[int, ...]], kwargs: dict) -> None:
    rng = np.random.default_rng(0)
    args = [rng.standard_normal(shape) for shape in shapes]

    def function(*arrays: np.ndarray) -> np.ndarray:
        return getattr(reference, op)(**dict(zip(("input", "weight", "bias"), arrays, strict=False)), **kwargs)

    grad = rng.standard_normal(args[0].shape)
    found = gradients.gradient(op)(grad, *args, **kwargs)
    assert len(found) == len(args)
    for index, gradient in enumerate(found):
        expected = reference.numerical_gradient(function, args, index, grad)
        np.testing.assert_allclose(gradient, expected, rtol=1e-6, atol=1e-7)


def test_gradient_of_cross_entropy() -> None:
    rng = np.random.default_rng(0)
    logits, target = rng.standard_normal((4, 5)), rng.integers(0, 5, 4)
    expected = reference.numerical_gradient(reference.cross_entropy, [logits, target], 0, np.float64(2))
    np.testing.assert_allclose(gradients.cross_entropy(np.float64(2), logits, target)[0], expected, atol=1e-8)


@pytest.mark.parametrize(("cls", "gates"), [("RNN", 1), ("LSTM", 4), ("GRU", 3)])
def test_gradient_of_recurrent_layers(cls: str, gates: int) -> None:
    rng = np.random.default_rng(3)
    shapes = [(4, 2, 3), (gates * 5, 3), (gates * 5, 5), (gates * 5,), (gates * 5,)]
    args = [rng.standard_normal(shape) for shape in shapes]
    grad = rng.standard_normal((4, 2, 5))
    layer, states = getattr(reference, f"{cls.lower()}_layer"), [np.zeros((2, 5))] * (2 if cls == "LSTM" else 1)
    for index, gradient in enumerate(gradients.recurrent(cls, grad, *args)):
        expected = reference.numerical_gradient(lambda x, *w: layer(x, *states, *w)[0], args, index, grad)
        np.testing.assert_allclose(gradient, expected, rtol=1e-6, atol=1e-7)


def test_gradient_of_embedding() -> None:
    rng = np.random.default_rng(0)
    index, weight, grad = rng.integers(0, 4, (2, 3)), rng.standard_normal((4, 5)), rng.standard_normal((2, 3, 5))
    expected = reference.numerical_gradient(reference.embedding, [index, weight], 1, grad)
    np.testing.assert_allclose(gradients.embedding(grad, index, weight)[0], expected, atol=1e-8)


def test_channels_last_is_what_it_says() -> None:
    array = np.random.default_rng(0).standard_normal((2, 3, 4, 5), dtype=np.float32)
    tensor = Fastnn().tensor(array, channels_last=True)
    np.testing.assert_array_equal(tensor.numpy(), array)
    assert tensor.numpy().strides == (240, 4, 60, 12)


def test_error() -> None:
    expected = np.random.default_rng(0).standard_normal(3 << 20)
    assert error([expected.astype(np.float32)], [expected]) < 1e-7
    for index in (0, 1 << 20, -1):  # one wrong element is seen in any block
        wrong = expected.copy()
        wrong[index] += 0.1
        assert error([wrong], [expected]) > 0.02
        wrong[index] = np.nan
        assert error([wrong], [expected]) == float("inf")
    assert error([expected[1:]], [expected]) == float("inf")
    assert error([], [expected]) == float("inf")
    assert error([np.zeros((0, 3))], [np.zeros((0, 3))]) == 0


def limits() -> Limits:
    rates = {"fma float32": 200e9, "L2 read": 200e9, "L3 read": 100e9, "DRAM read": 50e9, "DRAM copy": 70e9}
    return Limits({key: lambda rate=rate: rate for key, rate in rates.items()}, "fma float32", {2: 1 << 20, 3: 8 << 20})


def test_binding_limit() -> None:
    found = limits()
    assert found.binding(1e9, 1 << 19, 1 << 10).key == "fma float32"
    assert found.binding(0, 1 << 19, 1 << 19) == ("L2 read", 1 << 20)
    assert found.binding(0, 1 << 20, 1 << 20).key == "L3 read"
    assert found.binding(0, 1 << 30, 4).key == "DRAM read"
    assert found.binding(0, 1 << 30, 1 << 30) == ("DRAM copy", 1 << 31)


class Fake:
    """A library that returns 2 x after a pause, plus an error."""

    version = "0"

    def __init__(self, name: str, pause: float, wrong: float = 0.0) -> None:
        self.name, self.pause, self.wrong = name, pause, wrong


def double(late: bool = False, stateful: bool = False) -> Case:
    def build(library: Fake, arrays: dict[str, np.ndarray], variant: str) -> Work:
        calls = []

        def call() -> np.ndarray:
            calls.append(None)
            time.sleep(library.pause)
            wrong = library.wrong if len(calls) > 1 or not late else 0.0
            return 2 * arrays["x"] + np.float32(wrong)

        return Work(call, lambda out: [out])

    run = Run(("", "other"), build)
    runs = {"fastnn": Run(("",), build), "torch": run, "jax": run}
    reference = lambda arrays: [2 * arrays["x"]]  # noqa: E731
    return Case("double", "8", "fwd", normal(x=(8,)), reference, runs, 8, lambda size: (8 * size, 8 * size), stateful)


def test_run_compares_and_ranks() -> None:
    ours, slow, quick = Fake("fastnn", 2e-3), Fake("torch", 8e-3), Fake("jax", 5e-4)
    (row,) = run_case(double(), ours, [slow, quick], "float32", 3, limits())
    assert row.status == "ok" and row.error < 1e-6
    assert row.peers["torch"].ratio > 1.5 and row.peers["jax"].ratio < 0.7
    assert row.slower_than == ["jax"]
    assert 2e-3 < row.seconds < 1e-2 and 0 < row.fraction < 1
    text = table([row], ["torch", "jax"])
    assert "slower than jax" in text and "slower than it on 1" in summary([row])


@pytest.mark.parametrize("late", [False, True], ids=["first call", "later calls"])
def test_wrong_kernel_fails(late: bool) -> None:
    (row,) = run_case(double(late), Fake("fastnn", 0.0, wrong=1.0), [Fake("torch", 1e-3)], "float32", 1, limits())
    assert row.status == "FAILED" and row.error > 0.1
    assert "FAILED" in table([row], ["torch"]) and "FAILED" in summary([row])


def test_wrong_peer_is_left_out() -> None:
    (row,) = run_case(double(), Fake("fastnn", 1e-4), [Fake("torch", 0.0, wrong=1.0)], "float32", 1, limits())
    assert row.status == "ok" and not row.peers
    assert any("torch left out: its error is" in note for note in row.notes)


def test_exit_codes(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("fastnn.benchmarks.__main__.machine_limits", lambda threads, dtype: limits())
    arguments = ["--op", "overhead", "--rounds", "1", "--against", ""]
    assert main(arguments) == 0
    assert "relu 8x8 with grad" in capsys.readouterr().out
    assert main(["--op", "nonsense"]) == 2
    assert main(["--op", "overhead", "--against", "nonsense"]) == 2
    original = Fastnn.numpy
    monkeypatch.setattr(Fastnn, "numpy", lambda self, value: original(self, value) + 1)
    assert main(arguments) == 1


def test_reports(tmp_path) -> None:
    (row,) = run_case(double(), Fake("fastnn", 1e-4), [Fake("torch", 1e-3)], "float32", 1, limits())
    info = {"cpu": "some CPU", "isa": "avx2", "threads": 2}
    write_json(str(tmp_path / "rows.json"), info, limits(), [row])
    document = json.loads((tmp_path / "rows.json").read_text())
    assert document["rows"][0]["peers"]["torch"]["ratio"] == row.peers["torch"].ratio
    assert document["limits"]["DRAM read"] == 50e9 and document["machine"] == info
    assert [duration(s) for s in (2.5, 1.234e-3, 5e-6, 2e-8)] == ["2.5 s", "1.23 ms", "5 us", "20 ns"]
    pytest.importorskip("matplotlib")
    write_plot(str(tmp_path / "rows.png"), info, [row])
    assert (tmp_path / "rows.png").read_bytes().startswith(b"\x89PNG")


def test_peers_are_imported_only_when_used() -> None:
    code = (
        "import sys; from fastnn.benchmarks import __main__, cases; cases.load(); "
        "print([m for m in ('torch', 'jax', 'onnxruntime', 'matplotlib') if m in sys.modules])"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.strip() == "[]"
