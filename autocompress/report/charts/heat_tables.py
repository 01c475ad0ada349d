"""Two heat tables of the page: couplings by width, and groups by bits.

The colour of a cell shows its loss.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from autocompress.results import SearchResult

FAINTEST, STRONGEST = 1e-4, 1.0
"""Losses in nats of the lightest and the darkest colour, on a logarithmic scale."""
_KEY = ("group", "role", "quantizer", "bits")
_ROLES = {"weight": "weights", "activation": "activations"}


@dataclass(frozen=True)
class Cell:
    """A loss: its text, the strength of its colour from 0 to 1, and the tooltip.

    The text is empty for a choice that does not exist.
    """

    text: str = ""
    heat: float = 0.0
    tooltip: str = ""


@dataclass(frozen=True)
class HeatTable:
    """A table for the page.

    Attributes:
        spanning: headings above several columns, as (text, number of columns), such as
            ``("quantize, weights", 4)``.
        headings: heading of each column.
        rows: (group, its cells).
    """

    spanning: list[tuple[str, int]]
    headings: list[str]
    rows: list[tuple[str, list[Cell]]]


def bits_table(result: SearchResult) -> HeatTable | None:
    """The loss of each group at each number of bits; None if it was not measured."""
    table = result.sensitivity
    if table.empty:
        return None
    kinds = table[["role", "quantizer"]].drop_duplicates().itertuples(index=False)
    columns = [
        (role, quantizer, int(bits))
        for role, quantizer in sorted(kinds, key=lambda kind: list(_ROLES).index(kind[0]))
        for bits in sorted(table[_rows_of(table, role, quantizer)]["bits"].unique(), reverse=True)
    ]
    spanning: dict[str, int] = {}
    for role, quantizer, _ in columns:
        text = f"{quantizer}, {_ROLES[role]}"
        spanning[text] = spanning.get(text, 0) + 1
    known = {tuple(row[name] for name in _KEY): row for row in table.to_dict("records")}
    groups = list(dict.fromkeys(table["group"]))
    rows = [(group, [_cell(known.get((group, *column))) for column in columns]) for group in groups]
    return HeatTable(list(spanning.items()), [str(bits) for _, _, bits in columns], rows)


def width_table(result: SearchResult) -> HeatTable | None:
    """The loss of each coupling at each share of its channels; None without tables."""
    table = result.tables[result.tables["axis"] == "structure"]
    if table.empty:
        return None
    shares = sorted((float(share) for share in table["choice"].unique() if share < 1), reverse=True)
    known = {(row["name"], row["choice"]): row for row in table.to_dict("records")}
    names = list(dict.fromkeys(table["name"]))
    rows = [(name, [_width_cell(known.get((name, share))) for share in shares]) for name in names]
    return HeatTable([("share of channels kept", len(shares))], [f"{share:.0%}" for share in shares], rows)


def _width_cell(row: Mapping[Hashable, Any] | None) -> Cell:
    if row is None or pd.isna(row["divergence"]):
        return Cell()
    loss = float(row["divergence"])
    how = "measured" if row["measured"] else "interpolated"
    name = f"{row['name']} ({row['group']})"
    tooltip = f"{name}: keeping {row['choice']:.0%} of its channels costs {loss:.4f} nats, {how}"
    return Cell(_loss(loss), _heat(loss), tooltip)


def _heat(loss: float) -> float:
    heat = math.log(max(loss, FAINTEST) / FAINTEST) / math.log(STRONGEST / FAINTEST)
    return round(min(1.0, heat), 3)


def _rows_of(table: pd.DataFrame, role: str, quantizer: str) -> pd.Series:
    return (table["role"] == role) & (table["quantizer"] == quantizer)


def _cell(row: Mapping[Hashable, Any] | None) -> Cell:
    if row is None:
        return Cell()
    loss, what = float(row["loss"]), _ROLES[row["role"]]
    tooltip = (
        f"{row['group']}: {what} alone at {row['bits']} bits ({row['quantizer']}) cost {loss:.4f} nats; "
        f"{row['agreement']:.1f} % of the predictions stay the same"
    )
    return Cell(_loss(loss), _heat(loss), tooltip)


def _loss(value: float) -> str:
    """A short text, so that twenty columns fit; the tooltip has more digits."""
    return (
        "0" if value < 0.0005 else f"{value:.3f}" if value < 0.0095 else f"{value:.2f}" if value < 1 else f"{value:.1f}"
    )
