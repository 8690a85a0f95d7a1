"""Runs a function beside torch's on the same arguments and bounds its error by torch's own.

The bound: the largest error against torch in float64 is at most twice that of torch in the dtype, plus one unit in the
last place of the largest value. NaN and infinities stand where torch has them, in the dtype or in float64. The same
arguments come in several memory layouts, with gradients of all inputs, of each input alone and of none; whatever the
call leaves in its arguments (running statistics) is compared as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._pytree import tree_flatten, tree_map

FACTOR = 2.0
LAYOUTS = ("given", "scattered", "shifted")


def tensors(tree: Any) -> list[torch.Tensor]:
    return [t for t in tree_flatten(tree)[0] if isinstance(t, torch.Tensor)]


def in_layout(t: torch.Tensor, layout: str) -> torch.Tensor:
    """A copy of t: with its strides, transposed with gaps between the elements, or one element into a larger block."""
    if layout == "scattered":
        out = t.new_empty((*t.shape[::-1], 2))[..., 1].permute(tuple(range(t.ndim))[::-1])
    elif layout == "shifted":
        out = t.new_empty(t.numel() + 1)[1:].view(t.shape)
    elif 0 in t.stride():
        out = t.new_empty(t.shape)
    else:
        out = torch.empty_strided(t.shape, t.stride(), dtype=t.dtype)
    return out.copy_(t.detach())


def copied(tree: Any, dtype: torch.dtype | None = None, layout: str = "given") -> Any:
    """The tree with every tensor copied, floating ones converted to dtype; leaves that ask for a gradient still do."""

    def one(t: Any) -> Any:
        if not isinstance(t, torch.Tensor):
            return t
        value = t.detach().to(dtype) if dtype and t.is_floating_point() else t
        return in_layout(value, layout).requires_grad_(t.requires_grad)

    return tree_map(one, tree)


@dataclass
class Outcome:
    outputs: list[torch.Tensor]
    gradients: list[torch.Tensor] | None  # None: no output is differentiable
    arguments: list[torch.Tensor]  # as the call left them


def outcome(fn: Callable[..., Any], call: Any, post: Callable[[Any], Any], layout: str = "given") -> Outcome:
    """Calls fn(*args, **kwargs) and differentiates one fixed random projection of its outputs."""
    torch.manual_seed(0)
    args, kwargs = call
    out = fn(*args, **kwargs)
    leaves = [t for t in tensors(call) if t.requires_grad]
    roots = [t for t in tensors(post(out)) if t.requires_grad]
    gradients = None
    if roots and leaves and torch.is_grad_enabled():  # a view of a leaf requires a gradient also without
        generator = torch.Generator().manual_seed(1)
        seeds = [torch.randn(t.shape, generator=generator, dtype=torch.float64).to(t.dtype) for t in roots]
        seeds = [in_layout(s, layout) for s in seeds]
        kept = [s.clone() for s in seeds]
        found = torch.autograd.grad(roots, leaves, seeds, allow_unused=True)
        gradients = [torch.zeros_like(t) if g is None else g for g, t in zip(found, leaves, strict=True)]
        for seed, before in zip(seeds, kept, strict=True):
            assert torch.equal(seed, before), "backward changed the gradient that it was given"
    return Outcome([t.detach() for t in tensors(out)], gradients, [t.detach() for t in tensors(call)])


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype and torch.equal(*(torch.nan_to_num(t, 1.25) for t in (a, b)))


def kind(t: torch.Tensor) -> torch.Tensor:
    """0 for a finite element, else 1, 2, 3 for infinity, minus infinity, NaN."""
    return torch.isposinf(t) + 2 * torch.isneginf(t) + 3 * torch.isnan(t)


def assert_close(got: list, own: list, exact: list, what: str, ulps: float = 1) -> None:
    """Bounds the error of got by FACTOR times that of own; tensors that are not floating must be equal."""
    assert len(got) == len(own), f"{what}: {len(got)} tensors, torch has {len(own)}"
    for i, (g, o, e) in enumerate(zip(got, own, exact, strict=True)):
        where = f"{what} {i}"
        assert g.shape == o.shape, f"{where}: shape {tuple(g.shape)}, torch's is {tuple(o.shape)}"
        assert g.dtype == o.dtype, f"{where}: dtype {g.dtype}, torch's is {o.dtype}"
        if not o.is_floating_point():
            assert torch.equal(g, o), f"{where}: {g} where torch has {o}"
            continue
        other = (kind(g) != kind(o)) & (kind(g) != kind(e))
        assert not other.any(), f"{where}: {g[other][:4]} where torch has {o[other][:4]}, in float64 {e[other][:4]}"
        finite = torch.isfinite(g) & torch.isfinite(o) & torch.isfinite(e)
        if finite.any():
            error, mine = ((t[finite].double() - e[finite].double()).abs().max().item() for t in (g, o))
            limit = FACTOR * mine + ulps * torch.finfo(o.dtype).eps * e[finite].abs().max().item()
            assert error <= limit, f"{where}: error {error:.3g}, torch's own {mine:.3g}, limit {limit:.3g}"


def alone(call: Any) -> Iterator[tuple[int, Any]]:
    """The call with a gradient asked of one input only, for each input, if there are several."""
    leaves = [t for t in tensors(call) if t.requires_grad]
    for keep in range(len(leaves) if len(leaves) > 1 else 0):
        one = copied(call)
        for i, t in enumerate([t for t in tensors(one) if t.requires_grad]):
            t.requires_grad_(i == keep)
        yield keep, one


@contextmanager
def one_thread_in_torch() -> Iterator[None]:
    """On a busy machine torch's threads wait for each other a hundred times longer than they work."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def check(
    ours: Callable[..., Any],
    theirs: Callable[..., Any],
    call: Any,
    post: Callable[[Any], Any] = lambda out: out,
    layouts: Iterable[str] = LAYOUTS,
    ulps: float = 1,
) -> None:
    """Asserts that ours(*args, **kwargs) conforms to theirs, for call = (args, kwargs)."""
    with one_thread_in_torch():
        own, exact = outcome(theirs, copied(call), post), outcome(theirs, copied(call, torch.float64), post)
    first = None
    for layout in layouts:
        got = outcome(ours, copied(call, layout=layout), post, layout)
        assert_close(got.outputs, own.outputs, exact.outputs, f"{layout}: output", ulps)
        assert_close(got.arguments, own.arguments, exact.arguments, f"{layout}: argument after the call", ulps)
        assert (got.gradients is None) == (own.gradients is None), (
            f"{layout}: differentiable where torch is not, or not"
        )
        if own.gradients is not None:
            assert_close(got.gradients, own.gradients, exact.gradients, f"{layout}: gradient", ulps)
        first = first or got
    with torch.no_grad():
        plain = outcome(ours, copied(call), post)
    for a, b in zip(plain.outputs, first.outputs, strict=True):
        assert same(a, b), "another output without gradients than with them"
    for i, one in alone(call):
        got = outcome(ours, one, post).gradients
        if got is not None:
            assert same(got[0], first.gradients[i]), f"another gradient of input {i} alone than beside the others"
