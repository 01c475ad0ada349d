"""The plugin ``quantize``.

Entry point, space, choices, and the accuracy of the options of its papers.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from autocompress.contract import Context, Manager, Quantizer, Space, TensorSpec
from autocompress.errors import InvalidRecipe
from autocompress.job import DataConfig, Job
from autocompress.quantization.fakequant import ACTIVATION_ESTIMATORS, WEIGHT_ESTIMATORS
from autocompress.quantization.ops import dequantize
from autocompress.recipes.choosers import Policy
from autocompress.runtime import session_options
from autocompress_quantize import Quantize

CONTEXT = Context(input_size=(3, 8, 8))
JOB = Job(model="resnet18", data=DataConfig(train="digits"), name="test")
DEFAULTS: dict[str, Any] = {
    "weight_granularity": "per_channel",
    "weight_grid": "symmetric",
    "depthwise_bits": "8",
    "weight_range": "minmax",
    "activation_range": "ema_minmax",
    "calibration_images": 256,
    "rounding": "auto",
    "equalise": False,
    "bias_correction": True,
}


def spec_of(weight: torch.Tensor, operator: str = "conv", bits: int = 8) -> TensorSpec:
    return TensorSpec("w", "weight", "layer1", operator, tuple(weight.shape), bits, channel_axis=0)


@pytest.fixture
def weight() -> torch.Tensor:
    """Channels of different size, whose values are not centred at zero."""
    return (torch.randn(8, 4, 3, 3) + 0.8) * torch.logspace(-2, 1, 8).reshape(-1, 1, 1, 1)


def test_it_is_found_through_its_entry_point() -> None:
    method = Manager().method("quantize")
    assert type(method).__module__.startswith("autocompress_quantize")
    assert isinstance(method, Quantizer)
    assert "1806.08342" in method.reference


def test_its_space_has_the_defaults_of_the_papers() -> None:
    space = Space(Policy({"quantize": "default"}))
    assert Quantize().search_space(space.scope("quantize"), nn.Identity()) == DEFAULTS
    structural = {name for name, parameter in space.asked.items() if parameter.structural}
    assert structural == {f"quantize.{name}" for name in ("weight_granularity", "weight_grid", "depthwise_bits")}


def test_every_choice_gives_a_quantizer(weight: torch.Tensor) -> None:
    method, space = Quantize(), Space(Policy({}))
    method.search_space(space, nn.Identity())
    x = torch.randn(4, 4, 8, 8)
    for name, parameter in space.asked.items():
        for choice in parameter.choices:
            params = {**DEFAULTS, name: choice}
            for spec, tensor in (
                (spec_of(weight), weight),
                (TensorSpec("a", "activation", "layer1", "conv", (1, 4, 8, 8)), x),
            ):
                fake = method.apply(spec, params, CONTEXT)
                fake.observing = True
                fake(tensor)
                fake.observing = False
                fake.finish_observing()
                hardened = method.harden(fake, tensor if spec.role == "weight" else None)
                assert float((fake(tensor) - tensor).abs().mean()) < 0.05 * float(tensor.abs().mean())
                assert (hardened.integers is None) == (spec.role == "activation")


def test_default_weights_suit_int8_kernels(weight: torch.Tensor) -> None:
    hardened = Quantize().apply(spec_of(weight), DEFAULTS, CONTEXT).harden(weight)
    assert (hardened.low, hardened.high) == (-127, 127)
    assert hardened.scale.shape == (8,)
    assert not hardened.zero_point.any()


def test_a_scale_per_channel_is_more_accurate_than_one_for_all(weight: torch.Tensor) -> None:
    errors = {}
    for granularity in Quantize.granularities:
        fake = Quantize().apply(spec_of(weight), {**DEFAULTS, "weight_granularity": granularity}, CONTEXT)
        errors[granularity] = float((fake(weight) - weight).square().sum())
    assert errors["per_channel"] < errors["per_tensor"]


def test_depthwise_weights_stay_symmetric_per_channel(weight: torch.Tensor) -> None:
    asymmetric = {**DEFAULTS, "weight_grid": "asymmetric"}

    def zero_points(operator: str, params: dict[str, Any]) -> torch.Tensor:
        return Quantize().apply(spec_of(weight, operator), params, CONTEXT).harden(weight).zero_point

    assert zero_points("conv", asymmetric).any()
    assert not zero_points("depthwise", asymmetric).any()
    assert zero_points("depthwise", {**asymmetric, "weight_granularity": "per_tensor"}).any()


@pytest.mark.parametrize("grid", Quantize.grids)
@pytest.mark.parametrize("granularity", Quantize.granularities)
@pytest.mark.parametrize("estimator", WEIGHT_ESTIMATORS)
def test_every_number_of_bits_of_weights(weight: torch.Tensor, estimator: str, granularity: str, grid: str) -> None:
    """The file has the simulated values, with no more integers than the bits allow.

    A bit less costs accuracy.
    """
    params = {**DEFAULTS, "weight_range": estimator, "weight_granularity": granularity, "weight_grid": grid}
    errors = []
    for bits in sorted(Quantize.weight_bits, reverse=True):
        fake = Quantize().apply(spec_of(weight, bits=bits), params, CONTEXT)
        held = Quantize().harden(fake, weight)
        assert held.integers is not None
        assert held.bits == bits
        assert (held.low, held.high) == (-(2 ** (bits - 1)) + (grid == "symmetric"), 2 ** (bits - 1) - 1)
        assert held.low <= int(held.integers.min()) <= int(held.integers.max()) <= held.high
        restored = dequantize(held.integers, held.scale, held.zero_point.to(torch.int8), held.channel_axis)
        torch.testing.assert_close(restored, fake(weight), rtol=1e-6, atol=1e-6)
        errors.append(float((restored - weight).square().sum()))
    assert errors == sorted(errors)


@pytest.mark.parametrize("nonnegative", [False, True])
@pytest.mark.parametrize("estimator", ACTIVATION_ESTIMATORS)
def test_every_number_of_bits_of_activations(estimator: str, nonnegative: bool) -> None:
    x = torch.randn(16, 4, 8, 8)
    x = x.relu() if nonnegative else x + 0.3
    errors = []
    for bits in sorted(Quantize.activation_bits, reverse=True):
        spec = TensorSpec("a", "activation", "layer1", "conv", (1, 4, 8, 8), bits, nonnegative=nonnegative)
        fake = Quantize().apply(spec, {**DEFAULTS, "activation_range": estimator}, CONTEXT)
        fake.observing = True
        fake(x)
        fake.observing = False
        fake.finish_observing()
        held = Quantize().harden(fake)
        assert (held.low, held.high, held.bits) == (0, 2**bits - 1, bits)
        assert (int(held.zero_point) == 0) == nonnegative
        assert len(fake(x).unique()) <= 2**bits
        assert not fake(torch.zeros(1)).any()
        errors.append(float((fake(x) - x).square().mean()))
    assert errors == sorted(errors)


def test_depthwise_weights_keep_8_bits_by_default(weight: torch.Tensor) -> None:
    def held(operator: str, choice: str) -> int:
        fake = Quantize().apply(spec_of(weight, operator, bits=4), {**DEFAULTS, "depthwise_bits": choice}, CONTEXT)
        assert fake.spec.bits == fake.harden(weight).bits
        return fake.harden(weight).bits

    assert held("depthwise", "8") == 8
    assert held("depthwise", "same") == 4
    assert held("conv", "8") == held("linear", "8") == 4


@pytest.mark.parametrize(("role", "bits"), [("weight", 1), ("weight", 9), ("activation", 1), ("activation", 16)])
def test_unsupported_bits_are_refused(weight: torch.Tensor, role: Any, bits: int) -> None:
    spec = replace(spec_of(weight, bits=bits), role=role)
    with pytest.raises(InvalidRecipe, match=rf"quantize gives {role}s 2 to 8 bits, not {bits} \('w'\)"):
        Quantize().apply(spec, DEFAULTS, CONTEXT)


def test_its_settings_for_the_engine() -> None:
    method = Quantize()
    assert not method.equalises(DEFAULTS)
    assert method.equalises({**DEFAULTS, "equalise": True})
    assert method.corrects_bias(DEFAULTS)
    assert not method.corrects_bias({**DEFAULTS, "bias_correction": False})
    assert method.calibration_images({**DEFAULTS, "calibration_images": 64}) == 64


@pytest.mark.parametrize("grid", Quantize.grids)
@pytest.mark.parametrize("granularity", Quantize.granularities)
@pytest.mark.parametrize("operator", ["conv", "depthwise", "linear"])
def test_the_runtime_computes_what_torch_simulates(operator: str, granularity: str, grid: str) -> None:
    """They are compared with a QDQ file of these integers and scales, run by integer kernels."""
    torch.manual_seed(0)
    layer: nn.Module = {
        "conv": nn.Conv2d(8, 16, 3, bias=False),
        "depthwise": nn.Conv2d(8, 8, 3, groups=8, bias=False),
        "linear": nn.Linear(8, 16, bias=False),
    }[operator]
    assert isinstance(layer, nn.Conv2d | nn.Linear)
    shape = (4, 8) if operator == "linear" else (4, 8, 10, 10)
    x = torch.randn(shape).relu()
    params = {**DEFAULTS, "weight_granularity": granularity, "weight_grid": grid}
    weight = layer.weight.detach() + 0.2
    of_weight = Quantize().apply(spec_of(weight, operator), params, CONTEXT)
    of_input = Quantize().apply(TensorSpec("x", "activation", "", "input", (1, *shape[1:])), params, CONTEXT)
    of_output = Quantize().apply(TensorSpec("y", "activation", "", operator, (1, 16)), params, CONTEXT)
    layer.weight.data = of_weight(weight)
    for fake, value in ((of_input, x), (of_output, layer(x))):
        fake.observing = True
        fake(value)
        fake.observing = False
        fake.finish_observing()
    expected = of_output(layer(of_input(x))).detach()

    held = of_weight.harden(weight)
    assert held.integers is not None
    torch.testing.assert_close(
        dequantize(held.integers, held.scale, held.zero_point, held.channel_axis), layer.weight.data
    )
    arrays = {"w": held.integers.numpy(), "ws": held.scale.numpy(), "wz": held.zero_point.numpy().astype(np.int8)}
    for name, fake in (("x", of_input), ("y", of_output)):
        ends = fake.harden()
        arrays |= {f"{name}s": ends.scale.numpy(), f"{name}z": ends.zero_point.numpy().astype(np.uint8)}
    axis = {} if held.channel_axis is None else {"axis": held.channel_axis}
    compute = (
        helper.make_node("Gemm", ["x1", "w1"], ["y0"], transB=1)
        if operator == "linear"
        else helper.make_node("Conv", ["x1", "w1"], ["y0"], group=8 if operator == "depthwise" else 1)
    )
    graph = helper.make_graph(
        [
            helper.make_node("QuantizeLinear", ["x", "xs", "xz"], ["xq"]),
            helper.make_node("DequantizeLinear", ["xq", "xs", "xz"], ["x1"]),
            helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["w1"], **axis),
            compute,
            helper.make_node("QuantizeLinear", ["y0", "ys", "yz"], ["yq"]),
            helper.make_node("DequantizeLinear", ["yq", "ys", "yz"], ["y"]),
        ],
        "layer",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, list(shape))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, list(expected.shape))],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), session_options(threads=1), providers=["CPUExecutionProvider"]
    )
    (result,) = session.run(None, {"x": x.numpy()})
    steps = np.abs(result - expected.numpy()) / float(arrays["ys"])
    assert steps.max() < 1.01  # a value between two integers may be rounded either way
    assert (steps > 0.5).mean() < 0.01


def test_it_has_a_reason_if_it_cannot_apply() -> None:
    assert Quantize().check(nn.Sequential(nn.Conv2d(3, 4, 1)), JOB) == []
    assert "no convolution" in Quantize().check(nn.Sequential(nn.ReLU()), JOB)[0]
    broken = nn.Linear(2, 2)
    broken.weight.data[0, 0] = torch.nan
    assert Quantize().check(nn.Sequential(nn.Linear(2, 2), broken), JOB) == [
        "the model has weights that are not finite, in '1'"
    ]
