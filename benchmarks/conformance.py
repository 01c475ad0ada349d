"""Seconds that ``check_method`` takes for each installed method, and what it finds.

Each method is checked as its author would: with the example network and defaults, alone in a
process. The target is at most 60 s on two cores.

    python benchmarks/conformance.py [--methods ghost obs ...]
        [--out results/benchmarks/conformance.json]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil

from autocompress.contract import Manager
from autocompress.devices.machine import machine
from autocompress.files import write_json

TARGET = 60.0
"""Maximum seconds for one method."""
ONE = "import sys; from conformance import one; one(sys.argv[1])"


def one(name: str) -> None:
    """Checks one method in this process, and prints seconds and broken rules as JSON."""
    from autocompress.job import load_job
    from autocompress.testing import ContractViolation, check_method

    method = Manager().method(name)
    # Methods that need energy figures get a cost model, as in a job.
    job = load_job(
        settings={"model": "test_resnet", "data": "digits", "objectives": ["accuracy", "energy"], "cost_model": "45nm"}
    )
    broken: list[str] = []
    wall, cpu = time.perf_counter(), time.process_time()
    try:
        check_method(method, job=job)
    except ContractViolation as violation:
        broken = violation.rules
    found = {"wall_s": round(time.perf_counter() - wall, 1), "cpu_s": round(time.process_time() - cpu, 1)}
    print(json.dumps({"method": name, "kind": method.kind, **found, "broken": broken}))


def measured(name: str) -> dict[str, Any]:
    """The result of one method, in a process of its own."""
    load = psutil.getloadavg()[0]
    done = subprocess.run(
        [sys.executable, "-c", ONE, name], cwd=Path(__file__).parent, capture_output=True, text=True, check=True
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return {**found, "load_before": round(load, 1)}


def main() -> None:
    """Checks the methods, prints a table, and writes JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="*", default=[method.name for method in Manager().methods()])
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks/conformance.json"))
    chosen = parser.parse_args()
    rows = []
    for name in chosen.methods:
        rows.append(row := measured(name))
        seconds = f"{row['wall_s']:7} s  {row['cpu_s']:7} s of a processor"
        print(f"{row['method']:18} {row['kind']:12} {seconds}  load {row['load_before']}")
        for rule in row["broken"]:
            print(f"    {rule}")
        write_json(
            chosen.out,
            {"command": "python benchmarks/conformance.py", "target_s": TARGET, "machine": machine(), "methods": rows},
        )
    slow = [row["method"] for row in rows if row["wall_s"] > TARGET]
    print(f"over {TARGET:.0f} s: {', '.join(slow) or 'none'}")


if __name__ == "__main__":
    main()
