"""The REPAIR stage after PRUNE: what it refits, when it undoes that, and unsuitable input."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from pruning_stage import pruned
from torch import nn

from autocompress.compression.repair import Images
from autocompress.contract import Context, Plan, Pruner, TransferSet
from autocompress.data import DataInfo, TensorSplit
from autocompress.errors import TrialFailed
from autocompress.recipes.pruning import kept_whole
from autocompress.repair import choose_ridge, gather, refit
from autocompress.testing import example_context, example_model
from autocompress.testing.rules import same_tensors
from autocompress_obs import Obs
from autocompress_scop import Scop
from autocompress_simple_pruners import Magnitude

IMAGES = 96
FITS = ("one-shot", "sequential")
CPU = torch.device("cpu")
INFO = DataInfo(10, 3, (32, 32), (0.0,) * 3, (1.0,) * 3, tuple("0123456789"))


@pytest.fixture(scope="module")
def model() -> nn.Module:
    """A model whose gammas are not zero. timm starts the last norm of each block at 0."""
    found = example_model()
    generator = torch.Generator().manual_seed(0)
    for module in found.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data.uniform_(0.5, 1.5, generator=generator)
    return found


@pytest.fixture(scope="module")
def images(model: nn.Module) -> torch.Tensor:
    context = example_context(model)
    assert context.transfer is not None
    own = context.transfer.train.batch(torch.arange(64))
    return torch.cat([own, own.flip(-1)])[:IMAGES]


def context_of(model: nn.Module, images: torch.Tensor) -> Context:
    context = example_context(model, teacher=model)
    assert context.transfer is not None
    split = TensorSplit(images, torch.arange(len(images)) % 10, context.transfer.train.info)
    return replace(context, transfer=TransferSet(split, split, split.digest))


def repaired(
    model: nn.Module, images: torch.Tensor, fit: str, keep: float = 0.5, pruner: Pruner | None = None
) -> tuple[nn.Module, Plan]:
    """The repaired network, and the plan of REPAIR."""
    settings = {"fit": fit, "images": 64}
    network, steps = pruned(model, pruner or Magnitude(), context_of(model, images), keep, repair=settings)
    assert [step["stage"] for step in steps] == ["prune", "repair"]
    return network, steps[1]["plan"]


def held_out_of(count: int, seed: int = 0) -> torch.Tensor:
    """Positions of the held-out images, as the stage draws them.

    The first third of a seeded permutation.
    """
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed))[: count // 3]


# --- what it does ---------------------------------------------------------------------------------


@pytest.mark.parametrize("fit", FITS)
def test_a_refit_reduces_the_divergence_from_the_baseline(fit: str, model: nn.Module, images: torch.Tensor) -> None:
    _, plan = repaired(model, images, fit)
    assert plan["fit"] == fit
    assert plan["refitted"] > 0
    before, after = plan["divergence"]
    assert after < 0.8 * before


@pytest.mark.parametrize("fit", FITS)
def test_a_repair_that_increases_the_divergence_is_undone_and_counted(
    fit: str, model: nn.Module, images: torch.Tensor
) -> None:
    """Moments are computed on images of one colour, and judged on images with content."""
    flat = images.clone()
    fitted_on = torch.ones(len(images), dtype=torch.bool)
    fitted_on[held_out_of(len(images))] = False
    flat[fitted_on] = 0.3
    network, plan = repaired(model, flat, fit)
    before, after = plan["divergence"]
    assert after > before
    assert plan["refitted"] == 0
    assert plan["undone"] > 0
    plain, steps = pruned(model, Magnitude(), context_of(model, flat), 0.5)
    assert len(steps) == 1
    assert same_tensors(network.state_dict(), plain.state_dict()), "equal to a network without a refit"


@pytest.mark.parametrize("pruner", [Magnitude(), Obs()], ids=lambda pruner: pruner.name)
@pytest.mark.parametrize("count", [1, 2, 40])
def test_with_too_few_images_there_is_no_repair(
    pruner: Pruner, count: int, model: nn.Module, images: torch.Tensor
) -> None:
    """A third of 40 images judges. The other 27 are fewer than the minimum of 32."""
    network, plan = repaired(model, images[:count], "one-shot", pruner=pruner)
    left = count - count // 3
    assert plan == {"biases": [], "refitted": 0, "reason": f"{left} images are too few"}
    plain, _ = pruned(model, pruner, context_of(model, images[:count]), 0.5)
    assert same_tensors(network.state_dict(), plain.state_dict())


def test_the_fewest_images_are_enough(model: nn.Module, images: torch.Tensor) -> None:
    _, plan = repaired(model, images[:48], "one-shot")
    assert "reason" not in plan
    assert plan["refitted"] > 0


# --- input that is odd ----------------------------------------------------------------------------


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e25])
@pytest.mark.parametrize("fit", [*FITS, "none"])
def test_nan_images_fail_the_trial(value: float, fit: str, model: nn.Module, images: torch.Tensor) -> None:
    """It does not matter which image has NaN. Without a refit, the running statistics show it."""
    bad = images.clone()
    bad[[0, 10, 20, 30, 40, 50, 60, 70, 80, 90]] = value
    with pytest.raises(TrialFailed, match=r"holds (NaN|infinite values)"):
        pruned(model, Magnitude(), context_of(model, bad), 0.5, repair={"fit": fit, "images": 64})


def test_moments_without_an_image_fail_the_trial(model: nn.Module, images: torch.Tensor) -> None:
    with pytest.raises(TrialFailed, match="at least one image"):
        pruned(model, Obs(), context_of(model, images[:0]), 0.5)


@pytest.mark.parametrize("fit", FITS)
def test_constant_images(fit: str, model: nn.Module, images: torch.Tensor) -> None:
    """Moments have one direction.

    A refit must give finite weights, and right outputs for that image.
    """
    network, plan = repaired(model, torch.full_like(images, 0.2), fit)
    assert plan["refitted"] > 0
    with torch.no_grad():
        same = torch.full_like(images[:2], 0.2)
        torch.testing.assert_close(network(same), model(same), rtol=1e-2, atol=1e-2)


def dead(model: nn.Module) -> nn.Module:
    """The first channels of every inner layer are dead.

    Zero weights, and zero running statistics.
    """
    found = copy.deepcopy(model)
    with torch.no_grad():
        for name, module in found.named_modules():
            if name.endswith("conv1") and name.startswith("layer"):
                assert isinstance(module.weight, torch.Tensor)
                module.weight[:4] = 0
                norm: Any = found.get_submodule(name.replace("conv1", "bn1"))
                norm.running_mean[:4] = 0
                norm.running_var[:4] = 0
    return found


@pytest.mark.parametrize("made", [Magnitude, Obs, Scop], ids=lambda made: made.name)
@pytest.mark.parametrize("fit", FITS)
def test_dead_channels_are_removed_first_without_a_loss(
    made: Callable[[], Pruner], fit: str, model: nn.Module, images: torch.Tensor
) -> None:
    """Running variances of 0 are among them."""
    network, plan = repaired(dead(model), images, fit, keep=0.75, pruner=made())
    assert all(bool(tensor.isfinite().all()) for tensor in network.state_dict().values())
    if made is not Scop:  # after one epoch, scores of many channels are near 0
        assert plan["divergence"][1] < 0.05


class Joined(nn.Module):
    """One layer reads the concatenation of two others."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.left, self.right, self.reader = nn.Conv2d(8, 16, 1), nn.Conv2d(8, 12, 1), nn.Conv2d(28, 8, 1, bias=False)
        self.fc = nn.Linear(8, 10)
        self.pretrained_cfg: dict[str, Any] = {"input_size": (3, 32, 32), "num_classes": 10, "first_conv": "stem"}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        both = torch.cat([torch.relu(self.left(x)), torch.relu(self.right(x))], 1)
        return self.fc((x + self.reader(both)).mean((2, 3)))


