"""The models of the front as artifacts of the study, as optuna-dashboard reads them."""

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
from autocompress.searching.storing.journal import FileStorage
from autocompress.searching.storing.outages import StudyAway
from autocompress.searching.study import Study


def offered(folder: Path) -> dict[str, bytes]:
    """The artifacts of the run in ``folder`` by name, as optuna-dashboard reads them."""
    storage = JournalStorage(JournalFileBackend(str(folder / "study.journal")))
    study = optuna.load_study(study_name=None, storage=storage)
    store = FileSystemArtifactStore(folder / "dashboard")
    return {name: store.open_reader(artifact).read() for name, artifact in names_of(study).items()}


def names_of(study: optuna.Study) -> dict[str, str]:
    """The ids by name, as Optuna lists them."""
    metas = get_all_artifact_meta(study)
    assert len({meta.filename for meta in metas}) == len(metas)
    return {meta.filename: meta.artifact_id for meta in metas}


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
    # They are links, so that the models use no disk space twice.
    assert all((result.folder / home / "model.onnx").stat().st_nlink == 2 for home in models.values())
    again = run.resume(result.folder, trials=6, opener=open_toy)
    assert offered(again.folder)["report.html"] == (again.folder / "report.html").read_bytes()
    assert len(list((again.folder / "dashboard").iterdir())) == len(offered(again.folder))
    assert set(offered(again.folder)) == {
        "report.html",
        "front.png",
        *(f"trial-{row['trial']}.onnx" for _, row in again.models.iterrows()),
    }
    # An unwritable artifact store is no error of the run.
    shutil.rmtree(again.folder / "dashboard")
    (again.folder / "dashboard").write_text("in the way")
    with caplog.at_level(logging.WARNING):
        assert len(run.resume(result.folder, trials=7, opener=open_toy).models)
    assert "optuna-dashboard will not show the models" in caplog.text


def test_files_are_copied_if_links_are_not_possible(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*paths: object) -> None:
        raise OSError("no links here")

    monkeypatch.setattr(os, "link", refuse)
    (tmp_path / "model.onnx").write_bytes(b"model")
    study = optuna.create_study()
    dashboard.offer(study, tmp_path, {"trial-0.onnx": tmp_path / "model.onnx"})
    (meta,) = get_all_artifact_meta(study)
    assert (tmp_path / "dashboard" / meta.artifact_id).read_bytes() == b"model"


def test_a_model_that_left_the_front_is_removed_from_artifacts_and_disk(tmp_path: Path) -> None:
    files = {f"trial-{number}.onnx": tmp_path / f"{number}.onnx" for number in range(3)}
    for name, file in files.items():
        file.write_text(name)
    first, second, third = files
    study = optuna.create_study()
    dashboard.offer(study, tmp_path, {first: files[first], second: files[second]})
    dashboard.offer(study, tmp_path, {second: files[second], third: files[third]})
    found = names_of(study)
    assert set(found) == {second, third}
    assert {file.name for file in (tmp_path / "dashboard").iterdir()} == set(found.values())
    dashboard.offer(study, tmp_path, files)
    assert set(names_of(study)) == set(files), "a model that returns to the front is offered again"


def test_a_front_that_shrinks_leaves_a_note(tmp_path: Path) -> None:
    files = {f"trial-{number}.onnx": tmp_path / f"{number}.onnx" for number in range(3)}
    for name, file in files.items():
        file.write_text(name)
    study = optuna.create_study()
    dashboard.offer(study, tmp_path, files)
    for _ in range(2):
        dashboard.offer(study, tmp_path, {"trial-1.onnx": files["trial-1.onnx"]})
        found = names_of(study)
        assert set(found) == {"trial-0-left-the-front.txt", "trial-1.onnx", "trial-2-left-the-front.txt"}
        note = tmp_path / "dashboard" / found["trial-0-left-the-front.txt"]
        assert note.read_text() == "trial-0 is no longer on the front.\n"
    assert files["trial-0.onnx"].read_text() == "trial-0.onnx", "the note does not overwrite the model"
    dashboard.offer(study, tmp_path, files)
    found = names_of(study)
    assert set(found) == set(files), "the names are used again"
    assert all((tmp_path / "dashboard" / found[name]).read_text() == name for name in files)


def test_an_outage_while_models_are_offered_is_no_error_of_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    job = toy_job(tmp_path)
    job.folder.mkdir()
    study = Study(job.folder, job, {"accuracy": 90.0})
    (tmp_path / "model.onnx").write_bytes(b"model")

    def refuse(*arguments: object) -> None:
        raise StudyAway("the server is away")

    monkeypatch.setattr(FileStorage, "set_study_system_attr", refuse)
    with caplog.at_level(logging.WARNING):
        study.offer(job.folder, {"trial-0.onnx": tmp_path / "model.onnx"})
    assert "optuna-dashboard will not show the models: the server is away" in caplog.text
