"""Runs a float and a compressed network on the same images and compares outputs of layers."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import fx, nn

from autocompress.layer_errors.channels import Kept
from autocompress.task import Classification, Task

_CLASSES = Classification()
Progress = Callable[[float, str], None]
LEAST_IMAGES = 4
"""Minimum number of images for the divergence of each layer alone."""
PIXELS_TOGETHER = 16 * 64**2
"""Maximum number of pixels of a batch, because the outputs of all layers are in memory."""


@dataclass(frozen=True)
class LayerError:
    """The error of a layer's output, over all images, in the remaining channels.

    Attributes:
        layer: its name.
        kept, channels: number of output channels that remain, and of the baseline.
        snr_db: power of the float output relative to that of the difference, in decibels.
        cosine: cosine similarity of both outputs.
        kl: Kullback-Leibler divergence of the class probabilities in nats, if the float network
            continues from the output of this layer in the compressed network. It is the error of
            all layers so far that passes through this layer.
        own_kl: the same if only this layer is that of the compressed network, with float inputs;
            None if it cannot run in the float network. Integers of its input are not simulated.
    """

    layer: str
    kept: int
    channels: int
    snr_db: float
    cosine: float
    kl: float
    own_kl: float | None


@dataclass
class _Sums:
    signal: float = 0.0
    noise: float = 0.0
    other: float = 0.0
    product: float = 0.0
    kl: float = 0.0
    own_kl: float = 0.0
    images: int = 0
    runs_alone: bool = True

    def error(self, layer: str, kept: int, channels: int) -> LayerError:
        """The figures of the layer."""
        scale = math.sqrt(self.signal * self.other)
        snr = math.inf if not self.noise else 10 * math.log10(max(self.signal, 1e-300) / self.noise)
        cosine = self.product / scale if scale else float(self.signal == self.other)
        own = self.own_kl / self.images if self.runs_alone else None
        return LayerError(layer, kept, channels, snr, cosine, self.kl / self.images, own)


@dataclass
class Compared:
    """The comparison of both networks.

    Attributes:
        layers: the layers in the order in which they run.
        kl: KL divergence of the logits, in nats.
        equal: percent of images with the same label.
        images: number of images.
    """

    layers: list[LayerError]
    kl: float
    equal: float
    images: int


def compare_layers(
    reference: fx.GraphModule,
    compressed: fx.GraphModule,
    kept: Mapping[str, Kept],
    images: torch.Tensor,
    progress: Progress | None = None,
    task: Task = _CLASSES,
) -> Compared:
    """Compares the layers that both networks have and call once.

    Args:
        reference: the float network with folded batch norms, eval.
        compressed: eval; its layers have the same names.
        kept: remaining channels, by layer.
        images: float32 ``(N, C, H, W)``.
        progress: told the finished fraction and a word.
        task: whose divergence is computed; for classes, the KL divergence.
    """
    names = _shared(reference, compressed, kept)
    sums = {name: _Sums() for name in names}
    channels = {name: _channels(reference.get_submodule(name)) for name in names}
    together = max(1, PIXELS_TOGETHER // (images.shape[2] * images.shape[3]))
    divergence, equal = 0.0, 0.0
    with torch.no_grad():
        for start in range(0, len(images), together):
            batch = images[start : start + together]
            with _recorded(reference, names) as ours:
                expected = reference(batch)
            with _recorded(compressed, names) as theirs:
                found = compressed(batch)
            divergence += _kl(expected, found, task)
            equal += float(task.agreement(expected, found).sum())
            for number, name in enumerate(names):
                one = _Layer(name, reference, compressed, kept[name], task)
                one.add(sums[name], batch, expected, ours[name], theirs[name][1])
                if progress is not None:
                    progress((start + (number + 1) / len(names) * len(batch)) / len(images), f"layer {name}")
    layers = [sums[name].error(name, len(kept[name].outputs), channels[name]) for name in names]
    return Compared(layers, divergence / len(images), 100.0 * equal / len(images), len(images))


def losses_alone(
    reference: fx.GraphModule,
    compressed: fx.GraphModule,
    kept: Mapping[str, Kept],
    images: torch.Tensor,
    seconds: float = math.inf,
    task: Task = _CLASSES,
) -> dict[str, float]:
    """The mean divergence by layer, if only this layer is that of the compressed network.

    It is :attr:`LayerError.own_kl`. Layers that cannot run in the float network are left out.

    Args:
        reference, compressed, kept, task: as for :func:`compare_layers`.
        images: float32 ``(N, C, H, W)``; fewer are used if the time is short.
        seconds: for all layers; if ``LEAST_IMAGES`` take longer, the result is empty.
    """
    names = _shared(reference, compressed, kept)
    found: dict[str, float] = {}
    with torch.no_grad():
        reference(images[:1])  # the first pass takes longer
        began = time.monotonic()
        reference(images[:1])
        each = max(time.monotonic() - began, 1e-6) * max(len(names), 1)
        most = PIXELS_TOGETHER // (images.shape[2] * images.shape[3])
        count = min(len(images), max(LEAST_IMAGES, most), int(min(seconds / each, len(images))))
        if count < min(LEAST_IMAGES, len(images)):
            return {}
        batch = images[:count]
        with _recorded(reference, names) as ours:
            expected = reference(batch)
        for name in names:
            if time.monotonic() - began > seconds:
                return {}
            loss = _Layer(name, reference, compressed, kept[name], task).alone(batch, expected, *ours[name])
            if loss is not None:
                found[name] = loss / len(batch)
    return found


@dataclass(frozen=True)
class _Layer:
    """A layer of both networks."""

    name: str
    reference: nn.Module
    compressed: nn.Module
    kept: Kept
    task: Task

    def add(
        self,
        sums: _Sums,
        batch: torch.Tensor,
        expected: torch.Tensor,
        ours: tuple[torch.Tensor, torch.Tensor],
        theirs: torch.Tensor,
    ) -> None:
        """Adds a batch: ``ours`` is input and output of the float layer, ``theirs`` the output."""
        own_input, own = ours
        axis = 1 if own.ndim == 4 else own.ndim - 1
        part = own.index_select(axis, self.kept.outputs).double()
        other = theirs.double()
        sums.signal += float(part.square().sum())
        sums.other += float(other.square().sum())
        sums.product += float((part * other).sum())
        sums.noise += float((part - other).square().sum())
        sums.images += len(batch)
        sums.kl += _kl(
            expected, self._instead(batch, own.index_copy(axis, self.kept.outputs, theirs.to(own.dtype))), self.task
        )
        own_kl = self.alone(batch, expected, own_input, own)
        if own_kl is None:
            sums.runs_alone = False
        else:
            sums.own_kl += own_kl

    def alone(
        self, batch: torch.Tensor, expected: torch.Tensor, own_input: torch.Tensor, own: torch.Tensor
    ) -> float | None:
        """The sum of divergences if only this layer is compressed; None if it cannot run so."""
        axis = 1 if own.ndim == 4 else own.ndim - 1
        alone = self._alone(own_input)
        wanted = [len(self.kept.outputs) if number == axis else size for number, size in enumerate(own.shape)]
        if alone is None or list(alone.shape) != wanted:
            return None
        patched = own.index_copy(axis, self.kept.outputs, alone.to(own.dtype))
        return _kl(expected, self._instead(batch, patched), self.task)

    def _alone(self, own_input: torch.Tensor) -> torch.Tensor | None:
        """The compressed layer on the float layer's input."""
        layer = self.compressed.get_submodule(self.name)
        axis = 1 if own_input.ndim == 4 else own_input.ndim - 1
        wanted = getattr(layer, "in_channels", None) or getattr(layer, "in_features", None)
        if wanted == own_input.shape[axis]:
            return torch.as_tensor(layer(own_input))
        if wanted != len(self.kept.inputs):
            return None
        return torch.as_tensor(layer(own_input.index_select(axis, self.kept.inputs)))

    def _instead(self, batch: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
        """The logits of the float network with ``output`` in place of the output of this layer."""
        hook = self.reference.get_submodule(self.name).register_forward_hook(lambda *_: output)
        try:
            return torch.as_tensor(self.reference(batch))
        finally:
            hook.remove()


def _kl(expected: torch.Tensor, found: torch.Tensor, task: Task) -> float:
    """Sum over images of the divergence; for classes KL(expected || found) in nats."""
    return float(task.total_divergence(expected.double(), found.double()))


def _shared(reference: fx.GraphModule, compressed: fx.GraphModule, kept: Mapping[str, Kept]) -> list[str]:
    """The layers that both networks have and call once, in the order in which they run."""
    theirs = set(_called_once(compressed))
    return [name for name in _called_once(reference) if name in kept and name in theirs]


def _called_once(module: fx.GraphModule) -> list[str]:
    calls = Counter(str(node.target) for node in module.graph.nodes if node.op == "call_module")
    return [name for name, count in calls.items() if count == 1]


def _channels(layer: nn.Module) -> int:
    found = getattr(layer, "out_channels", None) or getattr(layer, "out_features", None)
    return int(found or 0)


@contextmanager
def _recorded(module: nn.Module, names: list[str]) -> Iterator[dict[str, tuple[torch.Tensor, torch.Tensor]]]:
    """Input and output of the named layers, filled when the module runs."""
    found: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}

    def keep(name: str) -> Callable[..., None]:
        def hook(_: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
            # Copies, because later activations may work in place.
            found[name] = inputs[0].clone(), output.clone()

        return hook

    hooks = [module.get_submodule(name).register_forward_hook(keep(name)) for name in names]
    try:
        yield found
    finally:
        for one in hooks:
            one.remove()
