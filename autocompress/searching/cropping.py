"""Measures the effect of the tap crop alone on the baseline, for the summary."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from autocompress.searching.measurer import Measurer
from autocompress.searching.rundir import scratch_folder
from autocompress.searching.searchable import SearchableJob

SECONDS = 1.0
"""Seconds of latency measurement."""


def crop_told(opened: SearchableJob, measurer: Measurer, folder: Path) -> dict[str, Any]:
    """The tap crop of the float baseline, as JSON values.

    These are layers, weights and multiply-adds left out, ratios of size and latency to the
    baseline, and the interval of the latency. Empty if the crop leaves nothing out, or the job
    switches it off.

    Args:
        opened: the opened job.
        measurer: its devices.
        folder: folder of the run, for a temporary file.

    Raises:
        UserError: if the device cannot measure.
    """
    with tempfile.TemporaryDirectory(dir=scratch_folder(folder)) as scratch:
        found = opened.cropped_baseline(Path(scratch) / "cropped.onnx")
        if found is None:
            return {}
        deployable, crop = found
        with measurer.told():
            measured = measurer.once(deployable, opened.baseline.deployable, SECONDS)
        return {
            **crop.told(),
            "size_ratio": deployable.file.stat().st_size / opened.baseline.size_bytes,
            "latency_ratio": measured.latency_ratio,
            "latency_ratio_low": measured.ratio_low,
            "latency_ratio_high": measured.ratio_high,
        }
