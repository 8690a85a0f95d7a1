"""Calls that make no sense: each gives a Python exception, or a result, and never a signal.

The calls run in one child process that reports before each of them, so that a crash names its call.
"""

import itertools
import subprocess
import sys
import textwrap

import numpy as np
import pytest

SIZES = [-(2**63), -(2**31), -1, 0, 2**31, 2**40, 2**62, 2**63, 1.5, "1", None, (), (1,), (1, 2, 3), [[1]], object()]
ARRAYS = {
    "none": None,
    "int": 3,
    "list": [1.0, 2.0],
    "text": "abc",
    "empty": np.zeros((0,), "f4"),
    "empty image": np.zeros((1, 0, 4, 4), "f4"),
    "no pixels": np.zeros((1, 3, 0, 0), "f4"),
    "scalar": np.float32(2),
    "zero rank": np.zeros((), "f4"),
    "rank 9": np.zeros((1,) * 9, "f4"),
    "int32": np.zeros((1, 3, 4, 4), "i4"),
    "uint16": np.zeros((1, 3, 4, 4), "u2"),
    "complex": np.zeros((1, 3, 4, 4), "c8"),
    "object": np.zeros((1, 3, 4, 4), object),
    "dates": np.zeros(3, "M8[s]"),
    "record": np.zeros(3, [("a", "f4"), ("b", "i1")])["a"],
    "big endian": np.zeros((1, 3, 4, 4), ">f4"),
    "stride 0": np.broadcast_to(np.float32(1), (1, 3, 9, 9)),
    "huge stride 0": np.broadcast_to(np.float32(1), (2**20, 2**20, 2**10, 2**8)),
    "negative strides": np.ones((2, 3, 9, 9), "f4")[::-1, ::-1, ::-1, ::-1],
    "misaligned": np.frombuffer(bytearray(4 * 300 + 1), "u1")[1 : 1 + 4 * 243].view("f4").reshape(1, 3, 9, 9),
    "read only": np.frombuffer(bytes(4 * 243), "f4").reshape(1, 3, 9, 9),
    "nan": np.full((1, 3, 9, 9), np.nan, "f4"),
    "inf": np.full((1, 3, 9, 9), np.inf, "f4"),
}


