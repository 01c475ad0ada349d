"""Wrong arguments are refused before torch is imported, which takes seconds."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from example_run import write_run

REFUSED = """
import sys
from autocompress.cli import main
for line in sys.stdin.read().splitlines():
    sys.argv = ["autocompress", *line.split()]
    try:
        main()
    except SystemExit as ended:
        assert ended.code == 2, line
assert "torch" not in sys.modules, "torch was imported"
"""
WISH = "search --model resnet18 --data"


def test_refusals_come_before_slow_imports(tmp_path: Path) -> None:
    write_run(tmp_path / "results" / "there", trials=4)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("")
    (tmp_path / "typo.yaml").write_text("limits: {latncy: 0.5x}\n")
    (tmp_path / "good.yaml").write_text("limits: {latency: 0.5x}\n")
    wrong = {
        f"{WISH} digits --name there": "results/there exists already",
        f"{WISH} folder:gone": "there is no folder gone",
        f"{WISH} folder:gone --dry-run": "there is no folder gone",
        f"{WISH} folder:gone --set data.root=far": "there is no folder far/gone",
        "export results/there --to full": "full is there already",
        "export results/there --to new --trial 99": "trial 99 has no model in results/there",
        "export results/gone --to new": "results/gone is not a run",
        "check results/there --budget typo.yaml": "'limits.latncy' is no key of limits",
        "check gone.onnx --budget good.yaml": "there is no file gone.onnx",
        "check results/there --budget good.yaml --trial 99": "trial 99 has no artifact in results/there",
        "check results --budget good.yaml": "results is not a run",
        "debug results/there --trial 99": "trial 99 has no model in results/there",
        "measure gone.onnx gone.onnx": "there is no file gone.onnx",
        "resume results/gone": "results/gone is not a run: there is no such folder",
    }
    lines = "\n".join(wrong)
    done = subprocess.run([sys.executable, "-c", REFUSED], input=lines, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not done.stdout, "a job is not printed above an error"
    for said, expected in zip(done.stderr.splitlines(), wrong.values(), strict=True):
        assert expected in said


def test_a_run_that_exists_is_refused_in_python(tmp_path: Path) -> None:
    import autocompress

    write_run(tmp_path / "there", trials=4)
    with pytest.raises(autocompress.UserError, match="exists already"):
        autocompress.search(model="resnet18", data="digits", name="there", results=tmp_path)
