"""The shapes that the Triton kernels are predicted on: bytes and FLOPs of each, and its launches."""

from __future__ import annotations

from .predict import GpuCase, Launch

Shape = tuple[int, ...]


def _cdiv(a: int, b: int) -> int:
    return -(-a // b)


def _activation(n: int, name: str) -> list[GpuCase]:
    forward = Launch("activation", f"activation[{name}]", _cdiv(n, 2048), 4 * n)
    backward = Launch("activation", f"activation_backward[{name}]", _cdiv(n, 1024), 6 * n)
    title = f"{name} {n / 1e6:.0f} M"
    return [
        GpuCase("activation", title, "fwd", "bfloat16", 4 * n, 0, (forward,)),
        GpuCase("activation", title, "bwd", "bfloat16", 6 * n, 0, (backward,)),
    ]


def _gated(rows: int, columns: int) -> list[GpuCase]:
    n = rows * columns
    blocks = rows * _cdiv(columns, 2048)
    title = f"swiglu {rows}x{columns}"
    forward = Launch("activation", "gated[silu]", blocks, 6 * n)
    backward = Launch("activation", "gated_backward[silu]", blocks, 10 * n)
    return [
        GpuCase("activation", title, "fwd", "bfloat16", 6 * n, 0, (forward,)),
        GpuCase("activation", title, "bwd", "bfloat16", 10 * n, 0, (backward,)),
    ]


def _softmax(rows: int, columns: int, variant: str, rows_per_block: int) -> list[GpuCase]:
    n = rows * columns
    forward = Launch("softmax", variant, _cdiv(rows, rows_per_block), 4 * n)
    return [GpuCase("softmax", f"{rows}x{columns}", "fwd", "bfloat16", 4 * n, 0, (forward,))]


def _cross_entropy(rows: int, classes: int) -> list[GpuCase]:
    n = rows * classes
    loss = Launch("cross_entropy", "cross_entropy[32000]", rows, 4 * n)  # the second reading is from L2
    scale = Launch("cross_entropy", "scale_rows", rows * _cdiv(classes, 2048), 0)
    return [GpuCase("cross_entropy", f"{rows}x{classes}", "fwd+bwd", "bfloat16", 4 * n, 0, (loss, scale))]


def _norm(rows: int, columns: int, rms: bool, variant: str, rows_per_block: int) -> list[GpuCase]:
    """layer_norm, or rms_norm after a residual addition, whose sum is a second result."""
    n = rows * columns
    title = f"{'add + rms' if rms else 'layer'}_norm {rows}x{columns}"
    programs = min(_cdiv(rows, rows_per_block), 264)
    partial = 4 * programs * columns * (1 if rms else 2)
    read_and_written = 8 * n if rms else 4 * n
    forward = Launch("normalization", f"norm[{variant}]", _cdiv(rows, rows_per_block), read_and_written)
    backward = Launch("normalization", f"norm_backward[{variant}]", programs, (8 if rms else 6) * n + partial)
    sums = tuple(
        Launch("reduction", "sum_rows", _cdiv(columns, 128), 4 * programs * columns) for _ in range(1 if rms else 2)
    )
    return [
        GpuCase("normalization", title, "fwd", "bfloat16", read_and_written, 0, (forward,)),
        GpuCase("normalization", title, "bwd", "bfloat16", (8 if rms else 6) * n, 0, (backward, *sums)),
    ]


def _matmul(m: int, n: int, k: int, variant: str, tile: tuple[int, int], dtype: str = "bfloat16") -> GpuCase:
    item = 4 if dtype == "float32" else 2
    bytes_ = item * (m * k + k * n + m * n)
    tiles = _cdiv(m, tile[0]) * _cdiv(n, tile[1])
    blocks = min(tiles, 132) if "persistent" in variant else tiles
    launch = Launch("matmul", variant, blocks, bytes_, 2 * m * n * k)
    return GpuCase("matmul", f"{m}x{n}x{k} {variant}", "fwd", dtype, bytes_, 2 * m * n * k, (launch,))


def _conv2d(batch: int, c: int, size: int, o: int, kernel: int, stride: int, variant: str) -> list[GpuCase]:
    """forward, input and weight gradient of one layer of ResNet-50, with its padding."""
    out = (size + 2 * (kernel // 2) - kernel) // stride + 1
    pixels, depth = batch * out * out, kernel * kernel * c
    flops = 2 * pixels * o * depth
    bytes_ = 2 * (batch * c * size * size + o * depth + pixels * o)
    wide = 128 if variant.startswith("128x128") else 64
    title = f"{batch}x{c}x{size}x{size} {o}x{kernel}x{kernel} s{stride}"
    forward = Launch("conv2d", f"conv2d[{variant}]", _cdiv(pixels, 128) * _cdiv(o, wide), bytes_, flops)
    cases = [GpuCase("conv2d", title, "fwd", "bfloat16", bytes_, flops, (forward,))]
    if c < 32:
        return cases
    rows = _cdiv(batch * _cdiv(size, stride) ** 2, 128) * stride**2
    into = Launch("conv2d", f"conv2d_input[{variant}]", rows * _cdiv(c, wide), bytes_, flops)
    tiles = _cdiv(o, 128) * _cdiv(depth, 128)
    parts = _cdiv(pixels, max(512, _cdiv(pixels, max(1, 264 // tiles))))
    blocks = parts * _cdiv(o, 128) * _cdiv(depth, wide)
    weights = Launch("conv2d", f"conv2d_weight[{variant}]", blocks, bytes_ + 4 * parts * o * depth, flops)
    sums = Launch("reduction", "sum_rows", _cdiv(o * depth, 128), 4 * parts * o * depth)
    cases.append(GpuCase("conv2d", title, "bwd input", "bfloat16", bytes_, flops, (into,)))
    cases.append(GpuCase("conv2d", title, "bwd weight", "bfloat16", bytes_, flops, (weights, sums)))
    return cases


def _attention(batch: int, heads: int, length: int, size: int, rows: int, keys: int, queries: int) -> list[GpuCase]:
    """Causal. rows, keys, queries: of a block in the three kernels."""
    n = batch * heads * length * size
    flops = 2 * batch * heads * length * length * size  # two products, of which causality leaves half
    exps = batch * heads * length * length / 2
    lines = 4 * batch * heads * length
    title = f"causal {batch}x{heads}x{length}x{size}"
    variant = f"[{size} causal]"
    forward = Launch(
        "attention", f"attention{variant}", _cdiv(length, rows) * batch * heads, 8 * n + lines, flops, exps
    )
    launches = (
        Launch("attention", "delta", _cdiv(length, 16) * batch * heads, 4 * n + lines),
        Launch("attention", f"attention_keys{variant}", _cdiv(length, keys) * batch * heads, 12 * n, 2 * flops, exps),
        Launch(
            "attention",
            f"attention_queries{variant}",
            _cdiv(length, queries) * batch * heads,
            10 * n,
            1.5 * flops,
            exps,
        ),
    )
    return [
        GpuCase("attention", title, "fwd", "bfloat16", 8 * n, flops, (forward,)),
        GpuCase("attention", title, "bwd", "bfloat16", 16 * n, 2.5 * flops, launches),
    ]


def _others() -> list[GpuCase]:
    n = 64 << 20
    rows, columns = 16384, 4096
    rotary = 4 * 32 * 4096 * 128
    adam = 100_000_000
    x, classes = 4096, 32000
    logits = 2 * x * classes * 4096
    return [
        GpuCase(
            "dropout", f"{n >> 20} Mi", "fwd", "bfloat16", 4 * n, 0, (Launch("dropout", "dropout", n // 4096, 4 * n),)
        ),
        GpuCase(
            "embedding", f"{rows} of 32000x{columns}", "fwd", "bfloat16", 4 * rows * columns, 0,
            (Launch("embedding", "embedding", rows * columns // 1024, 4 * rows * columns),),
        ),
        GpuCase(
            "embedding", f"{rows} of 32000x{columns}", "bwd", "bfloat16", 4 * rows * columns, 0,
            (Launch("embedding", "embedding_backward", rows * columns // 256, 4 * rows * columns),),
        ),
        GpuCase(
            "rotary", "4x32x4096x128", "fwd", "bfloat16", 4 * rotary, 0,
            (Launch("rotary", "rotary[halves]", 4 * 4 * 256, 4 * rotary),),
        ),
        GpuCase(
            "optimizer", "adam 100 M", "step", "bfloat16", 22 * adam, 0,
            (Launch("optimizer", "adam", _cdiv(adam, 8192), 22 * adam),),
        ),
        GpuCase(
            "linear_cross_entropy", f"{x}x4096 {classes}", "loss", "bfloat16", 2 * 4096 * (x + classes), logits,
            (Launch("linear_cross_entropy", "log_sum", 32 * 16, 2 * 4096 * (x + classes), logits, x * classes),),
        ),
    ]  # fmt: skip


CASES: list[GpuCase] = [
    *_activation(32 * 64 * 112 * 112, "gelu"),
    *_gated(8192, 14336),
    *_softmax(16384, 1024, "softmax_rows[1024]", 2),
    *_softmax(8192, 8192, "softmax_rows[8192]", 1),
    *_cross_entropy(4096, 32000),
    *_norm(16384, 1024, False, "layer 1024", 2),
    *_norm(16384, 4096, True, "rms 4096", 1),
    _matmul(8192, 8192, 8192, "matmul[128x256]", (128, 256)),
    _matmul(8192, 8192, 8192, "matmul_persistent[128x256]", (128, 256)),
    _matmul(2048, 2048, 2048, "matmul[128x256]", (128, 256)),
    _matmul(1024, 1024, 1024, "matmul[64x64]", (64, 64)),
    _matmul(4096, 4096, 4096, "matmul[128x128 tf32]", (128, 128), "float32"),
    *_conv2d(32, 3, 224, 64, 7, 2, "128x64 flat"),
    *_conv2d(32, 64, 56, 64, 3, 1, "128x64"),
    *_conv2d(32, 256, 56, 64, 1, 1, "128x64"),
    *_conv2d(32, 128, 28, 128, 3, 1, "128x128"),
    *_conv2d(32, 256, 14, 256, 3, 1, "128x128"),
    *_conv2d(32, 512, 7, 512, 3, 1, "128x128"),
    *_attention(4, 32, 4096, 128, 128, 64, 128),
    *_attention(8, 16, 2048, 64, 128, 64, 128),
    *_others(),
]


def load(ops: list[str] | None = None) -> list[GpuCase]:
    """The cases of these ops (all by default). ValueError for a name that has none."""
    known = {case.op for case in CASES}
    unknown = sorted(set(ops or ()) - known)
    if unknown:
        raise ValueError(f"--op: no GPU cases for {', '.join(unknown)}; expected some of {', '.join(sorted(known))}")
    return [case for case in CASES if ops is None or case.op in ops]
