"""torch.compile(model, backend="fastnn"): torch's functions in the captured graph become fastnn's, fused.

The rewritten graph runs call by call, under torch's autograd; where nothing is differentiated, batch norms are folded
into the weights of convolutions.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch

from .rewrite import Unsupported, rewrite

_log = logging.getLogger("fastnn.torch.compile")


def backend(graph_module: torch.fx.GraphModule, example_inputs: list[Any]) -> Callable[..., Any]:
    """A backend of torch.compile; the entry point "fastnn" of torch_dynamo_backends."""
    graph = graph_module.graph
    changes_mode = any(node.target is torch._C._set_grad_enabled for node in graph.nodes)
    try:
        result = rewrite(graph, inference=not (torch.is_grad_enabled() or changes_mode))
    except Unsupported as error:
        _log.info("graph of %d calls is left to torch: %s", len(graph.nodes), error)
        return graph_module.forward
    graph_module.recompile()
    _log.info("%d calls run in fastnn: %s", len(result.pieces), ", ".join(piece.function for piece in result.pieces))
    return graph_module.forward


def register() -> None:
    """For processes that have imported fastnn; others find the entry point of the installed package."""
    from torch._dynamo.backends import registry

    if "fastnn" not in registry._COMPILER_FNS:
        registry.register_backend(backend, name="fastnn")
