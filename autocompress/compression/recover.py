"""RECOVER: training with knowledge distillation from the baseline, after the transforms and before
QUANTIZE.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import nn

from autocompress.compression.sources import joined
from autocompress.contract import Callback, Context, Method, Params, Space, TransferSet
from autocompress.errors import InvalidRecipe
from autocompress.training import SoftTargets, Training, TrainSettings

VERSION = "2"
BATCH_SIZE = 128
SMALLEST_BATCH = 32
STEPS = 32
"""A recovery has few epochs: small data sets are cut into this many steps an epoch, by batches of a
smaller size.
"""


def search_space(
    space: Space, acting: Sequence[Method], most_epochs: int, *, labelled: bool = True, refitted: bool = False
) -> Params:
    """Epochs, learning rate and weight of distillation; none of them changes the deployed
    structure.

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
    least = least_epochs(acting, most_epochs, "recovery")
    epochs = space.integer("epochs", least, most_epochs, default=most_epochs, structural=False)
    if epochs == 0:
        return {"epochs": 0}
    return {
        "epochs": epochs,
        "lr": space.float("lr", 2e-4, 4e-3, default=5e-4 if refitted else 2e-3, log=True, structural=False),
        "distill": distillation(space, labelled=labelled),
    }


def distillation(space: Space, *, labelled: bool) -> float:
    """The weight of distillation.

    Without labels all is distillation, and there is nothing to ask.
    """
    if not labelled:
        return 1.0
    return float(space.categorical("distill", [0.0, 0.5, 0.9], default=0.5, structural=False))


def least_epochs(acting: Sequence[Method], most_epochs: int, what: str) -> int:
    """Epochs of ``what`` (a word for the message) that all of ``acting`` need.

    Raises:
        InvalidRecipe: where that is more than ``most_epochs``.
    """
    least = max([method.min_epochs for method in acting] + [1 for method in acting if method.needs_training] + [0])
    if least > most_epochs:
        demanding = max(acting, key=lambda method: method.min_epochs)
        raise InvalidRecipe(f"{demanding.name} needs {least} epochs of {what}, the job's budget has {most_epochs}")
    return least


def run(
    model: nn.Module,
    params: Params,
    context: Context,
    callbacks: Sequence[Callback],
    *,
    pause: Callable[[], None] | None = None,
    again: Callable[[nn.Module], TransferSet] | None = None,
) -> nn.Module:
    """Trains ``model`` on the context's transfer set; the trained model is returned in eval mode.

    Args:
        model: trained in place.
        params: of :func:`search_space`.
        context: with the images and the teacher.
        callbacks: of every method applied.
        pause: called between batches.
        again: for a data source that adapts to the student. After the first half of the epochs it
            is asked for images, and the second half draws from the old and the new ones, as many an
            epoch as before. With a single epoch it is not asked.

    Raises:
        TrialFailed: if the loss is not finite.
    """
    assert context.transfer is not None
    transfer = context.transfer
    settings = TrainSettings(
        epochs=params["epochs"],
        lr=params["lr"],
        distill=params["distill"],
        batch_size=min(BATCH_SIZE, max(SMALLEST_BATCH, len(transfer.train) // STEPS)),
    )
    training = Training(
        model,
        transfer.train,
        settings,
        teacher=context.teacher,
        callbacks=callbacks,
        device=context.device,
        seed=context.seed,
        progress=context.progress,
        pause=pause,
        freeze_batch_norm="freeze_batch_norm" in transfer.demands,
        soft_targets=_soft(transfer),
        labelled=transfer.labelled,
    )
    if again is not None and (half := params["epochs"] // 2):
        training.run(until=half)
        transfer = joined(transfer, again(model))
        training.draw_from(transfer.train, _soft(transfer))
    training.run()
    return model.eval()


def _soft(transfer: TransferSet) -> SoftTargets | None:
    return None if transfer.soft_targets is None else SoftTargets(transfer.soft_targets, transfer.temperature)
