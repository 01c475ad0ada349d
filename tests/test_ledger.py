"""The cost of a row for the driver: trials.csv is not written for every row."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from autocompress import results
from autocompress.searching import ledger
from autocompress.searching.ledger import Ledger


def row(number: int) -> dict[str, Any]:
    return {"trial": number, "status": "complete", "accuracy": 90.0, "recipe": {"a": number}}


def test_rows_are_ordered_by_number_and_the_last_ones_are_written(tmp_path: Path) -> None:
    now = [0.0]
    found = Ledger(tmp_path, [row(0), row(3)], clock=lambda: now[0])
    assert list(results.read_trials(tmp_path)["trial"]) == [0, 3]
    found.add(row(5))
    assert list(results.read_trials(tmp_path)["trial"]) == [0, 3], "it was written a moment ago"
    now[0] += ledger.EVERY_S
    found.add(row(4))
    assert list(results.read_trials(tmp_path)["trial"]) == [0, 3, 4, 5]


def test_writing_takes_a_small_share_of_the_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now, writes = [0.0], []

    def slow(folder: Path, rows: Any) -> None:
        writes.append(len(rows))
        now[0] += 0.5

    monkeypatch.setattr(ledger, "save_trials", slow)
    found = Ledger(tmp_path, [], clock=lambda: now[0])
    for number in range(1000):
        now[0] += 0.1
        found.add(row(number))
    assert 3 <= len(writes) <= 6, "a write of half a second once in 25 seconds"
