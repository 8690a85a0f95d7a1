"""interpolate, pixel_shuffle, pooling of volumes and lp_pool against torch's functions, forward and backward."""

import fastnn
import fastnn.functional as F
import numpy as np
import pytest
from fastnn import _C
from guarded import guarded, poison
from test_embedding import BF16

torch = pytest.importorskip("torch")
T = torch.nn.functional

TOLERANCE = {np.dtype(np.float32): 2e-6, BF16: 2e-2, np.dtype(np.float16): 4e-3, np.dtype(np.float64): 1e-12}
MODES = {1: ("linear",), 2: ("bilinear", "bicubic"), 3: ("trilinear",)}


def check(name, x, tolerance, *args, **kwargs):
    """Against torch in float64; without arguments that torch takes in another form."""
    theirs = torch.tensor(np.ascontiguousarray(x).astype(np.float64), requires_grad=True)
    z = getattr(T, name)(theirs, *args, **kwargs)
    ours = fastnn.from_numpy(x)
    ours.requires_grad = True
    y = getattr(F, name)(ours, *args, **kwargs)
    if isinstance(z, tuple):
        np.testing.assert_array_equal(y[1].numpy(), z[1].numpy())
        y, z = y[0], z[0]
    assert y.dtype == x.dtype and y.shape == tuple(z.shape)
    grad = np.random.default_rng(3).standard_normal(z.shape).astype(x.dtype)
    y.backward(fastnn.tensor(grad))
    z.backward(torch.tensor(grad.astype(np.float64)))
    for mine, yours in ((y.detach(), z.detach()), (ours.grad, theirs.grad)):
        np.testing.assert_allclose(mine.numpy().astype(np.float64), yours.numpy(), rtol=tolerance, atol=2 * tolerance)
    return y


# ---- interpolate -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("axes", [1, 2, 3])
def test_sizes(axes, dtype, isa, rng):
    for before, after in (((5, 7, 9), (10, 14, 18)), ((5, 33, 16), (3, 17, 33)), ((1, 1, 3), (4, 5, 1))):
        before, after = before[-axes:], after[-axes:]
        x = rng.standard_normal((2, 3, *before)).astype(dtype)
        check("interpolate", x, TOLERANCE[dtype], after)
        check("interpolate", x, TOLERANCE[dtype], after, mode="nearest-exact")
        check("interpolate", x, TOLERANCE[dtype], after, mode="area")
        for mode in MODES[axes]:
            for align_corners in (False, True):
                check("interpolate", x, TOLERANCE[dtype], after, mode=mode, align_corners=align_corners)


@pytest.mark.parametrize("scale", [2, 1.5, 0.4, 2.7, (3.1, 0.7)], ids=str)
def test_scale_factors(scale, isa, rng):
    x = rng.standard_normal((2, 3, 11, 10)).astype(np.float32)
    for recompute in (None, True):
        for mode in ("nearest", "nearest-exact", "bilinear", "bicubic", "area"):
            check("interpolate", x, 2e-6, scale_factor=scale, mode=mode, recompute_scale_factor=recompute)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_layouts(dtype, isa, rng):
    for channels in (1, 7, 16, 33):
        x = rng.standard_normal((2, 6, 5, channels)).astype(dtype).transpose(0, 3, 1, 2)
        for mode in ("nearest", "bilinear", "bicubic"):
            y = check("interpolate", x, TOLERANCE[dtype], (9, 4), mode=mode)
            assert y.detach().numpy().transpose(0, 2, 3, 1).flags.c_contiguous or channels == 1
    base = rng.standard_normal((2, 3, 12, 14)).astype(dtype)
    for x in (base[:, ::-1, ::2, ::-2], np.asfortranarray(base), np.broadcast_to(base[:, :1, :, :1], base.shape)):
        check("interpolate", x, TOLERANCE[dtype], (9, 15), mode="bilinear")


def test_empty_and_special_values(isa):
    for mode in ("nearest", "bilinear"):
        assert F.interpolate(np.zeros((0, 3, 4, 5), np.float32), 7, mode=mode).shape == (0, 3, 7, 7)
        x = np.ones((1, 1, 8, 8), np.float32)
        x[0, 0, 3, 4], x[0, 0, 6, 1] = np.nan, np.inf
        y = F.interpolate(x, scale_factor=3, mode=mode)
        np.testing.assert_array_equal(
            np.isfinite(y), np.isfinite(T.interpolate(torch.tensor(x), None, 3, mode).numpy())
        )
        leaf = fastnn.tensor(np.ones((1, 1, 8, 8), np.float32), requires_grad=True)
        grad = np.ones((1, 1, 5, 5), np.float32)
        grad[0, 0, 2, 2] = np.inf  # only where that output comes from
        F.interpolate(leaf, 5, mode=mode).backward(fastnn.tensor(grad))
        assert 0 < (~np.isfinite(leaf.grad.numpy())).sum() <= 4


