"""``autocompress cluster``: follows jobs that were sent to a cluster."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from autocompress.errors import UserError

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
    to: Annotated[Path, typer.Option(help="Folder into which the folder of the run is copied.")] = Path("results"),
    address: Annotated[
        str,
        typer.Option(
            help="Address of the job server. Only needed to fetch a run by its name.",
            envvar="RAY_API_SERVER_ADDRESS",
            show_default=False,
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
