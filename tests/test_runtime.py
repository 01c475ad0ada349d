"""ONNX Runtime sessions compute integers exactly, with the slow option only if it is needed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from autocompress import runtime
from autocompress.devices import OnnxRuntimeCpu
from autocompress.devices.machine import machine
from autocompress.job import DeviceConfig
from autocompress.runtime import EXACT, Layer, exactness, run_layers, session_config, session_options
from autocompress.runtime.extremes import extreme_layers, model_of

OPTION = "session.x64quantprecision"
LAYERS = extreme_layers()
NAMES = [f"{layer.operator}-{'x'.join(map(str, layer.weight.shape))}-{i}" for i, layer in enumerate(LAYERS)]


def saturated(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """``a @ b`` on processors without VNNI.

    Pairs of products are added in 16 bits with saturation.
    """
    products = a.astype(np.int64)[:, :, None] * b.astype(np.int64)[None]
    if products.shape[1] % 2:
        products = np.concatenate([products, np.zeros_like(products[:, :1])], axis=1)
    return (products[:, ::2] + products[:, 1::2]).clip(-32768, 32767).sum(axis=1)


class Processor:
    """Runs layers exactly, except those that ``overflows`` selects."""

    def __init__(self, overflows: Sequence[int] = (), threads: int = 1, repaired: bool = True) -> None:
        self.overflows, self.threads, self.repaired = overflows, threads, repaired

    def __call__(self, layers: Sequence[Layer], threads: int, config: Mapping[str, str]) -> list[np.ndarray]:
        option = config.get(OPTION) == "1" and self.repaired
        return [
            self._overflowing(layer) if i in self.overflows and threads >= self.threads and not option else exact
            for i, (layer, exact) in enumerate((layer, layer.expected()) for layer in layers)
        ]

    @staticmethod
    def _overflowing(layer: Layer) -> np.ndarray:
        if layer.operator == "Conv":  # pixels are rows
            _, inputs, height, width = layer.x.shape
            sums = saturated(layer.x[0].reshape(inputs, -1).T, layer.weight[:, :, 0, 0].T)
            return layer.requantize(sums.T.reshape(1, -1, height, width))
        return layer.requantize(saturated(layer.x, layer.weight.T if layer.operator == "Gemm" else layer.weight))


PRODUCTS = [i for i, layer in enumerate(LAYERS) if layer.operator != "Conv" or layer.weight.shape[-1] == 1]


@pytest.mark.parametrize("layer", PRODUCTS, ids=[NAMES[i] for i in PRODUCTS])
def test_the_option_is_set_if_any_kernel_overflows(layer: int) -> None:
    assert exactness(Processor([layer])) == EXACT


def test_the_option_is_set_if_only_several_threads_overflow() -> None:
    assert exactness(Processor([0], threads=2)) == EXACT


def test_the_option_is_not_set_on_an_exact_processor() -> None:
    assert exactness(Processor())[OPTION] == "0"


def test_a_processor_that_is_never_exact_gives_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    assert exactness(Processor([0], repaired=False)) == EXACT
    assert "not exact on this processor" in caplog.text


def test_if_the_check_fails_the_option_is_set(caplog: pytest.LogCaptureFixture) -> None:
    def broken(layers: Sequence[Layer], threads: int, config: Mapping[str, str]) -> list[np.ndarray]:
        raise RuntimeError("no such operator")

    assert exactness(broken) == EXACT
    assert "no such operator" in caplog.text


@pytest.mark.parametrize("threads", [1, 2])
def test_our_sessions_are_exact_on_this_processor(threads: int) -> None:
    """On a processor without VNNI, the default kernels fail."""
    outputs = run_layers(LAYERS, threads, session_config())
    wrong = [name for name, layer, y in zip(NAMES, LAYERS, outputs, strict=True) if not (y == layer.expected()).all()]
    assert not wrong


@pytest.mark.skipif(
    not {"avx512_vnni", "avx_vnni", "amx_int8"} & set(machine()["features"]), reason="a processor without VNNI"
)
def test_a_processor_with_vnni_uses_the_fast_kernels() -> None:
    assert session_config()[OPTION] == "0"
    assert session_options(1).get_session_config_entry(OPTION) == "0"


def test_the_layers_distinguish_overflow_from_exact_results() -> None:
    for i in PRODUCTS:
        wrong = Processor._overflowing(LAYERS[i]) != LAYERS[i].expected()
        assert wrong.mean() > 0.01, NAMES[i]
    assert all(layer.expected().std() > 5 for layer in LAYERS)


def test_every_kernel_family_is_checked(tmp_path: Path) -> None:
    """The layers become the integer operators of exported files, and none stays in float."""
    options = session_options(1)
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    onnxruntime.InferenceSession(model_of(LAYERS).SerializeToString(), options, providers=["CPUExecutionProvider"])
    operators = Counter(node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node)
    assert set(operators) <= {"QLinearConv", "QGemm", "QLinearMatMul", "MatMulInteger", "Transpose"}
    assert operators["QLinearConv"] == sum(layer.operator == "Conv" for layer in LAYERS)
    assert min(operators[name] for name in ("QGemm", "QLinearMatMul", "MatMulInteger")) >= 2


def test_the_processor_is_checked_once() -> None:
    assert session_config() is session_config()


def test_options_can_be_passed() -> None:
    assert session_options(3, EXACT).get_session_config_entry(OPTION) == "1"
    assert session_options(3, EXACT).intra_op_num_threads == 3


def test_measurements_record_their_options() -> None:
    said = OnnxRuntimeCpu().environment(DeviceConfig())
    assert session_config().items() <= said["session_options"].items()
    assert said["runtime"] == runtime.runtime_version()
