"""A search on two real nodes: both get work, and every process may be killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from patience import Patience
from toy_search import offer_toy_device, toy_job

from autocompress import results
from autocompress.errors import UserError
from autocompress.searching import run
from shared.two_nodes import TwoNodes

pytestmark = pytest.mark.slow
TESTS = Path(__file__).parents[1]
SECONDS = 0.4
"""Seconds of a trial."""
MORE = 8
"""Number of trials after the death of the driver."""


@pytest.fixture(scope="module")
def two(cache: Path) -> Iterator[TwoNodes]:
    """The head node, and a node that joins it."""
    path = os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])
    cluster = TwoNodes({"PYTHONPATH": path, "AUTOCOMPRESS_CACHE": str(cache)})
    try:
        cluster.start_head()
        cluster.start("second")
        patience = Patience(120)
        while not all(cluster.has_started(name) for name in cluster.nodes):
            assert not patience.is_over, [cluster.log(name) for name in cluster.nodes]
            time.sleep(0.1)
        yield cluster
    finally:
        cluster.stop()


def start_search(two: TwoNodes, folder: Path, resumed_to: int | None = None) -> subprocess.Popen[bytes]:
    """Starts the driver in a process of its own. With a number of trials, it resumes the run."""
    script = (
        "import json, sys, toy_search\n"
        "from pathlib import Path\n"
        "from autocompress.searching import run\n"
        "toy_search.offer_toy_device()\n"
        "folder, given, trials = sys.argv[1], json.loads(sys.argv[2]), int(sys.argv[3])\n"
        "if not trials: toy_search.main(folder, **given)\n"
        "else: run.resume(Path(folder) / 'toy', trials=trials, opener=toy_search.open_toy)"
    )
    given: dict[str, Any] = {
        "trials": 100_000,
        "space": {"toy": {"seconds": SECONDS}},
        "sampler": "random",
        "workers": 2,
    }
    given["cluster"] = {"address": two.address}
    command = [sys.executable, "-c", script, str(folder), json.dumps(given), str(resumed_to or 0)]
    return subprocess.Popen(command, env=two.environment)


class Run:
    """A search, seen from outside."""

    def __init__(self, folder: Path, driver: subprocess.Popen[bytes]) -> None:
        self.folder, self.driver = folder / "toy", driver

    def tried(self) -> list[dict[str, Any]]:
        """Each training: its recipe and its process."""
        file = self.folder / "toy" / "runs.txt"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def workers(self) -> set[int]:
        """Running processes that have trained."""
        return {one["pid"] for one in self.tried() if psutil.pid_exists(one["pid"])} - {self.driver.pid}

    def wait_for(self, condition: Callable[[], Any], what: str, seconds: float = 150) -> Any:
        """Waits. A busy machine needs a minute to start a worker on both nodes."""
        patience = Patience(seconds)
        while not (found := condition()):
            assert not patience.is_over, f"{what}: {self.log()}"
            assert self.driver.poll() in (None, 0), self.log()
            time.sleep(0.05)
        return found

    def log(self) -> str:
        file = self.folder / "log.txt"
        return file.read_text()[-4000:] if file.exists() else "no log"


def node_of(two: TwoNodes, worker: int) -> str:
    """The node of a worker process; "" if it is gone."""
    try:
        parents = {one.pid for one in psutil.Process(worker).parents()}
    except psutil.NoSuchProcess:
        return ""
    return next((name for name, process in two.nodes.items() if process.pid in parents), "")


def test_any_process_may_die(two: TwoNodes, tmp_path: Path) -> None:
    found = Run(tmp_path, start_search(two, tmp_path))
    try:
        found.wait_for(lambda: len(found.workers()) == 2, "both nodes work")
        places = {node_of(two, pid): pid for pid in found.workers()}
        assert set(places) == {"head", "second"}

        os.kill(places["head"], signal.SIGKILL)
        found.wait_for(lambda: len(found.workers() - set(places.values())) == 1, "another worker takes its place")

        two.kill("second")
        two.start("third")
        found.wait_for(lambda: any(node_of(two, pid) == "third" for pid in found.workers()), "a node that joins works")

        before = results.read(found.folder).trials
        alive = found.workers()
        found.driver.kill()
        found.driver.wait()
        assert len(before) >= 3
        tried_before = len(found.tried())
        # Some rows need no training. trials.csv may lack the rows of the last two seconds.
        total = max(tried_before, len(results.read(found.folder).trials)) + MORE
        found.driver = start_search(two, tmp_path, total)
        found.wait_for(lambda: found.driver.poll() == 0, "the search ends")
    finally:
        found.driver.kill()
    assert not any(psutil.pid_exists(pid) for pid in alive), "workers end with their driver"
    result = results.read(found.folder)
    assert result.summary["ended"] == "all trials are spent"
    assert len(result.trials) == total
    assert result.trials["trial"].is_unique
    kept = result.trials[result.trials["trial"].isin(before["trial"])].reset_index(drop=True)
    assert kept[["trial", "status", "recipe"]].equals(before[["trial", "status", "recipe"]])
    twice = [key for key, count in Counter(one["key"] for one in found.tried()).items() if count > 1]
    assert len(twice) <= 1 + 1 + 2, "only interrupted recipes are tried again"
    assert len(found.tried()) > tried_before
    assert not list(found.folder.glob("spool/*"))
    assert "it is tried again" in (found.folder / "log.txt").read_text()


@pytest.mark.parametrize(
    ("cluster", "sentence"),
    [
        ({"device_nodes": "board"}, "no node of the cluster has the resource 'board'"),
        ({"cpus": 4}, "a worker takes 4 processors, and no node of the cluster has more than 1"),
    ],
)
def test_resources_that_no_node_has_are_refused_at_once(
    two: TwoNodes, tmp_path: Path, cluster: dict[str, Any], sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(job: Any, progress: Any = None) -> Any:
        raise AssertionError("the job is opened before the cluster is looked at")

    offer_toy_device()
    for name, value in two.environment.items():
        if name.startswith("RAY_AUTH"):
            monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=sentence):
        run.search(toy_job(tmp_path, cluster={"address": two.address, **cluster}), opener=never)
