"""A benchmark with several parts. Each part is run, added to the file, and printed."""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psutil
import torch

from autocompress.files import write_json
from shared.rows import read
from shared.trained import environment

Lines = Mapping[str, Callable[[dict[str, Any]], list[str]]]
"""Functions that make the table of a part, in the order of the file."""


def put(out: Path, lines: Lines, name: str, part: dict[str, Any]) -> None:
    """Adds one part to the JSON file ``out``."""
    kept = {**read(out).get("parts", {}), name: part}
    write_json(out, {"parts": {key: kept[key] for key in lines if kept.get(key) is not None}})


def run_parts(
    chosen: argparse.Namespace,
    runs: Callable[[argparse.Namespace], Mapping[str, Callable[[], dict[str, Any]]]],
    lines: Lines,
) -> None:
    """Runs ``chosen.parts`` in order, prints their tables and writes ``chosen.out``."""
    logging.disable(logging.WARNING)
    torch.set_num_threads(chosen.threads)
    todo = runs(chosen)
    for name in chosen.parts:
        load, started = psutil.getloadavg()[0], time.perf_counter()
        part = todo[name]()
        part["minutes"] = round((time.perf_counter() - started) / 60, 2)
        part["environment"] = {**environment(), "load_before": load, "torch_threads": chosen.threads}
        put(chosen.out, lines, name, part)
        print(f"\n{name}: {'met' if part['met'] else 'NOT met'} ({part['minutes']:.1f} min)")
        print("\n".join(lines[name](part)), flush=True)
