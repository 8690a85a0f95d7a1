"""The caching allocator: alignment, reuse, giving back, limits, fork, threads."""

import os
import subprocess
import sys
import threading

import fastnn
import numpy as np
import pytest
from fastnn import _C

MB = 1 << 20


def run(code: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, **environment}, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_alignment_and_contents():
    sizes = [1, 63, 64, 65, 511, 512, 513, 576, 577, 4095, 4097, MB - 1, MB, MB + 1, 4 * MB, 4 * MB + 1, 17 * MB + 3]
    blocks = []
    for size in sizes * 2:
        x = fastnn.full((size,), len(blocks), dtype=np.uint8)
        assert x.data_ptr() % 64 == 0
        blocks.append(x)
    for i, x in enumerate(blocks):  # nothing overlaps
        assert x.min().item() == x.max().item() == i


def test_blocks_are_reused():
    fastnn.empty_cache()
    for size in (100, 5000, 3 * MB, 50 * MB):
        x = fastnn.empty(size, dtype=np.uint8)
        address = x.data_ptr()
        del x
        before = fastnn.memory_stats()
        x = fastnn.empty(size, dtype=np.uint8)
        after = fastnn.memory_stats()
        assert x.data_ptr() == address
        assert after["hits"] == before["hits"] + 1 and after["requests"] == before["requests"] + 1


def test_statistics_and_empty_cache():
    fastnn.empty_cache()
    start = fastnn.memory_stats()
    assert start["idle"] == 0
    x = fastnn.empty(10 * MB, dtype=np.uint8)
    held = fastnn.memory_stats()
    assert 10 * MB <= held["in_use"] - start["in_use"] <= 10 * MB * 9 // 8 and held["peak"] >= held["in_use"]
    del x
    freed = fastnn.memory_stats()
    assert freed["in_use"] == start["in_use"] and freed["idle"] >= 10 * MB
    fastnn.empty_cache()
    assert fastnn.memory_stats()["idle"] == 0


def test_out_of_memory_is_an_error_and_no_peak():
    before = fastnn.memory_stats()
    for size in (1 << 45, 1 << 50):
        with pytest.raises(MemoryError):
            fastnn.empty(size, dtype=np.uint8)
    after = fastnn.memory_stats()
    assert after["in_use"] == before["in_use"] and after["peak"] == before["peak"]


def test_a_process_that_shrinks_gives_memory_back():
    code = """
import time, numpy as np, fastnn
MB = 1 << 20
big = [fastnn.empty(64 * MB, dtype=np.uint8) for _ in range(8)]
del big
assert fastnn.memory_stats()["idle"] >= 512 * MB  # a step that is repeated finds its blocks
start = time.time()
while time.time() - start < 20:
    for _ in range(300): fastnn.empty(100_000, dtype=np.uint8)
    if fastnn.memory_stats()["idle"] <= 64 * MB: break
    time.sleep(0.05)
print(fastnn.memory_stats()["idle"] <= 64 * MB)
"""
    assert run(code).strip() == "True"


def test_cache_limit():
    code = """
import numpy as np, fastnn
for n in (1000, 3 << 20, 20 << 20): fastnn.empty(n, dtype=np.uint8)
s = fastnn.memory_stats()
print(s["limit"], s["idle"])
"""
    assert run(code, FASTNN_CACHE_LIMIT="0").split() == ["0", "0"]
    limit, idle = map(int, run(code, FASTNN_CACHE_LIMIT=str(8 << 20)).split())
    assert limit == 8 << 20 and idle <= limit
    limit, idle = map(int, run(code, FASTNN_CACHE_LIMIT="nonsense").split())
    assert limit > 0 and idle > 20 << 20
    before = fastnn.memory_stats()["limit"]
    try:
        _C.set_cache_limit(0)
        fastnn.ones(1000)
        assert fastnn.memory_stats()["idle"] == 0
    finally:
        _C.set_cache_limit(before)


def test_threads():
    """Blocks taken and freed in different threads; each is written and checked."""
    errors, handed = [], []

    def work(seed):
        rng = np.random.default_rng(seed)
        mine = []
        try:
            for i in range(400):
                size = int(rng.choice([10, 1000, 70_000, 2 * MB]))
                mine.append((fastnn.full((size,), (seed * 400 + i) % 251, dtype=np.uint8), (seed * 400 + i) % 251))
                if len(mine) > 5:
                    handed.append(mine.pop(int(rng.integers(5))))
                if handed:
                    x, value = handed.pop()
                    assert x.min().item() == x.max().item() == value
        except BaseException as error:
            errors.append(error)

    before = fastnn.memory_stats()["in_use"]
    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    handed.clear()
    assert not errors
    assert fastnn.memory_stats()["in_use"] == before


def test_fork():
    """The child allocates while threads of the parent did so at the moment of the fork."""
    code = """
import os, threading, numpy as np, fastnn
stop = False
def churn():
    while not stop: fastnn.empty(3 << 20, dtype=np.uint8); fastnn.empty(100)
threads = [threading.Thread(target=churn) for _ in range(2)]
for t in threads: t.start()
for i in range(10):
    pid = os.fork()
    if pid == 0:
        ok = all(fastnn.full((n,), 1).sum().item() == n for n in (10, 100_000, 1 << 21))
        os._exit(0 if ok else 1)
    assert os.waitpid(pid, 0)[1] == 0
stop = True
for t in threads: t.join()
print("done")
"""
    assert run("import warnings; warnings.simplefilter('ignore')\n" + code).strip() == "done"
