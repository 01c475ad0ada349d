"""A device that runs the torch module with torch, without a compiler, on this machine."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict

from autocompress.contract import Deployable, Device
from autocompress.devices.machine import too_many_threads
from autocompress.job import DeviceConfig


class Options(BaseModel):
    """Where torch computes; ``auto`` is CUDA if there is a GPU."""

    model_config = ConfigDict(extra="forbid")
    compute: Literal["auto", "cpu", "cuda"] = "auto"


class TorchEager(Device):
    """Latency of the hardened module in torch.

    torch simulates integers in float32, so low bits are not faster here.
    """

    name: ClassVar[str] = "torch-eager"
    formats = frozenset({"torch"})
    Options = Options

    def check(self, config: DeviceConfig) -> list[str]:
        """Checks that there is the requested GPU, and a processor for each thread."""
        if Options.model_validate(config.options).compute == "cuda" and not torch.cuda.is_available():
            return ["torch finds no CUDA device"]
        return too_many_threads(config.threads)

    def describe(self) -> str:
        """One line for lists."""
        return "the model in PyTorch without a compiler, on this machine's processor or GPU"

    def environment(self, config: DeviceConfig) -> dict[str, Any]:
        """Version of torch, and the GPU if it computes on one."""
        is_cuda = _compute(config) == "cuda"
        return {"torch": torch.__version__, "compute": torch.cuda.get_device_name() if is_cuda else "cpu"}

    def is_in_thread(self, config: DeviceConfig) -> bool:
        """Whether a run computes in the calling thread; False on a GPU."""
        return config.threads == 1 and _compute(config) == "cpu"

    def open(self, deployable: Deployable, images: np.ndarray, config: DeviceConfig) -> Callable[[], object]:
        """A copy of the module on the device of torch."""
        compute = _compute(config)
        model, batch = copy.deepcopy(deployable.model()).to(compute), torch.from_numpy(images).to(compute)

        def run() -> None:
            before = torch.get_num_threads()
            torch.set_num_threads(config.threads)
            try:
                with torch.inference_mode():
                    model(batch)
                if compute == "cuda":
                    torch.cuda.synchronize()
            finally:
                torch.set_num_threads(before)

        return run


def _compute(config: DeviceConfig) -> str:
    asked = Options.model_validate(config.options).compute
    return asked if asked != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
