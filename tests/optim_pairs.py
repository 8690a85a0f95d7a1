"""The same parameters and gradients here and in torch, for tests of optimizers and of what is done to gradients."""

import fastnn
import numpy as np
import torch

SHAPES = [(6, 1, 5, 5), (7,), (), (3, 0), (130, 257), (33,), (2, 3, 4, 5)]
TOLERANCE = {"float32": 2e-6, "float64": 1e-13}


def draw(shape, seed, dtype):
    return np.asarray(np.random.default_rng(seed).standard_normal(shape), dtype)


def pairs(dtype, layout="C"):
    """The same parameters as Tensors and in torch."""
    arrays = [draw(shape, i, dtype) for i, shape in enumerate(SHAPES)]
    ours = [fastnn.Parameter(a) for a in arrays]
    if layout == "channels_last":
        last = np.ascontiguousarray(arrays[-1].transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
        ours[-1] = fastnn.Parameter(last)
        assert not ours[-1].is_contiguous()
    elif layout == "strided":
        wide = np.zeros((14,), dtype)
        wide[::2] = arrays[1]
        ours[1] = fastnn.Parameter(fastnn.from_numpy(wide[::2]))
        assert ours[1].strides == (2,)
    return ours, [torch.from_numpy(a.copy()).requires_grad_() for a in arrays]


def set_grads(ours, theirs, step, dtype, skip=()):
    for i, (p, q) in enumerate(zip(ours, theirs, strict=True)):
        g = draw(p.shape, 100 * step + i + 7, dtype)
        p.grad = None if i in skip else fastnn.from_numpy(g)
        q.grad = None if i in skip else torch.from_numpy(g.copy())


def assert_same(ours, theirs, dtype, scale=1.0):
    for p, q in zip(ours, theirs, strict=True):
        tolerance = TOLERANCE[dtype] * scale
        np.testing.assert_allclose(p.detach().numpy(), q.detach().numpy(), rtol=tolerance, atol=tolerance)


def t(*shape, dtype=np.float32):
    return fastnn.from_numpy(np.ones(shape, dtype))
