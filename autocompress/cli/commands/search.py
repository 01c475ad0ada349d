"""``autocompress search``: a search, or its dry run."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.console import Console

from autocompress.cli import options, supervising
from autocompress.cli.commands.resume import resume
from autocompress.cli.ending import end, last_words, told_if_stopped
from autocompress.errors import ExitCode, UserError
from autocompress.job import check_names, load_job
from autocompress.memory import out_of_memory_told

if TYPE_CHECKING:
    from autocompress.job import Job

_NO_KEYS = ("job_file", "assignments", "dry_run", "restartable")
"""Parameters of ``search`` that are no keys of a job."""


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
    if not dry_run and not restartable and job.run_url is None:
        from autocompress.searching.rundir import refuse_existing

        refuse_existing(job.folder)
    supervising.end_with_parent()
    if not dry_run and supervising.is_needed(job.cluster):
        raise typer.Exit(supervising.drive(job.folder, job.cluster, sys.argv[1:] if restartable else None, job.run_url))
    if restartable and not dry_run:
        _search_again(job)
    else:
        _search(job, dry_run=dry_run)


def _search_again(job: Job) -> None:
    """Searches, or resumes the run if it exists. The exit code is 0 even if no model fits."""
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

    signals = stopping.caught(ends_process=True, last_words=partial(last_words, job.folder, job.run_url))
    with signals, told_if_stopped(job.folder, job.run_url), out_of_memory_told(), watching(console) as observer:
        result = run.search(job, observer=observer, began=process_began())
    end(result, console)
