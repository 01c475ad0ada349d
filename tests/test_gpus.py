"""How GPUs are shared between workers."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autocompress.searching.gpus import RAY_STEPS, gpu_plan


@pytest.mark.parametrize(
    ("gpus", "workers", "share"),
    [(8, 3, 1.0), (2, 3, 0.5), (8, 2, 1.0), (0, 4, 0.0), (1, 1, 1.0), (1, 3, 0.3333), (4, 4, 1.0), (3, 7, 0.3333)],
)
def test_known_machines(gpus: int, workers: int, share: float) -> None:
    assert gpu_plan(gpus, workers) == share


@settings(deadline=None)
@given(gpus=st.integers(1, 64), workers=st.integers(1, 512))
def test_every_worker_gets_a_share_and_no_gpu_is_overbooked(gpus: int, workers: int) -> None:
    share = Fraction(round(gpu_plan(gpus, workers) * RAY_STEPS), RAY_STEPS)  # as Ray counts
    assert 0 < share <= 1
    assert float(share) == gpu_plan(gpus, workers), "Ray would round it, maybe up"
    on_one_gpu = 1 // share
    assert on_one_gpu * gpus >= workers, "the last worker would wait for ever"
    assert workers * share <= gpus
    assert share == 1 or 1 // (share + Fraction(1, RAY_STEPS)) * gpus < workers, "no worker gets less than it could"


@pytest.mark.parametrize(("gpus", "workers"), [(-1, 1), (2, 0), (0, -3)])
def test_more_gpus_than_the_machine_has_are_refused(gpus: int, workers: int) -> None:
    with pytest.raises(ValueError, match="cannot be shared"):
        gpu_plan(gpus, workers)
