"""fastnn.swap: makes the layers of a PyTorch model run in fastnn, in place, and says what it did."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import torch

from .. import _C
from . import functional
from .candidates import Candidate, Pattern, Selection, is_neutral, layer_of, obstacle, signature
from .fold import FoldedForward, fold
from .measure import Call, capture, compare_times, difference, preserved, runner
from .pieces import measure_pieces
from .report import Row, SwapReport, type_name

_GAIN = 0.97  # a module, or the model, is swapped if it takes at most this part of the time; less is noise
_MODEL_FACTOR = 10  # differences of layers add up: of the default tolerances, for a whole model
_SECONDS = 0.02  # for one pair of modules
_SECONDS_MODEL = 0.5


def swap(
    model: torch.nn.Module,
    sample: Any = None,
    mode: str = "training",
    include: Pattern | Iterable[Pattern] | None = None,
    exclude: Pattern | Iterable[Pattern] | None = None,
    filter_fn: Callable[[torch.nn.Module, str], bool] | None = None,
    policy: str | None = None,
    rtol: float | None = None,
    atol: float | None = None,
    strict: bool = False,
) -> SwapReport:
    """Makes the layers of `model` run in fastnn, in place.

    Each layer keeps its identity, parameters, buffers, hooks and state_dict; its class changes to the subclass of the
    same name in fastnn.torch.nn. What forward() does besides calling layers is traced with torch.fx; the traced graph
    is compared with forward() before it is first used, and not used where hooks, autocast or a tracer need the layers.
    `report.undo()` changes all of it back.

    Args:
        model: any module, also a single layer.
        sample: an input, a tuple of inputs, or a mapping of keyword arguments. The model is run on it to time and to
            compare; gradients, buffers, modes and random numbers are then as before. Forward hooks do run.
        mode: "training": layers, and where forward() can be traced the functions that it calls, with neighbours as one
            call: conv or linear + residual + activation, conv + activation + pooling. "inference": also with batch
            norms folded into the weights of convolutions, where no gradient is recorded and the model is in eval mode.
        include, exclude: qualified names, patterns ("encoder.*.attention"), classes, or several of them.
        filter_fn: filter_fn(module, name) -> whether to swap.
        policy: "always"; "faster": only what is faster on the sample, and only if the whole model is; None: "faster"
            with a sample, else "always".
        rtol, atol: outputs and gradients x may differ by atol + rtol max|x|. None: 1e-4 and 1e-5 for float32, more for
            shorter types, less for float64. What differs by more is not swapped.
        strict: raise where something included cannot be swapped.

    Returns: a SwapReport; print it.

    Raises:
        TypeError, ValueError: bad arguments; policy "faster" without a sample; with `strict`, what cannot be swapped.
            The model is then as it was.
    """
    if not isinstance(model, torch.nn.Module):
        raise TypeError(f"swap: model is a {type(model).__name__}; expected a torch.nn.Module")
    if mode not in ("training", "inference"):
        raise ValueError(f"swap: mode is {mode!r}; expected 'training' or 'inference'")
    if policy not in (None, "always", "faster"):
        raise ValueError(f"swap: policy is {policy!r}; expected None, 'always' or 'faster'")
    if policy == "faster" and sample is None:
        raise ValueError("swap: policy='faster' times the model; expected a sample")
    policy = policy or ("always" if sample is None else "faster")
    selection = Selection(include, exclude, filter_fn)

    report = SwapReport(model, mode, policy)
    candidates: list[Candidate] = []
    refused: list[Row] = []
    for name, module in model.named_modules():
        if is_neutral(module):
            continue
        row = Row(name, type_name(layer_of(type(module))))
        report.rows.append(row)
        row.reason = selection.refusal(name, module)
        if row.reason:
            continue
        row.reason = obstacle(module)
        if row.reason:
            refused.append(row)
        else:
            candidates.append(Candidate(module, row))
    if strict and refused:
        lines = "\n".join(f"  {row.name or '(model)'} ({row.original}): {row.reason}" for row in refused)
        raise ValueError(f"swap: strict=True, but these modules cannot be swapped:\n{lines}\nexclude them")

    _Swapping(report, candidates, selection, rtol, atol, strict).run(None if sample is None else Call.of(sample))
    return report


class _Swapping:
    def __init__(
        self,
        report: SwapReport,
        candidates: list[Candidate],
        selection: Selection,
        rtol: float | None,
        atol: float | None,
        strict: bool,
    ) -> None:
        self.report, self.candidates, self.selection, self.strict = report, candidates, selection, strict
        self.model, self.training = report.model, report.mode == "training"
        self.tolerance = (rtol, atol)
        self.folds: list[FoldedForward] = []
        report._undo = self.undo
        report._refresh = self.refresh

    def undo(self) -> None:
        for folded in self.folds:
            folded.remove()
        for candidate in self.candidates:
            candidate.set(False)

    def refresh(self) -> None:
        for folded in self.folds:
            folded.refresh()

    def run(self, call: Call | None) -> None:
        try:
            self._run(call)
        except BaseException:
            self.undo()
            raise

    def _run(self, call: Call | None) -> None:
        if call is None:
            for candidate in self.candidates:
                candidate.keep()
                candidate.set(True)
            self.report.notes.append("not timed; give a sample to keep only what is faster")
            with preserved(self.model):
                self.model.train(self.training and self.model.training)
                self._fold()
                self._add_pieces({})
            for folded in self.folds:
                folded.install()
            return
        with preserved(self.model), torch.set_grad_enabled(self.training):
            if not self.training:
                self.model.eval()
            self._measure_modules(call)
            self._fold()
            self._measure_folds(call)
            self._measure_model(call)
        self._set_all(True)

    # ---- one module at a time ----------------------------------------------------------------------------------------

    def _measure_modules(self, call: Call) -> None:
        names = {candidate.module: candidate.row.name for candidate in self.candidates}
        calls = capture(self.model, names, call)
        known: dict[Any, tuple[float, float, float | None, str]] = {}
        for candidate in self.candidates:
            row = candidate.row
            if row.name not in calls:
                candidate.drop("not called on the sample")
                if self.report.policy == "always":
                    candidate.keep()
                continue
            results = []
            for module_call in calls[row.name]:
                key = (signature(candidate), module_call.key())
                if key not in known:
                    known[key] = self._measure(candidate, module_call)
                results.append(known[key])
            row.before_us = sum(r[0] for r in results)
            row.after_us = sum(r[1] for r in results)
            errors = [r[2] for r in results if r[2] is not None]
            row.error = max(errors) if errors else None
            self._decide(candidate, next((r[3] for r in results if r[3]), ""))
        if self.strict:
            wrong = [c.row for c in self.candidates if c.row.reason.startswith("differs")]
            if wrong:
                raise ValueError(f"swap: strict=True, but {wrong[0].name or '(model)'} {wrong[0].reason}")

    def _decide(self, candidate: Candidate, problem: str) -> None:
        row = candidate.row
        if problem.startswith("differs"):
            candidate.drop(problem)
        elif self.report.policy == "always":
            candidate.keep()
            row.reason = problem
        elif problem:
            candidate.drop(problem)
        elif row.after_us > _GAIN * row.before_us:
            candidate.drop("slower" if row.after_us > row.before_us else "gains less than 3 %")
        else:
            candidate.keep()

    def _measure(self, candidate: Candidate, call: Call) -> tuple[float, float, float | None, str]:
        """(before, after, error, what speaks against it) of one call."""
        module = candidate.module
        parameters = [p for p in module.parameters() if p.requires_grad]

        def run(layer: type, arguments: Call) -> Callable[[], Any]:
            inplace = getattr(module, "inplace", False)
            return runner(partial(layer.forward, module), arguments, parameters, self.training, inplace)

        fallbacks = functional.fallbacks.copy()
        error, problem = None, ""
        if candidate.is_random:
            run(candidate.target, call.copied())()
        else:
            ours, theirs = (run(layer, call.copied())() for layer in (candidate.target, candidate.original))
            error, within = difference(ours, theirs, *self.tolerance)
            if not within:
                problem = f"differs from torch by {error:.1e}"
        new = functional.fallbacks - fallbacks
        if new and not problem:
            problem = f"torch's own function runs: {next(iter(new))[1]}"
        before, after = compare_times(run(candidate.original, call), run(candidate.target, call), _SECONDS)
        return before, after, error, problem

    # ---- folding -----------------------------------------------------------------------------------------------------

    def _fold(self) -> None:
        self.folds, notes = fold(self.model, inference=not self.training)
        if self.training and notes:
            notes = [f"{len(notes)} modules keep torch's functions in their forward(): {notes[0]}"]
        self.report.notes += notes
        self.names = {module: name for name, module in self.model.named_modules()}
        self.modules = {name: module for module, name in self.names.items()}
        for folded in self.folds:
            plan = folded.default_plan()
            where = plan.rewritten.modules if plan is not None else {}
            folded.refuse(key for key, name in where.items() if self._is_refused(*self._names(folded, [name])))

    def _names(self, folded: FoldedForward, inner: list[str]) -> list[str]:
        """Qualified names in the model of names in a folded module."""
        prefix = self.names[folded.module]
        return [".".join(filter(None, (prefix, name))) for name in inner]

    def _is_refused(self, name: str) -> bool:
        module = self.modules[name]
        device = next((p.device.type for p in module.parameters()), "cpu")
        return device != "cpu" or bool(self.selection.refusal(name, module))

    def _measure_folds(self, call: Call) -> None:
        calls = capture(self.model, {f.module: self.names[f.module] for f in self.folds}, call)
        measured = {}
        for folded in self.folds:
            results = [
                m
                for module_call in calls.get(self.names[folded.module], ())[:1]
                for m in measure_pieces(folded, module_call, *self.tolerance, _SECONDS)
            ]
            measured.update({(folded, m.piece.key): m for m in results})
            faster = self.report.policy == "faster"
            folded.refuse(
                m.piece.key
                for m in results
                if m.problem.startswith("differs") or (faster and (m.problem or m.after_us > _GAIN * m.before_us))
            )
        self.folds = [f for f in self.folds if self.names[f.module] in calls]
        self._add_pieces(measured)

    def _add_pieces(self, measured: dict[Any, Any]) -> None:
        """Rows of what runs as one call of several, or is called as a function."""
        rows = {row.name: row for row in self.report.rows}
        # A layer that runs alone needs nothing but its class.
        self.folds = [
            f
            for f in self.folds
            if any(len(p.modules) > 1 or self._names(f, p.modules)[0] not in rows for p in f.pieces())
        ]
        word = "fused" if self.training else "folded"
        for folded in self.folds:
            for piece in folded.pieces():
                names = self._names(folded, piece.modules)
                if len(names) == 1 and names[0] in rows:
                    continue
                functions = [_function_name(call[1]) for call in piece.before]
                parts = [
                    name if name in rows else f"{name or '(model)'}: {function}"
                    for name, function in zip(names, functions, strict=True)
                ]
                row = Row(" + ".join(parts), " + ".join(functions))
                row.replacement = f"fastnn.functional.{piece.function}" + (f" ({word})" if len(names) > 1 else "")
                row.kernel = f"{piece.function} {_C.get_isa()}"
                m = measured.get((folded, piece.key))
                if m is not None:
                    row.before_us, row.after_us, row.error = m.before_us, m.after_us, m.error
                self.report.rows.append(row)
                if len(names) > 1:
                    for name in set(names) & rows.keys():
                        rows[name].reason = f"runs in: {row.name}"

    # ---- the whole model ---------------------------------------------------------------------------------------------

    def _set_all(self, on: bool) -> None:
        for candidate in self.candidates:
            if candidate.active:
                candidate.set(on)
        for folded in self.folds:
            folded.install() if on else folded.remove()

    def _drop_folds(self, reason: str) -> None:
        for folded in self.folds:
            folded.remove()
        self.folds.clear()
        self.report.rows = [
            row for row in self.report.rows if not (row.replacement or "").startswith("fastnn.functional")
        ]
        for row in self.report.rows:
            if row.reason.startswith("runs in: "):
                row.reason = ""
        self.report.notes.append(f"nothing was folded: {reason}")

    def _measure_model(self, call: Call) -> None:
        report, parameters = self.report, [p for p in self.model.parameters() if p.requires_grad]
        run = runner(self.model, call, parameters, self.training)

        def with_classes(on: bool) -> Callable[[], Any]:
            def switched() -> Any:
                self._set_all(on)
                return run()

            return switched

        while self.folds or any(candidate.active for candidate in self.candidates):
            times = compare_times(with_classes(False), with_classes(True), _SECONDS_MODEL)
            if times[1] > _GAIN * times[0]:  # once more: on a busy machine one measurement says little
                times = compare_times(with_classes(False), with_classes(True), 2 * _SECONDS_MODEL)
            report.before_us, report.after_us = times
            if times[1] <= _GAIN * times[0] or report.policy == "always":
                break
            if self.folds:
                self._drop_folds("the model gained less than 3 %")
                continue
            active = sorted((c for c in self.candidates if c.active), key=lambda c: c.saved)
            for candidate in active[: (len(active) + 1) // 2]:
                candidate.set(False)
                candidate.drop("faster by itself, but the whole model gained less than 3 %")
        else:
            report.after_us = report.before_us  # nothing is left: the model is torch's
        self._compare_model(call)

    def _compare_model(self, call: Call) -> None:
        report = self.report
        active = [candidate for candidate in self.candidates if candidate.active]
        if not (active or self.folds) or any(candidate.is_random for candidate in active):
            return
        infer = runner(self.model, call, [], training=False)
        state = torch.get_rng_state()
        self._set_all(False)
        theirs = infer()
        torch.set_rng_state(state)
        self._set_all(True)
        ours = infer()
        report.error, within = difference(ours, theirs, *self.tolerance, factor=_MODEL_FACTOR)
        if within:
            return
        message = f"the whole model differs from torch by {report.error:.1e}"
        if self.strict:
            raise ValueError(f"swap: strict=True, but {message}")
        for candidate in active:
            candidate.set(False)
            candidate.drop(message)
        if self.folds:
            self._drop_folds(message)
        report.after_us = report.before_us
        report.notes.append(message + "; nothing was swapped")


def _function_name(function: Any) -> str:
    return getattr(function, "__name__", str(function))


@contextlib.contextmanager
def swapped(model: torch.nn.Module, *args: Any, **kwargs: Any) -> Iterator[SwapReport]:
    """`with fastnn.swapped(model): ...` is swap() with undo() at the end."""
    report = swap(model, *args, **kwargs)
    try:
        yield report
    finally:
        report.undo()
