"""Runs every method on many timm backbones: whether it applies, and what it changes.

A row is one method, or one pair of methods of different stages, on one backbone with random weights
and images of noise, at a small input size. The recipe has default values. The project's pipeline
builds it, with one step of training if a method needs training, and exports it. The file is run in
ONNX Runtime. A row has one of these statuses:

    applies   the row has parameters, multiply-adds, bytes of the file and latency, before and
              after; ``agrees`` says whether file and torch give the same outputs, and ``rule`` how
              they were compared (``parts/breadth_agreement.py``; older rows have none)
    refused   the method gave a reason
    fault     there was an exception that is no error for users
    limit     it took too long, and its process was ended

Each backbone has a process of its own, forked from one that has imported everything. Each row is
stored when it is finished. Existing rows are only made again if ``--again`` names their status.

With ``--check``, nothing is built. Rows then say whether the method would apply in a job, which
includes finding couplings of channels and trying their removal. A run without ``--check`` makes
these rows again.

    python benchmarks/breadth.py [--pairs] [--models NAME ...] [--minutes 14] [--again fault limit]
    python benchmarks/breadth.py --table docs/breadth.md
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import psutil
import timm
import torch

from autocompress.devices.machine import machine
from autocompress.files import write_json
from autocompress.forking import settle
from parts import breadth_table
from parts.breadth_backbones import BACKBONES, PAIRED, Backbone
from parts.breadth_case import BASELINE, Case, every_case, key_of, tried
from shared.rows import read

FOLDER = Path("results/breadth")
LIMIT = 60.0
"""Seconds of processor time for a row."""
PATIENCE = 6
"""A row may take this many times ``LIMIT`` in wall time, because the machine may be busy."""


class Table:
    """Rows in one JSON file, by backbone and case.

    Args:
        path: the JSON file.
        again: statuses of rows that are made again, once for each row.
        checked: with ``--check``: rows only say whether a method would apply.
        compare: rows whose agreement an older rule decided are made again.
    """

    def __init__(self, path: Path, again: Sequence[str] = (), *, checked: bool = False, compare: bool = False) -> None:
        self.path, self.checked = path, checked
        self.rows: dict[str, dict[str, Any]] = read(path).get("rows", {})
        older = {key for key, row in self.rows.items() if compare and "agrees" in row and "rule" not in row}
        self._open = older | {k for k, row in self.rows.items() if row["status"] in again or self._is_deeper(row)}

    def _is_deeper(self, row: dict[str, Any]) -> bool:
        return not self.checked and row["status"] == "applies" and bool(row["checked"])

    def lacks(self, backbone: str, case: Case) -> bool:
        """Whether a row is missing."""
        key = key_of(backbone, case)
        return key not in self.rows or key in self._open

    def put(self, backbone: Backbone, case: Case, row: dict[str, Any]) -> None:
        """Stores and prints a row."""
        key = key_of(backbone.name, case)
        self._open.discard(key)
        about = {"backbone": backbone.name, "methods": list(case), "pixels": backbone.size}
        about |= {"args": {name: list(v) if isinstance(v, tuple) else v for name, v in backbone.args.items()}}
        self.rows[key] = {**about, **row}
        environment = {**machine(), "torch": torch.__version__, "timm": timm.__version__}
        environment |= {"onnxruntime": onnxruntime.__version__, "onnx": onnx.__version__}
        write_json(self.path, {"limit_s": LIMIT, "environment": environment, "rows": self.rows})
        told = row.get("reason") or json.dumps({name: row[name] for name in ("macs", "difference") if name in row})
        print(f"{key:<46} {row['status']:<8} {row.get('seconds', 0):>6} s  {told}", flush=True)


def run(backbone: Backbone, cases: Sequence[Case], table: Table) -> None:
    """Makes the missing rows of a backbone. If a row takes too long, its process is ended."""
    todo = [case for case in cases if table.lacks(backbone.name, case)]
    while todo:
        for case, row in _sent(backbone, todo, table.checked):
            if case != (BASELINE,):
                todo.remove(case)
            elif not table.lacks(backbone.name, case):
                continue  # each new process begins with the baseline, whose row exists after the first
            table.put(backbone, case, row)
            if case == (BASELINE,) and row["status"] != "applies":
                todo = []


def _sent(backbone: Backbone, cases: Sequence[Case], checked: bool) -> Iterator[tuple[Case, dict[str, Any]]]:
    """The rows of a forked process. If the process was ended, the last row says so."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(backbone, cases, checked, sender), daemon=True)
    process.start()
    assert process.pid is not None
    sender.close()
    waiting = [(BASELINE,), *cases]
    try:
        while waiting:
            row = _next(process.pid, receiver)
            if row is None:
                yield waiting[0], {"status": "limit", "checked": checked, "reason": f"it took more than {LIMIT:.0f} s"}
                return
            if isinstance(row, str):
                yield waiting[0], {"status": "fault", "checked": checked, "reason": row}
                return
            waiting.pop(0)
            yield row
            if row[0] == (BASELINE,) and row[1]["status"] != "applies":
                return
    finally:
        process.kill()
        process.join()
        receiver.close()


def _next(pid: int, receiver: Any) -> Any:
    """The next message of a process; None if it takes too long, a sentence if it died."""
    own = psutil.Process(pid)
    spent, started = sum(own.cpu_times()[:2]), time.monotonic()
    while not receiver.poll(0.2):
        if sum(own.cpu_times()[:2]) - spent > LIMIT or time.monotonic() - started > PATIENCE * LIMIT:
            return None
    try:
        return receiver.recv()
    except EOFError:
        return "its process ended without an answer"


def _work(backbone: Backbone, cases: Sequence[Case], checked: bool, sender: Any) -> None:
    settle()
    warnings.simplefilter("ignore")
    tried(backbone, cases, checked, sender.send)


def main() -> None:
    """Makes rows until none is missing or the time is up, or writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=None)
    parser.add_argument("--pairs", action="store_true", help="pairs of methods, on twelve backbones")
    parser.add_argument("--check", action="store_true", help="only check whether methods apply")
    parser.add_argument("--methods", nargs="+", default=None, help="methods of the rows; all by default")
    parser.add_argument("--minutes", type=float, default=14.0, help="minutes after which no backbone begins")
    parser.add_argument("--again", nargs="+", default=(), help="make rows with these statuses again")
    parser.add_argument("--compare", action="store_true", help="make rows that an older rule compared again")
    parser.add_argument("--out", type=Path, default=None, help=f"alone.json or pairs.json in {FOLDER} by default")
    parser.add_argument("--table", type=Path, default=None, help="write the table of docs, and measure nothing")
    chosen = parser.parse_args()
    if chosen.table is not None:
        breadth_table.write(FOLDER, chosen.table)
        return
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    out = chosen.out or FOLDER / ("pairs.json" if chosen.pairs else "alone.json")
    table = Table(out, chosen.again, checked=chosen.check, compare=chosen.compare)
    cases = [case for case in every_case(pairs=chosen.pairs) if not chosen.methods or set(case) <= set(chosen.methods)]
    end = time.monotonic() + 60 * chosen.minutes
    for backbone in BACKBONES:
        if chosen.pairs and backbone.name not in PAIRED:
            continue
        if chosen.models and backbone.name not in chosen.models:
            continue
        if time.monotonic() > end:
            print("time is up: run it again for the rest")
            break
        run(backbone, cases, table)


if __name__ == "__main__":
    main()
