"""DataLoader and the transforms."""

import itertools

import fastnn
import numpy as np
import pytest
from fastnn.data import DataLoader
from fastnn.transforms import normalize, random_crop, random_flip


def samples(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Images whose pixels all hold the sample's number, and labels that do."""
    labels = np.arange(count)
    return np.tile(labels.astype(np.float32)[:, None, None], (1, 2, 3)), labels


def epoch(loader: DataLoader) -> list[int]:
    return [int(label) for _, labels in loader for label in labels]


@pytest.mark.parametrize(
    ("count", "batch_size", "drop_last", "sizes"),
    [
        (10, 4, False, [4, 4, 2]),
        (10, 4, True, [4, 4]),
        (8, 4, False, [4, 4]),
        (8, 4, True, [4, 4]),
        (3, 5, False, [3]),
        (3, 5, True, []),
        (2, 1, False, [1, 1]),
        (0, 4, False, []),
        (0, 4, True, []),
    ],
)
@pytest.mark.parametrize("shuffle", [False, True])
def test_batch_sizes(count, batch_size, drop_last, sizes, shuffle):
    loader = DataLoader(*samples(count), batch_size=batch_size, drop_last=drop_last, shuffle=shuffle)
    assert len(loader) == len(sizes)
    batches = list(loader)
    assert [len(labels) for _, labels in batches] == sizes
    for images, labels in batches:
        np.testing.assert_array_equal(images, np.tile(labels[:, None, None], (1, 2, 3)))  # pairs stay together


def test_in_order_without_shuffle():
    loader = DataLoader(*samples(7), batch_size=3)
    assert epoch(loader) == epoch(loader) == list(range(7))


def test_shuffle_visits_each_sample_once_in_a_new_order_each_epoch():
    loader = DataLoader(*samples(100), batch_size=7, shuffle=True, seed=0)
    epochs = [epoch(loader) for _ in range(3)]
    assert all(sorted(order) == list(range(100)) for order in epochs)
    assert epochs[0] != epochs[1] != epochs[2] and epochs[0] != list(range(100))


def test_seed_fixes_the_orders_of_all_epochs():
    first, second, other = (DataLoader(*samples(50), batch_size=8, shuffle=True, seed=seed) for seed in (3, 3, 4))
    orders = [epoch(first), epoch(first)]
    assert orders == [epoch(second), epoch(second)]
    assert orders[0] != epoch(other)


def test_seed_is_independent_of_manual_seed():
    fastnn.manual_seed(0)
    first = epoch(DataLoader(*samples(50), shuffle=True, seed=3))
    fastnn.manual_seed(1)
    assert first == epoch(DataLoader(*samples(50), shuffle=True, seed=3))


def test_manual_seed_without_seed():
    loader = DataLoader(*samples(50), shuffle=True)
    fastnn.manual_seed(5)
    first = epoch(loader), epoch(loader)
    fastnn.manual_seed(5)
    assert first == (epoch(loader), epoch(loader))
    assert first[0] != first[1]


def test_interleaved_iterators_have_their_own_orders():
    one, two = (DataLoader(*samples(20), batch_size=5, shuffle=True, seed=1) for _ in range(2))
    expected = [epoch(one), epoch(one)]
    first, second = iter(two), iter(two)
    late = [int(label) for _, labels in second for label in labels]
    early = [int(label) for _, labels in first for label in labels]
    assert [early, late] == expected


@pytest.mark.parametrize("shuffle", [False, True])
def test_batches_are_copies(shuffle):
    images, labels = samples(6)
    for image_batch, label_batch in DataLoader(images, labels, batch_size=2, shuffle=shuffle):
        image_batch[:] = -1
        label_batch[:] = -1
    np.testing.assert_array_equal(labels, np.arange(6))
    np.testing.assert_array_equal(images, samples(6)[0])


def test_one_tuple_and_one_array():
    pair = samples(6)
    from_tuple = list(DataLoader(pair, batch_size=4))
    from_list = list(DataLoader(list(pair), batch_size=4))
    for a, b, c in zip(from_tuple, from_list, DataLoader(*pair, batch_size=4), strict=True):
        for x, y, z in zip(a, b, c, strict=True):
            np.testing.assert_array_equal(x, z)
            np.testing.assert_array_equal(y, z)
    (batch,) = DataLoader(pair[1], batch_size=6)
    assert isinstance(batch, tuple) and len(batch) == 1
    np.testing.assert_array_equal(batch[0], np.arange(6))


def test_transform_changes_the_first_array_only():
    loader = DataLoader(*samples(6), batch_size=2, transform=lambda images: images * 2 + 1)
    for images, labels in loader:
        np.testing.assert_array_equal(images[:, 0, 0], labels * 2 + 1)


def test_non_contiguous_and_memory_mapped(tmp_path):
    images = np.lib.format.open_memmap(tmp_path / "images.npy", "w+", np.uint8, (6, 4))
    images[:] = np.arange(24).reshape(6, 4)
    labels = np.arange(12)[::-2]
    for shuffle in (False, True):
        for image_batch, label_batch in DataLoader(images, labels, batch_size=4, shuffle=shuffle):
            assert type(image_batch) is np.ndarray
            np.testing.assert_array_equal(image_batch[:, 0] // 4, (11 - label_batch) // 2)


@pytest.mark.parametrize(
    ("arrays", "kwargs", "error", "match"),
    [
        ((), {}, TypeError, "no arrays"),
        (([],), {}, TypeError, "no arrays"),
        (([1, 2, 3],), {}, TypeError, "array 0 is a int"),
        ((np.zeros(3), [1, 2, 3]), {}, TypeError, "array 1 is a list.*numpy.asarray"),
        ((np.zeros(()),), {}, ValueError, "array 0 is 0-d"),
        ((np.zeros(3), np.zeros((4, 3))), {}, ValueError, "array 1 has 4 samples but array 0 has 3"),
        ((np.zeros(3),), {"batch_size": 0}, ValueError, "batch_size is 0; expected at least 1"),
        ((np.zeros(3),), {"batch_size": -2}, ValueError, "batch_size is -2"),
        ((np.zeros(3),), {"batch_size": 2.0}, TypeError, "batch_size is 2.0; expected an integer"),
        ((np.zeros(3),), {"batch_size": True}, TypeError, "batch_size is True"),
        ((np.zeros(3),), {"batch_size": None}, TypeError, "batch_size is None"),
        ((np.zeros(3),), {"seed": -1}, ValueError, "seed is -1"),
        ((np.zeros(3),), {"seed": "a"}, TypeError, "seed is 'a'"),
        ((np.zeros(3),), {"transform": 3}, TypeError, "transform is a int"),
    ],
)
def test_loader_errors(arrays, kwargs, error, match):
    with pytest.raises(error, match=match):
        DataLoader(*arrays, **kwargs)


def test_huge_batch_size():
    assert epoch(DataLoader(*samples(3), batch_size=2**70)) == [0, 1, 2]


@pytest.mark.parametrize("shape", [(4, 3, 5, 6), (4, 1, 5, 6), (4, 5, 6), (0, 3, 5, 6), (4, 3, 0, 6)])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64])
def test_normalize(shape, dtype):
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, shape, np.uint8)
    scale = 255 if dtype == np.uint8 else 1
    images = images if dtype == np.uint8 else (images / 255).astype(dtype)
    channels = shape[1] if len(shape) == 4 else 1
    mean, std = [0.4914, 0.4822, 0.4465][:channels], [0.2470, 0.2435, 0.2616][:channels]
    before = images.copy()
    out = normalize(images, mean, std)
    expected = (images.astype(np.float64) / scale - np.reshape(mean, (-1, 1, 1))) / np.reshape(std, (-1, 1, 1))
    assert out.shape == shape and out.dtype == (np.float64 if dtype == np.float64 else np.float32)
    np.testing.assert_allclose(out, expected, rtol=0, atol=1e-14 if dtype == np.float64 else 1e-6)
    np.testing.assert_array_equal(images, before)


