"""The transform ``adder``.

The layers that it replaces, jobs in which it applies, initial weights, and the rest of the engine.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from autocompress import models
from autocompress.contract import Manager, Params, Space, Transform, manager
from autocompress.export import check_agreement, custom_operators, export
from autocompress.graph import facts
from autocompress.job import Job, load_job
from autocompress.opened.applicable import applicable
from autocompress.quantization import calibrate, harden, quantize
from autocompress.quantization.fakequant import UniformFakeQuantizer
from autocompress.quantization.placement import LayerBits
from autocompress.recipes.choosers import Replay
from autocompress.testing import example_model
from autocompress.testing.example import example_context
from autocompress.training import Training, TrainSettings
from autocompress_adder import Adder, AdderConv2d
from autocompress_adder.convert import adder_layers, eligible, layer_plans
from autocompress_adder.initialise import Moments
from autocompress_adder.spec import AdderSpec
from autocompress_adder.training import AdderTraining

STEM_AND_CLASSIFIER = {"conv1", "fc"}


def job(**changed: Any) -> Job:
    settings = {"objectives": ["accuracy", "energy"], "cost_model": "45nm", "name": "t", **changed}
    return load_job(settings={"model": "test_resnet", "data": "digits", **settings})


def params_of(model: nn.Module, **values: Any) -> Params:
    return Adder().search_space(Space(Replay({f"adder.{k}": v for k, v in values.items()})).scope("adder"), model)


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return example_model()


@pytest.fixture(scope="module")
def adder_model(model: nn.Module) -> nn.Module:
    context = example_context(model, teacher=copy.deepcopy(model))
    return Adder().apply(copy.deepcopy(model), params_of(model), context)[0]


# --- which layers ---------------------------------------------------------------------------------


def test_every_convolution_but_the_stem_is_replaced(model: nn.Module, adder_model: nn.Module) -> None:
    """The 1 x 1 convolutions of shortcuts become adder layers too (AdderNet, section 4)."""
    exempt = {*models.stem(model), *models.classifier(model)}
    convolutions = {name for name, module in model.named_modules() if isinstance(module, nn.Conv2d)}
    assert set(adder_layers(adder_model)) == convolutions - exempt
    assert exempt
    for name in exempt:
        assert type(adder_model.get_submodule(name)) is type(model.get_submodule(name))
    assert any(layer.kernel_size == (1, 1) for layer in adder_layers(adder_model).values())


def test_groups_are_chosen_one_by_one(model: nn.Module) -> None:
    params = params_of(model, **{"operator.layer2": "none", "operator.layer3": "none"})
    made, plan = Adder().apply(copy.deepcopy(model), params, example_context(model, dry_run=True))
    assert list(adder_layers(made)) == [name for members in params["stages"].values() for name in members]
    assert not {"layer2", "layer3"} & set(params["stages"])
    assert set(plan["layers"]) == set(adder_layers(made))
    assert not Adder().acts(params_of(model, **{f"operator.{name}": "none" for name in params_of(model)["stages"]}))


class Odd(nn.Module):
    """Convolutions that an adder layer cannot replace, between others that it can."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.grouped = nn.Conv2d(8, 8, 3, padding=1, groups=2)
        self.dilated = nn.Conv2d(8, 8, 3, padding=2, dilation=2)
        self.wide = nn.Conv2d(8, 8, (1, 3), padding=(0, 1))
        self.mirrored = nn.Conv2d(8, 8, 3, padding=1, padding_mode="reflect")
        self.same = nn.Conv2d(8, 8, 3, padding="same")
        self.bare = nn.Conv2d(8, 8, 3, padding=1)
        self.shared = nn.Conv2d(8, 8, 3, padding=1)
        self.before = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.fc = nn.Linear(8, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.mirrored(self.wide(self.dilated(self.grouped(self.depthwise(self.stem(x))))))
        x = self.norm(self.before(self.shared(self.shared(self.bare(self.same(x)).relu()))))
        return self.fc(x.mean((2, 3)))


def test_unsuitable_convolutions_are_not_replaced() -> None:
    model = Odd().eval()
    assert eligible(model, (3, 8, 8)) == ["same", "bare", "shared", "before"]
    plans = layer_plans(model, ["same", "bare", "shared", "before"], (3, 8, 8))
    assert plans == {"same": {"norm": True}, "bare": {"norm": True}, "before": {"norm": False}}


def test_squeeze_and_excitation_keeps_its_convolutions() -> None:
    model = example_model("test_efficientnet")
    names = params_of(model)["stages"]
    converted = [name for members in names.values() for name in members]
    assert converted
    assert any(".se." in name for name, module in model.named_modules() if isinstance(module, nn.Conv2d))
    assert not any(".se." in name for name in converted)
    assert all(model.get_submodule(name).groups == 1 for name in converted)


# --- which jobs -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changed",
    [
        {"objectives": ["accuracy", "latency"], "cost_model": None},
        {"constraints": {"latency": "0.5x"}},
        {"objectives": ["accuracy", "latency", "energy"]},
        {"objectives": ["accuracy", "latency"], "device": "ssh:board"},
    ],
)
def test_it_says_why_it_does_not_apply_where_onnx_runtime_is_timed(changed: dict[str, Any], model: nn.Module) -> None:
    (reason,) = Adder().check(model, job(**changed))
    assert "twenty times" in reason
    assert "cost model" in reason


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"objectives": ["accuracy", "size"], "constraints": {"energy": "0.5x"}},
        {"objectives": ["accuracy", "latency"], "device": "cost-model:45nm"},
    ],
)
def test_it_applies_where_it_can_reduce_a_cost(changed: dict[str, Any], model: nn.Module) -> None:
    assert Adder().check(model, job(**changed)) == []


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"objectives": ["accuracy"]}, "asks for neither"),
        ({"objectives": ["accuracy", "size"], "cost_model": None}, "asks for neither"),
        ({"objectives": ["accuracy", "energy", "macs"]}, "by MACs they would cost nothing"),
        ({"constraints": {"macs": "0.5x"}}, "by MACs they would cost nothing"),
    ],
)
def test_it_says_why_it_does_not_apply_where_it_reduces_no_cost(
    changed: dict[str, Any], told: str, model: nn.Module
) -> None:
    (reason,) = Adder().check(model, job(**changed))
    assert told in reason


