"""`python -m fastnn.info`."""

import json
import os
import platform
import subprocess
import sys

import fastnn.info
import pytest
from fastnn import _C
from fastnn.info import format_info, info


def run(**environment: str) -> str:
    command = [sys.executable, "-m", "fastnn.info"]
    done = subprocess.run(command, env=os.environ | environment, check=True, capture_output=True, text=True)
    assert done.stderr == ""
    return done.stdout


def test_says_what_is_in_use():
    out = run(FASTNN_NUM_THREADS="3", FASTNN_ISA="generic", FASTNN_CACHE_LIMIT="1048576")
    assert "threads   3: FASTNN_NUM_THREADS=3" in out
    assert "ISA       generic in use" in out and "FASTNN_ISA=generic" in out
    assert "1.0 MiB allowed (FASTNN_CACHE_LIMIT)" in out
    assert f"python {platform.python_version()}" in out


def test_says_loudly_what_is_not_there(monkeypatch):
    monkeypatch.setattr(fastnn.info, "version", _raise_not_found)
    monkeypatch.setattr(fastnn.info._C, "built_isas", lambda: ["generic"])
    data = info()
    out = format_info(data)
    here = "x86_64" if platform.machine() == "x86_64" else "aarch64"
    missing = {"x86_64": "avx2", "aarch64": "neon"}[here]
    assert f"NOT BUILT: CPU kernels for {missing}: the build left it out" in out
    assert "NOT INSTALLED: torch" in out and data["packages"]["torch"] is None
    assert data["versions"]["fastnn"] == "not installed as a package"


def test_names_an_isa_that_the_cpu_lacks(monkeypatch):
    data = info()
    data["isa"] |= {"available": ["generic"], "built": ["generic", "avx512"]}
    assert "avx512: built, but this CPU lacks it" in format_info(data)


def test_is_plain_data_and_agrees_with_the_library():
    data = info()
    assert json.loads(json.dumps(data)) == data
    assert data["isa"]["in_use"] == _C.get_isa()
    assert data["isa"]["available"] == _C.available_isas()
    assert data["memory"].items() >= {"limit": _C.memory_stats()["limit"]}.items()
    assert len(data["built"]) >= len(_C.built_isas())


@pytest.mark.parametrize(
    ("affinity", "quota", "in_use", "why"),
    [
        (4, None, 4, "one for each CPU"),
        (2, None, 2, "the CPU affinity of the process, of 4 CPUs"),
        (4, 3, 3, "the CPU quota of the cgroup, of 4 CPUs"),
        (2, 3, 2, "the CPU affinity of the process, of 4 CPUs"),
        (4, None, 1, "set_num_threads()"),
    ],
)
def test_says_why_there_are_so_many_threads(monkeypatch, affinity, quota, in_use, why):
    monkeypatch.delenv("FASTNN_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(affinity)))
    monkeypatch.setattr(fastnn.info, "_cgroup_cpus", lambda: quota)
    _C.set_num_threads(in_use)
    threads = info()["threads"]
    assert threads["in_use"] == in_use
    assert threads["why"].startswith(why)


def test_default_threads_are_as_explained():
    """The library's own default and the facts that info shows agree."""
    code = "import json; from fastnn.info import info; print(json.dumps(info()['threads']))"
    environment = {name: value for name, value in os.environ.items() if name != "FASTNN_NUM_THREADS"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True)
    threads = json.loads(done.stdout)
    assert threads["in_use"] == min(threads["affinity"], threads["cgroup"] or threads["affinity"])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("always [madvise] never\n", "used for arrays of 4 MiB and more (madvise)"),
        ("[always] madvise never\n", "used for arrays of 4 MiB and more (always)"),
        ("always madvise [never]\n", "NOT USED: "),
        (None, "NOT USED: this system has no transparent huge pages"),
    ],
)
def test_huge_pages(monkeypatch, tmp_path, text, expected):
    file = tmp_path / "enabled"
    if text:
        file.write_text(text)
    monkeypatch.setattr(fastnn.info, "_HUGE_PAGES", file)
    assert info()["memory"]["huge_pages"].startswith(expected)


def _raise_not_found(name: str) -> str:
    raise fastnn.info.PackageNotFoundError(name)
