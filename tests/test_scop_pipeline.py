"""SCOP in recipes: scored once, pruned, recovered, quantized, exported, and loaded without data."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from small_networks import NARROW

from autocompress.channels.removal import Scatter
from autocompress.compression import artifact
from autocompress.compression.candidate import Candidate
from autocompress.export import check_agreement, operator_histogram
from autocompress.job import load_job
from autocompress.opened.job import OpenedJob
from autocompress.recipes.choosers import Fixed, Policy, Replay

RULES = {"prune": "default", "scop": "default", "recover": "default", "bits": "default", "quantize": "default"}


def by_scop(rules: dict[str, str] | None = None) -> Fixed:
    return Fixed({"prune.method": "scop"}, Policy({"prune": "default", "scop": "default"} if rules is None else rules))


def shapes(candidate: Candidate) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in candidate.model.state_dict().items()}


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["inner", "group"])
def test_a_dry_run_has_the_deployed_structure(mode: str, opened: OpenedJob, tmp_path: Path) -> None:
    values = {**opened.compose(by_scop(RULES)).values, "prune.mode": mode, "prune.multiple": 1}
    recipe = opened.compose(Replay(values))
    assert not recipe.transforms
    assert recipe.prune is not None
    assert recipe.prune.method == "scop"
    dry, real = opened.candidate(recipe, dry_run=True), opened.candidate(recipe)
    assert shapes(dry) == shapes(real)
    assert (dry.params, dry.macs) == (real.params, real.macs)
    assert real.params < 0.9 * opened.baseline.params
    assert real.macs < opened.baseline.macs
    for name, candidate in (("dry", dry), ("real", real)):
        opened.export(candidate, tmp_path / f"{name}.onnx")
    assert operator_histogram(tmp_path / "dry.onnx") == operator_histogram(tmp_path / "real.onnx")


def test_an_artifact_is_loaded_without_data(opened: OpenedJob, tmp_path: Path) -> None:
    candidate = opened.candidate(opened.compose(by_scop(RULES)))
    deployable = opened.export(candidate, tmp_path / "model.onnx")
    opened.save_artifact(candidate, deployable, tmp_path / "artifact", {})
    loaded = artifact.load(tmp_path / "artifact")
    images = next(iter(opened.splits.val.loader(16)))[0]
    with torch.no_grad():
        assert torch.equal(loaded(images), candidate.model(images))
    assert deployable.file.stat().st_size < 0.5 * opened.baseline.size_bytes
    accuracy, _ = opened.accuracy(deployable, "val")
    assert accuracy > opened.baseline.accuracy - 10, "a pruned and recovered network is still accurate"


@pytest.mark.slow
def test_it_applies_to_ghost_modules(opened: OpenedJob) -> None:
    both = opened.compose(by_scop({"ghost": "default", "prune": "default", "scop": "default"}))
    assert [name for name, _ in both.transforms] == ["ghost"]
    assert both.prune is not None
    dry, real = opened.candidate(both, dry_run=True), opened.candidate(both)
    assert shapes(dry) == shapes(real)
    ghost = opened.candidate(opened.compose(Policy({"ghost": "default"})), dry_run=True)
    assert real.macs < ghost.macs


@pytest.mark.slow
def test_a_job_can_use_the_scheme_of_the_paper(opened: OpenedJob, tmp_path: Path) -> None:
    """In the mode "scatter", the last convolution of each block is pruned too.

    The sums of residual blocks keep their width.
    """
    del opened  # uses the baseline of the job above
    job = load_job(
        model="resnet10t",
        model_args=NARROW,
        data="digits",
        baseline={"epochs": 4},
        budget={"epochs": 1},
        methods=["scop", "quantize"],
        space={
            "prune": {"mode": "scatter", "multiple": 1, "keep": 0.5},
            "scop": {"score_epochs": 1, "score_images": 64},
        },
        name="scop-scatter",
    )
    own = OpenedJob.open(job)
    recipe = own.compose(by_scop({**RULES, "bits": "neutral"}))
    assert recipe.values["prune.mode"] == "scatter"
    dry, real = own.candidate(recipe, dry_run=True), own.candidate(recipe)
    assert shapes(dry) == shapes(real)
    assert real.macs < 0.6 * own.baseline.macs
    streams = [m for m in real.model.modules() if isinstance(m, Scatter)]
    assert len(streams) == 4, "one for each block of resnet10t"
    assert {m.width for m in streams} == set(NARROW["channels"])
    assert all(len(m.keep) == m.width // 2 for m in streams)
    images = next(iter(own.splits.val.loader(64)))[0]
    int8 = own.candidate(own.compose(by_scop(RULES)))
    # A value between two integers may be rounded to either one, which may change one label.
    for name, candidate, least in (("int8", int8, 63 / 64), ("float", real, 1)):
        deployable = own.export(candidate, tmp_path / f"{name}.onnx")
        assert check_agreement(deployable.file, candidate.model, images).labels >= least
    own.save_artifact(real, deployable, tmp_path / "artifact", {})
    with torch.no_grad():
        assert torch.equal(artifact.load(tmp_path / "artifact")(images), real.model(images))
    assert own.accuracy(deployable, "val")[0] > 50, "chance is 10"