def calls():
    """(description, function without arguments) of every call."""
    import fastnn
    import fastnn.functional as F

    x, w = np.ones((1, 3, 9, 9), "f4"), np.ones((4, 3, 3, 3), "f4")
    labels = np.array([1, 0])
    for name, value in itertools.product(("stride", "padding", "dilation", "groups"), SIZES):
        yield f"conv2d {name}={value!r}", lambda n=name, v=value: F.conv2d(x, w, **{n: v})
    for name, value in itertools.product(("kernel_size", "stride", "padding", "dilation"), SIZES):
        yield f"max_pool2d {name}={value!r}", lambda n=name, v=value: F.max_pool2d(x, **({"kernel_size": 2} | {n: v}))
    for value in SIZES:
        yield f"avg_pool2d {value!r}", lambda v=value: F.avg_pool2d(x, v)
        yield f"avg_pool2d divisor {value!r}", lambda v=value: F.avg_pool2d(x, 2, divisor_override=v)
        yield f"adaptive_avg_pool2d {value!r}", lambda v=value: F.adaptive_avg_pool2d(x, v)
        yield f"adaptive_max_pool2d {value!r}", lambda v=value: F.adaptive_max_pool2d(x, v)
        yield f"softmax dim={value!r}", lambda v=value: F.softmax(x, v)
        yield f"layer_norm shape={value!r}", lambda v=value: F.layer_norm(x, v)
        yield f"layer_norm shape=({value!r},)", lambda v=value: F.layer_norm(x, (v,))
        yield f"group_norm groups={value!r}", lambda v=value: F.group_norm(x, v)
        yield f"batch_norm momentum={value!r}", lambda v=value: F.batch_norm(x, None, None, training=True, momentum=v)
        yield f"normalize dim={value!r}", lambda v=value: F.normalize(x, dim=v)
        yield f"local_response_norm size={value!r}", lambda v=value: F.local_response_norm(x, v)
        yield f"dropout p={value!r}", lambda v=value: F.dropout(x, v)
        yield f"max_pool1d {value!r}", lambda v=value: F.max_pool1d(x[0], v)
        yield f"conv1d stride {value!r}", lambda v=value: F.conv1d(x[0], w[0], stride=v)
        yield f"glu dim={value!r}", lambda v=value: F.glu(x, v)
        yield f"embedding padding_idx={value!r}", lambda v=value: F.embedding(labels, x[0, 0], v)
        yield f"embedding {value!r}", lambda v=value: F.embedding(np.array([v]), x[0, 0])
        yield f"embedding max_norm={value!r}", lambda v=value: F.embedding(labels, x[0, 0].copy(), max_norm=v)
        yield f"attention scale={value!r}", lambda v=value: F.scaled_dot_product_attention(x, x, x, scale=v)
        yield f"attention dropout_p={value!r}", lambda v=value: F.scaled_dot_product_attention(x, x, x, dropout_p=v)
        yield f"pad {value!r}", lambda v=value: F.pad(x, (v, 1))
        yield f"pad reflect {value!r}", lambda v=value: F.pad(x, (1, v), "reflect")
        yield f"one_hot {value!r}", lambda v=value: F.one_hot(labels, v)
        yield f"ignore_index={value!r}", lambda v=value: F.cross_entropy(np.ones((2, 3), "f4"), labels, ignore_index=v)
        yield f"labels {value!r}", lambda v=value: F.cross_entropy(np.ones((2, 3), "f4"), np.array([v, 0]))
        yield f"reshape {value!r}", lambda v=value: fastnn.tensor(x).reshape(v)
        yield f"index {value!r}", lambda v=value: fastnn.tensor(x)[v]
        yield f"sum {value!r}", lambda v=value: fastnn.tensor(x).sum(v)
        yield f"transpose {value!r}", lambda v=value: fastnn.tensor(x).transpose(v, 0)
        yield f"zeros {value!r}", lambda v=value: fastnn.zeros(v)
        yield f"threads {value!r}", lambda v=value: fastnn.set_num_threads(v)
        yield f"Linear {value!r}", lambda v=value: fastnn.Linear(v, 3)
        yield f"Conv2d {value!r}", lambda v=value: fastnn.Conv2d(3, 3, v)
        yield f"isa {value!r}", lambda v=value: fastnn.set_isa(v)
        yield f"lr {value!r}", lambda v=value: fastnn.optim.SGD([fastnn.Parameter(x)], lr=v)
    one_argument = (
        "relu gelu sigmoid tanh softmax log_softmax elu mish hardswish softplus dropout".split()
    )  # fmt: skip
    for name, array in ARRAYS.items():
        if name == "huge stride 0":  # only where the size is checked first
            yield name, lambda a=array: F.relu(a)
            yield name, lambda a=array: F.conv2d(a, w)
            yield name, lambda a=array: F.matmul(a, a)
            yield name, lambda a=array: F.scaled_dot_product_attention(a, a, a)
            yield name, lambda a=array: F.embedding(labels, a)
            yield name, lambda a=array: F.pad(a, (1, 1))
            continue
        for f in one_argument:
            yield f"{f}({name})", lambda f=f, a=array: getattr(F, f)(a)
        yield f"conv2d({name}, w)", lambda a=array: F.conv2d(a, w)
        yield f"conv2d(x, {name})", lambda a=array: F.conv2d(x, a)
        yield f"conv2d bias {name}", lambda a=array: F.conv2d(x, w, a)
        yield f"conv2d residual {name}", lambda a=array: F.conv2d(x, w, residual=a)
        yield f"layer_norm({name})", lambda a=array: F.layer_norm(a, (9,))
        yield f"layer_norm weight {name}", lambda a=array: F.layer_norm(x, (9,), a)
        yield f"rms_norm({name})", lambda a=array: F.rms_norm(a, (9,), np.ones(9, "f4"))
        yield f"group_norm({name})", lambda a=array: F.group_norm(a, 3)
        yield f"instance_norm({name})", lambda a=array: F.instance_norm(a)
        yield f"batch_norm({name})", lambda a=array: F.batch_norm(a, np.ones(3, "f4"), np.ones(3, "f4"), training=True)
        yield f"batch_norm running {name}", lambda a=array: F.batch_norm(x, a, a, training=True)
        yield f"linear({name})", lambda a=array: F.linear(a, np.ones((2, 9), "f4"))
        yield f"linear(w {name})", lambda a=array: F.linear(x, a)
        yield f"matmul({name})", lambda a=array: F.matmul(a, a)
        yield f"max_pool2d({name})", lambda a=array: F.max_pool2d(a, 2, return_indices=True)
        yield f"cross_entropy({name})", lambda a=array: F.cross_entropy(a, labels)
        yield f"cross_entropy labels {name}", lambda a=array: F.cross_entropy(np.ones((2, 3), "f4"), a)
        yield f"embedding({name})", lambda a=array: F.embedding(a, np.ones((2, 3), "f4"))
        yield f"embedding weight {name}", lambda a=array: F.embedding(labels, a, 0, 0.5)
        yield f"attention({name})", lambda a=array: F.scaled_dot_product_attention(a, a, a)
        yield f"attention key {name}", lambda a=array: F.scaled_dot_product_attention(x, a, x, enable_gqa=True)
        yield f"attention mask {name}", lambda a=array: F.scaled_dot_product_attention(x, x, x, a)
        yield f"pad({name})", lambda a=array: F.pad(a, (1, 1), "replicate")
        yield f"prelu({name})", lambda a=array: F.prelu(a, np.ones(3, "f4"))
        yield f"one_hot({name})", lambda a=array: F.one_hot(a)
        yield f"max_pool1d({name})", lambda a=array: F.max_pool1d(a, 2)
        yield f"mse_loss({name})", lambda a=array: F.mse_loss(a, x)
        yield f"tensor({name})", lambda a=array: fastnn.tensor(a)
        yield f"add {name}", lambda a=array: fastnn.tensor(x) + a
        yield f"relu inplace {name}", lambda a=array: F.relu(a, inplace=True)
        yield f"backward {name}", lambda a=array: F.relu(fastnn.tensor(x, requires_grad=True)).backward(a)
    from fastnn import _C

    junk = [None, 1, -1, 2.5, "relu", (), (1,), (2, 2), (-1, 2**62), x, object()]
    for name in sorted(dir(_C)):
        function = getattr(_C, name)
        if name.startswith(("_", "set_", "probe")) or not callable(function) or isinstance(function, type):
            continue
        for count, value in itertools.product(range(11), junk):
            value = fastnn.tensor(value) if value is x else value
            yield f"_C.{name}(*[{value!r:.20}] * {count})", lambda f=function, c=count, v=value: f(*[v] * c)


def run_all():
    count = 0
    for description, call in calls():
        print(description, file=sys.stderr, flush=True)
        try:
            call()
        except Exception:
            pass
        count += 1
    print(count)


@pytest.mark.filterwarnings("ignore")
def test_no_call_crashes_the_process():
    code = "import sys; sys.path.insert(0, sys.argv[1]); import test_hostile; test_hostile.run_all()"
    folder = __file__.rsplit("/", 1)[0]
    limit = textwrap.dedent("""
        import resource
        resource.setrlimit(resource.RLIMIT_AS, (16 << 30, 16 << 30))
    """)
    child = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", limit + code, folder], capture_output=True, text=True, timeout=300
    )
    last = child.stderr.strip().splitlines()[-3:]
    assert child.returncode == 0, f"exit code {child.returncode} at {last}"
    assert int(child.stdout.split()[-1]) > 200
