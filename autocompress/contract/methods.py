"""The four kinds of compression method. A plugin subclasses one and hands out an instance of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Any, ClassVar

from torch import nn

from autocompress.contract.layers import LayerSpec
from autocompress.contract.tensors import FakeQuantizer, Hardened, TensorSpec

if TYPE_CHECKING:
    from autocompress.contract.callback import Callback
    from autocompress.contract.context import Context, TransferSet
    from autocompress.contract.coupling import Coupling
    from autocompress.contract.space import Space
    from autocompress.job import Job

Params = dict[str, Any]
"""What a method's ``search_space`` returned for one recipe: JSON values only."""

Plan = dict[str, Any]
"""What a transform did to the model, as JSON: enough for ``rebuild`` to do it again with no data.
"""


class Stage(StrEnum):
    """Where in a recipe a transform acts: before the engine's PRUNE stage, or in its place."""

    SUBSTITUTE = "substitute"
    PRUNE = "prune"


class Method(ABC):
    """A compression method: its name, its paper, its search space and its check."""

    name: ClassVar[str]
    """Prefix of the method's parameters, for example ``ghost``."""
    version: ClassVar[str]
    """Part of every cache key: change it whenever the same parameters would give another model."""
    reference: ClassVar[str]
    """The paper: authors, title, venue or arXiv number."""
    kind: ClassVar[str]
    layers: ClassVar[Sequence[LayerSpec]] = ()
    """Layer types that the method brings."""
    provides: ClassVar[frozenset[str]] = frozenset()
    """Capability tags of the model it returns, for example ``convolution``."""
    takes: ClassVar[frozenset[str]] = frozenset()
    """Tags that it works on: it acts after the methods that provide them."""
    excludes: ClassVar[frozenset[str]] = frozenset()
    """Tags that no other method of the same recipe may provide."""
    needs_training: ClassVar[bool] = False
    """True: RECOVER "none" is not offered where this method acts."""
    min_epochs: ClassVar[int] = 0
    """Recovery epochs under which the method makes no sense."""
    renamed: ClassVar[Mapping[str, str]] = {}
    """Earlier names of parameters (``scop.rate``), each with a sentence on what says the same now.
    """

    def check(self, model: nn.Module, job: Job) -> list[str]:
        """Reasons why the method cannot apply to ``model`` in ``job``; empty where it can."""
        del model, job
        return []

    @abstractmethod
    def search_space(self, space: Space, model: nn.Module) -> Params:
        """Asks ``space`` for each parameter (define by run) and returns them.

        The defaults must leave a working model, and one choice must leave the model as it is."""

    def acts(self, params: Params) -> bool:
        """False where ``params`` leave the model as it is, so that the stage is skipped."""
        return bool(params)

    def callbacks(self, model: nn.Module, params: Params, context: Context) -> list[Callback]:
        """What must happen while a model with this method's layers trains."""
        del model, params, context
        return []


class Preparing(Method):
    """A method that may learn from data once what all of its recipes then share."""

    def shared(self, params: Params) -> Params:
        """The values of ``params`` that :meth:`prepare` needs.

        ``prepare`` is called once for each of their values, so they should not be searched
        unless the job asks for it. ``params`` may be empty.
        """
        del params
        return {}

    def prepare(self, baseline: nn.Module, context: Context) -> Any:
        """Computes what all recipes share and what costs data and time, such as SCOP's scores.

        Called once for each baseline, data source and ``context.params`` (see
        :meth:`shared`), when a recipe first needs it. The result (tensors and JSON values)
        is kept, and is given back as ``context.state``.
        """
        del baseline, context
        return None

    @property
    def prepares(self) -> bool:
        """Whether the method has state that is to be prepared."""
        return type(self).prepare is not Preparing.prepare


class Transform(Preparing):
    """Changes the model's structure, and leaves plain deployable layers."""

    kind = "transform"
    stage: ClassVar[Stage]

    def structure_needs_state(self, params: Params) -> bool:
        """Whether the structure depends on what :meth:`prepare` returned.

        A dry run that has no state then gives an estimate, and says so."""
        del params
        return False

    @abstractmethod
    def apply(self, model: nn.Module, params: Params, context: Context) -> tuple[nn.Module, Plan]:
        """Returns the changed model (``model`` itself may be changed) and the plan.

        With ``context.dry_run`` there is no data and no training; the returned structure must be
        the same as without it.

        Raises:
            InvalidRecipe: where ``params`` cannot be built on this model.
        """

    @abstractmethod
    def rebuild(self, model: nn.Module, plan: Plan) -> nn.Module:
        """Makes the structure of ``plan`` without data or training; weights are loaded later."""


