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

from autocompress.compat.optuna import artifacts_of, forget_artifact
from autocompress.compression.artifact import MODEL_FILE
from autocompress.results import SearchResult

FOLDER = "dashboard"
"""The store of the artifacts, in the folder of the run."""
FILES = ("report.html", "front.png")
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

    Models that are not on the front any more are removed from the artifacts and from the disk.

    Raises:
        OSError: if they cannot be written.
    """
    store = LinkedStore(folder / FOLDER)
    store.folder.mkdir(exist_ok=True)
    known = artifacts_of(study)
    for name in known.keys() - files.keys():
        (store.folder / known[name]).unlink(missing_ok=True)
        forget_artifact(study, known[name])
    for name, file in files.items():
        if name in known:
            with file.open("rb") as content:
                store.write(known[name], content)
            continue
        with tempfile.TemporaryDirectory(dir=store.folder) as scratch:  # Optuna takes the name of the file
            named = Path(scratch) / name
            if not _linked(file, named):
                shutil.copyfile(file, named)
            upload_artifact(artifact_store=store, file_path=str(named), study_or_trial=study)


def _linked(file: str | Path, target: Path) -> bool:
    """Makes ``target`` a hard link to ``file``; False if the file system has none."""
    try:
        os.link(file, target)
    except OSError:
        return False
    return True
