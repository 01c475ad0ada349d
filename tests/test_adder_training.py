"""Training of adder layers.

The scaled gradient, the optimizer of the filters, schedules, features, and learning.
"""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from autocompress import data
from autocompress.contract import Context, TransferSet
from autocompress.data import Split
from autocompress.job import load_job
from autocompress.quantization import LayerBits, quantize
from autocompress.quantization.fakequant import UniformFakeQuantizer
from autocompress.training import Training, TrainSettings
from autocompress.training.optimizing import Together, clipped_parameters
from autocompress_adder.convert import adder_layers
from autocompress_adder.layer import AdderConv2d
from autocompress_adder.schedule import FINISHED, SETTLED, Turns
from autocompress_adder.spec import AdderSpec
from autocompress_adder.training import AdderTraining, scale_gradient

PARAMS: dict[str, Any] = {
    "stages": {"early": ["1"], "late": ["4"]},
    "init": "normal",
    "width": 1.0,
    "eta": 0.2,
    "lr_scale": 30.0,
    "schedule": "l1",
    "order": "at-once",
    "feature": 0.0,
}


@pytest.fixture(scope="module")
def images() -> Split:
    return data.load(load_job(model="resnet10t", data="digits", name="test").data).train.subset(64)


def network(seed: int = 0) -> nn.Sequential:
    """Stem, two adder layers with their norms, classifier."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 8, 4, 4),
        AdderConv2d(8, 12, 3, (1, 1), (1, 1)),
        nn.BatchNorm2d(12),
        nn.ReLU(),
        AdderConv2d(12, 16, 3, (2, 2), (1, 1)),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(16 * 16, 10),
    )


def context(images: Split | None = None, **of_transfer: Any) -> Context:
    if images is None:
        return Context((1, 32, 32))
    return Context((1, 32, 32), TransferSet(images, images, images.digest, **of_transfer))


def training(model: nn.Module, images: Split, epochs: float = 2, **changed: Any) -> Training:
    callback = AdderTraining(model, {**PARAMS, **changed}, context(images))
    return Training(
        model, images, TrainSettings(epochs=epochs, batch_size=16, augment=False), callbacks=[callback], seed=1
    )


# --- the gradient ---------------------------------------------------------------------------------


@given(numel=st.integers(1, 200), size=st.floats(1e-9, 1e9), eta=st.floats(0.05, 1.0))
@settings(max_examples=30, deadline=None)
def test_the_root_mean_square_of_a_scaled_gradient_is_eta(numel: int, size: float, eta: float) -> None:
    gradient = (torch.rand(numel) + 0.1) * size
    direction = gradient / gradient.norm()
    scale_gradient(gradient, eta)
    assert gradient.square().mean().sqrt().item() == pytest.approx(eta, rel=1e-4)
    torch.testing.assert_close(gradient / gradient.norm(), direction)


def test_the_example_of_sixty_numbers() -> None:
    """The numbers are those of the paper."""
    gradient = torch.randn(60)
    scale_gradient(gradient, 0.2)
    assert gradient.norm().item() == pytest.approx(1.5492, abs=1e-4)
    zero = torch.zeros(60)
    scale_gradient(zero, 0.2)
    assert torch.equal(zero, torch.zeros(60)), "a gradient that is zero stays zero"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_gradients_in_float16(dtype: torch.dtype) -> None:
    """Their squares overflow, and the smallest norm is 0 in float16."""
    zero, large = torch.zeros(60, dtype=dtype), torch.full((60,), 1e4, dtype=dtype)
    scale_gradient(zero, 0.2)
    assert torch.equal(zero, torch.zeros(60, dtype=dtype))
    scale_gradient(large, 0.2)
    torch.testing.assert_close(large.float(), torch.full((60,), 0.2), rtol=1e-2, atol=0)


def gradients(factor: float) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Scaled gradients of the filters and the gradient of the stem, for ``factor`` times a loss."""
    model = network()
    x = torch.rand(4, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    (factor * F.cross_entropy(model(x), torch.arange(4))).backward()
    callback = AdderTraining(model, PARAMS, context())
    callback.after_backward(model, torch.optim.SGD(model.parameters(), lr=1.0), 0)
    stem = model[0].weight.grad
    filters = [layer.weight.grad for layer in adder_layers(model).values()]
    assert isinstance(stem, torch.Tensor)
    return [f for f in filters if f is not None], stem


def test_the_scale_of_the_loss_does_not_matter_to_filters() -> None:
    """Mixed precision multiplies the loss by such a factor."""
    (ours, stem), (theirs, larger) = gradients(1.0), gradients(1000.0)
    assert len(ours) == 2
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(larger, 1000 * stem, rtol=1e-3, atol=1e-4)


def test_gradients_of_several_backward_passes_are_scaled_once() -> None:
    model, once = network().eval(), network().eval()
    x = torch.rand(8, 1, 32, 32)
    once(x).square().sum().backward()
    for part in x.split(4):
        model(part).square().sum().backward()
    for net in (model, once):
        AdderTraining(net, PARAMS, context()).after_backward(net, torch.optim.SGD(net.parameters(), lr=1.0), 0)
    for one, other in zip(adder_layers(model).values(), adder_layers(once).values(), strict=True):
        assert one.weight.grad is not None
        assert other.weight.grad is not None
        torch.testing.assert_close(one.weight.grad, other.weight.grad, rtol=1e-3, atol=1e-4)


def test_filters_are_trained_by_sgd_with_any_optimizer(images: Split) -> None:
    model = network()
    run = training(model, images)
    assert isinstance(run.optimizer, Together)
    sgd = next(part for part in run.optimizer.parts if isinstance(part, torch.optim.SGD))
    filters = {id(layer.weight) for layer in adder_layers(model).values()}
    assert {id(p) for group in sgd.param_groups for p in group["params"]} == filters
    assert not filters & {id(p) for p in clipped_parameters(model, run.optimizer)}
    before = {name: layer.weight.detach().clone() for name, layer in adder_layers(model).items()}
    rates: list[float] = []
    run.callbacks[0].before_step = lambda *_: rates.append(sgd.param_groups[0]["lr"])  # type: ignore[method-assign]
    run.settings = TrainSettings(epochs=2, batch_size=64, augment=False)
    run.total_steps = 1
    run.run()
    for name, layer in adder_layers(model).items():
        # Nesterov's first step is 1.9 times the gradient, whose root mean square is 0.2. The effect
        # of weight decay is negligible.
        moved = (layer.weight.detach() - before[name]).square().mean().sqrt().item()
        assert moved == pytest.approx(rates[0] * 0.2 * 1.9, rel=0.02), "clipping must not reach it"


# --- schedules ------------------------------------------------------------------------------------


@given(
    counts=st.lists(st.integers(1, 3), min_size=1, max_size=5),
    order=st.sampled_from(["at-once", "late-first"]),
    exponents=st.sampled_from(["l1", "l2-to-l1"]),
    done=st.floats(0, 1),
    later=st.floats(0, 1),
)
@settings(max_examples=60, deadline=None)
def test_schedules_are_monotonic_and_end_finished(
    counts: list[int], order: Any, exponents: Any, done: float, later: float
) -> None:
    stages = [[f"{i}.{j}" for j in range(count)] for i, count in enumerate(counts)]
    turns = Turns(stages, order, exponents)
    first, second = turns.at(min(done, later)), turns.at(max(done, later))
    assert list(first) == [name for stage in stages for name in stage]
    for name in first:
        assert 1.0 <= second[name].p <= 2.0
        assert first[name].as_convolution >= second[name].as_convolution
        assert first[name].as_convolution or first[name].p >= second[name].p
    converted = [not first[stage[0]].as_convolution for stage in stages]
    assert converted == sorted(converted), "a late stage has its turn before an early one"
    if max(done, later) >= SETTLED:
        assert all(state == FINISHED for state in second.values())
    if turns.plain:
        assert all(state == FINISHED for state in first.values())


def test_one_stage_at_a_time() -> None:
    turns = Turns([["a"], ["b"], ["c"]], "late-first", "l2-to-l1")
    assert [state.as_convolution for state in turns.at(0.0).values()] == [True, True, False]
    assert turns.at(0.0)["c"].p == 2.0
    assert [state.as_convolution for state in turns.at(0.17).values()] == [True, False, False]
    assert turns.at(0.17)["c"] == FINISHED, "a stage is an l1 layer when the next has its turn"
    assert turns.at(SETTLED)["a"].p == 1.0


@pytest.mark.parametrize("schedule", ["l1", "l2-to-l1"])
def test_filters_wait_for_their_turn_and_all_finish(schedule: str, images: Split) -> None:
    model = network()
    run = training(model, images, 4, order="late-first", schedule=schedule)
    early, late = adder_layers(model).values()
    before, seen = early.weight.detach().clone(), []
    run.callbacks[0].on_epoch_end = lambda *_: seen.append((early.as_convolution, early.p, late.p))  # type: ignore[method-assign]
    run.run(1)
    assert torch.equal(early.weight, before), "a filter stays as it is while its layer is a convolution"
    assert seen[0][0]
    run.run()
    assert not torch.equal(early.weight, before)
    assert [(layer.p, layer.as_convolution) for layer in (early, late)] == [(1.0, False)] * 2
    assert seen[1][2] == (1.0 if schedule == "l1" else pytest.approx(1.0)), "half-way, the last stage is finished"


def test_statistics_are_those_of_the_finished_layers(images: Split) -> None:
    model = network()
    training(model, images, 1, schedule="l2-to-l1").run()
    batch, _ = next(iter(images.loader(64)))
    kept: list[torch.Tensor] = []
    model[4].register_forward_hook(lambda _module, _inputs, output: kept.append(output))
    with torch.no_grad():
        model.eval()(batch)
    norm = model[5]
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.running_mean is not None
    torch.testing.assert_close(norm.running_mean, kept[0].mean((0, 2, 3)), rtol=1e-3, atol=1e-2)


def test_networks_that_cannot_follow_a_schedule_have_none(images: Split) -> None:
    changed = {**PARAMS, "order": "late-first", "schedule": "l2-to-l1"}
    frozen = AdderTraining(model := network(), changed, context(images, demands=frozenset({"freeze_batch_norm"})))
    # Its adder layers stay in float. A network with fake-quantizers was trained before.
    config = {name: LayerBits("q", 4, 4) for name, layer in network().named_modules() if isinstance(layer, nn.Linear)}
    quantized = quantize(
        network().eval(),
        config,
        lambda _, spec: UniformFakeQuantizer(spec),
        input_size=(1, 32, 32),
        specs=[AdderSpec()],
    )
    assert config
    assert len(adder_layers(quantized)) == len(adder_layers(network()))
    for callback, net in ((frozen, model), (AdderTraining(quantized, changed, context(images)), quantized)):
        callback.on_start(net, 10)
        callback.before_step(net, 0)
        assert all((layer.p, layer.as_convolution) == (1.0, False) for layer in adder_layers(net).values())


# --- features -------------------------------------------------------------------------------------


def test_features_are_compared_relative_to_those_of_the_teacher() -> None:
    callback = AdderTraining(network(), {**PARAMS, "feature": 0.5}, context(), ["2", "5", "8"])
    assert callback.taps() == ["2", "5", "8"]
    theirs = {"2": torch.randn(4, 3, 5, 5), "5": 7 * torch.randn(4, 3, 5, 5), "8": torch.randn(4, 2)}
    ours = {name: value.clone().requires_grad_() for name, value in theirs.items()}
    loss = callback.loss(ours, theirs)
    assert loss is not None
    assert loss.item() == pytest.approx(0.0)
    ours = {name: value.mean() * torch.ones_like(value) for name, value in theirs.items()}
    found = callback.loss(ours, theirs)
    assert found is not None
    assert found.item() == pytest.approx(0.5, rel=1e-4), "features that are constant have an error of 1"
    assert callback.loss({"2": ours["2"][:, :2]}, theirs) is None, "channels were removed"
    assert AdderTraining(network(), PARAMS, context(), ["2"]).taps() == []


# --- whole trainings ------------------------------------------------------------------------------


def test_a_network_of_adder_layers_learns(images: Split) -> None:
    model = network()
    x, labels = next(iter(images.loader(64)))
    training(model, images, 20).run()
    assert (model.eval()(x).argmax(1) == labels).float().mean().item() > 0.9


def test_a_pause_does_not_change_the_result(images: Split) -> None:
    changed = {"order": "late-first", "schedule": "l2-to-l1"}
    straight, paused = network(), network()
    training(straight, images, 4, **changed).run()
    first = training(paused, images, 4, **changed)
    first.run(2)
    elsewhere = network(seed=1)
    elsewhere.load_state_dict(paused.state_dict())
    second = training(elsewhere, images, 4, **changed)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    second.run()
    for name, tensor in straight.state_dict().items():
        torch.testing.assert_close(elsewhere.state_dict()[name], tensor, rtol=1e-5, atol=1e-5, msg=name)
