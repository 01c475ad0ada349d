"""Loss and cost of each rounding method at each number of bits, without training.

docs/rounding.md has the results.

    python benchmarks/rounding.py [--model resnet18] [--data glyphs] [--widths quantize:4 slb:1]
        [--threads 1] [--seconds 150] [--out results/rounding/rounding.json]

Stem, classifier and activations have 8 bits. KL is the divergence of the rounded network's logits
from those of the float network, in nats. KL and accuracy are on the first validation images. An
interrupted run is continued. With ``--seconds``, no row begins after that time.
"""

from __future__ import annotations

import argparse
import copy
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import torch
from torch import nn

from autocompress import models
from autocompress.compression import quantize, repair
from autocompress.contract import Context, Space, manager
from autocompress.graph import facts
from autocompress.opened.transfer import user_data
from autocompress.recipes.bits import GroupBits
from autocompress.recipes.choosers import Replay
from autocompress.recipes.recipe import Recipe, params_of
from autocompress.training import logits
from shared.rows import Rows, TimeIsUp
from shared.trained import Trained, environment, job_of, trained

TARGETS = {4: {"kl": 0.003}, 3: {"kl": 0.01}, 2: {"kl": 0.03, "accuracy": 86.0}, 1: {"kl": 0.12, "accuracy": 82.5}}
"""Targets by bits, for ResNet-18 on glyphs."""
WIDTHS = ("quantize:4", "quantize:3", "quantize:2", "slb:2", "slb:1", "quantize:8", "quantize:5")
WAYS = ("nearest", "least squares", "gptq", "descent")


class Rounded:
    """One float network, rounded in many ways.

    Args:
        baseline: the trained network.
        images: number of validation images that judge.
        seed: random seed.
    """

    def __init__(self, baseline: Trained, images: int, seed: int = 0) -> None:
        self.model, self.val = baseline.model, baseline.splits.val.take(torch.arange(images))
        transfer, size = user_data(baseline.splits, seed), models.input_size(baseline.model)
        self.context = Context(input_size=size, transfer=transfer, teacher=copy.deepcopy(self.model), seed=seed)
        self.teacher = logits(self.model, self.val)

    def row(self, width: str, way: str) -> dict[str, Any]:
        """KL, accuracy and processor seconds of QUANTIZE for one number of bits and one method."""
        name, _, bits = width.partition(":")
        method = manager().method(name)
        params = {**params_of(method, Space(Replay({})), self.model)}
        if name == "quantize":
            params |= {"rounding": "nearest" if way == "least squares" else way}
            params |= {"weight_range": "mse"} if way == "least squares" else {}
        chosen = GroupBits(name, int(bits), "quantize", 8)
        others = params_of(manager().method("quantize"), Space(Replay({})), self.model)
        recipe = Recipe(
            values={},
            bits={group.name: chosen for group in models.groups(self.model, "model")},
            quantizers={"quantize": others, name: params},
        )
        network = facts(self.model, self.context.input_size)
        assigned = quantize.assign(network, self.model, "model", recipe)
        methods = {each: manager().method(each) for each in recipe.quantizers}
        began = time.process_time()  # processor time depends little on other work of the machine
        hardened, _ = quantize.quantize(copy.deepcopy(self.model), assigned, recipe, methods, self.context)
        return {"quantize_seconds": round(time.process_time() - began, 2), **self.judged(hardened)}

    def judged(self, model: nn.Module) -> dict[str, float]:
        """Accuracy in percent and KL on the validation images."""
        own = logits(model.eval(), self.val)
        right = (own.argmax(1) == self.val.labels()).float().mean()
        return {"accuracy": round(100 * float(right), 2), "kl": round(repair.kl_of(own, self.teacher), 5)}


def ways_of(width: str) -> tuple[str, ...]:
    """The methods for a number of bits. For slb, its own start is the nearest value."""
    return WAYS if width.startswith("quantize") else ("descent",)


def main(arguments: list[str] | None = None) -> None:
    """Makes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--data", default="glyphs")
    parser.add_argument("--widths", nargs="+", default=list(WIDTHS))
    parser.add_argument("--epochs", type=int, default=12, help="epochs of the float baseline")
    parser.add_argument("--images", type=int, default=1000, help="number of validation images")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch")
    parser.add_argument("--seconds", type=float, default=None, help="seconds after which no row begins")
    parser.add_argument("--out", type=Path, default=Path("results/rounding/rounding.json"))
    asked = parser.parse_args(arguments)
    torch.set_num_threads(asked.threads)
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    until = None if asked.seconds is None else time.monotonic() + asked.seconds
    head = {"model": asked.model, "data": asked.data, "epochs": asked.epochs, "images": asked.images}
    command = f"python benchmarks/rounding.py --threads {asked.threads} --out {asked.out}"
    rows = Rows(asked.out, {**head, "command": command, **environment()}, until)
    rounded = Rounded(trained(job_of(asked.model, asked.data, asked.epochs)), asked.images)
    try:
        rows.row("float", lambda: rounded.judged(rounded.model))
        for width in asked.widths:
            for way in ways_of(width):
                rows.row(f"{width}, {way}", lambda width=width, way=way: rounded.row(width, way))  # type: ignore[misc]
    except TimeIsUp:
        print("the time is up; the same command continues", flush=True)
        return
    rows.write(targets=TARGETS, reached=reached(rows))


def reached(rows: Rows) -> dict[str, bool]:
    """Whether the best row of each number of bits meets the targets."""
    found = {}
    for bits, target in TARGETS.items():
        own = [row for key, row in rows.rows.items() if key.partition(",")[0].endswith(f":{bits}")]
        meets = [row["kl"] <= target["kl"] and row["accuracy"] >= target.get("accuracy", 0.0) for row in own]
        if own:
            found[str(bits)] = any(meets)
    return found


if __name__ == "__main__":
    main()
