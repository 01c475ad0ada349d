"""The layers of the recommended model and of the baseline: two strips, a table and a sentence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from markupsafe import Markup

from autocompress.report import words
from autocompress.report.charts.drawing import drawing, tag
from autocompress.results import SearchResult

WIDTH, HEIGHT = 1000, 84
SLOWEST = 3
"""Number of layers in the sentence."""
Row = Mapping[str, Any]


@dataclass(frozen=True)
class LayerRow:
    """A row of the table of layers, as texts."""

    layer: str
    group: str
    operator: str
    channels: str
    bits: str
    params: str
    size: str
    time: str
    loss: str


@dataclass(frozen=True)
class Strip:
    """The layers of a model.

    Attributes:
        trial: number of the model's trial.
        widths: picture of the share of channels that each layer keeps.
        times: picture of the time of each layer before and after; empty if not measured.
        losses: picture of the loss if only this layer is compressed; empty if not computed.
        slowest: a sentence about the slowest layers.
        rows: rows of the table.
    """

    trial: int
    widths: Markup
    times: Markup
    losses: Markup
    slowest: str
    rows: list[LayerRow]


def strip(result: SearchResult) -> Strip | None:
    """The layers of the run's recommended model; None if the run has no such data."""
    told = result.summary.get("explained") or {}
    layers = told.get("layers") or []
    if not layers:
        return None
    pictures = _widths(layers), _times(layers), _losses(layers)
    return Strip(int(told.get("trial", -1)), *pictures, _slowest(layers), [_row(one) for one in layers])


def bits_of(layer: Row) -> str:
    """``int8``, ``W2A8``, ``float``, ``float, int8 weights``."""
    weight, activation = layer["weight_bits"], layer["activation_bits"]
    if weight is None:
        return "float"
    label = f"int{weight}" if weight == activation else f"W{weight}A{activation}"
    return label if layer["computes"] == "integers" else f"float, int{weight} weights"


def _row(layer: Row) -> LayerRow:
    times = layer.get("us") or [None, None]
    known = [None if time is None else f"{time:.3g}" for time in times]
    return LayerRow(
        layer=str(layer["layer"]),
        group=str(layer["group"]),
        operator=f"{layer['operator']} → {layer['became']}" if layer["became"] else str(layer["operator"]),
        channels=_pair(layer["channels"]),
        bits=bits_of(layer),
        params=" → ".join(words.count(value) for value in layer["params"]),
        size=_bytes(layer),
        time=" → ".join(words.MISSING if time is None else time for time in known),
        loss=words.MISSING if layer.get("loss") is None else f"{layer['loss']:.2g}",
    )


def _bytes(layer: Row) -> str:
    """The size of the parameters, in float before and with the bits of the weights after."""
    before, after = layer["params"]
    return f"{words.size(4 * before)} → {words.size(after * (layer['weight_bits'] or 32) / 8)}"


def _pair(channels: Sequence[int]) -> str:
    before, after = channels
    return f"{before} → {after}" if after and after != before else str(before)


def _share(layer: Row) -> float:
    before, after = layer["channels"]
    return after / before if before and after else 1.0


def _kind(layer: Row) -> str:
    if layer["computes"] == "float":
        return "in-float"
    return "low" if layer["weight_bits"] < 8 else "int8"


def _is_untouched(layer: Row) -> bool:
    """Whether a layer is the same as in the baseline."""
    same = all(layer[name][0] == layer[name][1] for name in ("params", "macs"))
    return same and not layer["became"] and layer["weight_bits"] is None and _share(layer) == 1


