"""Quantization-aware training of the network of fake-quantizers (whitepaper, sections 3.2 and 5).

Float master weights, integers simulated in every forward pass, gradients straight through inside
the ranges and zero outside. ``quantization/fakelayers.py`` has what batch norm does meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import nn

from autocompress.contract import Callback, Context, Params
from autocompress.quantization.network import QuantizedNetwork
from autocompress.training import recover

VERSION = "1"


class QuantizationSchedule(Callback):
    """Switches the states of a network of fake-quantizers as training goes on.

    Quantization starts after ``delay``, statistics of batch norm freeze at ``norm_freeze``
    (from the start where ``norm`` is "frozen"), and ranges freeze at ``range_freeze``.

    Layers whose quantizer does not fold the norm (``FakeQuantizer.folds_norm``) are left to their
    own method.

    Args:
        params: of a recipe (``recipes.settings.qat_space``); ``norm`` may also be "naive", the
            paper's counter-example.
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
        """Switches states at every step: the trainer sets the network to train mode each epoch."""
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
    """Trains a calibrated ``network`` in place and leaves it in eval mode.

    Raises:
        TrialFailed: if the loss is not finite.
    """
    recover(network, params, context, [QuantizationSchedule(params), *callbacks], pause=pause)


def _network(model: nn.Module) -> QuantizedNetwork:
    assert isinstance(model, QuantizedNetwork)
    return model
