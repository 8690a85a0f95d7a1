"""conv3d, the transposed convolutions and padding modes against torch in float64, forward and backward."""

import fastnn
import fastnn.functional as F
import numpy as np
import pytest

torch = pytest.importorskip("torch")


def compare(op, arguments, *arrays, tolerance=1e-12):
    """Values and gradients of functional.op(*arrays, **arguments) beside torch's."""
    ours = [None if a is None else fastnn.tensor(a, requires_grad=True) for a in arrays]
    theirs = [None if a is None else torch.tensor(a.astype(np.float64), requires_grad=True) for a in arrays]
    y = getattr(F, op)(*ours, **arguments)
    wanted = getattr(torch.nn.functional, op)(*theirs, **arguments)
    grad = np.random.default_rng(7).standard_normal(wanted.shape).astype(arrays[0].dtype)
    y.backward(fastnn.tensor(grad))
    wanted.backward(torch.tensor(grad.astype(np.float64)))
    pairs = [(y.numpy(), wanted)] + [
        (o.grad.numpy(), t.grad) for o, t in zip(ours, theirs, strict=True) if o is not None
    ]
    for got, expected in pairs:
        expected = expected.detach().numpy()
        assert got.shape == expected.shape and got.dtype == arrays[0].dtype
        assert np.abs(got - expected).max(initial=0) <= tolerance * max(np.abs(expected).max(initial=0), 1)


CONV3D = [
    ((2, 3, 5, 6, 7), (4, 3, 3, 3, 3), {}),
    ((1, 4, 6, 5, 5), (6, 2, 2, 3, 1), {"stride": (2, 1, 2), "padding": (1, 2, 0), "groups": 2}),
    ((2, 2, 7, 6, 6), (2, 2, 3, 2, 2), {"dilation": (2, 1, 3), "padding": 1}),
    ((2, 3, 4, 5, 6), (3, 3, 3, 2, 3), {"padding": "same"}),
    ((2, 3, 4, 5, 6), (3, 3, 1, 1, 1), {"padding": "valid"}),
    ((3, 4, 5, 6), (2, 3, 2, 2, 2), {}),
    ((0, 3, 4, 5, 6), (2, 3, 2, 2, 2), {}),
]


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize("x, w, arguments", CONV3D)
@pytest.mark.parametrize("bias", [True, False])
def test_conv3d(isa, rng, x, w, arguments, bias):
    arrays = [rng.standard_normal(s) for s in (x, w)] + ([rng.standard_normal(w[0])] if bias else [None])
    compare("conv3d", arguments, *arrays)
    compare("conv3d", arguments, *(None if a is None else a.astype(np.float32) for a in arrays), tolerance=1e-5)


TRANSPOSED = [
    ((2, 3, 5, 6), (3, 4, 3, 3), {}),
    ((2, 4, 5, 7), (4, 3, 4, 3), {"stride": 2, "padding": 1, "output_padding": 1}),
    ((1, 6, 4, 4), (6, 2, 3, 2), {"stride": (3, 2), "padding": (2, 0), "groups": 3, "output_padding": (2, 1)}),
    ((2, 2, 5, 5), (2, 5, 2, 3), {"dilation": (3, 2), "padding": 2}),
    ((2, 2, 5, 5), (2, 5, 2, 3), {"dilation": 3, "stride": 2, "output_padding": 2, "padding": 1}),
    ((2, 2, 3, 3), (2, 5, 2, 3), {"dilation": 3, "output_padding": (2, 1)}),
    ((3, 5, 6), (3, 4, 1, 1), {"stride": 2}),
    ((0, 3, 5, 6), (3, 4, 3, 3), {}),
]


@pytest.mark.parametrize("x, w, arguments", TRANSPOSED)
@pytest.mark.parametrize("bias", [True, False])
def test_conv_transpose2d(isa, rng, x, w, arguments, bias):
    out = w[1] * arguments.get("groups", 1)
    arrays = [rng.standard_normal(s) for s in (x, w)] + ([rng.standard_normal(out)] if bias else [None])
    compare("conv_transpose2d", arguments, *arrays)
    compare(
        "conv_transpose2d", arguments, *(None if a is None else a.astype(np.float32) for a in arrays), tolerance=1e-5
    )


