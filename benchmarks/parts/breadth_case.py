"""One backbone of the breadth table: a row for the baseline, then a row for each case."""

from __future__ import annotations

import copy
import itertools
import re
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from torch import nn

from autocompress import models
from autocompress.channels.known import fixed_couplings
from autocompress.channels.verifying import randomise, settle
from autocompress.compression.artifact import metadata
from autocompress.compression.candidate import Candidate
from autocompress.compression.layertypes import layer_specs
from autocompress.compression.pipeline import Pipeline
from autocompress.compute import Compute
from autocompress.contract import (
    Context,
    DataSource,
    Method,
    Params,
    Pruner,
    Quantizer,
    TransferSet,
    Transform,
    Value,
    manager,
)
from autocompress.data import TensorSplit
from autocompress.errors import InvalidRecipe, TrialFailed, UserError
from autocompress.export import cropped, custom_operators, export, open_session
from autocompress.export.exporter import INPUT
from autocompress.graph import UntraceableModel, facts, trace
from autocompress.job import Job, Limits, limits_of, load_job
from autocompress.models.forward import check_forward
from autocompress.opened.applicable import applicable
from autocompress.opened.baseline import export_baseline, weights_key
from autocompress.recipes.choosers import Fixed, Policy
from autocompress.recipes.jobspace import JobSpace
from autocompress.recipes.recipe import Recipe
from autocompress.recipes.settings import LEAST_IMAGES
from autocompress.store import Store
from parts.breadth_agreement import floats_agree, integers_agree
from parts.breadth_backbones import Backbone

CLASSES, IMAGES, BATCH = 10, 48, 4
FLOAT_IMAGES = 16
"""Number of images on which float outputs are compared, and ``BATCH`` of those for integers."""
RUNS = 7
"""Number of runs of each file, alternately."""
BASELINE = "baseline"
REFUSALS = (UserError, InvalidRecipe, TrialFailed, UntraceableModel)
SOURCE_SETTINGS: dict[str, Value] = {"images": 4, "iterations": 2, "batch_size": 4}
Case = tuple[str, ...]
"""Names of methods."""


def key_of(backbone: str, case: Case) -> str:
    """The key of a row."""
    return f"{backbone} {'+'.join(case)}"


def every_case(*, pairs: bool) -> list[Case]:
    """Single methods, or pairs of methods of different stages."""
    methods = manager().methods()
    if not pairs:
        return [(method.name,) for method in methods]
    acting = [method for method in methods if not isinstance(method, DataSource)]
    kinds = {method.name: _stage(method) for method in acting}
    return [(a, b) for a, b in itertools.combinations(kinds, 2) if kinds[a] != kinds[b]]


def _stage(method: Method) -> str:
    return str(method.stage.value) if isinstance(method, Transform) else method.kind


