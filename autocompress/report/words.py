"""Numbers and recipes as text, for tables and pages."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from numbers import Real
from typing import Any

from autocompress.objectives.quantities import BY_NAME, of_column

MISSING = "–"
_WEIGHT_BITS = "bits.weight."
_KEEP = "prune.keep."
_NEUTRAL: Mapping[str, tuple[float, ...]] = defaultdict(lambda: (0,), ratio=(0, 1))
"""Values of a parameter that leave a group unchanged: 0, and for a ratio also 1."""
_MINUS = "\N{MINUS SIGN}"


def _is_missing(value: Any) -> bool:
    """Whether a cell of a table is empty: None, NaN or pandas.NA."""
    if value is None:
        return True
    if isinstance(value, Real):
        return math.isnan(value)
    import pandas as pd  # here: it takes a third of a second, and a dry run does not need it

    return bool(pd.isna(value))


def percent(value: Any) -> str:
    """An accuracy: ``92.35 %``."""
    return MISSING if _is_missing(value) else f"{float(value):.2f} %"


def points(value: Any) -> str:
    """A change of accuracy with its sign: ``−0.40``. The argument is minus the drop."""
    if _is_missing(value):
        return MISSING
    text = f"{float(value):+.2f}"
    return "0.00" if float(text) == 0 else text.replace("-", _MINUS)


def drop(value: Any) -> str:
    """An allowed drop of accuracy: ``1 point``, ``2.5 points``."""
    return f"{float(value):g} point{'' if value == 1 else 's'}"


def ratio(value: Any) -> str:
    """A share of the baseline: ``0.31×``."""
    if _is_missing(value):
        return MISSING
    number = float(value)
    return f"{number:.3f}×" if number < 0.1 else f"{number:.2f}×"


_SUPERLATIVES = {"latency": "fastest", "size": "smallest", "energy": "least energy", "macs": "fewest MACs"}


def superlative(cost: str) -> str:
    """The name of the model that costs least: ``fastest``."""
    return _SUPERLATIVES.get(cost, "cheapest")


def gain(cost: str, share: float | None) -> str:
    """A cost relative to the baseline, as text: ``10.6 times as fast``, ``0.25× the size``."""
    what = of_quantity(cost)
    if _is_missing(share) or not share:
        return f"{what} unknown"
    if cost != "latency":
        return f"{ratio(share)} the {what}"
    speed = 1 / share
    return f"{speed:.0f} times as fast" if speed >= 99.5 else f"{speed:.3g} times as fast"


def of_quantity(name: str) -> str:
    """A quantity in a sentence: ``latency``, ``MACs``."""
    return BY_NAME[name].short if name in BY_NAME else name


def milliseconds(value: Any) -> str:
    """A latency with three digits: ``1.34 ms``, ``0.045 ms``."""
    if _is_missing(value):
        return MISSING
    number = float(value)
    return f"{number:.3f} ms" if abs(number) < 0.9995 else f"{_digits(number)} ms"


def microjoules(value: Any) -> str:
    """An energy with three digits: ``212 µJ``, ``1.60 mJ``."""
    if _is_missing(value):
        return MISSING
    number = float(value)
    return f"{_digits(number)} µJ" if abs(number) < 999.5 else _scaled(number / 1000, ("mJ", "J"), whole=False)


def size(value: Any) -> str:
    """Bytes in decimal units: ``11.2 MB``."""
    return MISSING if _is_missing(value) else _scaled(float(value), ("B", "KB", "MB", "GB"))


def count(value: Any) -> str:
    """Parameters or MACs: ``1.82 G``."""
    return MISSING if _is_missing(value) else _scaled(float(value), ("", "K", "M", "G", "T")).strip()


def duration(seconds: Any) -> str:
    """``48 s``, ``3 min 20 s``, ``2 h 5 min``."""
    if _is_missing(seconds):
        return MISSING
    whole = round(float(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def _digits(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def _scaled(value: float, units: tuple[str, ...], *, whole: bool = True) -> str:
    """``value`` with a unit. With ``whole``, the first unit has no decimals."""
    for unit in units[:-1]:
        if abs(value) < 999.5:
            return f"{value:.0f} {unit}" if whole and unit == units[0] else f"{_digits(value)} {unit}"
        value /= 1000
    return f"{_digits(value)} {units[-1]}"


AMOUNTS: Mapping[str, Callable[[float], str]] = {
    "×": lambda value: f"{value:g}×",
    "ms": milliseconds,
    "B": size,
    "µJ": microjoules,
    "points": drop,
    "%": percent,
    "": count,
}
"""Functions that format values, by the unit of the quantity (``objectives.quantities``)."""


def limit(column: str, value: float) -> str:
    """A limit on a column: ``0.5×``, ``2.00 MB``, ``1 point``."""
    quantity = of_column(column)
    return AMOUNTS["×" if column == quantity.ratio_column else quantity.unit](value)


def join(names: Iterable[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last


def recipe(values: Mapping[str, Any], neutral: Mapping[str, Any] | None = None) -> str:
    """A recipe as text: ``ghost ratio 2 in layer3; int8 everywhere; 2 epochs of recovery``.

    It only uses the names (``method.parameter.group``, ``prune.keep.layer``,
    ``bits.weight.group``), so it depends on no method. The text leaves out: the value ``none``; for
    a group, 0 and a ratio of 1; values of ``neutral`` (by name, see ``SearchResult.neutral``);
    settings of quantizers, pruners and repair. For recovery and for training in low bits it only
    has the epochs, and for a data source only the name. Pages show the complete recipe next to the
    text.
    """
    parts = operators(values, neutral)
    if pruned := _pruned(values):
        parts.append(pruned)
    if widths := bits(values):
        parts.append(widths)
    for name, what in (("recover.epochs", "recovery"), ("qat.epochs", "training in low bits")):
        epochs = values.get(name)
        if isinstance(epochs, int | float) and epochs:
            parts.append(f"{epochs:g} epoch{'' if epochs == 1 else 's'} of {what}")
    source = values.get("source")
    return "; ".join([*parts, f"images by {source}"] if parts and source else parts) or "uncompressed"


def operators(values: Mapping[str, Any], neutral: Mapping[str, Any] | None = None) -> list[str]:
    """The changes of each transform as text: ``ghost ratio 2 in layer3``."""
    return [text for text in _methods(values, neutral or {}).values() if text]


def idle(values: Mapping[str, Any], neutral: Mapping[str, Any] | None = None) -> list[str]:
    """Names of the transforms and of the pruner that a recipe names, but that change nothing."""
    pruner = str(values.get("prune.method", "none"))
    unused = [method for method, text in _methods(values, neutral or {}).items() if not text]
    return unused + ([pruner] if pruner != "none" and kept(values) is None else [])


def _methods(values: Mapping[str, Any], neutral: Mapping[str, Any]) -> dict[str, str]:
    """The changes of each transform as text, by its name; empty if there are none."""
    methods: dict[str, dict[str, dict[str, Any]]] = {}
    for name, value in values.items():
        method, _, rest = name.partition(".")
        parameter, _, group = rest.partition(".")
        others = ("bits", "recover", "qat", "prune", "repair", values.get("source"), values.get("prune.method"))
        if parameter and method not in others and method not in _quantizers(values):
            methods.setdefault(method, {}).setdefault(parameter, {})[group] = value
    return {method: _method(method, parameters, neutral) for method, parameters in methods.items()}


def _method(method: str, parameters: Mapping[str, Mapping[str, Any]], neutral: Mapping[str, Any]) -> str:
    decided = [
        (value, neutral[name])
        for parameter, by_group in parameters.items()
        for group, value in by_group.items()
        if (name := _name(method, parameter, group)) in neutral
    ]
    if decided and all(value == unchanged for value, unchanged in decided):
        return ""
    placed, general = [], []
    for parameter, by_group in parameters.items():
        where: dict[str, list[str]] = {}
        for group, value in by_group.items():
            is_guessed = group and not isinstance(value, bool) and value in _NEUTRAL[parameter]
            is_neutral = value == neutral.get(_name(method, parameter, group))
            if value != "none" and not is_guessed and not is_neutral:
                where.setdefault(_value(value), []).append(group)
        for value, groups in where.items():
            if groups == [""]:
                general.append(f"{parameter} {value}")
            else:
                everywhere = len(groups) == len(by_group) > 1
                placed.append(f"{parameter} {value} {'everywhere' if everywhere else 'in ' + join(groups)}")
    if not placed:
        # A method that leaves all groups unchanged has no effect, nor have its other settings.
        grouped = any(group for by_group in parameters.values() for group in by_group)
        return "" if grouped or not general else f"{method} {', '.join(general)}"
    return f"{method} {', '.join(placed)}" + (f" ({', '.join(general)})" if general else "")


def _name(method: str, parameter: str, group: str) -> str:
    return ".".join(part for part in (method, parameter, group) if part)


def _pruned(values: Mapping[str, Any]) -> str:
    """``obs keeps 50 % of the channels everywhere``, or a range where shares differ."""
    told = kept(values)
    return f"{values['prune.method']} keeps {told[0]} of the channels {told[1]}" if told else ""


def kept(values: Mapping[str, Any]) -> tuple[str, str] | None:
    """The shares of channels that are kept and where; None if no channel is removed.

    For example ``("6 % to 25 %", "in 3 of 12 places")``.
    """
    shares = kept_shares(values)
    fewer = [share for share in shares if share < 1]
    if not fewer:
        return None
    low, high = (f"{100 * share:.0f} %" for share in (min(fewer), max(fewer)))
    where = "everywhere" if len(fewer) == len(shares) else f"in {len(fewer)} of {len(shares)} places"
    return low if low == high else f"{low} to {high}", where


def kept_shares(values: Mapping[str, Any]) -> list[float]:
    """The share of channels that each coupling keeps, 0 to 1."""
    return [float(value) for name, value in values.items() if name.startswith(_KEEP)]


def _quantizers(values: Mapping[str, Any]) -> set[str]:
    chosen = {str(value) for name, value in values.items() if name.startswith(_WEIGHT_BITS)}
    return {value.partition(":")[0] for value in chosen if value != "none"}


def bits(values: Mapping[str, Any]) -> str:
    """Bits as text: ``int8 everywhere but stem (float)``; empty if everything is float."""
    prefix = _WEIGHT_BITS
    chosen = {name.removeprefix(prefix): str(value) for name, value in values.items() if name.startswith(prefix)}
    quantizers = _quantizers(values)
    labels = {}
    for group, value in chosen.items():
        quantizer, _, weight = value.partition(":")
        activation = str(values.get(f"bits.activation.{group}", weight))
        label = "float" if value == "none" else f"int{weight}" if activation == weight else f"W{weight}A{activation}"
        labels[group] = label if value == "none" or len(quantizers) == 1 else f"{quantizer} {label}"
    if not quantizers:
        return ""
    common = Counter(labels.values()).most_common(1)[0][0]
    others: dict[str, list[str]] = {}
    for group, label in labels.items():
        if label != common:
            others.setdefault(label, []).append(group)
    exceptions = [f"{join(groups)} ({label})" for label, groups in others.items()]
    return f"{common} everywhere" + (f" but {join(exceptions)}" if exceptions else "")


def _value(value: Any) -> str:
    return f"{value:.2g}" if isinstance(value, float) else str(value)
