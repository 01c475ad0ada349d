"""Imports timm and torchvision without torch's compiler, which takes half of the import time.

Import timm from here, or import this module before timm and torchvision. Both mark functions that
the compiler must skip, and torchvision imports a utility of the compiler for pooling regions of
interest. The marks and the utility would load the compiler. Placeholders delay that until such a
function is called.

Private: ``torch._disable_dynamo``, by which torch itself delays loading, and
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
    """A placeholder for the utilities of the compiler; other names come from the real module."""

    @staticmethod
    def is_compile_supported(device_type: str) -> Any:
        """Loads the compiler when it is called."""
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


if {"torch._dynamo", "timm"} & set(sys.modules):  # the import time is spent already
    import timm
else:
    with _put_off():
        import timm
