"""Sensitivity: the change of outputs when one group has fewer bits and the rest is float.

``probing`` measures a table of rows (group, weights or activations, quantizer, bits) once per job,
on calibration images, without labels and without training. The report shows it, and
:func:`lowest_widths` makes a starting point from it.

Losses of groups are added, as if they were independent. That is accurate for small losses and rough
for very few bits. HAWQ-V2 (Dong et al., arXiv 1911.03852) adds sensitivities of layers in the same
way; the papers of the quantizers do not.
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
    """A choice of the space: ``bits`` of ``quantizer`` for weights or activations of ``group``."""

    group: str
    role: Role
    quantizer: str
    bits: int


@dataclass(frozen=True)
class Sensitivity(Width):
    """The effect of one choice alone.

    Attributes:
        loss: mean Kullback-Leibler divergence from the class probabilities of the float network, in
            nats per image.
        agreement: percent of the images with an unchanged prediction.
    """

    loss: float
    agreement: float


@dataclass(frozen=True)
class Setting:
    """Settings of a table.

    Attributes:
        methods: methods by name, with the quantizers that ``widths`` name.
        params: parameters of these quantizers.
        granularity: granularity of the job.
        table: the operators that the device computes on integers.
    """

    methods: Mapping[str, Method]
    params: Mapping[str, Params]
    granularity: str
    table: PlacementTable = PlacementTable()  # noqa: RUF009  (frozen)


def lowest_widths(table: Iterable[Sensitivity], role: Role, most_loss: float) -> dict[str, Sensitivity]:
    """The lowest bits of ``role`` for each group with a total loss of at most ``most_loss``.

    Greedy: all groups start with the maximum number of bits. Choices with fewer bits are tried in
    the order of their losses, and taken if the sum of losses stays within ``most_loss``. If the
    start exceeds ``most_loss``, it is the result. A choice with exactly the loss of a choice with
    more bits has no effect (exempt layers always have 8 bits), and is left out.
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
