"""Scoring gives way to measurements, like training."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from patience import Patience
from test_onnxruntime_cpu import SIZE, save_network
from torch import nn
from toy_search import OpenedToy, open_toy, toy_job

from autocompress.contract import Deployable, manager
from autocompress.data import DataInfo, TensorSplit
from autocompress.devices.lock import MachineLock
from autocompress.export import check_agreement, export
from autocompress.scoring import Scorer, images_between_pauses
from autocompress.searching.baselinerow import baseline_row
from autocompress.searching.closing import Closing
from autocompress.searching.gates import Trial
from autocompress.searching.measurer import Measurer
from autocompress.training import evaluate

CHUNK_S = 0.02
CHUNKS = 40
Spans = list[tuple[float, float]]


def split_of(count: int, size: tuple[int, int, int] = SIZE) -> TensorSplit:
    info = DataInfo(10, size[0], size[1:], (0.5,) * size[0], (0.5,) * size[0], tuple("abcdefghij"))
    return TensorSplit(torch.zeros(count, *size), torch.zeros(count, dtype=torch.int64), info)


def wait_for_a_measurement(folder: Path) -> None:
    """Makes the first chunk last until a measurement waits for the machine."""
    lock, patience = MachineLock(folder), Patience(30)
    while not lock._somebody_waits():
        assert not patience.is_over
        time.sleep(0.001)


def measured_meanwhile(folder: Path, started: threading.Event) -> tuple[float, float]:
    """The time at which a measurement that begins after ``started`` had the machine."""
    assert started.wait(60)
    with MachineLock(folder).exclusive():
        begin = time.perf_counter()
        time.sleep(5 * CHUNK_S)
        return begin, time.perf_counter()


def assert_stepped_aside(spans: Spans, measurement: tuple[float, float]) -> None:
    begin, end = measurement
    assert all(last <= begin or first >= end for first, last in spans), "a chunk ran beside the measurement"
    assert any(first >= end for first, _ in spans), "the measurement did not wait for all of the scoring"


@dataclass(frozen=True)
class SlowScorer(Scorer):
    """Records when it computes."""

    folder: Path = field(default_factory=Path)
    spans: Spans = field(default_factory=list)
    started: threading.Event = field(default_factory=threading.Event)

    def predict(self, deployable: Deployable, images: np.ndarray) -> np.ndarray:
        begin = time.perf_counter()
        self.started.set()
        if not self.spans:
            wait_for_a_measurement(self.folder)
        logits = super().predict(deployable, images)
        self.spans.append((begin, time.perf_counter()))
        return logits


class SlowToy(OpenedToy):
    """Scores in chunks, and records when."""

    def accuracy(
        self, deployable: Deployable, split: Literal["val", "test"], pause: Callable[[], None] | None = None
    ) -> tuple[float, np.ndarray]:
        if hasattr(self, "started"):
            for _ in range(CHUNKS):
                begin = time.perf_counter()
                self.started.set()
                if not self.spans:
                    wait_for_a_measurement(self.locks)
                self.spans.append((begin, time.perf_counter()))
                assert pause is not None
                pause()
        return super().accuracy(deployable, split)

    def watch(self, locks: Path) -> None:
        """Records from now on, beside measurements that have their locks in this folder."""
        self.locks = locks
        self.spans: Spans = []
        self.started = threading.Event()


def in_a_thread(work: Callable[[], Any]) -> threading.Thread:
    thread = threading.Thread(target=work)
    thread.start()
    return thread


def test_scoring_a_file_gives_way_to_a_measurement(tmp_path: Path) -> None:
    file, folder = save_network(tmp_path / "model.onnx"), tmp_path / "locks"
    scorer = SlowScorer(folder=folder)
    split = split_of(CHUNKS * images_between_pauses(SIZE))

    def work() -> None:
        lock = MachineLock(folder)
        with lock.shared():
            scorer.score(file, split, pause=lock.breathe)

    thread = in_a_thread(work)
    measurement = measured_meanwhile(folder, scorer.started)
    thread.join()
    assert_stepped_aside(scorer.spans, measurement)


@pytest.mark.parametrize("who", ["trial", "closing"])
def test_a_search_gives_way_while_it_scores(tmp_path: Path, who: str) -> None:
    job, folder = toy_job(tmp_path), tmp_path / "locks"
    opened = SlowToy(job, job.folder / "toy")
    measurer = Measurer.of(job, open_toy(job).device)
    row = baseline_row(opened, measurer)
    values = {"toy.width": 0.5, "toy.bits": 32, "toy.lr": 0.1, "toy.fault": "none"}
    opened.watch(folder)

    def work() -> None:
        lock = MachineLock(folder)
        if who == "trial":
            Trial(opened, measurer, lock, 0, job.folder, row).run(values)
        else:
            Closing(opened, measurer, job.folder, row, lock).close([], 1.0, "all trials are spent", manager())

    thread = in_a_thread(work)
    measurement = measured_meanwhile(folder, opened.started)
    thread.join()
    assert_stepped_aside(opened.spans, measurement)


def test_pauses_come_after_few_images_and_do_not_change_results() -> None:
    assert [images_between_pauses((3, size, size)) for size in (8, 32, 64, 128, 224, 2048)] == [64, 64, 64, 16, 5, 1]


def test_other_ways_of_scoring_pause_too(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10)).eval()
    export(model, tmp_path / "model.onnx", SIZE)
    pauses: list[str] = []
    check_agreement(
        tmp_path / "model.onnx", model, torch.randn(24, *SIZE), batch_size=8, pause=lambda: pauses.append("agreement")
    )
    evaluate(model, split_of(24), batch_size=8, pause=lambda: pauses.append("evaluate"))
    assert pauses.count("agreement") == 6, "after torch and after the runtime, each batch"
    assert pauses.count("evaluate") == 3
