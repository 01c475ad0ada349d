"""report.md: the run on one page of Markdown, beside front.png, for a pull request."""

from __future__ import annotations

import json

from autocompress.report import datafree, view, words
from autocompress.report.answer import answer
from autocompress.report.markdown import escaped, fenced, plain, table
from autocompress.results import SearchResult

BRIEF_FILE = "report.md"
MOST_RECIPE = 300
"""Maximum length of a recipe as text."""
MOST_REASONS = 5


def brief(result: SearchResult) -> str:
    """The page: result, picture, front, recipes, warnings, failures and machine."""
    models = view.front_models(result)
    name = escaped(result.job.get("name", result.folder.name))
    parts = [
        f"# {name}: {escaped(result.job.get('model'))} on {escaped(datafree.data_name(result))}\n",
        *(f"{escaped(text, 1000)}\n" for text in _sentences(result) if text),
        *_use(result),
        "![accuracy against cost](front.png)\n",
        _front(models, by_agreement=datafree.is_by_agreement(result)) if models else "",
        _recipes(models),
        *(f"> {escaped(text, 1000)}\n" for text in view.warnings(result)),
        _trials(result),
        _machine(result),
    ]
    return "\n".join(part for part in parts if part)


def _sentences(result: SearchResult) -> list[str]:
    return [view.interruption(result), view.headline(result), view.fastest(result), view.tap_crop(result)]


def _use(result: SearchResult) -> list[str]:
    """The command that exports the recommended model, if its files exist."""
    found = answer(result)
    return [fenced(found.export, "sh")] if found and found.export else []


def _front(models: list[view.FrontModel], *, by_agreement: bool) -> str:
    of = "agreement" if by_agreement else "validation"
    headings = ["trial", "latency", "95 %", "ms", "size", of, f"{of} change", "test", "test change"]
    energy = any(model.energy_ratio != words.MISSING for model in models)
    rows = [
        [
            f"{model.trial}{' (recommended)' if model.recommended else ''}",
            model.latency,
            model.latency_interval,
            model.latency_ms,
            model.size,
            model.accuracy,
            model.change,
            model.test_accuracy,
            model.test_change,
            *([model.energy_ratio] if energy else []),
        ]
        for model in models
    ]
    return table([*headings, *(["energy"] if energy else [])], rows)


def _recipes(models: list[view.FrontModel]) -> str:
    lines = []
    for model in models:
        if not model.is_baseline:
            misses = f" Misses {escaped(model.misses)}." if model.misses else ""
            noisy = " Its latency was noisy." if model.noisy else ""
            lines.append(f"- trial {model.trial}: {escaped(model.recipe, MOST_RECIPE)}.{misses}{noisy}\n")
    return "".join(lines)


def _trials(result: SearchResult) -> str:
    counts = words.join(f"{count} {status}" for status, count in view.counts(result))
    spent = words.duration(result.summary.get("seconds"))
    lines = [f"{len(result.trials)} trials in {spent}: {counts}.\n" if len(result.trials) else "No trials yet.\n"]
    for status in ("failed", "infeasible"):
        for reason, trials in view.reasons(result, status)[:MOST_REASONS]:
            lines.append(f"- {len(trials)} {status}: {escaped(reason)}\n")
    return "".join([lines[0], *(["\n"] if lines[1:] else []), *lines[1:]])


def _machine(result: SearchResult) -> str:
    """Job and machine, in a folded section."""
    told = {key: value for key, value in result.job.items() if value not in (None, {}, [])}
    text = json.dumps({"job": told, "environment": result.summary.get("environment")}, indent=2, default=plain)
    return f"<details><summary>job and machine</summary>\n\n{fenced(text, 'json')}\n</details>\n"
