"""The report: the content of the page, its safety, and charts drawn by a browser."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from browser import dumped, needs_browser
from example_run import JOB, example_rows, write_run
from rich.console import Console

from autocompress import results
from autocompress.errors import UserError
from autocompress.report import front_table, view, words, write_report
from autocompress.report.charts.front_png import write_plot
from autocompress.report.charts.interactive_data import chart_data

EVIL = "<script>alert(1)</script>\"'&</pre>"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_run(tmp_path_factory.mktemp("results") / "resnet18-glyphs")
    write_report(folder)
    return folder


def page_data(page: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert found
    assert "<" not in found[1]  # otherwise a text of the user could end the element
    return json.loads(found[1])


def visible(page: str) -> str:
    """The text of the page without markup, styles and scripts."""
    return html.unescape(re.sub(r"<[^>]+>", " ", re.sub(r"(?s)<(style|script).*?</\1>", "", page)))


def rendered(page: Path, profile: Path, script: str = "") -> str:
    """The DOM of ``page`` in a browser, after ``script`` ran in it.

    Fails if a script of the page fails.
    """
    if script:
        tail = f"<script>addEventListener('load', () => setTimeout(() => {{{script}}}, 50))</script></body>"
        page = page.with_name("acted.html")
        page.write_text(page.with_name("report.html").read_text().replace("</body>", tail))
    return dumped(page, profile)


def test_the_page_describes_the_run(run: Path) -> None:
    page = (run / "report.html").read_text(encoding="utf-8")
    text = " ".join(visible(page).split())
    result = results.read(run)
    best = result.best()
    assert view.headline(result) in text
    assert f"{best['accuracy']:.2f} %" in text
    for row in result.models.to_dict("records"):
        assert words.recipe(row["recipe"]) in text
        assert f'href="artifacts/{row["trial"]}/model.onnx"' in page
    for fact in ("accuracy drop at most 1 point", "latency at most 0.5×", "avx512_vnni", "13 min 32 s", "41 of 114"):
        assert fact in text
    assert "adder does not apply layers of adders run 50 times slower" in text
    assert "Plugin 'acme' is broken" in text
    assert "OutOfMemoryError: <tried> to allocate 2 GiB & failed" in text
    assert "granularity: stage" in text
    assert "One validation image is 0.05 points" in text
    assert "Latency was noisy for trial" in text


def test_the_page_is_one_file(run: Path) -> None:
    page = (run / "report.html").read_text(encoding="utf-8")
    assert len(page) < 1_000_000
    assert not re.search(r'(src|href)="?(https?:|//)', page)
    assert "default-src 'none'" in page


def test_the_chart_has_every_trial(run: Path) -> None:
    data = page_data((run / "report.html").read_text(encoding="utf-8"))
    result = results.read(run)
    assert sorted(point["trial"] for point in data["points"] if point["trial"] is not None) == list(range(60))
    front = {point["trial"]: point for point in data["points"] if point["kind"] == "front"}
    assert set(front) == set(result.models["trial"])
    for row in result.models.to_dict("records"):
        assert front[row["trial"]]["latency_ratio"] == pytest.approx(
            row["latency_ratio"]
        )  # figures of the second measurement
    assert [point["latency_ratio"] for point in data["points"] if point["kind"] == "baseline"] == [1.0]
    assert data["limits"] == pytest.approx({"latency_ratio": 0.5, "accuracy": 91.6})
    assert (data["x"], data["y"]) == ("latency_ratio", "accuracy")
    assert data["progress"] == sorted(data["progress"])
    assert "energy_uj" not in {axis["key"] for axis in data["axes"]}


def test_the_picture_is_written(run: Path) -> None:
    picture = (run / "front.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert len(picture) > 10_000
    assert not [path.name for path in run.iterdir() if path.name.startswith(".")]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", ["long " * 2000, "costs $\\frac$ \u202e\n"])
def test_the_picture_accepts_any_name(tmp_path: Path, name: str) -> None:
    write_plot(results.read(write_run(tmp_path, trials=20, name=name)), tmp_path / "front.png")
    assert (tmp_path / "front.png").stat().st_size > 10_000


def test_long_texts_are_folded_and_none_turns_the_direction(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(yaml.safe_dump({**JOB, "model": "m\u202e", "name": "n\u2067"}))
    reason = "RuntimeError: \u202e" + "x" * 10_000
    results.write_trials(tmp_path, [{"trial": n, "status": "failed", "reason": reason} for n in range(3)])
    page = write_report(tmp_path).read_text(encoding="utf-8")
    assert not re.search("[\u202a-\u202e\u2066-\u2069]", page)
    assert not re.search(r"\\u(202[a-e]|206[6-9])", json.dumps(page_data(page)))
    assert "<details><summary>RuntimeError: xxx" in page
    headline = page[page.index('<p class="headline">') :].partition("</p>")[0]
    assert 300 < len(headline) < 500


def test_texts_of_users_are_escaped(tmp_path: Path) -> None:
    write_run(tmp_path, name=EVIL, model=EVIL)
    rows, front = example_rows()
    rows[0] |= {"reason": EVIL, "status": "failed", "recipe": {EVIL: EVIL}}
    front[1] |= {"recipe": {f"ghost.ratio.{EVIL}": EVIL}, "artifact": f"artifacts/{EVIL}"}
    results.write_trials(tmp_path, rows)
    results.write_front(tmp_path, front)
    summary = json.loads((tmp_path / "summary.json").read_text())
    summary["environment"] = {EVIL: EVIL}
    summary["plugins"] = {"applied": [EVIL], "refused": {EVIL: [EVIL]}, "broken": {EVIL: EVIL}}
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    page = write_report(tmp_path).read_text(encoding="utf-8")
    assert "alert(1)" in page
    assert "<script>alert" not in page
    assert "</pre>&" not in page
    assert page_data(page)["points"][0]["reason"] == EVIL


def test_links_stay_inside_the_run(tmp_path: Path) -> None:
    write_run(tmp_path / "run")
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "model.onnx").write_text("x")
    _, front = example_rows()
    front[1]["artifact"] = "../secret"
    front[2]["artifact"] = str(tmp_path / "secret")
    results.write_front(tmp_path / "run", front)
    assert "secret" not in re.sub(r"(?s)<script.*?</script>", "", write_report(tmp_path / "run").read_text())


def test_a_running_search_has_a_page(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(JOB))
    assert "No front yet" in write_report(tmp_path).read_text()
    results.write_trials(tmp_path, example_rows(8)[0])
    page = write_report(tmp_path).read_text()
    assert "still running" in page
    assert len(page_data(page)["points"]) == 8


def test_the_nearest_miss_is_named(tmp_path: Path) -> None:
    write_run(tmp_path, constraints={"accuracy_drop": 1.0, "latency": "0.001x"})
    summary = json.loads((tmp_path / "summary.json").read_text())
    summary["nearest_miss"] = {"trial": 17, "reason": "latency 0.14x, at most 0.001x"}
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    text = visible(write_report(tmp_path).read_text())
    assert "No model of the front meets accuracy drop at most 1 point and latency at most 0.001×" in text
    assert "The nearest miss is trial 17: latency 0.14x, at most 0.001x." in text
    assert "misses latency" in text


def test_without_a_bound_on_accuracy_the_most_accurate_model_is_recommended(tmp_path: Path) -> None:
    write_run(tmp_path, constraints={"latency": "0.5x"})
    _, front = example_rows()
    front[1:] = [row | {"accuracy_drop": row["accuracy_drop"] + 5} for row in front[1:]]
    results.write_front(tmp_path, front)
    result = results.read(tmp_path)
    best = result.recommended()
    assert best is not None
    assert best["accuracy_drop"] == result.models["accuracy_drop"].min()


def test_an_energy_job_shows_energy(tmp_path: Path) -> None:
    write_run(tmp_path, objectives=["accuracy", "energy"], constraints={"energy": "0.5x"})
    rows, front = example_rows()
    for row in (*rows, *front[1:]):
        row["energy_uj"] = 200.0 * row["latency_ratio"] if row.get("latency_ratio") else None
        if row in front:
            row["energy_ratio"] = row["energy_uj"] / 210.0
    front[0] = front[0] | {"energy_uj": 210.0, "energy_ratio": 1.0}
    results.write_trials(tmp_path, rows)
    results.write_front(tmp_path, front)
    data = page_data(write_report(tmp_path).read_text())
    assert data["x"] == "energy_uj"
    assert data["limits"] == {"energy_uj": 105.0}
    assert "210 µJ" in visible((tmp_path / "report.html").read_text())


def test_a_sensitivity_table_is_shown(run: Path, tmp_path: Path) -> None:
    assert 'id="sensitivity"' not in (run / "report.html").read_text()
    write_run(tmp_path)
    losses = {("layer1", 8): 0.00001, ("layer1", 2): 0.0312, (EVIL, 8): 0.2, (EVIL, 2): 40.0}
    rows: list[dict[str, Any]] = [
        {"group": group, "role": "weight", "quantizer": "q", "bits": bits, "loss": loss, "agreement": 87.5}
        for (group, bits), loss in losses.items()
    ]
    rows.append({**rows[0], "role": "activation", "bits": 4})
    results.write_sensitivity(tmp_path, rows)
    page = write_report(tmp_path).read_text()
    table = page[page.index('<table class="heat">') :]
    table = table[: table.index("</table>")]
    assert re.findall(r"<th [^>]*>(.*?)</th>", table)[:6] == ["q, weights", "q, activations", "bits", "8", "2", "4"]
    assert re.findall(r"<td[^>]*>(.*?)</td>", table)[1:] == ["0", "0.03", "0", "0.20", "40.0", ""]
    heats = [float(heat) for heat in re.findall(r"--heat:([\d.]+)", table)]
    assert heats[0] == heats[5] == 0.0 < heats[1] < heats[3] < heats[4] == 1.0
    assert "layer1: weights alone at 2 bits (q) cost 0.0312 nats; 87.5 % of the predictions stay the same" in table
    assert EVIL not in table


def test_tables_of_channels_are_shown_by_coupling_and_share(tmp_path: Path) -> None:
    write_run(tmp_path)
    losses = {("layer1.0", 1.0): 0.0, ("layer1.0", 0.5): 0.0312, (EVIL, 1.0): 0.0, (EVIL, 0.25): 40.0}
    rows: list[dict[str, Any]] = [
        {"axis": "structure", "name": name, "group": "layer1", "choice": share, "divergence": loss, "scale": 1.0}
        for (name, share), loss in losses.items()
    ]
    rows = [{**row, "measured": row["choice"] == 0.5} for row in rows]
    results.write_tables(tmp_path, rows)
    page = write_report(tmp_path).read_text()
    table = page[page.index('<table class="heat">') :]
    table = table[: table.index("</table>")]
    assert re.findall(r"<th [^>]*>(.*?)</th>", table)[:4] == ["share of channels kept", "coupling", "50%", "25%"]
    assert re.findall(r"<td[^>]*>(.*?)</td>", table)[1:] == ["0.03", "", "", "40.0"]
    assert "layer1.0 (layer1): keeping 50% of its channels costs 0.0312 nats, measured" in table
    assert EVIL not in table
    assert list(results.read(tmp_path).tables["measured"]) == [False, True, False, False]


def test_layers_that_stay_in_float_are_counted_and_named(tmp_path: Path) -> None:
    write_run(tmp_path)
    assert "in float</summary>" not in write_report(tmp_path).read_text()
    trial = results.read(tmp_path).models["trial"].iloc[0]
    metrics = tmp_path / "artifacts" / str(trial) / "metrics.json"
    metrics.write_text(
        json.dumps({**json.loads(metrics.read_text()), "float_layers": ["layer1.0.odd", "layer2.0.odd"]})
    )
    summary = tmp_path / "summary.json"
    summary.write_text(json.dumps({**json.loads(summary.read_text()), "float_layers": ["layer2.0.odd"]}))
    page = write_report(tmp_path).read_text()
    assert page.count("<summary>2 layers in float</summary>layer1.0.odd, layer2.0.odd</details>") == 1
    text = " ".join(visible(page).split())
    assert "1 layer of the baseline cannot be quantized in float whatever the bits of the group: layer2.0.odd" in text


def test_a_folder_that_is_no_run_gets_no_page(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a run"):
        write_report(tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_terminal_table_is_not_truncated_and_names_the_front(run: Path) -> None:
    console = Console(width=80, record=True)
    console.print(front_table(results.read(run)))
    text = console.export_text()
    for row in results.read(run).models.to_dict("records"):
        assert re.search(rf"(?m)^ *{row['trial']} +{row['accuracy']:.2f} +{row['test_accuracy']:.2f} ", text)
    assert "…" not in text
    assert "recommended" in text


def test_names_with_brackets_are_printed_unchanged(tmp_path: Path) -> None:
    write_run(tmp_path, name="[red]x[/blue]")
    console = Console(width=180, record=True)
    console.print(front_table(results.read(tmp_path)))
    assert "[red]x[/blue]" in console.export_text()


def test_reasons_that_differ_only_in_numbers_count_as_one(run: Path) -> None:
    found = view.reasons(results.read(run), "infeasible")
    assert len(found) == 1
    assert len(found[0][1]) == (results.read(run).trials["status"] == "infeasible").sum() > 1


def test_chart_data_is_strict_json(run: Path) -> None:
    assert json.loads(json.dumps(chart_data(results.read(run)), allow_nan=False))


@needs_browser
def test_the_browser_draws_the_front(run: Path, tmp_path: Path) -> None:
    dom = rendered(run / "report.html", tmp_path / "profile")
    result = results.read(run)
    chart = dom[dom.index('id="scatter"') : dom.index('id="legend"')]
    marks = re.findall(r'<circle class="mark front" data-trial="(\d+)" cx="([\d.]+)" cy="([\d.]+)"', chart)
    assert {int(trial) for trial, _, _ in marks} == set(result.models["trial"])
    assert chart.count('class="mark baseline"') == 1
    assert 'class="allowed"' in chart
    # Positions of the marks: slower models are further right, less accurate ones are lower.
    spots = {int(trial): (float(x), float(y)) for trial, x, y in marks}
    trials = list(result.models["trial"])
    by_latency = sorted(trials, key=lambda t: result.models.set_index("trial").loc[t, "latency_ratio"])
    by_accuracy = sorted(trials, key=lambda t: result.models.set_index("trial").loc[t, "accuracy"])
    assert by_latency == sorted(trials, key=lambda t: spots[t][0])
    assert by_accuracy == sorted(trials, key=lambda t: -spots[t][1])
    assert dom.count('class="thread') == 60
    assert len(re.findall(r"<tr data-trial", dom[dom.index('id="trials"') :])) == 60


@needs_browser
def test_controls_of_the_page_work_in_a_browser(run: Path, tmp_path: Path) -> None:
    dom = rendered(
        run / "report.html",
        tmp_path / "profile",
        """
        byId("axis-x").value = "size_bytes"; byId("axis-x").dispatchEvent(new Event("change"));
        byId("status").value = "failed"; byId("status").dispatchEvent(new Event("change"));
        document.querySelector("#scatter .mark.front").dispatchEvent(new Event("focus"));
        const marks = [...document.querySelectorAll("#scatter .mark.front")];
        const across = (one) => Number(one.getAttribute("cx"));
        const sorted = marks.sort((a, b) => across(a) - across(b));
        const press = (mark, key) => mark.dispatchEvent(new KeyboardEvent("keydown", { key, cancelable: true }));
        const reached = [[0, "ArrowRight"], [1, "ArrowLeft"], [0, "ArrowLeft"]].map(([at, key]) => {
          sorted[at].focus();
          press(sorted[at], key);
          return sorted.indexOf(document.activeElement);
        });
        document.body.dataset.reached = reached;
        """,
    )
    assert 'data-reached="1,0,0"' in dom
    assert "Size of the file, log scale" in dom[dom.index('id="scatter"') : dom.index('id="legend"')]
    failed = int((results.read(run).trials["status"] == "failed").sum())
    assert f"{failed} of 60</span>" in dom
    assert 0 < failed == len(re.findall(r"<tr data-trial", dom[dom.index('id="trials"') :]))
    assert re.search(r'<div id="tip"[^>]*><b>trial \d+, on the front</b>', dom)


@needs_browser
def test_keys_close_the_tip_and_go_to_the_row(run: Path, tmp_path: Path) -> None:
    dom = rendered(
        run / "report.html",
        tmp_path / "profile",
        """
        const mark = document.querySelector("#scatter .mark.front"), hidden = [];
        const how = { cancelable: true, bubbles: true };
        const press = (key) => mark.dispatchEvent(new KeyboardEvent("keydown", { key, ...how }));
        for (const key of ["Escape", "Enter", " "]) {
          mark.blur(); mark.focus();
          hidden.push(byId("tip").hidden);
          press(key);
          hidden.push(byId("tip").hidden);
        }
        document.body.dataset.hidden = hidden;
        """,
    )
    assert 'data-hidden="false,true,false,true,false,true"' in dom


@needs_browser
def test_charts_can_be_made_as_narrow_as_a_printed_page(run: Path, tmp_path: Path) -> None:
    dom = rendered(run / "report.html", tmp_path / "profile")
    charts = re.findall(r'<svg width="([\d.]+)" height="([\d.]+)" viewBox="([^"]*)" role=', dom)
    assert len(charts) == 3
    for width, height, box in charts:
        assert box == f"0 0 {width} {height}"


def test_whole_recipes_are_behind_a_fold(run: Path) -> None:
    page = (run / "report.html").read_text()
    result = results.read(run)
    assert page.count("<summary>whole recipe</summary>") == len(result.models)
    for name in result.models.iloc[0]["recipe"]:
        assert f"<dt>{name.replace('.', '.<wbr>').replace('_', '_<wbr>')}</dt>" in page


@needs_browser
@pytest.mark.parametrize("trials", [0, 3])
def test_the_page_of_an_empty_run_works_in_a_browser(tmp_path: Path, trials: int) -> None:
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(JOB))
    results.write_trials(tmp_path, [{"trial": n, "status": "failed", "reason": EVIL} for n in range(trials)])
    dom = rendered(write_report(tmp_path), tmp_path / "profile")
    assert f"{trials} of {trials}</span>" in dom
    assert "Nothing was measured." in dom


@needs_browser
def test_the_slider_chooses_a_model(run: Path, tmp_path: Path) -> None:
    first = results.read(run).cheapest_by_drop().iloc[0]
    lost = max(float(first["accuracy_drop"]), 0.0)
    script = f'byId("allowed").value = {lost + 0.01}; byId("allowed").dispatchEvent(new Event("input"));'
    dom = rendered(run / "report.html", tmp_path / "profile", script)
    assert re.search(rf'<p id="allowed-told"[^>]*>Trial {first["trial"]}: [\d.]+ times as fast, ', dom)
    assert len(re.findall(r'<tr data-trial="\d+" data-drop="[\d.]+" class="chosen">', dom)) == 1
