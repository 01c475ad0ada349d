"""The plugin ``slb``.

Entry point, conformance, refusals, and whole networks trained by the engine.
"""

from __future__ import annotations

from typing import Any

import psutil
import pytest
import torch
from torch import nn

from autocompress.compression import qat
from autocompress.contract import Context, Manager, Quantizer, Space, TensorSpec
from autocompress.errors import InvalidRecipe, TrialFailed
from autocompress.graph import facts
from autocompress.job import load_job
from autocompress.quantization import QuantizedNetwork, calibrate, harden, plan, quantize, rebuild
from autocompress.quantization.fakequant import UniformFakeQuantizer
from autocompress.quantization.layers import HardenedConv2d
from autocompress.quantization.placement import LayerBits
from autocompress.recipes.choosers import Policy
from autocompress.testing.example import example_context, example_job, example_model
from autocompress.training import parameter_groups
from autocompress_slb import Slb
from autocompress_slb.callback import SlbCallback, searched_layers
from autocompress_slb.fakequant import SlbFakeQuantizer
from autocompress_slb.settings import Settings
from autocompress_slb.values import odd_integers

TRAINING = {
    "epochs": 2,
    "lr": 2e-3,
    "distill": 0.5,
    "norm": "corrected",
    "norm_freeze": 0.5,
    "range_freeze": 0.5,
    "delay": 0.0,
}


def weight_spec(bits: int, operator: str = "conv", shape: tuple[int, ...] = (8, 4, 3, 3)) -> TensorSpec:
    return TensorSpec("w", "weight", "g", operator, shape, bits, channel_axis=0)


def quantized(
    model: nn.Module, bits: int = 2, *, activation_bits: int = 8, trainable: bool = True, **params: Any
) -> tuple[QuantizedNetwork, Context]:
    """All layers except the first and the last at ``bits``."""
    context = example_context(model, teacher=model)
    layers = list(facts(model, context.input_size).layers)
    config = {}
    for name in layers:
        of_weight, of_activation = (8, 8) if name in (layers[0], layers[-1]) else (bits, activation_bits)
        config[name] = LayerBits(
            group="g",
            weight_quantizer="slb",
            weight_bits=of_weight,
            activation_quantizer="slb",
            activation_bits=of_activation,
        )
    method = Slb()
    network = quantize(
        model,
        config,
        lambda _, spec: method.apply(spec, params, context),
        input_size=context.input_size,
        trainable=trainable,
    )
    assert context.transfer is not None
    calibrate(network, [next(iter(context.transfer.train.loader(32)))[0]])
    return network, context


def test_it_is_found_through_its_entry_point() -> None:
    method = Manager().method("slb")
    assert type(method).__module__.startswith("autocompress_slb")
    assert isinstance(method, Quantizer)
    assert "2009.08695" in method.reference
    assert method.needs_training
    assert method.min_epochs >= 1


def test_its_space_has_the_documented_defaults_and_changes_no_structure() -> None:
    space = Space(Policy({"slb": "default"}))
    params = Slb().search_space(space.scope("slb"), nn.Identity())
    assert Settings.of(params) == Settings()
    assert not any(parameter.structural for parameter in space.asked.values())
    neutral = Slb().search_space(Space(Policy({})).scope("slb"), nn.Identity())
    assert Settings.of(neutral) == Settings()
    with pytest.raises(TypeError, match="temprature"):
        Settings.of({"temprature": 3})


def test_depthwise_weights_have_at_least_four_bits() -> None:
    context = Context(input_size=(3, 8, 8))
    for bits, expected in ((1, 4), (2, 4), (4, 4)):
        fake = Slb().apply(weight_spec(bits, "depthwise", (8, 1, 3, 3)), {}, context)
        hardened = fake.harden(torch.randn(8, 1, 3, 3))
        assert hardened.bits == expected
        assert hardened.integers is not None
        assert set(hardened.integers.unique().tolist()) <= set(odd_integers(expected).tolist())
    assert Slb().apply(weight_spec(1), {}, context).harden(torch.randn(8, 4, 3, 3)).bits == 1


def test_exempt_layers_are_rounded_on_a_uniform_grid() -> None:
    assert type(Slb().apply(weight_spec(8), {}, Context(input_size=(3, 8, 8)))) is UniformFakeQuantizer


# --- refusals -------------------------------------------------------------------------------------


class _Memory:
    def __init__(self, available: float) -> None:
        self.available = available


def test_a_model_whose_search_does_not_fit_into_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = example_model()
    assert Slb().check(model, example_job()) == []
    monkeypatch.setattr(psutil, "virtual_memory", lambda: _Memory(1e6))
    (reason,) = Slb().check(model, example_job())
    assert "1 bit" in reason
    assert "GB" in reason


