"""Samplers get the last trials and the front of a long study. Everything else gets all trials."""

from __future__ import annotations

import json
from pathlib import Path

import optuna
import pytest
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.storages import InMemoryStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from autocompress.compat.optuna import RememberingTPE
from autocompress.searching.storing.journal import FileStorage
from autocompress.searching.windowed import Windowed

DIRECTIONS = ["maximize", "minimize"]


def study_in(storage: optuna.storages.BaseStorage, sampler: BaseSampler) -> optuna.Study:
    return optuna.create_study(storage=storage, study_name="s", directions=DIRECTIONS, sampler=sampler)


def tell(study: optuna.Study, first: float, second: float, excess: float = 0.0) -> int:
    trial = study.ask()
    trial.set_constraint("c", excess)
    study.tell(trial, [first, second])
    return trial.number


def test_the_window_has_the_last_trials_the_front_and_open_trials() -> None:
    study = study_in(windowed := Windowed(InMemoryStorage(), most=3), RandomSampler(seed=0))
    best = tell(study, 9.0, 1.0)
    cheap = tell(study, 1.0, 0.1)
    missed = tell(study, 99.0, 0.0, excess=0.5)
    running = study.ask().number
    study.enqueue_trial({"x": 1.0})
    later = [tell(study, 2.0, 5.0 + step) for step in range(4)]
    # the enqueued trial was the first of these
    assert [trial.number for trial in study.get_trials()] == [best, cheap, running, *later[1:]]
    assert [trial.number for trial in study.get_trials(states=(TrialState.RUNNING,))] == [running]
    everything = windowed.everything(study._study_id)
    assert [trial.number for trial in everything] == [best, cheap, missed, running, *later]
    assert windowed.of(study._study_id, missed).values == [99.0, 0.0]
    assert windowed.get_n_trials(study._study_id) == 8


def test_of_many_running_trials_samplers_get_the_last() -> None:
    study = study_in(Windowed(InMemoryStorage(), most=3, running=2), RandomSampler(seed=0))
    done = tell(study, 1.0, 1.0)
    running = [study.ask().number for _ in range(4)]
    assert [trial.number for trial in study.get_trials()] == [done, *running[2:]]
    assert [trial.number for trial in study.get_trials(states=(TrialState.RUNNING,))] == running


def test_while_the_study_is_short_tpe_draws_as_without_a_window(tmp_path: Path) -> None:
    drawn = []
    for storage in (InMemoryStorage(), Windowed(FileStorage(tmp_path / "study.journal"), most=40)):
        study = study_in(storage, TPESampler(multivariate=True, group=True, constant_liar=True, seed=3))
        values = []
        for _ in range(25):
            trial = study.ask()
            x, y = trial.suggest_float("x", 0, 1), trial.suggest_categorical("y", ["a", "b"])
            values.append((x, y))
            study.tell(trial, [x, 1 - x])
        drawn.append(values)
    assert drawn[0] == drawn[1]


@pytest.mark.parametrize("is_apart", [True, False])
def test_tpe_with_stored_trials_draws_like_optunas(is_apart: bool) -> None:
    drawn = []
    for sampler in (TPESampler, RememberingTPE):
        study = study_in(
            InMemoryStorage(),
            sampler(multivariate=True, group=True, constant_liar=is_apart, seed=5, n_startup_trials=4),
        )
        running, values = [], []
        for step in range(40):
            if step == 20:
                study.enqueue_trial({"x": 0.5, "y": "b"})
            trial = study.ask()
            y = trial.suggest_categorical("y", ["a", "b", "c"])
            x = trial.suggest_float("x", 0, 1) if y != "c" else trial.suggest_int("z", 1, 5)
            values.append((x, y))
            running.append((trial, x))
            if step % 3:
                told, x = running.pop(0)
                state = TrialState.PRUNED if step % 7 == 0 else TrialState.COMPLETE
                study.tell(told, None if state == TrialState.PRUNED else [x, 1 - x], state=state)
        drawn.append(values)
    assert drawn[0] == drawn[1]


def test_results_of_another_process_are_read_on_lookup(tmp_path: Path) -> None:
    study = study_in(windowed := Windowed(FileStorage(tmp_path / "j"), most=5), RandomSampler(seed=0))
    number = study.ask().number
    optuna.load_study(study_name="s", storage=FileStorage(tmp_path / "j")).tell(number, [1.0, 2.0])
    assert windowed.of(study._study_id, number).state == TrialState.COMPLETE
    assert study.get_trials(states=(TrialState.RUNNING,)) == []


def test_changes_made_together_are_written_at_once(tmp_path: Path) -> None:
    file = tmp_path / "study.journal"
    study = study_in(windowed := Windowed(FileStorage(file)), RandomSampler(seed=0))
    before = file.read_bytes()
    with windowed.together():
        trial = study.ask()
        x = trial.suggest_float("x", 0, 1)
        trial.set_user_attr("row", {"a": (1, 2)})
        study.tell(trial, [x, 1.0])
        assert file.read_bytes() == before
        # Changes that are not written yet are read as they will be.
        assert study.get_trials()[0].user_attrs == {"row": {"a": [1, 2]}}
    lines = file.read_bytes()[len(before) :].splitlines()
    assert len(lines) == 4, "four changes: asked, drawn, noted, told"
    assert all(json.loads(line) for line in lines)
    tell(study, 3.0, 4.0)
    found = optuna.load_study(study_name="s", storage=JournalStorage(JournalFileBackend(str(file))))
    assert [one.values for one in found.get_trials()] == [[x, 1.0], [3.0, 4.0]]


def test_another_writer_waits_until_changes_are_written(tmp_path: Path) -> None:
    file = tmp_path / "study.journal"
    windowed = Windowed(FileStorage(file))
    study = study_in(windowed, RandomSampler(seed=0))
    other = optuna.load_study(study_name="s", storage=FileStorage(file))
    first = tell(other, 1.0, 1.0)
    with windowed.together():
        second = tell(study, 2.0, 2.0)
        assert not FileStorage(file).journal._file_lock.acquire(seconds=0)
    third = tell(other, 3.0, 3.0)
    assert [first, second, third] == [0, 1, 2]
    for storage in (windowed.inner, FileStorage(file)):
        assert [trial.values[0] for trial in storage.get_all_trials(0)] == [1.0, 2.0, 3.0]


def refuse(file: Path, data: bytes) -> None:
    raise PermissionError


def test_changes_that_a_full_disk_refuses_have_no_effect(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "study.journal"
    windowed = Windowed(FileStorage(file))
    study = study_in(windowed, RandomSampler(seed=0))

    def tell_together() -> None:
        with windowed.together():
            tell(study, 1.0, 1.0)

    with monkeypatch.context() as patched:
        patched.setattr("autocompress.searching.storing.journal._append", refuse)
        with pytest.raises(PermissionError):
            tell_together()
    assert study.get_trials() == FileStorage(file).get_all_trials(0) == []
    tell_together()
    tell(study, 2.0, 2.0)
    assert [trial.values[0] for trial in FileStorage(file).get_all_trials(0)] == [1.0, 2.0]
