"""Packed copies of weights: kept from the second use on, and never used after the weight may have changed."""

import copy
import gc
import os

import fastnn
import fastnn.functional as F
import ml_dtypes
import numpy as np
import pytest
from fastnn import _C

# (N, C, H, W), (O, C / groups, kh, kw), padding, groups: Winograd with many and few tiles, direct, 1x1, depthwise. Or
# (rows, in_features), (out_features, in_features): one and several blocks of depth.
LAYERS = {
    "winograd": ((2, 32, 20, 20), (32, 32, 3, 3), 1, 1),
    "winograd, few tiles": ((1, 64, 8, 8), (160, 64, 3, 3), 1, 1),
    "direct": ((2, 16, 12, 12), (32, 16, 5, 5), 2, 1),
    "1x1": ((1, 40, 30, 30), (64, 40, 1, 1), 0, 1),
    "depthwise": ((1, 160, 9, 9), (160, 1, 3, 3), 1, 160),
    "linear": ((9, 200), (300, 200), 0, 1),
    "linear, deep": ((70, 2100), (45, 2100), 0, 1),
}


def apply(x, weight, padding, groups):
    return F.linear(x, weight) if weight.ndim == 2 else F.conv2d(x, weight, None, 1, padding, 1, groups)


@pytest.fixture(params=LAYERS)
def layer(request, rng):
    """A function of no arguments that runs the layer, its weight, and one that makes the output anew from a copy."""
    shape, weight_shape, padding, groups = LAYERS[request.param]
    x = fastnn.tensor(rng.standard_normal(shape).astype("float32"))
    weight = fastnn.Parameter(rng.standard_normal(weight_shape).astype("float32"))

    def run(w=weight):
        with fastnn.no_grad():
            return apply(x, w, padding, groups).numpy()

    return run, weight, lambda: run(weight.numpy().copy())


@pytest.mark.parametrize("layout", ["row major", "channels last"])
@pytest.mark.parametrize("name", LAYERS)
def test_repeated_calls_agree(isa, rng, name, layout):
    shape, weight_shape, padding, groups = LAYERS[name]
    x = rng.standard_normal(shape).astype("float32")
    if layout == "channels last" and x.ndim == 4:
        x = np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    x, weight = fastnn.tensor(x), fastnn.Parameter(rng.standard_normal(weight_shape).astype("float32"))
    with fastnn.no_grad():
        results = [apply(x, weight, padding, groups).numpy() for _ in range(4)]
    for result in results[1:]:
        np.testing.assert_array_equal(result, results[0])


@pytest.mark.parametrize("dtype", ["float32", ml_dtypes.bfloat16, "float16", "float64"], ids=str)
def test_kept_weights_of_linear_give_the_same_bits(isa, rng, dtype):
    """As weights of numpy, which are never kept: several numbers of rows and threads share one copy."""
    for n, k in [(300, 40), (33, 1300), (129, 4200 if isa != "generic" else 600)]:
        weight = fastnn.Parameter(rng.standard_normal((n, k)).astype(dtype))
        bias = rng.standard_normal(n).astype(dtype)
        for m in (5, 16, 17, 140):
            x = rng.standard_normal((m, k)).astype(dtype)
            wanted = F.linear(x, weight.numpy().copy(), bias, activation="relu")
            for threads in (1, 2, 3):
                fastnn.set_num_threads(threads)
                with fastnn.no_grad():
                    y = F.linear(fastnn.tensor(x), weight, fastnn.tensor(bias), activation="relu").numpy()
                np.testing.assert_array_equal(y, wanted)


def test_changes_through_operations_are_seen(layer):
    run, weight, anew = layer
    for change in (
        lambda: weight.mul_(2),
        lambda: weight.copy_(fastnn.tensor(-weight.numpy())),
        lambda: weight.zero_(),
    ):
        for _ in range(3):
            before = run()
        with fastnn.no_grad():
            change()
        for _ in range(3):
            np.testing.assert_array_equal(run(), anew())
        assert not np.array_equal(before, run())


