"""The file computes what the torch model does, contains integers, and is self-contained."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
import timm
import torch
from onnxscript.optimizer import optimize_ir
from safetensors.torch import load_file, save_file
from sklearn.datasets import load_digits
from torch import fx, nn
from torch.nn import functional as F

from autocompress.export import check_agreement, custom_operators, export, open_session, operator_histogram
from autocompress.export.exporter import OPSET, to_onnx
from autocompress.export.optimizing import optimize
from autocompress.quantization import (
    LayerBits,
    QuantizedNetwork,
    calibrate,
    harden,
    operator_counts,
    plan,
    quantize,
    rebuild,
)
from autocompress.quantization.fakequant import UniformFakeQuantizer

SIZE = (1, 32, 32)


def config_of(model: nn.Module) -> dict[str, LayerBits]:
    return {n: LayerBits("q") for n, module in model.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)}


def quantized(model: nn.Module) -> QuantizedNetwork:
    return quantize(model, config_of(model), lambda _, spec: UniformFakeQuantizer(spec), input_size=SIZE)


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    pixels = torch.from_numpy(load_digits().images).float().unsqueeze(1) / 8 - 1
    return F.interpolate(pixels, SIZE[1:], mode="bilinear")


@pytest.fixture(scope="module")
def model(images: torch.Tensor) -> nn.Module:
    """A small residual network that was trained on the digits."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    network = timm.create_model("test_resnet", num_classes=10, in_chans=1)
    labels = torch.from_numpy(load_digits().target)
    optimizer = torch.optim.AdamW(network.parameters(), 3e-3)
    for _ in range(6):
        for batch in torch.randperm(1000).split(64):
            optimizer.zero_grad()
            F.cross_entropy(network(images[batch]), labels[batch]).backward()
            optimizer.step()
    return network.eval()


@pytest.fixture(scope="module")
def network(model: nn.Module, images: torch.Tensor) -> QuantizedNetwork:
    made = quantized(model)
    calibrate(made, [images[:128]])
    return made


@pytest.fixture(scope="module")
def hardened(network: QuantizedNetwork) -> fx.GraphModule:
    return harden(network)


