"""A device: ONNX Runtime with the level of graph optimisations as an option."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnxruntime
from pydantic import BaseModel, ConfigDict, Field

from autocompress.contract import Deployable, Device, hookimpl
from autocompress.errors import TrialFailed
from autocompress.job import DeviceConfig


class Options(BaseModel):
    """The section ``device.options`` of a job."""

    model_config = ConfigDict(extra="forbid")

    level: int = Field(default=99, description="Graph optimisations: 0 none, 1 basic, 2 extended, 99 all.")


class Example(Device):
    """Runs files on the processor of this machine."""

    name = "example"
    Options = Options

    def open(self, deployable: Deployable, images: np.ndarray, config: DeviceConfig) -> Callable[[], object]:
        """Loads the file; the function that is returned runs the batch once."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = config.threads
        level = Options.model_validate(config.options).level
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel(level)
        try:
            session = onnxruntime.InferenceSession(str(deployable.file), options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise TrialFailed(f"ONNX Runtime cannot load the file: {error}") from error
        feed = {session.get_inputs()[0].name: images}
        return lambda: session.run(None, feed)


@hookimpl
def autocompress_devices() -> list[Device]:
    """The devices of this plugin."""
    return [Example()]