def _frame(layers: Sequence[Row], title: str) -> tuple[float, list[Markup]]:
    """The width of a layer's column, and the common parts of both strips: title and groups."""
    column = WIDTH / len(layers)
    parts, start = [tag("text", title, class_="title", x=0, y=12)], 0
    for group, members in groupby(layers, key=lambda layer: str(layer["group"])):
        count = len(list(members))
        room = int(count * column / 7.5)
        text = group if len(group) <= room else f"{group[: max(room - 1, 1)]}…"
        parts.append(tag("text", text, x=round(start * column + 2, 1), y=HEIGHT - 2))
        parts.append(tag("path", class_="axis", d=f"M{start * column:.1f} {HEIGHT - 18}v10"))
        start += count
    return column, parts


def _column(number: int, column: float, share: float, class_: str, title: str | None = None) -> Markup:
    tall = round(46 * min(max(share, 0.0), 1.0), 1)
    gap = min(2.0, column / 5)
    place = {"x": round(number * column + gap / 2, 1), "y": round(20 + 46 - tall, 1)}
    inner = "" if title is None else str(tag("title", title))
    box = str(tag("rect", **place, width=round(column - gap, 1), height=max(tall, 0.8), class_=class_))
    return Markup(box[:-2] + f">{inner}</rect>" if inner else box)


def _widths(layers: Sequence[Row]) -> Markup:
    column, parts = _frame(layers, "Share of channels kept, and the bits that the layer computes with")
    for number, layer in enumerate(layers):
        told = _row(layer)
        title = f"{told.layer}: {told.channels} channels, {told.bits}"
        parts.append(_column(number, column, 1.0, "whole"))
        parts.append(_column(number, column, _share(layer), f"kept {_kind(layer)}", title))
    kept = [layer for layer in layers if _share(layer) < 1]
    label = f"{len(layers)} layers, {len(kept)} of them with fewer channels; the table below has their figures"
    return drawing(WIDTH, HEIGHT, label, parts, "strip")


def _times(layers: Sequence[Row]) -> Markup:
    pairs = [layer.get("us") or [None, None] for layer in layers]
    most = max((time for pair in pairs for time in pair if time is not None), default=0.0)
    if not most:
        return Markup("")
    column, parts = _frame(layers, f"Time with what follows it, up to {most:.3g} µs; outline: baseline")
    for number, (layer, (before, after)) in enumerate(zip(layers, pairs, strict=True)):
        title = f"{layer['layer']}: {_row(layer).time} µs"
        parts.append(_column(number, column, (after or 0) / most, f"kept {_kind(layer)}", title))
        parts.append(_column(number, column, (before or 0) / most, "before"))
    label = "Time of each layer before and after; the table below has the figures"
    return drawing(WIDTH, HEIGHT, label, parts, "strip")


def _losses(layers: Sequence[Row]) -> Markup:
    known = [layer.get("loss") or 0.0 for layer in layers]
    most = max(known)
    if most <= 0:
        return Markup("")
    column, parts = _frame(layers, f"Loss if only this layer is compressed, up to {most:.2g} nats")
    for number, (layer, loss) in enumerate(zip(layers, known, strict=True)):
        title = f"{layer['layer']}: {_row(layer).loss} nats"
        parts.append(_column(number, column, 1.0, "whole"))
        parts.append(_column(number, column, loss / most, "lost", title))
    label = "Loss if only one layer is compressed; the table below has the figures"
    return drawing(WIDTH, HEIGHT, label, parts, "strip")


def _slowest(layers: Sequence[Row]) -> str:
    """The sentence about the slowest layers of the model."""
    after = [(layer["us"][1], layer) for layer in layers if layer.get("us") and layer["us"][1] is not None]
    whole = sum(time for time, _ in after)
    if not whole:
        return ""
    first = sorted(after, key=lambda pair: -pair[0])[:SLOWEST]
    named = words.join(f"{layer['layer']} ({time / whole:.0%})" for time, layer in first)
    untouched = [time for time, layer in after if _is_untouched(layer)]
    text = f"It takes the most time in {named}."
    if untouched:
        text += f" {sum(untouched) / whole:.0%} of it is in layers that no step changed."
    return text
