"""The transform ``adder``: its space, and how it acts on a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar
from weakref import WeakKeyDictionary

import torch
from torch import nn

from autocompress import models
from autocompress.contract import Callback, Context, LayerSpec, Params, Plan, Space, Stage, Transform
from autocompress.graph import UntraceableModel, facts
from autocompress_adder.convert import adder_layers, build, eligible, insert, layer_plans
from autocompress_adder.initialise import initialise, scale
from autocompress_adder.layer import AdderConv2d
from autocompress_adder.spec import AdderSpec
from autocompress_adder.training import AdderTraining

if TYPE_CHECKING:
    from autocompress.job import Job

INITIALISATION_IMAGES = 128
CALIBRATION_IMAGES = 512
BATCH = 64


class Adder(Transform):
    """Replaces convolutions by adder layers, group by group.

    Stem and classifier are not replaced; the authors' norm behind the logits is left out.

    If a group of adder layers is quantized, the weights of a layer use the grid of its input (see
    ``integers``). So they have the bits of the activations, for every value of
    ``bits.weight.<group>`` except "none".

    Parameters (``adder.`` before each):
        operator.<group>: "adder", or "none" to keep the group's convolutions.
        eta: root mean square of the filters' scaled gradients; 0.2 in the paper, for all models.
        lr_scale: learning rate of the filters, relative to that of the training with AdamW.
        init: "scaled_conv", the trained weights on the scale of their inputs, or "normal", N(0, 1)
            as in the paper, which trains from scratch. Norms keep the trained scales and shifts.
        width: for "scaled_conv", standard deviation of weights relative to that of patches.
        schedule: "l1", or "l2-to-l1": the exponent falls from 2 to 1 in the first half of the
            training. There is no fast kernel for exponents between 1 and 2.
        order: "at-once", or "late-first": stages become adders one after the other in the first
            half of the training, beginning with the last stage.
        feature: weight of the error of features behind batch normalisation, in addition to
            RECOVER's distillation of logits.
    """

    name = "adder"
    version = "1"
    reference = "Chen et al., AdderNet: Do We Really Need Multiplications in Deep Learning, CVPR 2020, arXiv 1912.13200"
    stage = Stage.SUBSTITUTE
    layers: ClassVar[Sequence[LayerSpec]] = (AdderSpec(),)
    takes = frozenset({"convolution"})
    needs_training = True
    min_epochs = 1

    def __init__(self) -> None:
        self._found: WeakKeyDictionary[nn.Module, list[str]] = WeakKeyDictionary()

    def check(self, model: nn.Module, job: Job) -> list[str]:
        """Checks that a convolution can be replaced, and that a cost of the job could fall."""
        costs = {*job.objectives, *job.constraints.bounds()}
        if "macs" in costs:
            return [
                "adder layers have no multiply-adds but as many taps, so that by MACs they would cost nothing; "
                "ask for energy in their place"
            ]
        if not costs & {"energy", "latency"}:
            return [
                "adder layers save energy, or the latency of a cost model, and the job asks for neither "
                "(objectives: [accuracy, energy], cost_model: 45nm)"
            ]
        is_onnxruntime = job.device.name == "onnxruntime-cpu" or job.device.name.startswith("ssh:")
        if "latency" in costs and is_onnxruntime:
            return [
                "adder layers take some twenty times a convolution's time in ONNX Runtime, where the job's latency is "
                "measured; take it from a cost model (device: cost-model:NAME), or ask for energy in its place"
            ]
        try:
            found = self._convolutions(model)
        except UntraceableModel as error:
            return [str(error)]
        if found:
            return []
        return [
            "it has no convolution that an adder layer could stand for: outside of stem, classifier and squeeze-and-"
            f"excitation, with a square kernel, without groups or dilation; {models.first_inner_layer(model)}"
        ]

    def search_space(self, space: Space, model: nn.Module) -> Params:
        groups = models.fixed_groups(model, space.granularity)
        members: dict[str, list[str]] = {}
        for name in self._convolutions(model):
            members.setdefault(models.group_of(name, groups), []).append(name)
        stages: dict[str, list[str]] = {}
        for group in (group.name for group in groups if group.name in members):
            if space.categorical(f"operator.{group}", ("none", "adder"), default="adder", cheapest="adder") == "adder":
                stages[group] = members[group]
        if not stages:
            return {}
        return {
            "stages": stages,
            "init": space.categorical("init", ("scaled_conv", "normal"), default="scaled_conv", structural=False),
            "width": space.float("width", 1.0, 16.0, default=8.0, log=True, structural=False),
            "eta": space.float("eta", 0.05, 1.0, default=0.2, log=True, structural=False),
            "lr_scale": space.float("lr_scale", 1.0, 100.0, default=30.0, log=True, structural=False),
            "schedule": space.categorical("schedule", ("l1", "l2-to-l1"), default="l1", structural=False),
            "order": space.categorical("order", ("at-once", "late-first"), default="at-once", structural=False),
            "feature": space.categorical("feature", (0.0, 0.1, 1.0), default=0.0, structural=False),
        }

    def _convolutions(self, model: nn.Module) -> list[str]:
        """Eligible convolutions; cached, because every trial needs those of the baseline."""
        if model not in self._found:
            self._found[model] = eligible(model)
        return self._found[model]

    def apply(self, model: nn.Module, params: Params, context: Context) -> tuple[nn.Module, Plan]:
        model.eval()
        wanted = [name for names in params["stages"].values() for name in names]
        plans = layer_plans(model, wanted, context.input_size)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(context.seed)
            layers = {name: build(model.get_submodule(name), plan) for name, plan in plans.items()}
        has_images = context.transfer is not None and not context.dry_run
        if params["init"] == "scaled_conv":
            _from_convolutions(layers, model, params["width"], context if has_images else None)
        insert(model, layers)
        if has_images:
            _recalibrate(model, context)
        return model.eval(), {"layers": plans}

    def rebuild(self, model: nn.Module, plan: Plan) -> nn.Module:
        insert(model, {name: build(model.get_submodule(name), layer) for name, layer in plan["layers"].items()})
        return model.eval()

    def callbacks(self, model: nn.Module, params: Params, context: Context) -> list[Callback]:
        taps = _norms_behind(model, params, context) if params["feature"] else []
        return [AdderTraining(model, params, context, taps)]


def _from_convolutions(layers: dict[str, AdderConv2d], model: nn.Module, width: float, context: Context | None) -> None:
    if context is None:
        for name, layer in layers.items():
            scale(layer, model.get_submodule(name), width)
        return
    assert context.transfer is not None
    split = context.transfer.calibration.subset(INITIALISATION_IMAGES, context.seed)
    initialise(layers, model, lambda: split.loader(BATCH), context.device, width=width)


def _recalibrate(model: nn.Module, context: Context) -> None:
    """Recalibrates norms, because distances have a mean of about -K, and products about 0.

    If the images differ from the data, the statistics of the other norms are kept, because those
    recorded on the data are better.
    """
    from autocompress.training import recalibrate_batch_norm

    assert context.transfer is not None
    frozen = "freeze_batch_norm" in context.transfer.demands
    behind = _all_norms_behind(model, context) if frozen else None
    recalibrate_batch_norm(
        model, context.transfer.calibration, images=CALIBRATION_IMAGES, device=context.device, only=behind
    )


def _all_norms_behind(model: nn.Module, context: Context) -> list[nn.Module]:
    """The norms that read adder layers, their own included."""
    layers = adder_layers(model)
    network = facts(model, context.input_size, (AdderConv2d,))
    names = [network.layers[name].norm for name in layers if name in network.layers]
    own = [layer.norm for layer in layers.values() if layer.norm is not None]
    return [*own, *(model.get_submodule(name) for name in names if name is not None)]


def _norms_behind(model: nn.Module, params: Params, context: Context) -> list[str]:
    """The norms behind the last adder layers of stages with equal names in student and teacher.

    A network with folded norms has none.
    """
    layers, known = adder_layers(model), dict(context.teacher.named_modules()) if context.teacher is not None else {}
    try:
        network = facts(model, context.input_size, (AdderConv2d,))
    except UntraceableModel:
        return []
    taps: list[str] = []
    for hosts in params["stages"].values():
        norms = [
            norm
            for name in layers
            if any(name == host or name.startswith(f"{host}.") for host in hosts)
            and name in network.layers
            and (norm := network.layers[name].norm) in known
        ]
        taps += [norm for norm in norms[-1:] if norm is not None]
    return taps
