"""Parameter groups with their own optimizer, or without gradient clipping."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from autocompress.contract import Callback
from autocompress.data import DataInfo, TensorSplit
from autocompress.training import Training, TrainSettings
from autocompress.training.optimizing import Together, clipped_parameters, make_optimizer, parameter_groups


class OwnOptimizer(Callback):
    """The first weight is trained by SGD with three times the learning rate, without clipping."""

    def parameter_groups(self, model: nn.Module) -> list[dict[str, object]]:
        own = model.get_submodule("0").weight
        return [{"params": [own], "optimizer": "sgd", "lr_scale": 3.0, "weight_decay": 0.0, "clip": False}]


def network() -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(6, 5), nn.Flatten(), nn.Linear(5, 4))


def optimizer_of(model: nn.Module) -> torch.optim.Optimizer:
    return make_optimizer("adamw", parameter_groups(model, [OwnOptimizer()], 0.01, 0.05), 0.01)


def steps(model: nn.Module, optimizer: torch.optim.Optimizer, count: int, first: int = 0) -> None:
    for index in range(first, first + count):
        x = torch.randn(8, 6, generator=torch.Generator().manual_seed(index))
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()


def test_each_group_gets_its_own_optimizer() -> None:
    model, both = network(), network()
    optimizer = optimizer_of(both)
    assert isinstance(optimizer, Together)
    assert {type(part) for part in optimizer.parts} == {torch.optim.SGD, torch.optim.AdamW}
    sgd = torch.optim.SGD([next(model.parameters())], lr=0.03, momentum=0.9, nesterov=True)
    rest: list[dict[str, Any]] = [
        {"params": [model[2].weight], "weight_decay": 0.05},
        {"params": [model[0].bias, model[2].bias]},
    ]
    adamw = torch.optim.AdamW(rest, lr=0.01, weight_decay=0.0, fused=True)
    for index in range(3):
        steps(both, optimizer, 1, index)
        x = torch.randn(8, 6, generator=torch.Generator().manual_seed(index))
        model.zero_grad()
        model(x).square().mean().backward()
        sgd.step()
        adamw.step()
    for ours, theirs in zip(both.parameters(), model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_without_such_groups_nothing_changes() -> None:
    optimizer = make_optimizer("adamw", parameter_groups(network(), [], 0.01, 0.05), 0.01)
    assert type(optimizer) is torch.optim.AdamW


def test_learning_rates_set_on_the_groups_are_used() -> None:
    model = network()
    optimizer = optimizer_of(model)
    optimizer.load_state_dict(optimizer.state_dict())
    before = copy.deepcopy(model.state_dict())
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    steps(model, optimizer, 1)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_it_continues_from_its_state() -> None:
    straight, paused = network(), network()
    steps(straight, optimizer_of(straight), 4)
    first = optimizer_of(paused)
    steps(paused, first, 2)
    second = optimizer_of(paused)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    steps(paused, second, 2, 2)
    assert all(torch.equal(a, b) for a, b in zip(straight.parameters(), paused.parameters(), strict=True))


def test_a_scaler_skips_a_step_that_overflowed() -> None:
    model = network()
    optimizer, before = optimizer_of(model), copy.deepcopy(model.state_dict())
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    scaler.scale(model(torch.full((2, 6), float("inf"))).sum()).backward()
    scaler.unscale_(optimizer)
    scaler.step(optimizer)
    scaler.update()
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    optimizer.zero_grad()
    scaler.scale(model(torch.ones(2, 6)).sum()).backward()
    scaler.unscale_(optimizer)
    assert model[2].bias.grad is not None
    torch.testing.assert_close(model[2].bias.grad, torch.full((4,), 2.0), msg="unscaled once")
    scaler.step(optimizer)
    assert not torch.equal(before["0.weight"], model.state_dict()["0.weight"])


class Large(OwnOptimizer):
    """Makes every gradient large, and records the gradients of the next step."""

    def after_backward(self, model: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
        for parameter in model.parameters():
            assert parameter.grad is not None
            parameter.grad.fill_(10.0)


def test_groups_can_be_excluded_from_clipping() -> None:
    model = network()
    assert [id(p) for p in clipped_parameters(model, optimizer_of(model))] == [
        id(p) for name, p in model.named_parameters() if name != "0.weight"
    ]
    info = DataInfo(num_classes=4, channels=1, size=(2, 3), mean=(0.5,), std=(0.5,), class_names=tuple("abcd"))
    images = TensorSplit(torch.randn(8, 1, 2, 3), torch.arange(8) % 4, info)
    net = nn.Sequential(nn.Linear(3, 5), nn.Flatten(), nn.Linear(10, 4))
    settings = TrainSettings(epochs=1, batch_size=8, clip=1.0, augment=False)
    Training(net, images, settings, callbacks=[Large()]).run()
    clipped = [p.grad for name, p in net.named_parameters() if name != "0.weight" and p.grad is not None]
    assert torch.cat([grad.flatten() for grad in clipped]).norm().item() <= 1.0 + 1e-4
    own = next(net.parameters()).grad
    assert own is not None
    assert torch.equal(own, torch.full_like(own, 10.0))
