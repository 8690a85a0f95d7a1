"""The examples and README's code run, and end where they say."""

import gzip
import os
import re
import subprocess
import sys
from pathlib import Path

import fastnn
import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"


def run(folder: Path, script: str, *arguments: object, **environment: object) -> list[str]:
    command = [sys.executable, EXAMPLES / script, *map(str, arguments)]
    env = os.environ | {name: str(value) for name, value in environment.items()}
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def percent(line: str, what: str) -> float:
    return float(re.fullmatch(rf"{what}: (\d+\.\d+) %", line)[1])


@pytest.fixture(scope="module")
def digits():
    sys.path.insert(0, str(EXAMPLES))
    import digits

    sys.path.remove(str(EXAMPLES))
    return digits


@pytest.fixture(scope="module")
def sample():
    with np.load(Path(fastnn.__file__).with_name("mnist_sample.npz")) as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def small_mnist(sample, tmp_path_factory):
    """A folder for FASTNN_DATA_DIR: 2,000 of the real training images and 500 of the test images."""
    folder = tmp_path_factory.mktemp("mnist")
    for split, stem, count in (("train", "train", 2000), ("test", "t10k", 500)):
        for kind, name, magic in (("images", "images-idx3", 0x803), ("labels", "labels-idx1", 0x801)):
            array = sample[f"{split}_{kind}"][:count].astype(np.uint8)
            header = np.array([magic, *array.shape], ">u4").tobytes()
            with gzip.open(folder / f"{stem}-{name}-ubyte.gz", "wb", compresslevel=1) as file:
                file.write(header + array.tobytes())
    return folder


def test_mlp(tmp_path):
    *steps, last = run(tmp_path, "mlp.py")
    losses = [float(line.rpartition(" ")[2]) for line in steps]
    assert losses == sorted(losses, reverse=True) and losses[-1] < 0.02
    assert percent(last, "accuracy") >= 99


def test_train_mnist(tmp_path, small_mnist):
    def train(out: str, *arguments: object) -> list[str]:
        return run(tmp_path, "train_mnist.py", "--out", out, *arguments, FASTNN_DATA_DIR=small_mnist)

    lines = train("a.safetensors", "--epochs", 10, "--seed", 1)
    assert [line.split(":")[0] for line in lines[:10]] == [f"epoch {i}" for i in range(1, 11)]
    losses = [float(re.search(r"loss (\S+),", line)[1]) for line in lines[:10]]
    assert losses[-1] < losses[0] / 4
    assert percent(lines[-1], "test accuracy") >= 90

    # The same seed gives the same model, whatever the number of threads; another seed another.
    train("b.safetensors", "--epochs", 10, "--seed", 1, "--threads", 1)
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    train("b.safetensors", "--epochs", 10, "--seed", 2)
    assert (tmp_path / "a.safetensors").read_bytes() != (tmp_path / "b.safetensors").read_bytes()

    # --predict takes the saved model and trains no more.
    predicted = train("a.safetensors", "--predict", 0, 3)
    assert not any(line.startswith("epoch") for line in predicted)
    labels = fastnn_labels(small_mnist)
    assert [line for line in predicted if "this is a" in line] == [f"{i}: this is a {labels[i]}" for i in (0, 3)]
    assert predicted[-1] == lines[-1]


def fastnn_labels(folder: Path) -> bytes:
    return gzip.decompress((folder / "t10k-labels-idx1-ubyte.gz").read_bytes())[8:]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--predict", "nothing.pgm"], "nothing.pgm"),
        (["--predict", "500"], "index 500 is out of bounds"),
        (["--out", "nowhere/net.safetensors"], "there is no folder"),
    ],
)
def test_train_mnist_says_what_is_wrong_before_it_trains(tmp_path, small_mnist, arguments, message):
    command = [sys.executable, EXAMPLES / "train_mnist.py", *arguments]
    env = os.environ | {"FASTNN_DATA_DIR": str(small_mnist)}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert message in done.stderr


