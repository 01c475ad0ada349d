"""What the background thread prepares, and the trials that it depends on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from toy_search import OpenedToy, toy_job

from autocompress.contract import Value
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


@pytest.mark.parametrize(
    ("label", "interval", "loses"),
    [
        ("8-bit alone", [0.2, 1.0], True),
        ("8-bit alone", [-0.2, 1.0], False),
        ("8-bit alone", None, False),  # it failed, or missed a bound before it was scored
        ("obs and 8-bit", [0.2, 1.0], False),
    ],
)
def test_only_8_bits_alone_tell_whether_8_bits_lose(label: str, interval: list[float] | None, loses: bool) -> None:
    assert is_int8_with_loss({"label": label, "accuracy_drop_interval": interval}) == loses
