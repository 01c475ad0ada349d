"""Tables of the three papers on data-free compression.

Each table has rows of the parts ``students`` and ``uses`` next to the figures of the paper. A
contact sheet shows the images.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from autocompress.files import write_json, write_text
from autocompress.synthesis import contact_sheet
from parts import free_students, free_uses
from parts.free_students import LENET, WAYS, short
from shared.synthetic import made
from shared.trained import environment, job_of, trained

ON_SHEET = 32
BESIDE = (free_students.REAL, "noise")
"""Kinds of images that belong to no paper; a teacher with no other kind is left out of tables."""
COMMAND = "python benchmarks/data_free.py --parts students uses papers"


@dataclass(frozen=True)
class Paper:
    """What the folder of one paper holds.

    Attributes:
        title: title of the paper with authors and source.
        ways: kinds of images on which students are trained, by names in ``free_students.WAYS``;
            real images are always shown.
        sources: images for compression, by names in ``free_uses.SOURCES``.
        sheet: the kind of images on the contact sheet.
        figures: the figures of the paper: headers, then lines.
        remark: a remark about these figures.
        heading: heading of these figures.
    """

    title: str
    ways: Sequence[str]
    sources: Sequence[str]
    sheet: str
    figures: Sequence[Sequence[str]]
    remark: str
    heading: str = "The paper's figures"


PAPERS = {
    "deepinversion": Paper(
        "DeepInversion: images from what batch norms recorded (Yin et al., CVPR 2020, arXiv 1912.08795)",
        ("noise", "deepinversion without the feature term", "deepinversion", "deepinversion, adaptive"),
        ("deepinversion",),
        "deepinversion",
        (
            ("CIFAR-10, top-1", "VGG-11 to VGG-11", "VGG-11 to ResNet-18", "ResNet-34 to ResNet-18"),
            ("teacher", "92.34", "92.34", "95.42"),
            ("noise", "13.55", "13.45", "13.61"),
            ("without the feature term (DeepDream)", "36.59", "39.67", "29.98"),
            ("DeepInversion", "84.16", "83.82", "91.43"),
            ("adaptive DeepInversion", "90.78", "90.36", "93.26"),
        ),
        "Quoted from memory, except for the second and third figure of the last row, which are quoted from a later "
        "paper. A student gets 250 epochs of 195 steps there.",
    ),
    "knowledge_within": Paper(
        "The Knowledge Within: Gaussian statistics of each layer (Haroush et al., CVPR 2020, arXiv 1912.01274)",
        ("noise", "knowledge_within, inception", "knowledge_within, bns+inception"),
        ("gaussian", "inception", "bns+inception"),
        "knowledge_within, bns+inception",
        (
            ("ResNet-18 on ImageNet, 8 and 4 bits", "real images", "images from batch norms"),
            ("W8A8, ranges", "69.60", "69.57"),
            ("W4A8, ranges and more", "68.91", "68.64"),
        ),
        "These figures are not the paper's, but those of another toolkit, with images by the statistics "
        "of batch norms and an l2 distance. The paper says that the loss against real data is negligible.",
        "Others' figures",
    ),
    "zskd": Paper(
        "Zero-Shot Knowledge Distillation: images for soft labels (Nayak et al., ICML 2019, arXiv 1905.08114)",
        ("noise", "zskd"),
        ("zskd",),
        "zskd",
        (
            ("top-1", "MNIST, LeNet-5", "Fashion-MNIST, LeNet-5", "CIFAR-10, AlexNet"),
            ("teacher", "99.34", "90.84", "83.03"),
            ("half as wide, all real images", "99.25", "89.66", "80.08"),
            ("ZSKD, half as wide", "98.77", "79.62", "69.56"),
            ("its images", "24,000", "48,000", "40,000"),
        ),
        "Figures of CIFAR-10 are quoted from memory, the others are quoted from a source that repeats them.",
    ),
}


def run(
    parts: Mapping[str, Any], teacher: tuple[str, str], epochs: int, images: int, iterations: int, folder: Path
) -> dict[str, Any]:
    """Writes ``<paper>/table.md``, ``table.json`` and ``contact_sheet.png`` for each paper.

    Args:
        parts: results of ``students`` and ``uses``.
        teacher: data set and backbone for the contact sheets.
        epochs: epochs of the training of that teacher.
        images, iterations: number of images and iterations of the sets on the contact sheets. Sets
            that the part ``students`` has made are used again.
        folder: folder for all papers.
    """
    written = []
    for name, paper in PAPERS.items():
        here = folder / name
        students = [_students(found, paper) for found in parts.get("students", {}).get("data", [])]
        students = [found for found in students if any(row["way"] not in BESIDE for row in found["rows"])]
        uses = _uses(parts["uses"], paper) if "uses" in parts else None
        _sheet(paper, teacher, epochs, images, iterations, here / "contact_sheet.png")
        sheet = f"{images} images by {iterations} steps from {short(teacher[1])} on {teacher[0]}; {ON_SHEET} are shown"
        write_text(here / "table.md", "\n".join(_markdown(paper, students, uses, sheet)))
        found = {"paper": [list(row) for row in paper.figures], "students": students, "uses": uses, "sheet": sheet}
        write_json(
            here / "table.json",
            {"title": paper.title, "command": COMMAND, **found, "environment": environment()}
            | {"made": time.strftime("%Y-%m-%d")},
        )
        written.append(str(here / "table.md"))
    return {"written": written, "met": True}


def _students(found: Mapping[str, Any], paper: Paper) -> dict[str, Any]:
    shown = {free_students.REAL, *paper.ways}
    return {
        **found,
        "rows": [row for row in found["rows"] if row["way"] in shown],
        "orders": [order for order in found["orders"] if {order["first"], order["second"]} <= shown],
    }


def _uses(part: Mapping[str, Any], paper: Paper) -> dict[str, Any]:
    shown = {free_uses.REAL, *paper.sources}

    def of(use: Mapping[str, Any]) -> dict[str, Any]:
        return {
            **use,
            "rows": [row for row in use["rows"] if row["source"] in shown],
            "orders": [
                order for order in (*use["against"], *use["orders"]) if {order["first"], order["second"]} <= shown
            ],
        }

    return {**part, "uses": [use for use in map(of, part["uses"]) if len(use["rows"]) > 1]}


def _sheet(paper: Paper, teacher: tuple[str, str], epochs: int, images: int, iterations: int, file: Path) -> None:
    way, (data, backbone) = WAYS[paper.sheet], teacher
    assert way.source is not None
    model = trained(job_of(backbone, data, epochs)).model
    transfer = made(way.source, {"images": images, **way.values, "iterations": iterations}, model, 0)
    shown, labels = next(iter(transfer.train.loader(len(transfer.train))))
    order = torch.argsort(labels, stable=True)  # some images of each class
    chosen = order[torch.linspace(0, len(order) - 1, min(ON_SHEET, len(order))).round().long()]
    file.parent.mkdir(parents=True, exist_ok=True)
    contact_sheet(shown[chosen], transfer.train.info, file, labels=labels[chosen])


def _markdown(
    paper: Paper, students: Sequence[Mapping[str, Any]], uses: Mapping[str, Any] | None, sheet: str
) -> list[str]:
    text = [
        f"# {paper.title}",
        "",
        "- Accuracy in percent of the real test split, which nothing here was trained or chosen on. Students start "
        "from random weights and see only what the teacher says of augmented images (temperature 4, AdamW, one cycle).",
        "- Differences are paired by image, means over the seeds with a 95 % interval. One teacher for each data set; "
        "seeds are those of images and students.",
        f"- Command: `{COMMAND}`; students of each teacher by the command with its budget, below.",
        "",
    ]
    for found in students:
        budget, name = found["budget"], short(found["teacher"])
        student = "half as wide" if found["teacher"] == LENET else "of the same shape"
        text += [
            f"## Students from scratch: {found['data']}, {name} ({found['teacher_accuracy']:.2f} %)",
            "",
            f"Students {student}; {budget['images']} images a set, {budget['iterations']} steps of gradient descent "
            f"for each; {budget['steps']} training steps of {found['batch']} images; seeds {_seeds(found)}. "
            f"`{found['command']}`",
            "",
            "| images | median | by seed | of the teacher | target |",
            "|---|---|---|---|---|",
            *map(_student, found["rows"]),
            "",
            *_orders(found["orders"]),
        ]
    if uses is not None and uses["uses"]:
        budget = uses["budget"]
        text += [
            f"## In compression: {uses['data']}, {short(uses['model'])} ({uses['float']:.2f} %)",
            "",
            f"Sets of {budget['images']} images, {budget['iterations']} steps; trained for {budget['epochs']} epochs; "
            f"as many real images; seeds {_seeds(uses)}.",
            "",
            "| use | images | by seed |",
            "|---|---|---|",
        ]
        text += [
            f"| {use['words']} | {row['source']} | {_list(row['accuracies'])} |"
            for use in uses["uses"]
            for row in use["rows"]
        ]
        named = [{**o, "claim": f"{use['words']}: {o['claim']}"} for use in uses["uses"] for o in use["orders"]]
        text += ["", *_orders(named)]
    heads, *rows = paper.figures
    text += [
        f"## {paper.heading}",
        "",
        f"| {' | '.join(heads)} |",
        "|---" * len(heads) + "|",
        *(f"| {' | '.join(row)} |" for row in rows),
    ]
    return [*text, "", paper.remark, "", "![Images](contact_sheet.png)", "", f"{sheet[0].upper()}{sheet[1:]}.", ""]


def _student(row: Mapping[str, Any]) -> str:
    target = "" if row["floor"] is None else f"{row['floor']:g} %: {'met' if row['met'] else 'missed'}"
    return (
        f"| {row['way']} | {row['median']:.2f} | {_list(row['accuracies'])} | {row['share_of_teacher']:.1f} % "
        f"| {target} |"
    )


def _orders(orders: Sequence[Mapping[str, Any]]) -> list[str]:
    if not orders:
        return []
    rows = [
        f"| {o['claim']} | {o['points']:+.2f} ({o['low']:+.2f}..{o['high']:+.2f}) | {_list(o['by_seed'])} "
        f"| {o['verdict']} |"
        for o in orders
    ]
    return ["| order | points | by seed | here |", "|---|---|---|---|", *rows, ""]


def _seeds(found: Mapping[str, Any]) -> str:
    return ", ".join(map(str, found["seeds"]))


def _list(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.1f}" for value in values)


def lines(part: dict[str, Any]) -> list[str]:
    """The table of this part."""
    return [f"wrote {file}" for file in part["written"]]
