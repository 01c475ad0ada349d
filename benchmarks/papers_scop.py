"""SCOP's comparisons on a small backbone: rates, knockoffs, mixing, score epochs, criteria.

Tang et al., NeurIPS 2020, arXiv 2010.10732. Channels are removed by the official scheme: the same
rate in every convolution after the stem, while shortcuts and residual width are kept. Each row
changes one factor of the plugin's defaults: Gaussian knockoffs, mixing before batch norm, four
score epochs.

    python benchmarks/papers_scop.py [--threads 2] [--seeds 0 1 2] [--out FILE]

An interrupted run is continued; ``--fresh`` starts again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from autocompress.training import evaluate
from autocompress_scop import Scop
from autocompress_scop.control import ScaleSettings
from autocompress_scop.scoring import ScoreSettings
from shared.orders import Claim
from shared.paper import FLOAT, Backbone, Line, Study, Way, options, run
from shared.pruned import CRITERIA, context_of, left, recovered, removed, uniform
from shared.trained import Trained, job_of, trained

OUT = Path("results/papers/scop/table.json")
BACKBONE = Backbone("resnet10t-half", "resnet10t", {"channels": [32, 64, 128, 256]})
SCHEME = "scatter"
RATES = (0.2, 0.35, 0.5)
EPOCHS = 1
"""Epochs of recovery."""
DEFAULT = ScoreSettings()


@dataclass(frozen=True)
class Pruned:
    """One row: rate, criterion, settings of the scores, and epochs of recovery."""

    rate: float
    epochs: int
    criterion: str = "scop"
    scores: ScoreSettings = field(default_factory=lambda: DEFAULT)


VARIED = {
    "gaussian": DEFAULT,
    "permute": replace(DEFAULT, knockoffs="permute"),
    "gan_uncond": replace(DEFAULT, knockoffs="gan_uncond"),
    "post_bn": replace(DEFAULT, scales=ScaleSettings(mixing="post_bn")),
    "1 score epoch": replace(DEFAULT, scales=ScaleSettings(epochs=1)),
}
SECTIONS = {
    "gaussian": "the plugin's defaults: Gaussian knockoffs, pre_bn, 4 score epochs",
    "permute": "knockoffs",
    "gan_uncond": "knockoffs",
    "post_bn": "mixing",
    "1 score epoch": "score epochs",
}
RIVALS = ("magnitude", "bn-scale", "random")

PAPER = (
    ("ResNet-18 A", "ImageNet", 30.24, 30.82, 39.3, 38.8, ""),
    ("ResNet-18 B", "ImageNet", 30.24, 31.38, 43.5, 45.0, ""),
    ("ResNet-34 A", "ImageNet", 26.69, 27.07, 39.7, 39.1, ""),
    ("ResNet-34 B", "ImageNet", 26.69, 27.38, 45.6, 44.8, ""),
    ("ResNet-50 A", "ImageNet", 23.85, 24.05, 42.8, 45.3, "rate 0.35 gives 42.8 / 45.4"),
    ("ResNet-50 B", "ImageNet", 23.85, 24.74, 51.8, 54.6, "rate 0.45 gives 52.2 / 55.6"),
    ("ResNet-101 A", "ImageNet", 22.63, 22.25, 46.8, 48.6, "gap printed as -0.32"),
    ("ResNet-101 B", "ImageNet", 22.63, 22.64, 57.8, 60.2, ""),
    ("ResNet-20", "CIFAR-10", 7.78, 9.25, 56.3, 55.7, "from memory"),
    ("ResNet-32", "CIFAR-10", 7.34, 7.87, 56.2, 55.8, "from memory"),
    ("ResNet-56", "CIFAR-10", 6.30, 6.36, 56.3, 56.0, "from memory; rate 0.45 gives 56.3 / 56.1"),
    ("MobileNetV2", "CIFAR-10", 5.52, 5.76, 36.1, 40.3, "from memory"),
)
COLUMNS = ("network", "data", "error_before", "error_after", "params_cut", "flops_cut", "remark")
"""Rows of ``PAPER``: top-1 errors in percent, percent of removed parameters and FLOPs."""

NOTES = (
    "Paper: Tang et al., arXiv 2010.10732; its own rows are at the end, for other networks and rates. Figures of its "
    "ablations are not compared: claims about knockoffs, mixing and score epochs are questions of this project.",
    "Knockoffs: `gaussian` second-order on patches; `gan_uncond` what the official code does (images from noise); "
    "`permute` another image of the batch. Mixing: `pre_bn` the official code, `post_bn` the paper's figure.",
    "resnet10t-half is resnet10t with half its channels, 1.3 million parameters.",
)


def label(kind: str, rate: float) -> str:
    """The label of a row."""
    return f"{kind}, rate {rate:g}"


def lines(epochs: int) -> list[Line]:
    """All rows. Rates with equal scores follow each other, because they share them."""
    scored = [
        Line(SECTIONS[kind], label(kind, rate), Pruned(rate, epochs, scores=scores), {})
        for kind, scores in VARIED.items()
        for rate in RATES
    ]
    middle = RATES[-1]
    others = [
        Line("other criteria", label(name, middle), Pruned(middle, epochs, criterion=name), {}) for name in RIVALS
    ]
    return scored + others


def claims() -> list[Claim]:
    """The trend of the paper, then questions about the plugin at the highest rate."""
    low, middle, high = RATES
    default = label("gaussian", high)
    return [
        Claim("a low rate costs little", label("gaussian", low), FLOAT, 1.0),
        Claim("a middle rate costs little (ResNet-50 A)", label("gaussian", middle), FLOAT, 1.0, -0.2),
        Claim("a high rate costs more (ResNet-50 A against B)", label("gaussian", middle), default, None, 0.69),
        Claim("Gaussian knockoffs beat a permutation", default, label("permute", high)),
        Claim("Gaussian knockoffs are as good as images from noise", default, label("gan_uncond", high), 1.0),
        Claim("mixing before or after the norm is as good", default, label("post_bn", high), 1.0),
        Claim("four score epochs beat one", default, label("1 score epoch", high)),
        *(Claim(f"SCOP beats {name}", default, label(name, high)) for name in RIVALS),
    ]


class Maker:
    """Prunes and recovers networks.

    The scores of the last row are kept, because the next often has the same.
    """

    def __init__(self) -> None:
        self._of: Any = None
        self._state: Any = None

    def __call__(self, baseline: Trained, setting: Pruned, *, seed: int, images: int) -> np.ndarray:
        """Whether each test image is classified correctly after recovery, bool ``(images,)``."""
        pruner = Scop(setting.scores) if setting.criterion == "scop" else CRITERIA[setting.criterion]
        context = context_of(baseline, seed=seed, images=images)
        assert context.teacher is not None
        if pruner.prepares and self._of != (baseline.job, setting.scores, seed, images):
            self._state = pruner.prepare(context.teacher, context)
            self._of = (baseline.job, setting.scores, seed, images)
        asked = uniform(pruner, baseline.model, setting.rate, SCHEME)
        model = removed(pruner, baseline.model, asked, replace(context, state=self._state if pruner.prepares else None))
        return evaluate(recovered(model, setting.epochs, context), baseline.splits.test, context.device)[1]


def shares(data: str) -> dict[float, tuple[float, float]]:
    """Percent of parameters and MACs that each rate removes from the backbone."""
    model = trained(job_of(BACKBONE.name, data, 0, model_args=BACKBONE.args)).model
    found = {rate: left(model, rate, SCHEME) for rate in RATES}
    return {rate: (100 * (1 - params), 100 * (1 - macs)) for rate, (params, macs) in found.items()}


def appendix(gone: Mapping[float, tuple[float, float]]) -> list[str]:
    """The removed shares here, and the rows of the paper."""
    ours = [f"| {rate:g} | {params:.1f} | {macs:.1f} |" for rate, (params, macs) in gone.items()]
    theirs = [
        f"| {name} | {on} | {before:.2f} | {after:.2f} | {before - after:+.2f} | {params:.1f} | {macs:.1f} | {remark} |"
        for name, on, before, after, params, macs, remark in PAPER
    ]
    return [
        "## What a rate removes here, percent",
        *("", "| rate | parameters | MACs |", "|---|---|---|", *ours, ""),
        "## The paper's rows: top-1 error in percent, and what went",
        *("", "| network | data | before | after | accuracy | parameters | FLOPs | remark |"),
        *("|---|---|---|---|---|---|---|---|", *theirs, ""),
        "From memory: recalled, not confirmed by a second source.",
        "",
    ]


def main() -> None:
    """Makes the tables."""
    parser = options(__doc__ or "", OUT, epochs=EPOCHS, images=3000, baseline_epochs=12)
    chosen = parser.parse_args()
    gone = shares(chosen.data)
    way = Way(
        make=Maker(),
        words="Scores from {images} training images, then recovery: {epochs} epochs of the same images, with "
        "distillation of weight 0.5, AdamW, one cycle at 2e-3.",
        one_baseline=True,
        head={"scheme": SCHEME, "scores": {kind: asdict(scores) for kind, scores in VARIED.items()}},
        appendix=appendix(gone),
        more={
            "removed": {str(rate): dict(zip(("params", "macs"), cut, strict=True)) for rate, cut in gone.items()},
            "paper": [dict(zip(COLUMNS, row, strict=True)) for row in PAPER],
        },
    )
    wanted: Sequence[Study] = [Study(BACKBONE, lines(chosen.epochs), claims())]
    run("SCOP: pruning with a knockoff control group", wanted, chosen, NOTES, way)


if __name__ == "__main__":
    main()