@pytest.mark.parametrize(
    ("changed", "refuses"),
    [
        ({}, None),
        ({"objectives": ["accuracy", "latency"], "device": "cost-model:a100", "cost_model": None}, "cost-model:a100"),
        ({"objectives": ["accuracy", "latency"], "device": "cost-model:zc706"}, None),
    ],
)
def test_a_cost_model_must_know_additions(changed: dict[str, Any], refuses: str | None, model: nn.Module) -> None:
    """Otherwise every trial with an adder layer would fail when its costs are computed."""
    asked, plugins = job(**changed), manager()
    named = [asked.device.name, *([asked.energy_device] if asked.energy_device else [])]
    fit, refused = applicable([Adder()], model, asked, devices=[plugins.device(name) for name in named])
    if refuses is None:
        assert [method.name for method in fit] == ["adder"]
    else:
        (reason,) = refused["adder"]
        assert "'accumulate'" in reason
        assert f"'{refuses}' has no figures" in reason


def test_a_model_without_suitable_convolutions_gets_a_reason() -> None:
    (reason,) = Adder().check(example_model("test_vit", (3, 160, 160)), job())
    assert "no convolution" in reason


# --- weights --------------------------------------------------------------------------------------


def test_weights_have_the_requested_width(model: nn.Module) -> None:
    """c = width * std(P) / std(W).

    P are the patches that the convolution of the trained network reads.
    """
    context = example_context(model, teacher=copy.deepcopy(model))
    made, _ = Adder().apply(copy.deepcopy(model), params_of(model, width=3.0), context)
    name = next(iter(adder_layers(made)))
    conv, kept = model.get_submodule(name), list[torch.Tensor]()
    assert isinstance(conv, nn.Conv2d)
    handle = conv.register_forward_hook(lambda _module, inputs, _output: kept.append(inputs[0]))
    assert context.transfer is not None
    with torch.no_grad():
        model(next(iter(context.transfer.calibration.loader(64)))[0])
    handle.remove()
    patches = F.unfold(kept[0], conv.kernel_size, padding=conv.padding, stride=conv.stride)  # type: ignore[arg-type]
    weight = made.get_submodule(name).weight
    assert isinstance(weight, nn.Parameter)
    assert weight.std(correction=0).item() == pytest.approx(3 * patches.std(correction=0).item(), rel=1e-3)
    scaled = weight.flatten() / weight.std() - conv.weight.flatten() / conv.weight.std()
    assert scaled.abs().max().item() < 1e-4, "otherwise the weights of the convolution"


