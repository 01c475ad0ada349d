"""Fixtures of all test files: a cache folder, an opened job and a Ray cluster.

``docs/architecture.md``, section "Tests", says how tests are marked and which fixtures to use.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

# torch reads these when it is loaded, here and in the processes that tests start. Two test
# processes share two processors. If each used several threads, they would wait for each other, and
# OpenMP waits by spinning.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
gc.set_threshold(20_000, 20, 20)  # before libraries are loaded: each collection looks at all of them

import psutil  # noqa: E402
import torch  # noqa: E402
from hypothesis import HealthCheck, settings  # noqa: E402

if TYPE_CHECKING:
    from cli_here import Commands

    from autocompress.opened.job import OpenedJob

TESTS = Path(__file__).parent
CLUSTER_PROCESSORS = 2

# No limit of time for an example or its drawing, which may take long on a busy machine.
# Every run has the same examples, so that a failure can be repeated.
settings.register_profile(
    "any machine", deadline=None, max_examples=60, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("any machine")


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The cache folder of this test run, for all processes of pytest-xdist and their children.

    The first process that needs an entry (a trained baseline, synthetic images) makes it; the
    others wait for it. Each process has its own folder for machine locks, so that a measurement of
    one test does not wait until another test has trained.
    """
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "cache"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AUTOCOMPRESS_CACHE", str(folder))
        patch.setenv("AUTOCOMPRESS_CHANNELS_LAST", "off")  # it depends on timing which memory format is faster
        patch.setenv("AUTOCOMPRESS_PLACEMENT", "off")  # it depends on the machine where integers are faster
        patch.setenv("AUTOCOMPRESS_LOCKS", str(tmp_path_factory.mktemp("locks")))
        yield folder


class Garbage:
    """Garbage collections skip all objects that existed before the test module.

    These are a million objects of libraries, which a collection needs half a second to a second to
    visit: each training and export would do that, and each test module once more. Therefore they
    stay frozen until a process has grown, because frozen networks of earlier modules may be
    garbage.
    """

    GROWTH = 400 * 2**20
    """Bytes that the process may grow until everything is visited."""

    def __init__(self) -> None:
        self._after = 0

    def collect(self) -> None:
        """Collects what is new, or everything if the process has grown."""
        is_full = psutil.Process().memory_info().rss > self._after + self.GROWTH
        if is_full:
            gc.unfreeze()
        gc.collect()
        gc.freeze()
        if is_full:
            self._after = psutil.Process().memory_info().rss


@pytest.fixture(scope="session")
def _garbage() -> Iterator[Garbage]:
    yield Garbage()
    gc.unfreeze()


@pytest.fixture(scope="module", autouse=True)
def _quick_collections(_garbage: Garbage) -> None:
    _garbage.collect()


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _short_measurements(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Measures latencies for a tenth of the usual time, except on Ray and in tests of timing.

    Searches do not explain their results.
    """
    if request.node.get_closest_marker("timing") is not None:
        return
    short = [
        ("searching.gates", "GATE_SECONDS", 0.2),
        ("searching.gates", "BORDERLINE_SECONDS", 0.4),
        ("searching.closing", "FRONT_SECONDS", 0.2),
        ("searching.explaining", "SHARE", 0.0),
        ("integer_placement.placer", "SECONDS", 0.1),
    ]
    for module, name, value in short:
        if (loaded := sys.modules.get(f"autocompress.{module}")) is not None:
            monkeypatch.setattr(loaded, name, value)
    if (profiling := sys.modules.get("autocompress.devices.profiling")) is not None:
        monkeypatch.setitem(profiling.layer_times.__kwdefaults__, "seconds", 0.05)


@pytest.fixture(scope="session")
def opened(cache: Path) -> OpenedJob:
    """A narrow resnet10t on digits, trained for four epochs.

    It is shared by all tests of the process, so do not change it.
    """
    from small_networks import NARROW

    from autocompress.job import load_job
    from autocompress.opened.job import OpenedJob
    from autocompress.store import Store

    settings = {"model": "resnet10t", "model_args": NARROW, "data": "digits", "name": "shared"}
    job = load_job(settings={**settings, "baseline": {"epochs": 4}, "budget": {"epochs": 1}})
    with Store(cache / "tests").making("opened"):  # the first process trains the baseline, the others load it
        return OpenedJob.open(job)


@pytest.fixture(scope="session")
def teacher(cache: Path) -> Path:
    """The checkpoint of a test_resnet that was trained a little on digits.

    Jobs without data use it.
    """
    from noise_source import make_teacher

    from autocompress.store import Store

    file = cache / "tests" / "teacher.safetensors"
    with Store(file.parent).making("teacher"):
        return file if file.exists() else make_teacher(file)


@pytest.fixture(scope="session")
def small_run(cache: Path, teacher: Path) -> Path:
    """The folder of a run with two real models, test_resnet on digits (see ``small_run.py``).

    It is shared, so copy it before you change it.
    """
    from small_run import write_small_run

    from autocompress.store import Store

    folder = cache / "tests" / "runs" / "small"
    with Store(cache / "tests").making("small run"):  # the first process writes it
        return folder if (folder / "summary.json").is_file() else write_small_run(folder, teacher)


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Commands:
    """Runs commands of the command line in this process."""
    from cli_here import Commands

    return Commands(monkeypatch, capsys)


class Cluster:
    """The Ray cluster of this test process; it is started when a test asks for it first."""

    def __init__(self) -> None:
        self._running: ExitStack | None = None

    def start(self) -> None:
        if self._running is None:
            from autocompress.searching import localray

            self._running = ExitStack()
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("PYTHONPATH", os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")]))
                self._running.enter_context(localray.cluster(CLUSTER_PROCESSORS))

    def stop(self) -> None:
        if self._running is not None:
            self._running.close()
            self._running = None


@pytest.fixture(scope="session")
def _cluster(cache: Path) -> Iterator[Cluster]:
    del cache
    cluster = Cluster()
    yield cluster
    cluster.stop()


@pytest.fixture
def ray_cluster(_cluster: Cluster) -> None:
    """A Ray cluster with two processors.

    Searches of this test use it and do not start their own. Its workers can import the files in
    ``tests``. They have the environment variables from the time when the cluster was started, and
    do not see those that a test sets later.
    """
    _cluster.start()


@pytest.fixture
def search_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Searches of this test try their recipes in this process, without Ray and worker processes.

    Use it for tests of what a search finds and writes. Tests of worker processes need
    ``ray_cluster``.
    """
    import here

    here.search_here(monkeypatch)


@pytest.fixture
def own_cluster(_cluster: Cluster) -> None:
    """Stops the shared cluster.

    A search of this test starts its own, as for a user, which takes seconds.
    """
    _cluster.stop()
