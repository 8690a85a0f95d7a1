"""fastnn.torch.optim against torch.optim: values, state_dict, groups, closures, and what torch's own step does."""

import copy
import warnings

import pytest

torch = pytest.importorskip("torch")
from fastnn.torch import optim  # noqa: E402

pytestmark = pytest.mark.filterwarnings("error:.*torch's own step runs")

SHAPES = [(7,), (3, 5), (4, 3, 3, 3), (), (0, 4), (129,)]

CASES = {
    "sgd": ("SGD", {"lr": 0.1}),
    "sgd-momentum": ("SGD", {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01}),
    "sgd-dampening": ("SGD", {"lr": 0.1, "momentum": 0.9, "dampening": 0.3, "maximize": True}),
    "sgd-nesterov": ("SGD", {"lr": 0.1, "momentum": 0.9, "nesterov": True}),
    "adam": ("Adam", {"lr": 0.01, "weight_decay": 0.1}),
    "adam-amsgrad": ("Adam", {"lr": 0.01, "amsgrad": True, "betas": (0.8, 0.9), "eps": 1e-6}),
    "adamw": ("AdamW", {"lr": 0.01}),
    "adamw-maximize": ("AdamW", {"lr": 0.01, "maximize": True, "weight_decay": 0.3}),
}


def pair(dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    values = [torch.randn(shape, generator=generator).to(dtype) for shape in SHAPES]
    values[2] = values[2].contiguous(memory_format=torch.channels_last)
    return tuple([torch.nn.Parameter(v.clone()) for v in values] for _ in range(2))


def set_grads(params, seed):
    generator = torch.Generator().manual_seed(seed)
    for p in params:
        p.grad = torch.randn(p.shape, generator=generator).to(p.dtype)


def assert_same(ours, theirs, tolerance=1e-6):
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a.detach(), b.detach(), rtol=tolerance, atol=tolerance)


def assert_same_state(ours, theirs):
    a, b = ours.state_dict(), theirs.state_dict()
    assert a["param_groups"] == b["param_groups"]
    assert a["state"].keys() == b["state"].keys()
    for key, state in a["state"].items():
        assert list(state) == list(b["state"][key])
        for name, value in state.items():
            torch.testing.assert_close(value, b["state"][key][name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("case", CASES)
def test_steps(case, dtype):
    name, options = CASES[case]
    mine, reference = pair(dtype)
    ours, theirs = getattr(optim, name)(mine, **options), getattr(torch.optim, name)(reference, **options)
    for step in range(4):
        for params in (mine, reference):
            set_grads(params, step)
            if step == 1:
                params[1].grad = None
            params[2].grad = params[2].grad.transpose(2, 3)  # any layout
        ours.step()
        theirs.step()
    assert_same(mine, reference)
    assert_same_state(ours, theirs)
    assert isinstance(ours, getattr(torch.optim, name))


@pytest.mark.parametrize("case", ["sgd-momentum", "adam-amsgrad", "adamw"])
def test_state_dict_goes_both_ways(case):
    name, options = CASES[case]
    mine, reference = pair()
    ours, theirs = getattr(optim, name)(mine, **options), getattr(torch.optim, name)(reference, **options)
    for optimizer, params in ((ours, mine), (theirs, reference)):
        set_grads(params, 0)
        optimizer.step()
    swapped = (getattr(torch.optim, name)(mine, **options), getattr(optim, name)(reference, **options))
    swapped[0].load_state_dict(copy.deepcopy(ours.state_dict()))
    swapped[1].load_state_dict(copy.deepcopy(theirs.state_dict()))
    for optimizer, params in zip(swapped, (mine, reference), strict=True):
        set_grads(params, 1)
        optimizer.step()
    assert_same(mine, reference)


def test_groups_and_schedule():
    def run(module):
        mine, _ = pair()
        optimizer = module.AdamW([{"params": mine[:2], "lr": 0.1}, {"params": mine[2:], "weight_decay": 0.0}], lr=0.01)
        schedule = torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.5)
        for step in range(5):
            set_grads(mine, step)
            optimizer.step()
            schedule.step()
        optimizer.zero_grad()
        assert all(p.grad is None for p in mine)
        return mine

    assert_same(run(optim), run(torch.optim))


def test_closure_and_hooks():
    p = torch.nn.Parameter(torch.ones(3))
    optimizer = optim.SGD([p], lr=0.5)
    calls = []
    optimizer.register_step_pre_hook(lambda *_: calls.append("before"))
    optimizer.register_step_post_hook(lambda *_: calls.append("after"))

    def closure():
        optimizer.zero_grad()
        loss = p.square().sum()
        loss.backward()
        return loss

    with torch.no_grad():
        assert optimizer.step(closure).item() == 3.0
    assert p.tolist() == [0.0, 0.0, 0.0]
    assert calls == ["before", "after"]


def test_version_tells_autograd():
    p = torch.nn.Parameter(torch.ones(3))
    loss = p.square().sum()
    loss.backward(retain_graph=True)
    optim.SGD([p], lr=0.1).step()
    with pytest.raises(RuntimeError, match="inplace operation"):
        loss.backward()


@pytest.mark.parametrize(
    "change, reason",
    [
        (lambda p, o: setattr(p[0], "grad", torch.randn(7).to_sparse()), "strided"),
        (lambda p, o: o.param_groups[0].update(lr=torch.tensor(0.1)), "lr is a tensor"),
    ],
)
def test_torchs_own_step(change, reason):
    mine, reference = pair()
    ours, theirs = optim.SGD(mine, lr=0.1), torch.optim.SGD(reference, lr=0.1)
    for params, optimizer in ((mine, ours), (reference, theirs)):
        set_grads(params, 0)
        torch.manual_seed(0)
        change(params, optimizer)
    theirs.step()
    with pytest.warns(UserWarning, match=f"torch's own step runs.*{reason}"):
        ours.step()
    assert_same(mine, reference)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ours.step()  # it says so once


@pytest.mark.parametrize("case", ["sgd-momentum", "adam"])
def test_bfloat16_runs_torchs_step(case):
    name, options = CASES[case]
    mine, reference = pair(torch.bfloat16)
    ours, theirs = getattr(optim, name)(mine, **options), getattr(torch.optim, name)(reference, **options)
    for step in range(3):
        for params in (mine, reference):
            set_grads(params, step)
        theirs.step()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ours.step()
    assert all(torch.equal(a, b) for a, b in zip(mine, reference, strict=True))
    assert_same_state(ours, theirs)


def test_other_names_are_torchs():
    assert optim.RMSprop is torch.optim.RMSprop