def test_normal_weights_are_drawn(model: nn.Module) -> None:
    made, _ = Adder().apply(copy.deepcopy(model), params_of(model, init="normal"), example_context(model, dry_run=True))
    every = torch.cat([layer.weight.detach().flatten() for layer in adder_layers(made).values()])
    assert every.std().item() == pytest.approx(1.0, abs=0.05)


def test_moments_are_those_of_the_patches() -> None:
    x, conv = torch.randn(4, 3, 9, 9) + 0.7, nn.Conv2d(3, 5, 3, 2, 1)
    moments = Moments((3, 3), (2, 2), (1, 1))
    with torch.no_grad():
        for part in x.split(2):
            moments.add(part, conv(part))
    patches = F.unfold(x, 3, padding=1, stride=2)
    assert moments.patches() == pytest.approx(patches.std(correction=0).item(), rel=1e-5)
    mean, deviation = moments.outputs()
    torch.testing.assert_close(mean, conv(x).detach().mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(deviation, conv(x).detach().std((0, 2, 3), correction=0), rtol=1e-4, atol=1e-5)


def test_on_images_with_other_statistics_only_norms_behind_adder_layers_are_estimated(model: nn.Module) -> None:
    context = example_context(model, teacher=copy.deepcopy(model))
    assert context.transfer is not None
    context = replace(context, transfer=replace(context.transfer, demands=frozenset({"freeze_batch_norm"})))
    made, _ = Adder().apply(copy.deepcopy(model), params_of(model), context)
    known = facts(model, models.input_size(model)).layers
    behind = {str(known[name].norm) for name in adder_layers(made)}
    moved = {
        name.removesuffix(".running_mean")
        for name, value in made.named_buffers()
        if name.endswith(".running_mean") and not torch.equal(value, model.get_buffer(name))
    }
    assert moved == behind
    assert len(behind) < sum(name.endswith(".running_mean") for name, _ in model.named_buffers())


def test_statistics_of_norms_are_estimated_again(adder_model: nn.Module, model: nn.Module) -> None:
    """Distances are about -K. Without new statistics, all following outputs would be wrong."""
    name, layer = next(iter(adder_layers(adder_model).items()))
    norm = adder_model.get_submodule(str(facts(model, models.input_size(model)).layers[name].norm))
    assert isinstance(norm.running_mean, torch.Tensor)
    spread = layer.weight.detach().abs().flatten(1).sum(1)
    assert bool((norm.running_mean < -0.5 * spread).all())


def test_a_layer_without_a_norm_gets_one() -> None:
    model = Odd().eval()
    models_size = (3, 8, 8)
    plan = layer_plans(model, ["bare", "before"], models_size)
    made = Adder().rebuild(model, {"layers": plan})
    bare, before = made.get_submodule("bare"), made.get_submodule("before")
    assert isinstance(bare, AdderConv2d)
    assert isinstance(before, AdderConv2d)
    assert isinstance(bare.norm, nn.BatchNorm2d)
    assert before.norm is None


# --- with the rest of the engine ------------------------------------------------------------------


def test_callbacks_compare_the_last_norm_of_each_stage(adder_model: nn.Module, model: nn.Module) -> None:
    context = example_context(model, teacher=model)
    (plain,) = Adder().callbacks(adder_model, params_of(model), context)
    assert plain.taps() == []
    params = params_of(model, feature=1.0)
    (callback,) = Adder().callbacks(adder_model, params, context)
    assert isinstance(callback, AdderTraining)
    assert [name.split(".")[0] for name in callback.taps()] == ["bn1", "layer1", "layer2", "layer3", "layer4"]
    assert len(params["stages"]) == 5
    assert all(isinstance(adder_model.get_submodule(name), nn.BatchNorm2d) for name in callback.taps())
    assert context.transfer is not None
    student = copy.deepcopy(adder_model)
    settings = TrainSettings(epochs=1, batch_size=32, distill=0.5)
    run = Training(student, context.transfer.train, settings, teacher=copy.deepcopy(model), callbacks=[callback])
    assert torch.isfinite(torch.tensor(run.run().loss))


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["bare", "bn-act"])
def test_it_replaces_convolutions_in_ghost_modules(variant: str, model: nn.Module, tmp_path: Path) -> None:
    """The primary convolution of a ghost module becomes an adder layer.

    Depthwise convolutions stay.
    """
    methods = Manager().methods()
    names = [method.name for method in methods]
    assert names.index("ghost") < names.index("adder")
    ghost = next(method for method in methods if method.name == "ghost")
    assert isinstance(ghost, Transform)
    context = example_context(model, teacher=copy.deepcopy(model))
    values = Replay({"ghost.variant": variant, "ghost.init": "subset"})
    ghosted, first = ghost.apply(copy.deepcopy(model), ghost.search_space(Space(values).scope("ghost"), model), context)
    made, second = Adder().apply(ghosted, params_of(model), context)
    primaries = {name: layer for name, layer in adder_layers(made).items() if name.endswith(".primary")}
    assert primaries
    assert all((layer.norm is None) == (variant == "bn-act") for layer in primaries.values())
    again = Adder().rebuild(ghost.rebuild(copy.deepcopy(model), first), second)
    again.load_state_dict(made.state_dict())
    images = torch.randn(4, *context.input_size)
    with torch.no_grad():
        assert torch.equal(again.eval()(images), made(images))
    for layer in primaries.values():
        if isinstance(layer.norm, nn.BatchNorm2d):
            assert float(layer.norm.weight.std()) > 0, "it keeps the moments of the convolution"
    export(made, tmp_path / "m.onnx", context.input_size, specs=[AdderSpec()])
    # On this network, float32 differs from float64 by up to 9e-5, because adder layers without a
    # following norm add large numbers.
    assert check_agreement(tmp_path / "m.onnx", made, images).max_error < 5e-4


