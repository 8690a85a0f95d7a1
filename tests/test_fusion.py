"""Sequential with and without fused neighbours: same values, same gradients, hooks are honoured."""

import fastnn
import numpy as np
import pytest
from fastnn import GELU, Conv2d, Flatten, Linear, MaxPool2d, ReLU, Sequential, Tanh
from guarded import channels_last

MODELS = {
    "conv relu pool": lambda: Sequential(Conv2d(3, 6, 3), ReLU(), MaxPool2d(2)),
    "conv pool relu": lambda: Sequential(Conv2d(3, 17, 3, padding=1), MaxPool2d((2, 2)), ReLU()),
    "conv pool": lambda: Sequential(Conv2d(3, 6, 5, padding="same"), MaxPool2d(2)),
    "conv gelu": lambda: Sequential(Conv2d(3, 6, 3, stride=2), GELU("tanh")),
    "conv tanh pool": lambda: Sequential(Conv2d(3, 6, 3), Tanh(), MaxPool2d(2)),
    "overlapping pool": lambda: Sequential(Conv2d(3, 6, 3), ReLU(), MaxPool2d(3, 2)),
    "grouped": lambda: Sequential(Conv2d(3, 6, 3, groups=3, bias=False), ReLU(), MaxPool2d(2)),
    "linear": lambda: Sequential(Flatten(), Linear(3 * 11 * 13, 20), ReLU(), Linear(20, 7), GELU(), Linear(7, 2)),
}


def run(model, x, grad):
    model.zero_grad()
    x = fastnn.tensor(x, requires_grad=True)
    y = model(x)
    y.backward(fastnn.tensor(grad))
    return [y.numpy(), x.grad.numpy(), *(p.grad.numpy() for p in model.parameters())]


@pytest.mark.parametrize("layout", ["row major", "channels last"])
@pytest.mark.parametrize("name", MODELS)
def test_fused_neighbours_compute_the_same(isa, rng, name, layout):
    model = MODELS[name]()
    x = rng.standard_normal((4, 3, 11, 13)).astype("float32")
    x = channels_last(x) if layout == "channels last" else x
    with fastnn.no_grad():
        plain = fastnn.tensor(x)
        for module in model:  # one module at a time: nothing to fuse
            plain = module(plain)
        assert np.allclose(model(x), plain.numpy(), rtol=1e-5, atol=1e-6)
    grad = rng.standard_normal(plain.shape).astype("float32")
    fused = run(model, x, grad)
    hooks = [module.register_forward_hook(lambda *_: None) for module in model]
    unfused = run(model, x, grad)
    for got, wanted in zip(fused, unfused, strict=True):
        assert np.allclose(got, wanted, rtol=1e-5, atol=1e-5)
    for hook in hooks:
        hook.remove()


def test_a_hook_sees_its_module(rng):
    model = Sequential(Conv2d(3, 6, 3), ReLU(), MaxPool2d(2))
    seen = []
    model[1].register_forward_hook(lambda module, args, output: seen.append((args[0].numpy(), output.numpy())))
    model(fastnn.tensor(rng.standard_normal((1, 3, 8, 8)).astype("float32")))
    assert len(seen) == 1 and (seen[0][0] < 0).any() and (seen[0][1] >= 0).all()


def test_a_subclass_is_not_fused(rng):
    class Doubled(ReLU):
        def forward(self, input):
            return super().forward(input) * 2

    conv = Conv2d(3, 6, 3)
    x = fastnn.tensor(rng.standard_normal((1, 3, 8, 8)).astype("float32"))
    assert np.allclose(Sequential(conv, Doubled())(x).numpy(), 2 * Sequential(conv, ReLU())(x).numpy())


def test_maximum_of_a_window_with_nan_and_ties(isa):
    x = np.zeros((1, 1, 4, 4), "float32")
    x[0, 0, 0, 1] = np.nan
    conv = Conv2d(1, 1, 1, bias=False)
    conv.load_state_dict({"weight": np.ones((1, 1, 1, 1), "float32")})
    x = fastnn.tensor(x, requires_grad=True)
    y = Sequential(conv, MaxPool2d(2))(x)
    assert np.isnan(y.numpy()[0, 0, 0, 0]) and (y.numpy().ravel()[1:] == 0).all()
    y.backward(fastnn.tensor(np.ones((1, 1, 2, 2), "float32")))
    assert np.argwhere(x.grad.numpy()[0, 0]).tolist() == [[0, 1], [0, 2], [2, 0], [2, 2]]