@pytest.fixture(scope="module")
def file(hardened: fx.GraphModule, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("int8") / "model.onnx"
    export(hardened, path, SIZE, {"mean": "[0.5]", "class_names": json.dumps(list("0123456789"))})
    return path


def test_hardening_does_not_change_labels(
    network: QuantizedNetwork, hardened: fx.GraphModule, model: nn.Module, images: torch.Tensor
) -> None:
    with torch.no_grad():
        exact, simulated, integers = (m(images[1000:]).argmax(1) for m in (model, network, hardened))
    assert (simulated == integers).float().mean() >= 0.998
    assert (exact == integers).float().mean() >= 0.97


def test_file_and_fake_quantized_model_give_the_same_labels(
    network: QuantizedNetwork, file: Path, images: torch.Tensor
) -> None:
    agreement = check_agreement(file, network, images[1000:])
    assert agreement.images == 797
    assert agreement.labels >= 0.995
    assert agreement.mean_error < 0.01


def test_differing_files_are_found(file: Path, images: torch.Tensor) -> None:
    torch.manual_seed(1)
    other = timm.create_model("test_resnet", num_classes=10, in_chans=1)
    assert check_agreement(file, other, images[:200]).labels < 0.6


def test_any_batch(file: Path) -> None:
    session = open_session(file)
    assert [i.name for i in session.get_inputs()] == ["image"]
    assert [o.name for o in session.get_outputs()] == ["logits"]
    for batch in (1, 3):
        logits = session.run(None, {"image": np.zeros((batch, *SIZE), np.float32)})[0]
        assert logits.shape == (batch, 10)


def test_one_file_with_its_metadata(file: Path) -> None:
    assert [path.name for path in file.parent.iterdir()] == ["model.onnx"]
    proto = onnx.load(str(file))
    onnx.checker.check_model(proto)
    assert proto.opset_import[0].version >= 21
    assert {entry.key: entry.value for entry in proto.metadata_props}["mean"] == "[0.5]"
    assert custom_operators(file) == set()
    assert not any(node.metadata_props or node.doc_string for node in proto.graph.node)
    assert str(Path(__file__).parents[1]) not in file.read_bytes().decode("latin-1")


def test_integers_need_a_quarter_of_the_bytes(tmp_path: Path) -> None:
    resnet = timm.create_model("resnet10t", num_classes=10, in_chans=1).eval()
    made = quantized(resnet)
    export(resnet, tmp_path / "float.onnx", SIZE)
    export(harden(made, dry_run=True), tmp_path / "int8.onnx", SIZE)
    assert (tmp_path / "int8.onnx").stat().st_size < 0.27 * (tmp_path / "float.onnx").stat().st_size


def test_a_dry_run_has_the_same_operators(model: nn.Module, file: Path, tmp_path: Path) -> None:
    export(harden(quantized(model), dry_run=True), tmp_path / "dry.onnx", SIZE)
    assert operator_histogram(tmp_path / "dry.onnx") == operator_histogram(file)


def test_rebuilt_from_plan_and_safetensors(hardened: fx.GraphModule, images: torch.Tensor, tmp_path: Path) -> None:
    save_file({key: value.contiguous() for key, value in hardened.state_dict().items()}, tmp_path / "m.safetensors")
    written = json.loads(json.dumps(plan(hardened)))
    again = rebuild(timm.create_model("test_resnet", num_classes=10, in_chans=1), written)
    again.load_state_dict(load_file(tmp_path / "m.safetensors"))
    with torch.no_grad():
        torch.testing.assert_close(again(images[:64]), hardened(images[:64]), rtol=0, atol=0)
    integers = [value for key, value in hardened.state_dict().items() if key.endswith(".weight")]
    assert {value.dtype for value in integers} == {torch.int8}


def test_float_models_export_too(model: nn.Module, images: torch.Tensor, tmp_path: Path) -> None:
    before = {key: value.clone() for key, value in model.state_dict().items()}
    export(model, tmp_path / "float.onnx", SIZE)
    agreement = check_agreement(tmp_path / "float.onnx", model, images[:256])
    assert agreement.labels == 1
    assert agreement.max_error < 1e-5
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


class Sliced(nn.Module):
    """A network with halves of one tensor (a Split in the file) and a chain of shape operators."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(1, 8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.layer(x)
        x = F.relu(F.relu(x[:, :4])) + x[:, 4:].clamp(-1, 2).clamp(0, 1)
        return x.flatten(2).transpose(1, 2).transpose(1, 2).unsqueeze(1).unsqueeze(1).reshape(len(x), 4, -1).mean(2)


@pytest.mark.slow
def test_filtered_rewrite_rules_give_the_result_of_onnxscript() -> None:
    program = torch.export.export(Sliced().eval(), (torch.zeros(2, *SIZE),), strict=False)
    files = []
    for optimizer in (optimize, optimize_ir):
        made = torch.onnx.export(program, dynamo=True, opset_version=OPSET, optimize=False, verbose=False)
        assert made is not None
        before = Counter(node.op_type for node in made.model.graph)
        optimizer(made.model)
        assert Counter(node.op_type for node in made.model.graph) != before, "there was something to do"
        files.append(made.model_proto.SerializeToString(deterministic=True))
    assert files[0] == files[1]


class FlatTwice(nn.Module):
    """Two layers that flatten the same tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.Linear(64, 3), nn.Linear(64, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(x)
        return self.one(x.flatten(1)) + self.other(x.flatten(1))


def test_a_tensor_may_be_flattened_twice(tmp_path: Path) -> None:
    model = FlatTwice().eval()
    export(model, tmp_path / "m.onnx", (1, 8, 8))
    assert check_agreement(tmp_path / "m.onnx", model, torch.randn(16, 1, 8, 8)).max_error < 1e-5


@pytest.mark.slow
def test_the_direct_export_equals_the_public_exporter(hardened: fx.GraphModule) -> None:
    images = torch.zeros(2, *SIZE)
    short, public = (to_onnx(hardened, images, fast=fast) for fast in (True, False))

    def operators(proto: onnx.ModelProto) -> list[str]:
        return sorted(node.op_type for node in proto.graph.node)

    assert operators(short) == operators(public)


@pytest.mark.parametrize("kind", ["affine", "plain", "batch"])
def test_an_unfolded_norm_is_one_node(kind: str, tmp_path: Path) -> None:
    """``batch`` has no statistics of its own, so only the public exporter can write it."""
    norm = nn.BatchNorm2d(4, eps=0.1, affine=kind == "affine", track_running_stats=kind != "batch")
    for tensor in [*norm.parameters(), *norm.buffers()]:
        if tensor.is_floating_point():
            nn.init.uniform_(tensor, 0.5, 1.5)
    model = nn.Sequential(nn.ReLU(), norm, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)).eval()
    export(model, tmp_path / "m.onnx", (4, 8, 8))
    if kind != "batch":
        nodes = onnx.load(str(tmp_path / "m.onnx")).graph.node
        assert [node.op_type for node in nodes if "Norm" in node.op_type] == ["BatchNormalization"]
    assert check_agreement(tmp_path / "m.onnx", model, torch.randn(16, 4, 8, 8)).max_error < 1e-5


def test_operation_counts_have_bits(model: nn.Module, network: QuantizedNetwork, hardened: fx.GraphModule) -> None:
    plain = operator_counts(model, SIZE)
    for quantized_model in (network, hardened):
        counts = operator_counts(quantized_model, SIZE)
        assert [(c.layer, c.operations) for c in counts] == [(c.layer, c.operations) for c in plain]
        assert {(c.weight_bits, c.activation_bits) for c in counts} == {(8, 8)}
    assert {(c.weight_bits, c.activation_bits) for c in plain} == {(32, 32)}


def test_gradients_reach_weights_through_the_quantizers(model: nn.Module, images: torch.Tensor) -> None:
    made = quantized(model)
    calibrate(made, [images[:32]])
    made(images[:8]).square().sum().backward()
    gradients = {name: p.grad for name, p in made.named_parameters() if name.endswith("weight")}
    assert all(gradient is not None and bool(gradient.abs().sum() > 0) for gradient in gradients.values())
