"""An observer: one line of JSON for each finished trial."""

from __future__ import annotations

import json
from typing import Any

from autocompress.contract import hookimpl
from autocompress.job import Job

COLUMNS = ("trial", "status", "accuracy", "latency_ratio", "size_bytes")


@hookimpl
def autocompress_trial_finished(job: Job, trial: dict[str, Any]) -> None:
    """Called for each finished trial. An error here is logged and ends nothing."""
    with (job.folder / "example.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps({name: trial.get(name) for name in COLUMNS}) + "\n")


@hookimpl
def autocompress_search_finished(job: Job, result: Any) -> None:
    """Called at the end with the SearchResult."""
    with (job.folder / "example.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps({"models": len(result.models)}) + "\n")
