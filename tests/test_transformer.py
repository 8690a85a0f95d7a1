"""Transformer, its encoder, decoder and layers against torch.nn's with the same weights."""

import inspect

import fastnn
import numpy as np
import pytest

torch = pytest.importorskip("torch")

NAMES = (
    "Transformer",
    "TransformerEncoder",
    "TransformerDecoder",
    "TransformerEncoderLayer",
    "TransformerDecoderLayer",
)
E, H, N, L, S = 12, 3, 2, 5, 7
SMALL = {"dim_feedforward": 20, "dropout": 0.0}
CAUSAL = ~np.tri(L, dtype=bool)
ADDED = np.where(CAUSAL, -np.inf, 0).astype(np.float32)
PADDING = np.arange(S) >= np.array([[6], [4]])


def in_torch(value):
    return torch.tensor(value) if isinstance(value, np.ndarray) else value


def pair(name, *layer, **kwargs):
    """Ours and torch's, with the same weights, which go there and back through state_dicts."""
    made = []
    for library in (fastnn, torch.nn):
        if layer:
            inner = getattr(library, f"{name}Layer")(E, H, **kwargs)
            made.append(getattr(library, name)(inner, *layer, norm=library.LayerNorm(E)))
        else:
            made.append(getattr(library, name)(E, H, **kwargs))
    ours, theirs = made
    with torch.no_grad():
        for i, p in enumerate(theirs.parameters()):
            p.copy_(torch.randn(p.shape, generator=torch.Generator().manual_seed(i)) * 0.3)
    ours.load_state_dict(theirs.state_dict())
    theirs.load_state_dict({k: torch.from_numpy(v.numpy().copy()) for k, v in ours.state_dict().items()})
    return ours, theirs


def check(ours, theirs, rng, shapes, **kwargs):
    arrays = [rng.standard_normal(shape).astype(np.float32) for shape in shapes]
    mine = [fastnn.tensor(a, requires_grad=True) for a in arrays]
    yours = [torch.tensor(a, requires_grad=True) for a in arrays]
    y = ours(*mine, **kwargs)
    z = theirs(*yours, **{k: in_torch(v) for k, v in kwargs.items()})
    np.testing.assert_allclose(y.detach().numpy(), z.detach().numpy(), rtol=1e-4, atol=2e-5)
    g = rng.standard_normal(y.shape).astype(np.float32)
    y.backward(fastnn.tensor(g))
    z.backward(torch.tensor(g))
    for a, b in zip(mine, yours, strict=True):
        np.testing.assert_allclose(a.grad.numpy(), b.grad.numpy(), rtol=1e-3, atol=1e-4)
    for (n, p), q in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        np.testing.assert_allclose(p.grad.numpy(), q.grad.numpy(), rtol=1e-3, atol=5e-4, err_msg=n)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
def test_encoder_layer(batch_first, norm_first, rng):
    shape = (N, S, E) if batch_first else (S, N, E)
    for extra in ({}, {"activation": "gelu"}, {"bias": False}):
        kwargs = {**SMALL, "batch_first": batch_first, "norm_first": norm_first, **extra}
        ours, theirs = pair("TransformerEncoderLayer", **kwargs)
        check(ours, theirs, rng, [shape])
        check(ours, theirs, rng, [shape], src_key_padding_mask=PADDING)
        check(ours, theirs, rng, [shape], src_mask=np.triu(np.ones((S, S), bool), 1), is_causal=True)
        check(ours, theirs, rng, [(S, E)])


def test_activation_may_be_any_function(rng):
    for activation in ("silu", "relu"):
        modules = [
            library.TransformerEncoderLayer(E, H, 20, 0.0, getattr(library.functional, activation))
            for library in (fastnn, torch.nn)
        ]
        modules[0].load_state_dict(modules[1].state_dict())
        check(*modules, rng, [(S, N, E)])
    seen = []
    modules[0].linear1.register_forward_hook(lambda module, args, out: seen.append(out.shape))
    check(*modules, rng, [(S, N, E)])  # a hook sees what linear1 gives
    assert seen == [(S, N, 20)]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
def test_decoder_layer(batch_first, norm_first, rng):
    shapes = [(N, L, E), (N, S, E)] if batch_first else [(L, N, E), (S, N, E)]
    ours, theirs = pair("TransformerDecoderLayer", **SMALL, batch_first=batch_first, norm_first=norm_first)
    check(ours, theirs, rng, shapes)
    check(ours, theirs, rng, shapes, tgt_mask=CAUSAL, tgt_is_causal=True, memory_key_padding_mask=PADDING)
    memory_mask = rng.standard_normal((L, S)).astype(np.float32)
    check(ours, theirs, rng, shapes, tgt_mask=ADDED, memory_mask=memory_mask)
    check(ours, theirs, rng, [(L, E), (S, E)])


