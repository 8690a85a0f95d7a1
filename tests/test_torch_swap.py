"""fastnn.swap: the same model afterwards, and a report that says what was done."""

import copy
import io
import json
import pickle

import fastnn
import pytest

torch = pytest.importorskip("torch")
from fastnn.torch import functional  # noqa: E402
from fastnn.torch import nn as fnn  # noqa: E402
from fastnn.torch import swap as swap_module  # noqa: E402
from torch import nn  # noqa: E402
from torch_models import MODELS, Options, close, gradients, layers, loss_of, make, ours, quick_swaps, swapped_layers  # noqa: E402


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    with quick_swaps(monkeypatch):
        yield


# ---- the same model --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
def test_training_is_the_same(name):
    original, inputs = make(name)
    model, _ = make(name)
    keys, ids, names = list(model.state_dict()), [id(p) for p in model.parameters()], repr(model)
    report = fastnn.swap(model)
    assert report.policy == "always" and ours(model)
    assert list(model.state_dict()) == keys and [id(p) for p in model.parameters()] == ids and repr(model) == names
    for _ in range(2):  # running statistics go on
        loss, grads = gradients(model, inputs)
        expected, reference = gradients(original, inputs)
        close(loss, expected)
        assert grads.keys() == reference.keys()
        for key in grads:
            close(grads[key], reference[key], 1e-4)
    for (key, a), b in zip(model.named_buffers(), original.buffers(), strict=True):
        close(a.double(), b.double()), key
    report.undo()
    assert layers(model) == layers(original)


@pytest.mark.full
@pytest.mark.parametrize("name", MODELS)
def test_loss_curves(name):
    curves = []
    for swap in (False, True):
        model, inputs = make(name)
        generator = torch.Generator().manual_seed(1)
        target = torch.randn(model(inputs).shape, generator=generator)
        if swap:
            fastnn.swap(model)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
        curve = []
        for _ in range(200):
            optimizer.zero_grad()
            loss = (model(inputs) - target).square().mean()
            loss.backward()
            optimizer.step()
            curve.append(loss.item())
        curves.append(torch.tensor(curve))
    assert curves[0][-1] < 0.9 * curves[0][0]
    torch.testing.assert_close(curves[1], curves[0], rtol=2e-2, atol=2e-3)


def test_a_single_layer():
    model = nn.Linear(3, 4)
    report = fastnn.swap(model)
    assert type(model) is fnn.Linear and report.rows[0].name == ""
    assert "(model)" in str(report)
    report.undo()
    assert type(model) is nn.Linear


def test_shared_modules_and_tied_weights():
    model, inputs = make("gpt")
    shared = nn.ReLU()
    model = nn.Sequential(model, shared, nn.Identity(), shared)
    report = fastnn.swap(model)
    assert model[1] is model[3] and [row.name for row in report.rows].count("1") == 1
    assert model[0].lm_head.weight is model[0].wte.weight
    loss_of(model, inputs).backward()


# ---- what people do with models --------------------------------------------------------------------------------------


def test_hooks_run():
    model, inputs = make("lenet")
    seen = []
    model.conv1.register_forward_pre_hook(lambda m, a: seen.append("before"))
    model.conv1.register_forward_hook(lambda m, a, out: out * 0)
    model.fc1.register_full_backward_hook(lambda m, gi, go: seen.append("backward"))
    reference = copy.deepcopy(model)
    fastnn.swap(model)
    loss_of(model, inputs).backward()
    assert seen == ["before", "backward"]
    model.eval()
    reference.eval()
    with torch.no_grad():
        close(model(inputs), reference(inputs))


@pytest.mark.parametrize("mode", ["training", "inference"])
def test_deepcopy_and_pickle(mode):
    model, inputs = make("resnet")
    model.eval()
    with torch.no_grad():
        expected = model(inputs)
    fastnn.swap(model, mode=mode)
    copies = [copy.deepcopy(model), pickle.loads(pickle.dumps(model))]
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    copies.append(torch.load(buffer, weights_only=False))
    with torch.no_grad():
        model.fc.weight.zero_()
        for other in copies:
            assert len(ours(other)) == len(ours(model))
            for _ in range(2):
                close(other(inputs), expected, 1e-4)
        other.fc.bias.fill_(3.0)
        other.fc.weight.zero_()
        assert (other(inputs) == 3.0).all() and not (model(inputs) == 3.0).any()


