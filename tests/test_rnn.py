"""Recurrent layers against the float64 reference, modules and cells against torch, forward and backward."""

import copy
import inspect
import pickle
import warnings

import fastnn
import ml_dtypes
import numpy as np
import pytest
from fastnn import _C, reference
from fastnn.ops import rnn as ops

torch = pytest.importorskip("torch")

BF16 = np.dtype(ml_dtypes.bfloat16)
TOLERANCE = {np.dtype(np.float32): 1e-5, BF16: 2e-2, np.dtype(np.float16): 4e-3, np.dtype(np.float64): 1e-12}
GATES = {"rnn_tanh": 1, "rnn_relu": 1, "lstm": 4, "gru": 3}
NAMES = ["RNN", "LSTM", "GRU"]

# steps, batch, input, hidden
SIZES = [
    (1, 1, 1, 1),
    (3, 2, 5, 7),
    (2, 9, 8, 8),
    (4, 15, 3, 16),
    (2, 16, 4, 31),
    (3, 33, 2, 33),
    (2, 57, 17, 65),
    (1, 4, 1, 9),
    (2, 3, 0, 5),
    (3, 0, 4, 6),
]


pytestmark = pytest.mark.usefixtures("one_torch_thread")


def draw(rng, shape, dtype, scale=1.0):
    return np.asarray(rng.standard_normal(shape) * scale).astype(dtype)


def layer_arrays(cell, sizes, dtype, bias=True):
    """x, h0, c0, w_ih, w_hh, b_ih, b_hh"""
    steps, batch, inputs, hidden = sizes
    rng = np.random.default_rng([*sizes, GATES[cell]])
    rows = GATES[cell] * hidden
    k = hidden**-0.5
    return [
        draw(rng, (steps, batch, inputs), dtype),
        draw(rng, (batch, hidden), dtype),
        draw(rng, (batch, hidden), dtype) if cell == "lstm" else None,
        draw(rng, (rows, inputs), dtype, k),
        draw(rng, (rows, hidden), dtype, k),
        draw(rng, (rows,), dtype, k) if bias else None,
        draw(rng, (rows,), dtype, k) if bias else None,
    ]


def expected_layer(cell, arrays, reverse):
    x, h0, c0, *weights = arrays
    if cell == "lstm":
        return reference.lstm_layer(x, h0, c0, *weights, reverse=reverse)
    if cell == "gru":
        return reference.gru_layer(x, h0, *weights, reverse=reverse)
    return reference.rnn_layer(x, h0, *weights, nonlinearity=cell[4:], reverse=reverse)


def torch_layer(cell, arrays, reverse, grads):
    """(outputs, gradients) in float64 by torch's autograd."""
    given = [None if a is None else torch.tensor(a.astype(np.float64), requires_grad=True) for a in arrays]
    x, h0, c0, *weights = given
    weights = [w for w in weights if w is not None]
    states = (h0[None], c0[None]) if cell == "lstm" else h0[None]
    time = torch.flip(x, (0,)) if reverse else x
    y, *last = getattr(torch, cell)(time, states, weights, len(weights) == 4, 1, 0.0, False, False, False)
    outputs = [torch.flip(y, (0,)) if reverse else y, *(state[0] for state in last)]
    used = [(o, torch.tensor(g.astype(np.float64))) for o, g in zip(outputs, grads, strict=True) if g is not None]
    torch.autograd.backward([o for o, _ in used], [g for _, g in used])
    zero = [np.zeros(g.shape) if g is not None and g.grad is None else None for g in given]
    gradients = [
        z if z is not None else (None if g is None else g.grad.numpy()) for g, z in zip(given, zero, strict=True)
    ]
    return [o.detach().numpy() for o in outputs], gradients


def our_layer(cell, arrays, reverse, grads):
    given = [None if a is None else fastnn.tensor(a, requires_grad=True) for a in arrays]
    outputs = ops._ops[cell](*given, reverse)
    total = None
    for output, grad in zip(outputs, grads, strict=True):
        if grad is not None:
            part = (output * fastnn.tensor(grad)).sum()
            total = part if total is None else total + part
    total.backward()
    return [o.detach().numpy() for o in outputs], [None if g is None else g.grad.numpy() for g in given]


def assert_close(got, want, dtype, factor=1.0):
    assert got.dtype == dtype and got.shape == want.shape
    tolerance = TOLERANCE[np.dtype(dtype)] * factor
    scale = max(1.0, float(np.abs(want).max(initial=0.0)))
    np.testing.assert_allclose(got.astype(np.float64), want, rtol=tolerance, atol=tolerance * scale)


