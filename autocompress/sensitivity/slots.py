"""Slots: places in a traced network where tensors can be replaced.

The network is computed from the first replaced tensor on.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

import torch
from torch import fx

from autocompress.contract import FakeQuantizer, Hardened, TensorSpec
from autocompress.graph.partial import PartialRunner


class Slot(FakeQuantizer):
    """Takes the place of a fake-quantizer; changes nothing until :meth:`given` a function."""

    def __init__(self, spec: TensorSpec) -> None:
        super().__init__(spec)
        self.given(None)

    def given(self, act: Callable[[torch.Tensor], torch.Tensor] | None) -> None:
        """Sets the function for the tensor; None for no function."""
        self.__dict__["_act"] = act  # bypasses nn.Module, which would register a module as child

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The result of the function for the tensor, or the tensor itself."""
        act = self.__dict__["_act"]
        return x if act is None else act(x)

    def harden(self, weight: torch.Tensor | None = None) -> Hardened:
        """Always refuses: a slot has no integers."""
        raise NotImplementedError("a slot has no integers")


class SlotRunner(PartialRunner):
    """Runs a network from the first node that a slot changes."""

    def first(self, names: Collection[str]) -> int:
        """Index of the first node that a slot of the tensors ``names`` changes."""
        return min(index for index, node in enumerate(self._nodes) if self._slot_names(node) & set(names))

    def _slot_names(self, node: fx.Node) -> set[str]:
        module = self.module.get_submodule(str(node.target)) if node.op == "call_module" else None
        slot = getattr(module, "weight_quantizer", module)
        return {slot.spec.name} if isinstance(slot, Slot) else set()
