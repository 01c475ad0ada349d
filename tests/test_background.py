"""What the background thread prepares, and the trials that it depends on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from toy_search import OpenedToy, toy_job

from autocompress.contract import Value
from autocompress.proposals.proposer import NoProposals
from autocompress.searching.background import Background
from autocompress.searching.driver import is_int8_with_loss
from autocompress.searching.measurer import Measurer

FLOAT_HEAD: tuple[str, dict[str, Value]] = ("8-bit, float in the head", {"toy.width": 1.0, "toy.bits": 8})


class SensitiveToy(OpenedToy):
    """A network with one group that should stay in float."""

    def partly_float(self, progress: Any = None, pause: Any = None) -> list[tuple[str, dict[str, Value]]]:
        return [FLOAT_HEAD]


@pytest.mark.parametrize("loses", [True, False])
def test_groups_stay_in_float_only_if_8_bits_lost_accuracy(loses: bool, tmp_path: Path) -> None:
    job = toy_job(tmp_path)
    opened = SensitiveToy(job, job.folder / "toy")
    row = {"accuracy": opened.baseline.accuracy}
    background = Background(opened, False, lambda: loses, Measurer(opened.device, job.device), row, print)
    background.start()
    made = background.ready(meanwhile=lambda: None)
    assert made is not None
    assert list(made.partly_float) == [FLOAT_HEAD] * loses


def test_a_fault_in_float_groups_costs_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = toy_job(tmp_path)
    opened = SensitiveToy(job, job.folder / "toy")
    monkeypatch.setattr(opened, "partly_float", lambda *_: 1 / 0)
    background = Background(opened, True, lambda: True, Measurer(opened.device, job.device), {}, print)
    background.start()
    made = background.ready(meanwhile=lambda: None)
    assert made is not None
    assert made.sensitivity
    assert [label for label, _ in made.points] == ["uncompressed", "8-bit alone"]


def test_the_fault_of_a_method_is_told_and_there_are_no_proposals(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = toy_job(tmp_path)
    opened, told = SensitiveToy(job, job.folder / "toy"), list[str]()

    def proposals(*_: Any, **__: Any) -> None:
        raise NoProposals("there are no proposals: the pruner 'p' gives a wrong order")

    monkeypatch.setattr(opened, "proposals", proposals)
    kept: dict[str, str] = {}
    how: dict[str, Any] = {"tell": told.append, "keep": kept.__setitem__}
    background = Background(opened, True, lambda: True, Measurer(opened.device, job.device), {}, **how)
    background.start()
    made = background.ready(meanwhile=lambda: None)
    assert made is not None
    assert made.sensitivity, "all else goes on"
    assert list(kept.values()) == told
    assert told == [background.fault] == ["there are no proposals: the pruner 'p' gives a wrong order"]


def test_float_groups_wait_for_the_trial_of_8_bits(tmp_path: Path) -> None:
    job = toy_job(tmp_path)
    opened = SensitiveToy(job, job.folder / "toy")
    known: list[bool | None] = [None, None, True]
    background = Background(
        opened, False, lambda: known.pop(0), Measurer(opened.device, job.device), {"accuracy": 90.0}, print
    )
    background.start()
    made = background.ready(meanwhile=lambda: None)
    assert made is not None
    assert list(made.partly_float) == [FLOAT_HEAD]
    assert not known


@pytest.mark.parametrize(
    ("label", "drop", "interval", "loses"),
    [
        ("8-bit alone", 0.6, [0.2, 1.0], True),
        ("8-bit alone", 0.4, [-0.2, 1.0], False),
        ("8-bit alone", 1.5, [-0.2, 3.0], True),
        ("8-bit alone", None, None, False),  # it failed, or missed a bound before it was scored
        ("obs and 8-bit", 3.0, [0.2, 5.0], False),
    ],
)
def test_only_8_bits_alone_tell_whether_8_bits_lose(
    label: str, drop: float | None, interval: list[float] | None, loses: bool
) -> None:
    row = {"label": label, "accuracy_drop": drop, "accuracy_drop_interval": interval}
    assert is_int8_with_loss(row) == loses
