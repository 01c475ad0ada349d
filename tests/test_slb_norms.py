"""State batch normalisation in both forms, and the norms to which it applies."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import fx, nn

from autocompress.contract import Context, TensorSpec, TransferSet
from autocompress.data import DataInfo, TensorSplit
from autocompress.quantization.fakelayers import with_fake_weight
from autocompress_slb import state_norm
from autocompress_slb.callback import SlbCallback, searched_layers
from autocompress_slb.fakequant import SlbFakeQuantizer
from autocompress_slb.settings import Settings
from autocompress_slb.state_norm import StateBatchNorm2d, calibrate, norms_behind, state_batch_norm


def network(bits: int = 2, **options: Any) -> nn.Sequential:
    """A float stem with a norm, two searched convolutions with norms, a norm, and a classifier."""
    torch.manual_seed(0)

    def searched(name: str, inputs: int) -> nn.Module:
        conv = nn.Conv2d(inputs, 6, 3, bias=False)
        conv.add_module("norm", nn.BatchNorm2d(6))
        spec = TensorSpec(name, "weight", "g", "conv", tuple(conv.weight.shape), bits, 0, normed=True)
        return with_fake_weight(conv, SlbFakeQuantizer(spec, bits, Settings(**options)))

    return nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        searched("one", 4),
        nn.ReLU(),
        searched("two", 6),
        nn.ReLU(),
        nn.BatchNorm2d(6),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, 5),
    )


def images(count: int = 32, seed: int = 1) -> torch.Tensor:
    return torch.randn(count, 3, 12, 12, generator=torch.Generator().manual_seed(seed))


def context(x: torch.Tensor) -> Context:
    info = DataInfo(5, 3, (12, 12), (0.5,) * 3, (0.5,) * 3, tuple("abcde"))
    split = TensorSplit(x, torch.arange(len(x)) % 5, info)
    return Context((3, 12, 12), TransferSet(split, split, split.digest))


def statistics(model: nn.Module) -> dict[str, torch.Tensor]:
    return {n: t.clone() for n, t in model.state_dict().items() if n.endswith(("running_mean", "running_var"))}


def discrete_twin(model: nn.Module) -> nn.Module:
    """The same network with the arg-max weights in plain convolutions."""
    twin = copy.deepcopy(model)
    for name, layer in searched_layers(twin).items():
        plain = nn.Conv2d(layer.in_channels, layer.out_channels, 3, bias=False)
        plain.weight = nn.Parameter(layer.weight_quantizer.eval()(layer.weight).detach())
        norm = nn.BatchNorm2d(layer.out_channels)
        norm.load_state_dict(layer.norm.state_dict())
        twin.set_submodule(name, nn.Sequential())
        twin.get_submodule(name).add_module("conv", plain)
        twin.get_submodule(name).add_module("norm", norm)
    return twin


def train(model: nn.Module, callback: SlbCallback, x: torch.Tensor, steps: int = 4) -> None:
    callback.on_start(model, steps)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    model.train()
    for step in range(steps):
        if step == steps // 3:  # running averages lag behind while weights change
            optimizer.param_groups[0]["lr"] = 1e-5
        callback.before_step(model, step)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), torch.arange(len(x)) % 5).backward()
        callback.after_backward(model, optimizer, step)
        optimizer.step()
    callback.on_epoch_end(model, 0)
    callback.on_end(model)
    model.eval()


# --- the layer ------------------------------------------------------------------------------------


def test_each_state_has_its_own_statistics_and_they_share_gamma_and_beta() -> None:
    plain = nn.BatchNorm2d(4)
    norm = state_batch_norm(plain)
    assert isinstance(norm, StateBatchNorm2d)
    assert norm.weight is plain.weight
    assert norm.bias is plain.bias
    assert list(norm.state_dict()) == list(plain.state_dict())
    y_c, y_q = 2 + 3 * torch.randn(16, 4, 6, 6), -1 + 0.5 * torch.randn(16, 4, 6, 6)
    continuous = norm.train()(y_c)
    before = norm.continuous_mean.clone(), norm.continuous_var.clone()
    assert torch.equal(norm.running_mean, torch.zeros(4))
    norm.state = "discrete"
    with torch.no_grad():
        discrete = norm(y_q)
    assert torch.equal(norm.continuous_mean, before[0])
    assert torch.equal(norm.continuous_var, before[1])
    assert norm.weight.grad is None
    assert not discrete.requires_grad
    for output in (continuous, discrete):
        torch.testing.assert_close(output.mean((0, 2, 3)), torch.zeros(4), atol=1e-5, rtol=0)
        torch.testing.assert_close(output.var((0, 2, 3)), torch.ones(4), atol=1e-2, rtol=0)
    torch.testing.assert_close(norm.running_mean, 0.1 * y_q.mean((0, 2, 3)))
    torch.testing.assert_close(norm.running_var, 0.9 + 0.1 * y_q.var((0, 2, 3)))
    torch.testing.assert_close(norm.continuous_mean, 0.1 * y_c.mean((0, 2, 3)))
    evaluated = norm.eval()(y_q)
    channels = norm.running_mean.reshape(1, -1, 1, 1), norm.running_var.reshape(1, -1, 1, 1)
    torch.testing.assert_close(evaluated, (y_q - channels[0]) / (channels[1] + norm.eps).sqrt())


def test_states_are_equal_if_weights_are() -> None:
    model = network(t_final=1e6, t_first=1e6, hard_tail=False)
    x = images()
    callback = SlbCallback(Settings(norm="two_statistics", t_final=1e9, t_first=1e9, hard_tail=False), context(x))
    callback.on_start(model, 10)
    model.train()
    callback.before_step(model, 0)
    model(x)
    for layer in searched_layers(model).values():
        torch.testing.assert_close(layer.norm.continuous_mean, layer.norm.running_mean, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(layer.norm.continuous_var, layer.norm.running_var, atol=1e-5, rtol=1e-4)


# --- two statistics in a network ------------------------------------------------------------------


def test_a_batch_is_run_twice_the_second_time_with_the_deployed_weights() -> None:
    model, x = network(1), images()
    for layer in searched_layers(model).values():
        layer.weight_quantizer.start_search(layer.weight)
    twin = discrete_twin(model).train()
    twin(x)
    callback = SlbCallback(Settings(norm="two_statistics"), context(x))
    callback.on_start(model, 10)
    model.train()
    callback.before_step(model, 0)
    model(x).sum().backward()
    found, expected = statistics(model), statistics(twin)
    for name in ("3.norm", "5.norm", "7"):
        for kind in ("running_mean", "running_var"):
            wanted = expected[f"{name}.{kind}"]
            torch.testing.assert_close(found[f"{name}.{kind}"], wanted, atol=1e-5, rtol=1e-4)
        continuous = model.get_submodule(name).continuous_var
        assert not torch.allclose(continuous, found[f"{name}.running_var"], rtol=1e-3)  # type: ignore[arg-type]


def test_in_the_hard_tail_one_pass_is_enough() -> None:
    x, passes = images(), []
    model = network()
    callback = SlbCallback(Settings(norm="two_statistics"), context(x))
    callback.on_start(model, 10)
    model[0].register_forward_hook(lambda *_: passes.append(1))
    model.train()
    for step, count in ((0, 2), (9, 1)):
        callback.before_step(model, step)
        passes.clear()
        before = statistics(model)
        model(x)
        assert len(passes) == count
        assert not torch.equal(before["5.norm.running_mean"], statistics(model)["5.norm.running_mean"])
    callback.on_end(model)
    passes.clear()
    model(x)
    assert len(passes) == 1


# --- calibration ----------------------------------------------------------------------------------


def test_calibration_gives_the_statistics_of_the_discrete_network() -> None:
    model = network()
    for layer in searched_layers(model).values():
        layer.weight_quantizer.start_search(layer.weight)
        with torch.no_grad():
            layer.norm.weight.uniform_(0.5, 2)
            layer.norm.bias.uniform_(-1, 1)
    batches = [images(16, 3), images(16, 4)]
    parameters = {name: parameter.clone() for name, parameter in model.named_parameters()}
    stem = statistics(model)["1.running_mean"]
    names = norms_behind(model, list(searched_layers(model)))[1:]
    model.train()
    calibrate(model, [model.get_submodule(name) for name in names], iter(batches))  # type: ignore[misc]
    assert model.training
    assert all(torch.equal(parameters[name], parameter) for name, parameter in model.named_parameters())
    assert torch.equal(stem, statistics(model)["1.running_mean"])

    twin = discrete_twin(model).eval()
    inputs: list[torch.Tensor] = []
    outputs: list[torch.Tensor] = []

    def watch(_: nn.Module, given: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        inputs.append(given[0])
        outputs.append(output)

    twin.get_submodule("3.norm").register_forward_hook(watch)
    for batch in batches:
        twin(batch)
    mean = torch.stack([y.mean((0, 2, 3)) for y in inputs]).mean(0)
    variance = torch.stack([y.var((0, 2, 3)) for y in inputs]).mean(0)
    norm = model.get_submodule("3.norm")
    torch.testing.assert_close(norm.running_mean, mean, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(norm.running_var, variance, atol=1e-5, rtol=1e-4)
    assert norm.momentum == 0.1
    y = torch.cat(outputs)
    torch.testing.assert_close(y.mean((0, 2, 3)), norm.bias.detach(), atol=1e-2, rtol=1e-2)  # type: ignore[union-attr]
    torch.testing.assert_close(y.std((0, 2, 3)), norm.weight.detach().abs(), atol=2e-2, rtol=2e-2)  # type: ignore[union-attr]


@pytest.mark.parametrize("norm", ["calibrate_each_epoch", "calibrate_end", "two_statistics", "none"])
def test_deployed_statistics_are_those_of_discrete_weights(norm: Any) -> None:
    """Compared with statistics of the finished network on the same images. The ablation differs."""
    x = images(64)
    model = network(1)
    train(model, SlbCallback(Settings(norm=norm, hard_tail=False, t_final=1.0), context(x)), x, steps=90)
    twin = discrete_twin(model).eval()
    seen: list[torch.Tensor] = []
    twin.get_submodule("5.norm").register_forward_pre_hook(lambda _m, given: seen.append(given[0]))
    twin(x)
    wanted, found = seen[0].var((0, 2, 3)), model.get_submodule("5.norm").running_var
    error = float((found / wanted.detach()).log().abs().max())  # type: ignore[operator]
    assert error > 0.3 if norm == "none" else error < (0.01 if norm.startswith("calibrate") else 0.15)


def test_frozen_norms_keep_their_statistics() -> None:
    x, model = images(), network()
    callback = SlbCallback(Settings(), context(x))
    callback.on_start(model, 4)
    model.train()
    model[5].norm.eval()  # type: ignore[union-attr]
    before = statistics(model)
    callback.before_step(model, 0)
    callback.on_epoch_end(model, 0)
    after = statistics(model)
    assert torch.equal(before["5.norm.running_var"], after["5.norm.running_var"])
    assert not torch.equal(before["3.norm.running_var"], after["3.norm.running_var"])


# --- which norms ----------------------------------------------------------------------------------


def test_norms_before_the_search_are_not_changed() -> None:
    class Leaves(fx.Tracer):
        def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
            return "." in module_qualified_name or not isinstance(m, nn.Sequential) or module_qualified_name != ""

    model = network()
    traced = fx.GraphModule(model, Leaves().trace(model))
    assert norms_behind(traced, ["3", "5"]) == ["3.norm", "5.norm", "7"]
    assert norms_behind(traced, ["5"]) == ["5.norm", "7"]
    assert norms_behind(model, ["5"]) == ["1", "3.norm", "5.norm", "7"]  # without a graph, all of them count


def test_without_images_nothing_changes() -> None:
    model = network()
    before = statistics(model)
    state_norm.calibrate(model, [model[1]], iter(()))  # type: ignore[list-item]
    assert all(torch.equal(before[name], found) for name, found in statistics(model).items())


def test_calibration_of_a_state_batch_norm_sets_its_discrete_statistics() -> None:
    norm = state_batch_norm(nn.BatchNorm2d(3))
    batch = 5 + images()
    calibrate(nn.Sequential(norm).train(), [norm], iter([batch]))
    torch.testing.assert_close(norm.running_mean, batch.mean((0, 2, 3)))
    assert torch.equal(norm.continuous_mean, torch.zeros(3))
    assert norm.state == "continuous"
