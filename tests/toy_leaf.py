"""A toy leaf layer, ``y = -sum abs(x - w)``, with its LayerSpec and transform.

It is written as a plugin author would, in plain torch and without optimisation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import nn
from torch_pruning.pruner.function import BasePruningFunc

from autocompress import models
from autocompress.contract import (
    Context,
    FakeQuantizer,
    Grid,
    LayerSpec,
    Params,
    Plan,
    Space,
    Stage,
    Transform,
    hookimpl,
)
from autocompress.quantization.folding import affine
from autocompress.quantization.ops import fake_quant

MOST = 127
"""Weights are signed integers on the grid of the input."""


class Distance(nn.Module):
    """Minus the L1 distance of zero-padded patches to filters.

    Its input is ``(N, C, H, W)``, its output ``(N, O, H', W')``.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int = 1, stride: int = 1, padding: int = 0) -> None:
        super().__init__()
        self.in_channels, self.out_channels, self.kernel_size = inputs, outputs, (kernel, kernel)
        self.stride, self.padding = (stride, stride), (padding, padding)
        self.weight = nn.Parameter(torch.randn(outputs, inputs, kernel, kernel) / 3)
        self.bias = nn.Parameter(torch.zeros(outputs))

    def distance(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        x = F.pad(x, [self.padding[1]] * 2 + [self.padding[0]] * 2)
        height, width = self.kernel_size
        rows, columns = x.shape[2] - height + 1, x.shape[3] - width + 1
        total: Any = 0
        for i in range(height):
            for j in range(width):
                tap = x[:, None, :, i : i + rows : self.stride[0], j : j + columns : self.stride[1]]
                total = total - (tap - weight[None, :, :, i, j, None, None]).abs().sum(2)
        return total

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if isinstance(x, torch.fx.Proxy):
            raise TypeError("a leaf layer was traced through")
        return self.distance(x, self.weight) + self.bias[:, None, None]


class SimulatedDistance(Distance):
    """The layer with weights on the grid of its input, and the norm after it."""

    norm: nn.Module | None
    input_quantizer: FakeQuantizer | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.distance(x, self._on_grid(self.weight)) + self.bias[:, None, None]
        return y if self.norm is None else self.norm(y)

    def _on_grid(self, weight: torch.Tensor) -> torch.Tensor:
        fake = self.input_quantizer
        assert fake is not None, "the engine must set it"
        scale = getattr(fake, "scale", None)
        if scale is None or fake.observing or not fake.enabled:
            return weight
        rounded: torch.Tensor = fake_quant(weight, scale, torch.zeros_like(scale), -MOST, MOST)
        return rounded


class HardenedDistance(Distance):
    """The layer with integers. The norm is a factor and an offset per channel."""

    def __init__(self, simulated: SimulatedDistance, grid: Grid) -> None:
        nn.Module.__init__(self)
        for name in ("in_channels", "out_channels", "kernel_size", "stride", "padding"):
            setattr(self, name, getattr(simulated, name))
        self.weight_bits = self.input_bits = grid.bits
        self.scale = grid.scale
        integers = (simulated.weight / torch.tensor(grid.scale)).round().clamp(-MOST, MOST)
        one, zero = torch.ones_like(simulated.bias), torch.zeros_like(simulated.bias)
        factor, offset = (one, zero) if simulated.norm is None else affine(simulated.norm)
        self.register_buffer("weight", integers.to(torch.int8))
        self.register_buffer("factor", factor.clone())
        self.register_buffer("offset", offset + factor * simulated.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.distance(x, self.weight.float() * self.scale)
        return y * self.factor[:, None, None] + self.offset[:, None, None]


class DistancePruner(BasePruningFunc):
    """A removed input was zero, so its taps were ``-|0 - w|``, which become a part of the bias."""

    def prune_out_channels(self, layer: nn.Module, idxs: Sequence[int]) -> nn.Module:
        keep = [i for i in range(layer.out_channels) if i not in set(idxs)]
        layer.weight, layer.bias = nn.Parameter(layer.weight[keep].detach()), nn.Parameter(layer.bias[keep].detach())
        layer.out_channels = len(keep)
        return layer

    def prune_in_channels(self, layer: nn.Module, idxs: Sequence[int]) -> nn.Module:
        keep = [i for i in range(layer.in_channels) if i not in set(idxs)]
        lost = layer.weight[:, sorted(set(idxs))].detach().abs().sum((1, 2, 3))
        layer.bias = nn.Parameter(layer.bias.detach() - lost)
        layer.weight = nn.Parameter(layer.weight[:, keep].detach())
        layer.in_channels = len(keep)
        return layer

    def get_out_channels(self, layer: nn.Module) -> int:
        return layer.out_channels

    def get_in_channels(self, layer: nn.Module) -> int:
        return layer.in_channels


class DistanceSpec(LayerSpec):
    """Two additions per tap, like an adder layer."""

    layer_type = Distance
    leaf = True

    operator_kinds = frozenset({"add"})

    def operator_counts(
        self, layer: nn.Module, input_shape: tuple[int, ...], output_shape: tuple[int, ...]
    ) -> dict[str, int]:
        del input_shape
        _, outputs, height, width = output_shape
        return {"add": 2 * outputs * height * width * layer.in_channels * layer.kernel_size[0] * layer.kernel_size[1]}

    def simulated(self, layer: nn.Module) -> nn.Module | None:
        simulated = object.__new__(SimulatedDistance)
        simulated.__dict__ = dict(layer.__dict__)
        simulated._modules = dict(layer._modules)
        simulated._modules.setdefault("norm", None)
        return simulated

    def hardened(self, simulated: nn.Module, grid: Grid) -> nn.Module:
        assert isinstance(simulated, SimulatedDistance)
        return HardenedDistance(simulated, grid)

    def channel_map(self, layer: nn.Module) -> torch.Tensor:
        return torch.arange(layer.out_channels)

    def pruner(self) -> object | None:
        return DistancePruner()


class FloatSpec(DistanceSpec):
    """A layer without an integer form."""

    def simulated(self, layer: nn.Module) -> nn.Module | None:
        return None


class WholeSpec(DistanceSpec):
    """A layer that cannot lose channels."""

    def pruner(self) -> object | None:
        return None


class SlowSpec(DistanceSpec):
    """A layer that is slow in a standard runtime."""

    slow_in_file = "distances have no kernel there"


class Substitute(Transform):
    """Replaces the last convolutions by :class:`Distance`."""

    name = "distance"
    version = "1"
    reference = "none"
    stage = Stage.SUBSTITUTE
    layers: ClassVar[Sequence[LayerSpec]] = (DistanceSpec(),)
    provides = frozenset({"convolution"})
    most = 4
    """Number of replaced convolutions; distances are slow."""

    def search_space(self, space: Space, model: nn.Module) -> Params:
        chosen = space.categorical("layers", ["none", "all"], default="all", cheapest="all", neutral="none")
        return {} if chosen == "none" else {"layers": models.eligible_convolutions(model)[-self.most :]}

    def apply(self, model: nn.Module, params: Params, context: Context) -> tuple[nn.Module, Plan]:
        names = [name for name in params["layers"] if model.get_submodule(name).groups == 1]
        scale = {name: model.get_submodule(name).weight for name in names}
        model = self.rebuild(model, {"layers": names})
        with torch.no_grad():
            for name, weight in scale.items():
                model.get_submodule(name).weight.copy_(weight / weight.std() / 2)
                model.get_submodule(name).bias.zero_()
        if context.transfer is not None and not context.dry_run:
            from autocompress.training import recalibrate_batch_norm

            recalibrate_batch_norm(model, context.transfer.calibration, images=64)
        return model.eval(), {"layers": names}

    def rebuild(self, model: nn.Module, plan: Plan) -> nn.Module:
        for name in plan["layers"]:
            conv = model.get_submodule(name)
            kernel, stride, padding = conv.kernel_size[0], conv.stride[0], conv.padding[0]
            device = conv.weight.device
            model.set_submodule(name, Distance(conv.in_channels, conv.out_channels, kernel, stride, padding).to(device))
        return model.eval()


class SlowSubstitute(Substitute):
    """The same layers, which declare that they are slow in a file."""

    layers: ClassVar[Sequence[LayerSpec]] = (SlowSpec(),)


class ToyPlugin:
    """Offers a transform."""

    def __init__(self, method: Transform) -> None:
        self._method = method

    @hookimpl
    def autocompress_methods(self) -> list[Transform]:
        return [self._method]


class Block(nn.Module):
    """A residual network: stem, two distance layers with norms, an addition and a classifier."""

    def __init__(self, channels: int = 8) -> None:
        super().__init__()
        self.stem, self.norm0 = nn.Conv2d(3, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels)
        self.first, self.norm1 = Distance(channels, channels + 4, 3, 1, 1), nn.BatchNorm2d(channels + 4)
        self.second, self.norm2 = Distance(channels + 4, channels, 1), nn.BatchNorm2d(channels)
        self.third, self.norm3 = nn.Conv2d(channels, channels, 3, padding=1), nn.BatchNorm2d(channels)
        self.fc = nn.Linear(channels, 4)
        self.act = nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.act(self.norm0(self.stem(x)))
        y = self.act(self.norm1(self.first(x)))
        x = self.act(x + self.norm2(self.second(y)))
        x = self.act(self.norm3(self.third(x)))
        return self.fc(x.mean((2, 3)))


def block(seed: int = 0, size: tuple[int, int, int] = (3, 8, 8), channels: int = 8) -> Block:
    """A :class:`Block` with batch-norm statistics of random images."""
    torch.manual_seed(seed)
    net = Block(channels)
    for norm in (module for module in net.modules() if isinstance(module, nn.BatchNorm2d)):
        norm.momentum = None
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.uniform_(norm.bias, -0.3, 0.5)
    with torch.no_grad():
        net(torch.randn(64, *size))
    return net.eval()


def answers(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(images)
