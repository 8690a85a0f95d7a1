"""2-d convolution as a matrix product whose operands are gathered from the images: forward and both gradients.

Everything runs on channels_last data, where a pixel's channels are neighbours and load in accesses of 16 bytes; other
layouts are converted. Groups are axes of the grid; depthwise convolutions run, but leave most of each tile empty.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd

import torch
import triton
import triton.language as tl

from ._compile import Variant
from ._functors import EPILOGUES, activate
from ._launch import autotuned, cdiv, check_shape, check_tensors, like, next_power_of_2, on_device, wrap_triton
from .reduction import sum_rows


@dataclass(frozen=True)
class ConvConfig:
    """Pixels and channels of a tile of the result, the depth of a step, and the launch."""

    block_m: int
    block_n: int
    block_k: int
    warps: int
    stages: int

    def keywords(self) -> dict[str, int]:
        return {
            **{"BLOCK_M": self.block_m, "BLOCK_N": self.block_n, "BLOCK_K": self.block_k},
            **{"num_warps": self.warps, "num_stages": self.stages},
        }


# Tried in turns on the first call of a shape. None was measured yet.
CONFIGS = (
    ConvConfig(128, 128, 64, 8, 3),
    ConvConfig(128, 64, 64, 8, 3),
    ConvConfig(64, 128, 64, 8, 3),
    ConvConfig(64, 64, 64, 8, 4),
    ConvConfig(128, 64, 32, 8, 4),
    ConvConfig(64, 32, 32, 4, 4),
)
# few channels: every element of a step has an address and a test of its own
CONFIGS_FLAT = (
    ConvConfig(128, 64, 32, 8, 2),
    ConvConfig(64, 64, 32, 8, 2),
    ConvConfig(64, 32, 32, 8, 2),
)
CONFIGS_FLOAT32 = (
    ConvConfig(64, 64, 32, 8, 3),
    ConvConfig(64, 32, 32, 4, 3),
    ConvConfig(32, 32, 32, 4, 3),
)
_FLAT_BELOW = 32  # channels: with fewer, a step of BLOCK_K goes over taps and channels together

# ---- kernels ---------------------------------------------------------------------------------------------------------


@triton.jit
def _conv2d_kernel(
    x, w, bias, residual, y, images, channels, height, width, out_channels, rows, cols, bucket, taps_h, taps_w,
    stride_h, stride_w, pad_h, pad_w, dil_h, dil_w, x_n, x_h, x_w, y_p,
    ACTIVATION: tl.constexpr, BIAS: tl.constexpr, RESIDUAL: tl.constexpr, FLAT: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """y[pixel, o] = f(sum over taps and c of x[pixel's tap, c] w[o, tap, c] + bias[o] + residual[pixel, o]).

    channels and out_channels are those of a group; w is (out, taps_h, taps_w, channels). y_p: from pixel to pixel of y.
    """
    group = tl.program_id(2)
    pixel = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    out = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    pixels = images * rows * cols
    top = pixel // cols % rows * stride_h - pad_h
    left = pixel % cols * stride_w - pad_w
    x += (group * channels).to(tl.int64)
    image = x + (pixel // (rows * cols)).to(tl.int64) * x_n
    known = pixel < pixels
    depth = taps_h * taps_w * channels
    filters = w + ((group * out_channels + tl.where(out < out_channels, out, 0)).to(tl.int64) * depth)
    total = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    lane = tl.arange(0, BLOCK_K)
    if FLAT:
        for start in range(0, depth, BLOCK_K):
            k = start + lane
            tap = k // channels
            h = top[:, None] + (tap // taps_w * dil_h)[None, :]
            v = left[:, None] + (tap % taps_w * dil_w)[None, :]
            inside = known[:, None] & (k < depth)[None, :] & (h >= 0) & (h < height) & (v >= 0) & (v < width)
            at = h.to(tl.int64) * x_h + v.to(tl.int64) * x_w + (k % channels)[None, :]
            a = tl.load(image[:, None] + at, mask=inside, other=0.0)
            b = tl.load(filters[None, :] + k[:, None], mask=(k < depth)[:, None], other=0.0)
            total = tl.dot(a, b, total, input_precision=PRECISION)
    else:
        blocks = tl.cdiv(channels, BLOCK_K)
        for step in range(0, taps_h * taps_w * blocks):
            tap = step // blocks
            c = step % blocks * BLOCK_K + lane
            h = top + tap // taps_w * dil_h
            v = left + tap % taps_w * dil_w
            inside = known & (h >= 0) & (h < height) & (v >= 0) & (v < width)
            at = image + h.to(tl.int64) * x_h + v.to(tl.int64) * x_w
            a = tl.load(at[:, None] + c[None, :], mask=inside[:, None] & (c < channels)[None, :], other=0.0)
            b = tl.load(filters[None, :] + (tap * channels + c)[:, None], mask=(c < channels)[:, None], other=0.0)
            total = tl.dot(a, b, total, input_precision=PRECISION)
    channel = group * out_channels + out
    inside = known[:, None] & (out < out_channels)[None, :]
    at = pixel.to(tl.int64)[:, None] * y_p + channel[None, :]
    if BIAS:
        total += tl.load(bias + channel, mask=out < out_channels, other=0.0).to(tl.float32)[None, :]
    if RESIDUAL:
        total += tl.load(residual + at, mask=inside, other=0.0).to(tl.float32)
    tl.store(y + at, activate(total, ACTIVATION, 0.0, 0.0).to(y.dtype.element_ty), mask=inside)


@triton.jit
def _first_tap(remainder, taps, stride, dilation):
    """The first tap with (remainder - tap dilation) % stride == 0, or `taps` if there is none."""
    found = taps
    for i in range(0, taps):
        tap = taps - 1 - i
        found = tl.where((remainder - tap * dilation) % stride == 0, tap, found)
    return found


@triton.jit
def _conv2d_input_kernel(
    dy, w, dx, images, channels, height, width, out_channels, rows, cols, bucket, taps_h, taps_w,
    stride_h, stride_w, pad_h, pad_w, dil_h, dil_w, skip_h, skip_w, groups, dx_p, dy_p,
    PRECISION: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """dx[pixel, c] = sum over the taps that reach the pixel and o of dy[their pixel, o] w[o, tap, c].

    Which taps reach a pixel depends on its row modulo stride_h and its column modulo stride_w: pixels with the same
    remainders are tiled together, and every skip_h-th tap from the first one on is theirs.
    """
    group = tl.program_id(2) % groups
    kind = tl.program_id(2) // groups
    rest_h = kind // stride_w
    rest_w = kind % stride_w
    class_rows = tl.cdiv(height - rest_h, stride_h)
    class_cols = tl.cdiv(width - rest_w, stride_w)
    pixel = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    known = pixel < images * class_rows * class_cols
    h = pixel // tl.maximum(class_cols, 1) % tl.maximum(class_rows, 1) * stride_h + rest_h
    v = pixel % tl.maximum(class_cols, 1) * stride_w + rest_w
    image = pixel // tl.maximum(class_rows * class_cols, 1)
    c = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    first_h = _first_tap(rest_h + pad_h, taps_h, stride_h, dil_h)
    first_w = _first_tap(rest_w + pad_w, taps_w, stride_w, dil_w)
    count_w = tl.cdiv(taps_w - first_w, skip_w)
    count = tl.cdiv(taps_h - first_h, skip_h) * count_w
    blocks = tl.cdiv(out_channels, BLOCK_K)
    lane = tl.arange(0, BLOCK_K)
    dy += (group * out_channels).to(tl.int64)
    w += (group * out_channels).to(tl.int64) * (taps_h * taps_w * channels)
    source = dy + image.to(tl.int64) * rows * cols * dy_p
    total = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for step in range(0, count * blocks):
        tap = step // blocks
        o = step % blocks * BLOCK_K + lane
        tap_h = first_h + tap // count_w * skip_h
        tap_w = first_w + tap % count_w * skip_w
        up = h + pad_h - tap_h * dil_h  # a multiple of stride_h
        over = v + pad_w - tap_w * dil_w
        p = up // stride_h
        q = over // stride_w
        inside = known & (up >= 0) & (p < rows) & (over >= 0) & (q < cols)
        at = source + (p * cols + q).to(tl.int64) * dy_p
        a = tl.load(at[:, None] + o[None, :], mask=inside[:, None] & (o < out_channels)[None, :], other=0.0)
        row = o.to(tl.int64) * (taps_h * taps_w * channels) + (tap_h * taps_w + tap_w) * channels
        b = tl.load(
            w + row[:, None] + c[None, :], mask=(o < out_channels)[:, None] & (c < channels)[None, :], other=0.0
        )
        total = tl.dot(a, b, total, input_precision=PRECISION)
    at = ((image.to(tl.int64) * height + h) * width + v) * dx_p
    channel = group * channels + c
    tl.store(
        dx + at[:, None] + channel[None, :],
        total.to(dx.dtype.element_ty),
        mask=known[:, None] & (c < channels)[None, :],
    )


@triton.jit
def _conv2d_weight_kernel(
    x, dy, dw, images, channels, height, width, out_channels, rows, cols, bucket, taps_h, taps_w,
    stride_h, stride_w, pad_h, pad_w, dil_h, dil_w, groups, chunk, x_n, x_h, x_w, dy_p,
    PRECISION: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """dw[part, o, tap, c] = sum of dy[pixel, o] x[pixel's tap, c] over the part's `chunk` pixels.

    Axes of the grid: output channels, taps and channels together, groups and parts.
    """
    group = tl.program_id(2) % groups
    part = tl.program_id(2) // groups
    o = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    depth = taps_h * taps_w * channels
    tap = n // channels
    off_h = tap // taps_w * dil_h - pad_h
    off_w = tap % taps_w * dil_w - pad_w
    c = n % channels
    pixels = images * rows * cols
    first = part * chunk
    last = tl.minimum(first + chunk, pixels)
    x += (group * channels).to(tl.int64)
    dy += (group * out_channels).to(tl.int64)
    total = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for start in range(first, last, BLOCK_K):
        pixel = start + tl.arange(0, BLOCK_K)
        known = pixel < last
        a = tl.load(
            dy + pixel.to(tl.int64)[:, None] * dy_p + o[None, :],
            mask=known[:, None] & (o < out_channels)[None, :], other=0.0,
        )  # fmt: skip
        h = (pixel // cols % rows * stride_h)[:, None] + off_h[None, :]
        v = (pixel % cols * stride_w)[:, None] + off_w[None, :]
        inside = known[:, None] & (n < depth)[None, :] & (h >= 0) & (h < height) & (v >= 0) & (v < width)
        at = (pixel // (rows * cols)).to(tl.int64)[:, None] * x_n + h.to(tl.int64) * x_h + v.to(tl.int64) * x_w
        b = tl.load(x + at + c[None, :], mask=inside, other=0.0)
        total = tl.dot(tl.trans(a), b, total, input_precision=PRECISION)
    line = (part * groups + group).to(tl.int64) * out_channels + o
    inside = (o < out_channels)[:, None] & (n < depth)[None, :]
    tl.store(dw + line[:, None] * depth + n[None, :], total.to(dw.dtype.element_ty), mask=inside)


_KEY = ["bucket", "channels", "out_channels", "taps_h", "stride_h"]
_conv2d_tuned = autotuned(_conv2d_kernel, CONFIGS, _KEY)
_conv2d_tuned_flat = autotuned(_conv2d_kernel, CONFIGS_FLAT, _KEY)
_conv2d_tuned_float32 = autotuned(_conv2d_kernel, CONFIGS_FLOAT32, _KEY)
_input_tuned = autotuned(_conv2d_input_kernel, CONFIGS, _KEY)
_input_tuned_float32 = autotuned(_conv2d_input_kernel, CONFIGS_FLOAT32, _KEY)
_weight_tuned = autotuned(_conv2d_weight_kernel, CONFIGS, _KEY)
_weight_tuned_float32 = autotuned(_conv2d_weight_kernel, CONFIGS_FLOAT32, _KEY)


def _variant(kernel, config: ConvConfig, label: str, shared: int, wide: tuple[int, int], **options) -> Variant:
    constants = config.keywords()
    warps, stages = constants.pop("num_warps"), constants.pop("num_stages")
    dtypes = options.pop("dtypes", ("bfloat16",))
    constants |= {"PRECISION": "ieee" if dtypes != ("float32",) else "tf32", **options}
    pointers = ("x", "w", "bias", "residual", "y", "dy", "dx")
    small = ("images", "height", "width", "rows", "cols", "bucket", "taps_h", "taps_w", "stride_h", "stride_w", "pad_h")
    small += ("pad_w", "dil_h", "dil_w", "skip_h", "skip_w", "groups")
    large = ("channels", "out_channels", "x_n", "x_h", "x_w", "y_p", "dx_p", "dy_p", "chunk")
    signature = {name: "*T:16" for name in pointers} | {name: "i32" for name in small} | {"dw": "*fp32:16"}
    signature |= {name: "i32:16" for name in large}
    if options.get("FLAT"):
        signature["channels"] = "i32"
    signature = {name: kind for name, kind in signature.items() if name in kernel.arg_names}
    return Variant(
        kernel, signature, constants, label, warps, stages, 255, shared, dots="wgmma", wide=wide, dtypes=dtypes
    )  # fmt: skip


_PLAIN = {"ACTIVATION": "none", "BIAS": False, "RESIDUAL": False, "FLAT": False}
_FUSED = {"ACTIVATION": "relu", "BIAS": True, "RESIDUAL": True, "FLAT": False}
VARIANTS = (
    _variant(_conv2d_kernel, CONFIGS[0], "128x128", 112 << 10, (4, 4), **_PLAIN),
    _variant(_conv2d_kernel, CONFIGS[0], "128x128 fused", 112 << 10, (4, 4), **_FUSED),
    _variant(_conv2d_kernel, CONFIGS[1], "128x64", 84 << 10, (4, 4), **_PLAIN),
    _variant(_conv2d_kernel, CONFIGS_FLAT[0], "128x64 flat", 84 << 10, (0, 4), **{**_PLAIN, "FLAT": True}),
    _variant(_conv2d_kernel, CONFIGS_FLOAT32[0], "64x64 tf32", 64 << 10, (2, 2), **_PLAIN, dtypes=("float32",)),
    _variant(_conv2d_input_kernel, CONFIGS[0], "128x128", 112 << 10, (4, 4)),
    _variant(_conv2d_input_kernel, CONFIGS[1], "128x64", 84 << 10, (4, 4)),
    _variant(_conv2d_weight_kernel, CONFIGS[0], "128x128", 132 << 10, (4, 4)),
    _variant(_conv2d_weight_kernel, CONFIGS[1], "128x64", 112 << 10, (4, 4)),
)  # fmt: skip

# ---- launchers -------------------------------------------------------------------------------------------------------

Pair = tuple[int, int]


def output_size(op: str, x: torch.Size, weight: torch.Size, stride: Pair, padding: Pair, dilation: Pair, groups: int):
    """(rows, columns) of the output.

    Raises:
        ValueError: shapes or arguments that do not fit.
    """
    if len(x) != 4 or len(weight) != 4:
        raise ValueError(
            f"{op}: input has shape {tuple(x)} and weight {tuple(weight)}; expected (N, C, H, W) and (O, C / groups, "
            "h, w)"
        )
    if groups < 1 or x[1] != weight[1] * groups or weight[0] % groups:
        raise ValueError(
            f"{op}: weight has {weight[0]} filters of {weight[1]} channels but input has {x[1]} channels and groups="
            f"{groups}; expected filters of {x[1] // max(groups, 1)} channels, a multiple of groups many"
        )
    if min(stride) < 1 or min(dilation) < 1 or min(padding) < 0:
        raise ValueError(
            f"{op}: stride is {stride}, padding {padding}, dilation {dilation}; expected at least 1, 0 and 1"
        )
    sizes = []
    for i in range(2):
        size = (x[2 + i] + 2 * padding[i] - dilation[i] * (weight[2 + i] - 1) - 1) // stride[i] + 1
        if size < 1 or weight[2 + i] < 1:
            raise ValueError(f"{op}: the kernel {tuple(weight[2:])} does not fit the padded input {tuple(x[2:])}")
        sizes.append(size)
    return sizes[0], sizes[1]


def _channels_last(x: torch.Tensor) -> torch.Tensor:
    """x with neighbouring channels; also where torch calls it contiguous both ways (one channel, or one pixel)."""
    x = x.contiguous(memory_format=torch.channels_last)
    n, c, h, w = x.shape
    return x.as_strided(x.shape, (c * h * w, 1, w * c, c))


def _is_channels_last(x: torch.Tensor) -> bool:
    return not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)


def _empty(n: int, c: int, h: int, w: int, like: torch.Tensor) -> torch.Tensor:
    return torch.empty((n, h, w, c), dtype=like.dtype, device=like.device).permute(0, 3, 1, 2)


def _launch(kernel, tuned, tuned_float32, grid, arguments, config: ConvConfig | None, **flags) -> None:
    x = arguments[0]
    with on_device(x):
        if config is not None:
            wrap_triton(kernel)[grid](*arguments, **flags, **config.keywords())
        elif x.dtype == torch.float32:
            wrap_triton(tuned_float32)[grid](*arguments, **flags)
        else:
            wrap_triton(tuned)[grid](*arguments, **flags)


def conv2d(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    stride: Pair = (1, 1),
    padding: Pair = (0, 0),
    dilation: Pair = (1, 1),
    groups: int = 1,
    activation: str | None = None,
    residual: torch.Tensor | None = None,
    precision: str = "ieee",
    config: ConvConfig | None = None,
) -> torch.Tensor:
    """y = f(conv2d(x, weight) + bias + residual); arguments of torch.nn.functional.conv2d.

    Args:
        x: (N, C, H, W), floating. The result has its layout: channels_last or row-major.
        weight: (O, C / groups, h, w).
        bias: (O,).
        activation: of EPILOGUES, or None.
        residual: like the result.
        precision: of float32 products, see matmul.
        config: instead of the best of the table.
    """
    rows, cols = output_size("conv2d", x.shape, weight.shape, stride, padding, dilation, groups)
    check_tensors("conv2d", "input", x, weight=weight, bias=bias, residual=residual)
    n, c, h, w = x.shape
    o, depth = weight.shape[0], weight.shape[1]
    check_shape("conv2d", "bias", bias, (o,))
    check_shape("conv2d", "residual", residual, (n, o, rows, cols))
    if activation is not None and activation not in EPILOGUES:
        raise NotImplementedError(
            f"conv2d: activation is {activation!r}; expected None or one of {', '.join(EPILOGUES)}"
        )
    row_major = not _is_channels_last(x)
    y = _empty(n, o, rows, cols, x)
    if y.numel():
        x, weight = _channels_last(x), _channels_last(weight)
        residual = like(residual, y) if residual is not None else None
        pixels, out = n * rows * cols, o // groups
        arguments = (x, weight, y if bias is None else bias.contiguous(), y if residual is None else residual, y)
        arguments += (n, depth, h, w, out, rows, cols, next_power_of_2(pixels), *weight.shape[2:])
        arguments += (*stride, *padding, *dilation, x.stride(0), x.stride(2), x.stride(3), o)

        def grid(meta: dict[str, int]) -> tuple[int, int, int]:
            return (cdiv(pixels, meta["BLOCK_M"]), cdiv(out, meta["BLOCK_N"]), groups)

        _launch(
            _conv2d_kernel, _conv2d_tuned_flat if depth < _FLAT_BELOW else _conv2d_tuned, _conv2d_tuned_float32, grid,
            arguments, config,
            ACTIVATION=activation or "none", BIAS=bias is not None, RESIDUAL=residual is not None,
            FLAT=depth < _FLAT_BELOW, PRECISION=precision,
        )  # fmt: skip
    return y.contiguous() if row_major else y


def conv2d_input_backward(
    dy: torch.Tensor,
    weight: torch.Tensor,
    input_shape: tuple[int, int, int, int],
    stride: Pair = (1, 1),
    padding: Pair = (0, 0),
    dilation: Pair = (1, 1),
    groups: int = 1,
    precision: str = "ieee",
    config: ConvConfig | None = None,
) -> torch.Tensor:
    """dx, (N, C, H, W), in channels_last."""
    op = "conv2d_input_backward"
    rows, cols = output_size(op, torch.Size(input_shape), weight.shape, stride, padding, dilation, groups)
    check_tensors(op, "dy", dy, weight=weight)
    n, c, h, w = input_shape
    o, depth = weight.shape[0], weight.shape[1]
    check_shape(op, "dy", dy, (n, o, rows, cols))
    dx = _empty(n, c, h, w, dy)
    if dx.numel():
        dy, weight = _channels_last(dy), _channels_last(weight)
        # the largest class of pixels with the same remainders
        pixels = n * cdiv(h, stride[0]) * cdiv(w, stride[1])
        arguments = (dy, weight, dx, n, depth, h, w, o // groups, rows, cols, next_power_of_2(pixels))
        arguments += (*weight.shape[2:], *stride, *padding, *dilation)
        arguments += (stride[0] // gcd(stride[0], dilation[0]), stride[1] // gcd(stride[1], dilation[1]), groups, c, o)

        def grid(meta: dict[str, int]) -> tuple[int, int, int]:
            return (cdiv(pixels, meta["BLOCK_M"]), cdiv(depth, meta["BLOCK_N"]), groups * stride[0] * stride[1])

        _launch(_conv2d_input_kernel, _input_tuned, _input_tuned_float32, grid, arguments, config, PRECISION=precision)
    return dx


def conv2d_weight_backward(
    dy: torch.Tensor,
    x: torch.Tensor,
    weight_shape: tuple[int, int, int, int],
    stride: Pair = (1, 1),
    padding: Pair = (0, 0),
    dilation: Pair = (1, 1),
    groups: int = 1,
    precision: str = "ieee",
    config: ConvConfig | None = None,
) -> torch.Tensor:
    """dweight, (O, C / groups, h, w), in channels_last. Pixels are summed in parts that the shape alone decides."""
    op = "conv2d_weight_backward"
    rows, cols = output_size(op, x.shape, torch.Size(weight_shape), stride, padding, dilation, groups)
    check_tensors(op, "dy", dy, x=x)
    n, c, h, w = x.shape
    o, depth, taps_h, taps_w = weight_shape
    check_shape(op, "dy", dy, (n, o, rows, cols))
    flat = taps_h * taps_w * depth
    pixels, out = n * rows * cols, o // groups
    if pixels * o * flat == 0:
        return torch.zeros((o, taps_h, taps_w, depth), dtype=x.dtype, device=x.device).permute(0, 3, 1, 2)
    dy, x = _channels_last(dy), _channels_last(x)
    # two programs for each multiprocessor of an H100, if each has 512 pixels or more
    tiles = cdiv(out, 128) * cdiv(flat, 128) * groups
    chunk = max(512, cdiv(cdiv(pixels, max(1, 264 // tiles)), 128) * 128)
    parts = cdiv(pixels, chunk)
    dtype = torch.float32 if parts > 1 else x.dtype
    dw = torch.empty((parts, o * flat), dtype=dtype, device=x.device)
    arguments = (x, dy, dw, n, depth, h, w, out, rows, cols, next_power_of_2(pixels), taps_h, taps_w)
    arguments += (*stride, *padding, *dilation, groups, chunk, x.stride(0), x.stride(2), x.stride(3), o)

    def grid(meta: dict[str, int]) -> tuple[int, int, int]:
        return (cdiv(out, meta["BLOCK_M"]), cdiv(flat, meta["BLOCK_N"]), groups * parts)

    _launch(_conv2d_weight_kernel, _weight_tuned, _weight_tuned_float32, grid, arguments, config, PRECISION=precision)
    total = sum_rows(dw, x.dtype) if parts > 1 else dw[0]
    return total.view(o, taps_h, taps_w, depth).permute(0, 3, 1, 2)


def conv2d_bias_backward(dy: torch.Tensor) -> torch.Tensor:
    """dbias, (O,): dy summed over images and pixels."""
    check_tensors("conv2d_bias_backward", "dy", dy)
    o = dy.shape[1]
    rows = dy.numel() // o if o else 0
    return sum_rows(_channels_last(dy).permute(0, 2, 3, 1).reshape(rows, o), dy.dtype)