def test_guarded_memory(isa, rng):
    for shape in ((1, 1, 3, 17), (2, 3, 1, 1), (1, 2, 9, 31)):
        for layout in (np.ascontiguousarray, lambda a: a.transpose(0, 2, 3, 1).copy().transpose(0, 3, 1, 2)):
            x = layout(rng.standard_normal(shape).astype(np.float32))
            for at in ("start", "end"):
                poison(x.shape)
                for mode in ("nearest", "bicubic"):
                    assert np.isfinite(F.interpolate(guarded(x, at), (5, 33), mode=mode)).all()


def test_same_bits_for_any_number_of_threads(isa, rng):
    x = rng.standard_normal((2, 3, 70, 90)).astype(np.float32)
    results = set()
    for threads in (1, 2, 3, 8):
        _C.set_num_threads(threads)
        leaf = fastnn.tensor(x, requires_grad=True)
        y = F.interpolate(leaf, (133, 51), mode="bicubic")
        y.backward(y.detach())
        results.add(y.detach().numpy().tobytes() + leaf.grad.numpy().tobytes())
    assert len(results) == 1


def test_interpolate_errors():
    x = np.zeros((1, 2, 4, 5), np.float32)

    def bad(error, match, *args, **kwargs):
        with pytest.raises(error, match="interpolate: .*" + match):
            F.interpolate(*args, **kwargs)

    bad(ValueError, "expected one of them", x)
    bad(ValueError, "expected one of them", x, 3, 2)
    bad(ValueError, "mode is 'x'", x, 3, mode="x")
    bad(ValueError, "align_corners", x, 3, align_corners=True)
    bad(ValueError, "size is", x, (1, 2, 3))
    bad(ValueError, "expected at least 1", x, 0)
    bad(ValueError, "expected at least 1", x, scale_factor=0.1)
    bad(ValueError, "expected at least 1", x[:, :, :0], 3)
    bad(ValueError, "positive", x, scale_factor=-1.0)
    bad(ValueError, "positive", x, scale_factor=float("inf"))
    bad(ValueError, "recompute_scale_factor", x, 3, recompute_scale_factor=True)
    bad(TypeError, "size", x, 2.5)
    bad(NotImplementedError, "mode is 'linear'", x, 3, mode="linear")
    bad(NotImplementedError, "antialias", x, 3, mode="bilinear", antialias=True)
    bad(NotImplementedError, "input has dtype int64", x.astype(np.int64), 3)


# ---- pixels ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_pixel_shuffle(dtype, rng):
    for r in (1, 2, 3):
        for lead in ((), (2,), (2, 3)):
            x = rng.standard_normal((*lead, 2 * r * r, 4, 5)).astype(dtype)
            y = check("pixel_shuffle", x, 0, r)
            assert np.array_equal(F.pixel_unshuffle(y.detach(), r).numpy(), x)
            check("pixel_unshuffle", np.ascontiguousarray(y.detach().numpy()), 0, r)
    with pytest.raises(ValueError, match="pixel_shuffle: input has 3 channels"):
        F.pixel_shuffle(x[0, 0, :3], 2)
    with pytest.raises(ValueError, match="pixel_shuffle: upscale_factor is 0"):
        F.pixel_shuffle(x, 0)
    with pytest.raises(ValueError, match="pixel_unshuffle: input has 4 x 5"):
        F.pixel_unshuffle(x, 2)
    with pytest.raises(ValueError, match="pixel_shuffle: input has shape"):
        F.pixel_shuffle(x[0, 0, 0], 1)


