"""A device that runs the exported file in OpenVINO on this machine's processor."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Collection, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from autocompress.contract import Deployable, Device, LayerTimes, PlacementTable
from autocompress.devices.machine import too_many_threads
from autocompress.devices.openvino_apart import Apart, last_line, load
from autocompress.errors import NoAnswer, TrialFailed
from autocompress.files import digest
from autocompress.job import DeviceConfig

MISSING = "OpenVINO is not installed: pip install 'autocompress[openvino]'"


class Options(BaseModel):
    """How OpenVINO computes floats; ``bf16`` and ``f16`` need processors with such units."""

    model_config = ConfigDict(extra="forbid")
    precision: Literal["f32", "bf16", "f16"] = "f32"


class OpenVinoCpu(Device):
    """A compiled model with one stream and the requested threads, for batches of one shape.

    It reads the same file as ONNX Runtime, with quantizers between the operators. Constants are
    computed beforehand (``constants``), so that packed weights are unpacked once. Each new file is
    loaded in another process first, because OpenVINO may crash.
    """

    name: ClassVar[str] = "openvino-cpu"
    Options = Options
    placement: ClassVar[PlacementTable] = PlacementTable()
    channel_multiple: ClassVar[int] = 16

    def __init__(self) -> None:
        self._apart = Apart()
        self._refused: dict[str, str] = {}
        """What is wrong with each file, by content key; empty if it can be loaded."""
        self._unanswered: set[str] = set()
        """Files without an answer so far; refused the second time, since a hang takes minutes."""

    def check(self, config: DeviceConfig) -> list[str]:
        """Checks that OpenVINO is installed, and that there is a processor for each thread."""
        if importlib.util.find_spec("openvino") is None:
            return [MISSING]
        return too_many_threads(config.threads)

    def describe(self) -> str:
        """One line for lists."""
        return "the exported file in OpenVINO on this machine's processor (extra 'openvino')"

    def environment(self, config: DeviceConfig) -> dict[str, Any]:
        """Version and precision; shapes were free in earlier versions of this package."""
        import openvino

        precision = Options.model_validate(config.options).precision
        return {"openvino": openvino.__version__, "precision": precision, "shapes": "fixed"}

    def prepare(self, deployable: Deployable, images: np.ndarray, config: DeviceConfig) -> None:
        """Loads the file in another process, once."""
        model, asked = _read(deployable), settings(config)
        key = digest(model, list(images.shape), asked)
        if key not in self._refused:
            try:
                self._apart.load(model, images.shape, asked)
                self._refused[key] = ""
            except NoAnswer as failed:  # it may be loaded next time
                if key in self._unanswered:
                    self._refused[key] = str(failed)
                self._unanswered.add(key)
                raise
            except TrialFailed as failed:
                self._refused[key] = str(failed)
        if why := self._refused[key]:
            raise TrialFailed(why)

    def open(self, deployable: Deployable, images: np.ndarray, config: DeviceConfig) -> Callable[[], object]:
        """A new compiled model of the file."""
        return CompiledRunner(_read(deployable), images, config)

    def layer_times(
        self, deployables: Sequence[Deployable], layers: Collection[str], config: DeviceConfig
    ) -> list[LayerTimes]:
        """Times of layers by OpenVINO's own counters."""
        from autocompress.devices.openvino_profiler import OpenVinoProfiler
        from autocompress.devices.profiling import layer_times

        size = deployables[0].input_size
        if config.input_size is not None:
            size = (size[0], config.input_size, config.input_size)
        files = [deployable.file for deployable in deployables]
        profiler = OpenVinoProfiler(config, layers)
        return layer_times(files, layers, size, threads=config.threads, batch=config.batch, profiler=profiler)


class CompiledRunner:
    """A compiled model that runs one batch when it is called."""

    def __init__(self, model: bytes, images: np.ndarray, config: DeviceConfig, *, counts: bool = False) -> None:
        import openvino

        try:
            compiled = load(openvino.Core(), model, images.shape, settings(config, counts=counts))
            self.request = compiled.create_infer_request()
        except Exception as error:  # OpenVINO's exceptions are RuntimeErrors with many lines
            raise TrialFailed(f"OpenVINO {openvino.__version__} cannot load a file: {last_line(error)}") from error
        self._images, self.runs = images, 0

    def __call__(self) -> None:
        self.request.infer([self._images], share_inputs=True)
        self.runs += 1

    def nodes(self) -> list[tuple[str, float]]:
        """(name, seconds) of every operator of the last run."""
        return [(node.node_name, node.real_time.total_seconds()) for node in self.request.profiling_info]


def settings(config: DeviceConfig, *, counts: bool = False) -> dict[str, Any]:
    """The settings of OpenVINO's CPU plugin; ``counts`` asks for times of operators."""
    return {
        "INFERENCE_NUM_THREADS": config.threads,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": Options.model_validate(config.options).precision,
        "ENABLE_CPU_PINNING": False,  # otherwise pinned threads of two models would share a processor
        "PERF_COUNT": counts,
    }


def _read(deployable: Deployable) -> bytes:
    from autocompress.devices.constants import with_constants

    try:
        return with_constants(deployable.file)
    except Exception as error:  # onnx and its runtime have exceptions of many kinds
        raise TrialFailed(f"'{deployable.file}' cannot be read: {last_line(error)}") from error
