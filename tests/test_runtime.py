"""Our ONNX Runtime sessions compute integers exactly on every processor, and files say which option that takes."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper, numpy_helper

from autocompress.devices.onnxruntime_cpu import environment
from autocompress.job import DeviceConfig
from autocompress.runtime import CONFIG, EXACT, session_options

STEP = 4096.0
"""Of the output's grid."""


def layer(x: np.ndarray, weight: np.ndarray) -> bytes:
    """A convolution between Quantize and Dequantize, as files have them, with steps of 1 for inputs and weights."""
    arrays = {
        "one": np.float32(1),
        "ones": np.ones(len(weight), np.float32),
        "zx": np.uint8(0),
        "zw": np.zeros(len(weight), np.int8),
        "w": weight,
        "sy": np.float32(STEP),
        "zy": np.uint8(128),
    }
    nodes = [
        helper.make_node("DequantizeLinear", ["x", "one", "zx"], ["xf"]),
        helper.make_node("DequantizeLinear", ["w", "ones", "zw"], ["wf"], axis=0),
        helper.make_node("Conv", ["xf", "wf"], ["yf"], pads=[1, 1, 1, 1]),
        helper.make_node("QuantizeLinear", ["yf", "sy", "zy"], ["y"]),
    ]
    shape = [1, len(weight), *x.shape[2:]]
    graph = helper.make_graph(
        nodes,
        "layer",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, list(x.shape))],
        [helper.make_tensor_value_info("y", TensorProto.UINT8, shape)],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    made: bytes = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10
    ).SerializeToString()
    return made


@pytest.mark.parametrize("kind", ["random", "largest"])
def test_products_do_not_overflow(kind: str) -> None:
    """255 x 127 + 255 x 127 is more than 16 bits hold: what kernels without VNNI add up by default."""
    rng = np.random.default_rng(0)
    shape, filters = (1, 16, 12, 12), (16, 16, 3, 3)
    if kind == "random":
        x, weight = rng.integers(0, 256, shape).astype(np.uint8), rng.integers(-127, 128, filters).astype(np.int8)
    else:
        x, weight = rng.choice([0, 255], shape).astype(np.uint8), np.full(filters, 127, np.int8)
        weight[:, 2::4] = weight[:, 3::4] = -127  # neighbours have the same sign: their products are added in pairs
    sums = F.conv2d(torch.from_numpy(x).double(), torch.from_numpy(weight).double(), padding=1).numpy()
    expected = np.clip(np.rint(sums / STEP) + 128, 0, 255)
    assert expected.std() > 0
    session = onnxruntime.InferenceSession(
        layer(x, weight), session_options(threads=1), providers=["CPUExecutionProvider"]
    )
    assert np.array_equal(session.run(None, {"x": x})[0], expected)


def test_measurements_say_the_options() -> None:
    assert EXACT.items() <= CONFIG.items()
    said = environment(DeviceConfig(name="onnxruntime-cpu"))["session_options"]
    assert CONFIG.items() <= said.items()
