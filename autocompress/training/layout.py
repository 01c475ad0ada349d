"""Memory formats: NCHW (torch's default) and NHWC (channels last); the faster is measured."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from autocompress import models
from autocompress.compute import Compute
from autocompress.devices.machine import machine
from autocompress.files import digest
from autocompress.store import Store
from autocompress.training.computing import computed_with
from autocompress.training.optimizing import Together

VERSION = 2
GAIN = 0.95
"""Channels last is used if its step takes at most this share of the default's time."""
ROUNDS = 3
MOST_IMAGES = 64
PIXELS = 64 * 48**2
"""Pixels of a batch that is timed: 64 images of 32 pixels, or 2 of 224."""
ENOUGH_S = 3.0
"""Seconds after which no round of timing begins. In steps that long, the noise is small."""
CLEAR = 0.1
"""No further round begins once the ratio of the times differs from ``GAIN`` by this share."""
FORMATS = (torch.contiguous_format, torch.channels_last)


def to_memory_format(model: nn.Module, form: torch.memory_format) -> None:
    """Converts weights of convolutions to memory format ``form``; others are unchanged."""
    for parameter in model.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=form)


def laid_out_as_parameters(optimizer: torch.optim.Optimizer) -> None:
    """Gives loaded states the memory format of their parameters.

    Fused optimizers read both in the order of memory.
    """
    for part in optimizer.parts if isinstance(optimizer, Together) else [optimizer]:
        for parameter, own in part.state.items():
            for name, value in own.items():
                if isinstance(value, torch.Tensor) and value.shape == parameter.shape:
                    own[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def is_faster_last(
    model: nn.Module,
    compute: Compute,
    store: Store,
    pause: Callable[[], None] | None = None,
    clock: Callable[[], float] | None = None,
) -> bool:
    """Whether ``model`` trains faster with channels last, by ``GAIN`` at least.

    A step is timed in both formats, once for each architecture, way of computing and class of
    machine. The answer is kept in ``store``, so that later runs compute in the same way.

    Args:
        model: not changed.
        compute: where and how torch computes.
        store: store for the result.
        pause: called while another process measures.
        clock: returns seconds. By default, these are seconds of the processor if torch has one
            thread, because other processes hardly change them.
    """
    if clock is None:
        is_alone = torch.get_num_threads() == 1 and not compute.is_cuda
        clock = time.thread_time if is_alone else time.perf_counter
    known = machine()
    about = [known["processor"], known["features"], torch.get_num_threads()]
    if compute.is_cuda:
        about.append(torch.cuda.get_device_name(compute.device))
    key = digest("memory format", VERSION, models.architecture(model), computed_with(compute), about)
    default, last = store.made(key, lambda: _times(model, compute, clock), pause)
    return bool(last <= GAIN * default)


def _times(model: nn.Module, compute: Compute, clock: Callable[[], float]) -> list[float]:
    """Seconds of the fastest training step in each of ``FORMATS``; the formats alternate."""
    steps = [training_step(model, compute, form) for form in FORMATS]
    found: list[list[float]] = [[], []]
    started = clock()
    for done in range(1 + ROUNDS):
        if done > 1 and (clock() - started > ENOUGH_S or _is_clear(*(min(own[1:]) for own in found))):
            break
        for step, own in zip(steps, found, strict=True):
            before = clock()
            step()
            own.append(clock() - before)
    return [min(own[1:]) for own in found]  # the first round is warm-up


def _is_clear(default: float, last: float) -> bool:
    """Whether it is clear which format is faster, so that no further round is needed."""
    return abs(math.log(last / (GAIN * default))) > CLEAR


def training_step(model: nn.Module, compute: Compute, form: torch.memory_format) -> Callable[[], None]:
    """A training step of a copy of ``model`` on images of noise, without an optimizer."""
    twin, size = copy.deepcopy(model).to(compute.device).train(), models.input_size(model)
    to_memory_format(twin, form)
    count = max(2, min(MOST_IMAGES, PIXELS // (size[1] * size[2])))
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(count, *size, generator=generator).to(compute.device).contiguous(memory_format=form)

    def step() -> None:
        with torch.random.fork_rng(devices=compute.random_devices):  # dropout
            with compute.autocast():
                outputs = twin(images)
            twin.zero_grad(set_to_none=True)
            F.cross_entropy(outputs.float(), _zeros_like(outputs)).backward()
        if compute.is_cuda:
            torch.cuda.synchronize(compute.device)

    return step


def _zeros_like(outputs: torch.Tensor) -> torch.Tensor:
    """Class 0 for each image, or for each position if outputs have positions."""
    return torch.zeros((len(outputs), *outputs.shape[2:]), dtype=torch.int64, device=outputs.device)
