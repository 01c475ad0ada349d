"""Steps of opening a job: its data sources, the measured baseline, the pipeline for candidates."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from torch import cuda, nn

from autocompress import models
from autocompress.compression.answers import answered
from autocompress.compression.bounding import SHARE, UNLIMITED_SECONDS
from autocompress.compression.pipeline import Pipeline
from autocompress.compression.sources import Sources
from autocompress.compute import Compute
from autocompress.contract import DataSource, Deployable, Device, Manager, Method, Params, Space, TransferSet
from autocompress.data import Split, Splits, TensorSplit
from autocompress.devices.lock import MachineLock
from autocompress.devices.measuring import run_once
from autocompress.devices.trying import told
from autocompress.errors import InvalidRecipe
from autocompress.files import cache_folder
from autocompress.integer_placement import MeasuredCosts
from autocompress.job import Job, Limits
from autocompress.opened.agreement import judged_by_agreement
from autocompress.opened.applicable import applicable, require_images
from autocompress.opened.baseline import Baseline, export_baseline, measure_baseline, teacher_key
from autocompress.opened.memory_notes import memory_notes
from autocompress.opened.outline import Outline, space_of
from autocompress.opened.remarks import remarks
from autocompress.recipes.choosers import Replay
from autocompress.recipes.recipe import params_of
from autocompress.scoring import Scorer
from autocompress.store import Store

Progress = Callable[[float, str], None]


def with_sources(
    known: Outline,
    job: Job,
    model: nn.Module,
    store: Store,
    compute: Compute,
    lock: MachineLock,
    progress: Progress | None = None,
) -> tuple[Sources | None, list[Method], dict[str, list[str]]]:
    """Prepares the data sources of the job, and finds the methods that apply.

    Args:
        known: the outline of the job.
        job: job of the search.
        model: the baseline, eval, on the CPU.
        store: keeps what is prepared.
        compute: where and how torch computes.
        lock: machine lock; other processes may measure while this one waits.
        progress: called with the finished fraction and a text.

    Returns:
        The sources (None if there are none), the methods that act, and the reasons against each of
        the other methods, by name.

    Raises:
        UserError: if no source can be prepared, and the job cannot be searched without one.
    """

    def chosen(among: list[Method]) -> tuple[list[Method], dict[str, list[str]]]:
        wanted = known.limits.methods
        return applicable(among, model, job, wanted, has_images=known.has_images, devices=known.devices)

    methods, refused = chosen(list(known.installed))
    defaults = space_of(job, model, methods, known.limits, known.splits, known.devices[0]).sources()
    if not defaults:
        return None, methods, refused
    named = {method.name: method for method in methods if isinstance(method, DataSource)}
    asked = {name: named[name] for name in defaults}
    minutes = job.budget.minutes
    sources = Sources(
        model,
        teacher_key(model),
        asked,
        defaults,
        store,
        job.seed,
        compute,
        seconds=UNLIMITED_SECONDS if minutes is None else SHARE * 60 * minutes,
        most_seconds=math.inf if minutes is None else 60 * minutes,
        stated=[name for name in asked if not known.limits.values.keys().isdisjoint(_amounts(name))],
    )
    with lock.shared():
        failed = {name: [reason] for name, reason in sources.prepare(progress, lock.breathe).items()}
    methods, refused = [method for method in methods if method.name not in failed], refused | failed
    if sources.defaults:
        return sources, methods, refused
    require_images(job, known.splits, methods, refused)
    methods, unfit = chosen([method for method in known.installed if not isinstance(method, DataSource)])
    return None, methods, refused | unfit


def _amounts(name: str) -> set[str]:
    """The parameters of a source that decide how long its images take."""
    return {f"{name}.images", f"{name}.iterations"}


def measured(
    job: Job,
    model: nn.Module,
    splits: Splits,
    sources: Sources | None,
    store: Store,
    compute: Compute,
    pause: Callable[[], None],
) -> tuple[Splits, Baseline]:
    """The splits with the images that judge candidates, and the baseline measured on these."""
    scored = Scorer.of(job), store, cache_folder("baselines"), pause
    held_out: Split | None = None
    if sources is not None and not len(splits.val):
        held_out = sources.held_out(splits.info, pause)
    elif splits.by_agreement:
        held_out = answered(model, teacher_key(model), splits.val, store, compute, pause)
    if held_out is None:
        baseline = measure_baseline(model, splits, *scored)
    else:
        splits, baseline = judged_by_agreement(model, splits, held_out, *scored)
    if compute.is_cuda and splits.whole_val is None and len(splits.val):
        splits = replace(splits, whole_val=splits.val)  # trials score torch models; the front scores files
    made = () if sources is None else sources.notes
    notes = (*splits.notes, *made, *remarks(job, model, splits, baseline, store), *memory_notes(job, model))
    return replace(splits, notes=notes), baseline


def pipeline_of(
    job: Job,
    model: nn.Module,
    baseline: Baseline,
    device: Device,
    compute: Compute,
    store: Store,
    methods: Sequence[Method],
    costs: MeasuredCosts | None,
    transfer: TransferSet | None = None,
    sources: Sources | None = None,
) -> Pipeline:
    """The pipeline that makes the candidates of the job from ``model``.

    ``transfer`` and ``sources`` are missing where only dry-run candidates are made.
    """
    return Pipeline(
        baseline=model,
        baseline_key=baseline.weights_key,
        methods=methods,
        transfer=transfer,
        granularity=job.granularity,
        seed=job.seed,
        compute=compute,
        store=store,
        sources=sources,
        table=device.placement,
        crops=job.search.crop,
        costs=costs,
    )


def default_params(job: Job, model: nn.Module, limits: Limits, method: Method) -> Params:
    """The default parameters of the method, with the limits of the user."""
    try:
        return params_of(method, Space(Replay({}), job.granularity, limits.values), model)
    except InvalidRecipe:
        return {}


def no_images(model: nn.Module) -> Splits:
    """Three empty splits, for a job that names no data."""
    info = models.data_info(model)
    none = TensorSplit.empty(info)
    return Splits(none, none, none, info)


def try_untrained(job: Job, plugins: Manager, shape: nn.Module) -> None:
    """:func:`try_devices` with a network that is not trained yet."""
    with tempfile.TemporaryDirectory() as folder:
        try_devices(job, plugins, export_baseline(shape.cpu(), Path(folder)).deployable)


def try_devices(job: Job, plugins: Manager, network: Deployable) -> None:
    """Runs a network once on each device of the job: for latency, energy, and those of ``also``.

    Two kinds are only tried if they compute costs by a formula: devices that nodes of a cluster
    have, because this machine may lack them, and those that might use the GPU of this process,
    because a process that did cannot fork.

    Raises:
        UserError: if a device fails, or cannot be used here.
    """
    is_elsewhere = job.cluster.device_nodes is not None
    keeps_off_gpu = cuda.is_available() and not cuda.is_initialized()
    energy = [] if job.energy_device is None else [(job.energy_device, job.device)]
    for name, config in [*energy, *((one.name, one) for one in (job.device, *job.also))]:
        device = plugins.device(name)
        with told(device):
            if device.deterministic or not (is_elsewhere or (keeps_off_gpu and not device.is_in_thread(config))):
                run_once(device, network, config)
