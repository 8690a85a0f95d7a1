"""The package as a user gets it: what is installed, what importing costs, what the stub of _C says."""

import ast
import importlib.util
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import fastnn
import pytest
from fastnn import _C

PACKAGE = Path(fastnn.__file__).parent
# Importing fastnn must not import these: torch is optional, the others would take most of the 0.2 s.
LAZY = ("torch", "triton", "jax", "onnxruntime", "matplotlib", "safetensors", "tqdm", "urllib.request", "PIL", "pytest")


@pytest.fixture(scope="module")
def distribution():
    try:
        return metadata.distribution("fastnn")
    except metadata.PackageNotFoundError:
        pytest.skip("fastnn is on the path but not installed")


@pytest.fixture(scope="module")
def stub():
    return ast.parse((PACKAGE / "_C.pyi").read_text())


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout


def test_the_installed_package_is_tested(distribution):
    assert Path(distribution.locate_file("fastnn/__init__.py")).resolve() == Path(fastnn.__file__).resolve()


def test_wheel_has_what_it_needs_and_nothing_else(distribution):
    files = {str(file) for file in distribution.files}
    folders = {file.split("/")[0] for file in files}
    assert {folder for folder in folders if not folder.endswith(".dist-info")} == {"fastnn"}
    for name in ("py.typed", "_C.pyi", "mnist_sample.npz", "benchmarks/__main__.py", "reference/__init__.py"):
        assert f"fastnn/{name}" in files
    kinds = {Path(file).suffix for file in files if file.startswith("fastnn/")}
    assert kinds <= {".py", ".pyc", ".pyi", ".typed", ".npz", ".so"}
    assert any(file.endswith("LICENSE") for file in files)


def test_metadata(distribution):
    assert distribution.metadata["License-Expression"] == "Apache-2.0"
    assert distribution.metadata["Requires-Python"] == ">=3.10"
    required = {line.split(">=")[0] for line in distribution.requires if "extra ==" not in line}
    assert required == {"numpy", "ml_dtypes", "safetensors", "tqdm"}


def test_all_names_what_is_there():
    assert len(set(fastnn.__all__)) == len(fastnn.__all__)
    for name in fastnn.__all__:
        assert hasattr(fastnn, name), name
    for name in fastnn.functional.__all__:
        assert callable(getattr(fastnn.functional, name)), name


def test_import_is_quick_and_lazy():
    # The budget is 0.2 s on an idle machine; the best of five on a busy one stays below twice that.
    code = "import time; t = time.perf_counter(); import fastnn; print(time.perf_counter() - t)"
    assert min(float(run(code)) for _ in range(5)) < 0.4
    loaded = run("import sys, fastnn; print(*sys.modules)").split()
    assert not set(LAZY) & set(loaded)


def test_stub_names_everything(stub):
    named = {node.name for node in stub.body if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
    named |= {node.target.id for node in stub.body if isinstance(node, ast.AnnAssign)}
    assert named == {name for name in vars(_C) if not name.startswith("__")}


def test_stub_has_the_signatures_of_the_ops(stub):
    written = {node.name: ast.unparse(node) for node in stub.body if isinstance(node, ast.FunctionDef)}
    docs = {name: getattr(_C, name).__doc__ or "" for name in written}
    ops = {name: ast.unparse(ast.parse(f"def {name}{doc}: ...")) for name, doc in docs.items() if doc.startswith("(")}
    assert "activation" in ops
    assert {name: written[name] for name in ops} == ops, "run tools/make_stubs.py"


@pytest.mark.parametrize("type_name", ["TensorBase", "Node", "Op"])
def test_stub_has_the_members_of_the_types(stub, type_name):
    body = next(node.body for node in stub.body if isinstance(node, ast.ClassDef) and node.name == type_name)
    named = {node.target.id if isinstance(node, ast.AnnAssign) else node.name for node in body}
    actual = {name for name in vars(getattr(_C, type_name)) if not name.startswith("__")}
    assert {name for name in named if not name.startswith("__")} == actual


def test_stub_and_marker_are_where_type_checkers_look():
    assert (PACKAGE / "py.typed").is_file()
    assert importlib.util.find_spec("fastnn._C").origin.endswith(".so")


def test_a_binding_says_its_signature_when_called_wrongly():
    with pytest.raises(TypeError, match=r"clone: expected 1 arguments, got 0: clone\(input: Tensor, /\) -> Tensor"):
        _C.clone()
