"""Searching for Low-Bit Weights as a plugin. Yang et al., NeurIPS 2020, arXiv 2009.08695.

Rooms: ``values`` the values and what is read off the logits; ``schedule`` the temperature;
``start`` first logits, and the memory they take; ``fakequant`` the weight's fake-quantizer;
``state_norm`` and ``two_statistics`` batch norms with discrete statistics; ``activations`` DoReFa
and PACT; ``callback`` what happens while a network trains; ``settings`` every option; ``method``
the quantizer with its space.
"""

from __future__ import annotations

from autocompress.contract import Method, hookimpl
from autocompress_slb.method import Slb

__all__ = ["Slb", "autocompress_methods"]


@hookimpl
def autocompress_methods() -> list[Method]:
    """The quantizer ``slb``."""
    return [Slb()]
