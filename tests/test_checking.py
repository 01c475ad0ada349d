"""Checking models against budget files: verdicts, exit codes and errors."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from cli_here import Commands
from example_run import write_run
from patience import patient
from test_compare_files import write_model
from test_delivery import HOSTILE, edit_job, write_pictures

import autocompress
from autocompress.checking import Verdict, read_limits
from autocompress.checking.subjects import nodes_of
from autocompress.contract import Measurement
from autocompress.devices.lock import MachineLock
from autocompress.results import write_front, write_trials
from autocompress.searching import measurer

EXAMPLES = Path(__file__).parent.parent / "docs" / "examples" / "ci"
WIDE = Measurement(1.0, 0.5, 0.4, 0.6, 2.0, None, True, {})


def budget(folder: Path, **values: Any) -> Path:
    file = folder / "budget.yaml"
    file.write_text(yaml.safe_dump(values))
    return file


@pytest.fixture
def measures(monkeypatch: pytest.MonkeyPatch) -> list[Measurement]:
    """Returns the measurements in their order; the last one is repeated."""
    waiting: list[Measurement] = [WIDE]

    def measure(*arguments: object, **settings: object) -> Measurement:
        return waiting.pop(0) if len(waiting) > 1 else waiting[0]

    monkeypatch.setattr(measurer, "measure", measure)
    return waiting


def test_a_file_is_measured_beside_its_reference(small_run: Path, tmp_path: Path, measures: list[Measurement]) -> None:
    write_pictures(small_run, tmp_path / "val")
    files = [small_run / "artifacts" / trial / "model.onnx" for trial in "01"]
    limits = {"accuracy": 20, "accuracy_drop": 5.0, "latency": "0.7x", "size": "0.9x"}
    asked = budget(tmp_path, data=f"folder:{tmp_path / 'val'}", reference=str(files[0]), limits=limits)
    found = autocompress.check(files[1], asked)
    by_name = {one.name: one for one in found.judged}
    assert list(by_name) == ["accuracy", "accuracy_drop", "latency", "size"]
    assert (found.verdict, int(found.exit_code)) == (Verdict.MET, 0)
    row = autocompress.read(small_run).models.set_index("trial")["accuracy"]
    assert by_name["accuracy"].value == pytest.approx(row[1])
    assert by_name["accuracy_drop"].value == pytest.approx(row[0] - row[1])
    assert by_name["accuracy_drop"].low < by_name["accuracy_drop"].value < by_name["accuracy_drop"].high
    assert (by_name["latency"].low, by_name["latency"].high) == (0.4, 0.6)


def test_scoring_lets_measurements_of_other_processes_go_first(
    small_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_pictures(small_run, tmp_path / "val")
    taken, breaths = [], []
    shared, breathe = MachineLock.shared, MachineLock.breathe
    monkeypatch.setattr(MachineLock, "shared", lambda lock: taken.append(lock) or shared(lock))
    monkeypatch.setattr(MachineLock, "breathe", lambda lock: breaths.append(lock) or breathe(lock))
    asked = budget(tmp_path, data=f"folder:{tmp_path / 'val'}", limits={"accuracy": 20})
    assert autocompress.check(small_run / "artifacts" / "1" / "model.onnx", asked).verdict == Verdict.MET
    assert len(taken) == 1
    assert set(breaths) == set(taken)


@pytest.mark.parametrize(
    ("limit", "verdict", "code"),
    [
        ("0.65x", "met", 0),
        ("0.55x", "undecided", 3),
        ("0.35x", "missed", 4),
        ("1.3 ms", "met", 0),
        ("1 ms", "undecided", 3),
    ],
)
@pytest.mark.usefixtures("measures")
def test_the_interval_decides_on_latency(
    small_run: Path, tmp_path: Path, commands: Commands, limit: str, verdict: str, code: int
) -> None:
    file = small_run / "artifacts" / "0" / "model.onnx"
    asked = budget(tmp_path, reference=str(file), limits={"latency": limit}, reruns=0)
    told = json.loads(commands("check", file, "--budget", asked, "--json", code=code))
    assert (told["verdict"], told["exit_code"]) == (verdict, code)
    assert [one["verdict"] for one in told["checks"]] == [verdict]


def test_an_undecided_measurement_is_repeated_and_all_count(
    small_run: Path, tmp_path: Path, measures: list[Measurement]
) -> None:
    measures[:] = [WIDE, Measurement(1.0, 0.5, 0.49, 0.51, 2.0, None, False, {})]
    file = small_run / "artifacts" / "0" / "model.onnx"
    found = autocompress.check(file, budget(tmp_path, reference=str(file), limits={"latency": "0.55x"}, reruns=2))
    (latency,) = found.judged
    assert latency.verdict is Verdict.MET
    assert latency.note == "measured 2 times"
    assert "up to 2 times" in found.basis


def test_the_treatment_of_noise_is_only_told_where_latency_is_limited(small_run: Path, tmp_path: Path) -> None:
    file = small_run / "artifacts" / "0" / "model.onnx"
    assert autocompress.check(file, budget(tmp_path, limits={"size": "1 GB"})).basis == ""


def test_a_missed_limit_outweighs_an_undecided_one(
    small_run: Path, tmp_path: Path, measures: list[Measurement]
) -> None:
    file = small_run / "artifacts" / "0" / "model.onnx"
    limits = {"latency": "0.5x", "size": "1 B"}
    assert int(autocompress.check(file, budget(tmp_path, reference=str(file), limits=limits)).exit_code) == 4


def test_operators_are_counted_in_the_file_and_after_fusions(small_run: Path, tmp_path: Path) -> None:
    file = small_run / "artifacts" / "0" / "model.onnx"
    counts = nodes_of(file)
    assert counts["Conv"] > 3
    quantized = autocompress.check(file, budget(tmp_path, fused_operators={"forbidden": ["FusedConv", "Conv"]}))
    assert quantized.verdict is Verdict.MET, "no layer of an int8 network stays in float"
    one = autocompress.check(file, budget(tmp_path, operators={"allowed": sorted(set(counts) - {"Conv"})}))
    assert one.judged[0].found == f"{counts['Conv']} Conv"
    assert one.verdict is Verdict.MISSED


def test_a_run_is_judged_by_its_recorded_figures(small_run: Path, tmp_path: Path, commands: Commands) -> None:
    limits = {"latency": "0.6x", "params": "1 M", "macs": "1.0x", "accuracy_drop": 10}
    out = commands("check", small_run, "--budget", budget(tmp_path, limits=limits))
    assert "trial 1: met" in out
    assert "on the test split" in out
    assert "0.50× (0.47× to 0.53×)" in out
    out = commands("check", small_run, "--trial", "0", "--budget", tmp_path / "budget.yaml", code=4)
    assert "trial 0: missed" in out
    assert "undecided" in commands(
        "check", small_run, "--budget", budget(tmp_path, limits={"latency": "0.51x"}), code=3
    )


def test_a_run_without_a_suitable_model_misses_its_budget(tmp_path: Path, commands: Commands) -> None:
    run = write_run(tmp_path / "run", trials=20, constraints={"latency": "0.001x"})
    assert "no model of the front does" in commands(
        "check", run, "--budget", budget(tmp_path, limits={"size": "1 GB"}), code=4
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("limit: {latency: 0.5x}\n", "budget.yaml:1: 'limit' is no key of a budget (did you mean 'limits'?)"),
        ("limits:\n  latancy: 0.5x\n", "budget.yaml:2: 'limits.latancy' is no key of limits (did you mean 'latency'?)"),
        ("latency: 0.5x\n", "'latency' is no key of a budget (it belongs under 'limits:')"),
        ("limits: {latency: fast}\n", "'limits.latency' cannot be 'fast'"),
        ("limits: {accuracy: 120}\n", "'limits.accuracy' must be at most 100"),
        ("limits: {size: 2 MB}\noperators: {forbiden: [Conv]}\n", "'operators.forbiden' is no key of operators"),
        ("limits: {}\n", "limits nothing"),
        ("", "is empty"),
        ("limits: [\n", "not valid YAML"),
        ("limits: {latency: 0.5x}\n", "the limit on latency is relative (name a file in 'reference:')"),
        ("limits: {accuracy: 50}\n", "accuracy is limited, but the budget names no images"),
        ("limits: {macs: 5 M}\n", "macs is not known of this model"),
        ("limits: {accuracy: 5}\ndata: folder:nowhere\n", "there is no folder nowhere"),
    ],
)
def test_an_error_in_a_budget_file_names_its_place(
    small_run: Path, tmp_path: Path, commands: Commands, text: str, said: str
) -> None:
    (tmp_path / "budget.yaml").write_text(text)
    file = small_run / "artifacts" / "0" / "model.onnx"
    assert said in commands("check", file, "--budget", tmp_path / "budget.yaml", code=2)


def test_files_of_other_tools(tmp_path: Path, commands: Commands) -> None:
    foreign = write_model(tmp_path / "foreign.onnx")
    assert "met" in commands("check", foreign, "--budget", budget(tmp_path, limits={"size": "1 MB"}))
    asked = budget(tmp_path, limits={"accuracy": 1}, data="digits")
    assert "does not say how its pictures are prepared" in commands("check", foreign, "--budget", asked, code=2)
    said = {"mean": [0.5], "std": [0.5]}
    asked = budget(tmp_path, limits={"accuracy": 1}, data="digits", preprocessing=said)
    assert "gives outputs of shape [1, 8, 1, 1]" in commands("check", foreign, "--budget", asked, code=2)
    (tmp_path / "text.onnx").write_text("no model")
    asked = budget(tmp_path, limits={"size": "1 MB"})
    assert "cannot load" in commands("check", tmp_path / "text.onnx", "--budget", asked, code=2)
    (tmp_path / "pointer.onnx").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n")
    assert "is a pointer of Git LFS" in commands("check", tmp_path / "pointer.onnx", "--budget", asked, code=2)
    assert "there is no file" in commands("check", tmp_path / "gone.onnx", "--budget", asked, code=2)
    assert "has no trials" in commands("check", foreign, "--budget", asked, "--trial", "1", code=2)


def test_images_of_other_classes_are_refused_and_subsets_are_matched_by_name(
    small_run: Path, tmp_path: Path, commands: Commands
) -> None:
    write_pictures(small_run, tmp_path / "val")
    file = small_run / "artifacts" / "0" / "model.onnx"
    for gone in "012":
        shutil.rmtree(tmp_path / "val" / gone)
    asked = budget(tmp_path, limits={"accuracy": 1}, data=f"folder:{tmp_path / 'val'}")
    fewer = autocompress.check(file, asked).judged[0].value
    assert fewer is not None
    assert fewer > 25, "labels matched by position would be near chance"
    (tmp_path / "val" / "3").rename(tmp_path / "val" / "cat")
    assert "have a class 'cat'" in commands("check", file, "--budget", asked, code=2)


def test_runs_in_every_state(small_run: Path, tmp_path: Path, commands: Commands) -> None:
    asked = budget(tmp_path, limits={"size": "1 GB"})
    run = tmp_path / "run"
    shutil.copytree(small_run, run)
    edit_job(run, name=HOSTILE)
    commands.columns = 40
    out = commands("check", run, "--budget", asked)
    assert "MET" in out
    assert "at most" in out
    commands("check", run, "--budget", asked, "--markdown")
    summary = json.loads((run / "summary.json").read_text())
    (run / "summary.json").write_text(json.dumps(summary | {"ended": "interrupted"}))
    assert "the search was interrupted" in commands("check", run, "--budget", asked).replace("\n", " ")
    (run / "front.csv").unlink()
    assert "has no front.csv yet" in commands("check", run, "--budget", asked, code=2), "half finished"
    (run / "trials.csv").unlink()
    assert "has no front.csv yet" in commands("check", run, "--budget", asked, code=2), "empty"
    write_trials(run, [{"trial": 0, "status": "failed", "reason": "no"}])
    write_front(run, [{"status": "baseline", "accuracy": 50.0}])
    commands.columns = 120
    assert "no model of the front does" in commands("check", run, "--budget", asked, code=4), "all failed"


def test_limits_are_read_as_a_job_spells_them(tmp_path: Path) -> None:
    limits = read_limits(EXAMPLES / "budget.yaml")
    assert limits.bounds()["latency"].value == 1.2
    assert limits.bounds()["size"].value == 2e6
    assert limits.reruns == 2


@pytest.fixture
def repository(small_run: Path, tmp_path: Path) -> Path:
    """A scratch repository with a model, its baseline, pictures and the example's budget."""
    (tmp_path / "models").mkdir()
    (tmp_path / "bin").mkdir()
    for name in ("model", "reference"):
        shutil.copyfile(small_run / "artifacts" / "0" / "model.onnx", tmp_path / "models" / f"{name}.onnx")
    write_pictures(small_run, tmp_path / "pictures" / "val")
    asked = yaml.safe_load((EXAMPLES / "budget.yaml").read_text())
    del asked["limits"]["latency"]  # noise of this machine must not change the verdict
    (tmp_path / "budget.yaml").write_text(yaml.safe_dump(asked))
    program = tmp_path / "bin" / "autocompress"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m autocompress.cli "$@"\n')
    program.chmod(0o755)
    return tmp_path


