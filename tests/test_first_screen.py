"""The first screen of the report.

The recommended model, its figures, how to use it, and the slider.
"""

from __future__ import annotations

import html
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from example_run import BASELINE, write_run

from autocompress import results
from autocompress.report import view
from autocompress.report.answer import answer
from autocompress.report.charts.drawing import doubling_ticks, placed, round_ticks
from autocompress.report.charts.front_svg import picture
from autocompress.report.page import render
from autocompress.report.trades import trade_rows

PAIRS = [(0.0, 0.094), (0.28, 0.09), (1.94, 0.0877)]


def run_with(folder: Path, pairs: list[tuple[float | None, float | None]], **job: Any) -> results.SearchResult:
    """A run whose front has these drops and latency ratios."""
    write_run(folder, trials=4, **{"constraints": {"accuracy_drop": 2.0, "latency": "0.5x"}, **job})
    rows = [
        {"trial": number, "status": "complete", "recipe": {}, "artifact": f"artifacts/{number}"}
        | {"accuracy": None if drop is None else BASELINE["accuracy"] - drop, "accuracy_drop": drop}
        | {"latency_ratio": share, "size_bytes": 1_000_000, "size_ratio": 0.1}
        for number, (drop, share) in enumerate(pairs)
    ]
    for row in rows:
        (folder / row["artifact"]).mkdir(parents=True, exist_ok=True)
        (folder / row["artifact"] / "model.onnx").write_bytes(b"x")
    results.write_front(folder, [BASELINE, *rows])
    return results.read(folder)


def first_screen(page: str) -> str:
    found = page[page.index('<section class="answer"') :]
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", found[: found.index("</section>")])).split())


def test_the_answer_comes_first(tmp_path: Path) -> None:
    run = run_with(tmp_path / "run", [*PAIRS])
    page = render(run)
    text = first_screen(page)
    assert page.index('class="answer"') < page.index("<h2>The front</h2>")
    assert "Asked for: accuracy drop at most 2 points, latency at most 0.5×." in text
    assert "Use trial 0: 10.6 times as fast, the same validation accuracy" in text
    assert "trial 2 is the fastest (0.088× the latency, −1.94 points of validation accuracy)" in text
    assert f"{tmp_path / 'run'} --trial 0 --to run-model" in text
    assert "python run-model/infer.py picture.png" in text
    assert "Validation accuracy, 2,000 images" in text


def test_figures_have_their_intervals(tmp_path: Path) -> None:
    run = results.read(write_run(tmp_path))
    found = answer(run)
    best = run.recommended()
    assert found is not None
    assert best is not None
    figures = {figure.label: figure for figure in found.figures}
    assert figures["Latency"].interval == f"{best['latency_ratio_low']:.2f}× to {best['latency_ratio_high']:.2f}×"
    assert re.fullmatch(r"\d+\.\d to \d+\.\d", figures["Test accuracy, 3,000 images"].interval)
    assert re.match(r"[+−]?\d\.\d\d \([+−]?\d\.\d\d to ", figures["Test accuracy, 3,000 images"].note)


def test_the_command_names_the_folder_relative_to_where_it_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_with(tmp_path / "a run", [*PAIRS])
    monkeypatch.chdir(tmp_path)
    found = answer(run)
    assert found is not None
    assert found.export == "autocompress export 'a run' --trial 0 --to 'a run-model'"
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    found = answer(run)
    assert found is not None
    assert f"'{tmp_path / 'a run'}' --trial 0" in found.export


def test_a_loss_on_test_images_stands_in_the_first_line(tmp_path: Path) -> None:
    run = results.read(write_run(tmp_path))
    best = run.recommended()
    assert best is not None
    assert best["test_accuracy_drop"] > best["accuracy_drop"] > 0.005
    losses = [f"{best[drop]:.2f} points less" for drop in ("accuracy_drop", "test_accuracy_drop")]
    told = f"times as fast, {losses[0]} validation accuracy, {losses[1]} test accuracy"
    assert told in first_screen(render(run))


def test_a_model_without_files_has_no_command(tmp_path: Path) -> None:
    run = run_with(tmp_path, [*PAIRS])
    (tmp_path / "artifacts" / "0" / "model.onnx").unlink()
    assert "autocompress export" not in first_screen(render(run))
    assert "The files of this model are not beside this page." in first_screen(render(run))