def test_changes_through_views_are_seen(layer):
    run, weight, anew = layer
    for _ in range(3):
        run()
    view = weight.detach().numpy()
    for value in (0.5, 2.0):
        view[0] = value  # while it lives nothing is kept
        np.testing.assert_array_equal(run(), anew())
        np.testing.assert_array_equal(run(), anew())
    part = view[1:2]
    del view
    part[...] = 3.0
    np.testing.assert_array_equal(run(), anew())
    del part
    for _ in range(3):
        np.testing.assert_array_equal(run(), anew())


def test_changes_through_dlpack_are_seen(layer):
    torch = pytest.importorskip("torch")
    run, weight, anew = layer
    for _ in range(3):
        run()
    other = torch.from_dlpack(weight.detach())
    other[0] = 7
    np.testing.assert_array_equal(run(), anew())
    del other
    for _ in range(3):
        np.testing.assert_array_equal(run(), anew())


def test_arrays_of_others_are_packed_anew(layer, rng):
    run, weight, _ = layer
    array = rng.standard_normal(weight.shape).astype("float32")
    shared = fastnn.from_numpy(array)
    for _ in range(3):
        run(shared)
    array[...] = 1
    np.testing.assert_array_equal(run(shared), run(np.ones(weight.shape, "float32")))


def test_optimizer_and_state_dict(rng):
    conv = fastnn.Conv2d(16, 32, 3, padding=1)
    x = fastnn.tensor(rng.standard_normal((1, 16, 12, 12)).astype("float32"))
    optimizer = fastnn.optim.SGD(conv.parameters(), lr=0.1)
    state = {name: value.numpy().copy() for name, value in conv.state_dict().items()}
    first = conv(x).numpy()
    for _ in range(3):
        for _ in range(3):
            with fastnn.no_grad():
                y = conv(x).numpy()
                np.testing.assert_array_equal(y, copy.deepcopy(conv)(x).numpy())
        optimizer.zero_grad()
        conv(x).sum().backward()
        optimizer.step()
    conv.load_state_dict(state)
    with fastnn.no_grad():
        for _ in range(3):
            np.testing.assert_array_equal(conv(x).numpy(), first)


def test_precision_and_isa_have_copies_of_their_own(rng):
    isas, before = _C.available_isas(), _C.get_isa()
    x = fastnn.tensor(rng.standard_normal((1, 32, 10, 10)).astype("float32"))
    weight = fastnn.Parameter(rng.standard_normal((32, 32, 3, 3)).astype("float32"))
    try:
        with fastnn.no_grad():
            for _ in range(3):
                for name in isas:
                    for precision in ("fast", "exact"):
                        _C.set_isa(name)
                        fastnn.set_precision(precision)
                        y = F.conv2d(x, weight, padding=1).numpy()
                        wanted = F.conv2d(x.numpy().copy(), weight.numpy().copy(), padding=1)
                        np.testing.assert_array_equal(y, wanted)
    finally:
        _C.set_isa(before)
        fastnn.set_precision("fast")


@pytest.mark.parametrize("shapes", [((1, 256, 16, 16), (256, 256, 3, 3)), ((20, 768), (768, 768))], ids=str)
def test_copies_go_with_the_weight(rng, shapes):
    x = fastnn.tensor(rng.standard_normal(shapes[0]).astype("float32"))
    values = np.ones(shapes[1], "float32")

    def use():
        weight = fastnn.Parameter(values)
        before = fastnn.memory_stats()["in_use"]
        with fastnn.no_grad():
            apply(x, weight, 1, 1)
            once = fastnn.memory_stats()["in_use"]
            for _ in range(3):
                apply(x, weight, 1, 1)
        return before, once, fastnn.memory_stats()["in_use"]

    gc.collect()
    start = fastnn.memory_stats()["in_use"]
    before, once, after = use()
    gc.collect()
    assert once == before  # one use keeps nothing
    assert values.nbytes <= after - before <= 5 * values.nbytes
    assert fastnn.memory_stats()["in_use"] == start


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_after_fork(layer):
    run, _, _ = layer
    for _ in range(3):
        wanted = run()
    pid = os.fork()
    if pid == 0:
        os._exit(0 if np.array_equal(run(), wanted) and np.array_equal(run(), wanted) else 1)
    assert os.waitpid(pid, 0)[1] == 0
