"""save and load: bits, names and shapes, both ways with safetensors and torch, and every wrong input."""

import os
import stat

import fastnn
import ml_dtypes
import numpy as np
import pytest
import safetensors
import safetensors.numpy

DTYPES = ["bool", "uint8", "int8", "int32", "int64", "float16", ml_dtypes.bfloat16, "float32", "float64"]
SHAPES = [(), (1,), (3,), (0,), (2, 0, 3), (2, 3), (2, 1, 3, 2)]


def values(shape, dtype) -> np.ndarray:
    return np.asarray(np.random.default_rng(0).integers(0, 2 if dtype == "bool" else 100, shape)).astype(dtype)


def assert_same(tensor, array: np.ndarray) -> None:
    assert isinstance(tensor, fastnn.Tensor)
    assert tensor.shape == array.shape and tensor.dtype == array.dtype
    assert tensor.numpy().tobytes() == array.tobytes()


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: np.dtype(dtype).name)
@pytest.mark.parametrize("as_tensor", [True, False])
def test_round_trip(tmp_path, dtype, as_tensor):
    arrays = {f"layer.{i}.weight": values(shape, dtype) for i, shape in enumerate(SHAPES)}
    fastnn.save({key: fastnn.tensor(a) if as_tensor else a for key, a in arrays.items()}, tmp_path / "x.safetensors")
    loaded = fastnn.load(tmp_path / "x.safetensors")
    assert loaded.keys() == arrays.keys()
    for key, array in arrays.items():
        assert_same(loaded[key], array)
        assert not loaded[key].requires_grad


def test_special_floats_keep_their_bits(tmp_path):
    array = np.array([np.nan, -np.nan, np.inf, -np.inf, -0.0, 1e-45], np.float32)
    fastnn.save({"x": array}, tmp_path / "x")
    assert_same(fastnn.load(tmp_path / "x")["x"], array)


def test_parameters_are_saved_without_their_gradient_flag(tmp_path):
    array = values((2, 3), "float32")
    fastnn.save({"w": fastnn.Parameter(fastnn.tensor(array))}, tmp_path / "x")
    loaded = fastnn.load(tmp_path / "x")["w"]
    assert_same(loaded, array)
    assert not loaded.requires_grad and not isinstance(loaded, fastnn.Parameter)


def test_layouts(tmp_path):
    array = values((4, 6), "float32")
    read_only = array.copy()
    read_only.flags.writeable = False
    state = {
        "transposed": array.T,
        "strided": array[::2, ::-3],
        "broadcast": np.broadcast_to(array[0], (3, 6)),
        "fortran": np.asfortranarray(array),
        "big endian": array.astype(">f4"),
        "read-only": read_only,
        "tensor": fastnn.tensor(array).transpose(0, 1),
    }
    fastnn.save(state, tmp_path / "x")
    loaded = fastnn.load(tmp_path / "x")
    state["tensor"] = array.T
    for key, value in state.items():
        assert_same(loaded[key], np.array(value, np.float32, order="C"))


def test_tied_weights_are_separate_entries(tmp_path):
    tied = fastnn.tensor(values((3, 4), "float32"))
    whole = values((6,), "float32")
    fastnn.save({"embedding": tied, "head": tied, "whole": whole, "part": whole[2:]}, tmp_path / "x")
    loaded = fastnn.load(tmp_path / "x")
    assert_same(loaded["embedding"], tied.numpy())
    assert_same(loaded["head"], tied.numpy())
    assert_same(loaded["part"], whole[2:])
    loaded["head"].numpy()[:] = -1
    assert_same(loaded["embedding"], tied.numpy())


def test_empty_state_dict_and_unusual_names(tmp_path):
    fastnn.save({}, tmp_path / "empty")
    assert fastnn.load(tmp_path / "empty") == {}
    state = {"": values((1,), "int32"), 'a "b" \\ ü 層': values((2,), "int32")}
    fastnn.save(state, str(tmp_path / "names"))
    loaded = fastnn.load(str(tmp_path / "names"))
    assert loaded.keys() == state.keys()


