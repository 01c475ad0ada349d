"""The transform ``ghost``: its space, and how it acts on a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import nn

from autocompress import models
from autocompress.contract import Context, LayerSpec, Params, Plan, Space, Stage, Transform
from autocompress.graph import UntraceableModel, facts
from autocompress_ghost.hosts import Host, host_of, is_plain
from autocompress_ghost.initialise import initialise
from autocompress_ghost.module import GhostSpec, compression_ratio
from autocompress_ghost.surgery import LayerPlan, build, fold_order, insert, layer_plan, taken_activation
from autocompress_ghost.work import Work

if TYPE_CHECKING:
    from autocompress.job import Job

MOST_RATIO = 5
WORTH_IT = 1.2
"""Minimum r_c (equation 5) for which a convolution is replaced."""
CALIBRATION_IMAGES = 512
BATCH = 64


class Ghost(Transform):
    """Replaces convolutions by ghost modules, with one ratio s for each group.

    Parameters (``ghost.`` before each):
        ratio.<group>: s; 1 leaves the group as it is.
        kernel: d of the cheap convolutions.
        variant: "bare": the batch norm and activation of the replaced convolution stay behind the
            module. "bn-act": each convolution of the module has a batch norm and an activation
            behind it instead, as in the paper. If those of the replaced convolution cannot be
            removed (a functional or shared activation), the layer stays bare.
        init: "lstsq" (fitted on calibration images), "subset" (only from the weights) or "random"
            (as in the paper).
    """

    name = "ghost"
    version = "1"
    reference = "Han et al., GhostNet: More Features from Cheap Operations, CVPR 2020, arXiv 1911.11907"
    stage = Stage.SUBSTITUTE
    layers: ClassVar[Sequence[LayerSpec]] = (GhostSpec(),)
    provides = frozenset({"convolution"})

    def check(self, model: nn.Module, job: Job) -> list[str]:
        """Checks that a ghost module would make some convolution smaller."""
        del job
        try:
            found = _convolutions(model)
        except UntraceableModel as error:
            return [str(error)]
        if found:
            return []
        return [f"it has no convolution that a ghost module would make smaller: {models.first_inner_layer(model)}"]

    def search_space(self, space: Space, model: nn.Module) -> Params:
        groups = models.fixed_groups(model, space.granularity)
        members: dict[str, list[str]] = {}
        for name in _convolutions(model):
            members.setdefault(models.group_of(name, groups), []).append(name)
        ratios: dict[str, int] = {}
        for group in (group.name for group in groups if group.name in members):
            ratio = space.integer(f"ratio.{group}", 1, MOST_RATIO, default=2, cheapest=MOST_RATIO, neutral=1)
            ratios.update(dict.fromkeys(members[group], ratio) if ratio > 1 else {})
        if not ratios:
            return {}
        return {
            "ratios": ratios,
            "kernel": space.categorical("kernel", (1, 3, 5), default=3, cheapest=1),
            "variant": space.categorical("variant", ("bare", "bn-act"), default="bn-act"),
            "init": space.categorical("init", ("lstsq", "subset", "random"), default="lstsq", structural=False),
        }

    def apply(self, model: nn.Module, params: Params, context: Context) -> tuple[nn.Module, Plan]:
        model.eval()
        plan, hosts = _plan(model, params, context.input_size)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(context.seed)
            modules = {name: build(model, name, layer) for name, layer in plan.items()}
        if context.transfer is not None and not context.dry_run:
            works = {name: _work(model, hosts[name], layer, modules[name]) for name, layer in plan.items()}
            split = context.transfer.calibration.subset(CALIBRATION_IMAGES, context.seed)
            initialise(params["init"], works, model, lambda: split.loader(BATCH), context.device)
        for name, layer in plan.items():
            layer["order"] = modules[name].channels.tolist()
            insert(model, name, modules[name], layer)
        for layer in plan.values():
            fold_order(model, layer, layer["order"])
        if context.transfer is not None and not context.dry_run:
            _recalibrate(model, context, list(modules.values()))
        return model.eval(), {"layers": plan}

    def rebuild(self, model: nn.Module, plan: Plan) -> nn.Module:
        modules = {name: build(model, name, layer) for name, layer in plan["layers"].items()}
        for name, layer in plan["layers"].items():
            insert(model, name, modules[name], layer)
        return model.eval()


def _convolutions(model: nn.Module) -> list[str]:
    """Convolutions that s = 2, d = 3 would make small enough."""
    return [
        name
        for name in models.eligible_convolutions(model)
        if is_plain(conv := model.get_submodule(name)) and _shrinks(conv, ratio=2, kernel=3)
    ]


def _plan(
    model: nn.Module, params: Params, input_size: tuple[int, int, int]
) -> tuple[dict[str, LayerPlan], dict[str, Host]]:
    """The plan for each layer, without the final order of channels."""
    network = facts(model, input_size)
    kernel = params["kernel"]
    plans: dict[str, LayerPlan] = {}
    hosts: dict[str, Host] = {}
    for name, ratio in params["ratios"].items():
        conv = model.get_submodule(name)
        if name not in network.layers or not is_plain(conv) or not _shrinks(conv, ratio, kernel):
            continue  # another transform replaced it, or this s and d save too little
        assert isinstance(conv, nn.Conv2d)
        hosts[name] = host_of(network.layers[name], network, model)
        plans[name] = layer_plan(hosts[name], ratio, kernel, params["variant"], conv.out_channels)
    return plans, hosts


def _shrinks(conv: nn.Module, ratio: int, kernel: int) -> bool:
    assert isinstance(conv, nn.Conv2d)
    size = conv.kernel_size[0], conv.kernel_size[1]
    return compression_ratio(conv.in_channels, conv.out_channels, size, ratio, kernel) > WORTH_IT


def _work(model: nn.Module, host: Host, plan: LayerPlan, module: nn.Module) -> Work:
    conv = model.get_submodule(host.name)
    norm = model.get_submodule(host.norm) if host.norm else None
    return Work(module, conv, norm, taken_activation(model, plan))  # type: ignore[arg-type]


def _recalibrate(model: nn.Module, context: Context, ghosts: Sequence[nn.Module]) -> None:
    """Recalibrates the running statistics of the changed network.

    The other norms were trained with the maps of the replaced convolutions. If the images are
    synthetic and do not match the recorded statistics, only the norms of ghost modules are
    recalibrated, because the recorded statistics of the other norms are better.
    """
    from autocompress.training import recalibrate_batch_norm

    assert context.transfer is not None
    frozen = "freeze_batch_norm" in context.transfer.demands
    new = [module for ghost in ghosts for module in ghost.modules()] if frozen else None
    recalibrate_batch_norm(
        model, context.transfer.calibration, images=CALIBRATION_IMAGES, device=context.device, only=new
    )
