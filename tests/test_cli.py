"""The command line, mostly in a process of its own: output, streams and exit codes."""

from __future__ import annotations

import inspect
import io
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from example_run import example_rows, write_run
from patience import patient
from rich.console import Console
from rich.live import Live
from torch import nn

from autocompress.cli import app, catalogue, main, progress
from autocompress.cli.progress import Lines, Screen, watching
from autocompress.contract import Context, Manager, Params, Plan, Space, Stage, Transform, hookimpl
from autocompress.job import SHORTCUTS, Job, load_job
from autocompress.report.lines import trial_words
from autocompress.searching.progress import Steps


def autocompress(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Runs the command in a process of its own."""
    environment = {**os.environ, "COLUMNS": "120", "TERMINAL_WIDTH": "120", "NO_COLOR": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "autocompress.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=patient(300))


def refused(*arguments: str | Path) -> str:
    """The one line on stderr of a command that must exit with code 2 and without a traceback."""
    done = autocompress(*arguments)
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    return line.removeprefix("error: ")


class Here:
    """Runs commands in this process, in which torch is already loaded."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch, self._capsys = monkeypatch, capsys

    def __call__(self, *arguments: str | Path, code: int = 0) -> str:
        """The output of the command; if ``code`` is 2, its error."""
        self._monkeypatch.setattr(sys, "argv", ["autocompress", *map(str, arguments)])
        self._monkeypatch.setenv("COLUMNS", "200")
        with pytest.raises(SystemExit) as ended:
            main()
        printed = self._capsys.readouterr()
        assert (ended.value.code or 0) == code, printed
        return printed.out if code == 0 else printed.err.removeprefix("error: ").strip()


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Here:
    return Here(monkeypatch, capsys)


def test_help_names_every_command() -> None:
    done = autocompress("--help")
    assert done.returncode == 0
    for command in ("search", "resume", "plugins", "report", "show"):
        assert command in done.stdout


def test_every_common_key_has_a_flag() -> None:
    (search,) = (command.callback for command in app.registered_commands if command.callback.__name__ == "search")
    flags = set(inspect.signature(search).parameters)
    nested = {"constraints", "budget"}  # these keys have flags of their own
    rare = {"also", "augment", "baseline", "cluster", "compute", "model_args", "search"}  # --set can assign these keys
    assert set(SHORTCUTS) | (set(Job.model_fields) - nested - rare) <= flags


def test_a_typo_in_a_job_file_is_named_with_its_line(
    tmp_path: Path, here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "job.yaml").write_text("model: resnet18\ndata: digits\nbudget:\n  trails: 3\n")
    monkeypatch.chdir(tmp_path)
    message = here("search", "job.yaml", code=2)
    assert message == "job.yaml:4: 'budget.trails' is no key of budget (did you mean 'trials'?)"


def test_wrong_flags(here: Here) -> None:
    start = ("search", "--model", "resnet18", "--data", "digits")
    assert here(*start, "--latency", "half", code=2).startswith("--latency cannot be 'half'")
    assert here(*start, "--objectives", "acuracy", code=2).startswith("--objectives cannot be 'acuracy'")
    assert here("search", code=2) == "there is nothing to search (give a job file, or --model and --data)"
    assert here("search", "--set", "seed", code=2).startswith("--set seed has no value")
    assert here(*start, "--set", "seed=1", "--seed", "2", code=2).startswith("'seed' is set twice")


@pytest.mark.parametrize(
    ("assignment", "told"),
    [
        ("model_args=4", "--set model_args must be a mapping, not 4"),
        ("baseline=4", "--set baseline must be"),
        ("=3", "--set =3: the key is missing"),
        (" = 3", "--set = 3: the key is missing"),
        ("seed", "--set seed has no value"),
    ],
)
def test_a_wrong_assignment_names_its_key(assignment: str, told: str, here: Here) -> None:
    assert here("search", "--model", "resnet10t", "--data", "digits", "--set", assignment, code=2).startswith(told)


def test_an_unknown_model_suggests_the_closest() -> None:
    message = refused("search", "--model", "resnet81", "--data", "digits")
    assert message.startswith("--model names no timm model: 'resnet81' (did you mean ")
    assert "'resnet18'" in message


def test_a_run_is_never_overwritten(tmp_path: Path, here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_run(tmp_path / "results" / "resnet18-digits", trials=5)
    before = (folder / "trials.csv").read_text()
    monkeypatch.chdir(tmp_path)
    message = here("search", "--model", "resnet18", "--data", "digits", code=2)
    assert "results/resnet18-digits" in message
    assert "autocompress resume results/resnet18-digits" in message
    assert (folder / "trials.csv").read_text() == before


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path, here: Here) -> None:
    for command in ("show", "report", "resume"):
        assert "is not a run" in here(command, tmp_path, code=2)


def test_plugins_lists_methods_devices_and_data(here: Here) -> None:
    out = here("plugins", "--model", "resnet10t")
    for text in ("ghost", "quantize", "applies to resnet10t", "bits.weight.", "onnxruntime-cpu: measures", "digits"):
        assert text in out
    assert out.count("applies to resnet10t where a job has no training data") == 3, "checks assume a trained model"


def test_plugins_refuses_an_unknown_model(here: Here) -> None:
    assert "resnet81" in here("plugins", "--model", "resnet81", code=2)


class Faulty(Transform):
    """Uses a layer that does not exist, with its defaults or with one of its other choices."""

    name, version, reference, stage = "faulty", "1", "nobody, nowhere", Stage.PRUNE

    def __init__(self, bad_choice: str) -> None:
        self._bad_choice = bad_choice

    def search_space(self, space: Space, model: nn.Module) -> Params:
        mode = space.categorical("mode", ["plain", "other"], default="plain", cheapest="other", neutral="plain")
        return {"rate": {}["layer9"]} if mode == self._bad_choice else {}

    def apply(self, model: nn.Module, params: Params, context: Context) -> tuple[nn.Module, Plan]:
        raise NotImplementedError

    def rebuild(self, model: nn.Module, plan: Plan) -> nn.Module:
        raise NotImplementedError


@pytest.mark.parametrize("bad_choice", ["plain", "other"])
@pytest.mark.parametrize("model", ["test_resnet", None])
def test_a_method_whose_space_raises_does_not_hide_the_others(model: str | None, bad_choice: str) -> None:
    plugins = Manager()
    plugins.register(SimpleNamespace(autocompress_methods=hookimpl(lambda: [Faulty(bad_choice)])))
    text = io.StringIO()
    catalogue.show(model, "model", Console(file=text, width=200), plugins)
    printed = text.getvalue()
    assert "its search space raised KeyError: 'layer9'" in printed
    for others in ("  ghost.", "  bits.weight.", "onnxruntime-cpu: measures", "glyphs"):
        assert others in printed


def test_plugins_lists_every_parameter_of_the_engine() -> None:
    text = io.StringIO()
    catalogue.show(None, "model", Console(file=text, width=200), Manager())
    own = text.getvalue().partition("the engine's own parameters:")[2].partition("devices:")[0]
    listed = [line.split(":")[0].strip() for line in own.splitlines() if line.strip()]
    assert listed == [
        "source",
        *("prune.method", "prune.mode", "prune.multiple", "prune.keep.model.*"),
        *("repair.fit", "repair.images"),
        *("recover.epochs", "recover.lr", "recover.distill"),
        *("bits.weight.model", "bits.activation.model"),
        *("qat.epochs", "qat.lr", "qat.norm", "qat.norm_freeze", "qat.range_freeze", "qat.delay", "qat.distill"),
    ]


def test_show_prints_the_front(tmp_path: Path, here: Here) -> None:
    out = here("show", write_run(tmp_path / "a-run", name="a-run"))
    assert "a-run: the front" in out
    assert "92.60" in out


def test_show_prints_several_runs(tmp_path: Path, here: Here) -> None:
    out = here("show", write_run(tmp_path / "a", name="a-run"), write_run(tmp_path / "b", name="b-run"))
    assert out.index("a-run: the front") < out.index("b-run: the front")
    assert "nowhere" in here("show", tmp_path / "a", tmp_path / "nowhere", code=2)


@pytest.mark.parametrize(
    ("assignment", "told"),
    [
        ("recover.epochs=20", "--set recover.epochs is no key of a job (write space.recover.epochs)"),
        ("ghost.ratio.layer3=2", "--set ghost.ratio.layer3 is no key of a job (write space.ghost.ratio.layer3)"),
        ("bits=8", "--set bits is no key of a job (write space.bits)"),
        ("recovr.epochs=2", "--set recovr.epochs is no key of a job (did you mean 'space.recover.epochs'?)"),
        ("epohcs=3", "--set epohcs is no key of a job (did you mean 'budget.epochs'?)"),
        ("lr=0.1", "--set lr is no key of a job (did you mean 'baseline.lr'?)"),
        ("budget.lr=0.1", "--set budget.lr is no key of budget (did you mean 'baseline.lr'?)"),
        ("device.cost_model=45nm", "('cost_model' is a key of the job itself, not of 'device')"),
    ],
)
def test_a_key_in_the_wrong_place_is_told_the_right_one(assignment: str, told: str, here: Here) -> None:
    assert told in here("search", "--model", "resnet18", "--data", "digits", "--set", assignment, code=2)


def test_report_writes_the_report_again(tmp_path: Path, here: Here) -> None:
    folder = write_run(tmp_path / "a-run", trials=12)
    assert str(folder / "report.html") in here("report", folder)
    assert (folder / "report.html").stat().st_size > 1000


def test_a_dry_run_trains_nothing_and_shows_costs(tmp_path: Path, here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    wish = ("--methods", "quantize", "--size", "0.5x", "--macs", "0.001x")
    out = here("search", "--model", "resnet10t", "--data", "digits", *wish, "--dry-run")
    (tmp_path / "again.yaml").write_text(out[: out.index("methods: quantize")])
    again = load_job(tmp_path / "again.yaml")
    assert (again.model, again.name) == ("resnet10t", "resnet10t-digits")
    assert "size: within reach of" in out
    assert "macs: not even the cheapest candidates meet it" in out
    assert list(tmp_path.iterdir()) == [tmp_path / "again.yaml"]


# --- progress -------------------------------------------------------------------------------------


def test_a_pipe_gets_one_line_per_event() -> None:
    rows, front = example_rows(20)
    text = io.StringIO()
    with watching(Console(file=text)) as observer:
        assert type(observer) is Lines
        observer.on_baseline(front[0])
        observer.on_start(20)
        for done, row in enumerate(rows, start=1):
            observer.on_trial(row, front[1:], 0.5, done, None)
        observer.on_note("measuring the front again")
    lines = text.getvalue().splitlines()
    assert len(lines) == 23
    assert lines[0].startswith("baseline: 92.60 %")
    assert lines[2].startswith(f"[1/20] front of {len(front) - 1} models, hypervolume 0.500, ")
    assert lines[-1] == "measuring the front again"


def test_the_time_left_of_an_epoch_is_that_of_the_training(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    text = io.StringIO()
    observer = Lines(Console(file=text))
    observer.on_progress(0.4, "epoch 5")
    now[0] += 6.0
    observer.on_progress(0.46, "epoch 6")  # 1 % a second, and 54 % are left
    assert text.getvalue() == "epoch 6: 46%, 54 s left\n"


def test_a_pipe_gets_few_lines_of_a_long_training(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    text = io.StringIO()
    steps = Steps(Lines(Console(file=text)))
    for epoch in range(1, 301):
        steps(epoch / 300, f"training the baseline, epoch {epoch}")
        now[0] += 1.0
    lines = text.getvalue().splitlines()
    assert lines[0] == "training the baseline, epoch 1"
    assert lines[1].startswith("training the baseline, epoch 6: 2%, 4 min ")
    assert lines[-1] == "training the baseline, epoch 300: 100%"
    assert len(lines) == 1 + 10 + 1


def test_the_same_step_again_is_another_one(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    text = io.StringIO()
    steps = Steps(Lines(Console(file=text)))
    for _ in range(2):
        for epoch in range(10):
            steps(0.01 * epoch, f"epoch {epoch}")
            now[0] += 1.0
        now[0] += 100.0
    first, second = "epoch 0", "epoch 5: 5%, 1 min 35 s left"
    assert text.getvalue().splitlines() == [first, second] * 2


def test_the_time_left_is_at_most_the_budget() -> None:
    rows, front = example_rows(3)
    text = io.StringIO()
    observer = Lines(Console(file=text))
    observer.on_start(1_000_000_000)
    observer.on_trial(rows[0], front, 0.5, 1, 0.0)
    assert ", 0 s left; " in text.getvalue()


def test_a_terminal_shows_the_front_so_far() -> None:
    rows, front = example_rows(40)
    console = Console(file=io.StringIO(), force_terminal=True, width=140, color_system=None)
    with Live(console=console, auto_refresh=False) as live:
        screen = Screen(console, live)
        screen.on_start(40)
        screen.on_trial(rows[0], front[1:], 0.612, 10, 60.0)
        console.print(live.get_renderable())
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "10 of 40 trials" in shown
    assert "hypervolume 0.612" in shown
    assert "front so far" in shown
    for row in front[1:4]:
        assert f"{row['accuracy']:.2f} %" in shown


def test_a_failed_trial_shows_its_reason() -> None:
    assert trial_words({"trial": 3, "status": "failed", "reason": "loss is NaN"}) == "trial 3 failed: loss is NaN"
