"""Searches in the process of the test, without Ray and worker processes."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from autocompress.searching import background, placement, requirements
from autocompress.searching.background import Background
from autocompress.searching.dispatch import Dispatcher
from autocompress.searching.settings import Settings
from autocompress.searching.trainable import Worker

NAME = "here"


def search_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gives the recipes of this test's searches to one worker in this process.

    The driver, the dispatcher, the worker and the study are the real ones. A trial has no time
    limit. What the driver usually does beside the workers is done before them, because two threads
    of one process cannot export at the same time.
    """
    start = Background.start

    def start_and_wait(own: Background, *arguments: Any) -> None:
        start(own, *arguments)
        own.ready(meanwhile=lambda: None)

    monkeypatch.setattr(Background, "start", start_and_wait)
    monkeypatch.setattr(background, "MOST_WAITED", 0.0)  # rows are told after the wait
    monkeypatch.setattr(requirements, "check", lambda job: None)
    monkeypatch.setattr(placement, "run", _run)


def _run(dispatcher: Dispatcher, settings: Settings, turn: Callable[[], None], cluster: None = None) -> None:
    folder, threads = Path.cwd(), torch.get_num_threads()
    worker = Worker.of(settings)
    for _ in range(settings.job.workers):
        dispatcher.started()  # so that the driver's own worker only tries the first recipe
    try:
        turn()
        while (asked := dispatcher.hand_out(NAME)) is not None:
            row = worker.run(asked)
            dispatcher.finished(NAME, row)
            dispatcher.tell(row)
        while not dispatcher.is_over:  # the driver's own worker may still be trying the first recipe
            turn()
            time.sleep(0.01)
    finally:
        os.chdir(folder)
        torch.set_num_threads(threads)
