"""The float and the compressed network side by side.

Consistent figures, kept channels, and suggested lines of a job.
"""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from cli_here import Commands
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from test_delivery import edit_job
from timm import create_model
from torch import nn

import autocompress
from autocompress.channels.couplings import couplings
from autocompress.channels.removal import remove
from autocompress.compression import rebuilding
from autocompress.contract import manager
from autocompress.debugging import Debugged, debug
from autocompress.debugging.advice import exclusions
from autocompress.job import load_job
from autocompress.layer_errors import Kept, LayerError, compare_layers, kept_channels, losses_alone
from autocompress.opened.job import OpenedJob
from autocompress.quantization.folding import fold_batch_norm

SIZE = (3, 32, 32)


@pytest.fixture(scope="module")
def quantized(small_run: Path) -> Debugged:
    return debug(small_run, 0, images=16)


@pytest.fixture(scope="module")
def pruned(small_run: Path) -> Debugged:
    return debug(small_run, images=16)


def all_kept(model: nn.Module) -> dict[str, Kept]:
    return kept_channels(model, [], {})


def test_int8_is_near_to_float_in_every_layer(quantized: Debugged) -> None:
    assert quantized.trial == 0
    assert quantized.images == "16 validation images"
    assert len(quantized.layers) > 5
    assert quantized.others == []
    for one in quantized.layers:
        assert one.kept == one.channels
        assert one.snr_db > 15
        assert one.cosine > 0.98
        assert quantized.bits[one.layer] == "int8"
    assert quantized.parted is None
    assert quantized.kl < 0.1


def test_the_divergence_after_the_last_layer_is_that_of_the_logits(quantized: Debugged, pruned: Debugged) -> None:
    for found in (quantized, pruned):
        assert found.layers[-1].kl == pytest.approx(found.kl, rel=1e-6)


def test_a_pruned_network_has_fewer_channels_and_larger_differences(quantized: Debugged, pruned: Debugged) -> None:
    assert pruned.trial == 1, "the recommended model is compared"
    fewer = [one for one in pruned.layers if one.kept < one.channels]
    assert fewer
    assert min(one.snr_db for one in pruned.layers) < min(one.snr_db for one in quantized.layers)
    first = pruned.layers[0]
    assert first.snr_db > 15, "kept channels of the first layer have equal outputs"


def test_suggested_lines_are_valid_in_a_job(pruned: Debugged, small_run: Path, teacher: Path) -> None:
    assert any(line.startswith("bits.weight.") for line in pruned.exclusions)
    space = yaml.safe_load("\n".join(pruned.exclusions))
    job = load_job(small_run / "job.yaml").model_copy(update={"space": space})
    OpenedJob.dry(job)  # an unknown parameter would be refused


def test_a_network_compared_with_itself_has_no_differences() -> None:
    model = create_model("test_resnet").eval()
    folded = fold_batch_norm(model)
    found = compare_layers(folded, fold_batch_norm(model), all_kept(model), torch.randn(3, *SIZE))
    assert found.kl == 0
    assert found.equal == 100
    for one in found.layers:
        assert (one.snr_db, one.kl, one.own_kl) == (math.inf, 0, 0)
        assert one.cosine == pytest.approx(1)


def test_the_layer_with_an_error_is_found() -> None:
    """One layer has noise. All layers before it are exact, and alone it has the largest error."""
    model = create_model("test_resnet").eval()
    folded, faulty = fold_batch_norm(model), fold_batch_norm(model)
    names = [one.layer for one in compare_layers(folded, faulty, all_kept(model), torch.randn(1, *SIZE)).layers]
    bad = names[2]  # of the stem: an untrained block adds nothing to its residual stream
    weight = faulty.get_submodule(bad).weight.data
    weight += 2 * weight.std() * torch.randn(weight.shape)
    found = compare_layers(folded, faulty, all_kept(model), torch.randn(4, *SIZE)).layers
    by_name = {one.layer: one for one in found}
    for name in names[: names.index(bad)]:
        assert by_name[name].snr_db == math.inf
    assert by_name[bad].snr_db < 10
    assert max(found, key=lambda one: one.own_kl or 0).layer == bad
    assert all(one.own_kl == 0 for one in found if one.layer != bad)


def test_losses_alone_are_those_of_the_comparison(monkeypatch: pytest.MonkeyPatch) -> None:
    model = create_model("test_resnet").eval()
    reference, other = fold_batch_norm(model), fold_batch_norm(model)
    other.get_submodule("fc").weight.data *= 1.5
    images = torch.randn(5, *SIZE)
    compared = {one.layer: one.own_kl for one in compare_layers(reference, other, all_kept(model), images).layers}
    assert losses_alone(reference, other, all_kept(model), images) == pytest.approx(compared, rel=1e-4, abs=1e-9)
    assert losses_alone(reference, other, all_kept(model), images, seconds=0.0) == {}


def test_figures_do_not_depend_on_the_batch_size(monkeypatch: pytest.MonkeyPatch) -> None:
    model = create_model("test_resnet").eval()
    folded, other = fold_batch_norm(model), fold_batch_norm(model)
    other.get_submodule("fc").weight.data *= 1.5
    images = torch.randn(5, *SIZE)
    whole = compare_layers(folded, other, all_kept(model), images)
    monkeypatch.setattr("autocompress.layer_errors.errors.PIXELS_TOGETHER", 2 * 32 * 32)
    parts = compare_layers(folded, other, all_kept(model), images)
    assert parts.kl == pytest.approx(whole.kl, rel=1e-4)
    assert [one.layer for one in parts.layers] == [one.layer for one in whole.layers]
    assert parts.layers[-1].snr_db == pytest.approx(whole.layers[-1].snr_db, abs=1e-3)