def output_grads(cell, sizes, dtype):
    steps, batch, _, hidden = sizes
    rng = np.random.default_rng(9)
    count = 2 if cell == "lstm" else 1
    return [draw(rng, (steps, batch, hidden), dtype), *(draw(rng, (batch, hidden), dtype) for _ in range(count))]


# ---- one layer in one direction


@pytest.mark.parametrize("cell", GATES)
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_layer(cell, sizes, isa):
    for dtype in TOLERANCE:
        arrays = layer_arrays(cell, sizes, dtype)
        reverse = sizes[0] % 2 == 0
        outputs = ops._ops[cell](*arrays, reverse)
        for got, want in zip(outputs, expected_layer(cell, arrays, reverse), strict=True):
            assert_close(got, want, dtype)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("cell", GATES)
def test_layer_directions_and_biases(cell, bias, reverse, isa):
    arrays = layer_arrays(cell, (5, 4, 3, 18), np.float32, bias)
    for got, want in zip(ops._ops[cell](*arrays, reverse), expected_layer(cell, arrays, reverse), strict=True):
        assert_close(got, want, np.float32)
    zeros = [a if i not in (1, 2) or a is None else np.zeros_like(a) for i, a in enumerate(arrays)]
    arrays[1] = arrays[2] = None
    for got, want in zip(ops._ops[cell](*arrays, reverse), expected_layer(cell, zeros, reverse), strict=True):
        assert_close(got, want, np.float32)


@pytest.mark.parametrize("cell", GATES)
@pytest.mark.parametrize("sizes", [s for s in SIZES if s[1] and s[2]], ids=str)
def test_layer_backward(cell, sizes, isa):
    for dtype in TOLERANCE:
        reverse = sizes[1] % 2 == 0
        arrays, grads = layer_arrays(cell, sizes, dtype), output_grads(cell, sizes, dtype)
        outputs, got = our_layer(cell, arrays, reverse, grads)
        wanted_outputs, want = torch_layer(cell, arrays, reverse, grads)
        for a, b in zip([*outputs, *got], [*wanted_outputs, *want], strict=True):
            if b is not None:
                assert_close(a, b, dtype, 2)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("given", [(0,), (1,), (2,), (0, 2)], ids=str)
@pytest.mark.parametrize("cell", GATES)
def test_layer_backward_of_some_outputs(cell, given, bias):
    sizes = (4, 3, 5, 6)
    arrays = layer_arrays(cell, sizes, np.float64, bias)
    grads = [g if i in given else None for i, g in enumerate(output_grads(cell, sizes, np.float64))]
    if all(g is None for g in grads):
        pytest.skip("only an LSTM has c")
    _, got = our_layer(cell, arrays, False, grads)
    _, want = torch_layer(cell, arrays, False, grads)
    for a, b in zip(got, want, strict=True):
        if b is not None:
            assert_close(a, b, np.float64)


@pytest.mark.parametrize("cell", GATES)
def test_layer_gradients_of_some_arguments(cell):
    arrays, grads = layer_arrays(cell, (3, 4, 5, 6), np.float64), output_grads(cell, (3, 4, 5, 6), np.float64)
    _, want = torch_layer(cell, arrays, False, grads)
    for only in range(7):
        if arrays[only] is None:
            continue
        given = [None if a is None else fastnn.tensor(a, requires_grad=i == only) for i, a in enumerate(arrays)]
        y, *_ = ops._ops[cell](*given, False)
        y.backward(fastnn.tensor(grads[0]))
        assert [i for i, g in enumerate(given) if g is not None and g.grad is not None] == [only]
    assert len(want) == 7


def test_biases_have_their_own_gradients():
    arrays = layer_arrays("lstm", (2, 3, 4, 5), np.float32)
    given = [fastnn.tensor(a, requires_grad=True) for a in arrays]
    for _ in range(2):
        ops._ops["lstm"](*given, False)[0].sum().backward()
    once = [fastnn.tensor(a, requires_grad=True) for a in arrays]
    ops._ops["lstm"](*once, False)[0].sum().backward()
    for a, b in zip(given, once, strict=True):
        np.testing.assert_allclose(a.grad.numpy(), 2 * b.grad.numpy(), rtol=1e-6)


