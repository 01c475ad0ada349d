"""From a model to its graph: torch.fx with timm's registry of what must not be traced through."""

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
    """The model's forward cannot be written as one static graph; ``reason`` says why."""

    def __init__(self, model: str, reason: str) -> None:
        super().__init__(f"{model} cannot be traced: {reason}")
        self.reason = reason


class _Tracer(fx.Tracer):
    """Traces through all but torch.nn's layers, timm's registered ones and ``leaves``."""

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
    """No other thread traces meanwhile: for a thread that runs networks beside others.

    See :func:`let_trace`.
    """
    with _ALONE:
        yield


def let_trace() -> None:
    """Within :func:`without_tracing`: lets a thread trace that waits for it."""
    _ALONE.release()
    time.sleep(0.001)
    _ALONE.acquire()


def trace(model: nn.Module, leaves: tuple[type, ...] = ()) -> fx.GraphModule:
    """Traces ``model`` in the mode (train or eval) that it is in.

    The graph module shares layers and parameters with ``model``, under the same names.

    Args:
        model: any timm backbone, or a module that torch.fx can trace.
        leaves: further layer types to keep as one node each.

    Raises:
        UntraceableModel: if the forward pass depends on values (data-dependent control flow), with
            torch's reason.
    """
    tracer = _Tracer(leaves)
    try:
        with _ALONE:
            graph = tracer.trace(model)
    except Exception as error:  # whatever a foreign forward raises on proxies
        raise UntraceableModel(type(model).__name__, f"{type(error).__name__}: {error}") from error
    module = fx.GraphModule(tracer.root, graph, type(model).__name__)
    module.train(model.training)
    return module


@contextmanager
def evaluating(model: nn.Module) -> Iterator[nn.Module]:
    """Sets ``model`` to eval mode without gradients, and restores its modules' modes after."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield model
    finally:
        for module, training in modes:
            module.training = training
