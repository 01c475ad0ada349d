"""torch gets one thread if more threads are slower."""

from __future__ import annotations

import pytest
import torch

from autocompress.training import limit_threads, threads


@pytest.fixture(autouse=True)
def own_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "set_num_threads", chosen.append)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    monkeypatch.setattr(threads, "usable_processors", lambda: 3)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    chosen.clear()
    threads.useful_threads.cache_clear()


chosen: list[int] = []


@pytest.mark.parametrize(("of_several", "expected"), [(0.5, 3), (0.95, 1), (3.0, 1)])
def test_several_threads_are_kept_if_they_are_faster(
    monkeypatch: pytest.MonkeyPatch, of_several: float, expected: int
) -> None:
    clock = [0.0]

    def step() -> None:
        clock[0] += 1.0 if chosen[-1] == 1 else of_several

    monkeypatch.setattr(threads, "_step", lambda: step)
    monkeypatch.setattr(threads.time, "perf_counter", lambda: clock[0])
    limit_threads()
    assert chosen[-1] == expected


def test_a_number_of_threads_set_by_the_user_is_not_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    monkeypatch.setattr(threads, "_step", lambda: pytest.fail("nothing needs to be timed"))
    limit_threads()
    assert chosen == [3]


def test_the_timed_step_runs() -> None:
    threads._step()()
