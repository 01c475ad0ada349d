"""Intervals of latency ratios contain later measurements; a file near a bound is measured again."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_onnxruntime_cpu import save_network
from toy_search import OpenedToy, ToyDevice, toy_job

from autocompress.contract import Deployable, Measurement, manager
from autocompress.devices import OnnxRuntimeCpu, measure
from autocompress.devices.lock import MachineLock
from autocompress.devices.measuring import SITTINGS
from autocompress.devices.timing import REPRODUCIBLE, median_interval, ratio_interval
from autocompress.job import DeviceConfig
from autocompress.objectives.bounds import is_borderline
from autocompress.searching.baselinerow import baseline_row
from autocompress.searching.closing import Closing
from autocompress.searching.gates import Trial
from autocompress.searching.measurer import AGAIN, Measurer, combined

WHOLE = {"toy.width": 1.0, "toy.bits": 32, "toy.lr": 0.1, "toy.fault": "none"}
HALF = WHOLE | {"toy.width": 0.5}


def simulated(random: np.random.Generator, between: float, within: float) -> list[list[float]]:
    """Simulated latency ratios around 1: six sittings, each with six pairs of timed blocks.

    The noise has three parts: one offset for the whole measurement, one offset for each sitting,
    and outliers of single blocks.
    """
    slow = 0.4 * between * random.standard_normal()
    sittings = slow + between * random.standard_normal((6, 1)) + within * random.standard_t(3, (6, 6))
    return np.exp(sittings).tolist()


@pytest.mark.parametrize(("between", "within"), [(0.0, 0.02), (0.01, 0.02), (0.03, 0.05), (0.06, 0.15), (0.02, 0.2)])
def test_intervals_contain_the_median_of_later_measurements(between: float, within: float) -> None:
    random = np.random.default_rng(0)
    held = plain = 0
    for _ in range(300):
        first = simulated(random, between, within)
        later = np.median([np.median(simulated(random, between, within)) for _ in range(5)])
        _, low, high = ratio_interval(first)
        held += low <= later <= high
        _, low, high = median_interval([ratio for sitting in first for ratio in sitting])
        plain += low <= later <= high
    assert held / 300 >= 0.9
    if between >= within / 2:
        assert plain / 300 < 0.85, "blocks of one sitting are not independent"


def test_one_disturbed_sitting_does_not_make_an_interval_useless() -> None:
    ratio, _, high = ratio_interval([*([[0.5, 0.501, 0.499, 0.5]] * 5), [1.0] * 4])
    assert ratio == 0.5
    assert high / ratio < 1.05


def test_quiet_intervals_are_narrow_and_never_empty() -> None:
    ratio, low, high = ratio_interval([[0.5] * 6] * 6)
    assert ratio == 0.5
    assert (math.log(high / ratio), math.log(ratio / low)) == pytest.approx((REPRODUCIBLE, REPRODUCIBLE))


@pytest.mark.parametrize("sittings", [[[0.5]], [[0.5, 0.6], [0.4]], [[0.5]] * 3])
def test_few_sittings_still_give_an_interval(sittings: list[list[float]]) -> None:
    ratio, low, high = ratio_interval(sittings)
    assert low < ratio < high
    assert low <= min(map(min, sittings))
    assert high >= max(map(max, sittings))


def test_a_measurement_opens_its_files_again_and_records_how_it_timed(tmp_path: Path) -> None:
    file = save_network(tmp_path / "model.onnx")
    measured = measure(OnnxRuntimeCpu(), file, file, DeviceConfig(), seconds=0.3)
    assert measured.environment["sittings"] == SITTINGS
    assert measured.environment["clock"] == "processor time of the thread"
    assert measured.environment["pairs"] >= SITTINGS
    assert measured.ratio_low < measured.latency_ratio < measured.ratio_high


class Flaky(ToyDevice):
    """Returns prepared ratios in their order; the last one is repeated."""

    name = "toy"
    deterministic = False

    def __init__(self, ratios: Sequence[float], half: float = 0.05) -> None:
        self.ratios, self.half, self.asked = list(ratios), half, []  # type: list[float], float, list[float]

    def next(self, candidate: Deployable, baseline: Deployable, seconds: float) -> Measurement:
        found = self.compare(candidate, baseline, None)
        ratio = self.ratios[min(len(self.asked), len(self.ratios) - 1)]
        self.asked.append(seconds)
        own = measurement(ratio, self.half)
        return replace(own, energy_uj=found.energy_uj, environment=found.environment)


class FlakyMeasurer(Measurer):
    """A measurer with the figures of a flaky device."""

    def once(self, candidate: Deployable, baseline: Deployable, seconds: float) -> Measurement:
        assert isinstance(self.device, Flaky)
        return self.device.next(candidate, baseline, seconds)


def run_trial(folder: Path, device: Flaky, **job: Any) -> dict[str, Any]:
    chosen = toy_job(folder, **job)
    opened = OpenedToy(chosen, chosen.folder / "toy", device=device)
    measurer = FlakyMeasurer.of(chosen, device)
    lock = MachineLock(folder / "locks")
    return Trial(opened, measurer, lock, 0, chosen.folder, baseline_row(opened, measurer)).run(HALF)


@pytest.mark.parametrize(
    ("ratios", "bound", "measurements", "status"),
    [
        ([0.4], "0.6x", 1, "complete"),
        ([0.8], "0.6x", 1, "infeasible"),
        ([0.613, 0.57], "0.6x", 3, "complete"),
        ([0.575], "0.6x", 2, "complete"),
        ([0.584, 0.66], "0.6x", 3, "infeasible"),
        ([0.6], "0.6x", 1 + AGAIN, "complete"),
        ([0.58, 0.51], "5.9 ms", 2, "complete"),
    ],
)
def test_a_borderline_structure_is_measured_again_before_it_is_judged(
    tmp_path: Path, ratios: list[float], bound: str, measurements: int, status: str
) -> None:
    device = Flaky(ratios)
    row = run_trial(tmp_path, device, constraints={"latency": bound})
    assert len(device.asked) == measurements
    assert row["status"] == status
    kept = [json.loads(file.read_text()) for file in (tmp_path / "toy" / "structures").iterdir()]
    assert [one["latency"]["latency_ratio"] for one in kept] == [row["latency_ratio"]]


def test_without_a_bound_on_latency_nothing_is_measured_again(tmp_path: Path) -> None:
    device = Flaky([0.6])
    run_trial(tmp_path, device, constraints={"size": "0.6x"})
    assert len(device.asked) == 1


def test_the_front_is_measured_again_where_it_is_borderline(tmp_path: Path) -> None:
    device = Flaky([0.5, 0.61, 0.5])
    row = run_trial(tmp_path, device, constraints={"latency": "0.6x"})
    job = toy_job(tmp_path, constraints={"latency": "0.6x"})
    opened = OpenedToy(job, job.folder / "toy", device=device)
    measurer = FlakyMeasurer.of(job, device)
    closing = Closing(opened, measurer, job.folder, baseline_row(opened, measurer), MachineLock(tmp_path / "locks"))
    summary = closing.close([row], 1.0, "all trials are spent", manager())
    assert len(device.asked) == 4
    assert summary["trials"]["complete"] == 1


def test_the_nearest_miss_has_the_figures_of_the_table(tmp_path: Path) -> None:
    """Once, its text was "0.6013x, at most 0.6x" above a table with 0.57x."""
    device = Flaky([0.8, 0.7])
    chosen = toy_job(tmp_path, constraints={"latency": "0.6x"})
    opened = OpenedToy(chosen, chosen.folder / "toy", device=device)
    measurer, lock = FlakyMeasurer.of(chosen, device), MachineLock(tmp_path / "locks")
    baseline = baseline_row(opened, measurer)
    row = Trial(opened, measurer, lock, 0, chosen.folder, baseline, judge=False).run(HALF)
    assert "0.8x" in row["reason"]
    summary = Closing(opened, measurer, chosen.folder, baseline, lock).close(
        [row], 1.0, "all trials are spent", manager()
    )
    missed = summary["nearest_miss"]
    assert missed["latency_ratio"] == 0.7
    assert missed["reason"] == "latency 0.7x, at most 0.6x"


def measurement(ratio: float, half: float) -> Measurement:
    return Measurement(10 * ratio, ratio, ratio * math.exp(-half), ratio * math.exp(half), 10.0)


def test_measurements_are_combined_by_their_precision() -> None:
    both = combined(measurement(0.6, 0.1), measurement(0.5, 0.01))
    assert both.latency_ratio == pytest.approx(0.5, rel=0.01)
    alike = combined(measurement(0.5, 0.02), measurement(0.5, 0.02))
    assert alike.ratio_high - alike.ratio_low == pytest.approx(2 * 0.5 * 0.02 / math.sqrt(2), rel=0.01)
    apart = combined(measurement(0.4, 0.001), measurement(0.6, 0.001))
    assert apart.ratio_low <= 0.41, "two contradicting measurements do not give a narrow interval"
    assert apart.ratio_high >= 0.59
    assert both.environment["measured"] == 2


def test_bounds_in_milliseconds_are_borderline_too() -> None:
    latency = asdict(measurement(0.5, 0.05))  # 5 ms
    for bound, expected in (("0.5x", True), ("0.6x", False), ("5.1 ms", True), ("6 ms", False), ("4 ms", False)):
        job = toy_job(Path(), constraints={"latency": bound})
        assert is_borderline(job.constraints.bounds()["latency"], latency) == expected
