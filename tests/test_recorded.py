"""The observer that records a search: status.json, notes and log.txt."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from autocompress.results.status import Status
from autocompress.searching import recorded
from autocompress.searching.progress import Silent
from autocompress.searching.recorded import Recorded


def test_the_file_is_written_at_most_once_per_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[Status] = []
    monkeypatch.setattr(recorded, "write_status", lambda folder, status: written.append(status))
    now = [0.0]
    observer = Recorded(Silent(), tmp_path, 1, clock=lambda: now[0])
    for step in range(100):
        now[0] += 0.1
        observer.on_progress(step / 100, "baseline")
    assert 10 <= len(written) <= 12
    observer.phase("closing")
    assert written[-1].phase == "closing"


def test_a_note_is_shown_until_the_next_phase_or_trial(tmp_path: Path) -> None:
    observer = Recorded(Silent(), tmp_path, 1, clock=lambda: 0.0)

    def note() -> str:
        return observer._status.note

    observer.on_note("epoch 19")
    assert note() == "epoch 19"
    observer.on_start(3)
    assert note() == ""
    observer.on_note("profiling")
    observer.on_trial({"trial": 0, "status": "complete"}, [], 0.0, 1, None)
    assert note() == ""


def test_a_note_on_a_constraint_is_shown_until_a_trial_meets_it(tmp_path: Path) -> None:
    observer = Recorded(Silent(), tmp_path, 1, clock=lambda: 0.0)

    def trial(number: int, **excess: float) -> list[str]:
        row = {"trial": number, "status": "infeasible", "excess": excess}
        observer.on_trial(row, [], 0.0, number + 1, None)
        return list(observer._status.standing.values())

    observer.on_start(5)
    observer.stands("latency", "no recipe can meet latency 0.1x")
    observer.stands("size", "no recipe can meet size 0.2x")
    observer.stands("size", "no recipe can meet size 0.1x")
    assert trial(0, size=0.3) == ["no recipe can meet latency 0.1x", "no recipe can meet size 0.1x"]
    assert trial(1, size=-0.1, latency=0.4) == ["no recipe can meet latency 0.1x"]
    assert trial(2, latency=0.0) == []


def test_a_note_on_a_constraint_that_was_met_is_not_kept(tmp_path: Path) -> None:
    observer = Recorded(Silent(), tmp_path, 1, clock=lambda: 0.0)
    observer.drop_met([{"trial": 0, "excess": {"latency": 0.0}}, {"trial": 1, "excess": {"size": 0.1, "latency": 0.3}}])
    observer.on_trial({"trial": 2, "status": "infeasible", "excess": {"energy": -0.1}}, [], 0.0, 3, None)
    for about in ("latency", "size", "energy"):
        observer.stands(about, f"no recipe can meet {about} 0.1x")
    assert list(observer._status.standing) == ["size"]


def test_a_note_of_another_thread_is_not_lost(tmp_path: Path) -> None:
    observer = Recorded(Silent(), tmp_path, 1, clock=lambda: 0.0)
    other = threading.Thread(target=observer.stands, args=("size", "no recipe can meet size 0.1x"))

    def under_way() -> tuple[()]:
        """Called while a status is made."""
        if other.ident is None:
            other.start()
            other.join(timeout=0.3)
        return ()

    observer.under_way = under_way
    observer.phase("searching")
    other.join()
    assert list(observer._status.standing) == ["size"]


def test_the_log_has_a_few_lines_of_a_long_step(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    now = [0.0]
    observer = Recorded(Silent(), tmp_path, 1, clock=lambda: now[0])
    with caplog.at_level("INFO", logger="autocompress.search"):
        for epoch in range(1, 101):
            observer.on_progress(epoch / 100, f"epoch {epoch}")
            now[0] += 1.0
        observer.on_progress(1.0, "a short step")
    assert [line.partition(",")[0] for line in caplog.messages] == [
        "epoch 6: 6%",
        "epoch 36: 36%",
        "epoch 66: 66%",
        "epoch 96: 96%",
        "epoch 100: 100%",
    ]


def test_a_note_on_a_step_is_not_shown_beside_its_progress(tmp_path: Path) -> None:
    observer = Recorded(Silent(), tmp_path, 1, clock=lambda: 0.0)
    observer.on_note("training the baseline, epoch 1")
    observer.on_progress(0.5, "training the baseline, epoch 7")
    assert (observer._status.step, observer._status.note) == ("training the baseline, epoch 7", "")
    observer.on_note("another")
    observer.on_progress(0.6, "training the baseline, epoch 8")
    assert observer._status.note == "another"


def test_a_full_disk_does_not_end_a_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(folder: Path, status: Status) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(recorded, "write_status", full)
    Recorded(Silent(), tmp_path, 1).on_note("goes on")