@pytest.mark.parametrize("count", [1, 3, 12])
def test_fronts_of_every_size(tmp_path: Path, count: int) -> None:
    pairs = [(0.1 * number, 0.5 / (1 + number)) for number in range(count)]
    page = render(run_with(tmp_path, pairs))
    seen = page[page.index('class="seen"') : page.index("</figure>")]
    assert seen.count("<circle") == count
    assert "recommended</text>" in seen
    assert ('id="trades"' in page) == (count > 1)


def test_missing_figures_are_left_out(tmp_path: Path) -> None:
    run = run_with(tmp_path, [(None, None), (0.5, None), (0.7, 0.3)])
    (tmp_path / "summary.json").write_text("{}")
    run = results.read(tmp_path)
    assert str(picture(run)).count("<circle") == 1
    assert [row.trial for row in trade_rows(run)] == [2]
    text = first_screen(render(run))
    assert "nan" not in text.lower()
    assert "Use trial 2: 3.33 times as fast, 0.70 points less validation accuracy" in text


def test_without_a_model_there_is_a_reason(tmp_path: Path) -> None:
    text = first_screen(render(run_with(tmp_path, [*PAIRS], constraints={"latency": "0.01x"})))
    assert "No model to recommend" in text
    assert "No model of the front meets latency at most 0.01×" in text


def test_agreement_is_not_called_accuracy(tmp_path: Path) -> None:
    run_with(tmp_path, [*PAIRS])
    front = results.read(tmp_path).front.to_dict("records")
    results.write_front(tmp_path, [{**row, "agreement": row["accuracy"]} for row in front])
    summary = json.loads((tmp_path / "summary.json").read_text())
    summary |= {"synthetic": {"train": {"zskd": 64}, "held_out": 512, "classes": 10, "classes_seen": 10}}
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    text = first_screen(render(results.read(tmp_path)))
    assert "the baseline's answer for 92.60 % of 512 held-out synthetic images" in text
    assert "Validation accuracy" not in text


def test_a_job_for_size_shows_sizes(tmp_path: Path) -> None:
    run = run_with(tmp_path, [*PAIRS], objectives=["accuracy", "size"], constraints={"size": "0.5x"})
    assert "Use trial 0: 0.022× the size" in first_screen(render(run))


def test_the_slider_has_a_table_that_works_without_scripts(tmp_path: Path) -> None:
    page = render(run_with(tmp_path, [*PAIRS, (3.0, 0.5)]))
    table = page[page.index('id="trades"') :]
    rows = re.findall(r'data-trial="(\d+)" data-drop="([\d.]+)"', table[: table.index("</table>")])
    assert rows == [("0", "0.0"), ("1", "0.28"), ("2", "1.94")], "the last model is slower and less accurate"
    assert 'data-asked="2.0"' in page


def test_ticks_and_labels() -> None:
    assert round_ticks(97.0, 99.3, 4) == [97.0, 98.0, 99.0]
    assert round_ticks(5.0, 5.0) == [5.0]
    assert doubling_ticks(0.07, 1.1) == [0.125, 0.25, 0.5, 1.0]
    assert doubling_ticks(0.3, 0.45) == round_ticks(0.3, 0.45, 3)
    labels = placed([(50, 50, "first"), (52, 50, "second"), (54, 50, "third")], 0, 200)
    assert {text for *_, text in labels} == {"first", "second", "third"}
    assert placed([(2, 5, "no room at all")], 0, 40) == []


def test_places_without_a_measured_loss_are_named(small_run: Path) -> None:
    found = results.read(small_run)
    rows = [("a", 1.0, 0.0), ("a", 0.5, 0.1), ("b", 1.0, 0.0), ("b", 0.5, None), ("c", 1.0, 0.0), ("c", 0.5, None)]
    tables = pd.DataFrame(rows, columns=["name", "choice", "divergence"]).assign(axis="structure")
    bits = {"axis": "weight bits", "name": "stem", "choice": 8, "divergence": 0.0}
    tables = pd.concat([tables, pd.DataFrame([bits])])  # a group is no place of channels
    assert not [text for text in view.warnings(found) if "was not measured" in text]
    (told,) = [text for text in view.warnings(replace(found, tables=tables)) if "was not measured" in text]
    assert told == (
        "The loss without channels was not measured in 2 of 3 places, so proposals do not remove any there: b and c."
    )
