"""The content of summary.json: figures of a run, and facts about its job."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autocompress.compression.artifact import METRICS_FILE
from autocompress.contract import Manager
from autocompress.data import Splits
from autocompress.data.preprocessing import steps_of
from autocompress.objectives.fronts import front_hypervolume, nearest_miss
from autocompress.results import COLUMNS, FRONT_COLUMNS, SHOWN_METRICS, STATUSES, Row
from autocompress.searching.modelfiles import accuracy_bar, with_artifact
from autocompress.searching.promotion.summary import climbing_summary
from autocompress.searching.searchable import SearchableJob


def only(columns: Sequence[str], row: Mapping[str, Any]) -> Row:
    """``row`` with these columns only; missing ones are None."""
    return {name: row.get(name) for name in columns}


@dataclass(frozen=True)
class Summary:
    """Makes the summary of a run.

    Attributes:
        opened: the opened job.
        folder: ``results/<name>``.
        baseline: the baseline's row.
        rows: all rows.
        front: the rows of the front.
    """

    opened: SearchableJob
    folder: Path
    baseline: Row
    rows: Sequence[Row]
    front: Sequence[Row]

    def of_rows(self, fastest: Row | None, judged: int | None) -> dict[str, Any]:
        """The part that is computed from rows and artifacts.

        Args:
            fastest: the fastest model within the accuracy bar.
            judged: number of images that judged the final models; None for the images of trials.
        """
        counts = Counter(row["status"] for row in self.rows)
        missed = nearest_miss(self.rows)
        environments = [row["latency"]["environment"] for row in self.front if row.get("latency")]
        splits = self.opened.splits
        return {
            "hypervolume": front_hypervolume(self.front),
            "trials": {status: counts[status] for status in STATUSES},
            "cache": {
                "hits": sum(row.get("cache_hits", 0) for row in self.rows),
                "misses": sum(row.get("cache_misses", 0) for row in self.rows),
            },
            "images": {
                "train": len(splits.train),
                "val": len(splits.val) if judged is None else judged,
                "test": len(splits.test),
            },
            "baseline": only(FRONT_COLUMNS, self.baseline),
            "environment": environments[0] if environments else {},
            "nearest_miss": None if missed is None else only(COLUMNS, with_artifact(self.folder, missed)),
            "rungs": climbing_summary(self.rows),
            "metrics": {
                str(row["trial"]): _shown_metrics(self.folder / row["artifact"])
                for row in self.front
                if row.get("artifact")
            },
            "fastest_within_bar": None
            if fastest is None
            else {
                **only(FRONT_COLUMNS, with_artifact(self.folder, fastest)),
                "points": accuracy_bar(self.opened.job),
            },
        }

    def of_job(self, plugins: Manager) -> dict[str, Any]:
        """The part about the data, the baseline and the plugins."""
        splits = self.opened.splits
        return {
            "preprocessing": steps_of(splits.info),
            "synthetic": _synthetic(splits),
            "unlabelled": _unlabelled(splits),
            **({} if splits.info.task.is_classification else {"metric": splits.val.task.metric_name}),
            "notes": list(splits.notes),
            "neutral": dict(self.opened.neutral()),
            "float_layers": self.opened.float_layers(),
            "placement": self.opened.placement(),
            "plugins": {
                "applied": self.opened.offered(),
                "refused": dict(self.opened.refused),
                "broken": {broken.name: broken.reason for broken in plugins.broken},
            },
        }


def _shown_metrics(artifact: Path) -> dict[str, Any]:
    """The metrics of an artifact for the report, so that the report needs no models."""
    file = artifact / METRICS_FILE
    known = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    return {name: known[name] for name in SHOWN_METRICS if name in known}


def _synthetic(splits: Splits) -> dict[str, Any]:
    """The images that replaced training data; empty in a job with training data."""
    if not splits.synthetic:
        return {}
    return {"train": dict(splits.synthetic), **_held_out(splits), "classes": splits.info.num_classes}


def _unlabelled(splits: Splits) -> dict[str, Any]:
    """The images that replaced labelled ones; empty in a job with labelled training images."""
    if not splits.unlabelled:
        return {}
    return {"train": len(splits.train), **_held_out(splits), "classes": splits.info.num_classes}


def _held_out(splits: Splits) -> dict[str, Any]:
    """The images on which candidates are compared with the baseline; empty if labels judge."""
    if not splits.by_agreement:
        return {}
    return {"held_out": len(splits.val), "classes_seen": len(splits.val.labels().unique())}
