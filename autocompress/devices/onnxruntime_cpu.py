"""The default device: the exported file in ONNX Runtime on this machine's processor."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any, ClassVar

import numpy as np

from autocompress.contract import Deployable, Device, LayerTimes
from autocompress.devices import sessions
from autocompress.devices.machine import too_many_threads
from autocompress.job import DeviceConfig
from autocompress.runtime import runtime_version, session_config


class OnnxRuntimeCpu(Device):
    """Sessions with a fixed number of threads and all graph optimisations."""

    name: ClassVar[str] = "onnxruntime-cpu"

    def check(self, config: DeviceConfig) -> list[str]:
        """More threads than processors would measure the scheduler."""
        return too_many_threads(config.threads)

    def environment(self, config: DeviceConfig) -> dict[str, Any]:
        """Runtime version and the session options in force."""
        del config
        return {
            "runtime": runtime_version(),
            "session_options": {
                "provider": "CPUExecutionProvider",
                "execution_mode": "sequential",
                "inter_op_threads": 1,
                "graph_optimization": "all",
                **session_config(),
            },
        }

    def open(self, deployable: Deployable, images: np.ndarray, config: DeviceConfig) -> Callable[[], object]:
        """A new session of the file."""
        loaded = sessions.load(deployable.file, config.threads)
        shape = sessions.input_shape(loaded, len(images), images.shape[1:])
        feed = {loaded.get_inputs()[0].name: np.resize(images, shape)}  # a file may fix its batch
        return lambda: loaded.run(None, feed)

    def layer_times(
        self, deployables: Sequence[Deployable], layers: Collection[str], config: DeviceConfig
    ) -> list[LayerTimes]:
        """By ONNX Runtime's profiler, in some tenths of a second a file."""
        from autocompress.devices.profiling import layer_times  # imports onnx; listing devices does not need it

        size = deployables[0].input_size
        if config.input_size is not None:
            size = (size[0], config.input_size, config.input_size)
        files = [deployable.file for deployable in deployables]
        return layer_times(files, layers, size, threads=config.threads, batch=config.batch)
