"""axe-core finds no fault on the page of a run that has every section, on a phone and on a desk."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from browser import Looked, axe_core, looked_at, needs_browser
from example_run import JOB, write_everything

from autocompress import results
from autocompress.report.charts.hypervolume_race import race, read_benchmark
from autocompress.report.page import render

pytestmark = [needs_browser, pytest.mark.slow]
BENCHMARK = Path(__file__).parent.parent / "results" / "search" / "resnet18-glyphs-amx.json"
PLANTED = """<!doctype html><html><head><title>t</title></head><body>
<img src="data:,"><input><p style="color:#aaa;background:#fff">pale</p></body></html>"""


def failed_run(folder: Path) -> Path:
    """A run of a model with a very long name, in which every trial failed for a long reason."""
    (folder / "job.yaml").write_text(yaml.safe_dump({**JOB, "model": "m" * 500}))
    results.write_trials(folder, [{"trial": number, "status": "failed", "reason": "x" * 3000} for number in range(2)])
    return folder


@pytest.fixture(scope="module")
def looked(tmp_path_factory: pytest.TempPathFactory) -> list[Looked]:
    axe = axe_core()
    if axe is None:
        pytest.skip("axe-core is not here: npm install --no-save axe-core, or let AXE_CORE name its axe.min.js")
    run = results.read(write_everything(tmp_path_factory.mktemp("run"), trials=20))
    page = render(run, race(run, read_benchmark(BENCHMARK), BENCHMARK.name))
    failed = render(results.read(failed_run(tmp_path_factory.mktemp("failed"))))
    return looked_at({"report": page, "failed": failed, "planted": PLANTED}, axe, tmp_path_factory.mktemp("browser"))


def test_the_page_has_no_fault(looked: list[Looked]) -> None:
    assert [fault for one in looked if one.page != "planted" for fault in one.faults] == []


def test_only_pictures_and_the_widest_table_scroll_sideways(looked: list[Looked]) -> None:
    sideways = {one.width: one.sideways for one in looked if one.page == "report"}
    pictures = ["Strips of the layers", "Trials as lines through their parameters"]
    assert [one.sideways for one in looked if one.page == "failed"] == [[], []]
    assert sideways == {390: [*pictures, "Loss of each part, by coupling"], 1280: []}


def test_planted_faults_are_found(looked: list[Looked]) -> None:
    for one in looked:
        if one.page == "planted":
            found = {(fault.scheme, fault.rule) for fault in one.faults}
            assert {("light", rule) for rule in ("image-alt", "label", "color-contrast")} <= found
            assert ("dark", "html-has-lang") in found
