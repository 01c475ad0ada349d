"""Integer placement.

Costs measured on a device, stored, extended to other shapes, and judged by whole files.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import timm
from hypothesis import given
from hypothesis import strategies as st

from autocompress.contract import Deployable, Device, LayerTimes, Manager, hookimpl
from autocompress.errors import NoAnswer, TrialFailed
from autocompress.integer_placement import Change, MeasuredCosts, Placer, paying
from autocompress.integer_placement.files import Network
from autocompress.job import DeviceConfig, load_job
from autocompress.opened.job import OpenedJob
from autocompress.quantization.regions import Crossing, Pattern, Region
from autocompress.recipes.choosers import Policy
from autocompress.report import paying as shown
from autocompress.store import Store

SIZE = (3, 32, 32)


class Slow(Device):
    """A device whose depthwise layers are slow on integers.

    It waits for the times that it reports. A file takes 4 ms; if the depthwise layers are in float,
    it takes 1 ms less for each.
    """

    name = "slow-depthwise"
    asked = 0
    can_tell = True
    float_pays = True

    def layer_times(
        self, deployables: Sequence[Deployable], layers: Collection[str], config: DeviceConfig
    ) -> list[LayerTimes] | None:
        type(self).asked += 1
        if not self.can_tell:
            return None
        found = []
        for deployable in deployables:
            graph = onnx.load(str(deployable.file)).graph
            in_integers = any(node.op_type == "QuantizeLinear" for node in graph.node)
            times = {layer: (9e-5 if in_integers else 5e-5) if "dw" in layer else 1e-5 for layer in layers}
            if not in_integers:
                times |= {layer: 5e-5 for layer in layers if "dw" not in layer}
            found.append(LayerTimes(times, 1e-3))
        return found

    def open(self, deployable: Deployable, images: np.ndarray, config: DeviceConfig) -> Callable[[], object]:
        graph = onnx.load(str(deployable.file)).graph
        in_float = any(node.op_type == "Cast" for node in graph.node)
        seconds = 2e-3 if in_float == self.float_pays else 4e-3

        def run() -> None:
            end = time.thread_time() + seconds
            while time.thread_time() < end:
                pass

        return run


class NoFloat(Slow):
    name = "no-float"
    float_pays = False


class Silent(Slow):
    name = "silent"
    can_tell = False


@pytest.fixture(scope="module")
def network() -> Network:
    return Network(timm.create_model("test_efficientnet", num_classes=10).eval(), SIZE)


@pytest.fixture(autouse=True)
def _few_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    """One network of each kind is enough, because times are made up."""
    monkeypatch.setattr("autocompress.integer_placement.timing.MAPS", ((8, 8),))
    monkeypatch.setattr("autocompress.integer_placement.timing.ROWS", ((8, 8),))


def placer(device: Device, folder: Path) -> Placer:
    return Placer(device, DeviceConfig(name=device.name), {"processor": "any"}, Store(folder))


@pytest.mark.slow
def test_patterns_are_timed_once(network: Network, tmp_path: Path) -> None:
    Slow.asked = 0
    costs = placer(Slow(), tmp_path).costs(network, judge=False)
    assert costs is not None
    first = Slow.asked
    assert first > 1
    again = placer(Slow(), tmp_path).costs(network, judge=False)
    assert again is not None
    assert Slow.asked == first
    assert again.key == costs.key
    elsewhere = replace(placer(Slow(), tmp_path), where={"processor": "another"})
    elsewhere.costs(network, judge=False)
    assert Slow.asked == 2 * first


def test_the_slow_layers_compute_in_float_and_rows_say_so(network: Network, tmp_path: Path) -> None:
    costs = placer(Slow(), tmp_path).costs(network, judge=False)
    assert costs is not None
    free = replace(costs, maps=Change(), rows=Change())
    floats = free.floats(network.regions())
    assert floats == {layer for layer in network.config if "dw" in layer}
    rows = paying(network.regions(), free)
    assert [row.layer for row in rows] == list(network.config)
    assert {row.computes for row in rows if "dw" in row.layer} == {"float"}
    assert all(row.integer_us > row.float_us for row in rows if row.computes == "float")


@pytest.mark.slow
@pytest.mark.parametrize(("device", "verdict"), [(Slow(), "cut"), (NoFloat(), "integers")])
def test_whole_files_decide(
    device: Slow, verdict: str, network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("autocompress.integer_placement.placer.SECONDS", 0.1)
    monkeypatch.setattr("autocompress.integer_placement.placer.time_changes", lambda *_: (Change(), Change()))
    costs = placer(device, tmp_path).costs(network)
    assert costs is not None
    assert costs.verdict == verdict
    assert bool(costs.floats(network.regions())) == (verdict == "cut")


class Refusing(Slow):
    """A device that refuses all files with integers, and any file if it is dead."""

    name = "refusing"
    refusal: type[TrialFailed] = TrialFailed
    refuses = True
    can_time = False
    is_dead = False

    def layer_times(
        self, deployables: Sequence[Deployable], layers: Collection[str], config: DeviceConfig
    ) -> list[LayerTimes] | None:
        if not self.can_time:
            raise TrialFailed("nothing was timed")
        return super().layer_times(deployables, layers, config)

    def open(self, deployable: Deployable, images: np.ndarray, config: DeviceConfig) -> Callable[[], object]:
        if self.is_dead:
            raise TrialFailed("it is dead")
        nodes = onnx.load(str(deployable.file)).graph.node
        if self.refuses and any(node.op_type == "QuantizeLinear" for node in nodes):
            raise self.refusal("its process crashed")
        return super().open(deployable, images, config)


def are_floats(costs: MeasuredCosts | None, network: Network) -> bool:
    regions = network.regions()
    wanted = {region.layer for region in regions.regions if region.can_be_float}
    return costs is not None and costs.floats(regions) == wanted


@pytest.mark.slow
@pytest.mark.parametrize("are_known", [False, True])
def test_a_runtime_that_refuses_integers_gets_floats(
    are_known: bool, network: Network, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reason is kept, so that another process places layers in the same way."""
    monkeypatch.setattr("autocompress.integer_placement.placer.time_changes", lambda *_: (Change(), Change()))
    device = Refusing()
    device.can_time = are_known
    costs = placer(device, tmp_path).costs(network)
    assert are_floats(costs, network)
    assert "the file with integers is refused: its process crashed" in caplog.text
    caplog.clear()
    device.can_time, device.is_dead = not are_known, True  # it is not asked again
    again = placer(device, tmp_path).costs(network)
    assert costs is not None
    assert again is not None
    assert again.key == costs.key
    assert "the file with integers is refused: its process crashed" in caplog.text


