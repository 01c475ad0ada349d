"""Quantization-aware training: QUANTIZE trains the network of fake-quantizers (whitepaper, sections
3.2 and 5).

Float master weights, integers simulated in every forward pass, gradients straight through inside
the ranges and zero outside. ``quantization/fakelayers.py`` has what batch norm does meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import nn

from autocompress.compression import recover
from autocompress.contract import Callback, Context, Params, Quantizer, Space
from autocompress.quantization.network import QuantizedNetwork

VERSION = "1"


def search_space(
    space: Space, acting: Sequence[Quantizer], most_epochs: int, *, is_low: bool, labelled: bool = True
) -> Params:
    """Epochs, learning rate, weight of distillation, and when what freezes; no deployed structure
    depends on them.

    Args:
        space: scoped.
        acting: the quantizers of the recipe.
        most_epochs: of the job's budget.
        is_low: some tensor has fewer than 8 bits, so that training is worth its time by default.
        labelled: the recipe's images have labels that mean something.

    Raises:
        InvalidRecipe: where a quantizer needs more epochs than the job has.
    """
    least = recover.least_epochs(acting, most_epochs, "training")
    epochs = space.integer(
        "epochs", least, most_epochs, default=most_epochs if is_low else least, neutral=least, structural=False
    )
    if epochs == 0:
        return {"epochs": 0}
    return {
        "epochs": epochs,
        # The paper has 1e-5 with plain SGD over very many steps; a few epochs of AdamW need more.
        "lr": space.float("lr", 1e-4, 4e-3, default=1e-3, log=True, structural=False),
        "distill": recover.distillation(space, labelled=labelled),
        # "frozen": long-term statistics from the first step on, at half the time a step.
        "norm": space.categorical("norm", ["corrected", "frozen"], default="corrected", structural=False),
        # Fractions of the steps. The paper freezes after 200,000 to 400,000 steps and fine-tunes
        # without delay.
        "norm_freeze": space.categorical("norm_freeze", [0.3, 0.5, 0.8], default=0.5, structural=False),
        "range_freeze": space.categorical("range_freeze", [0.3, 0.5, 0.8], default=0.5, structural=False),
        "delay": space.categorical("delay", [0.0, 0.1, 0.25], default=0.0, structural=False),
    }


class QuantizationSchedule(Callback):
    """What a network of fake-quantizers does at which step: quantization starts (``delay``),
    statistics of batch norm freeze (``norm_freeze``; from the start with ``norm`` "frozen"), ranges
    freeze (``range_freeze``).

    Layers whose quantizer does not fold the norm (``FakeQuantizer.folds_norm``) are left to their
    own method.

    Args:
        params: of :func:`search_space`; ``norm`` may also be "naive", the paper's counter-example.
    """

    def __init__(self, params: Params) -> None:
        self._params = params
        self._steps = 1

    def on_start(self, model: nn.Module, total_steps: int) -> None:
        """Chooses the treatment of batch norm."""
        self._steps = max(total_steps, 1)
        for layer in _network(model).layers().values():
            layer.norm_treatment = "naive" if self._params["norm"] == "naive" else "corrected"

    def before_step(self, model: nn.Module, step: int) -> None:
        """Switches states; every step, since the trainer sets the whole network to train mode at
        each epoch.
        """
        done, network = step / self._steps, _network(model)
        layers = [layer for layer in network.layers().values() if layer.weight_quantizer.folds_norm]
        is_frozen = self._params["norm"] == "frozen" or done >= self._params["norm_freeze"]
        moving = done < self._params["range_freeze"]
        for fake in network.activation_fakes().values():
            fake.enabled, fake.tracking = done >= self._params["delay"], moving
        for layer in layers:
            fake = layer.weight_quantizer
            # Statistics that still move scale the weight: its range must follow them.
            fake.enabled, fake.tracking = done >= self._params["delay"], moving or not is_frozen
            if layer.norm is not None and is_frozen:
                layer.norm.eval()
        # Norms of plugins' layers go on: their outputs may move further than they spread (those of
        # an adder layer lie about its number of taps below zero), and frozen statistics would be
        # wrong at once.

    def on_end(self, model: nn.Module) -> None:
        """Everything quantizes, nothing moves."""
        network = _network(model)
        for fake in [*network.weight_fakes().values(), *network.activation_fakes().values()]:
            fake.enabled, fake.tracking = True, False


def run(
    network: QuantizedNetwork,
    params: Params,
    context: Context,
    callbacks: Sequence[Callback],
    *,
    pause: Callable[[], None] | None = None,
) -> None:
    """Trains a calibrated ``network`` in place on the context's transfer set; it is left in eval
    mode.

    Raises:
        TrialFailed: if the loss is not finite.
    """
    recover.run(network, params, context, [QuantizationSchedule(params), *callbacks], pause=pause)


def _network(model: nn.Module) -> QuantizedNetwork:
    assert isinstance(model, QuantizedNetwork)
    return model
