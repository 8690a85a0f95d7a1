"""Optimizer steps in Triton beside torch.optim in float64."""

import pytest
from triton_support import DEVICE, DTYPES, close, pytestmark, randn, torch  # noqa: F401

# isort: split
from fastnn.kernels import optimizer as kernels

SHAPES = [(3,), (0,), (8195,), (2, 5, 3, 3), (64, 16)]
LR = 0.01


def values(seed, dtype):
    out = [randn(*shape, dtype=dtype, seed=seed) for shape in SHAPES]
    out[3] = out[3].to(memory_format=torch.channels_last)
    return out


def run(make, step, dtype=torch.float32, states=2, steps=3):
    """Both optimizers on the same gradients; the parameters must agree after each step."""
    params = values(0, dtype)
    leaves = [p.cpu().double().requires_grad_() for p in params]
    peer = make(leaves)
    buffers = [[torch.zeros_like(p, dtype=torch.float32) for p in params] for _ in range(states)]
    for t in range(1, steps + 1):
        grads = values(t, dtype)
        grads[3] = grads[3].contiguous()  # other strides than the parameter's
        for leaf, g in zip(leaves, grads, strict=True):
            leaf.grad = g.cpu().double()
        peer.step()
        step(params, grads, buffers, t)
        for p, leaf in zip(params, leaves, strict=True):
            close(p, leaf.detach(), 2e-6 if dtype == torch.float32 else t * 2e-3)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("momentum", "dampening", "nesterov", "decay", "maximize"),
    [(0, 0, False, 0, False), (0.9, 0.2, False, 0.1, True), (0.9, 0, True, 0.1, False)],
)
def test_sgd(momentum, dampening, nesterov, decay, maximize, dtype):
    options = dict(momentum=momentum, dampening=dampening, nesterov=nesterov, weight_decay=decay, maximize=maximize)

    def step(params, grads, buffers, t):
        kernels.sgd_step(params, grads, buffers[0] if momentum else [], LR, **options, first=t == 1)

    run(lambda p: torch.optim.SGD(p, LR, **options), step, dtype, 1)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("decoupled", [False, True])
@pytest.mark.parametrize("amsgrad", [False, True])
def test_adam(amsgrad, decoupled, dtype):
    make = torch.optim.AdamW if decoupled else torch.optim.Adam

    def step(params, grads, buffers, t):
        m, v, u = buffers
        kernels.adam_step(params, grads, m, v, u if amsgrad else [], t, LR, 0.9, 0.99, 1e-6, 0.1, decoupled, amsgrad)

    run(
        lambda p: make(p, LR, (0.9, 0.99), 1e-6, 0.1, amsgrad=amsgrad, maximize=amsgrad, foreach=False), step, dtype, 3
    )  # fmt: skip


@pytest.mark.parametrize("centered", [False, True])
@pytest.mark.parametrize("momentum", [0, 0.9])
def test_rmsprop(momentum, centered):
    def step(params, grads, buffers, t):
        v, m, b = buffers
        kernels.rmsprop_step(
            params, grads, v, m if centered else [], b if momentum else [], LR, 0.95, 1e-3, 0.1, momentum
        )

    run(lambda p: torch.optim.RMSprop(p, LR, 0.95, 1e-3, 0.1, momentum, centered), step, states=3)


def test_adagrad():
    def step(params, grads, buffers, t):
        kernels.adagrad_step(params, grads, buffers[0], t, LR, 0.3, 0.1, 1e-6)

    run(lambda p: torch.optim.Adagrad(p, LR, 0.3, 0.1, 0, 1e-6), step, states=1)


class Lion(torch.optim.Optimizer):
    """Chen et al. 2023, algorithm 2; torch has none."""

    def __init__(self, params):
        super().__init__(params, {})

    def step(self):
        for p in self.param_groups[0]["params"]:
            m = self.state[p].setdefault("m", torch.zeros_like(p))
            c = 0.9 * m + 0.1 * p.grad
            p.data.mul_(1 - LR * 0.1).sub_(LR * c.sign())
            m.mul_(0.99).add_(0.01 * p.grad)


def test_lion():
    def step(params, grads, buffers, t):
        kernels.lion_step(params, grads, buffers[0], LR, weight_decay=0.1)

    run(Lion, step, states=1)


def test_unaligned_parameters_and_infinity():
    flat, grad = randn(41), randn(41, seed=1)
    p, g = flat[1:], grad[1:]
    p[3] = float("inf")
    expected = p.clone() - LR * g
    kernels.sgd_step([p], [g], [], LR)
    assert torch.allclose(p, expected) and p[3].isinf()
    m = torch.zeros_like(p)
    g[0] = float("nan")
    kernels.lion_step([p], [g], [m], LR)
    assert p[0].isnan()


def test_mixed_dtypes_in_one_call():
    params, grads = [randn(5), randn(5, dtype=torch.float16)], [randn(5, seed=1), randn(5, dtype=torch.float16, seed=1)]
    expected = [p.cpu().double() - LR * g.cpu().double() for p, g in zip(params, grads, strict=True)]
    kernels.sgd_step(params, grads, [], LR)
    close(params[0], expected[0], 1e-6)
    close(params[1], expected[1], 2e-3)


def test_errors():
    p, g = [randn(3)], [randn(3)]
    with pytest.raises(ValueError, match="sgd_step: grads has 2 tensors"):
        kernels.sgd_step(p, g * 2, [], LR)
    with pytest.raises(ValueError, match=r"adagrad_step: sums\[0\] is torch.float16"):
        kernels.adagrad_step(p, g, [torch.zeros(3, dtype=torch.float16, device=DEVICE)], 1, LR)
    with pytest.raises(NotImplementedError, match=r"sgd_step: params\[0\] has strides"):
        kernels.sgd_step([randn(6)[::2]], [randn(3)], [], LR)
