"""SLB's temperature: published configurations, any number of epochs, and the hard tail."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autocompress_slb.schedule import KINDS, TemperatureSchedule


def test_the_published_schedule_on_cifar() -> None:
    """100 epochs, from 0.2 to 0.6, f = 1.2 (Golden Stick)."""
    schedule = TemperatureSchedule(last=1.2**40, start=0.2, end=0.6)
    of = [schedule.temperature(epoch, 100) for epoch in range(1, 101)]
    assert of[:20] == [1.0] * 20
    assert of[20] == pytest.approx(1.2)
    assert of[29] == pytest.approx(6.19, abs=0.01)
    assert of[59] == of[99] == pytest.approx(1469.8, abs=0.1)
    assert [schedule.is_hard(epoch, 100) for epoch in range(1, 101)].index(True) == 59


def test_the_published_schedule_on_imagenet() -> None:
    schedule = TemperatureSchedule(last=1.12**50, start=0.4, end=0.9)
    assert schedule.temperature(100, 100) == pytest.approx(289.0, abs=0.1)
    assert schedule.temperature(41, 100) == pytest.approx(1.12)


def test_the_schedule_of_the_paper_without_a_hard_tail() -> None:
    schedule = TemperatureSchedule(hard_tail=False)
    assert not any(schedule.is_hard(unit, 50) for unit in range(1, 51))
    assert schedule.temperature(50, 50) == pytest.approx(1e3)


@given(st.integers(1, 2000), st.sampled_from(KINDS), st.floats(0, 0.5), st.floats(0.51, 1.0))
def test_the_temperature_rises_over_any_budget(units: int, kind: str, start: float, end: float) -> None:
    schedule = TemperatureSchedule(kind, 1.0, 1e3, start, end)  # type: ignore[arg-type]
    of = [schedule.temperature(unit, units) for unit in range(1, units + 1)]
    assert all(before <= after for before, after in itertools.pairwise(of))
    assert all(t == 1.0 for t in of[: schedule.ends(units)[0]])
    assert of[-1] == pytest.approx(1.0 if kind == "constant" else 1e3)
    hard = [schedule.is_hard(unit, units) for unit in range(1, units + 1)]
    assert not hard[0]
    assert hard == sorted(hard)


def test_linear_is_half_way_in_the_middle() -> None:
    schedule = TemperatureSchedule("linear", 1.0, 101.0, 0.0, 1.0)
    assert schedule.temperature(50, 100) == pytest.approx(51.0)


@pytest.mark.parametrize("wrong", [{"start": 0.9, "end": 0.3}, {"end": 1.2}, {"last": 0.5}, {"first": 0.0}])
def test_settings_without_annealing_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError):
        TemperatureSchedule(**wrong)  # type: ignore[arg-type]
