"""The front as a small picture without a script, for the top of the page and for notebooks."""

from __future__ import annotations

import pandas as pd
from markupsafe import Markup

from autocompress.objectives.choosing import ACCURATE, CHEAPEST, TRADE
from autocompress.objectives.quantities import BY_NAME, of_column
from autocompress.report import words
from autocompress.report.charts.drawing import Scale, doubling_ticks, drawing, placed, round_ticks, tag
from autocompress.report.metric import judged
from autocompress.results import SearchResult

WIDTH, HEIGHT = 480, 270
LEFT, RIGHT, TOP, BOTTOM = 52, 462, 36, 222
MOST_LOST = 4.0
"""The bound of the drop enlarges the picture only up to this multiple of the spread.

The spread is that of the accuracies of front and baseline, at least 0.5 points.
"""
MARK = {"recommended": 8.0, "front": 5.5}


def picture(result: SearchResult) -> Markup:
    """Accuracy over cost: the front, the baseline and the region that the job allows.

    Empty if no model of the front has both figures.
    """
    quantity = BY_NAME[result.cost]
    column = quantity.judged_column
    models = result.models
    models = models[models[column].notna() & models["accuracy"].notna() & (models[column] > 0)]
    if models.empty:
        return Markup("")
    baseline = (1.0 if column == quantity.ratio_column else result.baseline[column], result.baseline["accuracy"])
    has_baseline = pd.notna(baseline[0]) and pd.notna(baseline[1])
    corner = [(float(baseline[0]), float(baseline[1]))] if has_baseline else []
    spots = {int(row["trial"]): (float(row[column]), float(row["accuracy"])) for row in models.to_dict("records")}
    x, y = _scales([*spots.values(), *corner], _floor(result, spots, corner))
    chosen = {name: int(row["trial"]) for name, row in result.choices().items()}
    kind = judged(result)
    label = f"{kind}, %, over {quantity.short}: {len(spots)} models and the baseline; figures are in the table below"
    title = f"{kind[:1].upper()}{kind[1:]}, % over {quantity.short}"
    cheapest = words.superlative(quantity.name)
    parts = [
        *_frame(result, x, y, column, f"{title}{' against the baseline' if column == quantity.ratio_column else ''}"),
        *_stairs(list(spots.values()), x, y),
        *_marks(spots, corner, chosen.get(TRADE), x, y),
        *_labels(spots, corner, chosen, cheapest, x, y),
    ]
    return drawing(WIDTH, HEIGHT, label, parts, "picture")


def _floor(
    result: SearchResult, spots: dict[int, tuple[float, float]], corner: list[tuple[float, float]]
) -> float | None:
    """The lowest accuracy that the job allows; None without a bound, or if it is far away."""
    drop = result.limits.get("accuracy_drop")
    if drop is None or not corner:
        return None
    seen = [accuracy for _, accuracy in (*spots.values(), *corner)]
    return corner[0][1] - drop if drop <= MOST_LOST * max(max(seen) - min(seen), 0.5) else None


def _scales(points: list[tuple[float, float]], floor: float | None) -> tuple[Scale, Scale]:
    costs = [cost for cost, _ in points]
    seen = [accuracy for _, accuracy in points] + ([] if floor is None else [floor])
    room = max(0.12 * (max(seen) - min(seen)), 0.1)
    low, high = min(costs), max(costs)
    wide = max((high / low) ** 0.08, 1.05)
    return (
        Scale(low / wide, high * wide, LEFT, RIGHT, log=True),
        Scale(min(seen) - room, max(seen) + room, BOTTOM, TOP),
    )