def test_unsupported_bits_end_the_trial_before_anything_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    model = example_model()
    network, context = quantized(model, 4)
    searched = searched_layers(network).values()
    needed = 5 * 4 * sum(layer.weight.numel() * 2**layer.weight_quantizer.bits for layer in searched)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: _Memory(needed - 1))
    with pytest.raises(TrialFailed, match=r"GB for logits.* GB are free"):
        SlbCallback(Settings(), context).on_start(network, 10)
    assert all(layer.weight_quantizer.logits is None for layer in searched)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: _Memory(needed))
    SlbCallback(Settings(), context).on_start(network, 10)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: _Memory(100))
    with pytest.raises(InvalidRecipe, match=r"slb:4 .* GB"):
        Slb().apply(weight_spec(4), {}, context)


def test_models_and_jobs_without_searched_layers_are_refused() -> None:
    no_epochs = load_job(settings={"model": "test_resnet", "data": "digits", "name": "x", "budget": {"epochs": 0}})
    assert "epoch" in Slb().check(example_model(), no_epochs)[0]
    broken = example_model()
    with torch.no_grad():
        dict(broken.named_parameters())["layer1.0.conv1.weight"][0] = float("nan")
    assert "not finite" in Slb().check(broken, example_job())[0]


# --- training -------------------------------------------------------------------------------------


def test_logits_train_in_a_group_of_their_own() -> None:
    model = example_model()
    network, context = quantized(model, activation="pact")
    callback = SlbCallback(Settings(lr_scale=3.0, weight_decay=1e-4), context)
    callback.on_start(network, 10)
    groups = parameter_groups(network, [callback], 1e-3, 0.05)
    logits, alphas = groups[0], groups[1]
    assert (logits["lr"], logits["weight_decay"]) == (pytest.approx(3e-3), 1e-4)
    assert len(logits["params"]) == len(searched_layers(network)) > 3
    assert all(parameter.ndim == 0 for parameter in alphas["params"])
    assert alphas["weight_decay"] == 0.05
    claimed = [id(parameter) for group in groups for parameter in group["params"]]
    assert len(claimed) == len(set(claimed))


def test_hard_logits_are_not_updated_even_by_momentum() -> None:
    network, context = quantized(example_model())
    callback = SlbCallback(Settings(), context)
    callback.on_start(network, 10)
    optimizer = torch.optim.AdamW(parameter_groups(network, [callback], 1e-2, 0.05), lr=1e-2)
    network.train()
    x, kept = torch.randn(8, 3, 32, 32), []
    for step in range(10):
        callback.before_step(network, step)
        optimizer.zero_grad()
        network(x).square().sum().backward()
        if step >= 8:  # gradients from elsewhere must not be used either
            for layer in searched_layers(network).values():
                assert layer.weight_quantizer.logits.grad is None
                layer.weight_quantizer.logits.grad = torch.ones_like(layer.weight_quantizer.logits)
        callback.after_backward(network, optimizer, step)
        optimizer.step()
        kept.append([layer.weight_quantizer.logits.detach().clone() for layer in searched_layers(network).values()])
    # This does not hold for all layers: after a norm that starts at zero there is no gradient, and
    # on some processors not even a rounding error.
    assert not all(torch.equal(a, b) for a, b in zip(kept[7], kept[6], strict=True))
    assert all(torch.equal(a, b) for a, b in zip(kept[9], kept[7], strict=True))


