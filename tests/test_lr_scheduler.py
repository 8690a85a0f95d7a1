"""Learning rate schedules against torch."""

import inspect
import pickle

import fastnn
import numpy as np
import pytest
from fastnn import optim

torch = pytest.importorskip("torch")
from optim_pairs import pairs  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_torch_thread")


SCHEDULES = [
    ("StepLR", dict(step_size=3)),
    ("StepLR", dict(step_size=1, gamma=0.9)),
    ("CosineAnnealingLR", dict(T_max=5)),
    ("CosineAnnealingLR", dict(T_max=1, eta_min=0.01)),
    ("CosineAnnealingLR", dict(T_max=7, eta_min=0.01)),
    ("LinearLR", {}),
    ("LinearLR", dict(start_factor=1.0, end_factor=0.1, total_iters=8)),
]


def schedule_pair(name, options, **kwargs):
    ours, theirs = pairs("float32")
    a = optim.SGD([{"params": ours[:2]}, {"params": ours[2:], "lr": 0.3}], lr=0.1, momentum=0.9)
    b = torch.optim.SGD([{"params": theirs[:2]}, {"params": theirs[2:], "lr": 0.3}], lr=0.1, momentum=0.9)
    return (
        a,
        b,
        getattr(optim.lr_scheduler, name)(a, **options),
        getattr(torch.optim.lr_scheduler, name)(b, **options),
    )


@pytest.mark.filterwarnings("ignore:Detected call")
@pytest.mark.parametrize("name, options", SCHEDULES, ids=str)
def test_schedule(name, options):
    a, b, mine, yours = schedule_pair(name, options)
    theirs = inspect.signature(getattr(torch.optim.lr_scheduler, name)).parameters
    ours = inspect.signature(getattr(optim.lr_scheduler, name)).parameters
    assert {n: p.default for n, p in ours.items()} == {n: p.default for n, p in theirs.items()}
    for _ in range(22):
        np.testing.assert_allclose([g["lr"] for g in a.param_groups], [g["lr"] for g in b.param_groups], rtol=1e-12)
        assert mine.get_last_lr() == [g["lr"] for g in a.param_groups]
        assert mine.last_epoch == yours.last_epoch
        mine.step()
        yours.step()


@pytest.mark.filterwarnings("ignore:Detected call")
def test_schedules_multiply():
    a, b, *_ = schedule_pair("LinearLR", dict(total_iters=4))
    mine = optim.lr_scheduler.StepLR(a, 3)
    yours = torch.optim.lr_scheduler.StepLR(b, 3)
    for _ in range(8):
        np.testing.assert_allclose([g["lr"] for g in a.param_groups], [g["lr"] for g in b.param_groups], rtol=1e-12)
        mine.step()
        yours.step()


@pytest.mark.filterwarnings("ignore:Detected call")
@pytest.mark.parametrize("source", ["ours", "torch"])
@pytest.mark.parametrize("name, options", SCHEDULES, ids=str)
def test_schedule_goes_on(name, options, source):
    a, b, mine, yours = schedule_pair(name, options)
    for _ in range(4):
        mine.step()
        yours.step()
    saved = (a.state_dict(), mine.state_dict()) if source == "ours" else (b.state_dict(), yours.state_dict())
    saved = pickle.loads(pickle.dumps(saved))
    a, _, mine, _ = schedule_pair(name, options)
    a.load_state_dict(saved[0])
    mine.load_state_dict(saved[1])
    for _ in range(9):
        np.testing.assert_allclose([g["lr"] for g in a.param_groups], [g["lr"] for g in b.param_groups], rtol=1e-12)
        mine.step()
        yours.step()


def test_schedule_errors():
    optimizer = optim.SGD([fastnn.Parameter(np.ones(3, np.float32))])
    with pytest.raises(TypeError, match="optimizer is a str"):
        optim.lr_scheduler.StepLR("x", 3)
    with pytest.raises(ValueError, match="step_size is 0"):
        optim.lr_scheduler.StepLR(optimizer, 0)
    with pytest.raises(ValueError, match="T_max is 0"):
        optim.lr_scheduler.CosineAnnealingLR(optimizer, 0)
    with pytest.raises(ValueError, match="start_factor is 0"):
        optim.lr_scheduler.LinearLR(optimizer, 0)
    with pytest.raises(KeyError, match="initial_lr"):
        optim.lr_scheduler.StepLR(optimizer, 3, last_epoch=4)
    with pytest.raises(ValueError, match="last_epoch missing|missing"):
        optim.lr_scheduler.StepLR(optimizer, 3).load_state_dict({"gamma": 0.1})