@pytest.mark.slow
def test_files_agree_with_torch_in_float_and_in_integers(
    adder_model: nn.Module, model: nn.Module, tmp_path: Path
) -> None:
    size, specs = models.input_size(model), [AdderSpec()]
    context = example_context(model)
    assert context.transfer is not None
    images, _ = next(iter(context.transfer.calibration.loader(64)))
    config = {name: LayerBits("uniform") for name in facts(adder_model, size, (AdderConv2d,)).layers}
    network = quantize(adder_model, config, lambda _, spec: UniformFakeQuantizer(spec), input_size=size, specs=specs)
    calibrate(network, [images])
    for made in (adder_model, harden(network)):
        export(made, tmp_path / "m.onnx", size, specs=specs)
        assert not custom_operators(tmp_path / "m.onnx")
        agreement = check_agreement(tmp_path / "m.onnx", made, images)
        assert agreement.mean_error < 2e-2, "codes flip at the edges of integers"
        # This network is not trained. For half of the images, the best two logits differ by less
        # than one step of an integer, and the result depends on the processor. Labels are only
        # compared for images with a clear best logit.
        with torch.no_grad():
            logits = made.eval()(images)
        best = logits.topk(2, 1).values
        clear = images[best[:, 0] - best[:, 1] > 0.05 * logits.abs().max()]
        assert len(clear) >= 16
        assert check_agreement(tmp_path / "m.onnx", made, clear).labels >= 0.95
