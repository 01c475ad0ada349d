"""Compares AdderNet with its targets: CPU kernels, a step of training, a whole network in uint8.

Each part is written to the JSON file when it is finished. Parts can be run one by one.

    python benchmarks/adder.py [--parts kernels cost whole] [--sizes 32 224] [--threads 2] [--out
    FILE]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from parts import adder_cost, adder_kernels, adder_whole
from shared.running import run_parts

OUT = Path("results/benchmarks/adder.json")
LINES = {
    "kernels": adder_kernels.lines,
    "cost": adder_cost.lines,
    "whole": adder_whole.lines,
}


def runs(chosen: argparse.Namespace) -> dict[str, Callable[[], dict[str, Any]]]:
    """The parts by name, with the options given."""
    o = chosen
    return {
        "kernels": lambda: adder_kernels.run(o.sizes, o.batch, o.layers, o.rounds, o.integer_rounds),
        "cost": lambda: adder_cost.run(o.depth, "digits", o.cost_rounds, o.cost_batch),
        "whole": lambda: adder_whole.run(o.whole_model, "digits", o.whole_size, o.whole_rounds),
    }


def options() -> argparse.ArgumentParser:
    """The parser of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=list(LINES), default=list(LINES))
    parser.add_argument(
        "--sizes", type=int, nargs="+", default=[32, 224], help="sizes of images in pixels (part kernels)"
    )
    parser.add_argument("--batch", type=int, default=32, help="batch size at small sizes (part kernels)")
    parser.add_argument(
        "--layers", type=int, default=len(adder_kernels.LAYERS), help="number of layers of ResNet-18 (part kernels)"
    )
    parser.add_argument("--rounds", type=int, default=9, help="rounds of float kernels")
    parser.add_argument("--integer-rounds", type=int, default=60, help="rounds of integer kernels")
    parser.add_argument("--depth", type=int, default=20, help="depth of the ResNet for CIFAR (part cost)")
    parser.add_argument("--cost-rounds", type=int, default=5)
    parser.add_argument("--cost-batch", type=int, default=128)
    parser.add_argument("--whole-model", default="resnet18")
    parser.add_argument("--whole-size", type=int, default=224)
    parser.add_argument("--whole-rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2, help="threads of torch; integers always run on one thread")
    parser.add_argument("--out", type=Path, default=OUT)
    return parser


def main() -> None:
    """Runs the parts in order, prints their tables and writes the JSON."""
    run_parts(options().parse_args(), runs, LINES)


if __name__ == "__main__":
    main()
