"""The default device: the exported file in ONNX Runtime on this machine's processor."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any, ClassVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from autocompress.contract import Deployable, Device, LayerTimes
from autocompress.devices import sessions
from autocompress.devices.machine import too_many_threads
from autocompress.job import DeviceConfig
from autocompress.runtime import runtime_version, session_config


class Options(BaseModel):
    """Options of sessions.

    ``graph`` is the level of graph optimisations. ``provider`` is an execution provider of the
    installed ONNX Runtime, with ``provider_options``. Operators that it does not support run on the
    CPU.
    """

    model_config = ConfigDict(extra="forbid")
    graph: sessions.Level = "all"
    provider: str = sessions.PROCESSOR
    provider_options: dict[str, str] = Field(default_factory=dict)


class OnnxRuntimeCpu(Device):
    """Sessions with a fixed number of threads, by default with all graph optimisations."""

    name: ClassVar[str] = "onnxruntime-cpu"
    Options = Options

    def check(self, config: DeviceConfig) -> list[str]:
        """Checks that there is a processor for each thread, and that the provider is installed."""
        provider = Options.model_validate(config.options).provider
        if provider != sessions.PROCESSOR and provider not in (known := sessions.providers()):
            return [f"ONNX Runtime has no provider '{provider}' here; it has {', '.join(known)}"]
        return too_many_threads(config.threads)

    def environment(self, config: DeviceConfig) -> dict[str, Any]:
        """Runtime version and session options."""
        asked = Options.model_validate(config.options)
        return {
            "runtime": runtime_version(),
            "session_options": {
                "provider": asked.provider,
                **({"provider_options": asked.provider_options} if asked.provider_options else {}),
                "execution_mode": "sequential",
                "inter_op_threads": 1,
                "graph_optimization": asked.graph,
                **session_config(),
            },
        }

    def is_in_thread(self, config: DeviceConfig) -> bool:
        """True with one thread on the CPU; another provider may have threads of its own."""
        return config.threads == 1 and Options.model_validate(config.options).provider == sessions.PROCESSOR

    def open(self, deployable: Deployable, images: np.ndarray, config: DeviceConfig) -> Callable[[], object]:
        """A new session of the file."""
        asked = Options.model_validate(config.options)
        loaded = sessions.load(
            deployable.file, config.threads, level=asked.graph, provider=(asked.provider, asked.provider_options)
        )
        shape = sessions.input_shape(loaded, len(images), images.shape[1:])
        feed = {loaded.get_inputs()[0].name: np.resize(images, shape)}  # a file may fix its batch
        return lambda: loaded.run(None, feed)

    def layer_times(
        self, deployables: Sequence[Deployable], layers: Collection[str], config: DeviceConfig
    ) -> list[LayerTimes] | None:
        """Times of layers by ONNX Runtime's profiler, in some tenths of a second per file.

        None if an option differs from its default, because the profiler uses the defaults.
        """
        if Options.model_validate(config.options) != Options():
            return None
        from autocompress.devices.profiling import layer_times  # imports onnx; listing devices does not need it

        size = deployables[0].input_size
        if config.input_size is not None:
            size = (size[0], config.input_size, config.input_size)
        files = [deployable.file for deployable in deployables]
        return layer_times(files, layers, size, threads=config.threads, batch=config.batch)
