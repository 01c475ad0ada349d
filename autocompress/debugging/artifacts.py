"""The artifact of a trial that is debugged; torch is not imported, so errors come at once."""

from __future__ import annotations

from pathlib import Path

from autocompress.errors import UserError
from autocompress.results import MODEL_FILE, SearchResult


def chosen(result: SearchResult, trial: int | None) -> tuple[int, Path]:
    """The number of the trial and its artifact.

    Args:
        result: the run.
        trial: one that has a model; the recommended one by default.

    Raises:
        UserError: if there is no such model.
    """
    number = _recommended(result) if trial is None else trial
    return number, _artifact(result.folder, number)


def _recommended(result: SearchResult) -> int:
    best = result.recommended()
    if best is None:
        there = ", ".join(map(str, sorted(_artifacts(result.folder))))
        shown = f"see 'autocompress show {result.folder}'"
        raise UserError(result.why_none(), f"choose one with --trial: {there}" if there else shown)
    return int(best["trial"])


def _artifact(folder: Path, trial: int) -> Path:
    """The artifact of the highest rung of the trial; a running search may have it too."""
    found = _artifacts(folder)
    if trial not in found:
        there = ", ".join(map(str, sorted(found))) or "none"
        raise UserError(f"trial {trial} has no model in {folder}", f"trials with a model: {there}")
    return max(found[trial])[1]


def _artifacts(folder: Path) -> dict[int, list[tuple[int, Path]]]:
    """(rung, folder) of the artifacts of each trial."""
    found: dict[int, list[tuple[int, Path]]] = {}
    for file in folder.glob(f"artifacts/*/{MODEL_FILE}"):
        number, _, rung = file.parent.name.partition("-rung")
        if number.isdigit():
            found.setdefault(int(number), []).append((int(rung or 0), file.parent))
    return found
