"""Kernel taps that only read padding are left out of files, and outputs stay equal."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import fx, nn

from autocompress.compression import artifact
from autocompress.contract import FakeQuantizer, TensorSpec
from autocompress.export import check_agreement, cropped, export, tap_crop
from autocompress.graph import NetworkFacts, facts
from autocompress.graph.taps import axis_of, live_taps, trimmed
from autocompress.opened.job import OpenedJob
from autocompress.quantization import hardening, network
from autocompress.quantization.fakequant import UniformFakeQuantizer
from autocompress.quantization.layers import HardenedConv2d
from autocompress.quantization.placement import LayerBits
from autocompress.recipes.choosers import Policy
from autocompress.report import view
from autocompress.results import SearchResult
from autocompress.searching.cropping import crop_told
from autocompress.searching.measurer import Measurer

AT_32 = ("resnet18", "mobilenetv2_050", "convnext_atto", "regnety_002", "densenet121", "mixnet_s")
"""Plain, depthwise, large, grouped and mixed kernels, and kernels behind concatenations."""
AT_64 = ("convnext_atto", "mobilenetv3_small_050", "resnet18")
UNTRIMMED = ("resnet18", 64)


@given(
    extent=st.integers(1, 9),
    size=st.integers(1, 7),
    padding=st.integers(0, 6),
    stride=st.integers(1, 4),
    dilation=st.integers(1, 3),
)
def test_a_cropped_kernel_gives_equal_outputs(extent: int, size: int, padding: int, stride: int, dilation: int) -> None:
    axis = axis_of(extent, size, padding, padding, stride, dilation)
    if axis.outputs < 1:
        return
    trim, live = trimmed(axis, size), live_taps(axis, size)
    if trim is None:
        return
    assert trim.last - trim.first + 1 < size
    assert trim.first <= live[0] <= live[-1] <= trim.last
    x, weight = torch.randn(1, 1, extent, dtype=torch.float64), torch.randn(1, 1, size, dtype=torch.float64)
    whole = F.conv1d(x, weight, stride=stride, padding=padding, dilation=dilation)
    part = F.conv1d(x, weight[..., trim.first : trim.last + 1], stride=stride, padding=trim.padding, dilation=dilation)
    torch.testing.assert_close(part, whole, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("extent", "size", "padding", "stride", "expected"),
    [
        (1, 3, 1, 1, (1, 1, 0)),
        (2, 3, 1, 2, (1, 2, 0)),  # a kernel with two taps
        (2, 5, 2, 1, (1, 3, 1)),
        (2, 3, 1, 1, None),
        (8, 7, 3, 2, None),
    ],
)
def test_known_kernels(
    extent: int, size: int, padding: int, stride: int, expected: tuple[int, int, int] | None
) -> None:
    assert trimmed(axis_of(extent, size, padding, padding, stride), size) == expected


@pytest.mark.slow
@pytest.mark.parametrize(("name", "size"), [*((name, 32) for name in AT_32), *((name, 64) for name in AT_64)])
def test_backbones_compute_the_same(name: str, size: int) -> None:
    shape = (3, size, size)
    model = lively(timm.create_model(name, num_classes=10)).double()
    known, images = facts(model, shape), torch.randn(2, *shape, dtype=torch.float64)
    crop = tap_crop(known, model)
    assert bool(crop.layers) is ((name, size) != UNTRIMMED)
    with torch.no_grad():
        expected, got = model(images), cropped(model, crop)(images)
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)
    if crop.layers:
        accumulators_are_equal(model.float(), known, images.float())


def accumulators_are_equal(model: nn.Module, known: NetworkFacts, images: torch.Tensor) -> None:
    """The int32 sums of every cropped layer, computed from its integer inputs."""
    hardened = int8(model, known, images)
    crop = tap_crop(known, hardened)
    assert crop.layers
    short = cropped(hardened, crop)
    with torch.no_grad():
        whole, part = sums(hardened, list(crop.layers), images), sums(short, list(crop.layers), images)
    for layer in crop.layers:
        assert torch.equal(whole[layer], part[layer]), layer
    assert any(whole[layer].any() for layer in crop.layers)


def sums(model: nn.Module, layers: list[str], images: torch.Tensor) -> dict[str, torch.Tensor]:
    """Integer sums by layer. All layers get inputs on the grid of the uncropped network."""
    found: dict[str, torch.Tensor] = {}

    def keep(name: str, layer: HardenedConv2d, x: torch.Tensor) -> None:
        zero = layer.weight_zero_point.double().reshape(-1, *[1] * (3 * int(layer.axis is not None)))
        assert layer.bias_scale is not None
        step = (layer.bias_scale / layer.weight_scale).mean().double()
        weight = layer.weight.double() - zero
        found[name] = F.conv2d((x.double() / step).round(), weight, None, **layer.geometry)

    for name in layers:
        layer = model.get_submodule(name)
        assert isinstance(layer, HardenedConv2d)
        layer.register_forward_pre_hook(lambda module, inputs, name=name: keep(name, module, inputs[0]))
    model(images)
    return found


def int8(model: nn.Module, known: NetworkFacts, images: torch.Tensor) -> fx.GraphModule:
    bits = LayerBits("uniform")

    def make(_: str, spec: TensorSpec) -> FakeQuantizer:
        return UniformFakeQuantizer(spec, is_symmetric=spec.role == "weight")

    size = (int(images.shape[1]), int(images.shape[2]), int(images.shape[3]))
    made = network.quantize(model, dict.fromkeys(known.layers, bits), make, input_size=size)
    network.calibrate(made, [images])
    return hardening.harden(made)


def lively(model: nn.Module) -> nn.Module:
    """Sets norms that are not the identity, so that padding behind them has an effect."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            module.running_mean.uniform_(-0.3, 0.3)
            nn.init.uniform_(module.bias, -0.3, 0.3)
    return model.eval()