def test_the_temperature_can_follow_epochs() -> None:
    network, context = quantized(example_model())
    callback = SlbCallback(Settings(every="epoch", norm="none", start=0.2, end=0.6), context)
    callback.on_start(network, 40)
    network.train()
    seen = []
    for step in range(40):
        callback.before_step(network, step)
        fake = next(iter(searched_layers(network).values())).weight_quantizer
        seen.append((fake.temperature, fake.hard))
        if step % 4 == 3:
            callback.on_epoch_end(network, step // 4)
    by_epoch = [seen[epoch * 4 : epoch * 4 + 4] for epoch in range(10)]
    assert all(len(set(epoch)) == 1 for epoch in by_epoch)
    assert [epoch[0][1] for epoch in by_epoch] == [False] * 5 + [True] * 5
    assert [epoch[0][0] for epoch in by_epoch[:6]] == pytest.approx([1, 1, 1e3**0.25, 1e3**0.5, 1e3**0.75, 1e3])
    paused = SlbCallback(Settings(every="epoch"), context)
    paused.load_state_dict(callback.state_dict())
    paused._total = 40
    assert paused._position(13) == (4, 10)


@pytest.mark.parametrize("bits", [1, 4])
@pytest.mark.parametrize("norm", ["calibrate_each_epoch", "two_statistics"])
def test_a_trained_network_equals_its_hardened_form(bits: int, norm: str) -> None:
    model = example_model()
    network, context = quantized(model, bits, norm=norm)
    callbacks = Slb().callbacks(network, {"norm": norm}, context)
    qat.run(network, dict(TRAINING), context, callbacks)
    assert not network.training
    hardened = harden(network)
    for name, layer in searched_layers(network).items():
        expected_weight = layer.norm.weight / (layer.norm.running_var + layer.norm.eps).sqrt()
        expected_weight = layer.weight_quantizer(layer.weight) * expected_weight.reshape(-1, 1, 1, 1)
        torch.testing.assert_close(
            hardened.get_submodule(name).float_weight(), expected_weight.detach(), atol=1e-6, rtol=1e-5
        )
    x = torch.randn(4, 3, 32, 32)
    with torch.no_grad():
        expected, found = network(x), hardened(x)
    # Rounding ties of activations: each is a step of 1/255, and all residual branches pass it on.
    assert float((found - expected).abs().mean()) < 0.05 * float(expected.std())
    assert not [name for name, _ in hardened.named_parameters() if "logits" in name]
    low = [m for m in hardened.modules() if isinstance(m, HardenedConv2d) and m.weight_bits == bits]
    assert len(low) == len(searched_layers(network))
    for layer in low:
        assert layer.axis == 0
        assert all(len(channel.unique()) <= 2**bits for channel in layer.weight)
    again = rebuild(model, plan(hardened))
    again.load_state_dict(hardened.state_dict())
    with torch.no_grad():
        assert torch.equal(again(x), found)


def test_without_training_the_file_has_the_nearest_values() -> None:
    network, _ = quantized(example_model(), 2, trainable=False)
    for name, layer in searched_layers(network).items():
        hardened = layer.weight_quantizer.harden(layer.weight)
        size = layer.weight.detach().abs().flatten(1).amax(1).reshape(-1, 1, 1, 1)
        distance = (layer.weight.detach() / size).unsqueeze(-1) - odd_integers(2) / 3
        alive = (size > 0).expand_as(layer.weight)  # gammas that start at 0 keep whole channels at 0
        assert torch.equal(hardened.integers.long()[alive], odd_integers(2)[distance.abs().argmin(-1)][alive]), name
        assert layer.weight_quantizer.logits is None
    assert bool(harden(network)(torch.randn(2, 3, 32, 32)).isfinite().all())


def test_memory_of_the_search_is_at_most_five_times_the_float_models() -> None:
    """Counts everything that training keeps between steps, at 2 bits, plus gradients."""

    def kept(model: nn.Module, callbacks: list[SlbCallback]) -> int:
        for callback in callbacks:
            callback.on_start(model, 10)
        optimizer = torch.optim.AdamW(parameter_groups(model, callbacks, 1e-3, 0.0), lr=1e-3)
        model.train()(torch.randn(4, 3, 32, 32)).sum().backward()
        optimizer.step()
        tensors = [t for p in model.parameters() for t in (p, p.grad) if t is not None]
        tensors += [t for state in optimizer.state.values() for t in state.values() if isinstance(t, torch.Tensor)]
        return sum(t.numel() * t.element_size() for t in tensors)

    model = example_model()
    network, context = quantized(model, 2)
    assert kept(network, [SlbCallback(Settings(), context)]) <= 5 * kept(model, [])


def test_a_student_finds_the_signs_of_its_teacher() -> None:
    """One bit, random data, and a temperature that grows.

    More than 95 % of the signs of a convolution agree.
    """
    generator = torch.Generator().manual_seed(0)
    teacher = torch.randint(0, 2, (6, 4, 3, 3), generator=generator) * 2.0 - 1
    spec = TensorSpec("w", "weight", "g", "conv", (6, 4, 3, 3), 1, channel_axis=0)
    settings = Settings(init="he_normal", t_final=1e3)
    fake = SlbFakeQuantizer(spec, 1, settings).train()
    fake.start_search(torch.ones(6, 4, 3, 3))
    assert fake.logits is not None
    optimizer = torch.optim.AdamW([fake.logits], lr=0.03, weight_decay=0.0)
    steps = 200
    for step in range(steps):
        fake.temperature = settings.temperature.temperature(step + 1, steps)
        x = torch.randn(16, 4, 6, 6, generator=generator)
        error = nn.functional.conv2d(x, fake(teacher)) - nn.functional.conv2d(x, teacher)
        optimizer.zero_grad()
        error.square().mean().backward()
        optimizer.step()
    found = fake.eval()(torch.zeros_like(teacher))
    assert float((found.sign() == teacher).float().mean()) > 0.95
