"""The thread pool: same bits for any number of threads, concurrent callers, fork, settings."""

import os
import subprocess
import sys
import threading

import fastnn
import fastnn.functional as F
import ml_dtypes
import numpy as np
import pytest

BF16 = np.dtype(ml_dtypes.bfloat16)


def run(code: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, **environment}, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def workload():
    """Results of ops of every kind on sizes that are shared among threads."""
    rng = np.random.default_rng(5)
    a = fastnn.tensor(rng.standard_normal((37, 60, 211)).astype(np.float32), requires_grad=True)
    b = fastnn.tensor(rng.standard_normal((60, 1)).astype(np.float32), requires_grad=True)
    y = F.relu(a * b + 1.5) / 3
    y.sum().backward()
    out = [y, a.grad, b.grad, y.sum(), y.mean(0), y.mean((0, 2)), y.sum(1), y.amax(1), y.argmax(2), y > 0.5]
    out += [a.detach().to(BF16).sum(), a.detach().long().sum((0, 1)), a.detach().permute(2, 0, 1).contiguous()]
    out += [fastnn.tensor(rng.standard_normal(1_000_003).astype(np.float32)).sum()]
    out += [fastnn.tensor(rng.standard_normal((100_003, 7)).astype(np.float32)).sum(0)]
    return [np.array(x.numpy()).tobytes() for x in out]


def test_same_bits_for_any_number_of_threads(isa):
    results = []
    for n in (1, 2, 3, 8):
        fastnn.set_num_threads(n)
        assert fastnn.get_num_threads() == n
        results.append(workload())
    assert results[0] == results[1] == results[2] == results[3]


def test_several_python_threads_call_at_once():
    fastnn.set_num_threads(3)
    expected = workload()
    wrong = []

    def work():
        for _ in range(3):
            if workload() != expected:
                wrong.append(threading.get_ident())

    threads = [threading.Thread(target=work) for _ in range(6)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong


def test_changing_the_number_of_threads_while_others_compute():
    expected, wrong, stop = workload(), [], threading.Event()

    def work():
        while not stop.is_set():
            if workload() != expected:
                wrong.append(1)

    thread = threading.Thread(target=work)
    thread.start()
    for n in (1, 4, 2, 8, 3) * 10:
        fastnn.set_num_threads(n)
        fastnn.ones(200_000).sum()
    stop.set()
    thread.join()
    assert not wrong


def test_the_child_of_a_fork_computes():
    code = """
import os, threading, warnings, fastnn
warnings.simplefilter("ignore")
fastnn.set_num_threads(4)
x = fastnn.arange(3_000_000, dtype="float32")
expected = x.sum().item()
stop = False
def work():
    while not stop: x.sum()
other = threading.Thread(target=work)  # a region is running at the moment of the fork
other.start()
for i in range(10):
    pid = os.fork()
    if pid == 0:
        ok = all(x.sum().item() == expected and (x + 1).sum().item() > expected for _ in range(20))
        os._exit(0 if ok else 1)
    assert os.waitpid(pid, 0)[1] == 0
    assert x.sum().item() == expected
stop = True
other.join()
print("done")
"""
    assert run(code) == "done"


def test_environment():
    code = "import fastnn; print(fastnn.get_num_threads())"
    assert run(code, FASTNN_NUM_THREADS="5") == "5"
    available = len(os.sched_getaffinity(0))
    for text in ("0", "-1", "many", "100000"):
        assert 1 <= int(run(code, FASTNN_NUM_THREADS=text)) <= available
    assert 1 <= int(run(code, FASTNN_NUM_THREADS="")) <= available
    assert run("import fastnn; print(fastnn.get_isa())", FASTNN_ISA="generic") == "generic"


def test_errors():
    for bad in (0, -1, 1025):
        with pytest.raises(ValueError, match="set_num_threads"):
            fastnn.set_num_threads(bad)
    with pytest.raises(TypeError):
        fastnn.set_num_threads("two")


def test_an_interpreter_that_ends_while_threads_compute():
    code = """
import threading, fastnn
x = fastnn.ones(2_000_000)
def work():
    while True: x.sum()
for _ in range(3): threading.Thread(target=work, daemon=True).start()
import time; time.sleep(0.2)
"""
    for _ in range(3):
        run(code)
