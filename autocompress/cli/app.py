"""The commands."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from autocompress.cli import authoring, debugging, extra, models, options, runs, submitting, supervising, synthesis
from autocompress.errors import ExitCode, Terminated, UserError
from autocompress.job import check_model_name, check_names, load_job
from autocompress.memory import out_of_memory_told

if TYPE_CHECKING:
    from autocompress.job import Job
    from autocompress.results import SearchResult

log = logging.getLogger("autocompress.cli")
MOST_SAID = 2000
"""Maximum length of a sentence about a run; reasons of failed trials may be long."""


app = typer.Typer(
    cls=extra.Commands,
    name="autocompress",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
_NO_KEYS = ("job_file", "assignments", "dry_run", "restartable")
"""Parameters of ``search`` that are no keys of a job."""
Run = Annotated[Path, typer.Argument(help="Folder of a run, results/NAME.", metavar="RUN", show_default=False)]
Runs = Annotated[
    list[Path],
    typer.Argument(help="Folders of one or more runs, results/NAME.", metavar="RUN...", show_default=False),
]


@app.callback()
def begin(ctx: typer.Context, plugins: options.OwnPlugins = None) -> None:
    """Search for compressed models, measured on the device that will run them.

    A search changes operators, removes channels and reduces bits.
    """
    extra.check_taken(ctx.invoked_subcommand, plugins)


@app.command()
def search(
    job_file: options.JobFile = None,
    model: options.Model = None,
    data: options.Data = None,
    task: options.Task = None,
    pretrained: options.Pretrained = None,
    checkpoint: options.Checkpoint = None,
    train_images: options.TrainImages = None,
    val_images: options.ValImages = None,
    accuracy_drop: options.AccuracyDrop = None,
    latency: options.Latency = None,
    size: options.Size = None,
    energy: options.Energy = None,
    macs: options.Macs = None,
    params: options.Params = None,
    objectives: options.Objectives = None,
    device: options.DeviceName = None,
    threads: options.Threads = None,
    batch: options.Batch = None,
    input_size: options.InputSize = None,
    cost_model: options.CostModel = None,
    methods: options.Methods = None,
    space: options.SpaceName = None,
    granularity: options.Granularity = None,
    sampler: options.Sampler = None,
    recipes_from: options.RecipesFrom = None,
    plugins: options.Plugins = None,
    workers: options.Workers = None,
    address: options.Address = None,
    seed: options.Seed = None,
    trials: options.Trials = None,
    minutes: options.Minutes = None,
    epochs: options.Epochs = None,
    trial_minutes: options.TrialMinutes = None,
    stall: options.Stall = None,
    until_met: options.UntilMet = None,
    name: options.Name = None,
    results: options.Results = None,
    assignments: options.Assignments = None,
    dry_run: options.DryRun = False,
    restartable: options.Restartable = False,
) -> None:
    """Search for compressed models that trade accuracy against cost.

    The job is given by a file, by flags, or by both: autocompress search --model resnet18 --data
    digits --latency 0.5x
    """
    flags = {key: value for key, value in locals().items() if key not in _NO_KEYS}
    given = options.settings(flags, assignments)
    if job_file is None and not given:
        raise UserError("there is nothing to search", "give a job file, or --model and --data")
    job = load_job(job_file, given, flags=True)
    check_names(job)  # before the slow imports of torch and timm
    supervising.end_with_parent()
    if not dry_run and supervising.is_needed(job.cluster):
        raise typer.Exit(supervising.drive(job.folder, job.cluster, sys.argv[1:] if restartable else None, job.run_url))
    if restartable and not dry_run:
        _search_again(job)
    else:
        _search(job, dry_run=dry_run)


def _search_again(job: Job) -> None:
    """Searches, or resumes the run if it exists. A search that is over counts as done."""
    from autocompress.searching.runurls import has_begun

    try:
        if has_begun(job):
            place = job.folder if job.run_url is None else Path(job.run_url)
            resume(place, job.budget.trials, job.budget.minutes)
        else:
            _search(job, dry_run=False)
    except typer.Exit as ended:
        is_over = ended.exit_code == ExitCode.NO_MODEL_FITS
        raise typer.Exit(ExitCode.DONE if is_over else ended.exit_code) from None


def _search(job: Job, *, dry_run: bool) -> None:
    """Searches, or prints the dry run."""
    from autocompress.contract import manager_for
    from autocompress.job import validate, warnings

    validate(job, manager_for(job))  # the search checks too, but only once Ray is imported
    console = Console()
    for warning in warnings(job):
        console.print(f"note: {warning}", style="yellow", markup=False, highlight=False)
    if dry_run:
        from autocompress.cli import dryrun

        dryrun.show(job, console)
        return

    from autocompress.cli.progress import watching
    from autocompress.searching import run, stopping
    from autocompress.searching.clock import process_began

    signals = stopping.caught(ends_process=True, last_words=partial(_last_words, job.folder, job.run_url))
    with signals, _told(job.folder, job.run_url), out_of_memory_told(), watching(console) as observer:
        result = run.search(job, observer=observer, began=process_began())
    _end(result, console)


@app.command()
def resume(run_folder: Run, trials: options.Trials = None, minutes: options.Minutes = None) -> None:
    """Continue a search that was stopped, or extend the budget of one. Finished trials are kept."""
    supervising.end_with_parent()
    supervising.resume_supervised(run_folder)
    from autocompress.cli.progress import watching
    from autocompress.searching import run, stopping
    from autocompress.searching.clock import process_began

    console = Console()
    signals = stopping.caught(ends_process=True, last_words=partial(_last_words, run_folder))
    with signals, _told(run_folder), out_of_memory_told(), watching(console) as observer:
        result = run.resume(run_folder, trials=trials, minutes=minutes, observer=observer, began=process_began())
    _end(result, console)


@app.command()
def show(run_folders: Runs) -> None:
    """Print the front of a run, or the fronts of several."""
    from autocompress.results import read

    console = Console()
    for number, result in enumerate([read(folder) for folder in run_folders]):
        if number:
            console.print()
        _show(result, console)


@app.command()
def report(
    run_folder: Run,
    benchmark: Annotated[
        Path | None,
        typer.Option(
            help="JSON of benchmarks/search_quality.py: the page also shows hypervolume over time, and the rival's.",
            metavar="FILE",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Write report.html, report.md and front.png of a run again."""
    from autocompress.files import full_disk_told
    from autocompress.report import write_report

    with full_disk_told(run_folder):
        write_report(run_folder, benchmark)
    models.say(Console(), f"wrote {_path(run_folder / 'report.html')}")


