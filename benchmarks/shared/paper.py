"""Tables of the comparisons of a paper.

Rows over seeds and orders with verdicts, as JSON and Markdown.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from autocompress.errors import TrialFailed
from autocompress.files import write_text
from autocompress.training import evaluate
from shared.orders import Claim, judged
from shared.rows import Rows, command_line, packed, unpacked
from shared.simulate import simulate
from shared.trained import Trained, environment, job_of, trained

FLOAT = "float"


@dataclass(frozen=True)
class Backbone:
    """A small model, and the seeds that its float baselines and trainings are made with.

    Attributes:
        label: name in the table.
        name: name in timm.
        args: arguments of ``timm.create_model``.
    """

    label: str
    name: str
    args: Mapping[str, Any]


@dataclass(frozen=True)
class Line:
    """One row of a table.

    Attributes:
        section: heading above the row.
        label: description of the row, unique for the backbone.
        setting: the setting for :attr:`Way.make`.
        paper: figures of the paper in percent, by its network.
    """

    section: str
    label: str
    setting: Any
    paper: Mapping[str, float]


@dataclass(frozen=True)
class Study:
    """The rows of one backbone, and the orders among them that the paper claims."""

    backbone: Backbone
    lines: Sequence[Line]
    claims: Sequence[Claim]


@dataclass(frozen=True)
class Way:
    """How rows are made, and what a table says of it.

    Attributes:
        make: (baseline, setting, seed=, images=) -> whether each test image is classified
            correctly, bool ``(images,)``.
        words: a description of the training, with ``{epochs}`` and ``{images}``.
        one_baseline: all seeds use the baseline of the first seed.
        head: values on which rows depend besides the options.
        appendix: Markdown after the rows.
        more: further values of the JSON file, by name.
    """

    make: Callable[..., np.ndarray] = simulate
    words: str = "Training with quantization: {epochs} epochs of {images} training images, AdamW, one cycle."
    one_baseline: bool = False
    head: Mapping[str, Any] = field(default_factory=dict)
    appendix: Sequence[str] = ()
    more: Mapping[str, Any] = field(default_factory=dict)


def options(
    description: str, out: Path, *, epochs: float, images: int, baseline_epochs: int
) -> argparse.ArgumentParser:
    """The command line that the tables of all papers share."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", help="backbones to run; all by default")
    parser.add_argument("--rows", nargs="+", help="rows to make, by their words; all by default")
    parser.add_argument("--data", default="glyphs")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--baseline-epochs", type=int, default=baseline_epochs)
    parser.add_argument("--epochs", type=int, default=epochs, help="epochs of each training")
    parser.add_argument("--images", type=int, default=images, help="number of training images")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch")
    parser.add_argument("--fresh", action="store_true", help="make all rows again")
    parser.add_argument("--out", type=Path, default=out)
    return parser


def run(
    title: str, studies: Sequence[Study], chosen: argparse.Namespace, notes: Sequence[str], way: Way | None = None
) -> None:
    """Makes all rows in order, and writes ``chosen.out`` (JSON) and the Markdown file."""
    way = way or Way()
    torch.set_num_threads(chosen.threads)
    if chosen.fresh:
        chosen.out.unlink(missing_ok=True)
    head = {
        "title": title,
        "data": chosen.data,
        "seeds": chosen.seeds,
        "baseline_epochs": chosen.baseline_epochs,
        "epochs": chosen.epochs,
        "images": chosen.images,
        "versions": environment()["versions"],
        **way.head,
    }
    table = Rows(chosen.out, head)
    labels = chosen.models or [study.backbone.label for study in studies]
    wanted = [_part(study, chosen.rows) for study in studies if study.backbone.label in labels]
    for seed in chosen.seeds:  # seed by seed, so that an interrupted run has complete seeds
        for study in wanted:
            _make(study, seed, chosen, table, way)
    orders = {study.backbone.label: _orders(study, chosen.seeds, table) for study in wanted}
    command = command_line()
    more = {"command": command, "environment": environment(), "orders": orders, "made": time.strftime("%Y-%m-%d")}
    table.write(**way.more, **more)
    text = _markdown(title, wanted, chosen, table, orders, [*notes, f"Command: `{command}`."], way)
    write_text(chosen.out.with_suffix(".md"), text)
    print(text)


def _part(study: Study, rows: Sequence[str] | None) -> Study:
    """The requested rows, and the claims about them."""
    if rows is None:
        return study
    lines = [line for line in study.lines if line.label in rows]
    there = {FLOAT, *(line.label for line in lines)}
    return Study(study.backbone, lines, [claim for claim in study.claims if {claim.first, claim.second} <= there])


