"""The model files of a run's trials: which of them stay."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from autocompress.compression.artifact import MODEL_FILE, WEIGHTS_FILE
from autocompress.results import Row


def drop_files(folder: Path, rows: Iterable[Row]) -> None:
    """Deletes the model files of ``rows``, trials that are no contenders: a search over large
    models would fill the disk. Their recipe, plan and metrics stay."""
    for row in rows:
        if row.get("artifact"):
            for name in (MODEL_FILE, WEIGHTS_FILE):
                (folder / row["artifact"] / name).unlink(missing_ok=True)


def still_there(folder: Path, rows: Iterable[Row]) -> list[Row]:
    """``rows`` without those whose model was deleted: an earlier closing found them worse than they
    had seemed, so they must not keep newcomers from the front."""
    return [row for row in rows if not row.get("artifact") or with_artifact(folder, row)["artifact"]]


def with_artifact(folder: Path, row: Row) -> Row:
    """``row``, naming its artifact only while the model is there."""
    artifact = row.get("artifact") or ""
    there = bool(artifact) and (folder / artifact / MODEL_FILE).exists()
    return {**row, "artifact": artifact if there else ""}