# ---- volumes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_pooling_of_volumes(dtype, isa, rng):
    tolerance = 2 * TOLERANCE[dtype]
    values = rng.permutation(2 * 3 * 6 * 7 * 9).reshape(2, 3, 6, 7, 9)
    x = ((values - 1000) / 8).astype(dtype)
    for arrays in (x, x[0], x[:, ::-1, :, :, ::-1]):
        if dtype in (np.float32, np.float64):  # in the others there are ties, whose order float64 does not show
            check("max_pool3d", arrays, tolerance, 2, return_indices=True)
            check("max_pool3d", arrays, tolerance, (3, 2, 3), (2, 1, 2), (1, 0, 1), (1, 2, 1), True, True)
            check("adaptive_max_pool3d", arrays, tolerance, (4, None, 2), return_indices=True)
        check("avg_pool3d", arrays, tolerance, 2)
        check("avg_pool3d", arrays, tolerance, (3, 2, 3), (2, 1, 2), (1, 1, 0), True, False)
        check("avg_pool3d", arrays, tolerance, 3, 2, 1, divisor_override=-5)
        check("adaptive_avg_pool3d", arrays, tolerance, (4, None, 2))
        check("adaptive_avg_pool3d", arrays, tolerance, 1)
    y = F.max_pool3d(np.full((1, 1, 2, 2, 2), 3, dtype), 2, return_indices=True)
    assert y[1].item() == 0  # the first of equals


def test_special_values_in_volumes(isa):
    x = np.ones((1, 1, 4, 4, 4), np.float32)
    x[0, 0, 1, 0, 1], x[0, 0, 3, 3, 3], x[0, 0, 2, 2, 0] = np.nan, np.inf, -np.inf
    for name in ("max_pool3d", "avg_pool3d"):
        np.testing.assert_array_equal(getattr(F, name)(x, 2), getattr(T, name)(torch.tensor(x), 2).numpy())
    y, at = F.max_pool3d(x, 2, return_indices=True)
    np.testing.assert_array_equal(at, T.max_pool3d(torch.tensor(x), 2, return_indices=True)[1].numpy())


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_lp_pool(dtype, isa, rng):
    x = (rng.random((2, 3, 6, 7, 9)) + 0.5).astype(dtype)
    tolerance = 3 * TOLERANCE[dtype]
    for p in (1, 2, 3.5):
        check("lp_pool1d", x[0, 0], tolerance, p, 3, 2)
        check("lp_pool2d", x[0], tolerance, p, (3, 2), ceil_mode=True)
        check("lp_pool3d", x, tolerance, p, (3, 2, 2), (2, 2, 1))


def test_errors():
    x = np.zeros((2, 3, 4), np.float32)
    for name in ("max_pool3d", "avg_pool3d", "adaptive_max_pool3d", "adaptive_avg_pool3d"):
        with pytest.raises(ValueError, match=f"{name}: input has shape"):
            getattr(F, name)(x, 2)
    with pytest.raises(ValueError, match="max_pool3d: kernel_size"):
        F.max_pool3d(x[None], (1, 2))
    with pytest.raises(ValueError, match="avg_pool3d: divisor_override is 0"):
        F.avg_pool3d(x[None], 2, divisor_override=0)
    with pytest.raises(ValueError, match="adaptive_avg_pool3d: output_size"):
        F.adaptive_avg_pool3d(x[None], (1, 2))


# ---- modules ---------------------------------------------------------------------------------------------------------

MODULES = [
    ("Upsample", {"size": (7, 9), "mode": "bilinear"}, 2),
    ("Upsample", {"scale_factor": 2}, 2),
    ("UpsamplingNearest2d", {"scale_factor": 2}, 2),
    ("UpsamplingBilinear2d", {"size": 9}, 2),
    ("PixelShuffle", {"upscale_factor": 2}, 2),
    ("PixelUnshuffle", {"downscale_factor": 3}, 2),
    ("MaxPool3d", {"kernel_size": 2, "padding": 1}, 3),
    ("AvgPool3d", {"kernel_size": (2, 3, 2), "stride": 2}, 3),
    ("AdaptiveMaxPool3d", {"output_size": 2}, 3),
    ("AdaptiveAvgPool3d", {"output_size": (2, None, 3)}, 3),
    ("LPPool1d", {"norm_type": 2, "kernel_size": 2}, 1),
    ("LPPool2d", {"norm_type": 2, "kernel_size": 2, "stride": 1}, 2),
    ("LPPool3d", {"norm_type": 2, "kernel_size": 2}, 3),
]


@pytest.mark.parametrize(("name", "kwargs", "axes"), MODULES, ids=lambda v: v if isinstance(v, str) else "")
def test_modules(name, kwargs, axes, rng):
    ours, theirs = getattr(fastnn, name)(**kwargs), getattr(torch.nn, name)(**kwargs)
    x = rng.random((2, 4, *(6, 6, 6)[:axes])).astype(np.float32)
    np.testing.assert_allclose(ours(fastnn.tensor(x)).numpy(), theirs(torch.tensor(x)).numpy(), rtol=2e-6, atol=2e-6)
    assert repr(ours) == repr(theirs) and not ours.state_dict()
