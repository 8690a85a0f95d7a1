"""Folding and fusing: the traced graph of a swapped model does what its forward() does."""

import copy

import fastnn
import pytest

torch = pytest.importorskip("torch")
from fastnn.torch import functional  # noqa: E402
from torch import nn  # noqa: E402
from torch_models import MODELS, Options, close, gradients, make, ours, quick_swaps  # noqa: E402


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    with quick_swaps(monkeypatch):
        yield


@pytest.mark.parametrize("name", MODELS)
def test_inference_is_the_same(name):
    model, inputs = make(name)
    model.eval()
    with torch.no_grad():
        expected = model(inputs)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    before = {m: set(vars(m)) for m in model.modules()}
    report = fastnn.swap(model, mode="inference")
    assert any("(folded)" in row.replacement for row in report.swapped)
    with torch.no_grad():
        for _ in range(3):
            close(model(inputs), expected, 1e-4)
        close(model(inputs[:1]), expected[:1], 1e-4)
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    report.undo()
    assert {m: set(vars(m)) for m in model.modules()} == before
    assert not ours(model)
    with torch.no_grad():
        assert torch.equal(model(inputs), expected)


# ---- inference mode --------------------------------------------------------------------------------------------------


def folded_resnet(**kwargs):
    model, inputs = make("resnet")
    model.eval()
    original = copy.deepcopy(model)
    report = fastnn.swap(model, mode="inference", **kwargs)
    return model, original, inputs, report


def test_folding_takes_everything():
    model, _, inputs, report = folded_resnet()
    groups = [row.name for row in report.rows if "(folded)" in (row.replacement or "")]
    assert groups == [
        "conv1 + bn1 + relu",
        "layers.0.conv1 + layers.0.bn1 + layers.0.relu",
        "layers.0.conv2 + layers.0.bn2 + layers.0: add + layers.0.relu",
        "layers.1.downsample.0 + layers.1.downsample.1 + layers.1: add + layers.1.relu",
        "layers.1.conv1 + layers.1.bn1 + layers.1.relu",
        "layers.1.conv2 + layers.1.bn2",
    ]


@torch.no_grad()
def test_folded_weights_follow_the_parameters():
    model, original, inputs, report = folded_resnet()
    model(inputs)
    for change in (
        lambda m: m.bn1.weight.mul_(2),
        lambda m: m.layers[0].bn2.running_var.add_(1),
        lambda m: m.conv1.weight.neg_(),
        lambda m: m.load_state_dict({k: v + 0.01 for k, v in m.state_dict().items()}),
        lambda m: setattr(m.fc, "weight", nn.Parameter(m.fc.weight * 3)),
        lambda m: setattr(m, "fc", nn.Linear(16, 2)),
        lambda m: m.double(),
    ):
        for m in (model, original):
            torch.manual_seed(0)
            change(m)
        inputs = inputs.to(next(model.parameters()).dtype)
        close(model(inputs), original(inputs), 1e-4)
    model.conv1.weight.data.mul_(0.5)  # not seen
    original.conv1.weight.data.mul_(0.5)
    report.refresh()
    close(model(inputs), original(inputs), 1e-4)


def test_training_and_gradients_of_a_folded_model():
    model, original, inputs, _ = folded_resnet()
    for training in (True, False):
        model.train(training)
        original.train(training)
        a, b = gradients(model, inputs), gradients(original, inputs)
        close(a[0], b[0])
        for key in a[1]:
            close(a[1][key], b[1][key], 1e-4)
    with torch.no_grad():
        model.layers[0].bn1.train()  # one part in training mode: its statistics go on
        before = model.layers[0].bn1.running_mean.clone()
        model(inputs)
        assert not torch.equal(model.layers[0].bn1.running_mean, before)


@torch.no_grad()
def test_hooks_of_a_folded_model():
    model, original, inputs, _ = folded_resnet()
    expected = model(inputs)
    seen = []
    handle = model.layers[0].bn1.register_forward_hook(lambda m, a, out: seen.append(out.shape))
    close(model(inputs), expected)
    assert len(seen) == 1
    handle.remove()
    model(inputs)
    assert len(seen) == 1


@torch.no_grad()
def test_autocast_of_a_folded_model():
    model, original, inputs, _ = folded_resnet()
    with torch.autocast("cpu", torch.bfloat16):
        a, b = model(inputs), original(inputs)
    assert a.dtype == b.dtype
    close(a.float(), b.float(), 5e-2)


