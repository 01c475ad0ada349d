"""Every method computes on its device.

With a pretended GPU, tensors of two devices in one operation are an error.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_networks import TWO_BLOCKS
from torch import nn

from autocompress import models
from autocompress.compression.pipeline import Pipeline
from autocompress.compute import Compute
from autocompress.contract import Context, DataSource, Space, TransferSet, manager
from autocompress.job import Limits
from autocompress.recipes.choosers import Replay
from autocompress.recipes.jobspace import JobSpace
from autocompress.store import Store
from autocompress.testing import DeviceMismatch, example_context, example_model, is_on_gpu, pretended_gpu
from autocompress.training import SoftTargets, Training, TrainSettings, recalibrate_batch_norm

TRAINS = {"recover.epochs": 1}
RECIPES: dict[str, tuple[dict[str, str], dict[str, Any]]] = {
    "ghost": ({"ghost": "default", "recover": "default"}, TRAINS),
    "adder": ({"adder": "default", "recover": "default"}, {**TRAINS, "adder.feature": 0.1}),
    "one-shot repair": ({"prune": "default"}, {"prune.keep": 0.5}),
    "sequential repair": ({"prune": "default"}, {"prune.keep": 0.1875}),
    "scop": ({"prune": "default", "recover": "default"}, {**TRAINS, "prune.method": "scop"}),
    "8 bits": ({"bits": "default"}, {"quantize.equalise": True, "quantize.activation_range": "entropy"}),
    "2 bits": ({"bits": "default"}, {"bits.weight": "quantize:2"}),
    "trained 4 bits": ({"bits": "default"}, {"bits.weight": "quantize:4", "qat.epochs": 1}),
    "trained slb": ({"bits": "default"}, {"bits.weight": "slb:2", "qat.epochs": 1}),
}


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return example_model(args=TWO_BLOCKS)


def transfer_of(model: nn.Module) -> TransferSet:
    transfer = example_context(model).transfer
    assert transfer is not None
    few = transfer.train.subset(32)
    return replace(transfer, train=few, calibration=few)


def candidate_of(name: str, model: nn.Module, compute: Compute, folder: Path) -> nn.Module:
    """The network that a recipe gives."""
    rules, values = RECIPES[name]
    methods = manager().methods()
    space = JobSpace(model, methods, Limits(values=values), "model", 1, 1, True)
    policy = space.policy(rules)
    assert policy is not None
    recipe = space.compose(Replay(policy))
    assert bool(recipe.transforms) or recipe.prune is not None or bool(recipe.bits)
    return Pipeline(model, "key", methods, transfer_of(model), "model", 0, compute, Store(folder)).run(recipe).model


@pytest.mark.parametrize("name", RECIPES)
def test_every_stage_computes_on_the_gpu(name: str, model: nn.Module, tmp_path: Path) -> None:
    with pretended_gpu() as gpu:
        candidate = candidate_of(name, model, gpu.compute, tmp_path)
        assert not any(is_on_gpu(tensor) for tensor in candidate.state_dict().values()), "the result is on the CPU"


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", RECIPES)
def test_every_stage_computes_on_a_real_gpu(name: str, model: nn.Module, tmp_path: Path) -> None:
    images = transfer_of(model).train.loader(32)
    batch, _ = next(iter(images))
    there = candidate_of(name, model, Compute.on("cuda"), tmp_path / "gpu")
    here = candidate_of(name, model, Compute(), tmp_path / "cpu")
    assert all(tensor.device.type == "cpu" for tensor in there.state_dict().values())
    with torch.no_grad():
        outputs, expected = there(batch), here(batch)
    assert outputs.isfinite().all()
    assert (outputs.argmax(1) == expected.argmax(1)).float().mean() > 0.5


@pytest.mark.parametrize("name", ["deepinversion", "knowledge_within", "zskd"])
def test_images_are_made_on_the_gpu(name: str, model: nn.Module) -> None:
    (method,) = (one for one in manager().methods() if one.name == name)
    assert isinstance(method, DataSource)
    limits = {f"{name}.images": 6, f"{name}.iterations": 2}
    params = method.search_space(Space(Replay({}), "model", limits).scope(name), model)
    with pretended_gpu() as gpu:
        teacher = copy.deepcopy(model).to(gpu.compute.device)
        context = Context(models.input_size(model), teacher=teacher, compute=gpu.compute)
        assert len(method.apply(teacher, params, context).train) == 6


def test_a_training_on_the_gpu_gives_the_same_network(model: nn.Module) -> None:
    transfer = transfer_of(model)
    settings = TrainSettings(epochs=1, batch_size=16, ema=0.9, accumulate=2)
    soft = SoftTargets(torch.randn(32, 10))
    with pretended_gpu() as gpu:
        there = Training(copy.deepcopy(model), transfer.train, settings, compute=gpu.compute, soft_targets=soft)
        there.run()
        recalibrate_batch_norm(there.model, transfer.train, device=gpu.compute.device)
        moved = there.model.cpu().state_dict()
    here = Training(copy.deepcopy(model), transfer.train, settings, soft_targets=soft)
    here.run()
    recalibrate_batch_norm(here.model, transfer.train)
    for name, tensor in here.model.state_dict().items():
        assert torch.equal(moved[name], tensor), name


MISTAKES: dict[str, Callable[[torch.Tensor], Any]] = {
    "a constant without a device": lambda x: x + torch.zeros(3),
    "a list of both": lambda x: torch.cat([x, torch.zeros(3)]),
    "numpy": lambda x: np.asarray(x.detach()),
    "a sum on the processor": lambda x: torch.zeros(3).add_(x),
    "a generator of the processor": lambda x: torch.multinomial(x.softmax(0), 1, generator=torch.Generator()),
    "a factory with such a generator": lambda x: torch.rand(3, generator=torch.Generator(), device=x.device),
    "a layer that was not moved": lambda x: nn.Linear(3, 2)(x),
    "an index of the GPU": lambda x: torch.zeros(3)[x.argmax()[None]],
    "a caught error": lambda x: _caught(x),
}


def _caught(x: torch.Tensor) -> None:
    with pytest.raises(DeviceMismatch):
        x.mul(torch.ones(3))


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mixed_devices_are_found(mistake: str) -> None:
    with pytest.raises(DeviceMismatch), pretended_gpu():
        MISTAKES[mistake](torch.arange(3.0).to("cuda"))


def test_mixed_devices_in_a_backward_function_are_found() -> None:
    class Wrong(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            return x * 2

        @staticmethod
        def backward(ctx: Any, *grads: Any) -> Any:
            assert grads[0].device.type == "cuda"
            return grads[0] * torch.ones(3)

    with pretended_gpu() as gpu:
        x = torch.ones(3, device=gpu.compute.device, requires_grad=True)
        outputs = Wrong.apply(x).sum()  # type: ignore[no-untyped-call]
        with pytest.raises(DeviceMismatch):
            outputs.backward()
        gpu.mismatches.clear()


def test_operations_that_a_gpu_allows_are_accepted() -> None:
    with pretended_gpu():
        x = torch.arange(3.0).to("cuda").requires_grad_()
        y = x * torch.tensor(2.0) + 1.5  # numbers
        y = y[torch.tensor([0, 2])] + nn.functional.one_hot(y.argmax(), 3)[:2]  # indices
        y.sum().to("cpu").backward()
        assert x.grad is not None
        assert x.grad.is_cuda
        there = torch.zeros(3, device=x.device)
        assert is_on_gpu(there.copy_(torch.ones(3)))
        assert is_on_gpu(copy.deepcopy(there))
        assert not is_on_gpu(x.detach().cpu() + torch.ones(3))
    assert not torch.cuda.is_initialized()
