"""front.png: the front as a picture, for a README or a slide."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FuncFormatter, NullLocator

from autocompress.files import atomic
from autocompress.objectives.dominance import non_dominated
from autocompress.objectives.quantities import objective_columns, of_column
from autocompress.report import datafree, words
from autocompress.report.markdown import plain
from autocompress.report.metric import metric
from autocompress.results import SearchResult

DPI = 150
LONGEST_TITLE = 60
"""Maximum length of the title above the picture."""
FRONT_COLOUR, BASELINE_COLOUR, OTHER_COLOUR, LIMIT_COLOUR = "#0b5cad", "#b34700", "#9aa3ad", "#2f7d4f"


class NotebookFigure(Figure):
    """A figure that a notebook shows even if matplotlib's own backend for notebooks is not used."""

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png", dpi=DPI / 2)
        return buffer.getvalue()


def _written(column: str, value: float) -> str:
    """A value on the cost axis, as text."""
    return f"{value:.3g}×" if column == of_column(column).ratio_column else words.limit(column, value)


def _axis_label(column: str) -> str:
    quantity = of_column(column)
    label = quantity.ratio_label if column == quantity.ratio_column else quantity.label
    return f"{label[:1].lower()}{label[1:]} (log scale)"


def write_plot(result: SearchResult, path: Path) -> None:
    """Writes :func:`plotted` as PNG, atomically."""
    with atomic(path) as temporary:
        plotted(result).savefig(temporary, format="png", dpi=DPI)


def plotted(result: SearchResult) -> Figure:
    """Accuracy over the first measured cost objective of the job; a notebook shows it."""
    objectives = [name for name in result.job.get("objectives", ()) if name != "accuracy"]
    columns = objective_columns(objectives) or ["latency_ratio"]
    column = next((name for name in columns if result.trials[name].notna().any()), columns[0])
    figure = NotebookFigure(figsize=(8, 5), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    _draw(axes, result, column)
    return figure


def _draw(axes: Axes, result: SearchResult, column: str) -> None:
    others, models = _known(result.trials, column), _known(result.models, column)
    others = others[~others["trial"].isin(models["trial"])]
    axes.set_xscale("log", base=2)
    axes.scatter(others[column], others["accuracy"], s=16, color=OTHER_COLOUR, alpha=0.7, linewidth=0, zorder=2)
    if len(models):
        _draw_front(axes, models, column)
    baseline = result.baseline
    cost = 1.0 if column == "latency_ratio" else baseline[column]
    if pd.notna(baseline["accuracy"]) and pd.notna(cost):
        axes.scatter([cost], [baseline["accuracy"]], s=60, marker="D", color=BASELINE_COLOUR, zorder=4)
        _label(axes, "baseline", cost, baseline["accuracy"], BASELINE_COLOUR, left=True)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _position: _written(column, value)))
    axes.xaxis.set_minor_locator(NullLocator())
    _draw_limits(axes, result, column)
    _zoom(axes, result, models)
    axes.set_xlabel(_axis_label(column))
    axes.set_ylabel(
        "agreement with the baseline, %" if datafree.is_by_agreement(result) else f"validation {metric(result)}, %"
    )
    title = plain(result.job.get("name", result.folder.name), LONGEST_TITLE)
    axes.set_title(title, loc="left", fontweight="bold", parse_math=False)
    axes.grid(color="#e4e7ea", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _draw_front(axes: Axes, models: pd.DataFrame, column: str) -> None:
    # With three objectives, a model of the front may be dominated in accuracy and this cost. The
    # line omits such a model.
    costs = models[[column]].astype("float64").assign(accuracy=-models["accuracy"]).to_numpy()
    edge = models[non_dominated(costs)].sort_values(column)
    axes.step(edge[column], edge["accuracy"], where="post", color=FRONT_COLOUR, linewidth=1.6, zorder=3)
    axes.scatter(models[column], models["accuracy"], s=42, color=FRONT_COLOUR, zorder=4)
    # Labels are placed if there is room, those at the ends first.
    labelled: list[tuple[float, float]] = []
    tall = max(float(np.ptp(edge["accuracy"])), 1e-9)
    for index in dict.fromkeys([edge.index[0], edge.index[-1], *edge.index]):
        row = models.loc[index]
        x, y = float(np.log2(row[column])), float(row["accuracy"])
        if any(abs(x - other) < 0.8 and abs(y - height) < 0.08 * tall for other, height in labelled):
            continue
        labelled.append((x, y))
        text = f"trial {row['trial']}: {_written(column, row[column])}"
        _label(axes, text, row[column], row["accuracy"], FRONT_COLOUR)


def _label(axes: Axes, text: str, x: float, y: float, colour: str, *, left: bool = False) -> None:
    axes.annotate(
        text,
        (float(x), float(y)),
        xytext=(-8 if left else 8, 8 if left else -12),
        textcoords="offset points",
        ha="right" if left else "left",
        fontsize=8.5,
        color=colour,
        zorder=5,
        path_effects=[withStroke(linewidth=2.5, foreground="white")],
    )


def _draw_limits(axes: Axes, result: SearchResult, column: str) -> None:
    drop = result.limits.get("accuracy_drop")
    style: dict[str, Any] = {"color": LIMIT_COLOUR, "linewidth": 1.1, "linestyle": (0, (4, 3)), "zorder": 1}
    if column in result.limits:
        limit = result.limits[column]
        axes.axvline(limit, **style)
        low, high = np.log(axes.get_xlim())
        # The text is next to the line, on the side with more room.
        right = np.log(limit) < (low + high) / 2
        text = f" at most {_written(column, limit)} "
        where = axes.get_xaxis_transform()
        axes.text(limit, 0.02, text, transform=where, ha="left" if right else "right", fontsize=8.5, color=LIMIT_COLOUR)
    if drop is not None and pd.notna(result.baseline["accuracy"]):
        height = float(result.baseline["accuracy"]) - drop
        axes.axhline(height, **style)
        axes.text(
            0.995, height, f"at most {words.drop(drop)} lost", transform=axes.get_yaxis_transform(), ha="right",
            va="bottom", fontsize=8.5, color=LIMIT_COLOUR,
        )  # fmt: skip


def _zoom(axes: Axes, result: SearchResult, models: pd.DataFrame) -> None:
    """Limits the axes to the front, because trials far below it would compress it to a line."""
    heights = [float(value) for value in [*models["accuracy"], result.baseline["accuracy"]] if pd.notna(value)]
    drop = result.limits.get("accuracy_drop")
    if drop is not None and pd.notna(result.baseline["accuracy"]):
        heights.append(float(result.baseline["accuracy"]) - drop)
    if len(heights) > 1:
        room = max(0.15 * (max(heights) - min(heights)), 0.2)
        axes.set_ylim(min(heights) - room, max(heights) + room)


def _known(table: pd.DataFrame, column: str) -> pd.DataFrame:
    table = table[table[column].notna() & table["accuracy"].notna() & (table[column] > 0)]
    return table.assign(**{column: table[column].astype("float64")})
