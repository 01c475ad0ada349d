"""The row of the baseline."""

from __future__ import annotations

from autocompress.data import task_of
from autocompress.results import BASELINE, Row
from autocompress.searching.measurer import Measurer
from autocompress.searching.searchable import SearchableJob, is_by_agreement


def baseline_row(opened: SearchableJob, measurer: Measurer) -> Row:
    """The row of the baseline; its latency is measured with the front.

    Raises:
        UserError: if a device cannot compute its energy.
    """
    base = opened.baseline
    with measurer.told():
        energy = measurer.energy(base.deployable)
    return {
        "status": BASELINE,
        "accuracy": base.accuracy,
        "accuracy_drop": 0.0,
        "agreement": base.accuracy if is_by_agreement(opened) else None,
        "latency_ratio": 1.0,
        "size_bytes": base.size_bytes,
        "params": base.params,
        "macs": base.macs,
        "energy_uj": energy,
        **_metric(opened),
    }


def _metric(opened: SearchableJob) -> Row:
    """The name of the metric, where it is not accuracy."""
    task = task_of(opened.job)
    return {} if task.is_classification else {"metric": task.task().metric_name}
