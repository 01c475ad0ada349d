"""``autocompress synthesize``: images from a model alone."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from autocompress.cli import options
from autocompress.cli.output import say
from autocompress.cli.teacher import OF_MODEL, Checkpoint, Images, InputSize, Model, Pretrained, Seed, job_of
from autocompress.errors import InvalidRecipe, TrialFailed, UserError, did_you_mean
from autocompress.files import atomic_folder, write_json

if TYPE_CHECKING:
    import torch
    from torch import nn

    from autocompress.contract import DataSource, Params
    from autocompress.data import Split
    from autocompress.job import Job

SHEET, FACTS = "contact_sheet.png", "synthesis.json"
ON_SHEET = 64
"""Maximum number of images on the contact sheet."""
SCORED = 128
"""Images per batch for computing the BNS score of all images."""


def synthesize(
    model: Model,
    out: Annotated[Path, typer.Option(help="Folder to write the images to.", metavar="FOLDER", show_default=False)],
    method: Annotated[str, typer.Option(help="Data source that makes the images.")] = "deepinversion",
    checkpoint: Checkpoint = None,
    pretrained: Pretrained = False,
    images: Images = 256,
    input_size: InputSize = None,
    seed: Seed = 0,
    assignments: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="A parameter of the method, iterations=200, or a value that a checkpoint does not store: "
            "model_args.mean=[0.5]. May be given several times.",
            metavar="KEY=VALUE",
            show_default=False,
        ),
    ] = None,
    plugins: options.OwnPlugins = None,
) -> None:
    """Make images from a trained model alone, one folder per class, with a contact sheet.

    The quality of the images is printed.

    autocompress synthesize --model resnet18 --pretrained --method deepinversion --images 256 --out
    images
    """
    del plugins  # the option's callback loads them
    given = options.settings({}, assignments)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} is there already", "give --out another folder")
    job = job_of(model, checkpoint, pretrained, input_size, seed, given)

    from autocompress import models
    from autocompress.synthesis.imagefolder import check_channels

    console = Console()
    teacher = models.create(job).requires_grad_(False)
    check_channels(models.input_size(teacher)[0])
    source, params = _source(method, teacher, job, _of_method(given, images))
    started = time.perf_counter()
    made = _made(source, teacher, params, job, images, console)
    facts = {
        "model": job.model,
        "checkpoint": None if job.checkpoint is None else str(job.checkpoint),
        "method": source.name,
        "version": source.version,
        "reference": source.reference,
        "params": params,
        "seed": job.seed,
        "seconds": round(time.perf_counter() - started, 3),
    }
    facts = _write(made, teacher, facts, out)
    say(console, _sentence(facts, out))


def _of_method(given: Mapping[str, Any], images: int) -> dict[str, Any]:
    """The values of ``--set`` for the method, by the names of its parameters."""
    own = {key: value for key, value in given.items() if not key.startswith(OF_MODEL)}
    if "images" in own:
        raise UserError("--set images cannot be combined with --images", "give --images")
    return {**own, "images": images}


def _source(name: str, teacher: nn.Module, job: Job, own: Mapping[str, Any]) -> tuple[DataSource, Params]:
    """The method and its parameters: defaults, except for the values in ``own``.

    Raises:
        UserError: if there is no such method, it cannot apply, or it does not have such a parameter
            or value.
    """
    from autocompress.contract import DataSource, Space, manager
    from autocompress.contract.space import LimitError
    from autocompress.recipes.choosers import Replay

    sources = {method.name: method for method in manager().methods() if isinstance(method, DataSource)}
    if name not in sources:
        raise UserError(f"'{name}' is no method that makes images", did_you_mean(name, sources))
    own = {key.removeprefix(f"{name}."): value for key, value in own.items()}
    fixed = job.model_copy(update={"space": {name: own}})
    if reasons := sources[name].check(teacher, fixed):
        others = [other.name for other in sources.values() if other.name != name and not other.check(teacher, job)]
        hint = f"--method {' or '.join(others)} can" if others else "no other method can either"
        raise UserError(f"{name} cannot make images from {job.model}: {reasons[0]}", hint)
    space = Space(Replay({}), job.granularity, {f"{name}.{key}": value for key, value in own.items()})
    try:
        params = sources[name].search_space(space.scope(name), teacher)
    except LimitError as error:
        raise UserError(f"--set {error.name.removeprefix(f'{name}.')} {error.text}") from None
    known = [parameter.removeprefix(f"{name}.") for parameter in space.asked]
    for key in own:
        if f"{name}.{key}" not in space.matched and key != "images":
            raise UserError(f"--set {key}: {name} has no such parameter here", did_you_mean(key, known))
    return sources[name], params


def _made(source: DataSource, teacher: nn.Module, params: Params, job: Job, images: int, console: Console) -> Split:
    from autocompress import models
    from autocompress.cli.progress import waiting
    from autocompress.contract import Context
    from autocompress.training import compute_of

    compute = compute_of(job.compute)
    with waiting(console) as progress:
        context = Context(
            input_size=models.input_size(teacher),
            teacher=teacher.to(compute.device),
            compute=compute,
            seed=job.seed,
            images=images,
            progress=progress,
        )
        try:
            return source.apply(teacher, params, context).train
        except (InvalidRecipe, TrialFailed) as error:
            raise UserError(str(error)) from None


def _write(made: Split, teacher: nn.Module, facts: Mapping[str, Any], out: Path) -> dict[str, Any]:
    """Writes everything under ``out`` or nothing; returns the content of ``synthesis.json``.

    Quality is computed from the files, which have 8 bits a value. Each image is in the folder of
    the class that the teacher predicts for its file.
    """
    import torch

    from autocompress.data import TensorSplit
    from autocompress.synthesis import contact_sheet, data_info, teacher_logits
    from autocompress.synthesis.imagefolder import as_bytes, folder_names, write_images

    info = replace(data_info(teacher), crop_pct=1.0)  # the images have the teacher's size, and are read whole
    batches = list(made.loader(256))
    pixels = as_bytes(torch.cat([batch for batch, _ in batches]), info)
    wanted = torch.cat([labels for _, labels in batches])
    images = torch.cat([batch for batch, _ in TensorSplit(pixels, wanted, info).loader(256)])
    labels = teacher_logits(teacher, images).argmax(1)
    names = folder_names(info.class_names)
    counts = labels.bincount(minlength=len(names)).tolist()
    facts = {
        **facts,
        "images": len(images),
        "size": list(info.input_size),
        "mean": list(info.mean),
        "std": list(info.std),
        "quality": _quality(teacher, images, wanted),
        "classes": [
            {"folder": folder, "name": name, "label": number, "images": count}
            for number, (folder, name, count) in enumerate(zip(names, info.class_names, counts, strict=True))
            if count
        ],
    }
    with atomic_folder(out) as folder:
        write_images(pixels, labels, names, folder)
        contact_sheet(images[:ON_SHEET], info, folder / SHEET, labels=labels[:ON_SHEET])
        write_json(folder / FACTS, facts)
    if not (out / FACTS).is_file():
        raise UserError(f"{out} was created by another process", "give --out another folder")
    return facts


def _quality(teacher: nn.Module, images: torch.Tensor, wanted: torch.Tensor) -> dict[str, float]:
    from autocompress.synthesis import quality, reasons_against_statistics
    from autocompress.synthesis.similarity import similarity as score

    found = quality(teacher, images, wanted)
    if not reasons_against_statistics(teacher):
        found["bns"] = score(teacher, zip(images.split(SCORED), wanted.split(SCORED), strict=True))
    return found


def _sentence(facts: Mapping[str, Any], out: Path) -> str:
    from autocompress.report import words

    found = facts["quality"]
    parts = [f"the model predicts the intended class for {found['agreement']:.1f} % of the files"]
    parts += [f"confidence {found['confidence']:.2f}", f"diversity {found['diversity']:.2f}"]
    parts += [f"{name} {found[key]:.3g}" for key, name in _STATISTICS.items() if key in found]
    classes = len(facts["classes"])
    size = "x".join(map(str, facts["size"]))
    made = f"{facts['images']} images of {size}, {classes} class{'es' if classes > 1 else ''},"
    return f"wrote {out}: {made} in {words.duration(facts['seconds'])}; {', '.join(parts)}"


_STATISTICS = {"feature_distance": "R_feature", "bns": "BNS score"}
