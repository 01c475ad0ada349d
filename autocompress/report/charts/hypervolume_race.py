"""Hypervolume over time of a benchmark's searches and its rival, for the page.

A benchmark (``benchmarks/search_quality.py``) runs searches and a rival from the same baseline, and
scores the files of both in the same way.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from markupsafe import Markup
from pydantic import BaseModel, Field, ValidationError

from autocompress.errors import UserError
from autocompress.report import datafree, words
from autocompress.report.charts.drawing import Scale, drawing, round_ticks, tag
from autocompress.report.markdown import plain
from autocompress.results import SearchResult

WIDTH, HEIGHT = 480, 270
LEFT, RIGHT, TOP, BOTTOM = 52, 462, 30, 222
LONGEST = 60
"""Maximum length of a name."""
MOST_BYTES = 50_000_000
Positive = Annotated[float, Field(gt=0, le=1e9)]
Volume = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


class Rival(BaseModel):
    """What the searches are compared with."""

    hypervolume: Volume
    name: str = "the rival"


class Scored(BaseModel):
    """A search at one time."""

    hypervolume: Volume


class Searched(BaseModel):
    """A search: hypervolume over time, in units of T. Older files have three times only
    (``at``)."""

    curve: list[tuple[Positive, Volume]] = []
    at: dict[str, Scored] = {}

    def points(self) -> list[tuple[float, float]]:
        """(time in T, hypervolume), sorted."""
        few = [(AT[name], one.hypervolume) for name, one in self.at.items() if name in AT]
        return sorted(self.curve or few)


AT: Mapping[str, float] = {"T/2": 0.5, "T": 1.0, "2T": 2.0}


class Benchmark(BaseModel):
    """The part of a benchmark's file that the page shows; T is the rival's time in seconds."""

    T: Positive
    searches: dict[str, Searched] = Field(min_length=1)
    rival: Rival | None = None
    model: str = "?"
    data: str = "?"
    environment: dict[str, Any] = {}


@dataclass(frozen=True)
class Race:
    """What the page shows of a benchmark.

    Attributes:
        chart: hypervolume over seconds.
        told: sentences, the most important first.
        names: names of the searches, the heads of the table.
        rows: (seconds, hypervolume of each search and its share of the rival's).
        rival: name of the rival; empty where there is none.
    """

    chart: Markup
    told: list[str]
    names: list[str]
    rows: list[tuple[str, list[str]]]
    rival: str


def read_benchmark(file: str | Path) -> Benchmark:
    """Reads the file of a benchmark.

    Raises:
        UserError: if it cannot be read, or is no such file.
    """
    file = Path(file)
    hint = "give a JSON file that benchmarks/search_quality.py has written"
    try:
        if file.stat().st_size > MOST_BYTES:
            raise UserError(f"{file} is no benchmark of searches: it is too large", hint)
        found = Benchmark.model_validate_json(file.read_bytes())
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror}", hint) from None
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(plain(part, LONGEST) for part in first["loc"])
        raise UserError(f"{file} is no benchmark of searches: {place} {first['msg']}".strip(), hint) from None
    if empty := [name for name, search in found.searches.items() if not search.points()]:
        raise UserError(f"{file} has no hypervolume over time of search '{plain(empty[0], LONGEST)}'", hint)
    return found


def race(result: SearchResult, benchmark: Benchmark, name: str) -> Race:
    """The benchmark beside a run.

    Args:
        result: the run of the page.
        benchmark: what the user gave.
        name: name of its file.
    """
    curves = {
        _label(key): [(share * benchmark.T, volume) for share, volume in search.points()]
        for key, search in benchmark.searches.items()
    }
    rival = benchmark.rival
    called = plain(rival.name, LONGEST) if rival else ""
    return Race(
        chart=_chart(curves, benchmark.T, rival),
        told=_sentences(result, benchmark, curves, called, plain(name, LONGEST)),
        names=list(curves),
        rows=_rows(curves, benchmark.T, rival),
        rival=called,
    )


def _label(search: str) -> str:
    seed, _, change = search.partition("-")
    if not seed.isdecimal():
        return plain(search, LONGEST)
    return plain(change.replace("-", " ") or f"seed {seed}", LONGEST)


def _at(curve: list[tuple[float, float]], seconds: float) -> float | None:
    """The hypervolume at a time; None before the first point and after the last one."""
    before = [volume for time, volume in curve if time <= seconds + 1e-9]
    return before[-1] if before and curve[-1][0] >= seconds - 1e-9 else None


def _sentences(
    result: SearchResult, benchmark: Benchmark, curves: dict[str, list[tuple[float, float]]], called: str, name: str
) -> list[str]:
    told = []
    if benchmark.rival is not None:
        whole = benchmark.rival.hypervolume
        first, curve = next(iter(curves.items()))
        text = f"{called[:1].upper()}{called[1:]} takes {_seconds(benchmark.T)} and reaches {whole:.3f}."
        reached = next((time for time, volume in curve if volume >= whole), None)
        within = f"reaches that after {_seconds(reached)}" if reached is not None else "does not reach that"
        told.append(f"{text} The search ({first}) {within}; its last value is {curve[-1][1]:.3f}.")
    of = f"{plain(benchmark.model, LONGEST)} on {plain(benchmark.data, LONGEST)}"
    machine = plain(benchmark.environment.get("processor") or "", LONGEST)
    told.append(f"The figures are of {name}: {of}{f', {machine}' if machine else ''}. They are not of this run.")
    own = f"{plain(result.job.get('model'), LONGEST)} on {plain(datafree.data_name(result), LONGEST)}"
    if own != of:
        told.append(f"This run is of {own}, so its figures cannot be compared with these.")
    return told


def _seconds(seconds: float) -> str:
    return words.duration(round(seconds))


def _rows(
    curves: dict[str, list[tuple[float, float]]], whole: float, rival: Rival | None
) -> list[tuple[str, list[str]]]:
    """Rows at the first point and at T/2, T and 2T."""
    first = min(curve[0][0] for curve in curves.values())
    rows = []
    for seconds in sorted({first, *(share * whole for share in AT.values())}):
        values = [_at(curve, seconds) for curve in curves.values()]
        if any(value is not None for value in values):
            rows.append((_seconds(seconds), [_cell(value, rival) for value in values]))
    return rows


def _cell(value: float | None, rival: Rival | None) -> str:
    if value is None:
        return words.MISSING
    share = f" ({value / rival.hypervolume:.2f} of the rival's)" if rival and rival.hypervolume else ""
    return f"{value:.3f}{share}"


def _chart(curves: dict[str, list[tuple[float, float]]], whole: float, rival: Rival | None) -> Markup:
    last = max([whole, *(curve[-1][0] for curve in curves.values())])
    volumes = [volume for curve in curves.values() for _, volume in curve]
    top = max([0.1, *volumes, *([rival.hypervolume] if rival else [])])
    x, y = Scale(0, last, LEFT, RIGHT), Scale(0, top * 1.08, BOTTOM, TOP)
    parts = []
    for value in round_ticks(0, y.high, 4):
        parts.append(tag("path", class_="grid", d=f"M{LEFT} {y(value)}H{RIGHT}"))
        parts.append(tag("text", f"{value:g}", x=LEFT - 6, y=y(value) + 4, text_anchor="end"))
    for value in round_ticks(0, last, 5):
        parts.append(tag("text", f"{value:g}", x=x(value), y=BOTTOM + 18, text_anchor="middle"))
    parts.append(tag("path", class_="axis", d=f"M{LEFT} {TOP}V{BOTTOM}H{RIGHT}"))
    parts.append(tag("text", "Hypervolume of the files, by the same scorer", class_="title", x=6, y=16))
    what = "seconds since the process began"
    parts.append(tag("text", what, class_="title", x=RIGHT, y=HEIGHT - 8, text_anchor="end"))
    for number, (name, curve) in enumerate(curves.items()):
        parts.append(_line(name, curve, x, y, is_first=number == 0))
    if rival is not None:
        at, down = x(whole), y(rival.hypervolume)
        parts.append(tag("path", class_="rival", d=f"M{at} {down}H{RIGHT}"))
        parts.append(tag("path", class_="mark baseline", d=f"M{at} {down - 8}l7 8l-7 8l-7 -8z"))
    label = "Hypervolume over time of a benchmark; the table below has its figures"
    return drawing(WIDTH, HEIGHT, label, parts, "picture race")


def _line(name: str, curve: list[tuple[float, float]], x: Scale, y: Scale, *, is_first: bool) -> Markup:
    """The line of a search, in steps: each value lasts until the next one."""
    path = "".join(f"H{x(seconds)}V{y(volume)}" for seconds, volume in curve[1:])
    kind = "stairs" if is_first else "stairs other"
    shape = tag("path", class_=kind, d=f"M{x(curve[0][0])} {y(0)}V{y(curve[0][1])}{path}")
    return Markup("<g>{}{}</g>").format(tag("title", name), shape)
