"""The supervisor of a driver on a cluster: it starts a lost driver again."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from autocompress.cli import supervising
from autocompress.compat import ray as compat
from autocompress.errors import UserError
from autocompress.job import ClusterConfig, load_job

# --- supervising ----------------------------------------------------------------------------------

DRIVER = """
import json, os, signal, sys
from pathlib import Path
folder, plan = Path(sys.argv[1]), json.loads(sys.argv[2])
folder.mkdir(exist_ok=True)
log = folder / "runs.txt"
log.open("a").write(json.dumps(sys.argv[3:]) + "\\n")
assert os.environ["AUTOCOMPRESS_DRIVER"]
(folder / "job.yaml").touch()
step = plan[len(log.read_text().splitlines()) - 1]
(folder / "status.json").write_text(json.dumps({"phase": step["phase"], "trials": step.get("trials", 0)}))
if step["end"] < 0:
    os.kill(os.getpid(), -step["end"])
os._exit(step["end"])
"""
LOST = {"phase": "searching", "end": -9}


@pytest.mark.parametrize(
    ("plan", "code", "runs"),
    [
        ([{"phase": "over", "end": 0}], 0, 1),
        ([LOST, {"phase": "searching", "end": 1}, {"phase": "over", "end": 4}], 4, 3),
        ([{"phase": "stopped", "end": 1}], 1, 1),
        ([{"phase": "stopped", "end": 75}], 75, 1),
        ([{"phase": "searching", "end": 2}], 2, 1),
        ([LOST, *[{"phase": "searching", "end": 2}] * 7, {"phase": "over", "end": 0}], 0, 9),
        ([LOST] * 9, -9, supervising.MOST_ENDS),
        ([{**LOST, "trials": done} for done in range(1, 8)] + [{"phase": "over", "end": 0}], 0, 8),
    ],
)
def test_a_lost_driver_is_started_again(
    tmp_path: Path, plan: list[dict[str, Any]], code: int, runs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = [sys.executable, "-c", DRIVER, str(tmp_path / "demo"), json.dumps(plan)]
    monkeypatch.setattr(sys, "orig_argv", [*program, "search", "job.yaml"])
    monkeypatch.setattr(sys, "argv", ["autocompress", "search", "job.yaml"])
    monkeypatch.setattr(supervising, "LOOK_AGAIN_S", 0.01)
    monkeypatch.setattr(supervising, "TRY_AGAIN_S", 0.01)
    monkeypatch.setattr(compat, "address_of_this_machine", lambda: None)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert supervising.drive(tmp_path / "demo", ClusterConfig(address="auto")) == code
    told = [json.loads(line) for line in (tmp_path / "demo" / "runs.txt").read_text().splitlines()]
    assert told == [["search", "job.yaml"], *[["resume", str(tmp_path / "demo")]] * (runs - 1)]


def test_a_run_on_a_url_is_resumed_under_a_supervisor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"file://{tmp_path}/runs/demo"
    job = load_job(model="resnet18", data="digits", name="demo", results=url.rpartition("/")[0])
    on_cluster = job.model_copy(update={"cluster": ClusterConfig(address="127.0.0.1:1")})
    (tmp_path / "runs" / "demo").mkdir(parents=True)
    (tmp_path / "runs" / "demo" / "job.yaml").write_text(on_cluster.to_yaml())
    program = [sys.executable, "-c", DRIVER, str(job.folder), json.dumps([{"phase": "over", "end": 4}])]
    monkeypatch.setattr(sys, "orig_argv", [*program, "resume", url])
    monkeypatch.setattr(sys, "argv", ["autocompress", "resume", url])
    with pytest.raises(SystemExit) as ended:
        supervising.resume_supervised(Path(url))
    assert ended.value.code == 4
    assert json.loads((job.folder / "runs.txt").read_text()) == ["resume", url]
    (tmp_path / "runs" / "demo" / "job.yaml").write_text(job.to_yaml())
    supervising.resume_supervised(Path(url))  # returns: a local search needs no supervisor
    with pytest.raises(UserError, match=r"is not a run: it has no job\.yaml"):
        supervising.resume_supervised(Path(url[:-1]))
    with pytest.raises(UserError, match="the URL holds a password"):
        supervising.resume_supervised(Path("s3://key:secret@bucket/run"))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_no_driver_is_started_after_a_signal(
    tmp_path: Path, number: signal.Signals, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The driver has not installed its signal handlers yet, so the signal ends it."""
    script = (
        "import os, signal, sys, time\nfrom pathlib import Path\n"
        "signal.signal(signal.SIGINT, signal.SIG_DFL)\n"
        "folder = Path(sys.argv[1])\nfolder.mkdir(exist_ok=True)\n(folder / 'job.yaml').touch()\n"
        "with (folder / 'runs.txt').open('a') as log:\n    log.write(os.environ['RAY_ADDRESS'] + ' ')\n"
        "os.kill(os.getppid(), int(sys.argv[2]))\ntime.sleep(20)\n"
    )
    program = [sys.executable, "-S", "-c", script, str(tmp_path / "demo"), str(int(number))]
    monkeypatch.setattr(sys, "orig_argv", [*program, "search"])
    monkeypatch.setattr(sys, "argv", ["autocompress", "search"])
    monkeypatch.setattr(supervising, "LOOK_AGAIN_S", 0.01)
    monkeypatch.setattr(compat, "address_of_this_machine", lambda: "127.0.0.1:6379")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    before = signal.getsignal(number)
    assert supervising.drive(tmp_path / "demo", ClusterConfig(address="auto")) == code
    assert (tmp_path / "demo" / "runs.txt").read_text() == "127.0.0.1:6379 "
    assert signal.getsignal(number) == before
