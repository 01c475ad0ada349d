"""The sensitivity table as the page shows it: groups down, widths across, a colour and a figure in
each cell.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from autocompress.results import SearchResult

FAINTEST, STRONGEST = 1e-4, 1.0
"""Losses in nats between which colours run, on a logarithmic scale."""
_KEY = ("group", "role", "quantizer", "bits")
_ROLES = {"weight": "weights", "activation": "activations"}


@dataclass(frozen=True)
class Cell:
    """A loss: its text, the strength of its colour from 0 to 1, and the sentence behind it.

    Empty: not offered.
    """

    text: str = ""
    heat: float = 0.0
    told: str = ""


@dataclass(frozen=True)
class HeatTable:
    """What the page draws.

    Attributes:
        heads: (text, number of columns) of what stands over neighbouring columns: ``quantize,
            weights``.
        widths: of each column.
        rows: (group, its cells).
    """

    heads: list[tuple[str, int]]
    widths: list[int]
    rows: list[tuple[str, list[Cell]]]


def heat_table(result: SearchResult) -> HeatTable | None:
    """The table of a run; None where it has none."""
    table = result.sensitivity
    if table.empty:
        return None
    kinds = table[["role", "quantizer"]].drop_duplicates().itertuples(index=False)
    columns = [
        (role, quantizer, int(bits))
        for role, quantizer in sorted(kinds, key=lambda kind: list(_ROLES).index(kind[0]))
        for bits in sorted(table[_is(table, role, quantizer)]["bits"].unique(), reverse=True)
    ]
    heads: dict[str, int] = {}
    for role, quantizer, _ in columns:
        text = f"{quantizer}, {_ROLES[role]}"
        heads[text] = heads.get(text, 0) + 1
    known = {tuple(row[name] for name in _KEY): row for row in table.to_dict("records")}
    groups = list(dict.fromkeys(table["group"]))
    rows = [(group, [_cell(known.get((group, *column))) for column in columns]) for group in groups]
    return HeatTable(list(heads.items()), [bits for _, _, bits in columns], rows)


def _is(table: pd.DataFrame, role: str, quantizer: str) -> pd.Series:
    return (table["role"] == role) & (table["quantizer"] == quantizer)


def _cell(row: Mapping[Hashable, Any] | None) -> Cell:
    if row is None:
        return Cell()
    loss, what = float(row["loss"]), _ROLES[row["role"]]
    heat = math.log(max(loss, FAINTEST) / FAINTEST) / math.log(STRONGEST / FAINTEST)
    told = (
        f"{row['group']}: {what} alone at {row['bits']} bits ({row['quantizer']}) cost {loss:.4f} nats; "
        f"{row['agreement']:.1f} % of the images keep their label"
    )
    return Cell(_loss(loss), round(min(1.0, heat), 3), told)


def _loss(value: float) -> str:
    """Short, so that twenty columns fit; the tooltip has more digits."""
    return (
        "0" if value < 0.0005 else f"{value:.3f}" if value < 0.0095 else f"{value:.2f}" if value < 1 else f"{value:.1f}"
    )