def _frame(result: SearchResult, x: Scale, y: Scale, column: str, title: str) -> list[Markup]:
    limit, floor = result.limits.get(column), result.limits.get("accuracy_drop")
    right = RIGHT if limit is None else x(limit)
    lowest = BOTTOM if floor is None or pd.isna(result.baseline["accuracy"]) else y(result.baseline["accuracy"] - floor)
    parts = []
    if limit is not None or floor is not None:
        size = {"width": round(right - LEFT, 1), "height": round(lowest - TOP, 1)}
        parts.append(tag("rect", class_="allowed", x=LEFT, y=TOP, **size))
    if limit is not None and x.low < limit < x.high:
        parts.append(tag("path", class_="limit", d=f"M{right} {TOP}V{BOTTOM}"))
    if lowest < BOTTOM:
        parts.append(tag("path", class_="limit", d=f"M{LEFT} {lowest}H{RIGHT}"))
    for value in round_ticks(y.low, y.high, 4):
        parts.append(tag("path", class_="grid", d=f"M{LEFT} {y(value)}H{RIGHT}"))
        parts.append(tag("text", f"{value:g}", x=LEFT - 6, y=y(value) + 4, text_anchor="end"))
    is_ratio = column.endswith("_ratio")
    for value in doubling_ticks(x.low, x.high, 6) if is_ratio else round_ticks(x.low, x.high, 4):
        text = f"{value:.3g}×" if is_ratio else words.limit(column, value)
        parts.append(tag("text", text, x=x(value), y=BOTTOM + 18, text_anchor="middle"))
        parts.append(tag("path", class_="grid", d=f"M{x(value)} {TOP}V{BOTTOM}"))
    parts.append(tag("path", class_="axis", d=f"M{LEFT} {TOP}V{BOTTOM}H{RIGHT}"))
    parts.append(tag("text", title, class_="title", x=6, y=16))
    parts.append(tag("text", f"← {of_column(column).better}", class_="way", x=LEFT, y=HEIGHT - 8))
    return parts


def _stairs(points: list[tuple[float, float]], x: Scale, y: Scale) -> list[Markup]:
    """The edge of the region that the front dominates."""
    path, best = "", -float("inf")
    for cost, accuracy in sorted(points, key=lambda point: (point[0], -point[1])):
        if accuracy > best:
            path += f"H{x(cost)}V{y(accuracy)}" if path else f"M{x(cost)} {y(accuracy)}"
            best = accuracy
    return [tag("path", class_="stairs", d=path)] if path.count("V") else []


def _marks(
    spots: dict[int, tuple[float, float]], corner: list[tuple[float, float]], chosen: int | None, x: Scale, y: Scale
) -> list[Markup]:
    parts = [tag("path", class_="mark baseline", d=f"M{x(a)} {y(b) - 8}l7 8l-7 8l-7 -8z") for a, b in corner]
    for trial, (cost, accuracy) in sorted(spots.items(), key=lambda spot: spot[0] == chosen):
        kind = "recommended" if trial == chosen else "front"
        parts.append(tag("circle", class_=f"mark front {kind}", cx=x(cost), cy=y(accuracy), r=MARK[kind]))
    return parts


def _labels(
    spots: dict[int, tuple[float, float]],
    corner: list[tuple[float, float]],
    chosen: dict[str, int],
    cheapest: str,
    x: Scale,
    y: Scale,
) -> list[Markup]:
    told: dict[int, str] = {}
    for name, text in ((TRADE, "recommended"), (CHEAPEST, cheapest), (ACCURATE, "most accurate")):
        if name in chosen and chosen[name] in spots and chosen[name] not in told:
            told[chosen[name]] = f"#{chosen[name]} {text}"
    wanted = [(x(spots[trial][0]), y(spots[trial][1]), text) for trial, text in told.items()]
    wanted += [(x(a), y(b), "baseline") for a, b in corner]
    marks = [(x(a), y(b)) for a, b in (*spots.values(), *corner)]
    return [
        tag("text", text, class_=f"point-label{' baseline' if text == 'baseline' else ''}", x=at, y=down, text_anchor=a)
        for at, down, a, text in placed(wanted, 0, WIDTH, marks)
    ]
