"""Parameters of REPAIR, of RECOVER and of the training in QUANTIZE."""

from __future__ import annotations

from collections.abc import Sequence

from autocompress.contract import Method, Params, Quantizer, Space
from autocompress.errors import InvalidRecipe

FITS = ("auto", "one-shot", "sequential", "none")
QUARTERS = 4
"""A fractional budget of epochs is divided into this number of parts."""
LEAST_IMAGES = 32
"""Minimum number of images for refitting."""


def repair_space(space: Space) -> Params:
    """The way of refitting, and the number of images. Searched only if the job says so.

    Args:
        space: without a prefix.
    """
    own = space.scope("repair")
    fit = own.categorical("fit", FITS, default="auto", searched=False)
    if fit == "none":
        return {"fit": "none"}
    images = own.integer("images", LEAST_IMAGES, 65_536, default=512, structural=False, searched=False)
    return {"fit": fit, "images": images}


def recover_space(
    space: Space, acting: Sequence[Method], most_epochs: float, *, labelled: bool = True, refitted: bool = False
) -> Params:
    """Epochs, learning rate and weight of distillation.

    None of them changes the deployed structure.

    Args:
        space: space of parameters, with the prefix of the stage.
        acting: the transforms and the pruner of the recipe.
        most_epochs: maximum epochs in the budget of the job.
        labelled: the labels of the images of the recipe are meaningful.
        refitted: REPAIR refitted the network and nothing was substituted, so a large learning rate
            would undo the refit.

    Raises:
        InvalidRecipe: if a method needs more epochs than the budget has.
    """
    least = _least_epochs(acting, most_epochs, "recovery")
    epochs = _epochs(space, least, most_epochs, default=most_epochs)
    if epochs == 0:
        return {"epochs": 0}
    return {
        "epochs": epochs,
        "lr": space.float("lr", 2e-4, 4e-3, default=5e-4 if refitted else 2e-3, log=True, structural=False),
        "distill": _distillation(space, labelled=labelled),
    }


def _distillation(space: Space, *, labelled: bool) -> float:
    """The weight of distillation; 1 without labels, where it is not a parameter."""
    if not labelled:
        return 1.0
    return float(space.categorical("distill", [0.0, 0.5, 0.9], default=0.5, structural=False))


def _epochs(space: Space, least: float, most: float, *, default: float, neutral: float | None = None) -> float:
    """A number of epochs: a whole one, or quarters of a budget that is a fraction."""
    if isinstance(least, int) and isinstance(most, int):
        whole = None if neutral is None else int(neutral)
        return space.integer("epochs", least, most, default=int(default), neutral=whole, structural=False)
    step = most / QUARTERS
    return space.float("epochs", least, most, default=default, neutral=neutral, step=step, structural=False)


def _least_epochs(acting: Sequence[Method], most_epochs: float, what: str) -> float:
    """The minimum number of epochs of ``what`` (a word for the message) that ``acting`` needs.

    Raises:
        InvalidRecipe: if these are more than ``most_epochs``.
    """
    one = 1 if isinstance(most_epochs, int) else most_epochs / QUARTERS
    least = max([0, *(method.min_epochs for method in acting), *(one for method in acting if method.needs_training)])
    if least > most_epochs:
        demanding = max(acting, key=lambda method: method.min_epochs)
        raise InvalidRecipe(f"{demanding.name} needs {least} epochs of {what}, the job's budget has {most_epochs}")
    return least


def qat_space(
    space: Space, acting: Sequence[Quantizer], most_epochs: float, *, is_low: bool, labelled: bool = True
) -> Params:
    """Epochs, learning rate, weight of distillation, and the steps at which states freeze.

    None of them changes the deployed structure.

    Args:
        space: space of parameters, with the prefix of the stage.
        acting: the quantizers of the recipe.
        most_epochs: maximum epochs in the budget of the job.
        is_low: some tensor has fewer than 8 bits, so that training is on by default.
        labelled: the labels of the images of the recipe are meaningful.

    Raises:
        InvalidRecipe: if a quantizer needs more epochs than the budget has.
    """
    least = _least_epochs(acting, most_epochs, "training")
    epochs = _epochs(space, least, most_epochs, default=most_epochs if is_low else least, neutral=least)
    if epochs == 0:
        return {"epochs": 0}
    return {
        "epochs": epochs,
        # The paper uses 1e-5 with plain SGD and very many steps; a few epochs of AdamW need more.
        "lr": space.float("lr", 1e-4, 4e-3, default=1e-3, log=True, structural=False),
        "distill": _distillation(space, labelled=labelled),
        # "frozen": long-term statistics from the first step on; a step takes half the time.
        "norm": space.categorical("norm", ["corrected", "frozen"], default="corrected", structural=False),
        # Shares of the steps. The paper freezes after 200,000 to 400,000 steps, and has no delay in
        # fine-tuning.
        "norm_freeze": space.categorical("norm_freeze", [0.3, 0.5, 0.8], default=0.5, structural=False),
        "range_freeze": space.categorical("range_freeze", [0.3, 0.5, 0.8], default=0.5, structural=False),
        "delay": space.categorical("delay", [0.0, 0.1, 0.25], default=0.0, structural=False),
    }
