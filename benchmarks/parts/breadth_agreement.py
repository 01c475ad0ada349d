"""Whether an ONNX file and its torch model compute the same: integers step by step, or floats."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from autocompress.export import open_session
from autocompress.export.exporter import INPUT
from autocompress.graph import evaluating

FLOAT_ERROR = 1e-4
"""Maximum difference of float outputs, relative to the largest.

A network that enlarges rounding errors may differ more: ``FACTOR`` times as much as torch itself
differs from double precision.
"""
FACTOR = 4.0
CORRELATION = 0.99
"""Minimum correlation of outputs of file and torch over images, without the mean over images.

Outputs that do not depend on the image have none, so their agreement proves nothing.
"""
STEPS, SHARE = 1, 0.01
"""Maximum difference of an integer, and maximum share of integers that differ and are no ties.

Given equal integers, file and torch differ by rounding errors of float32. An integer changes only
where a value lies that close to the edge of a step.
"""
TIE = 1e-3
"""A value is a tie if it lies that close to the middle of two steps, in steps.

Sums and means of integers on related grids are often exactly in the middle, and so is the hard
sigmoid of 0. Errors of float32 then decide, so ties may differ.
"""
_TRIP, _SIGMOID = torch.ops.autocompress.round_trip.default, torch.ops.autocompress.hard_sigmoid.default
Key = tuple[float, int]
"""Scale and zero point of integers."""


def integers_agree(model: nn.Module, file: Path, images: torch.Tensor) -> dict[str, Any]:
    """Compares all activations that are integers, each computed from the integers of the file.

    Torch gets the integers of the file at each of its quantizers. So each part of the network
    between two quantizers is compared alone, with equal inputs, and differences do not add up.

    Args:
        model: the hardened network that was written to ``file``.
        file: the ONNX file.
        images: at least two.
    """
    seen = _Seen(file, images)
    with evaluating(model), _Forced(seen.by_key()) as forced:
        ours = model(images)
    difference = relative(torch.from_numpy(seen.logits), ours)
    share = (forced.differing - forced.tied) / max(forced.compared, 1)
    agrees = forced.steps <= STEPS and share <= SHARE and difference <= FLOAT_ERROR
    # The file may hold a constant in place of a quantizer, or its integers in another shape. Torch
    # then uses its own, and the quantizers behind it show whether the file has the same.
    is_covered = forced.unmatched == 0 or forced.worst <= SHARE
    return {
        "rule": "integers",
        "agrees": agrees and is_covered and forced.layers > 0,
        "tensors": forced.layers,
        "unmatched": forced.unmatched,
        "hidden": forced.hidden,
        "steps": forced.steps,
        "share": float(f"{share:.2g}"),
        "worst": float(f"{forced.worst:.2g}"),
        "ties": float(f"{forced.tied / max(forced.compared, 1):.2g}"),
        "between_images": float(f"{forced.moved / max(forced.compared, 1):.2g}"),
        "difference": float(f"{difference:.2g}"),
    }


def floats_agree(model: nn.Module, session: Any, images: torch.Tensor) -> dict[str, Any]:
    """Compares outputs, and how they change with the image."""
    with evaluating(model):
        ours = model(images)
        theirs = torch.from_numpy(session.run(None, {INPUT: images.numpy()})[0])
        difference, allowed = relative(theirs, ours), FLOAT_ERROR
        if difference > allowed:
            exact = copy.deepcopy(model).double()(images.double())
            allowed = max(allowed, FACTOR * relative(ours.double(), exact))
    own, other = (values.double() - values.double().mean(0) for values in (ours, theirs))
    correlation = float((own * other).sum() / (own.norm() * other.norm()).clamp(min=1e-30))
    return {
        "rule": "floats",
        "agrees": difference <= allowed and correlation >= CORRELATION,
        "difference": float(f"{difference:.2g}"),
        "allowed": float(f"{allowed:.2g}"),
        "correlation": round(correlation, 4),
        "between_images": float(f"{relative(ours[:1], ours[1:2]):.2g}"),
    }


def relative(one: torch.Tensor, other: torch.Tensor) -> float:
    """The largest difference relative to the largest value of ``other``."""
    return float((one - other).abs().max() / other.abs().max().clamp(min=1e-12))


class _Forced(TorchDispatchMode):
    """Gives torch the integers of the file at each quantizer, and counts how they differ.

    Attributes:
        layers, hidden, unmatched: the number of quantizers with integers of the file, with hidden
            integers, and without a quantizer of the file.
        compared, differing, moved: the number of integers; of those that differ between file and
            torch; of those that differ between an image and the next.
        tied: the number of differing integers that are ties.
        steps: the largest difference.
        worst: the largest share of differing integers of a quantizer.
    """

    def __init__(self, waiting: dict[Key, list[np.ndarray | None]]) -> None:
        super().__init__()
        self._waiting = waiting
        self.worst = 0.0
        self.layers = self.hidden = self.unmatched = self.compared = self.differing = self.moved = self.steps = 0
        self.tied = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if func not in (_TRIP, _SIGMOID):
            return made
        scale, zero, low, high = args[1:]
        step = np.float32(scale) if func is _TRIP else np.float32(6) * np.float32(scale)
        waiting = self._waiting.get((float(step), zero), [])
        fitting = (place for place, one in enumerate(waiting) if one is None or one.shape == made.shape)
        place = next(fitting, None)
        integers = None if place is None else waiting.pop(place)
        if integers is None:
            on_grid = func is _TRIP and torch.equal(made, args[0])  # such a step changes nothing
            self.hidden += place is not None
            self.unmatched += place is None and not on_grid
            return made
        theirs = torch.from_numpy(integers.astype(np.int64)).clamp(low, high)
        ours = (made / torch.tensor(scale, dtype=made.dtype)).round().long() + zero
        self.layers += 1
        self.compared += ours.numel()
        differs = ours != theirs
        value = args[0].double() if func is _TRIP else (args[0].double() + 3) / 6
        tied = int((differs & _is_tie(value / scale)).sum())
        self.differing += int(differs.sum())
        self.tied += tied
        self.worst = max(self.worst, (int(differs.sum()) - tied) / max(ours.numel(), 1))
        self.steps = max(self.steps, int((ours - theirs).abs().max()))
        self.moved += int((theirs != theirs.roll(1, 0)).sum()) if theirs.ndim else 0
        return (theirs - zero).to(made.dtype) * torch.tensor(scale, dtype=made.dtype)


def _is_tie(steps: torch.Tensor) -> torch.Tensor:
    return (steps - steps.floor() - 0.5).abs() <= TIE


class _Seen:
    """The integers of a file on some images.

    An integer is hidden if the file computes other logits when it gives this integer too: the
    runtime then uses other kernels.
    """

    def __init__(self, file: Path, images: torch.Tensor) -> None:
        self._proto, self._images = onnx.load(file), {INPUT: images.numpy()}
        self._path = file.with_suffix(".integers.onnx")
        self._quantizers = [node for node in self._proto.graph.node if node.op_type == "QuantizeLinear"]
        (self.logits,) = open_session(file).run(None, self._images)
        self._values: dict[str, np.ndarray] = {}
        self._look([node.output[0] for node in self._quantizers])

    def _look(self, names: Sequence[str]) -> None:
        """Runs the file with these outputs; if its logits change, with half of them each."""
        proto = copy.deepcopy(self._proto)
        proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
        onnx.save(proto, self._path)
        logits, *values = open_session(self._path).run(None, self._images)
        if np.array_equal(logits, self.logits):
            self._values |= dict(zip(names, values, strict=True))
        elif len(names) > 1:
            self._look(names[: len(names) // 2])
            self._look(names[len(names) // 2 :])

    def by_key(self) -> dict[Key, list[np.ndarray | None]]:
        """The integers of all quantizers in the order of the file; None for hidden ones."""
        constants = {one.name: onnx.numpy_helper.to_array(one) for one in self._proto.graph.initializer}
        found: dict[Key, list[np.ndarray | None]] = defaultdict(list)
        for node in self._quantizers:
            scale, zero = (constants[name] for name in node.input[1:3])
            found[float(scale), int(zero)].append(self._values.get(node.output[0]))
        return found
