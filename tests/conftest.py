"""What several test files share: a cache of their own, and one small job that is opened once."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

if TYPE_CHECKING:
    from autocompress.compression.workbench import Workbench

# Two cores are shared by everything that tests start; torch's own threads only add noise.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The cache folder and the machine's locks of this test session, for every process that tests start."""
    folder = tmp_path_factory.mktemp("cache")
    os.environ["AUTOCOMPRESS_CACHE"] = str(folder)
    os.environ["AUTOCOMPRESS_LOCKS"] = str(tmp_path_factory.mktemp("locks"))
    yield folder
    del os.environ["AUTOCOMPRESS_CACHE"], os.environ["AUTOCOMPRESS_LOCKS"]


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def bench(cache: Path) -> Workbench:
    """resnet10t on digits, trained for two epochs: a real baseline that a test can use in seconds."""
    from autocompress.compression.workbench import Workbench
    from autocompress.job import load_job

    del cache
    return Workbench.open(
        load_job(model="resnet10t", data="digits", baseline={"epochs": 4}, budget={"epochs": 1}, name="shared")
    )