def test_state_dict_goes_both_ways():
    model, inputs = make("resnet")
    original = copy.deepcopy(model)
    fastnn.swap(model)
    for p in model.parameters():
        p.data.mul_(1.5)
    original.load_state_dict(model.state_dict())
    model.load_state_dict(original.state_dict())
    close(model(inputs), original(inputs))


def test_gradient_accumulation_and_frozen_parts():
    results = []
    for swap in (False, True):
        model, inputs = make("resnet")
        for p in model.layers[0].parameters():
            p.requires_grad_(False)
        if swap:
            fastnn.swap(model)
        for part in (inputs[:1], inputs[1:]):
            (loss_of(model, part) / 2).backward()
        assert all(p.grad is None for p in model.layers[0].parameters())
        results.append([p.grad for p in model.parameters() if p.grad is not None])
    for a, b in zip(*results, strict=True):
        close(a, b, 1e-4)


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointing(reentrant):
    from torch.utils.checkpoint import checkpoint

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Dropout(0.5), nn.Linear(16, 4))
    x = torch.randn(5, 8, requires_grad=True)
    fastnn.swap(model)
    results = []
    for run in (lambda: model(x), lambda: checkpoint(model, x, use_reentrant=reentrant)):
        model.zero_grad()
        x.grad = None
        torch.manual_seed(3)
        run().square().sum().backward()
        results.append([x.grad, *(p.grad for p in model.parameters())])
    for a, b in zip(*results, strict=True):
        assert torch.equal(a, b)  # the same dropout mask twice


def test_dropout_follows_torchs_seed():
    model = nn.Dropout(0.5)
    fastnn.swap(model)
    x = torch.ones(1000)
    torch.manual_seed(5)
    a = model(x)
    b = model(x)
    torch.manual_seed(5)
    assert torch.equal(model(x), a) and not torch.equal(a, b)
    assert 400 < int((a > 0).sum()) < 600 and a.max() == 2.0


def test_parametrizations():
    def build():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4))
        nn.utils.parametrizations.weight_norm(model[0])
        nn.utils.parametrizations.orthogonal(model[2])
        return model

    model, original, x = build(), build(), torch.randn(3, 6)
    classes = [type(m).__name__ for m in model]
    report = fastnn.swap(model)
    assert [type(m).__name__ for m in model] == classes and isinstance(model[0], fnn.Linear)
    assert report.rows[0].swapped
    loss_of(model, x).backward()
    loss_of(original, x).backward()
    for a, b in zip(model.parameters(), original.parameters(), strict=True):
        close(a.grad, b.grad)
    nn.utils.parametrize.remove_parametrizations(model[0], "weight")
    assert type(model[0]) is fnn.Linear
    report.undo()
    assert type(model[0]) is nn.Linear and not isinstance(model[2], fnn.Linear)
    close(model(x), original(x))


def test_channels_last():
    model, inputs = make("resnet")
    model = model.to(memory_format=torch.channels_last)
    inputs = inputs.contiguous(memory_format=torch.channels_last)
    original = copy.deepcopy(model)
    fastnn.swap(model)
    a, b = gradients(model, inputs), gradients(original, inputs)
    close(a[0], b[0])
    for key in a[1]:
        close(a[1][key], b[1][key], 1e-4)
    assert model.conv1(inputs).is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("name", ["resnet", "bert"])
def test_autocast(name):
    model, inputs = make(name)
    original = copy.deepcopy(model)
    fastnn.swap(model)
    with torch.autocast("cpu", torch.bfloat16):
        ours, theirs = model(inputs), original(inputs)
        assert ours.dtype == theirs.dtype
        ours.float().square().mean().backward()
        theirs.float().square().mean().backward()
    close(ours.float(), theirs.float(), 5e-2)
    for a, b in zip(model.parameters(), original.parameters(), strict=True):
        assert a.grad.dtype == b.grad.dtype
        assert (a.grad - b.grad).norm() <= 0.1 * b.grad.norm() + 1e-4


def test_deterministic_algorithms():
    model, inputs = make("resnet")
    fastnn.swap(model)
    torch.use_deterministic_algorithms(True)
    try:
        a, b = gradients(model, inputs)[1], gradients(model, inputs)[1]
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_other_dtypes(dtype):
    model, inputs = make("mobilenet")
    model, inputs = model.to(dtype), inputs.to(dtype)
    original = copy.deepcopy(model)
    fastnn.swap(model)
    tolerance = 1e-9 if dtype is torch.float64 else 5e-2
    close(model(inputs).float(), original(inputs).float(), tolerance)


