"""The table of ``autocompress similarity``: J of several data sets and of noise.

J is the distance of images from the training data (``synthesis/similarity.py``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from rich.text import Text
from torch import nn

from autocompress import data, models
from autocompress.cli.progress import waiting
from autocompress.contract import manager
from autocompress.data import Split
from autocompress.graph import facts
from autocompress.job import DataConfig, Job
from autocompress.opened.baseline import teacher_key
from autocompress.opened.normalisation import note_on_normalisation
from autocompress.store import Store
from autocompress.synthesis import data_info, starting_noise
from autocompress.synthesis.similarity import similarity
from autocompress.synthesis.terms_gaussian import Divergence
from autocompress.training import default_device

Row = tuple[str, str, int, float]
"""Data set, split, images, J."""


def rows_of(
    teacher: nn.Module,
    job: Job,
    words_of_data: Sequence[str],
    images: int,
    console: Console,
    divergence: Divergence = "measured",
) -> tuple[list[Row], tuple[int, int], list[str]]:
    """Computes J of each data set and of noise, from equally many images of one size.

    Returns:
        The rows, lowest J first; height and width of the images; notes on the data sets.
    """
    own = data_info(teacher)
    asked = models.preprocessing(job) | {"channels": own.channels, "mean": own.mean, "std": own.std}
    cfg: Any = teacher.pretrained_cfg
    if cfg.get("fixed_input_size") or (job.pretrained and asked["input_size"] is None):
        asked["input_size"] = own.size
    chosen: dict[str, tuple[str, Split]] = {}
    for word in dict.fromkeys(words_of_data):
        splits = data.load(DataConfig.model_validate(word), manager().datasets(), **asked)
        # A checkpoint has no image size. All data sets get the size of the first one, so that
        # statistics can be compared.
        asked["input_size"] = splits.info.size
        chosen[word] = _split_with_enough({"val": splits.val, "train": splits.train}, images)
    least = min([images, *(len(split) for _, split in chosen.values())])
    device = default_device()
    rows: list[Row] = []
    with waiting(console) as progress:
        for number, (word, (role, split)) in enumerate(chosen.items()):

            def seen(count: int, word: str = word, number: int = number) -> None:
                progress((number + count / least) / (len(chosen) + 1), word)

            value = similarity(
                teacher, split.subset(least, job.seed), divergence=divergence, device=device, progress=seen
            )
            rows.append((word, role, least, value))
        size = (own.channels, *splits.info.size)
        noise = starting_noise(least, size, torch.Generator().manual_seed(job.seed))
        parts = [(part, torch.zeros(len(part))) for part in noise.split(128)]
        value = similarity(teacher, parts, divergence=divergence, device=device)
        rows.append(("Gaussian noise", "", least, value))
        notes = [note for _, split in chosen.values() if (note := _on_normalisation(teacher, split))]
    return sorted(rows, key=lambda row: row[3]), splits.info.size, list(dict.fromkeys(notes))


def _on_normalisation(teacher: nn.Module, split: Split) -> str:
    """A note if another normalisation clearly fits the weights better; J would then be wrong.

    Only data with as many classes as the model are checked.
    """
    if split.num_classes != data_info(teacher).num_classes:
        return ""
    macs = facts(teacher, split.input_size).macs
    return note_on_normalisation(teacher, split, macs, Store(), teacher_key(teacher))


def _split_with_enough(splits: Mapping[str, Split], images: int) -> tuple[str, Split]:
    """The validation split if it has ``images`` images; else the larger split."""
    if len(splits["val"]) >= images:
        return "val", splits["val"]
    role = max(splits, key=lambda name: len(splits[name]))
    return role, splits[role]


def table_of(rows: Sequence[Row], model: str) -> Table:
    """The rows for a terminal."""
    table = Table(title=f"distance from the training data of {model}", title_justify="left")
    table.add_column("data")
    table.add_column("split")
    table.add_column("images", justify="right")
    table.add_column("J, nats", justify="right", no_wrap=True)
    for word, role, count, value in rows:
        table.add_row(*map(Text, (word, role, f"{count:,}", f"{value:.4g}")))
    return table
