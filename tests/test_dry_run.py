"""``autocompress search --dry-run`` trains nothing, scores nothing and reads few images."""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from small_networks import NARROW, TWO_BLOCKS
from torch.optim.optimizer import register_optimizer_step_post_hook

from autocompress import forking, models
from autocompress.cli import dryrun
from autocompress.contract import Deployable, Device, Manager, Measurement
from autocompress.data import TensorSplit
from autocompress.data.glyphs import Glyphs
from autocompress.data.provider import LoadOptions
from autocompress.devices import CostModel, OnnxRuntimeCpu, TorchEager
from autocompress.errors import UserError
from autocompress.job import Constraints, load_job
from autocompress.memory import out_of_memory_told
from autocompress.opened import cheapest
from autocompress.opened.feasibility import CheapestCandidate, feasibility
from autocompress.opened.job import OpenedJob
from autocompress.recipes.choosers import Replay
from autocompress.scoring import Scorer

FEW = 300
"""Images that a dry run may read."""


class Watched:
    """Counts the optimizer steps, the images read and the images scored while a test runs."""

    def __init__(self) -> None:
        self.steps = self.images = self.scored = 0


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Iterator[Watched]:
    seen = Watched()
    batch, predict, opened = TensorSplit.batch, Scorer.predict, Image.open

    def read(self: TensorSplit, indices: torch.Tensor, *more: Any) -> torch.Tensor:
        seen.images += len(indices)
        return batch(self, indices, *more)

    def scored(self: Scorer, deployable: Any, images: np.ndarray, *more: Any) -> np.ndarray:
        seen.scored += len(images)
        return predict(self, deployable, images, *more)

    def decoded(*arguments: Any, **more: Any) -> Any:
        seen.images += 1
        return opened(*arguments, **more)

    def stepped(*_: Any) -> None:
        seen.steps += 1

    monkeypatch.setattr(forking, "may_fork", lambda: False)  # in a forked process, counts would be lost
    monkeypatch.setattr(TensorSplit, "batch", read)
    monkeypatch.setattr(Scorer, "predict", scored)
    monkeypatch.setattr(Image, "open", decoded)
    handle = register_optimizer_step_post_hook(stepped)
    yield seen
    handle.remove()


@pytest.fixture(autouse=True)
def _brief(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dryrun, "MEASURED_S", 0.1)


