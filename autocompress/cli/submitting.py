"""Commands that send a job to a cluster (``submit``), and that follow such a job (``cluster``)."""

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
Cache = Annotated[str, _option("The same for the cache. Default: a folder in --results.", show_default=False)]
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
        raise UserError("the job has no destination", "give --address http://HEAD:8265 or --print KIND")
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


cluster = typer.Typer(
    name="cluster", help="Follow jobs that were sent to a Ray cluster.", no_args_is_help=True, add_completion=False
)
Name = Annotated[str, typer.Argument(help="Name of the run.", metavar="NAME", show_default=False)]
Server = Annotated[
    str,
    typer.Option(
        "--address",
        help="Address of the job server: http://HEAD:8265.",
        envvar="RAY_API_SERVER_ADDRESS",
        show_default=False,
    ),
]
TokenFile = Annotated[
    Path | None, typer.Option("--token", help="File with the token. Default: RAY_AUTH_TOKEN_PATH.", show_default=False)
]


@cluster.command()
def status(
    address: Server,
    name: Annotated[str, typer.Argument(help="Name of a run.", metavar="[NAME]", show_default=False)] = "",
    token: TokenFile = None,
) -> None:
    """Show the jobs on a cluster, or those of one run."""
    from autocompress.submission.jobserver import JobServer

    server = JobServer(address, token)
    for job in server.jobs(name) if name else server.jobs():
        print(f"{job.id}  {job.status.lower()}  {job.results}/{job.run}  {job.message}".rstrip())


@cluster.command()
def logs(
    name: Name,
    address: Server,
    token: TokenFile = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Print until the job ends.")] = False,
) -> None:
    """Print the output of a job."""
    from autocompress.submission.jobserver import JobServer

    server = JobServer(address, token)
    job = server.latest(name)
    if not follow:
        print(server.logs(job), end="")
        return
    for text in server.follow(job):
        print(text, end="", flush=True)
    if (ended := server.latest(name)).status != "SUCCEEDED":
        raise UserError(f"{ended.id} {ended.status.lower()}: {ended.message}"[:300])


@cluster.command()
def stop(name: Name, address: Server, token: TokenFile = None) -> None:
    """Stop a job. To continue its run, send the same job again."""
    from autocompress.submission.jobserver import JobServer

    server = JobServer(address, token)
    job = server.stop(server.latest(name))
    print(f"{job.id} {job.status.lower()}; 'autocompress submit' with the same job continues it")


@cluster.command()
def fetch(
    place: Annotated[
        str, typer.Argument(help="Name of a run, or its URL or folder.", metavar="NAME|URL", show_default=False)
    ],
    to: Annotated[Path, typer.Option(help="Folder for the run.")] = Path("results"),
    address: Annotated[
        str,
        typer.Option(
            help="Address of the job server, for a name.", envvar="RAY_API_SERVER_ADDRESS", show_default=False
        ),
    ] = "",
    token: TokenFile = None,
) -> None:
    """Copy the results of a run from shared storage."""
    from autocompress.submission.fetching import fetch

    if "/" not in place:
        from autocompress.submission.jobserver import JobServer

        if not address:
            raise UserError(f"the place of the run '{place}' is unknown", "give --address, or its URL")
        job = JobServer(address, token).latest(place)
        place = f"{job.results}/{job.run}"
    folder = fetch(place, to)
    print(f"fetched to {folder}; 'autocompress show {folder}' prints its front")