@pytest.mark.parametrize("cell", GATES)
def test_same_bits_for_any_number_of_threads(cell, isa):
    sizes = (3, 70, 40, 96) if isa != "generic" else (2, 33, 20, 48)
    arrays, grads = layer_arrays(cell, sizes, np.float32), output_grads(cell, sizes, np.float32)
    results = []
    for threads in (1, 2, 3, 8):
        _C.set_num_threads(threads)
        outputs, gradients = our_layer(cell, arrays, False, grads)
        results.append([a.tobytes() for a in [*outputs, *gradients] if a is not None])
    assert all(r == results[0] for r in results)


@pytest.mark.parametrize("cell", GATES)
def test_layouts(cell):
    """Arguments and gradients of any strides."""
    arrays, grads = layer_arrays(cell, (3, 4, 5, 6), np.float32), output_grads(cell, (3, 4, 5, 6), np.float32)
    want = our_layer(cell, arrays, False, grads)
    other = [None if a is None else np.asfortranarray(a) for a in arrays]
    got = our_layer(cell, other, False, grads)
    for a, b in zip([*got[0], *got[1]], [*want[0], *want[1]], strict=True):
        if b is not None:
            np.testing.assert_array_equal(a, b)
    x = fastnn.tensor(arrays[0], requires_grad=True)
    y, *_ = ops._ops[cell](x, *(None if a is None else fastnn.tensor(a) for a in arrays[1:]), False)
    y.backward(fastnn.from_numpy(np.broadcast_to(np.float32(1), y.shape)))
    ones = our_layer(cell, arrays, False, [np.ones(y.shape, np.float32), *(None for _ in grads[1:])])
    np.testing.assert_array_equal(x.grad.numpy(), ones[1][0])


