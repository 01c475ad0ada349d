"""The watchdog.

What hangs is ended, also while its clock stands, and what goes on meanwhile is not charged.
"""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from patience import patient

from autocompress import watchdog

LIMIT = 1.0


def run(body: str, dump: Path) -> subprocess.CompletedProcess[str]:
    """What becomes of a process with a limit of a second that does ``body``."""
    script = "import time\nfrom autocompress import watchdog\n"
    script += f"with open({str(dump)!r}, 'w') as file, watchdog.watched({LIMIT}, file):\n"
    script += textwrap.indent(textwrap.dedent(body), "    ") + "\nprint('finished')\n"
    return subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=patient(30)
    )


def test_what_is_prepared_costs_no_time_and_a_hang_still_ends(tmp_path: Path) -> None:
    found = run(
        """
        time.sleep(0.3)
        with watchdog.paused() as alive:
            for _ in range(25):
                time.sleep(0.1)
                with watchdog.paused() as inner:
                    inner()
        time.sleep(0.3)
        """,
        tmp_path / "dump",
    )
    assert (found.stdout, found.returncode) == ("finished\n", 0)
    found = run(
        """
        time.sleep(0.5)
        with watchdog.paused() as alive:
            for _ in range(15):
                time.sleep(0.1)
                alive()
        print('prepared', flush=True)
        time.sleep(0.8)  # of what was left
        """,
        tmp_path / "dump",
    )
    assert (found.stdout, found.returncode) == ("prepared\n", 1)
    assert "Timeout" in (tmp_path / "dump").read_text()


def test_a_preparation_that_is_not_heard_of_ends_too(tmp_path: Path) -> None:
    found = run("with watchdog.paused():\n    time.sleep(20)", tmp_path / "dump")
    assert (found.stdout, found.returncode) == ("", 1)


def test_whoever_watches_is_told_once(tmp_path: Path) -> None:
    told: list[bool] = []
    with (tmp_path / "dump").open("w") as file, watchdog.watched(60.0, file, told.append):
        with watchdog.paused(), watchdog.paused():
            assert told == [True]
        assert told == [True, False]
        with pytest.raises(ValueError, match="no images"), watchdog.paused():
            raise ValueError("no images")
    assert told == [True, False] * 2
    with watchdog.paused() as alive:
        alive()  # without a limit there is nothing to stop
    assert len(told) == 4