def test_normalize_with_numbers_and_strides():
    images = np.random.default_rng(0).integers(0, 256, (2, 8, 9, 3), np.uint8).transpose(0, 3, 1, 2)
    out = normalize(images, 0.5, (0.1, 0.2, 0.4))
    np.testing.assert_allclose(out, (images / 255 - 0.5) / np.reshape([0.1, 0.2, 0.4], (3, 1, 1)), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("images", "mean", "std", "error", "match"),
    [
        ([[0]], 0, 1, TypeError, "images is a list"),
        (np.zeros((2, 3)), 0, 1, ValueError, r"shape \(2, 3\); expected \(N, C, H, W\)"),
        (np.zeros((2, 3, 4, 4, 4)), 0, 1, ValueError, "expected"),
        (np.zeros((2, 3, 4, 4), np.int64), 0, 1, NotImplementedError, "dtype int64"),
        (np.zeros((2, 3, 4, 4)), [0, 0], 1, ValueError, r"mean has shape \(2,\).* 3 channel"),
        (np.zeros((2, 3, 4, 4)), 0, [], ValueError, r"std has shape \(0,\)"),
        (np.zeros((2, 3, 4)), 0, [1, 1, 1], ValueError, "std has shape"),
        (np.zeros((2, 3, 4, 4)), np.zeros((3, 1, 1)), 1, ValueError, "mean has shape"),
        (np.zeros((2, 3, 4, 4)), np.nan, 1, ValueError, "mean is nan; expected finite"),
        (np.zeros((2, 3, 4, 4)), 0, [1, 0, 1], ValueError, "std is .*expected positive"),
        (np.zeros((2, 3, 4, 4)), 0, -1, ValueError, "std is -1"),
    ],
)
def test_normalize_errors(images, mean, std, error, match):
    with pytest.raises(error, match=match):
        normalize(images, mean, std)


