"""The optimizer steps of the float64 reference against torch.optim in float64."""

import inspect

import numpy as np
import pytest
from fastnn import reference as R

torch = pytest.importorskip("torch")


def randn(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape)


OPTIMIZERS = {
    "sgd": torch.optim.SGD,
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "rmsprop": torch.optim.RMSprop,
    "adagrad": torch.optim.Adagrad,
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizer_parameters_are_those_of_torch(name):
    theirs = inspect.signature(OPTIMIZERS[name])
    ours = list(inspect.signature(getattr(R, name)).parameters.values())[3:]
    assert [p.name for p in ours] == [n for n in theirs.parameters if n in {p.name for p in ours}]
    for p in ours:
        assert p.default == theirs.parameters[p.name].default


def check_optimizer(step, optimizer_class, **kwargs):
    param = randn(3, 4)
    theirs = torch.from_numpy(param.copy()).requires_grad_()
    optimizer = optimizer_class([theirs], **kwargs)
    state = {}
    for i in range(5):
        grad = randn(3, 4, seed=10 + i)
        grad[0, 0] = 0.0
        theirs.grad = torch.from_numpy(grad.copy())
        optimizer.step()
        before = param.copy(), grad.copy(), {key: np.copy(value) for key, value in state.items()}
        new_param, new_state = step(param, grad, state, **kwargs)
        np.testing.assert_array_equal(param, before[0])
        np.testing.assert_array_equal(grad, before[1])
        for key, value in state.items():
            np.testing.assert_array_equal(value, before[2][key])
        param, state = new_param, new_state
        np.testing.assert_allclose(param, theirs.detach().numpy(), rtol=1e-12, atol=1e-13)
        expected = {key: value for key, value in optimizer.state[theirs].items() if value is not None}
        assert state.keys() == expected.keys()
        for key, value in expected.items():
            np.testing.assert_allclose(state[key], value.numpy(), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("maximize", [False, True])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize(
    "kwargs",
    [{}, dict(momentum=0.9), dict(momentum=0.9, dampening=0.3), dict(momentum=0.9, nesterov=True), dict(dampening=0.3)],
    ids=str,
)
def test_sgd(kwargs, weight_decay, maximize):
    check_optimizer(R.sgd, torch.optim.SGD, lr=0.05, weight_decay=weight_decay, maximize=maximize, **kwargs)


@pytest.mark.parametrize("name", ["adam", "adamw"])
@pytest.mark.parametrize("amsgrad", [False, True])
@pytest.mark.parametrize("maximize", [False, True])
@pytest.mark.parametrize("kwargs", [{}, dict(lr=0.05, betas=(0.8, 0.95), eps=1e-3), dict(weight_decay=0.1)], ids=str)
def test_adam(name, kwargs, amsgrad, maximize):
    optimizer_class = torch.optim.Adam if name == "adam" else torch.optim.AdamW
    check_optimizer(getattr(R, name), optimizer_class, amsgrad=amsgrad, maximize=maximize, **kwargs)


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("maximize", [False, True])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("centered", [False, True])
@pytest.mark.parametrize("kwargs", [{}, dict(lr=0.05, alpha=0.8, eps=1e-3)], ids=str)
def test_rmsprop(kwargs, centered, momentum, maximize, weight_decay):
    kwargs = dict(kwargs, centered=centered, momentum=momentum, maximize=maximize, weight_decay=weight_decay)
    check_optimizer(R.rmsprop, torch.optim.RMSprop, **kwargs)


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("maximize", [False, True])
@pytest.mark.parametrize("kwargs", [{}, dict(lr_decay=0.1), dict(initial_accumulator_value=0.5, eps=1e-3)], ids=str)
def test_adagrad(kwargs, maximize, weight_decay):
    check_optimizer(R.adagrad, torch.optim.Adagrad, maximize=maximize, weight_decay=weight_decay, **kwargs)


@pytest.mark.parametrize("kwargs", [dict(nesterov=True), dict(nesterov=True, momentum=0.9, dampening=0.1)], ids=str)
def test_sgd_nesterov_errors(kwargs):
    with pytest.raises(ValueError, match="nesterov"):
        R.sgd(randn(3), randn(3), {}, **kwargs)