class Pruner(Preparing):
    """Says in which order the channels of a network go.

    The engine's PRUNE stage does the rest: which channels go together, how many stay
    (``prune.keep``), their removal, and the repair of the layers that read them. A recipe names one
    pruner (``prune.method``).
    """

    kind = "pruner"
    searched: ClassVar[bool] = True
    """False: a search uses it only where a job names it (``prune: {method: random}``), for example
    as a baseline.
    """

    def search_space(self, space: Space, model: nn.Module) -> Params:
        """Parameters of the order, if it has any.

        None may be structural: widths do not depend on the order.
        """
        del space, model
        return {}

    def acts(self, params: Params) -> bool:
        """A pruner acts where a recipe names it, whatever its own parameters."""
        del params
        return True

    @abstractmethod
    def order(self, coupling: Coupling, params: Params, context: Context) -> Sequence[int]:
        """All channels of ``coupling``, the least needed first.

        Every prefix is what goes at one width, so the order is nested; blocks of one size lose
        their channels in turns (``Coupling.ranked`` and ``Coupling.interleaved`` see to that).
        ``context.model`` is the network that is going to lose channels, in eval mode, and must not
        be changed; ``context.teacher`` is the baseline, from which it differs where a transform
        acted before. ``context.moments`` gives moments of its layers' inputs.

        Raises:
            InvalidRecipe: where the channels cannot be ordered.
        """

    def orders(self, couplings: Sequence[Coupling], params: Params, context: Context) -> dict[str, Sequence[int]]:
        """The order of each of ``couplings``, by name. Override it where they share work."""
        return {coupling.name: self.order(coupling, params, context) for coupling in couplings}


class Quantizer(Method):
    """Gives the fake-quantizer of one weight or activation, and the integers that the file holds.

    QUANTIZE calibrates and, where the recipe or ``min_epochs`` asks for it, trains; ``callbacks``
    is then asked with the network of fake-quantizers (``quantization.QuantizedNetwork``) as
    ``model``.
    """

    kind = "quantizer"
    weight_bits: ClassVar[Sequence[int]] = (8,)
    activation_bits: ClassVar[Sequence[int]] = (8,)
    """Empty: the method quantizes weights only, activations are the business of another quantizer.
    """

    def acts(self, params: Params) -> bool:
        """A quantizer acts where a group of the recipe names it, whatever its own parameters."""
        del params
        return True

    @abstractmethod
    def apply(self, spec: TensorSpec, params: Params, context: Context) -> FakeQuantizer:
        """A module for the tensor that ``spec`` describes: float in, float out."""

    def calibration_images(self, params: Params) -> int:
        """How many images its activation ranges are to be observed on."""
        del params
        return 256

    def equalises(self, params: Params) -> bool:
        """Whether weight ranges of consecutive layers are equalised before ranges are chosen."""
        del params
        return False

    def corrects_bias(self, params: Params) -> bool:
        """Whether biases are corrected by the mean rounding error of each output channel.

        This is done after calibration, and only where nothing is trained.
        """
        del params
        return False

    def harden(self, fake: FakeQuantizer, weight: Any = None) -> Hardened:
        """Integers, scale and zero point of a finished fake-quantizer.

        ``weight`` is the float tensor that it quantizes.
        """
        return fake.harden(weight)


class DataSource(Method):
    """Gives the images that score, calibrate and train, synthesised from the teacher alone.

    Data sources act where the job has no training data. A recipe names one; its set is made once
    for each of its parameters' values and shared by trials, workers and runs, so these should be
    few presets, or not searched.
    """

    kind = "data source"

    def adapts(self, params: Params) -> bool:
        """Whether RECOVER asks again, half-way, for images made for the student."""
        del params
        return False

    def without_student(self, params: Params) -> Params:
        """The parameters with which the set is made where there is no student yet, complete.

        Where others of a source that adapts would give the same images then, it returns the same
        for these, and one set serves them all.
        """
        return params

    @abstractmethod
    def apply(
        self, teacher: nn.Module, params: Params, context: Context, student: nn.Module | None = None
    ) -> TransferSet:
        """Makes the transfer set from ``teacher``.

        The teacher is in eval mode, and its parameters take no gradient.

        ``student`` is a copy of the live student, in eval mode, where the source adapts to it. The
        teacher carries mean, std and input size (``pretrained_cfg``); ``context.transfer`` is None.
        Labels are the source's own targets and are not trained on: without ``soft_targets`` the
        teacher is asked, on the images as they are augmented. ``context.images``, where it is set,
        is how many images are enough. Another ``context.seed`` must give other images.
        ``context.progress`` is to be called often: a trial that waits for images is only given the
        time while it hears of them.
        """