class Tried:
    """A backbone with random weights on which cases are tried."""

    def __init__(self, backbone: Backbone, folder: Path, *, checked: bool) -> None:
        self.backbone, self.folder, self.checked = backbone, folder, checked
        self.model: nn.Module
        self.before: dict[str, Any] = {}

    def rows(self, cases: Sequence[Case]) -> Iterator[tuple[Case, dict[str, Any]]]:
        """A row for the baseline, then for each case."""
        for case in [(BASELINE,), *cases]:
            started = time.process_time()
            row = self._told(self._baseline if case == (BASELINE,) else partial(self._case, case))
            yield case, row | {"checked": self.checked, "seconds": round(time.process_time() - started, 2)}
            if case == (BASELINE,) and row["status"] != "applies":
                return

    def _told(self, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        try:
            return make()
        except REFUSALS as error:
            return self._refused([" ".join(str(error).split())])
        except Exception as error:
            text = " ".join(str(error).split())[:300]
            where = traceback.format_exc(limit=-6)[-1500:]
            return {"status": "fault", "reason": f"{type(error).__name__}: {text}", "traceback": where}

    def _refused(self, reasons: Sequence[str]) -> dict[str, Any]:
        told = next((reason for reason in reasons if " raised " in reason), None)
        status = "refused" if told is None else "fault"
        named = any(self._names_layer(reason) for reason in reasons)
        return {"status": status, "reason": told or reasons[0], "names_layer": named}

    def _names_layer(self, reason: str) -> bool:
        if not hasattr(self, "model"):
            return False
        names = [name for name, _ in itertools.chain(self.model.named_modules(), self.model.named_parameters()) if name]
        words = set(re.findall(r"[\w.]*\w", reason))
        return any(name in words for name in names)

    # --- the baseline -----------------------------------------------------------------------------

    def _baseline(self) -> dict[str, Any]:
        self.model = _network(self.backbone)
        self.size = models.input_size(self.model)
        check_forward(self.model, self.size, (CLASSES,), self.backbone.name)
        _settle(self.model, self.size)
        network = facts(self.model, self.size)
        self.before = {"params": network.params, "macs": network.macs}
        agreement = {} if self.checked else self._written()
        kinds = Counter(layer.kind for layer in network.layers.values())
        return {
            "status": "applies",
            "family": type(self.model).__module__.rpartition(".")[2],
            **self.before,
            "layers": dict(kinds),
            "dense_convolutions": len(models.eligible_convolutions(self.model)),
            **agreement,
        }

    def _written(self) -> dict[str, Any]:
        base = export_baseline(self.model, self.folder)
        self.session = open_session(base.deployable.file)
        self.before["bytes"] = base.size_bytes
        return floats_agree(self.model, self.session, self.images[:FLOAT_IMAGES])

    @cached_property
    def images(self) -> torch.Tensor:
        """Smoothed noise images, float32."""
        generator = torch.Generator().manual_seed(1)
        coarse = torch.randn(IMAGES, 3, 8, 8, generator=generator)
        smooth = nn.functional.interpolate(coarse, self.size[1:], mode="bilinear")
        return smooth + 0.3 * torch.randn(IMAGES, *self.size, generator=generator)

    @cached_property
    def transfer(self) -> TransferSet:
        """These images with random labels."""
        split = TensorSplit(self.images, torch.arange(IMAGES) % CLASSES, models.data_info(self.model))
        return TransferSet(split, split, split.digest)

    # --- a case -----------------------------------------------------------------------------------

    def _case(self, case: Case) -> dict[str, Any]:
        every = manager().methods()
        for name in case:
            method = next(method for method in every if method.name == name)
            job = _job(self.backbone.name, free=isinstance(method, DataSource))
            fit, refused = applicable([method], self.model, job)
            if not fit:
                return self._refused(refused[name])
        methods = [method for method in every if method.name in case]
        if self.checked:
            return {"status": "applies", **self._offered(methods)}
        if isinstance(method, DataSource):
            return self._source(method)
        candidate = self._pipeline(methods).run(self._recipe(methods, job))
        self._check_changed(candidate, methods)
        return {"status": "applies", **self._offered(methods), **self._measured(candidate, methods)}

    def _check_changed(self, candidate: Candidate, methods: Sequence[Method]) -> None:
        """Refuses a candidate that is the baseline."""
        same = (candidate.params, candidate.macs) == (self.before["params"], self.before["macs"])
        removing = [method.name for method in methods if isinstance(method, Pruner)]
        if removing and same and len(methods) == 1:
            raise InvalidRecipe(f"{removing[0]} removes nothing at its default widths")

    def _recipe(self, methods: Sequence[Method], job: Job) -> Recipe:
        space = JobSpace(self.model, methods, _no_limits(job), "stage", epochs=1.0)
        rules = {}
        for method in methods:
            rules[method.name] = "default"
            if isinstance(method, Pruner):
                rules |= {"prune": "default", "repair": "default"}
            if isinstance(method, Quantizer):
                rules |= {"bits": "default", "qat": "default" if method.needs_training else "neutral"}
            if method.needs_training and not isinstance(method, Quantizer):
                rules |= {"recover": "default"}
        quantizer = next((method.name for method in methods if isinstance(method, Quantizer)), None)
        rules |= {"bits": "cheapest"} if quantizer == "slb" else {}
        pruner = next((method.name for method in methods if isinstance(method, Pruner)), "none")
        values: dict[str, Value] = {"prune.method": pruner, "repair.images": LEAST_IMAGES, "scop.score_images": IMAGES}
        return space.compose(Fixed(values, Policy(rules, quantizer=quantizer)))

    def _pipeline(self, methods: Sequence[Method]) -> Pipeline:
        return Pipeline(
            baseline=self.model,
            baseline_key=weights_key(self.model),
            methods=methods,
            transfer=self.transfer,
            granularity="stage",
            seed=0,
            compute=Compute(),
            store=self.store,
        )

    @cached_property
    def store(self) -> Store:
        """The store that the cases of a backbone share."""
        return Store(self.folder / "store")

    def _offered(self, methods: Sequence[Method]) -> dict[str, Any]:
        if not any(isinstance(method, Pruner) for method in methods):
            return {}
        every = fixed_couplings(self.model, self.size, "group")
        reasons = Counter(re.sub(r"[\w.]*\.[\w.]+", "*", reason) for c in every for reason in c.reasons)
        offered = [coupling for coupling in every if coupling.prunable]
        heads = sum(coupling.heads for coupling in offered)
        return {"couplings": [len(offered), len(every)], "heads": heads, "kept": dict(reasons.most_common(3))}

    def _source(self, method: DataSource) -> dict[str, Any]:
        job = _job(self.backbone.name, free=True)
        own = {f"{method.name}.{name}": value for name, value in SOURCE_SETTINGS.items()}
        space = JobSpace(self.model, [method], _no_limits(job, own), "stage", epochs=1.0)
        params: Params = space.sources()[method.name]
        context = Context(input_size=self.size, images=4)
        made = method.apply(copy.deepcopy(self.model).requires_grad_(False), params, context)
        images, _ = next(iter(made.train.loader(4)))
        if not bool(images.isfinite().all()):
            return {"status": "fault", "reason": "its images are not finite"}
        return {"status": "applies", "images": list(images.shape)}

    # --- figures ----------------------------------------------------------------------------------

    def _measured(self, candidate: Candidate, methods: Sequence[Method]) -> dict[str, Any]:
        file = self.folder / "candidate.onnx"
        deployed = cropped(candidate.model, candidate.crop)
        export(deployed, file, self.size, metadata(self.model), layer_specs(methods))
        if lacking := custom_operators(file):
            raise TrialFailed(f"the file needs operators that a standard runtime lacks: {', '.join(sorted(lacking))}")
        session = open_session(file)
        after, before = self._latency(session)
        integers = candidate.plan["quantization"] is not None
        return {
            "params": [self.before["params"], candidate.params],
            "macs": [self.before["macs"], candidate.macs],
            "float_layers": len(candidate.float_layers),
            "float_in": self._whole(candidate.float_layers),
            "bytes": [self.before["bytes"], file.stat().st_size],
            "latency_ms": [before, after],
            **(
                integers_agree(deployed, file, self.images[:BATCH])
                if integers
                else floats_agree(deployed, session, self.images[:FLOAT_IMAGES])
            ),
        }

    def _whole(self, names: Sequence[str]) -> dict[str, int]:
        """The number of these layers in modules that torch.fx keeps whole, by type of module."""
        whole = [node.target for node in trace(self.model).graph.nodes if node.op == "call_module"]
        kinds = [
            type(self.model.get_submodule(own)).__name__
            for name in names
            for own in whole
            if name.startswith(f"{own}.")
        ]
        return dict(Counter(kinds))

    def _latency(self, session: Any) -> tuple[float, float]:
        """Median processor time of candidate and baseline in ms, for one image and one thread."""
        image = self.images[:1].numpy()
        times: tuple[list[float], list[float]] = [], []
        for _ in range(RUNS):
            for own, kept in zip((session, self.session), times, strict=True):
                started = time.thread_time()
                own.run(None, {INPUT: image})
                kept.append(1e3 * (time.thread_time() - started))
        return round(float(np.median(times[0])), 3), round(float(np.median(times[1])), 3)


def arguments(backbone: Backbone) -> dict[str, Any]:
    """Arguments of ``timm.create_model``. Networks with one input size need it as an argument."""
    fixed = timm.get_pretrained_cfg(backbone.name, allow_unregistered=False).fixed_input_size
    return {**backbone.args, **({"img_size": backbone.size} if fixed else {})}


def _network(backbone: Backbone) -> nn.Module:
    """A network with random weights.

    Constant weights are random too, so that no branch gives zeros.
    """
    torch.manual_seed(0)
    model = models.from_architecture(
        {
            "name": backbone.name,
            "args": {"num_classes": CLASSES, **arguments(backbone)},
            "input_size": [3, backbone.size, backbone.size],
            "mean": [0.5] * 3,
            "std": [0.5] * 3,
            "num_classes": CLASSES,
            "class_names": [str(number) for number in range(CLASSES)],
            "reparameterized": True,
        }
    )
    randomise(model, torch.Generator().manual_seed(0))
    return model.eval()


def _settle(model: nn.Module, size: tuple[int, int, int]) -> None:
    settle(model, torch.randn(8, *size, generator=torch.Generator().manual_seed(3)))


def _job(name: str, *, free: bool) -> Job:
    data = {"data": "none", "pretrained": True} if free else {"data": "digits", "pretrained": False}
    energy = {"objectives": ["accuracy", "energy"], "cost_model": "45nm"}
    return load_job(settings={"model": name, "name": "breadth", **data, **energy})


def _no_limits(job: Job, more: dict[str, Value] | None = None) -> Limits:
    limits = limits_of(job)
    return limits if not more else Limits(values={**limits.values, **more}, methods=None)


def tried(backbone: Backbone, cases: Sequence[Case], checked: bool, send: Callable[[Any], None]) -> None:
    """Sends the rows of one backbone, each when it is finished."""
    with tempfile.TemporaryDirectory() as folder:
        for case, row in Tried(backbone, Path(folder), checked=checked).rows(cases):
            send((case, row))
