"""One scale per layer, compared with one per channel, on a MobileNet.

The loss of accuracy, and training against it (tables 2 to 4).
"""

from __future__ import annotations

from typing import Any

from autocompress.training import evaluate
from shared.orders import Claim, difference, judged
from shared.simulate import Setting, simulate
from shared.trained import job_of, trained

PER_TENSOR = {"weight_granularity": "per_tensor", "weight_grid": "asymmetric"}
PER_CHANNEL = {"weight_granularity": "per_channel", "weight_grid": "symmetric"}
PAPER = {
    "weights only, per tensor": 0.1,
    "weights only, per channel": 69.8,
    "weights and activations, per tensor": 0.1,
    "weights and activations, per channel": 69.8,
    "trained, per tensor": 70.9,
    "trained, per channel": 71.1,
}
"""Mobilenet-v2-1-224 on ImageNet in percent; float has 71.9."""
CLAIMS = (
    Claim("weights only: per channel is better", "weights only, per channel", "weights only, per tensor", None, 69.7),
    Claim(
        "weights and activations: per channel is better",
        "weights and activations, per channel",
        "weights and activations, per tensor",
        None,
        69.7,
    ),
    Claim("training repairs per tensor", "trained, per tensor", "weights and activations, per tensor", None, 70.8),
    Claim("trained, both are as good", "trained, per tensor", "trained, per channel", 1.0, -0.2),
)


def run(model: str, data: str, epochs: int, qat_epochs: int, images: int) -> dict[str, Any]:
    """Accuracies on the test split, in simulation, and the paper's beside them.

    Args:
        model, data, epochs: the float baseline.
        qat_epochs: epochs of the training with quantization.
        images: number of training images for it.
    """
    baseline = trained(job_of(model, data, epochs))
    qat = {"epochs": qat_epochs}
    settings = {
        f"{what}, {words}": Setting(params=params, activations=bits, qat=training)
        for what, bits, training in (
            ("weights only", None, None),
            ("weights and activations", 8, None),
            ("trained", 8, qat),
        )
        for words, params in (("per tensor", PER_TENSOR), ("per channel", PER_CHANNEL))
    }
    whole, of_float = evaluate(baseline.model, baseline.splits.test)
    flags = {key: simulate(baseline, setting, seed=0, images=images) for key, setting in settings.items()}
    rows = [
        {
            "row": key,
            "accuracy": 100.0 * float(correct.mean()),
            "to_float": difference([correct], [of_float])._asdict(),
            "paper": PAPER[key],
        }
        for key, correct in flags.items()
    ]
    orders = [judged(claim, [flags[claim.first]], [flags[claim.second]]) for claim in CLAIMS]
    return {
        "model": model,
        "data": data,
        "epochs": epochs,
        "qat_epochs": qat_epochs,
        "images": images,
        "float": whole,
        "rows": rows,
        "orders": orders,
        "met": all(order["verdict"] == "kept" for order in orders),
    }


def lines(part: dict[str, Any]) -> list[str]:
    """The table of this part."""
    rows = [f"{row['row']:<40} {row['accuracy']:6.2f}   paper {row['paper']:5.1f}" for row in part["rows"]]
    orders = [
        "{claim:<48} {points:+.2f} ({low:+.2f}..{high:+.2f})  {verdict}".format(**order) for order in part["orders"]
    ]
    return [f"float {part['float']:.2f}", *rows, *orders]
