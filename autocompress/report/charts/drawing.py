"""Small SVG pictures without a script: scales, ticks and elements, for the page and notebooks."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape


@dataclass(frozen=True)
class Scale:
    """Maps values to pixels.

    Attributes:
        low, high: values at the ends.
        start, end: the pixels of ``low`` and ``high``.
        log: a logarithmic scale.
    """

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """The pixel of ``value``, limited to the ends."""
        bend = math.log if self.log else float
        low, high = bend(self.low), bend(self.high)
        share = (bend(value) - low) / (high - low) if high > low else 0.5
        return round(self.start + min(max(share, 0.0), 1.0) * (self.end - self.start), 1)


def round_ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """About ``wanted`` values from ``low`` to ``high``: 1, 2 or 5 times a power of ten apart."""
    rough = (high - low) / max(wanted, 1)
    if not rough > 0 or not math.isfinite(rough):
        return [low]
    power = 10.0 ** math.floor(math.log10(rough))
    step = next((factor * power for factor in (1, 2, 5) if factor * power >= rough), 10 * power)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [float(f"{index * step:.12g}") for index in range(first, last + 1)]


def doubling_ticks(low: float, high: float, most: int = 7) -> list[float]:
    """Powers of two from ``low`` to ``high``; round values if there are fewer than two."""
    first, last = math.ceil(math.log2(low) - 1e-9), math.floor(math.log2(high) + 1e-9)
    every = max(1, math.ceil((last - first + 1) / most))
    ticks = [2.0**power for power in range(first, last + 1, every)]
    return ticks if len(ticks) > 1 else round_ticks(low, high, 3)


def tag(name: str, text: object = None, **attributes: object) -> Markup:
    """An element. In attribute names, ``_`` becomes ``-``, but a trailing ``_`` is dropped."""
    told = "".join(
        f' {key.removesuffix("_").replace("_", "-")}="{escape(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    return Markup(f"<{name}{told}/>" if text is None else f"<{name}{told}>{escape(text)}</{name}>")


def drawing(width: int, height: int, label: str, parts: Iterable[Markup], class_: str = "") -> Markup:
    """The picture: ``parts`` on a canvas that scales with the page.

    Args:
        width, height: size of the canvas, in its own pixels.
        label: a description for screen readers.
        parts: elements, the last one on top.
        class_: CSS class for styles.
    """
    head = f'<svg class="{escape(class_)}" viewBox="0 0 {width} {height}" role="img" aria-label="{escape(label)}">'
    return Markup(head) + Markup("").join(parts) + Markup("</svg>")


WAYS = (
    (-9, -7, "end"),
    (9, 19, "start"),
    (9, -7, "start"),
    (0, -14, "middle"),
    (0, 24, "middle"),
    (-11, 4, "end"),
    (11, 4, "start"),
)
"""Places of a label beside its mark. The line of a front does not cross the first two."""


def placed(
    spots: Sequence[tuple[float, float, str]], left: float, right: float, taken: Sequence[tuple[float, float]] = ()
) -> list[tuple[float, float, str, str]]:
    """(x, y, anchor, text) of a label for each ``(x, y, text)``; labels without room are left out.

    Args:
        spots: positions of the marks, the most important first.
        left, right: limits of the area for labels.
        taken: marks that no label may cover.
    """
    boxes: list[tuple[float, float, float, float]] = [(x - 6, y - 6, x + 6, y + 6) for x, y in taken]
    found: list[tuple[float, float, str, str]] = []
    for x, y, text in spots:
        # A label must not be so near to another mark that it seems to belong to that mark.
        near = [(a - 14, b - 14, a + 14, b + 14) for a, b in taken if (a, b) != (x, y)]
        long = 7.8 * len(text)
        ways = []
        for dx, dy, anchor in WAYS:
            start = x + dx - (long if anchor == "end" else long / 2 if anchor == "middle" else 0)
            box = (start, y + dy - 11, start + long, y + dy + 3)
            if left <= box[0] and box[2] <= right:
                meets = sum(_meet(box, other) for other in boxes), sum(_meet(box, other) for other in near)
                ways.append((meets, box, (x + dx, y + dy, anchor, text)))
        # The first label is never left out, even if it covers something.
        if ways and ((best := min(ways, key=lambda way: way[0]))[0][0] == 0 or not found):
            boxes.append(best[1])
            found.append(best[2])
    return found


def _meet(one: tuple[float, float, float, float], other: tuple[float, float, float, float]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