def test_conv_transpose2d_keeps_channels_last(rng):
    x = rng.standard_normal((2, 5, 6, 8)).astype("float32").transpose(0, 3, 1, 2)
    x = fastnn.from_numpy(x)
    w = rng.standard_normal((8, 4, 3, 3)).astype("float32")
    y = F.conv_transpose2d(x, fastnn.tensor(w), stride=2)
    assert fastnn._C.is_channels_last(y)
    wanted = torch.nn.functional.conv_transpose2d(torch.tensor(x.numpy()), torch.tensor(w), stride=2).numpy()
    np.testing.assert_allclose(y.numpy(), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "op, x, w, arguments",
    [
        ("conv_transpose1d", (2, 3, 8), (3, 4, 3), {"stride": 2, "output_padding": 1}),
        ("conv_transpose1d", (4, 8), (4, 2, 5), {"padding": 2, "groups": 2}),
        ("conv_transpose3d", (2, 3, 3, 4, 5), (3, 2, 2, 3, 3), {}),
        (
            "conv_transpose3d",
            (1, 4, 3, 3, 4),
            (4, 2, 3, 2, 3),
            {"stride": 2, "padding": 1, "output_padding": 1, "groups": 2},
        ),
        ("conv_transpose3d", (2, 3, 3, 4), (2, 3, 2, 2, 2), {"dilation": 2, "stride": (1, 2, 1)}),
    ],
)
def test_conv_transpose_of_other_ranks(rng, op, x, w, arguments):
    bias = rng.standard_normal(w[1] * arguments.get("groups", 1))
    compare(op, arguments, rng.standard_normal(x), rng.standard_normal(w), bias)


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize("padding", [2, "same"])
def test_padding_modes(rng, mode, axes, padding):
    if mode == "reflect" and axes == 3 and padding == "same":
        padding = 1
    ours = getattr(fastnn, f"Conv{axes}d")(3, 4, 3, padding=padding, padding_mode=mode, dilation=1)
    theirs = getattr(torch.nn, f"Conv{axes}d")(3, 4, 3, padding=padding, padding_mode=mode)
    theirs.load_state_dict({k: torch.tensor(v.numpy()) for k, v in ours.state_dict().items()})
    x = rng.standard_normal((2, 3) + (5,) * axes).astype("float32")
    wanted = theirs(torch.tensor(x)).detach().numpy()
    np.testing.assert_allclose(ours(fastnn.tensor(x)).detach().numpy(), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_transposed_layers(rng, axes):
    arguments = {"stride": 2, "padding": 1, "groups": 2, "bias": True}
    ours = getattr(fastnn, f"ConvTranspose{axes}d")(4, 6, 3, **arguments)
    theirs = getattr(torch.nn, f"ConvTranspose{axes}d")(4, 6, 3, **arguments)
    theirs.load_state_dict({k: torch.tensor(v.numpy()) for k, v in ours.state_dict().items()})
    x = rng.standard_normal((2, 4) + (5,) * axes).astype("float32")
    for size in (None, (10,) * axes):
        wanted = theirs(torch.tensor(x), size).detach().numpy()
        np.testing.assert_allclose(ours(fastnn.tensor(x), size).detach().numpy(), wanted, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="output_size"):
        ours(fastnn.tensor(x), (12,) * axes)


@pytest.mark.parametrize(
    "op, x, w, arguments, words",
    [
        ("conv3d", (1, 2, 3, 3), (1, 2, 3, 3), {}, "weight"),
        ("conv3d", (1, 2, 3, 3, 3), (1, 3, 1, 1, 1), {}, "channels"),
        ("conv3d", (1, 2, 3, 3, 3), (1, 2, 4, 1, 1), {}, "slices"),
        ("conv3d", (1, 2, 3, 3, 3), (1, 2, 1, 1, 1), {"stride": 0}, "stride"),
        ("conv3d", (1, 2, 3, 3, 3), (1, 2, 1, 1, 1), {"padding": -1}, "padding"),
        ("conv_transpose2d", (1, 2, 3, 3), (3, 2, 1, 1), {}, "channels"),
        ("conv_transpose2d", (1, 2, 3, 3), (2, 2, 3, 3), {"output_padding": 1}, "output_padding"),
        ("conv_transpose2d", (1, 2, 3, 3), (2, 2, 1, 1), {"padding": 9}, "padding"),
        ("conv_transpose2d", (1, 2, 3, 3), (2, 2, 1, 1), {"groups": 0}, "groups"),
        ("conv_transpose1d", (1, 2, 3, 3), (2, 2, 1), {}, "shape"),
    ],
)
def test_errors(op, x, w, arguments, words):
    with pytest.raises(ValueError, match=words):
        getattr(F, op)(np.ones(x, "float32"), np.ones(w, "float32"), **arguments)
