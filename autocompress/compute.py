"""Compute: where and how torch computes a job (docs/compute.md)."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from autocompress import heap
from autocompress.compat.torch import has_native_bfloat16
from autocompress.errors import TrialFailed, UserError
from autocompress.job import ComputeConfig

PRECISIONS: dict[str, torch.dtype | None] = {"float32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Compute:
    """Where and how torch computes; made once from a job and passed to all code that uses torch.

    Attributes:
        device: device of the tensors.
        half: the 16-bit type of mixed precision; None for float32.
        channels_last: convolutions are trained in the memory format NHWC.
        compile: networks are compiled (``torch.compile``) where they are trained.
        threads: number of threads of torch on the processor; None: chosen (``training.threads``).
    """

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    half: torch.dtype | None = None
    channels_last: bool = False
    compile: bool = False
    threads: int | None = None

    @classmethod
    def on(cls, device: torch.device | str) -> Compute:
        """Returns settings for ``device``, with the precision that suits it."""
        own = torch.device(device)
        return cls(own, half_precision(own))

    @property
    def is_cuda(self) -> bool:
        """Whether the device is a GPU."""
        return self.device.type == "cuda"

    @property
    def random_devices(self) -> list[torch.device]:
        """The devices besides the processor that draw random numbers, for ``fork_rng``."""
        return [self.device] if self.is_cuda else []

    def autocast(self) -> torch.autocast:
        """Mixed precision for a forward pass; nothing for float32."""
        return torch.autocast(self.device.type, self.half, enabled=self.half is not None)

    def record(self) -> dict[str, Any]:
        """The settings that change results, as JSON.

        The number of threads is not one of them, because it only changes the last bits.
        """
        told: dict[str, Any] = {
            "device": self.device.type,
            "precision": "float32" if self.half is None else f"{self.half} mixed",
        }
        told |= {"channels_last": True} if self.channels_last else {}
        return told | ({"compile": True} if self.compile else {})


def half_precision(device: torch.device) -> torch.dtype | None:
    """The 16-bit type of mixed precision on ``device``; None for float32 (CPU).

    bfloat16 on GPUs with native support, else float16. Older GPUs (T4, V100) emulate bfloat16,
    which is slower than float32.
    """
    if device.type != "cuda":
        return None
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16


def compute_of(config: ComputeConfig) -> Compute:
    """The settings of a job, with ``auto`` decided for this machine.

    ``channels_last: auto`` is False here; ``opened.computing`` measures it.

    Raises:
        UserError: if this machine has no such device, or the device no such precision.
    """
    device = _device(config.device)
    if device.type == "cuda":
        _in_float32()
    half = half_precision(device) if config.precision == "auto" else PRECISIONS[config.precision]
    if half is not None and config.precision != "auto":
        _check_native(device, half, config.precision)
    return Compute(
        device,
        half,
        channels_last=config.channels_last is True,
        compile=config.compile,
        threads=None if config.threads == "auto" else config.threads,
    )


def give_memory_back() -> None:
    """Gives memory that no tensor uses back to other processes, also that of the GPU.

    Raises:
        TrialFailed: if the GPU fails, because this process can then not use it any more.
    """
    gc.collect()
    heap.give_back()
    if torch.cuda.is_initialized():
        try:
            torch.cuda.empty_cache()
        except RuntimeError as error:
            reason = str(error).partition("\n")[0]
            raise TrialFailed(f"the GPU cannot be used by this process any more: {reason}") from error


@contextmanager
def long_lived() -> Iterator[None]:
    """Within the block, garbage collection skips the objects that exist when it begins.

    Imports and opened jobs are hundreds of thousands of objects, so a collection that visits them
    takes 0.3 s. If the caller has frozen objects, all stay frozen afterwards: Python can only
    unfreeze all of them together.
    """
    gc.collect()
    is_frozen = gc.get_freeze_count() > 0
    gc.freeze()
    try:
        yield
    finally:
        if not is_frozen:
            gc.unfreeze()


def default_device() -> torch.device:
    """CUDA if available, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _device(asked: str) -> torch.device:
    if asked == "auto":
        return default_device()
    device = torch.device(asked)
    if device.type != "cuda":
        return device
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not count:
        raise UserError(f"'compute.device' is '{asked}', but torch finds no GPU here", "set compute.device to auto")
    if device.index is not None and device.index >= count:
        known = "cuda:0 is the only GPU" if count == 1 else f"the GPUs are cuda:0 to cuda:{count - 1}"
        raise UserError(f"'compute.device' is '{asked}', but {known} here", "set compute.device to auto")
    return device


def _in_float32() -> None:
    """Switches TF32 off, whose 10 bits of mantissa are less precise than float32 on a CPU."""
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False


def _check_native(device: torch.device, half: torch.dtype, asked: str) -> None:
    """Refuses 16 bits that the device only emulates: they are slower than float32."""
    if device.type == "cuda":
        if half is torch.bfloat16 and not torch.cuda.is_bf16_supported(including_emulation=False):
            name = torch.cuda.get_device_name(device)
            raise UserError(f"'compute.precision' is bf16, which {name} only emulates", "set it to fp16, or to auto")
        return
    if half is torch.float16 or not has_native_bfloat16():
        raise UserError(
            f"'compute.precision' is {asked}, which this processor only emulates", "set it to float32, or to auto"
        )


def warm_seconds(run: Callable[[], Any], device: torch.device, clock: Callable[[], float] = time.perf_counter) -> float:
    """Seconds of a call of ``run``, after a first call that allocates memory.

    Args:
        run: computes on ``device``.
        device: if it is a GPU, the time includes waiting for its result.
        clock: returns seconds.
    """
    began = 0.0
    for _ in range(2):
        began = clock()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
    return clock() - began