@app.command()
def plugins(
    model: Annotated[str | None, typer.Option(help="Say which methods apply to this timm model.")] = None,
    granularity: Annotated[str, typer.Option(help="Scope of the listed parameters: model, stage or block.")] = "model",
    plugins: options.OwnPlugins = None,
) -> None:
    """List the installed methods, devices, data sets, samplers and commands."""
    del plugins  # the option's callback loads them
    if model:
        check_model_name(load_job(settings={"model": model, "data": "digits"}, flags=True))

    from autocompress.cli import catalogue

    catalogue.show(model, granularity, Console())


app.command()(authoring.new_plugin)
app.command()(authoring.check_plugin)
app.command()(models.check)
app.command()(runs.compare)
app.command()(runs.watch)
app.command()(debugging.debug)
app.command()(models.export)
app.command()(models.measure)
app.command()(submitting.submit)
app.add_typer(submitting.cluster)
app.command()(synthesis.synthesize)
app.command()(synthesis.similarity)


@contextmanager
def _told(run_folder: Path, url: str | None = None) -> Iterator[None]:
    """Prints how to continue a search that is stopped before it is closed."""
    try:
        yield
    except (KeyboardInterrupt, Terminated) as stopped:
        how = "interrupted" if isinstance(stopped, KeyboardInterrupt) else "stopped"
        _say_how_to_go_on(run_folder, how, url)
        raise


def _say_how_to_go_on(run_folder: Path, how: str, url: str | None) -> bool:
    if is_run := (run_folder / "job.yaml").is_file():
        print(f"{how}; 'autocompress resume {url or run_folder}' continues", file=sys.stderr, flush=True)
    return is_run


def _last_words(run_folder: Path, url: str | None = None) -> None:
    """Prints and logs how to continue after SIGTERM, if the search is too busy to do it itself."""
    if _say_how_to_go_on(run_folder, "stopped", url):
        log.info("stopped by SIGTERM; 'autocompress resume %s' continues", url or run_folder)


def _end(result: SearchResult, console: Console) -> None:
    """Prints the front of a closed search, and ends with its exit code."""
    _show(result, console)
    raise typer.Exit(exit_code(result))


def exit_code(result: SearchResult) -> ExitCode:
    """The exit code of a closed search."""
    if result.is_interrupted:
        return ExitCode.INTERRUPTED
    if result.every_trial_failed:
        return ExitCode.EVERY_TRIAL_FAILED
    return ExitCode.NO_MODEL_FITS if result.recommended() is None else ExitCode.DONE


def _show(result: SearchResult, console: Console) -> None:
    from autocompress.report import datafree, view
    from autocompress.report.markdown import plain
    from autocompress.report.table import front_table

    if result.front.empty and not result.every_trial_failed:
        _show_progress(result, console)
        return
    console.print(front_table(result, console.width))
    for sentence in (view.interruption(result), view.headline(result), view.fastest(result), view.tap_crop(result)):
        if sentence:
            console.print(plain(sentence, MOST_SAID), markup=False, highlight=False)
    if told := datafree.images_text(result):
        console.print(told, markup=False, highlight=False)
    page = result.folder / "report.html"
    if page.exists():
        models.say(console, f"report: {_path(page)}")


def _path(path: Path) -> str:
    """A path on one line, without unseen characters."""
    from autocompress.report.markdown import plain

    return plain(path, MOST_SAID)


def _show_progress(result: SearchResult, console: Console) -> None:
    """Prints the number of trials and the current front of a search that is not over."""
    from autocompress.cli.watch import Watched

    models.say(console, f"{_path(result.folder)}:")
    console.print(Watched(result.folder).picture(console.width))