class Twice(nn.Module):
    """A layer with inputs of two sizes, and a layer of unknown size."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.own = nn.Conv2d(4, 4, 3, padding=1), OwnConvolution(4, 4, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.layer(x)
        return self.own(self.layer(F.adaptive_avg_pool2d(x, 1))).flatten(1)


class OwnConvolution(nn.Conv2d):
    pass


def test_layers_with_several_input_sizes_or_of_other_types_keep_their_kernel() -> None:
    model = Twice().eval()
    assert not tap_crop(facts(model, (4, 1, 8)), model).layers


@pytest.fixture(scope="module")
def small() -> nn.Module:
    return lively(timm.create_model("test_resnet", num_classes=10, in_chans=1))


def test_the_file_is_smaller_and_agrees(small: nn.Module, tmp_path: Path) -> None:
    size, images = (1, 8, 8), torch.randn(32, 1, 8, 8)
    crop = tap_crop(facts(small, size), small)
    assert crop.weights > 0
    export(small, tmp_path / "whole.onnx", size)
    export(cropped(small, crop), tmp_path / "cropped.onnx", size)
    saved = (tmp_path / "whole.onnx").stat().st_size - (tmp_path / "cropped.onnx").stat().st_size
    assert abs(saved - 4 * crop.weights) < 500
    agreement = check_agreement(tmp_path / "cropped.onnx", small, images)
    assert agreement.labels == 1
    assert agreement.max_error < 1e-5


def test_a_candidate_records_what_its_file_leaves_out(opened: OpenedJob, tmp_path: Path) -> None:
    candidate = opened.candidate(opened.compose(Policy({"bits": "default"})))
    assert candidate.crop.weights > 0
    assert candidate.plan["tap_crop"] == candidate.crop.record()
    assert candidate.params == opened.baseline.params  # it is no pruning
    deployable = opened.export(candidate, tmp_path / "model.onnx")
    assert (
        sum(each.operations for each in deployable.operators) == candidate.macs
    )  # a cost model does not count it as pruning either
    artifact.save(candidate, deployable, tmp_path / "1", {})
    images = torch.rand(16, *deployable.input_size)
    with torch.no_grad():
        whole, short = artifact.load(tmp_path / "1"), artifact.load_deployed(tmp_path / "1")
        torch.testing.assert_close(short(images), whole(images), rtol=1e-4, atol=1e-4)
    weights = [sum(tensor.numel() for tensor in model.state_dict().values()) for model in (whole, short)]
    assert weights[0] - weights[1] == candidate.crop.weights
    assert json.loads((tmp_path / "1" / "plan.json").read_text())["tap_crop"]


def test_a_job_may_switch_it_off(opened: OpenedJob, tmp_path: Path) -> None:
    job = opened.job.model_copy(update={"search": opened.job.search.model_copy(update={"crop": False})})
    without = replace(opened, job=job, pipeline=replace(opened.pipeline, crops=False))
    recipe = opened.compose(Policy({"bits": "default"}))
    candidate = without.candidate(recipe, dry_run=True)
    assert not candidate.crop.layers
    assert "tap_crop" not in candidate.plan
    sizes = [
        one.export(one.candidate(recipe, dry_run=True), tmp_path / "x").file.stat().st_size for one in (opened, without)
    ]
    assert sizes[0] < sizes[1]
    assert crop_told(without, Measurer.of(job, opened.device), tmp_path) == {}


def test_the_report_shows_it_as_a_step_of_its_own(opened: OpenedJob, tmp_path: Path) -> None:
    told = crop_told(opened, Measurer.of(opened.job, opened.device), tmp_path)
    assert told["size_ratio"] < 1
    assert told["weights"] > 0
    result = SearchResult.__new__(SearchResult)
    object.__setattr__(result, "summary", {"tap_crop": told})
    text = view.tap_crop(result)
    assert "is no pruning" in text
    assert "only ever meet padding" in text
    object.__setattr__(result, "summary", {})
    assert view.tap_crop(result) == ""