@pytest.fixture(autouse=True)
def _a_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its width is not limited; pytest-xdist sets a width."""
    monkeypatch.delenv("COLUMNS", raising=False)


def shown(**settings: Any) -> str:
    """What the dry run of a job prints."""
    text = io.StringIO()
    job = load_job(settings={"model": "test_resnet", "model_args": TWO_BLOCKS, "data": "digits", **settings})
    dryrun.show(job, Console(file=text, width=80))
    return text.getvalue()


def test_it_trains_scores_and_reads_nothing(watched: Watched) -> None:
    out = shown(methods=["scop", "quantize"], latency="0.9x")
    assert (watched.steps, watched.images, watched.scored) == (0, 0, 0)
    assert "nothing is trained" in out
    assert "methods: scop and quantize" in out
    for row in ("uncompressed", "prune", "quantize", "all together"):
        assert f"\n {row} " in out
    assert "estimate" not in out  # the recipe alone decides the numbers of channels


def test_it_lists_the_methods_that_recipes_may_use() -> None:
    out = shown(methods=["obs", "magnitude", "quantize"], latency="0.9x")
    assert "methods: obs and quantize\n  not used, since the space does not name them: magnitude\n" in out
    named = {"methods": ["obs", "magnitude", "quantize"], "space": {"prune": {"method": "magnitude"}}}
    assert "methods: magnitude and quantize\n  not used, since the space does not name them: obs\n" in shown(**named)


def test_it_says_which_figures_are_estimates() -> None:
    row = CheapestCandidate("learns", *[1.0] * 7, None, {}, ("learns",))
    (told,) = dryrun.estimates([row, replace(row, label="all together"), replace(row, estimated=())])
    assert told.startswith("learns: ")
    assert told.endswith("so its figures are estimates")


def test_a_device_that_raises_is_named_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def open_file(self: OnnxRuntimeCpu, *_: Any) -> None:
        raise KeyError("clock")

    monkeypatch.setattr(OnnxRuntimeCpu, "open", open_file)
    with pytest.raises(UserError, match=r"the device 'onnxruntime-cpu' raised KeyError: 'clock' \(test_dry_run\.py:"):
        shown(methods=["quantize"])


@pytest.mark.parametrize(
    ("kind", "member", "devices"),
    [
        (CostModel, "compare", {"device": "cost-model:bitops"}),
        (CostModel, "compare", {"cost_model": "45nm"}),
        (OnnxRuntimeCpu, "open", {}),
        (OnnxRuntimeCpu, "environment", {}),
        (OnnxRuntimeCpu, "open", {"device": "cost-model:bitops", "also": ["onnxruntime-cpu"]}),
        (TorchEager, "open", {"also": [{"name": "torch-eager", "options": {"compute": "cpu"}}]}),
    ],
)
def test_a_device_that_raises_ends_a_search_before_anything_is_trained(
    kind: type[Device], member: str, devices: dict[str, Any], watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    def raises(self: Device, *_: Any) -> None:
        raise KeyError("unit")

    monkeypatch.setattr(kind, member, raises)
    network = {"model": "test_resnet", "model_args": TWO_BLOCKS, "methods": ["quantize"]}
    job = load_job(settings={**network, "data": "digits", **devices})
    for opens in (OpenedJob.open, OpenedJob.dry):
        with pytest.raises(UserError, match=r"the device '[\w:-]+' raised KeyError: 'unit' \(test_dry_run\.py:"):
            opens(job)
    assert (watched.steps, watched.scored) == (0, 0)


def test_a_device_that_returns_nothing_to_run_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OnnxRuntimeCpu, "open", lambda *_: None)
    with pytest.raises(UserError, match=r"the device 'onnxruntime-cpu' could not be used: TypeError"):
        shown(methods=["quantize"])


@pytest.mark.slow
def test_energy_is_judged_like_the_other_costs() -> None:
    larger = {"model": "resnet10t", "model_args": NARROW}  # sizes that are not mostly the graph of the file
    out = shown(methods=["quantize"], cost_model="45nm", energy="0.001x", size="0.5x", **larger)
    assert "energy: not even the cheapest candidates meet it" in out
    assert "size: within reach of quantize" in out
    (heading,) = [line for line in out.splitlines() if line.startswith(" method ")]
    for column in ("latency", "energy", "parameters", "out of reach"):
        assert f" {column} " in heading  # a pipe has no width, so nothing is truncated
    assert "energy: within reach of quantize" in shown(methods=["quantize"], cost_model="45nm", energy="0.5x", **larger)


def test_the_baseline_is_not_faster_than_itself() -> None:
    opened = OpenedJob.dry(load_job(model="resnet10t", data="digits", methods=["quantize"], latency="0.99x"))

    def noisy(candidate: Deployable, baseline: Deployable, *, seconds: float) -> Measurement:
        del candidate, baseline, seconds
        return Measurement(latency_ms=1.0, latency_ratio=1.1, ratio_low=0.5, ratio_high=1.7, baseline_ms=0.9)

    first, *others = feasibility(opened, noisy)
    assert (first.label, first.latency_ratio, first.meets) == ("uncompressed", 1.0, {"latency": False})
    assert [row.meets for row in others] == [{"latency": True}]


@pytest.fixture(scope="module")
def of_one(tmp_path_factory: pytest.TempPathFactory) -> tuple[OpenedJob, list[cheapest.Built]]:
    """A job for a dry run, and its cheapest candidates as one process builds them."""
    methods = ["magnitude", "quantize"]
    opened = OpenedJob.dry(load_job(model="test_resnet", model_args=TWO_BLOCKS, data="digits", methods=methods))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(forking, "may_fork", lambda: False)
        return opened, cheapest.build_cheapest(opened, tmp_path_factory.mktemp("one"))


@pytest.mark.slow
@pytest.mark.parametrize("helper", ["helps", "dies"])
def test_two_processes_build_the_same_as_one(
    helper: str, of_one: tuple[OpenedJob, list[cheapest.Built]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, alone = of_one
    if helper == "dies":
        monkeypatch.setattr(cheapest, "_help", lambda *_: os._exit(1))
    monkeypatch.setattr(forking, "may_fork", lambda: True)
    together = cheapest.build_cheapest(opened, tmp_path)
    assert all(one.deployable.file.exists() for one in [*alone, *together])
    facts = [[(one.label, one.macs, one.params, one.deployable.operators) for one in own] for own in (alone, together)]
    assert facts[0] == facts[1]
    assert [label for label, *_ in facts[0]] == [label for label, _ in opened.cheapest()]
    if helper == "dies":
        assert all(one.deployable.module is not None for one in together)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """900 small pictures of three classes."""
    random = np.random.default_rng(0)
    for number in range(900):
        own = tmp_path / "pictures" / "abc"[number % 3]
        own.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 255, (16, 16), np.uint8)).save(own / f"{number}.png")
    return tmp_path / "pictures"


def test_a_sample_of_a_folder_is_read(folder: Path, watched: Watched) -> None:
    out = shown(data=f"folder:{folder}", methods=["quantize"])
    assert "3 classes, 16x16, 1 channel; 720 images to train, 90 to validate" in out
    assert 0 < watched.images <= FEW
    assert (watched.steps, watched.scored) == (0, 0)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A network whose batch norms have recorded statistics, which data sources need."""
    args = {**TWO_BLOCKS, "in_chans": 1, "num_classes": 10}
    model = models.create(load_job(model="test_resnet", data="digits", model_args=args))
    state = {name: value + 0.1 if "running_mean" in name else value for name, value in model.state_dict().items()}
    torch.save(state, tmp_path / "weights.pth")
    return tmp_path / "weights.pth"


