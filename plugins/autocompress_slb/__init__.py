"""Searching for Low-Bit Weights as a plugin. Yang et al., NeurIPS 2020, arXiv 2009.08695.

- ``values``: the values, and weights from logits.
- ``schedule``: the temperature.
- ``start``: the first logits, and their memory.
- ``fakequant``: the fake-quantizer of weights.
- ``state_norm`` and ``two_statistics``: batch norms with discrete statistics.
- ``activations``: DoReFa and PACT.
- ``callback``: the training.
- ``settings``: all options.
- ``method``: the quantizer with its space.
"""

from __future__ import annotations

from autocompress.contract import Method, hookimpl
from autocompress_slb.method import Slb

__all__ = ["Slb", "autocompress_methods"]


@hookimpl
def autocompress_methods() -> list[Method]:
    """The quantizer ``slb``."""
    return [Slb()]