@pytest.mark.full
@pytest.mark.parametrize("seed", [0, 1])
def test_train_mnist_reaches_989(tmp_path, seed):
    if not os.environ.get("FASTNN_DATA_DIR"):
        pytest.skip("FASTNN_DATA_DIR does not name a folder with MNIST")
    assert percent(run(tmp_path, "train_mnist.py", "--seed", seed)[-1], "test accuracy") >= 98.9


@pytest.mark.parametrize("suffix", [".npy", ".pgm", ".png"])
def test_a_digit_on_paper_is_read_as_mnist_has_it(tmp_path, digits, sample, suffix):
    digit = sample["test_images"][0]
    paper = np.full((200, 300), 250, np.uint8)
    paper[40:152, 150:262] -= (np.kron(digit, np.ones((4, 4))) * 0.9).astype(np.uint8)  # four times as large, dark
    path = tmp_path / f"digit{suffix}"
    if suffix == ".npy":
        np.save(path, paper)
    elif suffix == ".pgm":
        path.write_bytes(b"P5\n# made by hand\n300 200\n255\n" + paper.tobytes())
    else:
        pytest.importorskip("PIL.Image").fromarray(paper).save(path)
    read = digits.read(str(path))
    assert read.shape == (28, 28) and read.dtype == np.uint8
    assert np.abs(read.astype(int) - digit).mean() < 5


def test_28_by_28_is_left_alone(tmp_path, digits, sample):
    np.save(tmp_path / "digit.npy", sample["test_images"][0])
    assert (digits.read(str(tmp_path / "digit.npy")) == sample["test_images"][0]).all()


@pytest.mark.parametrize("array", [np.zeros((2, 3, 4)), np.zeros((0, 5)), np.float32(1)])
def test_what_is_no_image_is_refused(tmp_path, digits, array):
    np.save(tmp_path / "wrong.npy", array)
    with pytest.raises(ValueError, match="expected a gray image"):
        digits.read(str(tmp_path / "wrong.npy"))


def test_drawing(digits):
    image = np.zeros((28, 28), np.uint8)
    image[4, 0], image[5, 1], image[4:6, 2] = 255, 255, 255
    lines = digits.draw(image, np.eye(10)[3]).splitlines()
    assert len(lines) == 14
    assert lines[2].startswith("▀▄█ ")
    assert lines[5].endswith(f"3 {'█' * 30} 100.0 %")


def readme(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)


def test_code_of_the_readme_runs(tmp_path):
    subprocess.run([sys.executable, "-c", readme("python")[0]], cwd=tmp_path, check=True)
    assert set(fastnn.load(tmp_path / "net.safetensors")) == {"0.weight", "0.bias", "3.weight", "3.bias"}


def test_swap_of_the_readme_runs(tmp_path):
    pytest.importorskip("torch")
    subprocess.run([sys.executable, "-c", readme("python")[1]], cwd=tmp_path, check=True)
    assert (tmp_path / "report.html").stat().st_size > 0


def test_commands_of_the_readme_are_one_line_each_and_name_what_exists():
    for name in ("train", "test"):
        (command,) = re.findall(rf"<!-- {name} command -->\n```sh\n(.*)\n```", (ROOT / "README.md").read_text())
        assert command.startswith("python3 -m venv .venv && . .venv/bin/activate && pip install ")
    for path in re.findall(r"(?:examples|docs)/\w+\.\w+", (ROOT / "README.md").read_text()):
        assert path.startswith("docs/") or (ROOT / path).is_file()


@pytest.mark.full
def test_swap_torch(tmp_path):
    pytest.importorskip("torch")
    pytest.importorskip("matplotlib")
    lines = run(tmp_path, "swap_torch.py", "--small", "--out", "chart.png")
    titles = [line for line in lines if re.fullmatch(r"(ResNet|GPT), (training|inference)", line)]
    assert len(titles) == 4
    assert sum("swapped; mode" in line for line in lines) == 4
    assert any(line.startswith("4.conv1 + 4.bn1 + 4.relu") for line in lines)