def test_what_has_no_kernel_runs_in_torch():
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU())
    fastnn.swap(model)
    assert torch.equal(model[1](torch.tensor([-1, 2])), torch.tensor([0, 2]))  # integers
    x = torch.randn(2, 3, dtype=torch.complex64)
    functional.fallbacks.clear()
    with pytest.raises(RuntimeError):
        model[1](x)  # torch's own error
    assert functional.fallbacks


# ---- choosing --------------------------------------------------------------------------------------------------------


def test_include_exclude_filter():
    def swapped(**kwargs):
        model, _ = make("lenet")
        return swapped_layers(fastnn.swap(model, **kwargs))

    assert swapped() == ["conv1", "conv2", "fc1", "fc2", "fc3"]
    assert swapped(include="conv*") == ["conv1", "conv2"]
    assert swapped(include=["conv1", nn.Linear], exclude="fc[12]") == ["conv1", "fc3"]
    assert swapped(exclude=nn.Conv2d) == ["fc1", "fc2", "fc3"]
    assert swapped(filter_fn=lambda module, name: name.endswith("1")) == ["conv1", "fc1"]
    model, _ = make("lenet")
    rows = {row.name: row.reason for row in fastnn.swap(model, include="conv*", exclude=["conv2"])}
    assert rows["fc1"] == "not in include" and rows["conv2"] == "excluded"


def test_reasons():
    class Mine(nn.Linear):
        def forward(self, x):
            return super().forward(x) + 1

    class Odd(nn.Module):
        def forward(self, x):
            return x

    model = nn.Sequential(Mine(2, 2), Odd(), nn.LSTM(2, 2), nn.LazyLinear(2), nn.Linear(2, 2))
    model[4].forward = lambda x: x
    reasons = [row.reason for row in fastnn.swap(model)]
    for text, reason in zip(
        ("its own forward", "no Odd", "no LSTM", "not initialized", "replaced"), reasons, strict=True
    ):
        assert text in reason
    with pytest.raises(ValueError, match="strict=True.*\n.*its own forward"):
        fastnn.swap(model, strict=True)
    fastnn.swap(model, include="nothing", strict=True)
    again = nn.Linear(2, 2)
    fastnn.swap(again)
    assert fastnn.swap(again).rows[0].reason == "already swapped"


def test_arguments():
    model = nn.ReLU()
    for error, kwargs in (
        (ValueError, {"mode": "eval"}),
        (ValueError, {"policy": "slower"}),
        (ValueError, {"policy": "faster"}),
        (TypeError, {"include": 3}),
        (TypeError, {"include": [3]}),
        (TypeError, {"filter_fn": "conv"}),
    ):
        with pytest.raises(error, match="swap"):
            fastnn.swap(model, **kwargs)
    with pytest.raises(TypeError, match="swap: model is a int"):
        fastnn.swap(3)


def test_swapped_undoes_also_after_an_error():
    model = nn.Sequential(nn.Linear(2, 2))
    with pytest.raises(ZeroDivisionError):
        with fastnn.swapped(model) as report:
            assert type(model[0]) is fnn.Linear and report.swapped
            raise ZeroDivisionError
    assert type(model[0]) is nn.Linear


# ---- measuring -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["training", "inference"])
@pytest.mark.parametrize("name", ["resnet", "bert"])
def test_measuring_leaves_no_trace(name, mode):
    model, inputs = make(name)
    model.train()
    gradients(model, inputs)
    fastnn.manual_seed(3)
    state = copy.deepcopy(model.state_dict())
    grads = [(p.grad, p.grad.clone()) for p in model.parameters()]
    random = torch.get_rng_state()
    report = fastnn.swap(model, inputs, mode=mode, policy="always")
    assert report.before_us > 0 and report.after_us > 0 and report.error < 1e-3
    assert all(row.before_us and row.after_us and row.error is not None for row in report.swapped)
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert all(p.grad is g and torch.equal(g, v) for p, (g, v) in zip(model.parameters(), grads, strict=True))
    assert torch.equal(torch.get_rng_state(), random) and all(m.training for m in model.modules())
    assert fastnn.random.next_philox() == (3, 0)
    if mode == "training":
        gradients(model, inputs)


