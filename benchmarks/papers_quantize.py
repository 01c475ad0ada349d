"""The whitepaper's comparisons on small backbones: bits, granularity, grid, and batch norm.

R. Krishnamoorthi, arXiv 1806.08342, tables 2 to 6 and figure 14. Each row changes one factor of the
paper's setting: all layers have the same bits, ranges are from minimum to maximum, weights are
symmetric with a scale per channel, activations are asymmetric, and batch norm is corrected and then
frozen. Accuracies are those of simulated quantization, as in the paper.

    python benchmarks/papers_quantize.py [--threads 2] [--seeds 0 1 2] [--models mobilenetv2_050]
    [--out FILE]

An interrupted run is continued; ``--fresh`` starts again.
"""

from __future__ import annotations

from pathlib import Path

from shared.orders import Claim
from shared.paper import FLOAT, Backbone, Line, Study, options, run
from shared.simulate import NEVER, Setting

OUT = Path("results/papers/quantize/table.json")
RESNET = Backbone("resnet10t-half", "resnet10t", {"channels": [32, 64, 128, 256]})
V1, V2, R50 = "Mobilenet-v1", "Mobilenet-v2", "Resnet-v1-50"
PAPER_RANGES = {"depthwise_bits": "same", "bias_correction": False, "weight_range": "minmax"}
TENSOR, CHANNEL = {"weight_granularity": "per_tensor"}, {"weight_granularity": "per_channel"}
SYMMETRIC, ASYMMETRIC = {"weight_grid": "symmetric"}, {"weight_grid": "asymmetric"}
NOTES = (
    "Paper: R. Krishnamoorthi, arXiv 1806.08342, ImageNet top-1, tables 2 to 6; figure 14 gives an order, no figures.",
    "Setting: all layers at the bits of the row (the paper exempts none), ranges of weights by min-max, of activations "
    "by a moving average over 256 images; per tensor or per channel, symmetric (sym) or asymmetric (asym) weights.",
    "Deliberate difference: asymmetric weights per channel stay symmetric in depthwise layers, where a zero point for "
    "each channel would cost the integer kernel.",
    "Training: learning rate 1e-3, no distillation; statistics and ranges freeze at half of the steps. The paper "
    "trains with SGD and 1e-5 for very many more steps, so what training repairs is less here.",
    "resnet10t-half is resnet10t with half of its channels.",
)


def setting(
    weights: int | None, activations: int | None, *params: dict[str, str], qat: dict[str, object] | None = None
) -> Setting:
    """A setting with the same bits for all layers; ``params`` override those of the paper."""
    merged = {**PAPER_RANGES, **CHANNEL, **SYMMETRIC}
    for own in params:
        merged |= own
    return Setting("quantize", weights, activations, merged, qat)


def lines(epochs: int, *, is_mobile: bool) -> list[Line]:
    """The rows of one backbone, with figures of similar networks in the paper."""

    def paper(v1: float | None, v2: float | None, r50: float | None) -> dict[str, float]:
        figures = {V1: v1, V2: v2} if is_mobile else {R50: r50}
        return {network: value for network, value in figures.items() if value is not None}

    train = {"epochs": epochs}
    weights_only, both = "8-bit weights alone (table 2)", "8-bit weights and activations (tables 3 and 4)"
    low, norm = "fewer bits (tables 5 and 6)", "batch norm while training at W4A8 (figure 14)"
    found = [
        Line(weights_only, "W8 asym per tensor", setting(8, None, TENSOR, ASYMMETRIC), paper(0.1, 0.1, 75.0)),
        Line(weights_only, "W8 sym per tensor", setting(8, None, TENSOR), {}),
        Line(weights_only, "W8 sym per channel", setting(8, None), paper(59.1, 69.8, 75.1)),
        Line(weights_only, "W8 asym per channel", setting(8, None, ASYMMETRIC), paper(70.4, 69.8, 75.2)),
        Line(both, "A8 alone", setting(None, 8), paper(70.8, 70.0, 75.1)),
        Line(both, "W8A8 asym per tensor", setting(8, 8, TENSOR, ASYMMETRIC), paper(0.1, 0.1, 75.0)),
        Line(both, "W8A8 sym per channel", setting(8, 8), paper(59.1, 69.8, 75.1)),
        Line(both, "W8A8 asym per channel", setting(8, 8, ASYMMETRIC), paper(70.3, 69.7, 75.1)),
        Line(
            both, "W8A8 asym per tensor, trained", setting(8, 8, TENSOR, ASYMMETRIC, qat=train), paper(70.0, 70.9, 75.0)
        ),
        Line(both, "W8A8 sym per channel, trained", setting(8, 8, qat=train), paper(70.7, 71.1, 75.0)),
        Line(low, "W6A8", setting(6, 8), {}),
        Line(low, "W4A8 asym per tensor", setting(4, 8, TENSOR, ASYMMETRIC), paper(2.0, 0.1, 0.2)),
        Line(low, "W4A8", setting(4, 8), paper(0.1, 0.1, 54.0)),
        Line(low, "W4A8, trained", setting(4, 8, qat=train), paper(65.0, 62.0, 73.2)),
        Line(low, "W8A4", setting(8, 4), paper(48.0, 7.0, 36.0)),
        Line(low, "W8A4, trained", setting(8, 4, qat=train), paper(64.0, 58.0, 58.0)),
    ]
    if is_mobile:
        found += [
            Line(norm, "naive folding", setting(4, 8, qat={**train, "norm": "naive", "norm_freeze": NEVER}), {}),
            Line(norm, "corrected, never frozen", setting(4, 8, qat={**train, "norm_freeze": NEVER}), {}),
            Line(norm, "frozen from the start", setting(4, 8, qat={**train, "norm": "frozen"}), {}),
        ]
    return found


