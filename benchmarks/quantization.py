"""Compares quantization with its targets.

The parts are file size, rivals, latency, accuracy at low bits, granularity, and the cost of SLB.
Each part is written to the JSON file when it is finished. Parts can be run one by one.

    python benchmarks/quantization.py [--parts size rivals latency accuracy granularity slb-cost]
    [--out FILE]

``rivals`` installs NNCF into an environment of its own in the cache folder, which needs a download
the first time.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from autocompress.contract import Value
from parts import accuracy, against, granularity, latency, size, slb_cost
from shared.rows import read
from shared.running import put, run_parts

OUT = Path("results/benchmarks/quantization.json")
LINES = {
    "size": size.lines,
    "rivals": against.lines,
    "latency": latency.lines,
    "accuracy": accuracy.lines,
    "granularity": granularity.lines,
    "slb-cost": slb_cost.lines,
}


def runs(chosen: argparse.Namespace) -> dict[str, Callable[[], dict[str, Any]]]:
    """The parts by name, with the options given."""
    o = chosen
    own: dict[str, Value] = dict(o.set)

    def keep(part: dict[str, Any]) -> None:
        put(o.out, LINES, "accuracy", part)

    before = read(o.out).get("parts", {}).get("accuracy", {}).get("rows", [])
    return {
        "size": lambda: size.run(o.size_model, o.size, o.classes, o.seconds, o.runtime_threads),
        "rivals": lambda: against.run(o.rival_models, o.data, o.epochs, with_nncf=not o.no_nncf, values=own),
        "latency": lambda: latency.run(o.latency_models, o.size, o.seconds, o.runtime_threads),
        "accuracy": lambda: accuracy.run(
            o.model, o.data, o.epochs, o.qat_epochs, o.seeds, widths=o.widths, before=before, values=own, keep=keep
        ),
        "granularity": lambda: granularity.run(o.mobilenet, o.data, o.epochs, o.repair_epochs, o.images),
        "slb-cost": lambda: slb_cost.run(o.model, o.data, 2, o.rounds),
    }


def value_of(word: str) -> tuple[str, Value]:
    """Parses ``qat.lr=0.002`` to name and value."""
    name, _, text = word.partition("=")
    try:
        found: Value = json.loads(text)
    except json.JSONDecodeError:
        found = text
    return name, found


def options() -> argparse.ArgumentParser:
    """The parser of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=list(LINES), default=list(LINES))
    parser.add_argument("--model", default="resnet18", help="model (parts accuracy and slb-cost)")
    parser.add_argument(
        "--mobilenet",
        default="mobilenetv2_050",
        help="model (part granularity); NAME:output_stride=8 gives timm arguments",
    )
    parser.add_argument("--rival-models", nargs="+", default=["resnet18", "resnet10t", "mobilenetv2_050"])
    parser.add_argument("--latency-models", nargs="+", default=list(latency.MODELS))
    parser.add_argument("--size-model", default="resnet18")
    parser.add_argument("--classes", type=int, default=1000, help="classes of the model (part size)")
    parser.add_argument("--size", type=int, default=224, help="size of images in pixels (parts size and latency)")
    parser.add_argument("--seconds", type=float, default=20.0, help="seconds for measuring each model")
    parser.add_argument("--data", default="glyphs")
    parser.add_argument("--epochs", type=int, default=12, help="epochs of float baselines")
    parser.add_argument("--qat-epochs", type=int, default=4, help="epochs of the training (part accuracy)")
    parser.add_argument("--repair-epochs", type=int, default=2, help="epochs of the training (part granularity)")
    parser.add_argument("--images", type=int, default=12000, help="number of training images (part granularity)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="random seeds (part accuracy)")
    parser.add_argument("--widths", nargs="+", choices=list(accuracy.TARGETS), default=list(accuracy.TARGETS))
    parser.add_argument("--rounds", type=int, default=8, help="rounds (part slb-cost)")
    parser.add_argument("--set", type=value_of, nargs="+", default=[], metavar="NAME=VALUE", help="values of recipes")
    parser.add_argument("--no-nncf", action="store_true")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch")
    parser.add_argument("--runtime-threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=OUT)
    return parser


def main() -> None:
    """Runs the parts in order, prints their tables and writes the JSON."""
    run_parts(options().parse_args(), runs, LINES)


if __name__ == "__main__":
    main()
