"""Mistakes of an outside author in quantizers, pruners, data sets and tasks, one in each class.

The docstring of each class is the rule that must be named, as a regular expression.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from test_conformance_quantizers import Fixed, FixedQuantizer
from torch import nn
from violations import told

from autocompress.authoring.examples.dataset import Example as Noise
from autocompress.contract import Context, Coupling, FakeQuantizer, Hardened, Params, Pruner, Task, coupling_scores
from autocompress.data import Source, TensorSplit
from autocompress.testing import check_dataset, check_method, check_pruner, check_quantizer, check_task, example_model


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return example_model()


# --- quantizers -----------------------------------------------------------------------------------


class NoStraightThrough(Fixed):
    """the gradient must not be 0 everywhere"""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.observing or not self.enabled:
            return x
        return (x / 0.05).round().clamp(-127, 127) * 0.05


class OwnScale(Fixed):
    """A scale from the largest weight."""

    def scale(self, weight: torch.Tensor) -> torch.Tensor:
        return weight.detach().abs().amax().clamp(min=1e-8) / 127

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.observing or not self.enabled:
            return x
        scale = self.scale(x)
        return x + ((x / scale).round().clamp(-127, 127) * scale - x).detach()

    def harden(self, weight: torch.Tensor | None = None) -> Hardened:
        assert weight is not None
        scale = self.scale(weight)
        integers = (weight.detach() / scale).round().clamp(-127, 127).to(torch.int8)
        return Hardened(scale, torch.zeros((), dtype=torch.int32), -127, 127, 8, integers)


class NanForZeros(OwnScale):
    """has numbers that are not finite .*zero.weight"""

    def scale(self, weight: torch.Tensor) -> torch.Tensor:
        return weight.detach().abs().amax() / 127


class FixedAtFewBits(FixedQuantizer):
    """harden must give at most the bits .*: 8 are more than 2.*'conv.weight' .* at 2 bits and 9"""

    weight_bits = (2, 4, 8)


class UnknownRounding(FixedQuantizer):
    """rounding must return one of nearest, .*, not 'closest'"""

    def rounding(self, params: Params, bits: int) -> Any:
        return "closest"


class NoImages(FixedQuantizer):
    """calibration_images must return a whole number"""

    def calibration_images(self, params: Params) -> int:
        return 0


def with_fake(fake: type[FakeQuantizer]) -> FixedQuantizer:
    method = FixedQuantizer()
    method.fake = fake
    return method


@pytest.mark.parametrize(
    ("method", "rule"),
    [
        *((with_fake(broken), broken.__doc__) for broken in (NoStraightThrough, NanForZeros)),
        *((broken(), broken.__doc__) for broken in (FixedAtFewBits, UnknownRounding, NoImages)),
    ],
    ids=["gradient", "zeros", "bits", "rounding", "calibration"],
)
def test_a_mistake_in_a_quantizer_is_found(method: FixedQuantizer, rule: str, model: nn.Module) -> None:
    assert re.search(rule, told(check_quantizer, method, model), re.DOTALL)


def test_a_scale_of_the_largest_weight_conforms(model: nn.Module) -> None:
    check_quantizer(with_fake(OwnScale), model)


# --- pruners --------------------------------------------------------------------------------------


class Norms(Pruner):
    """A correct pruner, from which the faulty ones are derived."""

    name, version, reference = "norms", "1", "L2 norm of the filters"

    def scores(self, coupling: Coupling, context: Context) -> list[float]:
        assert context.model is not None
        return self.scores_of(coupling, context.model, context.model)

    def scores_of(self, coupling: Coupling, network: nn.Module, model: nn.Module) -> list[float]:
        weights = {name: network.get_parameter(f"{name}.weight").detach() for name in coupling.producers}
        norms = {name: weight.flatten(1).norm(dim=1) for name, weight in weights.items()}
        found = coupling_scores(coupling, norms, model)
        assert found is not None
        return found.tolist()

    def order(self, coupling: Coupling, params: Params, context: Context) -> Any:
        return coupling.ranked(self.scores(coupling, context))


class Remembers(Norms):
    """must not depend on the other couplings of the call, nor on earlier calls"""

    calls = 0

    def scores(self, coupling: Coupling, context: Context) -> list[float]:
        self.calls += 1
        return [score * (1 if n % 2 else self.calls) for n, score in enumerate(super().scores(coupling, context))]


class BySeenCouplings(Norms):
    """must not depend on the other couplings of the call"""

    def orders(self, couplings: Any, params: Params, context: Context) -> Any:
        orders = {coupling.name: list(self.order(coupling, params, context)) for coupling in couplings}
        return {name: order if n % 2 else order[::-1] for n, (name, order) in enumerate(orders.items())}


class TakesNoTurns(Norms):
    """on test_resnet with grouped convolutions, .* blocks of one size must lose their channels"""

    def order(self, coupling: Coupling, params: Params, context: Context) -> Any:
        scores = self.scores(coupling, context)
        return sorted(range(coupling.channels), key=lambda channel: scores[channel])


class ReadsTheTeacher(Norms):
    """must not raise AttributeError .* read layers of context.model, not of the teacher"""

    def scores(self, coupling: Coupling, context: Context) -> list[float]:
        assert context.teacher is not None
        assert context.model is not None
        return self.scores_of(coupling, context.teacher, context.model)


class ByHash(Norms):
    """equal for equal context.seed.* hash\\(\\) of a text differs by process"""

    def scores(self, coupling: Coupling, context: Context) -> list[float]:
        return [hash(f"{coupling.name}.{channel}") % 9973 for channel in range(coupling.channels)]


class Floats(Norms):
    """an order must be a sequence of whole numbers: that of .* is Tensor"""

    def order(self, coupling: Coupling, params: Params, context: Context) -> Any:
        return torch.tensor(super().order(coupling, params, context)).float()


class LeavesGradients(Norms):
    """orders must leave context.model as it is: gradients are left on it"""

    def scores(self, coupling: Coupling, context: Context) -> list[float]:
        assert context.model is not None
        context.model(torch.ones(2, *context.input_size)).sum().backward()
        return super().scores(coupling, context)


class SeedsTheProcess(Norms):
    """must not seed the global generator of torch"""

    def scores(self, coupling: Coupling, context: Context) -> list[float]:
        torch.manual_seed(context.seed)
        return torch.rand(coupling.channels).tolist()


@pytest.mark.parametrize(
    "broken",
    [Remembers, BySeenCouplings, ReadsTheTeacher, ByHash, Floats, LeavesGradients, SeedsTheProcess],
    ids=lambda broken: broken.__name__,
)
def test_a_mistake_in_a_pruner_is_found(broken: type[Pruner], model: nn.Module) -> None:
    assert broken.__doc__
    assert re.search(broken.__doc__, told(check_pruner, broken(), model), re.DOTALL)


def test_blocks_of_grouped_convolutions_must_take_turns() -> None:
    assert TakesNoTurns.__doc__
    assert re.search(TakesNoTurns.__doc__, told(check_method, TakesNoTurns()), re.DOTALL)


def test_a_general_mistake_is_reported_once_without_the_hint_for_other_networks() -> None:
    text = told(check_method, LeavesGradients())
    assert text.count("gradients are left on it") == 1
    assert "let check give a reason" not in text


def test_a_correct_pruner_conforms() -> None:
    check_method(Norms())


# --- data sets ------------------------------------------------------------------------------------


class OtherMeanInVal(Noise):
    """info of val must be that of the data set: mean differ"""

    def load(self, spec: str) -> Source:
        good = super().load(spec)
        assert isinstance(good.val, TensorSplit)
        other = replace(good.info, mean=(0.1,) * good.info.channels)
        return replace(good, val=TensorSplit(good.val.images, good.val.labels(), other))


class NotNormalised(Noise):
    """images must be normalised by mean and std of info"""

    def load(self, spec: str) -> Source:
        good = super().load(spec)
        splits = [
            TensorSplit(split.images.float() / 255, split.labels(), good.info)
            for split in (good.train, good.val, good.test)
            if isinstance(split, TensorSplit)
        ]
        return Source(*splits, good.info)


class EmptyVal(Noise):
    """Has no validation images."""

    def load(self, spec: str) -> Source:
        good = super().load(spec)
        assert isinstance(good.val, TensorSplit)
        return replace(good, val=TensorSplit(good.val.images[:0], good.val.labels()[:0], good.info))


def test_an_empty_split_is_the_only_rule() -> None:
    assert told(check_dataset, EmptyVal()) == "val must be a Split with images"


@pytest.mark.parametrize("broken", [OtherMeanInVal, NotNormalised], ids=lambda broken: broken.__name__)
def test_a_mistake_in_a_data_set_is_found(broken: type[Noise]) -> None:
    assert broken.__doc__
    assert broken.__doc__ in told(check_dataset, broken())


# --- tasks ----------------------------------------------------------------------------------------


class Own(Task):
    """A correct task, from which the faulty ones are derived."""

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(outputs, targets)

    def marks(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return (outputs.argmax(1) == targets).float()

    def divergences(self, reference: torch.Tensor, outputs: torch.Tensor) -> torch.Tensor:
        return F.kl_div(outputs.log_softmax(1), reference.log_softmax(1), reduction="none", log_target=True).sum(1)

    def prediction(self, outputs: torch.Tensor) -> torch.Tensor:
        return outputs.argmax(1)


class Sums(Own):
    """'loss' must be a mean over the images"""

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(outputs, targets, reduction="sum")


class MarksInPlace(Own):
    """'marks' must not change the tensors that it is given"""

    def marks(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        outputs.mul_(2)
        return super().marks(outputs, targets)


class RaisesForTargets(Own):
    """'check_targets' raised RuntimeError for targets of torch.int64"""

    def check_targets(self, targets: torch.Tensor, classes: int) -> str:
        raise RuntimeError("x")


class RaisesForShape(Own):
    """'output_shape' raised RuntimeError: x"""

    def output_shape(self, classes: int) -> tuple[int, ...] | None:
        raise RuntimeError("x")


class NoText(Own):
    """'check_targets' must return a text, not a NoneType"""

    def check_targets(self, targets: torch.Tensor, classes: int) -> Any:
        return None


class RaisesForLoss(Own):
    """'uninformed_loss' raised RuntimeError: x"""

    def uninformed_loss(self, classes: int) -> float:
        raise RuntimeError("x")


class RaisesForDistillation(Own):
    """'distillation' raised RuntimeError: x"""

    def distillation(self, outputs: torch.Tensor, answers: torch.Tensor, temperature: float) -> torch.Tensor:
        raise RuntimeError("x")


class SampledByImage(Own):
    """'sampled_loss' must give one number as a tensor, not a tensor of shape (64,)"""

    def sampled_loss(self, outputs: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        return outputs.square().sum(1)


@pytest.mark.parametrize(
    "broken",
    [
        RaisesForDistillation,
        SampledByImage,
        Sums,
        MarksInPlace,
        RaisesForTargets,
        RaisesForShape,
        NoText,
        RaisesForLoss,
    ],
    ids=lambda broken: broken.__name__,
)
def test_a_mistake_in_a_task_is_found(broken: type[Task]) -> None:
    assert broken.__doc__
    assert broken.__doc__ in told(check_task, broken)


def test_a_correct_task_conforms() -> None:
    check_task(Own)
