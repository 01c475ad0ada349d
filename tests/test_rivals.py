"""A benchmark beside a run.

The page shows the hypervolume over time of its searches and of a rival.
"""

from __future__ import annotations

import html
import json
import re
from pathlib import Path
from typing import Any

import pytest
from cli_here import Commands
from example_run import write_run

from autocompress.errors import UserError
from autocompress.report.charts.hypervolume_race import race, read_benchmark
from autocompress.results import read

COMMITTED = sorted((Path(__file__).parent.parent / "results" / "search").glob("resnet*.json"))
TOLD: dict[str, Any] = {
    "model": "resnet18",
    "data": "glyphs",
    "T": 100.0,
    "environment": {"processor": "Xeon"},
    "rival": {"hypervolume": 0.4, "name": "a sweep", "rows": []},
    "searches": {
        "0": {"curve": [[0.25, 0.2], [0.5, 0.5], [1.0, 0.6], [2.0, 0.7]], "first_trial": 9.0},
        "0-without-rungs": {"curve": [[0.25, 0.1], [1.0, 0.3]]},
    },
}


def benchmark(folder: Path, **changed: Any) -> Path:
    file = folder / "benchmark.json"
    file.write_text(json.dumps({**TOLD, **changed}))
    return file


def section(page: Path) -> str:
    """The text of the page about a benchmark; empty if there is none."""
    found = re.search(r'(?s)<section id="race">.*?</section>', page.read_text(encoding="utf-8"))
    return "" if found is None else " ".join(html.unescape(re.sub(r"<[^>]+>", " ", found[0])).split())


def test_the_page_shows_a_benchmark_only_if_one_is_given(tmp_path: Path, commands: Commands) -> None:
    run = write_run(tmp_path / "run", trials=8)
    commands("report", run)
    assert section(run / "report.html") == ""
    commands("report", run, "--benchmark", benchmark(tmp_path))
    text = section(run / "report.html")
    assert "Hypervolume over time, beside a sweep" in text
    assert "A sweep takes 1 min 40 s and reaches 0.400. The search (seed 0) reaches that after 50 s" in text
    assert "The figures are of benchmark.json: resnet18 on glyphs, Xeon. They are not of this run." in text
    assert "cannot be compared" not in text
    assert "1 min 40 s 0.600 (1.50 of the rival's) 0.300 (0.75 of the rival's)" in text
    assert "3 min 20 s 0.700 (1.75 of the rival's) –" in text, "the second search had ended"


def test_figures_of_another_network_are_not_compared(tmp_path: Path) -> None:
    run = read(write_run(tmp_path / "run", trials=8, model="resnet50"))
    told = race(run, read_benchmark(benchmark(tmp_path)), "b.json").told
    assert told[-1] == "This run is of resnet50 on glyphs, so its figures cannot be compared with these."


def test_without_a_rival_only_searches_are_shown(tmp_path: Path) -> None:
    run = read(write_run(tmp_path / "run", trials=8))
    slow = {"0": {"curve": [[0.5, 0.1]]}}
    found = race(run, read_benchmark(benchmark(tmp_path, rival=None)), "b.json")
    assert found.rival == ""
    assert found.rows[0] == ("25 s", ["0.200", "0.100"])
    assert str(found.chart).count('class="stairs') == 2
    found = race(run, read_benchmark(benchmark(tmp_path, searches=slow)), "b.json")
    assert "does not reach that; its last value is 0.100" in found.told[0]


@pytest.mark.parametrize("file", COMMITTED, ids=lambda file: file.name)
def test_the_benchmarks_of_the_repository_are_shown(tmp_path: Path, file: Path) -> None:
    run = read(write_run(tmp_path / "run", trials=8))
    found = race(run, read_benchmark(file), file.name)
    told = json.loads(file.read_text())
    assert f"and reaches {told['rival']['hypervolume']:.3f}." in found.told[0]
    at_the_end = next(cells for seconds, cells in found.rows if seconds == words_of(told["T"]))
    assert at_the_end[0].startswith(f"{told['searches']['0']['at']['T']['hypervolume']:.3f} (")


def words_of(seconds: float) -> str:
    from autocompress.report import words

    return words.duration(round(seconds))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[", "is no benchmark of searches"),
        ("[]", "is no benchmark of searches"),
        ("{}", "is no benchmark of searches: T "),
        ('{"T": 1, "searches": {}}', "is no benchmark of searches: searches "),
        ('{"T": 1, "searches": {"0": {}}}', "has no hypervolume over time of search '0'"),
        ('{"T": 1, "searches": {"0": {"curve": [[1, NaN]]}}}', "is no benchmark of searches"),
        ('{"T": -1, "searches": {"0": {"curve": [[1, 0.5]]}}}', "is no benchmark of searches: T "),
    ],
)
def test_other_files_are_refused_in_one_sentence(tmp_path: Path, commands: Commands, text: str, said: str) -> None:
    run = write_run(tmp_path / "run", trials=4)
    (tmp_path / "b.json").write_text(text)
    assert said in commands("report", run, "--benchmark", tmp_path / "b.json", code=2)
    assert not (run / "report.html").exists()


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    for file in (tmp_path / "none.json", tmp_path):
        with pytest.raises(UserError, match="cannot be read"):
            read_benchmark(file)


def test_names_in_a_benchmark_stay_text(tmp_path: Path, commands: Commands) -> None:
    evil = "<script>alert(1)</script>\n\u202e" + 10_000 * "a"
    rival = {"hypervolume": 0.1, "name": evil}
    file = benchmark(tmp_path, rival=rival, model=evil, searches={evil: {"curve": [[1, 1]]}})
    run = write_run(tmp_path / "run", trials=4)
    commands("report", run, "--benchmark", file)
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "<script>alert" not in page
    assert "\u202e" not in page
    assert 100 * "a" not in page