def test_module_round_trip(tmp_path):
    def model(seed):
        fastnn.manual_seed(seed)
        return fastnn.Sequential(fastnn.Conv2d(1, 2, 3), fastnn.ReLU(), fastnn.Linear(4, 3))

    source, target = model(0), model(1)
    fastnn.save(source.state_dict(), tmp_path / "x.safetensors")
    target.load_state_dict(fastnn.load(tmp_path / "x.safetensors"))
    assert list(target.state_dict()) == ["0.weight", "0.bias", "2.weight", "2.bias"]
    for key, value in source.state_dict().items():
        assert_same(target.state_dict()[key].detach(), value.detach().numpy())


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: np.dtype(dtype).name)
def test_with_the_safetensors_package(tmp_path, dtype):
    arrays = {"a": values((2, 3), dtype), "b": values((), dtype)}
    fastnn.save(arrays, tmp_path / "ours")
    for key, array in safetensors.numpy.load_file(tmp_path / "ours").items():
        assert array.dtype == arrays[key].dtype and array.shape == arrays[key].shape
        assert array.tobytes() == arrays[key].tobytes()
    safetensors.numpy.save_file({"a": arrays["a"]}, tmp_path / "theirs")
    assert_same(fastnn.load(tmp_path / "theirs")["a"], arrays["a"])


def test_to_and_from_a_torch_model(tmp_path):
    torch = pytest.importorskip("torch")
    safetensors_torch = pytest.importorskip("safetensors.torch")
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Conv2d(1, 6, 5), torch.nn.BatchNorm2d(6), torch.nn.Linear(4, 3))
    model[2].bfloat16()
    safetensors_torch.save_file(model.state_dict(), tmp_path / "torch.safetensors")
    loaded = fastnn.load(tmp_path / "torch.safetensors")
    assert loaded.keys() == model.state_dict().keys()
    assert loaded["1.num_batches_tracked"].shape == () and loaded["2.weight"].dtype == ml_dtypes.bfloat16
    for key, value in model.state_dict().items():
        assert loaded[key].shape == tuple(value.shape)
        np.testing.assert_array_equal(loaded[key].numpy().astype(np.float64), value.double().numpy())

    fastnn.save(loaded, tmp_path / "ours.safetensors")
    back = safetensors_torch.load_file(tmp_path / "ours.safetensors")
    other = torch.nn.Sequential(torch.nn.Conv2d(1, 6, 5), torch.nn.BatchNorm2d(6), torch.nn.Linear(4, 3))
    other[2].bfloat16()
    other.load_state_dict(back, strict=True)
    for key, value in model.state_dict().items():
        assert torch.equal(other.state_dict()[key], value)
    with safetensors.safe_open(tmp_path / "ours.safetensors", "np") as file:
        assert file.metadata() == {"format": "pt"}


def test_float8_from_torch_is_named(tmp_path):
    torch = pytest.importorskip("torch")
    safetensors_torch = pytest.importorskip("safetensors.torch")
    safetensors_torch.save_file({"scale": torch.zeros(2, dtype=torch.float8_e4m3fn)}, tmp_path / "x")
    with pytest.raises(NotImplementedError, match="'scale' .*F8_E4M3"):
        fastnn.load(tmp_path / "x")


@pytest.mark.parametrize(
    ("value", "error", "match"),
    [
        (1.5, TypeError, "a float; expected a fastnn Tensor or a numpy array"),
        (None, TypeError, "a NoneType"),
        ([1, 2], TypeError, "a list"),
        ({"nested": np.zeros(2)}, TypeError, "a dict.*flatten"),
        ("text", TypeError, "a str"),
        (np.float32(1), TypeError, "a float32"),
        (np.array(["a"]), TypeError, "dtype <U1"),
        (np.array([object()]), TypeError, "dtype object"),
        (np.zeros(2, np.complex128), NotImplementedError, "dtype complex128; expected one of bool"),
        (np.zeros(2, np.uint16), NotImplementedError, "dtype uint16"),
    ],
)
def test_wrong_values_are_named_and_nothing_is_written(tmp_path, value, error, match):
    path = tmp_path / "x.safetensors"
    path.write_bytes(b"old")
    with pytest.raises(error, match=rf"save: state_dict\['fc.bias'\] .*{match}"):
        fastnn.save({"fc.weight": np.zeros(2), "fc.bias": value}, path)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["x.safetensors"]


