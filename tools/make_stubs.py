"""Writes the signatures of the ops, which the compiled module knows, into python/fastnn/_C.pyi.

pip install . && python tools/make_stubs.py
"""

from __future__ import annotations

import subprocess
from pathlib import Path

from fastnn import _C

STUB = Path(__file__).parents[1] / "python" / "fastnn" / "_C.pyi"
MARK = "# ops\n"


def main() -> None:
    docs = {name: getattr(_C, name).__doc__ or "" for name in sorted(vars(_C)) if callable(getattr(_C, name))}
    ops = [f"def {name}{doc}: ...\n" for name, doc in docs.items() if doc.startswith("(")]
    STUB.write_text(STUB.read_text().partition(MARK)[0] + MARK + "".join(ops))
    subprocess.run(["ruff", "format", "--quiet", STUB], check=True)


if __name__ == "__main__":
    main()
