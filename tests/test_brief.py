"""report.md: the figures of the run in every state of a run, as plain text."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from example_run import BASELINE, write_run
from test_delivery import HOSTILE

from autocompress.report import write_report
from autocompress.report.brief import brief
from autocompress.results import read, write_front, write_trials


def test_it_is_written_beside_the_picture(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    write_report(run)
    text = (run / "report.md").read_text(encoding="utf-8")
    result = read(run)
    best = result.recommended()
    assert best is not None
    (row,) = [line for line in text.splitlines() if "(recommended)" in line]
    assert row.startswith(f"| {best['trial']} (recommended) | {best['latency_ratio']:.2f}×")
    assert text.count("\n- trial ") == len(result.models)
    assert "![accuracy against cost](front.png)" in text
    assert "| size | validation | validation change | test | test change |" in text
    assert (run / "front.png").is_file()
    assert "Plugin 'acme' is broken" in text
    assert f"\nautocompress export {run} --trial {best['trial']} --to run-model\n" in text


@pytest.mark.parametrize("state", ["running", "empty", "one trial", "all failed", "interrupted"])
def test_runs_in_every_state(tmp_path: Path, state: str) -> None:
    run = write_run(tmp_path / "run", trials=20)
    if state in ("running", "empty"):
        (run / "front.csv").unlink()
        (run / "summary.json").unlink()
    if state == "empty":
        (run / "trials.csv").unlink()
    if state == "one trial":
        write_trials(run, [{"trial": 0, "status": "complete", "accuracy": 90.0}])
        write_front(run, [BASELINE, {"trial": 0, "status": "complete", "accuracy": 90.0, "recipe": {}}])
    if state == "all failed":
        write_trials(run, [{"trial": number, "status": "failed", "reason": "no room"} for number in range(3)])
        write_front(run, [BASELINE])
    if state == "interrupted":
        (run / "summary.json").write_text('{"ended": "interrupted"}')
    said = {
        "running": "No front yet",
        "empty": "No trials yet",
        "one trial": "1 trials",
        "all failed": "Every trial failed (3 of 3); each time: no room",
        "interrupted": "was interrupted after 20 of 60 trials",
    }
    assert said[state] in brief(read(run))


def test_hostile_names_are_shown_as_text(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", name=HOSTILE, model="<img src=x>|`")
    write_trials(run, [{"trial": 0, "status": "failed", "reason": f"{HOSTILE}\x1b[2J"}])
    text = brief(read(run))
    seen = re.sub(r"```+json.*?\n```+\n", "", text, flags=re.DOTALL)
    assert "<script>" not in seen
    assert "<img" not in seen
    assert "\u202e" not in text
    assert "\x1b" not in text
    assert text.startswith("# &lt;script&gt;")