@pytest.mark.slow
def test_integers_are_not_refused_where_something_else_fails(network: Network, tmp_path: Path) -> None:
    device = Refusing()
    device.refuses = False
    with pytest.raises(TrialFailed, match="nothing was timed"):
        placer(device, tmp_path).costs(network)
    device.refuses, device.refusal = True, NoAnswer
    for device.can_time in (False, True):
        with pytest.raises(NoAnswer):
            placer(device, tmp_path).costs(network)
    device.refusal, device.is_dead = TrialFailed, True
    with pytest.raises(TrialFailed, match="it is dead"):
        placer(device, tmp_path).costs(network)
    device.refuses = device.is_dead = False
    costs = placer(device, tmp_path).costs(network)
    assert costs is not None
    assert costs.patterns, "nothing of this is kept"


class NoMixed(Slow):
    """A device that refuses files in which some layers compute in float."""

    name = "no-mixed"
    refusal: type[TrialFailed] = TrialFailed

    def open(self, deployable: Deployable, images: np.ndarray, config: DeviceConfig) -> Callable[[], object]:
        if any(node.op_type == "Cast" for node in onnx.load(str(deployable.file)).graph.node):
            raise self.refusal("it mixes nothing")
        return super().open(deployable, images, config)


@pytest.mark.slow
def test_a_refused_placement_is_left_out(
    network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("autocompress.integer_placement.placer.SECONDS", 0.1)
    monkeypatch.setattr("autocompress.integer_placement.placer.time_changes", lambda *_: (Change(), Change()))
    device = NoMixed()
    device.refusal = NoAnswer
    with pytest.raises(NoAnswer):  # no verdict is kept
        placer(device, tmp_path).costs(network)
    device.refusal = TrialFailed
    costs = placer(device, tmp_path).costs(network)
    assert costs is not None
    assert not costs.floats(network.regions())
    assert "a placement of integers was refused: it mixes nothing" in caplog.text


def test_a_device_without_times_gets_integers(network: Network, tmp_path: Path) -> None:
    assert placer(Silent(), tmp_path).costs(network) is None


CONV = Pattern("conv", (32, 8, 8), (32, 8, 8), (3, 3), macs=589824)
WIDE = replace(CONV, inputs=(64, 8, 8), outputs=(64, 8, 8), macs=2359296)


def test_an_unknown_width_gets_the_time_of_the_nearest_known_one() -> None:
    costs = MeasuredCosts([CONV, WIDE], [(2e-5, 1e-5), (8e-5, 9e-5)])
    assert costs.region(Region("a", CONV)) == (2e-5, 1e-5)
    narrower = replace(CONV, inputs=(16, 8, 8), outputs=(16, 8, 8), macs=147456)
    in_float, in_integers = costs.region(Region("a", narrower))
    assert in_float == pytest.approx(2 * in_integers)
    assert in_float == pytest.approx(2e-5 * narrower.work / CONV.work)
    odd = replace(CONV, inputs=(33, 8, 8), macs=608256)
    assert costs.region(Region("a", odd))[0] == pytest.approx(2e-5, rel=0.1), "no other kind is known"
    assert costs.region(Region("a", replace(CONV, operator="linear"))) == (0.0, 0.0)


def test_conversions_cost_by_direction_and_size() -> None:
    costs = MeasuredCosts([], [], Change((1e-6, 1e-9), (2e-6, 2e-9)), Change((3e-6, 0.0), (0.0, 0.0)), weight=2.0)
    assert costs.crossing(Crossing("a", frozenset({"b"}), (10, 10))) == pytest.approx((2.2e-6, 4.4e-6))
    assert costs.crossing(Crossing("a", frozenset({"b"}), (10,), is_map=False)) == pytest.approx((6e-6, 0.0))
    assert costs.crossing(Crossing("a", frozenset({"b"}), (10,), on_grid=False)) == (0.0, 0.0)


@given(st.floats(0, 1e-5), st.floats(0, 1e-9))
def test_a_linear_cost_is_recovered(fixed: float, each: float) -> None:
    sizes = (10_000, 50_000, 200_000)
    found = Change.fitted(sizes, [fixed + each * size for size in sizes], [0.0] * 3)
    for size in sizes:
        assert math.isclose(found.enter[0] + found.enter[1] * size, fixed + each * size, rel_tol=1e-3, abs_tol=1e-10)
    assert found.leave == (0.0, 0.0)


class Plugin:
    @hookimpl
    def autocompress_devices(self) -> Sequence[Device]:
        return [Slow()]


def opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **settings: object) -> OpenedJob:
    monkeypatch.setenv("AUTOCOMPRESS_CACHE", str(tmp_path))
    monkeypatch.setenv("AUTOCOMPRESS_PLACEMENT", "on")
    monkeypatch.setattr("autocompress.integer_placement.placer.SECONDS", 0.1)
    monkeypatch.setattr("autocompress.integer_placement.placer.time_changes", lambda *_: (Change(), Change()))
    plugins = Manager()
    plugins.register(Plugin(), "slow")
    model = {"model": "test_efficientnet", "data": "digits", "methods": ["quantize"], "device": "slow-depthwise"}
    return OpenedJob.dry(load_job(settings={**model, **settings}), plugins)


