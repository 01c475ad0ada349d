"""What test files share: one cache folder, one opened job and one Ray cluster.

``docs/architecture.md``, section "Tests", says how tests are marked and which fixtures to use.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

# Read when torch is loaded, here and in the processes that tests start. Two test processes share two processors: with
# threads of its own each would wait for the other's, and OpenMP waits by spinning.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import torch

if TYPE_CHECKING:
    from autocompress.compression.workbench import Workbench

TESTS = Path(__file__).parent
CLUSTER_PROCESSORS = 2


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The user's cache folder of this test run, for all processes of pytest-xdist and all that tests start.

    The first process that needs an entry (a trained baseline, synthetic images) makes it; the others wait for it.
    The machine's locks are this process's own: a measurement of one test need not wait for another test to train.
    """
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "cache"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AUTOCOMPRESS_CACHE", str(folder))
        patch.setenv("AUTOCOMPRESS_LOCKS", str(tmp_path_factory.mktemp("locks")))
        yield folder


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def bench(cache: Path) -> Workbench:
    """resnet10t on digits, trained for four epochs. Treat it as read-only: all tests of the process share it."""
    from autocompress.compression.store import Store
    from autocompress.compression.workbench import Workbench
    from autocompress.job import load_job

    job = load_job(model="resnet10t", data="digits", baseline={"epochs": 4}, budget={"epochs": 1}, name="shared")
    with Store(cache / "tests").making("bench"):  # the first process trains the baseline, the others load it
        return Workbench.open(job)


@pytest.fixture(scope="session")
def teacher(cache: Path) -> Path:
    """The checkpoint of a test_resnet that was trained a little on digits: what a job without data begins with."""
    from noise_source import make_teacher

    from autocompress.compression.store import Store

    file = cache / "tests" / "teacher.safetensors"
    with Store(file.parent).making("teacher"):
        return file if file.exists() else make_teacher(file)


@pytest.fixture(scope="session")
def ray_cluster(cache: Path) -> Iterator[None]:
    """A Ray cluster with two processors; every search of this process uses it instead of starting one of its own.

    Its workers can import the files in ``tests``. They inherit the environment of this moment: what a test sets later
    does not reach them. A test that needs the product's own cluster runs its search in a subprocess.
    """
    import ray

    del cache
    scratch = tempfile.mkdtemp(prefix="ac-test-")  # short: the paths of Ray's sockets have 107 characters at most
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")]))
        ray.init(
            address="local",
            num_cpus=CLUSTER_PROCESSORS,
            include_dashboard=False,
            log_to_driver=False,
            object_store_memory=100 * 2**20,
            _temp_dir=scratch,
        )
    yield
    ray.shutdown()
    shutil.rmtree(scratch, ignore_errors=True)
