"""A running search as text: its phase, counts of trials, and the expected time left."""

from __future__ import annotations

from autocompress.report import view, words
from autocompress.report.markdown import plain
from autocompress.results import SearchResult
from autocompress.results.status import OVER, Status

LONG = 200


def sentences(result: SearchResult, status: Status | None) -> list[str]:
    """Sentences about the state of a search, the most important first."""
    told = [f"{_phase(result, status)}: {counts(result, status)}"]
    if status is not None and status.phase != OVER and status.is_running is not False:
        told += _now(status)
        if result.job.get("constraints") and _none_fits(result):
            told.append("no trial meets the constraints so far")
    return told


def counts(result: SearchResult, status: Status | None) -> str:
    """``12 of 24 trials (10 complete, 2 infeasible)``.

    trials.csv follows the search within seconds. So the larger number is shown: its number of rows,
    or the number of trials in the status.
    """
    done = max(len(result.trials), 0 if status is None else status.trials)
    total = (status.total if status else 0) or (result.job.get("budget") or {}).get("trials")
    parts = ", ".join(f"{count} {name}" for name, count in view.counts(result) if count)
    return f"{done} of {total or '?'} trials{f' ({parts})' if parts else ''}"


def _phase(result: SearchResult, status: Status | None) -> str:
    if len(result.front):
        return "the search was interrupted" if result.is_interrupted else "the search is over"
    if status is None:
        return "the search is not over"
    if status.is_running is False:
        return f"the search stopped; 'autocompress resume {plain(result.folder, 1000)}' continues"
    doubt = f" on {plain(status.host)}, as far as can be told from here" if status.is_running is None else ""
    return f"{status.phase}{doubt}"


def _now(status: Status) -> list[str]:
    """The step, the workers and the time left."""
    told = []
    if status.step and status.phase != "searching":
        told.append(f"{plain(status.step, LONG)}{'' if status.fraction is None else f': {status.fraction:.0%}'}")
    if status.under_way:
        tried = ", ".join(_recipe(one.get("trial"), str(one.get("label") or "")) for one in status.under_way)
        told.append(f"{status.workers} worker{'s' * (status.workers != 1)}; being tried: {tried}")
    if status.trials:
        told.append(f"front of {status.front} model{'s' * (status.front != 1)}, hypervolume {status.hypervolume:.3f}")
    if status.seconds_left is not None and status.phase == "searching":
        told.append(f"about {words.duration(status.seconds_left)} left, then the front is measured again")
    notes = dict.fromkeys([*status.standing.values(), status.note])
    told += [plain(note, LONG) for note in notes if note]
    return told


def _none_fits(result: SearchResult) -> bool:
    """Whether trials have ended, and none of them meets the constraints."""
    return len(result.trials) > 0 and not (result.trials["status"] == "complete").any()


def _recipe(trial: object, label: str) -> str:
    return f"trial {trial} ({plain(label, 40)})" if label else f"trial {trial}"
