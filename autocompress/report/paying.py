"""Times of the layers of the baseline in float and in integers, by group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Row = Mapping[str, Any]
CLEARLY = 1.05
"""Ratio of two times above which they differ by more than noise."""


@dataclass(frozen=True)
class GroupPaying:
    """The layers of one group.

    Attributes:
        group: name.
        float_us, integer_us: microseconds of its layers in each form.
        form: whether they compute in float or in integers, as text.
        layers: their rows (``layer``, ``operator``, ``float_us``, ``integer_us``, ``computes``).
    """

    group: str
    float_us: float
    integer_us: float
    form: str
    layers: Sequence[Row]

    @property
    def gain(self) -> float:
        """Time in integers as a share of that in float."""
        return self.integer_us / self.float_us if self.float_us else 1.0

    @property
    def is_slower(self) -> bool:
        """Whether its layers, by their own times, are clearly faster in the other form."""
        own = sum(float(row["integer_us" if row["computes"] == "integers" else "float_us"]) for row in self.layers)
        other = self.float_us + self.integer_us - own
        return own > CLEARLY * other


def by_group(rows: Sequence[Row]) -> list[GroupPaying]:
    """Groups in the order of the network, from the rows of ``summary["placement"]``."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(str(row["group"]), []).append(row)
    return [
        GroupPaying(
            group,
            sum(float(row["float_us"]) for row in own),
            sum(float(row["integer_us"]) for row in own),
            _form(own),
            own,
        )
        for group, own in groups.items()
    ]


def lines(rows: Sequence[Row]) -> list[str]:
    """A headline and a line for each group, for a terminal; empty if nothing was measured."""
    if not rows:
        return []
    return [f"integers on this device: {headline(rows)}"] + [
        f"  {found.group}: {_ms(found.float_us)} in float, {_ms(found.integer_us)} in integers; {found.form}"
        for found in by_group(rows)
    ]


def headline(rows: Sequence[Row]) -> str:
    """A sentence about the number of layers that compute in integers.

    The times of whole files decide that. So the sentence also has the number of groups whose own
    times speak for the other form.
    """
    count = sum(row["computes"] == "integers" for row in rows)
    if count == len(rows):
        told = "all layers compute in integers"
    elif count == 0:
        told = "no layer computes in integers, so 8 bits make the file smaller but not faster"
    else:
        told = f"{count} of {len(rows)} layers compute in integers, and the others in float with integer weights"
    groups = by_group(rows)
    if not (against := sum(found.is_slower for found in groups)):
        return told
    which = f"{against} of {len(groups)} groups {'is' if against == 1 else 'are'}"
    return f"{told}, by the times of whole files; timed alone, {which} faster in the other form"


def _form(rows: Sequence[Row]) -> str:
    in_float = [row["layer"] for row in rows if row["computes"] == "float"]
    if not in_float:
        return "integers"
    if len(in_float) == len(rows):
        return "float"
    return f"{len(in_float)} of {len(rows)} layers in float"


def _ms(microseconds: float) -> str:
    return f"{microseconds / 1e3:.3f} ms"
