"""torch, numpy and fastnn in one process: any order of imports and any threads give the same results."""

import itertools
import subprocess
import sys

import pytest

pytest.importorskip("torch")

PROGRAM = """
import hashlib, sys, threading
for name in sys.argv[1].split(","):
    __import__(name)
import numpy as np, fastnn, torch
import fastnn.functional as F

rng = np.random.default_rng(0)
x, w = rng.standard_normal((9, 8, 33, 31)).astype("f4"), rng.standard_normal((24, 8, 3, 3)).astype("f4")
results = []


def work():
    for _ in range(3):
        torch.nn.functional.conv2d(torch.tensor(x), torch.tensor(w)).sum()
        y = F.softmax(F.conv2d(x, w, padding=1).reshape(9, -1), 1) @ np.ones((24 * 33 * 31, 2), "f4")
        results.append(hashlib.sha256(F.matmul(x, x.swapaxes(2, 3)).tobytes() + F.relu(y).tobytes()).hexdigest())


threads = [threading.Thread(target=work) for _ in range(3)]
for t in threads:
    t.start()
work()
for t in threads:
    t.join()
assert len(set(results)) == 1
print(results[0])
"""


def test_any_order_of_imports():
    digests = set()
    for order in itertools.permutations(["torch", "numpy", "fastnn"]):
        child = subprocess.run(
            [sys.executable, "-c", PROGRAM, ",".join(order)], capture_output=True, text=True, timeout=120
        )
        assert child.returncode == 0, child.stderr
        digests.add(child.stdout)
    assert len(digests) == 1


TORCH_THREADS = """
import os, torch, fastnn.functional as F

x = torch.randn(64, 8, 64, 64)
results = []
for threads in (1, 2, 3):
    torch.set_num_threads(threads)
    torch.sigmoid(x).sum()  # its threads are there now
    before = len(os.listdir("/proc/self/task"))
    results.append(F.avg_pool2d(F.relu(x), 3, 1, 1))  # computes with subnormal numbers flushed to zero
    assert len(os.listdir("/proc/self/task")) == before, "threads of our own were started"
    tiny = torch.full((1 << 20,), 1e-40)
    assert ((tiny * 1) == tiny).all() and (tiny != 0).all(), "torch's threads flush subnormal numbers now"
assert all(torch.equal(r, results[0]) for r in results)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="counts threads in /proc")
def test_torch_threads_work_on_calls_with_torch_tensors():
    child = subprocess.run([sys.executable, "-c", TORCH_THREADS], capture_output=True, text=True, timeout=120)
    assert child.returncode == 0, child.stderr
