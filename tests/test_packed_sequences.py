"""Packed sequences: packing and padding, and recurrent layers on them, against torch's."""

import fastnn
import numpy as np
import pytest
from fastnn.utils import rnn

torch = pytest.importorskip("torch")
from torch.nn.utils import rnn as theirs  # noqa: E402

LENGTHS = [np.array(n) for n in ([3], [5, 5, 2, 1], [2, 7, 1, 7, 4], [1, 1, 1], [4, 4, 4])]
TOLERANCE = {"float32": 1e-5, "float64": 1e-10}


def both(rng, shape, dtype="float32"):
    a = rng.standard_normal(shape).astype(dtype)
    return fastnn.tensor(a, requires_grad=True), torch.tensor(a, requires_grad=True)


def same(ours, yours, tolerance=0.0):
    np.testing.assert_allclose(ours.detach().numpy(), yours.detach().numpy(), rtol=tolerance, atol=tolerance)


def same_packed(ours, yours, tolerance=0.0):
    same(ours.data, yours.data, tolerance)
    for a, b in zip(ours[1:], yours[1:], strict=True):
        assert (a is None) == (b is None)
    np.testing.assert_array_equal(ours.batch_sizes.numpy(), yours.batch_sizes.numpy())


@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
@pytest.mark.parametrize("batch_first", [False, True])
def test_pack_and_pad(lengths, batch_first, rng):
    n, steps = len(lengths), 8
    for trailing in ((), (3,), (2, 3)):
        a, b = both(rng, (n, steps, *trailing) if batch_first else (steps, n, *trailing))
        at = torch.tensor(lengths)
        ours = rnn.pack_padded_sequence(a, lengths, batch_first, enforce_sorted=False)
        yours = theirs.pack_padded_sequence(b, at, batch_first, enforce_sorted=False)
        np.testing.assert_array_equal(ours.batch_sizes.numpy(), yours.batch_sizes.numpy())
        results = []
        for kwargs in ({}, {"padding_value": -1.5, "total_length": 9}):
            (p, m), (q, k) = (
                library.pad_packed_sequence(packed, batch_first, **kwargs)
                for library, packed in ((rnn, ours), (theirs, yours))
            )
            same(p, q)
            np.testing.assert_array_equal(m.numpy(), k.numpy())
            results.append((p, q))
        (p * p).sum().backward()
        (q * q).sum().backward()
        np.testing.assert_allclose(a.grad.numpy(), b.grad.numpy(), rtol=1e-6)
        if (np.diff(lengths) <= 0).all():
            same_packed(
                rnn.pack_padded_sequence(a, lengths, batch_first), theirs.pack_padded_sequence(b, at, batch_first)
            )


def test_lists_of_sequences(rng):
    pairs = [both(rng, (n, 3)) for n in (4, 2, 5)]
    mine, yours = ([pair[i] for pair in pairs] for i in range(2))
    for kwargs in ({}, {"batch_first": True, "padding_value": 2.0}, {"padding_side": "left"}):
        same(rnn.pad_sequence(mine, **kwargs), theirs.pad_sequence(yours, **kwargs))
    padded = rnn.pad_sequence(mine)
    for sequences in (
        rnn.unpad_sequence(padded, [4, 2, 5]),
        rnn.unpack_sequence(rnn.pack_sequence(mine, enforce_sorted=False)),
    ):
        for a, b in zip(sequences, mine, strict=True):
            np.testing.assert_array_equal(a.detach().numpy(), b.detach().numpy())


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
@pytest.mark.parametrize("options", [{}, {"num_layers": 2, "bidirectional": True}, {"bias": False}], ids=str)
@pytest.mark.parametrize("name", ["RNN", "LSTM", "GRU"])
def test_layers(name, options, lengths, dtype, rng):
    ours = getattr(fastnn, name)(5, 9, dtype=dtype, **options)
    yours = getattr(torch.nn, name)(5, 9, dtype=getattr(torch, dtype), **options)
    ours.load_state_dict(yours.state_dict())
    a, b = both(rng, (7, len(lengths), 5), dtype)
    count = options.get("num_layers", 1) * (2 if options.get("bidirectional") else 1)
    states = [both(rng, (count, len(lengths), 9), dtype) for _ in range(2 if name == "LSTM" else 1)]
    for given in (True, False):
        results = []
        for module, library, x, i in ((ours, rnn, a, 0), (yours, theirs, b, 1)):
            for parameter in module.parameters():
                parameter.grad = None
            hx = [s[i] for s in states]
            for leaf in (x, *hx):
                leaf.grad = None
            at = lengths if library is rnn else torch.tensor(lengths)
            packed = library.pack_padded_sequence(x, at, enforce_sorted=False)
            y, last = module(packed, *([tuple(hx) if len(hx) == 2 else hx[0]] if given else []))
            assert isinstance(y, library.PackedSequence)
            last = last if isinstance(last, tuple) else (last,)
            padded, _ = library.pad_packed_sequence(y)
            total = (padded * padded).sum()
            for k, state in enumerate(last, 1):
                total = total + (state * state).sum() * k
            total.backward()
            leaves = (x, *(hx if given else ()), *module.parameters())
            results.append([padded, *last, *(leaf.grad for leaf in leaves)])
        for mine, want in zip(*results, strict=True):
            tolerance = TOLERANCE[dtype]
            np.testing.assert_allclose(
                mine.detach().numpy(), want.detach().numpy(), rtol=10 * tolerance, atol=20 * tolerance
            )


def test_dropout_between_layers(rng):
    module = fastnn.LSTM(5, 9, 2, dropout=0.5)
    packed = rnn.pack_padded_sequence(both(rng, (7, 3, 5))[0], [7, 4, 4])
    first, second = (module(packed)[0].data.numpy() for _ in range(2))
    assert not np.array_equal(first, second)
    module.eval()
    first, second = (module(packed)[0].data.numpy() for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_errors(rng):
    x = both(rng, (7, 3, 5))[0]
    for bad in ([7, 8, 1], [0, 1, 1], [1, 1]):
        with pytest.raises(ValueError, match="pack_padded_sequence: lengths are"):
            rnn.pack_padded_sequence(x, bad, enforce_sorted=False)
    with pytest.raises(ValueError, match="pack_padded_sequence: lengths are .* falling"):
        rnn.pack_padded_sequence(x, [1, 2, 3])
    with pytest.raises(TypeError, match="pack_padded_sequence: lengths is"):
        rnn.pack_padded_sequence(x, [1.5, 1.0, 1.0])
    packed = rnn.pack_padded_sequence(x, [7, 4, 4])
    with pytest.raises(ValueError, match="pad_packed_sequence: total_length is 5"):
        rnn.pad_packed_sequence(packed, total_length=5)
    with pytest.raises(ValueError, match="pad_sequence: padding_side"):
        rnn.pad_sequence([x], padding_side="top")
    with pytest.raises(ValueError, match="pad_sequence: sequences is empty"):
        rnn.pad_sequence([])
    with pytest.raises(ValueError, match=r"LSTM: packed data has shape \(15, 5\)"):
        fastnn.LSTM(4, 6)(packed)
    with pytest.raises(ValueError, match="GRU: h_0 has shape"):
        fastnn.GRU(5, 6)(packed, fastnn.zeros(1, 2, 6))