@pytest.mark.slow
def test_the_workflow_of_the_docs_gates_a_pull_request(repository: Path, small_run: Path) -> None:
    """Runs the step of the example like GitHub: ``bash -e`` on its text."""
    workflow = yaml.safe_load((EXAMPLES / "check-model.yml").read_text())
    (step,) = [one["run"] for one in workflow["jobs"]["budget"]["steps"] if one.get("name") == "Check"]

    def gate() -> tuple[int, str]:
        summary = repository / "summary.md"
        path = os.pathsep.join([str(repository / "bin"), os.environ["PATH"]])
        environment = {**os.environ, "PATH": path, "GITHUB_STEP_SUMMARY": str(summary)}
        done = subprocess.run(
            ["bash", "-e", "-c", step],
            cwd=repository,
            env=environment,
            capture_output=True,
            text=True,
            timeout=patient(120),
        )
        return done.returncode, summary.read_text()

    code, summary = gate()
    assert (code, "| MET |" in summary, "| MISSED |" in summary) == (0, True, False)
    asked = yaml.safe_load((repository / "budget.yaml").read_text())
    (repository / "budget.yaml").write_text(yaml.safe_dump(asked | {"limits": {"size": "1 kB"}}))
    code, summary = gate()
    assert code == 4
    assert "| MISSED | size |" in summary