def _make(study: Study, seed: int, chosen: argparse.Namespace, table: Rows, way: Way) -> None:
    backbone, kept = study.backbone, None
    of_baseline = chosen.seeds[0] if way.one_baseline else seed

    def baseline() -> Trained:
        nonlocal kept
        if kept is None:
            kept = trained(
                job_of(backbone.name, chosen.data, chosen.baseline_epochs, seed=of_baseline, model_args=backbone.args)
            )
        return kept

    def of_float() -> dict[str, Any]:
        accuracy, correct = evaluate(baseline().model, baseline().splits.test)
        return {"accuracy": accuracy, "correct": packed(correct)}

    def of(setting: Any) -> dict[str, Any]:
        try:
            correct = way.make(baseline(), setting, seed=seed, images=chosen.images)
        except TrialFailed as error:  # a training that diverges is a result too
            nothing = np.zeros(len(baseline().splits.test), dtype=bool)
            return {"accuracy": 0.0, "correct": packed(nothing), "failed": str(error)}
        return {"accuracy": 100.0 * float(correct.mean()), "correct": packed(correct)}

    table.row(_key(study, FLOAT, seed), of_float)
    for line in study.lines:
        table.row(_key(study, line.label, seed), lambda line=line: of(line.setting))


def _key(study: Study, label: str, seed: int) -> str:
    return f"{study.backbone.label} / {label} / seed {seed}"


def _orders(study: Study, seeds: Sequence[int], table: Rows) -> list[dict[str, Any]]:
    def flags(label: str) -> list[Any]:
        return [unpacked(table.rows[_key(study, label, seed)]["correct"]) for seed in seeds]

    return [judged(claim, flags(claim.first), flags(claim.second)) for claim in study.claims]


# --- Markdown -------------------------------------------------------------------------------------


def _markdown(
    title: str,
    studies: Sequence[Study],
    chosen: argparse.Namespace,
    table: Rows,
    orders: Mapping[str, Sequence[dict[str, Any]]],
    notes: Sequence[str],
    way: Way,
) -> str:
    text = [f"# {title}", "", *(f"- {note}" for note in _setup(chosen, table, way) + list(notes)), ""]
    for study in studies:
        text += [f"## {study.backbone.label}", "", *_accuracies(study, chosen.seeds, table)]
        text += ["", "What the paper orders (points, paired by image, mean over the seeds, 95 % interval):", ""]
        text += [
            "| claim | first | second | points | by seed | paper's points | here |",
            "|---|---|---|---|---|---|---|",
        ]
        text += [_order(order) for order in orders[study.backbone.label]]
        text.append("")
    return "\n".join([*text, *way.appendix])


def _setup(chosen: argparse.Namespace, table: Rows, way: Way) -> list[str]:
    seconds = sum(row["seconds"] for row in table.rows.values())
    correct = next(iter(table.rows.values()))["correct"]
    seeds = ", ".join(map(str, chosen.seeds))
    baselines = f"Float baselines: {chosen.baseline_epochs} epochs on all training images, "
    if way.one_baseline:
        baselines += f"one, with seed {chosen.seeds[0]}; the seeds {seeds} are those of what follows."
    else:
        baselines += f"one for each of the seeds {seeds}; a row of seed s starts from baseline s."
    failed = [f"{key} failed: {row['failed']}, counted as 0 %." for key, row in table.rows.items() if "failed" in row]
    return [
        f"Data: `{chosen.data}`; accuracy in percent of its test split, {correct.partition(':')[0]} images.",
        baselines,
        way.words.format(epochs=chosen.epochs, images=chosen.images),
        f"All rows took {seconds / 60:.0f} minutes, missing baselines included.",
        "An order is kept (reversed) where the interval excludes 0 on that side and no seed says the opposite; "
        '"as good" is kept where the interval lies within the margin. Else it is undecided.',
        *failed,
    ]


def _accuracies(study: Study, seeds: Sequence[int], table: Rows) -> list[str]:
    networks = list(dict.fromkeys(network for line in study.lines for network in line.paper))
    found = [_row(FLOAT, [table.rows[_key(study, FLOAT, seed)]["accuracy"] for seed in seeds], {}, networks)]
    section = ""
    for line in study.lines:
        if line.section != section:
            section = line.section
            found.append(f"| **{section}** |" + " |" * (2 + len(networks)))
        values = [table.rows[_key(study, line.label, seed)]["accuracy"] for seed in seeds]
        found.append(_row(line.label, values, line.paper, networks))
    titles = "".join(f" paper: {network} |" for network in networks)
    return [f"| row | mean | by seed |{titles}", "|---|---|---|" + "---|" * len(networks), *found]


def _row(label: str, values: Sequence[float], paper: Mapping[str, float], networks: Sequence[str]) -> str:
    figures = "".join(f" {paper[network]:.1f} |" if network in paper else " |" for network in networks)
    by_seed = ", ".join(f"{value:.1f}" for value in values)
    return f"| {label} | {statistics.fmean(values):.2f} | {by_seed} |{figures}"


def _order(order: Mapping[str, Any]) -> str:
    margin = "" if order["margin"] is None else f" (margin {order['margin']:g})"
    paper = "" if order["paper_points"] is None else f"{order['paper_points']:+.1f}"
    by_seed = ", ".join(f"{value:+.1f}" for value in order["by_seed"])
    points = f"{order['points']:+.2f} ({order['low']:+.2f}..{order['high']:+.2f})"
    words = [f"{order['claim']}{margin}", order["first"], order["second"], points, by_seed, paper, order["verdict"]]
    return f"| {' | '.join(words)} |"
