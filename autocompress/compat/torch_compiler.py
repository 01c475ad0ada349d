"""timm and torchvision without torch's compiler, which takes half of the time to import them.

Take timm from here, or import this module before either of them. Both say, as they are imported,
which functions the compiler shall leave alone, and torchvision takes a function of its utilities,
which it needs when regions of interest are pooled. Each of these loads the compiler. While both are
imported, stand-ins put that off until such a function is called.

Private: ``torch._disable_dynamo``, with which torch itself puts it off;
``torch._dynamo.utils.is_compile_supported``.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import torch
import torch.compiler

__all__ = ["timm"]
UTILITIES = "torch._dynamo.utils"


class _StandIn(ModuleType):
    """The module of the compiler's utilities. What else is asked of it is looked up in the real
    one.
    """

    @staticmethod
    def is_compile_supported(device_type: str) -> Any:
        """Asks the compiler when it is called."""
        return importlib.import_module(UTILITIES).is_compile_supported(device_type)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        _remove(self)
        return getattr(importlib.import_module(UTILITIES), name)


def _remove(stand_in: ModuleType) -> None:
    if sys.modules.get(UTILITIES) is stand_in:
        del sys.modules[UTILITIES]


def _disable(fn: Callable[..., Any] | None = None, recursive: bool = True, *, reason: str | None = None) -> Any:
    """``torch.compiler.disable``, which takes effect when the function is first called."""
    del reason
    return torch._disable_dynamo(fn, recursive)


@contextmanager
def _put_off() -> Iterator[None]:
    stand_in, disable = _StandIn(UTILITIES), torch.compiler.disable
    sys.modules[UTILITIES] = stand_in
    torch.compiler.disable = _disable
    try:
        yield
    finally:
        torch.compiler.disable = disable
        _remove(stand_in)


if {"torch._dynamo", "timm"} & set(sys.modules):  # there is nothing to save
    import timm
else:
    with _put_off():
        import timm
