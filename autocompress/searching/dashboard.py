"""The report and the models of the front as artifacts of Optuna's study.

``optuna-dashboard study.journal --artifact-dir dashboard`` offers them beside the trials. They are
artifacts of the study, since Optuna changes no finished trial.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import optuna
from optuna.artifacts import FileSystemArtifactStore, upload_artifact

from autocompress.compat.optuna import artifacts_of, rename_artifact
from autocompress.compression.artifact import MODEL_FILE
from autocompress.results import SearchResult

FOLDER = "dashboard"
"""The store of the artifacts, in the folder of the run."""
FILES = ("report.html", "front.png")
NOTE = "-left-the-front.txt"
"""End of the names of the notes that replace models that left the front."""
log = logging.getLogger("autocompress.search")


class LinkedStore(FileSystemArtifactStore):
    """Optuna's store in a folder, with hard links in place of copies where the system has them."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.folder = folder

    def write(self, artifact_id: str, content_body: BinaryIO) -> None:
        """Links the file that ``content_body`` reads; replaces an earlier one."""
        target = self.folder / artifact_id
        target.unlink(missing_ok=True)
        if not _linked(content_body.name, target):
            super().write(artifact_id, content_body)


def front_files(result: SearchResult) -> dict[str, Path]:
    """The files for the dashboard, by the names that it shows."""
    found = {name: result.folder / name for name in FILES}
    for _, row in result.models.iterrows():
        if isinstance(home := row["artifact"], str) and home:
            found[f"trial-{row['trial']}.onnx"] = result.folder / home / MODEL_FILE
    return {name: file for name, file in found.items() if file.is_file()}


def offer(study: optuna.Study, folder: Path, files: Mapping[str, Path]) -> None:
    """Makes ``files`` artifacts of ``study``; those of an earlier closing get their new content.

    Models that have left the front are deleted. Optuna cannot remove an artifact, so a model that
    joins the front takes the place of one that left. If no model joins, the place gets a note.

    Raises:
        OSError: if they cannot be written.
    """
    store = LinkedStore(folder / FOLDER)
    store.folder.mkdir(exist_ok=True)
    known = artifacts_of(study)
    places = sorted(known.keys() - files.keys())
    for name, file in files.items():
        if name not in known and places:
            own = f"{Path(name).stem}{NOTE}"
            place = places.pop(places.index(own) if own in places else -1)
            known[name] = known.pop(place)
            rename_artifact(study, known[name], name)
        if name in known:
            with file.open("rb") as content:
                store.write(known[name], content)
        else:
            _upload(study, store, name, file)
    for name in places:
        _leave_note(study, store, known[name], name)


def _upload(study: optuna.Study, store: LinkedStore, name: str, file: Path) -> None:
    with tempfile.TemporaryDirectory(dir=store.folder) as scratch:  # Optuna takes the name of the file
        named = Path(scratch) / name
        if not _linked(file, named):
            shutil.copyfile(file, named)
        upload_artifact(artifact_store=store, file_path=str(named), study_or_trial=study)


def _leave_note(study: optuna.Study, store: LinkedStore, artifact: str, name: str) -> None:
    """Puts a note in the place of a file that is no longer offered."""
    if not name.endswith(NOTE):
        name = f"{Path(name).stem}{NOTE}"
        rename_artifact(study, artifact, name)
    (store.folder / artifact).unlink(missing_ok=True)  # it may be a link to the model
    (store.folder / artifact).write_text(f"{name.removesuffix(NOTE)} is no longer on the front.\n", encoding="utf-8")


def _linked(file: str | Path, target: Path) -> bool:
    """Makes ``target`` a hard link to ``file``; False if the file system has none."""
    try:
        os.link(file, target)
    except OSError:
        return False
    return True
