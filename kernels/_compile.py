"""Compiles kernels without a GPU and reads what they take of it.

Each kernel file lists its VARIANTS: the forms that are compiled, and the registers and shared memory that each may take
at most so that as many blocks as intended fit on a multiprocessor. `python -m fastnn.kernels._compile` compiles them
all and prints the reports as JSON, one line each.
"""

from __future__ import annotations

import argparse
import importlib
import json
import pkgutil
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import triton

DTYPES = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}


@dataclass(frozen=True)
class Variant:
    """One form of a kernel that is compiled, and its occupancy target.

    Attributes:
        kernel: a function decorated by triton.jit.
        signature: argument -> type. "T" stands for the dtype; ":16" marks multiples of 16 (also addresses), ":1" the
            constant 1, as triton specializes arguments.
        constants: the constexpr arguments.
        label: tells variants of one kernel apart.
        warps, stages: of the launch.
        registers: a thread's, at most.
        shared: a block's bytes, at most.
        dots: matrix instructions that the code must hold: "wgmma" (of sm_90; mma.sync on sm_80), "mma" (mma.sync on
            both, for tiles too small for wgmma), or none.
        wide: global loads of 16 bytes that the code holds at least, and stores of 16 bytes likewise.
        dtypes: those that the variant exists in.
    """

    kernel: Any
    signature: Mapping[str, str]
    constants: Mapping[str, Any]
    label: str = ""
    warps: int = 4
    stages: int = 2
    registers: int = 255
    shared: int = 0
    dots: str = ""
    wide: tuple[int, int] = (0, 0)
    dtypes: tuple[str, ...] = tuple(DTYPES)

    @property
    def name(self) -> str:
        name = getattr(self.kernel, "fn", self.kernel).__name__.strip("_").removesuffix("_kernel")
        return f"{name}[{self.label}]" if self.label else name


@dataclass(frozen=True)
class Report:
    """What ptxas and the machine code say of one variant on one target."""

    file: str
    variant: str
    dtype: str
    capability: int
    registers: int
    spills: int  # bytes of local memory
    shared: int
    warps: int
    instructions: Mapping[str, int] = field(default_factory=dict)  # of the kinds in _COUNTED

    @property
    def blocks_per_multiprocessor(self) -> int:
        """How many blocks fit by registers, shared memory and warps (CUDA C++ Programming Guide, table of limits)."""
        shared_limit = {80: 164, 90: 228}[self.capability] << 10
        registers = -(-self.registers // 8) * 8 * 32 * self.warps
        fits = [65536 // max(registers, 1), 64 // self.warps, 32]
        fits.append(shared_limit // (self.shared + 1024))  # the system takes 1 KiB per block
        return min(fits)


# Machine instructions that the tests look for.
_COUNTED = {
    "HGMMA": r"\bHGMMA\.",  # wgmma of sm_90
    "HMMA": r"\bHMMA\.",  # mma.sync
    "load16": r"\b(?:LDG\.E(?:\.[A-Z0-9]+)*\.128|LDGSTS\.E(?:\.[A-Z0-9]+)*\.128|UTMALDG)",
    "load": r"\b(?:LDG\.|LDGSTS\.|UTMALDG)",
    "store16": r"\bSTG\.E(?:\.[A-Z0-9]+)*\.128",
    "store": r"\bSTG\.",
    "local": r"\b(?:LDL|STL)\b",
}


def variants() -> Iterator[tuple[str, Variant]]:
    """(file, variant) of all kernel files."""
    for module in pkgutil.iter_modules([str(Path(__file__).parent)]):
        if not module.name.startswith("_"):
            for variant in getattr(importlib.import_module(f"{__package__}.{module.name}"), "VARIANTS", ()):
                yield module.name, variant


def compile_variant(variant: Variant, dtype: str, capability: int) -> Any:
    """triton's compiled kernel for the target; needs no GPU, but a process without TRITON_INTERPRET."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    signature: dict[str, str] = {}
    constants = dict(variant.constants)
    attributes = {}
    for index, name in enumerate(variant.kernel.arg_names):
        kind, _, hint = variant.signature.get(name, "constexpr").partition(":")
        if hint == "1":
            kind, constants[name] = "constexpr", 1
        elif hint:
            attributes[(index,)] = [["tt.divisibility", int(hint)]]
        signature[name] = re.sub(r"\bT\b", DTYPES[dtype], kind)
    source = ASTSource(fn=variant.kernel, signature=signature, constexprs=constants, attrs=attributes)
    options = {"num_warps": variant.warps, "num_stages": variant.stages, "enable_fp_fusion": True}
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)


def report(file: str, variant: Variant, dtype: str, capability: int) -> Report:
    """Compiles and disassembles one variant."""
    kernel = compile_variant(variant, dtype, capability)
    tool = triton.knobs.nvidia.cuobjdump.path
    with tempfile.NamedTemporaryFile(suffix=".cubin") as cubin:
        cubin.write(kernel.asm["cubin"])
        cubin.flush()
        usage = subprocess.run([tool, "-res-usage", cubin.name], capture_output=True, text=True, check=True).stdout
        code = subprocess.run([tool, "-sass", cubin.name], capture_output=True, text=True, check=True).stdout
    found = {key: int(value) for key, value in re.findall(r"\b(REG|STACK|LOCAL):(\d+)", usage)}
    return Report(
        file=file,
        variant=variant.name,
        dtype=dtype,
        capability=capability,
        registers=found["REG"],
        spills=found["STACK"] + found["LOCAL"],
        shared=kernel.metadata.shared,
        warps=variant.warps,
        instructions={name: len(re.findall(pattern, code)) for name, pattern in _COUNTED.items()},
    )


def faults(variant: Variant, found: Report) -> list[str]:
    """What of the variant's target the report does not meet, in words."""
    texts = []
    count = found.instructions
    if found.spills or count["local"]:
        texts.append(f"spills {found.spills} bytes ({count['local']} local accesses)")
    if found.registers > variant.registers:
        texts.append(f"{found.registers} registers; target {variant.registers}")
    if found.shared > variant.shared:
        texts.append(f"{found.shared} bytes of shared memory; target {variant.shared}")
    if variant.dots:
        wanted = "HGMMA" if found.capability >= 90 and variant.dots == "wgmma" else "HMMA"
        if not count[wanted]:
            texts.append(f"no {wanted}")
    for kind, wanted in zip(("load", "store"), variant.wide, strict=True):
        if count[f"{kind}16"] < wanted:
            texts.append(f"{count[f'{kind}16']} of {count[kind]} {kind}s are of 16 bytes; target {wanted}")
    return texts


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m fastnn.kernels._compile", description=__doc__)
    parser.add_argument("--file", action="append", help="stem of a kernel file, may be repeated (default: all)")
    parser.add_argument("--dtype", choices=DTYPES, action="append")
    parser.add_argument("--capability", type=int, choices=(80, 90), action="append")
    arguments = parser.parse_args(argv)
    failed = False
    for file, variant in variants():
        if arguments.file and file not in arguments.file:
            continue
        for dtype in arguments.dtype or variant.dtypes:
            if dtype not in variant.dtypes:
                continue
            for capability in arguments.capability or (80, 90):
                found = report(file, variant, dtype, capability)
                texts = faults(variant, found)
                failed |= bool(texts)
                print(json.dumps({**asdict(found), "faults": texts}), flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
