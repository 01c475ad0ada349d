"""Traces a model with torch.fx and timm's registry of leaf modules."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from timm.layers import Linear, ScaledStdConv2d, StdConv2d, get_notrace_functions, get_notrace_modules
from torch import fx, nn


class UntraceableModel(Exception):
    """The forward of the model is not one static graph; ``reason`` is the cause."""

    def __init__(self, model: str, reason: str) -> None:
        super().__init__(f"{model} cannot be traced: {reason}")
        self.reason = reason


class _Tracer(fx.Tracer):
    """A tracer with torch.nn's layers, timm's registered modules and ``leaves`` as leaves."""

    def __init__(self, leaves: tuple[type, ...]) -> None:
        super().__init__(autowrap_modules=(math,), autowrap_functions=tuple(get_notrace_functions()))
        self._leaves = (Linear, StdConv2d, ScaledStdConv2d, *get_notrace_modules(), *leaves)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if isinstance(m, fx.GraphModule):
            return False
        return isinstance(m, self._leaves) or super().is_leaf_module(m, module_qualified_name)


_ALONE = threading.RLock()
"""torch.fx replaces ``nn.Module.__call__`` for all threads while it traces."""


@contextmanager
def without_tracing() -> Iterator[None]:
    """Keeps other threads from tracing, for a thread that runs networks in parallel.

    See :func:`let_trace`.
    """
    with _ALONE:
        yield


def let_trace() -> None:
    """Within :func:`without_tracing`: lets a waiting thread trace."""
    _ALONE.release()
    time.sleep(0.001)
    _ALONE.acquire()


def trace(model: nn.Module, leaves: tuple[type, ...] = ()) -> fx.GraphModule:
    """Traces ``model`` in its present mode (train or eval).

    The graph module shares layers and parameters with ``model``, under the same names.

    Args:
        model: any timm backbone, or a module that torch.fx can trace.
        leaves: further layer types that stay one node.

    Raises:
        UntraceableModel: if the forward pass depends on values (data-dependent control flow), with
            torch's reason.
    """
    tracer = _Tracer(leaves)
    try:
        with _ALONE:
            graph = tracer.trace(model)
    except Exception as error:  # a forward function may raise any type for proxies
        raise UntraceableModel(type(model).__name__, f"{type(error).__name__}: {error}") from error
    module = fx.GraphModule(tracer.root, graph, type(model).__name__)
    module.train(model.training)
    return module


@contextmanager
def evaluating(model: nn.Module) -> Iterator[nn.Module]:
    """Sets ``model`` to eval mode without gradients, and restores the modes afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield model
    finally:
        for module, training in modes:
            module.training = training