class Branching(nn.Module):
    """Cannot be traced: looks at a value."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2))
        self.tail = nn.Sequential(nn.Linear(4, 4), nn.GELU())

    def forward(self, x):
        x = self.body(x)
        if x.sum() > 1e9:
            x = -x
        return self.tail(x.mean((2, 3)))


@torch.no_grad()
def test_folding_module_by_module():
    model, x = Branching().eval(), torch.randn(2, 3, 8, 8)
    expected = model(x)
    report = fastnn.swap(model, mode="inference")
    assert any("Branching" in note and "module by module" in note for note in report.notes), report.notes
    names = [row.name for row in report.rows if "(folded)" in (row.replacement or "")]
    assert names == ["body.0 + body.1 + body.2 + body.3", "tail.0 + tail.1"]
    for _ in range(2):
        close(model(x), expected)


class Stateful(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 3)
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return torch.relu(self.fc(x)) + torch.rand(3)


@torch.no_grad()
def test_side_effects_are_not_traced_away():
    model = Stateful().eval()
    report = fastnn.swap(model, mode="inference")
    assert model.calls == 0 and any("changes attributes" in note for note in report.notes)
    assert not torch.equal(model(torch.ones(1, 3)), model(torch.ones(1, 3))) and model.calls == 2


@torch.no_grad()
def test_optional_arguments_of_a_folded_model():
    model = Options().eval()
    original = copy.deepcopy(model)
    fastnn.swap(model, mode="inference")
    x, mask = torch.randn(2, 3), torch.tensor([1.0, 0.0, 1.0])
    for args, kwargs in (
        ((x,), {}),
        ((x, mask), {}),
        ((x,), {"mask": mask, "scale": 2.0}),
        ((x, None, 3.0, True), {}),
        ((x,), {"flip": True}),
    ):
        for _ in range(2):
            close(model(*args, **kwargs), original(*args, **kwargs))


class InplaceOnInput(nn.Module):
    """Changes its input, which it uses again: relu's result, twice."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 2, 1)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        y = self.conv(x)
        z = self.relu(y)
        return z + y + self.relu(x)


def test_changes_in_place_stay():
    model, x = InplaceOnInput().eval(), torch.randn(1, 2, 3, 3)
    theirs, mine = x.clone(), x.clone()
    with torch.no_grad():
        expected = model(theirs)
        for mode in ("training", "inference"):
            with fastnn.swapped(model, mode=mode):
                for _ in range(2):
                    mine.copy_(x)
                    close(model(mine), expected)
                    assert torch.equal(mine, theirs)


# ---- functions in forward() ------------------------------------------------------------------------------------------


def test_functions_are_fused_in_training():
    model, inputs = make("lenet")
    report = fastnn.swap(model)
    assert [row.name for row in report.rows if "(fused)" in (row.replacement or "")] == [
        "conv1 + (model): relu + (model): max_pool2d",
        "conv2 + (model): relu + (model): max_pool2d",
        "fc1 + (model): relu",
        "fc2 + (model): relu",
    ]
    functional.fallbacks.clear()
    names = set()
    stack = [model(inputs).grad_fn]
    while stack:
        node = stack.pop()
        names.add(node.name())
        stack += [n for n, _ in node.next_functions if n is not None]
    assert not names & {"ReluBackward0", "MaxPool2DWithIndicesBackward0", "ConvolutionBackward0"}, names
    assert not functional.fallbacks


def test_checkpointed_functions():
    from torch.utils.checkpoint import checkpoint

    model, inputs = make("lenet")
    original = copy.deepcopy(model)
    fastnn.swap(model)
    for _ in range(2):
        model.zero_grad()
        checkpoint(model, inputs, use_reentrant=False).square().mean().backward()
    for a, b in zip(model.parameters(), gradients(original, inputs)[1].values(), strict=True):
        close(a.grad, b, 1e-4)


def test_global_hooks_see_every_module():
    model, inputs = make("lenet")
    fastnn.swap(model)
    model(inputs)
    seen = []
    handle = nn.modules.module.register_module_forward_hook(lambda m, a, out: seen.append(m))
    try:
        model(inputs)
    finally:
        handle.remove()
    assert model.conv1 in seen


class Keeps(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc, self.seen = nn.Linear(3, 3), []

    def forward(self, x):
        y = torch.relu(self.fc(x))
        self.seen.append(y)
        return y


class LooksAtType(nn.Module):
    """Takes another way for what is no tensor, such as what stands for one in a trace."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 3)

    def forward(self, x):
        y = torch.relu(self.fc(x))
        return y if isinstance(x, torch.Tensor) else y + 1


def test_what_a_trace_would_get_wrong():
    model = Keeps()
    fastnn.swap(model)
    assert not model.seen
    model(torch.ones(1, 3))
    model(torch.ones(1, 3))
    assert len(model.seen) == 2 and all(isinstance(y, torch.Tensor) for y in model.seen)

    model, x = LooksAtType(), torch.randn(2, 3)
    expected = model(x)
    fastnn.swap(model)
    with pytest.warns(UserWarning, match="LooksAtType is not folded: the traced graph gives other results"):
        close(model(x), expected)
    close(model(x), expected)


def test_modes_of_a_fused_model():
    model, inputs = make("resnet")
    original = copy.deepcopy(model)
    fastnn.swap(model)
    for training in (True, False, True):
        model.train(training)
        original.train(training)
        close(model(inputs), original(inputs))
        close(model.bn1.running_mean, original.bn1.running_mean)
        assert model.bn1.num_batches_tracked == original.bn1.num_batches_tracked