@pytest.mark.slow
@pytest.mark.parametrize("data", ["none", {"train": "none", "val": "digits"}])
def test_without_training_data_it_makes_no_images(data: Any, checkpoint: Path, watched: Watched) -> None:
    out = shown(data=data, checkpoint=checkpoint, input_size=8, methods=["scop", "quantize"])
    assert (watched.steps, watched.images, watched.scored) == (0, 0, 0)
    assert "images: no training data; the search makes images with " in out
    assert "source: " in out
    assert ("to validate" in out) == (data != "none")


def test_a_job_that_the_search_would_refuse_is_refused() -> None:
    with pytest.raises(UserError, match=r"matches no parameter of the space \(did you mean 'scop.mixing'"):
        OpenedJob.dry(load_job(model="resnet10t", data="digits", space={"scop": {"mixin": "pre_bn"}}))


@pytest.mark.parametrize(
    ("device", "told"),
    [
        ({"batch": 10**10}, "there is not enough memory for batches of 10000000000: "),
        (
            {"input_size": 10**6},
            "there is not enough memory for 2 images of 1000000 x 1000000 pixels in 'test_resnet': ",
        ),
    ],
)
def test_lack_of_memory_gives_one_sentence(device: dict[str, int], told: str) -> None:
    with pytest.raises(UserError) as raised:
        shown(device=device)
    assert raised.value.message.startswith(told)
    assert "input_size" in raised.value.hint


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), True),
        (RuntimeError("std::bad_alloc"), True),
        (RuntimeError("Failed to allocate memory for requested buffer of size 3"), True),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), True),
        (OSError(errno.ENOSPC, "No space left on device"), False),
        (RuntimeError("shapes do not match"), False),
        (ValueError("boom"), False),
    ],
)
def test_out_of_memory_errors_of_all_libraries_are_recognised(error: Exception, expected: bool) -> None:
    with pytest.raises(UserError if expected else type(error)), out_of_memory_told():
        raise error


@pytest.mark.slow
def test_glyphs_are_not_rendered_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTOCOMPRESS_CACHE", str(tmp_path))
    preview = Glyphs().open("glyphs", LoadOptions(preview=True))
    assert not list(tmp_path.rglob("*.npz"))
    real = Glyphs().load("glyphs")
    assert preview.train is not None
    assert real.train is not None
    for seen, kept in zip((preview.train, preview.val, preview.test), (real.train, real.val, real.test), strict=True):
        assert seen is not None
        assert kept is not None
        assert len(seen) == len(kept)
        assert seen.labels().bincount().tolist() == kept.labels().bincount().tolist()
    assert (preview.info.class_names, preview.info.input_size) == (real.info.class_names, real.info.input_size)
    again = Glyphs().open("glyphs", LoadOptions(preview=True))
    assert again.train.digest == real.train.digest  # a stored set is used


def test_the_cheapest_recipes_may_have_no_substitution(opened: OpenedJob) -> None:
    """A ghost module may be slower than the convolution that it replaces."""
    methods = {method.name: method for method in Manager().methods()}

    def labels(*names: str) -> list[str]:
        return [label for label, _ in replace(opened.space, methods=[methods[name] for name in names]).cheapest()]

    assert labels("ghost", "obs", "quantize") == ["ghost", "prune", "quantize", "all but ghost", "all together"]
    assert labels("ghost", "quantize") == ["ghost", "quantize", "all together"]
    assert labels("obs", "quantize") == ["prune", "quantize", "all together"]


@pytest.mark.parametrize(
    ("limits", "bits"),
    [
        ({"latency": "0.5x"}, {"quantize": 8}),
        ({"latency": "0.5x", "size": "0.1x"}, {"quantize": 2, "quantize, most bits": 8}),
        ({"size": "0.1x"}, {"quantize": 2}),
        ({}, {"quantize": 2}),
    ],
)
def test_the_cheapest_recipe_has_few_bits_only_where_these_cost_less(
    opened: OpenedJob, limits: dict[str, str], bits: dict[str, int]
) -> None:
    """A runtime with int8 kernels unpacks fewer bits at each run, which takes time."""
    job = opened.job.model_copy(update={"constraints": Constraints.model_validate(limits)})
    recipes = dict(replace(opened, job=job).cheapest())
    for label, wanted in bits.items():
        found = {own.weight_bits for own in opened.compose(Replay(recipes[label])).bits.values()}
        assert found == {wanted}
    assert ("all together, most bits" in recipes) == ("quantize, most bits" in bits)
    assert "prune, most bits" not in recipes
