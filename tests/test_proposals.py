"""Tables, interpolation and costs, on small networks and known functions."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Mapping

import numpy as np
import pytest
import timm
import torch
from torch import nn

from autocompress.channels.couplings import couplings
from autocompress.channels.removal import remove
from autocompress.channels.widths import lost_inputs
from autocompress.graph import facts
from autocompress.proposals import (
    Correction,
    Layer,
    Part,
    RemovedChannels,
    Table,
    energy,
    factors,
    interpolate,
    kept_shares,
    kl_divergence,
    layers_of,
    macs,
    measure,
    parameters,
    size_bytes,
    structure_part,
)
from autocompress.proposals.factors import Widths
from autocompress.proposals.tables import planned
from autocompress.repair import gather, has_columns, repair

SIZE = (3, 32, 32)


# --- interpolation --------------------------------------------------------------------------------


def test_a_power_law_is_interpolated_exactly() -> None:
    errors = np.linspace(0, 1, 17) ** 2
    truth = 3 * errors**1.7
    found = interpolate({8: truth[8], 14: truth[14]}, errors)
    np.testing.assert_allclose(found[8:15], truth[8:15], rtol=1e-6)
    assert found[0] == 0


def test_interpolation_never_decreases_and_keeps_measured_values() -> None:
    errors = np.array([0, 0.1, 0.1, 0.3, 0.5, 0.9])
    found = interpolate({1: 0.02, 3: 0.01, 5: 1.0}, errors)
    assert (np.diff(found) >= 0).all()
    assert found[1] == pytest.approx(0.02)
    assert found[5] == pytest.approx(1.0)


def test_beyond_the_measured_choices_divergence_grows_with_the_error() -> None:
    found = interpolate({2: 0.1}, [0, 1, 2, 4])
    np.testing.assert_allclose(found, [0, 0.05, 0.1, 0.2])


def test_without_values_interpolation_gives_nan() -> None:
    assert np.isnan(interpolate({}, [0, 1, 2])[1:]).all()
    assert np.isnan(interpolate({1: math.nan}, [0, 1, 2])[1:]).all()


# --- tables ---------------------------------------------------------------------------------------

PARTS = [
    *(Part(name, "structure", tuple(count / 16 for count in range(16, 0, -1))) for name in ("a", "b", "c")),
    Part("a", "kind", ("plain", "other"), ordered=False),
]
ERRORS = {part.key: [0.01 * at for at in range(16)] for part in PARTS[:3]}
WEIGHT = {"structure:a": 1.0, "structure:b": 2.0, "structure:c": 4.0}


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Network:
    """Loses weight * error^2 for each part, and more if a and b are cut together.

    A cell takes a second.
    """

    def __init__(self, clock: Clock, extra: float = 1.0) -> None:
        self.clock, self.extra = clock, extra
        self.asked: list[dict[str, int]] = []

    def __call__(self, selection: Mapping[str, int]) -> float:
        self.clock.now += 1
        self.asked.append(dict(selection))
        if "kind:a" in selection:
            return 0.5
        alone = [WEIGHT[key] * ERRORS[key][at] ** 2 for key, at in selection.items()]
        return sum(alone) * (self.extra if {"structure:a", "structure:b"} <= set(selection) else 1.0)


def test_a_table_has_every_part_and_interpolates_the_rest() -> None:
    clock = Clock()
    table = measure(PARTS, Network(clock), errors=ERRORS, clock=clock)
    for part in PARTS[:3]:
        truth = WEIGHT[part.key] * np.array(ERRORS[part.key]) ** 2
        np.testing.assert_allclose(table.divergences(part)[4:15], truth[4:15], rtol=1e-6)
    assert table.divergences(PARTS[3]).tolist() == [0, 0.5]
    assert not table.failures
    assert not table.unmeasured


def test_without_time_only_the_first_cells_of_each_part_are_measured() -> None:
    clock = Clock()
    table = measure(PARTS, Network(clock), errors=ERRORS, deadline=7.5, clock=clock)
    assert clock.now == 7  # half and nine tenths of three parts, and the part of another kind
    assert [len(table.known(part)) for part in PARTS] == [2, 2, 2, 1]
    assert not table.pairs


@pytest.mark.parametrize("thorough", [False, True])
def test_planned_cells_are_the_measured_ones(thorough: bool) -> None:
    clock = Clock()
    network = Network(clock)
    table = measure(PARTS, network, errors=ERRORS, clock=clock, thorough=thorough)
    assert network.asked == planned(PARTS, thorough=thorough)
    assert [len(table.known(part)) for part in PARTS] == ([4, 4, 4, 1] if thorough else [2, 2, 2, 1])


def test_a_known_table_is_not_measured_again() -> None:
    clock = Clock()
    first = measure(PARTS, Network(clock), errors=ERRORS, deadline=7.5, clock=clock)
    again = Network(clock)
    whole = measure(
        PARTS, again, errors=ERRORS, known=Table.from_state(json.loads(json.dumps(first.state()))), clock=clock
    )
    assert len(again.asked) == 2 + 6  # the pairs and the later cells
    assert whole.state() == measure(PARTS, Network(Clock()), errors=ERRORS).state()


def test_a_pair_that_is_not_additive_scales_both_parts() -> None:
    clock = Clock()
    table = measure(PARTS, Network(clock, extra=2.0), errors=ERRORS, clock=clock)
    assert table.scale(PARTS[0]) == pytest.approx(2.0)
    assert table.scale(PARTS[1]) == pytest.approx(math.sqrt(2.0))
    assert table.scale(PARTS[2]) == 1.0
    assert table.divergences(PARTS[0])[8] == pytest.approx(2 * ERRORS["structure:a"][8] ** 2)


def test_a_cell_that_fails_is_left_out_and_named() -> None:
    clock = Clock()
    network = Network(clock)

    def failing(selection: Mapping[str, int]) -> float:
        if selection.get("structure:b"):
            raise RuntimeError("no images\nand more")
        return math.nan if selection == {"structure:c": 14} else network(selection)

    table = measure(PARTS, failing, errors=ERRORS, clock=clock)
    assert table.unmeasured == ("structure:b",)
    assert np.isnan(table.divergences(PARTS[1])[1:]).all()
    assert {(failure.name, failure.choice) for failure in table.failures} >= {("b", 8 / 16), ("c", 2 / 16)}
    assert "RuntimeError: no images" in {failure.reason for failure in table.failures}
    assert np.isfinite(table.divergences(PARTS[2])).all()


def test_rows_say_which_choices_were_measured() -> None:
    clock = Clock()
    rows = list(measure(PARTS, Network(clock), errors=ERRORS, clock=clock).rows(PARTS))
    assert len(rows) == 3 * 16 + 2
    measured = [row["choice"] for row in rows if row["name"] == "b" and row["measured"]]
    assert measured == [12 / 16, 8 / 16, 4 / 16, 2 / 16]


# --- corrections by trials ---


def test_a_correction_learns_that_deep_cuts_lose_more() -> None:
    generator = np.random.default_rng(0)
    predicted = np.exp(generator.uniform(-8, -2, 20))
    truth = predicted * np.exp(0.8 + 0.12 * (np.log(predicted) + 2))
    correction = Correction.fit(list(predicted), list(truth * np.exp(0.05 * generator.standard_normal(20))))
    for at in np.exp(np.linspace(-7, -2.5, 8)):
        wanted = at * np.exp(0.8 + 0.12 * (np.log(at) + 2))
        assert correction(float(at)) == pytest.approx(wanted, rel=0.1)
    assert 0.02 < correction.error < 0.15
    grid = [correction(float(value)) for value in np.exp(np.linspace(-12, 2, 50))]
    assert grid == sorted(grid)


def test_a_correction_without_trials_changes_nothing() -> None:
    for correction in (Correction.fit([], []), Correction.fit([0.1, 0.0], [math.nan, 0.2])):
        assert correction(0.3) == pytest.approx(0.3)
        assert correction(0.0) == 0.0
    assert 0.1 < Correction.fit([0.1], [0.2])(0.1) < 0.2  # a single trial changes it only in part


# --- a real network -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    model = timm.create_model("resnet10t", num_classes=10, zero_init_last=False).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, 0, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 2)
    return model


@torch.no_grad()
def test_a_measured_cell_is_the_divergence_of_the_sliced_and_repaired_network(network: nn.Module) -> None:
    every = [coupling for coupling in couplings(network, SIZE, "group") if coupling.prunable]
    about = facts(network, SIZE)
    readers = [
        name
        for name in dict.fromkeys(name for coupling in every for name in coupling.consumers)
        if has_columns(network.get_submodule(name))
    ]
    images = torch.randn(24, *SIZE)
    moments = gather(network, readers, lambda: [images[:16]])
    orders = {coupling.name: torch.randperm(coupling.channels).tolist() for coupling in every}
    before = copy.deepcopy(network.state_dict())
    removed = RemovedChannels(network, about, every, orders, moments, images[16:].split(4), multiple=8)
    parts = removed.parts()
    norms = {name: layer.norm for name, layer in about.layers.items()}
    for selection in ({parts[2].key: 3}, {parts[0].key: 2, parts[-1].key: 5}, {parts[1].key: 1}):
        keep = removed.keep(parts, selection)
        sliced = copy.deepcopy(network)
        repair(sliced, lost_inputs(every, keep), moments, norms)
        remove(sliced, keep, SIZE, "group", couplings=every)
        expected = kl_divergence(network(images[16:]), sliced(images[16:]))
        assert removed.measure(keep) == pytest.approx(expected, rel=1e-3)
        assert expected > 1e-6
    assert removed.measure({}) == 0
    for name, tensor in removed.model.state_dict().items():
        torch.testing.assert_close(tensor, before[name], rtol=0, atol=0)
    errors = removed.errors(parts[0])
    assert errors[0] == 0
    assert (np.diff(errors) > 0).all()


def test_costs_by_formula_are_those_of_the_sliced_network(network: nn.Module) -> None:
    every = [coupling for coupling in couplings(network, SIZE, "group") if coupling.prunable]
    layers = layers_of(facts(network, SIZE), every)
    parts = [structure_part(coupling, 8) for coupling in every]
    kept = {part.name: kept_shares(part, coupling, 8) for part, coupling in zip(parts, every, strict=True)}
    selection = {part.key: at % len(part.choices) for at, part in enumerate(parts, 1)}
    keep = {
        part.name: list(range(round(kept[part.name][selection[part.key]] * coupling.channels)))
        for part, coupling in zip(parts, every, strict=True)
    }
    sliced = facts(remove(copy.deepcopy(network), keep, SIZE, "group", couplings=every), SIZE)
    found = {
        cost: sum(
            factor.table[tuple(selection[key] for key in factor.parts)] for factor in factors(layers, parts, kept, cost)
        )
        for cost in (macs, parameters)
    }
    assert found[macs] == pytest.approx(sliced.macs)
    weights = sum(layer.params for layer in sliced.layers.values())
    biases = sum(layer.out_channels for name, layer in sliced.layers.items() if not layer.is_output)
    assert found[parameters] == pytest.approx(weights + biases)


def test_the_cost_of_a_layer_after_a_concatenation_depends_on_the_sum_of_its_inputs() -> None:
    names = ("a", "b", "c", "d")
    layer = Layer("l", "dense", 40, 16, 1, 9, 4, {"a": 16, "b": 8, "c": 16}, {"c": 8, "d": 8})
    parts = [Part(name, "structure", (1.0, 0.5, 0.25)) for name in names] + [Part("g", "weight_bits", (8, 2))]
    kept = {name: [1.0, 0.5, 0.25] for name in names}
    tables = factors([layer], parts, kept, size_bytes(), {"l": "g"})
    assert max(table.table.ndim for table in tables) == 3  # two couplings and the bits
    generator = np.random.default_rng(0)
    for _ in range(20):
        at = {part.key: int(generator.integers(len(part.choices))) for part in parts}
        share = {name: kept[name][at[f"structure:{name}"]] for name in names}
        inputs = 16 * share["a"] + 8 * share["b"] + 16 * share["c"]
        outputs = 8 * share["c"] + 8 * share["d"]
        true = size_bytes()(
            Widths(layer, np.array(inputs), np.array(outputs), {"weight_bits": np.array([8, 2][at["weight_bits:g"]])})
        )
        assert sum(table.table[tuple(at[key] for key in table.parts)] for table in tables) == pytest.approx(float(true))


def test_a_layer_outside_all_couplings_has_a_fixed_cost() -> None:
    table = factors([Layer("l", "dense", 8, 4, 1, 9, 10, {}, {})], [], {}, macs)[0]
    assert table.parts == ()
    assert float(table.table[()]) == 2880


def test_costs_depend_on_bits_too() -> None:
    layer = Layer("l", "dense", 8, 4, 1, 9, 10, {"c": 8}, {})
    parts = [Part("c", "structure", (1.0, 0.5)), Part("g", "weight_bits", (8, 4))]
    bits = factors([layer], parts, {"c": [1.0, 0.5]}, size_bytes(), {"l": "g"})[0]
    assert bits.parts == ("structure:c", "weight_bits:g")
    np.testing.assert_allclose(bits.table - bits.table[1, 1], (288 - 72) * np.array([[1, 1 / 3], [1 / 3, 0]]))
    per_mac = energy(lambda weight, activation: weight * activation)
    joules = factors([layer], parts, {"c": [1.0, 0.5]}, per_mac, {"l": "g"})[0]
    np.testing.assert_allclose(joules.table, 2880 * 8 * np.array([[8, 4], [4, 2]]))