def test_torch_tensors_are_rejected(tmp_path):
    torch = pytest.importorskip("torch")
    with pytest.raises(TypeError, match=r"state_dict\['w'\] is a Tensor"):
        fastnn.save({"w": torch.zeros(2)}, tmp_path / "x")


def test_wrong_keys_and_state_dicts(tmp_path):
    with pytest.raises(TypeError, match="key 0 of type int; expected str"):
        fastnn.save({0: np.zeros(2)}, tmp_path / "x")
    with pytest.raises(ValueError, match="__metadata__.*reserve"):
        fastnn.save({"__metadata__": np.zeros(2)}, tmp_path / "x")
    for state in (np.zeros(2), [("a", np.zeros(2))], "x", None):
        with pytest.raises(TypeError, match="save: state_dict is a .*expected a mapping"):
            fastnn.save(state, tmp_path / "x")
    assert os.listdir(tmp_path) == []


def test_missing_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="folder .*nowhere does not exist; create it first"):
        fastnn.save({"a": np.zeros(2)}, tmp_path / "nowhere" / "x")


def test_failed_write_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "x"
    fastnn.save({"a": np.zeros(2)}, path)
    before = path.read_bytes()

    def full_disk(arrays, filename, metadata):
        filename.write_bytes(b"half")
        raise safetensors.SafetensorError("No space left on device")

    monkeypatch.setattr(safetensors.numpy, "save_file", full_disk)
    with pytest.raises(OSError, match="cannot write .*x: No space left on device"):
        fastnn.save({"a": np.ones(2)}, path)
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["x"]


def test_save_replaces_the_old_file(tmp_path):
    for value in (1.0, 2.0):
        fastnn.save({"a": np.full(3, value)}, tmp_path / "x")
    np.testing.assert_array_equal(fastnn.load(tmp_path / "x")["a"].numpy(), [2.0, 2.0, 2.0])
    assert os.listdir(tmp_path) == ["x"]


def test_save_over_the_file_just_loaded(tmp_path):
    fastnn.save({"a": np.arange(1000.0)}, tmp_path / "x")
    loaded = fastnn.load(tmp_path / "x")
    fastnn.save(loaded, tmp_path / "x")
    np.testing.assert_array_equal(fastnn.load(tmp_path / "x")["a"].numpy(), np.arange(1000.0))
    np.testing.assert_array_equal(loaded["a"].numpy(), np.arange(1000.0))


@pytest.mark.skipif(os.name == "nt", reason="POSIX file modes and links")
def test_mode_and_symbolic_link(tmp_path):
    (tmp_path / "plain").write_bytes(b"")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    fastnn.save({"a": np.zeros(2)}, tmp_path / "link")
    assert (tmp_path / "link").is_symlink() and fastnn.load(tmp_path / "target")["a"].shape == (2,)
    assert stat.S_IMODE((tmp_path / "target").stat().st_mode) == stat.S_IMODE((tmp_path / "plain").stat().st_mode)


@pytest.mark.parametrize("damage", ["empty", "cut header", "cut data", "longer", "not safetensors"])
def test_corrupt_file(tmp_path, damage):
    path = tmp_path / "model.safetensors"
    fastnn.save({"a": np.arange(10.0)}, path)
    content = path.read_bytes()
    path.write_bytes(
        {
            "empty": b"",
            "cut header": content[:20],
            "cut data": content[:-1],
            "longer": content + b"\0",
            "not safetensors": b"PK\3\4" * 50,
        }[damage]
    )
    with pytest.raises(ValueError, match=r"load: .*model.safetensors is not a complete safetensors file"):
        fastnn.load(path)


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="load: there is no file .*nothing"):
        fastnn.load(tmp_path / "nothing")
    with pytest.raises(FileNotFoundError, match="load: there is no file"):
        fastnn.load(tmp_path)
