"""AdderNet's CPU kernels on the layers of ResNet-18, compared with what PyTorch has.

Rivals alternate, with one run of each in a round. Ratios are medians over the rounds, with
bootstrap intervals. In float32, the rival is what PyTorch has without a kernel: patches,
``torch.cdist(p=1)``, and a backward pass by AdderNet's rules in chunks. In integers, the rival is
``conv2d`` in float32, in the faster of both memory formats. Our time includes reading patches, as
that of the convolution includes its preparations.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.nn import functional

import int8
from autocompress_adder.kernels import chunked, processor
from autocompress_adder.ops import adder2d, adder2d_backward, sad2d

TARGETS = {"forward": 8.0, "forward_and_backward": 8.0, "integers": 1.5}
CHUNK = 1 << 18
"""Number of differences in memory during the rival's backward pass.

It is the fastest of 2**16 to 2**22 for almost all layers.
"""


class Layer(NamedTuple):
    """An adder layer of ResNet-18.

    Channels, columns of its input at 224 pixels, filters, kernel, stride, count.
    """

    channels: int
    size: int
    filters: int
    kernel: int
    stride: int
    count: int

    def name(self) -> str:
        """A name such as ``64x56 to 64, 3x3``."""
        down = f", stride {self.stride}" if self.stride > 1 else ""
        return f"{self.channels}x{self.size} to {self.filters}, {self.kernel}x{self.kernel}{down}"

    def of(self, pixels: int) -> Layer:
        """The same layer for images of another size in pixels."""
        return self._replace(size=max(self.size * pixels // 224, 1))


LAYERS = (
    Layer(64, 56, 64, 3, 1, 4),
    Layer(64, 56, 128, 3, 2, 1),
    Layer(64, 56, 128, 1, 2, 1),
    Layer(128, 28, 128, 3, 1, 3),
    Layer(128, 28, 256, 3, 2, 1),
    Layer(128, 28, 256, 1, 2, 1),
    Layer(256, 14, 256, 3, 1, 3),
    Layer(256, 14, 512, 3, 2, 1),
    Layer(256, 14, 512, 1, 2, 1),
    Layer(512, 7, 512, 3, 1, 3),
)
"""All layers except the stem, which is a convolution, with their counts in the network."""


def run(sizes: list[int], batch: int, layers: int, rounds: int, integer_rounds: int) -> dict[str, Any]:
    """Both comparisons.

    Args:
        sizes: pixels of the images.
        batch: batch size for images below 64 pixels; for larger ones it is 1.
        layers: number of layers of ``LAYERS`` to compare.
        rounds, integer_rounds: number of rounds for each layer, in float and in integers.
    """
    threads = torch.get_num_threads()
    floats, integers = [], []
    for pixels in sizes:
        images = batch if pixels < 64 else 1
        floats += [_floats(layer.of(pixels), pixels, images, rounds) for layer in LAYERS[:layers]]
        torch.set_num_threads(1)
        integers += [_integers(layer.of(pixels), pixels, images, integer_rounds) for layer in LAYERS[:layers]]
        torch.set_num_threads(threads)
    totals = [_total(floats, integers, pixels) for pixels in sizes]
    return {
        "targets": TARGETS,
        "threads": {"float": threads, "integers": 1},
        "instructions": sorted(processor.features() & {"avx2", "fma", "avx512f", "avx512bw", "avx512_vnni"}),
        "rounds": rounds,
        "integer_rounds": integer_rounds,
        "float": floats,
        "integers": integers,
        "network": totals,
        "met": all(row["exact"] for row in integers)
        and all(total[key]["median"] >= target for total in totals for key, target in TARGETS.items()),
    }


def _floats(layer: Layer, pixels: int, images: int, rounds: int) -> dict[str, Any]:
    stride, padding = [layer.stride] * 2, [layer.kernel // 2] * 2
    x = torch.randn(images, layer.channels, layer.size, layer.size)
    weight = torch.randn(layer.filters, layer.channels, layer.kernel, layer.kernel)
    out = adder2d(x, weight, stride, padding)
    slope = torch.randn_like(out)
    distances = chunked.distances(1.0)
    forward = {
        "ours": lambda: adder2d(x, weight, stride, padding),
        "cdist": lambda: chunked.forward(x, weight, stride, padding, distances),
    }

    def chunks() -> Any:
        before, chunked.NUMBERS = chunked.NUMBERS, CHUNK
        try:
            return chunked.backward(slope.flatten(2), x, weight, stride, padding, chunked.clipped)
        finally:
            chunked.NUMBERS = before

    backward = {
        "ours, backward": lambda: adder2d_backward(slope, x, weight, stride, padding, [True, True]),
        "chunked, backward": chunks,
    }
    blocks = _turns({**forward, **backward}, rounds)
    both = blocks["ours"] + blocks["ours, backward"], blocks["cdist"] + blocks["chunked, backward"]
    return {
        "layer": layer.name(),
        "pixels": pixels,
        "images": images,
        "count": layer.count,
        "milliseconds": {name: 1e3 * float(np.median(values)) for name, values in blocks.items()},
        "forward": int8.ratio(blocks["cdist"], blocks["ours"]),
        "forward_and_backward": int8.ratio(both[1], both[0]),
        "blocks": {name: values.tolist() for name, values in blocks.items()},
    }


def _integers(layer: Layer, pixels: int, images: int, rounds: int) -> dict[str, Any]:
    stride, padding, zero = [layer.stride] * 2, [layer.kernel // 2] * 2, 7
    last = torch.channels_last
    x = torch.randint(0, 256, (images, layer.channels, layer.size, layer.size)).byte().contiguous(memory_format=last)
    shape = (layer.filters, layer.channels, layer.kernel, layer.kernel)
    weight = torch.randint(0, 256, shape).byte().contiguous(memory_format=last)
    padded = functional.pad(x.double(), (padding[1],) * 2 + (padding[0],) * 2, value=float(zero))
    wanted = chunked.forward(padded, weight.double(), stride, [0, 0], chunked.distances(1.0))
    exact = torch.equal(sad2d(x, weight, stride, padding, zero).flatten(2), -wanted.int())
    floats = [(x.float(), weight.float())]
    floats.append((floats[0][0].contiguous(), floats[0][1].contiguous()))

    def convolution(x: torch.Tensor, weight: torch.Tensor) -> Callable[[], Any]:
        return lambda: functional.conv2d(x, weight, None, stride, padding)

    with torch.inference_mode():
        blocks = _turns(
            {
                "ours": lambda: sad2d(x, weight, stride, padding, zero),
                "conv2d, channels last": convolution(*floats[0]),
                "conv2d, contiguous": convolution(*floats[1]),
            },
            rounds,
        )
    rival = min(list(blocks)[1:], key=lambda name: float(np.median(blocks[name])))
    taps = wanted.numel() * weight[0].numel()
    return {
        "layer": layer.name(),
        "pixels": pixels,
        "images": images,
        "count": layer.count,
        "exact": exact,
        "rival": rival,
        "milliseconds": {name: 1e3 * float(np.median(values)) for name, values in blocks.items()},
        "taps_per_second": taps / float(np.median(blocks["ours"])),
        "integers": int8.ratio(blocks[rival], blocks["ours"]),
        "blocks": {"ours": blocks["ours"].tolist(), "rival": blocks[rival].tolist()},
    }


def _turns(rivals: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, np.ndarray]:
    """Seconds of each in each round, ``(rounds,)``, after one run that does not count."""
    blocks: dict[str, list[float]] = {name: [] for name in rivals}
    for turn in range(rounds + 1):
        for name, rival in rivals.items():
            started = time.perf_counter()
            rival()
            if turn:
                blocks[name].append(time.perf_counter() - started)
    return {name: np.array(values) for name, values in blocks.items()}


def _total(floats: list[dict[str, Any]], integers: list[dict[str, Any]], pixels: int) -> dict[str, Any]:
    """The sum over the adder layers of the network by round, and the minimum ratio of a layer."""

    def summed(rows: list[dict[str, Any]], *names: str) -> np.ndarray:
        here = [row for row in rows if row["pixels"] == pixels]
        found: np.ndarray = np.sum([row["count"] * np.array(row["blocks"][name]) for row in here for name in names], 0)
        return found

    def least(rows: list[dict[str, Any]], key: str) -> float:
        return min(row[key]["median"] for row in rows if row["pixels"] == pixels)

    ours, theirs = ("ours", "ours, backward"), ("cdist", "chunked, backward")
    return {
        "pixels": pixels,
        "forward": int8.ratio(summed(floats, "cdist"), summed(floats, "ours")),
        "forward_and_backward": int8.ratio(summed(floats, *theirs), summed(floats, *ours)),
        "integers": int8.ratio(summed(integers, "rival"), summed(integers, "ours")),
        "least": {
            "forward": least(floats, "forward"),
            "forward_and_backward": least(floats, "forward_and_backward"),
            "integers": least(integers, "integers"),
        },
    }


def lines(part: dict[str, Any]) -> list[str]:
    """The table of this part."""
    shown = []
    for of_floats, of_integers in zip(part["float"], part["integers"], strict=True):
        exact = "exact" if of_integers["exact"] else "NOT EXACT"
        shown.append(
            f"{of_floats['pixels']:>3} px, {of_floats['images']:>2} images, {of_floats['layer']:<28} "
            f"cdist/ours {_text(of_floats['forward'])}, with backward {_text(of_floats['forward_and_backward'])}; "
            f"convolution/integers {_text(of_integers['integers'])}, {exact}"
        )
    for total in part["network"]:
        for key, target in part["targets"].items():
            met = "yes" if total[key]["median"] >= target else "no"
            shown.append(
                f"{total['pixels']:>3} px, all layers: {key.replace('_', ' ')} {_text(total[key])} "
                f"(target {target}: {met}; least of a layer {total['least'][key]:.2f})"
            )
    return shown


def _text(ratio: Mapping[str, float]) -> str:
    return "{median:.2f} ({low:.2f}..{high:.2f})".format(**ratio)
