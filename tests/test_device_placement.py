"""A device has a table of operators with integers, and a suitable multiple of channels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from autocompress.contract import Deployable, Device, Manager, Measurement, PlacementTable, hookimpl
from autocompress.job import Job, load_job
from autocompress.opened.job import OpenedJob
from autocompress.quantization import hardening
from autocompress.recipes.choosers import Policy
from autocompress.testing import ContractViolation, check_device

INTEGERS = {"bits": "default", "quantize": "default"}


class NoAdditions(Device):
    """Its runtime has no integer kernel for additions. Its multiple is 12 channels."""

    name = "no-additions"
    deterministic = True
    placement = PlacementTable(kernels=PlacementTable().kernels - {"add"})
    channel_multiple = 12

    def compare(self, candidate: Deployable, baseline: Deployable, config: object) -> Measurement:
        del candidate, baseline, config
        return Measurement(1.0, 1.0, 1.0, 1.0, 1.0)


class Plugin:
    @hookimpl
    def autocompress_devices(self) -> Sequence[Device]:
        return [NoAdditions()]


def opened(device: str) -> OpenedJob:
    plugins = Manager()
    plugins.register(Plugin(), "no-additions")
    return OpenedJob.dry(job(device), plugins)


def job(device: str) -> Job:
    return load_job(model="test_resnet", data="digits", device=device, methods=["quantize", "magnitude"])


def test_placement_table_and_multiple_are_those_of_the_device() -> None:
    ours, own = opened("cost-model:bitops"), opened("no-additions")
    assert ours.parameters()["prune.multiple"].default == 8
    assert own.parameters()["prune.multiple"].default == 12
    assert own.compose(Policy({"prune": "default"})).values["prune.multiple"] == 12
    recipe = own.compose(Policy(INTEGERS))
    plans = [each.candidate(recipe, dry_run=True).plan["quantization"] for each in (ours, own)]
    last_sum = ["layer4_0_act2" in plan["activations"] for plan in plans]
    assert last_sum == [True, False], "no layer behind the last addition reads it as integers"
    assert "placement" not in plans[0], "plans for ONNX Runtime do not change"


def test_a_plan_for_another_runtime_is_rebuilt_with_its_table() -> None:
    own = opened("no-additions")
    candidate = own.candidate(own.compose(Policy(INTEGERS)), dry_run=True)
    again = hardening.rebuild(own.model, candidate.plan["quantization"])
    assert [node.name for node in again.graph.nodes] == [node.name for node in candidate.model.graph.nodes]  # type: ignore[union-attr,operator]
    again.load_state_dict(candidate.model.state_dict())


def test_trained_results_are_stored_by_table() -> None:
    own = opened("no-additions")
    recipe = own.compose(Policy(INTEGERS))
    other = replace(own.pipeline, table=PlacementTable())
    assert own.pipeline.keys.of_quantize(recipe) != other.keys.of_quantize(recipe)


class UnknownOperator(NoAdditions):
    placement = PlacementTable(kernels=frozenset({"attention"}))


class NoMultiple(NoAdditions):
    channel_multiple = 0


@pytest.mark.parametrize(
    ("device", "rule"), [(UnknownOperator(), "kernels: attention"), (NoMultiple(), "channel_multiple")]
)
def test_conformance_finds_a_wrong_table_and_a_wrong_multiple(device: Device, rule: str) -> None:
    with pytest.raises(ContractViolation, match=rule):
        check_device(device)
