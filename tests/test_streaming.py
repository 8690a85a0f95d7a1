"""Outputs larger than the last-level cache are stored past it, with the bits of the same op on small parts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import fastnn
import fastnn.functional as F
import ml_dtypes
import numpy as np
import pytest

COLUMNS = 1024
PIECE = 256  # rows

Arrays = tuple[np.ndarray, ...]


def last_level_cache() -> int:
    path = Path("/sys/devices/system/cpu/cpu0/cache/index3/size")
    return int(path.read_text().strip().rstrip("K")) << 10 if path.exists() else 32 << 20


def gradient(f: Callable[[fastnn.Tensor], fastnn.Tensor]) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    def run(x: np.ndarray, dy: np.ndarray) -> np.ndarray:
        t = fastnn.tensor(x, requires_grad=True)
        f(t).backward(fastnn.tensor(dy))
        assert t.grad is not None
        return t.grad.numpy()

    return run


def images(x: np.ndarray) -> np.ndarray:
    return x.reshape(-1, 4, 16, 16)


def batch_norm(x: np.ndarray) -> np.ndarray:
    mean, var = (np.arange(1, 5, dtype=x.dtype) * np.asarray(s, x.dtype) for s in (0.1, 0.5))
    return F.batch_norm(images(x), mean, var).reshape(x.shape)


OPS: dict[str, Callable[..., np.ndarray]] = {
    "relu": lambda x, y: F.relu(x),
    "relu_backward": gradient(F.relu),
    "add": lambda x, y: (fastnn.tensor(x) + fastnn.tensor(y)).numpy(),
    "mul": lambda x, y: (fastnn.tensor(x) * 1.5).numpy(),
    "softmax": lambda x, y: F.softmax(x, -1),
    "log_softmax": lambda x, y: F.log_softmax(x, -1),
    "softmax_backward": gradient(lambda t: F.softmax(t, -1)),
    "layer_norm": lambda x, y: F.layer_norm(x, (COLUMNS,)),
    "layer_norm_backward": gradient(lambda t: F.layer_norm(t, (COLUMNS,))),
    "batch_norm": lambda x, y: batch_norm(x),
    "group_norm": lambda x, y: F.group_norm(images(x), 2).reshape(x.shape),
    "group_norm_backward": gradient(lambda t: F.group_norm(t.reshape(-1, 4, 16, 16), 2).reshape(*t.shape)),
}


@pytest.fixture(scope="module", params=[np.float32, ml_dtypes.bfloat16])
def operands(request: pytest.FixtureRequest) -> Arrays:
    rows = (last_level_cache() + (1 << 20)) // (COLUMNS * np.dtype(request.param).itemsize) // PIECE * PIECE
    if rows * COLUMNS > 1 << 27:
        pytest.skip("a last-level cache of this size takes too long to exceed")
    rng = np.random.default_rng(0)
    part = rng.standard_normal((2, PIECE, COLUMNS)).astype(np.float32)
    return tuple(np.tile(p, (rows // PIECE, 1)).astype(request.param) for p in part)


@pytest.mark.parametrize("name", OPS)
def test_bits_of_large_outputs(isa: None, operands: Arrays, name: str) -> None:
    f = OPS[name]
    got = f(*operands)
    assert got.nbytes > last_level_cache()
    expected = f(*(a[:PIECE] for a in operands))
    parts = got.view(np.uint8).reshape(-1, expected.nbytes)
    np.testing.assert_array_equal(parts, np.broadcast_to(expected.view(np.uint8).reshape(1, -1), parts.shape))


def test_dropout_of_large_inputs(isa: None, operands: Arrays) -> None:
    x = operands[0]
    fastnn.manual_seed(3)
    got = F.dropout(x, 0.25)
    fastnn.manual_seed(3)
    expected = F.dropout(x[:PIECE], 0.25)  # the mask depends on the position alone
    np.testing.assert_array_equal(got[:PIECE], expected)
    kept = got != 0
    scaled = (x.astype(np.float32) * np.float32(1 / 0.75)).astype(x.dtype)
    np.testing.assert_array_equal(got, np.where(kept, scaled, np.zeros((), x.dtype)))
    assert abs(kept.mean() - 0.75) < 1e-3
