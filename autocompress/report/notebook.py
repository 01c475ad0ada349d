"""A run in a notebook as HTML: the result, a picture of the front, and its table."""

from __future__ import annotations

from markupsafe import Markup, escape

from autocompress.report import datafree, view
from autocompress.report.answer import answer
from autocompress.report.charts.front_svg import picture
from autocompress.results import SearchResult

# Colours for white and black backgrounds, because a notebook may have either.
STYLE = """
.autocompress-run { max-width: 900px; }
.autocompress-run svg { width: 480px; max-width: 100%; height: auto; font: 13px sans-serif; }
.autocompress-run text { fill: currentColor; }
.autocompress-run .grid { stroke: currentColor; stroke-opacity: .15; }
.autocompress-run .axis { stroke: currentColor; fill: none; }
.autocompress-run .stairs, .autocompress-run .limit { stroke: #2f7fd1; fill: none; }
.autocompress-run .limit { stroke: #3f8f5f; stroke-dasharray: 5 4; }
.autocompress-run .allowed { fill: #3f8f5f; fill-opacity: .12; }
.autocompress-run .mark { fill: #2f7fd1; stroke: none; }
.autocompress-run .mark.recommended { stroke: currentColor; stroke-width: 2.5; }
.autocompress-run .mark.baseline { fill: #c8641e; }
.autocompress-run table { color: inherit; }
.autocompress-run th, .autocompress-run td { text-align: right; padding: 2px 8px; white-space: nowrap; }
.autocompress-run td:last-child, .autocompress-run th:last-child { text-align: left; white-space: normal; }
"""


def run_html(result: SearchResult) -> str:
    """The run as HTML; texts of users are escaped, nothing is loaded, and there is no script."""
    found = answer(result)
    name = escaped_name(result)
    parts = [Markup("<style>{}</style>").format(Markup(STYLE)), Markup('<div class="autocompress-run">')]
    verdict = f"use trial {found.trial}: {found.speed}, {found.change}" if found else view.headline(result)
    parts.append(Markup("<p><b>{}</b>: {}</p>").format(name, verdict))
    parts.append(picture(result))
    parts.append(_table(result))
    return str(Markup("").join([*parts, Markup("</div>")]))


def escaped_name(result: SearchResult) -> Markup:
    """The name of the run."""
    return escape(str(result.job.get("name", result.folder.name)))


def _table(result: SearchResult) -> Markup:
    models = view.front_models(result, intervals_of_accuracy=False)
    if not models:
        return Markup("")
    judged = "agreement" if datafree.is_by_agreement(result) else "validation"
    heads = ["trial", "latency", "95 %", judged, "change", "test", "size", "recipe"]
    rows = [Markup("<tr>{}</tr>").format(Markup("").join(Markup("<th>{}</th>").format(head) for head in heads))]
    for model in models:
        mark = " (recommended)" if model.recommended else ""
        cells = [f"{model.trial}{mark}", model.latency, model.latency_interval, model.accuracy, model.change]
        cells += [model.test_accuracy, model.size, model.recipe]
        rows.append(Markup("<tr>{}</tr>").format(Markup("").join(Markup("<td>{}</td>").format(one) for one in cells)))
    return Markup("<table>{}</table>").format(Markup("").join(rows))
