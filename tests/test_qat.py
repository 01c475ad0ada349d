"""Quantization-aware training: its delays and freezes, what it keeps, and its parameters."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path

import pytest
import torch
from torch import nn

from autocompress.compression.qat import QuantizationSchedule
from autocompress.data import DataInfo, TensorSplit
from autocompress.opened.job import OpenedJob
from autocompress.quantization import LayerBits, calibrate, quantize
from autocompress.quantization.fakequant import UniformFakeQuantizer
from autocompress.quantization.network import QuantizedNetwork
from autocompress.recipes.bits import GroupBits
from autocompress.recipes.choosers import Policy
from autocompress.recipes.recipe import Recipe
from autocompress.store import Store
from autocompress.training import Training, TrainSettings

SIZE = (3, 8, 8)
INFO = DataInfo(4, 3, (8, 8), (0.5,) * 3, (0.5,) * 3, ("a", "b", "c", "d"))
PARAMS = {"epochs": 1, "norm": "corrected", "norm_freeze": 0.5, "range_freeze": 0.5, "delay": 0.25}


def network(seed: int = 0) -> QuantizedNetwork:
    torch.manual_seed(seed)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 4),
    ).eval()
    config = {"0": LayerBits("q", 4, 4), "5": LayerBits("q", 4, 4)}
    made = quantize(net, config, lambda _, spec: UniformFakeQuantizer(spec), input_size=SIZE, trainable=True)
    calibrate(made, [torch.randn(16, *SIZE)])
    return made


def training(model: QuantizedNetwork, params: dict[str, object], images: int = 64) -> Training:
    """A training of eight steps with eight images each."""
    generator = torch.Generator().manual_seed(0)
    split = TensorSplit(
        torch.randn(images, *SIZE, generator=generator), torch.randint(0, 4, (images,), generator=generator), INFO
    )
    settings = TrainSettings(epochs=1, batch_size=8, augment=False, lr=1e-2)
    return Training(model, split, settings, callbacks=[QuantizationSchedule(params)])


class Watch(QuantizationSchedule):
    """Records the states in each step."""

    def __init__(self, params: dict[str, object]) -> None:
        super().__init__(params)
        self.seen: list[tuple[bool, bool, bool]] = []

    def before_step(self, model: nn.Module, step: int) -> None:
        super().before_step(model, step)
        assert isinstance(model, QuantizedNetwork)
        layer = model.fake_layers()["0"]
        assert layer.norm is not None
        fake = layer.weight_quantizer
        self.seen.append((fake.enabled, fake.tracking, layer.norm.training))


def test_delay_and_freezes_are_at_their_fractions_of_the_training() -> None:
    model = network()
    run = training(model, PARAMS)
    watch = Watch(PARAMS)
    run.callbacks = [watch]
    watch.on_start(model, run.total_steps)
    run.run()
    assert [enabled for enabled, _, _ in watch.seen] == [False] * 2 + [True] * 6
    assert [tracking for _, tracking, _ in watch.seen] == [True] * 4 + [False] * 4
    assert [moving for _, _, moving in watch.seen] == [True] * 4 + [False] * 4
    fakes = [*model.weight_fakes().values(), *model.activation_fakes().values()]
    assert all(fake.enabled and not fake.tracking for fake in fakes), (
        "at the end, all quantizers are on and nothing changes"
    )


def test_during_the_delay_outputs_are_float_and_ranges_are_updated() -> None:
    """A disabled quantizer gives exactly the float outputs, while its observer continues."""
    model = network()
    schedule = QuantizationSchedule(PARAMS | {"norm": "frozen"})
    model.train()
    schedule.on_start(model, 100)
    schedule.before_step(model, 0)
    before = {name: fake.scale.clone() for name, fake in model.activation_fakes().items()}  # type: ignore[operator, union-attr]
    plain = copy.deepcopy(model)
    for fake in [*plain.weight_fakes().values(), *plain.activation_fakes().values()]:
        fake.forward = lambda x: x  # type: ignore[method-assign]
    x = 5 * torch.randn(8, *SIZE)
    assert torch.equal(model(x), plain(x))
    after = {name: fake.scale for name, fake in model.activation_fakes().items()}
    assert any(not torch.equal(before[name], after[name]) for name in before)  # type: ignore[arg-type]


def test_frozen_ranges_do_not_change() -> None:
    model = network()
    model.train()
    for fake in [*model.weight_fakes().values(), *model.activation_fakes().values()]:
        fake.tracking = False
    before = {name: value.clone() for name, value in model.named_buffers() if name.endswith("scale")}
    model(5 * torch.randn(8, *SIZE))
    assert all(torch.equal(value, before[name]) for name, value in model.named_buffers() if name.endswith("scale"))


def test_master_weights_change_even_if_their_integers_do_not() -> None:
    """The float weights sum up changes that are smaller than one step of the grid."""
    model = network()
    layer = model.fake_layers()["0"]
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6)
    model.train()
    assert layer.norm is not None
    layer.norm.eval()  # changing statistics would change the grid
    floats, codes = layer.weight.detach().clone(), layer.weight_quantizer.harden(layer.quantized_weight()).integers
    model(torch.randn(8, *SIZE)).square().sum().backward()
    optimizer.step()
    assert not torch.equal(floats, layer.weight)
    again = layer.weight_quantizer.harden(layer.quantized_weight()).integers
    assert codes is not None
    assert again is not None
    assert torch.equal(codes, again)


def test_a_training_is_repeated_with_its_seed() -> None:
    results = []
    for _ in range(2):
        model = network()
        training(model, PARAMS).run()
        results.append(model.state_dict())
    assert all(torch.equal(value, results[1][name]) for name, value in results[0].items())


# --- in the pipeline ------------------------------------------------------------------------------


def low_bits(opened: OpenedJob, weights: int, epochs: int) -> Recipe:
    base = opened.compose(Policy({"bits": "default", "quantize": "default"}))
    quantizer = next(iter(base.bits.values())).weight_quantizer
    groups = {name: GroupBits(quantizer, weights, quantizer, 8) for name in base.bits}
    qat = {**PARAMS, "delay": 0.0, "lr": 1e-3, "distill": 0.5, "epochs": epochs}
    return dataclasses.replace(base, bits=groups, qat=qat)


@pytest.mark.slow
def test_a_trained_candidate_is_stored_and_its_dry_run_has_its_structure(opened: OpenedJob, tmp_path: Path) -> None:
    pipeline = dataclasses.replace(opened.pipeline, store=Store(tmp_path))
    recipe = low_bits(opened, 4, 1)
    first = pipeline.run(recipe)
    assert first.cache_misses == 1
    second = pipeline.run(recipe)
    assert (second.cache_hits, second.cache_misses) == (1, 0)
    assert second.plan == first.plan
    image = torch.randn(4, 1, 32, 32)
    with torch.no_grad():
        assert torch.equal(first.model(image), second.model(image))
    dry, other = pipeline.run(recipe, dry_run=True), pipeline.run(low_bits(opened, 4, 0))
    for candidate in (dry, other):
        assert {n: (v.shape, v.dtype) for n, v in candidate.model.state_dict().items()} == {
            n: (v.shape, v.dtype) for n, v in first.model.state_dict().items()
        }
    with torch.no_grad():
        assert not torch.equal(other.model(image), first.model(image)), "training changed nothing"


def test_the_space_has_training_only_if_something_is_quantized(opened: OpenedJob) -> None:
    assert not any(name.startswith("qat.") for name in opened.compose(Policy({})).values)
    asked = opened.compose(Policy({"bits": "default", "qat": "default"})).values
    assert asked["qat.epochs"] == 0, "8 bits are not trained by default"


def test_low_bits_are_trained_by_default(opened: OpenedJob) -> None:
    asked = opened.compose(Policy({"bits": "cheapest", "qat": "default"})).values
    assert asked["qat.epochs"] == 1
    assert asked["qat.norm"] == "corrected"
