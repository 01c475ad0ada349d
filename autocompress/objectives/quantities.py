"""The quantities that a job can ask for, all defined in the table below.

A new quantity begins with an entry of ``QUANTITIES``. Its key in a job, the parsing of its bound,
its columns in trials.csv and its axis in the report follow from that entry. Its value is put into
rows by ``searching/gates.py`` and ``searching/baselinerow.py``. If a device measures it, it is also
a field of ``contract.Measurement``, and ``job/validate.py`` refuses devices that do not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

POINTS = 10.0
"""Accuracy drop in points that is as bad as a cost at twice its bound.

A model with a larger drop adds nothing to the hypervolume.
"""

_COUNTS = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9}
_TIMES = {"us": 1e-3, "µs": 1e-3, "μs": 1e-3, "ms": 1.0, "s": 1e3}
_BYTES = {"B": 1.0, "kB": 1e3, "KB": 1e3, "MB": 1e6, "GB": 1e9, "KiB": 2.0**10, "MiB": 2.0**20, "GiB": 2.0**30}
_ENERGIES = {"uJ": 1.0, "µJ": 1.0, "μJ": 1.0, "mJ": 1e3, "J": 1e6}


@dataclass(frozen=True)
class Quantity:
    """One quantity.

    Attributes:
        name: its key in a job, under ``objectives`` or ``constraints``.
        column: the column of trials.csv that holds it.
        unit: unit of that column: "%", "points", "ms", "B", "µJ", or "" for a count.
        label: its name on an axis.
        short: its name in a sentence.
        better: the word for a better value: "faster".
        higher_is_better: True for accuracy; costs are better when lower.
        is_objective: a search may optimise it.
        is_whole: its values are whole numbers.
        ratio_column: the column that holds its ratio to the baseline, where a device measures that
            ratio itself. Else the ratio is the column's value divided by the baseline's.
        ratio_label: the name of that ratio on an axis.
        relatives: further columns that hold the same quantity, with the same direction.
        units: units in which a bound may be written, with their factor to ``unit``. Empty: it has
            no such bound.
        example: a bound by amount, for error messages.
        suffix: the unit as it follows a value in the reason of a trial: " ms".
        tolerance: share of the bound by which a value may exceed it and still meet it, because
            digits are rounded.
        worst: the value that the sampler gets where the quantity was not measured. For costs it is
            a ratio.
    """

    name: str
    column: str
    unit: str
    label: str
    short: str
    better: str
    higher_is_better: bool = False
    is_objective: bool = True
    is_whole: bool = False
    ratio_column: str = ""
    ratio_label: str = ""
    relatives: tuple[str, ...] = ()
    units: Mapping[str, float] = field(default_factory=dict)
    example: str = ""
    suffix: str = ""
    tolerance: float = 1e-8
    worst: float = 1.0

    @property
    def judged_column(self) -> str:
        """The column by which the report compares models: a measured ratio where there is one."""
        return self.ratio_column or self.column

    @property
    def is_bounded(self) -> bool:
        """Whether a job may bound it.

        ``accuracy_drop`` is bounded by points, costs by an amount.
        """
        return bool(self.units) or self.unit == "points"

    @property
    def base_unit(self) -> str:
        """The unit in which a bound by amount is written back."""
        return next((name for name, factor in self.units.items() if factor == 1.0), "")

    @property
    def direction(self) -> Literal["maximize", "minimize"]:
        """The direction in Optuna's words."""
        return "maximize" if self.higher_is_better else "minimize"

    def slack(self, limit: float) -> float:
        """The amount by which a value may exceed ``limit`` and still meet it."""
        return self.tolerance * (abs(limit) if self.units else max(1.0, abs(limit)))

    def beyond(self, value: float, limit: float) -> float:
        """The amount by which ``value`` exceeds ``limit``, as a share of the limit.

        For an accuracy drop, in units of ten points.
        """
        return value / limit - 1.0 if self.units else (value - limit) / POINTS


QUANTITIES: tuple[Quantity, ...] = (
    Quantity(
        "accuracy",
        column="accuracy",
        unit="%",
        label="Validation accuracy",
        short="accuracy",
        better="more accurate",
        higher_is_better=True,
        relatives=("test_accuracy", "agreement"),
        worst=0.0,
    ),
    Quantity(
        "accuracy_drop",
        column="accuracy_drop",
        unit="points",
        label="Accuracy drop",
        short="accuracy drop",
        better="more accurate",
        is_objective=False,
        relatives=("test_accuracy_drop",),
        suffix=" points",
    ),
    Quantity(
        "latency",
        column="latency_ms",
        unit="ms",
        label="Latency",
        short="latency",
        better="faster",
        ratio_column="latency_ratio",
        ratio_label="Latency against the baseline",
        units=_TIMES,
        example="4 ms",
        suffix=" ms",
    ),
    Quantity(
        "size",
        column="size_bytes",
        unit="B",
        label="Size of the file",
        short="size",
        better="smaller",
        is_whole=True,
        units=_BYTES,
        example="2 MB",
        suffix=" bytes",
    ),
    Quantity(
        "energy",
        column="energy_uj",
        unit="µJ",
        label="Energy an image",
        short="energy",
        better="less energy",
        units=_ENERGIES,
        example="50 uJ",
        suffix=" uJ",
    ),
    Quantity(
        "macs",
        column="macs",
        unit="",
        label="Multiply-accumulates",
        short="MACs",
        better="fewer",
        is_whole=True,
        units=_COUNTS,
        example="20 M",
    ),
    Quantity(
        "params",
        column="params",
        unit="",
        label="Parameters",
        short="parameters",
        better="fewer",
        is_objective=False,
        is_whole=True,
        units=_COUNTS,
        example="300 k",
    ),
)
"""Every quantity, in the order of a job's keys."""

BY_NAME: Mapping[str, Quantity] = {quantity.name: quantity for quantity in QUANTITIES}
OBJECTIVES: tuple[str, ...] = tuple(quantity.name for quantity in QUANTITIES if quantity.is_objective)
"""Names that a job may list under ``objectives``."""
BOUNDED: tuple[str, ...] = tuple(quantity.name for quantity in QUANTITIES if quantity.is_bounded)
"""Keys of a job's ``constraints``."""

_BY_COLUMN: Mapping[str, Quantity] = {
    column: quantity
    for quantity in QUANTITIES
    for column in (quantity.column, quantity.ratio_column, *quantity.relatives)
    if column
}


def of_column(column: str) -> Quantity:
    """The quantity that ``column`` of trials.csv or front.csv holds.

    Any other column of numbers is treated as a cost: lower is better.
    """
    return _BY_COLUMN.get(column) or Quantity(column, column, "", column, column, "less", is_objective=False)


def objective_columns(objectives: tuple[str, ...] | list[str]) -> list[str]:
    """The columns of these objectives in the report; unknown names are left out."""
    return [BY_NAME[name].judged_column for name in objectives if name in BY_NAME]