@pytest.mark.filterwarnings("ignore")
def test_stacks(rng):
    ours, theirs = pair("TransformerEncoder", 3, **SMALL)
    check(ours, theirs, rng, [(L, N, E)])
    for mask in (CAUSAL, ADDED, ADDED[:, ::-1].copy()):
        check(ours, theirs, rng, [(L, N, E)], mask=mask)  # they see for themselves whether it is causal
    ours, theirs = pair("TransformerDecoder", 2, **SMALL, batch_first=True)
    check(ours, theirs, rng, [(N, L, E), (N, S, E)], tgt_mask=ADDED)
    assert ours.layers[0].linear1.weight is not ours.layers[1].linear1.weight
    empty = fastnn.TransformerEncoder(fastnn.TransformerEncoderLayer(E, H), 0)
    x = fastnn.tensor(np.ones((L, N, E), np.float32))
    assert empty(x) is x


@pytest.mark.filterwarnings("ignore")
def test_transformer(rng):
    kwargs = {**SMALL, "num_encoder_layers": 2, "num_decoder_layers": 2}
    ours, theirs = pair("Transformer", **kwargs)
    check(ours, theirs, rng, [(S, N, E), (L, N, E)], tgt_mask=CAUSAL, src_key_padding_mask=PADDING)
    ours, theirs = pair("Transformer", **kwargs, batch_first=True, norm_first=True, bias=False)
    check(ours, theirs, rng, [(N, S, E), (N, L, E)], tgt_mask=ADDED, tgt_is_causal=True)
    mask = fastnn.Transformer.generate_square_subsequent_mask(L)
    np.testing.assert_array_equal(mask.numpy(), torch.nn.Transformer.generate_square_subsequent_mask(L).numpy())
    with pytest.raises(ValueError, match="Transformer: src has shape .* one batch"):
        ours(np.zeros((N, S, E), np.float32), np.zeros((N + 1, L, E), np.float32))
    with pytest.raises(ValueError, match="Transformer: src has shape .* last sizes of 12"):
        ours(np.zeros((N, S, E + 1), np.float32), np.zeros((N, L, E), np.float32))
    with pytest.raises(ValueError, match="TransformerEncoderLayer: activation is 'x'"):
        fastnn.TransformerEncoderLayer(E, H, activation="x")


def test_looks_like_torch():
    for name in NAMES:
        for call in ("__init__", "forward"):
            mine, yours = (inspect.signature(getattr(getattr(c, name), call)).parameters for c in (fastnn, torch.nn))
            for a, b in zip(mine.values(), yours.values(), strict=True):
                assert a.name == b.name
                assert a.default == b.default or a.name == "activation"
    for kwargs in ({}, {"bias": False}, {"norm_first": True}):
        ours = fastnn.Transformer(E, H, 1, 1, 20, **kwargs)
        theirs = torch.nn.Transformer(E, H, 1, 1, 20, **kwargs)
        assert [(k, v.shape) for k, v in ours.state_dict().items()] == [
            (k, tuple(v.shape)) for k, v in theirs.state_dict().items()
        ]


def test_initial_values():
    """Matrices of Transformer are Xavier's; those of a layer alone, Linear's and MultiheadAttention's."""
    fastnn.manual_seed(0)
    whole, layer = fastnn.Transformer(64, 4, 1, 1, 256), fastnn.TransformerEncoderLayer(64, 4, 256)
    torch.manual_seed(0)
    theirs = torch.nn.Transformer(64, 4, 1, 1, 256), torch.nn.TransformerEncoderLayer(64, 4, 256)
    for ours, reference in zip((whole, layer), theirs, strict=True):
        for (name, a), b in zip(ours.named_parameters(), reference.parameters(), strict=True):
            bound = float(b.detach().abs().max())
            assert np.abs(a.detach().numpy()).max() == pytest.approx(bound, rel=0.05, abs=1e-6), name


def test_dropout_looks_at_training(rng):
    m = fastnn.TransformerEncoderLayer(E, H, dropout=0.5)
    x = rng.standard_normal((L, N, E)).astype(np.float32)
    a, b = (m(fastnn.tensor(x)).detach().numpy() for _ in range(2))
    assert not np.array_equal(a, b)
    m.eval()
    a, b = (m(fastnn.tensor(x)).detach().numpy() for _ in range(2))
    np.testing.assert_array_equal(a, b)
