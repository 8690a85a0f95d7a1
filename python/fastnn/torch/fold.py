"""The forward() of a module as one traced graph, in which functions run in fastnn and neighbours as one call.

A module gets a `forward` of its own on the instance; class, parameters and state_dict stay. It runs the graph where
that is right, else the module's own forward(): not with hooks on the modules inside, under autocast or tracing; and in
inference mode, which folds batch norms into weights, not in training or where something is differentiated. A graph is
traced per pattern of arguments and compared with the own forward() before its first call.
"""

from __future__ import annotations

import copy
import gc
import inspect
import operator
import warnings
import weakref
from collections.abc import Callable, Iterable
from itertools import chain
from types import SimpleNamespace
from typing import Any

import torch
from torch import fx

from . import nn
from .measure import Call, difference, outputs_of, preserved
from .rewrite import Piece, Rewritten, Unsupported, rewrite

_CONSTANTS = (type(None), bool, int, float, str)
_BATCH_NORMS = (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d, torch.nn.BatchNorm3d)
_INSTANCE_NORMS = (torch.nn.InstanceNorm1d, torch.nn.InstanceNorm2d, torch.nn.InstanceNorm3d)
_THROUGH = (torch.nn.Sequential, torch.nn.Identity, torch.nn.Flatten)
_CONTAINERS = (torch.nn.Sequential, torch.nn.ModuleList, torch.nn.ModuleDict)
_training = operator.attrgetter("training")
_requires_grad = operator.attrgetter("requires_grad")


def _layer(module: torch.nn.Module) -> type:
    return nn.ORIGINALS.get(type(module), type(module))


def _hooks(module: torch.nn.Module) -> tuple[Any, ...]:
    return (
        module._forward_hooks,
        module._forward_pre_hooks,
        module._backward_hooks,
        module._backward_pre_hooks,
    )


_GLOBAL_HOOKS = tuple(
    hooks
    for name, hooks in vars(torch.nn.modules.module).items()
    if name.startswith("_global_") and name.endswith("_hooks") and isinstance(hooks, dict)
)


# ---- tracing ---------------------------------------------------------------------------------------------------------


