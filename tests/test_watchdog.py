"""The watchdog ends hanging processes, also while its clock is paused.

Shared work does not count.
"""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from patience import patient

from autocompress import watchdog

LIMIT = 2.0
"""Longer than a busy machine delays a process."""


def run(body: str, dump: Path) -> subprocess.CompletedProcess[str]:
    """The exit code and output of a process that runs ``body`` with a limit of two seconds."""
    script = "import time\nfrom autocompress import watchdog\n"
    script += f"with open({str(dump)!r}, 'w') as file, watchdog.watched({LIMIT}, file):\n"
    script += textwrap.indent(textwrap.dedent(body), "    ") + "\nprint('finished')\n"
    return subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=patient(30)
    )


def test_prepared_work_does_not_count_and_a_hang_is_still_ended(tmp_path: Path) -> None:
    found = run(
        """
        time.sleep(0.1)
        with watchdog.paused() as alive:
            for _ in range(25):
                time.sleep(0.1)
                with watchdog.paused() as inner:
                    inner()
        time.sleep(0.1)
        """,
        tmp_path / "dump",
    )
    assert (found.stdout, found.returncode) == ("finished\n", 0)
    found = run(
        """
        time.sleep(1.0)
        with watchdog.paused() as alive:
            for _ in range(12):
                time.sleep(0.1)
                alive()
        print('prepared', flush=True)
        time.sleep(1.5)  # more than what was left
        """,
        tmp_path / "dump",
    )
    assert (found.stdout, found.returncode) == ("prepared\n", 1)
    assert "Timeout" in (tmp_path / "dump").read_text()


def test_prepared_work_without_progress_is_ended_too(tmp_path: Path) -> None:
    found = run("with watchdog.paused():\n    time.sleep(20)", tmp_path / "dump")
    assert (found.stdout, found.returncode) == ("", 1)


def test_pauses_are_told_once(tmp_path: Path) -> None:
    told: list[bool] = []
    with (tmp_path / "dump").open("w") as file, watchdog.watched(60.0, file, told.append):
        with watchdog.paused(), watchdog.paused():
            assert told == [True]
        assert told == [True, False]
        with pytest.raises(ValueError, match="no images"), watchdog.paused():
            raise ValueError("no images")
    assert told == [True, False] * 2
    with watchdog.paused() as alive:
        alive()  # without a limit, there is no clock to pause
    assert len(told) == 4
