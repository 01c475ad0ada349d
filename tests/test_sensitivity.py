"""Sensitivity tables.

Losses are those of a network with one group quantized, and starting points are valid.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from autocompress.compression import quantize
from autocompress.contract import Context, FakeQuantizer, Hardened, Params, Quantizer, Space, TensorSpec, TransferSet
from autocompress.data.split import DataInfo
from autocompress.data.tensors import TensorSplit
from autocompress.graph import facts
from autocompress.job import Limits
from autocompress.opened.job import OpenedJob
from autocompress.quantization import network
from autocompress.recipes.bits import GroupBits
from autocompress.recipes.choosers import Replay
from autocompress.recipes.jobspace import JobSpace
from autocompress.recipes.recipe import Recipe
from autocompress.sensitivity import mixedbits, partlyfloat, probing
from autocompress.sensitivity.table import Sensitivity, Setting, Width, lowest_widths
from autocompress.store import Store
from autocompress_quantize import Quantize

SIZE = (3, 32, 32)
PARAMS: Params = {
    "weight_granularity": "per_channel",
    "weight_grid": "symmetric",
    "depthwise_bits": "8",
    "weight_range": "minmax",
    "activation_range": "minmax",
    "calibration_images": 64,
    "equalise": False,
    "bias_correction": False,
}
GROUP = "layer2"


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    model = timm.create_model("test_resnet", num_classes=10)
    # In untrained timm networks, residual branches give zero and outputs do not depend on the
    # image. Both are changed here.
    model.train()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(0.5, 1.5)
        for _ in range(20):
            model(torch.randn(64, *SIZE))
        model.get_classifier().weight.mul_(20)
    return model.eval()


@pytest.fixture(scope="module")
def context() -> Context:
    images = torch.randn(40, *SIZE, generator=torch.Generator().manual_seed(1))
    info = DataInfo(10, 3, SIZE[1:], (0.5,) * 3, (0.25,) * 3, tuple("0123456789"))
    split = TensorSplit(images, torch.zeros(40), info)
    return Context(SIZE, TransferSet(split, split, "noise"))


@pytest.fixture(scope="module")
def images(context: Context) -> torch.Tensor:
    assert context.transfer is not None
    return next(iter(context.transfer.calibration.subset(40, context.seed).loader(64)))[0]


SETTING = Setting({"quantize": Quantize()}, {"quantize": PARAMS}, "stage")


def widths(role: Any, *bits: int, group: str = GROUP) -> list[Width]:
    return [Width(group, role, "quantize", b) for b in bits]


def quantized_alone(
    model: nn.Module, images: torch.Tensor, role: str, bits: int, context: Context
) -> tuple[float, float]:
    """Loss and agreement computed directly.

    All fake-quantizers are inserted, and only those of one group are enabled.
    """
    groups = {name: GroupBits("quantize", bits, "quantize", bits) for name in ("stem", "layer1", GROUP, "layer3")}
    groups |= {name: GroupBits("quantize", bits, "quantize", bits) for name in ("layer4", "head")}
    known = facts(model, SIZE)
    assigned = quantize.assign(known, model, "stage", Recipe(values={}, bits=groups))
    quantized = network.quantize(
        model, assigned, lambda _, spec: Quantize().apply(spec, PARAMS, context), input_size=SIZE
    )
    fakes = [*quantized.weight_fakes().values(), *quantized.activation_fakes().values()]
    for fake in fakes:
        fake.enabled, fake.observing = False, fake.spec.role == "activation"
    with torch.no_grad():
        quantized(images)
        for fake in fakes:
            fake.observing = False
            fake.finish_observing()
            fake.enabled = (fake.spec.group, fake.spec.role) == (GROUP, role)
        found, wanted = F.log_softmax(quantized(images), 1), F.log_softmax(model(images), 1)
    loss = F.kl_div(found, wanted, reduction="batchmean", log_target=True)
    return float(loss), 100.0 * float((found.argmax(1) == wanted.argmax(1)).float().mean())


# --- measuring ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("role", "bits"), [("weight", 2), ("weight", 4), ("activation", 2), ("activation", 5)])
def test_a_row_is_the_loss_of_one_group_quantized_alone(
    model: nn.Module, context: Context, images: torch.Tensor, role: str, bits: int
) -> None:
    loss, agreement = quantized_alone(model, images, role, bits, context)
    (row,) = probing.measure(model, widths(role, bits), SETTING, context)
    assert row.loss == pytest.approx(loss, rel=1e-3)
    assert row.agreement == pytest.approx(agreement)
    assert loss > 1e-4  # otherwise the comparison shows nothing


def test_rows_are_independent_of_each_other(model: nn.Module, context: Context) -> None:
    """Shared computation gives the values of each row alone, in any order."""
    wanted = [
        *widths("activation", 3, group="layer4"),
        *widths("weight", 3),
        *widths("activation", 2, group="layer1"),
        *widths("weight", 2, group="stem"),
        *widths("activation", 3),
    ]
    together = probing.measure(model, wanted, SETTING, context)
    alone = [probing.measure(model, [width], SETTING, context)[0] for width in wanted]
    assert [row.loss for row in together] == pytest.approx([row.loss for row in alone], rel=1e-5)
    assert len({row.loss for row in together}) == len(wanted)


def test_fewer_bits_lose_more(model: nn.Module, context: Context) -> None:
    before = {name: value.clone() for name, value in model.state_dict().items()}
    table = probing.measure(model, [*widths("weight", 8, 4, 2), *widths("activation", 8, 4, 2)], SETTING, context)
    for role in ("weight", "activation"):
        losses = [row.loss for row in table if row.role == role]
        assert losses == sorted(losses)
        assert losses[-1] > 10 * losses[0]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_exempt_layers_always_have_eight_bits(model: nn.Module, context: Context) -> None:
    head = probing.measure(model, widths("weight", 8, 4, 2, group="head"), SETTING, context)
    assert len({row.loss for row in head}) == 1
    assert head[0].loss > 0
    assert not probing.measure(model, widths("activation", 8, 4, group="head"), SETTING, context)  # logits are float


def test_a_quantizer_that_fails_only_loses_its_rows(model: nn.Module, context: Context) -> None:
    class Broken(Quantize):
        name = "broken"

        def apply(self, spec: TensorSpec, params: Params, context: Context) -> FakeQuantizer:
            raise RuntimeError("a plugin's fault")

    setting = Setting({"broken": Broken(), "quantize": Quantize()}, {"broken": PARAMS, "quantize": PARAMS}, "stage")
    wanted = [Width(GROUP, "weight", "broken", 4), *widths("weight", 4)]
    assert [row.quantizer for row in probing.measure(model, wanted, setting, context)] == ["quantize"]


def test_large_networks_get_fewer_images() -> None:
    assert probing.images_for(1e6) == probing.MOST_IMAGES
    assert probing.images_for(1e15) == probing.LEAST_IMAGES
    assert probing.images_for(probing.MOST_MACS / 50) == 50


def test_a_table_is_measured_once(model: nn.Module, context: Context, tmp_path: Path) -> None:
    told: list[float] = []

    def ask(*bits: int, setting: Setting = SETTING, key: str = "model") -> list[Sensitivity]:
        told.clear()
        store = Store(tmp_path)
        return probing.kept(
            store, key, model, widths("weight", *bits), setting, context, progress=lambda f, _: told.append(f)
        )

    first = ask(8, 2)
    assert told
    assert ask(8, 2) == first
    assert not told
    assert ask(8, 3)[1] != first[1]
    assert told
    other = Setting(SETTING.methods, {"quantize": {**PARAMS, "weight_granularity": "per_tensor"}}, "stage")
    assert ask(8, 2, setting=other) != first
    ask(8, 2, key="another model")
    assert told


# --- what the space offers ------------------------------------------------------------------------


class WeightsOnly(Quantizer):
    """Like SLB: few bits for weights, none for activations, and it needs training."""

    name, version, reference = "scarce", "1", "none"
    weight_bits, activation_bits = (1, 2), ()
    min_epochs = 2

    def search_space(self, space: Space, model: nn.Module) -> Params:
        return {"sharp": space.categorical("sharp", [True, False], default=True, structural=False)}

    def apply(self, spec: TensorSpec, params: Params, context: Context) -> FakeQuantizer:
        return _Signs(spec)


class _Signs(FakeQuantizer):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x

    def harden(self, weight: torch.Tensor | None = None) -> Hardened:
        assert weight is not None
        codes = torch.where(weight > 0, 1, -1).to(torch.int8)
        return Hardened(weight.abs().mean(), torch.tensor(0, dtype=torch.int32), -1, 1, 1, codes, None, 2)


def space_of(model: nn.Module, epochs: int = 2, **limits: Any) -> JobSpace:
    return JobSpace(
        model, [Quantize(), WeightsOnly()], Limits({f"bits.{k}": v for k, v in limits.items()}), "stage", epochs
    )


def test_all_numbers_of_bits_are_offered(model: nn.Module) -> None:
    found, params = mixedbits.offered(space_of(model))
    assert set(params) == {"quantize", "scarce"}
    assert params["scarce"] == {"sharp": True}
    own = [(width.role, width.quantizer, width.bits) for width in found if width.group == GROUP]
    assert own == (
        [("weight", "quantize", bits) for bits in range(8, 1, -1)]
        + [("weight", "scarce", bits) for bits in (2, 1)]
        + [("activation", "quantize", bits) for bits in range(8, 1, -1)]
    )
    assert list(dict.fromkeys(width.group for width in found)) == ["stem", "layer1", GROUP, "layer3", "layer4", "head"]


def test_limits_restrict_the_offered_bits(model: nn.Module) -> None:
    space = space_of(
        model, **{"weight": ["none", "quantize:8", "quantize:4"], "activation": 8, f"weight.{GROUP}": "none"}
    )
    found, params = mixedbits.offered(space)
    assert {(width.role, width.bits) for width in found} == {("weight", 8), ("weight", 4), ("activation", 8)}
    assert GROUP not in {width.group for width in found}
    assert set(params) == {"quantize"}


def test_without_a_choice_nothing_is_offered(model: nn.Module) -> None:
    assert mixedbits.offered(space_of(model, weight=["none", "quantize:8"], activation=8)) == ([], {})
    assert mixedbits.offered(JobSpace(model, [], Limits(), "stage", 2)) == ([], {})


def test_a_quantizer_that_cannot_train_here_is_not_offered(model: nn.Module) -> None:
    assert {width.quantizer for width in mixedbits.offered(space_of(model, epochs=1))[0]} == {"quantize"}


# --- starting points ------------------------------------------------------------------------------


def made_up(model: nn.Module, space: JobSpace, loss: float = 0.001) -> list[Sensitivity]:
    """A table in which each bit less doubles the loss."""
    return [Sensitivity(w.group, w.role, w.quantizer, w.bits, loss * 2.0 ** (8 - w.bits), 100.0)
            for w in mixedbits.offered(space)[0]]  # fmt: skip


def test_starting_points_are_valid_and_mixed(model: nn.Module) -> None:
    space = space_of(model)
    table = made_up(model, space)
    points = dict(mixedbits.starting_points(space, table))
    assert list(points) == ["mixed weight bits by sensitivity", "mixed bits by sensitivity"]
    for values in points.values():
        recipe = space.compose(Replay(values))
        assert dict(recipe.values) == values
        chosen = [row for row in table if row.role == "weight"
                  and values[f"bits.weight.{row.group}"] == f"{row.quantizer}:{row.bits}"]  # fmt: skip
        assert len(chosen) == 6
        assert math.fsum(row.loss for row in chosen) <= mixedbits.MOST_LOSS
        assert min(row.bits for row in chosen) < 8
        assert recipe.qat["epochs"] == 2  # low bits are trained by default
    bits = {name: {int(v) for k, v in p.items() if k.startswith("bits.activation.")} for name, p in points.items()}
    assert bits["mixed weight bits by sensitivity"] == {8}
    assert min(bits["mixed bits by sensitivity"]) < 8


def test_starting_points_are_within_limits(model: nn.Module) -> None:
    space = space_of(model, **{"weight": ["quantize:8", "quantize:5"], "activation": 8, f"weight.{GROUP}": "none"})
    points = dict(mixedbits.starting_points(space, made_up(model, space, 1e-4)))
    for values in points.values():
        assert values[f"bits.weight.{GROUP}"] == "none"
        assert {v for k, v in values.items() if k.startswith("bits.weight.")} == {"none", "quantize:5"}
        assert f"bits.activation.{GROUP}" not in values
    assert points


def test_without_lower_bits_there_is_no_starting_point(model: nn.Module) -> None:
    space = space_of(model)
    assert not list(mixedbits.starting_points(space, []))
    assert not list(mixedbits.starting_points(space, made_up(model, space, 1.0)))


def row(group: str, bits: int, loss: float, role: Any = "weight") -> Sensitivity:
    return Sensitivity(group, role, "q", bits, loss, 100.0)


def test_lowest_bits_by_hand() -> None:
    table = [row("a", 8, 0.0), row("a", 4, 0.01), row("a", 2, 0.09), row("b", 8, 0.001), row("b", 4, 0.03)]
    table += [row("b", 2, 0.5), row("c", 8, 0.002), row("c", 2, 0.002), row("a", 1, 0.0, "activation")]

    def widths_within(loss: float) -> dict[str, int]:
        return {group: found.bits for group, found in lowest_widths(table, "weight", loss).items()}

    assert widths_within(0.0) == {"a": 8, "b": 8, "c": 8}
    assert widths_within(0.02) == {"a": 4, "b": 8, "c": 8}  # c has 8 in any case
    assert widths_within(0.05) == {"a": 4, "b": 4, "c": 8}
    assert widths_within(0.13) == {"a": 2, "b": 4, "c": 8}
    assert widths_within(9.0) == {"a": 2, "b": 2, "c": 8}


@settings(deadline=None)
@given(
    st.lists(st.lists(st.floats(1e-6, 1.0), min_size=3, max_size=3, unique=True), min_size=1, max_size=6),
    st.floats(0.0, 3.0),
)
def test_lowest_bits_stay_within_the_loss(losses: list[list[float]], most: float) -> None:
    table = [
        row(f"g{number}", bits, loss)
        for number, own in enumerate(losses)
        for bits, loss in zip((8, 4, 2), sorted(own), strict=True)
    ]
    chosen = lowest_widths(table, "weight", most)
    total = math.fsum(found.loss for found in chosen.values())
    assert set(chosen.values()) <= set(table)
    assert total <= most or all(found.bits == 8 for found in chosen.values())
    for candidate in table:  # no further reduction would fit
        if candidate.bits < chosen[candidate.group].bits and total <= most:
            assert total - chosen[candidate.group].loss + candidate.loss > most - 1e-9


def test_an_opened_job_measures_and_uses_the_table(opened: OpenedJob) -> None:
    widths = Limits({"bits.weight": ["none", "quantize:8", "quantize:6"], "bits.activation": 8})
    narrowed = replace(opened, limits=widths)
    table = narrowed.sensitivity()
    assert {(found.role, found.bits) for found in table} == {("weight", 8), ("weight", 6), ("activation", 8)}
    known = dict(narrowed.starting_points())
    labels = dict(narrowed.starting_points(table))
    assert set(labels) == {*known, "mixed weight bits by sensitivity"}  # activations have no choice
    assert narrowed.sensitivity() == table
    assert replace(opened, limits=Limits({"bits.weight": "quantize:8", "bits.activation": 8})).sensitivity() == []
    assert opened.float_layers() == []


def losses_of_8_bits(space: JobSpace, **of_groups: float) -> list[Sensitivity]:
    widths, _ = partlyfloat.offered(space)
    assert {width.role for width in widths} == {"weight", "activation"}
    return [Sensitivity(w.group, w.role, w.quantizer, w.bits, of_groups.get(w.group, 0.001), 100.0) for w in widths]


def test_the_most_sensitive_groups_stay_in_float(model: nn.Module) -> None:
    space = space_of(model)
    points = dict(partlyfloat.starting_points(space, losses_of_8_bits(space, layer2=0.9, layer3=0.5)))
    groups = [name.removeprefix("bits.weight.") for name in space.parameters() if name.startswith("bits.weight.")]
    floats = [{g for g in groups if values[f"bits.weight.{g}"] == "none"} for values in points.values()]
    assert floats == [{"layer2"}, {"layer2", "layer3"}], "0.5, then 0.8 and 0.95 of the loss"
    for values in points.values():
        assert "quantize:8" in values.values()
        assert values.get("prune.method", "none") == "none"
    assert all(f"of {len(groups)} groups in float" in label for label in points)


def test_without_a_loss_or_a_choice_nothing_stays_in_float(model: nn.Module) -> None:
    space = space_of(model)
    assert not list(partlyfloat.starting_points(space, []))
    assert not list(partlyfloat.starting_points(space, [replace(row, loss=0.0) for row in losses_of_8_bits(space)]))
    assert partlyfloat.offered(replace(space, limits=Limits({"bits.weight": "quantize:8"})))[0] == []


def test_an_opened_job_leaves_sensitive_groups_in_float(opened: OpenedJob) -> None:
    points = opened.partly_float()
    assert points
    for _, values in points:
        recipe = opened.compose(Replay(values))
        assert 0 < len(recipe.bits) < len([name for name in opened.parameters() if name.startswith("bits.weight.")])
