"""What a recipe asks of REPAIR, of RECOVER and of QUANTIZE's training."""

from __future__ import annotations

from collections.abc import Sequence

from autocompress.contract import Method, Params, Quantizer, Space
from autocompress.errors import InvalidRecipe

FITS = ("auto", "one-shot", "sequential", "none")
LEAST_IMAGES = 32
"""With fewer images nothing is refitted."""


def repair_space(space: Space) -> Params:
    """How to refit, and on how many images; searched only where the job says so.

    Args:
        space: not scoped.
    """
    own = space.scope("repair")
    fit = own.categorical("fit", FITS, default="auto", searched=False)
    if fit == "none":
        return {"fit": "none"}
    images = own.integer("images", LEAST_IMAGES, 65_536, default=512, structural=False, searched=False)
    return {"fit": fit, "images": images}


def recover_space(
    space: Space, acting: Sequence[Method], most_epochs: int, *, labelled: bool = True, refitted: bool = False
) -> Params:
    """Epochs, learning rate and weight of distillation.

    None of them changes the deployed structure.

    Args:
        space: scoped.
        acting: the transforms and the pruner of the recipe.
        most_epochs: of the job's budget.
        labelled: the recipe's images have labels that mean something.
        refitted: nothing was substituted, and REPAIR has refitted what PRUNE left: a large learning
            rate would undo it.

    Raises:
        InvalidRecipe: where a method needs more epochs than the job has.
    """
    least = _least_epochs(acting, most_epochs, "recovery")
    epochs = space.integer("epochs", least, most_epochs, default=most_epochs, structural=False)
    if epochs == 0:
        return {"epochs": 0}
    return {
        "epochs": epochs,
        "lr": space.float("lr", 2e-4, 4e-3, default=5e-4 if refitted else 2e-3, log=True, structural=False),
        "distill": _distillation(space, labelled=labelled),
    }


def _distillation(space: Space, *, labelled: bool) -> float:
    """The weight of distillation.

    Without labels all is distillation, and there is nothing to ask.
    """
    if not labelled:
        return 1.0
    return float(space.categorical("distill", [0.0, 0.5, 0.9], default=0.5, structural=False))


def _least_epochs(acting: Sequence[Method], most_epochs: int, what: str) -> int:
    """Epochs of ``what`` (a word for the message) that all of ``acting`` need.

    Raises:
        InvalidRecipe: where that is more than ``most_epochs``.
    """
    least = max([method.min_epochs for method in acting] + [1 for method in acting if method.needs_training] + [0])
    if least > most_epochs:
        demanding = max(acting, key=lambda method: method.min_epochs)
        raise InvalidRecipe(f"{demanding.name} needs {least} epochs of {what}, the job's budget has {most_epochs}")
    return least


def qat_space(
    space: Space, acting: Sequence[Quantizer], most_epochs: int, *, is_low: bool, labelled: bool = True
) -> Params:
    """Epochs, learning rate, weight of distillation, and the steps at which states freeze.

    None of them changes the deployed structure.

    Args:
        space: scoped.
        acting: the quantizers of the recipe.
        most_epochs: of the job's budget.
        is_low: some tensor has fewer than 8 bits, so that training is worth its time by default.
        labelled: the recipe's images have labels that mean something.

    Raises:
        InvalidRecipe: where a quantizer needs more epochs than the job has.
    """
    least = _least_epochs(acting, most_epochs, "training")
    epochs = space.integer(
        "epochs", least, most_epochs, default=most_epochs if is_low else least, neutral=least, structural=False
    )
    if epochs == 0:
        return {"epochs": 0}
    return {
        "epochs": epochs,
        # The paper has 1e-5 with plain SGD over very many steps; a few epochs of AdamW need more.
        "lr": space.float("lr", 1e-4, 4e-3, default=1e-3, log=True, structural=False),
        "distill": _distillation(space, labelled=labelled),
        # "frozen": long-term statistics from the first step on, at half the time a step.
        "norm": space.categorical("norm", ["corrected", "frozen"], default="corrected", structural=False),
        # Fractions of the steps. The paper freezes after 200,000 to 400,000 steps and fine-tunes
        # without delay.
        "norm_freeze": space.categorical("norm_freeze", [0.3, 0.5, 0.8], default=0.5, structural=False),
        "range_freeze": space.categorical("range_freeze", [0.3, 0.5, 0.8], default=0.5, structural=False),
        "delay": space.categorical("delay", [0.0, 0.1, 0.25], default=0.0, structural=False),
    }
