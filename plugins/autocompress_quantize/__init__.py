"""Uniform quantization (Krishnamoorthi 2018), after training or in it, as a plugin."""

from __future__ import annotations

from autocompress.contract import Method, hookimpl
from autocompress_quantize.method import Quantize

__all__ = ["Quantize", "autocompress_methods"]


@hookimpl
def autocompress_methods() -> list[Method]:
    """Offers ``quantize``."""
    return [Quantize()]
