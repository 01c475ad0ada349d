"""The transform ``scop``: its space, and how it acts on a model."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakKeyDictionary

from torch import nn

from autocompress import models
from autocompress.contract import Context, LayerSpec, Params, Plan, Space, Stage, Transform, manager
from autocompress.errors import InvalidRecipe
from autocompress.files import digest
from autocompress.graph import UntraceableModel
from autocompress.contract.coupling import MODES, Coupling
from autocompress.pruning.couplings import Judged, couplings, judged
from autocompress.pruning.removal import remove
from autocompress.pruning.structure import structure
from autocompress_scop.asked import said, score_space, settings_of
from autocompress_scop.rescoring import breathing, is_substituted, recovered
from autocompress_scop.scores import Scores, of_coupling, pairs_of
from autocompress_scop.scoring import ScoreSettings, prepared
from autocompress_scop.widths import coupling_rate, kept, layer_rates, reject_nothing

if TYPE_CHECKING:
    from autocompress.job import Job

RANKINGS = ("uniform", "global")
OFFERED = ("inner", "group")
"""Modes that a search draws from."""
MULTIPLES = (1, 4, 8, 16)
MOST_RATE = 0.7
RECALIBRATION_PIXELS = 512 * 32 * 32
"""Statistics average over places as well as over images: larger images need fewer of them."""
LEAST_IMAGES = 64
STRUCTURES_KEPT = 16
T = TypeVar("T")
STEM_STAYS = "the paper leaves the layer that reads the image whole"


class Scop(Transform):
    """Removes channels whose real features serve the classifier no better than knockoffs of them.

    Parameters (``scop.`` before each):
        ranking: "uniform", the same share of each layer of a group (the paper), or "global", one ranking of all layers.
        rate.<group>: share of the channels that goes; with "global" one ``rate`` for the network. 0 leaves it alone.
        mode: "inner", channels private to a block, or "group", also those of a residual stream, together. "scatter",
            the paper's scheme for residual networks, is not drawn, but a job can name it: the last convolution of each
            block is pruned too, and its output is added at the kept indices of a stream of full width. ONNX Runtime
            does not fuse that, so it saves parameters and MACs rather than time.
        multiple: of the number of channels that stay; rounded up.
        criterion: "scop", or for comparison "magnitude", "bn-scale", "random".

    Not searched unless the job says so, since every recipe that asks otherwise costs new scores:
        knockoffs, score_epochs, score_images, score_lr, mixing: how scores are made (``ScoreSettings``).
            ``score_epochs`` is what a rung of a search by halving would raise; there are no rungs yet.
        rescore_epochs: with "uniform", where another transform acted before: epochs of recovery after which the
            substituted network is scored itself; 0 for the scores of the baseline.

    Args:
        settings: how scores are made, where a recipe does not say. Other settings than the default are another version,
            and so other cache keys; other modes too.
        modes: that a search draws from; a job can name the others.
        specs: layer types that plugins bring; None for those of the installed methods.
    """

    name = "scop"
    version = "5"
    reference = (
        "Tang et al., SCOP: Scientific Control for Reliable Neural Network Pruning, NeurIPS 2020, arXiv 2010.10732"
    )
    stage = Stage.PRUNE
    takes = frozenset({"convolution"})

    def __init__(
        self,
        settings: ScoreSettings | None = None,
        modes: Sequence[str] = OFFERED,
        specs: Sequence[LayerSpec] | None = None,
    ) -> None:
        self.settings = settings or ScoreSettings()
        self.modes = tuple(modes)
        # the prepared state holds what each mode on offer ranks
        own = [repr(self.settings), *([list(self.modes)] if self.modes != OFFERED else [])]
        if own != [repr(ScoreSettings())]:
            self.version = f"{type(self).version}-{digest(*own)[:12]}"  # type: ignore[misc]
        self._specs = specs
        self._pairs_of: WeakKeyDictionary[nn.Module, dict[str, str | None]] = WeakKeyDictionary()
        self._structures: OrderedDict[str, list[Coupling]] = OrderedDict()
        self._judged: OrderedDict[str, Judged] = OrderedDict()

    # --- what can be removed ------------------------------------------------------------------------------------

    def check(self, model: nn.Module, job: Job) -> list[str]:
        """It needs a graph that can be traced, and channels behind the stem that can go."""
        del job
        try:
            if self._pairs(model):
                return []
            reasons = self.reasons(model)
        except UntraceableModel as error:
            return [str(error)]
        # that the stem stays is no news; why the first layer behind it stays is
        told = sorted(reasons.values(), key=lambda reason: reason == STEM_STAYS)
        why = next(iter(told), "it has no convolution and no linear layer")
        return [f"none of its channels can be removed: {why}"]

    def reasons(self, model: nn.Module, mode: str = "group") -> dict[str, str]:
        """Why channels are left alone, by the first layer that writes them: tied to the output or to the image, the
        stem, or what the dependency graph cannot follow. Couplings that can be pruned are not in it."""
        every = self._couplings(model, models.input_size(model), mode)
        pairs = self._pairs(model)
        return {
            coupling.name: "; ".join(coupling.reasons) or STEM_STAYS
            for coupling in every
            if not coupling.prunable or not any(writer in pairs for writer in coupling.producers)
        }

    def _pairs(self, model: nn.Module) -> dict[str, str | None]:
        """Layers of a baseline that have scores, each with its norm. Asked for every trial."""
        if model not in self._pairs_of:
            self._pairs_of[model] = self._find_pairs(model)
        return self._pairs_of[model]

    def _find_pairs(self, model: nn.Module, modes: Sequence[str] = ()) -> dict[str, str | None]:
        """The same of any network, also one that is going to change; in ``modes``, or those on offer."""
        size, found = models.input_size(model), {}
        for mode in modes or self.modes:
            found.update(pairs_of(self._couplings(model, size, mode), models.stem(model)))
        order = {name: position for position, (name, _) in enumerate(model.named_modules())}
        return dict(sorted(found.items(), key=lambda pair: order[pair[0]]))

    def _couplings(self, model: nn.Module, size: tuple[int, int, int], mode: str) -> list[Coupling]:
        """Measured couplings; kept by what they depend on."""
        specs, key = self._layer_specs(), digest(structure(model), list(size))
        known = _kept(self._judged, key, lambda: judged(model, size, specs))
        return _kept(self._structures, f"{key} {mode}", lambda: couplings(model, size, mode, specs, known=known))

    def _layer_specs(self) -> list[LayerSpec]:
        if self._specs is None:
            return [spec for method in manager().methods() for spec in method.layers]
        return list(self._specs)

    # --- the space ----------------------------------------------------------------------------------------------

    def search_space(self, space: Space, model: nn.Module) -> Params:
        """Widths first; what they do not depend on is asked only where a rate is positive.

        Raises:
            InvalidRecipe: if the rates and the multiple together would remove nothing.
        """
        layers = list(self._pairs(model))
        ranking = space.categorical("ranking", RANKINGS, default="uniform")
        rates = self._rates(space, model, layers, ranking)
        if not any(rates.values()):
            return {}
        criteria = self.settings.criteria
        mode = space.categorical(
            "mode",
            self.modes,
            default=self.modes[0],
            cheapest=self.modes[-1],
            named=[mode for mode in MODES if mode not in self.modes],
        )
        if mode not in self.modes:
            rates = self._rates_in(mode, rates, model)
        params = {
            "ranking": ranking,
            "rates": rates,
            "mode": mode,
            "multiple": space.categorical("multiple", MULTIPLES, default=8, cheapest=1),
            # With one ranking for all layers, the scores decide how wide each layer is.
            "criterion": space.categorical("criterion", criteria, default=criteria[0], structural=ranking == "global"),
        }
        if "scop" in criteria:
            params |= score_space(space, self.settings, structural=ranking == "global")
        if ranking == "uniform":
            # With one ranking for all layers the widths would depend on a training that no dry run can make.
            params["rescore_epochs"] = space.integer(
                "rescore_epochs", 0, 10, default=0, structural=False, searched=False
            )
            every = self._couplings(model, models.input_size(model), params["mode"])
            reject_nothing(every, rates, params["multiple"])
        return params

    def _rates(self, space: Space, model: nn.Module, layers: Sequence[str], ranking: str) -> dict[str, float]:
        """The rate of each layer that has scores, zeros too: one of rate 0 keeps those whole that are tied to it."""
        range_: dict[str, Any] = {"low": 0.0, "high": MOST_RATE, "step": 0.1, "default": 0.3, "cheapest": MOST_RATE}
        if ranking == "global":
            return dict.fromkeys(layers, space.float("rate", **range_, neutral=0.0))
        groups = models.groups(model, space.granularity)
        group_of = {layer: models.group_of(layer, groups) for layer in layers}
        members = set(group_of.values())
        by_group = {
            group.name: space.float(f"rate.{group.name}", **range_, neutral=0.0)
            for group in groups
            if group.name in members
        }
        return {layer: by_group[group] for layer, group in group_of.items()}

    def _rates_in(self, mode: str, rates: Mapping[str, float], model: nn.Module) -> dict[str, float]:
        """The rates of a mode that is not on offer: of the layers that have scores in it. A layer that has none in the
        modes on offer takes the least rate of its group, which is that of the layers around it."""
        groups = models.groups(model, "block")
        asked = {models.group_of(layer, groups): rate for layer, rate in sorted(rates.items(), key=lambda r: -r[1])}
        found = self._find_pairs(model, [mode])
        return {layer: rates.get(layer, asked.get(models.group_of(layer, groups), 0.0)) for layer in found}

    # --- scores -------------------------------------------------------------------------------------------------

    def shared(self, params: Params) -> Params:
        """How scores are made, where a recipe says something else than the defaults; and a mode that is not on offer,
        whose layers the scores of the others lack."""
        named = params.get("mode", self.modes[0])
        return said(params, self.settings) | ({} if named in self.modes else {"mode": named})

    def structure_needs_state(self, params: Params) -> bool:
        """With one ranking for all layers the scores decide how many channels each of them loses."""
        return bool(params["ranking"] == "global")

    def prepare(self, baseline: nn.Module, context: Context) -> Any:
        """Scores of all criteria on offer: see :func:`scoring.prepared`."""
        return self._scored(baseline, context, self.settings.criteria, context.params)

    def _scored(
        self, baseline: nn.Module, context: Context, criteria: Sequence[str], params: Mapping[str, Any]
    ) -> dict[str, Any]:
        size, named = context.input_size, params.get("mode", self.modes[0])
        modes = self.modes if named in self.modes else (named,)
        return prepared(
            baseline,
            self._find_pairs(baseline, modes),
            {mode: self._couplings(baseline, size, mode) for mode in modes},
            context.transfer,
            settings_of(params, self.settings),
            criteria=criteria,
            device=context.device,
            seed=context.seed,
            progress=breathing(context),
        )

    def _state(self, params: Params, context: Context) -> Mapping[str, Any] | None:
        """Prepared state; without it, made here from the teacher. None in a dry run without state.

        Raises:
            InvalidRecipe: if a real run has neither.
        """
        criterion = params["criterion"]
        state: Mapping[str, Any] | None = context.state
        if state is not None and criterion in state["layers"]:
            return state
        if context.dry_run:
            return None
        if context.teacher is None:
            raise InvalidRecipe(f"there are no scores by {criterion!r}, and no teacher to make them from")
        return self._scored(context.teacher, context, (criterion,), params)

    def _rescored(self, model: nn.Module, params: Params, context: Context) -> Scores:
        """Scores of a substituted network itself, by its own layers, after a short recovery of it; nothing where the
        network is the baseline, whose scores are there."""
        epochs = params.get("rescore_epochs", 0)
        if not epochs or context.dry_run or context.teacher is None or not is_substituted(model, context.teacher):
            return {}
        scored = self._scored(recovered(model, epochs, context), context, (params["criterion"],), params)
        found: Scores = scored["layers"][params["criterion"]]
        return found

    # --- acting -------------------------------------------------------------------------------------------------

    def apply(self, model: nn.Module, params: Params, context: Context) -> tuple[nn.Module, Plan]:
        model.eval()
        mode, state = params["mode"], self._state(params, context)
        rescored = self._rescored(model, params, context)
        try:
            every = self._couplings(model, context.input_size, mode)
        except UntraceableModel as error:  # another transform was here first
            raise InvalidRecipe(str(error)) from error
        keep: dict[str, list[int]] = {}
        try:
            rates = layer_rates(params, state)
            for coupling in every:
                own = of_coupling(coupling, rescored, model)
                if own is None and state is not None:
                    own = of_coupling(coupling, state["layers"][params["criterion"]], model, self._layer_specs())
                rate = coupling_rate(coupling, rates)
                if own is None and rate > 0 and coupling.prunable and not context.dry_run:
                    raise InvalidRecipe(f"the channels of {coupling.name} have no scores to choose by")
                chosen = kept(coupling, rate, params["multiple"], own)
                if len(chosen) < coupling.channels:
                    keep[coupling.name] = chosen
        except ValueError as error:
            raise InvalidRecipe(str(error)) from error
        if not keep:
            raise InvalidRecipe("no layer loses a channel at these rates and this multiple")
        model = remove(model, keep, context.input_size, mode, self._layer_specs(), couplings=every)
        if not context.dry_run:
            _recalibrate(model, context)
        return model.eval(), {"mode": mode, "input_size": list(context.input_size), "keep": keep}

    def rebuild(self, model: nn.Module, plan: Plan) -> nn.Module:
        channels, height, width = plan["input_size"]
        size = (int(channels), int(height), int(width))
        return remove(model, plan["keep"], size, plan["mode"], self._layer_specs()).eval()


def _kept(cache: OrderedDict[str, T], key: str, make: Callable[[], T]) -> T:
    """What ``make`` gave for this key; the oldest goes first."""
    if key not in cache:
        cache[key] = make()
        while len(cache) > STRUCTURES_KEPT:
            cache.popitem(last=False)
    return cache[key]


def _recalibrate(model: nn.Module, context: Context) -> None:
    """Running statistics of the pruned network; a must, as what each layer reads has changed (digest, section 9)."""
    from autocompress.compression.trainer import recalibrate_batch_norm

    if context.transfer is None or "freeze_batch_norm" in context.transfer.demands:
        return
    pixels = context.input_size[1] * context.input_size[2]
    images = max(LEAST_IMAGES, RECALIBRATION_PIXELS // pixels)
    recalibrate_batch_norm(model, context.transfer.calibration, images=images, device=context.device, seed=context.seed)