@pytest.mark.slow
@settings(max_examples=5, deadline=None, derandomize=True, phases=(Phase.generate,))
@given(st.data())
def test_kept_channels_are_those_of_the_plan(choices: st.DataObject) -> None:
    model = create_model("test_resnet").eval()
    keep = {}
    for coupling in (one for one in couplings(model, SIZE, "inner") if one.prunable):
        numbers = st.sets(st.integers(0, coupling.channels - 1), min_size=1)
        keep[coupling.name] = sorted(choices.draw(numbers))
    plan = [{"stage": "prune", "method": "obs", "plan": {"keep": keep, "mode": "inner", "input_size": list(SIZE)}}]
    found = kept_channels(model, plan, {})
    changed = remove(create_model("test_resnet").eval(), keep, SIZE, "inner")
    for name, one in found.items():
        weight = changed.get_submodule(name).weight
        assert tuple(weight.shape[:2]) == (len(one.outputs), len(one.inputs))
    for name, numbers in keep.items():
        assert found[name].outputs.tolist() == numbers


def test_replaced_layers_are_left_out(small_run: Path) -> None:
    model = create_model("resnet10t", num_classes=4).eval()
    ghost = manager().method("ghost")
    from autocompress.contract import Space
    from autocompress.recipes.choosers import Replay

    params = ghost.search_space(Space(Replay({}), "model", {"ghost.ratio": 2}).scope("ghost"), model)
    from autocompress.contract import Context

    _, plan = ghost.apply(rebuilding.copy.deepcopy(model), params, Context(input_size=(3, 32, 32)))
    found = kept_channels(model, [{"method": "ghost", "plan": plan}], {"ghost": ghost})
    assert "fc" in found
    assert "layer2.0.conv1" not in found


def test_the_worst_layers_are_named_until_most_of_the_error_is_explained() -> None:
    kept = {name: Kept(torch.arange(4), torch.arange(4)) for name in "abc"}
    layers = [
        LayerError(name, 4, 4, 9.0, 1.0, kl, own) for name, kl, own in (("a", 0.5, 0.1), ("b", 0.5, 0.9), ("c", 0.2, 0))
    ]
    plan = {"transforms": [], "quantization": {"layers": {name: {"group": f"group {name}"} for name in "abc"}}}
    assert exclusions(layers, kept, plan) == ["bits.weight.group b: none  # nats: b 0.9"]
    assert exclusions([], kept, plan) == []
    cut = {"stage": "prune", "plan": {"keep": {"a": [0, 1], "b": [0, 1, 2, 3]}}}
    lines = exclusions(layers, kept, {"transforms": [cut], "quantization": None})
    assert lines == ["prune.keep.b: 1.0  # nats: b 0.9"], "the layer reads or writes kept channels of coupling b"


def test_the_command_prints_a_table_or_json(small_run: Path, commands: Commands) -> None:
    out = commands("debug", small_run, "--trial", "1", "--images", "8")
    for text in ("SNR, dB", "KL alone", " of ", "trial 1 on 8 validation images", "space:", "bits.weight."):
        assert text in out
    commands.columns = 40
    narrow = commands("debug", small_run, "--trial", "1", "--images", "8").partition("trial 1 on")[0]
    assert max(map(len, narrow.splitlines())) <= 40
    assert "KL alone" in narrow, "no heading is wrapped"
    told = json.loads(commands("debug", small_run, "--trial", "0", "--images", "8", "--json"))
    assert told["layers"][0]["layer"] == "conv1.0"
    assert told["parted"] is None


def test_models_that_cannot_be_debugged_give_a_reason(small_run: Path, tmp_path: Path, commands: Commands) -> None:
    run = tmp_path / "run"
    shutil.copytree(small_run, run)
    (run / "artifacts" / "1").rename(run / "artifacts" / "1-rung1")  # of a recipe that a rung trained
    assert "trials with a model: 0, 1" in commands("debug", run, "--trial", "7", code=2)
    assert "trial 1 on 4 validation images" in commands("debug", run, "--trial", "1", "--images", "4")
    assert "is not a run" in commands("debug", tmp_path, code=2)
    (run / "front.csv").unlink()
    said = commands("debug", run, code=2)
    assert "is not over, so no model is recommended yet" in said
    assert "choose one with --trial: 0, 1" in said
    edit_job(run, checkpoint=None)
    said = commands("debug", run, "--trial", "0", code=2)
    assert "the trained baseline is not in" in said
    assert "AUTOCOMPRESS_CACHE" in said
    (run / "artifacts" / "0" / "plan.json").write_text("[")
    assert "is damaged" in commands("debug", run, "--trial", "0", code=2)


def test_a_model_is_debugged_without_missing_plugin_files_and_study_if_it_needs_neither(
    small_run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = tmp_path / "run"
    shutil.copytree(small_run, run)
    edit_job(run, plugins=[str(tmp_path / "gone.py")], search={"storage": "redis://127.0.0.1:1/0"})
    assert debug(run, 0, images=4).images == "4 validation images"
    assert "gone.py of the job is missing" in caplog.text


def test_a_run_without_images_is_compared_on_noise(small_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(small_run, run)
    edit_job(run, data="none", model_args={"in_chans": 1, "num_classes": 10})
    assert autocompress.debug(run, 0, images=4).images == "4 images of noise"