class _Tracer(fx.Tracer):
    """Traces through torch.nn's layers; parameters and buffers become inputs `t0`, `t1`, ... of the graph."""

    def __init__(self, leaves: set[torch.nn.Module]) -> None:
        super().__init__()
        self.leaves = leaves
        self.slots: list[tuple[dict[str, Any], str]] = []  # where the inputs t0, t1, ... are
        self.inside: list[torch.nn.Module] = []  # modules whose forward() is in the graph
        self.values = SimpleNamespace()  # constants and modules that the code reads
        self._nodes: dict[int, fx.Node] = {}
        self._where: dict[int, tuple[dict[str, Any], str]] = {}
        self._path: list[str] = []
        self._proxies: list[weakref.ref[fx.Proxy]] = []

    def run(self, root: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> fx.Graph:
        self.example = (args, kwargs)
        for module in root.modules():
            for owner in (module._parameters, module._buffers):
                self._where.update((id(t), (owner, key)) for key, t in owner.items() if t is not None)
        self.inside.append(root)
        graph = self.trace(root)
        first = next(n for n in graph.nodes if n.op != "placeholder" and "slot" not in n.meta)
        for node in [n for n in graph.nodes if n.op == "get_attr" and "slot" in n.meta]:
            with graph.inserting_before(first):
                placeholder = graph.placeholder(node.target)
            node.replace_all_uses_with(placeholder)
            graph.erase_node(node)
        return graph

    def create_args_for_root(
        self, root_fn: Callable[..., Any], is_module: bool, concrete_args: Any = None
    ) -> tuple[Callable[..., Any], list[Any]]:
        args, kwargs = self.example
        forward = _layer(self.root).forward
        proxies = [self._argument(f"x{i}", value) for i, value in enumerate(args)]
        named = {key: self._argument(f"k_{key}", value) for key, value in kwargs.items()}
        return (lambda module, *inputs: forward(module, *inputs, **named)), [self.root, *proxies]

    def _argument(self, name: str, value: Any) -> Any:
        return self.create_proxy("placeholder", name, (), {}) if isinstance(value, torch.Tensor) else value

    def is_leaf_module(self, m: torch.nn.Module, module_qualified_name: str) -> bool:
        if m in self.leaves or "parametrizations" in m._modules or "forward" in vars(m):
            return True
        layer = _layer(m)
        if m.training and (layer in _BATCH_NORMS or layer is torch.nn.Dropout):
            return True  # what counts batches, or draws random numbers
        if layer in _INSTANCE_NORMS:
            return True  # looks at the number of dimensions
        if layer in nn.COUNTERPARTS or layer in _THROUGH:
            return False
        return super().is_leaf_module(m, module_qualified_name)

    def call_module(
        self, m: torch.nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        name = self.path_of_module(m)
        if self.is_leaf_module(m, name):
            target = f"m{len(vars(self.values))}"
            setattr(self.values, target, m)
            return self.create_proxy("call_module", target, args, kwargs)
        self.inside.append(m)
        self._path.append(name)
        try:
            layer = _layer(m)
            if layer in _BATCH_NORMS:
                return self._batch_norm(m, *args, **kwargs)
            if layer in nn.COUNTERPARTS:
                return layer.forward(m, *args, **kwargs)
            return forward(*args, **kwargs)
        finally:
            self._path.pop()

    def _batch_norm(self, m: torch.nn.Module, input: Any) -> Any:
        # Its own forward() looks at the number of dimensions, which a traced tensor does not have.
        use_batch = m.running_mean is None and m.running_var is None
        momentum = 0.0 if m.momentum is None else m.momentum
        arguments = (input, m.running_mean, m.running_var, m.weight, m.bias, use_batch, momentum, m.eps)
        return self.create_proxy("call_function", torch.nn.functional.batch_norm, arguments, {})

    def proxy(self, node: fx.Node) -> fx.Proxy:
        proxy = super().proxy(node)
        self._proxies.append(weakref.ref(proxy))
        return proxy

    def has_leaked(self) -> bool:
        """Whether forward() has kept something that it computed, in a list for example."""
        if any(proxy() is not None for proxy in self._proxies):
            gc.collect()  # a generator of forward() may hold them in a cycle
        return any(proxy() is not None for proxy in self._proxies)

    def create_node(self, *args: Any, **kwargs: Any) -> fx.Node:
        node = super().create_node(*args, **kwargs)
        node.meta["module"] = self._path[-1] if self._path else ""
        return node

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        return attr_val  # parameters become nodes in create_arg

    def create_arg(self, a: Any) -> Any:
        if isinstance(a, torch.Tensor):
            return self._tensor(a)
        return super().create_arg(a)

    def _tensor(self, tensor: torch.Tensor) -> fx.Node:
        node = self._nodes.get(id(tensor))
        if node is None:
            slot = self._where.get(id(tensor))
            if slot is None:
                target = f"c{len(vars(self.values))}"
                setattr(self.values, target, tensor)
                node = self.create_node("get_attr", target, (), {})
            else:
                node = self.create_node("get_attr", f"t{len(self.slots)}", (), {})
                node.meta["slot"] = True
                self.slots.append(slot)
            self._nodes[id(tensor)] = node
        return node


def _trace(
    module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], leaves: set[torch.nn.Module]
) -> tuple[_Tracer, fx.Graph]:
    """Raises Unsupported with the reason where forward() cannot be traced, or does more than compute its result."""
    tracer = _Tracer(leaves)
    attributes = [(m, dict(vars(m))) for m in module.modules()]
    lists = [(c, list(c)) for m in module.modules() for c in vars(m).values() if type(c) is list]
    random = torch.get_rng_state()
    try:
        with torch.no_grad():
            graph = tracer.run(module, args, kwargs)
    except Exception as error:  # whatever a forward() does with a value that it does not have
        reason = str(error).strip().split("\n")[0].split(". ")[0] or type(error).__name__
        raise Unsupported(f"cannot be traced: {reason}") from None
    finally:
        changed = [m for m, before in attributes if not _same(vars(m), before)]
        for m, before in attributes:
            if m in changed:
                vars(m).clear()
                vars(m).update(before)
        drawn = not torch.equal(random, torch.get_rng_state())
        torch.set_rng_state(random)
    leaked = tracer.has_leaked()
    for kept, before in lists:
        kept[:] = before
    if leaked:
        raise Unsupported("cannot be traced: forward() keeps what it computes")
    if changed:
        raise Unsupported("cannot be traced: forward() changes attributes of the model")
    if drawn:
        raise Unsupported("cannot be traced: forward() draws random numbers")
    return tracer, graph


def _same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return a.keys() == b.keys() and all(a[key] is b[key] for key in a)


# ---- plans -----------------------------------------------------------------------------------------------------------


class Plan:
    """The folded graph for one pattern of arguments."""

    def __init__(
        self,
        module: torch.nn.Module,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        leaves: set[torch.nn.Module],
        refused: Iterable[str],
        inference: bool,
    ) -> None:
        tracer, self.graph = _trace(module, args, kwargs, leaves)
        self.rewritten: Rewritten = rewrite(self.graph, inference=inference, refused=refused)
        self.slots, self.values = tracer.slots, tracer.values
        inside = list(dict.fromkeys(tracer.inside))
        self._modules = inside
        self._hooks = [*_GLOBAL_HOOKS, *(hooks for m in inside[1:] for hooks in _hooks(m))]
        self._trained = list(map(_training, inside))
        self._links = [(m._modules, key, child) for m in inside for key, child in m._modules.items()]
        self.verified = False
        code = self.graph.python_code("self")
        scope = dict(code.globals)
        exec(compile(code.src, f"<fastnn: {type(module).__name__}.forward>", "exec"), scope)
        self._forward = scope["forward"]

    @property
    def pieces(self) -> list[Piece]:
        return self.rewritten.pieces

    def tensors(self) -> list[torch.Tensor]:
        return [owner[key] for owner, key in self.slots]

    def holds(self) -> bool:
        """Whether the modules are as they were traced."""
        if any(self._hooks) or list(map(_training, self._modules)) != self._trained:
            return False
        return all(owner.get(key) is child for owner, key, child in self._links)

    def __call__(self, inputs: tuple[torch.Tensor, ...], tensors: list[torch.Tensor]) -> Any:
        return self._forward(self.values, *inputs, *tensors)


class FoldedForward:
    """Holds the plans of a module; its method forward() is what `module.forward` is while it is folded."""

    def __init__(
        self,
        module: torch.nn.Module,
        inference: bool,
        leaves: Iterable[torch.nn.Module] = (),
        refused: Iterable[str] = (),
    ) -> None:
        self.module, self.inference = module, inference
        self.leaves, self.refused = set(leaves), frozenset(refused)
        self.plans: dict[Any, Plan | None] = {}
        self.problem = ""

    def default_plan(self) -> Plan | None:
        """The plan for tensors as the arguments that have no default."""
        return self.plan((torch.empty(0),) * len(_required(self.module)), {})

    def pieces(self) -> list[Piece]:
        """Those of the default plan."""
        plan = self.default_plan()
        return [] if plan is None else plan.pieces

    def original(self, *args: Any, **kwargs: Any) -> Any:
        return type(self.module).forward(self.module, *args, **kwargs)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_compiling() or torch.jit.is_tracing() or torch.is_autocast_enabled("cpu"):
            return self.original(*args, **kwargs)
        plan = self.plan(args, kwargs)
        if plan is None or not plan.holds():
            return self.original(*args, **kwargs)
        inputs = tuple(a for a in chain(args, kwargs.values()) if isinstance(a, torch.Tensor))
        tensors = plan.tensors()
        if self.inference and torch.is_grad_enabled() and any(map(_requires_grad, chain(inputs, tensors))):
            return self.original(*args, **kwargs)
        if not (plan.verified or self._verify(plan, args, kwargs)):
            return self.original(*args, **kwargs)
        return plan(inputs, tensors)

    def plan(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Plan | None:
        """The plan for such arguments, traced if need be; None where there is none."""
        key: Any = (
            self.module.training,
            tuple(None if isinstance(a, torch.Tensor) else (a,) for a in args),
            tuple((name, None if isinstance(a, torch.Tensor) else (a,)) for name, a in kwargs.items()),
        )
        try:
            if key in self.plans:
                return self.plans[key]
        except TypeError:  # an argument that is a list or a dict
            return None
        plan = None
        if all(isinstance(a, (torch.Tensor, *_CONSTANTS)) for a in chain(args, kwargs.values())):
            if self.module.training and self.inference:
                return None
            try:
                plan = Plan(self.module, args, kwargs, self.leaves, self.refused, self.inference)
            except Unsupported as error:
                self.problem = str(error)
        self.plans[key] = plan
        return plan

    def _verify(self, plan: Plan, args: Any, kwargs: Any) -> bool:
        """Compares the plan with the module's own forward(), which both run without consequences."""
        results = []
        try:
            for planned in (False, True):
                call = Call(args, kwargs).copied()
                with preserved(self.module), torch.no_grad():
                    out = plan(call.tensors(), plan.tensors()) if planned else self.original(*call.args, **call.kwargs)
                results.append(outputs_of(out))
        except Exception as error:
            if not results:
                return False  # its own forward() says what is wrong with the arguments
            problem = f"the traced graph fails: {error}"
        else:
            error, within = difference(results[1], results[0], None, None, factor=10)
            problem = "" if within else f"the traced graph gives other results (by {error:.1e})"
        plan.verified = not problem
        if problem:
            self.problem = problem
            self.plans = {key: None if p is plan else p for key, p in self.plans.items()}
            warnings.warn(f"fastnn.swap: {type(self.module).__name__} is not folded: {problem}", stacklevel=5)
        return plan.verified

    def refuse(self, keys: Iterable[str]) -> None:
        """Leaves these pieces of the graph to torch."""
        self.refused = self.refused | set(keys)
        self.plans.clear()

    def refresh(self) -> None:
        for plan in self.plans.values():
            for folded in plan.rewritten.folded if plan is not None else ():
                folded.refresh()

    def install(self) -> None:
        vars(self.module)["forward"] = self.forward

    def remove(self) -> None:
        if vars(self.module).get("forward") == self.forward:
            del vars(self.module)["forward"]

    # A copy, and what is read from a file, folds its own module; what was traced belongs to this one.

    def __deepcopy__(self, memo: dict[int, Any]) -> FoldedForward:
        leaves = [copy.deepcopy(m, memo) for m in self.leaves]
        return FoldedForward(copy.deepcopy(self.module, memo), self.inference, leaves, self.refused)

    def __getstate__(self) -> dict[str, Any]:
        names = ("module", "inference", "refused")
        return {name: getattr(self, name) for name in names} | {"leaves": list(self.leaves)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self.leaves = set(self.leaves)
        self.plans, self.problem = {}, ""


# ---- where to fold ---------------------------------------------------------------------------------------------------


def fold(model: torch.nn.Module, inference: bool) -> tuple[list[FoldedForward], list[str]]:
    """A FoldedForward, not yet installed, for each largest module that can be traced and gains from it.

    Returns: them, and in words what could not be traced.
    """
    folds: list[FoldedForward] = []
    notes: list[str] = []
    _fold_tree(model, "", inference, folds, notes)
    return folds, notes


def _fold_tree(
    module: torch.nn.Module, name: str, inference: bool, folds: list[FoldedForward], notes: list[str]
) -> bool:
    """Whether the module, or everything in it, could be traced."""
    own = type(module).__module__.startswith("torch.nn.modules.") and not isinstance(module, _CONTAINERS)
    if own or not module._modules:
        return True
    if "forward" in vars(module):
        notes.append(f"{name or 'the model'} has a forward() of its own on the instance; it is left alone")
        return False
    problem = _try_trace(module, set())
    if not problem:
        folds.append(FoldedForward(module, inference))
        return True
    inner: list[FoldedForward] = []
    leaves = {
        child
        for key, child in module._modules.items()
        if child is not None and not _fold_tree(child, f"{name}.{key}".strip("."), inference, inner, notes)
    }
    if leaves and not _try_trace(module, leaves):
        folds.append(FoldedForward(module, inference, leaves))
        folds.extend(fold for fold in inner if any(fold.module in leaf.modules() for leaf in leaves))
        return False
    if not isinstance(module, _CONTAINERS[1:]):
        notes.append(f"{name or 'the model'} ({type(module).__name__}) {problem}; folded module by module")
    folds.extend(inner)
    return False


def _try_trace(module: torch.nn.Module, leaves: set[torch.nn.Module]) -> str:
    """Traces as if called with tensors for the arguments without defaults; the reason where that fails."""
    if isinstance(module, _CONTAINERS[1:]):
        return "has no forward()"
    if any(hooks for m in list(module.modules())[1:] for hooks in _hooks(m)):
        return "has modules with hooks"
    try:
        _, graph = _trace(module, (torch.empty(0),) * len(_required(module)), {}, leaves)
        rewrite(graph, inference=False)
    except Unsupported as error:
        return str(error)
    return ""


def _required(module: torch.nn.Module) -> list[inspect.Parameter]:
    """The arguments of forward() without a default."""
    try:
        parameters = list(inspect.signature(_layer(module).forward).parameters.values())[1:]
    except (TypeError, ValueError):
        raise Unsupported("has a forward() without a signature") from None
    if any(p.kind is p.VAR_POSITIONAL for p in parameters):
        raise Unsupported("cannot be traced: forward() takes *args")
    return [p for p in parameters if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD]