def times(monkeypatch, ratio):
    """Replaces the clock: `ratio`() is how many times faster fastnn is. Nothing is fused."""
    monkeypatch.setattr(swap_module, "fold", lambda model, inference: ([], []))
    monkeypatch.setattr(swap_module, "compare_times", lambda a, b, seconds: (a() and 0 or 10.0, 10.0 / ratio()))


def test_faster_keeps_winners(monkeypatch):
    model, inputs = make("lenet")
    ratios = iter([2.0, 0.5, 1.01, 3.0, 4.0, 1.5])  # five layers, then the model
    times(monkeypatch, lambda: next(ratios))
    report = fastnn.swap(model, inputs)
    assert report.policy == "faster"
    assert [row.name for row in report.swapped] == ["conv1", "fc2", "fc3"]
    assert [row.reason for row in report.rows if not row.swapped] == ["slower", "gains less than 3 %"]
    assert [row.name for row in report.rows if row.swapped] == [n for n, m in model.named_modules() if m in ours(model)]
    assert report.before_us == 10.0 and report.after_us == 10.0 / 1.5


def test_faster_gives_up_what_the_model_does_not_gain_from(monkeypatch):
    model, inputs = make("lenet")
    ratios = iter([2.0] * 4 + [3.0] + [0.9] * 4 + [1.1])
    times(monkeypatch, lambda: next(ratios))
    report = fastnn.swap(model, inputs)
    assert [row.name for row in report.swapped] == ["fc3"]
    assert sum("whole model" in row.reason for row in report.rows) == 4
    ratios = iter([2.0] * 5 + [0.9] * 9)
    model, inputs = make("lenet")
    report = fastnn.swap(model, inputs)
    assert not report.swapped and not ours(model) and report.before_us == report.after_us


def test_differences_are_not_swapped(monkeypatch):
    model, inputs = make("lenet")
    real = fnn.Linear.forward
    monkeypatch.setattr(fnn.Linear, "forward", lambda self, x: real(self, x) + 0.1)
    report = fastnn.swap(model, inputs, policy="always")
    assert swapped_layers(report) == ["conv1", "conv2"]
    reasons = {row.name: row.reason for row in report}
    assert "differs from torch by" in reasons["fc3"]
    model, inputs = make("lenet")
    with pytest.raises(ValueError, match="strict=True.*differs"):
        fastnn.swap(model, inputs, policy="always", strict=True)
    assert not ours(model)
    assert len(swapped_layers(fastnn.swap(model, inputs, policy="always", atol=1.0))) == 5


def test_samples():
    model = Options()
    x, mask = torch.randn(2, 3), torch.ones(3)
    for sample in (x, (x, mask), {"x": x, "mask": mask, "flip": True}):
        with fastnn.swapped(model, sample, policy="always") as report:
            assert report.before_us
    unused = nn.ModuleDict({"a": nn.Linear(3, 3)})
    model.unused = unused
    (row,) = [row for row in fastnn.swap(model, x) if row.name == "unused.a"]
    assert row.reason == "not called on the sample"


def test_a_failing_sample_changes_nothing():
    model, _ = make("lenet")
    with pytest.raises(RuntimeError):
        fastnn.swap(model, torch.randn(1, 2, 3, 3))
    assert not ours(model) and not any(m._forward_pre_hooks for m in model.modules())


# ---- the report ------------------------------------------------------------------------------------------------------


def test_report_outputs(tmp_path):
    model, inputs = make("resnet")
    report = fastnn.swap(model.eval(), inputs, mode="inference", policy="always", exclude="fc")
    text = str(report)
    lines = text.splitlines()
    assert lines[0].split()[:3] == ["module", "from", "to"] and "whole model" in text
    assert any(line.startswith("conv1 ") and "fastnn.torch.nn.Conv2d" in line for line in lines)
    data = json.loads(report.to_json(tmp_path / "r.json"))
    assert json.loads((tmp_path / "r.json").read_text()) == data
    row = next(row for row in data["rows"] if row["name"] == "conv1")
    assert row["original"] == "torch.nn.Conv2d" and fastnn.get_isa() in row["kernel"] and row["before_us"] > 0
    page = report.to_html(tmp_path / "r.html")
    assert page.count('class="bar"') >= 2 * len(report.swapped) and "excluded" in page
    assert (tmp_path / "r.html").read_text() == page


def test_import_does_not_import_torch():
    import subprocess
    import sys

    code = "import sys, fastnn; assert 'torch' not in sys.modules; fastnn.swap; assert 'torch' in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
