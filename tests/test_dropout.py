"""dropout and the generators behind it."""

import threading

import fastnn
import ml_dtypes
import numpy as np
import pytest
from fastnn import _C, random
from fastnn import functional as F
from guarded import guarded, poison

ON_CUDA = True

DTYPES = [np.float32, ml_dtypes.bfloat16, np.float16, np.float64]
M32 = 2**32 - 1


def signed(value):
    return value - 2**64 if value >= 2**63 else value


def philox(counter, key):
    """The four words that the kernel makes of a counter of four words and a key of two."""
    low, high = counter[0] | counter[1] << 32, counter[2] | counter[3] << 32
    words = _C.philox_words(low // 16, signed(high), signed(key[0] | key[1] << 32)).numpy().view(np.uint32)
    return [int(words[16 * k + low % 16]) for k in range(4)]


def test_philox_known_answers(isa):
    """kat_vectors of Random123, philox4x32 with 10 rounds."""
    assert philox([0] * 4, [0] * 2) == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]
    assert philox([M32] * 4, [M32] * 2) == [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]
    counter = [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344]
    assert philox(counter, [0xA4093822, 0x299F31D0]) == [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1]


def expected_mask(n, p, seed, offset):
    """What dropout promises, from the words."""
    words = [_C.philox_words(g, offset, seed).numpy().view(np.uint32) for g in range((n + 63) // 64)]
    return (np.concatenate(words)[:n] >= np.uint32(p * 2**32)) if n else np.zeros(0, bool)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [0, 1, 7, 8, 9, 15, 16, 17, 31, 33, 63, 64, 65, 1000, 70_001])
def test_values_and_gradient(isa, rng, dtype, n):
    x, grad = (rng.standard_normal(n).astype(dtype) for _ in range(2))
    fastnn.manual_seed(77)
    seed, offset = random.next_philox()
    assert (seed, offset) == (77, 0)
    keep = expected_mask(n, 0.3, 77, 1)
    leaf = fastnn.tensor(x, requires_grad=True)
    y = F.dropout(leaf, 0.3)
    _C.backward(y, fastnn.tensor(grad))
    factor = np.where(keep, 1 / 0.7, 0.0)
    tolerance = {4: 2e-7, 8: 1e-15, 2: 1e-2 if dtype is ml_dtypes.bfloat16 else 1e-3}[np.dtype(dtype).itemsize]
    np.testing.assert_allclose(y.numpy().astype(np.float64), x.astype(np.float64) * factor, rtol=tolerance)
    np.testing.assert_allclose(leaf.grad.numpy().astype(np.float64), grad.astype(np.float64) * factor, rtol=tolerance)


@pytest.mark.parametrize("dtype", DTYPES)
def test_guarded_memory(isa, dtype):
    """Nothing is read beyond either end, and everything is written."""
    for n in (1, 7, 8, 15, 17, 33, 63, 64, 65, 127):
        for at in ("end", "start"):
            poison((n,), dtype=dtype)
            fastnn.manual_seed(n)
            y = F.dropout(guarded(np.ones(n, dtype), at), 0.3)
            np.testing.assert_array_equal(y != 0, expected_mask(n, 0.3, n, 0))


def test_same_mask_for_any_number_of_threads_and_any_isa():
    x = np.ones((37, 4999), np.float32)
    results = set()
    before = _C.get_isa()
    try:
        for isa in _C.available_isas():
            _C.set_isa(isa)
            for threads in (1, 2, 3, 8):
                _C.set_num_threads(threads)
                fastnn.manual_seed(5)
                results.add(F.dropout(x).tobytes())
    finally:
        _C.set_isa(before)
    assert len(results) == 1


@pytest.mark.parametrize("dtype", DTYPES)
def test_mask_does_not_depend_on_the_dtype(dtype):
    fastnn.manual_seed(9)
    expected = F.dropout(np.ones(1000, np.float32), 0.25) != 0
    fastnn.manual_seed(9)
    np.testing.assert_array_equal(F.dropout(np.ones(1000, dtype), 0.25) != 0, expected)


@pytest.mark.parametrize("p", [0.01, 0.1, 0.5, 0.9, 0.999])
def test_statistics(p):
    """Over 2^20 elements: the share dropped, and that neighbours (and lanes of a vector) are independent."""
    fastnn.manual_seed(2024)
    n = 1 << 20
    dropped = F.dropout(np.ones(n, np.float32), p) == 0
    sigma = np.sqrt(p * (1 - p))
    assert abs(dropped.mean() - p) < 5 * sigma / np.sqrt(n)
    centred = dropped - dropped.mean()
    for lag in (1, 2, 3, 4, 8, 16, 32, 48, 64, 128, 1024):
        correlation = (centred[lag:] * centred[:-lag]).mean() / sigma**2
        assert abs(correlation) < 5 / np.sqrt(n - lag), lag
    assert abs(F.dropout(np.ones(n, np.float32), p).mean() - 1) < 5 * sigma / (1 - p) / np.sqrt(n)


def test_calls_and_seeds_are_independent():
    x = np.ones(1 << 16, np.float32)
    fastnn.manual_seed(1)
    masks = [F.dropout(x) != 0 for _ in range(3)]
    for seed in (0, 2, -1, 2**63, 2**64 - 2):
        fastnn.manual_seed(seed)
        masks.append(F.dropout(x) != 0)
    for i, a in enumerate(masks):
        for b in masks[:i]:
            assert abs((a == b).mean() - 0.5) < 5 * 0.5 / np.sqrt(x.size)


def test_ends_of_p(isa):
    x = np.array([1.0, -2.0, np.nan, np.inf] * 20, np.float32)
    leaf = fastnn.tensor(x, requires_grad=True)
    assert F.dropout(leaf, 0.0) is leaf
    assert F.dropout(leaf, training=False) is leaf
    assert F.dropout(x, 0) is x
    y = F.dropout(leaf, 1.0)
    np.testing.assert_array_equal(y.numpy(), np.array([0.0, -0.0, np.nan, np.nan] * 20, np.float32))
    _C.backward(y, fastnn.tensor(np.ones_like(x)))
    np.testing.assert_array_equal(leaf.grad.numpy(), np.zeros_like(x))
    y = F.dropout(x, 0.5)
    assert np.isnan(y[2::4]).all()
    assert (np.isnan(y[3::4]) | np.isinf(y[3::4])).all()


def test_layouts(rng):
    base = rng.random((2, 5, 3, 4)).astype(np.float32) + 0.5
    views = [
        np.ascontiguousarray(base.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2),
        base.transpose(3, 1, 2, 0),
        base[:, ::2, ::-1],
        np.broadcast_to(base[:1], base.shape),
    ]
    for x in views:
        leaf = fastnn.from_numpy(x)
        leaf.requires_grad = True
        y = F.dropout(leaf, 0.4)
        mask = y.numpy() / x
        assert set(np.unique(mask.round(5))) == {0.0, np.float32(1 / 0.6).round(5)}
        # Gradients of any strides: row-major, other layouts, stride 0.
        leaf.grad = None
        _C.backward(y, fastnn.from_numpy(np.broadcast_to(np.float32(2), x.shape)))
        np.testing.assert_allclose(leaf.grad.numpy(), 2 * mask, rtol=1e-6)
    channels_last = fastnn.from_numpy(views[0])
    assert F.dropout(channels_last).numpy().strides == views[0].strides


def test_inplace(rng):
    x = rng.random(99).astype(np.float32)
    fastnn.manual_seed(8)
    expected = F.dropout(x)
    for make in (np.copy, fastnn.tensor):
        fastnn.manual_seed(8)
        target = make(x)
        assert F.dropout(target, inplace=True) is target
        np.testing.assert_array_equal(target if make is np.copy else target.numpy(), expected)
    leaf = fastnn.tensor(x, requires_grad=True)
    assert F.dropout(leaf, inplace=True) is not leaf
    np.testing.assert_array_equal(leaf.numpy(), x)
    assert F.dropout(x, training=False, inplace=True) is x


def test_errors():
    x = np.ones(4, np.float32)
    for p in (-0.1, 1.1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="dropout: p is"):
            F.dropout(x, p)
        with pytest.raises(ValueError, match="dropout: p is"):
            F.dropout(x, p, training=False)
    for p in ("a", None, x):
        with pytest.raises(TypeError, match="dropout: p is .*; expected a number"):
            F.dropout(x, p)
    with pytest.raises(NotImplementedError, match="dropout: input has dtype int64"):
        F.dropout(np.ones(4, np.int64))
    with pytest.raises(TypeError, match="manual_seed: seed is str"):
        fastnn.manual_seed("1")


def test_manual_seed_restarts_everything():
    fastnn.manual_seed(42)
    numbers, state, mask = random.generator().random(5), random.next_philox(), F.dropout(np.ones(99, np.float32))
    other = random.generator().random(5)
    fastnn.manual_seed(42)
    np.testing.assert_array_equal(random.generator().random(5), numbers)
    assert random.next_philox() == state == (42, 0)
    np.testing.assert_array_equal(F.dropout(np.ones(99, np.float32)), mask)
    assert not (numbers == other).any()
    fastnn.manual_seed(np.int64(42))
    assert random.next_philox() == (42, 0)
    fastnn.manual_seed(-1)
    assert random.next_philox() == (-1, 0)


def test_offsets_are_unique_across_threads():
    fastnn.manual_seed(3)
    offsets = []

    def draw():
        mine = [random.next_philox()[1] for _ in range(500)]
        offsets.extend(mine)

    threads = [threading.Thread(target=draw) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert sorted(offsets) == list(range(2000))
