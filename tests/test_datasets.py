"""datasets.mnist: every source and every way in which a file can be broken, without a network."""

import gzip
import hashlib
import struct
import sys
import warnings
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
from fastnn import datasets

FETCH = datasets._fetch  # the tests replace it
TRAIN_IMAGES, TRAIN_LABELS = datasets._FILES["train"]
TEST_IMAGES, TEST_LABELS = datasets._FILES["test"]


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">{1 + array.ndim}I", 0x800 + array.ndim, *array.shape) + array.tobytes()


def fake(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    return generator.integers(0, 256, (count, 28, 28), np.uint8), generator.integers(0, 10, count, np.uint8)


def write_files(folder: Path, count: int = 5, compress: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """Fake training files; the test files hold the same images in reverse."""
    folder.mkdir(parents=True, exist_ok=True)
    images, labels = fake(count)
    contents = {
        TRAIN_IMAGES: images,
        TRAIN_LABELS: labels,
        TEST_IMAGES: images[::-1],
        TEST_LABELS: labels[::-1],
    }
    for name, array in contents.items():
        if compress:
            (folder / f"{name}.gz").write_bytes(gzip.compress(idx(array)))
        else:
            (folder / name).write_bytes(idx(array))
    return images, labels


@pytest.fixture(autouse=True)
def isolated(monkeypatch, tmp_path):
    """No network, no data of the developer's machine."""

    def offline(url):
        raise URLError("no network in tests")

    monkeypatch.setattr(datasets, "_fetch", offline)
    monkeypatch.delenv("FASTNN_DATA_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.mark.parametrize("subfolder", ["", "mnist", "MNIST/raw"])
@pytest.mark.parametrize("compress", [True, False])
def test_data_dir(monkeypatch, tmp_path, subfolder, compress):
    images, labels = write_files(tmp_path / "data" / subfolder, compress=compress)
    monkeypatch.setenv("FASTNN_DATA_DIR", str(tmp_path / "data"))
    got_images, got_labels = datasets.mnist("train")
    assert got_images.dtype == np.uint8 and got_labels.dtype == np.int64
    np.testing.assert_array_equal(got_images, images)
    np.testing.assert_array_equal(got_labels, labels)
    got_images[0] = 0  # the caller owns the arrays
    test_images, test_labels = datasets.mnist("test")
    np.testing.assert_array_equal(test_images, images[::-1])
    np.testing.assert_array_equal(test_labels, labels[::-1])


def test_data_dir_without_files(monkeypatch, tmp_path):
    write_files(tmp_path / "cache" / "fastnn" / "mnist")
    monkeypatch.setenv("FASTNN_DATA_DIR", str(tmp_path / "elsewhere"))
    with pytest.raises(FileNotFoundError, match=f"FASTNN_DATA_DIR is set.*{TRAIN_IMAGES}.gz.*elsewhere"):
        datasets.mnist("train")


def test_cache_is_used_before_the_network(tmp_path):
    images, labels = write_files(tmp_path / "cache" / "fastnn" / "mnist")
    got_images, got_labels = datasets.mnist("train")
    np.testing.assert_array_equal(got_images, images)
    np.testing.assert_array_equal(got_labels, labels)


def test_default_cache_is_in_the_home_folder(monkeypatch, tmp_path):
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert datasets._cache_dir() == tmp_path / ".cache" / "fastnn" / "mnist"


def serve(monkeypatch, folder: Path, broken_mirrors: dict[str, object]) -> list[str]:
    """Makes _fetch serve folder, except for mirrors that fail or send something else; returns the urls asked."""
    urls = []

    def fetch(url):
        urls.append(url)
        mirror, _, name = url.rpartition("/")
        answer = broken_mirrors.get(f"{mirror}/")
        if isinstance(answer, Exception):
            raise answer
        return answer if answer is not None else (folder / name).read_bytes()

    monkeypatch.setattr(datasets, "_fetch", fetch)
    md5 = {name: hashlib.md5((folder / f"{name}.gz").read_bytes()).hexdigest() for name in datasets._MD5}
    monkeypatch.setattr(datasets, "_MD5", md5)
    return urls


@pytest.mark.parametrize("first_mirror", [None, URLError("down"), TimeoutError("slow"), b"<html>login</html>"])
def test_download(monkeypatch, tmp_path, first_mirror):
    images, labels = write_files(tmp_path / "mirror")
    urls = serve(monkeypatch, tmp_path / "mirror", {datasets._MIRRORS[0]: first_mirror})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        got_images, got_labels = datasets.mnist("train")
    np.testing.assert_array_equal(got_images, images)
    np.testing.assert_array_equal(got_labels, labels)
    assert len(urls) == (2 if first_mirror is None else 4)
    cached = {path.name for path in (tmp_path / "cache" / "fastnn" / "mnist").iterdir()}
    assert cached == {f"{TRAIN_IMAGES}.gz", f"{TRAIN_LABELS}.gz"}  # and no temporary file
    datasets.mnist("train")
    assert len(urls) == (2 if first_mirror is None else 4)  # from the cache


def test_wrong_checksum_everywhere_is_not_cached(monkeypatch, tmp_path):
    write_files(tmp_path / "mirror")
    serve(monkeypatch, tmp_path / "mirror", dict.fromkeys(datasets._MIRRORS, b"not the file"))
    with pytest.warns(UserWarning, match="SAMPLE.*md5"):
        datasets.mnist("train")
    assert list((tmp_path / "cache" / "fastnn" / "mnist").iterdir()) == []


@pytest.mark.parametrize(("split", "per_class"), [("train", 300), ("test", 100)])
def test_offline_sample(split, per_class):
    with pytest.warns(
        UserWarning, match=rf"SAMPLE of {per_class * 10:,} .*FASTNN_DATA_DIR.*no network in tests"
    ) as record:
        images, labels = datasets.mnist(split)
    assert record[0].filename == __file__  # the warning points at the caller
    assert images.shape == (per_class * 10, 28, 28) and images.dtype == np.uint8
    assert labels.dtype == np.int64
    np.testing.assert_array_equal(np.bincount(labels), [per_class] * 10)
    # MNIST's well-known statistics: mean 0.1307, std 0.3081.
    assert abs(images.mean() / 255 - 0.1307) < 0.01
    assert abs(images.std() / 255 - 0.3081) < 0.01
    assert (images[labels == 1].mean() < images[labels == 0].mean() / 2) and (
        images[labels == 0][:, 14, 14].mean() < 40
    )


def test_sample_starts_like_mnist():
    with pytest.warns(UserWarning, match="SAMPLE"):
        _, train = datasets.mnist("train")
    with pytest.warns(UserWarning, match="SAMPLE"):
        _, test = datasets.mnist("test")
    assert train[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert test[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]


def test_unwritable_cache_gives_the_sample(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.warns(UserWarning, match="SAMPLE"):
        datasets.mnist("test")


IMAGES, LABELS = fake(5)
BROKEN_IMAGES = {
    "empty": b"",
    "header cut": idx(IMAGES)[:10],
    "data cut": idx(IMAGES)[:-1],
    "data too long": idx(IMAGES) + b"\0",
    "labels in place of images": idx(LABELS),
    "wrong magic": b"\x89PNG" + idx(IMAGES)[4:],
    "huge sizes": struct.pack(">4I", 0x803, *[2**32 - 1] * 3),
    "other image size": idx(IMAGES[:, :14]),
    "other count": idx(IMAGES[:3]),
}


@pytest.mark.parametrize("content", BROKEN_IMAGES.values(), ids=BROKEN_IMAGES.keys())
@pytest.mark.parametrize("compress", [True, False])
def test_corrupt_images(monkeypatch, tmp_path, content, compress):
    write_files(tmp_path, compress=compress)
    name = f"{TRAIN_IMAGES}.gz" if compress else TRAIN_IMAGES
    (tmp_path / name).write_bytes(gzip.compress(content) if compress else content)
    monkeypatch.setenv("FASTNN_DATA_DIR", str(tmp_path))
    with pytest.raises(ValueError, match=r"mnist: .*ubyte.* is truncated or corrupt: .*delete it"):
        datasets.mnist("train")


@pytest.mark.parametrize("damage", ["truncated", "flipped", "not gzip", "empty"])
def test_corrupt_gzip_in_the_cache(tmp_path, damage):
    cache = tmp_path / "cache" / "fastnn" / "mnist"
    write_files(cache)
    path = cache / f"{TRAIN_LABELS}.gz"
    content = bytearray(path.read_bytes())
    if damage == "flipped":
        content[-6] ^= 0xFF  # in the CRC
    path.write_bytes({"truncated": content[:-9], "flipped": content, "not gzip": b"hello", "empty": b""}[damage])
    with pytest.raises(ValueError, match=rf"{TRAIN_LABELS}.gz is truncated or corrupt.*downloaded again"):
        datasets.mnist("train")


def test_label_out_of_range(monkeypatch, tmp_path):
    write_files(tmp_path)
    (tmp_path / f"{TRAIN_LABELS}.gz").write_bytes(gzip.compress(idx(np.array([0, 1, 2, 3, 10], np.uint8))))
    monkeypatch.setenv("FASTNN_DATA_DIR", str(tmp_path))
    with pytest.raises(ValueError, match="label 10; expected 0 to 9"):
        datasets.mnist("train")


@pytest.mark.parametrize("split", ["val", "", None, 0])
def test_bad_split(split):
    with pytest.raises(ValueError, match="mnist: split is .*expected 'train' or 'test'"):
        datasets.mnist(split)


@pytest.mark.parametrize("with_tqdm", [True, False])
def test_fetch(monkeypatch, tmp_path, with_tqdm):
    content = np.random.default_rng(0).bytes(200_000)
    (tmp_path / "file.gz").write_bytes(content)
    if not with_tqdm:
        monkeypatch.setitem(sys.modules, "tqdm", None)  # makes the import fail
    assert FETCH((tmp_path / "file.gz").as_uri()) == content
    with pytest.raises(OSError, match="missing"):
        FETCH((tmp_path / "missing").as_uri())
