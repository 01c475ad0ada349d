"""``autocompress submit``: sends a job to a cluster."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from autocompress.errors import UserError

_WHAT, _RAY, _KUBERNETES, _SLURM = "What it needs", "A cluster of Ray", "Kubernetes", "Slurm"


class Kind(StrEnum):
    """Values of ``--print``: a RayJob for KubeRay, or a batch script for Slurm."""

    KUBERAY = "kuberay"
    SLURM = "slurm"


def _option(help_text: str, panel: str = _WHAT, metavar: str | None = None, **more: Any) -> Any:
    return typer.Option(help=help_text, rich_help_panel=panel, metavar=metavar, **more)


JobFile = Annotated[Path, typer.Argument(help="Job file (YAML).", metavar="JOB.yaml", show_default=False)]
Printed = Annotated[
    Kind | None,
    typer.Option("--print", help="Print a RayJob or a batch script without sending anything.", show_default=False),
]
Address = Annotated[
    str | None, _option("Send the job to the job server at this address: http://HEAD:8265.", _RAY, show_default=False)
]
Token = Annotated[
    Path | None, _option("File with the cluster's token. Default: RAY_AUTH_TOKEN_PATH.", _RAY, show_default=False)
]
Python = Annotated[str, _option("Python on the nodes, by name or by path.", _RAY)]
Workers = Annotated[int | None, _option("Number of workers, each on a pod or node. Default: the job's.", min=1)]
Cpus = Annotated[int | None, _option("Processors of each worker. Default: the job's.", min=1)]
Memory = Annotated[int | None, _option("Memory of each worker. Default: the job's, or 8.", metavar="GIB", min=1)]
Gpus = Annotated[int | None, _option("GPUs of each worker. Default: the job's.", min=0)]
Results = Annotated[str, _option("Folder that all nodes share, or URL. Default: the job's.", show_default=False)]
Cache = Annotated[str, _option("Folder or URL of the cache. Default: a folder in --results.", show_default=False)]
Image = Annotated[str, _option("Container image with autocompress.", _KUBERNETES, show_default=False)]
Claim = Annotated[
    str,
    _option("Volume claim, shared by all pods, for --results.", _KUBERNETES, show_default=False),
]
Secret = Annotated[str, _option("Secret whose keys become environment variables.", _KUBERNETES, show_default=False)]
Time = Annotated[str, _option("Time limit, as for sbatch.", _SLURM, show_default=False)]
Setup = Annotated[
    str, _option("A line of shell for the start of the script: 'module load python'.", _SLURM, show_default=False)
]


def submit(
    job_file: JobFile,
    printed: Printed = None,
    address: Address = None,
    token: Token = None,
    python: Python = "python",
    workers: Workers = None,
    cpus: Cpus = None,
    memory: Memory = None,
    gpus: Gpus = None,
    results: Results = "",
    cache: Cache = "",
    image: Image = "",
    claim: Claim = "",
    secret: Secret = "",
    time: Time = "",
    setup: Setup = "",
) -> None:
    """Send a job to a cluster of Ray, or write what a batch system needs to run it.

    autocompress submit job.yaml --address http://HEAD:8265 --results /shared/results

    autocompress submit job.yaml --print kuberay --image IMAGE --results s3://runs --claim DISK

    autocompress submit job.yaml --print slurm --results /shared/results
    """
    from autocompress.contract import manager_for
    from autocompress.job import anchored, load_job, validate
    from autocompress.submission import kuberay, slurm
    from autocompress.submission.order import order_of

    if (printed is None) == (address is None):
        raise UserError("the job needs one destination", "give either --address http://HEAD:8265 or --print KIND")
    job = load_job(job_file)
    plugins = manager_for(job)
    validate(job, plugins)
    order = order_of(
        anchored(job, plugins),
        results=results,
        cache=cache,
        workers=workers,
        cpus=cpus,
        memory=memory,
        gpus=gpus,
    )
    if printed is Kind.KUBERAY:
        print(kuberay.manifest(order, image=image, claim=claim, secret=secret), end="")
    elif printed is Kind.SLURM:
        print(slurm.script(order, job_file=job_file.absolute(), time=time, setup=setup), end="")
    else:
        from autocompress.submission.jobserver import JobServer

        sent = JobServer(address or "", token).submit(order, python)
        print(f"sent as {sent.id}; results: {order.run}")
        print(f"'autocompress cluster logs {sent.run} --follow --address {address}' follows it")
