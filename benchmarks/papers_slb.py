"""SLB's comparisons on a small backbone: bits of weights and activations, temperature, batch norm.

Yang et al., NeurIPS 2020, arXiv 2009.08695. Each row changes one factor of the plugin's defaults:
exponential temperature, batch norm calibrated after each epoch, PACT activations, start from the
trained weights. Stem and classifier have 8 bits. The backbone has the size of the paper's ResNet-20
(0.35 million parameters).

    python benchmarks/papers_slb.py [--threads 2] [--seeds 0 1 2] [--out FILE]

An interrupted run is continued; ``--fresh`` starts again.
"""

from __future__ import annotations

from pathlib import Path

from shared.orders import Claim
from shared.paper import FLOAT, Backbone, Line, Study, options, run
from shared.simulate import NEVER, Setting

OUT = Path("results/papers/slb/table.json")
BACKBONE = Backbone("resnet10t-quarter", "resnet10t", {"channels": [16, 32, 64, 128]})
RESNET20, VGG = "ResNet-20, CIFAR-10", "VGG-Small, CIFAR-10"
BITS = "bits"
FIGURES = {
    "W1A2": (89.5, 93.4),
    "W1A4": (90.3, 93.5),
    "W1A8": (90.5, 93.8),
    "W1A32": (90.6, 93.8),
    "W2A2": (90.6, 93.5),
    "W2A4": (91.3, 93.9),
    "W2A8": (91.7, 94.0),
    "W2A32": (92.0, 94.0),
    "W4A4": (91.6, 93.8),
    "W4A8": (91.8, 94.0),
    "W4A32": (92.1, 94.1),
}
"""Figures of the paper for ResNet-20 and VGG-Small; it has no W4A2."""
NOTES = (
    "Paper: Yang et al., arXiv 2009.08695, top-1 on CIFAR-10 after 500 epochs. A32 is activations in float.",
    "Setting: start from trained weights, logits as fast as other parameters, T from 1 to 1000 exponentially between "
    "30 and 90 % of the steps, then arg-max; PACT below 32 bits; stem and classifier with weights of 8 bits "
    "(and activations of at least 8); learning rate 2e-3, no distillation.",
    "For the schedules of the temperature (paper's figure 2) and for batch norm, only the order of the paper's results "
    "is compared; that of batch norm is quoted from memory (61.3 on ImageNet, 61.0 without).",
    "resnet10t-quarter is resnet10t with a quarter of its channels, 0.35 million parameters; ResNet-20 has 0.27.",
)


def lines(epochs: int) -> list[Line]:
    """All rows."""
    # The callback of the quantizer does what its layers need. The norms of exempt layers are
    # trained.
    qat = {"epochs": epochs, "lr": 2e-3, "norm_freeze": NEVER}

    def setting(weights: int, activations: int | None, **params: object) -> Setting:
        return Setting("slb", weights, activations, params, qat, exempt=True)

    found = []
    for activations in (32, 8, 4, 2):
        for weights in (4, 2, 1):
            label = f"W{weights}A{activations}"
            paper = dict(zip((RESNET20, VGG), FIGURES.get(label, ()), strict=False))
            found.append(Line(BITS, label, setting(weights, None if activations == 32 else activations), paper))
    temperature, norm = "temperature at W2A32 (exponential: W2A32 above)", "batch norm at W2A32 (each epoch: above)"
    return [
        *found,
        Line(temperature, "linear", setting(2, None, schedule="linear"), {}),
        Line(temperature, "constant, then arg-max", setting(2, None, schedule="constant"), {}),
        Line(norm, "two statistics", setting(2, None, norm="two_statistics"), {}),
        Line(norm, "calibrated at the end", setting(2, None, norm="calibrate_end"), {}),
        Line(norm, "no discrete statistics", setting(2, None, norm="none"), {}),
    ]


CLAIMS = (
    Claim("4-bit weights are as good as float", "W4A32", FLOAT, 1.0, 0.0),
    Claim("4 bits beat 2", "W4A32", "W2A32", None, 0.1),
    Claim("2 bits beat 1", "W2A32", "W1A32", None, 1.4),
    Claim("2 bits beat 1 with 8-bit activations", "W2A8", "W1A8", None, 1.2),
    Claim("8-bit activations cost little", "W2A8", "W2A32", 1.0, -0.3),
    Claim("8-bit activations beat 4-bit ones", "W2A8", "W2A4", None, 0.4),
    Claim("4-bit activations beat 2-bit ones", "W2A4", "W2A2", None, 0.7),
    Claim("exponential beats linear", "W2A32", "linear"),
    Claim("exponential beats constant", "W2A32", "constant, then arg-max"),
    Claim("discrete statistics beat none", "two statistics", "no discrete statistics", None, 0.3),
    Claim("calibration each epoch is as good as two statistics", "W2A32", "two statistics", 1.0),
    Claim("calibration at the end is as good as each epoch", "calibrated at the end", "W2A32", 1.0),
)


def main() -> None:
    """Makes the tables."""
    chosen = options(__doc__ or "", OUT, epochs=3, images=5000, baseline_epochs=12).parse_args()
    run("Searching for low-bit weights", [Study(BACKBONE, lines(chosen.epochs), CLAIMS)], chosen, NOTES)


if __name__ == "__main__":
    main()
