"""Traces a model with torch.fx and timm's registry of leaf modules."""

from __future__ import annotations

import inspect
import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from timm.layers import Linear, ScaledStdConv2d, StdConv2d, get_notrace_functions, get_notrace_modules
from torch import fx, nn


class UntraceableModel(Exception):
    """The forward of the model is not one static graph; ``reason`` is the cause."""

    def __init__(self, model: str, reason: str) -> None:
        super().__init__(f"{model} cannot be traced: {reason}")
        self.reason = reason


class _Tracer(fx.Tracer):
    """A tracer with torch.nn's layers, timm's registered modules and ``leaves`` as leaves.

    Attributes:
        within: the modules whose forward was being traced when it stopped, outermost first, as
            path and module; the model itself is not among them.
    """

    def __init__(self, leaves: tuple[type, ...]) -> None:
        super().__init__(autowrap_modules=(math,), autowrap_functions=tuple(get_notrace_functions()))
        self._leaves = (Linear, StdConv2d, ScaledStdConv2d, *get_notrace_modules(), *leaves)
        self.within: list[tuple[str, nn.Module]] = []

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if isinstance(m, fx.GraphModule):
            return False
        return isinstance(m, self._leaves) or super().is_leaf_module(m, module_qualified_name)

    def create_args_for_root(self, root_fn: Any, is_module: bool, concrete_args: Any = None) -> Any:
        """As torch's, with the images as the only input: other arguments have their defaults.

        torch.fx would give a proxy for timm's ``mask`` or ``attn_mask``, and a proxy is not None.
        """
        code = inspect.unwrap(root_fn).__code__
        if is_module and code.co_argcount + code.co_kwonlyargcount > 2:

            def forward(root: nn.Module, x: Any) -> Any:
                return root_fn(root, x)

            forward.__code__ = forward.__code__.replace(co_varnames=code.co_varnames[:2])
            return super().create_args_for_root(forward, is_module, concrete_args)
        return super().create_args_for_root(root_fn, is_module, concrete_args)

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Calls the module as torch's tracer does, and notes which module is being traced."""
        self.within.append((self.path_of_module(m), m))
        found = super().call_module(m, forward, args, kwargs)
        self.within.pop()  # after an exception, the module stays in the list
        return found


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

    The graph module shares layers and parameters with ``model``, under the same names. Its only
    input are the images; other arguments of the forward have their defaults. A module
    inside it whose forward depends on values (data-dependent control flow) stays one node, and so
    do all modules of its class.

    Args:
        model: any timm backbone, or a module that torch.fx can trace.
        leaves: further layer types that stay one node.

    Raises:
        UntraceableModel: if the forward of the model itself depends on values, with torch's reason.
    """
    whole: tuple[type, ...] = ()
    while True:
        tracer = _Tracer((*leaves, *whole))
        try:
            with _ALONE:
                graph = tracer.trace(model)
        except Exception as error:  # a forward function may raise any type for proxies
            if not tracer.within or (kind := type(tracer.within[-1][1])) in whole or _is_most(kind, model):
                raise _untraceable(model, tracer, error) from error
            whole = (*whole, kind)
            continue
        break
    module = fx.GraphModule(tracer.root, graph, type(model).__name__)
    module.train(model.training)
    return module


def _is_most(kind: type, model: nn.Module) -> bool:
    """Whether modules of this class hold most of the weights: little would be left to compress."""
    inside = {id(p): p.numel() for m in model.modules() if issubclass(type(m), kind) for p in m.parameters()}
    return 2 * sum(inside.values()) > sum(p.numel() for p in model.parameters())


def _untraceable(model: nn.Module, tracer: _Tracer, error: Exception) -> UntraceableModel:
    """The error that names the module in which tracing stopped."""
    said = " ".join(f"{type(error).__name__}: {error}".split())
    where = "".join(f"in '{path}' ({type(module).__name__}), " for path, module in tracer.within[-1:])
    return UntraceableModel(type(model).__name__, where + said)


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