@pytest.mark.parametrize("shape", [(200, 2, 5, 6), (200, 5, 6)])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize(("size", "padding"), [((4, 3), 0), (5, 2), ((9, 10), 2), (1, 0)])
def test_random_crop(shape, dtype, size, padding):
    images = (1 + np.arange(np.prod(shape)) % 251).reshape(shape).astype(dtype)
    height, width = size if isinstance(size, tuple) else (size, size)
    out = random_crop(images, size, padding, generator=np.random.default_rng(0))
    assert out.shape == (*shape[:-2], height, width) and out.dtype == dtype and out.flags.c_contiguous
    padded = np.pad(images, [(0, 0)] * (len(shape) - 2) + [(padding, padding)] * 2)
    places = list(itertools.product(range(5 + 2 * padding - height + 1), range(6 + 2 * padding - width + 1)))
    seen = set()
    for image, source in zip(out, padded, strict=True):
        matches = [
            (top, left)
            for top, left in places
            if np.array_equal(image, source[..., top : top + height, left : left + width])
        ]
        assert matches  # each is a window of its own image
        seen.add(matches[0])
    assert len(seen) > 0.9 * len(places)  # and all places occur


def test_random_crop_does_not_alias():
    images = np.ones((3, 1, 4, 4), np.float32)
    random_crop(images, 4)[:] = 5
    assert (images == 1).all()


@pytest.mark.parametrize("shape", [(400, 2, 3, 4), (400, 3, 4)])
def test_random_flip(shape):
    images = np.arange(np.prod(shape)).reshape(shape)
    out = random_flip(images, generator=np.random.default_rng(0))
    kept = np.array([np.array_equal(a, b) for a, b in zip(out, images, strict=True)])
    flipped = np.array([np.array_equal(a, b[..., ::-1]) for a, b in zip(out, images, strict=True)])
    assert (kept ^ flipped).all()
    assert 150 < flipped.sum() < 250  # 200 +- 5 standard deviations
    np.testing.assert_array_equal(random_flip(images, p=0), images)
    np.testing.assert_array_equal(random_flip(images, p=1.0), images[..., ::-1])
    np.testing.assert_array_equal(images, np.arange(np.prod(shape)).reshape(shape))


@pytest.mark.parametrize("transform", [random_flip, lambda images, **kwargs: random_crop(images, 3, 2, **kwargs)])
def test_random_transforms_are_reproducible(transform):
    images = np.random.default_rng(0).random((64, 1, 4, 5), np.float32)
    a, b = (transform(images, generator=np.random.default_rng(7)) for _ in range(2))
    np.testing.assert_array_equal(a, b)
    fastnn.manual_seed(7)
    c, d = transform(images), transform(images)
    fastnn.manual_seed(7)
    np.testing.assert_array_equal(transform(images), c)
    assert not np.array_equal(c, d)
    assert transform(images[:0]).shape == (0, *a.shape[1:])


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda x: random_crop(x, 5), ValueError, r"size is \(5, 5\) but the images are \(4, 4\) with padding=0"),
        (lambda x: random_crop(x, (4, 7), 1), ValueError, r"size is \(4, 7\) but the images are \(6, 6\)"),
        (lambda x: random_crop(x, 0), ValueError, "size is 0"),
        (lambda x: random_crop(x, (2, -1)), ValueError, "size is -1"),
        (lambda x: random_crop(x, 2.5), TypeError, "size is 2.5; expected an integer"),
        (lambda x: random_crop(x, (1, 2, 3)), TypeError, "size is"),
        (lambda x: random_crop(x, 2, -1), ValueError, "padding is -1"),
        (lambda x: random_crop(x, 2, generator=0), TypeError, "generator is a int.*default_rng"),
        (lambda x: random_crop(x[0, 0], 2), ValueError, r"shape \(4, 4\)"),
        (lambda x: random_flip(x, 1.5), ValueError, "p is 1.5"),
        (lambda x: random_flip(x, float("nan")), ValueError, "p is nan"),
        (lambda x: random_flip(x, generator=np.random), TypeError, "generator is a module"),
        (lambda x: random_flip(x.tolist()), TypeError, "images is a list"),
    ],
)
def test_random_transform_errors(call, error, match):
    with pytest.raises(error, match=match):
        call(np.zeros((2, 1, 4, 4), np.float32))
