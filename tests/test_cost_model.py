"""Cost models: costs of operations in profiles, sums over layers, and jobs with cost models."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_networks import NARROW

from autocompress import results
from autocompress.contract import Deployable, Manager, OperatorCount, manager
from autocompress.devices import measure
from autocompress.devices.cost_model import CostModel
from autocompress.devices.lock import MachineLock
from autocompress.devices.profiles import built_in_profiles, load_profile
from autocompress.errors import TrialFailed, UserError
from autocompress.job import DeviceConfig, load_job, validate
from autocompress.opened.job import OpenedJob
from autocompress.recipes.choosers import Policy, Replay
from autocompress.searching.baselinerow import baseline_row
from autocompress.searching.closing import Closing, save_trials
from autocompress.searching.gates import Trial
from autocompress.searching.measurer import Measurer

PROFILES = built_in_profiles()
CONFIG = DeviceConfig()
OWN = """
description: mine
units:
  multiply-add:
    4x8: {per_second: 4e9, joules: 1e-12, source: me}
    8x8: {per_second: 2e9, joules: 3e-12, source: me}
    float: {per_second: 1e9, joules: 9e-12, source: me}
"""


def model(name: str) -> CostModel:
    return CostModel(PROFILES[name], name)


def layers(*counts: tuple[str, int, int, int]) -> Deployable:
    """A file with one layer for each (kind, operations, weight bits, activation bits)."""
    found = [OperatorCount(f"layer{i}", *count) for i, count in enumerate(counts)]
    return Deployable(Path("model.onnx"), (3, 32, 32), found)


FLOAT = layers(("multiply-add", 1_000_000, 32, 32))
EIGHT = layers(("multiply-add", 1_000_000, 8, 8))


# --- what an operation costs ----------------------------------------------------------------------


def test_the_45_nm_figures_add_up_as_published() -> None:
    """Digest of AdderNet, section 8.

    Picojoules per tap, for a multiplication with an addition, and for two additions.
    """
    cost = PROFILES["45nm"].cost

    def picojoules(kind: str, bits: int) -> float:
        found = cost(kind, bits, bits)
        assert found is not None
        assert found.joules is not None
        return found.joules * 1e12

    assert picojoules("multiply-add", 32) == pytest.approx(4.6)
    assert 2 * picojoules("add", 32) == pytest.approx(1.8)
    assert picojoules("multiply", 8) + picojoules("add", 8) == pytest.approx(0.23)
    assert 2 * picojoules("add", 8) == pytest.approx(0.06)
    assert picojoules("multiply-add", 8) == pytest.approx(0.30)
    assert picojoules("add", 8) + picojoules("accumulate", 8) == pytest.approx(0.13)


def test_the_cycles_of_lenet_in_the_paper() -> None:
    """AdderNet, MNIST.

    435 K multiplications and additions are 2.61 M cycles, 870 K additions 1.74 M.
    """
    device = model("via-nano")
    lenet, adder = layers(("multiply-add", 435_000, 32, 32)), layers(("add", 870_000, 32, 32))
    measured = measure(device, adder, lenet, CONFIG)
    assert measured.baseline_ms == pytest.approx(2.61)  # at 1 GHz
    assert measured.latency_ms == pytest.approx(1.74)
    assert measured.latency_ratio == pytest.approx(2 / 3)
    assert measure(device, EIGHT, FLOAT, CONFIG).latency_ratio == 1, "the paper has no integer figures"


@pytest.mark.parametrize("adders", [[("add", 2000, 8, 8)], [("add", 1000, 8, 8), ("accumulate", 1000, 8, 8)]])
def test_the_fpga_ratios_are_those_of_the_abstract(adders: list[tuple[str, int, int, int]]) -> None:
    device = model("addernet-fpga")
    convolution = layers(("multiply-add", 1000, 8, 8))
    measured = measure(device, layers(*adders), convolution, CONFIG)
    energy = measure(device, convolution, convolution, CONFIG).energy_uj
    assert measured.energy_uj is not None
    assert energy is not None
    assert 1 / measured.latency_ratio == pytest.approx(1.16)
    power = (measured.energy_uj / energy) / measured.latency_ratio
    assert 1 - power == pytest.approx(0.4785)


def test_a_low_bit_accelerator_gains_with_each_halving_of_weight_or_activation_bits() -> None:
    device = model("bit-fusion")
    base = device.cost(FLOAT)
    # a million multiply-adds on 512 units at 500 MHz
    assert base.seconds == pytest.approx(1e6 / (512 * 500e6))
    assert base.joules == pytest.approx(1e6 * 3.6735e-3 / 16 / 500e6, rel=1e-4)
    for weights, activations, factor in [(8, 8, 1), (4, 8, 2), (2, 8, 4), (4, 4, 4), (2, 2, 16), (1, 8, 4), (3, 5, 2)]:
        own = device.cost(layers(("multiply-add", 1_000_000, weights, activations)))
        assert base.seconds / own.seconds == pytest.approx(factor), (weights, activations)
        assert base.joules / own.joules == pytest.approx(factor, rel=1e-4), (weights, activations)
    assert device.cost(layers(("multiply-add", 1_000_000, 2, 32))).seconds == base.seconds, (
        "an operation with one float operand is a float operation"
    )


def test_bit_operations_are_the_product_of_the_widths() -> None:
    device = model("bitops")
    mixed = layers(("multiply-add", 100, 4, 8), ("multiply-add", 10, 32, 32), ("add", 7, 3, 8))
    assert device.cost(mixed).seconds * 1e12 == pytest.approx(100 * 32 + 10 * 1024 + 7 * 8)
    assert measure(device, EIGHT, FLOAT, CONFIG).latency_ratio == pytest.approx(64 / 1024)
    assert measure(device, EIGHT, FLOAT, CONFIG).energy_uj is None


def test_a_gpu_needs_few_bits_in_both_operands() -> None:
    device = model("a100")
    eight = device.cost(EIGHT).seconds
    assert device.cost(layers(("multiply-add", 1_000_000, 4, 8))).seconds == eight
    assert device.cost(layers(("multiply-add", 1_000_000, 4, 4))).seconds == pytest.approx(eight / 2)
    assert device.cost(FLOAT).seconds == pytest.approx(eight * 32)


@pytest.mark.parametrize("name", PROFILES)
@given(
    counts=st.lists(
        st.tuples(st.just("multiply-add"), st.integers(1, 10**9), st.integers(1, 8), st.integers(2, 8)), min_size=1
    )
)
def test_fewer_bits_never_cost_more_and_costs_are_additive(name: str, counts: list[tuple[str, int, int, int]]) -> None:
    device = model(name)
    own, floats = layers(*counts), layers(*((kind, n, 32, 32) for kind, n, _, _ in counts))
    single = [device.cost(layers(count)) for count in counts]
    for figure, gives in (("seconds", "latency"), ("joules", "energy")):
        total = getattr(device.cost(own), figure)
        if gives not in device.measures:
            assert math.isnan(total)
            continue
        assert total == pytest.approx(sum(getattr(one, figure) for one in single))
        assert total <= getattr(device.cost(floats), figure) * (1 + 1e-9)
    if "latency" in device.measures:
        measured = measure(device, own, floats, CONFIG)
        assert measured.ratio_low == measured.latency_ratio == measured.ratio_high
        assert not measured.noisy


@pytest.mark.parametrize("name", PROFILES)
def test_every_number_has_a_source_and_is_in_the_docs(name: str) -> None:
    profile = PROFILES[name]
    units = [(kind, widths, unit) for kind, found in profile.units.items() for widths, unit in found.items()]
    assert units or profile.bit_operations is not None
    assert all(len(unit.source) > 20 for _, _, unit in units)
    text = (Path(__file__).parent.parent / "docs" / "cost-models.md").read_text()
    section = text.split(f"## {name}\n")[1].split("\n## ")[0]
    for kind, widths, unit in units:
        row = next(line for line in section.splitlines() if line.startswith(f"| {kind} | {widths} |"))
        rate, energy = (math.nan if cell.strip() == "-" else float(cell) for cell in row.split("|")[3:5])
        assert rate * 1e9 == pytest.approx(unit.per_second or math.nan, rel=1e-3, nan_ok=True)
        assert energy / 1e12 == pytest.approx(unit.joules or math.nan, rel=1e-3, nan_ok=True)


def test_an_operation_that_the_profile_lacks_is_named() -> None:
    with pytest.raises(TrialFailed, match=r"'cost-model:bit-fusion' has no unit for 'add', which layer 'layer1' needs"):
        model("bit-fusion").cost(layers(("multiply-add", 1, 8, 8), ("add", 1, 8, 8)))
    with pytest.raises(TrialFailed, match="no operator counts of"):
        model("bitops").cost(layers())


def test_latency_is_of_a_batch_and_energy_of_an_image() -> None:
    one, four = (measure(model("bit-fusion"), EIGHT, FLOAT, DeviceConfig(batch=batch)) for batch in (1, 4))
    assert four.latency_ms == 4 * one.latency_ms
    assert four.energy_uj == one.energy_uj


# --- a user's own profile -------------------------------------------------------------------------


def test_a_profile_of_a_user_is_a_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own.yaml").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    device = manager().device("cost-model:own.yaml")
    assert (device.name, device.measures) == ("cost-model:own.yaml", {"latency", "energy"})
    measured = measure(device, layers(("multiply-add", 1000, 3, 8)), FLOAT, CONFIG)
    assert measured.latency_ms == pytest.approx(1e3 * 1000 / 4e9)
    assert measured.energy_uj == pytest.approx(1e6 * 1000 * 1e-12)
    wish = {"model": "resnet18", "data": "digits", "objectives": ["accuracy", "energy"]}
    validate(load_job(settings={**wish, "cost_model": "own.yaml"}), manager())
    validate(load_job(settings={**wish, "device": "cost-model:own.yaml"}), manager())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("joules: 3e-12", "joules: -1"), "own.yaml:6: 'units.multiply-add.8x8.joules' must be greater than 0, not -1"),
        (("joules: 3e-12", "joules: much"), "'units.multiply-add.8x8.joules' must be a valid number, not 'much'"),
        (("joules: 3e-12, ", ""), "own.yaml:6: 'units.multiply-add.8x8' has no 'joules', which other units have"),
        (("3e-12, source: me", "3e-12"), "own.yaml:6: 'units.multiply-add.8x8.source' is missing (every number has"),
        (
            ("joules: 3e-12", "joule: 3e-12"),
            "'units.multiply-add.8x8.joule' is no key of a cost-model profile (did you",
        ),
        (("8x8", "8bit"), "own.yaml:6: 'units.multiply-add.8bit' is no pair of widths (write 4x8"),
        (("    float", "    16x16"), "leaves float operands of 'multiply-add' without a unit (add a unit 'float'"),
        (("multiply-add", "add"), "'units' have no 'multiply-add'"),
        (("description: mine", "description: mine\nname: x"), "own.yaml:3: 'name' is no key of a cost-model profile"),
        (("description: mine", ""), "'description' is missing"),
        ((OWN, "[1]"), "own.yaml: the cost-model profile holds a list"),
        ((OWN, "a: !!python/object/apply:os.system [ls]"), "own.yaml:1: not valid YAML"),
        (("joules: 3e-12", "joules: .inf"), "'units.multiply-add.8x8.joules' must be a finite number"),
    ],
)
def test_a_wrong_profile_is_refused_with_file_and_key(tmp_path: Path, change: tuple[str, str], message: str) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(OWN.replace(*change))
    with pytest.raises(UserError) as caught:
        manager().device(f"cost-model:{path}")
    assert message in str(caught.value)


def test_a_profile_may_run_float_on_integers(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(OWN.replace("    float", "    16x16") + "float_as: 16x16\n")
    found = load_profile(path).cost("multiply-add", 32, 32)
    assert found is not None
    assert (found.ran_as, found.joules) == ("16x16", 9e-12)


# --- jobs -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"device": "cost-model:45nm"}, "'device' cannot be 'cost-model:45nm', which does not measure latency"),
        (
            {"device": "cost-model:bitpos"},
            "'device' names no device: 'cost-model:bitpos' (did you mean 'cost-model:bit",
        ),
        ({"device": "cost-model:no.yaml"}, "there is no cost-model profile no.yaml"),
        ({"cost_model": "bitops"}, "'cost_model' cannot be 'bitops', which does not give energy"),
        ({"cost_model": "45n"}, "'cost_model' names no cost model: '45n' (did you mean '45nm'?)"),
        ({"device": "cost-model:bitops", "energy": "0.5x"}, "bounds energy, which no device here measures"),
        ({"device": {"name": "cost-model:bitops", "input_size": 64}}, "the model's own input size, not at 64"),
    ],
)
def test_a_job_that_a_cost_model_cannot_serve(setting: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        validate(load_job(settings={"model": "resnet18", "data": "digits"} | setting), manager())
    assert message in str(caught.value)


def at_bits(opened: OpenedJob, weights: int, activations: int) -> dict[str, Any]:
    """The values of the 8-bit recipe with other bits."""
    values = dict(dict(opened.starting_points())["8-bit alone"])
    for name in values:
        if name.startswith("bits.weight."):
            values[name] = f"quantize:{weights}"
        elif name.startswith("bits.activation."):
            values[name] = activations
    return values


def run_recipes(opened: OpenedJob, folder: Path, recipes: list[dict[str, Any]], **settings: Any) -> Any:
    """Runs ``recipes`` like a search, with other devices; closes it, and reads the run."""
    settings = {"name": "modelled", "results": folder} | settings
    asked = {"model": "resnet10t", "model_args": NARROW, "data": "digits", "baseline": {"epochs": 4}}
    job = load_job(settings={**asked, "budget": {"epochs": 1}, **settings})
    validate(job, manager())
    chosen = dataclasses.replace(opened, job=job, device=manager().device(job.device.name))
    measurer = Measurer.of(job, chosen.device)
    baseline, lock = baseline_row(chosen, measurer), MachineLock(folder / "locks")
    job.folder.mkdir(parents=True)
    rows = [Trial(chosen, measurer, lock, i, job.folder, baseline).run(values) for i, values in enumerate(recipes)]
    assert [row["reason"] for row in rows] == [""] * len(rows)
    (job.folder / "job.yaml").write_text(job.to_yaml())
    save_trials(job.folder, rows)
    Closing(chosen, measurer, job.folder, baseline).close(rows, 1.0, "all trials are spent", manager())
    return results.read(job.folder)


@pytest.mark.slow
def test_low_bits_gain_latency_and_energy_on_an_accelerator(opened: OpenedJob, tmp_path: Path) -> None:
    recipes = [at_bits(opened, weights, activations) for weights, activations in ((8, 8), (4, 8), (2, 8))]
    wish = {"device": "cost-model:bit-fusion", "objectives": ["accuracy", "latency", "energy"]}
    found = run_recipes(opened, tmp_path, recipes, **wish)
    rows = found.trials.set_index("trial")
    ratios = rows["latency_ratio"]
    assert 0.9 < ratios[0] <= 1, "8 bits, and a float network counts as 8 bits there"
    # The first and the last layer keep 8 bits, so the gain is less than the ratio of the bits.
    assert 0.5 <= ratios[1] / ratios[0] < 0.75
    assert 0.25 <= ratios[2] / ratios[0] < 0.6
    assert list(rows["energy_uj"] / rows["energy_uj"][0]) == pytest.approx(list(ratios / ratios[0]), rel=1e-3)
    front = found.models
    assert (front["latency_ratio_low"] == front["latency_ratio_high"]).all()
    assert list(front["energy_ratio"]) == pytest.approx(list(front["latency_ratio"]), rel=1e-3)
    assert found.front.iloc[0]["energy_ratio"] == 1


@pytest.mark.slow
def test_latency_from_the_runtime_and_energy_from_a_profile(opened: OpenedJob, tmp_path: Path) -> None:
    wish = {"cost_model": "45nm", "objectives": ["accuracy", "energy"], "constraints": {"energy": "0.5x"}}
    found = run_recipes(opened, tmp_path, [at_bits(opened, 8, 8)], **wish)
    row, baseline = found.models.iloc[0], found.front.iloc[0]
    # Each multiply-add costs 0.30 pJ instead of 4.6. The number is that of the baseline.
    assert baseline["energy_uj"] == pytest.approx(1e6 * baseline["macs"] * 4.6e-12)
    assert row["energy_uj"] == pytest.approx(1e6 * row["macs"] * 0.3e-12)
    assert row["energy_ratio"] == pytest.approx(0.3 / 4.6)
    assert 0 < row["latency_ratio_low"] <= row["latency_ratio"] <= row["latency_ratio_high"]
    assert row["latency_ratio_low"] < row["latency_ratio_high"], "measured, on the runtime"


def test_hardened_layers_have_the_bits_of_the_recipe(opened: OpenedJob) -> None:
    candidate = opened.candidate(opened.compose(Policy({})), dry_run=True)
    assert {(c.weight_bits, c.activation_bits) for c in candidate.operators} == {(32, 32)}
    counts = opened.candidate(opened.compose(Replay(at_bits(opened, 2, 4))), dry_run=True).operators
    assert sum(c.operations for c in counts) == opened.baseline.macs
    inner = [c for c in counts if ".conv" in c.layer and c.layer != counts[0].layer]
    assert inner
    assert {c.weight_bits for c in inner} == {2}
    assert {c.activation_bits for c in inner} == {4}


def test_a_cost_model_scores_no_file(opened: OpenedJob) -> None:
    """Accuracy is computed by the scorer and does not depend on the device."""
    job = opened.job.model_copy(update={"device": DeviceConfig(name="cost-model:bitops")})
    modelled = dataclasses.replace(opened, job=job, device=model("bitops"))
    accuracy, correct = modelled.accuracy(opened.baseline.deployable, "val")
    assert accuracy == opened.baseline.accuracy
    assert (correct == opened.baseline.correct).all()


def test_every_profile_is_a_device_once() -> None:
    names = [device.name for device in Manager().devices() if device.name.startswith("cost-model:")]
    assert sorted(names) == [f"cost-model:{name}" for name in sorted(PROFILES)]
