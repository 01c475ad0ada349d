"""Sensitivity: how much the outputs change when one group gets fewer bits and the rest is float.

A table of rows (group, weights or activations, quantizer, width), measured once per job on
calibration images, without labels and without training (``probing`` does it). It is shown in the
report, and :func:`lowest_widths` makes a starting point of it.

Losses of single groups are added up as if they did not influence each other. That is an assumption:
fair for small losses, a guess at very low widths, where the search is there to find out. Not from
either paper; HAWQ-V2 (Dong et al., arXiv 1911.03852) adds up per-layer sensitivities in the same
way.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from autocompress.contract import Method, Params, PlacementTable

Role = Literal["weight", "activation"]


@dataclass(frozen=True)
class Width:
    """A choice in the space: ``bits`` of ``quantizer`` for weights or activations of ``group``."""

    group: str
    role: Role
    quantizer: str
    bits: int


@dataclass(frozen=True)
class Sensitivity(Width):
    """What a choice alone does.

    Attributes:
        loss: mean Kullback-Leibler divergence from the float network's class probabilities, nats an
            image.
        agreement: percent of the images that keep their label.
    """

    loss: float
    agreement: float


@dataclass(frozen=True)
class Setting:
    """What a table is measured with.

    Attributes:
        methods: by name; those that ``widths`` name are quantizers.
        params: of these quantizers.
        granularity: of the job.
        table: what the device computes on integers.
    """

    methods: Mapping[str, Method]
    params: Mapping[str, Params]
    granularity: str
    table: PlacementTable = PlacementTable()  # noqa: RUF009  (frozen)


def lowest_widths(table: Iterable[Sensitivity], role: Role, most_loss: float) -> dict[str, Sensitivity]:
    """The lowest widths of ``role`` by group whose losses add up to at most ``most_loss``.

    Greedy: from the widest everywhere, the narrower choices are gone through in the order of their
    losses, and each is taken that keeps the sum (see above: losses are assumed to add up). Where
    the widest alone exceed ``most_loss`` they stay. A narrower width with the very loss of a wider
    one changes nothing (layers that are exempt from low bits take 8 whatever is asked), and is
    passed over.
    """
    by_group: dict[str, list[Sensitivity]] = {}
    for row in table:
        if row.role == role:
            by_group.setdefault(row.group, []).append(row)
    chosen = {group: min(rows, key=lambda row: (-row.bits, row.loss)) for group, rows in by_group.items()}
    for row in sorted((row for rows in by_group.values() for row in rows), key=lambda row: (row.loss, row.bits)):
        is_idle = any(other.bits > row.bits and other.loss == row.loss for other in by_group[row.group])
        if row.bits >= chosen[row.group].bits or is_idle:
            continue
        if math.fsum(other.loss for other in ({**chosen, row.group: row}).values()) <= most_loss:
            chosen[row.group] = row
    return chosen
