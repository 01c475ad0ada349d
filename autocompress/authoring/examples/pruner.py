"""A pruner: channels with the smallest L2 norm go first."""

from __future__ import annotations

from collections.abc import Sequence

from autocompress.contract import Context, Coupling, Method, Params, Pruner, hookimpl


class Example(Pruner):
    """Orders channels by the L2 norm of the weights that write them."""

    name = "example"
    version = "1"
    reference = "author, title, venue"

    def order(self, coupling: Coupling, params: Params, context: Context) -> Sequence[int]:
        """All channels, the least needed first."""
        assert context.model is not None
        scores = [0.0] * coupling.channels
        for layer, index in coupling.producers.items():
            weight = context.model.get_parameter(f"{layer}.weight")
            norms = weight.detach().flatten(1).norm(dim=1)
            for channel, rows in enumerate(index):
                scores[channel] += float(norms[list(rows)].sum())
        return coupling.ranked(scores)


@hookimpl
def autocompress_methods() -> list[Method]:
    """The methods of this plugin."""
    return [Example()]
