"""The four kinds of compression method. A plugin subclasses one and returns an instance of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Any, ClassVar

from torch import nn

from autocompress.contract.layers import LayerSpec
from autocompress.contract.tensors import FakeQuantizer, Hardened, TensorSpec
from autocompress.repair.rounding import Rounding

if TYPE_CHECKING:
    from autocompress.contract.callback import Callback
    from autocompress.contract.context import Context, TransferSet
    from autocompress.contract.coupling import Coupling
    from autocompress.contract.space import Space
    from autocompress.job import Job

Params = dict[str, Any]
"""The result of ``search_space`` of a method for one recipe: JSON values only."""

Plan = dict[str, Any]
"""The changes of a transform as JSON, from which ``rebuild`` repeats them without data."""


class Stage(StrEnum):
    """When a transform acts: before the PRUNE stage of the engine, or instead of it."""

    SUBSTITUTE = "substitute"
    PRUNE = "prune"


class Method(ABC):
    """A compression method: its name, paper, search space and check."""

    name: ClassVar[str]
    """Name of the method, and prefix of its parameters, for example ``ghost``."""
    version: ClassVar[str]
    """Part of every cache key: change it whenever the same parameters would give another model."""
    reference: ClassVar[str]
    """The paper: authors, title, venue or arXiv number."""
    kind: ClassVar[str]
    layers: ClassVar[Sequence[LayerSpec]] = ()
    """Layer types of the method."""
    provides: ClassVar[frozenset[str]] = frozenset()
    """Tags of the model that it returns, for example ``convolution``."""
    takes: ClassVar[frozenset[str]] = frozenset()
    """Tags that it needs: it acts after the methods that provide them."""
    excludes: ClassVar[frozenset[str]] = frozenset()
    """Tags that no other method of the same recipe may provide."""
    needs_training: ClassVar[bool] = False
    """True: where this method acts, RECOVER cannot be "none"."""
    min_epochs: ClassVar[int] = 0
    """Minimum number of recovery epochs with which the method is useful."""
    renamed: ClassVar[Mapping[str, str]] = {}
    """Former names of parameters (``scop.rate``), each with a sentence on its replacement."""

    def check(self, model: nn.Module, job: Job) -> list[str]:
        """Reasons why the method cannot apply to ``model`` in ``job``; empty where it can."""
        del model, job
        return []

    @abstractmethod
    def search_space(self, space: Space, model: nn.Module) -> Params:
        """Asks ``space`` for each parameter (define by run) and returns the values.

        The defaults must give a working model, and one choice must leave the model unchanged.
        """

    def acts(self, params: Params) -> bool:
        """False where ``params`` leave the model unchanged; the method is then skipped."""
        return bool(params)

    def callbacks(self, model: nn.Module, params: Params, context: Context) -> list[Callback]:
        """Callbacks for training a model with layers of this method."""
        del model, params, context
        return []


class Preparing(Method):
    """A method that may compute a state from data. All its recipes share the state."""

    def shared(self, params: Params) -> Params:
        """The subset of ``params`` that :meth:`prepare` needs.

        ``prepare`` is called once for each combination of their values, so they should only be
        searched where the job asks for it. ``params`` may be empty.
        """
        del params
        return {}

    def prepare(self, baseline: nn.Module, context: Context) -> Any:
        """Computes the state that all recipes share, such as SCOP's scores.

        Called once for each baseline, data source and ``context.params`` (see :meth:`shared`), when
        a recipe first needs it. The result (tensors and JSON values) is stored and passed as
        ``context.state``.
        """
        del baseline, context
        return None

    @property
    def prepares(self) -> bool:
        """Whether the method overrides :meth:`prepare`."""
        return type(self).prepare is not Preparing.prepare


class Transform(Preparing):
    """Changes the structure of the model; the result has only deployable layers."""

    kind = "transform"
    stage: ClassVar[Stage]

    def structure_needs_state(self, params: Params) -> bool:
        """Whether the structure depends on the result of :meth:`prepare`.

        A dry run without that state then gives an estimate, and marks it as such.
        """
        del params
        return False

    @abstractmethod
    def apply(self, model: nn.Module, params: Params, context: Context) -> tuple[nn.Module, Plan]:
        """Returns the changed model and the plan. ``model`` itself may be changed.

        With ``context.dry_run`` there is no data and no training; the returned structure must be
        the same as without it.

        Raises:
            InvalidRecipe: if ``params`` do not fit this model.
        """

    @abstractmethod
    def rebuild(self, model: nn.Module, plan: Plan) -> nn.Module:
        """Makes the structure of ``plan`` without data or training. Weights are loaded later."""


class Pruner(Preparing):
    """Decides the order in which the channels of a network are removed.

    The PRUNE stage of the engine does the rest: it finds channels that must be removed together,
    decides how many to keep (``prune.keep``), removes the others, and repairs the layers that read
    them. A recipe names one pruner (``prune.method``).
    """

    kind = "pruner"
    searched: ClassVar[bool] = True
    """False: a search uses it only where a job names it (``prune: {method: random}``)."""

    def search_space(self, space: Space, model: nn.Module) -> Params:
        """Parameters of the order, if it has any.

        They cannot be structural, because widths do not depend on the order.
        """
        del space, model
        return {}

    def acts(self, params: Params) -> bool:
        """True: a pruner acts where a recipe names it, whatever its parameters."""
        del params
        return True

    @abstractmethod
    def order(self, coupling: Coupling, params: Params, context: Context) -> Sequence[int]:
        """All channels of ``coupling``, least needed first.

        For every width, a prefix of the order is removed. Blocks of equal size must take turns;
        ``Coupling.ranked`` and ``Coupling.interleaved`` make such orders.

        ``context.model`` is the network that will lose channels, in eval mode. It must not be
        changed. ``context.teacher`` is the baseline, which differs where a transform acted before.
        ``context.moments`` gives moments of the inputs of layers of ``context.model``.

        Raises:
            InvalidRecipe: if the channels cannot be ordered.
        """

    def orders(self, couplings: Sequence[Coupling], params: Params, context: Context) -> dict[str, Sequence[int]]:
        """The order of each coupling, by name. Override it where couplings share work."""
        return {coupling.name: self.order(coupling, params, context) for coupling in couplings}


class Quantizer(Method):
    """Makes the fake-quantizer of a weight or activation, and the integers for the file.

    QUANTIZE calibrates and, where the recipe or ``min_epochs`` requires it, trains. ``callbacks``
    is then called with the network of fake-quantizers (``quantization.QuantizedNetwork``) as
    ``model``.
    """

    kind = "quantizer"
    weight_bits: ClassVar[Sequence[int]] = (8,)
    activation_bits: ClassVar[Sequence[int]] = (8,)
    """Empty: the method quantizes only weights, and another quantizer the activations."""

    def acts(self, params: Params) -> bool:
        """True: a quantizer acts where a group of the recipe names it, whatever its parameters."""
        del params
        return True

    @abstractmethod
    def apply(self, spec: TensorSpec, params: Params, context: Context) -> FakeQuantizer:
        """The fake-quantizer of the tensor that ``spec`` describes."""

    def calibration_images(self, params: Params) -> int:
        """The number of images for observing activation ranges."""
        del params
        return 256

    def equalises(self, params: Params) -> bool:
        """Whether weight ranges of consecutive layers are equalised before calibration."""
        del params
        return False

    def corrects_bias(self, params: Params) -> bool:
        """Whether biases are corrected by the mean rounding error of each output channel.

        The correction follows calibration, and only happens without training.
        """
        del params
        return False

    def rounding(self, params: Params, bits: int) -> Rounding:
        """The method that rounds a weight of ``bits`` to its levels if nothing is trained.

        ``FakeQuantizer.levels`` returns the levels.
        """
        del params, bits
        return "nearest"

    def harden(self, fake: FakeQuantizer, weight: Any = None) -> Hardened:
        """Integers, scale and zero point of a finished fake-quantizer.

        ``weight`` is the float tensor to quantize.
        """
        return fake.harden(weight)


class DataSource(Method):
    """Synthesises the images for scoring, calibration and training from the teacher alone.

    Data sources act in jobs without training data. A recipe names one. Its set is made once for
    each combination of parameter values, and trials, workers and runs share it. The parameters
    should therefore have few values, or not be searched.
    """

    kind = "data source"
    tasks: ClassVar[tuple[str, ...]] = ("classification",)
    """The tasks for whose networks it makes images, by their names in a job."""

    def adapts(self, params: Params) -> bool:
        """Whether RECOVER asks again, half-way, for images that depend on the student."""
        del params
        return False

    def passes(self, params: Params) -> float:
        """The number of passes through the teacher per image, with gradients, at full resolution.

        The parameter "iterations" by default; 0 if the cost of images is negligible.
        """
        return float(params.get("iterations", 0))

    def within(self, params: Params, passes: float) -> Params:
        """``params``, changed so that each image takes at most ``passes`` passes.

        The engine calls it if a set would take too long otherwise.
        """
        return {**params, "iterations": max(1, int(passes))} if self.passes(params) > passes else params

    def without_student(self, params: Params) -> Params:
        """All parameters of the set that is made before there is a student.

        If two recipes differ only in the use of the student, an adapting source returns equal
        values, so that they share one set.
        """
        return params

    @abstractmethod
    def apply(
        self, teacher: nn.Module, params: Params, context: Context, student: nn.Module | None = None
    ) -> TransferSet:
        """Makes the transfer set from ``teacher``.

        The teacher is in eval mode, its parameters need no gradient, and it has mean, std and input
        size (``pretrained_cfg``). ``student`` is a copy of the student in training, in eval mode,
        where the source adapts to it. ``context.transfer`` is None.

        Labels are the targets of the source and are not used for training. Without
        ``soft_targets``, the targets are the outputs of the teacher for the augmented images.
        ``context.images``, if set, is the number of images that is enough. Another ``context.seed``
        must give other images. Call ``context.progress`` often: a trial that waits for images is
        ended if no progress is reported for too long.
        """
