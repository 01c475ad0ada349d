"""Processors that a process may use, by affinity and by quotas of control groups."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from autocompress.processors import usable_processors
from autocompress.training import threads

UNIFIED = "30 23 0:28 {inside} /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw\n"
CLASSIC = (
    "31 23 0:28 / /sys/fs/cgroup ro - tmpfs tmpfs ro,mode=755\n"
    "32 31 0:29 {inside} /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
    "33 31 0:30 {inside} /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset\n"
)


@pytest.fixture(autouse=True)
def _sixty_four(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)


def system(root: Path, groups: str, mounts: str, files: dict[str, str]) -> Path:
    """The files of a machine's ``/proc`` and ``/sys`` that are read."""
    for name, text in {"proc/self/cgroup": groups, "proc/self/mountinfo": mounts, **files}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_a_quota_of_a_container(tmp_path: Path) -> None:
    files = {"sys/fs/cgroup/cpu.max": "400000 100000\n"}
    assert usable_processors(system(tmp_path, "0::/\n", UNIFIED.format(inside="/"), files)) == 4


@pytest.mark.parametrize(
    ("outer", "middle", "inner", "expected"),
    [
        ("max 100000", "max 100000", "max 100000", 64),
        ("max 100000", "800000 100000", "max 100000", 8),
        ("300000 100000", "800000 100000", "1600000 100000", 3),
        ("max 100000", "max 100000", "150000 100000", 2),
        ("max 100000", "max 100000", "1000 100000", 1),
        ("", "rubbish", "1 0", 64),
    ],
)
def test_the_smallest_quota_of_nested_groups_counts(
    tmp_path: Path, outer: str, middle: str, inner: str, expected: int
) -> None:
    group = "system.slice/job 1.scope"
    files = {
        "sys/fs/cgroup/cpu.max": outer,
        "sys/fs/cgroup/system.slice/cpu.max": middle,
        f"sys/fs/cgroup/{group}/cpu.max": inner,
    }
    assert usable_processors(system(tmp_path, f"0::/{group}\n", UNIFIED.format(inside="/"), files)) == expected


@pytest.mark.parametrize(("quota", "expected"), [("200000", 2), ("-1", 6), ("50000", 1)])
def test_groups_of_version_1(tmp_path: Path, quota: str, expected: int) -> None:
    home = "sys/fs/cgroup/cpu,cpuacct"
    files = {
        f"{home}/cpu.cfs_quota_us": "-1\n",
        f"{home}/cpu.cfs_period_us": "100000\n",
        f"{home}/batch/cpu.cfs_quota_us": "600000\n",
        f"{home}/batch/cpu.cfs_period_us": "100000\n",
        f"{home}/batch/job/cpu.cfs_quota_us": quota,
        f"{home}/batch/job/cpu.cfs_period_us": "100000\n",
    }
    groups = "4:cpu,cpuacct:/batch/job\n3:cpuset:/\n0::/batch/job\n"
    assert usable_processors(system(tmp_path, groups, CLASSIC.format(inside="/"), files)) == expected


@pytest.mark.parametrize("own", ["/docker/0123", "/", "/../other"])
def test_a_container_that_sees_only_its_part_of_the_hierarchy(tmp_path: Path, own: str) -> None:
    files = {"sys/fs/cgroup/cpu.max": "200000 100000\n"}
    assert usable_processors(system(tmp_path, f"0::{own}\n", UNIFIED.format(inside="/docker/0123"), files)) == 2


def test_affinity_counts_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 5}, raising=False)
    files = {"sys/fs/cgroup/cpu.max": "400000 100000\n"}
    assert usable_processors(system(tmp_path, "0::/\n", UNIFIED.format(inside="/"), files)) == 2


def test_a_system_without_control_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert usable_processors(tmp_path) == 64
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert usable_processors(tmp_path) == 1


def test_torch_uses_no_more_threads_than_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_num_threads()
    monkeypatch.setattr(threads, "usable_processors", lambda: 2)
    monkeypatch.setattr(threads, "useful_threads", lambda most: most)
    try:
        for asked, expected in ((5, 2), (1, 1)):
            torch.set_num_threads(asked)
            threads.limit_threads()
            assert torch.get_num_threads() == expected
    finally:
        torch.set_num_threads(before)