def claims(*, is_mobile: bool) -> list[Claim]:
    """The orders that the paper claims, with its own points on Mobilenet-v2 or Resnet-v1-50."""
    found = [
        Claim("8-bit activations are almost free", "W8A8 sym per channel", "W8 sym per channel", 1.0, 0.0),
        Claim("8 bits per channel are near float", "W8A8 sym per channel", FLOAT, 2.0, -2.1 if is_mobile else -0.1),
        Claim(
            "trained, per tensor is as good as per channel",
            "W8A8 asym per tensor, trained",
            "W8A8 sym per channel, trained",
            1.0,
            -0.2 if is_mobile else 0.0,
        ),
        Claim("4-bit weights lose", "W8A8 sym per channel", "W4A8", None, 69.7 if is_mobile else 21.1),
        Claim("4-bit activations lose", "W8A8 sym per channel", "W8A4", None, 62.8 if is_mobile else 39.1),
        Claim("training repairs 4-bit weights", "W4A8, trained", "W4A8", None, 61.9 if is_mobile else 19.2),
        Claim("training repairs 4-bit activations", "W8A4, trained", "W8A4", None, 51.0 if is_mobile else 22.0),
        Claim(
            "trained, 4 bits still lose",
            "W8A8 sym per channel, trained",
            "W4A8, trained",
            None,
            9.1 if is_mobile else 1.8,
        ),
        Claim(
            "trained, 4-bit activations lose more than weights",
            "W4A8, trained",
            "W8A4, trained",
            None,
            4.0 if is_mobile else 15.2,
        ),
    ]
    if not is_mobile:
        return [
            *found,
            Claim("no collapse per tensor", "W8A8 asym per tensor", "W8A8 sym per channel", 1.0, -0.1),
            Claim("at 4 bits per channel is better", "W4A8", "W4A8 asym per tensor", None, 53.8),
        ]
    return [
        *found,
        Claim("weights alone: per channel is better", "W8 sym per channel", "W8 asym per tensor", None, 69.7),
        Claim("per channel is better", "W8A8 sym per channel", "W8A8 asym per tensor", None, 69.7),
        Claim("training repairs per tensor", "W8A8 asym per tensor, trained", "W8A8 asym per tensor", None, 70.8),
        Claim("correction beats naive folding", "corrected, never frozen", "naive folding"),
        Claim("freezing beats correction alone", "W4A8, trained", "corrected, never frozen"),
        Claim("freezing late beats freezing from the start", "W4A8, trained", "frozen from the start"),
    ]


def main() -> None:
    """Makes the tables."""
    parser = options(__doc__ or "", OUT, epochs=1, images=5000, baseline_epochs=8)
    parser.add_argument("--mobilenet", default="mobilenetv2_050", help="with timm's arguments: NAME:output_stride=8")
    chosen = parser.parse_args()
    mobilenet = Backbone(chosen.mobilenet, chosen.mobilenet, {})
    studies = [
        Study(backbone, lines(chosen.epochs, is_mobile=is_mobile), claims(is_mobile=is_mobile))
        for backbone, is_mobile in ((mobilenet, True), (RESNET, False))
    ]
    run("Quantization as in the whitepaper", studies, chosen, NOTES)


if __name__ == "__main__":
    main()
