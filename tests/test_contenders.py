"""Contenders: what is measured again at the end is the front, and what the noise of latency may hide behind it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from toy_bench import toy_job

from autocompress.searching.front import MOST_CONTENDERS, contenders, front_rows, still_there

BASELINE = {"accuracy": 90.0, "latency_ratio": 1.0, "latency_ms": 10.0}


def row(trial: int, accuracy: float, ratio: float, noise: float) -> dict[str, Any]:
    latency = {"latency_ratio": ratio, "ratio_low": ratio - noise, "ratio_high": ratio + noise}
    return {
        "trial": trial,
        "status": "complete",
        "accuracy": accuracy,
        "accuracy_drop": 90.0 - accuracy,
        "latency_ratio": ratio,
        "latency_ms": 10 * ratio,
        "latency": latency,
    }


def test_a_row_within_the_noise_is_a_contender(tmp_path: Any) -> None:
    job = toy_job(tmp_path)
    best, close, far = row(0, 89.0, 0.30, 0.02), row(1, 88.0, 0.32, 0.02), row(2, 88.0, 0.50, 0.02)
    rows = [best, close, far]
    assert [r["trial"] for r in front_rows(job, rows, BASELINE)] == [0]
    assert [r["trial"] for r in contenders(job, rows, BASELINE)] == [0, 1]


def test_without_noise_contenders_are_the_front(tmp_path: Any) -> None:
    job = toy_job(tmp_path)
    rows = [row(n, 89.0 - n, 0.5 - 0.1 * (n % 3), 0.0) for n in range(6)]
    assert contenders(job, rows, BASELINE) == front_rows(job, rows, BASELINE)


def test_a_row_whose_model_was_deleted_keeps_no_newcomer_out(tmp_path: Path) -> None:
    job = toy_job(tmp_path)
    lucky = {**row(0, 89.0, 0.30, 0.0), "artifact": "artifacts/0"}  # a closing found it slower, and dropped its files
    newcomer = {**row(1, 88.0, 0.32, 0.0), "artifact": "artifacts/1"}
    (tmp_path / "artifacts" / "1").mkdir(parents=True)
    (tmp_path / "artifacts" / "1" / "model.onnx").touch()
    missed = {"trial": 2, "status": "infeasible", "accuracy": None}
    assert [r["trial"] for r in contenders(job, [lucky, newcomer, missed], BASELINE)] == [0]
    there = still_there(tmp_path, [lucky, newcomer, missed])
    assert there == [newcomer, missed]
    assert contenders(job, there, BASELINE) == [newcomer]


def test_their_number_is_bounded(tmp_path: Any) -> None:
    job = toy_job(tmp_path)
    rows = [row(n, 89.0 - 0.01 * n, 0.3 + 0.001 * n, 0.2) for n in range(40)]
    assert len(contenders(job, rows, BASELINE)) == MOST_CONTENDERS
