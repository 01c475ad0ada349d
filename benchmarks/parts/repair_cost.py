"""Time and peak memory of moments for ResNet-50 at 224 pixels."""

from __future__ import annotations

import resource
import time
from pathlib import Path

import timm
import torch

from autocompress.channels.known import known_couplings
from autocompress.repair import choose_ridge, gather, has_columns
from shared.rows import Rows
from shared.trained import environment

IMAGES = 256


def resnet50(out: Path, command: str, images: int = IMAGES, pixels: int = 224) -> None:
    """Moments of every layer that reads removable channels.

    Weights are random, which does not change the cost.
    """
    size = (3, pixels, pixels)
    rows = Rows(out, {"model": "resnet50", "images": images, "command": command, **environment()})

    def measured() -> dict[str, float]:
        torch.manual_seed(0)
        model = timm.create_model("resnet50").eval()
        every = known_couplings(model, size, "group")
        readers = dict.fromkeys(name for coupling in every if coupling.prunable for name in coupling.consumers)
        layers = [name for name in readers if has_columns(model.get_submodule(name))]
        batch = torch.randn(images, *size)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        started = time.perf_counter()
        found = gather(model, layers, lambda: batch.split(32), choose_ridge=choose_ridge)
        seconds = time.perf_counter() - started
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return {
            "layers": len(found),
            "moments_seconds": round(seconds, 1),
            "peak_gb": round(peak / 1e6, 2),
            "peak_before_gb": round(before / 1e6, 2),
        }

    rows.row("moments", measured)
    rows.write()