@pytest.mark.parametrize("cell", GATES)
def test_nan_and_infinity_go_through(cell, isa):
    arrays = layer_arrays(cell, (3, 4, 5, 6), np.float32)
    arrays[0][1, 0, 0], arrays[0][0, 1, 1], arrays[0][0, 2, 2] = np.nan, np.inf, -np.inf
    for got, want in zip(ops._ops[cell](*arrays, False), expected_layer(cell, arrays, False), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
        assert np.isnan(got).any() and np.isfinite(got[..., 3, :]).all()


def test_large_preactivations_saturate(isa):
    arrays = layer_arrays("lstm", (3, 4, 5, 6), np.float32)
    arrays[0] *= 1e30
    for got in ops._ops["lstm"](*arrays, False):
        assert np.isfinite(got).all()


@pytest.mark.parametrize(
    "change, error, words",
    [
        (dict(x=np.zeros((2, 3), np.float32)), ValueError, r"lstm: input has shape \(2, 3\)"),
        (dict(x=np.zeros((0, 3, 4), np.float32)), ValueError, "lstm: input has no steps"),
        (
            dict(x=np.zeros((2, 3, 5), np.float32)),
            ValueError,
            r"lstm: weight_ih has shape \(20, 4\); expected \(20, 5\)",
        ),
        (dict(x=np.zeros((2, 3, 4))), TypeError, "lstm: weight_hh is float32 but input is float64"),
        (dict(x=np.zeros((2, 3, 4), np.int64)), NotImplementedError, "lstm: input has dtype int64"),
        (dict(h0=np.zeros((4, 5), np.float32)), ValueError, r"lstm: h0 has shape \(4, 5\); expected \(3, 5\)"),
        (dict(c0=np.zeros((3, 5), np.float16)), TypeError, "lstm: c0 is float16"),
        (dict(w_hh=np.zeros((20,), np.float32)), ValueError, "lstm: weight_hh"),
        (dict(w_hh=np.zeros((20, 0), np.float32)), ValueError, "lstm: weight_hh"),
        (dict(w_hh=np.zeros((20, 6), np.float32)), ValueError, "lstm: weight_hh"),
        (dict(b_ih=None), ValueError, "lstm: expected both biases or none"),
        (dict(b_hh=np.zeros((5,), np.float32)), ValueError, "lstm: bias_hh"),
    ],
)
def test_layer_errors(change, error, words):
    names = ["x", "h0", "c0", "w_ih", "w_hh", "b_ih", "b_hh"]
    arrays = dict(zip(names, layer_arrays("lstm", (2, 3, 4, 5), np.float32), strict=True))
    with pytest.raises(error, match=words):
        ops._ops["lstm"](*{**arrays, **change}.values(), False)


def test_steps_of_an_empty_batch_take_no_time():
    arrays = layer_arrays("gru", (2, 0, 4, 5), np.float32)
    x = fastnn.tensor(np.zeros((1 << 40, 0, 4), np.float32), requires_grad=True)
    y, h_n = ops._ops["gru"](x, *(None if a is None else fastnn.tensor(a) for a in arrays[1:]), False)
    assert y.shape == (1 << 40, 0, 5) and h_n.shape == (0, 5)
    y.sum().backward()
    assert x.grad.shape == x.shape


def test_native_errors():
    t = [None if a is None else fastnn.tensor(a) for a in layer_arrays("gru", (2, 3, 4, 5), np.float32)]
    with pytest.raises(ValueError, match="cell is elman"):
        _C.rnn_layer("elman", *t, False)
    with pytest.raises(ValueError, match="got c0"):
        _C.rnn_layer("gru", t[0], t[1], t[1], *t[3:], False)
    y, h_n, c_n, h, c, gates, term = _C.rnn_layer("gru", *t, False)
    needs = (1,) * 7
    with pytest.raises(ValueError, match="gru: grad has shape"):
        _C.rnn_layer_backward("gru", h_n, None, None, t[0], t[3], t[4], h, c, gates, term, False, needs)
    with pytest.raises(ValueError, match="gru: gates has shape"):
        _C.rnn_layer_backward("gru", y, None, None, t[0], t[3], t[4], h, c, h, term, False, needs)
    with pytest.raises(ValueError, match="hidden_term for gru"):
        _C.rnn_layer_backward("gru", y, None, None, t[0], t[3], t[4], h, c, gates, None, False, needs)
    with pytest.raises(ValueError, match="needs has 2"):
        _C.rnn_layer_backward("gru", y, None, None, t[0], t[3], t[4], h, c, gates, term, False, needs[:2])


# ---- modules


@pytest.mark.parametrize("name", [*NAMES, "RNNCell", "LSTMCell", "GRUCell"])
def test_signatures_and_names_are_those_of_torch(name):
    ours, theirs = getattr(fastnn, name)(3, 5), getattr(torch.nn, name)(3, 5)
    assert {k: tuple(v.shape) for k, v in ours.state_dict().items()} == {
        k: tuple(v.shape) for k, v in theirs.state_dict().items()
    }
    for value in ours.state_dict().values():
        assert np.abs(value.numpy()).max() <= 5**-0.5 and np.abs(value.numpy()).max() > 0.2
    assert repr(ours) == repr(theirs)
    signature = inspect.signature(getattr(torch.nn, name).__init__).parameters
    if "args" not in signature:
        mine = inspect.signature(getattr(fastnn, name).__init__).parameters
        assert [(p.name, p.default) for p in mine.values()] == [(p.name, p.default) for p in signature.values()]


def pair(name, *args, dtype="float32", **kwargs):
    """The same module here and in torch, with the same parameters."""
    theirs = getattr(torch.nn, name)(*args, **kwargs, dtype=getattr(torch, dtype))
    ours = getattr(fastnn, name)(*args, **kwargs, dtype=np.dtype(dtype))
    assert repr(ours) == repr(theirs)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


def leaves(states, library):
    make = (lambda a: fastnn.tensor(a, requires_grad=True)) if library is fastnn else None
    make = make or (lambda a: torch.tensor(a, requires_grad=True))
    return [make(a) for a in states]


def compare(name, ours, theirs, x, states, dtype):
    """Outputs, and gradients of inputs, states and parameters."""
    results = []
    for module, library in ((ours, fastnn), (theirs, torch)):
        given = leaves([x, *states], library)
        hx = None if not states else given[1] if len(states) == 1 else tuple(given[1:])
        y, last = module(given[0], hx) if states else module(given[0])
        last = last if isinstance(last, tuple) else (last,)
        total = (y * y).sum()
        for i, state in enumerate(last):
            total = total + (state * (i + 2.0)).sum()
        total.backward()
        parameters = list(module.parameters())
        results.append([t.detach().numpy() for t in (y, *last)] + [t.grad.numpy() for t in (*given, *parameters)])
    for got, want in zip(*results, strict=True):
        assert_close(got, want, np.dtype(dtype), 5)


OPTIONS = [
    {},
    dict(bias=False),
    dict(num_layers=2),
    dict(bidirectional=True),
    dict(batch_first=True),
    dict(num_layers=3, bidirectional=True, batch_first=True),
]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_module(name, options, dtype):
    rng = np.random.default_rng(3)
    ours, theirs = pair(name, 5, 9, dtype=dtype, **options)
    count = options.get("num_layers", 1) * (2 if options.get("bidirectional") else 1)
    shape = (3, 4, 5) if options.get("batch_first") else (4, 3, 5)
    x = draw(rng, shape, dtype)
    states = [draw(rng, (count, 3, 9), dtype) for _ in range(2 if name == "LSTM" else 1)]
    compare(name, ours, theirs, x, states, dtype)
    compare(name, *pair(name, 5, 9, dtype=dtype, **options), x, [], dtype)
    compare(name, *pair(name, 5, 9, dtype=dtype, **options), x[:, 1], [s[:, 1] for s in states], dtype)
    compare(name, *pair(name, 5, 9, dtype=dtype, **options), x[:, 1], [], dtype)


def test_module_with_relu():
    x = draw(np.random.default_rng(3), (4, 3, 5), np.float64)
    compare("RNN", *pair("RNN", 5, 9, num_layers=2, nonlinearity="relu", dtype="float64"), x, [], "float64")


@pytest.mark.parametrize("name", NAMES)
def test_module_on_every_isa(name, isa):
    x = draw(np.random.default_rng(3), (6, 5, 20), np.float32)
    compare(name, *pair(name, 20, 40, num_layers=2, bidirectional=True), x, [], "float32")


@pytest.mark.parametrize("name", NAMES)
def test_numpy_in_numpy_out(name):
    module = getattr(fastnn, name)(5, 9)
    x = draw(np.random.default_rng(3), (4, 3, 5), np.float32)
    with fastnn.no_grad():
        y, last = module(x)
        for array in (y, *(last if name == "LSTM" else (last,))):
            assert isinstance(array, np.ndarray)
        states = tuple(np.ones((1, 3, 9), np.float32) for _ in range(2))
        again, _ = module(x, states if name == "LSTM" else states[0])
    assert isinstance(again, np.ndarray) and not np.array_equal(y, again)


@pytest.mark.parametrize("name", NAMES)
def test_dropout_between_layers(name):
    x = fastnn.tensor(draw(np.random.default_rng(3), (4, 3, 5), np.float32))
    module = getattr(fastnn, name)(5, 9, num_layers=2, dropout=0.5)
    plain = getattr(fastnn, name)(5, 9, num_layers=2)
    plain.load_state_dict(module.state_dict())
    want = plain(x)[0].detach().numpy()
    fastnn.manual_seed(0)
    first = module(x)[0].detach().numpy()
    assert not np.allclose(first, want)
    fastnn.manual_seed(0)
    np.testing.assert_array_equal(module(x)[0].detach().numpy(), first)
    np.testing.assert_array_equal(module.eval()(x)[0].detach().numpy(), want)
    with pytest.warns(UserWarning, match="dropout"):
        getattr(fastnn, name)(5, 9, dropout=0.5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        getattr(fastnn, name)(5, 9, num_layers=2, dropout=0.5)


@pytest.mark.parametrize("name", NAMES)
def test_copies(name):
    module = getattr(fastnn, name)(5, 9, num_layers=2, bidirectional=True)
    x = fastnn.tensor(draw(np.random.default_rng(3), (4, 3, 5), np.float32))
    want = module(x)[0].detach().numpy()
    for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        np.testing.assert_array_equal(other(x)[0].detach().numpy(), want)
        assert other.all_weights[3][1] is other.weight_hh_l1_reverse
    module.flatten_parameters()


def test_changes_in_place_of_what_the_tape_needs():
    module = fastnn.LSTM(5, 9)
    y, _ = module(fastnn.tensor(draw(np.random.default_rng(3), (4, 3, 5), np.float32)))
    with fastnn.no_grad():
        y += 1
    with pytest.raises(RuntimeError, match="in place|modified"):
        y.sum().backward()


@pytest.mark.parametrize("name", NAMES)
def test_torch_tensors(name):
    ours, theirs = pair(name, 5, 9, num_layers=2)
    x = torch.randn(4, 3, 5, requires_grad=True)
    weights = [w for layer in theirs.all_weights for w in layer]
    hx = torch.zeros(2, 3, 9)
    function = getattr(ops, {"RNN": "rnn_tanh"}.get(name, name.lower()))
    y, *_ = function(x, (hx, hx) if name == "LSTM" else hx, weights, True, 2, 0.0, True, False, False)
    want, _ = theirs(x)
    torch.testing.assert_close(y, want, rtol=1e-5, atol=1e-5)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    (expected,) = torch.autograd.grad(want.sum(), x)
    torch.testing.assert_close(gradient, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "make, error, words",
    [
        (lambda: fastnn.LSTM(3, 0), ValueError, "LSTM: hidden_size is 0"),
        (lambda: fastnn.GRU(-1, 3), ValueError, "GRU: input_size is -1"),
        (lambda: fastnn.RNN(3, 3, 0), ValueError, "RNN: num_layers is 0"),
        (lambda: fastnn.RNN(3, 3.5), TypeError, "RNN: hidden_size is 3.5"),
        (lambda: fastnn.RNN(3, 3, nonlinearity="gelu"), ValueError, "RNN: nonlinearity is 'gelu'"),
        (lambda: fastnn.RNNCell(3, 3, nonlinearity="gelu"), ValueError, "RNNCell: nonlinearity is 'gelu'"),
        (lambda: fastnn.LSTM(3, 4, proj_size=2), NotImplementedError, "LSTM: proj_size is 2"),
        (lambda: fastnn.LSTM(3, 4, 2, dropout=1.5), ValueError, "LSTM: dropout is 1.5"),
        (lambda: fastnn.LSTM(3, 4, 2, dropout=True), ValueError, "LSTM: dropout is True"),
        (lambda: fastnn.LSTM(3, 4)(fastnn.zeros(2, 5)), ValueError, r"LSTM: input has shape \(2, 5\)"),
        (lambda: fastnn.LSTM(3, 4)(fastnn.zeros(2, 5, 1, 3)), ValueError, "LSTM: input has shape"),
        (lambda: fastnn.LSTM(3, 4)(fastnn.zeros(2, 5, 3), fastnn.zeros(1, 5, 4)), TypeError, "LSTM: hx is a Tensor"),
        (lambda: fastnn.GRU(3, 4)(fastnn.zeros(2, 5, 3), fastnn.zeros(1, 4, 4)), ValueError, "GRU: h_0 has shape"),
        (lambda: fastnn.GRU(3, 4)(fastnn.zeros(0, 5, 3)), ValueError, "gru: input has no steps"),
        (
            lambda: fastnn.GRU(3, 4)(torch.nn.utils.rnn.pack_padded_sequence(torch.zeros(2, 5, 3), [2, 2, 1, 1, 1])),
            NotImplementedError,
            "PackedSequence",
        ),
        (lambda: fastnn.GRUCell(3, 4)(fastnn.zeros(2, 5, 3)), ValueError, "gru_cell: input has shape"),
        (lambda: fastnn.GRUCell(3, 4)(fastnn.zeros(2, 3), fastnn.zeros(4)), ValueError, "gru_cell: h0 has shape"),
        (lambda: ops.gru(fastnn.zeros(2, 5, 3), None, [], True, 1, 0.0, True, False, False), ValueError, "gru: got 0"),
    ],
)
def test_module_errors(make, error, words):
    with pytest.raises(error, match=words):
        make()


# ---- cells


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize("options", [{}, dict(bias=False), dict(nonlinearity="relu")], ids=str)
@pytest.mark.parametrize("name", ["RNNCell", "LSTMCell", "GRUCell"])
def test_cell(name, options, batched, dtype):
    if "nonlinearity" in options and name != "RNNCell":
        pytest.skip("only RNNCell has it")
    rng = np.random.default_rng(3)
    ours, theirs = pair(name, 5, 9, dtype=dtype, **options)
    x = draw(rng, (3, 5) if batched else (5,), dtype)
    states = [draw(rng, (3, 9) if batched else (9,), dtype) for _ in range(2 if name == "LSTMCell" else 1)]
    for given in (states, []):
        results = []
        for module, library in ((ours, fastnn), (theirs, torch)):
            for parameter in module.parameters():
                parameter.grad = None
            inputs = leaves([x, *given], library)
            out = module(inputs[0], *([] if not given else [tuple(inputs[1:]) if len(given) == 2 else inputs[1]]))
            outputs = out if isinstance(out, tuple) else (out,)
            total = sum(((i + 1.0) * (o * o).sum() for i, o in enumerate(outputs[1:], 1)), (outputs[0] * 2.0).sum())
            total.backward()
            weights = [p for p in module.parameters()]
            results.append([o.detach().numpy() for o in outputs] + [t.grad for t in (*inputs, *weights)])
        for got, want in zip(*results, strict=True):
            if want is not None:
                assert_close(np.asarray(got), np.asarray(want), np.dtype(dtype), 2)