def test_a_reader_of_a_concatenation_is_refitted_once_for_all_its_lost_inputs(images: torch.Tensor) -> None:
    """It gets a bias, because no norm follows it."""
    net = Joined().eval()
    widths = {"left": 0.5, "right": 0.5}
    settings = {"fit": "one-shot", "images": 64}
    network, steps = pruned(net, Magnitude(), context_of(net, images), widths, mode="group", repair=settings)
    plan, keep = steps[1]["plan"], steps[0]["plan"]["keep"]
    assert plan["refitted"] == 1
    assert plan["biases"] == ["reader"]
    kept = [*keep["left"], *(16 + channel for channel in keep["right"])]
    chosen = Images(TensorSplit(images, torch.zeros(len(images), dtype=torch.int64), INFO), 64, 0, CPU, "")
    moments = gather(net, ["reader"], chosen.batches, choose_ridge=choose_ridge)["reader"]
    stays = torch.zeros((1, 28), dtype=torch.bool)
    stays[0, kept] = True
    new, shift = refit(moments.columns.weight(net.reader), moments, stays)
    reader = network.get_submodule("reader")
    torch.testing.assert_close(reader.weight[:, :, 0, 0].double(), new[0][:, kept], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(reader.bias.double(), shift[0], rtol=1e-4, atol=1e-5)
    dry, _ = pruned(
        net, Magnitude(), replace(example_context(net), dry_run=True), widths, mode="group", repair=settings
    )
    assert {name: t.shape for name, t in dry.state_dict().items()} == {
        name: t.shape for name, t in network.state_dict().items()
    }


class Tied(nn.Module):
    """Three blocks. The last two read different channels with one shared weight."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.own, self.read_own = nn.Conv2d(8, 16, 1), nn.Conv2d(16, 8, 1)
        self.one, self.read_one = nn.Conv2d(8, 16, 1), nn.Conv2d(16, 8, 1)
        self.two, self.read_two = nn.Conv2d(8, 16, 1), nn.Conv2d(16, 8, 1)
        self.read_two.weight = self.read_one.weight
        self.fc = nn.Linear(8, 10)
        self.pretrained_cfg: dict[str, Any] = {"input_size": (3, 32, 32), "num_classes": 10, "first_conv": "stem"}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        x = x + self.read_own(torch.relu(self.own(x)))
        x = x + self.read_one(torch.relu(self.one(x)))
        x = x + self.read_two(torch.relu(self.two(x)))
        return self.fc(x.mean((2, 3)))


@pytest.mark.parametrize("fit", FITS)
def test_shared_weights_stay_shared_and_are_not_refitted(fit: str, images: torch.Tensor) -> None:
    """A fit for the inputs of one layer may be wrong for those of the other."""
    net = Tied().eval()
    network, steps = pruned(net, Magnitude(), context_of(net, images), 0.5, repair={"fit": fit, "images": 64})
    assert list(steps[0]["plan"]["keep"]) == ["own"]
    assert steps[1]["plan"]["refitted"] > 0
    assert network.get_submodule("read_one").weight is network.get_submodule("read_two").weight
    assert torch.equal(network.get_submodule("read_one").weight, net.read_one.weight)


@pytest.mark.parametrize("mode", ["inner", "group"])
def test_channels_that_a_shared_weight_reads_are_kept(mode: str) -> None:
    net = Tied().eval()
    told = kept_whole(net, mode)
    for name in ("one", "two"):
        assert "read_one.weight" in told[name]
        assert "read_two.weight" in told[name]
    assert "own" not in told


def test_facts_about_a_network_are_not_used_for_one_with_a_shared_weight() -> None:
    """Both have the same repr."""
    apart, shared = Tied().eval(), Tied().eval()
    apart.read_two.weight = nn.Parameter(apart.read_two.weight.detach().clone())
    assert "one" not in kept_whole(apart, "inner")
    assert "one" in kept_whole(shared, "inner")
