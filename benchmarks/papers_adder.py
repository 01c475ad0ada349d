"""AdderNet's comparisons on small backbones: accuracy, operations and energy beside convolutions.

Chen et al., CVPR 2020, arXiv 1912.13200. Adder networks are made from the trained convolution
network, and recovered by distillation with the defaults of the plugin. Energy is computed from the
45 nm profile.

    python benchmarks/papers_adder.py [--threads 2] [--seeds 0 1 2] [--out FILE]

An interrupted run is continued.
"""

from __future__ import annotations

import argparse
import logging
import time
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from matplotlib.ticker import FormatStrFormatter, LogLocator, NullFormatter

from autocompress.files import atomic, write_json, write_text
from parts import adder_accuracy
from parts.adder_accuracy import Network
from shared.rows import command_line
from shared.trained import environment

OUT = Path("results/papers/adder/table.json")
HALF = {"channels": [32, 64, 128, 256]}
PAPER = (
    ("VGG-small", "0.65G / 0.65G", 93.80, "0 / 1.30G", 93.72, 89.80, 72.73, 72.64),
    ("ResNet-20", "41.17M / 41.17M", 92.25, "0 / 82.34M", 91.84, 84.87, 68.14, 67.60),
    ("ResNet-32", "69.12M / 69.12M", 93.29, "0 / 138.24M", 93.01, 86.74, 69.74, 69.02),
)
"""Multiplications and additions, and accuracies on CIFAR-10 and CIFAR-100, as printed."""
IMAGENET = (("ResNet-18", 69.8, 67.0, 51.2), ("ResNet-50", 76.2, 74.9, 55.8))
"""Top-1 of the convolution, adder and binary network."""


def networks(data: list[str], epochs: int) -> dict[str, Network]:
    """The backbone, half a resnet10t, on each data set."""
    return {name: Network("resnet10t", HALF, epochs) for name in data}


def markdown(part: dict[str, Any], command: str) -> str:
    """The table in Markdown."""
    narrow = any("4 bits" in row["way"] for found in part["data"] for row in found["rows"])
    text = [
        "# AdderNet: convolutions without multiplications",
        "",
        f"- Each adder network is converted from the trained twin and recovered for {part['recovery_epochs']} epochs "
        "with distillation; that comes on top of the twin's epochs. Integers are calibrated, not trained"
        f"{', but for 4 bits: half as long again' if narrow else ''}.",
        f"- Seeds {', '.join(map(str, part['seeds']))} of conversion and recovery, one float baseline. Intervals are "
        "Wilson's over the test images.",
        f"- Energy: arithmetic of one image by `cost-model:{part['profile']}`, no memory. Multiplications are those of "
        "stem and classifier where all else is adder layers.",
        *(["- The 4-bit rows have 8-bit units' energy: the profile's source has no narrower ones."] if narrow else []),
        f"- Command: `{command}`.",
        "",
    ]
    for found in part["data"]:
        network = part["networks"][found["data"]]
        text += [
            f"## {network['model']}, half its channels, on {found['data']} ({network['epochs']} epochs)",
            "",
            "| network | accuracy | by seed | multiplications | additions | microjoules |",
            "|---|---|---|---|---|---|",
        ]
        text += [
            f"| {row['way']} | {row['accuracy']:.2f} ({row['low']:.2f}..{row['high']:.2f}) | "
            f"{', '.join(f'{value:.1f}' for value in row['by_seed'])} | {row['multiplications'] / 1e6:.2f}M | "
            f"{row['additions'] / 1e6:.2f}M | {row['microjoules']:.2f} |"
            for row in found["rows"]
        ]
        text += ["", "| against the twin | points, 95 % interval |", "|---|---|"]
        text += [
            f"| {order['first']} | {order['points']:+.2f} ({order['low']:+.2f}..{order['high']:+.2f}) |"
            for order in found["orders"]
        ]
        text += [""]
    text += [
        "![Accuracy against energy](energy.png)",
        "",
        "## The paper's rows",
        "",
        "| network | convolution: mul / add | CIFAR-10 | adder: mul / add | CIFAR-10 | binary | CIFAR-100: convolution "
        "| adder |",
        "|---|---|---|---|---|---|---|---|",
        *("| " + " | ".join(str(value) for value in row) + " |" for row in PAPER),
        "",
        "| network | ImageNet: convolution | adder | binary |",
        "|---|---|---|---|",
        *("| " + " | ".join(str(value) for value in row) + " |" for row in IMAGENET),
        "",
    ]
    return "\n".join(text)


def drawn(part: dict[str, Any], file: Path) -> None:
    """A picture of accuracy over energy as PNG: a panel per data set, with Wilson's intervals."""
    figure = Figure(figsize=(5.2 * len(part["data"]), 4), layout="constrained")
    for number, found in enumerate(part["data"], 1):
        axes = figure.add_subplot(1, len(part["data"]), number)
        for kind, color in (("convolution", "#3b6ea5"), ("adder", "#c8553d")):
            rows = [row for row in found["rows"] if row["way"].startswith(kind)]
            energies, accuracies = [row["microjoules"] for row in rows], [row["accuracy"] for row in rows]
            reach = [[row["accuracy"] - row["low"] for row in rows], [row["high"] - row["accuracy"] for row in rows]]
            axes.errorbar(energies, accuracies, reach, color=color, marker="o", linestyle=":", capsize=3, label=kind)
            for row in rows:
                name = row["way"].partition(", ")[2]
                axes.annotate(name, (row["microjoules"], row["accuracy"]), (6, 6), textcoords="offset points", size=8)
        axes.set_xscale("log")
        ends = [row["microjoules"] for row in found["rows"]]
        axes.set_xlim(min(ends) / 1.5, max(ends) * 2)
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.xaxis.set_major_formatter(FormatStrFormatter("%g"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set(xlabel=f"microjoules an image ({part['profile']}, arithmetic)", ylabel="test accuracy, %")
        axes.set_title(found["data"])
        axes.legend()
    with atomic(file) as temporary:
        figure.savefig(temporary, dpi=110, format="png")


def main() -> None:
    """Makes the table and the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", default=["digits", "glyphs"])
    parser.add_argument("--epochs", type=int, default=12, help="epochs of float baselines")
    parser.add_argument("--recovery-epochs", type=int, default=8)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--ways", nargs="+", choices=list(adder_accuracy.WAYS), default=list(adder_accuracy.WAYS))
    parser.add_argument("--threads", type=int, default=1, help="threads of torch")
    parser.add_argument("--out", type=Path, default=OUT)
    chosen = parser.parse_args()
    logging.disable(logging.WARNING)
    torch.set_num_threads(chosen.threads)
    part = adder_accuracy.run(
        networks(chosen.data, chosen.epochs),
        chosen.recovery_epochs,
        chosen.seeds,
        ways=chosen.ways,
        out=chosen.out.with_name("rows.json"),
    )
    command = command_line()
    write_json(
        chosen.out, {**part, "command": command, "environment": environment(), "made": time.strftime("%Y-%m-%d")}
    )
    write_text(chosen.out.with_suffix(".md"), markdown(part, command))
    drawn(part, chosen.out.with_name("energy.png"))
    print("\n".join(adder_accuracy.lines(part)))


if __name__ == "__main__":
    main()
