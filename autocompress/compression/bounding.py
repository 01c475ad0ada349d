"""Reduces the images and passes of transfer sets that would take too long.

Images are made by gradient descent on pixels. The time of a set is therefore the number of images
times the number of passes times the seconds of one pass. On a processor, a pass takes some
milliseconds per image of 32 pixels, and some hundreds of milliseconds per image of 224. One pass is
timed first. If a set may only take a share of its time, its number of passes is multiplied by the
square root of this share (at least 100 passes remain). Then the number of images is reduced until
the set fits. At least 64 training images and 64 held-out images remain, if as many were asked for.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from autocompress import models
from autocompress.compute import warm_seconds
from autocompress.contract import DataSource, Params

SHARE = 0.3
"""Making images may take at most this share of the minutes of a search."""
UNLIMITED_SECONDS = 1800.0
"""Seconds for all images if the search has no limit."""
LEAST_PASSES, LEAST_IMAGES = 100, 64
PROBED = 4
"""Number of images in the timed pass. An untimed pass runs before it."""
IMAGES = "images"


@dataclass(frozen=True)
class Bounded:
    """The amounts of images that one source is to make.

    Attributes:
        params: parameters of the source, with the number of images for training.
        held_out: number of further images, on which candidates are judged.
        seconds: time for making all of them.
    """

    params: Params
    held_out: int
    seconds: float


@dataclass(frozen=True)
class Sharing:
    """How the time is divided among the sources.

    Attributes:
        sets: for each source that is used, what it makes in its time; the cheapest first.
        seconds: for each source that is used, its time in seconds.
        left_out: for each other source, the reason why it is not used.
    """

    sets: Mapping[str, Bounded]
    seconds: Mapping[str, float]
    left_out: Mapping[str, str]


def shared_out(
    asked: Mapping[str, tuple[DataSource, Params]],
    held_out: int,
    seconds: float,
    each: float,
    stated: Collection[str] = (),
) -> Sharing:
    """Divides the time among sources, the cheapest first. Unused time goes to the others.

    A source whose smallest set does not fit into its time is left out, except the cheapest source.

    Args:
        asked: each source with its default parameters.
        held_out: number of images of each source on which candidates are judged.
        seconds: time for all sources.
        each: seconds of a pass of one image.
        stated: sources whose sets are not reduced, however long they take.
    """
    wanted = {name: bounded(*own, held_out, math.inf, each).seconds for name, own in asked.items()}
    sets, times, left_out = dict[str, Bounded](), dict[str, float](), dict[str, str]()
    left = seconds
    for number, name in enumerate(sorted(asked, key=lambda name: wanted[name])):
        own = math.inf if name in stated else left / (len(asked) - number)
        found = bounded(*asked[name], held_out, own, each)
        if found.seconds > own and sets:
            left_out[name] = (
                f"its images would take {in_words(wanted[name])}, and its smallest set {in_words(found.seconds)}, "
                f"but its share of the time is {in_words(own)}"
            )
            continue
        sets[name], times[name] = found, own
        left = max(0.0, left - found.seconds)
    return Sharing(sets, times, left_out)


def in_words(seconds: float) -> str:
    """A duration as text, with few digits."""
    for unit, size in (("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def bounded(method: DataSource, params: Params, held_out: int, seconds: float, each: float) -> Bounded:
    """The set with ``params``, with fewer passes and images if it takes longer than ``seconds``.

    The smallest set may still take longer.

    Args:
        method: the source.
        params: parameters of the source.
        held_out: number of images of this source on which candidates are judged.
        seconds: maximum seconds for making the set and the held-out images.
        each: seconds of a pass of one image.
    """
    wanted, passes = params.get(IMAGES), method.passes(params)
    if not isinstance(wanted, int) or not passes:
        return Bounded(params, held_out, 0.0)
    whole = (wanted + held_out) * passes * each
    if whole <= seconds:
        return Bounded(params, held_out, whole)
    fewer = method.within(params, max(min(LEAST_PASSES, passes), passes * math.sqrt(seconds / whole)))
    passes = max(method.passes(fewer), 1e-9)
    images = int(min(seconds / (passes * each), wanted + held_out))
    judging = max(min(LEAST_IMAGES, held_out), held_out * images // (wanted + held_out))
    own = min(wanted, max(LEAST_IMAGES, images - judging))
    return Bounded({**fewer, IMAGES: own}, judging, (own + judging) * passes * each)


def pass_seconds(
    teacher: nn.Module, input_size: tuple[int, int, int], clock: Callable[[], float] = time.perf_counter
) -> float:
    """Seconds per image of one forward pass and the backward pass to the pixels."""
    device = models.device_of(teacher)
    pixels = torch.zeros(PROBED, *input_size, device=device, requires_grad=True)
    seconds = warm_seconds(lambda: torch.autograd.grad(teacher(pixels).float().sum(), pixels), device, clock)
    return seconds / PROBED
