"""The models of the front as artifacts of the study, as optuna-dashboard finds them."""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path

import optuna
import pytest
from optuna.artifacts import FileSystemArtifactStore, get_all_artifact_meta
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from toy_search import offer_toy_device, open_toy, toy_job

from autocompress.searching import dashboard, run


def offered(folder: Path) -> dict[str, bytes]:
    """The artifacts of the run in ``folder`` by name, read with Optuna alone."""
    storage = JournalStorage(JournalFileBackend(str(folder / "study.journal")))
    study = optuna.load_study(study_name=None, storage=storage)
    store = FileSystemArtifactStore(folder / "dashboard")
    metas = get_all_artifact_meta(study)
    assert len({meta.filename for meta in metas}) == len(metas)
    return {meta.filename: store.open_reader(meta.artifact_id).read() for meta in metas}


@pytest.mark.slow
@pytest.mark.usefixtures("search_here")
def test_front_and_report_are_artifacts_of_the_study(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    offer_toy_device()
    result = run.search(toy_job(tmp_path, budget={"trials": 4}), opener=open_toy)
    found = offered(result.folder)
    models = {f"trial-{row['trial']}.onnx": row["artifact"] for _, row in result.models.iterrows()}
    assert models
    assert set(found) == {"report.html", "front.png", *models}
    for name, home in models.items():
        assert found[name] == (result.folder / home / "model.onnx").read_bytes()
    # Links: the models are not on the disk twice.
    assert all((result.folder / home / "model.onnx").stat().st_nlink == 2 for home in models.values())
    again = run.resume(result.folder, trials=6, opener=open_toy)
    assert offered(again.folder)["report.html"] == (again.folder / "report.html").read_bytes()
    assert len(list((again.folder / "dashboard").iterdir())) == len(offered(again.folder))
    # A store that cannot be written costs the run nothing.
    shutil.rmtree(again.folder / "dashboard")
    (again.folder / "dashboard").write_text("in the way")
    with caplog.at_level(logging.WARNING):
        assert len(run.resume(result.folder, trials=7, opener=open_toy).models)
    assert "optuna-dashboard will not show the models" in caplog.text


def test_files_are_copied_where_no_link_can_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*paths: object) -> None:
        raise OSError("no links here")

    monkeypatch.setattr(os, "link", refuse)
    (tmp_path / "model.onnx").write_bytes(b"model")
    study = optuna.create_study()
    dashboard.offer(study, tmp_path, {"trial-0.onnx": tmp_path / "model.onnx"})
    (meta,) = get_all_artifact_meta(study)
    assert (tmp_path / "dashboard" / meta.artifact_id).read_bytes() == b"model"
