"""A batch script for Slurm that starts Ray on all nodes, and the search on the first node."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from pathlib import Path

from autocompress.errors import ExitCode, UserError
from autocompress.objectives.spelling import spell_bound
from autocompress.submission.order import Order, command

PORT = 6379
START_S = 300
"""Maximum seconds for which nodes wait for each other."""
NOTICE_S = 120
"""Seconds between the signal to stop and the time limit."""
TERMINATED_BY_SIGNAL = 143
"""Exit code of a process that SIGTERM ended."""
_SCRIPT = """\
#!/bin/bash
{options}
# Start: sbatch THIS_FILE    follow: tail -f {log}
set -euo pipefail
{setup}
# Each allocation has a Ray of its own: token, files, and sockets, whose path must be short.
umask 077
private={run}.slurm-$SLURM_JOB_ID
mkdir -p "$private"
trap 'rm -rf "$private"' EXIT
head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \\n' > "$private/token"
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH="$private/token"
export RAY_TMPDIR="/tmp/ac-$SLURM_JOB_ID"
export RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT={start}
export RAY_USAGE_STATS_ENABLED=0
export OMP_NUM_THREADS="$SLURM_CPUS_PER_TASK"
export AUTOCOMPRESS_CACHE={cache}

first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | sed -n 1p)
head=$(srun --nodes=1 --ntasks=1 --nodelist="$first" hostname --all-ip-addresses | cut -d ' ' -f 1)
srun --ntasks-per-node=1 mkdir -p "$RAY_TMPDIR"
code=0
srun --ntasks-per-node=1 --kill-on-bad-exit=1 --wait=60 \\
  ray symmetric-run --address "$head:{port}" --min-nodes "$SLURM_JOB_NUM_NODES" \\
  --num-cpus="$SLURM_CPUS_PER_TASK" --num-gpus={gpus} --memory={memory} {resources}--disable-usage-stats \\
  -- env RAY_ADDRESS="$head:{port}" {search} || code=$?
srun --ntasks-per-node=1 rm -rf "$RAY_TMPDIR" || true
if [ $code -eq {stopped} ] || [ $code -eq {terminated} ]; then
  scontrol requeue "$SLURM_JOB_ID"  # the time limit was reached: the next allocation continues
fi
exit $code
"""


def script(order: Order, *, job_file: Path, time: str = "", setup: str = "") -> str:
    """The batch script.

    Args:
        order: the job and its resources; each worker has a node.
        job_file: absolute, on storage that the nodes share.
        time: limit, as for ``sbatch --time``; empty for the limit of the partition.
        setup: a line of shell that makes ``autocompress`` and ``ray`` available on a node.

    Raises:
        UserError: if the nodes share no folder, or Slurm cannot read a value.
    """
    if not order.results.startswith("/"):
        raise UserError(
            "--print slurm needs --results in a folder that the nodes share", "token and logs are written there too"
        )
    resources = f"--resources={shlex.quote(json.dumps({order.device: 1}))} " if order.device else ""
    return _SCRIPT.format(
        options="\n".join(f"#SBATCH --{option}" for option in _options(order, time)),
        log=_log(order, "*"),
        setup=setup,
        run=shlex.quote(f"{order.results}/.{order.job.name}"),
        start=START_S,
        cache=shlex.quote(order.cache),
        port=PORT,
        gpus=order.gpus,
        resources=resources,
        memory=order.memory * 2**30,
        search=shlex.join([*command(str(job_file), "auto"), *_changes(order)]),
        stopped=int(ExitCode.TERMINATED),
        terminated=TERMINATED_BY_SIGNAL,
    )


def _changes(order: Order) -> list[str]:
    """The options that turn the job of the file into the job of the order."""
    values: dict[str, object] = {"cpus": order.cpus, "gpus": order.gpus}
    if memory := spell_bound("size", order.job.cluster.memory):
        values["memory"] = memory
    assigned = [f"--set=cluster.{key}={value}" for key, value in values.items()]
    return [f"--results={order.results}", f"--workers={order.workers}", *assigned]


def _options(order: Order, time: str) -> list[str]:
    values: Mapping[str, object] = {
        "job-name": order.job.name,
        "nodes": order.workers,
        "ntasks-per-node": 1,
        "cpus-per-task": order.cpus,
        "mem": f"{order.memory}G",
        **({"gpus-per-node": order.gpus} if order.gpus else {}),
        **({"time": time} if time else {}),
        "output": _log(order, "%j"),
        "open-mode": "append",
        "signal": f"TERM@{NOTICE_S}",
    }
    for name, value in values.items():
        text = str(value)
        if not text.isprintable() or any(mark in text for mark in " \"'#"):
            raise UserError(f"Slurm cannot read {name} {text!r}", "leave out blanks, quotes and '#'")
    return [*(f"{name}={value}" for name, value in values.items()), "exclusive", "requeue"]


def _log(order: Order, number: str) -> str:
    return f"{order.results}/{order.job.name}.slurm-{number}.log"
