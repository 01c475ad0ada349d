"""The paper's state batch norm: each batch passes twice, to train and for statistics."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from autocompress.compat.torch import BatchNormBase
from autocompress.contract import FakeQuantizer
from autocompress_slb.fakequant import SlbFakeQuantizer
from autocompress_slb.state_norm import State, _StateBatchNorm, norms_behind, state_batch_norm


class TwoStatistics:
    """Gives the norms behind searched layers their two statistics, until ``close``.

    Before each training forward of ``model``, the same batch passes through the whole network once
    with the arg-max weights and without gradient. The whole network is needed because the inputs of
    a deployed layer are discrete too. A norm that its layer folds (whitepaper) is not replaced; its
    running statistics do not change in the training pass.

    Args:
        model: its norms are replaced, in place.
        layers: names of the searched layers.
    """

    def __init__(self, model: nn.Module, layers: list[str]) -> None:
        self.are_one = False
        """True in the hard tail: both states are then the same, and one pass is enough."""
        self._norms: list[BatchNormBase] = []
        self._momenta: list[float | None] = []
        for name in norms_behind(model, layers):
            norm = model.get_submodule(name)
            assert isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d)
            owner = model.get_submodule(name.rpartition(".")[0])
            of_layer = getattr(owner, "weight_quantizer", None)
            if (of_layer is None or not of_layer.folds_norm) and type(norm) in (nn.BatchNorm1d, nn.BatchNorm2d):
                norm = state_batch_norm(norm)
                model.set_submodule(name, norm)
            self._norms.append(norm)
            self._momenta.append(norm.momentum)
        self._set("continuous")
        self._handle = model.register_forward_pre_hook(self._hook())

    def close(self) -> None:
        """Returns to one pass; the norms then use the discrete statistics."""
        self._handle.remove()
        self._set("discrete")

    def _set(self, state: State) -> None:
        for norm, momentum in zip(self._norms, self._momenta, strict=True):
            if isinstance(norm, _StateBatchNorm):
                norm.state = state
            else:
                norm.momentum = momentum if state == "discrete" else 0.0

    def _hook(self) -> Any:
        inside = False

        def run(model: nn.Module, inputs: tuple[Any, ...]) -> None:
            nonlocal inside
            if inside or not model.training or not torch.is_grad_enabled():
                return
            self._set("discrete")
            if self.are_one:
                return
            inside = True
            try:
                with torch.no_grad(), torch.random.fork_rng(), _discrete(model):
                    model(*inputs)
            finally:
                inside = False
                self._set("continuous")

        return run


@contextmanager
def _discrete(model: nn.Module) -> Iterator[None]:
    """Within the block, searched weights are their arg-max, and activation ranges are fixed."""
    fakes = [module for module in model.modules() if isinstance(module, FakeQuantizer)]
    before = [(fake.tracking, getattr(fake, "hard", None)) for fake in fakes]
    for fake in fakes:
        fake.tracking = False
        if isinstance(fake, SlbFakeQuantizer):
            fake.hard = True
    try:
        yield
    finally:
        for fake, (tracking, hard) in zip(fakes, before, strict=True):
            fake.tracking = tracking
            if isinstance(fake, SlbFakeQuantizer):
                fake.hard = bool(hard)
