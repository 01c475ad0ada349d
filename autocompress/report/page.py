"""report.html, report.md and front.png from the files of a run."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from autocompress.files import write_text
from autocompress.report import datafree, view, words
from autocompress.report.answer import answer
from autocompress.report.brief import BRIEF_FILE, brief
from autocompress.report.charts.front_svg import picture
from autocompress.report.charts.heat_tables import bits_table, width_table
from autocompress.report.charts.hypervolume_race import Race, race, read_benchmark
from autocompress.report.charts.interactive_data import chart_data
from autocompress.report.charts.layer_strip import strip
from autocompress.report.charts.recipe_steps import steps
from autocompress.report.metric import judged, metric
from autocompress.report.paying import by_group, headline
from autocompress.report.texts import short, upright
from autocompress.report.trades import trade_rows
from autocompress.results import JOB_FILE, SearchResult, read

REPORT_FILE, PLOT_FILE = "report.html", "front.png"
SCRIPTS = (
    "charts/base.js",
    "charts/front_scatter.js",
    "charts/parallel_coordinates.js",
    "charts/hypervolume_progress.js",
    "templates/trials.js",
    "templates/answer.js",
)


def write_report(folder: str | Path, benchmark: str | Path | None = None) -> Path:
    """Writes ``report.html``, ``report.md`` and ``front.png`` of a run into its folder.

    The page opens without a network. The run need not be finished.

    Args:
        folder: ``results/<name>``.
        benchmark: a file that ``benchmarks/search_quality.py`` wrote. The page then shows
            hypervolume over time of its searches and its rival.

    Returns:
        The path of the page.

    Raises:
        UserError: if the folder is not a run, or the benchmark cannot be read.
    """
    # Imported here, because matplotlib takes a second, and tables for the terminal do not need it.
    from autocompress.report.charts.front_png import write_plot

    result = read(folder)
    beside = None if benchmark is None else race(result, read_benchmark(benchmark), Path(benchmark).name)
    write_plot(result, result.folder / PLOT_FILE)
    write_text(result.folder / BRIEF_FILE, brief(result))
    page = result.folder / REPORT_FILE
    write_text(page, render(result, beside))
    return page


def render(result: SearchResult, beside: Race | None = None) -> str:
    """The page as one HTML text, with styles, scripts and data.

    Args:
        result: the run.
        beside: a benchmark that is shown too.
    """
    plugins = result.summary.get("plugins") or {}
    front, told = view.front_models(result), answer(result)
    return _template().render(
        name=str(result.job.get("name", result.folder.name)),
        job=result.job,
        job_text=(result.folder / JOB_FILE).read_text(encoding="utf-8"),
        data=_embed(chart_data(result)),
        data_name=datafree.data_name(result),
        by_agreement=datafree.is_by_agreement(result),
        judged_on=datafree.kind(result),
        judged=judged(result),
        metric=metric(result),
        headline=view.headline(result),
        fastest="" if told and told.names_the_fastest else view.fastest(result),
        tap_crop=view.tap_crop(result),
        interruption=view.interruption(result),
        answer=told,
        best=next((model for model in front if model.recommended), None),
        cost=words.of_quantity(result.cost),
        cheapest=words.superlative(result.cost),
        picture=picture(result),
        trades=trade_rows(result),
        steps=steps(result),
        race=beside,
        strip=strip(result),
        allowed_drop=result.limits.get("accuracy_drop"),
        wishes=view.wishes(result),
        warnings=view.warnings(result),
        front=front,
        with_energy=len(result.front) > 0 and bool(result.front["energy_uj"].notna().any()),
        with_limits=bool(result.limits),
        with_files=any(model.files for model in front),
        counts=view.counts(result),
        trials=len(result.trials),
        rungs=view.rungs(result),
        seconds=words.duration(result.summary.get("seconds")),
        hypervolume=result.summary.get("hypervolume"),
        heat=bits_table(result),
        cut_heat=width_table(result),
        also=result.summary.get("also") or [],
        paying=by_group(rows := result.summary.get("placement") or []),
        paying_headline=headline(rows) if rows else "",
        unquantized=result.summary.get("float_layers") or [],
        cache=result.summary.get("cache") or {},
        images=result.summary.get("images") or {},
        reasons={status: view.reasons(result, status) for status in ("failed", "infeasible")},
        applied=plugins.get("applied") or [],
        refused=plugins.get("refused") or {},
        broken=plugins.get("broken") or {},
        preprocessing=result.summary.get("preprocessing") or [],
        environment=view.flat(result.summary.get("environment")),
    )


def _embed(value: Any) -> Markup:
    """JSON for a script element, without ``<``, so that no text of a user can close the element."""
    text = json.dumps(upright(value), separators=(",", ":"), allow_nan=False, default=str)
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


def _breakable(name: str) -> Markup:
    """A long name that a narrow page may break behind its dots and underscores."""
    return Markup(str(escape(name)).replace(".", ".<wbr>").replace("_", "_<wbr>"))


@cache
def _template() -> Any:
    loader = PackageLoader("autocompress.report", ".")
    environment = Environment(
        loader=loader,
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: upright(value) if isinstance(value, str) else value,
    )

    def verbatim(name: str) -> Markup:
        return Markup(loader.get_source(environment, name)[0])

    environment.filters |= {"breakable": _breakable, "short": short}
    environment.globals.update(style=verbatim("templates/report.css"), scripts=[verbatim(name) for name in SCRIPTS])
    return environment.get_template("templates/report.html.j2")
