"""Errors of single layers: a compressed network beside its baseline, on the same images."""

from __future__ import annotations

from autocompress.layer_errors.channels import Kept, folded, kept_channels
from autocompress.layer_errors.errors import Compared, LayerError, compare_layers, losses_alone

__all__ = ["Compared", "Kept", "LayerError", "compare_layers", "folded", "kept_channels", "losses_alone"]
