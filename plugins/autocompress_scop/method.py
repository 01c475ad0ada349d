"""The pruner ``scop``: its parameters, its scores, and the order of channels by score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from autocompress import models
from autocompress.channels.known import known_couplings
from autocompress.contract import Context, Coupling, LayerSpec, Params, Pruner, Space, coupling_scores, manager
from autocompress.contract.coupling import MODES
from autocompress.errors import InvalidRecipe
from autocompress.files import digest
from autocompress_scop.asked import said, score_space, settings_of
from autocompress_scop.rescoring import breathing, is_substituted, recovered
from autocompress_scop.scores import Scores, pairs_of
from autocompress_scop.scoring import ScoreSettings, prepared

WIDTHS_NOW = "widths are the engine's now: prune: {keep: 0.7} keeps 70 % of the channels of every coupling"


class Scop(Pruner):
    """Removes first the channels whose features are no better for the classifier than knockoffs.

    Parameters (``scop.`` before each). None is searched unless the job says so, since other values
    need new scores:

        knockoffs: the kind of knockoff data.
        score_epochs: epochs for learning the control scales.
        score_images: maximum number of images for learning the control scales; 0 for all.
        score_lr: learning rate of the control scales.
        mixing: the place where real features and knockoffs are mixed: before or behind the batch
            norm.
        rescore_epochs: epochs of recovery after which a network that a transform changed is scored
            itself; 0 uses the scores of the baseline.

    Args:
        settings: the settings of scores that a recipe does not set. Settings other than the default
            change the version, and so the cache keys.
        specs: layer types that plugins bring; None for those of the installed methods.
    """

    name = "scop"
    version = "6"
    reference = (
        "Tang et al., SCOP: Scientific Control for Reliable Neural Network Pruning, NeurIPS 2020, arXiv 2010.10732"
    )
    takes = frozenset({"convolution"})
    renamed = {  # noqa: RUF012
        "scop.rate": WIDTHS_NOW,
        "scop.ranking": "one ranking for all layers is gone: widths are prune.keep now",
        "scop.mode": "the mode is the engine's now: prune: {mode: inner}",
        "scop.multiple": "the multiple is the engine's now: prune: {multiple: 8}",
        "scop.criterion": "other criteria are pruners now: prune: {method: magnitude}",
    }

    def __init__(self, settings: ScoreSettings | None = None, specs: Sequence[LayerSpec] | None = None) -> None:
        self.settings = settings or ScoreSettings()
        if self.settings != ScoreSettings():
            self.version = f"{type(self).version}-{digest(repr(self.settings))[:12]}"  # type: ignore[misc]
        self._specs = specs

    def search_space(self, space: Space, model: nn.Module) -> Params:
        del model
        params = score_space(space, self.settings)
        epochs = space.integer("rescore_epochs", 0, 10, default=0, structural=False, searched=False)
        return {**params, "rescore_epochs": epochs}

    # --- scores -----------------------------------------------------------------------------------

    def shared(self, params: Params) -> Params:
        """The settings of scores in a recipe that differ from the defaults."""
        return said(params, self.settings)

    def prepare(self, baseline: nn.Module, context: Context) -> Any:
        """Scores of every layer with removable channels; see :func:`scoring.prepared`."""
        return self._scored(baseline, context, context.params)

    def _scored(self, model: nn.Module, context: Context, params: Mapping[str, Any]) -> dict[str, Any]:
        return prepared(
            model,
            self.pairs(model, context.input_size),
            context.transfer,
            settings_of(params, self.settings),
            device=context.device,
            seed=context.seed,
            progress=breathing(context),
        )

    def pairs(self, model: nn.Module, size: tuple[int, int, int]) -> dict[str, str | None]:
        """Layers with scores, each with its norm, in network order: writers of couplings."""
        found: dict[str, str | None] = {}
        for mode in MODES:
            couplings = known_couplings(model, size, mode, self._layer_specs())
            found.update(pairs_of(couplings, models.stem(model)))
        order = {name: position for position, (name, _) in enumerate(model.named_modules())}
        return dict(sorted(found.items(), key=lambda pair: order[pair[0]]))

    def _layer_specs(self) -> list[LayerSpec]:
        if self._specs is None:
            return [spec for method in manager().methods() for spec in method.layers]
        return list(self._specs)

    def _rescored(self, params: Params, context: Context) -> Scores:
        """Scores of a substituted network by its own layers, after a short recovery of a copy.

        Empty for the baseline, which has scores.
        """
        epochs, model = params.get("rescore_epochs", 0), context.model
        if not epochs or model is None or context.teacher is None or not is_substituted(model, context.teacher):
            return {}
        found: Scores = self._scored(recovered(model, epochs, context), context, params)["layers"]
        return found

    # --- orders -----------------------------------------------------------------------------------

    def order(self, coupling: Coupling, params: Params, context: Context) -> Sequence[int]:
        return self.orders([coupling], params, context)[coupling.name]

    def orders(self, couplings: Sequence[Coupling], params: Params, context: Context) -> dict[str, Sequence[int]]:
        """Orders by ascending importance.

        Raises:
            InvalidRecipe: if a coupling has no scores, or they are not finite.
        """
        assert context.model is not None
        state = context.state
        if state is None:
            if context.teacher is None:
                raise InvalidRecipe("SCOP has no scores, and no teacher to make them from")
            state = self._scored(context.teacher, context, params)
        rescored, specs = self._rescored(params, context), self._layer_specs()
        found: dict[str, Sequence[int]] = {}
        for coupling in couplings:
            own = coupling_scores(coupling, rescored, context.model)
            if own is None:
                own = coupling_scores(coupling, state["layers"], context.model, specs)
            if own is None:
                raise InvalidRecipe(f"the channels of {coupling.name} have no scores to choose by")
            if not bool(torch.isfinite(own).all()):
                raise InvalidRecipe(f"the scores of {coupling.name} are not finite")
            found[coupling.name] = coupling.ranked(own.tolist())
        return found