@pytest.mark.slow
def test_recipes_of_a_job_leave_slow_layers_in_float(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = opened(tmp_path, monkeypatch)
    recipe = job.compose(Policy({"bits": "default", "quantize": "default"}))
    plan = job.candidate(recipe, dry_run=True).plan["quantization"]
    floats = {layer for layer, bits in plan["layers"].items() if bits["in_float"]}
    assert floats == {layer for layer in plan["layers"] if "dw" in layer}
    rows = job.placement()
    assert {row["layer"] for row in rows if row["computes"] == "float"} == floats
    assert [found.group for found in shown.by_group(rows)][:2] == ["stem", "blocks.0"]
    told = shown.lines(rows)
    assert f"{len(rows) - len(floats)} of {len(rows)} layers compute in integers, and the others" in told[0]
    assert len(told) == 1 + len(shown.by_group(rows))


def test_a_job_can_switch_it_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = opened(tmp_path, monkeypatch, search={"placement": False})
    assert job.placement() == []
    assert job.pipeline.costs is None


def test_no_times_are_shown_where_integers_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Placer, "costs", lambda *_: MeasuredCosts([], [], verdict="float"))
    assert opened(tmp_path, monkeypatch).placement() == []


@pytest.mark.slow
def test_trained_results_are_stored_by_costs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = opened(tmp_path, monkeypatch)
    recipe = job.compose(Policy({"bits": "default", "quantize": "default"}))
    other = replace(job.pipeline, costs=None)
    assert job.pipeline.keys.of_quantize(recipe) != other.keys.of_quantize(recipe)


def test_the_headline_agrees_with_the_rows() -> None:
    def row(group: str, in_float: float, in_integers: float, computes: str) -> dict[str, object]:
        times = {"float_us": in_float, "integer_us": in_integers}
        return {"layer": group, "group": group, "operator": "conv", "computes": computes, **times}

    agreed = [row("stem", 9.0, 3.0, "integers"), row("head", 2.0, 8.0, "float")]
    assert "timed alone" not in shown.headline(agreed)
    rows = [row("stem", 9.0, 26.0, "integers"), row("layer1", 9.0, 8.0, "integers"), row("head", 2.0, 8.0, "integers")]
    told = shown.headline(rows)
    assert told.startswith("all layers compute in integers, by the times of whole files; ")
    assert told.endswith("timed alone, 2 of 3 groups are faster in the other form")
