"""Quantization-aware training of the network of fake-quantizers (whitepaper, sections 3.2 and 5).

Weights are kept in float, and integers are simulated in every forward pass. Gradients pass
straight through inside the ranges, and are zero outside. ``quantization/fakelayers.py`` has the
treatment of batch norm.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import nn

from autocompress.contract import Callback, Context, Params
from autocompress.quantization.network import QuantizedNetwork
from autocompress.training import recover

VERSION = "1"


class QuantizationSchedule(Callback):
    """Switches the states of a network of fake-quantizers during training.

    Quantization starts after ``delay``. Statistics of batch norm freeze at ``norm_freeze``, or at
    the start if ``norm`` is "frozen". Ranges freeze at ``range_freeze``.

    If a quantizer does not fold the norm of a layer (``FakeQuantizer.folds_norm``), this norm is
    not changed here, but by the callbacks of the quantizer.

    Args:
        params: parameters of a recipe (``recipes.settings.qat_space``); ``norm`` may also be
            "naive", which the paper shows as a worse alternative.
    """

    def __init__(self, params: Params) -> None:
        self._params = params
        self._steps = 1

    def on_start(self, model: nn.Module, total_steps: int) -> None:
        """Chooses the treatment of batch norm."""
        self._steps = max(total_steps, 1)
        for layer in _network(model).fake_layers().values():
            layer.norm_treatment = "naive" if self._params["norm"] == "naive" else "corrected"

    def before_step(self, model: nn.Module, step: int) -> None:
        """Switches states at every step, because the trainer sets train mode in each epoch."""
        done, network = step / self._steps, _network(model)
        layers = [layer for layer in network.fake_layers().values() if layer.weight_quantizer.folds_norm]
        is_frozen = self._params["norm"] == "frozen" or done >= self._params["norm_freeze"]
        moving = done < self._params["range_freeze"]
        for fake in network.activation_fakes().values():
            fake.enabled, fake.tracking = done >= self._params["delay"], moving
        for layer in layers:
            fake = layer.weight_quantizer
            # The weight is scaled by the statistics until they are frozen, so its range must follow
            # them.
            fake.enabled, fake.tracking = done >= self._params["delay"], moving or not is_frozen
            if layer.norm is not None and is_frozen:
                layer.norm.eval()
        # Norms of plugins' layers are not frozen. The mean of their inputs may change by more than
        # its spread (outputs of an adder layer are far below zero), so frozen statistics would be
        # wrong at once.

    def on_end(self, model: nn.Module) -> None:
        """Switches quantization on everywhere and freezes all ranges and statistics."""
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
