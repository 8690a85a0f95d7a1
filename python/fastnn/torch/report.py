"""SwapReport: what fastnn.swap did to each module of a model, and the way back."""

from __future__ import annotations

import html
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

COLUMNS = ("module", "from", "to", "kernel", "before us", "after us", "ratio", "error", "")


@dataclass
class Row:
    """One module, or one group of modules that run as one call.

    Attributes:
        name: qualified name, "" for the model itself; of a group the names, joined by " + ".
        original: what computed it before, e.g. "torch.nn.Conv2d". replacement: what does now, None where not swapped.
        kernel: function and instruction set, e.g. "conv2d avx512".
        before_us, after_us: microseconds of one run on the sample (training: forward + backward), None if not timed.
        error: largest absolute difference of outputs and gradients, None if not compared.
        reason: why it was not swapped, or what else is to be said.
    """

    name: str
    original: str
    replacement: str | None = None
    kernel: str | None = None
    before_us: float | None = None
    after_us: float | None = None
    error: float | None = None
    reason: str = ""

    @property
    def swapped(self) -> bool:
        return self.replacement is not None

    @property
    def ratio(self) -> float | None:
        """How many times faster."""
        return self.before_us / self.after_us if self.before_us and self.after_us else None


@dataclass
class SwapReport:
    """The result of fastnn.swap. `print(report)` shows a table.

    Attributes:
        model: the model, swapped in place.
        rows: one per module that computes, in the order of model.named_modules(), then the groups that were fused.
        mode, policy: as given to swap ("always" or "faster").
        before_us, after_us: microseconds of one run of the whole model on the sample; None if not timed.
        error: largest absolute difference of the model's outputs; None if not compared.
        notes: what concerns the model as a whole.
    """

    model: torch.nn.Module
    mode: str
    policy: str
    rows: list[Row] = field(default_factory=list)
    before_us: float | None = None
    after_us: float | None = None
    error: float | None = None
    notes: list[str] = field(default_factory=list)
    _undo: Callable[[], None] = field(default=lambda: None, repr=False)
    _refresh: Callable[[], None] = field(default=lambda: None, repr=False)

    @property
    def swapped(self) -> list[Row]:
        """The rows that run in fastnn."""
        return [row for row in self.rows if row.swapped]

    def undo(self) -> None:
        """Gives every module its original class and forward() back. Parameters and buffers stay as they are now."""
        self._undo()

    def refresh(self) -> None:
        """Makes the folded weights of mode="inference" anew; needed only after a write through `.data`."""
        self._refresh()

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    # ---- output ------------------------------------------------------------------------------------------------------

    def summary(self) -> str:
        """One line: how many modules were swapped and what the whole model gained."""
        text = f"{len(self.swapped)} of {len(self.rows)} swapped; mode {self.mode}, policy {self.policy}"
        if self.before_us is None or self.after_us is None:
            return text + "; not timed"
        return (
            text + f"; whole model {_us(self.before_us)} -> {_us(self.after_us)} us "
            f"({self.before_us / self.after_us:.2f} times as fast)"
        )

    def __str__(self) -> str:
        cells = [COLUMNS, *(_cells(row) for row in self.rows)]
        widths = [max(len(line[i]) for line in cells) for i in range(len(COLUMNS))]
        numeric = range(4, 8)
        lines = []
        for line in cells:
            parts = [
                cell.rjust(w) if i in numeric else cell.ljust(w)
                for i, (cell, w) in enumerate(zip(line, widths, strict=True))
            ]
            lines.append("  ".join(parts).rstrip())
        lines.insert(1, "  ".join("-" * w for w in widths).rstrip())
        return "\n".join([*lines, self.summary(), *(f"note: {note}" for note in self.notes)])

    def to_dict(self) -> dict[str, Any]:
        """Plain values, fit for JSON."""
        return {
            "model": type_name(type(self.model)),
            **{name: getattr(self, name) for name in ("mode", "policy", "before_us", "after_us", "error", "notes")},
            "rows": [asdict(row) | {"ratio": row.ratio} for row in self.rows],
        }

    def to_json(self, path: str | Path | None = None) -> str:
        """The report as JSON; written to `path` if given."""
        text = json.dumps(self.to_dict(), indent=1)
        return _write(text, path)

    def to_html(self, path: str | Path | None = None) -> str:
        """The report as one page, with a bar per time; written to `path` if given."""
        longest = max([t for row in self.rows for t in (row.before_us, row.after_us) if t], default=1.0)
        head = "".join(f"<th>{html.escape(name)}</th>" for name in COLUMNS)
        body = []
        for row in self.rows:
            cells = [html.escape(cell) for cell in _cells(row)]
            for column, time, color in ((4, row.before_us, "#b8b8b8"), (5, row.after_us, "#4a8a5c")):
                if time:
                    bar = f'<div class="bar" style="width:{160 * time / longest:.1f}px;background:{color}"></div>'
                    cells[column] = f"{bar}{cells[column]}"
            style = "" if row.swapped else ' class="kept"'
            body.append(f"<tr{style}>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
        notes = "".join(f"<li>{html.escape(note)}</li>" for note in self.notes)
        page = _PAGE.format(summary=html.escape(self.summary()), head=head, body="\n".join(body), notes=notes)
        return _write(page, path)


_PAGE = """<!doctype html>
<meta charset="utf-8"><title>fastnn.swap</title>
<style>
body {{ font: 14px system-ui, sans-serif; margin: 2em }}
table {{ border-collapse: collapse }} td, th {{ padding: 2px 10px; text-align: left; white-space: nowrap }}
tr:nth-child(even) {{ background: #f6f6f6 }} .kept {{ color: #888 }} .bar {{ height: 6px }}
</style>
<h1>fastnn.swap</h1><p>{summary}</p>
<table><thead><tr>{head}</tr></thead><tbody>
{body}
</tbody></table><ul>{notes}</ul>
"""


def _write(text: str, path: str | Path | None) -> str:
    if path is not None:
        Path(path).write_text(text, encoding="utf-8")
    return text


def _us(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"


def _cells(row: Row) -> tuple[str, ...]:
    return (
        row.name or "(model)",
        row.original,
        row.replacement or "-",
        row.kernel or "",
        _us(row.before_us),
        _us(row.after_us),
        f"{row.ratio:.2f}" if row.ratio else "",
        "" if row.error is None else f"{row.error:.1e}",
        row.reason,
    )


def type_name(cls: type) -> str:
    """torch.nn.Conv2d rather than torch.nn.modules.conv.Conv2d."""
    module = "torch.nn" if cls.__module__.startswith("torch.nn.modules.") else cls.__module__
    return f"{module}.{cls.__qualname__}"
