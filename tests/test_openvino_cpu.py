"""The device openvino-cpu.

Conformance, packed weights, and an error if OpenVINO is not installed.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import timm
import torch
from torch import nn

from autocompress.contract import Deployable
from autocompress.devices import OpenVinoCpu, layer_times
from autocompress.devices.constants import with_constants
from autocompress.errors import TrialFailed, UserError
from autocompress.export import INPUT, export, open_session
from autocompress.job import DeviceConfig, load_job
from autocompress.opened.outline import outline
from autocompress.quantization import LayerBits, calibrate, harden, quantize
from autocompress.quantization.fakequant import UniformFakeQuantizer
from autocompress.testing import check_device

SIZE = (3, 32, 32)
CONFIG = DeviceConfig(name="openvino-cpu")


def layers_of(model: nn.Module) -> list[str]:
    return [name for name, layer in model.named_modules() if isinstance(layer, nn.Conv2d | nn.Linear)]


@pytest.fixture(scope="module")
def write(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """Writes test_resnet with weights of this number of bits (32: float)."""
    folder = tmp_path_factory.mktemp("openvino")
    torch.manual_seed(0)
    model = timm.create_model("test_resnet", num_classes=10).eval()
    images = torch.randn(16, *SIZE)

    def made(bits: int) -> Path:
        file = folder / f"{bits}.onnx"
        if bits == 32:
            export(model, file, SIZE)
            return file
        config = {name: LayerBits("quantize", weight_bits=bits, in_float="layer3" in name) for name in layers_of(model)}
        network = quantize(model, config, lambda _, spec: UniformFakeQuantizer(spec), input_size=SIZE)
        calibrate(network, [images])
        export(harden(network), file, SIZE)
        return file

    return made


def outputs(model: Path | bytes) -> np.ndarray:
    session = open_session(model) if isinstance(model, Path) else __import__("onnxruntime").InferenceSession(model)
    images = np.random.default_rng(0).standard_normal((4, *SIZE), dtype=np.float32)
    found: np.ndarray = session.run(None, {INPUT: images})[0]
    return found


@pytest.mark.parametrize("bits", [8, 3, 2])
def test_computed_constants_do_not_change_outputs(bits: int, write: Callable[[int], Path]) -> None:
    file = write(bits)
    plain = with_constants(file)
    operators = {node.op_type for node in onnx.load_model_from_string(plain).graph.node}
    assert not operators & {"BitShift", "BitwiseAnd", "BitwiseOr", "Cast"}
    assert "DequantizeLinear" in operators, "integer constants stay integers"
    np.testing.assert_allclose(outputs(plain), outputs(file), rtol=1e-4, atol=1e-4)
    assert with_constants(plain) == with_constants(onnx.load_model_from_string(plain).SerializeToString())


def test_conformance() -> None:
    pytest.importorskip("openvino", reason="the extra 'openvino' is not installed")
    check_device(OpenVinoCpu())


@pytest.mark.parametrize("bits", [8, 3])
def test_it_computes_the_outputs_of_the_file(bits: int, write: Callable[[int], Path]) -> None:
    openvino = pytest.importorskip("openvino", reason="the extra 'openvino' is not installed")
    images = np.random.default_rng(0).standard_normal((64, *SIZE), dtype=np.float32)
    compiled = openvino.Core().compile_model(openvino.Core().read_model(with_constants(write(bits))), "CPU")
    theirs = compiled([images])[0]
    ours = open_session(write(bits)).run(None, {INPUT: images})[0]
    assert (theirs.argmax(1) == ours.argmax(1)).mean() >= 0.9


def test_times_of_layers(write: Callable[[int], Path]) -> None:
    pytest.importorskip("openvino", reason="the extra 'openvino' is not installed")
    layers = layers_of(timm.create_model("test_resnet", num_classes=10))
    files = [Deployable(write(bits), SIZE) for bits in (32, 8)]
    times = layer_times(OpenVinoCpu(), files, layers, CONFIG)
    assert times is not None
    assert all(set(found.layers) == set(layers) for found in times)
    assert all(found.total > 0 and min(found.layers.values()) >= 0 for found in times)


def test_a_file_that_it_refuses_is_named(tmp_path: Path) -> None:
    openvino = pytest.importorskip("openvino", reason="the extra 'openvino' is not installed")
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no model")
    images = np.zeros((1, *SIZE), np.float32)
    with pytest.raises(TrialFailed, match=r"broken\.onnx"):
        OpenVinoCpu().open(Deployable(broken, SIZE), images, CONFIG)
    node = onnx.helper.make_node("NoSuchOperator", ["image"], ["logits"], domain="nobody")
    value = [onnx.helper.make_tensor_value_info(name, 1, ["n", *SIZE]) for name in ("image", "logits")]
    strange = onnx.helper.make_model(
        onnx.helper.make_graph([node], "g", value[:1], value[1:]),
        opset_imports=[onnx.helper.make_opsetid("", 21), onnx.helper.make_opsetid("nobody", 1)],
    )
    broken.write_bytes(strange.SerializeToString())
    with pytest.raises(TrialFailed, match=rf"OpenVINO {openvino.__version__[:4]}"):
        OpenVinoCpu().open(Deployable(broken, SIZE), images, CONFIG)


def test_without_the_extra_a_job_is_refused_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    from autocompress.contract import manager

    monkeypatch.setattr("importlib.util.find_spec", lambda name, package=None: None)
    job = load_job(model="test_resnet", data="digits", device="openvino-cpu", methods=["quantize"])
    with pytest.raises(UserError, match=r"OpenVINO is not installed: pip install 'autocompress\[openvino\]'"):
        outline(job, manager())
